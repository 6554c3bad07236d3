//! `Checkpoint`: an immutable state of a Machine, made of one ZFS snapshot per disk, with its parent.

mod archive;
mod verification;

pub use archive::{Ancestor, Archive, Import, Imported};
pub use verification::{Check, Checked, Content, Digest, Examined, Outcome, Taken, VERIFY, Verified};

use super::meta::{Column, Kind, Scope, conditions_schema, object};
use super::quantity::GoDuration;
use super::rule;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

object!(
    /// An immutable state of a Machine. Creating one by hand is how you ask for one. It outlives its Machine.
    Checkpoint, CheckpointSpec, CheckpointStatus
);

/// Finalizer by which the hub releases and destroys the snapshots before the object goes.
pub const FINALIZER: &str = "autovibe.dev/checkpoint";

/// Annotation of a checkpoint that is taken for a fork: uid of the Machine that is to be spawned from it.
pub const ASKED_BY: &str = "autovibe.dev/asked-by";

/// What to do instead of changing what is immutable.
const ANEW: &str = "create a new Checkpoint instead";

/// What to capture: exactly one of `machine` and `import`. Immutable but for `description` and `keep`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [
    rule::one_of(&["machine", "import"]),
    rule::immutable("machine", ANEW),
    rule::immutable("import", ANEW),
    rule::immutable("trigger", ANEW),
]))]
pub struct CheckpointSpec {
    /// Name of the Machine in this namespace whose state is captured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<String>,
    /// What becomes a first base.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub import: Option<Import>,
    /// What caused it.
    #[serde(default)]
    pub trigger: Trigger,
    /// A note for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// `Policy`: the Machine's retention may collect it. `Forever`: only you.
    #[serde(default)]
    pub keep: Keep,
}

/// What caused a checkpoint.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum Trigger {
    #[default]
    Requested,
    /// The agent waited for an answer.
    BetweenMessages,
    /// What its tools had just done to files is significant.
    AfterFileOperations,
    /// A tool call was about to run that destroys something, or reaches beyond the VM.
    BeforeRiskyOperation,
    /// A commit was made, tests passed, or the agent ended its turn.
    Breakpoint,
    /// There was none for as long as its Machine's `spec.checkpoints.interval`.
    Interval,
    Suspend,
    /// What its Machine was before it was put back to another state.
    Restore,
    Final,
    Import,
}

impl Trigger {
    /// Whether it is of an agent's conversation, and its checkpoint that of a turn.
    pub fn is_boundary(self) -> bool {
        matches!(self, Self::BetweenMessages | Self::AfterFileOperations | Self::BeforeRiskyOperation | Self::Breakpoint)
    }
}

/// Who may collect it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum Keep {
    #[default]
    Policy,
    Forever,
}

/// What was observed of a Checkpoint.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CheckpointStatus {
    /// The generation that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// A summary for people.
    #[serde(default)]
    pub phase: CheckpointPhase,
    /// What it waits for, or why it failed, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Ready; and Reconciling, Stalled; Verified, once a verification was asked for.
    #[serde(default)]
    #[schemars(schema_with = "conditions_schema")]
    pub conditions: Vec<Condition>,
    /// All that this state was worth keeping for, by the rules of the boundaries; `spec.trigger` is the first of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<Reason>,
    /// The boundaries of `reasons`, each once, with commas between them.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub boundaries: String,
    /// Uid of the Machine whose state it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine_uid: Option<String>,
    /// Name of the Checkpoint before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<String>,
    /// The goal that led from the parent to here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub goal: Option<String>,
    /// The working directory of its Machine's agent: what is spawned from here works there too, if its goal names no other.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workspace: Option<String>,
    /// One snapshot per disk.
    #[serde(default)]
    pub volumes: Vec<Volume>,
    /// The conversation that goes with this disk state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<Session>,
    /// Whether nothing of the agent could write while it was taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quiescent: Option<bool>,
    /// Whether the answer that the agent waited for was let go before the snapshot was there. Decided once: the first of
    /// `released: true` and `phase: Ready` that is stored wins.
    #[serde(default)]
    pub released: bool,
    /// How long the capture took, from request to hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub took: Option<GoDuration>,
    /// When the snapshot was taken.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub captured_at: Option<Time>,
    /// Commit of the workspace in the hub's git bundle of this checkpoint, for `autovibe diff`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit: Option<String>,
    /// What the guest held when nothing of its agent ran any more, right before the disks were captured. Of one that was taken while
    /// its Machine went on: what the clone of its first verification held.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub digests: Vec<Digest>,
    /// What it was on the hub that exported it, where it came from a file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub imported: Option<Box<Imported>>,
    /// The last verification: a VM on a clone of it was started, without a network, and looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verified: Option<Verified>,
}

