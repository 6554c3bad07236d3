//! VMs' configs: create, read, change.

use super::{
    answer::{Answer, Refusal},
    format,
    guests::VmConfig,
    keys,
    node::{FLOCK_WAIT, Node, lock},
    parameters::Parameters,
    permission::{self, Who},
    schema,
    state::Vm,
    suspend::{OF_STATE, is_suspended},
    task::Log,
};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{Arc, Mutex},
};

/// Parameters of a create or an update that are no config keys.
const NOT_CONFIG: &[&str] = &[
    "archive",
    "background_delay",
    "bwlimit",
    "delete",
    "digest",
    "force",
    "ha-managed",
    "import-working-storage",
    "live-restore",
    "node",
    "pool",
    "revert",
    "skiplock",
    "start",
    "storage",
    "unique",
    "vmid",
];

/// Storage and name of the volumes that a worker made.
pub(super) type Made = Mutex<Vec<(String, String)>>;

/// The config keys among the parameters, written as Proxmox stores them; an empty value takes the key away.
fn written(parameters: &Parameters) -> Result<BTreeMap<String, String>, Refusal> {
    let keys = parameters.values.iter().filter(|(name, _)| !NOT_CONFIG.contains(&name.as_str()));
    let mut config = BTreeMap::new();
    for (key, values) in keys {
        if keys::root_only(key) {
            return Err(Refusal::die(format!("only root can set '{key}' config")));
        }
        let value = values.last().map(String::as_str).unwrap_or_default();
        let value = match key.as_str() {
            "tags" => format::split_tags(value).map(str::to_lowercase).collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>().join(";"),
            "description" => value.trim_end_matches('\n').replace("\r\n", "\n"),
            key if keys::is_net(key) => with_mac(value),
            _ => value.to_owned(),
        };
        config.insert(key.clone(), value);
    }
    Ok(config)
}

/// `virtio,bridge=…` is stored with the address that it gets.
fn with_mac(value: &str) -> String {
    let (model, rest) = value.split_once(',').map_or((value, String::new()), |(model, rest)| (model, format!(",{rest}")));
    if model.contains('=') {
        return value.to_owned();
    }
    let [a, b, c] = crate::random::draw::<[u8; 3]>();
    format!("{model}=BC:24:11:{a:02X}:{b:02X}:{c:02X}{rest}")
}

/// A card of the same kind with another address.
pub(super) fn with_new_mac(value: &str) -> String {
    let (model, rest) = value.split_once(',').map_or((value, String::new()), |(model, rest)| (model, format!(",{rest}")));
    with_mac(&format!("{}{rest}", model.split('=').next().unwrap_or_default()))
}

impl Node {
    /// Storage and owner of each disk that is named: found before any worker starts.
    fn check_disks(&self, vmid: u32, config: &BTreeMap<String, String>, who: &Who) -> Result<(), Refusal> {
        for (key, value) in config.iter().filter(|(key, _)| keys::is_disk(key)) {
            let Some((storage, volume)) = keys::volume(value) else { continue };
            if let Some(source) = keys::option(value, "import-from") {
                self.check_import(key, storage, volume, source, who)?;
                continue;
            }
            let pool = self.pool(storage).map_err(Refusal::die)?;
            let size = volume.parse::<f64>().is_ok_and(|size| size > 0.0);
            match keys::owner(volume) {
                Some(_) if !pool.has_form(volume) => return Err(Refusal::die(pool.no_name(volume))),
                Some(owner) if owner == vmid => {}
                Some(owner) => self.access(|access| {
                    let path = format!("/storage/{storage}");
                    if access.may(who, &path, "Datastore.Allocate") {
                        return Ok(());
                    }
                    access.need(who, &path, "Datastore.Audit")?;
                    access.need(who, &format!("/vms/{owner}"), "VM.Config.Disk")
                })?,
                None if size => self.access(|access| access.need(who, &format!("/storage/{storage}"), "Datastore.AllocateSpace"))?,
                None => return Err(Refusal::die(pool.no_name(volume))),
            }
        }
        Ok(())
    }

