//! The workspace of a checkpoint: which commit it is, and the git bundles that hold it.

use super::{client::Client, resource};
use crate::api::checkpoint::Trigger;
use crate::api::{Checkpoint, Kind, Machine};
use anyhow::{Context as _, bail};
use std::collections::HashSet;

pub(super) fn commit(checkpoint: &Checkpoint) -> Option<String> {
    checkpoint.status.as_ref().and_then(|status| status.commit.clone())
}

/// Its commit, or an error that says how to get it.
pub(super) fn recorded(checkpoint: &Checkpoint) -> anyhow::Result<String> {
    let name = checkpoint.name();
    match commit(checkpoint) {
        Some(commit) => Ok(commit),
        None if checkpoint.spec.trigger == Trigger::Final => {
            bail!(
                "the workspace of checkpoint/{name} is not kept as files, only on its disk: the guest had no git, no directory \
                 status.workspace, or files that are more than 11 MB when packed"
            )
        }
        None => bail!(
            "the workspace of checkpoint/{name} is not kept as files, only on its disk: that is done when a Machine ends. Spawn one from it that \
             ends at once (spec.from.checkpoint: {name}, spec.agent: {{type: Command, command: [\"true\"]}}), and name that Machine here"
        ),
    }
}

/// The checkpoint that `word` names: its own name, or a Machine's, whose last one is taken.
pub(super) async fn find(client: &Client, word: &str) -> anyhow::Result<Checkpoint> {
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

/// The bundles of checkpoints and of those before them, oldest first, each commit once: so each finds what it builds on.
pub(super) async fn bundles(client: &Client, of: &[&Checkpoint]) -> anyhow::Result<Vec<Vec<u8>>> {
    let (mut seen, mut bundles) = (HashSet::new(), Vec::new());
    for checkpoint in of {
        let chain = chain(client, checkpoint).await?;
        bundles.extend(chain.into_iter().rev().filter(|(commit, _)| seen.insert(commit.clone())).map(|(_, bytes)| bytes));
    }
    Ok(bundles)
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
