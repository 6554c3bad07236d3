//! What does not agree: pure.

use super::look::Evidence;
use crate::api::checkpoint::{CheckpointPhase, Volume};
use crate::api::hub::{Finding, FindingKind};
use crate::api::{Checkpoint, DEFAULT_HUB, Kind, Machine};
use crate::driver::marks::tagged;
use crate::driver::storage::{CHECKPOINT, MACHINE, MADE_BY, disk_index, snapshot_name, vmid_of};
use crate::proxmox::Vmid;
use crate::zfs::{Dataset, DatasetInfo, Properties, SnapshotInfo};
use std::collections::{BTreeMap, BTreeSet};

/// All findings, the worst first.
pub(super) fn judge(evidence: &Evidence) -> Vec<Finding> {
    let known = Known::new(evidence);
    let mut findings: Vec<Finding> = evidence.checkpoints.iter().flat_map(|checkpoint| of_checkpoint(checkpoint, &known)).collect();
    findings.extend(evidence.machines.iter().filter_map(|machine| of_machine(machine, evidence)));
    findings.extend(evidence.vms.keys().filter_map(|vmid| of_vm(*vmid, &known)));
    findings.extend(evidence.snapshots.iter().filter_map(|snapshot| of_snapshot(snapshot, &known)));
    findings.extend(evidence.datasets.iter().filter_map(|dataset| of_dataset(dataset, &known)));
    findings.extend(evidence.own_leases.iter().filter_map(|lease| of_lease(lease.vmid, &lease.machine_uid, &known)));
    findings.sort();
    findings
}

/// What an audit may destroy: what this installation made, what no object stands for, and what the audit before named too.
pub(super) fn unused<'e>(
    evidence: &'e Evidence,
    name: &impl Fn(&str) -> String,
    now: &[Finding],
    before: &[Finding],
) -> (Vec<&'e SnapshotInfo>, Vec<&'e DatasetInfo>) {
    let known = Known::new(evidence);
    let named = |kind: FindingKind, name: &str| {
        let among = |findings: &[Finding]| findings.iter().any(|finding| finding.kind == kind && finding.name == name);
        among(now) && among(before)
    };
    let is_unused = |kind, called: String, properties: &Properties| named(kind, &name(&called)) && known.is_made_here(properties);
    let snapshots = evidence.snapshots.iter();
    let disks = evidence.datasets.iter();
    (
        snapshots.filter(|found| is_unused(FindingKind::SnapshotUnused, found.name.to_string(), &found.properties)).collect(),
        disks.filter(|found| is_unused(FindingKind::DiskUnused, found.name.to_string(), &found.properties)).collect(),
    )
}

/// Whether its snapshots are to be found.
pub(super) fn is_settled(checkpoint: &Checkpoint) -> bool {
    !checkpoint.is_deleting() && checkpoint.status.as_ref().is_some_and(|status| status.phase == CheckpointPhase::Ready)
}

/// What is asked of the evidence again and again.
struct Known<'e> {
    evidence: &'e Evidence,
    snapshots: BTreeMap<&'e str, &'e SnapshotInfo>,
    machines: BTreeSet<&'e str>,
    checkpoints: BTreeSet<&'e str>,
    /// Datasets with a snapshot of a Checkpoint that there is.
    needed: BTreeSet<&'e Dataset>,
    leased: BTreeMap<u32, &'e str>,
    numbers: BTreeSet<Vmid>,
}

impl<'e> Known<'e> {
    fn new(evidence: &'e Evidence) -> Self {
        let checkpoints: BTreeSet<&str> = evidence.checkpoints.iter().map(Kind::uid).collect();
        let ours = |snapshot: &&SnapshotInfo| snapshot.properties.get(CHECKPOINT).is_some_and(|uid| checkpoints.contains(uid.as_str()));
        Self {
            snapshots: evidence.snapshots.iter().map(|snapshot| (snapshot.guid.as_str(), snapshot)).collect(),
            machines: evidence.machines.iter().map(Kind::uid).collect(),
            needed: evidence.snapshots.iter().filter(ours).map(|snapshot| &snapshot.name.dataset).collect(),
            leased: evidence.leases.iter().map(|lease| (lease.vmid, lease.machine_uid.as_str())).collect(),
            numbers: evidence.datasets.iter().filter_map(|dataset| vmid_of(&dataset.name)).collect(),
            evidence,
            checkpoints,
        }
    }

