//! Typed `zfs` commands over a [`Runner`]: local, or answered by a helper on a socket. Knows nothing of Machines.

use std::collections::BTreeMap;

/// Full name of a dataset: `tank/data/vm-100-disk-0`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Dataset(pub String);
/// A snapshot: dataset and short name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Snapshot {
    pub dataset: Dataset,
    pub name: String,
}

impl std::fmt::Display for Dataset {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}
impl std::fmt::Display for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}@{}", self.dataset, self.name)
    }
}

/// User properties, as `autovibe:machine` → value.
pub type Properties = BTreeMap<String, String>;

/// How `zfs` is run. Arguments are passed one by one, never through a shell.
#[derive(Clone, Debug)]
pub enum Runner {
    /// On this machine.
    Local,
    /// By a helper that answers on a unix socket: one JSON line `{"argv":[…]}` in, one `{"status":n,"stdout":"…","stderr":"…"}` out, per connection.
    Socket(std::path::PathBuf),
}

/// What this ZFS can do; probed once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// Volumes; without them a disk is the file `disk.raw` in a mounted filesystem dataset.
    pub volumes: bool,
    /// Several snapshots in one atomic command.
    pub atomic_snapshots: bool,
    /// `-p` of `zfs list`.
    pub list_parsable: bool,
}

/// A dataset as `zfs` shows it.
#[derive(Clone, Debug, PartialEq)]
pub struct DatasetInfo {
    pub name: Dataset,
    /// Decimal.
    pub guid: String,
    /// The snapshot it is a clone of.
    pub origin: Option<Snapshot>,
    /// User properties set on it itself, not inherited; names beginning `autovibe:` only.
    pub properties: Properties,
}

/// A snapshot as `zfs` shows it.
#[derive(Clone, Debug, PartialEq)]
pub struct SnapshotInfo {
    pub name: Snapshot,
    /// Decimal.
    pub guid: String,
    pub holds: u64,
    pub referenced_bytes: Option<u64>,
    pub properties: Properties,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0} exists already")]
    Exists(String),
    #[error("{0} does not exist")]
    NotFound(String),
    /// A mounted or open dataset: try again soon.
    #[error("{0} is busy")]
    Busy(String),
    #[error("{0} is held")]
    Held(String),
    #[error("{0} has dependent clones")]
    HasClones(String),
    #[error("{0} has children")]
    HasChildren(String),
    #[error("the pool is out of space: {0}")]
    OutOfSpace(String),
    /// Started, but its end was not seen: it may have been done.
    #[error("no answer from zfs: {0}")]
    Unknown(String),
    /// The program or helper is not there: nothing was done.
    #[error("zfs cannot be run: {0}")]
    Unavailable(String),
    /// A name that ZFS does not allow; nothing was run.
    #[error("{0} is not a legal name for ZFS")]
    BadName(String),
    #[error("zfs failed: {0}")]
    Other(String),
}

/// Runs `zfs`; cheap to clone.
#[derive(Clone)]
pub struct Zfs {
    _todo: (),
}

impl Zfs {
    /// Probes what this ZFS can do.
    pub async fn open(_runner: Runner) -> Result<Self, Error> {
        unimplemented!()
    }
    pub fn capabilities(&self) -> Capabilities {
        unimplemented!()
    }
    /// Every dataset below (and with) `root`, one command.
    pub async fn datasets(&self, _root: &Dataset) -> Result<Vec<DatasetInfo>, Error> {
        unimplemented!()
    }
    /// One dataset; `None` only when ZFS says that it does not exist.
    pub async fn dataset(&self, _name: &Dataset) -> Result<Option<DatasetInfo>, Error> {
        unimplemented!()
    }
    pub async fn snapshot_info(&self, _name: &Snapshot) -> Result<Option<SnapshotInfo>, Error> {
        unimplemented!()
    }
    /// Snapshots of one dataset.
    pub async fn snapshots(&self, _dataset: &Dataset) -> Result<Vec<SnapshotInfo>, Error> {
        unimplemented!()
    }
    /// Snapshots all of them, in one atomic command where this ZFS can.
    pub async fn snapshot(&self, _snapshots: &[Snapshot], _properties: &Properties) -> Result<(), Error> {
        unimplemented!()
    }
    /// Holds them; one that has this tag already is fine.
    pub async fn hold(&self, _tag: &str, _snapshots: &[Snapshot]) -> Result<(), Error> {
        unimplemented!()
    }
    /// Releases them; one without this tag is fine.
    pub async fn release(&self, _tag: &str, _snapshots: &[Snapshot]) -> Result<(), Error> {
        unimplemented!()
    }
    pub async fn clone_snapshot(&self, _from: &Snapshot, _to: &Dataset, _properties: &Properties) -> Result<(), Error> {
        unimplemented!()
    }
    /// Creates an empty parent dataset (and its parents) that nothing mounts; fine when it exists.
    pub async fn create_parent(&self, _name: &Dataset) -> Result<(), Error> {
        unimplemented!()
    }
    /// Renames; unmounts first where a dataset is a filesystem. Snapshots, holds and clones follow.
    pub async fn rename(&self, _from: &Dataset, _to: &Dataset) -> Result<(), Error> {
        unimplemented!()
    }
    pub async fn promote(&self, _dataset: &Dataset) -> Result<(), Error> {
        unimplemented!()
    }
    /// Destroys one snapshot; never its clones.
    pub async fn destroy_snapshot(&self, _snapshot: &Snapshot) -> Result<(), Error> {
        unimplemented!()
    }
    /// Destroys one dataset without snapshots or children.
    pub async fn destroy_dataset(&self, _dataset: &Dataset) -> Result<(), Error> {
        unimplemented!()
    }
    /// Makes a disk of a raw image: a volume with the image written to it, or a filesystem with `disk.raw`.
    pub async fn import_disk(&self, _image: &std::path::Path, _to: &Dataset, _properties: &Properties) -> Result<(), Error> {
        unimplemented!()
    }
}
