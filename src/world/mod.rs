//! The observed VMs of a Hub: one call for all of them, shared by all Machines, with its age.
//!
//! A view is refreshed only when someone asks for one that is fresher than what is there, so that idle Machines cost
//! nothing. It says what Proxmox showed, never what is not there: only a caller that has also asked for the one config may
//! call a VM gone.

#[cfg(test)]
mod tests;

use crate::proxmox::{Client, Node, Power, ResourceStorage, Resources, Room, Vmid};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// A VM as the cluster's list shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VmSeen {
    pub node: Node,
    /// Lower-cased.
    pub tags: Vec<String>,
    /// Live, for VMs of the Hub's own nodes that were asked and answered.
    pub power: Option<Power>,
    pub lock: Option<String>,
    /// What its guest has, bytes, if it ran when the list was last made, some seconds ago.
    pub memory_bytes: Option<u64>,
}

/// A node as the cluster's list shows it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NodeSeen {
    pub online: bool,
    /// All that it has, bytes; of an online node that says nothing, the token may not look.
    pub memory_bytes: Option<u64>,
    /// All that it has.
    pub cores: Option<u64>,
    /// The storages that are there to be used, each with its room, if that is known.
    pub storages: BTreeMap<String, Option<Room>>,
}

/// All VMs and nodes at one moment.
#[derive(Clone, Debug)]
pub struct View {
    /// When it was asked for: everything in it is at least as fresh.
    pub asked_at: Instant,
    pub vms: BTreeMap<Vmid, VmSeen>,
    pub nodes: BTreeMap<Node, NodeSeen>,
    /// Nodes of the Hub that did not list their VMs, and why.
    pub silent: BTreeMap<Node, String>,
}

impl View {
    /// Why nothing can be said of the VMs of a node, if so.
    pub fn hidden(&self, node: &Node) -> Option<String> {
        let offline = || {
            let seen = self.nodes.get(node)?;
            (!seen.online).then(|| format!("node {node} is offline"))
        };
        offline().or_else(|| self.silent.get(node).cloned())
    }
}

/// Why nothing can be said.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unknown(pub String);

/// The views of one Hub; cheap to clone.
#[derive(Clone)]
pub struct World {
    proxmox: Client,
    /// Those of the Hub.
    nodes: Arc<Vec<Node>>,
    latest: Arc<Mutex<Latest>>,
}

#[derive(Default)]
struct Latest {
    view: Option<Arc<View>>,
    /// Every VMID that the cluster lists and its node, which costs one call, and when it was asked for.
    listed: Option<(Instant, Arc<BTreeMap<Vmid, Node>>)>,
    /// The last try that failed, and when: asking again at once would only add to an outage.
    failed: Option<(Instant, Unknown)>,
}

/// A tag of all VMs that autovibe makes.
const TAG: &str = "autovibe";
/// After a failed refresh, the time in which its error is the answer.
const FAILED_FOR: Duration = Duration::from_secs(1);

impl World {
    /// Of a Hub with these nodes.
    pub fn new(proxmox: Client, nodes: Vec<Node>) -> Self {
        Self { proxmox, nodes: Arc::new(nodes), latest: Arc::default() }
    }

    /// A view that was asked for at or after `instant`; when the last one is older it is refreshed, with a call to the cluster and
    /// one to each node that has VMs of ours. Callers at the same time share one refresh.
    pub async fn fresher_than(&self, instant: Instant) -> Result<Arc<View>, Unknown> {
        let mut latest = self.latest.lock().await;
        if let Some(view) = latest.view.as_ref().filter(|view| view.asked_at >= instant) {
            return Ok(Arc::clone(view));
        }
        let asked_at = Instant::now();
        if let Some((_, error)) = latest.failed.as_ref().filter(|(at, _)| asked_at.duration_since(*at) < FAILED_FOR) {
            return Err(error.clone());
        }
        let view = match self.look(asked_at).await {
            Ok(view) => Arc::new(view),
            Err(error) => {
                latest.failed = Some((asked_at, error.clone()));
                return Err(error);
            }
        };
        latest.view = Some(Arc::clone(&view));
        latest.failed = None;
        Ok(view)
    }

    /// Every VMID that is in use and where, as the cluster showed it at or after `instant`: one call, shared like a view.
    pub async fn listed_since(&self, instant: Instant) -> Result<Arc<BTreeMap<Vmid, Node>>, Unknown> {
        let mut latest = self.latest.lock().await;
        if let Some((_, listed)) = latest.listed.as_ref().filter(|(asked_at, _)| *asked_at >= instant) {
            return Ok(Arc::clone(listed));
        }
        let asked_at = Instant::now();
        let resources = self.resources().await?;
        let mut listed = vms(&resources);
        if listed.is_empty() {
            // Nothing at all: the canary must be asked.
            (listed, _) = self.with_powers(&resources).await?;
        }
        let listed = listed.into_iter().map(|(vmid, vm)| (vmid, vm.node)).collect();
        let listed = Arc::new(listed);
        latest.listed = Some((asked_at, Arc::clone(&listed)));
        Ok(listed)
    }

