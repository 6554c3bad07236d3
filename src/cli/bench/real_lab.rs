//! A real lab of a bench's own: the image for its guests, and its end, pool and all.

use crate::cli::{Context, image, lab};
use crate::clock::Clock;
use crate::lab::real::pool;
use anyhow::{Context as _, bail};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::process::Command;

/// zfs-fuse calls a pool busy for a moment after its last use.
const BUSY: Duration = Duration::from_millis(200);
const TRIES: u32 = 100;

/// The micro image in the hub's data directory, built when it is not there.
pub(super) fn micro_image(context: &Context) -> anyhow::Result<PathBuf> {
    let file = std::path::absolute(context.data())?.join("images/micro.raw");
    tokio::task::block_in_place(|| image::build(image::ImageKind::Micro, &file, image::CLAUDE_CODE))?;
    Ok(file)
}

/// Ends the lab of a bench's directory with its guests, and destroys its pool, which lies in that directory too.
pub(super) async fn take_down(directory: &Path, clock: &Clock) -> anyhow::Result<()> {
    let directory = lab::directory(directory);
    lab::process::stop(&directory, clock).await?;
    if !directory.join("pool.img").exists() {
        return Ok(());
    }
    let name = pool::name(&directory);
    for _ in 0..TRIES {
        let output = Command::new("zpool").args(["destroy", "-f", &name]).output().await.context("zpool cannot be run")?;
        let words = String::from_utf8_lossy(&output.stderr);
        if output.status.success() || words.contains("no such pool") {
            return Ok(());
        }
        if !words.contains("busy") {
            bail!("pool {name} of the bench cannot be destroyed: {}", words.trim());
        }
        clock.sleep(BUSY).await;
    }
    bail!("pool {name} of the bench stays busy; destroy it with `zpool destroy -f {name}`, then remove {}", directory.display())
}
