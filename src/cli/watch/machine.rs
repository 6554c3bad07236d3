//! One Machine as it lives: its conversation, its checkpoints, what it spends and what becomes of it, as lines in order of time.

use super::feed::{Collection, News, feed};
use crate::api::checkpoint::CheckpointPhase;
use crate::api::network::BlockedReason;
use crate::api::{Checkpoint, Kind, Machine};
use crate::cli::{client::Client, lineage, logs, print, resource};
use crate::clock::Clock;
use anyhow::{Context as _, bail};
use futures::StreamExt;
use jiff::Timestamp;
use serde_json::Value;
use std::{
    collections::{BTreeSet, HashSet},
    process::ExitCode,
    time::Duration,
};

/// How often the conversation is looked at while nothing else changes: messages are no objects, so they have no watch.
const LOOK: Duration = Duration::from_secs(2);

/// Shows it from its beginning until it has ended. Exit code 0 when it succeeded, 1 when it failed or was deleted.
pub(super) async fn follow(client: &Client, name: &str, color: bool) -> anyhow::Result<ExitCode> {
    let namespace = Some(client.namespace.as_str());
    let accept = "application/json";
    let only = Collection {
        path: resource::our::<Machine>(namespace, None),
        query: format!("fieldSelector=metadata.name%3D{}", crate::remote::segment(name)),
        accept,
    };
    let all = Collection { path: resource::our::<Checkpoint>(namespace, None), query: String::new(), accept };
    let mut machines = feed(client.clone(), only);
    let mut checkpoints = feed(client.clone(), all);
    let clock = Clock::system();
    let mut view =
        View { client, name, color, after: 0, state: String::new(), spent: String::new(), blocked: HashSet::new(), shown: BTreeSet::new() };
    // The conversation and the checkpoints so far stand before the state, which is that of now.
    let mut machine = None;
    loop {
        let mut lines = Vec::new();
        tokio::select! {
            news = machines.next() => match news.context("the watch ended")?? {
                News::List(list) => match list["items"].get(0) {
                    Some(found) => machine = Some(read::<Machine>(found)?),
                    None if machine.is_none() => bail!("there is no machine {name} in namespace {}; see `autovibe get machines`", client.namespace),
                    None => return view.deleted(),
                },
                News::Event(event) if event["type"] == "DELETED" => return view.deleted(),
                News::Event(event) => machine = Some(read(&event["object"])?),
            },
            news = checkpoints.next() => match news.context("the watch ended")?? {
                News::List(list) => {
                    for item in list["items"].as_array().into_iter().flatten() {
                        lines.extend(view.checkpoint(item)?);
                    }
                }
                News::Event(event) if event["type"] == "DELETED" => {}
                News::Event(event) => lines.extend(view.checkpoint(&event["object"])?),
            },
            () = clock.sleep(LOOK) => {}
        }
        let ended = machine.as_ref().filter(|machine| phase(machine).is_finished());
        if ended.is_some() {
            // What the other watch has not told yet.
            for item in client.get(&resource::our::<Checkpoint>(namespace, None)).await?["items"].as_array().into_iter().flatten() {
                lines.extend(view.checkpoint(item)?);
            }
        }
        lines.extend(view.messages().await?);
        lines.sort_by_key(|(at, _)| *at);
        if let Some(machine) = &machine {
            lines.extend(view.state(machine));
        }
        print::out(&lines.into_iter().map(|(_, text)| text).collect::<String>())?;
        if let Some(machine) = ended {
            let succeeded = phase(machine) == crate::api::machine::Phase::Succeeded;
            return Ok(if succeeded { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
    }
}

/// A moment, and what is shown of it.
type Line = (Timestamp, String);

struct View<'a> {
    client: &'a Client,
    name: &'a str,
    color: bool,
    /// The last message that was shown.
    after: i64,
    state: String,
    spent: String,
    /// What was shown as blocked.
    blocked: HashSet<(String, u16, BlockedReason)>,
    /// Checkpoints that were shown.
    shown: BTreeSet<String>,
}

impl View<'_> {
    fn line(&self, at: Timestamp, what: &str, text: &str) -> Line {
        let head = format!("── {what} {}", at.strftime("%H:%M:%S"));
        let head = if self.color { format!("\x1b[1m{head}\x1b[0m") } else { head };
        (at, format!("{head}  {}\n", print::printable(text).replace('\n', " ")))
    }

    fn state(&mut self, machine: &Machine) -> Vec<Line> {
        let status = machine.status.clone().unwrap_or_default();
        let at = status.finished_at.map_or_else(print::now, |at| at.0);
        let spent = status.spent.unwrap_or_else(|| status.usage.money.dollars());
        let message = status.message.filter(|message| !message.is_empty()).map(|message| format!(": {message}")).unwrap_or_default();
        let state = format!("{:?}{message}", status.phase);
        let mut lines = Vec::new();
        if status.usage.api_calls > 0 && spent != self.spent {
            lines.push(self.line(at, "spend", &format!("{spent}, {} calls", status.usage.api_calls)));
            self.spent = spent;
        }
        for blocked in status.network.iter().flat_map(|network| network.blocked.iter().rev()) {
            let what = (blocked.host.clone(), blocked.port, blocked.reason);
            if !self.blocked.contains(&what) {
                let at = blocked.last_at.as_ref().map_or(at, |at| at.0);
                lines.push(self.line(at, "blocked", &format!("{}:{} ({:?})", blocked.host, blocked.port, blocked.reason)));
                self.blocked.insert(what);
            }
        }
        if state != self.state {
            lines.push(self.line(at, "machine", &state));
            self.state = state;
        }
        lines
    }

    /// A checkpoint of this Machine, once it is taken or cannot be.
    fn checkpoint(&mut self, object: &Value) -> anyhow::Result<Option<Line>> {
        if object["spec"]["machine"] != self.name {
            return Ok(None);
        }
        let checkpoint: Checkpoint = read(object)?;
        let status = checkpoint.status.clone().unwrap_or_default();
        let name = checkpoint.name();
        let mut text = format!("{name}: {}", lineage::why(checkpoint.spec.trigger));
        match status.phase {
            CheckpointPhase::Ready => {
                if let Some(description) = &checkpoint.spec.description {
                    text += &format!(", “{}”", print::shorten(description, 80));
                }
                if let Some(took) = status.took {
                    text += &format!(", took {}", print::short_span(took.0));
                }
            }
            CheckpointPhase::Failed => text += &format!(", failed: {}", status.message.unwrap_or_default()),
            CheckpointPhase::Pending | CheckpointPhase::Deleting => return Ok(None),
        }
        if !self.shown.insert(name.to_owned()) {
            return Ok(None);
        }
        let at = status.captured_at.or(checkpoint.metadata.creation_timestamp.clone()).map_or_else(print::now, |at| at.0);
        Ok(Some(self.line(at, "checkpoint", &text)))
    }

    /// What was said since it was last asked. A hub that does not answer is asked at the next occasion.
    async fn messages(&mut self) -> anyhow::Result<Vec<Line>> {
        let path = resource::machine(&self.client.namespace, self.name);
        let mut lines = Vec::new();
        loop {
            let entries = match self.client.get(&format!("{path}/log?after={}", self.after)).await {
                Ok(entries) => entries,
                Err(error) if error.is("NotFound") => return Ok(lines),
                Err(crate::cli::client::Error::Unreachable { .. }) => return Ok(lines),
                Err(error) => return Err(error.into()),
            };
            let entries = entries.as_array().cloned().unwrap_or_default();
            if entries.is_empty() {
                return Ok(lines);
            }
            for entry in &entries {
                self.after = entry["seq"].as_i64().unwrap_or(self.after);
                let at = entry["at"].as_str().and_then(|at| at.parse().ok()).unwrap_or_else(print::now);
                lines.push((at, logs::render(entry, false, self.color)));
            }
        }
    }

    fn deleted(&self) -> anyhow::Result<ExitCode> {
        bail!("machine/{} was deleted; its checkpoints are in `autovibe lineage -n {}`", self.name, self.client.namespace)
    }
}

fn phase(machine: &Machine) -> crate::api::machine::Phase {
    machine.status.as_ref().map(|status| status.phase).unwrap_or_default()
}

fn read<K: Kind>(object: &Value) -> anyhow::Result<K> {
    serde_json::from_value(object.clone()).with_context(|| format!("the {} has a form that this version does not know", K::KIND))
}