    /// Whether a disk may be made of what is somewhere else. Source: qemu-server, `check_drive_param` and `check_storage_access`.
    fn check_import(&self, key: &str, storage: &str, volume: &str, source: &str, who: &Who) -> Result<(), Refusal> {
        if !volume.parse::<f64>().is_ok_and(|size| size == 0.0) {
            let why = "'import-from' requires special syntax - use <storage ID>:0,import-from=<source>";
            return Err(Refusal::parameter(key, why));
        }
        self.pool(storage).map_err(Refusal::die)?;
        self.access(|access| access.need(who, &format!("/storage/{storage}"), "Datastore.AllocateSpace"))?;
        if source.starts_with('/') {
            return if who.is_root() { Ok(()) } else { Err(Refusal::die("Only root can pass arbitrary filesystem paths.")) };
        }
        let (storage, volume) = keys::volume(source).unwrap_or_default();
        let pool = self.pool(storage).map_err(Refusal::die)?;
        let owner = keys::owner(volume).filter(|_| pool.has_form(volume)).ok_or_else(|| Refusal::die(pool.no_name(volume)))?;
        self.access(|access| access.need(who, &format!("/vms/{owner}"), "VM.Clone"))
    }

    /// Whether a VM of this number, or in this pool, may be made.
    pub(super) fn may_create(&self, vmid: u32, pool: Option<&str>, who: &Who) -> Result<(), Refusal> {
        self.access(|access| {
            if let Some(pool) = pool.filter(|pool| !access.pools.contains_key(*pool)) {
                return Err(permission::refused(&format!("pool '{pool}' does not exist")));
            }
            access.need_on_vm(who, vmid, pool, "VM.Allocate").map_err(|_| permission::refused(""))
        })
    }

