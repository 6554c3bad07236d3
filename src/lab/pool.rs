//! The volumes of one storage on one node: in the model of its ZFS, or on this machine's.

use super::{keys, real, simulated, state::Store, storage::Kind};
use crate::zfs::{self, Dataset, Zfs};
use std::{
    collections::BTreeSet,
    io::Read as _,
    path::{Path, PathBuf},
    sync::Arc,
};

/// The snapshot that a template's disk is cloned from.
pub(super) const BASE: &str = "__base__";
/// Where a directory's files would lie; it says so in its errors.
pub(super) const IMAGES: &str = "/var/lib/vz/images";
const NO_COPIES: &str = "this lab copies no volumes; make a template, and a linked clone of it";
/// How a qcow2 image begins. Source: QEMU, docs/interop/qcow2.rst.
const QCOW2: &[u8] = b"QFI\xfb";

#[derive(Clone)]
pub(super) enum Pool {
    Model {
        store: Arc<Store>,
        /// Its name in the state.
        pool: String,
        /// In which the volumes are.
        dataset: String,
        kind: Kind,
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
            Self::Real(_) => Err(NO_COPIES.into()),
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

    /// Where Proxmox would say that it is.
    pub(super) fn shown_path(&self, volume: &str) -> String {
        match self.kind() {
            Kind::ZfsPool => format!("/dev/zvol/{}", self.full(volume)),
            Kind::Dir => format!("{IMAGES}/{volume}"),
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
                Ok(found.map(|_| self.length(volume)))
            }
        }
    }

    /// Bytes of a real volume that is there. A device has no length in its metadata; the disk's size is then left out of the config.
    fn length(&self, volume: &str) -> u64 {
        std::fs::metadata(self.path(volume)).map_or(0, |file| file.len())
    }

    /// Direct children whose name is a volume's.
    pub(super) async fn list(&self) -> Result<Vec<Volume>, String> {
        let prefix = format!("{}/", self.dataset());
        let own = |name: &str| {
            let name = name.strip_prefix(&prefix)?;
            (!name.contains('/') && keys::owner(name).is_some()).then(|| name.to_owned())
        };
        if let Self::Real(real) = self {
            let all = real.zfs.datasets(&Dataset(self.dataset().to_owned())).await.map_err(text)?;
            let volume = |info: zfs::DatasetInfo| {
                let (name, origin) = (own(&info.name.0)?, info.origin.filter(|origin| origin.name == BASE));
                Some(Volume { size: self.length(&name), name: self.shown(&name, origin.map(|origin| origin.dataset.0)) })
            };
            return Ok(all.into_iter().filter_map(volume).collect());
        }
        let (store, model) = self.model()?;
        let names: Vec<String> =
            store.read(|state| state.pools.get(model).map(|pool| pool.datasets.keys().cloned().collect()).unwrap_or_default());
        let mut volumes = Vec::new();
        for name in names.iter().filter_map(|name| own(name)) {
            if let Some(size) = self.size(&name).await? {
                let base = store.read(|state| state.pools.get(model)?.base_of(&self.full(&name)));
                volumes.push(Volume { name: self.shown(&name, base), size });
            }
        }
        Ok(volumes)
    }

    /// Makes a new, empty volume for `vmid` and returns its name.
    pub(super) async fn allocate(&self, vmid: u32, size: u64, format: Option<&str>) -> Result<String, String> {
        let name = self.free_name(vmid, format.unwrap_or("raw")).await?;
        self.create(&name, size).await?;
        Ok(name)
    }

    /// Makes a volume of this name, with what is in a raw image. Errors: also when the file is no such image.
    pub(super) async fn import(&self, file: &Path, volume: &str) -> Result<(), String> {
        let unreadable = |error: std::io::Error| format!("could not get file size of {}: {error}", file.display());
        let size = std::fs::metadata(file).map_err(unreadable)?.len();
        let mut begin = Vec::new();
        std::fs::File::open(file).and_then(|image| image.take(4).read_to_end(&mut begin)).map_err(unreadable)?;
        if begin == QCOW2 {
            return Err(format!("{} is qcow2, and this lab imports raw images alone; `qemu-img convert -O raw` makes one", file.display()));
        }
        match self {
            // Models have no bytes.
            Self::Model { .. } => self.create(volume, size).await,
            Self::Real(real) => {
                let dataset = Dataset(self.full(volume));
                real.zfs.import_disk(file, &dataset, &Default::default()).await.map_err(|error| self.error(&text(error)))
            }
        }
    }

    /// A volume's name as the storage lists it: a file with its directory, a clone with its base in front.
    fn shown(&self, name: &str, base: Option<String>) -> String {
        base.map_or_else(|| self.own(name), |base| self.linked(&base, name))
    }

    /// Likewise, without a base.
    fn own(&self, name: &str) -> String {
        let name = keys::last(name);
        match keys::owner(name).filter(|_| self.kind() == Kind::Dir) {
            Some(owner) => format!("{owner}/{name}"),
            None => name.to_owned(),
        }
    }

    /// The name of a linked clone: its base is in front, and no base of that.
    pub(super) fn linked(&self, base: &str, name: &str) -> String {
        format!("{}/{}", self.own(base), self.own(name))
    }

