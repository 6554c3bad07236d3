//! `Approval`: a person's word on one tool call that no checkpoint undoes.

use super::meta::{Column, FieldError, Kind, Scope, object};
use super::rule;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

object!(
    /// A tool call that waits for a person. The hub makes one when an agent calls what reaches beyond its VM; it is good for
    /// that one call. Set `spec.decision` to decide it.
    Approval, ApprovalSpec, ApprovalStatus
);

/// What to do instead of changing what is asked.
const ANEW: &str = "an Approval is for one call; the agent asks for another when it makes another";

/// What is asked, and the answer: only `decision` and `reason` may be set, together and once.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [
    rule::immutable("machine", ANEW),
    rule::immutable("tool", ANEW),
    rule::immutable("asks", ANEW),
    rule::immutable("call", ANEW),
    rule::immutable("class", ANEW),
    rule::immutable("rule", ANEW),
    rule::immutable("checkpoint", ANEW),
    rule::immutable("expiresAt", ANEW),
    rule::immutable("onTimeout", ANEW),
    rule::once("decision", "decision", "it was decided; the agent may be acting on it"),
    rule::once("reason", "decision", "it was decided; the agent may have read it"),
]))]
pub struct ApprovalSpec {
    /// Name of the Machine in this namespace whose agent asks.
    pub machine: String,
    /// The tool that it calls.
    pub tool: String,
    /// What it would do: the command, or the tool's input as JSON. What is longer than 8 KiB is cut, and says so.
    pub asks: String,
    /// SHA-256 of the tool and its whole input, hex.
    pub call: String,
    /// Class of the call's risk: 4 leaves the VM.
    pub class: u32,
    /// The rule by which it is asked, in words.
    pub rule: String,
    /// Name of the Checkpoint before it; it does not undo what the call does outside of the VM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<String>,
    /// Until when it can be decided.
    pub expires_at: Time,
    /// What is done when nobody decides it until then.
    #[serde(default)]
    pub on_timeout: OnTimeout,
    /// Whether the call may be made. Set once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decision: Option<Decision>,
    /// Why, for the agent to read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2000))]
    pub reason: Option<String>,
}

/// A person's word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum Decision {
    /// The agent may make the call.
    Approved,
    /// It may not, and is told so.
    Denied,
}

/// What is done with a call that nobody decides in time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum OnTimeout {
    #[default]
    Deny,
    Allow,
}

/// What was observed of an Approval.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ApprovalStatus {
    /// A summary for people.
    #[serde(default)]
    pub phase: ApprovalPhase,
    /// The user who decided it, as the server knew them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decided_by: Option<String>,
    /// When it was decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decided_at: Option<Time>,
    /// When the agent got the answer: it is good for no other call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_at: Option<Time>,
    /// Id of the tool call that it was used for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_by: Option<String>,
    /// When the Hub's webhook took it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notified_at: Option<Time>,
}

/// A summary for people.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum ApprovalPhase {
    /// For a person.
    #[default]
    Pending,
    Approved,
    Denied,
    /// Nobody decided it in time: `spec.onTimeout` was done.
    Expired,
}

impl Approval {
    /// What a person reads of it, in a line.
    pub fn summary(&self) -> String {
        format!("approval {}: {} would run {}", self.name(), self.spec.machine, first_line(&self.spec.asks))
    }

    pub fn phase(&self) -> ApprovalPhase {
        self.status.as_ref().map(|status| status.phase).unwrap_or_default()
    }
}

fn first_line(text: &str) -> String {
    let line: String = text.lines().next().unwrap_or_default().chars().take(120).collect();
    if line == text { format!("`{line}`") } else { format!("`{line}` …") }
}

impl Kind for Approval {
    const KIND: &'static str = "Approval";
    const PLURAL: &'static str = "approvals";
    const SINGULAR: &'static str = "approval";
    const SHORT_NAMES: &'static [&'static str] = &["appr"];
    const SCOPE: Scope = Scope::Namespaced;
    const COLUMNS: &'static [Column] = &[
        Column { name: "Phase", r#type: "string", json_path: ".status.phase", priority: 0, description: "Summary of its state" },
        Column { name: "Machine", r#type: "string", json_path: ".spec.machine", priority: 0, description: "Whose agent asks" },
        Column { name: "Asks", r#type: "string", json_path: ".spec.asks", priority: 0, description: "What it would do" },
        Column { name: "Rule", r#type: "string", json_path: ".spec.rule", priority: 0, description: "Why it is asked" },
        Column { name: "By", r#type: "string", json_path: ".status.decidedBy", priority: 0, description: "Who decided it" },
        Column { name: "Reason", r#type: "string", json_path: ".spec.reason", priority: 1, description: "Why it was decided so" },
        Column {
            name: "Checkpoint",
            r#type: "string",
            json_path: ".spec.checkpoint",
            priority: 1,
            description: "The checkpoint before the call",
        },
        Column {
            name: "Expires",
            r#type: "string",
            json_path: ".spec.expiresAt",
            priority: 1,
            description: "Until when it can be decided",
        },
        Column {
            name: "Used",
            r#type: "date",
            json_path: ".status.usedAt",
            priority: 1,
            description: "Since when the agent has the answer",
        },
        Column {
            name: "Age",
            r#type: "date",
            json_path: ".metadata.creationTimestamp",
            priority: 0,
            description: "Time since it was created",
        },
    ];

    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }
    fn metadata_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }

    fn validate(&self) -> Vec<FieldError> {
        let mut errors = Vec::new();
        if self.spec.decision.is_some() && self.phase() == ApprovalPhase::Expired {
            let done =
                format!("nobody decided it in time, and onTimeout: {:?} was done; wait until the agent asks again", self.spec.on_timeout);
            errors.push(FieldError::forbidden("spec.decision", done));
        }
        if self.spec.decision.is_none() && self.spec.reason.is_some() {
            errors.push(FieldError::required("spec.decision", "a reason goes with Approved or Denied"));
        }
        errors
    }
}
