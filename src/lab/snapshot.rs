//! Proxmox' own snapshots and the states they pass through: what a worker that ends half-way leaves, no call repairs.
//!
//! `prepare` and `delete` stand in a snapshot's `snapstate`, `snapshot`, `snapshot-delete` and `rollback` in the VM's `lock`.
//! Not here: the guest's memory; `vmstate=1` of a running VM is refused, since a model guest's memory cannot be brought back.

use super::{
    answer::{Answer, Refusal},
    guests::VmConfig,
    keys,
    node::{FLOCK_WAIT, Node},
    parameters::Parameters,
    state::Vm,
    storage::Kind,
    task::Log,
};
use serde_json::{Value, json};
use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

/// What a snapshot of a config leaves out.
const NOT_KEPT: &[&str] = &["lock", "description", "digest", "snapstate", "vmstate", "snaptime"];

pub(super) fn no_snapshot(name: &str) -> Refusal {
    Refusal::die(format!("snapshot '{name}' does not exist"))
}

/// Whether a config has this volume among its disks.
pub(super) fn uses(config: &VmConfig, volume: &str) -> bool {
    disks(config).any(|(_, _, other)| other == volume)
}

/// Key, storage and volume of each disk that snapshots take, in the order of Proxmox.
pub(super) fn disks(config: &VmConfig) -> impl Iterator<Item = (&str, &str, &str)> {
    config.iter().filter(|(key, value)| keys::is_disk(key) && !key.starts_with("unused") && !value.contains("media=cdrom")).filter_map(
        |(key, value)| {
            let (storage, volume) = keys::volume(value)?;
            Some((key.as_str(), storage, volume))
        },
    )
}

fn is_template(config: &VmConfig) -> bool {
    config.get("template").is_some_and(|flag| flag == "1")
}

impl Node {
    /// Changes a VM that was there a moment ago.
    pub(super) fn edit<R>(&self, vmid: u32, change: impl FnOnce(&mut Vm) -> R) -> Result<R, String> {
        self.store
            .change(|state| state.vms.get_mut(&vmid).filter(|vm| vm.node == self.name).map(change))
            .ok_or_else(|| self.no_config(vmid))
    }

    pub(super) async fn snapshots(&self, vmid: u32) -> Answer {
        let vm = self.vm(vmid).map_err(Refusal::die)?;
        let mut rows: Vec<Value> = vm
            .snapshots
            .iter()
            .map(|(name, section)| {
                let mut row = json!({ "name": name, "description": section.get("description").cloned().unwrap_or_default(),
                    "snaptime": section.get("snaptime").and_then(|time| time.parse::<i64>().ok()).unwrap_or_default(),
                    "vmstate": u8::from(section.contains_key("vmstate")) });
                for key in ["parent", "snapstate"] {
                    if let Some(value) = section.get(key) {
                        row[key] = value.as_str().into();
                    }
                }
                row
            })
            .collect();
        let running = u8::from(self.guests.power(vmid).await);
        let mut current = json!({ "name": "current", "description": "You are here!", "running": running, "digest": keys::digest(&vm) });
        if let Some(parent) = vm.config.get("parent") {
            current["parent"] = parent.as_str().into();
        }
        rows.push(current);
        Ok(Value::from(rows).into())
    }

    pub(super) fn snapshot_config(&self, vmid: u32, name: &str) -> Answer {
        let vm = self.vm(vmid).map_err(Refusal::die)?;
        let section = vm.snapshots.get(name).ok_or_else(|| no_snapshot(name))?;
        Ok(Value::from(keys::show(section)).into())
    }

    pub(super) async fn describe_snapshot(&self, vmid: u32, parameters: &Parameters) -> Answer {
        let name = parameters.get("snapname").unwrap_or_default();
        let _flock = self.flock(vmid, FLOCK_WAIT).await.map_err(Refusal::die)?;
        let vm = self.vm(vmid).map_err(Refusal::die)?;
        Self::unlocked(&vm.config).map_err(Refusal::die)?;
        if !vm.snapshots.contains_key(name) {
            return Err(no_snapshot(name));
        }
        if let Some(text) = parameters.get("description") {
            self.edit(vmid, |vm| {
                vm.snapshots.get_mut(name).map(|section| match text {
                    "" => section.remove("description"),
                    text => section.insert("description".into(), text.to_owned()),
                })
            })
            .map_err(Refusal::die)?;
        }
        Ok(Value::Null.into())
    }

