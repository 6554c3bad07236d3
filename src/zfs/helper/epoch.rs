//! The highest epoch that each installation was seen with: whoever comes with a lower one was replaced, and is refused.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

pub(super) struct Epochs<'a> {
    pub(super) directory: &'a Path,
}

/// The right to act under an epoch: no higher one begins while it is held.
#[derive(Debug)]
pub(super) struct Held {
    _lock: File,
}

impl Epochs<'_> {
    /// Begins to act. Waits until commands under lower epochs have ended. Errors: words for people.
    pub(super) async fn enter(&self, installation: &str, epoch: i64) -> Result<Held, String> {
        let legal = |c: char| c.is_ascii_alphanumeric() || c == '-';
        if installation.is_empty() || installation.len() > 64 || !installation.chars().all(legal) {
            return Err("the installation's id is none".into());
        }
        if epoch < 1 {
            return Err("epoch 0 is of a hub that does not lead; it may not act".into());
        }
        let place = self.directory.join(installation);
        // Locks wait, and no other task needs this thread's executor meanwhile: one helper, one command.
        tokio::task::spawn_blocking(move || enter(&place, epoch)).await.map_err(|error| error.to_string())?
    }
}

fn enter(place: &Path, epoch: i64) -> Result<Held, String> {
    let broken = |error: io::Error| format!("epochs cannot be kept in {}: {error}", place.display());
    fs::create_dir_all(place.parent().unwrap_or(Path::new("/"))).map_err(broken)?;
    let lock = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(with(place, "lock")).map_err(broken)?;
    let value = with(place, "epoch");
    loop {
        lock.lock_shared().map_err(broken)?;
        let highest = stored(&value).map_err(broken)?;
        if epoch < highest {
            return Err(format!("epoch {epoch} was revoked: another hub of this installation took over with epoch {highest}"));
        }
        if epoch == highest {
            return Ok(Held { _lock: lock });
        }
        // A lock cannot grow in place without letting another between; so it is looked at again.
        lock.unlock().map_err(broken)?;
        lock.lock().map_err(broken)?;
        if stored(&value).map_err(broken)? < epoch {
            store(&value, epoch).map_err(broken)?;
        }
        lock.unlock().map_err(broken)?;
    }
}

fn with(place: &Path, extension: &str) -> PathBuf {
    place.with_extension(extension)
}

/// Errors: also for a file that is no number: what was revoked is not known then.
fn stored(file: &Path) -> io::Result<i64> {
    match fs::read_to_string(file) {
        Ok(text) => text.trim().parse().map_err(|_| io::Error::new(io::ErrorKind::InvalidData, format!("{} is no epoch", file.display()))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error),
    }
}

/// Durable when it returns.
fn store(file: &Path, epoch: i64) -> io::Result<()> {
    let new = with(file, "new");
    let mut written = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    writeln!(written, "{epoch}")?;
    written.sync_all()?;
    fs::rename(&new, file)?;
    File::open(file.parent().unwrap_or(Path::new("/")))?.sync_all()
}
