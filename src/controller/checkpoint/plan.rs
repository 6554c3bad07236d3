//! Decides what a Checkpoint needs: pure.

use super::captured_by_machine;
use super::observe::{HubSeen, Observed, TIMELY, Verifier, age, phase};
use super::verify;
use crate::api::checkpoint::{CheckpointPhase, Digest, FINALIZER, Trigger, Verified, Volume};
use crate::api::machine::{Phase, VmStatus};
use crate::api::{Checkpoint, Kind, Machine};
use crate::proxmox::{Node, Vmid};
use crate::runtime::Requeue;
use crate::wire::annotation;
use crate::zfs::Dataset;
use jiff::Timestamp;
use std::time::Duration;

/// How soon it is looked at again while it waits; what it waits for wakes it before.
pub(super) const WAITING: Duration = Duration::from_mins(1);
/// The same while its disks are read or written: their end wakes nobody.
const STREAMING: Duration = Duration::from_secs(2);

/// One thing to do.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Step {
    /// Put our finalizer on it, before there is anything to collect.
    AddFinalizer,
    /// Flush the guest (when one runs), snapshot the disks, hold the snapshots.
    Capture(Capture),
    /// Destroy what was captured.
    Collect,
    /// Give its children its parent, so that lineage has no gap.
    PassParentOn,
    DropFinalizer,
    /// Make the Machine that it is verified by.
    Verify {
        hub: String,
        asked: String,
    },
    /// Delete that one.
    EndVerification {
        machine: String,
        uid: String,
    },
}

/// A capture to make.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Capture {
    /// Where its VM is.
    pub(super) node: Node,
    pub(super) disks: Vec<Dataset>,
    pub(super) machine_uid: String,
    /// The VM whose guest is to be flushed first; `None` when it does not run.
    pub(super) guest: Option<Vmid>,
    /// Whether nothing of the agent acts meanwhile, provided that the flush confirms it.
    pub(super) quiet: bool,
}

