//! `autovibe lab`: the lab as a process of its own, as `autovibe up` starts it; its end; and a part that QEMU runs.

pub(super) mod process;

use super::{Context, print};
use crate::clock::Clock;
use crate::lab;
use anyhow::Context as _;
use clap::{Args, Subcommand};
use process::{Mode, Stopped};
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};
use tokio_util::sync::CancellationToken;

/// Proxmox refreshes its list of VMs up to 10 s late; this much keeps the hub honest without making people wait.
pub(super) const LAG: Duration = Duration::from_secs(1);
/// As long as Proxmox.
pub(super) const REFUSAL: Duration = Duration::from_secs(3);

/// Runs a Proxmox-compatible node on this machine. `autovibe up` does it for you.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(super) struct Lab {
    #[command(subcommand)]
    command: Option<LabCommand>,
    /// What stands behind its API
    #[arg(long, default_value = "real")]
    mode: Mode,
    /// Where to serve the API; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:0", value_name = "ADDR")]
    listen: SocketAddr,
    /// The hub's gateway, to which guests' requests go
    #[arg(long, default_value = "127.0.0.1:6480", value_name = "ADDR")]
    gateway: SocketAddr,
    /// What a new lab begins from: its nodes, storages, users, VMs and faults; its tokens are printed. See docs/lab.md
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Leave the terminal and the process group that started it
    #[arg(long, hide = true)]
    detached: bool,
}

#[derive(Debug, Subcommand)]
enum LabCommand {
    /// Powers the lab's guests off and ends it; disks and checkpoints stay
    Stop,
    /// Ends it likewise and removes its directory: all its guests' disks and checkpoints are lost
    Remove,
    /// Carries one connection of a guest, on standard input and output, to the hub's gateway. QEMU runs it
    #[command(hide = true)]
    Forward {
        /// An address, or the path of a file that has one in it
        target: String,
    },
}

impl Lab {
    pub(super) async fn run(self, context: &Context) -> anyhow::Result<ExitCode> {
        match self.command {
            Some(LabCommand::Forward { target }) => {
                // It reads and writes as long as the connection lives, and nothing else runs in this process.
                // Silent: whatever this process says may reach the guest as an answer.
                if tokio::task::block_in_place(|| lab::real::forward(&target)).is_err() {
                    return Ok(ExitCode::FAILURE);
                }
            }
            Some(LabCommand::Stop) => {
                stop(&place(context)).await?;
            }
            Some(LabCommand::Remove) => {
                let directory = place(context);
                stop(&directory).await?;
                lab::real::pool::destroy(&directory, &Clock::system()).await?;
                std::fs::remove_dir_all(&directory).or_else(|error| match error.kind() {
                    std::io::ErrorKind::NotFound => Ok(()),
                    _ => Err(error).with_context(|| format!("{} cannot be removed", directory.display())),
                })?;
            }
            None => self.serve(context).await?,
        }
        Ok(ExitCode::SUCCESS)
    }

    async fn serve(&self, context: &Context) -> anyhow::Result<()> {
        if self.detached {
            // It must outlive the hub, the hub's terminal and a signal to its group. Fails only for a leader of a group.
            rustix::process::setsid().ok();
        }
        let data = context.options.data.clone().unwrap_or_else(|| directory(&context.data()));
        let mode = match self.mode {
            Mode::Real => lab::Mode::Real,
            Mode::Simulated => lab::Mode::Simulated,
        };
        let setup = self.config.as_deref().map(lab::Setup::read).transpose()?;
        let config = lab::Config { mode, data, listen: self.listen, gateway: self.gateway, lag: LAG, refusal: REFUSAL, setup };
        let shutdown = CancellationToken::new();
        let stop = shutdown.clone();
        tokio::spawn(async move {
            super::up::signal().await;
            stop.cancel();
        });
        let lab = lab::start(config).await?;
        if self.config.is_some() {
            let tokens: String = lab.tokens().into_iter().map(|token| token + "\n").collect();
            print::out(&format!("The lab serves on {}. Its tokens:\n{tokens}", lab.endpoint().endpoint))?;
        }
        shutdown.cancelled().await;
        Ok(())
    }
}

/// The lab's directory that the user means, by its own name or by the hub's.
fn place(context: &Context) -> PathBuf {
    let named = context.data();
    if named.join("endpoint.json").exists() { named } else { directory(&named) }
}

async fn stop(directory: &Path) -> anyhow::Result<()> {
    match process::stop(directory, &Clock::system()).await? {
        Stopped::NoneRan => print::out(&format!("No lab runs in {}.\n", directory.display()))?,
        Stopped::Ended { guests } => print::out(&format!("The lab in {} ended, and {guests} guests with it.\n", directory.display()))?,
    }
    Ok(())
}

/// The lab's directory in the hub's.
pub(super) fn directory(data: &Path) -> PathBuf {
    data.join("lab")
}
