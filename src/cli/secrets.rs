//! `autovibe secrets`: the key that Secrets are encrypted with.

use super::{Context, DatabaseArgs, print};
use crate::objects;
use crate::store::{Database, Store};
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
    RotateKey(DatabaseArgs),
}

impl Secrets {
    pub(super) async fn run(&self, context: &Context) -> anyhow::Result<ExitCode> {
        match &self.command {
            SecretsCommand::RotateKey(database) => rotate_key(context, &context.database(database)?).await,
        }
    }
}

async fn rotate_key(context: &Context, database: &Database) -> anyhow::Result<ExitCode> {
    let key = context.data().join("secrets.key");
    if let Database::Sqlite(path) = database {
        anyhow::ensure!(path.exists(), "there is no hub at {}: name its directory with --data", path.display());
    }
    // A running hub would go on with the old key.
    let store = Store::open_alone(database).await?;
    let rotated = objects::rotate(&store, &key).await;
    store.close().await;
    let rotated = rotated.with_context(|| format!("the key {} was not changed", key.display()))?;
    Store::scrub(database)
        .await
        .context("the Secrets have their new key, but traces of the old form may remain in the database's files")?;
    let went_on = if rotated.resumed { " It went on with a change that was cut off." } else { "" };
    print::out(&format!(
        "{} stored versions of Secrets are encrypted with a new key in {}.{went_on} Copies of the database from before need the old key: keep it with them.\n",
        rotated.documents,
        key.display()
    ))?;
    Ok(ExitCode::SUCCESS)
}
