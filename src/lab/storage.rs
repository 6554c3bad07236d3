//! `storage` and its content.

use super::{
    answer::{Answer, Refusal},
    keys,
    node::{Node, STORAGE},
    parameters::Parameters,
    simulated,
};
use crate::zfs::Dataset;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// Size of each in bytes.
const TOTAL: u64 = 1 << 38;

/// A storage of the cluster, as `storage.cfg` has it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Config {
    pub(super) kind: Kind,
    /// The nodes that have it; none named is all.
    pub(super) nodes: BTreeSet<String>,
    /// One for all nodes; else each node has its own.
    pub(super) shared: bool,
    /// A zfspool's dataset.
    pub(super) pool: Option<String>,
    /// How long each change of its volumes takes.
    pub(super) takes_ms: u64,
    /// Bytes that it says are used on a node: the model's volumes take none.
    pub(super) used: BTreeMap<String, u64>,
}

/// What a storage has on a node, bytes.
#[derive(Clone, Copy)]
pub(super) struct Usage {
    pub(super) used: u64,
    pub(super) total: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Kind {
    #[default]
    ZfsPool,
    /// A directory of files: qcow2, with snapshots in the file, and raw, with none.
    Dir,
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::ZfsPool => "zfspool",
            Self::Dir => "dir",
        }
    }

    pub(super) fn content(self) -> &'static str {
        match self {
            Self::ZfsPool => "images,rootdir",
            Self::Dir => "images",
        }
    }
}

impl Config {
    pub(super) fn on(&self, node: &str) -> bool {
        self.nodes.is_empty() || self.nodes.contains(node)
    }

    /// The pool of the lab's state that has its volumes, as a node sees it.
    pub(super) fn place(&self, name: &str, node: &str) -> String {
        match self.kind {
            Kind::ZfsPool => node.to_owned(),
            // No node's name has an `@`.
            Kind::Dir if self.shared => format!("{name}@"),
            Kind::Dir => format!("{name}@{node}"),
        }
    }

    /// The dataset in which its volumes are.
    pub(super) fn dataset(&self, name: &str) -> String {
        if self.kind == Kind::Dir {
            return name.to_owned();
        }
        self.pool.clone().unwrap_or_else(|| if name == STORAGE { simulated::DATASET.to_owned() } else { format!("tank/{name}") })
    }
}

impl Config {
    /// A section of `storage.cfg`.
    fn shown(&self, name: &str, digest: &str) -> Value {
        let mut row = json!({ "digest": digest, "storage": name, "type": self.kind.name(), "content": self.kind.content() });
        match self.kind {
            Kind::ZfsPool => row["pool"] = self.dataset(name).into(),
            Kind::Dir => row["path"] = super::pool::IMAGES.trim_end_matches("/images").into(),
        }
        if !self.nodes.is_empty() {
            row["nodes"] = self.nodes.iter().cloned().collect::<Vec<_>>().join(",").into();
        }
        if self.shared {
            row["shared"] = 1.into();
        }
        row
    }
}

/// What a storage of a lab has on a node, with its pool if that is real; `None` while that does not answer.
pub(super) async fn usage(real: Option<&super::pool::Real>, storage: &Config, node: &str) -> Option<Usage> {
    let Some(real) = real else {
        let used = storage.used.get(node).copied().unwrap_or_default();
        return Some(Usage { used: used.min(TOTAL), total: TOTAL });
    };
    let (used, free) = real.zfs.room(&Dataset(real.storage.dataset.clone())).await.ok()?;
    Some(Usage { used, total: used.saturating_add(free) })
}

/// A storage as its node shows it.
fn status(storage: &Config, usage: Option<Usage>) -> Value {
    let (active, Usage { used, total }) = (u8::from(usage.is_some()), usage.unwrap_or(Usage { used: 0, total: 0 }));
    json!({ "type": storage.kind.name(), "content": storage.kind.content(), "active": active, "enabled": 1,
        "shared": u8::from(storage.shared), "total": total, "used": used, "avail": total - used })
}

