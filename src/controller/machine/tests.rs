//! Planner tables: a Machine, what is observed of it, and what must come next.

use super::plan::{self, Checkpoints, Observed, Plan, Predecessor, Silence, Vm};
use super::status::status;
use super::step::{Ask, Base, Ending, Step};
use crate::agent::LastCall;
use crate::api::capability::{Capabilities, CapabilityName};
use crate::api::checkpoint::{Volume, VolumeCopy};
use crate::api::machine::*;
use crate::api::quantity::{Currency, GoDuration, Money, NanoUsd};
use crate::driver::guest::AgentState;
use crate::ledger::Usage;
use crate::proxmox::{Node, Power, Vmid};
use crate::runtime::{Requeue, Seen};
use jiff::{SignedDuration, Timestamp};
use std::time::Duration;

const RESYNC: Duration = Duration::from_mins(1);

fn now() -> Timestamp {
    "2026-11-22T12:00:00Z".parse().unwrap()
}

fn machine(phase: Phase) -> Machine {
    let mut machine = Machine::new("shop", "b", MachineSpec::default());
    machine.metadata.uid = Some("6a1f0d6e-6c1b-4b8e-9a53-1f2f3a4b5c6d".into());
    machine.metadata.generation = Some(1);
    machine.metadata.finalizers = Some(vec![FINALIZER.into()]);
    machine.spec.from = Some(From { checkpoint: Some("a-final".into()), ..From::default() });
    let began = Time(now() - SignedDuration::from_secs(100));
    let status = machine.status.get_or_insert_default();
    status.phase = phase;
    if !matches!(phase, Phase::Pending | Phase::Waiting) {
        status.agent = Some(AgentStatus { launches: 1, launched_at: Some(began.clone()), ..AgentStatus::default() });
        status.spawned_from = Some("a-final".into());
        status.started_at = Some(began);
        status.vm = Some(VmStatus { node: "pve".into(), vmid: 20001, disks: vec!["tank/data/vm-20001-disk-0".into()] });
    }
    machine
}

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

fn base() -> Base {
    let volume = Volume {
        node: "pve".into(),
        dataset: "tank/keep/m-a-disk-0".into(),
        snapshot: "av-c".into(),
        guid: "1".into(),
        ..Volume::default()
    };
    Base {
        checkpoint: Some("a-final".into()),
        machine_uid: Some("a".into()),
        volumes: vec![volume],
        image: None,
        workspace: Some("/home/agent/todo".into()),
    }
}

fn seen() -> Observed {
    Observed {
        hub: Ok(()),
        can: Capabilities::all_but(&[]),
        after: Vec::new(),
        base: Ok(base()),
        placed: Ok(Node("pve".into())),
        node: Some(Node("pve".into())),
        ask: None,
        restore: None,
        budget: Ok(()),
        limits: Limits {
            money: Some(Money { amount: NanoUsd(5_000_000_000), currency: Currency::USD }),
            time: Some(GoDuration(Duration::from_hours(2))),
            api_calls: None,
        },
        lease: Some(Vmid(20001)),
        vm: Seen::Present(Vm::Ours(Power::Running)),
        agent: None,
        silence: Silence::default(),
        hub_was_away: false,
        last_call: LastCall::None,
        usage: Usage::default(),
        checkpoints: Checkpoints::default(),
        approvals: Vec::new(),
    }
}

fn planned(machine: &Machine, observed: &Observed) -> Plan {
    plan::plan(machine, observed, now(), RESYNC)
}

/// `phase / reason [steps] what it waits for`.
fn told(plan: &Plan) -> String {
    let mut text = format!("{:?}", plan.next.phase);
    if let Some(reason) = plan.next.termination_reason {
        text += &format!("/{reason:?}");
    }
    if !plan.steps.is_empty() {
        text += &format!(" {}", plan.steps.iter().map(Step::name).collect::<Vec<_>>().join(","));
    }
    if let Some(waiting) = &plan.waiting {
        text += &format!(" ({})", waiting.reason);
    }
    text
}

fn check(machine: &Machine, observed: Observed, expect: &str) -> Plan {
    let plan = planned(machine, &observed);
    assert_eq!(told(&plan), expect, "observed: {observed:?}");
    // A status that is written for it says the same when it is read again: deciding twice decides nothing new.
    let written = status(machine, &observed, &plan, None, now());
    let mut again = machine.clone();
    again.status = Some(written.clone());
    let second = status(&again, &observed, &planned(&again, &observed), None, now());
    if plan.next.phase == again.status.as_ref().unwrap().phase && plan.steps.is_empty() && plan.waiting.is_some() {
        assert_eq!(second, written, "a wait writes once");
    }
    plan
}

