//! A Proxmox-compatible node for machines without Proxmox: the REST API as far as autovibe's client uses it, in front
//! of real QEMU guests on real ZFS, or of model guests on a model pool.
//!
//! It refuses what Proxmox refuses; kinder is a bug. Not here: who uses it. The hub speaks to it as to any Proxmox.

mod access;
mod agent;
mod answer;
mod clone;
mod fault;
mod format;
pub mod guests;
mod keys;
mod node;
mod parameters;
mod permission;
mod pool;
mod pools;
mod power;
mod qemu;
pub mod real;
mod routes;
mod schema;
mod server;
pub mod simulated;
mod snapshot;
mod state;
mod storage;
mod task;

pub use fault::Call;

use crate::{
    clock::Clock,
    wire::{LabEndpoint, NoAnswer, Service},
    zfs::{self, Runner, Zfs},
};
use fault::Fault;
use guests::Guests;
use node::{NODE, Node, STORAGE, TOKEN_ID};
use pool::Pool;
use serde_json::Value;
use std::{
    fs, io,
    net::SocketAddr,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::{net::TcpListener, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::info;

/// Where the endpoint is found, in the data directory.
pub const ENDPOINT_FILE: &str = "endpoint.json";
/// VMIDs that the hub may use.
const VMIDS: (u32, u32) = (1000, 9999);

/// What stands behind the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// QEMU guests on this machine's ZFS.
    Real,
    /// Model guests on a model pool.
    Simulated,
}

/// How to run a lab.
#[derive(Clone, Debug)]
pub struct Config {
    pub mode: Mode,
    /// Its state, and `endpoint.json` by which it is found.
    pub data: PathBuf,
    /// Where to serve the API: loopback.
    pub listen: SocketAddr,
    /// The hub's gateway, to which guests' requests go.
    pub gateway: SocketAddr,
    /// How far behind `/cluster/resources` shows names and states; Proxmox needs up to 10 s.
    pub lag: Duration,
    /// How long a wrong token waits for its 401, and at most a call to a silent guest agent; Proxmox waits 3 s.
    pub refusal: Duration,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the lab cannot serve on {address}: {source}")]
    Listen { address: SocketAddr, source: io::Error },
    #[error("the lab's directory {path} cannot be used: {source}")]
    Data { path: PathBuf, source: io::Error },
    /// The state that a former lab left cannot be read: its guests and pool are not thrown away.
    #[error("{path} cannot be read: {reason}")]
    State { path: PathBuf, reason: String },
    #[error("real guests cannot be run here: {0}")]
    Real(String),
    #[error("the model cannot be made: {0}")]
    Model(String),
}

/// A running lab, with hooks for tests. Dropping it ends it as a kill would; state and guests are found again.
pub struct Lab {
    node: Arc<Node>,
    endpoint: LabEndpoint,
    address: SocketAddr,
}

/// Serves until `shutdown`; guests live on.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), Error> {
    let lab = start(config).await?;
    shutdown.cancelled().await;
    lab.node.store.write();
    Ok(())
}

/// Starts a lab in this process and writes `endpoint.json` once it serves.
pub async fn start(config: Config) -> Result<Lab, Error> {
    let unusable = |source| Error::Data { path: config.data.clone(), source };
    fs::create_dir_all(&config.data).map_err(unusable)?;
    fs::set_permissions(&config.data, fs::Permissions::from_mode(0o700)).map_err(unusable)?;
    let store = Arc::new(state::Store::open(&config.data)?);
    let shutdown = CancellationToken::new();
    let (guests, pool, place) = match config.mode {
        Mode::Simulated => simulated(&store, &config, None, &shutdown)?,
        Mode::Real => real(&config).await?,
    };
    let secret = secret(&store);
    store.write();
    let listener = TcpListener::bind(config.listen).await.map_err(|source| Error::Listen { address: config.listen, source })?;
    let address = listener.local_addr().map_err(|source| Error::Listen { address: config.listen, source })?;
    let node = node(&config, store.clone(), guests, pool, &shutdown, Clock::system()).await;
    spawn_until(&shutdown, async move { store.write_changes().await });
    spawn_until(&shutdown, server::serve(listener, node.clone()));
    if let Some(socket) = &place.socket {
        let listener = simulated::socket::bind(socket).map_err(|source| Error::Data { path: socket.clone(), source })?;
        spawn_until(&shutdown, simulated::socket::serve(listener, node.clone(), config.data.join("zvol")));
    }
    let endpoint = endpoint(&config, &node, address, secret, place);
    write_endpoint(&config.data, &endpoint).map_err(unusable)?;
    info!("the lab serves {} guests on {address}", endpoint.mode);
    Ok(Lab { node, endpoint, address })
}

