//! The cluster: what its nodes share, and which of them are up.
//!
//! All of it lives in one process. A node that is down loses what a machine loses with its power: its guests and its
//! workers; configs and volumes stay, and nobody can ask for them until it is back.

use super::{
    fault::Faults,
    guests::Guests,
    node::{FLOCK_WAIT, Node, lock},
    permission::Access,
    pool::{Pool, Real},
    resources::Broadcast,
    state::{State, Store, Vm},
    task,
};
use crate::clock::Clock;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, atomic::AtomicBool},
    time::Duration,
};
use tokio::{sync::OwnedMutexGuard, time::Instant};
use tokio_util::sync::CancellationToken;

/// Locks by what they are for.
type Locks<K> = BTreeMap<K, Arc<tokio::sync::Mutex<()>>>;

pub(super) struct Cluster {
    pub(super) store: Arc<Store>,
    pub(super) guests: Guests,
    /// `None`: the storages are models.
    pub(super) real: Option<Arc<Real>>,
    pub(super) faults: Faults,
    pub(super) clock: Clock,
    pub(super) started: Instant,
    pub(super) shutdown: CancellationToken,
    workers: Mutex<BTreeMap<String, task::Worker>>,
    /// How long a wrong token waits for its 401.
    pub(super) refusal: Mutex<Duration>,
    pub(super) lag: Mutex<Duration>,
    pub(super) broadcasts: Mutex<BTreeMap<u32, Broadcast>>,
    flocks: Mutex<Locks<u32>>,
    /// By node, none for a shared one, and storage.
    storage_locks: Mutex<Locks<(String, String)>>,
    /// Whether each creation and destruction of a VM takes the lock of its storage, with or without volumes of its own.
    pub(super) slow: AtomicBool,
    pub(super) up_since: Mutex<BTreeMap<u32, Instant>>,
    pub(super) relag: tokio::sync::Notify,
    /// Nodes that are down, each with the cut of its power, so that an earlier one does not bring it back.
    down: Mutex<BTreeMap<String, Arc<()>>>,
}

impl Cluster {
    pub(super) fn new(store: Arc<Store>, guests: Guests, real: Option<Arc<Real>>, shutdown: CancellationToken, clock: Clock) -> Self {
        Self {
            store,
            guests,
            real,
            faults: Faults::default(),
            clock,
            started: Instant::now(),
            shutdown,
            workers: Mutex::default(),
            refusal: Mutex::new(Duration::from_secs(3)),
            lag: Mutex::new(Duration::from_secs(10)),
            broadcasts: Mutex::default(),
            flocks: Mutex::default(),
            storage_locks: Mutex::default(),
            slow: AtomicBool::default(),
            up_since: Mutex::default(),
            relag: tokio::sync::Notify::new(),
            down: Mutex::default(),
        }
    }

    /// Seconds since 1970.
    pub(super) fn now(&self) -> i64 {
        self.clock.now().as_second()
    }

