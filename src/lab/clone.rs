//! Templates and clones: on a zfspool, linked from a template alone, full from a template or the present state alone.

use super::{
    answer::{Answer, Refusal},
    guests::VmConfig,
    keys,
    node::{FLOCK_WAIT, Node, lock},
    parameters::Parameters,
    pool::BASE,
    qemu::Made,
    snapshot::disks,
    storage::Kind,
    task::Log,
};
use serde_json::{Value, json};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

/// How long a clone waits for its source; so short that a config edit makes it fail.
const CLONE_WAIT: Duration = Duration::from_secs(1);

/// What a clone is made of and to.
struct Plan {
    to: u32,
    /// The node that gets it.
    home: Arc<Node>,
    source: VmConfig,
    snapshot: Option<String>,
    full: bool,
    name: Option<String>,
    description: Option<String>,
    pool: Option<String>,
    /// Where the copies are to be; left out, where the disks are.
    storage: Option<String>,
    format: Option<String>,
}

impl Node {
    pub(super) async fn linked_to(&self, storage: &str, volume: &str) -> Result<Vec<String>, String> {
        self.pool(storage)?.clones_of(volume).await
    }

    pub(super) fn feature(&self, vmid: u32, parameters: &Parameters) -> Answer {
        let vm = self.vm(vmid).map_err(Refusal::die)?;
        let config = match parameters.get("snapname") {
            Some(name) => vm.snapshots.get(name).ok_or_else(|| super::snapshot::no_snapshot(name))?,
            None => &vm.config,
        };
        let snapshot = parameters.get("snapname").is_some();
        let base = |volume: &str| keys::last(volume).starts_with("base-");
        let mut has = true;
        for (_, storage, volume) in disks(config) {
            let pool = self.pool(storage).map_err(Refusal::die)?;
            has &= match parameters.get("feature") {
                Some("snapshot") => pool.has_snapshots(volume),
                Some("clone") => !snapshot && base(volume),
                _ => !snapshot || pool.copies_snapshots(volume),
            };
        }
        Ok(json!({ "hasFeature": u8::from(has), "nodes": [self.name] }).into())
    }

    pub(super) async fn make_template(self: &Arc<Self>, vmid: u32, parameters: &Parameters) -> Answer {
        let disk = parameters.get("disk").map(str::to_owned);
        let vm = self.vm(vmid).map_err(Refusal::die)?;
        if !vm.snapshots.is_empty() {
            return Err(Refusal::die("unable to create template, because VM contains snapshots"));
        }
        let template = vm.config.get("template").is_some_and(|flag| flag == "1");
        if template && disk.is_none() {
            return Err(Refusal::die("you can't convert a template to a template"));
        }
        if self.guests.power(vmid).await {
            return Err(Refusal::die("you can't convert a VM to template if VM is running"));
        }
        let node = self.clone();
        self.spawn(&parameters.who, "qmtemplate", vmid, move |log| async move {
            let _flock = node.flock(vmid, FLOCK_WAIT).await?;
            log.at_work().await;
            let config = node.vm(vmid)?.config;
            Self::unlocked(&config)?;
            node.edit(vmid, |vm| vm.config.insert("template".into(), "1".into()))?;
            for (key, storage, volume) in disks(&config).filter(|(key, ..)| disk.as_ref().is_none_or(|disk| disk == key)) {
                let name = keys::last(volume);
                let Some(rest) = name.strip_prefix("vm-") else { continue };
                let base = format!("base-{rest}");
                let pool = node.pool(storage)?;
                pool.rename(name, &base).await.map_err(|why| pool.error(&why))?;
                pool.snapshot(&base, BASE).await.map_err(|why| pool.error(&why))?;
                let options = config[key].split_once(',').map(|(_, options)| format!(",{options}")).unwrap_or_default();
                let path = volume.rsplit_once('/').map(|(origin, _)| format!("{origin}/")).unwrap_or_default();
                node.edit(vmid, |vm| vm.config.insert(key.to_owned(), format!("{storage}:{path}{base}{options}")))?;
            }
            Ok(())
        })
    }

