//! A PostgreSQL of the bench's own, with the settings that it has by itself, reached by a socket.

use crate::clock::Clock;
use anyhow::{Context as _, bail};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::process::{Child, Command};

const READY: Duration = Duration::from_mins(2);
const LOOK: Duration = Duration::from_millis(100);
/// It refuses to run as root. Where we are root the directories above its own are often ours alone, so it may pass them.
const AS_POSTGRES: [&str; 6] =
    ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", "--inh-caps=+dac_override", "--ambient-caps=+dac_override"];
/// Makes the database and runs the server until its input ends, which it does however the bench ends.
const SCRIPT: &str = "mkdir -p \"$0/data\" && \"$1/initdb\" -D \"$0/data\" -U autovibe -A trust -E UTF8 --no-locale && \
    { \"$1/postgres\" -D \"$0/data\" -k \"$2\" -c listen_addresses= </dev/null & server=$!; read -r end; kill -INT $server; wait $server; }";

/// A running PostgreSQL; it ends when this is dropped.
pub(super) struct Postgres {
    keeper: Child,
    socket: PathBuf,
}

/// Where its programs are, if it is installed.
pub(super) async fn programs() -> Option<PathBuf> {
    let find = "readlink -f \"$(command -v initdb || ls -d /usr/lib/postgresql/*/bin/initdb | tail -n 1)\"";
    let found = Command::new("sh").args(["-c", find]).stderr(Stdio::null()).output().await.ok()?;
    let programs = Path::new(std::str::from_utf8(&found.stdout).ok()?.trim()).parent()?.to_owned();
    programs.join("postgres").exists().then_some(programs)
}

impl Postgres {
    /// Starts one on a new database below `directory`.
    pub(super) async fn start(directory: &Path, programs: &Path) -> anyhow::Result<Self> {
        let directory = directory.join("postgres");
        // The path of a socket must be short.
        let socket = std::env::temp_dir().join(format!("autovibe-bench-{}", std::process::id()));
        for path in [&directory, &socket] {
            std::fs::create_dir_all(path)?;
        }
        let root = rustix::process::geteuid().is_root();
        if root {
            let given = Command::new("chown").arg("postgres").args([&directory, &socket]).status().await?;
            anyhow::ensure!(given.success(), "there is no user postgres");
        }
        let log = std::fs::File::create(directory.join("log"))?;
        let before: &[&str] = if root { &AS_POSTGRES } else { &["env"] };
        let keeper = Command::new(before[0])
            .args(&before[1..])
            .args(["sh", "-c", SCRIPT])
            .args([directory.as_path(), programs, &socket])
            .stdin(Stdio::piped())
            .stdout(log.try_clone()?)
            .stderr(log)
            .process_group(0)
            .spawn()
            .context("PostgreSQL could not be started")?;
        let mut postgres = Self { keeper, socket };
        postgres.ready(&directory, programs).await?;
        Ok(postgres)
    }

    async fn ready(&mut self, directory: &Path, programs: &Path) -> anyhow::Result<()> {
        let begun = Instant::now();
        loop {
            let mut create = Command::new(programs.join("createdb"));
            create.arg("-h").arg(&self.socket).args(["-U", "autovibe", "autovibe"]).stderr(Stdio::null());
            if create.status().await?.success() {
                return Ok(());
            }
            if self.keeper.try_wait()?.is_some() || begun.elapsed() > READY {
                bail!("PostgreSQL does not serve: {}", std::fs::read_to_string(directory.join("log")).unwrap_or_default().trim());
            }
            Clock::system().sleep(LOOK).await;
        }
    }

    /// Address of its database.
    pub(super) fn url(&self) -> String {
        format!("postgres:///autovibe?host={}&user=autovibe", self.socket.display())
    }

    pub(super) async fn stop(mut self) -> anyhow::Result<()> {
        drop(self.keeper.stdin.take());
        self.keeper.wait().await?;
        Ok(())
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        let _ = std::fs::remove_dir_all(&self.socket);
    }
}