fn unseen() -> Seen<Vm> {
    Seen::unknown("no answer")
}

const SPAWN: &str = "Spawning Lease,Fork,CreateVm";

#[test]
fn it_works_where_its_goal_says_else_where_what_it_is_spawned_from_did() {
    for (own, of_base, expect) in [
        (None, Some("/home/agent/todo"), "/home/agent/todo"),
        (Some("/srv"), Some("/home/agent/todo"), "/srv"),
        (None, None, "/home/agent/workspace"),
    ] {
        let mut waiting = machine(Phase::Waiting);
        waiting.spec.goal.workspace = own.map(Into::into);
        let base = Base { workspace: of_base.map(Into::into), ..base() };
        let next = planned(&waiting, &Observed { base: Ok(base), lease: None, vm: Seen::Absent, ..seen() }).next;
        assert_eq!((next.phase, next.workspace.as_deref()), (Phase::Spawning, Some(expect)));
        waiting.status = Some(next);
        assert_eq!(waiting.workspace(), expect);
    }
}

#[test]
fn waits_say_for_what() {
    let waiting = machine(Phase::Pending);
    let none = Observed { lease: None, vm: Seen::Absent, ..seen() };
    check(&waiting, none.clone(), SPAWN);
    check(&waiting, Observed { hub: Err("down".into()), ..none.clone() }, "Waiting (HubNotReady)");
    check(&waiting, Observed { budget: Err("for budget x".into()), ..none.clone() }, "Waiting (BudgetMissing)");
    check(&waiting, Observed { base: Err("for checkpoint x".into()), ..none.clone() }, "Waiting (BaseNotReady)");
    let ask = Some(Ask { machine: "b".into(), checkpoint: "a-base".into() });
    check(&waiting, Observed { base: Err("for checkpoint x".into()), ask, ..none.clone() }, "Waiting AskForBase (BaseNotReady)");
    let mut suspended = waiting.clone();
    suspended.spec.operating_mode = OperatingMode::Suspended;
    check(&suspended, none.clone(), "Waiting (Suspended)");
    let mut new = waiting.clone();
    new.metadata.finalizers = None;
    check(&new, none, "Pending AddFinalizer");
}

#[test]
fn a_node_is_decided_once_before_anything_is_made() {
    let none = Observed { lease: None, vm: Seen::Absent, ..seen() };
    let waiting = machine(Phase::Waiting);
    let full = Observed { placed: Err("pve: it has 1 of 1 Machines".into()), ..none.clone() };
    let plan = check(&waiting, full, "Waiting (NoNode)");
    assert_eq!((plan.next.node, plan.waiting.unwrap().message), (None, "for a node that it fits on: pve: it has 1 of 1 Machines".into()));
    // On another node than the one that was looked at nothing is done before it was looked at.
    let elsewhere = Observed { placed: Ok(Node("pve2".into())), ..none.clone() };
    let plan = check(&waiting, elsewhere.clone(), "Spawning");
    assert_eq!((plan.next.node.as_deref(), plan.requeue), (Some("pve2"), Requeue::After(Duration::ZERO)));
    let mut spawning = machine(Phase::Spawning);
    let state = spawning.status.as_mut().unwrap();
    (state.node, state.vm, state.started_at) = (Some("pve2".into()), None, None);
    // What was decided stands, whatever would be decided now.
    let there = Observed { node: Some(Node("pve2".into())), placed: Ok(Node("pve3".into())), ..none.clone() };
    let plan = check(&spawning, there.clone(), "Spawning Copy");
    assert_eq!(plan.next.node.as_deref(), Some("pve2"));
    let mut copied = base();
    let copy = |received| VolumeCopy { node: "pve2".into(), dataset: "tank/keep/c-c-disk-0".into(), received };
    copied.volumes[0].copies = vec![copy(false)];
    check(&spawning, Observed { base: Ok(copied.clone()), ..there.clone() }, "Spawning Copy");
    copied.volumes[0].copies = vec![copy(true)];
    assert_eq!(copied.nodes(), ["pve", "pve2"].map(|name| Node(name.into())).into());
    check(&spawning, Observed { base: Ok(copied), ..there.clone() }, SPAWN);
    // A node that went down keeps what has a lease on it, and nothing else.
    let down = Observed { node: None, ..there };
    assert_eq!(check(&spawning, down.clone(), "Waiting").next.node, None);
    let plan = check(&spawning, Observed { lease: Some(Vmid(20001)), vm: unseen(), ..down }, "Spawning (VmUnknown)");
    assert_eq!(plan.next.node.as_deref(), Some("pve2"));
}