/// Starts a simulated lab that no network reaches: the hub calls [`Lab::proxmox`] and [`Lab::zfs`], guests call `gateway`.
/// It lives in memory, and on `clock`, which a test may hold: with that, its hub's doings are the same in each run.
pub async fn simulate(config: Config, gateway: Service, clock: Clock) -> Result<Lab, Error> {
    let (store, shutdown) = (Arc::new(state::Store::in_memory()), CancellationToken::new());
    let (guests, pool, place) = simulated(&store, &config, Some(gateway), &shutdown)?;
    let secret = secret(&store);
    let node = node(&config, store, guests, pool, &shutdown, clock).await;
    let endpoint = endpoint(&config, &node, config.listen, secret, Place { socket: None, ..place });
    Ok(Lab { node, endpoint, address: config.listen })
}

/// The token's secret, made with the state; workers of a former lab are no more.
fn secret(store: &state::Store) -> String {
    store.change(|state| {
        task::bury(&mut state.tasks);
        if state.secret.is_empty() {
            state.secret = crate::random::uuid().to_string();
        }
        access::fill(&mut state.access, TOKEN_ID, &state.secret);
        state.secret.clone()
    })
}

/// A node whose guests of a former lab are found again.
async fn node(
    config: &Config,
    store: Arc<state::Store>,
    guests: Guests,
    pool: Pool,
    shutdown: &CancellationToken,
    clock: Clock,
) -> Arc<Node> {
    let node = Arc::new(Node::new(store, guests, pool, shutdown.clone(), Instant::now(), clock));
    node.set_lag(config.lag);
    *node::lock(&node.refusal) = config.refusal;
    node.guests.recover().await;
    let broadcasting = node.clone();
    spawn_until(shutdown, async move { broadcasting.broadcasts().await });
    node
}

fn endpoint(config: &Config, node: &Node, address: SocketAddr, secret: String, place: Place) -> LabEndpoint {
    LabEndpoint {
        pid: std::process::id(),
        mode: if config.mode == Mode::Real { "real" } else { "simulated" }.into(),
        endpoint: format!("http://{address}"),
        fingerprint: None,
        token_id: TOKEN_ID.into(),
        secret,
        node: NODE.into(),
        storage: STORAGE.into(),
        dataset: node.pool.dataset().to_owned(),
        keep: place.keep,
        zfs_socket: place.socket,
        bridge: "vmbr0".into(),
        vmid_from: VMIDS.0,
        vmid_to: VMIDS.1,
        gateway_url: place.gateway_url,
        gateway: config.gateway,
    }
}

/// Where things are in one mode.
struct Place {
    keep: String,
    socket: Option<PathBuf>,
    gateway_url: String,
}

fn simulated(
    store: &Arc<state::Store>,
    config: &Config,
    gateway: Option<Service>,
    shutdown: &CancellationToken,
) -> Result<(Guests, Pool, Place), Error> {
    store.change(simulated::fill).map_err(Error::Model)?;
    let gateway = simulated::Reach::new(config.gateway, gateway).map_err(Error::Model)?;
    let guests = simulated::Guests::new(store.clone(), gateway, shutdown.clone());
    let socket = Some(config.data.join("zfs.sock"));
    let place = Place { keep: simulated::KEEP.into(), socket, gateway_url: simulated::GATEWAY_URL.into() };
    Ok((Guests::Simulated(guests), Pool::Model(store.clone()), place))
}

async fn real(config: &Config) -> Result<(Guests, Pool, Place), Error> {
    let (qemu, storage) = real::Qemu::open(&config.data, config.gateway).await.map_err(|error| Error::Real(error.to_string()))?;
    info!("{}", storage.note);
    let zfs = Zfs::open(Runner::Local).await.map_err(|error| Error::Real(error.to_string()))?;
    let place = Place { keep: storage.keep.clone(), socket: None, gateway_url: qemu.gateway_url() };
    Ok((Guests::Real(qemu), Pool::Real { zfs, storage }, place))
}

fn spawn_until(shutdown: &CancellationToken, work: impl Future<Output = ()> + Send + 'static) {
    let shutdown = shutdown.clone();
    tokio::spawn(async move {
        tokio::select! {
            biased;
            () = work => {}
            () = shutdown.cancelled() => {}
        }
    });
}

/// Whole or not at all: the hub reads it while it waits for the lab.
fn write_endpoint(data: &Path, endpoint: &LabEndpoint) -> io::Result<()> {
    let new = data.join("endpoint.new");
    // One that a killed lab left may have other rights.
    let _ = fs::remove_file(&new);
    let file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
    serde_json::to_writer_pretty(&file, endpoint)?;
    file.sync_all()?;
    fs::rename(new, data.join(ENDPOINT_FILE))
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.node.shutdown.cancel();
        self.node.store.write();
    }
}

impl Lab {
    /// Where its API serves.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its API as a service in this process.
    pub fn proxmox(&self) -> Service {
        let node = self.node.clone();
        Service::new(move |request| {
            let node = node.clone();
            Box::pin(async move {
                let request = hyper::Request::<reqwest::Body>::try_from(request).map_err(|_| NoAnswer)?;
                server::respond(node, request).await.map(|response| response.map(reqwest::Body::wrap).into())
            })
        })
    }

