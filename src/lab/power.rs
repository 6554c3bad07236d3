//! Power on and off, and the end of a VM: workers under the VM's file lock.

use super::{
    answer::{Answer, Refusal},
    guests::VmConfig,
    keys,
    node::{FLOCK_WAIT, Node, lock},
    parameters::Parameters,
    permission::Who,
    qemu::apply,
    suspend::{OF_STATE, is_suspended},
    task::Log,
};
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;

/// Of a shutdown that names none.
const SHUTDOWN: u64 = 60;

impl Node {
    pub(super) fn start_task(self: &Arc<Self>, vmid: u32, who: &Who) -> Answer {
        let node = self.clone();
        self.spawn(who, "qmstart", vmid, move |log| async move {
            let _flock = node.flock(vmid, FLOCK_WAIT).await?;
            let config = node.vm(vmid)?.config;
            // A suspended VM is resumed by a start; every other lock keeps it off.
            if !is_suspended(&config) {
                Self::unlocked(&config)?;
            }
            if node.guests.power(vmid).await {
                return Err(format!("VM {vmid} already running"));
            }
            if config.get("template").is_some_and(|flag| flag == "1") {
                return Err("you can't start a vm if it's a template".into());
            }
            if !is_suspended(&config) {
                log.at_work().await;
                return node.start_now(vmid, &config, None).await;
            }
            log.line("Resuming suspended VM");
            let memory = node.saved_memory(&config).await?;
            if let Some((storage, volume)) = &memory {
                log.line(format!("activating and using '{storage}:{volume}' as vmstate"));
            }
            log.at_work().await;
            node.start_now(vmid, &config, memory).await?;
            node.forget_memory(vmid, &config).await?;
            node.edit(vmid, |vm| OF_STATE.iter().chain(&["lock"]).for_each(|key| drop(vm.config.remove(*key))))?;
            log.line("Resumed VM, removing state");
            Ok(())
        })
    }

    /// From its disks, or from the memory in this volume.
    async fn start_now(&self, vmid: u32, config: &VmConfig, memory: Option<(String, String)>) -> Result<(), String> {
        let mut disks = Vec::new();
        for (_, value) in config.iter().filter(|(key, _)| keys::is_disk(key) && !key.starts_with("unused")) {
            let Some((storage, volume)) = keys::volume(value) else { continue };
            let pool = self.pool(storage)?;
            if pool.size(volume).await?.is_none() {
                return Err(format!("volume '{storage}:{volume}' does not exist"));
            }
            disks.push(pool.path(volume));
        }
        let memory = memory.map(|(storage, volume)| Ok::<_, String>(self.pool(&storage)?.path(&volume))).transpose()?;
        self.guests.start(vmid, config, &disks, memory.as_deref()).await?;
        lock(&self.up_since).insert(vmid, Instant::now());
        Ok(())
    }

    /// After its power went: what waited in its config is taken.
    pub(super) fn went_off(&self, vmid: u32) {
        lock(&self.up_since).remove(&vmid);
        self.store.change(|state| {
            if let Some(vm) = state.vms.get_mut(&vmid) {
                let pending = std::mem::take(&mut vm.pending);
                apply(&mut vm.config, pending);
            }
        });
    }

    pub(super) fn stop(self: &Arc<Self>, vmid: u32, parameters: &Parameters) -> Answer {
        let (node, overrule) = (self.clone(), parameters.flag("overrule-shutdown"));
        self.spawn(&parameters.who, "qmstop", vmid, move |log| async move {
            if overrule {
                node.interrupt("qmshutdown", vmid);
            }
            let _flock = node.flock(vmid, FLOCK_WAIT).await?;
            let config = node.config_of(vmid).ok_or_else(|| node.not_found(vmid))?;
            if node.guests.power(vmid).await {
                Node::unlocked(&config)?;
                log.at_work().await;
                node.guests.stop(vmid).await?;
                node.went_off(vmid);
            }
            Ok(())
        })
    }

