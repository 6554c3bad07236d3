//! `autovibe watch`: rows as objects change, through restarts of the hub.

use super::{Context, Output, client, client::Client, get, print, resource};
use crate::clock::Clock;
use futures::StreamExt;
use serde_json::Value;
use std::{process::ExitCode, time::Duration};

/// How soon a hub that went away is asked again.
const AGAIN: Duration = Duration::from_secs(1);

/// Follows objects as they change. Ends with Ctrl-C.
#[derive(Debug, clap::Args)]
pub(super) struct Watch {
    /// A kind, or KIND/NAME
    #[arg(default_value = "machines")]
    kind: String,
    /// One object's name
    name: Option<String>,
    /// Of all namespaces
    #[arg(long, short = 'A')]
    all_namespaces: bool,
}

impl Watch {
    pub(super) async fn run(&self, context: &Context) -> anyhow::Result<ExitCode> {
        let (kind, name) = resource::object(&self.kind, self.name.as_deref())?;
        let client = context.client()?;
        let namespace = (!self.all_namespaces).then_some(client.namespace.as_str());
        let path = resource::collection(kind, namespace);
        let documents = matches!(context.options.output, Some(Output::Json | Output::Yaml));
        let accept = if documents { "application/json" } else { client::TABLE };
        let mut printer = Printer { name, output: context.options.output, with_namespace: self.all_namespaces, headed: false };
        let mut since: Option<String> = None;
        let clock = Clock::system();
        loop {
            let from = match &since {
                Some(revision) => revision.clone(),
                None => start(&client, &path, &mut printer, documents).await?,
            };
            let query = format!("{path}?watch=true&allowWatchBookmarks=true&resourceVersion={from}");
            match client.lines(&query, accept).await {
                Ok(mut lines) => {
                    since = Some(from);
                    while let Some(event) = lines.next().await {
                        let event = event?;
                        match event["type"].as_str() {
                            // The history was compacted: begin anew with a list.
                            Some("ERROR") => {
                                since = None;
                                break;
                            }
                            Some(change) => {
                                let object = &event["object"];
                                let revision = object["metadata"]["resourceVersion"]
                                    .as_str()
                                    .or(object["rows"][0]["object"]["metadata"]["resourceVersion"].as_str());
                                since = revision.map(str::to_owned).or(since);
                                if change != "BOOKMARK" {
                                    printer.show(Some(change), if documents { &event } else { object })?;
                                }
                            }
                            None => {}
                        }
                    }
                }
                Err(error) if error.is("Expired") || error.is("Gone") => since = None,
                Err(error @ client::Error::Refused(_)) => return Err(error.into()),
                Err(error) => eprintln!("{error:#}; asking again"),
            }
            clock.sleep(AGAIN).await;
        }
    }
}

/// Shows what there is, and returns the revision to watch from.
async fn start(client: &Client, path: &str, printer: &mut Printer, documents: bool) -> anyhow::Result<String> {
    let list = if documents { client.get(path).await? } else { client.get_table(path).await? };
    if documents {
        for item in list["items"].as_array().into_iter().flatten() {
            printer.show(Some("ADDED"), &serde_json::json!({ "type": "ADDED", "object": item }))?;
        }
    } else {
        printer.show(None, &list)?;
    }
    Ok(list["metadata"]["resourceVersion"].as_str().unwrap_or("0").to_owned())
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
