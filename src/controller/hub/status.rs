//! What a Hub's status says: pure.

use super::observe::{Observed, State};
use super::{nodes::Low, plan::Plan};
use crate::api::hub::{Audit, HubStatus, ImageStatus, Lack, UnownedVm};
use crate::api::meta::{clear_condition, set_condition};
use crate::api::{Hub, Kind};
use crate::driver::needs;
use crate::proxmox::Node;
use crate::store::ledger::Gap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// There are VMs without a Machine.
pub(super) const UNOWNED: &str = "UnownedVms";
/// The token lacks privileges.
pub(super) const LACKING: &str = "PermissionsMissing";
/// What is in the pool and in Proxmox does not agree with the objects.
pub(super) const AUDIT: &str = "AuditFindings";
/// The rules that are made for VMs are not in force.
pub(super) const FIREWALL: &str = "FirewallInactive";
/// A storage is too full for new Machines.
pub(super) const STORAGE: &str = "StorageLow";
/// A provider's Secret is missing.
pub(super) const KEYLESS: &str = "ProviderKeyMissing";
/// Something may be missing in the ledger.
const GAP: &str = "LedgerGap";

pub(super) fn status(hub: &Hub, observed: &Observed, plan: &Plan, now: &Time) -> HubStatus {
    let mut status = hub.status.clone().unwrap_or_default();
    status.observed_generation = Some(hub.generation());
    plan.readiness.apply(&mut status.conditions, hub.generation(), now);
    let mut shown = |kind, found: Option<(&str, String)>| match found {
        Some((reason, message)) => set_condition(&mut status.conditions, hub.generation(), now, (kind, true, reason, &message)),
        None => clear_condition(&mut status.conditions, kind),
    };
    if let Some(unowned) = &observed.unowned {
        shown(UNOWNED, (!unowned.is_empty()).then(|| ("NoMachine", without_machine(unowned))));
    }
    if let Some(lacking) = &observed.lacking {
        let token = observed.link.as_ref().map(|link| link.driver.connection().proxmox.credential.id()).unwrap_or_default();
        shown(LACKING, (!lacking.is_empty()).then(|| ("Lacking", forbidden(lacking, token))));
    }
    let managed = observed.link.as_ref().is_none_or(|link| link.driver.connection().firewall.is_some());
    if observed.firewall.is_some() || !managed {
        shown(FIREWALL, (observed.firewall == Some(false)).then(|| ("DatacenterFirewallOff", OFF.to_owned())));
    }
    if let Some(low) = &observed.low {
        shown(STORAGE, (!low.is_empty()).then(|| ("BelowReserve", without_room(low))));
    }
    if let Some(audit) = &observed.audit {
        shown(AUDIT, (audit.found > 0).then(|| ("Disagreement", disagreement(audit))));
    }
    shown(KEYLESS, (!observed.keyless.is_empty()).then(|| ("SecretMissing", observed.keyless.join("; "))));
    shown(GAP, observed.gap.as_ref().map(missing));
    if let Some(nodes) = &observed.nodes {
        status.nodes.clone_from(nodes);
    }
    if let Some(unowned) = &observed.unowned {
        status.unowned_vms.clone_from(unowned);
    }
    if let Some(lacking) = &observed.lacking {
        status.lacking.clone_from(lacking);
    }
    if let Some(audit) = &observed.audit {
        status.audit = Some(audit.clone());
    }
    if let Some(verification) = &observed.verification {
        status.verification = Some(verification.clone());
    }
    if let Some(link) = &observed.link {
        status.capabilities = link.driver.capabilities().told();
    }
    status.message = (!plan.readiness.is_ready()).then(|| plan.readiness.message().to_owned());
    if let State::Open { version } = &observed.state {
        if let Some(version) = version.present() {
            status.proxmox_version = Some(version.clone());
        }
        status.images = hub.spec.images.iter().map(|image| image_status(&image.name, observed, plan)).collect();
    }
    status
}

const OFF: &str = "The rules by which VMs reach nothing but the gateway are made and are not in force: the firewall of the Proxmox datacenter is \
                   off. See that its own rules leave you a way in, then as root on a node: pvesh set /cluster/firewall/options --enable 1";

fn without_room(low: &[(Node, Low)]) -> String {
    let each: Vec<String> = low.iter().map(|(node, low)| format!("node {node}: {low}")).collect();
    format!(
        "No new Machine is put there, those that are there go on. {}. Delete checkpoints that nobody needs, shorten their retention, or \
         give the storage more room.",
        each.join("; ")
    )
}

fn without_machine(unowned: &[UnownedVm]) -> String {
    let vms: Vec<String> = unowned.iter().map(|vm| format!("VM {} of {}/{}", vm.vmid, vm.namespace, vm.name)).collect();
    format!(
        "{} bear the marks of this installation, and no Machine holds them, as after the restore of an older database: nothing touches \
         them, and their VMIDs are given to no one. Delete them in Proxmox once nothing of them is needed.",
        vms.join(", ")
    )
}

fn forbidden(lacking: &[Lack], token_id: &str) -> String {
    let what: Vec<String> = lacking.iter().map(|lack| format!("{} on {}", lack.privileges.join(" "), lack.path)).collect();
    let who = if token_id.contains('!') { "token" } else { "user" };
    format!("The {who} {token_id} lacks {}. As root on a node: {}", what.join(", and "), needs::commands(lacking, token_id).join("; "))
}

fn disagreement(audit: &Audit) -> String {
    let first = audit.findings.first().map(|finding| format!("{:?}: {}: {}", finding.kind, finding.name, finding.message));
    format!("{} things do not agree, of which `autovibe audit` tells; the first: {}", audit.found, first.unwrap_or_default())
}

fn missing(gap: &Gap) -> (&'static str, String) {
    let (reason, what) = match gap.cause.as_str() {
        "restore" => ("Restored", "a backup was restored"),
        _ => ("FailedOver", "the database went back, as when a replica took over"),
    };
    (reason, format!("At {} {what}: calls that were paid shortly before, and are not in it, are in no budget.", gap.at))
}

/// What is said of images whose file is newer than what Machines start from, and was not said before.
pub(super) fn newly_stale(before: &HubStatus, after: &HubStatus) -> Vec<String> {
    let stale = |image: &&ImageStatus| image.snapshot.is_some() && image.message.is_some();
    let known =
        |image: &ImageStatus| before.images.iter().filter(stale).any(|seen| seen.name == image.name && seen.message == image.message);
    let told = |image: &ImageStatus| format!("image {}: {}", image.name, image.message.as_deref().unwrap_or_default());
    after.images.iter().filter(stale).filter(|image| !known(image)).map(told).collect()
}

fn image_status(name: &str, observed: &Observed, plan: &Plan) -> ImageStatus {
    let image = observed.images.get(name).and_then(|seen| seen.present());
    let stale = image.filter(|image| image.stale).map(|image| {
        format!("the file changed since it was imported, and {} is what it was; give the new one another name", image.snapshot.dataset)
    });
    ImageStatus {
        name: name.to_owned(),
        snapshot: image.map(ToString::to_string),
        guid: image.map(|image| image.guid.clone()),
        message: plan.missing.get(name).cloned().or(stale),
    }
}
