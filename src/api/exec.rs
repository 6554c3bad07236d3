//! What is asked of a Machine's part `exec`, and what comes back: a command in its guest.

use super::quantity::GoDuration;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Largest `stdin`, bytes. Source: PVE API, `input-data` of agent/exec is at most 64 KiB.
pub const MOST_INPUT: usize = 64 << 10;
/// The longest `command`, bytes. Source: PVE API, an older server takes a body of at most 64 KiB.
pub const MOST_COMMAND: usize = 32 << 10;
/// How much of each stream comes back, bytes: the guest keeps that much of it, mostly in memory.
pub const MOST_OUTPUT: usize = 8 << 20;
/// The longest `timeout`.
pub const LONGEST: Duration = Duration::from_hours(1);

/// A command to run in a guest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Exec {
    /// The program and its arguments; no shell reads them.
    pub command: Vec<String>,
    /// What it reads, text.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub stdin: String,
    #[serde(default)]
    pub user: ExecUser,
    /// When it is killed.
    #[serde(default = "default_timeout")]
    pub timeout: GoDuration,
    /// When its output comes. A server of a version that has not this field refuses it by name.
    #[serde(default, skip_serializing_if = "ExecOutput::is_at_end")]
    pub output: ExecOutput,
}

/// When the output of a command comes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExecOutput {
    /// In one line, when it has ended.
    #[default]
    AtEnd,
    /// A line for each part, as it is written; the last has `exitCode` or `error`.
    Live,
}

impl ExecOutput {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
    fn is_at_end(&self) -> bool {
        *self == Self::AtEnd
    }
}

fn default_timeout() -> GoDuration {
    GoDuration(Duration::from_mins(1))
}

/// As whom a command runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ExecUser {
    /// The agent's user.
    #[default]
    Agent,
    Root,
}

/// A line of an answer: all of a command that has ended, or a part.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Executed {
    /// 128 and its number after a signal; 137 when its time was up, 127 when there is no such program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Base64.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub stdout: String,
    /// Base64.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub stderr: String,
    /// Why its end was not seen; it may run, and may have run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}