/// Where the Checkpoint stands when the steps are done.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Stand {
    /// Its status is not ours to write now.
    Untouched,
    /// It is ours to write, and says what it said.
    Settled,
    /// For something outside it.
    Waiting { reason: &'static str, message: String },
    /// It never comes about.
    Failed { reason: &'static str, message: String },
    /// Ready, with these volumes, by reference: the image stays the Hub's.
    Imported(Vec<Volume>),
    /// Ready, when the capture succeeds.
    Captured,
    /// Ready as it was, and being verified.
    Verifying { reason: &'static str, message: String },
    /// Ready as it was, and verified; with the digests that are compared from now on.
    Verified(Verified, Vec<Digest>),
    /// Being deleted; for what it waits, if for anything.
    Deleting(Option<String>),
}

/// What is to be done, and where it leads.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Plan {
    pub(super) steps: Vec<Step>,
    pub(super) stand: Stand,
    pub(super) requeue: Requeue,
}

impl Plan {
    pub(super) fn stand(stand: Stand) -> Self {
        Self { steps: Vec::new(), stand, requeue: Requeue::Never }
    }
    fn wait(reason: &'static str, message: impl Into<String>) -> Self {
        Self { requeue: Requeue::After(WAITING), ..Self::stand(Stand::Waiting { reason, message: message.into() }) }
    }
    fn fail(reason: &'static str, message: impl Into<String>) -> Self {
        Self::stand(Stand::Failed { reason, message: message.into() })
    }
}

pub(super) fn plan(checkpoint: &Checkpoint, observed: &Observed, now: Timestamp) -> Plan {
    if checkpoint.is_deleting() {
        return deletion(checkpoint, observed);
    }
    let mut plan = match phase(checkpoint) {
        CheckpointPhase::Ready => verify::plan(checkpoint, observed, now),
        CheckpointPhase::Failed | CheckpointPhase::Deleting => Plan::stand(Stand::Settled),
        CheckpointPhase::Pending if checkpoint.spec.import.is_some() => import(checkpoint, observed),
        CheckpointPhase::Pending => capture(checkpoint, observed, now),
    };
    if !checkpoint.has_finalizer(FINALIZER) && !matches!(plan.stand, Stand::Untouched) {
        plan.steps.insert(0, Step::AddFinalizer);
    }
    plan
}

fn import(checkpoint: &Checkpoint, observed: &Observed) -> Plan {
    let Some(import) = &checkpoint.spec.import else { return Plan::stand(Stand::Settled) };
    let Some(name) = &import.image else { return archive(observed) };
    let images = match &observed.hub {
        HubSeen::Open { images, .. } => images,
        HubSeen::Waiting { why } => return Plan::wait("HubNotReady", why),
    };
    let Some(image) = images.get(name) else {
        return Plan::wait("ImageNotReady", format!("image {name} is not ready on the hub; see `kubectl describe hub`"));
    };
    Plan::stand(Stand::Imported(image.volumes()))
}

/// Whoever reads the file writes the status; when nobody does, nobody will.
fn archive(observed: &Observed) -> Plan {
    if observed.streams {
        return Plan { requeue: Requeue::After(WAITING), ..Plan::stand(Stand::Untouched) };
    }
    Plan::fail("ImportInterrupted", "its import was cut off; `autovibe import` of the same file begins anew, or delete it")
}

fn capture(checkpoint: &Checkpoint, observed: &Observed, now: Timestamp) -> Plan {
    let name = checkpoint.spec.machine.as_deref().unwrap_or_default();
    let by_hand = checkpoint.spec.trigger == Trigger::Requested;
    let Some(machine) = &observed.machine else {
        return if by_hand {
            Plan::wait("MachineMissing", format!("machine {name} does not exist"))
        } else {
            Plan::fail("MachineMissing", format!("machine {name} was gone before its state was captured"))
        };
    };
    let status = machine.status.clone().unwrap_or_default();
    if captured_by_machine(checkpoint) && !status.phase.is_finished() {
        return Plan { requeue: Requeue::After(WAITING), ..Plan::stand(Stand::Untouched) };
    }
    if let Some(later) = &observed.superseded_by {
        return Plan::fail("Superseded", format!("it was not captured in time, and the state has moved on to checkpoint {later}"));
    }
    let Some(vm) = status.vm.as_ref().filter(|vm| !vm.disks.is_empty()) else { return without_vm(machine, by_hand) };
    match &observed.hub {
        HubSeen::Waiting { why } => return Plan::wait("HubNotReady", why),
        HubSeen::Open { impossible: Some(why), .. } => return Plan::fail("NotPossible", format!("the hub of machine {name} {why}")),
        HubSeen::Open { .. } => {}
    }
    match status.phase {
        Phase::Running | Phase::Suspending | Phase::Suspended | Phase::Finishing => {}
        Phase::Restoring if !by_hand => {
            return Plan::fail("Superseded", format!("it was not captured in time, and machine {name} is put back to another state"));
        }
        Phase::Succeeded | Phase::Failed | Phase::Terminating | Phase::Pending | Phase::Waiting | Phase::Spawning | Phase::Restoring => {
            return without_vm(machine, by_hand);
        }
    }
    let step = Step::Capture(self::capture_of(checkpoint, machine, vm, status.phase, now));
    Plan { steps: vec![step], ..Plan::stand(Stand::Captured) }
}

/// Nothing can be captured of a Machine before and after it has a running or suspended VM.
fn without_vm(machine: &Machine, by_hand: bool) -> Plan {
    let (name, status) = (machine.name(), machine.status.clone().unwrap_or_default());
    match (status.phase.is_finished(), &status.final_checkpoint) {
        (true, Some(last)) => Plan::fail("MachineEnded", format!("machine {name} has ended; its last state is checkpoint {last}")),
        (true, None) => Plan::fail("MachineEnded", format!("machine {name} has ended, and its disks are gone")),
        _ if machine.is_deleting() && !by_hand => Plan::fail("MachineEnding", format!("machine {name} is being deleted")),
        _ => Plan::wait("MachineNotRunning", format!("machine {name} is not running yet ({:?})", status.phase)),
    }
}

fn capture_of(checkpoint: &Checkpoint, machine: &Machine, vm: &VmStatus, machine_phase: Phase, now: Timestamp) -> Capture {
    let stopped = machine_phase == Phase::Suspended;
    // With its memory kept, its agent may be in the middle of something.
    let at_rest = stopped && machine.status.as_ref().is_none_or(|status| status.memory_kept_at.is_none());
    let annotations = checkpoint.metadata.annotations.as_ref();
    let claimed = annotations.and_then(|all| all.get(annotation::QUIESCENT)).is_some_and(|value| value == "true");
    Capture {
        node: Node(vm.node.clone()),
        disks: vm.disks.iter().cloned().map(Dataset).collect(),
        machine_uid: machine.uid().to_owned(),
        guest: (!stopped).then_some(Vmid(vm.vmid)),
        quiet: at_rest || (claimed && age(checkpoint, now) <= TIMELY),
    }
}

fn deletion(checkpoint: &Checkpoint, observed: &Observed) -> Plan {
    if !checkpoint.has_finalizer(FINALIZER) {
        return Plan::stand(Stand::Untouched);
    }
    let wait = |message: String| Plan { requeue: Requeue::After(WAITING), ..Plan::stand(Stand::Deleting(Some(message))) };
    if let Verifier::Own(machine) = &observed.verifier {
        return Plan {
            steps: verify::end(machine),
            ..wait(format!("it stays until machine {}, which verifies it, is gone", machine.name()))
        };
    }
    if !observed.uses.is_empty() {
        let uses: Vec<String> = observed.uses.iter().take(3).map(ToString::to_string).collect();
        let more = observed.uses.len().saturating_sub(uses.len());
        let more = if more > 0 { format!(", and {more} more") } else { String::new() };
        return wait(format!("it stays until nothing needs it: {}{more}", uses.join(", ")));
    }
    if observed.streams {
        return Plan { requeue: Requeue::After(STREAMING), ..wait("it stays until it is exported, or no longer imported".into()) };
    }
    let end = [Step::PassParentOn, Step::DropFinalizer];
    if !observed.hidden_in.is_empty() {
        return wait(format!("it stays until hub {} can be asked for its snapshots", observed.hidden_in.join(", ")));
    }
    // Of one of an image that is the Hub's only copies go.
    let own = |volume: &Volume| !checkpoint.is_of_image() || !volume.copies.is_empty();
    let steps = if observed.volumes.iter().any(own) { [Step::Collect].into_iter().chain(end).collect() } else { end.into() };
    Plan { steps, ..Plan::stand(Stand::Deleting(None)) }
}