    pub(super) fn shut_down(self: &Arc<Self>, vmid: u32, parameters: &Parameters) -> Answer {
        let (node, force) = (self.clone(), parameters.flag("forceStop"));
        let timeout = Duration::from_secs(parameters.number("timeout").unwrap_or(SHUTDOWN));
        self.spawn(&parameters.who, "qmshutdown", vmid, move |log| async move {
            // Held until the power is off.
            let _flock = node.flock(vmid, FLOCK_WAIT).await?;
            let config = node.config_of(vmid).ok_or_else(|| node.not_found(vmid))?;
            if !node.guests.power(vmid).await {
                return Ok(());
            }
            Self::unlocked(&config)?;
            log.at_work().await;
            if !node.guests.shutdown(vmid, timeout).await {
                if !force {
                    return Err("VM quit/powerdown failed - got timeout".into());
                }
                log.line("VM quit/powerdown failed - terminating now with SIGTERM");
                node.guests.stop(vmid).await?;
            }
            node.went_off(vmid);
            Ok(())
        })
    }

    pub(super) async fn delete(self: &Arc<Self>, vmid: u32, parameters: &Parameters) -> Answer {
        self.deletable(vmid).await.map_err(Refusal::die)?;
        let (node, purge, sweep) = (self.clone(), parameters.flag("purge"), parameters.flag("destroy-unreferenced-disks"));
        self.spawn(&parameters.who, "qmdestroy", vmid, move |log| async move {
            let _flock = node.flock(vmid, FLOCK_WAIT).await?;
            let config = node.deletable(vmid).await?;
            if !is_suspended(&config) {
                Self::unlocked(&config)?;
            }
            node.hold_storage().await?;
            if purge {
                log.line(format!("purging VM {vmid} from related configurations.."));
            }
            log.at_work().await;
            node.destroy(vmid, &config, sweep, &log).await
        })
    }

    /// Checked before the worker starts, and again in it.
    async fn deletable(&self, vmid: u32) -> Result<VmConfig, String> {
        let config = self.vm(vmid)?.config;
        if config.get("protection").is_some_and(|flag| flag == "1") {
            return Err(format!("can't remove VM {vmid} - protection mode enabled"));
        }
        if self.guests.power(vmid).await {
            return Err(format!("VM {vmid} is running - destroy failed"));
        }
        Ok(config)
    }

    /// Volumes that ZFS keeps are a warning: the config goes all the same, and they stay under the old number.
    async fn destroy(&self, vmid: u32, config: &VmConfig, sweep: bool, log: &Log) -> Result<(), String> {
        let of_it = |(storage, volume): (&str, &str)| (keys::owner(volume) == Some(vmid)).then(|| (storage.to_owned(), volume.to_owned()));
        for (_, value) in config.iter().filter(|(key, _)| keys::is_disk(key)) {
            if let Some((storage, volume)) = keys::volume(value)
                && !self.linked_to(storage, volume).await?.is_empty()
            {
                return Err(format!("base volume '{storage}:{volume}' is still in use by linked cloned"));
            }
        }
        let sections = self.store.read(|state| state.vms.get(&vmid).map(|vm| vm.snapshots.values().cloned().collect::<Vec<_>>()));
        let mut volumes: Vec<(String, String)> = std::iter::once(config)
            .chain(sections.iter().flatten())
            .flat_map(|config| config.iter().filter(|(key, _)| keys::is_disk(key) || *key == "vmstate"))
            .filter_map(|(_, value)| keys::volume(value))
            .filter_map(of_it)
            .collect();
        if sweep {
            for storage in self.storages_here() {
                let all = self.pool(&storage)?.list().await?;
                volumes.extend(all.iter().filter_map(|volume| of_it((&storage, &volume.name))));
            }
        }
        volumes.sort();
        volumes.dedup();
        for (storage, volume) in volumes {
            let freed = match self.lock_storage(&storage).await {
                Ok(_lock) => {
                    let pool = self.pool(&storage)?;
                    pool.destroy(&volume).await.map_err(|text| {
                        log.line(text.clone());
                        pool.error(&text)
                    })
                }
                Err(text) => Err(text),
            };
            if let Err(text) = freed {
                log.warn(&format!("Could not remove disk '{storage}:{volume}', check manually: {text}"));
            }
        }
        self.guests.forget(vmid).await;
        self.store.change(|state| {
            state.vms.remove(&vmid);
            state.firewalls.remove(&vmid);
            // Its grants and its place in a pool go with it.
            state.access.grants.retain(|grant| grant.path != format!("/vms/{vmid}"));
            for pool in state.access.pools.values_mut() {
                pool.vms.remove(&vmid);
            }
        });
        Ok(())
    }
}
