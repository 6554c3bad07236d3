//! Whether a node of a Hub can take Machines now.

use crate::api::hub::{self, NodeStatus};
use crate::driver::Driver;
use crate::proxmox::Node;
use crate::world::{View, World};
use std::time::Duration;

/// Errors: why nothing can be put on a node now. Its ZFS is asked only when all else is well.
pub async fn usable(limit: &hub::Node, driver: &Driver, view: &View) -> Result<(), String> {
    let (node, storage) = (Node(limit.name.clone()), &driver.connection().storage);
    let Some(seen) = view.nodes.get(&node) else { return Err("Proxmox shows no node of that name".into()) };
    if let Some(why) = view.hidden(&node) {
        return Err(why);
    }
    if !seen.storages.contains(storage) {
        return Err(format!("storage {storage} is not there, or the token lacks Datastore.Audit on it"));
    }
    if seen.memory_bytes.is_none() && limit.memory.is_none() {
        return Err("Proxmox does not say how much memory it has: the token lacks Sys.Audit on it".into());
    }
    driver.at(&node).await.map(drop).map_err(|error| error.to_string())
}

/// How each of several nodes stands; `None` when that cannot be seen. Of one that goes without a name there is nothing to say.
pub(super) async fn look(nodes: &[hub::Node], driver: &Driver, world: &World, age: Duration) -> Option<Vec<NodeStatus>> {
    if nodes.is_empty() {
        return Some(Vec::new());
    }
    let view = world.at_most(age).await.ok()?;
    let each = nodes.iter().map(async |limit| NodeStatus { name: limit.name.clone(), message: usable(limit, driver, &view).await.err() });
    Some(futures::future::join_all(each).await)
}
