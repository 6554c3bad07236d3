//! What an audit says of each thing that can disagree, and when one is due.

use super::judge::{judge, unused};
use super::look::Evidence;
use crate::api::checkpoint::{CheckpointPhase, CheckpointSpec, Volume};
use crate::api::hub::{AUDIT, Audit, FindingKind, Hub, VmidRange};
use crate::api::machine::{Phase, VmStatus};
use crate::api::{Checkpoint, Machine};
use crate::driver::made_by;
use crate::driver::storage::{CHECKPOINT, MACHINE, MADE_BY};
use crate::proxmox::{Node, Vmid};
use crate::store::VmidLease;
use crate::world::VmSeen;
use crate::zfs::{Dataset, DatasetInfo, Snapshot, SnapshotInfo};
use jiff::{SignedDuration, Timestamp};
use serde_json::json;

fn machine(uid: &str, vmid: Option<u32>, phase: Phase) -> Machine {
    let mut machine: Machine = serde_json::from_value(json!({
        "metadata": {"name": uid, "namespace": "shop", "uid": uid},
        "spec": {"from": {"image": "micro"}, "goal": {"prompt": "work"}},
    }))
    .unwrap();
    let status = machine.status.get_or_insert_default();
    status.phase = phase;
    status.vm = vmid.map(|vmid| VmStatus { node: "pve".into(), vmid, disks: Vec::new() });
    machine
}

fn checkpoint(uid: &str, guid: &str) -> Checkpoint {
    let mut checkpoint = Checkpoint::new("shop", uid, CheckpointSpec::default());
    checkpoint.metadata.uid = Some(uid.into());
    let status = checkpoint.status.get_or_insert_default();
    status.phase = CheckpointPhase::Ready;
    status.volumes = vec![Volume {
        node: "pve".into(),
        dataset: "tank/data/vm-1000-disk-0".into(),
        snapshot: format!("av-{uid}"),
        guid: guid.into(),
        ..Volume::default()
    }];
    checkpoint
}

fn snapshot(dataset: &str, uid: &str, guid: &str) -> SnapshotInfo {
    SnapshotInfo {
        name: Snapshot { dataset: Dataset(dataset.into()), name: format!("av-{uid}") },
        guid: guid.into(),
        holds: 1,
        createtxg: 1,
        referenced_bytes: None,
        properties: [(CHECKPOINT.to_owned(), uid.to_owned())].into(),
    }
}

fn dataset(name: &str, machine: Option<&str>) -> DatasetInfo {
    let properties = machine.map(|uid| (MACHINE.to_owned(), uid.to_owned())).into_iter().collect();
    DatasetInfo { name: Dataset(name.into()), guid: "7".into(), origin: None, snapshots_bytes: None, properties }
}

fn vm(tags: &[&str]) -> VmSeen {
    VmSeen { node: Node("pve".into()), tags: tags.iter().map(ToString::to_string).collect(), power: None, lock: None, memory_bytes: None }
}

/// A Machine that runs, with a checkpoint, and one that ended in one: all agrees.
fn sound() -> Evidence {
    let lease = VmidLease { vmid: 1000, machine_uid: "m1".into() };
    Evidence {
        hub: "default".into(),
        node: "pve".into(),
        made_by: made_by("i", 1),
        vmids: VmidRange { from: 1000, to: 1099 },
        datasets: vec![
            dataset("tank/data", None),
            dataset("tank/data/vm-1000-disk-0", Some("m1")),
            dataset("tank/data/vm-100-disk-0", None),
            dataset("tank/keep/m-m2-disk-0", Some("m2")),
        ],
        snapshots: vec![snapshot("tank/data/vm-1000-disk-0", "c1", "11"), snapshot("tank/keep/m-m2-disk-0", "c2", "12")],
        templates: None,
        vms: [(Vmid(1000), vm(&["autovibe", "av-m1"])), (Vmid(100), vm(&[]))].into(),
        machines: vec![machine("m1", Some(1000), Phase::Running)],
        checkpoints: vec![checkpoint("c1", "11"), checkpoint("c2", "12")],
        settled: ["m1", "c1", "c2"].map(str::to_owned).into(),
        leases: vec![lease.clone()],
        own_leases: vec![lease],
    }
}

