//! The controllers, with the lab that they drive: started when it answers, and again when it had to be started anew.

use crate::api::{DEFAULT_HUB, Hub, hub};
use crate::cli::lab::process::{self, Mode};
use crate::controller::{self, client::Client, leader::Candidate};
use crate::driver;
use crate::wire::LabEndpoint;
use std::{net::SocketAddr, path::PathBuf, time::Duration};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// How many objects of a kind are reconciled at once: far below what a hub's file descriptors and a node's ZFS bear.
const CONCURRENCY: usize = 32;
/// How often what is quiet is looked at all the same.
const RESYNC: Duration = Duration::from_mins(5);
/// How long after a lab that could not be started it is tried again.
const AGAIN: Duration = Duration::from_secs(15);

/// Runs the controllers whenever this process leads, until `shutdown`.
pub(in crate::cli) async fn run(
    lab: Option<Beside>,
    client: Client,
    lease: Duration,
    data: PathBuf,
    source_roots: Vec<PathBuf>,
    door: driver::Door,
    shutdown: CancellationToken,
) {
    let work = |client, stop| lead(lab.clone(), client, data.clone(), source_roots.clone(), door.clone(), stop);
    Candidate::new(client, lease).run(work, shutdown).await;
}

/// The lab beside the hub.
#[derive(Clone)]
pub(in crate::cli) struct Beside {
    pub(in crate::cli) directory: PathBuf,
    pub(in crate::cli) mode: Mode,
    pub(in crate::cli) gateway: SocketAddr,
}

async fn lead(
    lab: Option<Beside>,
    objects: Client,
    data: PathBuf,
    source_roots: Vec<PathBuf>,
    door: driver::Door,
    shutdown: CancellationToken,
) {
    let clock = objects.clock().clone();
    // Keys of nodes that a hub left when it was killed.
    let _ = std::fs::remove_dir_all(data.join("ssh"));
    let start = |lab: Option<LabEndpoint>, stop: &CancellationToken| {
        let lab = lab.as_ref().map(driver::Connection::of_lab);
        let config = controller::Config {
            lab,
            data: data.clone(),
            concurrency: CONCURRENCY,
            source_roots: source_roots.clone(),
            resync: RESYNC,
            door: door.clone(),
        };
        controller::start(config, objects.clone(), stop.clone())
    };
    let Some(lab) = lab else {
        start(None, &shutdown).stopped().await;
        return;
    };
    while !shutdown.is_cancelled() {
        info!("starting the {} lab, or finding it; its log is {}", lab.mode.name(), process::log_file(&lab.directory).display());
        let found = tokio::select! {
            found = process::ensure(&lab.directory, lab.mode, lab.gateway, &clock) => found,
            () = shutdown.cancelled() => return,
        };
        let stop = shutdown.child_token();
        let (controllers, mut process) = match found {
            Ok(process) => {
                info!("the {} lab serves at {}", lab.mode.name(), process.endpoint.endpoint);
                make_default_hub(&objects).await;
                (start(Some(process.endpoint.clone()), &stop), Some(process))
            }
            Err(error) => {
                // Other Hubs, on a real Proxmox, need no lab.
                warn!("{error:#}; trying again every {} s", AGAIN.as_secs());
                (start(None, &stop), None)
            }
        };
        let gone = async {
            match &mut process {
                Some(process) => {
                    process.ended(&clock).await;
                    warn!("the lab has ended; starting it again");
                }
                None => clock.sleep(AGAIN).await,
            }
        };
        tokio::select! {
            () = gone => {}
            () = shutdown.cancelled() => {}
        }
        stop.cancel();
        controllers.stopped().await;
    }
}

/// A hub with a lab can be used at once: the Hub `default` drives it, when nobody said otherwise.
async fn make_default_hub(objects: &Client) {
    let infrastructure = hub::Infrastructure { lab: Some(hub::Lab {}), ..hub::Infrastructure::default() };
    let spec = hub::HubSpec {
        infrastructure,
        gateway: None,
        providers: Vec::new(),
        images: Vec::new(),
        defaults: hub::Defaults::default(),
        approvals: hub::Approvals::default(),
        checkpoints: hub::Checkpoints::default(),
        egress: crate::api::network::HubEgress::default(),
    };
    let made = match objects.list::<Hub>(None).await {
        Ok((hubs, _)) if !hubs.is_empty() => return,
        Ok(_) => objects.create(&Hub::new("", DEFAULT_HUB, spec)).await.map(drop),
        Err(error) => Err(error),
    };
    match made {
        Ok(()) => info!("made Hub {DEFAULT_HUB}, which drives the lab"),
        Err(error) => warn!("Hub {DEFAULT_HUB} could not be made: {error}; write one to use the lab"),
    }
}
