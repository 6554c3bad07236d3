//! `autovibe get`: the server's tables, or documents for programs.

use super::{Context, Output, print, resource};
use crate::admission::Resource;
use crate::api::Scope;
use serde_json::Value;
use std::process::ExitCode;

/// Lists objects, or shows one.
#[derive(Debug, clap::Args)]
pub(super) struct Get {
    /// A kind (machines, checkpoints, budgets, hubs …), or KIND/NAME
    kind: String,
    /// One object's name
    name: Option<String>,
    /// Of all namespaces
    #[arg(long, short = 'A')]
    all_namespaces: bool,
    /// Only objects with these labels: KEY=VALUE,…
    #[arg(long, short = 'l')]
    selector: Option<String>,
}

impl Get {
    pub(super) async fn run(&self, context: &Context) -> anyhow::Result<ExitCode> {
        let (kind, name) = resource::object(&self.kind, self.name.as_deref())?;
        let client = context.client()?;
        let path = if let Some(name) = &name {
            resource::path(kind, &client.namespace, name)
        } else {
            let namespace = (!self.all_namespaces).then_some(client.namespace.as_str());
            let query = self.selector.as_ref().map(|selector| {
                format!("?labelSelector={}", percent_encoding::utf8_percent_encode(selector, percent_encoding::NON_ALPHANUMERIC))
            });
            resource::collection(kind, namespace) + &query.unwrap_or_default()
        };
        match context.options.output {
            Some(output @ (Output::Json | Output::Yaml)) => print::out(&print::document(&client.get(&path).await?, output)?)?,
            Some(Output::Name) => {
                let found = client.get(&path).await?;
                let names = match found["items"].as_array() {
                    Some(items) => items.iter().map(|item| name_line(kind, item)).collect(),
                    None => name_line(kind, &found),
                };
                print::out(&names)?;
            }
            wide => {
                let answer = client.get_table(&path).await?;
                let (header, rows) = table(&answer, wide == Some(Output::Wide), self.all_namespaces && kind.scope == Scope::Namespaced);
                if rows.is_empty() {
                    let place = if self.all_namespaces || kind.scope == Scope::Cluster {
                        String::new()
                    } else {
                        format!(" in namespace {}", client.namespace)
                    };
                    eprintln!("No {}{place}.", kind.plural);
                } else {
                    print::out(&print::columns(&header, &rows))?;
                }
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn name_line(kind: &Resource, item: &Value) -> String {
    let group = if kind.group.is_empty() { String::new() } else { format!(".{}", kind.group) };
    format!("{}{group}/{}\n", kind.singular, item["metadata"]["name"].as_str().unwrap_or_default())
}

/// Header and rows of a server's Table.
pub(super) fn table(answer: &Value, wide: bool, with_namespace: bool) -> (Vec<String>, Vec<Vec<String>>) {
    let definitions = answer["columnDefinitions"].as_array().cloned().unwrap_or_default();
    let shown: Vec<bool> = definitions.iter().map(|d| wide || d["priority"].as_i64().unwrap_or(0) == 0).collect();
    let mut header: Vec<String> = with_namespace.then(|| "NAMESPACE".to_owned()).into_iter().collect();
    header.extend(
        definitions.iter().zip(&shown).filter(|(_, shown)| **shown).map(|(d, _)| d["name"].as_str().unwrap_or_default().to_uppercase()),
    );
    let rows = answer["rows"].as_array().into_iter().flatten().map(|row| {
        let namespace = with_namespace.then(|| print::cell(&row["object"]["metadata"]["namespace"]));
        let cells =
            row["cells"].as_array().into_iter().flatten().zip(&shown).filter(|(_, shown)| **shown).map(|(cell, _)| print::cell(cell));
        namespace.into_iter().chain(cells).collect()
    });
    (header, rows.collect())
}
