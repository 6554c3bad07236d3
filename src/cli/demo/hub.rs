//! The demo's hub: the one that runs on the data directory, or a child process that ends with the demo.

use super::{lab, say};
use crate::cli::up::process;
use crate::clock::Clock;
use anyhow::Context as _;
use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
};

pub(super) struct Hub {
    /// Absent when the hub ran before: then it is not ours to end.
    child: Option<process::Hub>,
    data: PathBuf,
}

impl Hub {
    pub(super) async fn find_or_start(data: &Path, mode: lab::process::Mode, examples: &Path, clock: &Clock) -> anyhow::Result<Self> {
        if process::answers(data).await {
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
        let arguments = ["--lab".as_ref(), OsStr::new(mode.name()), "--source-root".as_ref(), examples.as_os_str()];
        let child = process::Hub::start(data, &arguments, clock).await?;
        say(&format!("The hub runs (autovibe up --data {}); its log is {}", data.display(), process::log_file(data).display()))?;
        Ok(Self { child: Some(child), data: data.to_owned() })
    }

    /// Returns when our hub has ended, with why; never for a hub that is not ours.
    pub(super) async fn ended(&mut self) -> anyhow::Error {
        match &mut self.child {
            Some(child) => child.ended().await,
            None => std::future::pending().await,
        }
    }

    /// Ends the hub and the lab, if we started them.
    pub(super) async fn stop(self, clock: &Clock) -> anyhow::Result<()> {
        let Some(child) = self.child else { return Ok(()) };
        child.stop().await?;
        lab::process::stop(&lab::directory(&self.data), clock).await?;
        say("The hub and its lab have ended.")
    }
}
