//! A directory of a bench's own, on the disk where hubs keep their data.

use crate::cli::Context;
use anyhow::Context as _;
use std::path::{Path, PathBuf};

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