    pub(super) async fn clone_vm(self: &Arc<Self>, vmid: u32, parameters: &Parameters) -> Answer {
        let who = &parameters.who;
        let pool = parameters.get("pool").map(str::to_owned);
        if let Some(pool) = &pool {
            self.access(|access| {
                if access.pools.contains_key(pool) {
                    return Ok(());
                }
                Err(super::permission::refused(&format!("pool '{pool}' does not exist")))
            })?;
        }
        if let Some(storage) = parameters.get("storage") {
            self.access(|access| access.need(who, &format!("/storage/{storage}"), "Datastore.AllocateSpace"))?;
            self.pool(storage).map_err(Refusal::die)?;
        }
        let _source = self.flock(vmid, CLONE_WAIT).await.map_err(Refusal::die)?;
        let vm = self.vm(vmid).map_err(|_| Refusal::die(self.not_found(vmid)))?;
        Self::unlocked(&vm.config).map_err(Refusal::die)?;
        let snapshot = parameters.get("snapname");
        let source = match snapshot {
            Some(name) => vm.snapshots.get(name).cloned().ok_or_else(|| super::snapshot::no_snapshot(name))?,
            None => vm.config.clone(),
        };
        let template = vm.config.get("template").is_some_and(|flag| flag == "1");
        let full = parameters.get("full").map_or(!template, |flag| flag == "1");
        if let Some(parameter) = ["storage", "format"].iter().find(|name| !full && parameters.get(name).is_some()) {
            return Err(Refusal::die(format!("parameter '{parameter}' not allowed for linked clones")));
        }
        let to: u32 = parameters.number("newid").unwrap_or_default();
        if self.store.read(|state| state.vms.contains_key(&to)) {
            return Err(Refusal::die(format!("unable to create VM {to}: config file already exists")));
        }
        let home = self.home(parameters.get("target"), &source)?;
        for (key, storage, volume) in disks(&source) {
            let of = if snapshot.is_some() { "a snapshot of " } else { "" };
            let base = keys::last(volume).starts_with("base-");
            let pool = self.pool(storage).map_err(Refusal::die)?;
            let copies = snapshot.is_none() || pool.copies_snapshots(volume);
            if if full { !copies } else { !base || snapshot.is_some() } {
                let kind = if full { "Full" } else { "Linked" };
                return Err(Refusal::die(format!("{kind} clone feature is not supported for {of}'{storage}:{volume}' ({key})")));
            }
            self.access(|access| access.need(who, &format!("/storage/{storage}"), "Datastore.AllocateSpace"))?;
        }
        for bridge in source.iter().filter(|(key, _)| keys::is_net(key)).filter_map(|(_, value)| value.split("bridge=").nth(1)) {
            let bridge = bridge.split(',').next().unwrap_or_default();
            self.access(|access| access.need(who, &format!("/sdn/zones/localnetwork/{bridge}"), "SDN.Use"))?;
        }
        // The number is taken at once, with a lock and nothing that says whose it is.
        let taken = VmConfig::from([("lock".into(), "clone".into()), ("description".into(), " qmclone temporary file".into())]);
        self.store.change(|state| state.vms.insert(to, home.new_vm(taken)));
        let text = |name: &str| parameters.get(name).map(str::to_owned);
        let plan = Plan {
            to,
            home,
            source,
            snapshot: text("snapname"),
            full,
            name: text("name"),
            description: text("description"),
            pool,
            storage: text("storage"),
            format: text("format"),
        };
        let (node, undoing) = (self.clone(), self.clone());
        let made = Arc::new(Made::default());
        let leftover = made.clone();
        let undo = move |log: Log, why| async move {
            undoing.free(&leftover, &log).await;
            undoing.store.change(|state| state.vms.remove(&to));
            format!("clone failed: {why}")
        };
        let work = move |log: Log| async move {
            log.line(format!("creating a clone of VM {vmid} with ID {to}"));
            log.at_work().await;
            node.clone_now(vmid, plan, &made, &log).await
        };
        self.spawn_with_undo(who, "qmclone", vmid, work, undo)
    }

