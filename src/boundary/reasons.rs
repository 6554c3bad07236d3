//! Why a checkpoint is due: at a request, by what was done before it; in an answer, by what it calls. A reason says by which
//! rule, and which files; never what a command was.

use super::work::{breakpoint, changes, done};
use super::{Boundary, Context, Part, risk, risk::tool, rules::score};
use crate::api::checkpoint::{Reason, Trigger};
use crate::api::machine::{Checkpoints, Toggle};
use serde_json::Value;

/// Files that are named, and characters of each.
const NAMED: usize = 3;
const NAME: usize = 60;

/// The reasons that hold where a request stands.
pub fn at_request(boundary: &Boundary, messages: &[Value]) -> Vec<Reason> {
    let mut all = Vec::new();
    let done = done(messages);
    let mut names: Vec<&str> = done.iter().map(|done| if tool(done.name).is_some() { done.name } else { "another tool" }).collect();
    names.sort_unstable();
    names.dedup();
    let message = match boundary {
        Boundary::Prompt => "someone asked for something".to_owned(),
        Boundary::Results(_) if names.is_empty() => "tools have finished".to_owned(),
        Boundary::Results(_) => format!("after {}", names.join(", ")),
    };
    all.push(Reason { trigger: Trigger::BetweenMessages, message });
    let changes = changes(&done);
    if changes.score >= score::SIGNIFICANT {
        let files: Vec<String> = changes.files.iter().take(NAMED).map(|name| shown(name)).collect();
        let more = if changes.files.len() > NAMED { ", …" } else { "" };
        let what = if files.is_empty() { "by commands".to_owned() } else { format!("{}{more}", files.join(", ")) };
        all.push(Reason { trigger: Trigger::AfterFileOperations, message: format!("files changed: {what} (score {})", changes.score) });
    }
    if let Some(message) = breakpoint(&done) {
        all.push(Reason { trigger: Trigger::Breakpoint, message: message.to_owned() });
    }
    all
}

/// A file's name as it can be shown: it is what the agent made it.
fn shown(name: &str) -> String {
    name.chars().map(|c| if c.is_control() { '?' } else { c }).take(NAME).collect()
}

/// The reasons that an answer gives for the state that it was asked in: tool calls that are about to run, or that none is.
pub fn in_answer<'a>(context: &Context, calls: impl IntoIterator<Item = &'a Value>, stop_reason: Option<&str>) -> Vec<Reason> {
    let risks = calls.into_iter().map(|call| risk(call["name"].as_str().unwrap_or_default(), &call["input"]));
    let mut all: Vec<Reason> = risks
        .filter(|risk| risk.class.is_risky())
        .map(|risk| Reason {
            trigger: Trigger::BeforeRiskyOperation,
            message: format!("before {}, which {}", risk.rule, risk.class.words()),
        })
        .collect();
    all.dedup();
    if stop_reason == Some("end_turn") && context.part == Part::Main {
        all.push(Reason { trigger: Trigger::Breakpoint, message: "the agent ended its turn".into() });
    }
    all
}

/// Whether a Machine wants a checkpoint for a reason.
pub fn wanted(checkpoints: &Checkpoints, trigger: Trigger) -> bool {
    let toggle = match trigger {
        Trigger::BetweenMessages => checkpoints.between_messages,
        Trigger::AfterFileOperations => checkpoints.after_file_operations,
        Trigger::BeforeRiskyOperation => checkpoints.before_risky_operations,
        Trigger::Breakpoint => checkpoints.at_breakpoints,
        Trigger::Requested | Trigger::Interval | Trigger::Suspend | Trigger::Restore | Trigger::Final | Trigger::Import => Toggle::Enabled,
    };
    toggle == Toggle::Enabled
}

#[cfg(test)]
mod tests;
