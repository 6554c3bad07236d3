//! TLS to PostgreSQL: a real server that takes nothing else, its certificate checked as `sslmode` asks, and a password that is
//! shown nowhere.

use super::put_all;
use crate::database::{Cluster, Home};
use crate::process::{ANY_PORTS, Hub, autovibe, said};
use autovibe::store::{Database, Options, Store};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use std::{path::Path, process::Command, time::Duration};

/// A server that takes TLS and a password alone, and the files beside it.
struct Guarded {
    cluster: Cluster,
    name: String,
    password: String,
    files: tempfile::TempDir,
}

/// Writes a CA's certificate to `ca.crt` and one of `host` by it to `server.crt`, with its key.
fn certify(files: &Path, host: &str) {
    let (ca_key, key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let mut ca = CertificateParams::default();
    ca.distinguished_name.push(DnType::CommonName, "a CA of a test");
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca_certificate = ca.self_signed(&ca_key).unwrap();
    let server = CertificateParams::new(vec![host.to_owned()]).unwrap();
    let certificate = server.signed_by(&key, &Issuer::new(ca, ca_key)).unwrap();
    std::fs::write(files.join("ca.crt"), ca_certificate.pem()).unwrap();
    std::fs::write(files.join("server.crt"), certificate.pem()).unwrap();
    std::fs::write(files.join("server.key"), key.serialize_pem()).unwrap();
}

impl Guarded {
    async fn start() -> Option<Self> {
        let cluster = Cluster::start_tcp("-c fsync=off")?;
        let files = tempfile::tempdir().unwrap();
        certify(files.path(), "localhost");
        let data = cluster.data();
        // For the user that it runs as alone, as it demands.
        let script = "for f in server.crt server.key; do cp $0/$f $1/$f && chmod 600 $1/$f && chown --reference $1 $1/$f || exit 1; done; \
                      echo 'local all all trust' >$1/pg_hba.conf; echo 'hostssl all all all scram-sha-256' >>$1/pg_hba.conf";
        assert!(Command::new("sh").args(["-c", script]).arg(files.path()).arg(&data).status().unwrap().success());
        let url = cluster.create().await;
        let password = format!("canary/{}@:%", autovibe::random::uuid());
        let home = Home::at(url.clone());
        home.execute("ALTER SYSTEM SET ssl = on").await;
        home.execute(&format!("ALTER ROLE autovibe PASSWORD '{password}'")).await;
        home.execute("SELECT pg_reload_conf()").await;
        while home.ask("SHOW ssl").await != "on" {
            std::thread::sleep(Duration::from_millis(20));
        }
        let name = url.strip_prefix("postgres:///").unwrap().split('?').next().unwrap().to_owned();
        Some(Self { cluster, name, password, files })
    }

    fn url(&self, host: &str, password: &str, more: &str) -> String {
        let password = percent_encoding::utf8_percent_encode(password, percent_encoding::NON_ALPHANUMERIC);
        format!("postgres://autovibe:{password}@{host}:{}/{}?{more}", self.cluster.port(), self.name)
    }

    fn ca(&self) -> String {
        self.files.path().join("ca.crt").display().to_string()
    }

    async fn open(&self, host: &str, password: &str, more: &str) -> Result<Store, String> {
        let opened = Store::open_with(&self.url(host, password, more).parse().unwrap(), Options::default()).await;
        opened.map_err(|error| format!("{error} {error:?}"))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_with_tls_is_used_and_its_certificate_checked_as_is_asked() {
    let Some(server) = Guarded::start().await else { return };
    let ca = server.ca();
    let good = [
        "sslmode=require".to_owned(),
        // The library's own default, `prefer`, takes TLS where it is offered.
        String::new(),
        format!("sslmode=verify-ca&sslrootcert={ca}"),
        format!("sslmode=verify-full&sslrootcert={ca}"),
    ];
    for (n, more) in good.iter().enumerate() {
        let store = server.open("localhost", &server.password, more).await.unwrap_or_else(|error| panic!("{more}: {error}"));
        put_all(&store, vec![format!("n{n}")], Duration::ZERO).await.unwrap();
        let sql =
            "SELECT count(*)::text FROM pg_stat_ssl JOIN pg_stat_activity USING (pid) WHERE application_name = 'autovibe' AND NOT ssl";
        let clear = Home::at(server.cluster.url(&server.name)).ask(sql).await;
        assert_eq!(clear, "0", "sessions of {more} in the clear");
        store.close().await;
    }
    let other = tempfile::tempdir().unwrap();
    certify(other.path(), "localhost");
    let wrong = other.path().join("ca.crt").display().to_string();
    let begun = std::time::Instant::now();
    let bad = [
        ("localhost", server.password.as_str(), format!("sslmode=verify-full&sslrootcert={wrong}"), "certificate"),
        ("localhost", &server.password, format!("sslmode=verify-ca&sslrootcert={wrong}"), "certificate"),
        // No CA that the machine knows has signed it.
        ("localhost", &server.password, "sslmode=verify-full".to_owned(), "certificate"),
        // It is another host's.
        ("127.0.0.1", &server.password, format!("sslmode=verify-full&sslrootcert={ca}"), "certificate"),
        // A CA that is named is not ignored.
        ("localhost", &server.password, format!("sslmode=require&sslrootcert={wrong}"), "certificate"),
        ("localhost", &server.password, "sslmode=disable".to_owned(), "no encryption"),
        ("localhost", "canary-wrong", format!("sslmode=verify-full&sslrootcert={ca}"), "password authentication failed"),
    ];
    for (host, password, more, complaint) in bad {
        let Err(error) = server.open(host, password, &more).await else { panic!("{more} was taken") };
        assert!(error.contains(complaint) && error.contains(host), "{more}: {error}");
        assert!(!error.contains("canary") && !error.contains(password), "{error}");
    }
    let nowhere = server.url("localhost", &server.password, "sslmode=verify-full&sslrootcert=/nowhere.crt").parse::<Database>();
    let error = nowhere.unwrap_err().to_string();
    assert!(error.contains("/nowhere.crt") && !error.contains("canary"), "{error}");
    assert!(begun.elapsed() < Duration::from_mins(1), "what no patience mends is not waited for");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_tls_is_refused_where_tls_is_asked_for() {
    let Some(cluster) = Cluster::start_tcp("-c fsync=off") else { return };
    let url = format!("postgres://autovibe@localhost:{}/postgres?sslmode=require", cluster.port());
    let error = Store::open_with(&url.parse().unwrap(), Options::default()).await.map(drop).unwrap_err().to_string();
    assert!(error.contains("localhost") && error.to_lowercase().contains("tls"), "{error}");
}

/// As people meet it: the hub over TLS, its backup, its logs, and its refusals, with a password that must be percent-encoded.
#[tokio::test(flavor = "multi_thread")]
async fn a_hub_over_tls_shows_its_password_nowhere() {
    let Some(server) = Guarded::start().await else { return };
    let data = tempfile::tempdir().unwrap();
    let url = server.url("localhost", &server.password, &format!("sslmode=verify-full&sslrootcert={}", server.ca()));
    let encoded = url.split("autovibe:").nth(1).unwrap().split('@').next().unwrap().to_owned();
    let hub = Hub::start(data.path(), &[&ANY_PORTS[..], &["--database-url", &url]].concat()).serves();
    let file = data.path().join("backup").display().to_string();
    let mut texts = vec![said(data.path(), &["backup", &file, "--database-url", &url])];
    let wrong = tempfile::tempdir().unwrap();
    certify(wrong.path(), "localhost");
    let distrusted = url.replace(&server.ca(), &wrong.path().join("ca.crt").display().to_string());
    let unknown = url.replace(&format!("/{}?", server.name), "/none?");
    for url in [&distrusted, &unknown] {
        for arguments in [vec!["up", "--api-only", "--database-url", url], vec!["backup", "/nowhere/b", "--database-url", url]] {
            let output = autovibe(data.path(), &arguments);
            assert!(!output.status.success(), "{arguments:?}");
            texts.push(String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout));
        }
    }
    server.cluster.kill();
    texts.push(String::from_utf8_lossy(&autovibe(data.path(), &["get", "hubs"]).stderr).into_owned());
    texts.push(hub.logged());
    let (_, printed) = hub.terminate();
    texts.push(printed);
    for text in texts {
        assert!(!text.contains("canary") && !text.contains(&encoded), "{text}");
    }
}
