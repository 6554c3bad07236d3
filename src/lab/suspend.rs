//! A VM suspended to disk: its memory goes into a volume of its own and its power off; the next start goes on from there and frees it.
//!
//! `suspending`, then `suspended` stand in its config's `lock`, the volume in `vmstate`. A worker that fails leaves `suspending`, which
//! no call of a token repairs. Source: pve-recordings 05 and 08; qemu-server's `vm_suspend`. Not here: a mere pause.

use super::{
    answer::{Answer, Refusal},
    guests::VmConfig,
    keys,
    node::{FLOCK_WAIT, Node, lock},
    parameters::Parameters,
    storage::Kind,
    task::Log,
};
use std::sync::Arc;

/// Keys that are in a config only while its memory is saved.
pub(super) const OF_STATE: &[&str] = &["vmstate", "runningmachine", "runningcpu"];

/// Whether its start is a resumption.
pub(super) fn is_suspended(config: &VmConfig) -> bool {
    config.get("lock").is_some_and(|lock| lock == "suspended")
}

/// Bytes of the volume for a VM's memory: twice that, and 500 MiB.
fn size(config: &VmConfig) -> u64 {
    let text = config.get("memory").map_or("512", String::as_str);
    let mebibytes: u64 = text.strip_prefix("current=").unwrap_or(text).parse().unwrap_or(512);
    (2 * mebibytes + 500) << 20
}

impl Node {
    pub(super) async fn suspend(self: &Arc<Self>, vmid: u32, parameters: &Parameters) -> Answer {
        let config = self.must_exist(vmid)?;
        if !self.guests.power(vmid).await {
            return Err(Refusal::die(format!("VM {vmid} not running")));
        }
        if !parameters.flag("todisk") {
            return Err(Refusal::Text(501, "this lab does not pause a VM; suspend it with todisk=1".into()));
        }
        let storage = parameters.get("statestorage").or_else(|| config.get("vmstatestorage").map(String::as_str));
        let first = || super::snapshot::disks(&config).map(|(_, storage, _)| storage).next().unwrap_or("local");
        let storage = storage.unwrap_or_else(first).to_owned();
        self.access(|access| {
            access.need(&parameters.who, &format!("/vms/{vmid}"), "VM.Config.Disk")?;
            access.need(&parameters.who, &format!("/storage/{storage}"), "Datastore.AllocateSpace")
        })?;
        let node = self.clone();
        self.spawn(&parameters.who, "qmsuspend", vmid, move |log| async move {
            let volume = node.begin_suspension(vmid, &storage, &log).await?;
            log.at_work().await;
            let pool = node.pool(&storage)?;
            if let Err(why) = node.guests.save(vmid, &pool.path(&volume)).await {
                let _flock = node.flock(vmid, FLOCK_WAIT).await?;
                if let Err(why) = pool.destroy(&volume).await {
                    log.warn(&pool.error(&why));
                }
                // The lock stays, to say that something went wrong.
                node.edit(vmid, |vm| OF_STATE.iter().for_each(|key| drop(vm.config.remove(*key))))?;
                return Err(why);
            }
            log.line("State saved, quitting");
            let _flock = node.flock(vmid, FLOCK_WAIT).await?;
            if node.vm(vmid)?.config.get("lock").is_none_or(|lock| lock != "suspending") {
                return Err("lock changed unexpectedly".into());
            }
            node.guests.stop(vmid).await?;
            lock(&node.up_since).remove(&vmid);
            node.edit(vmid, |vm| drop(vm.config.insert("lock".into(), "suspended".into())))
        })
    }

    /// Makes the volume and writes the lock. Returns the volume's name.
    async fn begin_suspension(&self, vmid: u32, storage: &str, log: &Log) -> Result<String, String> {
        let _flock = self.flock(vmid, FLOCK_WAIT).await?;
        let config = self.vm(vmid)?.config;
        Self::unlocked(&config)?;
        let pool = self.pool(storage)?;
        let name = format!("vm-{vmid}-state-suspend-{}", self.clock.now().strftime("%Y-%m-%d"));
        let volume = if pool.kind() == Kind::Dir { format!("{vmid}/{name}.raw") } else { name };
        {
            let _lock = self.lock_storage(storage).await?;
            pool.create(&volume, size(&config)).await?;
        }
        if pool.kind() == Kind::Dir {
            log.line(format!("Formatting '{}/{volume}', fmt=raw size={} preallocation=off", super::pool::IMAGES, size(&config)));
        }
        self.edit(vmid, |vm| {
            let config = &mut vm.config;
            config.insert("lock".into(), "suspending".into());
            config.insert("vmstate".into(), format!("{storage}:{volume}"));
            config.insert("runningmachine".into(), "pc-i440fx-10.0+pve1".into());
            config.insert("runningcpu".into(), "kvm64".into());
        })?;
        Ok(volume)
    }

    /// The volume with its memory, if it has one. Errors: it is in the config, and not there.
    pub(super) async fn saved_memory(&self, config: &VmConfig) -> Result<Option<(String, String)>, String> {
        let Some((storage, volume)) = config.get("vmstate").and_then(|value| keys::volume(value)) else { return Ok(None) };
        if self.pool(storage)?.size(volume).await?.is_none() {
            return Err(format!("volume '{storage}:{volume}' does not exist"));
        }
        Ok(Some((storage.to_owned(), volume.to_owned())))
    }

    /// It goes on, or its memory is given up: the volume and all that says of it are gone.
    pub(super) async fn forget_memory(&self, vmid: u32, config: &VmConfig) -> Result<(), String> {
        if let Some((storage, volume)) = config.get("vmstate").and_then(|value| keys::volume(value)) {
            let pool = self.pool(storage)?;
            let _lock = self.lock_storage(storage).await?;
            pool.destroy(volume).await.map_err(|why| pool.error(&why))?;
        }
        self.guests.forget_memory(vmid);
        Ok(())
    }
}
