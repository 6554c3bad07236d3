//! `autovibe bench`: measures what autovibe promises, each figure against a baseline of the same run.
//!
//! A machine's noise moves both, so only the ratios, the differences and the counts mean anything. Each bench has a directory,
//! a hub and guests of its own, and leaves nothing behind.

mod api;
mod caller;
mod checkpoint;
mod gateway;
mod idle;
mod life;
mod peers;
mod place;
mod proc;
mod real_lab;
mod report;
mod samples;
mod scale;
mod stage;
mod storage;
mod upstream;
mod watch;

use super::{Context, print, up};
use clap::{Args, Subcommand};
use std::process::ExitCode;

/// Measures what autovibe promises; without a name it lists what it can measure.
#[derive(Debug, Args)]
pub(super) struct Bench {
    #[command(subcommand)]
    which: Option<Which>,
}

#[derive(Debug, Subcommand)]
enum Which {
    /// Delay of an answer's first byte by the checkpoint before it, when the model thinks and when it does not
    Checkpoint(checkpoint::Checkpoint),
    /// Durable write to own watch event over TLS, against one fdatasync
    Watch(watch::Watch),
    /// Proxmox calls in a Machine's life
    Life(life::Life),
    /// What idle Machines cost: writes and Proxmox calls per minute
    Idle(idle::Idle),
    /// Many Machines at once: how fast they come up, and what they cost at rest
    Scale(scale::Scale),
    /// The API server on both stores against etcd: writes, watches, lists, memory
    Api(api::Api),
    /// What is done with checkpoints on real ZFS when there are many, and many checkpoints at once
    Storage(storage::Storage),
    /// What the gateway adds to a model call beside nginx, LiteLLM and Portkey, and the memory it takes
    Gateway(gateway::Gateway),
}

impl Bench {
    pub(super) async fn run(&self, context: &Context) -> anyhow::Result<ExitCode> {
        let Some(which) = &self.which else {
            print::out(&list())?;
            return Ok(ExitCode::SUCCESS);
        };
        let report = match which {
            Which::Checkpoint(bench) => bench.run(context).await?,
            Which::Watch(bench) => unless_interrupted(bench.run(context)).await?,
            Which::Life(bench) => unless_interrupted(bench.run(context)).await?,
            Which::Idle(bench) => unless_interrupted(Box::pin(bench.run(context))).await?,
            Which::Scale(bench) => unless_interrupted(Box::pin(bench.run(context))).await?,
            Which::Api(bench) => unless_interrupted(Box::pin(bench.run(context))).await?,
            Which::Storage(bench) => Box::pin(bench.run(context)).await?,
            Which::Gateway(bench) => unless_interrupted(Box::pin(bench.run(context))).await?,
        };
        report.print(context.options.output)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Gives `work` up at a signal.
async fn unless_interrupted<T>(work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    tokio::select! {
        done = work => done,
        () = up::signal() => Err(anyhow::anyhow!("interrupted; nothing was measured")),
    }
}

/// What can be measured, one a line.
fn list() -> String {
    let benches = Which::augment_subcommands(clap::Command::new("bench"));
    let rows: Vec<Vec<String>> = benches
        .get_subcommands()
        .map(|bench| vec![format!("autovibe bench {}", bench.get_name()), bench.get_about().map(ToString::to_string).unwrap_or_default()])
        .collect();
    print::columns(&[], &rows)
}
