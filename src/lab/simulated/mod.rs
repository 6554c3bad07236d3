//! Model guests on a model pool: fast, and really calling the gateway over HTTP.
//!
//! A guest answers the verbs that the hub runs in real ones, by their name, and plays the agent that they launch. What it
//! has on its disk is copied with the disk's snapshots, so that a fork starts from the state it was taken of.

pub(crate) mod disk;
pub(crate) mod guest;
mod player;
pub(crate) mod pool;
mod prompt;
pub(super) mod socket;
mod sse;
mod stream;
#[cfg(test)]
mod tests;
mod verb;
mod zfs;

use super::{
    guests::VmConfig,
    state::{State, Store},
};
use crate::wire::Service;
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Dataset of the storage `tank`.
pub(crate) const DATASET: &str = "tank/data";
/// The checkpoint tree.
pub(crate) const KEEP: &str = "tank/autovibe";
/// A dataset of another pool, which checkpoints may be exported to.
const EXPORTS: &str = "backup/autovibe";
/// The image that is there from the start.
pub(crate) const IMAGE: &str = "tank/images/micro";
const IMAGE_BYTES: u64 = 1 << 30;
/// A VM whose name begins so powers on, but its guest agent never answers.
pub const NEVER_BOOTS: &str = "never-boots";
/// Where guests find the gateway, on a network that only they are in: where that leads is for the lab to know, as it is with
/// real guests. A lab that was started for another gateway takes guests that run to it.
pub(super) const GATEWAY_URL: &str = "http://10.0.2.100:8081";
/// How long a guest's own look for the gateway takes: the lab waits for it.
const CONNECT: Duration = Duration::from_millis(500);
/// From power on until the guest agent answers.
const BOOT: Duration = Duration::from_millis(20);

/// What a running guest has in memory; gone with its power, or with the lab.
struct Memory {
    since: Instant,
    /// Being written: path and what came.
    files: BTreeMap<i64, (String, Vec<u8>)>,
    commands: verb::Commands,
    power: CancellationToken,
}

/// The model's guests.
pub struct Guests {
    store: Arc<Store>,
    memory: Mutex<BTreeMap<u32, Memory>>,
    gateway: Reach,
    shutdown: CancellationToken,
}

/// The way from guests to the gateway: over the network, or to a service in this process.
#[derive(Clone)]
pub(super) struct Reach {
    http: reqwest::Client,
    gateway: SocketAddr,
    service: Option<Service>,
}

impl Reach {
    pub(super) fn new(gateway: SocketAddr, service: Option<Service>) -> Result<Self, String> {
        // The provider may have been installed already, by whoever started the process.
        let _ = rustls::crypto::ring::default_provider().install_default();
        // The gateway is reached without TLS.
        let http = reqwest::Client::builder().no_proxy().connect_timeout(Duration::from_secs(5)).tls_certs_only([]).build();
        Ok(Self { http: http.map_err(|error| error.to_string())?, gateway, service })
    }

    /// Where `path` below a URL is that a guest was told.
    fn url(&self, base: &str, path: &str) -> String {
        match base.trim_end_matches('/') {
            GATEWAY_URL => format!("http://{}{path}", self.gateway),
            elsewhere => format!("{elsewhere}{path}"),
        }
    }

    /// Whether anything listens there; what is in this process always does.
    fn connects(&self, base: &str) -> std::io::Result<()> {
        if self.service.is_some() {
            return Ok(());
        }
        let wrong = |_| std::io::Error::from(std::io::ErrorKind::InvalidInput);
        let url = reqwest::Url::parse(&self.url(base, "/")).map_err(wrong)?;
        let address = url.socket_addrs(|| None)?.into_iter().next().ok_or(std::io::ErrorKind::NotFound)?;
        std::net::TcpStream::connect_timeout(&address, CONNECT).map(drop)
    }

    /// `None` when no answer came.
    async fn send(&self, request: reqwest::RequestBuilder) -> Option<reqwest::Response> {
        match &self.service {
            None => request.send().await.ok(),
            Some(service) => service.call(request.build().ok()?).await.ok(),
        }
    }
}

/// Datasets of a pool that a running guest uses.
pub(super) fn open_datasets(state: &State, pool: &str) -> BTreeSet<String> {
    state.guests.values().filter(|guest| guest.pool == pool).map(|guest| guest.disk.clone()).collect()
}

/// A new pool on each node that has none: the storages' datasets, and one image.
pub(super) fn fill(state: &mut State) -> Result<(), pool::Refusal> {
    let empty = |pool: &mut pool::Pool, name: &str, size| match pool.datasets.contains_key(name) {
        true => Ok(()),
        false if name.contains('/') => pool.create(name, size, BTreeMap::new(), disk::Disk::default()),
        false => {
            pool.add(name);
            Ok(())
        }
    };
    for (name, storage) in &state.storages {
        for node in state.nodes.iter().filter(|node| storage.kind == super::storage::Kind::Dir && storage.on(node)) {
            empty(state.pools.entry(storage.place(name, node)).or_default(), name, None)?;
        }
    }
    for node in &state.nodes {
        let pool = state.pools.entry(node.clone()).or_default();
        for name in ["tank", DATASET, "tank/images", "backup", EXPORTS] {
            empty(pool, name, None)?;
        }
        if !pool.datasets.contains_key(IMAGE) {
            empty(pool, IMAGE, Some(IMAGE_BYTES))?;
            pool.snapshot(&[format!("{IMAGE}@base")], &BTreeMap::new())?;
        }
        for (name, storage) in &state.storages {
            if storage.kind == super::storage::Kind::ZfsPool && storage.on(node) {
                for (at, _) in format!("{}/", storage.dataset(name)).match_indices('/') {
                    empty(pool, &storage.dataset(name)[..at], None)?;
                }
            }
        }
    }
    Ok(())
}

