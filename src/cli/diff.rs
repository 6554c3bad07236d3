//! `autovibe diff`: what changed in the workspace between two checkpoints, by git.

use super::{Context, client::Client, lineage, print, workspace};
use crate::api::{Checkpoint, Kind, Machine};
use crate::git::{self, Comparison, Detail};
use anyhow::bail;
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
    /// What is installed instead of the files: packages of Debian, RPM, Alpine, Python and npm
    #[arg(long, conflicts_with = "stat")]
    packages: bool,
}

impl Diff {
    pub(super) async fn run(&self, context: &Context) -> anyhow::Result<ExitCode> {
        let client = context.client()?;
        if self.packages {
            let text = installed(&client, &self.from, &self.to).await?;
            if text.is_empty() {
                eprintln!("The same packages are installed in {} and {}.", self.from, self.to);
            }
            print::out(&print::printable(&text))?;
            return Ok(ExitCode::SUCCESS);
        }
        let detail = if self.stat { Detail::Stat } else { Detail::Full };
        let text = between(&client, &self.from, &self.to, detail, context.environment.color).await?;
        if text.is_empty() {
            eprintln!("The workspaces of {} and {} are the same.", self.from, self.to);
        }
        // Beside the change, not in it: that may go on to `git apply`.
        eprint!("{}", spent(&client, &self.from, &self.to).await?);
        print::out(&text)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// What was installed (`+`) and removed (`-`) between two checkpoints or Machines, a line each; a changed version is both.
async fn installed(client: &Client, from: &str, to: &str) -> anyhow::Result<String> {
    let (mut bundles, mut lists) = (Vec::new(), Vec::new());
    for word in [from, to] {
        let checkpoint = workspace::find(client, word).await?;
        workspace::recorded(&checkpoint)?;
        let chain = workspace::bundles(client, &[&checkpoint]).await?;
        let Some(list) = chain.last().and_then(|own| git::packages(own)) else {
            bail!(
                "what is installed in checkpoint/{} was not written down: it was imported, or taken by an older version",
                checkpoint.name()
            );
        };
        lists.push(list);
        bundles.extend(chain);
    }
    let to = lists.pop().unwrap_or_default();
    let from = lists.pop().unwrap_or_default();
    let changes = git::compare(&Comparison { bundles, from: Some(from), to }, Detail::Full, false).await?;
    let told = |line: &&str| (line.starts_with('+') && !line.starts_with("+++")) || (line.starts_with('-') && !line.starts_with("---"));
    Ok(changes.lines().filter(told).map(|line| format!("{line}\n")).collect())
}

/// What each Machine on the way from one to the other spent, a line each; empty when the one did not lead to the other.
async fn spent(client: &Client, from: &str, to: &str) -> anyhow::Result<String> {
    let (first, second) = (workspace::find(client, from).await?, workspace::find(client, to).await?);
    let (machines, checkpoints) = lineage::read(client, Some(&client.namespace)).await?;
    let (mut way, mut seen, mut at) = (Vec::new(), HashSet::new(), Some(&second));
    while let Some(checkpoint) = at.filter(|checkpoint| seen.insert(checkpoint.name())) {
        if checkpoint.name() == first.name() {
            // What the first one's own Machine spent was mostly before it.
            way.retain(|machine| Some(machine) != first.spec.machine.as_ref());
            let on_way = way.iter().rev().filter_map(|name| machines.iter().find(|machine| machine.name() == name));
            return Ok(on_way.map(line).collect());
        }
        way.extend(checkpoint.spec.machine.clone().filter(|machine| way.last() != Some(machine)));
        let parent = checkpoint.status.as_ref().and_then(|status| status.parent.as_deref());
        at = parent.and_then(|parent| checkpoints.iter().find(|checkpoint| checkpoint.name() == parent));
    }
    Ok(String::new())
}

fn line(machine: &Machine) -> String {
    let usage = machine.status.clone().unwrap_or_default().usage;
    let goal = print::printable(&print::shorten(&machine.spec.goal.prompt, 60));
    format!("machine/{}: {}, {} calls  “{goal}”\n", machine.name(), usage.money.dollars(), usage.api_calls)
}

/// The change between two checkpoints or Machines, as `git diff` prints it.
pub(super) async fn between(client: &Client, from: &str, to: &str, detail: Detail, color: bool) -> anyhow::Result<String> {
    let (first, second) = (workspace::find(client, from).await?, workspace::find(client, to).await?);
    let target = workspace::recorded(&second)?;
    let base = workspace::commit(&first);
    let of: Vec<&Checkpoint> = [base.is_some().then_some(&first), Some(&second)].into_iter().flatten().collect();
    let comparison = Comparison { bundles: workspace::bundles(client, &of).await?, from: base, to: target };
    if comparison.from.is_none() {
        eprintln!("checkpoint/{} has no workspace yet: every file of {to} is shown as new.", first.name());
    }
    Ok(git::compare(&comparison, detail, color).await?)
}