    /// A view that is at most so old.
    pub async fn at_most(&self, age: Duration) -> Result<Arc<View>, Unknown> {
        let now = Instant::now();
        self.fresher_than(now.checked_sub(age).unwrap_or(now)).await
    }

    async fn look(&self, asked_at: Instant) -> Result<View, Unknown> {
        let resources = self.resources().await?;
        let (vms, silent) = self.with_powers(&resources).await?;
        Ok(View { asked_at, vms, nodes: nodes(resources), silent })
    }

    /// The listed VMs, with what their nodes say of their power, and the nodes that said nothing. Errors: none of them did.
    async fn with_powers(&self, resources: &Resources) -> Result<(BTreeMap<Vmid, VmSeen>, BTreeMap<Node, String>), Unknown> {
        let asked: Vec<&Node> = self.nodes.iter().filter(|node| self.matters(node, resources)).collect();
        let answers = futures::future::join_all(asked.iter().map(|node| self.proxmox.node_vms(node))).await;
        let (mut listed, mut silent) = (vms(resources), BTreeMap::new());
        for (node, answer) in asked.iter().zip(answers) {
            match answer {
                Ok(powers) => listed = merge(listed, &powers, node)?,
                Err(error) => drop(silent.insert((*node).clone(), format!("node {node} does not list its VMs: {error}"))),
            }
        }
        if !silent.is_empty() && silent.len() == asked.len() {
            return Err(Unknown(silent.into_values().collect::<Vec<_>>().join("; ")));
        }
        Ok((listed, silent))
    }

    /// Whether a node is to be asked for its VMs: the only one always, of several those that are up and have some of ours. Where
    /// nothing at all is listed, all that are up: they are the canary then.
    fn matters(&self, node: &Node, resources: &Resources) -> bool {
        let offline = resources.nodes.iter().any(|seen| seen.node == *node && !seen.online);
        let ours = || resources.vms.iter().any(|vm| vm.node == *node && vm.tags.iter().any(|tag| tag == TAG));
        self.nodes.len() == 1 || (!offline && (resources.vms.is_empty() || ours()))
    }

    async fn resources(&self) -> Result<Resources, Unknown> {
        self.proxmox.resources().await.map_err(|error| Unknown(format!("Proxmox does not list its VMs: {error}")))
    }
}

fn vms(resources: &Resources) -> BTreeMap<Vmid, VmSeen> {
    let seen = |vm: &crate::proxmox::ResourceVm| {
        let running = vm.status.as_deref() == Some("running");
        let memory_bytes = vm.memory_bytes.filter(|_| running);
        VmSeen { node: vm.node.clone(), tags: vm.tags.clone(), power: None, lock: vm.lock.clone(), memory_bytes }
    };
    resources.vms.iter().map(|vm| (vm.vmid, seen(vm))).collect()
}

fn nodes(resources: Resources) -> BTreeMap<Node, NodeSeen> {
    let seen = |node: crate::proxmox::ResourceNode| {
        let seen = NodeSeen { online: node.online, memory_bytes: node.memory_bytes, cores: node.cores, storages: BTreeMap::new() };
        (node.node, seen)
    };
    let mut nodes: BTreeMap<Node, NodeSeen> = resources.nodes.into_iter().map(seen).collect();
    for ResourceStorage { node, storage, room } in resources.storages {
        nodes.entry(node).or_default().storages.insert(storage, room);
    }
    nodes
}

/// Puts both lists together. The cluster's list is a canary: when it shows nothing of a node that itself shows VMs, the
/// cluster is not seen (no quorum, no rights, a restarted daemon), and that is no evidence of absence.
fn merge(mut listed: BTreeMap<Vmid, VmSeen>, powers: &[(Vmid, Power)], node: &Node) -> Result<BTreeMap<Vmid, VmSeen>, Unknown> {
    if listed.is_empty() && !powers.is_empty() {
        return Err(Unknown(format!("the cluster lists no VM at all, but node {node} has {}", powers.len())));
    }
    for (vmid, power) in powers {
        // The cluster's list lags: a VM that only its node shows is there all the same.
        let unlisted = || VmSeen { node: node.clone(), tags: Vec::new(), power: None, lock: None, memory_bytes: None };
        let vm = listed.entry(*vmid).or_insert_with(unlisted);
        vm.power = Some(*power);
    }
    Ok(listed)
}
