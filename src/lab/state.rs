//! Everything that must outlive the lab's process, in `state.json`: written whole, to a new file, then renamed.
//!
//! Changes are made under one lock and written together by one task; an answer is sent after its change is on disk.

use super::{
    Error,
    firewall::Firewall,
    guests::VmConfig,
    node::NODE,
    permission::Access,
    simulated::{self, disk::Disk, pool::Pool},
    storage::Config,
    task,
};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, PoisonError},
};
use tokio::sync::{Notify, watch};

/// One VM's config, and what waits in it for the next start.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Vm {
    /// The node that it is on; its local volumes are there.
    #[serde(default = "first_node")]
    pub(super) node: String,
    pub(super) config: VmConfig,
    /// Set while it ran: `None` deletes the key.
    #[serde(default)]
    pub(super) pending: BTreeMap<String, Option<String>>,
    /// Proxmox' own snapshots: each has the config of its time, with `snaptime`, `parent`, `snapstate`.
    #[serde(default)]
    pub(super) snapshots: BTreeMap<String, VmConfig>,
}

#[derive(Debug, Serialize, Deserialize)]
pub(super) struct State {
    /// The token's secret.
    pub(super) secret: String,
    #[serde(default)]
    pub(super) access: Access,
    pub(super) vms: BTreeMap<u32, Vm>,
    /// Newest last.
    pub(super) tasks: Vec<task::Record>,
    pub(super) last_pid: u32,
    /// By VMID.
    #[serde(default)]
    pub(super) firewalls: BTreeMap<u32, Firewall>,
    /// The datacenter's.
    #[serde(default)]
    pub(super) datacenter: Firewall,
    /// Names of the cluster's nodes; the first one is there in every lab.
    #[serde(default = "one_node")]
    pub(super) nodes: Vec<String>,
    #[serde(default)]
    pub(super) storages: BTreeMap<String, Config>,
    /// How many tasks that ended are kept of each node.
    #[serde(default)]
    pub(super) tasks_kept: Option<usize>,
    /// The file that this state began from, by its digest.
    #[serde(default)]
    pub(super) setup: Option<String>,
    /// What the storages' volumes are in: each node's model of ZFS, by the node's name; a real lab uses none.
    #[serde(default, alias = "pool", deserialize_with = "pools")]
    pub(super) pools: BTreeMap<String, Pool>,
    #[serde(default)]
    pub(super) guests: BTreeMap<u32, simulated::guest::Guest>,
    /// What model guests were whose memory was saved.
    #[serde(default)]
    pub(super) saved: BTreeMap<u32, simulated::guest::Guest>,
}

impl Default for State {
    fn default() -> Self {
        serde_json::from_value(serde_json::json!({ "secret": "", "vms": {}, "tasks": [], "last_pid": 0 }))
            .expect("all other fields have defaults, and a test starts a lab")
    }
}

fn first_node() -> String {
    NODE.to_owned()
}

fn one_node() -> Vec<String> {
    vec![first_node()]
}

/// A lab of before there were several nodes has one pool.
fn pools<'de, D: serde::Deserializer<'de>>(from: D) -> Result<BTreeMap<String, Pool>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Stored {
        One(Pool),
        Many(BTreeMap<String, Pool>),
    }
    Ok(match Stored::deserialize(from)? {
        Stored::One(pool) => BTreeMap::from([(first_node(), pool)]),
        Stored::Many(pools) => pools,
    })
}

impl State {
    /// What a guest's disk is on.
    pub(super) fn disk_of(&mut self, vmid: u32) -> Option<&mut Disk> {
        let guest = self.guests.get(&vmid)?;
        self.pools.get_mut(&guest.pool)?.datasets.get_mut(&guest.disk).map(|dataset| &mut dataset.disk)
    }

    /// The first node's model of ZFS.
    pub(super) fn first_pool(&self) -> Option<&Pool> {
        self.pools.get(self.nodes.first()?)
    }
}

struct Inner {
    state: State,
    generation: u64,
}

/// The state, and its way to disk.
pub(super) struct Store {
    inner: Mutex<Inner>,
    /// `None` keeps it in memory alone.
    path: Option<PathBuf>,
    /// One writer at a time: the new file has one name.
    writing: Mutex<()>,
    dirty: Notify,
    written: watch::Sender<u64>,
}

impl Store {
    /// Reads what a former lab left. Errors: `State` when it is there and cannot be read.
    pub(super) fn open(data: &Path) -> Result<Self, Error> {
        let path = data.join("state.json");
        let state = match fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| Error::State { path: path.clone(), reason: error.to_string() })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => State::default(),
            Err(source) => return Err(Error::Data { path, source }),
        };
        Ok(Self::new(Some(path), state))
    }

    /// One that lives as long as this process.
    pub(super) fn in_memory() -> Self {
        Self::new(None, State::default())
    }

    fn new(path: Option<PathBuf>, state: State) -> Self {
        Self {
            inner: Mutex::new(Inner { state, generation: 0 }),
            path,
            writing: Mutex::new(()),
            dirty: Notify::new(),
            written: watch::channel(0).0,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic elsewhere leaves whole values behind: each change is one call.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn read<R>(&self, read: impl FnOnce(&State) -> R) -> R {
        read(&self.lock().state)
    }

    /// Changes the state; [`Self::settled`] tells when it is on disk.
    pub(super) fn change<R>(&self, change: impl FnOnce(&mut State) -> R) -> R {
        let mut inner = self.lock();
        inner.generation += 1;
        let result = change(&mut inner.state);
        drop(inner);
        self.dirty.notify_one();
        result
    }

    /// Returns when every change up to now is on disk.
    pub(super) async fn settled(&self) {
        if self.path.is_none() {
            return;
        }
        let generation = self.lock().generation;
        let mut written = self.written.subscribe();
        // The writer lives as long as the store is used.
        let _ = written.wait_for(|done| *done >= generation).await;
    }

    /// Writes changes until it is dropped.
    pub(super) async fn write_changes(&self) {
        loop {
            self.dirty.notified().await;
            self.write();
        }
    }

    /// Writes the present state.
    pub(super) fn write(&self) {
        let Some(path) = &self.path else { return };
        let _turn = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let (bytes, generation) = {
            let inner = self.lock();
            (serde_json::to_vec(&inner.state), inner.generation)
        };
        let new = path.with_extension("new");
        let written = bytes.map_err(io::Error::from).and_then(|bytes| fs::write(&new, bytes)).and_then(|()| fs::rename(&new, path));
        match written {
            Ok(()) => drop(self.written.send_replace(generation)),
            // Answers wait: what is not on disk was not done.
            Err(error) => tracing::error!("the lab's state cannot be written to {}: {error}", path.display()),
        }
    }
}
