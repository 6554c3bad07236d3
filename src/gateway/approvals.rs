//! A person's word on a tool call that no checkpoint undoes: asked for by an Approval, waited for, and used once.
//!
//! All that is known of it is in the object, so that a restart, or an agent that asks again, finds it.

use super::transcript::redact;
use crate::{
    api::{
        Approval, Kind, Machine,
        approval::{ApprovalPhase, ApprovalSpec, OnTimeout},
        machine::Requirement,
    },
    boundary::{Class, Risk},
    clock::Clock,
    objects::{self, EventType, Objects},
    wire::label,
};
use futures::StreamExt;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{OwnerReference, Time};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Bytes of what is asked that are shown; a longer text says how much is missing.
const SHOWN: usize = 8 << 10;
/// Attempts to make or use one that others write at the same time.
const ATTEMPTS: u32 = 8;

/// Asks for Approvals and waits for them; cheap to clone.
#[derive(Clone)]
pub(super) struct Approvals {
    objects: Objects,
    /// Some Approval changed. There are few, and what waits looks for itself.
    changed: watch::Sender<()>,
}

/// A tool call that needs one.
pub(super) struct Asked<'a> {
    pub(super) tool: &'a str,
    pub(super) input: &'a Value,
    /// Id of the call.
    pub(super) id: &'a str,
    pub(super) risk: &'a Risk,
    /// The checkpoint before it.
    pub(super) checkpoint: Option<String>,
}

/// What becomes of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Ruling {
    Allowed,
    /// It must not be made; what the agent is told.
    Refused(String),
    /// Nobody decided in the time that there was; what the agent is told.
    Undecided(String),
}

impl Approvals {
    pub(super) fn start(objects: &Objects, tasks: &TaskTracker, shutdown: &CancellationToken) -> Self {
        let this = Self { objects: objects.clone(), changed: watch::channel(()).0 };
        let (mut events, shutdown, changed) = (objects.watch::<Approval>(), shutdown.clone(), this.changed.clone());
        tasks.spawn(async move {
            let all = async {
                while events.next().await.is_some() {
                    changed.send_replace(());
                }
            };
            shutdown.run_until_cancelled(all).await
        });
        this
    }

    fn clock(&self) -> &Clock {
        self.objects.clock()
    }

    /// Asks whether a call may be made, and waits for the answer until `enough`.
    ///
    /// The same call of the same Machine, asked again, waits for the same Approval. Errors: the store's; the call must not be made then.
    pub(super) async fn ask(
        &self,
        machine: &Machine,
        asked: &Asked<'_>,
        enough: impl Future<Output = ()>,
    ) -> Result<Ruling, objects::Error> {
        tokio::pin!(enough);
        let call = fingerprint(asked.tool, asked.input);
        let mut changed = self.changed.subscribe();
        let mut known: Option<String> = None;
        let mut attempts = 0;
        loop {
            changed.borrow_and_update();
            let approval = match &known {
                None => self.find_or_make(machine, asked, &call).await?,
                Some(name) => match self.objects.get::<Approval>(machine.namespace(), name).await? {
                    Some(approval) => approval,
                    None => return Ok(Ruling::Refused(format!("autovibe: approval {name} of this call was deleted, so it was not made."))),
                },
            };
            known = Some(approval.name().to_owned());
            let now = self.clock().now();
            if let Some(ruling) = ruling(&approval, now) {
                match self.spend(approval, asked.id).await {
                    Err(objects::Error::Conflict { .. }) if attempts < ATTEMPTS => {
                        attempts += 1;
                        continue;
                    }
                    Err(error) => return Err(error),
                    // Another call like it was faster, and took it.
                    Ok(None) => {
                        known = None;
                        continue;
                    }
                    Ok(Some(approval)) => {
                        self.report(machine, &approval, &ruling).await;
                        return Ok(ruling);
                    }
                }
            }
            let left = Duration::try_from(approval.spec.expires_at.0.duration_since(now)).unwrap_or_default();
            tokio::select! {
                biased;
                _ = changed.changed() => {}
                () = self.clock().sleep(left) => {}
                () = &mut enough => return Ok(Ruling::Undecided(undecided(&approval))),
            }
        }
    }