#[test]
fn each_disagreement_is_found_and_nothing_else() {
    use FindingKind::{DiskUnused, Foreign, LeaseUnused, SnapshotMissing, SnapshotUnprotected, SnapshotUnused, VmMissing};
    type Change = fn(&mut Evidence);
    let cases: &[(&str, Change, &[FindingKind])] = &[
        ("all agrees", |_| {}, &[]),
        ("a snapshot is gone", |e| drop(e.snapshots.pop()), &[SnapshotMissing, DiskUnused]),
        ("one of its name is there, and is another", |e| e.snapshots[0].guid = "99".into(), &[SnapshotMissing]),
        (
            "it lies on another node, which is not seen here",
            |e| {
                e.snapshots.remove(0);
                e.checkpoints[0].status.as_mut().unwrap().volumes[0].node = "pve2".into();
            },
            &[],
        ),
        (
            "it became Ready while we looked",
            |e| {
                e.snapshots.remove(0);
                e.settled.remove("c1");
            },
            &[],
        ),
        (
            "it is being deleted",
            |e| {
                e.snapshots.remove(0);
                let now = serde_json::from_value(json!("2026-01-01T00:00:00Z")).unwrap();
                e.checkpoints[0].metadata.deletion_timestamp = Some(now);
            },
            &[],
        ),
        ("its mark is gone", |e| e.snapshots[0].properties.clear(), &[SnapshotUnprotected]),
        ("its hold is gone", |e| e.snapshots[0].holds = 0, &[SnapshotUnprotected]),
        ("its Checkpoint is gone", |e| drop(e.checkpoints.remove(0)), &[SnapshotUnused]),
        ("its Checkpoint and all of the kept disk are gone", |e| drop(e.checkpoints.pop()), &[SnapshotUnused, DiskUnused]),
        (
            "a snapshot with a mark under another name is a person's copy",
            |e| {
                e.checkpoints.remove(0);
                e.snapshots[0].name.name = "mine".into();
            },
            &[],
        ),
        ("the VM is gone", |e| drop(e.vms.remove(&Vmid(1000))), &[VmMissing]),
        (
            "the VM was made while we looked",
            |e| {
                e.vms.remove(&Vmid(1000));
                e.settled.remove("m1");
            },
            &[],
        ),
        (
            "the Machine of a lost VM has ended",
            |e| {
                e.vms.remove(&Vmid(1000));
                e.machines[0].status.as_mut().unwrap().phase = Phase::Succeeded;
            },
            &[],
        ),
        (
            "the Machine of another Hub",
            |e| {
                e.vms.remove(&Vmid(1000));
                e.machines[0].spec.hub = Some("other".into());
            },
            &[],
        ),
        ("someone else's VM in our range", |e| drop(e.vms.insert(Vmid(1005), vm(&["web"]))), &[Foreign]),
        (
            "someone else's VM with its disk in our range",
            |e| {
                e.vms.insert(Vmid(1005), vm(&["web"]));
                e.datasets.push(dataset("tank/data/vm-1005-disk-0", None));
            },
            &[Foreign],
        ),
        ("a disk that nobody knows in our range", |e| e.datasets.push(dataset("tank/data/vm-1005-disk-0", None)), &[Foreign]),
        ("a disk that nobody knows elsewhere", |e| e.datasets.push(dataset("tank/data/vm-2005-disk-0", None)), &[]),
        ("a disk of a Machine that is gone", |e| e.datasets.push(dataset("tank/data/vm-1005-disk-0", Some("m9"))), &[DiskUnused]),
        (
            "a disk of a Machine that is gone, in use by a VM",
            |e| {
                e.datasets.push(dataset("tank/data/vm-1005-disk-0", Some("m9")));
                e.vms.insert(Vmid(1005), vm(&["autovibe", "av-m9"]));
            },
            &[],
        ),
        ("a lease that nothing bears", |e| e.own_leases.push(VmidLease { vmid: 1007, machine_uid: "m9".into() }), &[LeaseUnused]),
        (
            "a lease whose disk is left",
            |e| {
                e.own_leases.push(VmidLease { vmid: 1007, machine_uid: "m9".into() });
                e.datasets.push(dataset("tank/data/vm-1007-disk-0", Some("m9")));
            },
            &[DiskUnused],
        ),
    ];
    for (what, change, expected) in cases {
        let mut evidence = sound();
        change(&mut evidence);
        let found = judge(&evidence);
        let kinds: Vec<FindingKind> = found.iter().map(|finding| finding.kind).collect();
        assert_eq!(kinds, *expected, "{what}: {found:?}");
    }
}

