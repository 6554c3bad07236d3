//! What the tools of an answer did, read off the calls and their results: how much they changed, whether tests passed or a
//! commit was made.

use super::risk::{Class, matches, risk, tool, unwrapped};
use super::rules::{COMMITS, FAILED, KEY_DIRECTORIES, KEY_FILES, PASSED, REMOVALS, Rule, TEST_RUNS, Tool, score};
use super::shell::{self, Command, Then};
use serde_json::Value;
use std::collections::BTreeSet;

/// A tool call with its result.
#[derive(Clone, Copy, Debug)]
pub(super) struct Done<'a> {
    pub(super) name: &'a str,
    pub(super) input: &'a Value,
    /// The `tool_result` block.
    pub(super) result: &'a Value,
}

/// The calls of the newest answer in a conversation whose results its last message brings.
pub(super) fn done(messages: &[Value]) -> Vec<Done<'_>> {
    let mut newest = messages.iter().rev().filter(|message| message["role"] != "system");
    let (results, calls) = (blocks_of(newest.next()), blocks_of(newest.find(|message| message["role"] == "assistant")));
    let calls = calls.iter().filter(|block| block["type"] == "tool_use");
    calls
        .filter_map(|call| {
            let result = results.iter().find(|result| result["type"] == "tool_result" && result["tool_use_id"] == call["id"])?;
            Some(Done { name: call["name"].as_str().unwrap_or_default(), input: &call["input"], result })
        })
        .collect()
}

fn blocks_of(message: Option<&Value>) -> &[Value] {
    message.and_then(|message| message["content"].as_array()).map_or(&[], Vec::as_slice)
}

impl Done<'_> {
    /// Whether it failed, as far as its result says.
    fn failed(&self) -> bool {
        let text = self.output();
        // Qwen Code writes the exit code into the text.
        let code = text.rsplit_once("Exit Code: ").map(|(_, after)| after.trim_start().chars().next());
        self.result["is_error"] == true || code.is_some_and(|code| code.is_some_and(|digit| digit != '0' && digit != '('))
    }

    fn output(&self) -> String {
        match &self.result["content"] {
            Value::String(text) => text.clone(),
            Value::Array(blocks) => blocks.iter().filter_map(|block| block["text"].as_str()).collect::<Vec<_>>().join("\n"),
            _ => String::new(),
        }
    }

    fn command(&self) -> Option<&str> {
        (tool(self.name) == Some(Tool::Shell)).then(|| self.input["command"].as_str()).flatten()
    }
}

/// What files went through.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Changes {
    pub(super) score: u32,
    pub(super) files: BTreeSet<String>,
}

/// Rates what calls changed; a call that failed changed nothing.
pub(super) fn changes(done: &[Done]) -> Changes {
    let mut all = Changes::default();
    for done in done.iter().filter(|done| !done.failed()) {
        if let Some(command) = done.command() {
            if any(command, REMOVALS) {
                all.score += score::REMOVAL;
            } else if risk(done.name, done.input).class >= Class::StateChange {
                all.score += score::COMMAND;
            }
            continue;
        }
        let Some(kind @ (Tool::Write | Tool::Edit)) = tool(done.name) else { continue };
        let path = ["file_path", "notebook_path", "path"].iter().find_map(|field| done.input[field].as_str()).unwrap_or_default();
        let name = path.rsplit('/').next().unwrap_or_default();
        all.files.insert(name.to_owned());
        all.score += match kind {
            Tool::Write => score::NEW_FILE,
            _ if lines(done.input) > score::LINES => score::MANY_LINES,
            _ => score::EDIT,
        };
        if KEY_FILES.contains(&name) || KEY_DIRECTORIES.iter().any(|part| path.contains(part)) {
            all.score += score::KEY_FILE;
        }
    }
    if all.files.len() > score::FILES {
        all.score += score::MANY_FILES;
    }
    all
}

fn lines(input: &Value) -> usize {
    let count = |value: &Value| {
        ["old_string", "new_string", "new_source"].iter().filter_map(|f| value[f].as_str()).map(|t| t.lines().count()).sum::<usize>()
    };
    let edits: usize = input["edits"].as_array().into_iter().flatten().map(count).sum();
    edits + count(input)
}

/// The natural breakpoint that the calls came to, in words.
pub(super) fn breakpoint(done: &[Done]) -> Option<&'static str> {
    let good = || done.iter().filter(|done| !done.failed()).filter_map(|done| Some((done, done.command()?)));
    if good().any(|(_, command)| certain(command, COMMITS)) {
        return Some("a commit was made");
    }
    let passed = |done: &Done, command: &str| {
        let output = done.output();
        let says = |marks: &[&str]| marks.iter().any(|mark| output.contains(mark));
        any(command, TEST_RUNS) && !says(FAILED) && (certain(command, TEST_RUNS) || says(PASSED))
    };
    good().any(|(done, command)| passed(done, command)).then_some("tests passed")
}

fn any(line: &str, rules: &[Rule]) -> bool {
    shell::read(line).commands.iter().any(|command| is_of(command, rules))
}

/// Whether a line that succeeded shows that such a command in it did: nothing after it hides how it ended.
fn certain(line: &str, rules: &[Rule]) -> bool {
    let commands = shell::read(line).commands;
    let found = commands.iter().rposition(|command| is_of(command, rules));
    found.is_some_and(|at| commands[at..].iter().all(|command| matches!(command.then, Then::And | Then::End)))
}

fn is_of(command: &Command, rules: &[Rule]) -> bool {
    let (words, _) = unwrapped(&command.words);
    let Some((program, arguments)) = words.split_first() else { return false };
    let name = program.rsplit('/').next().unwrap_or_default();
    rules.iter().any(|rule| matches(rule, name, arguments))
}

#[cfg(test)]
mod tests;
