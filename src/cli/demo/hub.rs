//! The demo's hub: the one that runs on the data directory, or a child process that ends with the demo.

use super::{lab, say};
use crate::cli::client::Client;
use crate::clock::Clock;
use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process};
use std::{
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

pub(super) struct Hub {
    /// Absent when the hub ran before: then it is not ours to end.
    child: Option<Child>,
    data: PathBuf,
}

impl Hub {
    pub(super) async fn find_or_start(data: &Path, mode: lab::process::Mode, examples: &Path) -> anyhow::Result<Self> {
        if answers(data).await {
            say(&format!("A hub runs on {} already; the demo uses it, and leaves it running.", data.display()))?;
            return Ok(Self { child: None, data: data.to_owned() });
        }
        std::fs::create_dir_all(data).with_context(|| format!("{} cannot be made", data.display()))?;
        if mode == lab::process::Mode::Simulated {
            let image = super::simulated_image(&data.join("images/debian.raw"));
            std::fs::create_dir_all(data.join("images"))
                .and_then(|()| std::fs::write(&image, vec![0; 1 << 20]))
                .with_context(|| format!("{} cannot be written", image.display()))?;
        }
        let log = data.join("hub.log");
        let file = std::fs::File::create(&log).with_context(|| format!("{} cannot be written", log.display()))?;
        let mut child = Command::new(std::env::current_exe().context("our own executable cannot be found")?)
            .args(["up", "--lab", mode.name(), "--data"])
            .arg(data)
            .arg("--source-root")
            .arg(examples)
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            // Ctrl-C is for the demo, which then ends the hub in order.
            .process_group(0)
            .spawn()
            .context("the hub could not be started")?;
        let clock = Clock::system();
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
        say(&format!("The hub runs (autovibe up --data {}); its log is {}", data.display(), log.display()))?;
        Ok(Self { child: Some(child), data: data.to_owned() })
    }

    /// Returns when our hub has ended, with why; never for a hub that is not ours.
    pub(super) async fn ended(&mut self) -> anyhow::Error {
        match &mut self.child {
            Some(child) => {
                let status = child.wait().await.map(|status| status.to_string()).unwrap_or_default();
                let log = self.data.join("hub.log");
                anyhow::anyhow!("the hub ended ({status}): {}. Its log is {}", last_line(&log), log.display())
            }
            None => std::future::pending().await,
        }
    }

    /// Ends the hub and the lab, if we started them.
    pub(super) async fn stop(mut self, clock: &Clock) -> anyhow::Result<()> {
        let Some(child) = &mut self.child else { return Ok(()) };
        if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw) {
            kill_process(pid, Signal::TERM).context("the hub could not be ended")?;
        }
        if tokio::time::timeout(END, child.wait()).await.is_err() {
            child.kill().await.context("the hub could not be ended")?;
        }
        lab::process::stop(&lab::directory(&self.data), clock).await?;
        say("The hub and its lab have ended.")
    }
}

async fn answers(data: &Path) -> bool {
    match Client::open(&data.join("kubeconfig"), None) {
        Ok(client) => client.get("/version").await.is_ok(),
        Err(_) => false,
    }
}

fn last_line(log: &Path) -> String {
    let text = std::fs::read_to_string(log).unwrap_or_default();
    text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("it said nothing").trim_start_matches("error: ").to_owned()
}