impl Guests {
    pub(super) fn new(store: Arc<Store>, gateway: Reach, shutdown: CancellationToken) -> Self {
        Self { store, memory: Mutex::default(), gateway, shutdown }
    }

    fn memory(&self) -> std::sync::MutexGuard<'_, BTreeMap<u32, Memory>> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Powers on; its guest agent answers a moment later. One that was saved goes on as what it was, with its agent.
    pub async fn start(&self, vmid: u32, config: &VmConfig, disks: &[PathBuf], saved: bool) -> Result<(), String> {
        let found = || self.store.change(|state| state.saved.get(&vmid).cloned().map(|guest| state.guests.insert(vmid, guest)));
        if saved {
            found().ok_or("the saved memory is not this guest's")?;
            self.power_on(vmid, Instant::now());
            self.play(vmid);
            return Ok(());
        }
        // The pool's name, and the dataset in it.
        let disk = disks.first().map(|path| path.to_string_lossy().into_owned()).unwrap_or_default();
        let (pool, disk) = disk.split_once(':').map(|(pool, disk)| (pool.to_owned(), disk.to_owned())).unwrap_or_default();
        let name = config.get("name").cloned().unwrap_or_default();
        self.store.change(|state| {
            state.guests.insert(vmid, guest::Guest { pool, disk, boots: !name.starts_with(NEVER_BOOTS), agent: None, frozen: false })
        });
        self.power_on(vmid, Instant::now());
        Ok(())
    }

    /// Its agent stands still from now on.
    pub(super) fn save(&self, vmid: u32) -> Result<(), String> {
        let saved = self.store.change(|state| state.guests.get(&vmid).cloned().map(|guest| state.saved.insert(vmid, guest)));
        saved.ok_or_else(|| format!("VM {vmid} not running"))?;
        if let Some(agent) = self.memory().get_mut(&vmid).and_then(|memory| memory.commands.agent.take()) {
            agent.cancel();
        }
        Ok(())
    }

    pub(super) fn forget_memory(&self, vmid: u32) {
        self.store.change(|state| state.saved.remove(&vmid));
    }

    fn power_on(&self, vmid: u32, since: Instant) {
        self.memory().insert(
            vmid,
            Memory { since, files: BTreeMap::new(), commands: verb::Commands::default(), power: self.shutdown.child_token() },
        );
    }

    /// Whether it is on.
    pub async fn power(&self, vmid: u32) -> bool {
        self.store.read(|state| state.guests.contains_key(&vmid))
    }

    /// Powers off at once if its system is up; one that never boots does not hear.
    pub async fn shutdown(&self, vmid: u32, timeout: Duration) -> bool {
        if self.store.read(|state| state.guests.get(&vmid).is_some_and(|guest| !guest.boots)) {
            crate::clock::Clock::system().sleep(timeout).await;
            return false;
        }
        self.cut(vmid);
        true
    }

    /// Cuts the power.
    pub async fn stop(&self, vmid: u32) -> Result<(), String> {
        self.cut(vmid);
        Ok(())
    }

    pub(super) fn cut(&self, vmid: u32) {
        if let Some(memory) = self.memory().remove(&vmid) {
            memory.power.cancel();
        }
        self.store.change(|state| state.guests.remove(&vmid));
    }

    /// One command of the guest agent's protocol. Errors: it does not answer.
    pub async fn agent(&self, vmid: u32, command: &Value) -> Result<Value, String> {
        let up = self.memory().get(&vmid).is_some_and(|memory| memory.since.elapsed() >= BOOT);
        if !up || !self.store.read(|state| state.guests.get(&vmid).is_some_and(|guest| guest.boots)) {
            return Err("the guest's system is not up".into());
        }
        let reply = self.reply(vmid, command);
        // As qemu-ga says it.
        Ok(reply.map_or_else(|desc| json!({ "error": { "class": "GenericError", "desc": desc } }), |value| json!({ "return": value })))
    }

    /// Nothing is kept outside the state.
    pub async fn forget(&self, vmid: u32) {
        self.cut(vmid);
        self.forget_memory(vmid);
    }

    /// Guests that ran go on: their agents too, from what is on their disks.
    pub async fn recover(&self) {
        let running: Vec<(u32, bool)> =
            self.store.read(|state| state.guests.iter().map(|(vmid, guest)| (*vmid, guest.agent.is_some())).collect());
        for (vmid, agent) in running {
            self.power_on(vmid, Instant::now());
            if agent {
                self.play(vmid);
            }
        }
    }

    /// Plays the agent that the guest's record names, until it ends or the power goes.
    pub(super) fn play(&self, vmid: u32) {
        let Some(power) = self.memory().get(&vmid).map(|memory| memory.power.clone()) else { return };
        let Some(launch) = self.store.read(|state| state.guests.get(&vmid).and_then(|guest| guest.agent.clone())) else { return };
        // Of its own, so that `autovibe-stop` ends the agent and not the guest.
        let process = power.child_token();
        if let Some(memory) = self.memory().get_mut(&vmid)
            && let Some(former) = memory.commands.agent.replace(process.clone())
        {
            former.cancel();
        }
        let player = player::Player { store: self.store.clone(), gateway: self.gateway.clone(), vmid, launch };
        tokio::spawn(async move {
            tokio::select! {
                biased;
                () = player.run() => {}
                () = process.cancelled() => {}
            }
        });
    }
}