    /// Makes an empty volume of this name.
    pub(super) async fn create(&self, volume: &str, size: u64) -> Result<(), String> {
        match self {
            Self::Model { store, pool: model, .. } => store
                .change(|state| {
                    let pool = state.pools.entry(model.to_owned()).or_default();
                    pool.create(&self.full(volume), Some(size), Default::default(), Default::default())
                })
                .map_err(|why| match self.kind() {
                    Kind::ZfsPool => self.error(&why),
                    Kind::Dir => format!("disk image '{IMAGES}/{volume}' already exists"),
                }),
            Self::Real(real) => {
                let dataset = Dataset(self.full(volume));
                real.zfs.create_volume(&dataset, size).await.map_err(|error| self.error(&text(error)))?;
                if real.storage.mountpoint.is_none() {
                    return Ok(());
                }
                let made = std::fs::File::create(self.path(volume)).and_then(|file| file.set_len(size));
                made.map_err(|error| self.error(&format!("{}: {error}", self.path(volume).display())))
            }
        }
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

    /// `zfs rollback` to the newest snapshot; of a file, to any. Only the model can.
    pub(super) fn roll_back(&self, volume: &str, name: &str) -> Result<(), String> {
        let (store, model) = self.model()?;
        if self.kind() == Kind::Dir {
            let full = format!("{}@{name}", self.full(volume));
            return store.change(|state| state.pools.entry(model.to_owned()).or_default().restore(&full));
        }
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

    /// The first free `vm-N-disk-M`: of a directory `N/vm-N-disk-M.qcow2`. Errors: the storage has no such format.
    pub(super) async fn free_name(&self, vmid: u32, format: &str) -> Result<String, String> {
        let taken: Vec<String> = self.list().await?.into_iter().map(|volume| volume.name).collect();
        let stem = |volume: &String| keys::last(volume).split('.').next().unwrap_or_default().to_owned();
        let taken: BTreeSet<String> = taken.iter().map(stem).collect();
        let used = |n: &u32| ["vm", "base"].iter().any(|kind| taken.contains(&format!("{kind}-{vmid}-disk-{n}")));
        let free = (0..u32::MAX).find(|n| !used(n)).map(|n| format!("vm-{vmid}-disk-{n}")).ok_or("no free disk number")?;
        match self.kind() {
            Kind::ZfsPool if format != "raw" => Err(no_format(format)),
            Kind::ZfsPool => Ok(free),
            Kind::Dir => Ok(format!("{vmid}/{free}.{format}")),
        }
    }

    /// The volume that is meant by a file's name for `vmid`. Errors: as the storage says it.
    pub(super) fn name_to_allocate(&self, vmid: u32, name: &str, format: Option<&str>) -> Result<String, String> {
        match self.kind() {
            Kind::ZfsPool => match format.filter(|format| *format != "raw") {
                Some(format) => Err(no_format(format)),
                None if !name.starts_with(&format!("vm-{vmid}-")) => Err(format!("illegal name '{name}' - should be 'vm-{vmid}-*'")),
                None => Ok(name.to_owned()),
            },
            Kind::Dir => {
                let volume = format!("{vmid}/{name}");
                if self.has_form(&volume) && format.is_none_or(|format| format == keys::format(name)) {
                    return Ok(volume);
                }
                Err(self.no_name(name))
            }
        }
    }

    /// What kind of storage it is.
    pub(super) fn kind(&self) -> Kind {
        match self {
            Self::Model { kind, .. } => *kind,
            Self::Real(_) => Kind::ZfsPool,
        }
    }

    /// Whether a name can be one of its volumes'.
    pub(super) fn has_form(&self, volume: &str) -> bool {
        let file = volume.contains('/') && matches!(volume.rsplit_once('.'), Some((_, "raw" | "qcow2" | "vmdk")));
        keys::owner(volume).is_some() && (self.kind() == Kind::ZfsPool || file)
    }

    /// What it says of a name that none of its volumes can have.
    pub(super) fn no_name(&self, volume: &str) -> String {
        match self.kind() {
            Kind::ZfsPool => format!("unable to parse zfs volume name '{volume}'"),
            Kind::Dir => format!("unable to parse directory volume name '{volume}'"),
        }
    }

    /// What went wrong in it, as the storage says it.
    pub(super) fn error(&self, why: &str) -> String {
        let why = why.lines().next().unwrap_or_default();
        match self.kind() {
            Kind::ZfsPool => format!("zfs error: {why}"),
            Kind::Dir => why.to_owned(),
        }
    }

    /// Whether it takes snapshots of a volume: of files only in those of format qcow2.
    pub(super) fn has_snapshots(&self, volume: &str) -> bool {
        self.kind() == Kind::ZfsPool || keys::format(volume) == "qcow2"
    }

    /// Whether a full copy can be made of a snapshot of it.
    pub(super) fn copies_snapshots(&self, volume: &str) -> bool {
        self.kind() == Kind::Dir && keys::format(volume) == "qcow2"
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

    /// A full copy, of a snapshot where one is named, in another storage or this one. Only the model can.
    pub(super) fn copy(&self, from: &str, snapshot: Option<&str>, target: &Self, to: &str) -> Result<(), String> {
        let (store, model) = self.model()?;
        let (_, target_model) = target.model()?;
        let from = self.full(from);
        let whole = snapshot.map_or_else(|| from.clone(), |name| format!("{from}@{name}"));
        store.change(|state| {
            let found = state.pools.get(model).and_then(|pool| Some((pool.datasets.get(&from)?.volume, pool.disk(&whole)?.clone())));
            let (size, disk) = found.ok_or_else(|| format!("cannot open '{whole}': dataset does not exist"))?;
            state.pools.entry(target_model.to_owned()).or_default().create(&target.full(to), size, Default::default(), disk)
        })
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

fn no_format(format: &str) -> String {
    format!("unsupported format '{format}' at /usr/share/perl5/PVE/Storage/ZFSPoolPlugin.pm line 292.")
}

fn text(error: zfs::Error) -> String {
    error.to_string()
}
