//! The node: its VMs' configs, locks and views, and what stands behind them.

use super::{
    answer::{Answer, Refusal},
    fault::Faults,
    guests::{Guests, VmConfig},
    keys,
    parameters::Parameters,
    permission::{ROOT, Who},
    pool::Pool,
    state::Store,
};
use crate::clock::Clock;
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::{sync::OwnedMutexGuard, time::Instant};
use tokio_util::sync::CancellationToken;

/// Name of the one node.
pub(super) const NODE: &str = "lab";
/// The token that the hub is given.
pub(super) const TOKEN_ID: &str = "autovibe@pve!lab";
/// Name of the one storage.
pub(super) const STORAGE: &str = "tank";
/// How long a change waits for another to let go of a VM.
pub(super) const FLOCK_WAIT: Duration = Duration::from_secs(10);
const VERSION: &str = "9.2.11";
const MEMORY: u64 = 512;

/// A row of `/cluster/resources` as the last broadcast had it.
#[derive(Clone, Debug)]
struct Broadcast {
    name: String,
    running: bool,
    row: Value,
}

pub(super) struct Node {
    pub(super) store: Arc<Store>,
    pub(super) guests: Guests,
    pub(super) pool: Pool,
    pub(super) faults: Faults,
    pub(super) clock: Clock,
    pub(super) started: Instant,
    pub(super) shutdown: CancellationToken,
    pub(super) workers: Mutex<BTreeMap<String, CancellationToken>>,
    /// How long a wrong token waits for its 401.
    pub(super) refusal: Mutex<Duration>,
    lag: Mutex<Duration>,
    broadcasts: Mutex<BTreeMap<u32, Broadcast>>,
    flocks: Mutex<BTreeMap<u32, Arc<tokio::sync::Mutex<()>>>>,
    pub(super) up_since: Mutex<BTreeMap<u32, Instant>>,
    relag: tokio::sync::Notify,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The text for a VM without a config.
pub(super) fn no_config(vmid: u32) -> String {
    format!("Configuration file 'nodes/{NODE}/qemu-server/{vmid}.conf' does not exist")
}

/// The same, as tasks that stop find it.
pub(super) fn not_found(vmid: u32) -> String {
    format!("unable to find configuration file for VM {vmid} on node '{NODE}'")
}

impl Node {
    pub(super) fn new(store: Arc<Store>, guests: Guests, pool: Pool, shutdown: CancellationToken, started: Instant, clock: Clock) -> Self {
        Self {
            store,
            guests,
            pool,
            faults: Faults::default(),
            clock,
            started,
            shutdown,
            workers: Mutex::default(),
            refusal: Mutex::new(Duration::from_secs(3)),
            lag: Mutex::new(Duration::from_secs(10)),
            broadcasts: Mutex::default(),
            flocks: Mutex::default(),
            up_since: Mutex::default(),
            relag: tokio::sync::Notify::new(),
        }
    }

    /// Seconds since 1970.
    pub(super) fn now(&self) -> i64 {
        self.clock.now().as_second()
    }

    pub(super) fn workers(&self) -> MutexGuard<'_, BTreeMap<String, CancellationToken>> {
        lock(&self.workers)
    }

    pub(super) fn set_lag(&self, lag: Duration) {
        *lock(&self.lag) = lag;
        self.relag.notify_one();
    }

    /// The file lock of a VM. Errors: the text of a lock that was not had in time.
    pub(super) async fn flock(&self, vmid: u32, wait: Duration) -> Result<OwnedMutexGuard<()>, String> {
        let mutex = lock(&self.flocks).entry(vmid).or_default().clone();
        tokio::time::timeout(wait, mutex.lock_owned())
            .await
            .map_err(|_| format!("can't lock file '/var/lock/qemu-server/lock-{vmid}.conf' - got timeout"))
    }

    /// A VM's present config.
    pub(super) fn config_of(&self, vmid: u32) -> Option<VmConfig> {
        self.store.read(|state| state.vms.get(&vmid).map(|vm| vm.config.clone()))
    }

    /// As `config_of`; refused like a guest that is not there.
    pub(super) fn must_exist(&self, vmid: u32) -> Result<VmConfig, Refusal> {
        self.config_of(vmid).ok_or_else(|| Refusal::die(no_config(vmid)))
    }

    /// Refuses a VM with a lock in its config.
    pub(super) fn unlocked(config: &VmConfig) -> Result<(), String> {
        config.get("lock").map_or(Ok(()), |lock| Err(format!("VM is locked ({lock})")))
    }

    pub(super) fn version() -> Answer {
        Ok(json!({ "version": VERSION, "release": "9.2", "repoid": "0000000000000000" }).into())
    }

