//! Where a Machine is put: what its Hub's nodes have, and what was promised to the Machines that are placed already.
//!
//! Promises are kept in memory, read from the store once and kept up by each Machine's reconcile: placing one costs the same however
//! many there are. A promise is made before its record is written, so that two that are placed at once see each other.

use super::observe::hub_name;
use super::step::Base;
use crate::api::machine::{Machine, Phase};
use crate::api::{Kind, hub};
use crate::controller::hub::{HubHandle, low, usable};
use crate::controller::{Context, Error};
use crate::driver::marks::tagged;
use crate::objects;
use crate::placement::{Claim, Request, Site, Size, place};
use crate::proxmox::Node;
use crate::runtime::Key;
use crate::world::View;
use futures::{StreamExt, stream::BoxStream};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::sync::{Mutex, broadcast};
use tokio_stream::wrappers::BroadcastStream;

/// How old the view may be that nodes are judged by; many that are placed at once share one.
const SEEN: Duration = Duration::from_secs(3);

/// The same of what a storage has left, of a Hub with one node: it does not change so fast, and each look is two calls.
const ROOM_SEEN: Duration = Duration::from_mins(1);

/// Machines that wait for room and are woken when some is made: the first few, in the order of their creation. Each that is placed
/// wakes one more; all others would look in vain.
const WOKEN: usize = 4;

/// A Machine, by namespace and name.
type Name = (String, String);

/// What was promised to whom, and who waits.
pub(in crate::controller) struct Promises {
    state: Mutex<State>,
    room: broadcast::Sender<Key>,
}

#[derive(Default)]
struct State {
    /// `None` before the store was read.
    promised: Option<BTreeMap<Name, Claim>>,
    /// Hub and time of creation of each that found no room.
    waiting: BTreeSet<(String, Option<Time>, Name)>,
}

impl Default for Promises {
    fn default() -> Self {
        Self { state: Mutex::default(), room: broadcast::channel(256).0 }
    }
}

impl Promises {
    /// Machines for which there may be room now. One that is missed looks by itself, later.
    pub(in crate::controller) fn room(&self) -> BoxStream<'static, Key> {
        BroadcastStream::new(self.room.subscribe()).filter_map(|key| async { key.ok() }).boxed()
    }

    /// Whether a Machine waits for room on a node of this Hub.
    pub(in crate::controller) async fn is_waited_for(&self, hub: &str) -> bool {
        self.state.lock().await.waiting.iter().any(|(of, ..)| of == hub)
    }

    /// Takes in what a Machine's record says now; without one it is gone.
    pub(super) async fn keep_up(&self, name: (&str, &str), machine: Option<&Machine>) {
        let (name, mut state) = ((name.0.to_owned(), name.1.to_owned()), self.state.lock().await);
        if machine.is_none_or(Kind::is_deleting) {
            state.waiting.retain(|(_, _, waiting)| *waiting != name);
        }
        let Some(promised) = &mut state.promised else { return };
        let released = match machine.and_then(claim) {
            Some(claim) => {
                promised.insert(name, claim);
                None
            }
            None => promised.remove(&name),
        };
        if let Some(released) = released {
            self.wake(&state, &released.hub, WOKEN);
        }
    }

    /// Decides, and promises. The inner error says why nothing does; the outer one is a store that cannot be read.
    async fn decide(&self, machine: &Machine, sites: &[Site], request: &Request, context: &Context) -> Result<Result<Node, String>, Error> {
        let mut state = self.state.lock().await;
        if state.promised.is_none() {
            let machines = match context.objects.list::<Machine>(None).await {
                Ok((machines, _)) => machines,
                Err(objects::Error::Unreadable { .. }) => {
                    let why = "a Machine cannot be read, so what it was promised is not known; its condition Degraded says which field";
                    return Ok(Err(why.into()));
                }
                Err(error) => return Err(error.into()),
            };
            state.promised = Some(machines.iter().filter_map(|machine| Some((name(machine), claim(machine)?))).collect());
        }
        let (hub, own) = (hub_name(machine).to_owned(), name(machine));
        let promised = state.promised.get_or_insert_default();
        let others = promised.iter().filter(|(name, claim)| **name != own && claim.hub == hub).map(|(_, claim)| claim);
        let waits = (hub.clone(), machine.metadata.creation_timestamp.clone(), own.clone());
        match place(sites, others, request) {
            Ok(placed) => {
                tracing::info!("{}: placed on node {}: {}", machine.name(), placed.node, placed.why);
                promised.insert(own, Claim { hub: hub.clone(), node: placed.node.clone(), size: size(machine) });
                if state.waiting.remove(&waits) {
                    self.wake(&state, &hub, 1);
                }
                Ok(Ok(placed.node))
            }
            Err(nowhere) => {
                state.waiting.insert(waits);
                Ok(Err(nowhere.to_string()))
            }
        }
    }

    fn wake(&self, state: &State, hub: &str, count: usize) {
        for (.., (namespace, name)) in state.waiting.iter().filter(|(of, ..)| of == hub).take(count) {
            // Without a receiver nobody is there to be told.
            self.room.send(Key { namespace: namespace.clone(), name: name.clone() }).ok();
        }
    }
}

