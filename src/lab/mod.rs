//! A Proxmox-compatible node for machines without Proxmox: the REST API as far as autovibe's client uses it, in front
//! of real QEMU guests on real ZFS, or of model guests on a model pool.
//!
//! It refuses what Proxmox refuses; kinder is a bug. Not here: who uses it. The hub speaks to it as to any Proxmox.

mod access;
mod agent;
mod answer;
mod clone;
mod cluster;
mod control;
mod fault;
mod firewall;
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
mod resources;
mod routes;
mod schema;
mod server;
mod setup;
pub mod simulated;
mod snapshot;
mod state;
mod storage;
mod suspend;
mod task;
mod ticket;

pub use fault::Call;
pub use setup::Setup;

use crate::{
    clock::Clock,
    wire::{LabEndpoint, NoAnswer, Service},
    zfs::{self, Runner, Zfs},
};
use cluster::Cluster;
use fault::{Fault, Rule};
use guests::Guests;
use node::{Node, STORAGE, TOKEN_ID};
use pool::Real;
use serde_json::Value;
use simulated::pool::Pool;
use std::{
    fs, io,
    net::SocketAddr,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::net::TcpListener;
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
    /// What a new lab begins from.
    pub setup: Option<Setup>,
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
    /// The file that it is to begin from.
    #[error("{}: {field}: {why}", path.display())]
    Setup { path: PathBuf, field: String, why: String },
    #[error("real guests cannot be run here: {0}")]
    Real(String),
    #[error("the model cannot be made: {0}")]
    Model(String),
}

/// A running lab, with hooks for tests. Dropping it ends it; state and guests are found again.
pub struct Lab {
    cluster: Arc<Cluster>,
    endpoint: LabEndpoint,
    address: SocketAddr,
}

/// Starts a lab in this process and writes `endpoint.json` once it serves.
pub async fn start(config: Config) -> Result<Lab, Error> {
    directory(&config)?;
    let store = state::Store::open(&config.data)?;
    serve(config, store).await
}

/// As [`start`], simulated; what it knows ends with it, and no call waits for a disk.
pub async fn start_in_memory(config: Config) -> Result<Lab, Error> {
    directory(&config)?;
    serve(config, state::Store::in_memory()).await
}

fn directory(config: &Config) -> Result<(), Error> {
    let unusable = |source| Error::Data { path: config.data.clone(), source };
    fs::create_dir_all(&config.data).map_err(unusable)?;
    fs::set_permissions(&config.data, fs::Permissions::from_mode(0o700)).map_err(unusable)
}

async fn serve(config: Config, store: state::Store) -> Result<Lab, Error> {
    let unusable = |source| Error::Data { path: config.data.clone(), source };
    let store = Arc::new(store);
    let new = config.setup.as_ref().map(|setup| setup.place(&store, config.mode == Mode::Real)).transpose()?;
    let shutdown = CancellationToken::new();
    // What was started for a lab that does not come to be ends with this.
    let ended = shutdown.clone().drop_guard();
    let (guests, real, place) = match config.mode {
        Mode::Simulated => simulated(&store, &config, None, &shutdown)?,
        Mode::Real => real(&store, &config).await?,
    };
    let secret = secret(&store);
    let cluster = cluster(&config, store.clone(), guests, real, &shutdown, Clock::system()).await;
    if let Some(setup) = &config.setup {
        setup.fill(&cluster, new == Some(true)).await?;
    }
    store.write();
    let listener = TcpListener::bind(config.listen).await.map_err(|source| Error::Listen { address: config.listen, source })?;
    let address = listener.local_addr().map_err(|source| Error::Listen { address: config.listen, source })?;
    spawn_until(&shutdown, async move { store.write_changes().await });
    spawn_until(&shutdown, server::serve(listener, cluster.clone()));
    if let Some(socket) = &place.socket {
        for (at, node) in cluster.names().into_iter().filter_map(|name| cluster.node(&name)).enumerate() {
            let path = if at == 0 { socket.clone() } else { zfs_socket(&config.data, &node.name) };
            let volumes = config.data.join(if at == 0 { "zvol".into() } else { format!("zvol-{}", node.name) });
            let listener = simulated::socket::bind(&path).map_err(|source| Error::Data { path, source })?;
            spawn_until(&shutdown, simulated::socket::serve(listener, node, volumes));
        }
    }
    let endpoint = endpoint(&config, &cluster, address, secret, place);
    write_endpoint(&config.data, &endpoint).map_err(unusable)?;
    info!("the lab serves {} guests on {address}", endpoint.mode);
    ended.disarm();
    Ok(Lab { cluster, endpoint, address })
}

