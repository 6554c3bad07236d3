//! Where other controllers find a Hub's driver.

use super::connection::Waiting;
use super::observe::Observed;
use crate::api::{Hub, Kind, hub::HubSpec};
use crate::driver::Driver;
use crate::driver::storage::Image;
use crate::world::World;
use std::{collections::BTreeMap, sync::Arc};
use tokio::sync::RwLock;

/// A Hub that can be used; replaced as a whole when its spec or its images change.
pub struct HubHandle {
    pub name: String,
    pub spec: HubSpec,
    pub driver: Driver,
    /// The VMs of its Proxmox, as last seen; shared by all who ask.
    pub world: World,
    /// Images that can be spawned from, by name.
    pub images: BTreeMap<String, Image>,
    /// Tells one connection from another.
    pub(super) identity: String,
}

/// Every Hub that was seen, with its handle or why it has none; cheap to clone.
#[derive(Clone, Default)]
pub struct Hubs(Arc<RwLock<BTreeMap<String, Known>>>);

/// A Hub's handle, or why it has none.
type Known = Result<Arc<HubHandle>, Waiting>;

impl Hubs {
    /// The Hub of that name, or what must happen before it can be used.
    pub async fn get(&self, name: &str) -> Result<Arc<HubHandle>, Waiting> {
        match self.0.read().await.get(name) {
            Some(known) => known.clone(),
            None => Err(Waiting(format!("hub {name} does not exist; create it, or name another in spec.hub"))),
        }
    }

    /// Every Hub that can be used now, and the names of those that cannot.
    pub async fn all(&self) -> (Vec<Arc<HubHandle>>, Vec<String>) {
        let known = self.0.read().await;
        let handles = known.values().filter_map(|known| known.as_ref().ok().cloned()).collect();
        let waiting = known.iter().filter(|(_, known)| known.is_err()).map(|(name, _)| name.clone()).collect();
        (handles, waiting)
    }

    /// The driver and world that are in use for this connection, if they are still the same ones.
    pub(super) async fn driver(&self, name: &str, identity: &str) -> Option<(Driver, World)> {
        let known = self.0.read().await;
        let handle = known.get(name)?.as_ref().ok()?;
        (handle.identity == identity).then(|| (handle.driver.clone(), handle.world.clone()))
    }

    pub(super) async fn publish(&self, hub: &Hub, observed: &Observed, why_not: &str) {
        let entry = match &observed.link {
            Some(link) => Ok(Arc::new(HubHandle {
                name: hub.name().to_owned(),
                spec: hub.spec.clone(),
                driver: link.driver.clone(),
                world: link.world.clone(),
                images: observed.images.iter().filter_map(|(name, seen)| Some((name.clone(), seen.present()?.clone()))).collect(),
                identity: link.identity.clone(),
            })),
            None => Err(Waiting(format!("hub {}: {why_not}", hub.name()))),
        };
        self.0.write().await.insert(hub.name().to_owned(), entry);
    }

    pub(super) async fn remove(&self, name: &str) {
        self.0.write().await.remove(name);
    }
}
