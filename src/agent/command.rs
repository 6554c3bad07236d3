//! Agent type `Command`: the user's own program. Exit code 0 is success.

use super::{LastCall, Verdict};
use crate::api::machine::Agent;

pub(super) fn argv(agent: &Agent) -> Vec<String> {
    agent.command.iter().chain(&agent.args).cloned().collect()
}

pub(super) fn verdict(exit_code: Option<i32>, last: &LastCall) -> Verdict {
    match (exit_code, last) {
        (Some(0), _) => Verdict::Completed,
        (_, LastCall::Refused) => Verdict::BudgetExhausted,
        (_, LastCall::Cut) | (None, _) => Verdict::Interrupted,
        (Some(code), LastCall::Unsent { why }) => {
            Verdict::Failed(format!("the command exited with code {code}; the gateway refused a request of it: {why}"))
        }
        (Some(code), LastCall::Failed { why: Some(why), .. }) => {
            Verdict::Failed(format!("the command exited with code {code}; its last request failed: {why}"))
        }
        (Some(code), _) => Verdict::Failed(format!("the command exited with code {code}")),
    }
}
