//! Agent type `Aider`. What it does with environment, flags and failures was measured with version 0.86.2.

use super::scripts;
use crate::api::machine::Agent;
use std::collections::BTreeMap;

/// Its name in sentences.
pub(super) const NAME: &str = "Aider";

/// Defaults that a user may change.
pub(super) fn environment() -> BTreeMap<String, String> {
    // The guest reaches nothing but its gateway: no price list need be waited for.
    [("LITELLM_LOCAL_MODEL_COST_MAP", "True")].map(|(name, value)| (name.to_owned(), value.to_owned())).into()
}

/// The same for every launch: the script in the guest sees whether there is a history to resume.
pub(super) fn argv(agent: &Agent) -> Vec<String> {
    let mut argv: Vec<String> = ["/bin/sh", "-c", scripts::AIDER, "aider"].map(str::to_owned).into();
    argv.extend(
        [
            "--yes-always",
            "--no-pretty",
            "--no-fancy-input",
            // It would add itself to the project's .gitignore.
            "--no-gitignore",
            "--no-check-update",
            "--no-show-release-notes",
            "--no-show-model-warnings",
            "--analytics-disable",
            // It would fetch what a prompt mentions, and wait for the firewall.
            "--no-detect-urls",
            // It runs none of them in this mode, so the model need not write any.
            "--no-suggest-shell-commands",
        ]
        .map(str::to_owned),
    );
    if let Some(model) = &agent.model {
        // The prefix says which protocol is spoken. Commit messages and summaries must not ask for a model that the hub does not serve.
        let model = format!("{}/{model}", if model.starts_with("claude") { "anthropic" } else { "openai" });
        argv.extend(["--model".to_owned(), model.clone(), "--weak-model".to_owned(), model]);
    }
    argv.extend(agent.args.iter().cloned());
    // By the stream the gateway tells its conversation from commit messages and summaries.
    argv.push("--stream".to_owned());
    argv
}
