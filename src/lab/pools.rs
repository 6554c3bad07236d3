//! `/pools`: which guests and storages are granted together.

use super::{
    answer::{Answer, Refusal},
    format,
    node::Node,
    parameters::Parameters,
    permission::{Access, Members},
};
use serde_json::{Value, json};

fn no_pool(name: &str) -> Refusal {
    Refusal::die(format!("pool '{name}' does not exist"))
}

impl Node {
    /// `GET /pools`: all that the caller may see, or one with its members.
    pub(super) async fn pools(&self, parameters: &Parameters) -> Answer {
        if let Some(name) = parameters.get("poolid") {
            self.access(|access| access.need(&parameters.who, &format!("/pool/{name}"), "Pool.Audit"))?;
            let mut row = self.pool_with_members(name, parameters.get("type")).await?;
            row["poolid"] = name.into();
            return Ok(json!([row]).into());
        }
        let rows: Vec<Value> = self.access(|access| {
            let shown = access.pools.iter().filter(|(name, _)| access.may(&parameters.who, &format!("/pool/{name}"), "Pool.Audit"));
            shown.map(|(name, pool)| pool.row(name)).collect()
        });
        Ok(Value::from(rows).into())
    }

    /// `GET /pools/{poolid}`
    pub(super) async fn one_pool(&self, parameters: &Parameters) -> Answer {
        let name = parameters.get("poolid").unwrap_or_default();
        Ok(self.pool_with_members(name, parameters.get("type")).await?.into())
    }

    async fn pool_with_members(&self, name: &str, kind: Option<&str>) -> Result<Value, Refusal> {
        let pool = self.access(|access| access.pools.get(name).cloned()).ok_or_else(|| no_pool(name))?;
        let rows = self.resource_rows().await;
        let of_it = |row: &&Value| match row["type"].as_str() {
            Some("qemu") => {
                kind.is_none_or(|kind| kind == "qemu")
                    && row["vmid"].as_u64().is_some_and(|vmid| pool.vms.iter().any(|own| u64::from(*own) == vmid))
            }
            Some("storage") => {
                kind.is_none_or(|kind| kind == "storage") && row["storage"].as_str().is_some_and(|storage| pool.storage.contains(storage))
            }
            _ => false,
        };
        let mut row = pool.row(name);
        row["members"] = rows.iter().filter(of_it).cloned().collect();
        Ok(row)
    }

    pub(super) fn add_pool(&self, parameters: &Parameters) -> Answer {
        let name = parameters.get("poolid").unwrap_or_default();
        let failed = |why: String| Refusal::die(format!("create pool failed: {why}"));
        self.store.change(|state| {
            let pools = &mut state.access.pools;
            if pools.contains_key(name) {
                return Err(failed(format!("pool '{name}' already exists")));
            }
            if let Some((parent, _)) = name.rsplit_once('/').filter(|(parent, _)| !pools.contains_key(*parent)) {
                return Err(failed(format!("parent '{parent}' of pool '{name}' does not exist")));
            }
            pools.insert(name.to_owned(), Members { comment: parameters.get("comment").map(str::to_owned), ..Members::default() });
            Ok(Value::Null.into())
        })
    }

    pub(super) fn update_pool(&self, parameters: &Parameters) -> Answer {
        let name = parameters.get("poolid").unwrap_or_default();
        self.store.change(|state| {
            let mut access = state.access.clone();
            access.update_pool(name, parameters)?;
            state.access = access;
            Ok(Value::Null.into())
        })
    }

    pub(super) fn delete_pool(&self, parameters: &Parameters) -> Answer {
        let name = parameters.get("poolid").unwrap_or_default();
        let failed = |why: String| Refusal::die(format!("delete pool failed: {why}"));
        self.store.change(|state| {
            let below = format!("{name}/");
            let pools = &mut state.access.pools;
            let pool = pools.get(name).ok_or_else(|| failed(format!("pool '{name}' does not exist")))?;
            let inside = pools
                .keys()
                .find(|other| other.starts_with(&below))
                .map(|other| format!("pool '{other}'"))
                .or_else(|| pool.vms.first().map(|vmid| format!("VM {vmid}")))
                .or_else(|| pool.storage.first().map(|storage| format!("storage '{storage}'")));
            if let Some(inside) = inside {
                return Err(failed(format!("pool '{name}' is not empty (contains {inside})")));
            }
            pools.remove(name);
            state.access.grants.retain(|grant| grant.path != format!("/pool/{name}"));
            Ok(Value::Null.into())
        })
    }
}

impl Access {
    /// Errors leave `self` half changed: it is a copy.
    fn update_pool(&mut self, name: &str, parameters: &Parameters) -> Result<(), Refusal> {
        let failed = |why: String| Refusal::die(format!("update pools failed: {why}"));
        if !self.pools.contains_key(name) {
            return Err(failed(format!("pool '{name}' does not exist")));
        }
        let (delete, moves) = (parameters.flag("delete"), parameters.flag("allow-move"));
        for text in format::list(parameters.get("vms").unwrap_or_default()) {
            let vmid: u32 = text.parse().unwrap_or_default();
            self.need_any(&parameters.who, &format!("/vms/{vmid}"), &["Permissions.Modify", "VM.Allocate"])?;
            let of = self.pools.iter().find(|(_, pool)| pool.vms.contains(&vmid)).map(|(other, _)| other.clone());
            match of {
                Some(other) if delete && other == name => drop(self.pools.get_mut(name).map(|pool| pool.vms.remove(&vmid))),
                _ if delete => return Err(failed(format!("VM {vmid} is not a pool member"))),
                Some(other) if other == name => return Err(failed(format!("VM {vmid} is already a pool member"))),
                Some(other) if !moves => {
                    return Err(failed(format!("VM {vmid} belongs already to pool '{other}' and 'allow-move' is not set")));
                }
                other => {
                    if let Some(other) = other {
                        self.need(&parameters.who, &format!("/pool/{other}"), "Pool.Allocate")?;
                        self.pools.get_mut(&other).map(|pool| pool.vms.remove(&vmid));
                    }
                    self.pools.get_mut(name).map(|pool| pool.vms.insert(vmid));
                }
            }
        }
        for storage in format::list(parameters.get("storage").unwrap_or_default()) {
            self.need_any(&parameters.who, &format!("/storage/{storage}"), &["Permissions.Modify", "Datastore.Allocate"])?;
            let Some(pool) = self.pools.get_mut(name) else { continue };
            if delete && !pool.storage.remove(storage) {
                return Err(failed(format!("Storage '{storage}' is not a pool member")));
            }
            if !delete && !pool.storage.insert(storage.to_owned()) {
                return Err(failed(format!("Storage '{storage}' is already a pool member")));
            }
        }
        if let Some((comment, pool)) = parameters.get("comment").zip(self.pools.get_mut(name)) {
            pool.comment = Some(comment.to_owned());
        }
        Ok(())
    }
}

impl Members {
    fn row(&self, name: &str) -> Value {
        let mut row = json!({ "poolid": name });
        if let Some(comment) = &self.comment {
            row["comment"] = comment.as_str().into();
        }
        row
    }
}
