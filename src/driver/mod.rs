//! What the infrastructure of a Hub can do and does: Proxmox and ZFS composed into verbs about disks, VMs and guests. Where there is
//! no ZFS, Proxmox' templates stand for what is kept ([`templates`]).
//!
//! Every verb is safe to repeat and safe to lose the reply of: it finds what it made by a deterministic name and a mark with
//! an object's uid, and when an answer is missing it looks again instead of guessing. Nothing here decides *whether*
//! something should be done: that is the planners' part.

mod door;
pub mod firewall;
pub mod guest;
pub mod marks;
pub mod needs;
mod sites;
pub mod storage;
pub mod suspend;
pub mod templates;
mod turns;
pub mod vm;

pub use door::{AfterStep, Door, Passing, Reach};
pub use turns::Turns;

use crate::api::capability::{Capabilities, CapabilityName};
use crate::api::hub::VmidRange;
use crate::clock::{Retry, Tenure};
use crate::proxmox::{self, Breaker, Node};
use crate::wire::{LabEndpoint, Service};
use crate::zfs::{self, Dataset, Zfs};
use firewall::Firewall;
use sites::Site;
use std::{
    collections::BTreeMap,
    sync::{Arc, PoisonError},
    time::Duration,
};
use storage::Copies;
use tokio::sync::Semaphore;

/// Where the infrastructure of a Hub is: its spec with secrets and the lab's address resolved.
#[derive(Clone, Debug)]
pub struct Connection {
    pub proxmox: proxmox::Config,
    /// Answers for Proxmox instead of the network.
    pub service: Option<Service>,
    /// `None` is the only one there is.
    pub node: Option<Node>,
    /// The Hub's nodes beside that one, which has a name then.
    pub others: Vec<Elsewhere>,
    /// Name of the storage in Proxmox: of a zfspool, unless there is no ZFS.
    pub storage: String,
    /// The dataset of that storage.
    pub dataset: Dataset,
    /// The checkpoint tree, outside `dataset`, in the same pool.
    pub keep: Dataset,
    /// Datasets that checkpoints may be exported to and imported from.
    pub exports: Vec<Dataset>,
    /// Whose all is that is made here: see [`made_by`].
    pub made_by: String,
    pub runner: zfs::Runner,
    pub vmids: VmidRange,
    pub bridge: String,
    /// What VMs are confined by; `None` when that is left to whoever made the bridge.
    pub firewall: Option<Firewall>,
    /// URL of the gateway as a guest must use it.
    pub gateway_url: String,
    /// What is known of the credential by all who use it.
    pub breaker: Breaker,
    /// The storage's turns, of all that work on it.
    pub turns: Turns,
    /// How many of them at once.
    pub concurrency: usize,
    /// How long anything may be changed.
    pub tenure: Tenure,
}

/// What is different on another node of a Hub: all else is the cluster's.
#[derive(Clone, Debug)]
pub struct Elsewhere {
    pub node: Node,
    pub runner: zfs::Runner,
    /// Those of the storage there.
    pub turns: Turns,
}

impl Connection {
    /// The lab's, as it says where it is.
    pub fn of_lab(lab: &LabEndpoint) -> Self {
        Self {
            proxmox: proxmox::Config {
                endpoint: lab.endpoint.clone(),
                fingerprint: lab.fingerprint.clone(),
                credential: proxmox::Credential::token(&lab.token_id, lab.secret.as_str()).kept_in("the lab's endpoint.json"),
            },
            service: None,
            node: Some(Node(lab.node.clone())),
            others: Vec::new(),
            storage: lab.storage.clone(),
            dataset: Dataset(lab.dataset.clone()),
            keep: Dataset(lab.keep.clone()),
            exports: Vec::new(),
            made_by: String::new(),
            runner: lab.zfs_socket.clone().map_or(zfs::Runner::Local, zfs::Runner::Socket),
            vmids: VmidRange { from: lab.vmid_from, to: lab.vmid_to },
            bridge: lab.bridge.clone(),
            // Its guests reach nothing but the gateway.
            firewall: None,
            gateway_url: lab.gateway_url.clone(),
            breaker: Breaker::default(),
            turns: Turns::new(CONCURRENCY),
            concurrency: CONCURRENCY,
            tenure: Tenure::unlimited(),
        }
    }
}

