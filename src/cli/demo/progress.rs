//! What goes on, live: what agents do and what becomes of their Machines, as lines; on a terminal a summary stays below them.

use super::phase;
use crate::api::{Kind, Machine};
use crate::cli::{client::Client, print, resource};
use crate::clock::Clock;
use serde_json::Value;
use std::{collections::BTreeMap, time::Duration};

/// How often it looks.
const LOOK: Duration = Duration::from_millis(500);

/// What was shown of a Machine.
#[derive(Default)]
struct Shown {
    state: String,
    /// The last message of its conversation.
    seq: i64,
}

/// Follows the Machines until all have ended, and returns them.
pub(super) async fn follow(
    client: &Client,
    namespace: &str,
    names: &[String],
    terminal: bool,
    clock: &Clock,
) -> anyhow::Result<Vec<Machine>> {
    let mut shown: BTreeMap<String, Shown> = BTreeMap::new();
    let mut screen = Screen { terminal, below: 0 };
    let width = names.iter().map(std::string::String::len).max().unwrap_or(0);
    loop {
        let mut machines: Vec<Machine> = client.list(&resource::our::<Machine>(Some(namespace), None)).await?;
        machines.retain(|machine| names.iter().any(|name| name == machine.name()));
        machines.sort_by_key(|machine| names.iter().position(|name| name == machine.name()));
        let mut lines = Vec::new();
        for machine in &machines {
            let before = shown.entry(machine.name().to_owned()).or_default();
            let lead = format!("{}  {:<width$}  ", print::now().strftime("%H:%M:%S"), machine.name());
            let log = client.get(&format!("{}/log?after={}", resource::machine(namespace, machine.name()), before.seq)).await?;
            for entry in log.as_array().into_iter().flatten() {
                before.seq = entry["seq"].as_i64().unwrap_or(before.seq);
                lines.extend(words(entry).into_iter().map(|words| format!("{lead}{words}")));
            }
            let state = state(machine);
            if state != before.state {
                lines.push(format!("{lead}{state}"));
                before.state = state;
            }
        }
        let summary: Vec<String> = machines.iter().map(|machine| summary(machine, width)).collect();
        let ended = machines.len() == names.len() && machines.iter().all(|machine| phase(machine).is_finished());
        screen.show(&lines, if ended { &[] } else { &summary })?;
        if ended {
            return Ok(machines);
        }
        clock.sleep(LOOK).await;
    }
}

/// What changes seldom enough to be worth a line.
fn state(machine: &Machine) -> String {
    let status = machine.status.clone().unwrap_or_default();
    let message = status
        .message
        .filter(|message| !message.is_empty())
        .map(|message| format!(": {}", print::shorten(&message, 110)))
        .unwrap_or_default();
    format!("{:?}{message}", status.phase)
}

fn summary(machine: &Machine, width: usize) -> String {
    let status = machine.status.clone().unwrap_or_default();
    let spent = status.spent.unwrap_or_else(|| status.usage.money.dollars());
    let end = status.finished_at.as_ref().map_or_else(print::now, |at| at.0);
    let ran = status.started_at.as_ref().map(|start| print::span(print::between(start.0, end))).unwrap_or_default();
    let phase = format!("{:?}", status.phase);
    format!("{:<width$}  {phase:<10} {ran:>6}  {spent:>16}  {} checkpoints", machine.name(), status.checkpoints)
}

/// What an agent says and does, a line each; results of tools are for `autovibe logs`.
fn words(entry: &Value) -> Vec<String> {
    if entry["role"] != "assistant" {
        return Vec::new();
    }
    let blocks = entry["content"].as_array().cloned().unwrap_or_default();
    let lines = blocks.iter().filter_map(|block| match block["type"].as_str()? {
        "text" => Some(format!("“{}”", print::shorten(block["text"].as_str()?, 110))),
        "tool_use" => {
            let input = &block["input"];
            let telling =
                ["description", "file_path", "command", "pattern"].iter().find_map(|name| input[*name].as_str()).unwrap_or_default();
            Some(format!("→ {} {}", block["name"].as_str()?, print::shorten(telling, 100)))
        }
        _ => None,
    });
    // An agent's words must not drive the reader's terminal.
    lines.map(|line| line.chars().filter(|c| !c.is_control()).collect()).collect()
}

/// Standard output: lines that stay, and on a terminal a few below them that are written over.
struct Screen {
    terminal: bool,
    below: usize,
}

impl Screen {
    fn show(&mut self, lines: &[String], summary: &[String]) -> anyhow::Result<()> {
        let mut text = String::new();
        if self.terminal && self.below > 0 {
            // Up to the first line of the summary, and clear from there.
            text += &format!("\x1b[{}A\x1b[J", self.below);
        }
        for line in lines {
            text += line;
            text += "\n";
        }
        self.below = 0;
        if self.terminal {
            for line in summary {
                // One row each, however narrow the terminal: longer lines would break the count.
                text += &format!("\x1b[?7l{line}\x1b[?7h\n");
            }
            self.below = summary.len();
        }
        if text.is_empty() { Ok(()) } else { print::out(&text) }
    }
}
