//! Lives as people see them.

use super::stage::{NAMESPACE, Stage, status};
use autovibe::api::machine::{OperatingMode, Phase, TerminationReason};
use autovibe::api::{Kind, Machine};
use autovibe::lab::Call;
use serde_json::json;
use std::collections::BTreeMap;

/// Calls of Proxmox, without looks at tasks, whose number says how busy this machine is, and without the Hub's own look at its
/// Proxmox, which comes with time.
fn calls(stage: &Stage) -> BTreeMap<Call, u64> {
    let mut counts = stage.lab.counts();
    counts.retain(|call, _| !matches!(call, Call::Zfs(_) | Call::TaskStatus | Call::Version) && !call.is_agent());
    counts
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn goals_follow_each_other_from_checkpoint_to_checkpoint() {
    let mut stage = Stage::new().await;
    let agent = json!({ "type": "ClaudeCode", "model": "claude-sonnet-4-5" });
    let after = |before: &str| json!({ "from": null, "goal": { "prompt": "work", "after": [before] }, "agent": agent });
    // In the wrong order: each waits for the one before it.
    stage.create("c", after("b")).await;
    stage.create("b", after("a")).await;
    stage.until("c", "waiting for b", |m| status(m).message.is_some_and(|text| text.contains("machine b"))).await;
    stage.create("a", json!({ "goal": { "prompt": "work" }, "agent": agent })).await;
    let (mut parent, mut warm) = (None, BTreeMap::new());
    for name in ["a", "b", "c"] {
        let machine = stage.until_finished(name).await;
        let state = status(&machine);
        assert_eq!((state.phase, state.termination_reason), (Phase::Succeeded, Some(TerminationReason::Completed)), "{state:?}");
        assert_eq!(state.spawned_from, parent, "{name}");
        stage.assert_ended_well(&machine).await;
        let checkpoint = stage.checkpoint(state.final_checkpoint.as_deref().unwrap()).await.unwrap().status.unwrap();
        assert_eq!(checkpoint.goal.as_deref(), Some("work"));
        assert!(checkpoint.parent.is_some(), "{checkpoint:?}");
        assert_eq!(state.usage.api_calls, 2, "{state:?}");
        let disk = stage.lab.disk(&format!("tank/autovibe/m-{}-disk-0", machine.uid())).unwrap();
        assert_eq!(disk["hostname"], name);
        parent = state.final_checkpoint;
        if name == "a" {
            warm = calls(&stage);
        }
    }
    let mut calls = calls(&stage);
    for (call, before) in warm {
        *calls.get_mut(&call).unwrap() -= before;
    }
    let all: u64 = calls.values().sum();
    // The lists are shared by all Machines; how often one is looked at again says how long a life took on this machine.
    let lists = calls[&Call::Resources] + calls[&Call::List];
    assert!(all - lists <= 2 * 9 && lists <= 2 * 8, "Proxmox calls for the lives of b and c: {calls:?}");
    stage.stop().await;
}

/// The third's base is a checkpoint of one that inherited it itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_works_where_the_one_did_that_it_is_spawned_from() {
    let mut stage = Stage::new().await;
    let goal = |workspace: Option<&str>, after: &[&str], expect: &str| {
        let verify = json!({ "command": ["sim-in", expect] });
        let mut goal = json!({ "prompt": "#sim turns=0", "verify": verify, "after": after });
        goal["workspace"] = workspace.into();
        goal
    };
    let todo = "/home/agent/todo";
    stage.create("a", json!({ "goal": goal(Some(todo), &[], todo) })).await;
    stage.create("b", json!({ "from": null, "goal": goal(None, &["a"], todo) })).await;
    stage.create("c", json!({ "from": { "machine": { "name": "b" } }, "goal": goal(None, &["b"], todo) })).await;
    stage.create("d", json!({ "from": { "checkpoint": "b-final" }, "goal": goal(Some("/srv"), &[], "/srv") })).await;
    stage.create("e", json!({ "goal": goal(None, &[], "/home/agent/workspace") })).await;
    for (name, expect) in [("a", todo), ("b", todo), ("c", todo), ("d", "/srv"), ("e", "/home/agent/workspace")] {
        let machine = stage.until_finished(name).await;
        let state = status(&machine);
        assert_eq!((state.phase, state.workspace.as_deref()), (Phase::Succeeded, Some(expect)), "{name}: {:?}", state.message);
        let last = stage.checkpoint(&state.final_checkpoint.unwrap()).await.unwrap().status.unwrap();
        assert_eq!(last.workspace.as_deref(), Some(expect), "{name}");
    }
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_model_that_no_provider_has_is_named_in_the_end() {
    let mut stage = Stage::new().await;
    stage.create("a", json!({ "goal": { "prompt": "work" }, "agent": { "type": "ClaudeCode", "model": "gpt-unheard-of" } })).await;
    let state = status(&stage.until_finished("a").await);
    let message = state.message.unwrap();
    assert_eq!((state.phase, state.termination_reason), (Phase::Failed, Some(TerminationReason::AgentFailed)), "{message}");
    assert!(message.contains("the gateway refused its request: model `gpt-unheard-of` is not configured in Hub default"), "{message}");
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_end_has_a_reason_a_final_checkpoint_and_no_vm() {
    let mut stage = Stage::new().await;
    let ends = [
        ("done", json!({}), TerminationReason::Completed),
        ("fails", json!({ "goal": { "prompt": "#sim turns=0 exit=1" } }), TerminationReason::AgentFailed),
        ("never-boots", json!({}), TerminationReason::GuestLost),
        (
            "hangs",
            json!({ "goal": { "prompt": "#sim turns=0 hang=true" }, "budget": { "limits": { "time": "1s" } } }),
            TerminationReason::Timeout,
        ),
        (
            "unverified",
            json!({ "goal": { "prompt": "#sim turns=0", "verify": { "command": ["false"] } } }),
            TerminationReason::VerifyFailed,
        ),
        ("verified", json!({ "goal": { "prompt": "#sim turns=0", "verify": { "command": ["true"] } } }), TerminationReason::Completed),
    ];
    for (name, spec, _) in &ends {
        stage.create(name, spec.clone()).await;
    }
    for (name, _, reason) in &ends {
        let machine = stage.until_finished(name).await;
        assert_eq!(status(&machine).termination_reason, Some(*reason), "{name}: {:?}", status(&machine));
        stage.assert_ended_well(&machine).await;
    }
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_suspended_machine_keeps_its_vm_and_goes_on() {
    let mut stage = Stage::new().await;
    stage.create("a", json!({ "goal": { "prompt": "#sim idle=true" } })).await;
    let running = stage.until_phase("a", Phase::Running).await;
    let vm = status(&running).vm.unwrap();
    stage.change("a", |machine| machine.spec.operating_mode = OperatingMode::Suspended).await;
    let suspended = stage.until_phase("a", Phase::Suspended).await;
    assert_eq!(status(&suspended).vm.as_ref(), Some(&vm));
    assert_eq!(status(&suspended).last_checkpoint.as_deref(), Some("a-suspend-1"));
    assert!(stage.vms().contains_key(&vm.vmid));
    stage.change("a", |machine| machine.spec.operating_mode = OperatingMode::Running).await;
    let again =
        stage.until("a", "running again", |m| status(m).phase == Phase::Running && status(m).agent.is_some_and(|a| a.launches == 2)).await;
    assert_eq!((status(&again).vm, status(&again).agent.unwrap().session), (Some(vm), status(&running).agent.unwrap().session));
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_machine_leaves_its_checkpoint() {
    let mut stage = Stage::new().await;
    let machine = stage.create("a", json!({ "goal": { "prompt": "#sim idle=true" } })).await;
    stage.until_phase("a", Phase::Running).await;
    stage.objects().delete::<Machine>(NAMESPACE, "a", None).await.unwrap();
    stage.until_gone("a").await;
    assert!(stage.vms().is_empty());
    assert!(stage.store().vmid_leases("default").await.unwrap().is_empty());
    let last = stage.checkpoint("a-final").await.unwrap().status.unwrap();
    assert_eq!(last.machine_uid.as_deref(), Some(machine.uid()));
    // A namesake is another Machine: its final checkpoint gets a name of its own.
    let second = stage.create("a", json!({})).await;
    let ended = stage.until_finished("a").await;
    assert_ne!(status(&ended).final_checkpoint.as_deref(), Some("a-final"));
    assert_eq!(ended.uid(), second.uid());
    stage.assert_ended_well(&ended).await;
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_machine_can_be_forked() {
    let mut stage = Stage::new().await;
    let agent = json!({ "type": "ClaudeCode", "model": "claude-sonnet-4-5" });
    stage.create("a", json!({ "goal": { "prompt": "work\n#sim turns=1 hang=true" }, "agent": agent })).await;
    stage.create("b", json!({ "from": { "machine": { "name": "a" } }, "goal": { "prompt": "work" }, "agent": agent })).await;
    let fork = stage.until_finished("b").await;
    assert_eq!(status(&fork).phase, Phase::Succeeded, "{:?}", status(&fork));
    assert_eq!(status(&fork).spawned_from.as_deref(), Some("a-0001"));
    let origin = stage.get("a").await;
    assert_eq!(status(&origin).phase, Phase::Running);
    assert_ne!(status(&origin).agent.unwrap().session, status(&fork).agent.unwrap().session);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn discarded_and_expired_machines_leave_nothing_of_theirs() {
    let mut stage = Stage::new().await;
    let machine = stage.create("a", json!({ "onTerminate": "Discard" })).await;
    let ended = stage.until_finished("a").await;
    stage.assert_no_vm(&ended).await;
    assert!(!stage.datasets().iter().any(|name| name.contains(machine.uid()) || name.contains("vm-")), "{:?}", stage.datasets());
    assert!(status(&ended).final_checkpoint.is_none());
    stage.create("b", json!({ "ttlAfterFinished": "0s" })).await;
    stage.until_gone("b").await;
    assert!(stage.checkpoint("b-final").await.is_some());
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_that_powers_off_is_started_again_and_its_agent_resumed() {
    let mut stage = Stage::new().await;
    stage.create("a", json!({ "goal": { "prompt": "#sim idle=true" } })).await;
    let running = stage.until_phase("a", Phase::Running).await;
    stage.lab.power_off(status(&running).vm.unwrap().vmid);
    stage.stop().await;
    stage.start(None).await;
    let starts = stage.lab.count(Call::Start);
    stage.until("a", "running on a second start", |m| status(m).phase == Phase::Running && stage.lab.count(Call::Start) > starts).await;
    assert_eq!(stage.vms().len(), 1);
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vm_that_lost_a_mark_is_not_touched() {
    let mut stage = Stage::new().await;
    stage.create("a", json!({ "goal": { "prompt": "#sim idle=true" } })).await;
    let running = stage.until_phase("a", Phase::Running).await;
    let vmid = status(&running).vm.unwrap().vmid;
    // Someone took the number for a VM of their own, with our tag copied.
    stage.lab.edit_config(vmid, "smbios1", Some("uuid=11111111-2222-3333-4444-555555555555"));
    stage.objects().delete::<Machine>(NAMESPACE, "a", None).await.unwrap();
    stage.until_phase("a", Phase::Terminating).await;
    let before = (stage.lab.count(Call::Delete), stage.lab.count(Call::Stop));
    stage.lab.edit_config(vmid, "protection", None);
    stage.until("a", "looked at again", |m| status(m).message.is_some()).await;
    assert!(stage.vms().contains_key(&vmid), "a VM that is not proved ours was deleted");
    assert_eq!(before, (0, 0));
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_in_which_nothing_can_be_run_any_more_holds_no_end_up() {
    let mut stage = Stage::new().await;
    let machine = stage.create("a", json!({ "goal": { "prompt": "#sim idle=true" } })).await;
    stage.until_phase("a", Phase::Running).await;
    for _ in 0..100 {
        stage.lab.fail_next(Call::AgentExec, 500);
    }
    stage.objects().delete::<Machine>(NAMESPACE, "a", None).await.unwrap();
    stage.until_gone("a").await;
    assert!(stage.checkpoint("a-final").await.is_some_and(|last| last.status.is_some_and(|status| !status.volumes.is_empty())));
    assert!(stage.vms().is_empty(), "a VM of {} is left: {:?}", machine.name(), stage.vms());
    stage.stop().await;
}
