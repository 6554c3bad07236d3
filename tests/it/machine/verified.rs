//! Checkpoints that are proven: by a Machine on a clone of them, without a network, which is gone afterwards.

use super::stage::{Death, NAMESPACE, Stage, die_after_each, status};
use super::{places, templates};
use autovibe::api::checkpoint::{Checked, CheckpointPhase, Content, Outcome, Taken, VERIFY, Verified};
use autovibe::api::machine::{OperatingMode, Phase};
use autovibe::api::{Checkpoint, Hub, Kind, Machine};
use autovibe::objects::Part;
use autovibe::zfs::{Dataset, Runner, Snapshot, Zfs};
use futures::StreamExt;
use serde_json::{Value, json};
use std::time::Duration;

/// Two answers, after which its command passes.
fn spec() -> Value {
    json!({
        "goal": { "prompt": "work", "verify": { "command": ["sim-turns", "2"] } },
        "agent": { "type": "ClaudeCode", "model": "claude-sonnet-4-5" },
    })
}

async fn ask(stage: &Stage, name: &str, text: &str) {
    let change = json!({ "metadata": { "annotations": { VERIFY: text } } });
    stage.objects().merge::<Checkpoint>(NAMESPACE, name, Part::Main, change).await.unwrap();
}

/// Waits until this request was answered, and the Machine that did it is gone.
async fn until_verified(stage: &Stage, name: &str, text: &str) -> Verified {
    let mut changes = stage.objects().watch::<Checkpoint>();
    let answered = async {
        loop {
            let found = changes.next().await.expect("the store is open").object;
            let verified = found.status.clone().unwrap_or_default().verified;
            if let Some(verified) = verified.filter(|verified| found.name() == name && verified.asked.as_deref() == Some(text)) {
                return verified;
            }
        }
    };
    let verified = tokio::time::timeout(Duration::from_mins(1), answered).await;
    let verified = verified.unwrap_or_else(|_| panic!("{name} is not verified in time"));
    stage.until_gone(&format!("{name}-verify")).await;
    assert!(stage.vms().is_empty(), "a VM is left: {:?}", stage.vms());
    verified
}

fn checks(verified: &Verified) -> Vec<(Checked, bool)> {
    verified.checks.iter().map(|check| (check.what, check.passed)).collect()
}

