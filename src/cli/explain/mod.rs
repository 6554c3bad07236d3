//! `autovibe explain`: what an object does, waits for and spent, in the controllers' own words.

mod sentences;
#[cfg(test)]
mod tests;

use super::{Context, Output, client::Client, print, resource};
use crate::api::{Budget, Checkpoint, DEFAULT_BUDGET, Hub, Kind, Machine};
use anyhow::{Context as _, bail};
use serde_json::{Value, json};
use std::process::ExitCode;

/// Says in words what an object does, waits for and spent.
#[derive(Debug, clap::Args)]
pub(super) struct Explain {
    /// KIND/NAME of a Machine, Checkpoint, Budget or Hub
    kind: String,
    /// Its name
    name: Option<String>,
}

impl Explain {
    pub(super) async fn run(&self, context: &Context) -> anyhow::Result<ExitCode> {
        let (kind, name) = resource::named(&self.kind, self.name.as_deref())?;
        let client = context.client()?;
        let object = client.get(&resource::path(kind, &client.namespace, &name)).await?;
        let sentences = match kind.kind {
            Machine::KIND => machine(&client, &object).await?,
            Checkpoint::KIND => sentences::checkpoint(&typed(&object)?, print::now()),
            Budget::KIND => sentences::budget(&typed(&object)?),
            Hub::KIND => sentences::hub(&typed(&object)?),
            other => bail!("{other} says nothing about itself; see `autovibe describe {}/{name}`", kind.singular),
        };
        match context.options.output {
            Some(output @ (Output::Json | Output::Yaml)) => {
                let whole =
                    json!({ "kind": kind.kind, "name": name, "namespace": object["metadata"]["namespace"], "sentences": sentences });
                print::out(&print::document(&whole, output)?)?;
            }
            _ => print::out(&(print::printable(&sentences.join("\n")) + "\n"))?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn typed<K: Kind>(object: &Value) -> anyhow::Result<K> {
    serde_json::from_value(object.clone()).with_context(|| format!("the {} has a form that this version does not know", K::KIND))
}

/// Reads what the Machine speaks of: its last checkpoint, its hub, its budgets.
async fn machine(client: &Client, object: &Value) -> anyhow::Result<Vec<String>> {
    let machine: Machine = typed(object)?;
    let namespace = machine.namespace();
    let mut last = None;
    if let Some(name) = machine.status.as_ref().and_then(|status| status.last_checkpoint.as_deref()) {
        last = client.find(&resource::checkpoint(namespace, name)).await?.map(|found| typed::<Checkpoint>(&found)).transpose()?;
    }
    let hub = machine.spec.hub.as_deref().unwrap_or(crate::api::DEFAULT_HUB);
    let hub = client.find(&resource::our::<Hub>(None, Some(hub))).await?.map(|found| typed::<Hub>(&found)).transpose()?;
    let mut budgets: Vec<Budget> = Vec::new();
    let mut next = machine.spec.budget.as_ref().and_then(|budget| budget.name.clone()).or_else(|| Some(DEFAULT_BUDGET.to_owned()));
    while let Some(name) = next.take() {
        // A chain that meets itself is the budget controller's to complain about; here it only must end.
        if budgets.iter().any(|seen| seen.name() == name) {
            break;
        }
        if let Some(found) = client.find(&resource::our::<Budget>(Some(namespace), Some(&name))).await? {
            let budget: Budget = typed(&found)?;
            next = budget.spec.parent_ref.as_ref().map(|parent| parent.name.clone());
            budgets.push(budget);
        }
    }
    Ok(sentences::machine(&machine, last.as_ref(), &budgets, hub.as_ref(), print::now()))
}