    pub(super) fn nodes(&self, who: &Who) -> Answer {
        if !self.access(|access| access.may(who, &format!("/nodes/{NODE}"), "Sys.Audit")) {
            // Its numbers are for those who may look.
            return Ok(json!([{ "node": NODE, "id": format!("node/{NODE}"), "type": "node", "status": "online", "level": "", "ssl_fingerprint": "" }]).into());
        }
        let uptime = self.started.elapsed().as_secs();
        Ok(json!([{ "node": NODE, "id": format!("node/{NODE}"), "type": "node", "status": "online", "level": "", "uptime": uptime, "cpu": 0.01,
            "maxcpu": 8, "mem": 1_u64 << 32, "maxmem": 1_u64 << 35, "disk": 1_u64 << 34, "maxdisk": 1_u64 << 38, "ssl_fingerprint": "" }])
        .into())
    }

    pub(super) fn next_id(&self, parameters: &Parameters) -> Answer {
        self.store.read(|state| match parameters.number::<u32>("vmid") {
            Some(vmid) if state.vms.contains_key(&vmid) => Err(Refusal::parameter("vmid", format!("VM {vmid} already exists"))),
            Some(vmid) => Ok(Value::from(vmid.to_string()).into()),
            None => Ok(Value::from((100..1_000_000).find(|vmid| !state.vms.contains_key(vmid)).unwrap_or_default().to_string()).into()),
        })
    }

    /// What `qm list` and the broadcasts know of a VM; read live.
    pub(super) async fn live_row(&self, vmid: u32, config: &VmConfig) -> Value {
        let running = self.guests.power(vmid).await;
        let disk = config
            .iter()
            .filter(|(key, _)| keys::is_disk(key))
            .filter_map(|(_, value)| value.split("size=").nth(1))
            .find_map(parse_size)
            .unwrap_or(0);
        let mut row = json!({
            "vmid": vmid, "status": if running { "running" } else { "stopped" }, "name": config.get("name").cloned().unwrap_or_else(|| format!("VM {vmid}")),
            "cpu": 0, "cpus": config.get("cores").and_then(|c| c.parse::<u32>().ok()).unwrap_or(1), "mem": 0, "memhost": 0,
            "maxmem": config.get("memory").and_then(|m| m.parse::<u64>().ok()).unwrap_or(MEMORY) << 20, "disk": 0, "maxdisk": disk,
            "netin": 0, "netout": 0, "uptime": if running { self.uptime(vmid) } else { 0 },
        });
        for key in ["lock", "tags"] {
            if let Some(value) = config.get(key) {
                row[key] = value.as_str().into();
            }
        }
        if config.get("template").is_some_and(|flag| flag == "1") {
            row["template"] = 1.into();
        }
        if running {
            row["pid"] = (vmid + 100_000).into();
        }
        row
    }

    fn uptime(&self, vmid: u32) -> u64 {
        lock(&self.up_since).get(&vmid).unwrap_or(&self.started).elapsed().as_secs()
    }

