//! The volumes of one storage on one node: in the model of its ZFS, or on this machine's.

use super::{keys, real, simulated, state::Store};
use crate::zfs::{self, Dataset, Zfs};
use std::{path::PathBuf, sync::Arc};

/// The snapshot that a template's disk is cloned from.
pub(super) const BASE: &str = "__base__";
const NO_VOLUMES: &str = "this lab attaches volumes and makes none";

#[derive(Clone)]
pub(super) enum Pool {
    Model {
        store: Arc<Store>,
        /// Its name in the state.
        pool: String,
        /// In which the volumes are.
        dataset: String,
    },
    Real(Arc<Real>),
}

/// This machine's ZFS, and the storage on it.
pub(super) struct Real {
    pub(super) zfs: Zfs,
    pub(super) storage: real::Storage,
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
            Self::Model { dataset, .. } => dataset,
            Self::Real(real) => &real.storage.dataset,
        }
    }

    /// Errors: what only the model can.
    fn model(&self) -> Result<(&Store, &str), String> {
        match self {
            Self::Model { store, pool, .. } => Ok((store, pool)),
            Self::Real(_) => Err(NO_VOLUMES.into()),
        }
    }

    fn full(&self, volume: &str) -> String {
        // The base in front of a linked clone is text alone.
        format!("{}/{}", self.dataset(), keys::last(volume))
    }

    /// Where a running guest finds it.
    pub(super) fn path(&self, volume: &str) -> PathBuf {
        match self {
            Self::Model { pool, .. } => PathBuf::from(format!("{pool}:{}", self.full(volume))),
            Self::Real(real) => match &real.storage.mountpoint {
                Some(mountpoint) => mountpoint.join(keys::last(volume)).join("disk.raw"),
                None => PathBuf::from("/dev/zvol").join(self.full(volume)),
            },
        }
    }

    /// Size of a volume in bytes; `None` when there is none of that name.
    pub(super) async fn size(&self, volume: &str) -> Result<Option<u64>, String> {
        match self {
            Self::Model { store, pool: model, .. } => {
                Ok(store.read(|state| state.pools.get(model)?.datasets.get(&self.full(volume)).map(|d| d.volume.unwrap_or(0))))
            }
            Self::Real(real) => {
                let found = real.zfs.dataset(&Dataset(self.full(volume))).await.map_err(text)?;
                // A device has no length in its metadata; the disk's size is then left out of the config.
                Ok(found.map(|_| std::fs::metadata(self.path(volume)).map_or(0, |file| file.len())))
            }
        }
    }

    /// Direct children whose name is a volume's.
    pub(super) async fn list(&self) -> Result<Vec<Volume>, String> {
        let prefix = format!("{}/", self.dataset());
        let names: Vec<String> = match self {
            Self::Model { store, pool: model, .. } => {
                store.read(|state| state.pools.get(model).map(|pool| pool.datasets.keys().cloned().collect()).unwrap_or_default())
            }
            Self::Real(real) => {
                real.zfs.datasets(&Dataset(self.dataset().to_owned())).await.map_err(text)?.into_iter().map(|info| info.name.0).collect()
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
        let (store, model) = self.model()?;
        store.change(|state| {
            let pool = state.pools.entry(model.to_owned()).or_default();
            let free = (0..u32::MAX).map(|n| format!("vm-{vmid}-disk-{n}")).find(|name| !pool.datasets.contains_key(&self.full(name)));
            let name = free.ok_or("no free disk number")?;
            pool.create(&self.full(&name), Some(size), Default::default(), Default::default())?;
            Ok(name)
        })
    }

    /// Makes an empty volume of this name. Only the model can.
    pub(super) fn create(&self, volume: &str, size: u64) -> Result<(), String> {
        let (store, model) = self.model()?;
        store.change(|state| {
            state.pools.entry(model.to_owned()).or_default().create(&self.full(volume), Some(size), Default::default(), Default::default())
        })
    }

    /// `zfs snapshot`
    pub(super) async fn snapshot(&self, volume: &str, name: &str) -> Result<(), String> {
        let full = self.full(volume);
        match self {
            Self::Model { store, pool: model, .. } => store.change(|state| {
                state.pools.entry(model.to_owned()).or_default().snapshot(&[format!("{full}@{name}")], &Default::default())
            }),
            Self::Real(real) => {
                let snapshot = zfs::Snapshot { dataset: Dataset(full), name: name.to_owned() };
                real.zfs.snapshot(&[snapshot], &Default::default()).await.map_err(text)
            }
        }
    }

    /// Names of a volume's snapshots, oldest first.
    pub(super) async fn snapshots(&self, volume: &str) -> Result<Vec<String>, String> {
        let full = self.full(volume);
        match self {
            Self::Model { store, pool: model, .. } => {
                Ok(store.read(|state| state.pools.get(model).map(|pool| pool.snapshots_of(&full)).unwrap_or_default()))
            }
            Self::Real(real) => {
                Ok(real.zfs.snapshots(&Dataset(full)).await.map_err(text)?.into_iter().map(|info| info.name.name).collect())
            }
        }
    }

    /// `zfs destroy` of one snapshot.
    pub(super) async fn destroy_snapshot(&self, volume: &str, name: &str) -> Result<(), String> {
        let full = self.full(volume);
        match self {
            Self::Model { store, pool: model, .. } => {
                store.change(|state| state.pools.entry(model.to_owned()).or_default().destroy_snapshot(&format!("{full}@{name}"), false))
            }
            Self::Real(real) => {
                real.zfs.destroy_snapshot(&zfs::Snapshot { dataset: Dataset(full), name: name.to_owned() }).await.map_err(text)
            }
        }
    }

    /// `zfs rollback` to the newest snapshot. Only the model can.
    pub(super) fn roll_back(&self, volume: &str, name: &str) -> Result<(), String> {
        let (store, model) = self.model()?;
        store.change(|state| state.pools.entry(model.to_owned()).or_default().rollback(&format!("{}@{name}", self.full(volume))))
    }

    /// `zfs rename`, as a template's disk is.
    pub(super) async fn rename(&self, from: &str, to: &str) -> Result<(), String> {
        let (from, to) = (self.full(from), self.full(to));
        match self {
            Self::Model { store, pool: model, .. } => store.change(|state| {
                let open = simulated::open_datasets(state, model);
                state.pools.entry(model.to_owned()).or_default().rename(&from, &to, &open)
            }),
            Self::Real(real) => real.zfs.rename(&Dataset(from), &Dataset(to)).await.map_err(text),
        }
    }

    /// The first free `vm-N-disk-M`.
    pub(super) async fn free_name(&self, vmid: u32) -> Result<String, String> {
        let taken: Vec<String> = self.list().await?.into_iter().map(|volume| volume.name).collect();
        let used = |n: &u32| ["vm", "base"].iter().any(|kind| taken.contains(&format!("{kind}-{vmid}-disk-{n}")));
        (0..u32::MAX).find(|n| !used(n)).map(|n| format!("vm-{vmid}-disk-{n}")).ok_or_else(|| "no free disk number".into())
    }

    /// `zfs clone` of a template's disk.
    pub(super) async fn clone_base(&self, base: &str, to: &str) -> Result<(), String> {
        let (from, to) = (self.full(base), self.full(to));
        match self {
            Self::Model { store, pool: model, .. } => store.change(|state| {
                state.pools.entry(model.to_owned()).or_default().clone_snapshot(&format!("{from}@{BASE}"), &to, Default::default())
            }),
            Self::Real(real) => {
                let from = zfs::Snapshot { dataset: Dataset(from), name: BASE.to_owned() };
                real.zfs.clone_snapshot(&from, &Dataset(to), &Default::default()).await.map_err(text)
            }
        }
    }

    /// A full copy. Only the model can.
    pub(super) fn copy(&self, from: &str, to: &str) -> Result<(), String> {
        let (store, model) = self.model()?;
        store.change(|state| state.pools.entry(model.to_owned()).or_default().copy(&self.full(from), &self.full(to)))
    }

    /// Names of the volumes that are clones of a template's disk.
    pub(super) async fn clones_of(&self, base: &str) -> Result<Vec<String>, String> {
        let full = self.full(base);
        match self {
            Self::Model { store, pool: model, .. } => {
                Ok(store.read(|state| state.pools.get(model).map(|pool| pool.clones_of(&format!("{full}@{BASE}"))).unwrap_or_default()))
            }
            Self::Real(real) => {
                let pool = Dataset(self.dataset().to_owned());
                let all = real.zfs.datasets(&pool).await.map_err(text)?;
                let of_it =
                    |info: &zfs::DatasetInfo| info.origin.as_ref().is_some_and(|origin| origin.dataset.0 == full && origin.name == BASE);
                Ok(all.into_iter().filter(of_it).map(|info| info.name.0).collect())
            }
        }
    }

    /// `zfs destroy -r` as Proxmox runs it: a volume that is not there is success. Errors: what ZFS said.
    pub(super) async fn destroy(&self, volume: &str) -> Result<(), String> {
        let full = self.full(volume);
        match self {
            Self::Model { store, pool: model, .. } => {
                let result = store.change(|state| {
                    let open = simulated::open_datasets(state, model);
                    let pool = state.pools.entry(model.clone()).or_default();
                    if pool.datasets.contains_key(&full) { pool.destroy(&full, true, &open) } else { Ok(()) }
                });
                result.map_err(|text| text.lines().next().unwrap_or_default().to_owned())
            }
            Self::Real(real) => destroy_real(&real.zfs, &Dataset(full)).await,
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
