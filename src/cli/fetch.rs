//! `autovibe fetch` and `autovibe push`: the files of a checkpoint's workspace, and its history, for people and their repositories.

use super::{Context, client::Client, print, workspace};
use crate::api::{Checkpoint, Kind};
use crate::git::Workspace;
use anyhow::bail;
use std::{io::Write, path::PathBuf, process::ExitCode};

/// Gets the workspace out of a checkpoint: as a bundle, a branch, or files
///
/// Without any option it lists the files, or prints those that are named.
#[derive(Debug, clap::Args)]
pub(super) struct Fetch {
    /// A checkpoint or a Machine (then: its last checkpoint)
    checkpoint: String,
    /// Write it to one git bundle, with what came before it: a commit for each Machine
    #[arg(long, value_name = "FILE")]
    bundle: Option<PathBuf>,
    /// Fetch it into a git repository that is there, as a branch
    #[arg(long, value_name = "REPO", conflicts_with = "bundle")]
    into: Option<PathBuf>,
    /// The branch's name [default: the checkpoint's]
    #[arg(long, value_name = "NAME")]
    branch: Option<String>,
    /// Write the files to a new or empty directory: those that are named, or all
    #[arg(long, value_name = "DIR", conflicts_with_all = ["bundle", "into", "branch"])]
    to: Option<PathBuf>,
    /// Files of the workspace
    #[arg(last = true, value_name = "PATH", conflicts_with_all = ["bundle", "into", "branch"])]
    paths: Vec<String>,
}

/// Pushes the workspace of a checkpoint to a git repository, as a branch
///
/// It runs git here, with your credentials and your configuration. Nothing is overwritten: a branch that has gone another way stays.
#[derive(Debug, clap::Args)]
pub(super) struct Push {
    /// A checkpoint or a Machine (then: its last checkpoint)
    checkpoint: String,
    /// The repository, as `git push` takes it
    #[arg(long, value_name = "URL")]
    to: String,
    /// The branch's name there
    #[arg(long, value_name = "NAME")]
    branch: String,
}

async fn open(client: &Client, word: &str) -> anyhow::Result<(Checkpoint, Workspace)> {
    let checkpoint = workspace::find(client, word).await?;
    let commit = workspace::recorded(&checkpoint)?;
    let workspace = Workspace::open(&workspace::bundles(client, &[&checkpoint]).await?, &commit).await?;
    Ok((checkpoint, workspace))
}

impl Fetch {
    pub(super) async fn run(&self, context: &Context) -> anyhow::Result<ExitCode> {
        if self.branch.is_some() && self.bundle.is_none() && self.into.is_none() {
            bail!("a branch is made in a bundle or a repository: write --bundle FILE or --into REPO");
        }
        let (checkpoint, workspace) = open(&context.client()?, &self.checkpoint).await?;
        let name = checkpoint.name();
        let branch = self.branch.as_deref().unwrap_or(name);
        if let Some(file) = &self.bundle {
            workspace.write_bundle(branch, file).await?;
            print::out(&format!("{} holds checkpoint {name} as branch {branch}: git clone {} DIR\n", file.display(), file.display()))?;
        } else if let Some(repository) = &self.into {
            workspace.fetch_into(repository, branch).await?;
            print::out(&format!("{} has checkpoint {name} as branch {branch}\n", repository.display()))?;
        } else if let Some(directory) = &self.to {
            workspace.extract(&self.paths, directory).await?;
            print::out(&format!("{} has files of checkpoint {name}\n", directory.display()))?;
        } else if self.paths.is_empty() {
            print::out(&print::printable(&workspace.list().await?))?;
        } else {
            for path in &self.paths {
                let bytes = workspace.read(path).await?;
                if context.environment.terminal {
                    print::out(&print::printable(&String::from_utf8_lossy(&bytes)))?;
                } else {
                    // As they are: they may be no text.
                    std::io::stdout().write_all(&bytes)?;
                }
            }
            std::io::stdout().flush()?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

impl Push {
    pub(super) async fn run(&self, context: &Context) -> anyhow::Result<ExitCode> {
        let (checkpoint, workspace) = open(&context.client()?, &self.checkpoint).await?;
        workspace.push(&self.to, &self.branch).await?;
        print::out(&format!("{} has checkpoint {} as branch {}\n", self.to, checkpoint.name(), self.branch))?;
        Ok(ExitCode::SUCCESS)
    }
}
