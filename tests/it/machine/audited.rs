//! An audit of a Hub after a life, and after hands that were not ours.

use super::stage::{NAMESPACE, Stage, status};
use autovibe::api::hub::{AUDIT, Audit, COLLECT, FindingKind, Hub};
use autovibe::api::machine::{OperatingMode, Phase};
use autovibe::api::{Checkpoint, Kind};
use autovibe::clock::Clock;
use autovibe::driver::storage::{CHECKPOINT, HOLD, MADE_BY, snapshot_name};
use autovibe::lab::Call;
use autovibe::objects::{Cipher, Objects, Part};
use autovibe::store::Store;
use autovibe::zfs::{Dataset, Runner, Snapshot, Zfs};
use serde_json::json;
use std::time::Duration;

/// Asks for one and waits for it.
async fn audited(stage: &Stage, asked: &str) -> Audit {
    annotated(stage, asked, None).await
}

/// Asks for one that collects, and waits for it.
pub(super) async fn collected(stage: &Stage, asked: &str) -> Audit {
    annotated(stage, asked, Some(asked)).await
}

async fn annotated(stage: &Stage, asked: &str, collect: Option<&str>) -> Audit {
    let change = json!({ "metadata": { "annotations": { AUDIT: asked, COLLECT: collect } } });
    stage.objects().merge::<Hub>("", "default", Part::Main, change).await.unwrap();
    let done = async {
        loop {
            let hub = stage.objects().get::<Hub>("", "default").await.unwrap().unwrap();
            let audit = hub.status.unwrap_or_default().audit.filter(|audit| audit.asked.as_deref() == Some(asked));
            if let Some(audit) = audit {
                return audit;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), done).await.expect("an audit within a minute")
}

fn kinds(audit: &Audit) -> Vec<(FindingKind, &str)> {
    audit.findings.iter().map(|finding| (finding.kind, finding.name.as_str())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_audit_finds_what_hands_did_and_changes_nothing() {
    let mut stage = Stage::new().await;
    let agent = json!({ "type": "ClaudeCode", "model": "claude-sonnet-4-5" });
    stage.create("a", json!({ "goal": { "prompt": "work" }, "agent": agent })).await;
    let a = stage.until_finished("a").await;

    // Someone else's VM stands in the range from the beginning.
    let foreign = (FindingKind::Foreign, "VM 1001");
    let audit = audited(&stage, "first").await;
    assert_eq!((kinds(&audit), audit.found, &audit.message), (vec![foreign], 1, &None), "{audit:?}");
    assert!(audit.datasets >= 2 && audit.snapshots >= 2 && audit.vms == 1, "{audit:?}");

    let zfs = Zfs::open(Runner::Socket(stage.lab.endpoint().zfs_socket.clone().unwrap())).await.unwrap();
    let kept = Dataset(format!("tank/autovibe/m-{}-disk-0", a.uid()));
    let of = |checkpoint: &Checkpoint| Snapshot { dataset: kept.clone(), name: snapshot_name(checkpoint.uid()) };
    let last = stage.checkpoint(status(&a).final_checkpoint.as_deref().unwrap()).await.unwrap();
    // Of the checkpoints before it, one loses its snapshot, and the last its hold. A stranger's snapshot bears our marks.
    let (all, _) = stage.objects().list::<Checkpoint>(Some(NAMESPACE)).await.unwrap();
    let lost = all.iter().find(|checkpoint| checkpoint.spec.machine.is_some() && checkpoint.uid() != last.uid()).expect("one more");
    zfs.release(HOLD, &[of(lost)]).await.unwrap();
    zfs.destroy_snapshot(&of(lost)).await.unwrap();
    zfs.release(HOLD, &[of(&last)]).await.unwrap();
    let stray = Snapshot { dataset: kept.clone(), name: snapshot_name("0000") };
    zfs.snapshot(std::slice::from_ref(&stray), &[(CHECKPOINT.to_owned(), "0000".to_owned())].into()).await.unwrap();

    let (lost, last) = (format!("checkpoint {NAMESPACE}/{}", lost.name()), format!("checkpoint {NAMESPACE}/{}", last.name()));
    let (datasets, changes, stray) = (stage.lab.datasets(), stage.lab.changes(), stray.to_string());
    let audit = audited(&stage, "second").await;
    let expected = vec![
        (FindingKind::SnapshotMissing, lost.as_str()),
        (FindingKind::SnapshotUnprotected, last.as_str()),
        foreign,
        (FindingKind::SnapshotUnused, stray.as_str()),
    ];
    assert_eq!(kinds(&audit), expected, "{audit:?}");
    let hub = stage.objects().get::<Hub>("", "default").await.unwrap().unwrap();
    let told = hub.status.unwrap().conditions.into_iter().find(|condition| condition.type_ == "AuditFindings").unwrap();
    assert!(told.message.starts_with("4 things do not agree") && told.message.contains(&lost), "{}", told.message);

    // What is not seen is no evidence: what was found stands, and it is said why it is old.
    stage.lab.fail_next(Call::Resources, 595);
    let audit = audited(&stage, "third").await;
    assert_eq!(kinds(&audit), expected, "{audit:?}");
    assert!(audit.message.as_ref().is_some_and(|why| why.contains("Proxmox")), "{audit:?}");
    // A failure is the answer for a second.
    let mut audit = audited(&stage, "again").await;
    for n in 0..100 {
        if audit.message.is_none() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        audit = audited(&stage, &format!("again {n}")).await;
    }
    assert_eq!((kinds(&audit), &audit.message), (expected, &None));
    assert_eq!((stage.lab.datasets(), stage.lab.changes()), (datasets, changes), "an audit changes nothing");
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_left_over_is_collected_when_asked_and_nothing_else() {
    let mut stage = Stage::new().await;
    let agent = json!({ "type": "ClaudeCode", "model": "claude-sonnet-4-5" });
    stage.create("a", json!({ "goal": { "prompt": "work" }, "agent": agent })).await;
    let a = stage.until_finished("a").await;
    let zfs = Zfs::open(Runner::Socket(stage.lab.endpoint().zfs_socket.clone().unwrap())).await.unwrap();
    let kept = Dataset(format!("tank/autovibe/m-{}-disk-0", a.uid()));
    // Hands remove the records of two checkpoints and leave their snapshots: one of them is the base of a clone.
    let (all, _) = stage.objects().list::<Checkpoint>(Some(NAMESPACE)).await.unwrap();
    let of_a: Vec<&Checkpoint> = all.iter().filter(|checkpoint| checkpoint.spec.machine.is_some()).collect();
    assert!(of_a.len() >= 3, "{}", of_a.len());
    let last = status(&a).final_checkpoint.clone().unwrap();
    let of = |checkpoint: &Checkpoint| Snapshot { dataset: kept.clone(), name: snapshot_name(checkpoint.uid()) };
    let lost: Vec<Snapshot> = of_a.iter().filter(|checkpoint| checkpoint.name() != last).take(2).map(|checkpoint| of(checkpoint)).collect();
    let clone = Dataset("tank/data/of-someone".into());
    zfs.clone_snapshot(&lost[1], &clone, &[].into()).await.unwrap();
    let names: Vec<String> = of_a.iter().filter(|checkpoint| lost.contains(&of(checkpoint))).map(|found| found.name().to_owned()).collect();
    // While no controller runs, so that none acts before the finalizer is gone.
    stage.stop().await;
    let store = Store::open(&stage.data().join("state.db")).await.unwrap();
    let objects = Objects::new(store.clone(), Clock::system(), Cipher::ephemeral());
    for name in &names {
        let change = json!({ "metadata": { "finalizers": null } });
        objects.merge::<Checkpoint>(NAMESPACE, name, Part::Main, change).await.unwrap();
        objects.delete::<Checkpoint>(NAMESPACE, name, None).await.unwrap();
    }
    store.close().await;
    stage.start(None).await;
    // A stranger's bears the mark of a checkpoint, and not ours.
    let stray = Snapshot { dataset: kept.clone(), name: snapshot_name("0000") };
    let marks = [(CHECKPOINT.to_owned(), "0000".to_owned()), (MADE_BY.to_owned(), "someone/0".to_owned())];
    zfs.snapshot(std::slice::from_ref(&stray), &marks.into()).await.unwrap();

    let before = stage.lab.datasets();
    let audit = collected(&stage, "too soon").await;
    assert!(audit.collected.is_empty(), "what no audit named before is left: {audit:?}");
    assert_eq!(stage.lab.datasets(), before);
    let audit = collected(&stage, "now").await;
    assert_eq!(audit.collected, [lost[0].to_string()], "{audit:?}");
    let left: Vec<_> = audit.findings.iter().filter(|finding| finding.kind == FindingKind::SnapshotUnused).collect();
    assert_eq!(left.len(), 2, "{audit:?}");
    assert!(left.iter().any(|finding| finding.name == lost[1].to_string() && finding.message.contains("not collected")), "{audit:?}");
    assert!(left.iter().any(|finding| finding.name == stray.to_string() && finding.message.contains("another installation")), "{audit:?}");
    assert!(zfs.snapshot_info(&lost[0]).await.unwrap().is_none());
    for snapshot in [&lost[1], &stray] {
        let info = zfs.snapshot_info(snapshot).await.unwrap().expect("it is left");
        assert_eq!(info.holds, u64::from(snapshot != &stray), "its hold stays with it");
    }
    // Nobody asked again.
    let audit = audited(&stage, "later").await;
    assert!(audit.collected.is_empty() && audit.findings.iter().any(|finding| finding.name == lost[1].to_string()), "{audit:?}");
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_memory_of_a_suspended_machine_is_its_own() {
    let mut stage = Stage::new().await;
    stage.create("a", json!({ "goal": { "prompt": "#sim idle=true" }, "suspend": { "memory": "Keep" } })).await;
    stage.until_phase("a", Phase::Running).await;
    stage.change("a", |machine| machine.spec.operating_mode = OperatingMode::Suspended).await;
    stage.until_phase("a", Phase::Suspended).await;
    assert!(stage.datasets().iter().any(|name| name.contains("-state-suspend-")), "{:?}", stage.datasets());
    let audit = collected(&stage, "twice").await;
    assert_eq!(kinds(&audit), [(FindingKind::Foreign, "VM 1001")], "{audit:?}");
    stage.change("a", |machine| machine.spec.operating_mode = OperatingMode::Running).await;
    let again = stage.until_phase("a", Phase::Running).await;
    assert_eq!(status(&again).agent.unwrap().resumed, 1);
    stage.stop().await;
}
