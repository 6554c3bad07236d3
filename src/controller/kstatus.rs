//! The conditions by which tools judge any object, the same for every kind: Ready, Reconciling, Stalled.
//!
//! Source: kstatus: `Stalled=True` is failed, `Reconciling=True` or `Ready` other than `True` is in progress.

use crate::api::Kind;
use crate::api::meta::{clear_condition, set_condition};
use crate::controller::client::Client;
use crate::objects::EventType;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// How an object stands. `reason` is for programs and stays the same, `message` is for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Readiness {
    Ready {
        reason: &'static str,
        message: String,
    },
    /// It goes on by itself when what it waits for is there.
    Waiting {
        reason: &'static str,
        message: String,
    },
    /// It does not go on before a person changes something.
    Stalled {
        reason: &'static str,
        message: String,
    },
}

impl Readiness {
    pub fn waiting(reason: &'static str, message: impl Into<String>) -> Self {
        Self::Waiting { reason, message: message.into() }
    }
    pub fn stalled(reason: &'static str, message: impl Into<String>) -> Self {
        Self::Stalled { reason, message: message.into() }
    }
    pub fn is_ready(&self) -> bool {
        matches!(self, Self::Ready { .. })
    }
    pub fn message(&self) -> &str {
        match self {
            Self::Ready { message, .. } | Self::Waiting { message, .. } | Self::Stalled { message, .. } => message,
        }
    }

    /// Sets Ready, and Reconciling or Stalled only when they hold.
    pub fn apply(&self, conditions: &mut Vec<Condition>, generation: i64, now: &Time) {
        let (ready, abnormal, reason, message) = match self {
            Self::Ready { reason, message } => (true, None, *reason, message),
            Self::Waiting { reason, message } => (false, Some("Reconciling"), *reason, message),
            Self::Stalled { reason, message } => (false, Some("Stalled"), *reason, message),
        };
        set_condition(conditions, generation, now, ("Ready", ready, reason, message));
        for kind in ["Reconciling", "Stalled"] {
            if abnormal == Some(kind) {
                set_condition(conditions, generation, now, (kind, true, reason, message));
            } else {
                clear_condition(conditions, kind);
            }
        }
    }
}

/// Records an Event when `Ready` says something else than before.
pub async fn record_change<K: Kind>(objects: &Client, object: &K, before: &[Condition], after: &[Condition]) {
    let ready = |conditions: &[Condition]| conditions.iter().find(|c| c.type_ == "Ready").cloned();
    let Some(new) = ready(after) else { return };
    if ready(before).is_some_and(|old| old.status == new.status && old.reason == new.reason) {
        return;
    }
    let stalled = after.iter().any(|c| c.type_ == "Stalled");
    let kind = if stalled { EventType::Warning } else { EventType::Normal };
    objects.record(object, kind, &new.reason, &new.message).await;
}