    pub(super) fn take_snapshot(self: &Arc<Self>, vmid: u32, parameters: &Parameters) -> Answer {
        let name = parameters.get("snapname").unwrap_or_default().to_owned();
        if name == "current" {
            return Err(Refusal::die("unable to use snapshot name 'current' (reserved name)"));
        }
        if name.eq_ignore_ascii_case("pending") {
            return Err(Refusal::die("unable to use snapshot name 'pending' (reserved name)"));
        }
        let description = parameters.get("description").map(str::to_owned);
        let (node, memory) = (self.clone(), parameters.flag("vmstate"));
        let (undoing, undone) = (self.clone(), name.clone());
        let prepared = Arc::new(AtomicBool::new(false));
        let begun = prepared.clone();
        let undo = move |log: Log, why| async move {
            if begun.load(Ordering::SeqCst) {
                log.line("snapshot create failed: starting cleanup");
                undoing.undo_snapshot(vmid, &undone, &log).await;
            }
            why
        };
        let work = move |log: Log| async move {
            let disks = node.prepare_snapshot(vmid, &name, description, memory).await?;
            prepared.store(true, Ordering::SeqCst);
            log.at_work().await;
            for (key, storage, volume) in &disks {
                log.line(format!("snapshotting 'drive-{key}' ({storage}:{volume})"));
                let pool = node.pool(storage)?;
                if let Err(why) = pool.snapshot(volume, &name).await {
                    return Err(pool.error(&why));
                }
            }
            let _flock = node.flock(vmid, FLOCK_WAIT).await?;
            node.edit(vmid, |vm| {
                vm.config.remove("lock");
                if let Some(section) = vm.snapshots.get_mut(&name) {
                    section.remove("snapstate");
                }
                vm.config.insert("parent".into(), name);
            })
        };
        self.spawn_with_undo(&parameters.who, "qmsnapshot", vmid, work, undo)
    }

    /// The disks that were taken already, the section and the lock go.
    async fn undo_snapshot(&self, vmid: u32, name: &str, log: &Log) {
        let Ok(vm) = self.vm(vmid) else { return };
        for (_, storage, volume) in disks(&vm.config) {
            let Ok(pool) = self.pool(storage) else { continue };
            if pool.snapshots(volume).await.is_ok_and(|all| all.iter().any(|other| other == name))
                && let Err(why) = pool.destroy_snapshot(volume, name).await
            {
                log.warn(&pool.error(&why));
            }
        }
        // The VM was there a moment ago.
        let _ = self.edit(vmid, |vm| {
            vm.config.remove("lock");
            vm.snapshots.remove(name);
        });
    }

    /// Writes the section with `snapstate: prepare`, and the lock. Returns the disks to take.
    async fn prepare_snapshot(
        &self,
        vmid: u32,
        name: &str,
        description: Option<String>,
        memory: bool,
    ) -> Result<Vec<(String, String, String)>, String> {
        let _flock = self.flock(vmid, FLOCK_WAIT).await?;
        let vm = self.vm(vmid)?;
        if is_template(&vm.config) {
            return Err("you can't take a snapshot if it's a template".into());
        }
        Self::unlocked(&vm.config)?;
        if vm.snapshots.contains_key(name) {
            return Err(format!("snapshot name '{name}' already used"));
        }
        for (_, storage, volume) in disks(&vm.config) {
            if !self.pool(storage)?.has_snapshots(volume) {
                return Err("snapshot feature is not available".into());
            }
        }
        if memory && self.guests.power(vmid).await {
            return Err("this lab cannot save the memory of a running guest".into());
        }
        let mut section: VmConfig = vm
            .config
            .iter()
            .filter(|(key, _)| !NOT_KEPT.contains(&key.as_str()) && !key.starts_with("unused"))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        section.insert("snaptime".into(), self.now().to_string());
        section.insert("snapstate".into(), "prepare".into());
        section.extend(description.map(|text| ("description".to_owned(), text)));
        self.edit(vmid, |vm| {
            vm.snapshots.insert(name.to_owned(), section);
            vm.config.insert("lock".into(), "snapshot".into());
        })?;
        Ok(disks(&vm.config).map(|(key, storage, volume)| (key.to_owned(), storage.to_owned(), volume.to_owned())).collect())
    }

    pub(super) fn delete_snapshot(self: &Arc<Self>, vmid: u32, parameters: &Parameters) -> Answer {
        let name = parameters.get("snapname").unwrap_or_default().to_owned();
        let (node, force) = (self.clone(), parameters.flag("force"));
        self.spawn(&parameters.who, "qmdelsnapshot", vmid, move |log| async move {
            let section = node.begin_deletion(vmid, &name).await?;
            log.at_work().await;
            for (key, storage, volume) in disks(&section) {
                node.delete_from_disk((storage, volume), &name, force, &log).await?;
                node.edit(vmid, |vm| vm.snapshots.get_mut(&name).map(|section| section.remove(key)))?;
            }
            let _flock = node.flock(vmid, FLOCK_WAIT).await?;
            node.edit(vmid, |vm| {
                let parent = vm.snapshots.remove(&name).and_then(|section| section.get("parent").cloned());
                for section in vm.snapshots.values_mut().chain([&mut vm.config]).filter(|section| section.get("parent") == Some(&name)) {
                    match &parent {
                        Some(parent) => section.insert("parent".into(), parent.clone()),
                        None => section.remove("parent"),
                    };
                }
                vm.config.remove("lock");
            })
        })
    }

