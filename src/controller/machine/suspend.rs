//! A Machine that is suspended, and goes on: with its memory, where its spec asks for that, or from its disks. Pure.
//!
//! With its memory nothing of the agent ends: what it was doing it does on, and its launch is the same. Where that memory is lost its
//! disks are what they were at that moment, and it goes on from them with a new launch.

use super::end::lost;
use super::plan::{Observed, Plan, SOON, TEMPLATE, VM_UNKNOWN, Vm, api_time, leave_running, relaunch, spawn};
use super::step::{Ending, Step};
use crate::api::capability::CapabilityName;
use crate::api::machine::{Machine, MachineStatus, OperatingMode, Phase};
use crate::proxmox::Power;
use crate::runtime::{Requeue, Seen};
use jiff::Timestamp;
use std::time::Duration;

/// Decides that a running Machine is suspended.
pub(super) fn begin(machine: &Machine, observed: &Observed, next: &mut MachineStatus, now: Timestamp) {
    leave_running(next, now);
    next.phase = Phase::Suspending;
    let keeps = machine.spec.keeps_memory() && observed.can.has(CapabilityName::SuspendWithMemory);
    next.memory_kept_at = keeps.then(|| api_time(now));
}

/// Its guest comes to rest, and its disks become a checkpoint: with its memory, both are of one moment.
pub(super) fn suspend(observed: &Observed, mut next: MachineStatus, now: Timestamp) -> Plan {
    let captures = observed.can.has(CapabilityName::CheckpointInLife);
    let capture = captures.then_some(Step::Capture(Ending::Suspend));
    match &observed.vm {
        Seen::Unknown { why } => Plan::of(next).wait(VM_UNKNOWN, format!("to see its VM: {why}"), Requeue::After(SOON)),
        Seen::Absent | Seen::Present(Vm::Foreign(_)) => lost(next, now, "its VM was deleted by someone else"),
        Seen::Present(Vm::Template) => lost(next, now, TEMPLATE),
        Seen::Present(Vm::Ours(Power::Running)) if next.memory_kept_at.is_some() => {
            Plan::of(next).steps([Step::AwaitAnswers, Step::Flush(None), Step::Suspend]).steps(capture)
        }
        Seen::Present(Vm::Ours(Power::Running)) => {
            let flush = Step::Flush(captures.then_some(Ending::Suspend));
            Plan::of(next).steps([Step::StopAgent, flush, Step::ShutDown]).steps(capture)
        }
        Seen::Present(Vm::Ours(Power::Stopped) | Vm::Suspended) if captures => Plan::of(next).steps(capture),
        // Its state is its VM's, and there is no other.
        Seen::Present(Vm::Ours(Power::Stopped) | Vm::Suspended) => {
            next.phase = Phase::Suspended;
            again(next)
        }
    }
}

pub(super) fn suspended(machine: &Machine, observed: &Observed, mut next: MachineStatus, now: Timestamp) -> Plan {
    if machine.spec.operating_mode == OperatingMode::Suspended {
        return Plan::of(next).wait("Suspended", "for spec.operatingMode to be Running", Requeue::Never);
    }
    if next.memory_kept_at.is_some() {
        next.phase = Phase::Spawning;
    } else {
        relaunch(&mut next, now);
    }
    spawn(machine, observed, next, now)
}

/// Someone suspended a Machine that is to run: it goes on from there.
pub(super) fn by_someone_else(machine: &Machine, observed: &Observed, mut next: MachineStatus, now: Timestamp) -> Plan {
    leave_running(&mut next, now);
    next.memory_kept_at = Some(api_time(now));
    next.phase = Phase::Spawning;
    spawn(machine, observed, next, now)
}

/// What brings a Machine that is to go on from its memory there; `None` when there is none to go on from. `next` says then that it is
/// launched anew.
pub(super) fn resume(observed: &Observed, next: &mut MachineStatus, now: Timestamp) -> Option<Plan> {
    let number = next.agent.as_ref().map_or(1, |agent| agent.launches.max(1));
    let go_on = [Step::AwaitGuest, Step::GoOn { number }];
    match (&observed.vm, next.memory_kept_at.is_some()) {
        (Seen::Present(Vm::Suspended), true) => Some(Plan::of(next.clone()).steps([Step::Resume]).steps(go_on)),
        // Someone suspended it while it was being launched.
        (Seen::Present(Vm::Suspended), false) => Some(Plan::of(next.clone()).steps([Step::Resume])),
        (Seen::Present(Vm::Ours(Power::Running)), true) => Some(Plan::of(next.clone()).steps(go_on)),
        (Seen::Present(Vm::Ours(Power::Stopped)), true) => {
            forget(next, now);
            None
        }
        _ => None,
    }
}

/// Its memory is lost: its agent goes on with its conversation, in a new launch.
pub(super) fn forget(next: &mut MachineStatus, now: Timestamp) {
    relaunch(next, now);
    next.memory_kept_at = None;
}

fn again(next: MachineStatus) -> Plan {
    let mut plan = Plan::of(next);
    plan.requeue = Requeue::After(Duration::ZERO);
    plan
}