#[test]
fn predecessors_by_their_end_and_the_policy() {
    use AfterFailure::{Continue, Fail, Wait};
    let failed = |has_final| Predecessor::Failed { reason: Some(TerminationReason::AgentFailed), has_final };
    for (policy, predecessor, expect) in [
        (Wait, Predecessor::Succeeded, SPAWN),
        (Wait, Predecessor::Missing, "Waiting (PredecessorMissing)"),
        (Wait, Predecessor::Unfinished(Phase::Running), "Waiting (PredecessorUnfinished)"),
        (Continue, Predecessor::Unfinished(Phase::Finishing), "Waiting (PredecessorUnfinished)"),
        (Wait, failed(true), "Waiting (PredecessorFailed)"),
        (Fail, failed(true), "Failed/PredecessorFailed"),
        (Continue, failed(true), SPAWN),
        (Continue, failed(false), "Waiting (PredecessorFailed)"),
    ] {
        let mut machine = machine(Phase::Waiting);
        machine.spec.goal.after = vec!["a".into()];
        machine.spec.goal.after_failure = policy;
        check(&machine, Observed { after: vec![("a".into(), predecessor)], lease: None, vm: Seen::Absent, ..seen() }, expect);
    }
}

#[test]
fn spawning_goes_on_from_what_is_there() {
    let mut spawning = machine(Phase::Spawning);
    let rest = "AwaitGuest,Personalise,Launch";
    check(&spawning, seen(), &format!("Spawning {rest}"));
    check(&spawning, Observed { vm: Seen::Present(Vm::Ours(Power::Stopped)), ..seen() }, &format!("Spawning Start,{rest}"));
    check(&spawning, Observed { vm: unseen(), ..seen() }, "Spawning (VmUnknown)");
    check(&spawning, Observed { vm: Seen::Absent, ..seen() }, "Finishing/GuestLost");
    spawning.status.as_mut().unwrap().started_at = None;
    check(&spawning, Observed { vm: Seen::Absent, ..seen() }, SPAWN);
    check(&spawning, Observed { vm: Seen::Absent, base: Err("gone".into()), ..seen() }, "Spawning (BaseNotReady)");
    check(&spawning, Observed { vm: Seen::Present(Vm::Foreign("x".into())), ..seen() }, "Spawning DestroyDisks,EndLease");
    // Created, but not recorded: adopted, not made a second time.
    spawning.status.as_mut().unwrap().vm = None;
    check(&spawning, Observed { vm: Seen::Present(Vm::Ours(Power::Stopped)), ..seen() }, "Spawning AdoptVm");
    let mut spawning = machine(Phase::Spawning);
    spawning.spec.source = Some(Source::default());
    check(&spawning, seen(), "Spawning AwaitGuest,Personalise,PutSource,Launch");
}

#[test]
fn one_that_verifies_a_checkpoint_has_no_agent_and_leaves_nothing() {
    let mut verifier = machine(Phase::Waiting);
    verifier.spec.purpose = Some(Purpose::Verify);
    verifier.spec.on_terminate = OnTerminate::Discard;
    let plan = check(&verifier, Observed { lease: None, vm: Seen::Absent, ..seen() }, "Spawning LookForBase,Lease,Fork,CreateVm");
    assert!(plan.next.agent.is_none());
    let mut base = base();
    base.volumes[0].template = Some(900);
    let can = Capabilities::all_but(&[(CapabilityName::DetachDisks, "x")]);
    let on_templates = Observed { lease: None, vm: Seen::Absent, base: Ok(base), can, ..seen() };
    check(&verifier, on_templates, "Spawning Lease,CreateVm");
    verifier.status = machine(Phase::Spawning).status;
    check(&verifier, seen(), "Spawning AwaitGuest,Examine");
    check(&verifier, Observed { vm: Seen::Absent, ..seen() }, "Finishing/GuestLost");
    verifier.status.as_mut().unwrap().phase = Phase::Finishing;
    check(&verifier, seen(), "Finishing StopAgent,Verify");
    verifier.status.as_mut().unwrap().termination_reason = Some(TerminationReason::VerifyFailed);
    check(&verifier, seen(), "Finishing/VerifyFailed StopAgent,ShutDown");
    let off = Observed { vm: Seen::Present(Vm::Ours(Power::Stopped)), ..seen() };
    check(&verifier, off, "Finishing/VerifyFailed DestroyDisks,DeleteVm,EndLease");
}

