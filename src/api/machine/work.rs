//! What is to be done, and the agent that does it.

use crate::api::{quantity::GoDuration, rule};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::time::Duration;

/// What to do.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Goal {
    /// The goal in words, as the agent gets it.
    pub prompt: String,
    /// The agent's working directory in the guest. Default: that of the Machine whose checkpoint it is spawned from, else
    /// `/home/agent/workspace`; the status says which.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workspace: Option<String>,
    /// A command that must exit 0 in the workspace when the agent is done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verify: Option<Verify>,
    /// Machines of this namespace that must have Succeeded first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "set"))]
    pub after: Vec<String>,
    /// What to do when one of `after` failed.
    #[serde(default)]
    pub after_failure: AfterFailure,
}

impl Goal {
    /// Whether a path can be an agent's working directory in a guest.
    pub fn is_workspace(path: &str) -> bool {
        path.starts_with('/') && path.len() <= 4096 && !path.contains(['\n', '\0']) && !path.split('/').any(|part| part == "..")
    }

    /// The default of `workspace`, where what a Machine is spawned from has none.
    pub const WORKSPACE: &str = "/home/agent/workspace";
}

/// A command that decides whether the goal was achieved.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [rule::required("command", "size(self.command) > 0", "give the program and its arguments as a list")]))]
pub struct Verify {
    /// Program and arguments; run as the agent's user in the workspace.
    pub command: Vec<String>,
    /// Ends the command after this long; it counts as failed then.
    #[serde(default = "default_verify_timeout")]
    pub timeout: GoDuration,
}

impl Verify {
    /// The default of `timeout`.
    pub const TIMEOUT: GoDuration = GoDuration(Duration::from_mins(10));
}

fn default_verify_timeout() -> GoDuration {
    Verify::TIMEOUT
}

/// What to do when a Machine in `goal.after` failed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum AfterFailure {
    /// Wait until someone makes it succeed, for example by creating it anew.
    #[default]
    Wait,
    /// Fail too.
    Fail,
    /// Go on from its final checkpoint.
    Continue,
}

/// Who does it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [
    rule::required(
        "command",
        "self.type != 'Command' || (has(self.command) && size(self.command) > 0)",
        "type Command needs the program and its arguments as a list",
    ),
    rule::forbidden("maxTurns", "self.type != 'Command' || !has(self.maxTurns)", "type Command has no turns; remove it"),
    rule::forbidden(
        "maxTurns",
        "self.type != 'Aider' || !has(self.maxTurns)",
        "type Aider cannot count turns; set apiCalls in spec.budget.limits instead",
    ),
    rule::required("model", "self.type == 'ClaudeCode' || self.type == 'Command' || has(self.model)", "types QwenCode and Aider have no default"),
    rule::forbidden(
        "command",
        "self.type == 'Command' || !has(self.command) || size(self.command) == 0",
        "only type Command takes one; use spec.agent.args for further arguments",
    ),
]))]
pub struct Agent {
    /// The agent program.
    #[serde(default, rename = "type")]
    pub r#type: AgentType,
    /// The model's name, as the provider knows it. Default: Claude Code's own; types `QwenCode` and `Aider` need one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub model: Option<String>,
    /// Further arguments for the agent program.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// Further environment variables for the agent. Not for secrets: they stay in the hub.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
    /// Program and arguments, for type `Command`. The prompt is in `AUTOVIBE_PROMPT`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub command: Vec<String>,
    /// Ends the conversation after this many turns. Not for types `Aider` and `Command`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_turns: Option<u32>,
}

/// The agent programs autovibe knows how to start, resume and judge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum AgentType {
    #[default]
    ClaudeCode,
    QwenCode,
    Aider,
    /// Any other program.
    Command,
}