    pub(super) async fn list(&self, parameters: &Parameters) -> Answer {
        let vms: Vec<(u32, VmConfig)> = self.store.read(|state| state.vms.iter().map(|(vmid, vm)| (*vmid, vm.config.clone())).collect());
        let mut rows = Vec::new();
        for (vmid, config) in vms {
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

    /// `/cluster/resources`: what the caller may see.
    pub(super) async fn resources(&self, parameters: &Parameters) -> Answer {
        let wanted = parameters.get("type");
        let rows = self.resource_rows().await;
        let who = &parameters.who;
        let rows: Vec<Value> = self.access(|access| {
            let pool_of = |vmid: u32| access.pools.iter().find(|(_, pool)| pool.vms.contains(&vmid)).map(|(name, _)| name.clone());
            let mut shown = Vec::new();
            for mut row in rows {
                let kind = match row["type"].as_str() {
                    Some("qemu") => "vm",
                    Some("storage") => "storage",
                    _ => "node",
                };
                if wanted.is_some_and(|wanted| wanted != kind) {
                    continue;
                }
                if kind == "vm" {
                    let vmid = row["vmid"].as_u64().and_then(|vmid| u32::try_from(vmid).ok()).unwrap_or_default();
                    if !access.may(who, &format!("/vms/{vmid}"), "VM.Audit") {
                        continue;
                    }
                    if let Some(pool) = pool_of(vmid).filter(|pool| access.may(who, &format!("/pool/{pool}"), "Pool.Audit")) {
                        row["pool"] = pool.into();
                    }
                }
                let storage = row["storage"].as_str().unwrap_or_default();
                let seen = ["Datastore.Audit", "Datastore.AllocateSpace"];
                if kind == "storage" && access.need_any(who, &format!("/storage/{storage}"), &seen).is_err() {
                    continue;
                }
                shown.push(row);
            }
            if wanted.is_none() {
                let pools = access.pools.keys().filter(|name| access.may(who, &format!("/pool/{name}"), "Pool.Audit"));
                shown.extend(pools.map(|name| json!({ "id": format!("/pool/{name}"), "type": "pool", "pool": name })));
            }
            shown
        });
        Ok(Value::from(rows).into())
    }

    /// All guests, nodes and storages, as the last broadcast had them.
    pub(super) async fn resource_rows(&self) -> Vec<Value> {
        let mut rows = Vec::new();
        {
            if lock(&self.lag).is_zero() {
                self.broadcast().await;
            }
            let vms: Vec<(u32, VmConfig)> =
                self.store.read(|state| state.vms.iter().map(|(vmid, vm)| (*vmid, vm.config.clone())).collect());
            let broadcasts = lock(&self.broadcasts);
            for (vmid, config) in vms {
                // Existence, lock and tags are read from the configs; the rest is as old as the last broadcast.
                let mut row = json!({ "id": format!("qemu/{vmid}"), "type": "qemu", "vmid": vmid, "node": NODE, "status": "unknown" });
                if let Some(old) = broadcasts.get(&vmid) {
                    for key in ["cpu", "mem", "memhost", "maxmem", "disk", "maxdisk", "netin", "netout", "uptime"] {
                        row[key] = old.row[key].clone();
                    }
                    row["maxcpu"] = old.row["cpus"].clone();
                    row["name"] = old.name.as_str().into();
                    row["status"] = if old.running { "running" } else { "stopped" }.into();
                    row["template"] = old.row.get("template").cloned().unwrap_or_else(|| 0.into());
                    row["diskread"] = 0.into();
                    row["diskwrite"] = 0.into();
                }
                for key in ["lock", "tags"] {
                    if let Some(value) = config.get(key) {
                        row[key] = value.as_str().into();
                    }
                }
                rows.push(row);
            }
        }
        let root = Who { user: ROOT.to_owned(), token: None };
        let mut nodes = self.nodes(&root).map(|reply| reply.data.as_array().cloned().unwrap_or_default()).unwrap_or_default();
        nodes.iter_mut().filter_map(Value::as_object_mut).for_each(|row| drop(row.remove("ssl_fingerprint")));
        rows.extend(nodes);
        rows.push(
            json!({ "id": format!("storage/{NODE}/{STORAGE}"), "type": "storage", "storage": STORAGE, "node": NODE, "status": "available",
                "plugintype": "zfspool", "content": "images,rootdir", "shared": 0, "disk": 0, "maxdisk": 1_u64 << 38 }),
        );
        rows
    }

    /// What the node's statistics daemon does each turn.
    async fn broadcast(&self) {
        let vms: Vec<(u32, VmConfig)> = self.store.read(|state| state.vms.iter().map(|(vmid, vm)| (*vmid, vm.config.clone())).collect());
        let mut fresh = BTreeMap::new();
        for (vmid, config) in vms {
            let row = self.live_row(vmid, &config).await;
            fresh.insert(
                vmid,
                Broadcast { name: row["name"].as_str().unwrap_or_default().to_owned(), running: row["status"] == "running", row },
            );
        }
        let mut broadcasts = lock(&self.broadcasts);
        // A deleted VM's values stay for a new one of its number, as they do in Proxmox, until the next turn.
        *broadcasts = fresh;
    }

    /// Broadcasts every `lag`, for as long as it is polled.
    pub(super) async fn broadcasts(&self) {
        loop {
            self.broadcast().await;
            let lag = *lock(&self.lag);
            tokio::select! {
                biased;
                () = self.clock.sleep(if lag.is_zero() { Duration::from_hours(1) } else { lag }) => {}
                () = self.relag.notified() => {}
            }
        }
    }
}

/// `agent: 1` or `enabled=1,…`.
pub(super) fn agent_enabled(config: &VmConfig) -> bool {
    config.get("agent").is_some_and(|text| text.split(',').any(|part| matches!(part, "1" | "enabled=1")))
}

fn parse_size(text: &str) -> Option<u64> {
    let digits: String = text.chars().take_while(char::is_ascii_digit).collect();
    let shift = match text[digits.len()..].chars().next() {
        Some('K') => 10,
        Some('M') => 20,
        Some('G') => 30,
        Some('T') => 40,
        _ => 0,
    };
    digits.parse::<u64>().ok().map(|number| number << shift)
}
