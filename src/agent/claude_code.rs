//! Agent type `ClaudeCode`. What it does with environment, flags and failures was measured with version 2.1.197.

use super::scripts;
use super::{LastCall, Verdict};
use crate::api::machine::Agent;
use std::collections::BTreeMap;

/// One folder a working directory, one file a session.
pub(super) const SESSION_FILES: &str = "/home/agent/.claude/projects";

/// Defaults that a user may change.
pub(super) fn environment(agent: &Agent) -> BTreeMap<String, String> {
    let mut environment: BTreeMap<String, String> = [
        // Keeps the worst case that is reserved near what a turn really costs; the gateway clamps it too.
        ("CLAUDE_CODE_MAX_OUTPUT_TOKENS", "16000"),
        // The guest reaches nothing but its gateway: without this it would wait for what never answers.
        ("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1"),
        ("DISABLE_AUTOUPDATER", "1"),
        // The gateway may hold a first byte until a checkpoint is taken; both idle clocks of 300 s would cut it.
        ("API_FORCE_IDLE_TIMEOUT", "0"),
        ("CLAUDE_STREAM_IDLE_TIMEOUT_MS", "3600000"),
    ]
    .into_iter()
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .collect();
    if let Some(model) = &agent.model {
        environment.insert("ANTHROPIC_MODEL".into(), model.clone());
        // Side requests must not ask for a model that the hub does not serve.
        environment.insert("ANTHROPIC_SMALL_FAST_MODEL".into(), model.clone());
    }
    environment
}

/// The same for every launch: the script in the guest sees whether there is a session to resume.
pub(super) fn argv(agent: &Agent) -> Vec<String> {
    let mut argv: Vec<String> = ["/bin/sh", "-c", scripts::CLAUDE, "claude"].map(str::to_owned).into();
    argv.extend(["--output-format", "stream-json", "--verbose", "--permission-mode", "bypassPermissions"].map(str::to_owned));
    if let Some(model) = &agent.model {
        argv.extend(["--model".to_owned(), model.clone()]);
    }
    if let Some(turns) = agent.max_turns {
        argv.extend(["--max-turns".to_owned(), turns.to_string()]);
    }
    argv.extend(agent.args.iter().cloned());
    // Last, for it takes every word that follows: the provider's own web tools would leave the VM's isolation.
    argv.extend(["--disallowedTools", "WebSearch", "WebFetch"].map(str::to_owned));
    argv
}

/// The gateway's log decides: the exit code of the CLI is 1 for a refusal, a cut stream and a failure alike.
pub(super) fn verdict(exit_code: Option<i32>, last: &LastCall) -> Verdict {
    match last {
        LastCall::Settled { stop_reason: Some(reason) } if reason == "end_turn" || reason == "stop_sequence" => Verdict::Completed,
        LastCall::Refused => Verdict::BudgetExhausted,
        LastCall::Cut | LastCall::Open => Verdict::Interrupted,
        // Answered, but the CLI ended before the next request: killed, or its turns are used up.
        LastCall::Settled { stop_reason } => match exit_code {
            None => Verdict::Interrupted,
            Some(code) => Verdict::Failed(format!(
                "Claude Code exited with code {code} after an answer that ended with {}",
                stop_reason.as_deref().unwrap_or("no stop reason")
            )),
        },
        LastCall::Failed { status } => {
            let status = status.map_or("no status".to_owned(), |status| format!("status {status}"));
            Verdict::Failed(format!("the model provider answered with {status}"))
        }
        LastCall::None => match exit_code {
            None => Verdict::Interrupted,
            Some(code) => Verdict::Failed(format!("Claude Code exited with code {code} before its first request")),
        },
    }
}
