//! What a Checkpoint's status says: pure.

use super::act::{Captured, Outcome};
use super::plan::{Plan, Stand};
use crate::api::checkpoint::{self, CheckpointPhase, CheckpointStatus, Reason, Verified};
use crate::api::meta::{put_condition, set_condition};
use crate::api::{Checkpoint, Kind};
use crate::controller::kstatus::Readiness;
use crate::objects::EventType;
use crate::wire::annotation;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

/// Whether its last verification passed.
const VERIFIED: &str = "Verified";

/// The status after a pass; `None` when it is not ours to write. `stored` is what is stored now, and may be newer than what was
/// planned from.
pub(super) fn status(stored: &Checkpoint, plan: &Plan, outcome: &Outcome, now: &Time) -> Option<CheckpointStatus> {
    let mut status = stored.status.clone().unwrap_or_default();
    status.observed_generation = Some(stored.generation());
    if let (Some(failure), false) =
        (&outcome.failed, matches!(plan.stand, Stand::Untouched | Stand::Settled | Stand::Verifying { .. } | Stand::Verified(..)))
    {
        let message = failure.error.to_string();
        let deleting = matches!(plan.stand, Stand::Deleting(_));
        let readiness = match (deleting, failure.permanent) {
            (true, true) => Readiness::stalled("NotCollected", message),
            (true, false) => Readiness::waiting("NotCollected", message),
            (false, true) => Readiness::stalled("NotCaptured", message),
            (false, false) => Readiness::waiting("NotCaptured", message),
        };
        status.phase = match (deleting, failure.permanent) {
            (true, _) => CheckpointPhase::Deleting,
            (false, true) => CheckpointPhase::Failed,
            (false, false) => status.phase,
        };
        if status.phase == CheckpointPhase::Failed {
            status.machine_uid = status.machine_uid.or_else(|| outcome.machine_uid.clone());
        }
        return Some(with(status, &readiness, stored, now));
    }
    let ready = |reason| Readiness::Ready { reason, message: "its snapshots are taken and held".into() };
    let readiness = match &plan.stand {
        Stand::Untouched => return None,
        Stand::Settled if status.phase == CheckpointPhase::Ready && status.imported.is_some() => ready("Imported"),
        // The generation may be new (a description was changed): what was decided stands for it too.
        Stand::Settled if status.phase == CheckpointPhase::Ready => ready("Captured"),
        Stand::Settled => {
            for condition in &mut status.conditions {
                condition.observed_generation = Some(stored.generation());
            }
            return Some(status);
        }
        Stand::Waiting { reason, message } => Readiness::waiting(reason, message),
        Stand::Failed { reason, message } => {
            status.phase = CheckpointPhase::Failed;
            status.machine_uid = status.machine_uid.or_else(|| outcome.machine_uid.clone());
            Readiness::stalled(reason, message)
        }
        Stand::Imported(volumes) => {
            status.phase = CheckpointPhase::Ready;
            status.volumes.clone_from(volumes);
            status.quiescent = Some(true);
            status.captured_at = Some(now.clone());
            ready("Imported")
        }
        Stand::Captured => {
            let captured = outcome.captured.as_ref()?;
            record_capture(&mut status, captured, stored);
            ready("Captured")
        }
        Stand::Verifying { reason, message } => {
            put_condition(&mut status.conditions, stored.generation(), now, (VERIFIED, "Unknown", reason, message));
            ready("Captured")
        }
        Stand::Verified(found, baseline) => {
            let (_, reason) = verdict(found);
            let passed = found.outcome == checkpoint::Outcome::Passed;
            set_condition(&mut status.conditions, stored.generation(), now, (VERIFIED, passed, reason, &found.message));
            status.verified = Some(found.clone());
            status.digests.extend(baseline.iter().cloned());
            ready("Captured")
        }
        Stand::Deleting(waiting) => {
            status.phase = CheckpointPhase::Deleting;
            match waiting {
                Some(message) => Readiness::waiting("InUse", message),
                None => Readiness::waiting("Collecting", "its snapshots are being destroyed"),
            }
        }
    };
    Some(with(status, &readiness, stored, now))
}

/// How a verification is told.
pub(super) fn verdict(found: &Verified) -> (EventType, &'static str) {
    match found.outcome {
        checkpoint::Outcome::Passed => (EventType::Normal, "Verified"),
        checkpoint::Outcome::Failed => (EventType::Warning, "VerificationFailed"),
    }
}

fn record_capture(status: &mut CheckpointStatus, captured: &Captured, stored: &Checkpoint) {
    status.phase = CheckpointPhase::Ready;
    status.machine_uid = Some(captured.machine_uid.clone());
    status.parent.clone_from(&captured.parent);
    status.goal.clone_from(&captured.goal);
    status.workspace.clone_from(&captured.workspace);
    status.volumes.clone_from(&captured.volumes);
    // An answer that was let go first may have made the agent write: then it is a plain checkpoint.
    status.quiescent = Some(captured.quiescent && !status.released);
    status.took = Some(captured.took);
    status.captured_at = Some(captured.at.clone());
    let annotation = |name: &str| stored.metadata.annotations.as_ref().and_then(|annotations| annotations.get(name));
    status.session = annotation(annotation::SESSION).and_then(|text| serde_json::from_str(text).ok());
    let asked: Vec<Reason> = annotation(annotation::REASONS).and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    status.add_reasons(asked);
    if status.reasons.is_empty() {
        status.add_reasons(stored.spec.reason());
    }
}

fn with(mut status: CheckpointStatus, readiness: &Readiness, stored: &Checkpoint, now: &Time) -> CheckpointStatus {
    readiness.apply(&mut status.conditions, stored.generation(), now);
    status.message = (!readiness.is_ready()).then(|| readiness.message().to_owned());
    status
}
