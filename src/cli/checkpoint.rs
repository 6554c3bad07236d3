//! `autovibe checkpoint`: asks for a checkpoint of a Machine and waits for it.

use super::{Context, Output, print, resource};
use crate::api::checkpoint::{Checkpoint, CheckpointPhase, CheckpointSpec, Keep, Trigger};
use crate::api::{Kind, Machine};
use crate::clock::Clock;
use anyhow::{Context as _, bail};
use std::{process::ExitCode, time::Duration};

/// How often it looks whether the checkpoint is there.
const LOOK: Duration = Duration::from_millis(100);

/// Takes a checkpoint of a Machine, which stays until it is deleted.
#[derive(Debug, clap::Args)]
pub(super) struct Take {
    /// The Machine
    machine: String,
    /// A note that goes with it
    #[arg(long, short)]
    message: Option<String>,
    /// Let the Machine's retention decide how long it stays, as it does of those that the hub takes by itself
    #[arg(long)]
    by_retention: bool,
    /// Do not wait until it is taken
    #[arg(long)]
    no_wait: bool,
}

impl Take {
    pub(super) async fn run(&self, context: &Context) -> anyhow::Result<ExitCode> {
        let client = context.client()?;
        let name = self.machine.strip_prefix("machine/").unwrap_or(&self.machine);
        let Some(machine) = client.find(&resource::machine(&client.namespace, name)).await? else {
            bail!("there is no machine {name} in namespace {}; see `autovibe get machines`", client.namespace);
        };
        let machine: Machine = serde_json::from_value(machine).context("the Machine has a form that this version does not know")?;
        if machine.status.as_ref().is_some_and(|status| status.phase.is_finished()) {
            let last = machine.status.and_then(|status| status.final_checkpoint).unwrap_or_default();
            bail!("machine/{name} has ended, so its state no longer changes; its final checkpoint is {last}");
        }
        let stamp = print::now().strftime("%Y%m%d-%H%M%S%3f").to_string();
        let spec = CheckpointSpec {
            machine: Some(name.into()),
            trigger: Trigger::Requested,
            description: self.message.clone(),
            keep: if self.by_retention { Keep::Policy } else { Keep::Forever },
            ..CheckpointSpec::default()
        };
        let mut wanted = Checkpoint::new(&client.namespace, &format!("{name}-{stamp}"), spec);
        wanted.metadata.labels = Some([(crate::wire::label::MACHINE.to_owned(), name.to_owned())].into());
        let collection = resource::our::<Checkpoint>(Some(&client.namespace), None);
        let mut made = client.create(&collection, &serde_json::to_value(&wanted)?).await?;
        let clock = Clock::system();
        let taken = loop {
            let checkpoint: Checkpoint = serde_json::from_value(made.clone())?;
            let status = checkpoint.status.clone().unwrap_or_default();
            match status.phase {
                CheckpointPhase::Failed => {
                    bail!("checkpoint/{} failed: {}", checkpoint.name(), status.message.unwrap_or_else(|| "no reason was given".into()))
                }
                CheckpointPhase::Pending if !self.no_wait => {}
                _ => break checkpoint,
            }
            clock.sleep(LOOK).await;
            made = client.get(&resource::checkpoint(&client.namespace, wanted.name())).await?;
        };
        if let Some(output @ (Output::Json | Output::Yaml)) = context.options.output {
            print::out(&print::document(&made, output)?)?;
        } else {
            let status = taken.status.clone().unwrap_or_default();
            let took = status.took.map(|took| format!(" in {}", print::short_span(took.0))).unwrap_or_default();
            let word = if status.phase == CheckpointPhase::Ready { "taken" } else { "asked for" };
            print::out(&format!("checkpoint/{} {word}{took}\n", taken.name()))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}