#[test]
fn an_audit_is_due_when_asked_for_and_once_a_day() {
    let now: Timestamp = "2026-05-02T12:00:00Z".parse().unwrap();
    let ago = |hours: i64| k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(now - SignedDuration::from_hours(hours));
    let hub = |created: i64, annotation: Option<&str>, audit: Option<(i64, Option<&str>, bool)>| {
        let mut hub: Hub =
            serde_json::from_value(json!({"metadata": {"name": "default"}, "spec": {"infrastructure": {"lab": {}}}})).unwrap();
        hub.metadata.creation_timestamp = Some(ago(created));
        hub.metadata.annotations = annotation.map(|text| [(AUDIT.to_owned(), text.to_owned())].into());
        hub.status.get_or_insert_default().audit = audit.map(|(hours, asked, failed)| Audit {
            at: Some(ago(hours)),
            asked: asked.map(str::to_owned),
            message: failed.then(|| "away".into()),
            ..Audit::default()
        });
        super::is_due(&hub, now)
    };
    assert!(!hub(1, None, None));
    assert!(hub(25, None, None));
    assert!(hub(1, Some("a"), None));
    assert!(!hub(99, Some("a"), Some((1, Some("a"), false))));
    assert!(hub(99, Some("b"), Some((1, Some("a"), false))));
    assert!(hub(99, Some("a"), Some((25, Some("a"), false))));
    assert!(hub(99, None, Some((25, Some("a"), false))));
    assert!(!hub(99, None, Some((1, Some("a"), false))));
    assert!(hub(99, Some("a"), Some((1, Some("a"), true))));
}

#[test]
fn only_what_this_database_knows_to_be_unused_is_destroyed_and_only_when_it_was_named_before() {
    let mut evidence = sound();
    let by = |mark: &str| (MADE_BY.to_owned(), mark.to_owned());
    for (n, mark) in [(1, Some(made_by("i", 1))), (2, Some(made_by("i", 0))), (3, Some(made_by("j", 1))), (4, None)] {
        let mut stray = snapshot("tank/keep/m-m2-disk-0", &format!("gone{n}"), &format!("9{n}"));
        let mut disk = dataset(&format!("tank/keep/m-gone{n}-disk-0"), Some(&format!("gone{n}")));
        for properties in [&mut stray.properties, &mut disk.properties] {
            properties.extend(mark.as_deref().map(by));
        }
        evidence.snapshots.push(stray);
        evidence.datasets.push(disk);
    }
    let found = judge(&evidence);
    assert_eq!(found.len(), 8, "{found:?}");
    assert_eq!(found.iter().filter(|finding| finding.message.contains("--collect")).count(), 2, "{found:?}");
    let names = |before: &[crate::api::hub::Finding]| -> Vec<String> {
        let (snapshots, disks) = unused(&evidence, &str::to_owned, &found, before);
        snapshots.iter().map(|found| found.name.to_string()).chain(disks.iter().map(|found| found.name.to_string())).collect()
    };
    assert_eq!(names(&found), ["tank/keep/m-m2-disk-0@av-gone1", "tank/keep/m-gone1-disk-0"]);
    assert!(names(&[]).is_empty(), "what nobody was told of stays");
    let other_kind: Vec<_> =
        found.iter().cloned().map(|finding| crate::api::hub::Finding { kind: FindingKind::Foreign, ..finding }).collect();
    assert!(names(&other_kind).is_empty());
    evidence.made_by = String::new();
    assert!(unused(&evidence, &str::to_owned, &found, &found).0.is_empty(), "who is nobody made nothing");
}
