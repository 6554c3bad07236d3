//! The storage `tank`: volumes of the model pool, or of this machine's ZFS.

use super::{keys, real, simulated, state::Store};
use crate::zfs::{self, Dataset, Zfs};
use std::{path::PathBuf, sync::Arc};

pub(super) enum Pool {
    Model(Arc<Store>),
    Real { zfs: Zfs, storage: real::Storage },
}

/// A volume of the storage.
pub(super) struct Volume {
    pub(super) name: String,
    pub(super) size: u64,
}

impl Pool {
    /// The dataset in which the volumes are.
    pub(super) fn dataset(&self) -> &str {
        match self {
            Self::Model(_) => simulated::DATASET,
            Self::Real { storage, .. } => &storage.dataset,
        }
    }

    fn full(&self, volume: &str) -> String {
        format!("{}/{volume}", self.dataset())
    }

    /// Where a running guest finds it.
    pub(super) fn path(&self, volume: &str) -> PathBuf {
        match self {
            Self::Model(_) => PathBuf::from(self.full(volume)),
            Self::Real { storage, .. } => match &storage.mountpoint {
                Some(mountpoint) => mountpoint.join(volume).join("disk.raw"),
                None => PathBuf::from("/dev/zvol").join(self.full(volume)),
            },
        }
    }

    /// Size of a volume in bytes; `None` when there is none of that name.
    pub(super) async fn size(&self, volume: &str) -> Result<Option<u64>, String> {
        match self {
            Self::Model(store) => Ok(store.read(|state| state.pool.datasets.get(&self.full(volume)).map(|d| d.volume.unwrap_or(0)))),
            Self::Real { zfs, .. } => {
                let found = zfs.dataset(&Dataset(self.full(volume))).await.map_err(text)?;
                // A device has no length in its metadata; the disk's size is then left out of the config.
                Ok(found.map(|_| std::fs::metadata(self.path(volume)).map_or(0, |file| file.len())))
            }
        }
    }

    /// Direct children whose name is a volume's.
    pub(super) async fn list(&self) -> Result<Vec<Volume>, String> {
        let prefix = format!("{}/", self.dataset());
        let names: Vec<String> = match self {
            Self::Model(store) => store.read(|state| state.pool.datasets.keys().cloned().collect()),
            Self::Real { zfs, .. } => {
                zfs.datasets(&Dataset(self.dataset().to_owned())).await.map_err(text)?.into_iter().map(|info| info.name.0).collect()
            }
        };
        let mut volumes = Vec::new();
        for name in
            names.iter().filter_map(|name| name.strip_prefix(&prefix)).filter(|name| !name.contains('/') && keys::owner(name).is_some())
        {
            if let Some(size) = self.size(name).await? {
                volumes.push(Volume { name: name.to_owned(), size });
            }
        }
        Ok(volumes)
    }

    /// Makes a new, empty volume for `vmid` and returns its name. Only the model can.
    pub(super) fn allocate(&self, vmid: u32, size: u64) -> Result<String, String> {
        let Self::Model(store) = self else {
            return Err("this lab attaches volumes and makes none".into());
        };
        store.change(|state| {
            let free =
                (0..u32::MAX).map(|n| format!("vm-{vmid}-disk-{n}")).find(|name| !state.pool.datasets.contains_key(&self.full(name)));
            let name = free.ok_or("no free disk number")?;
            state.pool.create(&self.full(&name), Some(size), Default::default(), Default::default())?;
            Ok(name)
        })
    }

    /// `zfs destroy -r` as Proxmox runs it: a volume that is not there is success. Errors: what ZFS said.
    pub(super) async fn destroy(&self, volume: &str) -> Result<(), String> {
        let full = self.full(volume);
        match self {
            Self::Model(store) => {
                let result = store.change(|state| {
                    let open = simulated::open_datasets(state);
                    if state.pool.datasets.contains_key(&full) { state.pool.destroy(&full, true, &open) } else { Ok(()) }
                });
                result.map_err(|text| text.lines().next().unwrap_or_default().to_owned())
            }
            Self::Real { zfs, .. } => destroy_real(zfs, &Dataset(full)).await,
        }
    }
}

/// OpenZFS destroys all or nothing here; zfs-fuse would destroy what it can, so holds and clones are looked for first.
async fn destroy_real(zfs: &Zfs, dataset: &Dataset) -> Result<(), String> {
    if zfs.dataset(dataset).await.map_err(text)?.is_none() {
        return Ok(());
    }
    let snapshots = zfs.snapshots(dataset).await.map_err(text)?;
    if let Some(held) = snapshots.iter().find(|snapshot| snapshot.holds > 0) {
        return Err(format!("cannot destroy snapshot {}: it's being held. Run 'zfs holds -r {}' to see holders.", held.name, held.name));
    }
    let pool = Dataset(dataset.0.split('/').next().unwrap_or_default().to_owned());
    let all = zfs.datasets(&pool).await.map_err(text)?;
    if all.iter().filter_map(|info| info.origin.as_ref()).any(|origin| origin.dataset == *dataset) {
        return Err(format!("cannot destroy '{dataset}': filesystem has dependent clones"));
    }
    for snapshot in &snapshots {
        zfs.destroy_snapshot(&snapshot.name).await.map_err(text)?;
    }
    zfs.destroy_dataset(dataset).await.map_err(text)
}

fn text(error: zfs::Error) -> String {
    error.to_string()
}
