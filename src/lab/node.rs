//! A node of the cluster: its VMs, and the storages that it has.

use super::{
    answer::{Answer, Refusal},
    cluster::Cluster,
    guests::VmConfig,
    parameters::Parameters,
    state::Vm,
};
use serde_json::{Value, json};
use std::{
    ops::Deref,
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::Ordering},
    time::Duration,
};

/// Name of the first node, when nobody names it.
pub(super) const NODE: &str = "lab";
/// The token that the hub is given.
pub(super) const TOKEN_ID: &str = "autovibe@pve!lab";
/// Name of the storage that every lab has.
pub(super) const STORAGE: &str = "tank";
/// How long a change waits for another to let go of a VM.
pub(super) const FLOCK_WAIT: Duration = Duration::from_secs(10);
const VERSION: &str = "9.2.11";

/// One node of the cluster, and all that it shares with the others.
pub(super) struct Node {
    pub(super) name: String,
    cluster: Arc<Cluster>,
}

impl Deref for Node {
    type Target = Cluster;

    fn deref(&self) -> &Cluster {
        &self.cluster
    }
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Node {
    pub(super) fn new(name: String, cluster: Arc<Cluster>) -> Self {
        Self { name, cluster }
    }

    pub(super) fn cluster(&self) -> &Arc<Cluster> {
        &self.cluster
    }

    /// The text for a VM without a config here: there is none, or another node has it.
    pub(super) fn no_config(&self, vmid: u32) -> String {
        format!("Configuration file 'nodes/{}/qemu-server/{vmid}.conf' does not exist", self.name)
    }

    /// Likewise of a container, of which there is none.
    pub(super) fn no_container(&self, vmid: u32) -> String {
        format!("Configuration file 'nodes/{}/lxc/{vmid}.conf' does not exist", self.name)
    }

    /// The same, as tasks that stop find it.
    pub(super) fn not_found(&self, vmid: u32) -> String {
        format!("unable to find configuration file for VM {vmid} on node '{}'", self.name)
    }

    /// A VM of this node.
    pub(super) fn vm(&self, vmid: u32) -> Result<Vm, String> {
        self.store.read(|state| state.vms.get(&vmid).filter(|vm| vm.node == self.name).cloned()).ok_or_else(|| self.no_config(vmid))
    }

    /// Works under the storage's lock for as long as it is slow, if it was made so for whole VMs. Errors: the text of a lock
    /// that was not had in time.
    pub(super) async fn hold_storage(&self) -> Result<(), String> {
        if self.slow.load(Ordering::Relaxed) { self.lock_storage(STORAGE).await.map(drop) } else { Ok(()) }
    }

    /// Its present config.
    pub(super) fn config_of(&self, vmid: u32) -> Option<VmConfig> {
        self.vm(vmid).ok().map(|vm| vm.config)
    }

    /// An empty one that is to be filled.
    pub(super) fn new_vm(&self, config: VmConfig) -> Vm {
        Vm { node: self.name.clone(), config, ..Vm::default() }
    }

    /// As `config_of`; refused like a guest that is not there.
    pub(super) fn must_exist(&self, vmid: u32) -> Result<VmConfig, Refusal> {
        self.config_of(vmid).ok_or_else(|| Refusal::die(self.no_config(vmid)))
    }

    /// Refuses a VM with a lock in its config.
    pub(super) fn unlocked(config: &VmConfig) -> Result<(), String> {
        config.get("lock").map_or(Ok(()), |lock| Err(format!("VM is locked ({lock})")))
    }

    pub(super) fn version() -> Answer {
        Ok(json!({ "version": VERSION, "release": "9.2", "repoid": "0000000000000000" }).into())
    }

    pub(super) async fn list(&self, parameters: &Parameters) -> Answer {
        let mut rows = Vec::new();
        for (vmid, vm) in self.vms().into_iter().filter(|(_, vm)| vm.node == self.name) {
            let config = vm.config;
            if !self.access(|access| access.may(&parameters.who, &format!("/vms/{vmid}"), "VM.Audit")) {
                continue;
            }
            rows.push(self.live_row(vmid, &config).await);
        }
        Ok(Value::from(rows).into())
    }

    pub(super) async fn status(&self, vmid: u32) -> Answer {
        let config = self.must_exist(vmid)?;
        let mut row = self.live_row(vmid, &config).await;
        row["qmpstatus"] = row["status"].clone();
        row["ha"] = json!({ "managed": 0 });
        if agent_enabled(&config) {
            row["agent"] = 1.into();
        }
        if row["status"] == "running" {
            row["running-machine"] = "pc-i440fx-10.0+pve1".into();
            row["running-qemu"] = "10.0.13".into();
        }
        Ok(row.into())
    }
}

/// `agent: 1` or `enabled=1,…`.
pub(super) fn agent_enabled(config: &VmConfig) -> bool {
    config.get("agent").is_some_and(|text| text.split(',').any(|part| matches!(part, "1" | "enabled=1")))
}