    /// Whether this installation made it, as its database is now: before it went back, it may have made what it does not know.
    fn is_made_here(&self, properties: &Properties) -> bool {
        !self.evidence.made_by.is_empty() && properties.get(MADE_BY) == Some(&self.evidence.made_by)
    }

    fn origin_of(&self, properties: &Properties) -> String {
        match properties.get(MADE_BY) {
            Some(_) if self.is_made_here(properties) => {
                format!("it was left over; `autovibe audit {} --collect` destroys it", self.evidence.hub)
            }
            Some(_) => "it is of another installation, or of a newer database than this".into(),
            None => "it was left over, or is of another installation, or of a newer database than this".into(),
        }
    }

    fn in_range(&self, vmid: Vmid) -> bool {
        (self.evidence.vmids.from..=self.evidence.vmids.to).contains(&vmid.0)
    }
}

fn finding(kind: FindingKind, name: impl ToString, message: impl Into<String>) -> Finding {
    Finding { kind, name: name.to_string(), message: message.into() }
}

fn of_checkpoint(checkpoint: &Checkpoint, known: &Known<'_>) -> Vec<Finding> {
    let settled = known.evidence.settled.contains(checkpoint.uid());
    let Some(status) = checkpoint.status.as_ref().filter(|_| settled && is_settled(checkpoint)) else { return Vec::new() };
    let name = format!("checkpoint {}/{}", checkpoint.namespace(), checkpoint.name());
    // An imported one stands on an image, which bears the image's mark.
    let marked = !checkpoint.is_of_image();
    let here = status.volumes.iter().filter(|volume| volume.node == known.evidence.node);
    here.filter_map(|volume| of_volume(checkpoint, volume, marked, known).map(|(kind, message)| finding(kind, &name, message))).collect()
}

fn of_volume(checkpoint: &Checkpoint, volume: &Volume, marked: bool, known: &Known<'_>) -> Option<(FindingKind, String)> {
    let (vmid, templates) = match (volume.template, &known.evidence.templates) {
        (None, None) => (None, None),
        (Some(vmid), Some(templates)) => (Some(Vmid(vmid)), Some(templates)),
        // Of a Hub of the other kind.
        _ => return None,
    };
    if let Some((vmid, templates)) = vmid.zip(templates) {
        let is_there = templates.get(&vmid).is_some_and(|uid| uid == checkpoint.uid());
        let text = format!(
            "its template, VM {vmid}, is not in Proxmox with its marks: nothing can be spawned from it; bring it back, or delete the Checkpoint"
        );
        return (marked && !is_there).then_some((FindingKind::SnapshotMissing, text));
    }
    let Some(snapshot) = known.snapshots.get(volume.guid.as_str()) else {
        let text = format!(
            "its snapshot {}@{} (guid {}) is not in the pool: nothing can be spawned from it; bring it back from a copy, or delete the Checkpoint",
            volume.dataset, volume.snapshot, volume.guid
        );
        // One of an image that lies elsewhere was not looked at.
        return marked.then_some((FindingKind::SnapshotMissing, text));
    };
    let says = |snapshot: &SnapshotInfo| snapshot.properties.get(CHECKPOINT).is_some_and(|uid| uid == checkpoint.uid());
    // An imported snapshot may be here twice, of two namespaces.
    let twin = || known.evidence.snapshots.iter().any(|other| other.guid == volume.guid && says(other));
    if marked && !says(snapshot) && !twin() {
        let text = format!(
            "{} does not say that it is of this Checkpoint: `zfs set {CHECKPOINT}={} {}`",
            snapshot.name,
            checkpoint.uid(),
            snapshot.name
        );
        return Some((FindingKind::SnapshotUnprotected, text));
    }
    let text = || format!("{} has no hold, so anyone may destroy it: `zfs hold autovibe {}`", snapshot.name, snapshot.name);
    (snapshot.holds == 0).then(|| (FindingKind::SnapshotUnprotected, text()))
}

