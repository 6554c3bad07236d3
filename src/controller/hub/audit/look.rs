//! Reads everything. The pool first, then Proxmox, then our own records: each thing that we make has its record before it is
//! made, so what has none in the end had none. And the records once more before all: only what they said then must be there.

use super::super::observe::Link;
use super::judge::is_settled;
use crate::api::capability::CapabilityName;
use crate::api::hub::VmidRange;
use crate::api::{Checkpoint, Hub, Kind, Machine};
use crate::controller::{Context, Error};
use crate::driver::templates;
use crate::objects;
use crate::proxmox::{Node, Vmid};
use crate::store::VmidLease;
use crate::world::VmSeen;
use crate::zfs::{DatasetInfo, SnapshotInfo};
use std::collections::{BTreeMap, BTreeSet};
use tokio::time::Instant;

/// All there is, of one node of a Hub.
pub(super) struct Evidence {
    pub(super) hub: String,
    pub(super) node: String,
    /// The mark of what this installation makes.
    pub(super) made_by: String,
    pub(super) vmids: VmidRange,
    pub(super) datasets: Vec<DatasetInfo>,
    pub(super) snapshots: Vec<SnapshotInfo>,
    pub(super) vms: BTreeMap<Vmid, VmSeen>,
    /// The templates of Checkpoints, each with the uid that its marks name; `None` of a Hub that keeps none.
    pub(super) templates: Option<BTreeMap<Vmid, String>>,
    pub(super) machines: Vec<Machine>,
    pub(super) checkpoints: Vec<Checkpoint>,
    /// Uids of Checkpoints that were Ready, and of Machines that had a VM, before anything was looked at.
    pub(super) settled: BTreeSet<String>,
    /// Of all Hubs: two of them may share a Proxmox.
    pub(super) leases: Vec<VmidLease>,
    /// Those of this one.
    pub(super) own_leases: Vec<VmidLease>,
}

/// The inner error says what could not be seen. Errors: only of our own store.
pub(super) async fn look(hub: &Hub, link: &Link, node: &Node, context: &Context) -> Result<Result<Evidence, String>, Error> {
    let Some((machines, checkpoints)) = records(context).await? else { return Ok(Err(UNREADABLE.into())) };
    let ready = checkpoints.iter().filter(|checkpoint| is_settled(checkpoint)).map(Kind::uid);
    let with_vm = machines.iter().filter(|machine| machine.status.as_ref().is_some_and(|status| status.vm.is_some())).map(Kind::uid);
    let settled = ready.chain(with_vm).map(str::to_owned).collect();
    let driver = match link.driver.at(node).await {
        Ok(driver) => driver,
        Err(error) => return Ok(Err(format!("the pool of node {node} could not be read: {error}"))),
    };
    let connection = driver.connection();
    let (mut datasets, mut snapshots) = (Vec::new(), Vec::new());
    let in_pool = driver.capabilities().has(CapabilityName::DetachDisks);
    for root in [&connection.dataset, &connection.keep].into_iter().filter(|_| in_pool) {
        match driver.zfs.tree(root).await {
            Ok((found, of_them)) => {
                datasets.extend(found);
                snapshots.extend(of_them);
            }
            // Before the first end of a Machine there is no checkpoint tree.
            Err(crate::zfs::Error::NotFound(_)) if *root == connection.keep => {}
            Err(error) => return Ok(Err(format!("the pool could not be read: {error}"))),
        }
    }
    let view = match link.world.fresher_than(Instant::now()).await {
        Ok(view) => view,
        Err(why) => return Ok(Err(why.to_string())),
    };
    let (mut templates, installation) = (BTreeMap::new(), context.objects.installation(hub.name()).await?);
    for (vmid, _) in view.vms.iter().filter(|(_, vm)| !in_pool && vm.node == *driver.node() && templates::tagged(&vm.tags).is_some()) {
        match driver.template_of(*vmid, &installation).await {
            Ok(found) => templates.extend(found.map(|uid| (*vmid, uid))),
            Err(error) => return Ok(Err(format!("VM {vmid} could not be read: {error}"))),
        }
    }
    let Some((machines, checkpoints)) = records(context).await? else { return Ok(Err(UNREADABLE.into())) };
    let hubs = match context.objects.list::<Hub>(None).await {
        Ok((hubs, _)) => hubs,
        Err(objects::Error::Unreadable { .. }) => return Ok(Err(UNREADABLE.into())),
        Err(error) => return Err(error.into()),
    };
    let mut leases = Vec::new();
    for hub in hubs {
        leases.extend(context.objects.vmid_leases(hub.name()).await?);
    }
    Ok(Ok(Evidence {
        hub: hub.name().to_owned(),
        node: driver.node().0.clone(),
        made_by: connection.made_by.clone(),
        vmids: connection.vmids,
        datasets,
        snapshots,
        vms: view.vms.clone(),
        templates: (!in_pool).then_some(templates),
        machines,
        checkpoints,
        settled,
        leases,
        own_leases: context.objects.vmid_leases(hub.name()).await?,
    }))
}

const UNREADABLE: &str = "an object cannot be read, so what it needs is not known; its condition Degraded says which field";

/// All Machines and Checkpoints; `None` when one of them cannot be read.
async fn records(context: &Context) -> Result<Option<(Vec<Machine>, Vec<Checkpoint>)>, Error> {
    let listed = async {
        Ok::<_, objects::Error>((context.objects.list::<Machine>(None).await?.0, context.objects.list::<Checkpoint>(None).await?.0))
    };
    match listed.await {
        Ok(records) => Ok(Some(records)),
        Err(objects::Error::Unreadable { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}
