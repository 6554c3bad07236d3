//! `autovibe lineage`: which checkpoint led to which, and by what goal.

mod graph;
mod picture;
mod svg;
#[cfg(test)]
mod tests;
mod tree;

use super::{Context, Output, client::Client, print, resource};
use crate::api::{Checkpoint, Kind, Machine};
use anyhow::bail;
use graph::Graph;
pub(super) use graph::why;
use std::process::ExitCode;

/// Shows which checkpoint led to which, and by what goal
///
/// As a tree; with -o dot or -o svg as a picture of Machines and checkpoints.
#[derive(Debug, clap::Args)]
pub(super) struct Show {
    /// Only what led to this one and what came of it: machine/NAME or checkpoint/NAME
    #[arg(value_name = "KIND/NAME")]
    of: Option<String>,
    /// Draw each checkpoint, also those of a long row between messages
    #[arg(long)]
    every_checkpoint: bool,
    /// Of all namespaces
    #[arg(long, short = 'A')]
    all_namespaces: bool,
}

impl Show {
    pub(super) async fn run(&self, context: &Context) -> anyhow::Result<ExitCode> {
        let client = context.client()?;
        let namespace = (!self.all_namespaces).then_some(client.namespace.as_str());
        let (mut machines, mut checkpoints) = lives(&client, namespace).await?;
        let mut graph = Graph::new(&machines, &checkpoints);
        if let Some(word) = &self.of {
            if self.all_namespaces {
                bail!("a name means one in one namespace; write -n NAMESPACE instead of -A");
            }
            let related = graph.related(&find(&graph, &client.namespace, word)?);
            machines.retain(|machine| related.contains(&graph::id(machine)));
            checkpoints.retain(|checkpoint| related.contains(&graph::id(checkpoint)));
            graph = graph.only(&related);
        }
        if let Some(picture @ (Output::Dot | Output::Svg)) = context.options.output {
            let graph = if self.every_checkpoint { graph } else { graph.in_short() };
            print::out(&if picture == Output::Dot { picture::dot(&graph) } else { svg::svg(&graph) })?;
            return Ok(ExitCode::SUCCESS);
        }
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

/// The node that a person means by `machine/NAME`, `checkpoint/NAME`, or the name alone.
fn find(graph: &Graph, namespace: &str, word: &str) -> anyhow::Result<graph::Id> {
    let candidates: Vec<String> = match word.split_once('/') {
        Some((kind, name)) => vec![format!("{}/{name}", resource::find(kind)?.singular)],
        None => [Machine::SINGULAR, Checkpoint::SINGULAR].map(|kind| format!("{kind}/{word}")).into(),
    };
    let found = candidates.into_iter().map(|candidate| (namespace.to_owned(), candidate)).find(|id| graph.nodes.contains_key(id));
    match found {
        Some(id) => Ok(id),
        None => bail!("there is no machine or checkpoint {word} in namespace {namespace}; see `autovibe lineage -n {namespace}`"),
    }
}

/// Machines and Checkpoints of a namespace, or of all.
pub(super) async fn read(client: &Client, namespace: Option<&str>) -> anyhow::Result<(Vec<Machine>, Vec<Checkpoint>)> {
    // Two lists of different moments; a checkpoint that is newer than its Machine's status shows next time.
    let machines = client.list(&resource::our::<Machine>(namespace, None)).await?;
    let checkpoints = client.list(&resource::our::<Checkpoint>(namespace, None)).await?;
    Ok((machines, checkpoints))
}

/// Without the Machines by which checkpoints are verified: nothing comes of them.
async fn lives(client: &Client, namespace: Option<&str>) -> anyhow::Result<(Vec<Machine>, Vec<Checkpoint>)> {
    let (mut machines, checkpoints) = read(client, namespace).await?;
    machines.retain(|machine| !machine.spec.verifies());
    Ok((machines, checkpoints))
}

/// The lineage of one namespace, as `autovibe lineage` prints it.
pub(super) async fn of(client: &Client, namespace: &str) -> anyhow::Result<String> {
    let (machines, checkpoints) = lives(client, Some(namespace)).await?;
    Ok(tree::render(&tree::forest(&machines, &checkpoints, print::now())))
}