#[test]
fn running_is_quiet_until_something_is_seen() {
    let running = machine(Phase::Running);
    let plan = check(&running, seen(), "Running");
    assert_eq!(plan.requeue, Requeue::After(RESYNC));
    let plan = check(&running, Observed { vm: unseen(), ..seen() }, "Running (VmUnknown)");
    assert_eq!(plan.requeue, Requeue::After(Duration::from_secs(15)));
    check(&running, Observed { vm: Seen::Absent, ..seen() }, "Finishing/GuestLost");
    check(&running, Observed { vm: Seen::Present(Vm::Ours(Power::Stopped)), ..seen() }, "Spawning Start,AwaitGuest,Personalise,Launch");
    check(&running, Observed { agent: Some(Seen::unknown("no answer")), ..seen() }, "Running (AgentUnknown)");
    check(&running, Observed { agent: Some(Seen::Present(AgentState::Running { launch: 1 })), ..seen() }, "Running");
    // It is told that it does not reach the gateway, and its checkpoints and its limit go on.
    let silent = |try_in, unreached: Option<&str>| Observed {
        silence: Silence { try_in: Some(Duration::from_secs(try_in)), unreached: unreached.map(Into::into) },
        ..seen()
    };
    assert_eq!(check(&running, silent(20, None), "Running").requeue, Requeue::After(Duration::from_secs(20)));
    let plan = check(&running, silent(500, Some("for its guest")), "Running (GatewayNotReached)");
    assert_eq!(plan.requeue, Requeue::After(RESYNC));
    let limit =
        |seconds| Observed { limits: Limits { time: Some(GoDuration(Duration::from_secs(seconds))), ..Limits::default() }, ..seen() };
    assert_eq!(check(&running, limit(130), "Running").requeue, Requeue::After(Duration::from_secs(30)));
    let plan = check(&running, limit(100), "Finishing/Timeout");
    assert_eq!(plan.next.agent.unwrap().ran_before.0, Duration::from_secs(100));
}

#[test]
fn the_end_of_an_agent_is_judged() {
    let settled = || LastCall::Settled { stop_reason: Some("end_turn".into()) };
    for (code, last_call, away, expect) in [
        (Some(0), settled(), false, "Finishing/Completed"),
        (Some(1), LastCall::Refused, false, "Finishing/BudgetExhausted"),
        (Some(1), LastCall::None, false, "Finishing/AgentFailed"),
        (Some(1), LastCall::None, true, "Spawning AwaitGuest,Personalise,Launch"),
        (Some(1), LastCall::Cut, false, "Spawning AwaitGuest,Personalise,Launch"),
        (None, LastCall::None, false, "Spawning AwaitGuest,Personalise,Launch"),
        (Some(1), settled(), true, "Finishing/Completed"),
    ] {
        let agent = Some(Seen::Present(AgentState::Exited { launch: 1, code }));
        let plan = check(&machine(Phase::Running), Observed { agent, last_call, hub_was_away: away, ..seen() }, expect);
        if let Some(Step::Launch { number }) = plan.steps.last() {
            assert_eq!(*number, 2);
        }
    }
    // An earlier launch's end says nothing about this one.
    let mut relaunched = machine(Phase::Running);
    relaunched.status.as_mut().unwrap().agent.as_mut().unwrap().launches = 6;
    let exited = |launch| Observed { agent: Some(Seen::Present(AgentState::Exited { launch, code: None })), ..seen() };
    check(&relaunched, exited(5), "Running");
    check(&relaunched, exited(6), "Finishing/AgentFailed");
}

#[test]
fn a_goal_with_a_verify_command_is_not_done_before_it_passed() {
    let mut verified = machine(Phase::Running);
    verified.spec.goal.verify = Some(Verify { command: vec!["true".into()], timeout: GoDuration::default() });
    let exited = Observed {
        agent: Some(Seen::Present(AgentState::Exited { launch: 1, code: Some(0) })),
        last_call: LastCall::Settled { stop_reason: Some("end_turn".into()) },
        ..seen()
    };
    check(&verified, exited, "Finishing StopAgent,Verify");
    verified.status.as_mut().unwrap().phase = Phase::Finishing;
    check(
        &verified,
        Observed { vm: Seen::Present(Vm::Ours(Power::Stopped)), ..seen() },
        "Finishing/VerifyFailed CaptureFinal,KeepDisks,DeleteVm,EndLease",
    );
}