    pub(super) fn workers(&self) -> MutexGuard<'_, BTreeMap<String, task::Worker>> {
        lock(&self.workers)
    }

    pub(super) fn set_lag(&self, lag: Duration) {
        *lock(&self.lag) = lag;
        self.relag.notify_one();
    }

    pub(super) fn access<R>(&self, read: impl FnOnce(&Access) -> R) -> R {
        self.store.read(|state| read(&state.access))
    }

    /// The file lock of a VM. Errors: the text of a lock that was not had in time.
    pub(super) async fn flock(&self, vmid: u32, wait: Duration) -> Result<OwnedMutexGuard<()>, String> {
        let mutex = lock(&self.flocks).entry(vmid).or_default().clone();
        tokio::time::timeout(wait, mutex.lock_owned())
            .await
            .map_err(|_| format!("can't lock file '/var/lock/qemu-server/lock-{vmid}.conf' - got timeout"))
    }

    /// All VMs of all nodes.
    pub(super) fn vms(&self) -> BTreeMap<u32, Vm> {
        self.store.read(|state| state.vms.clone())
    }

    pub(super) fn names(&self) -> Vec<String> {
        self.store.read(|state| state.nodes.clone())
    }

    /// The node of this name, up or down; `localhost` is the one that was asked.
    pub(super) fn node(self: &Arc<Self>, name: &str) -> Option<Arc<Node>> {
        if name == "localhost" {
            return self.asked();
        }
        self.names().into_iter().find(|other| other == name).map(|name| Arc::new(Node::new(name, self.clone())))
    }

    /// The node that a call reaches: any node answers for all, and one that is down for none.
    pub(super) fn asked(self: &Arc<Self>) -> Option<Arc<Node>> {
        self.names().into_iter().find(|name| self.is_up(name)).map(|name| Arc::new(Node::new(name, self.clone())))
    }

    pub(super) fn is_up(&self, name: &str) -> bool {
        !lock(&self.down).contains_key(name)
    }

    /// Whether most of the nodes are up: otherwise nothing in `/etc/pve` can be written.
    pub(super) fn is_quorate(&self) -> bool {
        let all = self.names();
        all.iter().filter(|name| self.is_up(name)).count() * 2 > all.len()
    }

    /// Cuts a node's power: its guests are off, its workers are gone and have left what they held. It comes back by itself
    /// after a time, or when it is told to.
    pub(super) async fn kill(self: &Arc<Self>, name: &str, back: Option<Duration>) {
        let cut = Arc::new(());
        lock(&self.down).insert(name.to_owned(), cut.clone());
        self.workers().values().filter(|worker| worker.node == name).for_each(|worker| worker.kill.cancel());
        for (vmid, vm) in self.vms() {
            if vm.node == name && self.guests.power(vmid).await && self.guests.stop(vmid).await.is_ok() {
                lock(&self.up_since).remove(&vmid);
            }
        }
        let Some(pause) = back else { return };
        let (cluster, name) = (self.clone(), name.to_owned());
        tokio::spawn(async move {
            tokio::select! {
                biased;
                () = cluster.clock.sleep(pause) => {
                    if lock(&cluster.down).get(&name).is_some_and(|present| Arc::ptr_eq(present, &cut)) {
                        cluster.revive(&name);
                    }
                }
                () = cluster.shutdown.cancelled() => {}
            }
        });
    }

    /// Powers a node on: its workers of before ended as killed ones do, and what is to start with it starts.
    pub(super) fn revive(self: &Arc<Self>, name: &str) {
        if lock(&self.down).remove(name).is_none() {
            return;
        }
        self.store.change(|state| task::bury(&mut state.tasks, name));
        let Some(node) = self.node(name) else { return };
        for (vmid, vm) in self.vms() {
            if vm.node == name && vm.config.get("onboot").is_some_and(|flag| flag == "1") {
                drop(node.start_task(vmid, &super::permission::root()));
            }
        }
    }
}

impl Node {
    /// The volumes of a storage here. Errors: there is no such storage, or not on this node.
    pub(super) fn pool(&self, storage: &str) -> Result<Pool, String> {
        let Some(config) = self.store.read(|state: &State| state.storages.get(storage).cloned()) else {
            return Err(format!("storage '{storage}' does not exist"));
        };
        if !config.on(&self.name) {
            return Err(format!("storage '{storage}' is not available on node '{}'", self.name));
        }
        Ok(match &self.real {
            Some(real) => Pool::Real(real.clone()),
            None => Pool::Model {
                store: self.store.clone(),
                pool: config.place(storage, &self.name),
                dataset: config.dataset(storage),
                kind: config.kind,
            },
        })
    }

    /// The lock that one change of a storage's volumes takes, each for the time that the storage needs for it. Errors: the
    /// text of a lock that was not had in time.
    pub(super) async fn lock_storage(&self, storage: &str) -> Result<OwnedMutexGuard<()>, String> {
        let config = self.store.read(|state| state.storages.get(storage).cloned()).unwrap_or_default();
        let of = if config.shared { String::new() } else { self.name.clone() };
        let mutex = lock(&self.storage_locks).entry((of, storage.to_owned())).or_default().clone();
        let guard = tokio::time::timeout(FLOCK_WAIT, mutex.lock_owned()).await.map_err(|_| {
            if config.shared {
                return format!("cfs-lock 'storage-{storage}' error: got lock request timeout");
            }
            format!("can't lock file '/var/lock/pve-manager/pve-storage-{storage}' - got timeout")
        })?;
        if config.takes_ms > 0 {
            self.clock.sleep(Duration::from_millis(config.takes_ms)).await;
        }
        Ok(guard)
    }
}