    /// The open Approval of this call, or a new one.
    async fn find_or_make(&self, machine: &Machine, asked: &Asked<'_>, call: &str) -> Result<Approval, objects::Error> {
        for attempt in 1..=ATTEMPTS {
            let of_call = |document: &Value| document["spec"]["call"] == *call && document["spec"]["machine"] == *machine.name();
            let mut same = self.objects.list_where::<Approval>(machine.namespace(), of_call).await?;
            same.retain(|approval| is_of(approval, machine));
            let now = self.clock().now();
            let count = same.len() + attempt as usize;
            if let Some(open) = same.into_iter().find(|approval| is_open(approval, asked.id, now)) {
                return Ok(open);
            }
            let approval = self.make(machine, asked, call, &format!("{}-{}-{}", machine.name(), &call[..8], count));
            match self.objects.create(&approval).await {
                Ok(made) => {
                    let message = format!("{}; decide it by {}", made.summary(), made.spec.expires_at.0.strftime("%Y-%m-%d %H:%M:%SZ"));
                    tracing::info!(object.kind = "Machine", object.name = machine.name(), "approval {} is asked for", made.name());
                    self.objects.record(machine, EventType::Normal, "ApprovalRequested", &message).await;
                    return Ok(made);
                }
                // Made by someone at this moment, or what a namesake left.
                Err(objects::Error::AlreadyExists { .. }) => self.clock().sleep(Duration::from_millis(20)).await,
                Err(error) => return Err(error),
            }
        }
        Err(objects::Error::AlreadyExists { resource: Approval::PLURAL.into(), name: format!("{}-{}", machine.name(), &call[..8]) })
    }

    fn make(&self, machine: &Machine, asked: &Asked<'_>, call: &str, name: &str) -> Approval {
        let policy = &machine.spec.approvals;
        let now = self.clock().api_now().0;
        let spec = ApprovalSpec {
            machine: machine.name().into(),
            tool: shown(asked.tool),
            asks: shown(&asked.input["command"].as_str().map_or_else(|| asked.input.to_string(), str::to_owned)),
            call: call.into(),
            class: asked.risk.class as u32,
            rule: format!("{}, which {}", asked.risk.rule, asked.risk.class.words()),
            checkpoint: asked.checkpoint.clone(),
            expires_at: Time(now.checked_add(policy.timeout.0).unwrap_or(Timestamp::MAX)),
            on_timeout: policy.on_timeout,
            decision: None,
            reason: None,
        };
        let mut approval = Approval::new(machine.namespace(), name, spec);
        approval.metadata.labels = Some([(label::MACHINE.to_owned(), machine.name().to_owned())].into());
        approval.metadata.owner_references = Some(vec![OwnerReference {
            api_version: crate::api::API_VERSION.into(),
            kind: Machine::KIND.into(),
            name: machine.name().into(),
            uid: machine.uid().into(),
            ..OwnerReference::default()
        }]);
        approval
    }

    /// Notes that a call has its answer; `None` when another call has it.
    async fn spend(&self, mut approval: Approval, id: &str) -> Result<Option<Approval>, objects::Error> {
        let status = approval.status.get_or_insert_default();
        if status.used_at.is_some() {
            return Ok((status.used_by.as_deref() == Some(id)).then_some(approval));
        }
        status.used_at = Some(self.clock().api_now());
        status.used_by = Some(id.to_owned());
        if status.phase == ApprovalPhase::Pending {
            status.phase = ApprovalPhase::Expired;
        }
        self.objects.update_status(&approval).await.map(Some)
    }

    async fn report(&self, machine: &Machine, approval: &Approval, ruling: &Ruling) {
        let (kind, reason) = match ruling {
            Ruling::Allowed => (EventType::Normal, "ApprovalUsed"),
            Ruling::Refused(_) | Ruling::Undecided(_) => (EventType::Warning, "ApprovalRefused"),
        };
        let message = format!("{}: {}", approval.summary(), decided(approval));
        self.objects.record(machine, kind, reason, &message).await;
    }

    /// Records that nobody could be asked.
    pub(super) async fn failed(&self, machine: &Machine, risk: &Risk, error: &objects::Error) -> String {
        let message =
            format!("the answer was ended before {}, which {}: nobody can be asked for approval: {error}", risk.rule, risk.class.words());
        tracing::error!(object.kind = "Machine", object.name = machine.name(), "{message}");
        self.objects.record(machine, EventType::Warning, "NoApproval", &message).await;
        message
    }
}

