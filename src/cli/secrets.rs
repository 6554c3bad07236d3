//! `autovibe secrets`: the key that Secrets are encrypted with.

use super::{Context, DatabaseArgs, print};
use crate::clock::Clock;
use crate::objects::{Objects, Rotation, Stage};
use crate::store::{self, Database, Store};
use anyhow::Context as _;
use clap::Subcommand;
use serde_json::{Value, json};
use std::{process::ExitCode, time::Duration};

/// Where servers say how far they are.
const PATH: &str = "/autovibe/secrets/key";
/// How often they are asked.
const LOOK: Duration = Duration::from_millis(500);
const OLDER: &str = "Copies of the database from before need the old key: keep it with them.";

/// The key that Secrets are encrypted with.
#[derive(Debug, clap::Args)]
pub(super) struct Secrets {
    #[command(subcommand)]
    command: SecretsCommand,
}

#[derive(Debug, Subcommand)]
enum SecretsCommand {
    /// Encrypts every Secret with a new key and forgets the old one, also while hubs run
    RotateKey(RotateKey),
}

#[derive(Debug, clap::Args)]
struct RotateKey {
    #[command(flatten)]
    database: DatabaseArgs,
    /// A server that is waited for and will not come back; may be repeated
    #[arg(long, value_name = "SERVER")]
    gone: Vec<String>,
}

impl Secrets {
    pub(super) async fn run(&self, context: &Context) -> anyhow::Result<ExitCode> {
        match &self.command {
            SecretsCommand::RotateKey(wish) => rotate_key(context, &context.database(&wish.database)?, &wish.gone).await,
        }
    }
}

async fn rotate_key(context: &Context, database: &Database, gone: &[String]) -> anyhow::Result<ExitCode> {
    if let Database::Sqlite(path) = database {
        anyhow::ensure!(path.exists(), "there is no hub at {}: name its directory with --data", path.display());
    }
    let text = match Store::open_alone(database).await {
        Ok(store) => alone(context, database, store).await?,
        Err(running @ store::Error::Locked(_)) => by_server(context, gone).await.with_context(|| running.to_string())?,
        Err(error) => return Err(error.into()),
    };
    print::out(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// While no server runs: does it all here, and leaves nothing of the old form in the database's files.
async fn alone(context: &Context, database: &Database, store: Store) -> anyhow::Result<String> {
    let key = context.data().join("secrets.key");
    let rotated = async {
        let objects = Objects::unlock(store.clone(), Clock::system(), &key).await?;
        let begun = objects.rotate(&[]).await?;
        let documents = objects.finish_rotation().await;
        objects.leave().await;
        Ok::<_, crate::objects::Locked>((begun.resumed, documents?))
    };
    let rotated = rotated.await;
    store.close().await;
    let (resumed, documents) = rotated.with_context(|| format!("the key {} was not changed", key.display()))?;
    Store::scrub(database)
        .await
        .context("the Secrets have their new key, but traces of the old form may remain in the database's files")?;
    let went_on = if resumed { " It went on with a change that was cut off." } else { "" };
    Ok(format!("{documents} stored versions of Secrets are encrypted with a new key in {}.{went_on} {OLDER}\n", key.display()))
}

/// Has a running server do it, and tells what it waits for. The servers go on also when this command is ended.
async fn by_server(context: &Context, gone: &[String]) -> anyhow::Result<String> {
    let client = context.client()?;
    let read = |answer: Value| -> anyhow::Result<Rotation> { serde_json::from_value(answer).context("the hub is of another version") };
    let begun = read(client.create(PATH, &json!({"gone": gone})).await?)?;
    let (mut rotation, mut said) = (begun.clone(), Vec::new());
    while rotation.stage != Stage::Done {
        if let Stage::Waiting(servers) = &rotation.stage
            && *servers != said
        {
            said.clone_from(servers);
            for server in servers {
                eprintln!(
                    "waiting for the server {server}: copy secrets.key there, from the directory of the hub that was asked; if it will \
                     not come back, end this command and repeat it with --gone {server}"
                );
            }
        }
        if let Some(trouble) = rotation.trouble.filter(|_| rotation.key != begun.key || rotation.stage == Stage::Sealing) {
            anyhow::bail!(
                "the new key is in use, but the old one is still needed: {trouble}. The hub goes on by itself once that is mended"
            );
        }
        Clock::system().sleep(LOOK).await;
        rotation = read(client.get(PATH).await?)?;
    }
    let went_on = if begun.resumed { " It went on with a change that was begun before." } else { "" };
    Ok(format!(
        "All Secrets are encrypted with the new key {}, and the old one is forgotten.{went_on} {OLDER}\n\
         Traces of the old form may remain in the database's files until they are written over.\n",
        rotation.key
    ))
}
