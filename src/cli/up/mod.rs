//! `autovibe up`: the store, the API server, the gateway and the controllers in one process, and the lab beside it.
//!
//! Nothing here is needed for recovery: after `kill -9` the next start finds everything in the store, in Proxmox and in
//! ZFS. A graceful end only lets streams and reconciles that run come to their end first.

pub(super) mod addresses;
pub(super) mod controllers;
pub(super) mod process;

use super::{Context, DatabaseArgs, lab, print};
use crate::api::quantity::GoDuration;
use crate::clock::Clock;
use crate::driver::Door;
use crate::objects::Objects;
use crate::store::{self, Store};
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
pub(super) const REST: Duration = Duration::from_secs(10);

/// Runs the hub: API server, gateway and controllers; and the lab, a Proxmox-compatible node on this machine.
#[derive(Debug, clap::Args)]
pub(super) struct Up {
    /// Where to serve the API [default: 127.0.0.1:6443 or a free port, and what it was before]
    #[arg(long, value_name = "ADDR")]
    listen: Option<SocketAddr>,
    /// A host name or IP address that the API's certificate is for, beside localhost and the one in --listen; may be repeated
    /// [default: what it was before]
    #[arg(long, value_name = "NAME|IP", value_parser = addresses::certifiable)]
    tls_san: Vec<String>,
    /// Where guests' model calls come in [default: 127.0.0.1:6480 or a free port, and what it was before]
    #[arg(long, value_name = "ADDR")]
    gateway_listen: Option<SocketAddr>,
    /// A node to run on that is no Proxmox: real QEMU guests on this machine, simulated ones, or none
    #[arg(long, value_enum, default_value = "real")]
    lab: LabChoice,
    /// Serve only the API, and run neither gateway nor controllers: beside hubs on the same PostgreSQL database
    #[arg(long)]
    api_only: bool,
    /// Run no controllers: they run elsewhere, as `autovibe controller`
    #[arg(long, conflicts_with = "api_only")]
    no_controllers: bool,
    #[command(flatten)]
    lease: LeaseArgs,
    #[command(flatten)]
    database: DatabaseArgs,
    /// A directory below which `spec.source.directory` of Machines may lie; may be repeated
    #[arg(long, value_name = "DIR")]
    source_root: Vec<PathBuf>,
}

/// How the controllers' leader is known.
#[derive(Clone, Debug, clap::Args)]
pub(super) struct LeaseArgs {
    /// How long a leader that is not heard of is still the leader; more than a call to Proxmox may take, which is 35s
    #[arg(long = "lease-duration", value_name = "DURATION", default_value = "60s", hide = true)]
    pub(super) duration: GoDuration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum LabChoice {
    Real,
    Simulated,
    Off,
}

impl LabChoice {
    pub(super) fn mode(self) -> Option<lab::process::Mode> {
        match self {
            Self::Real => Some(lab::process::Mode::Real),
            Self::Simulated => Some(lab::process::Mode::Simulated),
            Self::Off => None,
        }
    }
}

/// As many as the system lets this process: each connection is one, and what is set for it by default is 1,024.
fn open_many_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit }) {
        warn!("no more than {:?} files can be open: {error}", limit.current);
    }
}

impl Up {
    pub(super) async fn run(&self, context: &Context) -> anyhow::Result<ExitCode> {
        let data = context.data();
        make_private(&data)?;
        open_many_files();
        let clock = Clock::system();
        let database = context.database(&self.database)?;
        let store = Store::open_with(&database, store::Options::default()).await?;
        info!("the store is {database}");
        let objects = Objects::unlock(store.clone(), clock.clone(), &data.join("secrets.key"))
            .await
            .with_context(|| format!("the Secrets in {database} cannot be read"))?;

        let (api_stop, gateway_stop, controllers_stop) = (CancellationToken::new(), CancellationToken::new(), CancellationToken::new());
        let door = Door::default();
        let remembered = Addresses::read(&data);
        let (api_address, gateway_address) = (remembered.api(self.listen), remembered.gateway(self.gateway_listen));
        let names = remembered.names(&self.tls_san);
        if api_address.address.ip().is_unspecified() && names.is_empty() {
            warn!("clients on other machines will refuse the API's certificate: name this machine as they do, with --tls-san NAME or IP");
        }
        let gateway = if self.api_only {
            None
        } else {
            let started = loop_free(
                &gateway_address,
                |listen| gateway::start(gateway::Config { listen, ..gateway::Config::default() }, objects.clone(), gateway_stop.clone()),
                |error| matches!(error, gateway::Error::Listen { source, .. } if source.kind() == std::io::ErrorKind::AddrInUse),
            );
            Some(started.await?)
        };
        let api = loop_free(
            &api_address,
            |listen| {
                let config = apiserver::Config { listen, names: names.clone(), data: data.clone(), door: door.clone() };
                apiserver::start(config, objects.clone(), api_stop.clone())
            },
            |error| matches!(error, apiserver::Error::Listen { source, .. } if source.kind() == std::io::ErrorKind::AddrInUse),
        )
        .await?;
        let gateway_address = gateway.as_ref().map(|gateway| gateway.address);
        Addresses { api: Some(api.address), gateway: gateway_address.or(remembered.gateway), names }.write(&data)?;

        let calls = gateway_address.map(|address| format!(" and guests' model calls at http://{address}")).unwrap_or_default();
        print::out(&format!(
            "autovibe {} serves its API at https://{}{calls}.\n  kubectl --kubeconfig {} get machines --all-namespaces\n",
            env!("CARGO_PKG_VERSION"),
            api.address,
            data.join("kubeconfig").display()
        ))?;

        let controllers = gateway_address.filter(|_| !self.no_controllers).map(|gateway| {
            let beside = self.lab.mode().map(|mode| controllers::Beside { directory: lab::directory(&data), mode, gateway });
            tokio::spawn(controllers::run(
                beside,
                objects.clone().into(),
                self.lease.duration.0,
                data.clone(),
                self.source_root.clone(),
                door.clone(),
                controllers_stop.clone(),
            ))
        });

        signal().await;
        info!("ending: calls of agents have {} s; a second signal ends at once", CALLS.as_secs());
        tokio::spawn(async {
            signal().await;
            // Asked twice: whatever is lost now is found again by the next start.
            std::process::exit(130);
        });
        // In this order: a held answer waits for its checkpoint, which the controllers take, by objects that the API shows.
        gateway_stop.cancel();
        if let Some(gateway) = gateway {
            ended("the gateway", CALLS, gateway.stopped()).await;
        }
        controllers_stop.cancel();
        if let Some(controllers) = controllers {
            ended("the controllers", REST, async { drop(controllers.await) }).await;
        }
        api_stop.cancel();
        ended("the API server", REST, api.stopped()).await;
        objects.leave().await;
        store.close().await;
        print::out("autovibe has ended; `autovibe up` goes on from here.\n").ok();
        Ok(ExitCode::SUCCESS)
    }
}

pub(super) async fn ended(what: &str, patience: Duration, end: impl Future<Output = ()>) {
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
pub(super) fn make_private(data: &std::path::Path) -> anyhow::Result<()> {
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
