//! How a Machine ends: what its agent's end means, and what is kept.

use super::plan::{Observed, Plan, RELAUNCHES, SOON, VM_UNKNOWN, Vm, api_time, launches, leave_running, relaunch, spawn};
use super::put_back::retried;
use super::step::{Ending, Step};
use crate::agent::{Verdict, verdict};
use crate::api::Kind as _;
use crate::api::capability::CapabilityName;
use crate::api::machine::{Machine, MachineStatus, OnTerminate, Phase, TerminationReason};
use crate::proxmox::Power;
use crate::runtime::{Requeue, Seen};
use jiff::Timestamp;
use std::time::Duration;

/// The agent's process ended: done, to be launched again, or failed.
pub(super) fn ended(machine: &Machine, observed: &Observed, mut next: MachineStatus, now: Timestamp, code: Option<i32>) -> Plan {
    let mut outcome = verdict(machine.spec.agent.r#type, code, &observed.last_call);
    if observed.hub_was_away && matches!(outcome, Verdict::Failed(_)) {
        outcome = Verdict::Interrupted;
    }
    if let Some(agent) = &mut next.agent {
        agent.exit_code = code;
    }
    match outcome {
        Verdict::Completed if machine.spec.goal.verify.is_some() => {
            // Whether it is done is for the verify command to say.
            leave_running(&mut next, now);
            next.phase = Phase::Finishing;
            end(machine, observed, next, now)
        }
        Verdict::Completed => finish(next, now, TerminationReason::Completed),
        Verdict::BudgetExhausted => finish(next, now, TerminationReason::BudgetExhausted),
        Verdict::Interrupted if launches(&next) <= RELAUNCHES => {
            leave_running(&mut next, now);
            relaunch(&mut next, now);
            spawn(machine, observed, next, now)
        }
        Verdict::Interrupted => {
            next.message = Some(format!("the agent was interrupted {} times", launches(&next)));
            finish(next, now, TerminationReason::AgentFailed)
        }
        Verdict::Failed(why) => {
            next.message = Some(why);
            finish(next, now, TerminationReason::AgentFailed)
        }
    }
}

/// To the end: guest put to rest, disks kept or destroyed, VM deleted, lease ended.
pub(super) fn end(machine: &Machine, observed: &Observed, mut next: MachineStatus, now: Timestamp) -> Plan {
    if let Err(why) = &observed.hub
        && (observed.lease.is_some() || observed.vm != Seen::Absent)
    {
        return Plan::of(next).wait("HubNotReady", format!("for its hub: {why}"), Requeue::After(SOON));
    }
    if let Some(again) = retried(machine, observed, &next, now) {
        let mut plan = Plan::of(again);
        plan.requeue = Requeue::After(Duration::ZERO);
        return plan;
    }
    // What was never started has nothing that its base has not.
    let discard = machine.spec.on_terminate == OnTerminate::Discard || next.started_at.is_none();
    let vm = match &observed.vm {
        Seen::Unknown { why } => {
            return Plan::of(next).wait(VM_UNKNOWN, format!("to see its VM: {why}"), Requeue::After(SOON));
        }
        Seen::Present(Vm::Ours(power)) => Some(*power),
        // Its disks are its state: what its memory held beside ends with it.
        Seen::Present(Vm::Suspended) => return Plan::of(next).steps([Step::DiscardMemory]),
        _ => None,
    };
    // Its VM is its final checkpoint, or is to be.
    let is_template = observed.vm == Seen::Present(Vm::Template);
    let captured = observed.checkpoints.last_of_all.is_some() || (is_template && next.final_checkpoint.is_some());
    if vm == Some(Power::Running) {
        let undecided = next.termination_reason.is_none();
        let guest_is_lost = next.termination_reason == Some(TerminationReason::GuestLost);
        let plan = Plan::of(next);
        return if undecided {
            plan.steps([Step::StopAgent, Step::Verify])
        } else if guest_is_lost {
            plan.steps([Step::ShutDown])
        } else if discard {
            plan.steps([Step::StopAgent, Step::ShutDown])
        } else {
            plan.steps([Step::StopAgent, Step::KeepBundle, Step::Flush(Some(Ending::Final)), Step::ShutDown])
        };
    }
    if next.termination_reason.is_none() {
        next.termination_reason = Some(TerminationReason::VerifyFailed);
        next.message = Some("the VM stopped before the verify command could run".into());
    }
    if observed.lease.is_none() || (is_template && captured && !discard) {
        if machine.is_deleting() {
            return Plan::of(next).steps([Step::RemoveFinalizer]);
        }
        next.phase = if next.termination_reason == Some(TerminationReason::Completed) { Phase::Succeeded } else { Phase::Failed };
        if next.phase == Phase::Succeeded && machine.spec.goal.verify.is_none() {
            // What was done on the way is over.
            next.message = None;
        }
        next.finished_at.get_or_insert_with(|| api_time(now));
        next.vm = None;
        let mut plan = Plan::of(next);
        plan.requeue = Requeue::After(Duration::ZERO);
        return plan;
    }
    let mut plan = Plan::of(next);
    if discard {
        plan.steps.extend(observed.destroy_disks());
    } else {
        if !captured {
            plan.steps.push(Step::Capture(Ending::Final));
        }
        if observed.can.has(CapabilityName::DetachDisks) {
            plan.steps.push(Step::KeepDisks);
        } else if vm.is_some() || is_template {
            // The checkpoint is the VM: it stays, and its number stays leased.
            return plan;
        }
    }
    if vm.is_some() || is_template {
        plan.steps.push(Step::DeleteVm);
    }
    plan.steps(std::iter::once(Step::EndLease))
}

/// Decides the end; what it takes is planned in the next pass, from this record.
pub(super) fn finish(mut next: MachineStatus, now: Timestamp, reason: TerminationReason) -> Plan {
    leave_running(&mut next, now);
    next.phase = Phase::Finishing;
    next.termination_reason = Some(reason);
    let mut plan = Plan::of(next);
    plan.requeue = Requeue::After(Duration::ZERO);
    plan
}

pub(super) fn lost(mut next: MachineStatus, now: Timestamp, why: &str) -> Plan {
    next.message = Some(why.into());
    finish(next, now, TerminationReason::GuestLost)
}
