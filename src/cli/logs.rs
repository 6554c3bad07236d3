//! `autovibe logs`: the conversation of a Machine's agent, as the gateway saw it.

use super::{Context, Output, print, resource};
use crate::api::Machine;
use crate::clock::Clock;
use anyhow::{Context as _, bail};
use serde_json::Value;
use std::{process::ExitCode, time::Duration};

/// How often new messages are looked for with `-f`.
const LOOK: Duration = Duration::from_secs(1);

/// Shows the conversation of a Machine's agent.
#[derive(Debug, clap::Args)]
pub(super) struct Logs {
    /// The Machine
    machine: String,
    /// Go on until the Machine has ended
    #[arg(long, short)]
    follow: bool,
    /// Show tool inputs and results in full
    #[arg(long)]
    full: bool,
}

impl Logs {
    pub(super) async fn run(&self, context: &Context) -> anyhow::Result<ExitCode> {
        let client = context.client()?;
        let name = self.machine.strip_prefix("machine/").unwrap_or(&self.machine);
        let path = resource::machine(&client.namespace, name);
        let clock = Clock::system();
        let mut after = 0;
        let mut any = false;
        loop {
            // Read before the messages: when it had ended by then, these are all.
            let machine: Machine = match client.find(&path).await? {
                Some(machine) => serde_json::from_value(machine).context("the Machine has a form that this version does not know")?,
                None => bail!("there is no machine {name} in namespace {}; see `autovibe get machines`", client.namespace),
            };
            let finished = machine.status.as_ref().is_some_and(|status| status.phase.is_finished());
            let entries = client.get(&format!("{path}/log?after={after}")).await?;
            let entries = entries.as_array().cloned().unwrap_or_default();
            for entry in &entries {
                any = true;
                after = entry["seq"].as_i64().unwrap_or(after);
                match context.options.output {
                    Some(Output::Json) => print::out(&print::line(entry)?)?,
                    Some(Output::Yaml) => print::out(&format!("---\n{}", serde_yaml::to_string(entry)?))?,
                    _ => print::out(&render(entry, self.full, context.environment.color))?,
                }
            }
            if !entries.is_empty() {
                continue;
            }
            if finished || !self.follow {
                break;
            }
            clock.sleep(LOOK).await;
        }
        if !any {
            eprintln!("machine/{name} has not said anything yet; see `autovibe explain machine/{name} -n {}`", client.namespace);
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// One message: a line of who and when, then its text; tools as one line each unless `full`.
pub(super) fn render(entry: &Value, full: bool, color: bool) -> String {
    let role = entry["role"].as_str().unwrap_or("?");
    let at = entry["at"].as_str().map(|at| at.get(11..19).unwrap_or(at)).unwrap_or_default();
    let head = format!("── {role} {at}");
    let mut text = if color { format!("\x1b[1m{head}\x1b[0m\n") } else { head + "\n" };
    let blocks = match &entry["content"] {
        Value::String(words) => vec![serde_json::json!({ "type": "text", "text": words })],
        Value::Array(blocks) => blocks.clone(),
        other => vec![other.clone()],
    };
    for block in blocks {
        let line = match block["type"].as_str() {
            Some("text") => print::printable(block["text"].as_str().unwrap_or_default()),
            Some("thinking") => format!("(thinks) {}", print::printable(block["thinking"].as_str().unwrap_or_default())),
            Some("tool_use") => {
                format!("→ {} {}", print::printable(block["name"].as_str().unwrap_or("tool")), input(&block["input"], full))
            }
            Some("tool_result") => {
                format!("{} {}", if block["is_error"] == true { "← error:" } else { "←" }, result(&block["content"], full))
            }
            Some(other) => format!("({})", print::printable(other)),
            None => print::shorten(&print::printable(&block.to_string()), 200),
        };
        if !line.trim().is_empty() {
            text += line.trim_end();
            text += "\n";
        }
    }
    text
}
fn input(input: &Value, full: bool) -> String {
    if full {
        return print::printable(&serde_json::to_string_pretty(input).unwrap_or_default());
    }
    // The one field by which people know what the tool does.
    let telling = ["command", "file_path", "path", "pattern", "url", "query", "description"].iter().find_map(|name| input[*name].as_str());
    print::shorten(&print::printable(telling.unwrap_or(&input.to_string())), 120)
}

fn result(content: &Value, full: bool) -> String {
    let text = match content {
        Value::String(text) => text.clone(),
        Value::Array(blocks) => blocks.iter().filter_map(|block| block["text"].as_str()).collect::<Vec<_>>().join("\n"),
        other => other.to_string(),
    };
    let text = print::printable(&text);
    if full { text } else { print::shorten(&text, 160) }
}
