//! `storage` and its content.

use super::{
    answer::{Answer, Refusal},
    keys,
    node::{Node, STORAGE},
    parameters::Parameters,
};
use serde_json::{Value, json};
use std::sync::Arc;

const TOTAL: u64 = 1 << 38;

impl Node {
    pub(super) fn storages(&self, parameters: &Parameters) -> Answer {
        let content = parameters.get("content");
        let wanted = content.is_none_or(|content| matches!(content, "images" | "rootdir"))
            && parameters.get("storage").is_none_or(|name| name == STORAGE)
            && self.access(|access| {
                access.need_any(&parameters.who, &format!("/storage/{STORAGE}"), &["Datastore.Audit", "Datastore.AllocateSpace"]).is_ok()
            });
        let row = json!({ "storage": STORAGE, "type": "zfspool", "content": "images,rootdir", "active": 1, "enabled": 1, "shared": 0,
            "total": TOTAL, "used": 0, "avail": TOTAL, "used_fraction": 0 });
        Ok(Value::from(if wanted { vec![row] } else { vec![] }).into())
    }

    pub(super) async fn content(&self, storage: &str, parameters: &Parameters) -> Answer {
        if storage != STORAGE {
            return Err(Refusal::die(format!("storage '{storage}' does not exist")));
        }
        let images = parameters.get("content").is_none_or(|content| content == "images");
        let owner: Option<u32> = parameters.number("vmid");
        let volumes = self.pool.list().await.map_err(Refusal::die)?;
        let rows = volumes.into_iter().filter_map(|volume| {
            let vmid = keys::owner(&volume.name)?;
            // Images of VMs that a caller may not see are left out; so are those of VMs that are gone.
            let shown = self.access(|access| {
                let path = format!("/storage/{STORAGE}");
                access.may(&parameters.who, &path, "Datastore.Allocate")
                    || (access.may(&parameters.who, &path, "Datastore.Audit")
                        && access.may(&parameters.who, &format!("/vms/{vmid}"), "VM.Config.Disk"))
            });
            (images && shown && owner.is_none_or(|owner| owner == vmid))
                .then(|| json!({ "volid": format!("{STORAGE}:{}", volume.name), "vmid": vmid, "size": volume.size, "format": "raw", "content": "images" }))
        });
        Ok(rows.collect::<Value>().into())
    }

    /// `POST …/content`: a new volume for a VM, which need not be there.
    pub(super) fn allocate(&self, parameters: &Parameters) -> Answer {
        let (storage, name) = (parameters.get("storage").unwrap_or_default(), parameters.get("filename").unwrap_or_default());
        let vmid: u32 = parameters.number("vmid").unwrap_or_default();
        if storage != STORAGE {
            return Err(Refusal::die(format!("storage '{storage}' does not exist")));
        }
        if let Some(format) = parameters.get("format").filter(|format| *format != "raw") {
            return Err(Refusal::die(format!("unsupported format '{format}' at /usr/share/perl5/PVE/Storage/ZFSPoolPlugin.pm line 292.")));
        }
        if !name.starts_with(&format!("vm-{vmid}-")) {
            return Err(Refusal::die(format!("illegal name '{name}' - should be 'vm-{vmid}-*'")));
        }
        // Without a unit it is KiB.
        let text = parameters.get("size").unwrap_or_default();
        let digits: u64 = text.trim_end_matches(['M', 'G']).parse().unwrap_or_default();
        let shift = match text.chars().last() {
            Some('G') => 30,
            Some('M') => 20,
            _ => 10,
        };
        self.pool.create(name, digits << shift).map_err(|why| Refusal::die(format!("zfs error: {why}")))?;
        Ok(Value::from(format!("{storage}:{name}")).into())
    }

    /// `DELETE …/content/{volume}`: also of one that a stopped VM uses.
    pub(super) fn free(self: &Arc<Self>, parameters: &Parameters) -> Answer {
        let storage = parameters.get("storage").unwrap_or_default().to_owned();
        let volume = parameters.get("volume").unwrap_or_default();
        let volume = volume.strip_prefix(&format!("{storage}:")).unwrap_or(volume).to_owned();
        if storage != STORAGE {
            return Err(Refusal::die(format!("storage '{storage}' does not exist")));
        }
        let name = keys::last(&volume).to_owned();
        let Some(owner) = keys::owner(&name) else {
            return Err(Refusal::die(format!("unable to parse zfs volume name '{volume}'")));
        };
        self.access(|access| access.need(&parameters.who, &format!("/storage/{storage}"), "Datastore.Allocate"))?;
        let node = self.clone();
        self.spawn(&parameters.who, "imgdel", format!("{owner}@{storage}"), move |log| async move {
            if !node.linked_to(&volume).await?.is_empty() {
                return Err(format!("base volume '{volume}' is still in use by linked clones"));
            }
            node.pool.destroy(&name).await.map_err(|why| format!("zfs error: {why}"))?;
            log.line(format!("Removed volume '{storage}:{volume}'"));
            Ok(())
        })
    }
}
