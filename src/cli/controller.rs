//! `autovibe controller`: the controllers in a process of their own, as clients of a hub's API.

use super::up::{LabChoice, LeaseArgs, REST, addresses::Addresses, controllers, ended, make_private, signal};
use super::{Context, lab, print};
use crate::clock::Clock;
use crate::controller::client::Remote;
use crate::driver::Door;
use std::{net::SocketAddr, path::PathBuf, process::ExitCode};
use tokio_util::sync::CancellationToken;

/// Runs the controllers, and nothing else, against the hub of the kubeconfig.
#[derive(Debug, clap::Args)]
pub(super) struct Controller {
    /// A node to run on that is no Proxmox, beside these controllers: real QEMU guests on this machine, simulated ones, or none
    #[arg(long, value_enum, default_value = "off")]
    lab: LabChoice,
    /// Where the lab's guests reach the hub's gateway [default: as the hub of the data directory says, else 127.0.0.1:6480]
    #[arg(long, value_name = "ADDR")]
    gateway: Option<SocketAddr>,
    #[command(flatten)]
    lease: LeaseArgs,
    /// A directory below which `spec.source.directory` of Machines may lie; may be repeated
    #[arg(long, value_name = "DIR")]
    source_root: Vec<PathBuf>,
}

impl Controller {
    pub(super) async fn run(&self, context: &Context) -> anyhow::Result<ExitCode> {
        let data = context.data();
        let client = context.client()?;
        // Says at once when it is the wrong server, or none.
        client.get("/version").await?;
        let remote = Remote::new(client, Clock::system());
        let lab = match self.lab.mode() {
            None => None,
            Some(mode) => {
                make_private(&data)?;
                let gateway = self.gateway.unwrap_or_else(|| Addresses::read(&data).gateway(None).address);
                Some(controllers::Beside { directory: lab::directory(&data), mode, gateway })
            }
        };
        let stop = CancellationToken::new();
        let work =
            controllers::run(lab, remote.into(), self.lease.duration.0, data, self.source_root.clone(), Door::default(), stop.clone());
        let running = tokio::spawn(work);
        print::out("autovibe runs the controllers of the hub.\n")?;
        signal().await;
        stop.cancel();
        ended("the controllers", REST, async { drop(running.await) }).await;
        Ok(ExitCode::SUCCESS)
    }
}
