//! The views of the whole cluster: `/nodes`, `/cluster/resources`, `/cluster/status`, and how late they are.

use super::{
    answer::{Answer, Refusal},
    cluster::Cluster,
    guests::VmConfig,
    keys,
    node::lock,
    parameters::Parameters,
    permission::{Who, root},
};
use serde_json::{Value, json};
use std::{collections::BTreeMap, sync::Arc, time::Duration};

const MEMORY: u64 = 512;
/// So many turns without news of a node, and its values are dropped: Proxmox does it after 5 minutes, at 10 s a turn.
const KEPT: u32 = 30;

/// A row of `/cluster/resources` as the last broadcast had it.
#[derive(Clone, Debug)]
pub(super) struct Broadcast {
    name: String,
    running: bool,
    row: Value,
    /// How many turns ago.
    age: u32,
}

impl Cluster {
    pub(super) fn nodes(&self, who: &Who) -> Answer {
        let uptime = self.started.elapsed().as_secs();
        let row = |name: String| {
            let up = self.is_up(&name);
            let mut row = json!({ "node": name, "id": format!("node/{name}"), "type": "node", "status": if up { "online" } else { "offline" },
                "level": "", "ssl_fingerprint": "" });
            // Its numbers are for those who may look, and nobody has those of one that is down.
            if up && self.access(|access| access.may(who, &format!("/nodes/{name}"), "Sys.Audit")) {
                let numbers = json!({ "uptime": uptime, "cpu": 0.01, "maxcpu": 8, "mem": 1_u64 << 32, "maxmem": 1_u64 << 35,
                    "disk": 1_u64 << 34, "maxdisk": 1_u64 << 38 });
                row.as_object_mut().into_iter().zip(numbers.as_object()).for_each(|(row, numbers)| row.extend(numbers.clone()));
            }
            row
        };
        Ok(self.names().into_iter().map(row).collect::<Value>().into())
    }

    /// `GET /cluster/status`: the row of the cluster is there when it has more than one node.
    pub(super) fn cluster_status(self: &Arc<Self>) -> Answer {
        let (names, asked) = (self.names(), self.asked().map(|node| node.name.clone()));
        let mut rows = Vec::new();
        if names.len() > 1 {
            rows.push(json!({ "type": "cluster", "id": "cluster", "name": "lab", "version": names.len(), "nodes": names.len(),
                "quorate": u8::from(self.is_quorate()) }));
        }
        for (at, name) in names.iter().enumerate() {
            let nodeid = if names.len() > 1 { at + 1 } else { 0 };
            rows.push(
                json!({ "type": "node", "id": format!("node/{name}"), "name": name, "nodeid": nodeid, "ip": "127.0.0.1", "level": "",
                "online": u8::from(self.is_up(name)), "local": u8::from(asked.as_deref() == Some(name)) }),
            );
        }
        Ok(Value::from(rows).into())
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
            let broadcasts = lock(&self.broadcasts);
            for (vmid, vm) in self.vms() {
                let config = vm.config;
                // Existence, lock and tags are read from the configs; the rest is as old as the last broadcast.
                let mut row = json!({ "id": format!("qemu/{vmid}"), "type": "qemu", "vmid": vmid, "node": vm.node, "status": "unknown" });
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
        let mut nodes = self.nodes(&root()).map(|reply| reply.data.as_array().cloned().unwrap_or_default()).unwrap_or_default();
        nodes.iter_mut().filter_map(Value::as_object_mut).for_each(|row| drop(row.remove("ssl_fingerprint")));
        rows.extend(nodes);
        let storages = self.store.read(|state| state.storages.clone());
        for node in self.names() {
            let up = self.is_up(&node);
            for (name, storage) in storages.iter().filter(|(_, storage)| storage.on(&node)) {
                let usage = if up { super::storage::usage(self.real.as_deref(), storage, &node).await } else { None };
                let status = if usage.is_some() { "available" } else { "unknown" };
                let mut row = json!({ "id": format!("storage/{node}/{name}"), "type": "storage", "storage": name, "node": node,
                    "status": status, "plugintype": storage.kind.name(), "content": storage.kind.content(),
                    "shared": u8::from(storage.shared) });
                if let Some(usage) = usage {
                    (row["disk"], row["maxdisk"]) = (usage.used.into(), usage.total.into());
                }
                rows.push(row);
            }
        }
        rows
    }

    /// What the node's statistics daemon does each turn.
    async fn broadcast(&self) {
        let (mut fresh, mut silent) = (BTreeMap::new(), Vec::new());
        for (vmid, vm) in self.vms() {
            if !self.is_up(&vm.node) {
                silent.push(vmid);
                continue;
            }
            let row = self.live_row(vmid, &vm.config).await;
            let name = row["name"].as_str().unwrap_or_default().to_owned();
            fresh.insert(vmid, Broadcast { name, running: row["status"] == "running", row, age: 0 });
        }
        let kept = if lock(&self.lag).is_zero() { 0 } else { KEPT };
        let mut broadcasts = lock(&self.broadcasts);
        for vmid in silent {
            let old = broadcasts.remove(&vmid).map(|old| Broadcast { age: old.age + 1, ..old });
            fresh.extend(old.filter(|old| old.age <= kept).map(|old| (vmid, old)));
        }
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
