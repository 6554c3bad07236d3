//! Hubs on one PostgreSQL database, as people start them: `--database-url`, `--api-only`, `backup` and `restore`.

use crate::cli::BUDGET;
use crate::database::Home;
use crate::process::{ANY_PORTS, Hub, refused, said, wait, write};
use std::path::{Path, PathBuf};
use std::process::Command;

/// What must be seen nowhere.
const PASSWORD: &str = "canary-pa55";

/// A data directory, with the key of the Secrets of another one.
pub(crate) fn directory(home: &Home, name: &str, key_of: Option<&Path>) -> PathBuf {
    let directory = home.path().join(name);
    std::fs::create_dir(&directory).unwrap();
    if let Some(other) = key_of {
        std::fs::copy(other.join("secrets.key"), directory.join("secrets.key")).unwrap();
    }
    directory
}

/// What kubectl says; nothing, said aloud, where there is none.
fn kubectl(data: &Path, arguments: &[&str]) -> Option<String> {
    let mut command = Command::new("kubectl");
    let Ok(output) = command.arg("--kubeconfig").arg(data.join("kubeconfig")).args(arguments).env("HOME", data).output() else {
        eprintln!("SKIPPED: kubectl is not installed, so a hub on PostgreSQL was not tried with it");
        return None;
    };
    assert!(output.status.success(), "kubectl {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8(output.stdout).unwrap())
}

/// Whether the process of this hub holds the controllers' Lease.
fn leads(data: &Path, hub: &Hub) -> bool {
    let lease = said(data, &["-n", "autovibe-system", "get", "lease", "autovibe-controller", "-o", "json"]);
    let lease: serde_json::Value = serde_json::from_str(&lease).unwrap();
    lease["spec"]["holderIdentity"].as_str().unwrap_or_default().split('_').nth(3) == Some(&hub.child.id().to_string())
}

#[tokio::test(flavor = "multi_thread")]
async fn hubs_share_a_postgresql_database_and_one_leads() {
    let Some(home) = Home::postgres().await else { return };
    let url = format!("{}&password={PASSWORD}", home.url);
    let with = |more: &[&'static str]| [&ANY_PORTS[..], &["--database-url", Box::leak(url.clone().into_boxed_str())], more].concat();
    let first = directory(&home, "first", None);
    let hub = Hub::start(&first, &with(&[])).serves();
    let manifest = write(&first.join("b.yaml"), BUDGET);
    assert_eq!(said(&first, &["apply", "-f", &manifest]), "budget/team created\n");
    if let Some(text) = kubectl(&first, &["create", "secret", "generic", "s", "--from-literal=k=v"]) {
        assert_eq!(text, "secret/s created\n");
        assert!(kubectl(&first, &["get", "budgets", "-A"]).unwrap().contains("team"));
        let text = kubectl(&first, &["get", "secret", "s", "-o", "jsonpath={.data.k}"]).unwrap();
        assert_eq!(text, "dg==");
    }

    // A server beside it, which sees the same and writes too, and needs the same key.
    let beside = directory(&home, "beside", Some(&first));
    let server = Hub::start(&beside, &with(&["--api-only"])).serves();
    assert_eq!(said(&beside, &["apply", "-f", &manifest]), "budget/team unchanged\n");
    let keyless = directory(&home, "keyless", None);
    if kubectl(&first, &["get", "secret", "s"]).is_some() {
        let error = refused(&keyless, &[&["up"], &with(&["--api-only"])[..]].concat());
        assert!(error.contains("secrets.key"), "{error}");
    }

    let file = home.path().join("backup").display().to_string();
    let text = said(&first, &["backup", &file, "--database-url", &url]);
    assert!(text.contains("secrets.key") && !text.contains(PASSWORD), "{text}");
    let error = refused(&first, &["restore", &file, "--database-url", &url, "--overwrite"]);
    assert!(error.contains("stop all hubs"), "{error}");

    // Another hub serves too, and stands by; it leads as soon as the first one has ended.
    let second = directory(&home, "second", Some(&first));
    let successor = Hub::start(&second, &with(&[])).serves();
    wait("the second one stands by", || successor.logged().contains("leads; standing by"));
    assert_eq!(said(&second, &["apply", "-f", &manifest]), "budget/team unchanged\n");
    assert!(leads(&second, &hub) && said(&first, &["get", "budgets"]).contains("team"));
    let log = hub.logged();
    assert_eq!(hub.terminate().0, Some(0));
    wait("the second one leads", || leads(&beside, &successor));
    assert_eq!(said(&beside, &["delete", "budget", "team"]).lines().count(), 1);
    assert!(said(&second, &["get", "budgets", "-o", "json"]).contains("\"items\": []"));

    // One that is older than the database is refused, whatever it would do; those that run go on.
    home.execute("INSERT INTO migrations (number, name) VALUES (9999, 'later')").await;
    for role in [&["--api-only"][..], &["--no-controllers"], &[]] {
        let error = refused(&first, &[&["up"], &with(role)[..]].concat());
        assert!(error.contains("migration 9999 (later)") && error.contains("run a newer one"), "{error}");
    }
    assert!(leads(&beside, &successor));
    home.execute("DELETE FROM migrations WHERE number = 9999").await;

    for log in [log, server.logged(), successor.logged()] {
        assert!(log.contains("the store is postgres://") && !log.contains(PASSWORD), "{log}");
    }
    for hub in [server, successor] {
        let (code, text) = hub.terminate();
        assert!(code == Some(0) && !text.contains(PASSWORD), "{text}");
    }
    said(&first, &["restore", &file, "--database-url", &url, "--overwrite"]);
    let text = said(&first, &["secrets", "rotate-key", "--database-url", &url]);
    assert!(text.contains("encrypted with a new key"), "{text}");
    let _hub = Hub::start(&first, &with(&[])).serves();
    assert!(said(&first, &["get", "budgets"]).contains("team"));
    if let Some(text) = kubectl(&first, &["get", "secret", "s", "-o", "jsonpath={.data.k}"]) {
        assert_eq!(text, "dg==", "with the new key");
    }
}

#[test]
fn a_hub_is_backed_up_while_it_runs_and_restored_elsewhere() {
    let home = Home::sqlite();
    let (first, second) = (directory(&home, "first", None), directory(&home, "second", None));
    let hub = Hub::start(&first, &ANY_PORTS).serves();
    let manifest = write(&first.join("b.yaml"), BUDGET);
    said(&first, &["apply", "-f", &manifest]);
    let file = home.path().join("backup").display().to_string();
    assert!(said(&first, &["backup", &file]).contains("keep a copy of"));
    assert!(refused(&first, &["restore", &file, "--overwrite"]).contains("stop it first"));
    hub.terminate();
    assert!(said(&second, &["restore", &file]).contains("secrets.key before `autovibe up`"));
    assert!(refused(&second, &["restore", &file]).contains("--overwrite"));
    let _hub = Hub::start(&second, &ANY_PORTS).serves();
    assert_eq!(said(&second, &["apply", "-f", &manifest]), "budget/team unchanged\n");
}

#[test]
fn a_wrong_database_url_is_refused_without_repeating_it() {
    let data = tempfile::tempdir().unwrap();
    for url in ["mysql://u:canary-pa55@h/d", "postgres://u:canary-pa55@h:port/d", "postgres://u:canary-pa55@h", "sqlite://"] {
        let error = refused(data.path(), &["up", "--database-url", url]);
        assert!(error.contains("postgres://USER:PASSWORD@HOST") || error.contains("/NAME"), "{error}");
        assert!(!error.contains(PASSWORD), "{error}");
    }
}
