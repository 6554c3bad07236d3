//! Where other controllers find a Hub's driver.

use super::connection::Waiting;
use super::observe::Observed;
use crate::api::{Hub, Kind, hub::HubSpec};
use crate::driver::storage::Image;
use crate::driver::{self, Connection, Driver, Turns};
use crate::proxmox::{Breaker, Node};
use crate::world::World;
use futures::{StreamExt, stream::BoxStream};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::sync::{RwLock, broadcast};
use tokio_stream::wrappers::BroadcastStream;

/// More Hubs than connect at once.
const CONNECTED: usize = 256;

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

/// How old the view of the nodes may be.
const SEEN: Duration = Duration::from_mins(1);
/// How old it may be when it says that a node is down.
const DOWN: Duration = Duration::from_secs(5);

impl HubHandle {
    /// The verbs on one of its nodes. Of several, one that is known to be down is not asked: who waits for it would hold up those on
    /// the others. Errors: `Unknown` for a node that is down; as [`Driver::at`].
    pub async fn at(&self, node: &Node) -> Result<Driver, driver::Error> {
        if self.driver.nodes().count() > 1
            && let Ok(view) = self.world.at_most(SEEN).await
            && view.hidden(node).is_some()
            && let Ok(view) = self.world.at_most(DOWN).await
            && let Some(why) = view.hidden(node)
        {
            return Err(driver::Error::Unknown(why));
        }
        self.driver.at(node).await
    }
}

/// Every Hub that was seen, with its handle or why it has none; cheap to clone.
#[derive(Clone)]
pub struct Hubs {
    known: Arc<RwLock<BTreeMap<String, Known>>>,
    /// Hub → what tells its credential from others, and what is known of that: it outlives a connection that does not stand.
    credentials: Arc<RwLock<BTreeMap<String, (String, Breaker)>>>,
    /// The turns of each storage: those of a connection that was replaced still run. Never more than were ever named.
    turns: Arc<RwLock<BTreeMap<Place, Turns>>>,
    connected: broadcast::Sender<String>,
}

impl Default for Hubs {
    fn default() -> Self {
        Self { known: Arc::default(), credentials: Arc::default(), turns: Arc::default(), connected: broadcast::channel(CONNECTED).0 }
    }
}

/// Endpoint, node and storage.
type Place = (String, Option<Node>, String);

/// A Hub's handle, or why it has none.
type Known = Result<Arc<HubHandle>, Waiting>;

impl Hubs {
    /// The Hub of that name, or what must happen before it can be used.
    pub async fn get(&self, name: &str) -> Result<Arc<HubHandle>, Waiting> {
        match self.known.read().await.get(name) {
            Some(known) => known.clone(),
            None => Err(Waiting(format!(
                "hub {name} is not connected; if `autovibe get hubs` does not show it, create it, or name another in spec.hub"
            ))),
        }
    }

    /// Every Hub that can be used now, and the names of those that cannot.
    pub async fn all(&self) -> (Vec<Arc<HubHandle>>, Vec<String>) {
        let known = self.known.read().await;
        let handles = known.values().filter_map(|known| known.as_ref().ok().cloned()).collect();
        let waiting = known.iter().filter(|(_, known)| known.is_err()).map(|(name, _)| name.clone()).collect();
        (handles, waiting)
    }

    /// Names of Hubs that can be used from now on. Their objects do not tell: after a restart nothing in them changes.
    pub(in crate::controller) fn connected(&self) -> BoxStream<'static, String> {
        // One that was missed is found by the next resync.
        BroadcastStream::new(self.connected.subscribe()).filter_map(|name| async { name.ok() }).boxed()
    }

    /// The driver and world that are in use for this connection, if they are still the same ones.
    pub(super) async fn driver(&self, name: &str, identity: &str) -> Option<(Driver, World)> {
        let known = self.known.read().await;
        let handle = known.get(name)?.as_ref().ok()?;
        (handle.identity == identity).then(|| (handle.driver.clone(), handle.world.clone()))
    }

    /// What is known of a Hub's credential by all that use it; of another one nothing is known.
    pub(super) async fn breaker(&self, hub: &str, credential: String) -> Breaker {
        let mut known = self.credentials.write().await;
        let breaker = known.values().find(|(other, _)| *other == credential).map(|(_, breaker)| breaker.clone()).unwrap_or_default();
        known.insert(hub.to_owned(), (credential, breaker.clone()));
        breaker
    }

    /// Gives a connection the turns of its storage on each node, shared by all that work on it.
    pub(super) async fn share_turns(&self, connection: &mut Connection) {
        let mut known = self.turns.write().await;
        let mut shared = |node: Option<Node>, own: &Turns| {
            let place = (connection.proxmox.endpoint.clone(), node, connection.storage.clone());
            known.entry(place).or_insert_with(|| own.clone()).clone()
        };
        connection.turns = shared(connection.node.clone(), &connection.turns);
        for other in &mut connection.others {
            other.turns = shared(Some(other.node.clone()), &other.turns);
        }
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
        let identity = |known: &Known| known.as_ref().ok().map(|handle| handle.identity.clone());
        let now = identity(&entry);
        let before = self.known.write().await.insert(hub.name().to_owned(), entry);
        if now.is_some() && before.as_ref().and_then(identity) != now {
            // Without a receiver nobody is there to be told.
            self.connected.send(hub.name().to_owned()).ok();
        }
    }

    pub(super) async fn remove(&self, name: &str) {
        self.known.write().await.remove(name);
        self.credentials.write().await.remove(name);
    }
}
