//! `autovibe diff`: what changed in the workspace between two checkpoints, by git.

use super::{Context, client::Client, print, resource};
use crate::api::{Checkpoint, Kind, Machine};
use crate::git::{self, Comparison, Detail};
use anyhow::{Context as _, bail};
use std::{collections::HashSet, process::ExitCode};

/// Shows what changed in the workspace between two checkpoints or Machines (then: their last checkpoint).
#[derive(Debug, clap::Args)]
pub(super) struct Diff {
    /// A checkpoint or a Machine
    from: String,
    /// A checkpoint or a Machine
    to: String,
    /// Only the files, with the number of changed lines
    #[arg(long)]
    stat: bool,
}

impl Diff {
    pub(super) async fn run(&self, context: &Context) -> anyhow::Result<ExitCode> {
        let client = context.client()?;
        let detail = if self.stat { Detail::Stat } else { Detail::Full };
        let text = between(&client, &self.from, &self.to, detail, context.environment.color).await?;
        if text.is_empty() {
            eprintln!("The workspaces of {} and {} are the same.", self.from, self.to);
        }
        print::out(&text)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// The change between two checkpoints or Machines, as `git diff` prints it.
pub(super) async fn between(client: &Client, from: &str, to: &str, detail: Detail, color: bool) -> anyhow::Result<String> {
    let (first, second) = (find(client, from).await?, find(client, to).await?);
    let Some(target) = commit(&second) else {
        bail!("the workspace of checkpoint/{} was not recorded, so there is nothing to compare", second.name());
    };
    let base = commit(&first);
    let mut chains = Vec::new();
    for checkpoint in [base.is_some().then_some(&first), Some(&second)].into_iter().flatten() {
        chains.push(chain(client, checkpoint).await?);
    }
    // Oldest first, each commit once: a chain's own order is kept, so each bundle finds what it builds on.
    let mut seen = HashSet::new();
    let bundles = chains
        .into_iter()
        .flat_map(|chain| chain.into_iter().rev())
        .filter(|(commit, _)| seen.insert(commit.clone()))
        .map(|(_, bytes)| bytes);
    let comparison = Comparison { bundles: bundles.collect(), from: base, to: target };
    if comparison.from.is_none() {
        eprintln!("checkpoint/{} has no workspace yet: every file of {to} is shown as new.", first.name());
    }
    Ok(git::compare(&comparison, detail, color).await?)
}

fn commit(checkpoint: &Checkpoint) -> Option<String> {
    checkpoint.status.as_ref().and_then(|status| status.commit.clone())
}

/// The checkpoint that `word` names: its own name, or a Machine's, whose last one is taken.
async fn find(client: &Client, word: &str) -> anyhow::Result<Checkpoint> {
    let (only_machine, only_checkpoint) = (word.strip_prefix("machine/"), word.strip_prefix("checkpoint/"));
    let name = only_machine.or(only_checkpoint).unwrap_or(word);
    let read = async |name: &str| -> anyhow::Result<Option<Checkpoint>> {
        let found = client.find(&resource::checkpoint(&client.namespace, name)).await?;
        found.map(serde_json::from_value).transpose().context("the Checkpoint has a form that this version does not know")
    };
    if only_machine.is_none()
        && let Some(found) = read(name).await?
    {
        return Ok(found);
    }
    if only_checkpoint.is_none()
        && let Some(machine) = client.find(&resource::machine(&client.namespace, name)).await?
    {
        let machine: Machine = serde_json::from_value(machine).context("the Machine has a form that this version does not know")?;
        let status = machine.status.unwrap_or_default();
        let Some(last) = status.final_checkpoint.or(status.last_checkpoint) else {
            bail!("machine/{name} has no checkpoint yet; see `autovibe explain machine/{name} -n {}`", client.namespace);
        };
        return read(&last).await?.with_context(|| format!("checkpoint/{last}, the last one of machine/{name}, is gone"));
    }
    bail!("there is no checkpoint or machine {name} in namespace {}; see `autovibe lineage -n {}`", client.namespace, client.namespace)
}

/// The bundles of a checkpoint and of those before it, newest first, each with its commit.
async fn chain(client: &Client, checkpoint: &Checkpoint) -> anyhow::Result<Vec<(String, Vec<u8>)>> {
    let mut found = Vec::new();
    let mut visited = HashSet::new();
    let mut current = Some(checkpoint.clone());
    while let Some(checkpoint) = current.take() {
        if !visited.insert(checkpoint.name().to_owned()) {
            break;
        }
        if let Some(commit) = commit(&checkpoint) {
            let path = format!("{}/bundle", resource::checkpoint(checkpoint.namespace(), checkpoint.name()));
            found.push((commit, client.bytes(&path).await?.to_vec()));
        }
        if let Some(parent) = checkpoint.status.and_then(|status| status.parent) {
            let parent = client.find(&resource::checkpoint(&client.namespace, &parent)).await?;
            current = parent.map(serde_json::from_value).transpose().context("a Checkpoint has a form that this version does not know")?;
        }
    }
    Ok(found)
}
