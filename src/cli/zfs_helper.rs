//! `autovibe zfs-helper`: what sshd runs on a node for the hub.

use crate::zfs::{
    Runner,
    helper::{Helper, Limits},
};
use std::{path::PathBuf, process::ExitCode};

/// Runs one `zfs` command for a hub, as the forced command of its SSH key; docs/proxmox.md has the set-up.
#[derive(Debug, clap::Args)]
pub(super) struct ZfsHelper {
    /// The storage's dataset and the checkpoint tree
    #[arg(long, value_name = "DATASET,…", value_delimiter = ',', required = true)]
    datasets: Vec<String>,
    /// Datasets below which there are images to clone from; nothing there is changed
    #[arg(long, value_name = "DATASET,…", value_delimiter = ',')]
    images: Vec<String>,
    /// Datasets that checkpoints are exported to and imported from, as in the Hub; nothing there is destroyed
    #[arg(long, value_name = "DATASET,…", value_delimiter = ',')]
    exports: Vec<String>,
    /// The VM ids that are autovibe's alone, as in the Hub [default: all]
    #[arg(long, value_name = "FROM-TO", value_parser = range)]
    vmids: Option<(u32, u32)>,
    /// Where it remembers which hubs were replaced
    #[arg(long, value_name = "DIR", default_value = "/var/lib/autovibe-zfs-helper")]
    state: PathBuf,
    /// Asks a helper on this socket instead of the program zfs
    #[arg(long, value_name = "PATH", hide = true)]
    socket: Option<PathBuf>,
}

fn range(text: &str) -> Result<(u32, u32), String> {
    let (from, to) = text.split_once('-').ok_or("write FROM-TO, for example 20000-29999")?;
    let number = |text: &str| text.parse().map_err(|_| format!("`{text}` is no VM id"));
    let (from, to) = (number(from)?, number(to)?);
    if from <= to { Ok((from, to)) } else { Err(format!("{from} is above {to}")) }
}

impl ZfsHelper {
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        let limits = Limits { roots: self.datasets, images: self.images, exports: self.exports, vmids: self.vmids };
        let runner = self.socket.map_or(Runner::Local, Runner::Socket);
        Helper { limits, state: self.state, runner }.serve().await;
        Ok(ExitCode::SUCCESS)
    }
}