fn finishing(reason: TerminationReason) -> Machine {
    let mut machine = machine(Phase::Finishing);
    machine.status.as_mut().unwrap().termination_reason = Some(reason);
    machine
}

#[test]
fn an_end_is_the_same_from_wherever_it_was_left() {
    use TerminationReason::{AgentFailed, Completed, GuestLost};
    let done = finishing(Completed);
    let stopped = || Observed { vm: Seen::Present(Vm::Ours(Power::Stopped)), ..seen() };
    check(&done, seen(), "Finishing/Completed StopAgent,KeepBundle,Flush,ShutDown");
    check(&finishing(GuestLost), seen(), "Finishing/GuestLost ShutDown");
    check(&done, stopped(), "Finishing/Completed CaptureFinal,KeepDisks,DeleteVm,EndLease");
    let captured = || Checkpoints { last_of_all: Some("b-final".into()), ..Checkpoints::default() };
    check(&done, Observed { checkpoints: captured(), ..stopped() }, "Finishing/Completed KeepDisks,DeleteVm,EndLease");
    check(&done, Observed { checkpoints: captured(), vm: Seen::Absent, ..seen() }, "Finishing/Completed KeepDisks,EndLease");
    check(&done, Observed { vm: unseen(), ..seen() }, "Finishing/Completed (VmUnknown)");
    check(&done, Observed { hub: Err("down".into()), ..seen() }, "Finishing/Completed (HubNotReady)");
    check(&done, Observed { lease: None, vm: Seen::Absent, ..seen() }, "Succeeded/Completed");
    check(&finishing(AgentFailed), Observed { lease: None, vm: Seen::Absent, ..seen() }, "Failed/AgentFailed");
    // A lease that is not there is no VM that is gone.
    check(&done, Observed { lease: None, ..seen() }, "Finishing/Completed (LeaseMissing)");
    check(&done, Observed { lease: None, vm: unseen(), ..seen() }, "Finishing/Completed (VmUnknown)");
    check(&done, Observed { lease: None, vm: unseen(), hub: Err("down".into()), ..seen() }, "Finishing/Completed (HubNotReady)");
    check(&machine(Phase::Suspending), Observed { lease: None, ..stopped() }, "Suspending (LeaseMissing)");
    // Someone else's VM is never shut down, captured or deleted.
    let foreign = Observed { vm: Seen::Present(Vm::Foreign("x".into())), ..seen() };
    check(&done, foreign, "Finishing/Completed CaptureFinal,KeepDisks,EndLease");
}

#[test]
fn where_a_final_checkpoint_is_its_vm_nothing_else_is_captured_or_destroyed() {
    use CapabilityName::{CheckpointInLife, DetachDisks, Restore};
    let can = Capabilities::all_but(&[(CheckpointInLife, "x"), (DetachDisks, "x"), (Restore, "x")]);
    let seen = || Observed { can: can.clone(), ..seen() };
    let stopped = || Observed { vm: Seen::Present(Vm::Ours(Power::Stopped)), ..seen() };
    let template = || Observed { vm: Seen::Present(Vm::Template), ..seen() };
    let mut spawning = machine(Phase::Spawning);
    spawning.status.as_mut().unwrap().started_at = None;
    let mut base = base();
    base.volumes[0].template = Some(900);
    check(&spawning, Observed { vm: Seen::Absent, ..seen() }, "Spawning (BaseNotHere)");
    let plan = check(&spawning, Observed { vm: Seen::Absent, base: Ok(base), ..seen() }, "Spawning Lease,CreateVm");
    assert_eq!(plan.steps[1], Step::CreateVm { disks: 1, template: Some(900) });
    check(&spawning, Observed { vm: Seen::Present(Vm::Foreign("x".into())), ..seen() }, "Spawning EndLease");

    let done = finishing(TerminationReason::Completed);
    check(&done, stopped(), "Finishing/Completed CaptureFinal");
    // Made a template, and the record of that lost: captured again, which finds it.
    check(&done, template(), "Finishing/Completed CaptureFinal");
    let captured = || Checkpoints { last_of_all: Some("b-final".into()), ..Checkpoints::default() };
    let plan = check(&done, Observed { checkpoints: captured(), ..template() }, "Succeeded/Completed");
    assert_eq!(plan.next.vm, None, "its number stays leased to what it became");
    check(&done, Observed { vm: Seen::Absent, ..seen() }, "Finishing/Completed CaptureFinal,EndLease");
    let mut discarded = done.clone();
    discarded.spec.on_terminate = OnTerminate::Discard;
    check(&discarded, stopped(), "Finishing/Completed DeleteVm,EndLease");
    check(&discarded, template(), "Finishing/Completed DeleteVm,EndLease");

    // One that someone made a template runs no more; what is on its disks is kept.
    for phase in [Phase::Running, Phase::Spawning, Phase::Suspending] {
        check(&machine(phase), template(), "Finishing/GuestLost");
    }
    check(&machine(Phase::Suspending), seen(), "Suspending StopAgent,Flush,ShutDown");
    check(&machine(Phase::Suspending), stopped(), "Suspended");

    // It is tried again in the same guest, or not at all.
    let mut failed = finishing(TerminationReason::AgentFailed);
    failed.spec.retry = Some(Retry { limit: 1, mode: RetryMode::Fork });
    check(&failed, stopped(), "Finishing/AgentFailed CaptureFinal");
    failed.spec.retry = Some(Retry { limit: 1, mode: RetryMode::Warm });
    check(&failed, stopped(), "Spawning");
}

