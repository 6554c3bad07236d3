//! `autovibe up`: the store, the API server, the gateway and the controllers in one process, and the lab beside it.
//!
//! Nothing here is needed for recovery: after `kill -9` the next start finds everything in the store, in Proxmox and in
//! ZFS. A graceful end only lets streams and reconciles that run come to their end first.

mod addresses;
mod controllers;
pub(super) mod process;

use super::{Context, lab, print};
use crate::clock::Clock;
use crate::objects::Objects;
use crate::store::Store;
use crate::{apiserver, gateway};
use addresses::Addresses;
use anyhow::Context as _;
use std::{net::SocketAddr, path::PathBuf, process::ExitCode, time::Duration};
use tokio::signal::unix::{SignalKind, signal as on};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// How long model calls may run on after a signal; an agent whose call is cut is resumed by the next start.
const CALLS: Duration = Duration::from_secs(20);
/// How long reconciles, and answers of the API, may run on.
const REST: Duration = Duration::from_secs(10);

/// Runs the hub: API server, gateway and controllers; and the lab, a Proxmox-compatible node on this machine.
#[derive(Debug, clap::Args)]
pub(super) struct Up {
    /// Where to serve the API [default: 127.0.0.1:6443 or a free port, and what it was before]
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// Where guests' model calls come in [default: 127.0.0.1:6480 or a free port, and what it was before]
    #[arg(long, value_name = "ADDR")]
    gateway_listen: Option<SocketAddr>,
    /// A node to run on that is no Proxmox: real QEMU guests on this machine, simulated ones, or none
    #[arg(long, value_enum, default_value = "real")]
    lab: LabChoice,
    /// A directory below which `spec.source.directory` of Machines may lie; may be repeated
    #[arg(long, value_name = "DIR")]
    source_root: Vec<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum LabChoice {
    Real,
    Simulated,
    Off,
}

impl LabChoice {
    fn mode(self) -> Option<lab::process::Mode> {
        match self {
            Self::Real => Some(lab::process::Mode::Real),
            Self::Simulated => Some(lab::process::Mode::Simulated),
            Self::Off => None,
        }
    }
}

impl Up {
    pub(super) async fn run(&self, context: &Context) -> anyhow::Result<ExitCode> {
        let data = context.data();
        make_private(&data)?;
        let clock = Clock::system();
        let store = Store::open(&data.join("autovibe.db")).await?;
        let objects = Objects::unlock(store.clone(), clock.clone(), &data.join("secrets.key"))
            .await
            .with_context(|| format!("the Secrets in {} cannot be read", data.display()))?;

        let (api_stop, gateway_stop, controllers_stop) = (CancellationToken::new(), CancellationToken::new(), CancellationToken::new());
        let remembered = Addresses::read(&data);
        let (api_address, gateway_address) = (remembered.api(self.listen), remembered.gateway(self.gateway_listen));
        let gateway = loop_free(
            &gateway_address,
            |listen| gateway::start(gateway::Config { listen, ..gateway::Config::default() }, objects.clone(), gateway_stop.clone()),
            |error| matches!(error, gateway::Error::Listen { source, .. } if source.kind() == std::io::ErrorKind::AddrInUse),
        )
        .await?;
        let api = loop_free(
            &api_address,
            |listen| apiserver::start(apiserver::Config { listen, data: data.clone() }, objects.clone(), api_stop.clone()),
            |error| matches!(error, apiserver::Error::Listen { source, .. } if source.kind() == std::io::ErrorKind::AddrInUse),
        )
        .await?;
        Addresses { api: Some(api.address), gateway: Some(gateway.address) }.write(&data)?;

        let kubeconfig = data.join("kubeconfig");
        print::out(&format!(
            "autovibe {} serves its API at https://{} and guests' model calls at http://{}.\n  kubectl --kubeconfig {} get machines --all-namespaces\n",
            env!("CARGO_PKG_VERSION"),
            api.address,
            gateway.address,
            kubeconfig.display()
        ))?;

        let beside = self.lab.mode().map(|mode| controllers::Beside { directory: lab::directory(&data), mode, gateway: gateway.address });
        let controllers = tokio::spawn(controllers::run(beside, objects, self.source_root.clone(), controllers_stop.clone()));

        signal().await;
        info!("ending: calls of agents have {} s; a second signal ends at once", CALLS.as_secs());
        tokio::spawn(async {
            signal().await;
            // Asked twice: whatever is lost now is found again by the next start.
            std::process::exit(130);
        });
        // In this order: a held answer waits for its checkpoint, which the controllers take, by objects that the API shows.
        gateway_stop.cancel();
        ended("the gateway", CALLS, gateway.stopped()).await;
        controllers_stop.cancel();
        ended("the controllers", REST, async { drop(controllers.await) }).await;
        api_stop.cancel();
        ended("the API server", REST, api.stopped()).await;
        store.close().await;
        print::out("autovibe has ended; `autovibe up` goes on from here.\n").ok();
        Ok(ExitCode::SUCCESS)
    }
}

async fn ended(what: &str, patience: Duration, end: impl Future<Output = ()>) {
    if tokio::time::timeout(patience, end).await.is_err() {
        warn!("{what} did not end within {} s; what it did is taken up again at the next start", patience.as_secs());
    }
}

/// Starts on the wanted address; on a free port when nobody chose that address and it is taken.
async fn loop_free<S, E, F>(wanted: &addresses::Wanted, start: impl Fn(SocketAddr) -> F, taken: impl Fn(&E) -> bool) -> Result<S, E>
where
    F: Future<Output = Result<S, E>>,
{
    match start(wanted.address).await {
        Err(error) if wanted.or_any && taken(&error) => start(SocketAddr::new(wanted.address.ip(), 0)).await,
        other => other,
    }
}

/// Makes the directory, for its owner alone: keys and tokens lie in it.
fn make_private(data: &std::path::Path) -> anyhow::Result<()> {
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(data);
    made.with_context(|| format!("the data directory {} cannot be made", data.display()))?;
    std::fs::set_permissions(data, std::fs::Permissions::from_mode(0o700))
        .with_context(|| format!("the data directory {} is not ours", data.display()))
}

/// Returns at SIGTERM or SIGINT.
pub(super) async fn signal() {
    match (on(SignalKind::terminate()), on(SignalKind::interrupt())) {
        (Ok(mut terminate), Ok(mut interrupt)) => tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        },
        // Without handlers the signals end the process, which is safe too.
        _ => std::future::pending().await,
    }
}
