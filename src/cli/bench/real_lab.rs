//! A real lab of a bench's own: the image for its guests, and its end, pool and all.

use crate::cli::{Context, image, lab};
use crate::clock::Clock;
use crate::lab::real::pool;
use std::path::{Path, PathBuf};

/// The micro image in the hub's data directory, built when it is not there.
pub(super) fn micro_image(context: &Context) -> anyhow::Result<PathBuf> {
    let file = std::path::absolute(context.data())?.join("images/micro.raw");
    tokio::task::block_in_place(|| image::build(image::ImageKind::Micro, &file, None, None))?;
    Ok(file)
}

/// Ends the lab of a bench's directory with its guests, and destroys its pool, which lies in that directory too.
pub(super) async fn take_down(directory: &Path, clock: &Clock) -> anyhow::Result<()> {
    let directory = lab::directory(directory);
    lab::process::stop(&directory, clock).await?;
    Ok(pool::destroy(&directory, clock).await?)
}
