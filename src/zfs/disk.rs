//! Makes a disk of a raw image: a volume, or where there are none a filesystem with `disk.raw`.

use super::{Dataset, Error, Properties, Runner, client::Zfs, name};
use crate::clock::Clock;
use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    time::Duration,
};

/// Volumes are made in whole MiB, as Proxmox makes them.
const ROUND: u64 = 1 << 20;
/// udev makes the device node of a new volume a moment later; Proxmox waits as long.
const DEVICE_WAIT: Duration = Duration::from_secs(10);
const DEVICE_PAUSE: Duration = Duration::from_millis(50);

impl Zfs {
    /// Makes a disk of a raw image: a volume with the image written to it, or a filesystem with `disk.raw`.
    ///
    /// A disk is whole once a snapshot of it exists; without one it may be the rest of an import that was cut.
    pub async fn import_disk(&self, image: &Path, to: &Dataset, properties: &Properties) -> Result<(), Error> {
        let text = name::dataset(to)?.to_owned();
        let options = name::options(properties)?;
        let size = fs::metadata(image).map_err(|error| Error::Unavailable(format!("{}: {error}", image.display())))?.len();
        let imported = if self.capabilities().volumes {
            let size = size.div_ceil(ROUND).max(1) * ROUND;
            let create = [vec!["create".into(), "-s".into(), "-V".into(), size.to_string()], options, vec![text.clone()]].concat();
            self.act(&text, create).await?;
            match self.device(&text).await {
                Ok(device) => copy(image, &device, false).await,
                Err(error) => Err(error),
            }
        } else {
            // Mounted at a place of its own while it is written: its parent may have none.
            let place = PathBuf::from(format!("/run/autovibe-import-{}", uuid::Uuid::new_v4().simple()));
            let mount = vec!["create".into(), "-o".into(), format!("mountpoint={}", place.display())];
            self.act(&text, [mount, options, vec![text.clone()]].concat()).await?;
            let copied = copy(image, &place.join("disk.raw"), true).await;
            let left = match self.unmount(&text).await {
                Ok(()) => self.act(&text, vec!["inherit".into(), "mountpoint".into(), text.clone()]).await,
                Err(error) => Err(error),
            };
            // An empty directory that could not be removed harms nobody.
            let _ = fs::remove_dir(&place);
            copied.and(left)
        };
        if imported.is_err() {
            // Best effort: what stays has no snapshot and so is no image.
            let _ = self.destroy_dataset(to).await;
        }
        imported
    }

    /// Waits for the device node of a volume. A helper on a socket shows its volumes in `zvol` beside the socket.
    async fn device(&self, dataset: &str) -> Result<PathBuf, Error> {
        let root = match &self.runner {
            Runner::Local | Runner::Service(_) => PathBuf::from("/dev/zvol"),
            Runner::Socket(socket) => socket.parent().unwrap_or(Path::new("/")).join("zvol"),
        };
        let (device, mut waited) = (root.join(dataset), Duration::ZERO);
        while !device.exists() {
            if waited >= DEVICE_WAIT {
                return Err(Error::Unavailable(format!("{} did not appear", device.display())));
            }
            Clock::system().sleep(DEVICE_PAUSE).await;
            waited += DEVICE_PAUSE;
        }
        Ok(device)
    }
}

async fn copy(from: &Path, to: &Path, create: bool) -> Result<(), Error> {
    let (from, to) = (from.to_owned(), to.to_owned());
    let done = tokio::task::spawn_blocking(move || copy_sparse(&from, &to, create)).await;
    let failed = |error: io::Error| {
        if error.kind() == io::ErrorKind::StorageFull {
            Error::OutOfSpace(error.to_string())
        } else {
            Error::Other(format!("the image was not copied: {error}"))
        }
    };
    done.map_err(|error| Error::Other(error.to_string()))?.map_err(failed)
}

/// Writes what is not zero, and returns when it is on disk.
pub(super) fn copy_sparse(from: &Path, to: &Path, create: bool) -> io::Result<()> {
    let mut source = File::open(from)?;
    let mut target = OpenOptions::new().write(true).create_new(create).open(to)?;
    let mut block = vec![0; 1 << 20];
    let mut end = 0;
    loop {
        let read = source.read(&mut block)?;
        if read == 0 {
            break;
        }
        if block[..read].iter().any(|byte| *byte != 0) {
            target.seek(SeekFrom::Start(end))?;
            target.write_all(&block[..read])?;
        }
        end += read as u64;
    }
    if create {
        target.set_len(end)?;
    }
    target.sync_all()
}