    /// The privilege of each key; a network card takes one on its bridge too.
    fn may_set<'a>(
        &self,
        vmid: u32,
        pool: Option<&str>,
        touched: impl Iterator<Item = &'a str>,
        config: &BTreeMap<String, String>,
        who: &Who,
    ) -> Result<(), Refusal> {
        self.access(|access| {
            for privilege in touched.filter_map(permission::of_option).collect::<BTreeSet<_>>() {
                access.need_on_vm(who, vmid, pool, privilege)?;
            }
            for (_, value) in config.iter().filter(|(key, _)| keys::is_net(key)) {
                if let Some(bridge) = value.split(',').find_map(|part| part.strip_prefix("bridge=")) {
                    access.need(who, &format!("/sdn/zones/localnetwork/{bridge}"), "SDN.Use")?;
                }
            }
            Ok(())
        })
    }

    /// Attaches or makes the volume of a disk's value and returns the value to store.
    async fn attach(&self, vmid: u32, value: &str, made: &Made) -> Result<String, String> {
        let Some((storage, volume)) = keys::volume(value) else { return Ok(value.to_owned()) };
        let pool = self.pool(storage)?;
        let format = keys::option(value, "format");
        let (name, size) = if let Some(source) = keys::option(value, "import-from") {
            let _lock = self.lock_storage(storage).await?;
            let name = pool.free_name(vmid, format.unwrap_or("raw")).await?;
            match keys::volume(source).filter(|_| !source.starts_with('/')) {
                Some((from, volume)) => self.pool(from)?.copy(volume, None, &pool, &name)?,
                None => pool.import(Path::new(source), &name).await?,
            }
            lock(made).push((storage.to_owned(), name.clone()));
            let size = pool.size(&name).await?.unwrap_or_default();
            (name, size)
        } else if let Ok(gib) = volume.parse::<f64>() {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a negative or huge size saturates, and is refused"
            )]
            let size = (gib * f64::from(1 << 30)) as u64;
            let _lock = self.lock_storage(storage).await?;
            let name = pool.allocate(vmid, size, format).await?;
            lock(made).push((storage.to_owned(), name.clone()));
            (name, size)
        } else {
            let found = pool.size(volume).await?;
            (volume.to_owned(), found.ok_or_else(|| format!("volume '{storage}:{volume}' does not exist"))?)
        };
        let of_making = ["size=", "format=", "import-from="];
        let options = value.split(',').skip(1).filter(|option| !of_making.iter().any(|key| option.starts_with(key)));
        let mut options: Vec<String> = options.map(str::to_owned).collect();
        if size > 0 {
            options.push(format!("size={}", keys::size(size)));
        }
        options.sort();
        Ok([vec![format!("{storage}:{name}")], options].concat().join(","))
    }

    pub(super) fn create(self: &Arc<Self>, parameters: &Parameters) -> Answer {
        if parameters.get("archive").is_some() {
            return Err(Refusal::die("this lab has no archives"));
        }
        let vmid: u32 = parameters.number("vmid").unwrap_or_default();
        let pool = parameters.get("pool").map(str::to_owned);
        self.may_create(vmid, pool.as_deref(), &parameters.who)?;
        let config = written(parameters)?;
        self.may_set(vmid, pool.as_deref(), config.keys().map(String::as_str), &config, &parameters.who)?;
        if parameters.flag("start") {
            self.access(|access| access.need_on_vm(&parameters.who, vmid, pool.as_deref(), "VM.PowerMgmt"))?;
        }
        self.check_disks(vmid, &config, &parameters.who)?;
        // The id is taken at once, with `lock: create` and nothing else until the worker is done.
        let lock = VmConfig::from([("lock".to_owned(), "create".to_owned())]);
        if let Some(owner) = self.take(vmid, lock) {
            return Err(Refusal::die(format!("unable to create VM {vmid} - VM {vmid} already exists on node '{owner}'")));
        }
        let (node, start, who) = (self.clone(), parameters.flag("start"), parameters.who.clone());
        let undoing = self.clone();
        let made = Arc::new(Made::default());
        let leftover = made.clone();
        let undo = move |log: Log, why| async move {
            undoing.free(&leftover, &log).await;
            undoing.store.change(|state| state.vms.remove(&vmid));
            format!("unable to create VM {vmid} - {why}")
        };
        let work = move |log: Log| async move {
            node.create_now(vmid, config, &made, &log).await?;
            if let Some(pool) = pool {
                node.store.change(|state| state.access.pools.get_mut(&pool).map(|pool| pool.vms.insert(vmid)));
            }
            if start {
                drop(node.start_task(vmid, &who));
                log.line("starting the VM");
            }
            Ok(())
        };
        self.spawn_with_undo(&parameters.who, "qmcreate", vmid, work, undo)
    }

    /// Frees what a worker made that did not come to its end; what it attached stays.
    pub(super) async fn free(&self, made: &Made, log: &Log) {
        let made = std::mem::take(&mut *lock(made));
        for (storage, volume) in made {
            let Ok(pool) = self.pool(&storage) else { continue };
            if let Err(why) = pool.destroy(&volume).await {
                log.line(why);
            }
        }
    }

    /// Takes a number of the cluster for a VM of this node. Returns the node that has it already.
    pub(super) fn take(&self, vmid: u32, config: VmConfig) -> Option<String> {
        self.store.change(|state| {
            let owner = state.vms.get(&vmid).map(|vm| vm.node.clone());
            if owner.is_none() {
                state.vms.insert(vmid, self.new_vm(config));
            }
            owner
        })
    }

    async fn create_now(&self, vmid: u32, mut config: VmConfig, made: &Made, log: &Log) -> Result<(), String> {
        let _flock = self.flock(vmid, FLOCK_WAIT).await?;
        log.at_work().await;
        config.retain(|_, value| !value.is_empty());
        for key in config.keys().filter(|key| keys::is_disk(key)).cloned().collect::<Vec<_>>() {
            let value = self.attach(vmid, &config[&key], made).await?;
            config.insert(key, value);
        }
        self.hold_storage().await?;
        let uuid = || crate::random::uuid().to_string();
        let devices = config
            .keys()
            .filter(|key| (keys::is_disk(key) && !key.starts_with("unused")) || keys::is_net(key))
            .cloned()
            .collect::<Vec<_>>()
            .join(";");
        config.entry("boot".into()).or_insert_with(|| if devices.is_empty() { " ".into() } else { format!("order={devices}") });
        let smbios = config.entry("smbios1".into()).or_insert_with(|| format!("uuid={}", uuid()));
        if !smbios.contains("uuid=") {
            *smbios = format!("uuid={},{smbios}", uuid());
        }
        config.insert("vmgenid".into(), uuid());
        config.insert("meta".into(), format!("creation-qemu=10.0.13,ctime={}", self.now()));
        self.store.change(|state| state.vms.insert(vmid, self.new_vm(config)));
        Ok(())
    }

    pub(super) fn config(&self, vmid: u32, parameters: &Parameters) -> Answer {
        let vm = self.vm(vmid).map_err(Refusal::die)?;
        let digest = keys::digest(&vm);
        if let Some(snapshot) = parameters.get("snapshot") {
            let section = vm.snapshots.get(snapshot).ok_or_else(|| super::snapshot::no_snapshot(snapshot))?;
            let mut shown = keys::show(section);
            shown.insert("digest".into(), digest.into());
            return Ok(Value::from(shown).into());
        }
        let mut config = vm.config;
        if !parameters.flag("current") {
            apply(&mut config, vm.pending);
        }
        let mut shown = keys::show(&config);
        shown.insert("digest".into(), digest.into());
        Ok(Value::from(shown).into())
    }

    /// `PUT …/config`: at once, under the VM's file lock.
    pub(super) async fn configure(&self, vmid: u32, parameters: &Parameters) -> Answer {
        let change = self.wanted(vmid, parameters)?;
        let _flock = self.flock(vmid, FLOCK_WAIT).await.map_err(Refusal::die)?;
        let vm = self.changeable(vmid, &change, parameters)?;
        self.change(vmid, vm, change).await.map_err(Refusal::die)?;
        Ok(Value::Null.into())
    }

    /// `POST …/config`: what is refused is refused at once, the rest is a worker's.
    pub(super) async fn configure_later(self: &Arc<Self>, vmid: u32, parameters: &Parameters) -> Answer {
        let change = self.wanted(vmid, parameters)?;
        let flock = self.flock(vmid, FLOCK_WAIT).await.map_err(Refusal::die)?;
        let vm = self.changeable(vmid, &change, parameters)?;
        let node = self.clone();
        self.spawn(&parameters.who, "qmconfig", vmid, move |log| async move {
            let _flock = flock;
            log.at_work().await;
            node.change(vmid, vm, change).await
        })
    }

    /// What is asked, as far as it can be judged without the config.
    fn wanted(&self, vmid: u32, parameters: &Parameters) -> Result<Change, Refusal> {
        let list = |name: &str| -> Vec<String> {
            let words = parameters.get(name).into_iter().flat_map(|list| list.split([',', ' ', ';']));
            words.filter(|key| !key.is_empty()).map(str::to_owned).collect()
        };
        let change = Change { set: written(parameters)?, delete: list("delete"), revert: list("revert") };
        for key in &change.delete {
            // No call sets it, and who may take it away gives up the memory of a suspended VM.
            if key == "vmstate" {
                self.access(|access| {
                    access.need(&parameters.who, &format!("/vms/{vmid}"), "VM.Config.Disk")?;
                    access.need(&parameters.who, &format!("/vms/{vmid}"), "VM.PowerMgmt")
                })?;
                continue;
            }
            if !schema::is_config_key(key) {
                return Err(Refusal::parameter("delete", format!("unknown option '{key}'")));
            }
            if change.set.contains_key(key) {
                return Err(Refusal::parameter("delete", format!("you can't use '-{key}' and -delete {key}' at the same time")));
            }
            if keys::root_only(key) {
                return Err(Refusal::die(format!("only root can set '{key}' config")));
            }
        }
        if change.set.is_empty() && change.delete.is_empty() && parameters.get("revert").is_none() {
            return Err(Refusal::die("no options specified"));
        }
        self.must_exist(vmid)?;
        let touched = change.set.keys().chain(&change.delete).map(String::as_str);
        self.may_set(vmid, None, touched, &change.set, &parameters.who)?;
        self.check_disks(vmid, &change.set, &parameters.who)?;
        Ok(change)
    }

    /// The config, if it may be changed so; its file is locked.
    fn changeable(&self, vmid: u32, change: &Change, parameters: &Parameters) -> Result<Vm, Refusal> {
        let vm = self.vm(vmid).map_err(Refusal::die)?;
        if parameters.get("digest").is_some_and(|digest| !digest.is_empty() && digest != keys::digest(&vm)) {
            return Err(Refusal::die("checksum mismatch (file change by other user?)"));
        }
        let gives_up_memory = change.delete.iter().any(|key| key == "vmstate");
        if !(gives_up_memory && is_suspended(&vm.config)) {
            Self::unlocked(&vm.config).map_err(Refusal::die)?;
        }
        if let Some(value) = vm.config.get("vmstate").filter(|_| gives_up_memory)
            && vm.config.get("protection").is_some_and(|flag| flag == "1")
        {
            return Err(Refusal::die(format!("can't remove vmstate '{value}' - protection mode enabled")));
        }
        let mut drives = change.delete.iter().filter(|key| keys::is_disk(key));
        if let Some(drive) = drives.find(|_| vm.config.get("protection").is_some_and(|flag| flag == "1")) {
            return Err(Refusal::die(format!("can't remove drive '{drive}' - protection mode enabled")));
        }
        Ok(vm)
    }

    async fn change(&self, vmid: u32, mut changed: Vm, change: Change) -> Result<(), String> {
        let running = self.guests.power(vmid).await;
        for key in &change.delete {
            if key == "vmstate" {
                self.forget_memory(vmid, &changed.config).await?;
                OF_STATE.iter().for_each(|key| drop(changed.config.remove(*key)));
                if is_suspended(&changed.config) {
                    changed.config.remove("lock");
                }
                continue;
            }
            if let Some(value) = changed.config.get(key).filter(|_| key.starts_with("unused"))
                && let Some((storage, volume)) = keys::volume(value)
                && changed.snapshots.values().any(|section| super::snapshot::uses(section, volume))
            {
                return Err(format!("unable to delete '{storage}:{volume}' - volume is still in use (snapshot?)"));
            }
            if running && !keys::is_live(key) {
                changed.pending.insert(key.clone(), None);
                continue;
            }
            let Some(value) = changed.config.remove(key) else { continue };
            let Some((storage, volume)) = keys::volume(&value).filter(|_| keys::is_disk(key)) else { continue };
            if key.starts_with("unused") {
                self.pool(storage)?.destroy(volume).await?;
            } else if let Some(free) = (0..256).map(|n| format!("unused{n}")).find(|free| !changed.config.contains_key(free)) {
                changed.config.insert(free, value.split(',').next().unwrap_or_default().to_owned());
            }
        }
        for (key, value) in change.set {
            let value = if keys::is_disk(&key) { self.attach(vmid, &value, &Made::default()).await? } else { value };
            if running && !keys::is_live(&key) {
                changed.pending.insert(key, Some(value));
            } else if value.is_empty() {
                changed.config.remove(&key);
            } else {
                changed.config.insert(key, value);
            }
        }
        for key in &change.revert {
            changed.pending.remove(key);
        }
        self.store.change(|state| state.vms.insert(vmid, changed));
        Ok(())
    }
}

/// A change of a config.
struct Change {
    set: BTreeMap<String, String>,
    delete: Vec<String>,
    revert: Vec<String>,
}

/// What waited for the next start.
pub(super) fn apply(config: &mut VmConfig, pending: BTreeMap<String, Option<String>>) {
    for (key, value) in pending {
        match value {
            Some(value) => config.insert(key, value),
            None => config.remove(&key),
        };
    }
}
