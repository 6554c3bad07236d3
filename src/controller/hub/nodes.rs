//! Whether a node of a Hub can take Machines now.

use crate::api::hub::{self, Infrastructure, NodeStatus};
use crate::driver::Driver;
use crate::proxmox::Node;
use crate::world::{View, World};
use std::time::Duration;

/// Errors: why nothing can be put on a node now. Its ZFS is asked only when all else is well.
pub async fn usable(limit: &hub::Node, of: &Infrastructure, driver: &Driver, view: &View) -> Result<(), String> {
    let (node, storage) = (Node(limit.name.clone()), &driver.connection().storage);
    let Some(seen) = view.nodes.get(&node) else { return Err("Proxmox shows no node of that name".into()) };
    if let Some(why) = view.hidden(&node) {
        return Err(why);
    }
    if !seen.storages.contains_key(storage) {
        return Err(format!("storage {storage} is not there, or the token lacks Datastore.Audit on it"));
    }
    if seen.memory_bytes.is_none() && limit.memory.is_none() {
        return Err("Proxmox does not say how much memory it has: the token lacks Sys.Audit on it".into());
    }
    if let Some(low) = low(&node, of, driver, view) {
        return Err(low.to_string());
    }
    driver.at(&node).await.map(drop).map_err(|error| error.to_string())
}

/// A storage that has less free than its Hub keeps.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Low {
    storage: String,
    free_percent: u128,
    total_bytes: u64,
    reserve_percent: u32,
}

impl std::fmt::Display for Low {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { storage, free_percent, total_bytes, reserve_percent } = self;
        let total_gib = total_bytes >> 30;
        write!(
            f,
            "storage {storage} has {free_percent} % of {total_gib} GiB free, and spec.infrastructure.storageReservePercent keeps {reserve_percent}"
        )
    }
}

/// Whether a node's storage is too full for new Machines. One that Proxmox does not show, or has not measured, is not called full.
pub fn low(node: &Node, of: &Infrastructure, driver: &Driver, view: &View) -> Option<Low> {
    let storage = &driver.connection().storage;
    let room = (*view.nodes.get(node)?.storages.get(storage)?)?;
    let (free, total) = (u128::from(room.free_bytes) * 100, u128::from(room.total_bytes));
    let reserve_percent = of.storage_reserve_percent;
    (free < total * u128::from(reserve_percent)).then(|| Low {
        storage: storage.clone(),
        free_percent: free / total.max(1),
        total_bytes: room.total_bytes,
        reserve_percent,
    })
}

/// The nodes whose storage is too full; `None` when that cannot be seen.
pub(super) async fn all_low(of: &Infrastructure, driver: &Driver, world: &World, age: Duration) -> Option<Vec<(Node, Low)>> {
    let view = world.at_most(age).await.ok()?;
    Some(driver.nodes().filter_map(|node| Some((node.clone(), low(node, of, driver, &view)?))).collect())
}

/// How each of several nodes stands; `None` when that cannot be seen. Of one that goes without a name there is nothing to say.
pub(super) async fn look(of: &Infrastructure, driver: &Driver, world: &World, age: Duration) -> Option<Vec<NodeStatus>> {
    let nodes = &of.nodes;
    if nodes.is_empty() {
        return Some(Vec::new());
    }
    let view = world.at_most(age).await.ok()?;
    let each =
        nodes.iter().map(async |limit| NodeStatus { name: limit.name.clone(), message: usable(limit, of, driver, &view).await.err() });
    Some(futures::future::join_all(each).await)
}