/// Storage and volume of a path that ends in a volume: its whole id, or its name there.
fn named_volume(parameters: &Parameters) -> (&str, &str) {
    let (storage, volume) = (parameters.get("storage").unwrap_or_default(), parameters.get("volume").unwrap_or_default());
    (storage, volume.strip_prefix(storage).and_then(|rest| rest.strip_prefix(':')).unwrap_or(volume))
}

/// That of the whole `storage.cfg`.
fn digest(all: &BTreeMap<String, Config>) -> String {
    hex::encode(&Sha256::digest(json!(all).to_string())[..20])
}

impl Node {
    /// Names of the storages that this node has.
    pub(super) fn storages_here(&self) -> Vec<String> {
        self.store.read(|state| state.storages.iter().filter(|(_, storage)| storage.on(&self.name)).map(|(name, _)| name.clone()).collect())
    }

    /// `None` while its pool does not answer.
    async fn usage(&self, storage: &Config) -> Option<Usage> {
        usage(self.real.as_deref(), storage, &self.name).await
    }

    /// `GET /storage`: the storages as they are configured.
    pub(super) fn storage_list(&self, parameters: &Parameters) -> Answer {
        let all = self.store.read(|state| state.storages.clone());
        let shown = all.iter().filter(|(name, storage)| {
            let needed = ["Datastore.Audit", "Datastore.AllocateSpace"];
            parameters.get("type").is_none_or(|wanted| wanted == storage.kind.name())
                && self.access(|access| access.need_any(&parameters.who, &format!("/storage/{name}"), &needed).is_ok())
        });
        let digest = digest(&all);
        Ok(shown.map(|(name, storage)| storage.shown(name, &digest)).collect::<Value>().into())
    }

    pub(super) fn storage_config(&self, name: &str) -> Answer {
        let all = self.store.read(|state| state.storages.clone());
        all.get(name)
            .map(|storage| storage.shown(name, &digest(&all)).into())
            .ok_or_else(|| Refusal::die(format!("storage '{name}' does not exist")))
    }

    pub(super) async fn storages(&self, parameters: &Parameters) -> Answer {
        let all = self.store.read(|state| state.storages.clone());
        let content = parameters.get("content");
        let shown = all.iter().filter(|(name, storage)| {
            storage.on(&self.name)
                && content.is_none_or(|content| storage.kind.content().split(',').any(|kind| kind == content))
                && parameters.get("storage").is_none_or(|wanted| wanted == *name)
                && self.access(|access| {
                    access.need_any(&parameters.who, &format!("/storage/{name}"), &["Datastore.Audit", "Datastore.AllocateSpace"]).is_ok()
                })
        });
        let shown: Vec<(&String, &Config)> = shown.collect();
        let mut rows = Vec::new();
        for (name, storage) in shown {
            let mut row = status(storage, self.usage(storage).await);
            row["storage"] = name.as_str().into();
            let number = |key: &str| row[key].as_f64().unwrap_or_default();
            row["used_fraction"] = (number("used") / number("total").max(1.0)).into();
            rows.push(row);
        }
        Ok(Value::from(rows).into())
    }

    pub(super) async fn storage_status(&self, name: &str) -> Answer {
        let storage = self.store.read(|state| state.storages.get(name).filter(|storage| storage.on(&self.name)).cloned());
        let Some(storage) = storage else { return Err(Refusal::parameter("storage", "No such storage.")) };
        Ok(status(&storage, self.usage(&storage).await).into())
    }

    /// `GET …/content/{volume}`: one volume.
    pub(super) async fn volume(&self, parameters: &Parameters) -> Answer {
        let (storage, volume) = named_volume(parameters);
        let pool = self.pool(storage).map_err(Refusal::die)?;
        let Some(owner) = keys::owner(volume).filter(|_| pool.has_form(volume)) else {
            return Err(Refusal::die(pool.no_name(volume)));
        };
        self.access(|access| {
            let path = format!("/storage/{storage}");
            if access.may(&parameters.who, &path, "Datastore.Allocate") {
                return Ok(());
            }
            access.need(&parameters.who, &path, "Datastore.Audit")?;
            access.need(&parameters.who, &format!("/vms/{owner}"), "VM.Config.Disk")
        })?;
        match pool.size(keys::last(volume)).await.map_err(Refusal::die)? {
            Some(size) => Ok(json!({ "path": pool.shown_path(volume), "size": size, "used": 0, "format": keys::format(volume) }).into()),
            None => Err(Refusal::die(format!("volume_size_info on '{storage}:{volume}' failed - no format"))),
        }
    }