#[test]
fn what_is_tried_again_from_its_newest_checkpoint_is_so_from_one_that_is_there() {
    let mut failed = finishing(TerminationReason::AgentFailed);
    failed.spec.retry = Some(Retry { limit: 1, mode: RetryMode::Fork });
    failed.status.as_mut().unwrap().last_checkpoint = Some("b-0007".into());
    let put_back_to = |checkpoints: Checkpoints| {
        let observed = Observed { checkpoints, ..seen() };
        let plan = planned(&failed, &observed);
        assert_eq!(told(&plan), "Restoring");
        let last = status(&failed, &observed, &plan, None, now()).last_checkpoint;
        (plan.next.restored.unwrap().checkpoint.unwrap(), last)
    };
    let last = |name: &str| Checkpoints { last: Some(name.into()), ..Checkpoints::default() };
    assert_eq!(put_back_to(last("b-0007")), ("b-0007".into(), Some("b-0007".into())));
    // Its record names one that is being deleted, and then is no more.
    assert_eq!(put_back_to(last("b-0006")), ("b-0006".into(), Some("b-0006".into())));
    assert_eq!(put_back_to(Checkpoints::default()), ("a-final".into(), Some("b-0007".into())));
    assert_eq!(put_back_to(Checkpoints { last_is_gone: true, ..Checkpoints::default() }), ("a-final".into(), None));
}

#[test]
fn discarded_and_never_started_machines_leave_nothing() {
    let stopped = || Observed { vm: Seen::Present(Vm::Ours(Power::Stopped)), ..seen() };
    let mut discarded = finishing(TerminationReason::Completed);
    discarded.spec.on_terminate = OnTerminate::Discard;
    check(&discarded, seen(), "Finishing/Completed StopAgent,ShutDown");
    check(&discarded, stopped(), "Finishing/Completed DestroyDisks,DeleteVm,EndLease");
    let mut young = machine(Phase::Spawning);
    young.status.as_mut().unwrap().started_at = None;
    young.metadata.deletion_timestamp = Some(Time(now()));
    check(&young, stopped(), "Terminating/Deleted DestroyDisks,DeleteVm,EndLease");
}

#[test]
fn deletion_ends_it_from_any_phase() {
    for (phase, expect) in [
        (Phase::Running, "Terminating/Deleted StopAgent,KeepBundle,Flush,ShutDown"),
        (Phase::Spawning, "Terminating/Deleted StopAgent,KeepBundle,Flush,ShutDown"),
        (Phase::Suspending, "Terminating/Deleted StopAgent,KeepBundle,Flush,ShutDown"),
        (Phase::Succeeded, "Succeeded RemoveFinalizer"),
    ] {
        let mut deleted = machine(phase);
        deleted.metadata.deletion_timestamp = Some(Time(now()));
        check(&deleted, seen(), expect);
    }
    let mut waiting = machine(Phase::Waiting);
    waiting.metadata.deletion_timestamp = Some(Time(now()));
    check(&waiting, Observed { lease: None, vm: Seen::Absent, ..seen() }, "Terminating/Deleted RemoveFinalizer");
    let mut ending = finishing(TerminationReason::Completed);
    ending.metadata.deletion_timestamp = Some(Time(now()));
    check(&ending, Observed { lease: None, vm: Seen::Absent, ..seen() }, "Terminating/Completed RemoveFinalizer");
    ending.metadata.finalizers = None;
    check(&ending, seen(), "Finishing/Completed");
}

