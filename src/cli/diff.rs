//! `autovibe diff`: what changed in the workspace between two checkpoints, by git.

use super::{Context, client::Client, print, workspace};
use crate::api::{Checkpoint, Kind};
use crate::git::{self, Comparison, Detail};
use std::process::ExitCode;

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
