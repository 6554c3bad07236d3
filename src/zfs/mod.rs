//! Typed `zfs` commands over a [`Runner`]: local, or answered by a helper on a socket. Knows nothing of Machines.

mod client;
mod disk;
mod error;
mod listing;
mod name;
mod run;

#[cfg(test)]
mod tests;

pub use client::Zfs;
pub use error::Error;
pub use run::Output;

use futures::future::BoxFuture;
use std::{collections::BTreeMap, sync::Arc};

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
    /// By a service in this process.
    Service(Service),
}

/// Answers the arguments of one `zfs` command; `None` is an end that nobody saw.
#[derive(Clone)]
pub struct Service(Arc<Call>);

type Call = dyn Fn(Vec<String>) -> BoxFuture<'static, Option<Output>> + Send + Sync;

impl Service {
    pub fn new(call: impl Fn(Vec<String>) -> BoxFuture<'static, Option<Output>> + Send + Sync + 'static) -> Self {
        Self(Arc::new(call))
    }

    pub async fn call(&self, argv: Vec<String>) -> Option<Output> {
        (self.0)(argv).await
    }
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Service")
    }
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