/// Whether a Machine's call of this risk needs a person's word.
pub(super) fn is_needed(machine: &Machine, risk: &Risk) -> bool {
    risk.class >= Class::LeavesVm && machine.spec.approvals.leaving_vm == Requirement::Required
}

/// What makes a call the same: its tool and its whole input.
fn fingerprint(tool: &str, input: &Value) -> String {
    hex::encode(Sha256::digest(format!("{tool}\0{input}")))
}

/// Whether it is this Machine's, and not what a namesake left.
fn is_of(approval: &Approval, machine: &Machine) -> bool {
    approval.metadata.owner_references.iter().flatten().any(|owner| owner.uid == machine.uid())
}

/// How long the answer to a call can be fetched again, by the call's id: its first reply may be lost.
const REPEAT: Duration = Duration::from_mins(2);

/// Whether it answers a call: nobody used it, or this very call did just now. A word that was given and never fetched is good for as
/// long as it was waited for.
fn is_open(approval: &Approval, id: &str, now: Timestamp) -> bool {
    let status = approval.status.clone().unwrap_or_default();
    if let Some(at) = status.used_at {
        return status.used_by.as_deref() == Some(id) && now.duration_since(at.0).unsigned_abs() <= REPEAT;
    }
    let made = approval.metadata.creation_timestamp.as_ref().map_or(Timestamp::MIN, |at| at.0);
    let good_for = approval.spec.expires_at.0.duration_since(made);
    let since = status.decided_at.as_ref().map_or(approval.spec.expires_at.0, |at| at.0);
    now.duration_since(since) <= good_for
}

/// What was decided, by a person or by the time; `None` while it waits.
fn ruling(approval: &Approval, now: Timestamp) -> Option<Ruling> {
    let rule = &approval.spec.rule;
    let status = approval.status.clone().unwrap_or_default();
    match status.phase {
        // The server says who; without that nobody did.
        ApprovalPhase::Approved if status.decided_by.is_some() => Some(Ruling::Allowed),
        ApprovalPhase::Denied => Some(Ruling::Refused(format!(
            "autovibe: this call ({rule}) was not made: {}. Do not try it in another way. Go on without it, or end and say that it is needed.",
            decided(approval)
        ))),
        ApprovalPhase::Pending if now < approval.spec.expires_at.0 => None,
        ApprovalPhase::Pending | ApprovalPhase::Expired | ApprovalPhase::Approved => Some(match approval.spec.on_timeout {
            OnTimeout::Allow => Ruling::Allowed,
            OnTimeout::Deny => Ruling::Refused(format!(
                "autovibe: this call ({rule}) was not made: it needs a person's approval, and nobody decided in time. Go on without it, \
                 or end and say that it is needed."
            )),
        }),
    }
}

/// Who said what, in words.
fn decided(approval: &Approval) -> String {
    let status = approval.status.clone().unwrap_or_default();
    let reason = approval.spec.reason.as_ref().map(|reason| format!(": {reason}")).unwrap_or_default();
    match (status.phase, status.decided_by) {
        (ApprovalPhase::Approved, Some(who)) => format!("{who} approved it{reason}"),
        (ApprovalPhase::Denied, Some(who)) => format!("{who} denied it{reason}"),
        _ => format!("nobody decided in time, onTimeout: {:?}", approval.spec.on_timeout),
    }
}

fn undecided(approval: &Approval) -> String {
    format!(
        "autovibe: this call ({}) was not made yet: it waits for a person to decide approval {}. Make exactly the same call again to go on \
         waiting.",
        approval.spec.rule,
        approval.name()
    )
}

/// A text of an agent as people can be shown it, without what looks like a secret.
fn shown(text: &str) -> String {
    let redacted = redact(text);
    let text = redacted.as_deref().unwrap_or(text);
    let end = text.floor_char_boundary(SHOWN);
    let mut shown: String = text[..end].chars().map(|c| if c.is_control() && c != '\n' && c != '\t' { '\u{fffd}' } else { c }).collect();
    if end < text.len() {
        shown += &format!("… ({} more bytes)", text.len() - end);
    }
    shown
}
