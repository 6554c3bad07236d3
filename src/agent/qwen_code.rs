//! Agent type `QwenCode`. What it does with environment, flags and failures was measured with version 0.15.10.

use super::scripts;
use crate::api::machine::Agent;
use std::collections::BTreeMap;

/// Where the programs that it runs find a proxy: git and curl, pip, and npm. The names that are more in use it would take for its own
/// requests too, with no regard to `NO_PROXY`, and ask the gateway for a connection to the gateway.
pub(super) const PROXY: [&str; 3] = ["ALL_PROXY", "all_proxy", "npm_config_https_proxy"];
/// Its name in sentences.
pub(super) const NAME: &str = "Qwen Code";
/// One folder a working directory, in it `chats` with one file a session.
pub(super) const SESSION_FILES: &str = "/home/agent/.qwen/projects";

/// Defaults that a user may change.
pub(super) fn environment() -> BTreeMap<String, String> {
    [
        // Keeps the worst case that is reserved near what a turn really costs; the gateway clamps it too.
        ("QWEN_CODE_MAX_OUTPUT_TOKENS", "16000"),
        // The gateway may hold a first byte until a checkpoint is taken.
        ("QWEN_CODE_API_TIMEOUT_MS", "900000"),
        // One process instead of two, each of hundreds of megabytes.
        ("QWEN_CODE_NO_RELAUNCH", "true"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .into()
}

/// The same for every launch: the script in the guest sees whether there is a session to resume.
pub(super) fn argv(agent: &Agent) -> Vec<String> {
    let mut argv: Vec<String> = ["/bin/sh", "-c", scripts::QWEN, "qwen"].map(str::to_owned).into();
    argv.extend(["--yolo", "--output-format", "stream-json", "--auth-type", "openai"].map(str::to_owned));
    if let Some(model) = &agent.model {
        argv.extend(["--model".to_owned(), model.clone()]);
    }
    if let Some(turns) = agent.max_turns {
        argv.extend(["--max-session-turns".to_owned(), turns.to_string()]);
    }
    argv.extend(agent.args.iter().cloned());
    // Last, for it takes every word that follows. What a sub-agent asks looks like its parent's request, so that nobody could say
    // whether a checkpoint is quiescent; the web is beyond the guest's firewall.
    argv.extend(["--exclude-tools", "agent", "web_fetch"].map(str::to_owned));
    argv
}
