//! Putting a Machine back to an earlier state: because a person asks for it, or to try again after a failure. Pure.

use super::end::lost;
use super::plan::{Observed, Plan, SOON, TEMPLATE, VM_UNKNOWN, Vm, api_time, leave_running, relaunch};
use super::step::{Ending, Step};
use crate::api::Kind;
use crate::api::machine::{Machine, MachineStatus, Phase, Restored, RetryMode, TerminationReason};
use crate::driver::storage::disk_index;
use crate::proxmox::Power;
use crate::runtime::{Requeue, Seen};
use crate::zfs::Dataset;
use jiff::Timestamp;

/// Decides that disks are put back; what it takes is planned from this record.
pub(super) fn put_back(next: &mut MachineStatus, checkpoint: Option<String>, now: Timestamp) {
    leave_running(next, now);
    next.memory_kept_at = None;
    let disks = next.vm.iter().flat_map(|vm| &vm.disks).filter_map(|disk| disk_index(&Dataset(disk.clone())));
    let before = next.restored.take().unwrap_or_default();
    let first_disk = disks.max().map_or(before.first_disk, |last| last + 1);
    let (checkpoint, at) = (checkpoint, Some(api_time(now)));
    next.restored = Some(Restored { checkpoint, count: before.count + 1, first_disk, at, asked: before.asked });
    next.phase = Phase::Restoring;
}

/// The present state becomes a checkpoint, its disks are put away, and others are cloned.
pub(super) fn restore(observed: &Observed, next: MachineStatus, now: Timestamp) -> Plan {
    let capture = Step::Capture(Ending::Restore);
    match &observed.vm {
        _ if observed.hub.is_err() => {
            let why = observed.hub.as_ref().err().cloned().unwrap_or_default();
            Plan::of(next).wait("HubNotReady", format!("for its hub: {why}"), Requeue::After(SOON))
        }
        _ if observed.cannot_put_back() => {
            let why = "for its hub's storage to be what it was: this one puts nothing back";
            Plan::of(next).wait("RestoreNotPossible", why, Requeue::After(SOON))
        }
        Seen::Unknown { why } => Plan::of(next).wait(VM_UNKNOWN, format!("to see its VM: {why}"), Requeue::After(SOON)),
        Seen::Present(Vm::Foreign(_)) => lost(next, now, "its VM's number is someone else's now"),
        Seen::Present(Vm::Template) => lost(next, now, TEMPLATE),
        Seen::Present(Vm::Ours(Power::Running)) => {
            Plan::of(next).steps([Step::StopAgent, Step::Flush(Some(Ending::Restore)), Step::ShutDown, capture, Step::PutAway])
        }
        Seen::Present(Vm::Suspended) => Plan::of(next).steps([Step::DiscardMemory]),
        // A VM that someone deleted may have left its disks: what is on them is kept too.
        Seen::Present(Vm::Ours(Power::Stopped)) | Seen::Absent => Plan::of(next).steps([capture, Step::PutAway]),
    }
}

/// What a failure leads to where `spec.retry` has some left; `None` when it ends.
pub(super) fn retried(machine: &Machine, observed: &Observed, status: &MachineStatus, now: Timestamp) -> Option<MachineStatus> {
    let retry = machine.spec.retry.as_ref().filter(|retry| status.retries < retry.limit)?;
    let reason = status.termination_reason?;
    let failed = matches!(reason, TerminationReason::AgentFailed | TerminationReason::VerifyFailed | TerminationReason::GuestLost);
    let ending = machine.is_deleting()
        || status.phase != Phase::Finishing
        || observed.checkpoints.last_of_all.is_some()
        || status.final_checkpoint.is_some();
    let foreign = matches!(observed.vm, Seen::Present(Vm::Foreign(_)) | Seen::Unknown { .. });
    if !failed || ending || foreign || observed.hub.is_err() || observed.lease.is_none() || status.started_at.is_none() {
        return None;
    }
    let lost = reason == TerminationReason::GuestLost || !matches!(observed.vm, Seen::Present(Vm::Ours(_) | Vm::Suspended));
    let stays = retry.mode == RetryMode::Warm && !lost;
    if !stays && observed.cannot_put_back() {
        return None;
    }
    let mut next = status.clone();
    next.retries += 1;
    next.termination_reason = None;
    match retry.mode {
        RetryMode::Warm if !lost => relaunch(&mut next, now),
        RetryMode::Cold => {
            let origin = next.spawned_from.clone();
            put_back(&mut next, origin, now);
        }
        RetryMode::Warm | RetryMode::Fork => {
            // What its record names may be gone meanwhile, or going: to that it is never put back.
            let newest = observed.checkpoints.last.clone().or_else(|| next.spawned_from.clone());
            put_back(&mut next, newest, now);
        }
    }
    let said = status.message.as_ref().map(|message| format!(": {message}")).unwrap_or_default();
    if let Some(agent) = next.agent.as_mut().filter(|_| next.phase == Phase::Spawning) {
        let what = if reason == TerminationReason::VerifyFailed {
            "the goal was verified, and is not achieved yet"
        } else {
            "you ended with a failure"
        };
        agent.told = Some(format!("Continue from where you left off: {what}{said}."));
    }
    next.message = Some(format!("tried again ({} of {}, {:?}) after {reason:?}{said}", next.retries, retry.limit, retry.mode));
    Some(next)
}