/// What the condition says.
async fn told(stage: &Stage, name: &str) -> (CheckpointPhase, String, String) {
    let found = stage.checkpoint(name).await.unwrap().status.unwrap();
    let condition = found.conditions.iter().find(|condition| condition.type_ == "Verified").unwrap().clone();
    (found.phase, condition.status, condition.reason)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_checkpoint_is_proven_by_a_clone_without_a_network_and_nothing_is_left_of_it() {
    let mut stage = Stage::new().await;
    stage.create("a", spec()).await;
    assert_eq!(status(&stage.until_finished("a").await).phase, Phase::Succeeded);
    let taken = stage.checkpoint("a-final").await.unwrap().status.unwrap();
    assert_eq!(taken.digests.iter().map(|digest| digest.content).collect::<Vec<_>>(), [Content::Conversation, Content::Workspace]);
    let before = stage.datasets();

    ask(&stage, "a-final", "1").await;
    let verifier = stage.until("a-final-verify", "with a VM", |machine| status(machine).vm.is_some()).await;
    let config = stage.config(status(&verifier).vm.unwrap().vmid).await.values;
    assert!(config.contains_key("scsi0") && !config.keys().any(|key| key.starts_with("net")), "{config:?}");
    let verified = until_verified(&stage, "a-final", "1").await;
    let all = [Checked::Boot, Checked::Conversation, Checked::Workspace, Checked::Command].map(|what| (what, true));
    assert_eq!((verified.outcome, checks(&verified)), (Outcome::Passed, all.to_vec()), "{verified:?}");
    assert_eq!(told(&stage, "a-final").await, (CheckpointPhase::Ready, "True".into(), "Verified".into()));
    assert_eq!(stage.datasets(), before);
    assert!(stage.store().vmid_leases("default").await.unwrap().is_empty());
    // No agent ran there, and so nothing was asked of a model.
    assert!(status(&verifier).agent.is_none());

    // One that ends while it is suspended is what it was then.
    let hangs = json!({ "goal": { "prompt": "#sim turns=0 hang=true" } });
    stage.create("b", hangs).await;
    stage.until_phase("b", Phase::Running).await;
    stage.change("b", |machine| machine.spec.operating_mode = OperatingMode::Suspended).await;
    stage.until_phase("b", Phase::Suspended).await;
    stage.objects().delete::<Machine>(NAMESPACE, "b", None).await.unwrap();
    stage.until_gone("b").await;
    for name in ["b-suspend-1", "b-final"] {
        ask(&stage, name, "1").await;
        let verified = until_verified(&stage, name, "1").await;
        assert_eq!(checks(&verified), [(Checked::Boot, true), (Checked::Workspace, true)], "{name}: {verified:?}");
    }

    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_a_machine_that_went_on_is_compared_with_what_its_first_clone_held() {
    let mut stage = Stage::new().await;
    stage.create("a", spec()).await;
    stage.until_finished("a").await;
    let digests = async || stage.checkpoint("a-0002").await.unwrap().status.unwrap().digests;
    assert!(digests().await.is_empty(), "no answer waits for a digest");
    // The conversation is asked for what it was taken with.
    ask(&stage, "a-0002", "1").await;
    let first = until_verified(&stage, "a-0002", "1").await;
    assert_eq!(checks(&first), [(Checked::Boot, true), (Checked::ToolResults, true)], "{first:?}");
    assert!(first.message.contains("its workspace /home/agent/workspace was read for the first time"), "{first:?}");
    let kept: Vec<_> = digests().await.iter().map(|digest| (digest.content, digest.taken)).collect();
    assert_eq!(kept, [(Content::Conversation, Taken::AtVerification), (Content::Workspace, Taken::AtVerification)]);
    ask(&stage, "a-0002", "2").await;
    let second = until_verified(&stage, "a-0002", "2").await;
    let all = [Checked::Boot, Checked::Conversation, Checked::Workspace, Checked::ToolResults].map(|what| (what, true));
    assert_eq!(checks(&second), all, "{second:?}");

    // One that passed and does not any more says so, and stays.
    let mut changed = stage.checkpoint("a-0002").await.unwrap();
    changed.status.as_mut().unwrap().digests[1].sha256 = "0".repeat(64);
    stage.objects().update_status(&changed).await.unwrap();
    ask(&stage, "a-0002", "3").await;
    let third = until_verified(&stage, "a-0002", "3").await;
    let passed = second.at.clone().unwrap().0;
    let words = format!("its workspace /home/agent/workspace is not what it was when it was first verified; it passed at {passed}");
    assert_eq!((third.outcome, third.message, third.last_passed), (Outcome::Failed, words, second.at));
    assert_eq!(told(&stage, "a-0002").await, (CheckpointPhase::Ready, "False".into(), "VerificationFailed".into()));
    // What is wrong is not what the next is compared with.
    assert_eq!(digests().await, changed.status.unwrap().digests);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_as_it_was_is_told_and_nothing_is_deleted() {
    let mut stage = Stage::new().await;
    stage.create("a", spec()).await;
    stage.until_finished("a").await;
    let mut taken = stage.checkpoint("a-final").await.unwrap();
    let right = taken.clone();
    taken.status.as_mut().unwrap().digests[1].sha256 = "0".repeat(64);
    stage.objects().update_status(&taken).await.unwrap();
    let before = stage.datasets();

    ask(&stage, "a-final", "1").await;
    let verified = until_verified(&stage, "a-final", "1").await;
    let expect = [(Checked::Boot, true), (Checked::Conversation, true), (Checked::Workspace, false), (Checked::Command, true)];
    assert_eq!((verified.outcome, checks(&verified)), (Outcome::Failed, expect.to_vec()));
    assert_eq!(verified.message, "its workspace /home/agent/workspace is not what it was");
    assert_eq!(told(&stage, "a-final").await, (CheckpointPhase::Ready, "False".into(), "VerificationFailed".into()));
    assert_eq!(stage.datasets(), before);

    // With another text it is looked at again.
    let mut again = stage.checkpoint("a-final").await.unwrap();
    again.status.as_mut().unwrap().digests = right.status.clone().unwrap().digests;
    stage.objects().update_status(&again).await.unwrap();
    ask(&stage, "a-final", "2").await;
    assert_eq!(until_verified(&stage, "a-final", "2").await.outcome, Outcome::Passed);

    // One whose snapshot somebody destroyed.
    let zfs = Zfs::open(Runner::Socket(stage.lab.endpoint().zfs_socket.clone().unwrap())).await.unwrap();
    let volume = right.status.unwrap().volumes[0].clone();
    let kept = format!("tank/autovibe/m-{}-disk-0", stage.get("a").await.uid());
    let snapshot = Snapshot { dataset: Dataset(kept), name: volume.snapshot };
    zfs.release(autovibe::driver::storage::HOLD, std::slice::from_ref(&snapshot)).await.unwrap();
    zfs.destroy_snapshot(&snapshot).await.unwrap();
    ask(&stage, "a-final", "3").await;
    let verified = until_verified(&stage, "a-final", "3").await;
    assert_eq!((verified.outcome, checks(&verified)), (Outcome::Failed, vec![(Checked::Boot, false)]));
    assert!(verified.message.contains("is gone"), "{verified:?}");
    assert!(stage.checkpoint("a-final").await.is_some_and(|found| !found.is_deleting()));
    stage.stop().await;
}

/// Whether a verification has a step of that number; if so, the hub died after it.
async fn dies_after(step: u32) -> bool {
    let death = Death::unarmed(step);
    let mut stage = Stage::with(Some(death.hook())).await;
    stage.create("a", spec()).await;
    stage.until_finished("a").await;
    let before = stage.datasets();
    death.arm();
    ask(&stage, "a-final", "1").await;
    let reached = tokio::select! {
        () = death.came() => true,
        _ = until_verified(&stage, "a-final", "1") => false,
    };
    if reached {
        stage.stop().await;
        stage.start(None).await;
        assert_eq!(until_verified(&stage, "a-final", "1").await.outcome, Outcome::Passed, "died after step {step}");
    }
    assert_eq!(stage.datasets(), before, "died after step {step}");
    assert!(stage.store().vmid_leases("default").await.unwrap().is_empty(), "died after step {step}");
    stage.stop().await;
    reached
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_that_dies_in_the_middle_of_one_leaves_nothing_behind() {
    let reached = die_after_each(dies_after).await;
    assert!(reached >= 12, "only {reached} steps were counted in a verification");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_template_is_proven_by_a_clone_without_its_network_card() {
    let mut stage = templates::stage().await;
    stage.create("a", spec()).await;
    stage.until_finished("a").await;
    let kept = stage.vms();
    ask(&stage, "a-final", "1").await;
    let verifier = stage.until("a-final-verify", "with a VM", |machine| status(machine).vm.is_some()).await;
    let config = stage.config(status(&verifier).vm.unwrap().vmid).await.values;
    assert!(config.contains_key("scsi0") && !config.keys().any(|key| key.starts_with("net")), "{config:?}");
    let answered = async {
        while stage.checkpoint("a-final").await.unwrap().status.unwrap().verified.is_none() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), answered).await.expect("it is verified");
    assert_eq!(stage.checkpoint("a-final").await.unwrap().status.unwrap().verified.unwrap().outcome, Outcome::Passed);
    stage.until_gone("a-final-verify").await;
    assert_eq!(stage.vms(), kept);
    stage.stop().await;
}

async fn hub(stage: &Stage) -> Hub {
    stage.objects().get::<Hub>("", "default").await.unwrap().unwrap()
}

/// What was last asked for by schedule.
async fn scheduled(stage: &Stage) -> Option<Option<String>> {
    hub(stage).await.status.and_then(|status| status.verification).map(|verification| verification.checkpoint)
}

async fn until_scheduled(stage: &Stage, wanted: Option<&str>) {
    let looks = async {
        while scheduled(stage).await != Some(wanted.map(str::to_owned)) {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let in_time = tokio::time::timeout(Duration::from_mins(1), looks).await;
    assert!(in_time.is_ok(), "{wanted:?} is not asked for: {:?}", scheduled(stage).await);
}

async fn every_minute(stage: &Stage) {
    schedule(stage, json!({ "interval": "1m" })).await;
}

async fn schedule(stage: &Stage, verify: Value) {
    let change = json!({ "spec": { "checkpoints": { "verify": verify } } });
    stage.objects().merge::<Hub>("", "default", Part::Main, change).await.unwrap();
}

/// As if the last time was long ago.
async fn let_time_pass(stage: &Stage) {
    let change = json!({ "status": { "verification": { "at": "2026-01-01T00:00:00Z" } } });
    stage.objects().merge::<Hub>("", "default", Part::Status, change).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn by_schedule_the_newest_final_one_comes_first_and_each_once() {
    let mut stage = Stage::new().await;
    for name in ["old", "new"] {
        stage.create(name, json!({})).await;
        stage.until_finished(name).await;
        // Times are whole seconds.
        tokio::time::sleep(Duration::from_millis(1100)).await;
    }
    every_minute(&stage).await;
    let verified = async |name: &str| stage.checkpoint(name).await.unwrap().status.unwrap().verified;
    let until = async |name: &str| {
        let looks = async {
            while verified(name).await.is_none() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(Duration::from_mins(1), looks).await.unwrap_or_else(|_| panic!("{name} is not verified"));
    };
    until("new-final").await;
    until_scheduled(&stage, Some("default/new-final")).await;
    // Over several looks of the hub: it is not time yet.
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(verified("old-final").await.is_none());
    let_time_pass(&stage).await;
    until("old-final").await;
    let_time_pass(&stage).await;
    until_scheduled(&stage, None).await;

    // Each once more, the one first that was longest ago, however new it is.
    let is_wrong = schedule_error(&stage, json!({ "interval": "1m", "again": "30s" })).await;
    assert!(is_wrong.contains("spec.checkpoints.verify.again: Invalid value: \"30s\": must be at least"), "{is_wrong}");
    schedule(&stage, json!({ "interval": "1m", "again": "1h" })).await;
    for (name, at) in [("new-final", "2026-01-01T00:00:00Z"), ("old-final", "2026-01-02T00:00:00Z")] {
        stage.until_gone(&format!("{name}-verify")).await;
        let change = json!({ "status": { "verified": { "at": at } } });
        stage.objects().merge::<Checkpoint>(NAMESPACE, name, Part::Status, change).await.unwrap();
    }
    for name in ["new-final", "old-final"] {
        let_time_pass(&stage).await;
        until_scheduled(&stage, Some(&format!("default/{name}"))).await;
        let again = async {
            let long_ago = |last: &Verified| last.at.as_ref().is_some_and(|at| at.0.to_string().starts_with("2026-01"));
            while verified(name).await.as_ref().is_some_and(long_ago) {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(Duration::from_mins(1), again).await.unwrap_or_else(|_| panic!("{name} is not verified again"));
        assert_eq!(verified(name).await.unwrap().outcome, Outcome::Passed);
        stage.until_gone(&format!("{name}-verify")).await;
    }
    let_time_pass(&stage).await;
    until_scheduled(&stage, None).await;
    stage.stop().await;
}

async fn schedule_error(stage: &Stage, verify: Value) -> String {
    let change = json!({ "spec": { "checkpoints": { "verify": verify } } });
    stage.objects().merge::<Hub>("", "default", Part::Main, change).await.unwrap_err().to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn none_is_asked_for_while_a_machine_waits_for_room_and_one_that_goes_ends_its_own() {
    let one = || json!({ "maxMachines": 1 });
    let mut stage = places::stage(&[("lab", one()), ("pve2", one()), ("pve3", one())]).await;
    stage.create("a", json!({ "placement": { "nodes": ["lab"] } })).await;
    stage.until_finished("a").await;
    let hangs = json!({ "goal": { "prompt": "#sim turns=0 hang=true" }, "placement": { "nodes": ["lab"] } });
    stage.create("b", hangs.clone()).await;
    stage.until_phase("b", Phase::Running).await;
    stage.create("c", hangs).await;
    stage.until("c", "without room", |machine| status(machine).message.is_some_and(|message| message.contains("node that it fits"))).await;
    every_minute(&stage).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(scheduled(&stage).await, None);

    // Nobody waits any more: it is asked for, and waits itself for the room on the node that has its snapshot.
    stage.objects().delete::<Machine>(NAMESPACE, "c", None).await.unwrap();
    until_scheduled(&stage, Some("default/a-final")).await;
    stage.until("a-final-verify", "waiting", |machine| status(machine).phase == Phase::Waiting).await;
    stage.objects().delete::<Checkpoint>(NAMESPACE, "a-final", None).await.unwrap();
    stage.until_gone("a-final-verify").await;
    let collected = async {
        while stage.checkpoint("a-final").await.is_some() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), collected).await.expect("it is collected");
    stage.stop().await;
}