/// Starts a simulated lab that no network reaches: the hub calls [`Lab::proxmox`] and [`Lab::zfs`], guests call `gateway`.
/// It lives in memory, and on `clock`, which a test may hold: with that, its hub's doings are the same in each run.
pub async fn simulate(config: Config, gateway: Service, clock: Clock) -> Result<Lab, Error> {
    let (store, shutdown) = (Arc::new(state::Store::in_memory()), CancellationToken::new());
    let new = config.setup.as_ref().map(|setup| setup.place(&store, false)).transpose()?;
    let (guests, real, place) = simulated(&store, &config, Some(gateway), &shutdown)?;
    let secret = secret(&store);
    let cluster = cluster(&config, store, guests, real, &shutdown, clock).await;
    if let Some(setup) = &config.setup {
        setup.fill(&cluster, new == Some(true)).await?;
    }
    let endpoint = endpoint(&config, &cluster, config.listen, secret, Place { socket: None, ..place });
    Ok(Lab { cluster, endpoint, address: config.listen })
}

/// The token's secret, made with the state; workers of a former lab are no more.
fn secret(store: &state::Store) -> String {
    store.change(|state| {
        for node in state.nodes.clone() {
            task::bury(&mut state.tasks, &node);
        }
        if state.secret.is_empty() {
            state.secret = crate::random::uuid().to_string();
        }
        access::fill(&mut state.access, TOKEN_ID, &state.secret);
        state.secret.clone()
    })
}

/// A cluster whose guests of a former lab are found again.
async fn cluster(
    config: &Config,
    store: Arc<state::Store>,
    guests: Guests,
    real: Option<Arc<Real>>,
    shutdown: &CancellationToken,
    clock: Clock,
) -> Arc<Cluster> {
    let cluster = Arc::new(Cluster::new(store, guests, real, shutdown.clone(), clock));
    cluster.set_lag(config.lag);
    *node::lock(&cluster.refusal) = config.refusal;
    cluster.guests.recover().await;
    let broadcasting = cluster.clone();
    spawn_until(shutdown, async move { broadcasting.broadcasts().await });
    cluster
}

/// Where the `zfs` of a node that is not the first one answers.
fn zfs_socket(data: &Path, node: &str) -> PathBuf {
    data.join(format!("zfs-{node}.sock"))
}