fn name(machine: &Machine) -> Name {
    (machine.namespace().to_owned(), machine.name().to_owned())
}

/// What a Machine holds; of one that is suspended, cpu and memory are free.
fn claim(machine: &Machine) -> Option<Claim> {
    let status = machine.status.as_ref().filter(|status| !status.phase.is_finished() && status.phase != Phase::Suspended)?;
    let node = status.node.clone().or_else(|| status.vm.as_ref().map(|vm| vm.node.clone()))?;
    Some(Claim { hub: hub_name(machine).to_owned(), node: Node(node), size: size(machine) })
}

fn size(machine: &Machine) -> Size {
    Size { memory_bytes: machine.spec.resources.memory.mebibytes() << 20, millicores: machine.spec.resources.cpu.cores() * 1000 }
}

/// The node that a Machine with this base would be put on. The inner error says why none does.
pub(super) async fn placed(machine: &Machine, base: &Base, hub: &HubHandle, context: &Context) -> Result<Result<Node, String>, Error> {
    let only = machine.spec.placement.iter().flat_map(|placement| placement.nodes.iter().cloned().map(Node)).collect();
    let limits = &hub.spec.infrastructure.nodes;
    if limits.is_empty() {
        return Ok(on_the_only_node(machine, &only, hub).await);
    }
    let view = match hub.world.at_most(SEEN).await {
        Ok(view) => view,
        Err(unknown) => return Ok(Err(unknown.to_string())),
    };
    if let Some(node) = is_there(machine, &view) {
        return Ok(Ok(node));
    }
    let origin = base.nodes();
    if !origin.is_empty() && origin.iter().all(|node| view.hidden(node).is_some()) {
        let nodes: Vec<String> = origin.iter().map(ToString::to_string).collect();
        return Ok(Err(format!("what it is spawned from is on {} alone, which cannot be asked now", nodes.join(", "))));
    }
    let sites = futures::future::join_all(limits.iter().map(|limit| site(limit, hub, &view))).await;
    let request = Request { size: size(machine), only, origin };
    context.machines.promises.decide(machine, &sites, &request, context).await
}

/// Where its VM is: one whose record was lost, as with the restore of an older database, has it already.
fn is_there(machine: &Machine, view: &View) -> Option<Node> {
    view.vms.values().find(|vm| tagged(&vm.tags) == Some(machine.uid())).map(|vm| vm.node.clone())
}

/// A Hub without a list of nodes has one, with as many Machines as its owner asks for, while its storage has room.
async fn on_the_only_node(machine: &Machine, only: &BTreeSet<Node>, hub: &HubHandle) -> Result<Node, String> {
    let node = hub.driver.node();
    if !only.is_empty() && !only.contains(node) {
        return Err(format!("{node}: spec.placement.nodes does not name it"));
    }
    // Where there was room a minute ago nothing is asked; before it is refused it is looked at again.
    for age in [ROOM_SEEN, SEEN] {
        // What cannot be seen is not called full; the steps that follow say what does not answer.
        let Ok(view) = hub.world.at_most(age).await else { break };
        match low(node, &hub.spec.infrastructure, &hub.driver, &view) {
            Some(low) if age == SEEN && is_there(machine, &view).is_none() => return Err(format!("{node}: {low}")),
            Some(_) => {}
            None => break,
        }
    }
    Ok(node.clone())
}

async fn site(limit: &hub::Node, hub: &HubHandle, view: &View) -> Site {
    let node = Node(limit.name.clone());
    let seen = view.nodes.get(&node).cloned().unwrap_or_default();
    // Ours are counted by what they were promised.
    let theirs = view.vms.values().filter(|vm| vm.node == node && tagged(&vm.tags).is_none()).filter_map(|vm| vm.memory_bytes);
    let own = seen.memory_bytes.unwrap_or_default() / 10 * 9;
    let memory_bytes = limit.memory.map_or_else(|| own.saturating_sub(theirs.sum()), |memory| memory.0);
    let usable = usable(limit, &hub.spec.infrastructure, &hub.driver, view).await;
    Site { node, usable, memory_bytes, max_machines: limit.max_machines, cores: seen.cores.unwrap_or_default() }
}
