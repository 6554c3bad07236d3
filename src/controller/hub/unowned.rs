//! VMs that this installation made and that no Machine holds: they are younger than a database that was restored. Here they
//! are only found and named; nothing touches them.

use super::observe::Link;
use crate::api::hub::UnownedVm;
use crate::api::{Hub, Kind};
use crate::controller::{Context, Error};
use crate::driver::marks::tagged;
use crate::objects;
use std::collections::BTreeSet;

/// So many are named, and so many configs are read in a pass.
const MOST: usize = 50;

/// Errors: only of our own store; what Proxmox does not show is `None`.
pub(super) async fn unowned(hub: &Hub, link: &Link, context: &Context) -> Result<Option<Vec<UnownedVm>>, Error> {
    // Asked for before the leases: a VM is made after its lease.
    let Ok(view) = link.world.at_most(context.config.resync).await else { return Ok(None) };
    let mut leased = BTreeSet::new();
    // Of every Hub: two of them may share a Proxmox.
    let hubs = match context.objects.list::<Hub>(None).await {
        Ok((hubs, _)) => hubs,
        // What it leased is not known.
        Err(objects::Error::Unreadable { .. }) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    for hub in hubs {
        leased.extend(context.objects.vmid_leases(hub.name()).await?.into_iter().map(|lease| (lease.vmid, lease.machine_uid)));
    }
    let marked = view.vms.iter().filter_map(|(vmid, vm)| Some((*vmid, &vm.node, tagged(&vm.tags)?)));
    let suspects = marked.filter(|(vmid, _, uid)| !leased.contains(&(vmid.0, (*uid).to_owned()))).take(MOST);
    let mut found = Vec::new();
    let installation = context.objects.installation(hub.name()).await?;
    for (vmid, node, _) in suspects {
        match link.driver.bearer(node, vmid, &installation).await {
            Ok(Some(bearer)) => {
                let (machine_uid, namespace, name) = (bearer.machine_uid, bearer.namespace, bearer.name);
                if leased.contains(&(vmid.0, machine_uid.clone())) {
                    // A clone that was just made: its tags are its template's.
                    continue;
                }
                found.push(UnownedVm { vmid: vmid.0, machine_uid, namespace, name });
            }
            // Another installation's, or gone since.
            Ok(None) => {}
            Err(_) => return Ok(None),
        }
    }
    Ok(Some(found))
}