#[test]
fn suspension_and_back() {
    let mut machine = machine(Phase::Running);
    machine.spec.operating_mode = OperatingMode::Suspended;
    check(&machine, seen(), "Suspending StopAgent,Flush,ShutDown,CaptureSuspend");
    machine.status.as_mut().unwrap().phase = Phase::Suspending;
    let stopped = || Observed { vm: Seen::Present(Vm::Ours(Power::Stopped)), ..seen() };
    let plan = check(&machine, stopped(), "Suspending CaptureSuspend");
    assert_eq!(plan.steps, [Step::Capture(Ending::Suspend)]);
    machine.status.as_mut().unwrap().phase = Phase::Suspended;
    check(&machine, stopped(), "Suspended (Suspended)");
    machine.spec.operating_mode = OperatingMode::Running;
    let plan = check(&machine, stopped(), "Spawning Start,AwaitGuest,Personalise,Launch");
    assert_eq!(plan.steps.last(), Some(&Step::Launch { number: 2 }));
}

#[test]
fn ttl_deletes_when_it_is_over() {
    let mut ended = machine(Phase::Succeeded);
    ended.spec.ttl_after_finished = Some(GoDuration(Duration::from_mins(1)));
    ended.status.as_mut().unwrap().finished_at = Some(Time(now() - SignedDuration::from_secs(20)));
    assert_eq!(check(&ended, seen(), "Succeeded").requeue, Requeue::After(Duration::from_secs(40)));
    ended.status.as_mut().unwrap().finished_at = Some(Time(now() - SignedDuration::from_secs(61)));
    check(&ended, seen(), "Succeeded DeleteSelf");
}

#[test]
fn nothing_is_destroyed_that_is_not_seen() {
    for phase in [
        Phase::Pending,
        Phase::Waiting,
        Phase::Spawning,
        Phase::Running,
        Phase::Suspending,
        Phase::Suspended,
        Phase::Finishing,
        Phase::Terminating,
    ] {
        for deleting in [false, true] {
            let mut machine = machine(phase);
            machine.metadata.deletion_timestamp = deleting.then(|| Time(now()));
            let plan = planned(&machine, &Observed { vm: unseen(), ..seen() });
            let harm = [Step::DestroyDisks, Step::DeleteVm, Step::EndLease, Step::ShutDown, Step::KeepDisks, Step::RemoveFinalizer];
            assert!(!plan.steps.iter().any(|step| harm.contains(step)), "{phase:?}: {:?}", plan.steps);
        }
    }
}

#[test]
fn spent_is_said_in_dollars() {
    let usage = Usage { money: NanoUsd(220_000_000), api_calls: 3, ..Usage::default() };
    let observed = Observed { usage, ..seen() };
    let machine = machine(Phase::Running);
    let status = status(&machine, &observed, &planned(&machine, &observed), None, now());
    assert_eq!(status.spent.as_deref(), Some("$0.22 of $5.00"));
    assert_eq!(status.observed_generation, Some(1));
    let ready = status.conditions.iter().find(|c| c.type_ == "Ready").unwrap();
    assert_eq!((ready.status.as_str(), ready.reason.as_str()), ("True", "Running"));
}

#[test]
fn a_checkpoint_of_its_own_is_asked_for_when_none_is_young_enough() {
    let mut running = machine(Phase::Running);
    running.spec.checkpoints.interval = Some(GoDuration(Duration::from_mins(10)));
    running.status.as_mut().unwrap().agent.get_or_insert_default().launched_at = Some(Time(now() - SignedDuration::from_secs(570)));
    let plan = check(&running, seen(), "Running");
    assert_eq!(plan.requeue, Requeue::After(Duration::from_secs(30)), "the rest of ten minutes");
    running.status.as_mut().unwrap().agent.as_mut().unwrap().launched_at = Some(Time(now() - SignedDuration::from_mins(10)));
    let plan = check(&running, seen(), "Running AskForOwn");
    assert_eq!(plan.steps, check(&running, seen(), "Running AskForOwn").steps, "under the same name");
    let asked = |ago: i64| Checkpoints { asked_at: Some(now() - SignedDuration::from_mins(ago)), ..Checkpoints::default() };
    check(&running, Observed { checkpoints: asked(1), ..seen() }, "Running");
    check(&running, Observed { checkpoints: asked(30), ..seen() }, "Running AskForOwn");
    let none = Capabilities::all_but(&[(CapabilityName::CheckpointInLife, "x")]);
    check(&running, Observed { can: none, ..seen() }, "Running");
}

