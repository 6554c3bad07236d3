//! The observed VMs of a Hub: one call for all of them, shared by all Machines, with its age.
//!
//! A view is refreshed only when someone asks for one that is fresher than what is there, so that idle Machines cost
//! nothing. It says what Proxmox showed, never what is not there: only a caller that has also asked for the one config may
//! call a VM gone.

#[cfg(test)]
mod tests;

use crate::proxmox::{Client, Node, Power, Vmid};
use std::collections::{BTreeMap, BTreeSet};
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
    /// Live, for VMs of the Hub's own node.
    pub power: Option<Power>,
    pub lock: Option<String>,
}

/// All VMs at one moment.
#[derive(Clone, Debug)]
pub struct View {
    /// When it was asked for: everything in it is at least as fresh.
    pub asked_at: Instant,
    pub vms: BTreeMap<Vmid, VmSeen>,
}

/// Why nothing can be said.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unknown(pub String);

/// The views of one Hub; cheap to clone.
#[derive(Clone)]
pub struct World {
    proxmox: Client,
    node: Node,
    latest: Arc<Mutex<Latest>>,
}

#[derive(Default)]
struct Latest {
    view: Option<Arc<View>>,
    /// Every VMID that the cluster lists, which costs one call, and when it was asked for.
    listed: Option<(Instant, Arc<BTreeSet<Vmid>>)>,
    /// The last try that failed, and when: asking again at once would only add to an outage.
    failed: Option<(Instant, Unknown)>,
}

/// After a failed refresh, the time in which its error is the answer.
const FAILED_FOR: Duration = Duration::from_secs(1);

impl World {
    pub fn new(proxmox: Client, node: Node) -> Self {
        Self { proxmox, node, latest: Arc::default() }
    }

    /// A view that was asked for at or after `instant`; refreshes (two calls) when the last one is older. Callers at the same
    /// time share one refresh.
    pub async fn fresher_than(&self, instant: Instant) -> Result<Arc<View>, Unknown> {
        let mut latest = self.latest.lock().await;
        if let Some(view) = latest.view.as_ref().filter(|view| view.asked_at >= instant) {
            return Ok(Arc::clone(view));
        }
        let asked_at = Instant::now();
        if let Some((_, error)) = latest.failed.as_ref().filter(|(at, _)| asked_at.duration_since(*at) < FAILED_FOR) {
            return Err(error.clone());
        }
        let vms = match self.look().await {
            Ok(vms) => vms,
            Err(error) => {
                latest.failed = Some((asked_at, error.clone()));
                return Err(error);
            }
        };
        let view = Arc::new(View { asked_at, vms });
        latest.view = Some(Arc::clone(&view));
        latest.failed = None;
        Ok(view)
    }

    /// Every VMID that is in use, as the cluster showed it at or after `instant`: one call, shared like a view.
    pub async fn listed_since(&self, instant: Instant) -> Result<Arc<BTreeSet<Vmid>>, Unknown> {
        let mut latest = self.latest.lock().await;
        if let Some((_, listed)) = latest.listed.as_ref().filter(|(asked_at, _)| *asked_at >= instant) {
            return Ok(Arc::clone(listed));
        }
        let asked_at = Instant::now();
        let mut listed = self.resources().await?;
        if listed.is_empty() {
            // Nothing at all: the canary must be asked.
            listed = merge(listed, &self.powers().await?, &self.node)?;
        }
        let listed: BTreeSet<Vmid> = listed.into_keys().collect();
        let listed = Arc::new(listed);
        latest.listed = Some((asked_at, Arc::clone(&listed)));
        Ok(listed)
    }

    /// A view that is at most so old.
    pub async fn at_most(&self, age: Duration) -> Result<Arc<View>, Unknown> {
        let now = Instant::now();
        self.fresher_than(now.checked_sub(age).unwrap_or(now)).await
    }

    async fn look(&self) -> Result<BTreeMap<Vmid, VmSeen>, Unknown> {
        let listed = self.resources().await?;
        merge(listed, &self.powers().await?, &self.node)
    }

    async fn powers(&self) -> Result<Vec<(Vmid, Power)>, Unknown> {
        let powers = self.proxmox.node_vms(&self.node).await;
        powers.map_err(|error| Unknown(format!("node {} does not list its VMs: {error}", self.node)))
    }

    async fn resources(&self) -> Result<BTreeMap<Vmid, VmSeen>, Unknown> {
        let resources = self.proxmox.resources().await.map_err(|error| Unknown(format!("Proxmox does not list its VMs: {error}")))?;
        let seen = |vm: crate::proxmox::ResourceVm| (vm.vmid, VmSeen { node: vm.node, tags: vm.tags, power: None, lock: vm.lock });
        Ok(resources.into_iter().map(seen).collect())
    }
}

/// Puts both lists together. The cluster's list is a canary: when it shows nothing of a node that itself shows VMs, the
/// cluster is not seen (no quorum, no rights, a restarted daemon), and that is no evidence of absence.
fn merge(mut listed: BTreeMap<Vmid, VmSeen>, powers: &[(Vmid, Power)], node: &Node) -> Result<BTreeMap<Vmid, VmSeen>, Unknown> {
    if listed.is_empty() && !powers.is_empty() {
        return Err(Unknown(format!("the cluster lists no VM at all, but node {node} has {}", powers.len())));
    }
    for (vmid, power) in powers {
        // The cluster's list lags: a VM that only its node shows is there all the same.
        let vm = listed.entry(*vmid).or_insert_with(|| VmSeen { node: node.clone(), tags: Vec::new(), power: None, lock: None });
        vm.power = Some(*power);
    }
    Ok(listed)
}
