//! A directory of a bench's own, on the disk where hubs keep their data.

use crate::cli::Context;
use anyhow::Context as _;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// `bench/<name>-<pid>` in the hub's data directory; removed when dropped.
pub(super) struct Place(PathBuf);

impl Place {
    pub(super) fn new(context: &Context, name: &str) -> anyhow::Result<Self> {
        let directory = std::path::absolute(context.data())?.join(format!("bench/{name}-{}", std::process::id()));
        std::fs::create_dir_all(&directory).with_context(|| format!("{} cannot be made", directory.display()))?;
        Ok(Self(directory))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// Keeps what is in it, for a person to look at.
    pub(super) fn leave(self) -> PathBuf {
        std::mem::ManuallyDrop::new(self).0.clone()
    }
}

/// A page of a database, which is what its smallest durable write appends.
const PAGE: [u8; 4096] = [0x61; 4096];

/// A file that is appended to durably, to know what this disk takes for it.
pub(super) struct Appended(std::fs::File);

impl Appended {
    /// What it is called as a baseline.
    pub(super) const NAME: &str = "fdatasync of a 4 KiB append";

    pub(super) fn new(directory: &Path) -> std::io::Result<Self> {
        std::fs::File::create(directory.join("append")).map(Self)
    }

    /// How long one append takes, fdatasync included.
    pub(super) fn append(&mut self) -> std::io::Result<Duration> {
        let begun = Instant::now();
        tokio::task::block_in_place(|| self.0.write_all(&PAGE).and_then(|()| self.0.sync_data()))?;
        Ok(begun.elapsed())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!("{} was left behind: {error}", self.0.display());
        }
        // Only when no other bench is at work there.
        self.0.parent().map(std::fs::remove_dir);
    }
}
