//! Typed `zfs` commands over a [`Runner`]: local, on another machine by SSH and the [`helper`] there, or on a socket. Knows
//! nothing of Machines.

mod client;
mod disk;
mod error;
pub mod helper;
mod listing;
mod name;
mod run;
mod ssh;
mod stream;
mod turn;

#[cfg(test)]
mod tests;

pub use client::Zfs;
pub use error::Error;
pub use run::{Output, local};
pub use ssh::Ssh;
pub use turn::in_turn;

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
    /// By a helper that answers on a unix socket: one JSON line `{"argv":[…]}` in, one `{"status":n,"stdout":"…","stderr":"…"}` out, per
    /// connection. A stream follows the line that it belongs to, whose answer says `stream_bytes` too.
    Socket(std::path::PathBuf),
    /// By a service in this process.
    Service(Service),
    /// On another machine, by the helper there.
    Ssh(Ssh),
    /// Nowhere: each command is refused, and none is ever started.
    Nowhere,
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

/// How a node is reached, and on whose behalf.
#[derive(Clone, Debug)]
pub struct Settings {
    pub host: String,
    pub port: u16,
    pub user: String,
    /// The node's public host key, as in `/etc/ssh/ssh_host_ed25519_key.pub`: type and base64. No other is accepted.
    pub host_key: String,
    /// The private key, in OpenSSH's form.
    pub key: secrecy::SecretString,
    /// Where the key lies in a file while it is used.
    pub directory: std::path::PathBuf,
    /// Id of this hub's database.
    pub installation: String,
    /// Under which this process leads. The helper refuses one below the highest that it was called with.
    pub epoch: i64,
}

/// What this ZFS can do; probed once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a capability of its own")]
pub struct Capabilities {
    /// Volumes; without them a disk is the file `disk.raw` in a mounted filesystem dataset.
    pub volumes: bool,
    /// Several snapshots in one atomic command.
    pub atomic_snapshots: bool,
    /// A receive that was cut can go on where it stopped; sends can be compressed.
    pub resumable: bool,
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
    /// Bytes that would be free if all its snapshots went (`usedbysnapshots`).
    pub snapshots_bytes: Option<u64>,
    /// User properties set on it itself, not inherited; names beginning `autovibe:` only.
    pub properties: Properties,
}

/// A snapshot as `zfs` shows it.
#[derive(Clone, Debug, PartialEq)]
pub struct SnapshotInfo {
    pub name: Snapshot,
    /// Decimal.
    pub guid: String,
    /// The pool's transaction group that made it: the order of snapshots within a pool, whatever its clock says.
    pub createtxg: u64,
    pub holds: u64,
    pub referenced_bytes: Option<u64>,
    pub properties: Properties,
}
