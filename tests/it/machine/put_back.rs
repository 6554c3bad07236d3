//! A Machine whose disks are put back: to a checkpoint that a person names, and to where `spec.retry` begins again.

use super::stage::{AT_ONCE, Death, NAMESPACE, Stage, die_after_each, status};
use autovibe::api::checkpoint::{CheckpointPhase, Keep, Trigger};
use autovibe::api::machine::{OperatingMode, Phase, TerminationReason};
use autovibe::api::{Checkpoint, Kind, Machine};
use autovibe::lab::Call;
use autovibe::objects::Part;
use futures::StreamExt;
use serde_json::{Value, json};
use std::time::Duration;

/// Two answers, and then it stays.
fn stays() -> Value {
    json!({ "goal": { "prompt": "work\n#sim hang=true" }, "agent": { "type": "ClaudeCode", "model": "claude-sonnet-4-5" } })
}

async fn ask(stage: &Stage, checkpoint: &str, request: &str) {
    let change = json!({ "spec": { "restore": { "checkpoint": checkpoint, "request": request } } });
    stage.objects().merge::<Machine>(NAMESPACE, "a", Part::Main, change).await.unwrap();
}

/// What its present disk holds.
fn disk(stage: &Stage, machine: &Machine) -> Value {
    stage.lab.disk(&status(machine).vm.unwrap().disks[0]).unwrap_or_default()
}