/// Why a state is worth keeping.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Reason {
    /// The boundary that it stands at.
    pub trigger: Trigger,
    /// By which rule, in words.
    pub message: String,
}

/// A summary for people.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum CheckpointPhase {
    #[default]
    Pending,
    Ready,
    Failed,
    Deleting,
}

/// One disk's snapshot.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Volume {
    /// The Proxmox node whose pool holds it.
    pub node: String,
    /// The dataset that holds the snapshot when it was taken, renames follow the guid; of a template Proxmox' name of the disk.
    pub dataset: String,
    /// The snapshot's short name.
    pub snapshot: String,
    /// The snapshot's ZFS guid, decimal: its identity; of a template the uuid of its VM.
    pub guid: String,
    /// VMID of the Proxmox template that it is a disk of, in place of a snapshot.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template: Option<u32>,
    /// Bytes that it refers to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub referenced: Option<u64>,
    /// The same snapshot, with the same guid, on other nodes: made there when a Machine was to be spawned from it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub copies: Vec<VolumeCopy>,
}

/// A snapshot on another node than the one it was taken on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VolumeCopy {
    /// The Proxmox node.
    pub node: String,
    /// Its dataset there.
    pub dataset: String,
    /// Whether it was seen there, whole and held. Until then it may be there in part.
    #[serde(default)]
    pub received: bool,
}

/// A conversation at a moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Session {
    /// The agent's session id.
    pub id: String,
    /// Number of the request within the Machine.
    pub turn: u64,
    /// Id of the request in the gateway's log.
    pub request: String,
}

impl CheckpointSpec {
    /// Why there is one that no message of the conversation was the reason for.
    pub fn reason(&self) -> Option<Reason> {
        let message = match self.trigger {
            Trigger::Requested => self.description.as_deref().unwrap_or("it was asked for"),
            Trigger::Interval => "there was none for as long as its machine's interval",
            Trigger::Suspend => "its machine was suspended",
            Trigger::Restore => "its machine was put back to another state",
            Trigger::Final => "its machine ended",
            _ => return None,
        };
        Some(Reason { trigger: self.trigger, message: message.into() })
    }
}

impl CheckpointStatus {
    /// Adds reasons that it does not have yet; whether there were any.
    pub fn add_reasons(&mut self, reasons: impl IntoIterator<Item = Reason>) -> bool {
        let before = self.reasons.len();
        for reason in reasons {
            if !self.reasons.contains(&reason) {
                self.reasons.push(reason);
            }
        }
        let mut triggers: Vec<String> = Vec::new();
        for name in self.reasons.iter().map(|reason| format!("{:?}", reason.trigger)) {
            if !triggers.contains(&name) {
                triggers.push(name);
            }
        }
        self.boundaries = triggers.join(",");
        self.reasons.len() > before
    }
}

impl Checkpoint {
    /// Whether it refers to an image, which is not its own.
    pub fn is_of_image(&self) -> bool {
        self.spec.import.as_ref().is_some_and(|import| import.archive.is_none())
    }
}

impl Kind for Checkpoint {
    const KIND: &'static str = "Checkpoint";
    const PLURAL: &'static str = "checkpoints";
    const SINGULAR: &'static str = "checkpoint";
    const SHORT_NAMES: &'static [&'static str] = &["ckpt"];
    const SCOPE: Scope = Scope::Namespaced;
    const COLUMNS: &'static [Column] = &[
        Column { name: "Phase", r#type: "string", json_path: ".status.phase", priority: 0, description: "Summary of its state" },
        Column { name: "Machine", r#type: "string", json_path: ".spec.machine", priority: 0, description: "Whose state it is" },
        Column { name: "Trigger", r#type: "string", json_path: ".spec.trigger", priority: 0, description: "What caused it" },
        Column {
            name: "Boundaries",
            r#type: "string",
            json_path: ".status.boundaries",
            priority: 1,
            description: "All that it is worth keeping for",
        },
        Column { name: "Parent", r#type: "string", json_path: ".status.parent", priority: 0, description: "The checkpoint before it" },
        Column {
            name: "Quiescent",
            r#type: "boolean",
            json_path: ".status.quiescent",
            priority: 1,
            description: "Whether nothing could write meanwhile",
        },
        Column {
            name: "Verified",
            r#type: "string",
            json_path: ".status.verified.outcome",
            priority: 1,
            description: "What its last verification led to",
        },
        Column { name: "Took", r#type: "string", json_path: ".status.took", priority: 1, description: "Duration of the capture" },
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
}