fn of_machine(machine: &Machine, evidence: &Evidence) -> Option<Finding> {
    let status = machine.status.as_ref()?;
    let vm = status.vm.as_ref()?;
    let of_hub = machine.spec.hub.as_deref().unwrap_or(DEFAULT_HUB) == evidence.hub;
    if !of_hub || !evidence.settled.contains(machine.uid()) || status.phase.is_finished() || evidence.vms.contains_key(&Vmid(vm.vmid)) {
        return None;
    }
    let name = format!("machine {}/{}", machine.namespace(), machine.name());
    Some(finding(
        FindingKind::VmMissing,
        name,
        format!("its VM {} is not listed by Proxmox; `autovibe explain` says what comes of it", vm.vmid),
    ))
}

fn of_vm(vmid: Vmid, known: &Known<'_>) -> Option<Finding> {
    let seen = &known.evidence.vms[&vmid];
    if let Some(uid) = known.evidence.templates.as_ref().and_then(|templates| templates.get(&vmid)) {
        let text = format!(
            "it is a template with the marks of a Checkpoint of uid {uid}, which does not exist: it was left over, or is of a newer database than this; look, then delete it in Proxmox"
        );
        let needed = known.checkpoints.contains(uid.as_str());
        return (!needed).then(|| finding(FindingKind::TemplateUnused, format!("VM {vmid}"), text));
    }
    // A VM of ours without a Machine is the condition UnownedVms.
    if !known.in_range(vmid) || known.leased.contains_key(&vmid.0) || tagged(&seen.tags).is_some() {
        return None;
    }
    let text = "it is not ours, and its VMID lies in the range of this Hub, which leaves it out; give others a range of their own";
    Some(finding(FindingKind::Foreign, format!("VM {vmid}"), text))
}

fn of_snapshot(snapshot: &SnapshotInfo, known: &Known<'_>) -> Option<Finding> {
    let uid = snapshot.properties.get(CHECKPOINT)?;
    if known.checkpoints.contains(uid.as_str()) || snapshot.name.name != snapshot_name(uid) {
        return None;
    }
    let what = known.origin_of(&snapshot.properties);
    Some(finding(FindingKind::SnapshotUnused, &snapshot.name, format!("there is no Checkpoint of uid {uid}: {what}")))
}

fn of_dataset(dataset: &DatasetInfo, known: &Known<'_>) -> Option<Finding> {
    disk_index(&dataset.name)?;
    let number = vmid_of(&dataset.name);
    match dataset.properties.get(MACHINE) {
        Some(uid) if known.machines.contains(uid.as_str()) || known.needed.contains(&dataset.name) => None,
        Some(_) if number.is_some_and(|vmid| known.evidence.vms.contains_key(&vmid)) => None,
        Some(uid) => {
            let text =
                format!("there is no Machine of uid {uid}, and no Checkpoint stands on it: {}", known.origin_of(&dataset.properties));
            Some(finding(FindingKind::DiskUnused, &dataset.name, text))
        }
        None => {
            let vmid = number.filter(|vmid| known.in_range(*vmid))?;
            // A foreign VM is named by its number alone.
            (!known.evidence.vms.contains_key(&vmid)).then(|| {
                finding(FindingKind::Foreign, &dataset.name, "it is not ours, and keeps its VMID of this Hub's range from being used")
            })
        }
    }
}

fn of_lease(vmid: u32, machine_uid: &str, known: &Known<'_>) -> Option<Finding> {
    let number = Vmid(vmid);
    let used = known.machines.contains(machine_uid) || known.evidence.vms.contains_key(&number) || known.numbers.contains(&number);
    let text = format!("it is leased to a Machine of uid {machine_uid}, which does not exist, and nothing bears it");
    (!used).then(|| finding(FindingKind::LeaseUnused, format!("VMID {vmid}"), text))
}
