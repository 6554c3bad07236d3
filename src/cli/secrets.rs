//! `autovibe secrets`: the key that Secrets are encrypted with.

use super::{Context, print};
use crate::objects;
use crate::store::Store;
use anyhow::Context as _;
use clap::Subcommand;
use std::process::ExitCode;

/// The key that Secrets are encrypted with.
#[derive(Debug, clap::Args)]
pub(super) struct Secrets {
    #[command(subcommand)]
    command: SecretsCommand,
}

#[derive(Debug, Subcommand)]
enum SecretsCommand {
    /// Encrypts every Secret with a new key and forgets the old one; the hub must not run meanwhile
    RotateKey,
}

impl Secrets {
    pub(super) async fn run(&self, context: &Context) -> anyhow::Result<ExitCode> {
        match self.command {
            SecretsCommand::RotateKey => rotate_key(context).await,
        }
    }
}

async fn rotate_key(context: &Context) -> anyhow::Result<ExitCode> {
    let data = context.data();
    let (database, key) = (data.join("autovibe.db"), data.join("secrets.key"));
    anyhow::ensure!(database.exists(), "there is no hub in {}: name its directory with --data", data.display());
    // A running hub holds the database, and would go on with the old key.
    let store = Store::open(&database).await?;
    let rotated = objects::rotate(&store, &key).await;
    store.close().await;
    let rotated = rotated.with_context(|| format!("the key {} was not changed", key.display()))?;
    Store::scrub(&database).await.context("the Secrets have their new key, but traces of the old form may remain in the database file")?;
    let went_on = if rotated.resumed { " It went on with a change that was cut off." } else { "" };
    print::out(&format!(
        "{} stored versions of Secrets are encrypted with a new key in {}.{went_on} Copies of the database from before need the old key: keep it with them.\n",
        rotated.documents,
        key.display()
    ))?;
    Ok(ExitCode::SUCCESS)
}
