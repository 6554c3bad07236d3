//! What is reported of a Machine: how far it is, what it runs on, what it has used.

use super::Restore;
use crate::api::checkpoint::Examined;
use crate::api::meta::conditions_schema;
use crate::api::network::NetworkStatus;
use crate::api::quantity::{GoDuration, NanoUsd};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What was pushed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Pushed {
    /// The repository.
    pub git: String,
    /// Its branch.
    pub branch: String,
    /// The commit that it is, 40 hex digits.
    pub commit: String,
}

/// What was observed of a Machine.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MachineStatus {
    /// The generation that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// A summary for people; the conditions carry the truth.
    #[serde(default)]
    pub phase: Phase,
    /// What it waits for or does now, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// MachineReady, AgentActive, GoalAchieved, BudgetAvailable, CheckpointCurrent; ApprovalPending while its agent waits for a person; and Ready,
    /// Reconciling, Stalled.
    #[serde(default)]
    #[schemars(schema_with = "conditions_schema")]
    pub conditions: Vec<Condition>,
    /// The VM, while there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vm: Option<VmStatus>,
    /// The Proxmox node that it was placed on: decided once, before anything of it is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Name of the Checkpoint that it was spawned from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spawned_from: Option<String>,
    /// Its agent's working directory in the guest: of its goal, else of what it was spawned from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workspace: Option<String>,
    /// The state that its disks were last put back to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restored: Option<Restored>,
    /// How often it was tried again, by `spec.retry`.
    #[serde(default)]
    pub retries: u32,
    /// Name of its newest Ready Checkpoint; after it was put back, that one until there is a newer one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_checkpoint: Option<String>,
    /// Name of the Checkpoint in which it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub final_checkpoint: Option<String>,
    /// What of `spec.push` was done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pushed: Option<Pushed>,
    /// When it was decided that it is suspended with its memory; until it goes on from there, or that is lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_kept_at: Option<Time>,
    /// How many Checkpoints were taken of it.
    #[serde(default)]
    pub checkpoints: u64,
    /// Bytes that would be free if all its checkpoints went, as they were last measured; with `spec.checkpoints.retention.maxBytes` alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint_bytes: Option<u64>,
    /// The agent process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<AgentStatus>,
    /// What it consumed.
    #[serde(default)]
    pub usage: Usage,
    /// What it may spend, as `$0.22 of $5.00`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spent: Option<String>,
    /// What its network did, as far as the gateway saw it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<NetworkStatus>,
    /// What was found on its disks, of one with `purpose: Verify`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub examined: Option<Examined>,
    /// Why it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub termination_reason: Option<TerminationReason>,
    /// When the VM was first started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Time>,
    /// When it reached its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub finished_at: Option<Time>,
}

/// A state that disks were put back to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Restored {
    /// Name of the Checkpoint; `None` for the image that it was spawned from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<String>,
    /// The last `spec.restore` that was done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<Restore>,
    /// How often disks were put back.
    #[serde(default)]
    pub count: u32,
    /// Number of the first disk since: those before it are put away, and carry the checkpoints from before.
    #[serde(default)]
    pub first_disk: u32,
    /// When it was decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Time>,
}

/// A summary for people.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum Phase {
    #[default]
    Pending,
    /// For something outside it; `status.message` says for what.
    Waiting,
    Spawning,
    Running,
    Suspending,
    Suspended,
    /// Its disks are put back to an earlier state.
    Restoring,
    Finishing,
    Succeeded,
    Failed,
    Terminating,
}

impl Phase {
    /// Whether nothing more will happen to it by itself.
    pub fn is_finished(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed)
    }
}

/// Where the VM is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct VmStatus {
    /// Name of the Proxmox node.
    pub node: String,
    /// Its id on the cluster.
    pub vmid: u32,
    /// Its disks, in order.
    #[serde(default)]
    pub disks: Vec<String>,
}

/// The agent process.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AgentStatus {
    /// Id of its conversation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// How often it was launched; above 1 it was resumed.
    #[serde(default)]
    pub launches: u32,
    /// How often it went on from the memory that it was suspended with; that is no launch.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub resumed: u32,
    /// When its present launch was decided: whatever it calls, it calls later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub decided_at: Option<Time>,
    /// When it was last launched, as far as the hub saw it: it may have been earlier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub launched_at: Option<Time>,
    /// How long earlier launches ran: with this one's time it is `usage.time`.
    #[serde(default)]
    pub ran_before: GoDuration,
    /// Its exit code, once it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// What it is told when it goes on, where it was not merely interrupted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub told: Option<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero(count: &u32) -> bool {
    *count == 0
}

/// What was consumed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Usage {
    /// Paid to providers, USD.
    #[serde(default)]
    pub money: NanoUsd,
    /// Held back for calls under way, USD.
    #[serde(default)]
    pub reserved: NanoUsd,
    /// Time that the agent ran.
    #[serde(default)]
    pub time: GoDuration,
    /// Calls to providers.
    #[serde(default)]
    pub api_calls: u64,
    /// Tokens read by models, cached ones too.
    #[serde(default)]
    pub tokens_in: u64,
    /// Tokens written by models.
    #[serde(default)]
    pub tokens_out: u64,
}

/// Why a Machine ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum TerminationReason {
    Completed,
    VerifyFailed,
    AgentFailed,
    Timeout,
    BudgetExhausted,
    GuestLost,
    /// A Machine in `goal.after` failed and `afterFailure` is `Fail`.
    PredecessorFailed,
    Deleted,
}