fn endpoint(config: &Config, cluster: &Cluster, address: SocketAddr, secret: String, place: Place) -> LabEndpoint {
    LabEndpoint {
        pid: std::process::id(),
        mode: if config.mode == Mode::Real { "real" } else { "simulated" }.into(),
        endpoint: format!("http://{address}"),
        fingerprint: None,
        token_id: TOKEN_ID.into(),
        secret,
        node: cluster.names().into_iter().next().unwrap_or_default(),
        storage: STORAGE.into(),
        dataset: cluster.real.as_ref().map_or_else(|| simulated::DATASET.to_owned(), |real| real.storage.dataset.clone()),
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
) -> Result<(Guests, Option<Arc<Real>>, Place), Error> {
    store
        .change(|state| {
            state.storages.entry(STORAGE.to_owned()).or_default();
            simulated::fill(state)
        })
        .map_err(Error::Model)?;
    let gateway = simulated::Reach::new(config.gateway, gateway).map_err(Error::Model)?;
    let guests = simulated::Guests::new(store.clone(), gateway, shutdown.clone());
    let socket = Some(config.data.join("zfs.sock"));
    let place = Place { keep: simulated::KEEP.into(), socket, gateway_url: simulated::GATEWAY_URL.into() };
    Ok((Guests::Simulated(guests), None, place))
}

async fn real(store: &state::Store, config: &Config) -> Result<(Guests, Option<Arc<Real>>, Place), Error> {
    let (qemu, storage) = real::Qemu::open(&config.data, config.gateway).await.map_err(|error| Error::Real(error.to_string()))?;
    info!("{}", storage.note);
    let zfs = Zfs::open(Runner::Local).await.map_err(|error| Error::Real(error.to_string()))?;
    let place = Place { keep: storage.keep.clone(), socket: None, gateway_url: qemu.gateway_url() };
    store.change(|state| {
        state.storages.entry(STORAGE.to_owned()).or_default();
    });
    Ok((Guests::Real(qemu), Some(Arc::new(Real { zfs, storage })), place))
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
        self.cluster.shutdown.cancel();
        self.cluster.store.write();
    }
}

impl Lab {
    /// Where its API serves.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its API as a service in this process.
    pub fn proxmox(&self) -> Service {
        let cluster = self.cluster.clone();
        Service::new(move |request| {
            let cluster = cluster.clone();
            Box::pin(async move {
                let request = hyper::Request::<reqwest::Body>::try_from(request).map_err(|_| NoAnswer)?;
                server::respond(cluster, request).await.map(|response| response.map(reqwest::Body::wrap).into())
            })
        })
    }

    /// The `zfs` of its model pool, likewise.
    pub fn zfs(&self) -> zfs::Service {
        let node = self.first();
        zfs::Service::new(move |argv| {
            let node = node.clone();
            Box::pin(async move {
                let node = node?;
                // No image is written to a volume of a pool in memory, so it needs no device.
                let (status, stdout, stderr) = simulated::socket::run(&argv, &node, None).await.ok()??;
                Some(zfs::Output { status, stdout, stderr })
            })
        })
    }

    fn first(&self) -> Option<Arc<Node>> {
        self.cluster.names().first().and_then(|name| self.cluster.node(name))
    }

    /// What `endpoint.json` says.
    pub fn endpoint(&self) -> &LabEndpoint {
        &self.endpoint
    }

    /// The next such call is refused with this status, and nothing is done. A `zfs` verb fails whatever the status.
    pub fn fail_next(&self, call: Call, status: u16) {
        let text = "injected failure".to_owned();
        self.cluster.faults.plant(Rule::next(call, Fault::Fail { status, text }));
    }

    /// The next such call is done, and its connection closed instead of an answer.
    pub fn drop_reply(&self, call: Call) {
        self.cluster.faults.plant(Rule::next(call, Fault::DropReply));
    }

    /// The next such call is neither done nor answered.
    pub fn hang(&self, call: Call) {
        self.cluster.faults.plant(Rule::next(call, Fault::Hang));
    }

    /// The next such call is done, but the worker that it starts never ends.
    pub fn hang_task(&self, call: Call) {
        self.cluster.faults.plant(Rule::next(call, Fault::HangTask));
    }

    /// How many faults came to pass.
    pub fn fired(&self) -> u64 {
        self.cluster.faults.rules().iter().map(|rule| rule.fired).sum()
    }

    /// Cuts a node's power, until [`Self::revive`].
    pub async fn kill(&self, node: &str) {
        self.cluster.kill(node, None).await;
    }

    /// Powers a node on.
    pub fn revive(&self, node: &str) {
        self.cluster.revive(node);
    }

    /// Forgets the tasks of a node that ended, as its log files are pruned.
    pub fn forget_tasks(&self, node: &str) {
        self.cluster.store.change(|state| task::prune(&mut state.tasks, node, 0));
    }

