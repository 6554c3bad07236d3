//! Agent type `ClaudeCode`. What it does with environment, flags and failures was measured with version 2.1.197.

use super::scripts;
use crate::api::machine::{Agent, Machine};
use std::collections::BTreeMap;

/// Its name in sentences.
pub(super) const NAME: &str = "Claude Code";
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

/// The same for every launch: the script in the guest, or the runner, sees whether there is a session to resume, and says whether each
/// tool is asked for.
/// Where it finds what it may ask of the hub. The program itself reads the variables, so that the token is in no list of processes.
const TOOLS: &str =
    r#"{"mcpServers":{"autovibe":{"type":"http","url":"${AUTOVIBE_MCP}","headers":{"Authorization":"Bearer ${AUTOVIBE_TOKEN}"}}}}"#;

pub(super) fn argv(machine: &Machine) -> Vec<String> {
    let agent = &machine.spec.agent;
    let mut argv: Vec<String> = ["/bin/sh", "-c", scripts::CLAUDE, "claude"].map(str::to_owned).into();
    argv.extend(["--output-format", "stream-json", "--verbose"].map(str::to_owned));
    if let Some(model) = &agent.model {
        argv.extend(["--model".to_owned(), model.clone()]);
    }
    if let Some(turns) = agent.max_turns {
        argv.extend(["--max-turns".to_owned(), turns.to_string()]);
    }
    argv.extend(agent.args.iter().cloned());
    if !machine.spec.permissions.is_empty() {
        argv.extend(["--mcp-config", TOOLS].map(str::to_owned));
    }
    // Last, for it takes every word that follows: the provider's own web tools would leave the VM's isolation.
    argv.extend(["--disallowedTools", "WebSearch", "WebFetch"].map(str::to_owned));
    argv
}
