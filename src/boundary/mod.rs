//! A conversation and its boundaries: whose request it is, whether a checkpoint is due, what else of the agent may be at
//! work. Pure: requests and answers in, decisions out.
//!
//! The next request of a conversation arrives only when every foreground tool of the answer before has finished.

mod reasons;
mod risk;
mod rules;
mod shell;
mod told;
mod work;

pub use reasons::{at_request, in_answer, wanted};
pub use risk::{Class, Risk, risk};
pub use told::{can_be_told, told};

use crate::api::machine::AgentType;
use serde_json::Value;
use std::collections::BTreeMap;

/// Header of Claude Code with its session id.
pub const SESSION_HEADER: &str = "x-claude-code-session-id";
/// Header of Claude Code's sub-agents.
pub const AGENT_HEADER: &str = "x-claude-code-agent-id";
/// The tool by which Claude Code runs a sub-agent; while it runs, the sub-agent's own requests are seen.
const AGENT_TOOLS: [&str; 2] = ["Agent", "Task"];

/// Whose request it is within its Machine.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// The agent's conversation.
    Main,
    /// A sub-agent's, by its id.
    Sub(String),
    /// A title, a summary: no part of a conversation.
    Side,
}

/// One conversation of a Machine.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Context {
    /// The agent's session id; empty for an agent that has none.
    pub session: String,
    pub part: Part,
}

/// What a request is made of, as far as it matters here.
#[derive(Clone, Copy, Debug)]
pub struct Seen<'a> {
    /// The program that the Machine runs.
    pub program: AgentType,
    /// Values of [`SESSION_HEADER`] and [`AGENT_HEADER`].
    pub session: Option<&'a str>,
    pub agent: Option<&'a str>,
    pub has_tools: bool,
    pub stream: bool,
}

/// A moment at which a checkpoint is due.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Boundary {
    /// Someone asks for something new.
    Prompt,
    /// All tools of the last answer have finished; the ids of their results.
    Results(Vec<String>),
}

/// Tells a request's context, by what each program was seen to send: requests of Claude Code and Qwen Code without tools are no
/// conversation, nor are those of Aider without a stream, which ask for commit messages and summaries. For other programs every
/// request is the conversation.
pub fn context(seen: &Seen) -> Context {
    let side = match seen.program {
        AgentType::QwenCode => !seen.has_tools,
        AgentType::Aider => !seen.stream,
        AgentType::ClaudeCode | AgentType::Command => seen.session.is_some() && !seen.has_tools,
    };
    let part = match seen.agent {
        Some(agent) => Part::Sub(agent.to_owned()),
        None if side => Part::Side,
        None => Part::Main,
    };
    Context { session: seen.session.unwrap_or_default().to_owned(), part }
}

/// The boundary at which a request stands; `None` for a side request and for one that continues an unfinished answer.
pub fn boundary(context: &Context, messages: &[Value]) -> Option<Boundary> {
    if context.part == Part::Side {
        return None;
    }
    let last = messages.iter().rev().find(|message| message["role"] != "system")?;
    if last["role"] != "user" {
        return None;
    }
    let results: Vec<String> = last["content"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|block| block["type"] == "tool_result")
        .filter_map(|block| block["tool_use_id"].as_str().map(str::to_owned))
        .collect();
    Some(if results.is_empty() { Boundary::Prompt } else { Boundary::Results(results) })
}

/// What each context of a Machine does, and which request it made last.
#[derive(Clone, Debug, Default)]
pub struct Contexts(BTreeMap<Context, State>);

#[derive(Clone, Debug, Default)]
struct State {
    /// Body hash of the newest request, without `stream`.
    request: String,
    /// Names of the tools that run; empty while it waits for an answer or has nothing to do.
    acting: Vec<String>,
}

impl State {
    fn is_quiescent(&self) -> bool {
        self.acting.iter().all(|tool| AGENT_TOOLS.contains(&tool.as_str()))
    }
}

impl Contexts {
    /// Notes a request. `true`: its body equals the last one's of its context, so it is a repeat of the same moment.
    pub fn request(&mut self, context: &Context, hash: &str) -> bool {
        let state = self.0.entry(context.clone()).or_default();
        let repeat = state.request == hash;
        hash.clone_into(&mut state.request);
        state.acting.clear();
        repeat
    }

    /// Notes that an answer was delivered which calls `tools` (names).
    pub fn answered(&mut self, context: &Context, tools: Vec<String>) {
        self.0.entry(context.clone()).or_default().acting = tools;
    }

    /// Takes up a context as a log of requests knows it, after a restart.
    pub fn resume(&mut self, context: Context, hash: String) {
        self.0.entry(context).or_insert(State { request: hash, acting: Vec::new() });
    }

    /// Whether nothing of the agent runs that could write: no context acts, but for those that only wait for sub-agents.
    pub fn quiescent(&self) -> bool {
        self.0.values().all(State::is_quiescent)
    }

    /// Those that act.
    pub fn acting(&self) -> impl Iterator<Item = &Context> {
        self.0.iter().filter(|(_, state)| !state.is_quiescent()).map(|(context, _)| context)
    }

    /// The same of all but one, whose newest answer was not given out yet.
    pub fn quiescent_beside(&self, context: &Context) -> bool {
        self.0.iter().all(|(other, state)| other == context || state.is_quiescent())
    }
}

#[cfg(test)]
mod tests;