    /// The `zfs` of its model pool, likewise.
    pub fn zfs(&self) -> zfs::Service {
        let node = self.node.clone();
        zfs::Service::new(move |argv| {
            let node = node.clone();
            Box::pin(async move {
                // No image is written to a volume of a pool in memory, so it needs no device.
                let (status, stdout, stderr) = simulated::socket::run(&argv, &node, None).await.ok()??;
                Some(zfs::Output { status, stdout, stderr })
            })
        })
    }

    /// What `endpoint.json` says.
    pub fn endpoint(&self) -> &LabEndpoint {
        &self.endpoint
    }

    /// The next such call is refused with this status, and nothing is done. A `zfs` verb fails whatever the status.
    pub fn fail_next(&self, call: Call, status: u16) {
        self.node.faults.plant(call, Fault::Fail(status));
    }

    /// The next such call is done, and its connection closed instead of an answer.
    pub fn drop_reply(&self, call: Call) {
        self.node.faults.plant(call, Fault::DropReply);
    }

    /// The next such call is neither done nor answered.
    pub fn hang(&self, call: Call) {
        self.node.faults.plant(call, Fault::Hang);
    }

    /// How often a call came.
    pub fn count(&self, call: Call) -> u64 {
        self.node.faults.count(|other| other == call)
    }

    /// How often each call came, `zfs` commands among them.
    pub fn counts(&self) -> std::collections::BTreeMap<Call, u64> {
        self.node.faults.counts()
    }

    /// All calls of the API.
    pub fn calls(&self) -> u64 {
        self.node.faults.count(|call| !matches!(call, Call::Zfs(_)))
    }

    /// All calls of the API but those to guest agents.
    pub fn calls_without_agent(&self) -> u64 {
        self.node.faults.count(|call| !matches!(call, Call::Zfs(_)) && !call.is_agent())
    }

    /// All calls and commands but those that only read.
    pub fn changes(&self) -> u64 {
        self.node.faults.count(Call::changes)
    }

    /// All `zfs` commands.
    pub fn zfs_commands(&self) -> u64 {
        self.node.faults.count(|call| matches!(call, Call::Zfs(_)))
    }

    /// Makes a token, and its user when there is none, and returns its secret: what `pveum` does on the node.
    pub fn token(&self, id: &str, privsep: bool) -> String {
        self.node.store.change(|state| {
            let secret = crate::random::uuid().to_string();
            state.access.users.entry(permission::Who::parse(id).user).or_default();
            let token = permission::Token { secret: secret.clone(), privsep, comment: None, expire: 0 };
            state.access.tokens.insert(id.to_owned(), token);
            secret
        })
    }

    /// How far `/cluster/resources` lags from now on; zero is live.
    pub fn set_lag(&self, lag: Duration) {
        self.node.set_lag(lag);
    }

    /// Writes a key into a VM's config file, as a person on the node can; `None` removes it. Also `lock`.
    pub fn edit_config(&self, vmid: u32, key: &str, value: Option<&str>) {
        self.node.store.change(|state| {
            let Some(vm) = state.vms.get_mut(&vmid) else { return };
            match value {
                Some(value) => vm.config.insert(key.to_owned(), value.to_owned()),
                None => vm.config.remove(key),
            };
        });
    }

    /// A guest powers itself off, or crashes.
    pub fn power_off(&self, vmid: u32) {
        if let Guests::Simulated(guests) = &self.node.guests {
            guests.cut(vmid);
        }
    }

    /// Names of the VMs that have a config, by VMID.
    pub fn vms(&self) -> std::collections::BTreeMap<u32, String> {
        self.node
            .store
            .read(|state| state.vms.iter().map(|(vmid, vm)| (*vmid, vm.config.get("name").cloned().unwrap_or_default())).collect())
    }

    /// The configs of all VMs, by VMID.
    pub fn configs(&self) -> std::collections::BTreeMap<u32, guests::VmConfig> {
        self.node.store.read(|state| state.vms.iter().map(|(vmid, vm)| (*vmid, vm.config.clone())).collect())
    }

    /// How many holds a snapshot of the model pool has.
    pub fn holds(&self, snapshot: &str) -> usize {
        self.node.store.read(|state| state.pool.holds(snapshot))
    }

    /// Names of all datasets and snapshots of the model pool.
    pub fn datasets(&self) -> Vec<String> {
        self.node.store.read(|state| state.pool.names())
    }

    /// What is on a model disk or snapshot, by its full name: `turns`, `workspace`, `exit`, `hostname`, `messages`, …
    pub fn disk(&self, name: &str) -> Option<Value> {
        self.node.store.read(|state| state.pool.disk(name).and_then(|disk| serde_json::to_value(disk).ok()))
    }
}
