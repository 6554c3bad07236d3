//! An etcd of the bench's own, over TLS, as Debian's `etcd-server` has it.

use crate::clock::Clock;
use anyhow::{Context as _, bail};
use rcgen::{CertificateParams, KeyPair};
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::process::{Child, Command};

/// It serves in a second; a busy machine may take longer.
const READY: Duration = Duration::from_mins(1);
const LOOK: Duration = Duration::from_millis(50);

/// A running etcd; it ends when this is dropped.
pub(super) struct Etcd {
    child: Child,
    pub(super) url: String,
    /// Certificate that it shows, PEM.
    pub(super) authority: String,
}

/// Whether `program` is found on `PATH`.
pub(super) async fn is_installed(program: &str) -> bool {
    let looked = Command::new(program).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().await;
    looked.is_ok_and(|status| status.success())
}

impl Etcd {
    /// Starts one on a new database below `directory`, with the settings that it has by itself.
    pub(super) async fn start(directory: &Path) -> anyhow::Result<Self> {
        let directory = directory.join("etcd");
        std::fs::create_dir_all(&directory)?;
        let key = KeyPair::generate()?;
        let authority = CertificateParams::new(vec!["127.0.0.1".to_owned()])?.self_signed(&key)?.pem();
        let (certificate_file, key_file) = (directory.join("server.crt"), directory.join("server.key"));
        std::fs::write(&certificate_file, &authority)?;
        std::fs::write(&key_file, key.serialize_pem())?;
        let (clients, peers) = (format!("https://{}", free()?), format!("http://{}", free()?));
        let log = std::fs::File::create(directory.join("log"))?;
        let child = Command::new("etcd")
            .args(["--name", "bench", "--log-level", "error", "--logger", "zap"])
            .args(["--listen-client-urls", &clients, "--advertise-client-urls", &clients])
            .args(["--listen-peer-urls", &peers, "--initial-advertise-peer-urls", &peers])
            .args(["--initial-cluster", &format!("bench={peers}")])
            .arg("--data-dir")
            .arg(directory.join("data"))
            .arg("--cert-file")
            .arg(certificate_file)
            .arg("--key-file")
            .arg(key_file)
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .context("etcd could not be started")?;
        let mut etcd = Self { child, url: clients, authority };
        etcd.ready(&directory).await?;
        Ok(etcd)
    }

    async fn ready(&mut self, directory: &Path) -> anyhow::Result<()> {
        let http = self.http()?;
        let begun = Instant::now();
        loop {
            if http.get(format!("{}/health", self.url)).send().await.is_ok_and(|response| response.status().is_success()) {
                return Ok(());
            }
            if self.child.try_wait()?.is_some() || begun.elapsed() > READY {
                bail!("etcd does not serve: {}", std::fs::read_to_string(directory.join("log")).unwrap_or_default().trim());
            }
            Clock::system().sleep(LOOK).await;
        }
    }

    /// A client that keeps one connection.
    pub(super) fn http(&self) -> anyhow::Result<reqwest::Client> {
        let authority = reqwest::Certificate::from_pem(self.authority.as_bytes())?;
        Ok(reqwest::Client::builder().no_proxy().tls_certs_only([authority]).build()?)
    }

    pub(super) fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    pub(super) async fn stop(mut self) -> anyhow::Result<()> {
        Ok(self.child.kill().await?)
    }
}

/// An address that nobody listens at now.
fn free() -> std::io::Result<std::net::SocketAddr> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()
}