    pub(super) async fn content(&self, storage: &str, parameters: &Parameters) -> Answer {
        let pool = self.pool(storage).map_err(Refusal::die)?;
        let images = parameters.get("content").is_none_or(|content| content == "images");
        let owner: Option<u32> = parameters.number("vmid");
        let volumes = pool.list().await.map_err(Refusal::die)?;
        let rows = volumes.into_iter().filter_map(|volume| {
            let vmid = keys::owner(&volume.name)?;
            // Images of VMs that a caller may not see are left out; so are those of VMs that are gone.
            let shown = self.access(|access| {
                let path = format!("/storage/{storage}");
                access.may(&parameters.who, &path, "Datastore.Allocate")
                    || (access.may(&parameters.who, &path, "Datastore.Audit")
                        && access.may(&parameters.who, &format!("/vms/{vmid}"), "VM.Config.Disk"))
            });
            (images && shown && owner.is_none_or(|owner| owner == vmid))
                .then(|| json!({ "volid": format!("{storage}:{}", volume.name), "vmid": vmid, "size": volume.size, "format": keys::format(&volume.name), "content": "images" }))
        });
        Ok(rows.collect::<Value>().into())
    }

    /// `POST …/content`: a new volume for a VM, which need not be there.
    pub(super) async fn allocate(&self, parameters: &Parameters) -> Answer {
        let (storage, name) = (parameters.get("storage").unwrap_or_default(), parameters.get("filename").unwrap_or_default());
        let vmid: u32 = parameters.number("vmid").unwrap_or_default();
        let pool = self.pool(storage).map_err(Refusal::die)?;
        let format = parameters.get("format");
        let volume = pool.name_to_allocate(vmid, name, format).map_err(Refusal::die)?;
        // Without a unit it is KiB.
        let text = parameters.get("size").unwrap_or_default();
        let digits: u64 = text.trim_end_matches(['M', 'G']).parse().unwrap_or_default();
        let shift = match text.chars().last() {
            Some('G') => 30,
            Some('M') => 20,
            _ => 10,
        };
        let _lock = self.lock_storage(storage).await.map_err(Refusal::die)?;
        pool.create(&volume, digits << shift).await.map_err(Refusal::die)?;
        Ok(Value::from(format!("{storage}:{volume}")).into())
    }

    /// `DELETE …/content/{volume}`: also of one that a stopped VM uses.
    pub(super) fn free_volume(self: &Arc<Self>, parameters: &Parameters) -> Answer {
        let (storage, volume) = named_volume(parameters);
        let (storage, volume) = (storage.to_owned(), volume.to_owned());
        let pool = self.pool(&storage).map_err(Refusal::die)?;
        let name = keys::last(&volume).to_owned();
        let Some(owner) = keys::owner(&name).filter(|_| pool.has_form(&volume)) else {
            return Err(Refusal::die(pool.no_name(&volume)));
        };
        self.access(|access| access.need(&parameters.who, &format!("/storage/{storage}"), "Datastore.Allocate"))?;
        let node = self.clone();
        self.spawn(&parameters.who, "imgdel", format!("{owner}@{storage}"), move |log| async move {
            let _lock = node.lock_storage(&storage).await?;
            log.at_work().await;
            if !node.linked_to(&storage, &volume).await?.is_empty() {
                return Err(format!("base volume '{volume}' is still in use by linked clones"));
            }
            if pool.kind() == Kind::Dir && pool.size(&name).await?.is_none() {
                log.line(format!("disk image '{}/{volume}' does not exist", super::pool::IMAGES));
            }
            pool.destroy(&name).await.map_err(|why| pool.error(&why))?;
            log.line(format!("Removed volume '{storage}:{volume}'"));
            Ok(())
        })
    }
}