    /// The node that gets a clone: another one only when all its disks can be had there.
    fn home(self: &Arc<Self>, target: Option<&str>, source: &VmConfig) -> Result<Arc<Self>, Refusal> {
        let Some(target) = target.filter(|target| *target != self.name) else { return Ok(self.clone()) };
        let node = self.cluster().node(target).ok_or_else(|| Refusal::die(format!("no such cluster node '{target}'")))?;
        let shared = |storage: &str| self.store.read(|state| state.storages.get(storage).is_some_and(|config| config.shared));
        if !disks(source).all(|(_, storage, _)| shared(storage) && node.pool(storage).is_ok()) {
            return Err(Refusal::die(format!("can't clone VM to node '{target}' (VM uses local storage)")));
        }
        Ok(node)
    }

    async fn clone_now(&self, vmid: u32, plan: Plan, made: &Made, log: &Log) -> Result<(), String> {
        let Plan { to, home, source, snapshot, full, name, description, pool: member_of, storage: target, format } = plan;
        let dropped = ["lock", "parent", "snaptime", "snapstate", "vmstate", "template", "vmgenid", "smbios1", "meta"];
        let mut config: VmConfig = source
            .iter()
            .filter(|(key, _)| !dropped.contains(&key.as_str()) && !key.starts_with("unused"))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        for (key, storage, volume) in disks(&source) {
            let kind = if full { "full" } else { "linked" };
            log.line(format!("create {kind} clone of drive {key} ({storage}:{volume})"));
            let (from, storage) = (self.pool(storage)?, target.as_deref().unwrap_or(storage));
            let pool = self.pool(storage)?;
            let _lock = self.lock_storage(storage).await?;
            // A file that is backed by another is qcow2 whatever that is.
            let same = match pool.kind() {
                Kind::ZfsPool => "raw",
                Kind::Dir if full => keys::format(volume),
                Kind::Dir => "qcow2",
            };
            let new = pool.free_name(to, format.as_deref().unwrap_or(same)).await?;
            let name = if full {
                from.copy(volume, snapshot.as_deref(), &pool, &new)?;
                new.clone()
            } else {
                pool.clone_base(volume, &new).await?;
                pool.linked(volume, &new)
            };
            lock(made).push((storage.to_owned(), new));
            let options = source[key].split_once(',').map(|(_, options)| format!(",{options}")).unwrap_or_default();
            config.insert(key.to_owned(), format!("{storage}:{name}{options}"));
        }
        for (key, value) in &mut config {
            if keys::is_net(key) {
                *value = super::qemu::with_new_mac(value);
            }
        }
        config.insert(
            "name".into(),
            name.unwrap_or_else(|| format!("Copy-of-VM-{}", source.get("name").map_or_else(|| vmid.to_string(), Clone::clone))),
        );
        config.extend(description.map(|text| ("description".to_owned(), text)));
        config.insert("smbios1".into(), format!("uuid={}", crate::random::uuid()));
        config.insert("vmgenid".into(), crate::random::uuid().to_string());
        config.insert("meta".into(), format!("creation-qemu=10.0.13,ctime={}", self.now()));
        home.edit(to, |vm| vm.config = config)?;
        self.store.change(|state| {
            let rules = state.firewalls.get(&vmid).cloned();
            rules.map(|rules| state.firewalls.insert(to, rules))
        });
        // Last: until now a caller with rights on the pool alone had none on the VM.
        if let Some(pool) = member_of {
            self.store.change(|state| state.access.pools.get_mut(&pool).map(|pool| pool.vms.insert(to)));
        }
        Ok(())
    }

    /// `GET …/pending`: each key with what waits for it.
    pub(super) fn pending(&self, vmid: u32) -> Answer {
        let vm = self.vm(vmid).map_err(Refusal::die)?;
        let mut rows: BTreeMap<String, Value> =
            keys::show(&vm.config).into_iter().map(|(key, value)| (key.clone(), json!({ "key": key, "value": value }))).collect();
        for (key, value) in &vm.pending {
            let row = rows.entry(key.clone()).or_insert_with(|| json!({ "key": key }));
            match value {
                Some(value) => row["pending"] = value.as_str().into(),
                None => row["delete"] = 1.into(),
            }
        }
        Ok(rows.into_values().collect::<Value>().into())
    }
}