    async fn begin_deletion(&self, vmid: u32, name: &str) -> Result<VmConfig, String> {
        let _flock = self.flock(vmid, FLOCK_WAIT).await?;
        let vm = self.vm(vmid)?;
        Self::unlocked(&vm.config)?;
        let section = vm.snapshots.get(name).cloned().ok_or_else(|| format!("snapshot '{name}' does not exist"))?;
        if is_template(&vm.config) {
            return Err("you can't delete a snapshot if vm is a template".into());
        }
        self.edit(vmid, |vm| {
            vm.config.insert("lock".into(), "snapshot-delete".into());
            vm.snapshots.get_mut(name).map(|section| section.insert("snapstate".into(), "delete".into()))
        })?;
        Ok(section)
    }

    /// Without `force`, what ZFS refuses leaves the VM locked, and only root on the node unlocks it.
    async fn delete_from_disk(&self, (storage, volume): (&str, &str), name: &str, force: bool, log: &Log) -> Result<(), String> {
        let pool = self.pool(storage)?;
        let Err(why) = pool.destroy_snapshot(volume, name).await else { return Ok(()) };
        let why = pool.error(&why);
        if force {
            log.line(why);
            return Ok(());
        }
        Err(why)
    }

    pub(super) fn roll_back(self: &Arc<Self>, vmid: u32, parameters: &Parameters) -> Answer {
        let name = parameters.get("snapname").unwrap_or_default().to_owned();
        if parameters.flag("start") {
            self.access(|access| access.need(&parameters.who, &format!("/vms/{vmid}"), "VM.PowerMgmt"))?;
        }
        let (node, start, who) = (self.clone(), parameters.flag("start"), parameters.who.clone());
        self.spawn(&parameters.who, "qmrollback", vmid, move |log| async move {
            let section = node.begin_rollback(vmid, &name).await?;
            log.at_work().await;
            for (_, storage, volume) in disks(&section) {
                let pool = node.pool(storage)?;
                pool.roll_back(volume, &name).map_err(|why| pool.error(&why))?;
            }
            let flock = node.flock(vmid, FLOCK_WAIT).await?;
            node.edit(vmid, |vm| restore(vm, &name, &section))?;
            drop(flock);
            if start {
                // A task of its own in the log, a step of this one in Proxmox.
                drop(node.start_task(vmid, &who));
            }
            Ok(())
        })
    }

    async fn begin_rollback(&self, vmid: u32, name: &str) -> Result<VmConfig, String> {
        let _flock = self.flock(vmid, FLOCK_WAIT).await?;
        let vm = self.vm(vmid)?;
        if is_template(&vm.config) {
            return Err("you can't rollback if vm is a template".into());
        }
        let section = vm.snapshots.get(name).cloned().ok_or_else(|| format!("snapshot '{name}' does not exist"))?;
        for (_, storage, volume) in disks(&section) {
            let pool = self.pool(storage)?;
            let all = pool.snapshots(volume).await?;
            if !all.iter().any(|other| other == name) {
                return Err(format!("can't rollback, snapshot '{name}' does not exist on '{storage}:{volume}'"));
            }
            // Snapshots that Proxmox does not know of count too.
            if pool.kind() == Kind::ZfsPool && all.last().is_some_and(|last| last != name) {
                return Err(format!("can't rollback, '{name}' is not most recent snapshot on '{storage}:{volume}'"));
            }
        }
        if let Some(state) = section.get("snapstate") {
            return Err(format!("unable to rollback to incomplete snapshot (snapstate = {state})"));
        }
        Self::unlocked(&vm.config)?;
        if self.guests.power(vmid).await {
            self.guests.stop(vmid).await?;
            self.went_off(vmid);
        }
        self.edit(vmid, |vm| vm.config.insert("lock".into(), "rollback".into()))?;
        Ok(section)
    }
}

/// The config becomes the snapshot's, but for its description, its snapshots and its unused disks; disks that the
/// snapshot does not have become unused.
fn restore(vm: &mut Vm, name: &str, section: &VmConfig) {
    let mut config: VmConfig = section
        .iter()
        .filter(|(key, _)| !["snaptime", "snapstate", "description", "vmstate"].contains(&key.as_str()))
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    config.extend(
        vm.config.iter().filter(|(key, _)| *key == "description" || key.starts_with("unused")).map(|(k, v)| (k.clone(), v.clone())),
    );
    for (_, storage, volume) in disks(&vm.config).filter(|(_, _, volume)| !uses(section, volume)) {
        if let Some(free) = (0..256).map(|n| format!("unused{n}")).find(|free| !config.contains_key(free)) {
            config.insert(free, format!("{storage}:{volume}"));
        }
    }
    config.insert("parent".into(), name.to_owned());
    config.insert("vmgenid".into(), crate::random::uuid().to_string());
    vm.config = config;
    vm.pending.clear();
}