    /// What `endpoint.json` says, for another node of the cluster.
    pub fn endpoint_of(&self, node: &str) -> LabEndpoint {
        let zfs_socket = self
            .endpoint
            .zfs_socket
            .clone()
            .map(|first| if node == self.endpoint.node { first } else { zfs_socket(first.parent().unwrap_or(Path::new("")), node) });
        LabEndpoint { node: node.to_owned(), zfs_socket, ..self.endpoint.clone() }
    }

    /// All tokens and their secrets, as a request names them: `PVEAPIToken=alice@pve!t1=…`.
    pub fn tokens(&self) -> Vec<String> {
        self.cluster.access(|access| access.tokens.iter().map(|(id, token)| format!("PVEAPIToken={id}={}", token.secret)).collect())
    }

    /// How often a call came.
    pub fn count(&self, call: Call) -> u64 {
        self.cluster.faults.count(|other| other == call)
    }

    /// How often each call came, `zfs` commands among them.
    pub fn counts(&self) -> std::collections::BTreeMap<Call, u64> {
        self.cluster.faults.counts()
    }

    /// All calls of the API.
    pub fn calls(&self) -> u64 {
        self.cluster.faults.count(|call| !matches!(call, Call::Zfs(_)))
    }

    /// All calls of the API but those to guest agents.
    pub fn calls_without_agent(&self) -> u64 {
        self.cluster.faults.count(|call| !matches!(call, Call::Zfs(_)) && !call.is_agent())
    }

    /// All calls and commands but those that only read.
    pub fn changes(&self) -> u64 {
        self.cluster.faults.count(Call::changes)
    }

    /// All `zfs` commands.
    pub fn zfs_commands(&self) -> u64 {
        self.cluster.faults.count(|call| matches!(call, Call::Zfs(_)))
    }

    /// Makes a token, and its user when there is none, and returns its secret: what `pveum` does on the node.
    pub fn token(&self, id: &str, privsep: bool) -> String {
        self.cluster.store.change(|state| {
            let secret = crate::random::uuid().to_string();
            state.access.users.entry(permission::Who::parse(id).user).or_default();
            let token = permission::Token { secret: secret.clone(), privsep, comment: None, expire: 0 };
            state.access.tokens.insert(id.to_owned(), token);
            secret
        })
    }

    /// Each VM's creation and destruction holds the storage's lock so long from now on; others wait 10 s for it, as in Proxmox.
    pub fn slow_storage(&self, hold: Duration) {
        let takes = u64::try_from(hold.as_millis()).unwrap_or(u64::MAX);
        self.cluster.store.change(|state| state.storages.entry(node::STORAGE.to_owned()).or_default().takes_ms = takes);
        self.cluster.slow.store(!hold.is_zero(), std::sync::atomic::Ordering::Relaxed);
    }

    /// The storage of Machines says from now on that so much of it is used on a node.
    pub fn fill_storage(&self, node: &str, used_bytes: u64) {
        self.cluster.store.change(|state| {
            state.storages.entry(node::STORAGE.to_owned()).or_default().used.insert(node.to_owned(), used_bytes);
        });
    }

    /// How tasks ended whose end has this text; the newest some hundred are known.
    pub fn failed(&self, text: &str) -> Vec<String> {
        self.cluster
            .store
            .read(|state| state.tasks.iter().filter_map(|task| task.exit().filter(|exit| exit.contains(text))).map(str::to_owned).collect())
    }

    /// Ids of tasks of a kind that run now: `qmcreate`.
    pub fn running(&self, kind: &str) -> Vec<u32> {
        let workers = self.cluster.workers();
        workers.keys().filter_map(|upid| upid.split(&format!(":{kind}:")).nth(1)?.split(':').next()?.parse().ok()).collect()
    }

    /// Gives a user a password, and makes it when there is none: what `pveum passwd` does.
    pub fn password(&self, user: &str, password: &str) {
        self.cluster.store.change(|state| state.access.users.entry(user.to_owned()).or_default().password = Some(password.to_owned()));
    }

