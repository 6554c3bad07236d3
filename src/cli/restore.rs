//! `autovibe restore`: a backup in the place of the store; or, with `--to`, a Machine put back to one of its checkpoints.

use super::{Context, DatabaseArgs, print, resource, up};
use crate::api::machine::{Phase, Restore as Wanted};
use crate::api::{Kind, Machine};
use crate::clock::Clock;
use crate::store::{self, Replace};
use anyhow::{Context as _, bail};
use serde_json::json;
use std::{path::PathBuf, process::ExitCode, time::Duration};

/// How often it looks whether the Machine is put back.
const LOOK: Duration = Duration::from_millis(200);

/// Puts a backup in the place of the store, while no hub runs; or a Machine back to one of its checkpoints
///
/// With --to nothing is lost: what the Machine is now becomes a checkpoint first, and all its checkpoints stay.
#[derive(Debug, clap::Args)]
pub(super) struct Restore {
    /// What `autovibe backup` wrote; with --to, the Machine
    #[arg(value_name = "FILE|MACHINE")]
    what: PathBuf,
    /// The checkpoint to put the Machine back to
    #[arg(long, value_name = "CHECKPOINT", conflicts_with_all = ["overwrite", "database_url"])]
    to: Option<String>,
    /// Do not wait until the Machine is put back
    #[arg(long, requires = "to")]
    no_wait: bool,
    #[command(flatten)]
    database: DatabaseArgs,
    /// Replace a database that is there: a file is kept under another name, tables of PostgreSQL are deleted
    #[arg(long)]
    overwrite: bool,
}

impl Restore {
    pub(super) async fn run(&self, context: &Context) -> anyhow::Result<ExitCode> {
        if let Some(checkpoint) = &self.to {
            return self.put_back(context, checkpoint).await;
        }
        let data = context.data();
        up::make_private(&data)?;
        let database = context.database(&self.database)?;
        let replace = if self.overwrite { Replace::Overwrite } else { Replace::Refuse };
        let kept = store::restore(&self.what, &database, replace, &Clock::system()).await?;
        let mut text = format!("{} is restored to {database}.\n", self.what.display());
        if let Some(kept) = kept {
            text += &format!("What was there is kept as {}.\n", kept.display());
        }
        let key = data.join("secrets.key");
        text += &if key.exists() {
            format!("Its Secrets open with the key that it was made with; {} must be that one.\n", key.display())
        } else {
            format!("Its Secrets open with the key that it was made with: put that one to {} before `autovibe up`.\n", key.display())
        };
        text += "What was done since the backup is not in it: VMs that are younger are left alone, and model calls that were paid since \
                 are in no budget. Clients list anew.\n";
        print::out(&text)?;
        Ok(ExitCode::SUCCESS)
    }

    async fn put_back(&self, context: &Context, checkpoint: &str) -> anyhow::Result<ExitCode> {
        let client = context.client()?;
        let given = self.what.to_string_lossy();
        let name = given.strip_prefix("machine/").unwrap_or(&given);
        let checkpoint = checkpoint.strip_prefix("checkpoint/").unwrap_or(checkpoint);
        let path = resource::machine(&client.namespace, name);
        let Some(machine) = client.find(&path).await? else {
            bail!("there is no machine {name} in namespace {}; see `autovibe get machines`", client.namespace);
        };
        if client.find(&resource::checkpoint(&client.namespace, checkpoint)).await?.is_none() {
            bail!("there is no checkpoint {checkpoint} in namespace {}; see `autovibe lineage machine/{name}`", client.namespace);
        }
        if read(machine)?.status.is_some_and(|status| status.phase.is_finished()) {
            bail!("machine/{name} has ended and does not change any more; create a Machine with spec.from.checkpoint: {checkpoint}");
        }
        let (clock, wanted) = (Clock::system(), Wanted { checkpoint: checkpoint.to_owned(), request: print::now().to_string() });
        let mut document = client.merge(&path, &json!({ "spec": { "restore": wanted } })).await?;
        loop {
            let machine = read(document)?;
            let generation = machine.generation();
            let status = machine.status.unwrap_or_default();
            let done = status.restored.as_ref().is_some_and(|restored| restored.asked.as_ref() == Some(&wanted));
            let refused = status.conditions.iter().find(|condition| condition.reason == "RestoreNotReady");
            match status.phase {
                _ if self.no_wait => {
                    print::out(&format!("machine/{name} is to be put back to checkpoint {checkpoint}\n"))?;
                    return Ok(ExitCode::SUCCESS);
                }
                Phase::Running | Phase::Suspended if done => {
                    let before = format!("{name}-before-restore-{}", status.restored.map_or(0, |restored| restored.count));
                    print::out(&format!("machine/{name} is put back to checkpoint {checkpoint}; what it was is checkpoint {before}\n"))?;
                    return Ok(ExitCode::SUCCESS);
                }
                phase if phase.is_finished() => bail!("machine/{name} has ended: {}", status.message.unwrap_or_default()),
                _ => {}
            }
            if let Some(condition) = refused.filter(|_| !done && status.observed_generation >= Some(generation)) {
                bail!("machine/{name} waits {}; it goes on as it is meanwhile", condition.message);
            }
            clock.sleep(LOOK).await;
            document = client.get(&path).await?;
        }
    }
}

fn read(document: serde_json::Value) -> anyhow::Result<Machine> {
    serde_json::from_value(document).context("the Machine has a form that this version does not know")
}
