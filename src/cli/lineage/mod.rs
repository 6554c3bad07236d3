//! `autovibe lineage`: which checkpoint led to which, and by what goal.

#[cfg(test)]
mod tests;
mod tree;

use super::{Context, Output, client::Client, print, resource};
use crate::api::{Checkpoint, Machine};
use std::process::ExitCode;

/// Shows which checkpoint led to which, and by what goal.
#[derive(Debug, clap::Args)]
pub(super) struct Show {
    /// Of all namespaces
    #[arg(long, short = 'A')]
    all_namespaces: bool,
}

impl Show {
    pub(super) async fn run(&self, context: &Context) -> anyhow::Result<ExitCode> {
        let client = context.client()?;
        let namespace = (!self.all_namespaces).then_some(client.namespace.as_str());
        let (machines, checkpoints) = read(&client, namespace).await?;
        let forest = tree::forest(&machines, &checkpoints, print::now());
        match context.options.output {
            Some(output @ (Output::Json | Output::Yaml)) => print::out(&print::document(&serde_json::to_value(&forest)?, output)?)?,
            _ if forest.is_empty() => {
                eprintln!("No checkpoints or Machines{}.", namespace.map(|n| format!(" in namespace {n}")).unwrap_or_default());
            }
            _ => print::out(&tree::render(&forest))?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// Machines and Checkpoints of a namespace, or of all.
pub(super) async fn read(client: &Client, namespace: Option<&str>) -> anyhow::Result<(Vec<Machine>, Vec<Checkpoint>)> {
    // Two lists of different moments; a checkpoint that is newer than its Machine's status shows next time.
    let machines = client.list(&resource::our::<Machine>(namespace, None)).await?;
    let checkpoints = client.list(&resource::our::<Checkpoint>(namespace, None)).await?;
    Ok((machines, checkpoints))
}

/// The lineage of one namespace, as `autovibe lineage` prints it.
pub(super) async fn of(client: &Client, namespace: &str) -> anyhow::Result<String> {
    let (machines, checkpoints) = read(client, Some(namespace)).await?;
    Ok(tree::render(&tree::forest(&machines, &checkpoints, print::now())))
}
