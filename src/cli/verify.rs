//! `autovibe verify`: asks for a verification of a Checkpoint, waits for it and says what was found.

use super::{Context, Output, print, resource};
use crate::api::Checkpoint;
use crate::api::checkpoint::{CheckpointPhase, CheckpointStatus, Outcome, VERIFY};
use crate::clock::Clock;
use anyhow::{Context as _, bail};
use serde_json::json;
use std::{process::ExitCode, time::Duration};

/// How often it looks whether it is done.
const LOOK: Duration = Duration::from_millis(200);

/// Starts a VM without a network on a clone of a checkpoint, looks whether all is there, and deletes it. Exit code 1 when something
/// is not as it was.
#[derive(Debug, clap::Args)]
pub(super) struct Verify {
    /// The Checkpoint
    checkpoint: String,
    /// Do not wait until it is verified
    #[arg(long)]
    no_wait: bool,
    /// Give up after so many seconds; it goes on, and is then shown by `autovibe get checkpoint CHECKPOINT -o yaml`
    #[arg(long, default_value_t = 1800)]
    timeout: u32,
}

impl Verify {
    pub(super) async fn run(&self, context: &Context) -> anyhow::Result<ExitCode> {
        let client = context.client()?;
        let name = self.checkpoint.strip_prefix("checkpoint/").unwrap_or(&self.checkpoint);
        let path = resource::checkpoint(&client.namespace, name);
        let Some(found) = client.find(&path).await? else {
            bail!("there is no checkpoint {name} in namespace {}; see `autovibe get checkpoints`", client.namespace);
        };
        let status = read(found)?;
        match status.phase {
            CheckpointPhase::Ready => {}
            CheckpointPhase::Failed => bail!("checkpoint/{name} was never taken: {}", status.message.unwrap_or_default()),
            phase => bail!("checkpoint/{name} is {phase:?}; only one that is Ready can be verified"),
        }
        let (clock, begun) = (Clock::system(), tokio::time::Instant::now());
        let asked = clock.now().to_string();
        let mut document = client.merge(&path, &json!({"metadata": {"annotations": {VERIFY: asked}}})).await?;
        if self.no_wait {
            print::out(&format!("checkpoint/{name} is to be verified\n"))?;
            return Ok(ExitCode::SUCCESS);
        }
        loop {
            let status = read(document)?;
            if let Some(verified) = status.verified.filter(|verified| verified.asked.as_ref() == Some(&asked)) {
                let passed = verified.outcome == Outcome::Passed;
                if let Some(output @ (Output::Json | Output::Yaml)) = context.options.output {
                    print::out(&print::document(&serde_json::to_value(&verified)?, output)?)?;
                } else {
                    let word = if passed { "verified" } else { "failed its verification" };
                    print::out(&print::printable(&format!("checkpoint/{name} {word}: {}\n", verified.message)))?;
                }
                return Ok(if passed { ExitCode::SUCCESS } else { ExitCode::FAILURE });
            }
            if begun.elapsed() > Duration::from_secs(self.timeout.into()) {
                let why = status.conditions.iter().find(|condition| condition.type_ == "Verified" && condition.status == "Unknown");
                let why = why.map(|condition| format!(": {}", condition.message)).unwrap_or_default();
                bail!("checkpoint/{name} was not verified within {} s{why}; does a hub or a controller run?", self.timeout);
            }
            clock.sleep(LOOK).await;
            document = client.get(&path).await?;
        }
    }
}

fn read(document: serde_json::Value) -> anyhow::Result<CheckpointStatus> {
    let checkpoint: Checkpoint = serde_json::from_value(document).context("the Checkpoint has a form that this version does not know")?;
    Ok(checkpoint.status.unwrap_or_default())
}