    /// Enables a user, or refuses all that it and its tokens ask: what `pveum user modify --enable` does.
    pub fn enable(&self, user: &str, enabled: bool) {
        self.cluster.store.change(|state| state.access.users.entry(user.to_owned()).or_default().disabled = !enabled);
    }

    /// How far `/cluster/resources` lags from now on; zero is live.
    pub fn set_lag(&self, lag: Duration) {
        self.cluster.set_lag(lag);
    }

    /// Writes a key into a VM's config file, as a person on the node can; `None` removes it. Also `lock`.
    pub fn edit_config(&self, vmid: u32, key: &str, value: Option<&str>) {
        self.cluster.store.change(|state| {
            let Some(vm) = state.vms.get_mut(&vmid) else { return };
            match value {
                Some(value) => vm.config.insert(key.to_owned(), value.to_owned()),
                None => vm.config.remove(key),
            };
        });
    }

    /// A guest powers itself off, or crashes.
    pub fn power_off(&self, vmid: u32) {
        if let Guests::Simulated(guests) = &self.cluster.guests {
            guests.cut(vmid);
        }
    }

    /// Names of the VMs that have a config, by VMID.
    pub fn vms(&self) -> std::collections::BTreeMap<u32, String> {
        self.cluster
            .store
            .read(|state| state.vms.iter().map(|(vmid, vm)| (*vmid, vm.config.get("name").cloned().unwrap_or_default())).collect())
    }

    /// The configs of all VMs, by VMID.
    pub fn configs(&self) -> std::collections::BTreeMap<u32, guests::VmConfig> {
        self.cluster.store.read(|state| state.vms.iter().map(|(vmid, vm)| (*vmid, vm.config.clone())).collect())
    }

    /// Options, rules and sets of a VM's firewall.
    pub fn firewall(&self, vmid: u32) -> Value {
        self.cluster
            .store
            .read(|state| state.firewalls.get(&vmid).and_then(|firewall| serde_json::to_value(firewall).ok()).unwrap_or_default())
    }

    /// Whether a VM's power is on, in a lab of models.
    pub fn is_on(&self, vmid: u32) -> bool {
        self.cluster.store.read(|state| state.guests.contains_key(&vmid))
    }

    /// How many holds a snapshot of the model pool has.
    pub fn holds(&self, snapshot: &str) -> usize {
        self.cluster.store.read(|state| state.first_pool().map_or(0, |pool| pool.holds(snapshot)))
    }

    /// Names of all datasets and snapshots of the model pool.
    pub fn datasets(&self) -> Vec<String> {
        self.cluster.store.read(|state| state.first_pool().map(Pool::names).unwrap_or_default())
    }

    /// The same of another node's pool.
    pub fn datasets_of(&self, node: &str) -> Vec<String> {
        self.cluster.store.read(|state| state.pools.get(node).map(Pool::names).unwrap_or_default())
    }

    /// A VM's config is another node's from now on, as after a migration, or with HA.
    pub fn move_vm(&self, vmid: u32, node: &str) {
        self.cluster.store.change(|state| {
            if let Some(vm) = state.vms.get_mut(&vmid) {
                node.clone_into(&mut vm.node);
            }
        });
    }

    /// The node of each VM that has a config, by VMID.
    pub fn nodes_of_vms(&self) -> std::collections::BTreeMap<u32, String> {
        self.cluster.store.read(|state| state.vms.iter().map(|(vmid, vm)| (*vmid, vm.node.clone())).collect())
    }

    /// What is on a model disk or snapshot, by its full name: `turns`, `workspace`, `exit`, `hostname`, `messages`, …
    pub fn disk(&self, name: &str) -> Option<Value> {
        self.cluster.store.read(|state| state.first_pool()?.disk(name).and_then(|disk| serde_json::to_value(disk).ok()))
    }
}