#[test]
fn with_its_memory_a_machine_is_suspended_and_goes_on_as_the_same_launch() {
    let suspended = || Observed { vm: Seen::Present(Vm::Suspended), ..seen() };
    let stopped = || Observed { vm: Seen::Present(Vm::Ours(Power::Stopped)), ..seen() };
    let launches = |plan: &Plan| plan.next.agent.as_ref().map(|agent| agent.launches);
    let mut running = machine(Phase::Running);
    running.spec.operating_mode = OperatingMode::Suspended;
    running.spec.suspend = Some(Suspend { memory: SuspendMemory::Keep });
    let before = running.status.as_ref().unwrap().agent.as_ref().map(|agent| agent.launches);
    let plan = check(&running, seen(), "Suspending AwaitAnswers,Flush,Suspend,CaptureSuspend");
    assert!(plan.next.memory_kept_at.is_some());
    // What a hub can do that was not seen yet is not known: that is not "it cannot".
    let unseen =
        Observed { hub: Err("it is not connected yet".into()), can: Capabilities::default(), vm: Seen::unknown("no hub"), ..seen() };
    let plan = check(&running, unseen, "Running (HubNotReady)");
    assert_eq!(plan.next.memory_kept_at, None);
    // Its hub cannot: as any other.
    let cannot = || Capabilities::all_but(&[(CapabilityName::SuspendWithMemory, "x")]);
    let plan = check(&running, Observed { can: cannot(), ..seen() }, "Suspending StopAgent,Flush,ShutDown,CaptureSuspend");
    assert_eq!(plan.next.memory_kept_at, None);

    let at = |phase: Phase| {
        let mut machine = running.clone();
        let status = machine.status.as_mut().unwrap();
        (status.phase, status.memory_kept_at) = (phase, Some(Time(now())));
        machine
    };
    check(&at(Phase::Suspending), suspended(), "Suspending CaptureSuspend");
    // It powered off by itself before it was saved.
    check(&at(Phase::Suspending), stopped(), "Suspending CaptureSuspend");
    check(&at(Phase::Suspending), Observed { vm: Seen::unknown("locked"), ..seen() }, "Suspending (VmUnknown)");
    check(&at(Phase::Suspended), suspended(), "Suspended (Suspended)");

    let awake = |phase: Phase| {
        let mut machine = at(phase);
        machine.spec.operating_mode = OperatingMode::Running;
        machine
    };
    let plan = check(&awake(Phase::Suspended), suspended(), "Spawning Resume,AwaitGuest,GoOn");
    assert_eq!(launches(&plan), before);
    // The reply to its start was lost.
    let plan = check(&awake(Phase::Spawning), seen(), "Spawning AwaitGuest,GoOn");
    assert_eq!(launches(&plan), before);
    // Its memory is gone: from its disks, as a new launch.
    let plan = check(&awake(Phase::Suspended), stopped(), "Spawning Start,AwaitGuest,Personalise,Launch");
    assert_eq!((launches(&plan), plan.next.memory_kept_at.clone()), (before.map(|n| n + 1), None));
    check(&awake(Phase::Spawning), Observed { vm: Seen::unknown("locked"), ..seen() }, "Spawning (VmUnknown)");

    // Someone else suspended what is to run.
    let plan = check(&machine(Phase::Running), suspended(), "Spawning Resume,AwaitGuest,GoOn");
    assert!(plan.next.memory_kept_at.is_some());
    // What ends gives its memory up first, and then ends as any that is off.
    let mut deleted = at(Phase::Suspended);
    deleted.metadata.deletion_timestamp = Some(Time(now()));
    check(&deleted, suspended(), "Terminating/Deleted DiscardMemory");
    check(&deleted, stopped(), "Terminating/Deleted CaptureFinal,KeepDisks,DeleteVm,EndLease");
    check(&at(Phase::Restoring), suspended(), "Restoring DiscardMemory");
}
