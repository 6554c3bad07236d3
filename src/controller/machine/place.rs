//! Where a Machine is put: what its Hub's nodes have, and what was promised to the Machines that are placed already.
//!
//! Promises are kept in memory, read from the store once and kept up by each Machine's reconcile: placing one costs the same however
//! many there are. A promise is made before its record is written, so that two that are placed at once see each other.

use super::observe::hub_name;
use super::plan::Base;
use crate::api::machine::{Machine, Phase};
use crate::api::{Kind, hub};
use crate::controller::hub::{HubHandle, usable};
use crate::controller::{Context, Error};
use crate::driver::vm::tagged;
use crate::placement::{Claim, Placed, Request, Site, Size, place};
use crate::proxmox::Node;
use crate::world::View;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::sync::Mutex;

/// How old the view may be that nodes are judged by; many that are placed at once share one.
const SEEN: Duration = Duration::from_secs(3);

/// Namespace and name → what was promised; `None` before the store was read.
#[derive(Default)]
pub(super) struct Promises(Mutex<Option<BTreeMap<(String, String), Claim>>>);

impl Promises {
    /// Takes in what a Machine's record says now; without one it is gone.
    pub(super) async fn keep_up(&self, key: (&str, &str), machine: Option<&Machine>) {
        if let Some(promised) = self.0.lock().await.as_mut() {
            let key = (key.0.to_owned(), key.1.to_owned());
            match machine.and_then(claim) {
                Some(claim) => drop(promised.insert(key, claim)),
                None => drop(promised.remove(&key)),
            }
        }
    }

    /// Decides, and promises. The outer error is a store that cannot be read.
    async fn decide(
        &self,
        machine: &Machine,
        sites: &[Site],
        request: &Request,
        context: &Context,
    ) -> Result<Result<Placed, String>, Error> {
        let mut promised = self.0.lock().await;
        if promised.is_none() {
            let (machines, _) = context.objects.list::<Machine>(None).await?;
            let claims = machines.iter().filter_map(|machine| {
                let key = (machine.namespace().to_owned(), machine.name().to_owned());
                Some((key, claim(machine)?))
            });
            *promised = Some(claims.collect());
        }
        let hub = hub_name(machine);
        let (own, promised) = ((machine.namespace().to_owned(), machine.name().to_owned()), promised.get_or_insert_default());
        let others = promised.iter().filter(|(key, claim)| **key != own && claim.hub == hub).map(|(_, claim)| claim);
        let decided = place(sites, others, request);
        Ok(match decided {
            Ok(placed) => {
                promised.insert(own, Claim { hub: hub.to_owned(), node: placed.node.clone(), size: size(machine) });
                Ok(placed)
            }
            Err(nowhere) => Err(nowhere.to_string()),
        })
    }
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
        let (node, only): (_, std::collections::BTreeSet<Node>) = (hub.driver.node(), only);
        let fits = only.is_empty() || only.contains(node);
        return Ok(if fits { Ok(node.clone()) } else { Err(format!("{node}: spec.placement.nodes does not name it")) });
    }
    let view = match hub.world.at_most(SEEN).await {
        Ok(view) => view,
        Err(unknown) => return Ok(Err(unknown.to_string())),
    };
    // One whose record was lost, as with the restore of an older database, has its VM already: it is there.
    if let Some(vm) = view.vms.values().find(|vm| tagged(&vm.tags) == Some(machine.uid())) {
        return Ok(Ok(vm.node.clone()));
    }
    let sites = futures::future::join_all(limits.iter().map(|limit| site(limit, hub, &view))).await;
    let request = Request { size: size(machine), only, origin: base.nodes() };
    let decided = context.machines.promises.decide(machine, &sites, &request, context).await?;
    Ok(decided.map(|placed| {
        tracing::info!("{}: placed on node {}: {}", machine.name(), placed.node, placed.why);
        placed.node
    }))
}

async fn site(limit: &hub::Node, hub: &HubHandle, view: &View) -> Site {
    let node = Node(limit.name.clone());
    let seen = view.nodes.get(&node).cloned().unwrap_or_default();
    // Ours are counted by what they were promised.
    let theirs = view.vms.values().filter(|vm| vm.node == node && tagged(&vm.tags).is_none()).filter_map(|vm| vm.memory_bytes);
    let own = seen.memory_bytes.unwrap_or_default() / 10 * 9;
    let memory_bytes = limit.memory.map_or_else(|| own.saturating_sub(theirs.sum()), |memory| memory.0);
    let usable = usable(limit, &hub.driver, view).await;
    Site { node, usable, memory_bytes, max_machines: limit.max_machines, cores: seen.cores.unwrap_or_default() }
}
