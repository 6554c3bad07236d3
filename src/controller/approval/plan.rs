//! What is next for an Approval. Pure.

use crate::api::Approval;
use crate::api::approval::ApprovalPhase;
use crate::runtime::Requeue;
use jiff::Timestamp;
use std::time::Duration;

/// What is next, and when it is looked at again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    pub step: Option<Step>,
    pub requeue: Requeue,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Nobody decided it in time.
    Expire,
    /// The Hub's webhook is told.
    Notify,
}

/// `tells`: its Hub has a webhook.
pub(super) fn plan(approval: &Approval, tells: bool, now: Timestamp) -> Plan {
    if approval.phase() != ApprovalPhase::Pending {
        return Plan { step: None, requeue: Requeue::Never };
    }
    let left = approval.spec.expires_at.0.duration_since(now);
    let Some(left) = Duration::try_from(left).ok().filter(|left| !left.is_zero()) else {
        return Plan { step: Some(Step::Expire), requeue: Requeue::Never };
    };
    let is_told = approval.status.as_ref().is_some_and(|status| status.notified_at.is_some());
    Plan { step: (tells && !is_told).then_some(Step::Notify), requeue: Requeue::After(left) }
}