/// Until it took so many turns since its present disk was cloned, and has a checkpoint of them.
async fn until_turns(stage: &Stage, turns: u64, launches: u32) -> Machine {
    let done = |machine: &Machine| {
        let state = status(machine);
        let stays = state.phase == Phase::Running && state.agent.as_ref().is_some_and(|agent| agent.launches == launches);
        stays && state.vm.is_some() && disk(stage, machine)["turns"] == turns
    };
    loop {
        let machine = stage.until_phase("a", Phase::Running).await;
        if done(&machine) {
            return machine;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Looks until it is so.
async fn until(so: impl AsyncFn() -> bool) {
    let looks = async {
        while !so().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), looks).await.expect("it comes about within a minute");
}

async fn checkpoint_message(stage: &Stage, name: &str) -> String {
    let found = stage.checkpoint(name).await.and_then(|found| found.status);
    let conditions = found.iter().flat_map(|status| &status.conditions).map(|condition| condition.message.clone());
    conditions.chain(found.iter().filter_map(|status| status.message.clone())).collect()
}

async fn checkpoint(stage: &Stage, name: &str) -> Checkpoint {
    let found = stage.checkpoint(name).await.unwrap_or_else(|| panic!("there is no {name}"));
    assert_eq!(found.status.as_ref().unwrap().phase, CheckpointPhase::Ready, "{name}");
    found
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_is_put_back_to_any_of_its_checkpoints_and_nothing_is_lost() {
    let mut stage = Stage::new().await;
    stage.create("a", stays()).await;
    until_turns(&stage, 2, 1).await;
    let before = stage.until("a", "captured", |m| status(m).last_checkpoint.as_deref() == Some("a-0002")).await;

    // What is not its own, or not there, is not put back; it goes on.
    ask(&stage, "nowhere", "").await;
    let why = |part: &'static str| move |m: &Machine| status(m).message.is_some_and(|message| message.contains(part));
    let waits = stage.until("a", "it says why", why("checkpoint nowhere, which does not exist")).await;
    assert_eq!((status(&waits).phase, status(&waits).vm), (Phase::Running, status(&before).vm));
    stage.create("other", json!({})).await;
    stage.until_finished("other").await;
    ask(&stage, "other-final", "").await;
    stage.until("a", "it says why", why("checkpoint other-final is not of this machine")).await;

    ask(&stage, "a-0001", "").await;
    let after = until_turns(&stage, 2, 2).await;
    let (old, new) = (status(&before).vm.unwrap(), status(&after).vm.unwrap());
    assert_eq!((&new.node, new.vmid), (&old.node, old.vmid), "the same VM's number");
    assert_eq!(new.disks, [format!("tank/data/vm-{}-disk-1", new.vmid)]);
    assert_eq!(stage.vms().len(), 1, "{:?}", stage.vms());
    let kept = format!("tank/autovibe/m-{}-disk-0", after.uid());
    assert!(stage.datasets().contains(&kept), "{:?}", stage.datasets());
    // Two turns were played anew, on a disk that had none; the conversation went on from the prompt.
    let messages = disk(&stage, &after)["messages"].clone();
    assert!(messages[0].to_string().contains("Continue from where you left off"), "{messages}");
    assert_eq!(messages.as_array().unwrap().iter().filter(|message| message["role"] == "assistant").count(), 2);
    let was = checkpoint(&stage, "a-before-restore-1").await;
    assert_eq!((was.spec.trigger, was.status.unwrap().parent.as_deref()), (Trigger::Restore, Some("a-0002")));
    assert_eq!(was.spec.keep, Keep::Forever, "it is how this is undone");
    let next = stage.until("a", "a newer checkpoint", |m| status(m).last_checkpoint.as_deref() == Some("a-0004")).await;
    assert_eq!(checkpoint(&stage, "a-0003").await.status.unwrap().parent.as_deref(), Some("a-0001"));
    assert_eq!(status(&next).restored.unwrap().checkpoint.as_deref(), Some("a-0001"));
    // Its base stays while its disk is a clone of it.
    stage.objects().delete::<Checkpoint>(NAMESPACE, "a-0001", None).await.unwrap();
    until(async || {
        let message = checkpoint_message(&stage, "a-0001").await;
        message.contains("it stays until nothing needs it")
    })
    .await;

    // And that is undone, while it is suspended: it stays so.
    stage.change("a", |machine| machine.spec.operating_mode = OperatingMode::Suspended).await;
    stage.until_phase("a", Phase::Suspended).await;
    ask(&stage, "a-before-restore-1", "undo").await;
    let undone = stage.until("a", "put back", |m| {
        let state = status(m);
        state.phase == Phase::Suspended && state.restored.is_some_and(|restored| restored.count == 2) && state.vm.is_some()
    });
    let undone = undone.await;
    assert_eq!(status(&undone).vm.unwrap().disks, [format!("tank/data/vm-{}-disk-2", new.vmid)]);
    assert_eq!(disk(&stage, &undone)["turns"], 2);
    stage.change("a", |machine| machine.spec.operating_mode = OperatingMode::Running).await;
    let again = stage.until_phase("a", Phase::Running).await;
    assert_eq!(status(&again).agent.unwrap().launches, 4, "once for the put back, once for the resume");
    // The same again, by another request.
    ask(&stage, "a-before-restore-1", "once more").await;
    stage.until("a", "put back", |m| status(m).phase == Phase::Running && status(m).restored.is_some_and(|r| r.count == 3)).await;

    // Its end is as any other; with its checkpoints all goes.
    stage.objects().delete::<Machine>(NAMESPACE, "a", None).await.unwrap();
    stage.until_gone("a").await;
    checkpoint(&stage, "a-final").await;
    let (all, _) = stage.objects().list::<Checkpoint>(Some(NAMESPACE)).await.unwrap();
    for checkpoint in all.iter().filter(|checkpoint| checkpoint.spec.machine.as_deref() == Some("a")) {
        stage.objects().delete::<Checkpoint>(NAMESPACE, checkpoint.name(), None).await.unwrap();
    }
    until(async || !stage.datasets().iter().any(|name| name.contains(again.uid()) || name.contains("/vm-"))).await;
    stage.stop().await;
}

async fn assert_put_back(stage: &Stage, what: &str) {
    let machine = until_turns(stage, 2, 2).await;
    let state = status(&machine);
    let vm = state.vm.unwrap();
    assert_eq!(vm.disks, [format!("tank/data/vm-{}-disk-1", vm.vmid)], "{what}");
    assert_eq!(state.restored.as_ref().map(|restored| restored.count), Some(1), "{what}");
    assert_eq!(stage.vms().len(), 1, "{what}: {:?}", stage.vms());
    let was = checkpoint(stage, "a-before-restore-1").await.status.unwrap();
    assert_eq!(was.volumes.len(), 1, "{what}");
    let kept = format!("tank/autovibe/m-{}-disk-0", machine.uid());
    let disks: Vec<String> = stage.datasets().into_iter().filter(|name| name.contains("-disk-") && !name.contains('@')).collect();
    assert_eq!(disks, [kept, vm.disks[0].clone()], "{what}: what it was is kept, what it is was cloned");
    let turns =
        stage.lab.disk(&format!("tank/autovibe/m-{}-disk-0@av-{}", machine.uid(), checkpoint(stage, "a-before-restore-1").await.uid()));
    assert_eq!(turns.unwrap_or_default()["turns"], 2, "{what}: nothing that it had is lost");
}

/// Whether putting it back has a step of that number; if so, the hub died after it.
async fn dies_after(step: u32) -> bool {
    let death = Death::unarmed(step);
    let mut stage = Stage::with(Some(death.hook())).await;
    stage.create("a", stays()).await;
    until_turns(&stage, 2, 1).await;
    death.arm();
    ask(&stage, "a-0001", "").await;
    let reached = tokio::select! {
        () = death.came() => true,
        _ = until_turns(&stage, 2, 2) => false,
    };
    if reached {
        stage.stop().await;
        stage.start(None).await;
    }
    assert_put_back(&stage, &format!("died after step {step}")).await;
    stage.stop().await;
    reached
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_that_dies_after_any_step_of_it_puts_it_back_all_the_same() {
    let reached = die_after_each(dies_after).await;
    assert!(reached > 10, "only {reached} steps were counted");
}

async fn loses_the_reply_to(call: Call) {
    let mut stage = Stage::new().await;
    stage.create("a", stays()).await;
    until_turns(&stage, 2, 1).await;
    stage.lab.drop_reply(call);
    ask(&stage, "a-0001", "").await;
    assert_put_back(&stage, &format!("{call:?} lost its reply")).await;
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_reply_to_any_call_of_it_changes_nothing() {
    let calls = [
        Call::Shutdown,
        Call::Configure,
        Call::Delete,
        Call::Create,
        Call::Start,
        Call::Config,
        Call::Zfs("snapshot"),
        Call::Zfs("hold"),
        Call::Zfs("rename"),
        Call::Zfs("clone"),
    ];
    futures::stream::iter(calls).for_each_concurrent(AT_ONCE, loses_the_reply_to).await;
}

/// Fails at its verification until it has taken so many turns.
fn wants_turns(turns: u32, retry: Value) -> Value {
    json!({
        "goal": { "prompt": "work", "verify": { "command": ["sim-turns", turns.to_string()] } },
        "agent": { "type": "ClaudeCode", "model": "claude-sonnet-4-5" },
        "retry": retry,
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_fails_is_tried_again_as_it_is_from_its_newest_checkpoint_or_from_its_origin() {
    let mut stage = Stage::new().await;
    // Each launch takes two turns, and a third when it goes on after the second.
    stage.create("warm", wants_turns(3, json!({ "limit": 3 }))).await;
    stage.create("fork", wants_turns(3, json!({ "limit": 1, "mode": "Fork" }))).await;
    stage.create("cold", wants_turns(3, json!({ "limit": 2, "mode": "Cold" }))).await;
    stage.create("never", wants_turns(3, Value::Null)).await;

    let warm = stage.until_finished("warm").await;
    let state = status(&warm);
    assert_eq!((state.phase, state.retries, state.restored), (Phase::Succeeded, 1, None), "{:?}", state.message);
    let told = state.agent.unwrap().told.unwrap();
    assert!(told.contains("is not achieved yet") && told.contains("sim-turns 3"), "{told}");
    stage.assert_ended_well(&warm).await;

    let fork = stage.until_finished("fork").await;
    // The checkpoint is of before the second turn, which is all that it takes again.
    let state = status(&fork);
    assert_eq!((state.phase, state.retries), (Phase::Failed, 1), "{:?}", state.message);
    assert_eq!(state.restored.as_ref().unwrap().checkpoint.as_deref(), Some("fork-0002"));
    assert_eq!(checkpoint(&stage, "fork-before-restore-1").await.status.unwrap().machine_uid.as_deref(), Some(fork.uid()));
    stage.assert_ended_well(&fork).await;

    // From its origin it takes the same two turns each time.
    let cold = stage.until_finished("cold").await;
    let state = status(&cold);
    assert_eq!((state.phase, state.termination_reason, state.retries), (Phase::Failed, Some(TerminationReason::VerifyFailed), 2));
    assert_eq!(state.restored.unwrap().count, 2);
    checkpoint(&stage, "cold-final").await;
    let never = status(&stage.until_finished("never").await);
    assert_eq!((never.phase, never.retries), (Phase::Failed, 0));
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_that_is_lost_comes_back_from_its_newest_checkpoint() {
    let mut stage = Stage::new().await;
    let mut spec = stays();
    spec["retry"] = json!({ "limit": 1 });
    stage.create("a", spec).await;
    let before = until_turns(&stage, 2, 1).await;
    let vmid = status(&before).vm.unwrap().vmid;
    // While nobody looks; the next hub sees it at once.
    stage.stop().await;
    stage.destroy_by_hand(vmid).await;
    stage.start(None).await;
    let again = stage.until("a", "it runs again", |m| status(m).phase == Phase::Running && status(m).retries == 1).await;
    let state = status(&again);
    assert_eq!(state.restored.unwrap().checkpoint.as_deref(), Some("a-0002"));
    // Its disk had checkpoints, so that it outlived the VM: what was on it and in none of them is kept.
    let was = checkpoint(&stage, "a-before-restore-1").await;
    let snapshot = format!("tank/autovibe/m-{}-disk-0@av-{}", again.uid(), was.uid());
    assert_eq!(stage.lab.disk(&snapshot).unwrap_or_default()["turns"], 2, "{:?}", stage.datasets());
    assert_eq!(stage.vms().len(), 1, "{:?}", stage.vms());
    stage.stop().await;
}
