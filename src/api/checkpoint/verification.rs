//! The proof that a checkpoint can be gone on from: what is written down when it is taken, and what a clone of it showed.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Annotation of a Checkpoint that asks for a verification: any text that is not the one of the last.
pub const VERIFY: &str = "autovibe.dev/verify";

/// Files of a guest, by what they are to its Machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum Content {
    /// The session files of its agent.
    Conversation,
    #[default]
    Workspace,
}

/// What a directory in a guest held.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Digest {
    /// What it is.
    pub content: Content,
    /// Where it is in the guest.
    pub path: String,
    /// SHA-256 over the names of all that is in it and the contents of its files, hex.
    pub sha256: String,
    /// When it was taken.
    #[serde(default, skip_serializing_if = "Taken::is_at_capture")]
    pub taken: Taken,
}

/// When a digest was taken: what changed before that is not found by it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum Taken {
    /// In the guest, right before its disks were captured.
    #[default]
    AtCapture,
    /// In the clone of the first verification that passed.
    AtVerification,
}

impl Taken {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
    fn is_at_capture(&self) -> bool {
        *self == Self::AtCapture
    }
}

/// What was found in a clone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Examined {
    /// Of each directory that the checkpoint has a digest of, or that its agent leaves, if it is there.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub digests: Vec<Digest>,
    /// Whether the conversation has the tool results that it had when the checkpoint was taken; `None` where none are known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_results: Option<bool>,
}

/// What a verification led to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Verified {
    /// Whether all checks passed.
    pub outcome: Outcome,
    /// What was found, in words.
    pub message: String,
    /// What was looked at.
    #[serde(default)]
    pub checks: Vec<Check>,
    /// When.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Time>,
    /// When one passed last, this one included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_passed: Option<Time>,
    /// The value of the annotation `autovibe.dev/verify` that asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<String>,
}

/// Whether all checks passed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum Outcome {
    Passed,
    #[default]
    Failed,
}

/// One thing that was looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Check {
    /// What.
    pub what: Checked,
    /// Whether it is as it should be.
    pub passed: bool,
}

/// What a verification looks at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum Checked {
    /// Its snapshots are there, a VM on clones of them starts, and its guest agent answers.
    #[default]
    Boot,
    /// The session files of the agent are what they were.
    Conversation,
    /// The conversation has the tool results that it had.
    ToolResults,
    /// The workspace is what it was.
    Workspace,
    /// The Machine's `goal.verify` passes, as it did when the Machine ended.
    Command,
}