/// The mark of who made a disk or a snapshot: an installation, by a line of its database. A database that went back is on
/// another line: what it does not know of an earlier one may be what it lost.
pub fn made_by(installation: &str, line: i64) -> String {
    format!("{installation}/{line}")
}

/// What a caller can act on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Something that is not ours has the name that ours would have. It is left alone.
    #[error("{0}")]
    Conflict(String),
    /// Something that is needed is not there; known for sure, not for lack of an answer.
    #[error("{0}")]
    Missing(String),
    /// Something else needs it: it is left alone.
    #[error("{0}")]
    InUse(String),
    /// The outcome was not seen: observe again before anything else.
    #[error("{0}")]
    Unknown(String),
    /// A command in the guest was refused, in its own words.
    #[error("{0}")]
    Guest(String),
    /// The Hub's settings do not fit what is there.
    #[error("{0}")]
    Settings(String),
    #[error(transparent)]
    Proxmox(#[from] proxmox::Error),
    #[error(transparent)]
    Zfs(#[from] zfs::Error),
}

impl Error {
    /// When to try again.
    pub fn retry(&self) -> Retry {
        match self {
            Self::Unknown(_) => Retry::Soon,
            Self::InUse(_) => Retry::After(Duration::from_secs(30)),
            Self::Guest(_) => Retry::After(Duration::from_secs(5)),
            Self::Conflict(_) | Self::Missing(_) | Self::Settings(_) => Retry::Never,
            Self::Proxmox(error) => error.retry(),
            Self::Zfs(error) => match error {
                zfs::Error::Busy(_) | zfs::Error::Unknown(_) | zfs::Error::Lapsed(_) => Retry::Soon,
                zfs::Error::BadName(_) => Retry::Never,
                zfs::Error::OutOfSpace(_)
                | zfs::Error::Held(_)
                | zfs::Error::HasClones(_)
                | zfs::Error::HasChildren(_)
                | zfs::Error::Refused(_) => Retry::After(Duration::from_secs(30)),
                zfs::Error::Unavailable(_) | zfs::Error::Exists(_) | zfs::Error::NotFound(_) | zfs::Error::Other(_) => {
                    Retry::After(Duration::from_secs(5))
                }
            },
        }
    }
}

/// Calls at once that take a storage's locks, where the Hub does not say. Source: proxmox-zfs facts 9.2.
pub const CONCURRENCY: usize = crate::api::hub::CONCURRENCY as usize;

/// The verbs, on one node of a Hub; cheap to clone.
#[derive(Clone)]
pub struct Driver {
    pub proxmox: proxmox::Client,
    /// Of this node.
    pub zfs: Zfs,
    site: Arc<Site>,
    sites: Arc<BTreeMap<Node, Arc<Site>>>,
    copies: Copies,
    /// Whether VMs that are made get no network card.
    isolated: bool,
}

impl Driver {
    /// Connects: asks Proxmox for its nodes, probes ZFS on the first of the Hub's that is online and answers; [`Driver::at`] is the
    /// way to the others. Errors: `Settings` when the node to use is not clear or not there; of several, what the last one said.
    pub async fn open(connection: Connection) -> Result<Self, Error> {
        let tenure = &connection.tenure;
        let breaker = connection.breaker.clone();
        let proxmox = proxmox::Client::over(connection.proxmox.clone(), connection.service.clone(), tenure.clone())?.behind(breaker);
        let online = proxmox.nodes().await?;
        let first = match (&connection.node, online.as_slice()) {
            (Some(node), _) => node.clone(),
            (None, [only]) => only.clone(),
            (None, []) => return Err(Error::Settings("Proxmox shows no online node; does the token have Sys.Audit on /nodes?".into())),
            (None, _) => {
                return Err(Error::Settings(format!(
                    "there are several Proxmox nodes ({}); list those to use in spec.infrastructure.nodes, or name one in \
                     spec.infrastructure.proxmox.node",
                    names(&online)
                )));
            }
        };
        let sites = Site::all(first, connection);
        let known: BTreeMap<Node, Arc<Site>> = sites.iter().map(|site| (site.node.clone(), Arc::clone(site))).collect();
        let wanted: Vec<Node> = sites.iter().map(|site| site.node.clone()).collect();
        let none = format!("Proxmox node {} is not online; online are: {}", names(&wanted), names(&online));
        let mut why = Error::Settings(none);
        for site in sites.iter().filter(|site| online.contains(&site.node)) {
            match site.zfs(&proxmox).await {
                Ok(zfs) => {
                    let (sites, copies) = (Arc::new(known), Copies::default());
                    return Ok(Self { proxmox, zfs, site: Arc::clone(site), sites, copies, isolated: false });
                }
                Err(error) => why = error,
            }
        }
        Err(why)
    }

    /// The same verbs on another node of the Hub. What does not answer there is asked again only some seconds later.
    ///
    /// Errors: `Settings` when it is none of the Hub's; what ZFS says there.
    pub async fn at(&self, node: &Node) -> Result<Self, Error> {
        if node == self.node() {
            return Ok(self.clone());
        }
        let Some(site) = self.sites.get(node) else {
            let known: Vec<Node> = self.nodes().cloned().collect();
            return Err(Error::Settings(format!(
                "node {node} is none of the hub's ({}); list it in spec.infrastructure.nodes",
                names(&known)
            )));
        };
        let zfs = site.zfs(&self.proxmox).await?;
        Ok(Self { zfs, site: Arc::clone(site), ..self.clone() })
    }

    /// The same verbs; a VM that they make has no network card.
    #[must_use]
    pub fn isolated(&self) -> Self {
        Self { isolated: true, ..self.clone() }
    }
    fn is_isolated(&self) -> bool {
        self.isolated
    }
    /// The network card of the VMs that are made; `None` when they are to have no network.
    fn card(&self) -> Option<String> {
        let connection = &self.site.connection;
        let firewall = if connection.firewall.is_some() { ",firewall=1" } else { "" };
        (!self.isolated).then(|| format!("virtio,bridge={}{firewall}", connection.bridge))
    }

    pub fn connection(&self) -> &Connection {
        &self.site.connection
    }
    /// The node that runs the VMs, and whose pool holds their disks.
    pub fn node(&self) -> &Node {
        &self.site.node
    }
    /// All of the Hub's.
    pub fn nodes(&self) -> impl Iterator<Item = &Node> {
        self.sites.keys()
    }
    /// Slots for tasks that power guests off; take one for as long as the task runs.
    pub fn tasks(&self) -> &Arc<Semaphore> {
        &self.site.tasks
    }
    /// How long guests on this node lately took from start until they answered; zero before the first.
    pub fn usual_boot(&self) -> Duration {
        *self.site.boot.lock().unwrap_or_else(PoisonError::into_inner)
    }
    /// A guest took so long.
    pub fn booted(&self, took: Duration) {
        *self.site.boot.lock().unwrap_or_else(PoisonError::into_inner) = took;
    }
    /// What it can do: as its kind of storage does, and as the ZFS that was probed allows.
    pub fn capabilities(&self) -> Capabilities {
        if !self.has_zfs() {
            return templates::capabilities();
        }
        let (zfs, mut missing) = (self.zfs.capabilities(), vec![(CapabilityName::Memory, "the guest starts from its disks")]);
        if !zfs.atomic_snapshots {
            missing.push((CapabilityName::SeveralDisksAtOnce, "this ZFS takes snapshots one after the other"));
        }
        if !zfs.resumable {
            missing.push((CapabilityName::ResumeCopy, "this ZFS has no resume tokens: it is begun anew"));
        }
        Capabilities::all_but(&missing)
    }
    /// Whether disks lie in a pool that `zfs` can be run on. Otherwise no `zfs` command is ever run.
    fn has_zfs(&self) -> bool {
        !matches!(self.connection().runner, zfs::Runner::Nowhere)
    }
}

fn names(nodes: &[Node]) -> String {
    nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}
