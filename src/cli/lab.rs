//! `autovibe lab`: parts of the lab that are processes of their own.

use super::Context;
use clap::{Args, Subcommand};
use std::process::ExitCode;

#[derive(Debug, Args)]
pub(super) struct Lab {
    #[command(subcommand)]
    command: LabCommand,
}

#[derive(Debug, Subcommand)]
enum LabCommand {
    /// Carries one connection of a guest, on standard input and output, to the hub's gateway. QEMU runs it.
    #[command(hide = true)]
    Forward {
        /// An address, or the path of a file that has one in it.
        target: String,
    },
}

impl Lab {
    pub(super) async fn run(self, _context: &Context) -> anyhow::Result<ExitCode> {
        match self.command {
            LabCommand::Forward { target } => {
                // It reads and writes as long as the connection lives, and nothing else runs in this process.
                tokio::task::block_in_place(|| crate::lab::real::forward(&target))?;
                Ok(ExitCode::SUCCESS)
            }
        }
    }
}
