//! `autovibe watch`: rows as objects change, or one Machine as it lives; through restarts of the hub.

mod feed;
mod machine;

use super::{Context, Output, client, get, print, resource};
use crate::api::{Kind, Machine};
use anyhow::bail;
use feed::{Collection, News};
use futures::StreamExt;
use serde_json::Value;
use std::process::ExitCode;

/// Follows objects as they change, or one Machine until it has ended
///
/// Of one Machine it shows the conversation, tool calls, checkpoints and what they cost as they happen, and ends with it: exit code 0 when it
/// succeeded, 1 when it failed. Of anything else it shows rows, until Ctrl-C.
#[derive(Debug, clap::Args)]
pub(super) struct Watch {
    /// A Machine, a kind, or KIND/NAME
    #[arg(default_value = "machines")]
    what: String,
    /// One object's name
    name: Option<String>,
    /// Of all namespaces
    #[arg(long, short = 'A')]
    all_namespaces: bool,
}

impl Watch {
    pub(super) async fn run(&self, context: &Context) -> anyhow::Result<ExitCode> {
        let client = context.client()?;
        let object = resource::object(&self.what, self.name.as_deref());
        let (kind, name) = match object {
            Err(_) if self.name.is_none() && !self.what.contains('/') => (resource::find(Machine::PLURAL)?, Some(self.what.clone())),
            other => other?,
        };
        if kind.kind == Machine::KIND
            && let Some(name) = name.as_deref().filter(|_| context.options.output.is_none())
        {
            if self.all_namespaces {
                bail!("a name means one in one namespace; write -n NAMESPACE instead of -A");
            }
            return machine::follow(&client, name, context.environment.color).await;
        }
        let namespace = (!self.all_namespaces).then_some(client.namespace.as_str());
        let path = resource::collection(kind, namespace);
        let documents = matches!(context.options.output, Some(Output::Json | Output::Yaml));
        let accept = if documents { "application/json" } else { client::TABLE };
        let mut printer = Printer { name, output: context.options.output, with_namespace: self.all_namespaces, headed: false };
        let mut feed = feed::feed(client, Collection { path, query: String::new(), accept });
        while let Some(news) = feed.next().await {
            match news? {
                News::List(list) if documents => {
                    for item in list["items"].as_array().into_iter().flatten() {
                        printer.show(Some("ADDED"), &serde_json::json!({ "type": "ADDED", "object": item }))?;
                    }
                }
                News::List(list) => printer.show(None, &list)?,
                News::Event(event) => printer.show(event["type"].as_str(), if documents { &event } else { &event["object"] })?,
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

struct Printer {
    name: Option<String>,
    output: Option<Output>,
    with_namespace: bool,
    headed: bool,
}

impl Printer {
    fn show(&mut self, change: Option<&str>, what: &Value) -> anyhow::Result<()> {
        if let Some(output @ (Output::Json | Output::Yaml)) = self.output {
            if self.name.is_some() && what["object"]["metadata"]["name"].as_str() != self.name.as_deref() {
                return Ok(());
            }
            // One line per event in JSON, so that programs can read while it runs.
            return match output {
                Output::Yaml => print::out(&format!("---\n{}", serde_yaml::to_string(what)?)),
                _ => print::out(&print::line(what)?),
            };
        }
        let (header, mut rows) = get::table(what, self.output == Some(Output::Wide), self.with_namespace);
        if let Some(name) = &self.name {
            let at = usize::from(self.with_namespace);
            rows.retain(|row| row.get(at) == Some(name));
        }
        if change == Some("DELETED") {
            for row in &mut rows {
                row.push("(deleted)".into());
            }
        }
        // Widths differ from event to event; padding to a fixed grid keeps the columns readable.
        let grid =
            |cells: &[String]| cells.iter().map(|cell| format!("{cell:<14}")).collect::<Vec<_>>().join("  ").trim_end().to_owned() + "\n";
        let mut text = String::new();
        if !self.headed && !header.is_empty() {
            self.headed = true;
            text += &grid(&header);
        }
        text.extend(rows.iter().map(|row| grid(row)));
        print::out(&text)
    }
}
