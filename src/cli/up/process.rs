//! `autovibe up` as a child process, for commands that need a hub of their own.

use super::addresses::Addresses;
use crate::cli::client::Client;
use crate::clock::Clock;
use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};
use std::{
    ffi::OsStr,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};
use tokio::process::{Child, Command};

/// A hub serves in a second; a busy machine may take longer.
const READY: Duration = Duration::from_mins(1);
/// Longer than all that a hub waits for at its end.
const END: Duration = Duration::from_mins(1);
const LOOK: Duration = Duration::from_millis(100);

/// A hub that serves; killed when dropped, which it survives.
pub(crate) struct Hub {
    child: Child,
    data: PathBuf,
}

/// Whether the hub of this data directory answers.
pub(crate) async fn answers(data: &Path) -> bool {
    match Client::open(&data.join("kubeconfig"), None) {
        Ok(client) => client.get("/version").await.is_ok(),
        Err(_) => false,
    }
}

impl Hub {
    /// Starts `autovibe up` with these arguments and returns when it serves.
    pub(crate) async fn start(data: &Path, arguments: &[&OsStr], clock: &Clock) -> anyhow::Result<Self> {
        let log = log_file(data);
        let file = std::fs::File::create(&log).with_context(|| format!("{} cannot be written", log.display()))?;
        let mut child = Command::new(std::env::current_exe().context("our own executable cannot be found")?)
            .args(["up", "--data"])
            .arg(data)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            // Ctrl-C is for the command that started it, which then ends the hub in order.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .context("the hub could not be started")?;
        let ready = async {
            loop {
                if let Some(status) = child.try_wait()? {
                    bail!("the hub ended at once ({status}): {}. Its log is {}", last_line(&log), log.display());
                }
                if answers(data).await {
                    return Ok(());
                }
                clock.sleep(LOOK).await;
            }
        };
        tokio::time::timeout(READY, ready)
            .await
            .with_context(|| format!("the hub was not ready after {} s; its log is {}", READY.as_secs(), log.display()))??;
        Ok(Self { child, data: data.to_owned() })
    }

    /// Its process, while it runs.
    pub(crate) fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// Where it takes model calls.
    pub(crate) fn gateway(&self) -> anyhow::Result<SocketAddr> {
        Addresses::read(&self.data).gateway.context("the hub has not said where its gateway is")
    }

    /// Returns when it has ended, with why.
    pub(crate) async fn ended(&mut self) -> anyhow::Error {
        let status = self.child.wait().await.map(|status| status.to_string()).unwrap_or_default();
        let log = log_file(&self.data);
        anyhow::anyhow!("the hub ended ({status}): {}. Its log is {}", last_line(&log), log.display())
    }

    /// Ends it in order; by force when it does not end.
    pub(crate) async fn stop(mut self) -> anyhow::Result<()> {
        if let Some(pid) = self.child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw) {
            kill_process(pid, Signal::TERM).context("the hub could not be ended")?;
        }
        if tokio::time::timeout(END, self.child.wait()).await.is_err() {
            self.child.kill().await.context("the hub could not be ended")?;
        }
        Ok(())
    }
}

/// Where a hub that was started so writes its log.
pub(crate) fn log_file(data: &Path) -> PathBuf {
    data.join("hub.log")
}

fn last_line(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing").trim_start_matches("error: ").to_owned()
}
