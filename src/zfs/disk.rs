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
        let unreadable = |error: io::Error| Error::Unavailable(format!("{}: {error}", image.display()));
        let file = File::open(image).map_err(unreadable)?;
        let size = file.metadata().map_err(unreadable)?.len();
        let Runner::Ssh(ssh) = &self.runner else {
            return self.import_from(file, size, to, properties).await;
        };
        // The helper has no such file, so it is sent.
        let text = name::dataset(to)?.to_owned();
        let argv = [vec!["import".into(), size.to_string()], name::options(properties)?, vec![text.clone()]].concat();
        self.tenure.begin(super::run::DEADLINE)?;
        let output = ssh.feed(&argv, &mut tokio::fs::File::from_std(file)).await?;
        super::client::checked(&text, output).map(drop)
    }

    /// As [`Self::import_disk`], of what is read: exactly `size` bytes, or it fails.
    pub(super) async fn import_from(
        &self,
        image: impl Read + Send + 'static,
        size: u64,
        to: &Dataset,
        properties: &Properties,
    ) -> Result<(), Error> {
        let text = name::dataset(to)?.to_owned();
        let options = name::options(properties)?;
        let imported = if self.capabilities().volumes {
            let rounded = size.div_ceil(ROUND).max(1) * ROUND;
            let create = [vec!["create".into(), "-s".into(), "-V".into(), rounded.to_string()], options, vec![text.clone()]].concat();
            self.act(&text, create).await?;
            match self.device(&text).await {
                Ok(device) => copy(image, size, &device, false).await,
                Err(error) => Err(error),
            }
        } else {
            // Mounted at a place of its own while it is written: its parent may have none.
            let place = PathBuf::from(format!("/run/autovibe-import-{}", crate::random::uuid().simple()));
            let mount = vec!["create".into(), "-o".into(), format!("mountpoint={}", place.display())];
            self.act(&text, [mount, options, vec![text.clone()]].concat()).await?;
            let copied = copy(image, size, &place.join("disk.raw"), true).await;
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
            Runner::Ssh(_) => return Err(Error::Other("the devices of another machine are the helper's".into())),
            Runner::Nowhere => return Err(super::run::nowhere()),
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

async fn copy(from: impl Read + Send + 'static, size: u64, to: &Path, create: bool) -> Result<(), Error> {
    let to = to.to_owned();
    let done = tokio::task::spawn_blocking(move || copy_sparse(from, &to, create)).await;
    let failed = |error: io::Error| {
        if error.kind() == io::ErrorKind::StorageFull {
            Error::OutOfSpace(error.to_string())
        } else {
            Error::Other(format!("the image was not copied: {error}"))
        }
    };
    match done.map_err(|error| Error::Other(error.to_string()))?.map_err(failed)? {
        copied if copied == size => Ok(()),
        copied => Err(Error::Other(format!("the image was not copied: {copied} bytes came of {size}"))),
    }
}

/// Writes what is not zero, and returns how much was read when it is on disk.
pub(super) fn copy_sparse(mut source: impl Read, to: &Path, create: bool) -> io::Result<u64> {
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
    target.sync_all()?;
    Ok(end)
}
