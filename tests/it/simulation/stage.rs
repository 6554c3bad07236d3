//! A node that outlives its hubs, and the hub that is at present: killed and started again on the same database.

use super::gate::{Gate, Plan};
use super::invariants::Invariants;
use super::planted::{self, Bug};
use crate::database::Cluster;
use autovibe::api::machine::{OperatingMode, Phase};
use autovibe::api::{Checkpoint, Hub, Kind, Machine};
use autovibe::clock::Clock;
use autovibe::controller::{
    self, Controllers,
    machine::{Memory, Timing},
};
use autovibe::driver::{Connection, firewall::Firewall};
use autovibe::lab::{self, Lab, Mode};
use autovibe::objects::{self, Cipher, Objects};
use autovibe::store::{self, Database, Store};
use autovibe::wire::{NoAnswer, Service};
use autovibe::{gateway, random, zfs};
use futures::StreamExt;
use jiff::Timestamp;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

pub(super) const NAMESPACE: &str = "default";
/// How often a quiet object is looked at all the same.
pub(super) const RESYNC: Duration = Duration::from_mins(5);
/// The same on PostgreSQL, where each second of simulated time costs a look at the database.
const RESYNC_ON_POSTGRES: Duration = Duration::from_mins(2);
/// Within so much simulated time everything must come to its end.
const PATIENCE: Duration = Duration::from_hours(2);

/// Runs `scenario` in a thread of its own, on a clock that passes only while everything waits, with what `seed` makes of chance.
pub(super) fn simulate<F: Future<Output = T>, T: Send + 'static>(seed: u64, scenario: impl FnOnce() -> F + Send + 'static) -> T {
    let thread = std::thread::Builder::new().stack_size(8 << 20);
    let running = thread.spawn(move || {
        rustls::crypto::ring::default_provider().install_default().ok();
        store::wait_in_place();
        random::seed(seed);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(scenario())
    });
    match running.unwrap().join() {
        Ok(value) => value,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// Likewise, with a new database on PostgreSQL, whose answers are waited for in place; `None`, said aloud, where there is none.
pub(super) fn simulate_on_postgres<F: Future<Output = T>, T: Send + 'static>(
    seed: u64,
    scenario: impl FnOnce(Database) -> F + Send + 'static,
) -> Option<T> {
    static SESSIONS: OnceLock<tokio::runtime::Runtime> = OnceLock::new();
    let cluster = Cluster::shared()?;
    let sessions = SESSIONS.get_or_init(|| tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap());
    let url = sessions.block_on(cluster.create());
    let database = url.parse().unwrap();
    let result = simulate(seed, move || {
        store::wait_in_place_of(sessions.handle().clone());
        scenario(database)
    });
    sessions.block_on(cluster.drop(&url));
    Some(result)
}

/// One life of a hub.
pub(super) struct Incarnation {
    pub(super) objects: Objects,
    pub(super) store: Store,
    pub(super) gate: Gate,
    /// None of one that died at its start.
    running: Option<(Controllers, gateway::Server)>,
    shutdown: CancellationToken,
}

pub(super) struct Stage {
    pub(super) lab: Arc<Lab>,
    pub(super) invariants: Arc<Invariants>,
    hub: Option<Incarnation>,
    /// The gateway of the hub that is, for guests.
    gateway: Arc<Mutex<Option<Service>>>,
    /// What its hubs do wrong.
    bug: Option<Bug>,
    /// On the image, before anything is spawned from it.
    pub(super) base_holds: usize,
    clock: Clock,
    directory: tempfile::TempDir,
    /// Instead of a file in that directory.
    postgres: Option<Database>,
}

fn memory_directory() -> tempfile::TempDir {
    // Commits wait for a disk that forgets; what they survive here is a killed process.
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

/// Copies a database that nobody writes to at the moment.
fn copy_database(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for part in ["state.db", "state.db-wal", "state.db-shm"] {
        std::fs::remove_file(to.join(part)).ok();
        if part != "state.db-shm" && from.join(part).exists() {
            std::fs::copy(from.join(part), to.join(part)).unwrap();
        }
    }
}

impl Stage {
    pub(super) async fn with(bug: Option<Bug>, plan: Plan) -> Self {
        Self::on(None, bug, plan).await
    }

    pub(super) async fn on(postgres: Option<Database>, bug: Option<Bug>, plan: Plan) -> Self {
        let directory = memory_directory();
        std::fs::write(directory.path().join("conversation.yaml"), crate::machine::stage::CONVERSATION).unwrap();
        let clock = Clock::simulated("2026-11-02T08:00:00Z".parse::<Timestamp>().unwrap());
        let gateway: Arc<Mutex<Option<Service>>> = Arc::default();
        let reached = gateway.clone();
        let guests = Service::new(move |request| {
            let service = reached.lock().unwrap().clone();
            Box::pin(async move { service.ok_or(NoAnswer)?.call(request).await })
        });
        let nowhere = "127.0.0.1:9".parse().unwrap();
        let config = lab::Config {
            mode: Mode::Simulated,
            data: directory.path().join("lab"),
            listen: nowhere,
            gateway: nowhere,
            lag: Duration::from_secs(10),
            refusal: Duration::from_secs(3),
            setup: None,
        };
        let lab = Arc::new(lab::simulate(config, guests, clock.clone()).await.unwrap());
        let invariants = Arc::new(Invariants::new(lab.clone()).await);
        let mut stage = Self { lab, invariants, hub: None, gateway, bug: None, base_holds: 0, clock, directory, postgres };
        stage.start(Plan::default()).await;
        stage.create_hub().await;
        stage.stop().await;
        stage.base_holds = stage.lab.holds("tank/images/micro@base");
        stage.bug = bug;
        stage.start(plan).await;
        stage
    }

    fn resync(&self) -> Duration {
        if self.postgres.is_some() { RESYNC_ON_POSTGRES } else { RESYNC }
    }

    /// Starts a hub on what is there.
    pub(super) async fn start(&mut self, plan: Plan) {
        let gate = Gate::new(plan);
        let database = self.postgres.clone().unwrap_or_else(|| Database::Sqlite(self.directory.path().join("state.db")));
        let options = store::Options { clock: self.clock.clone(), goes_on: Some(self.commits(&gate)), ..store::Options::default() };
        let store = Store::open_with(&database, options).await.unwrap();
        let objects = Objects::new(store.clone(), self.clock.clone(), Cipher::load(&self.directory.path().join("key")).unwrap());
        let shutdown = CancellationToken::new();
        let config = gateway::Config { hold: Duration::from_secs(10), drain: Duration::from_millis(100), ..gateway::Config::default() };
        let started = async {
            objects.ensure_presets().await.map_err(|error| error.to_string())?;
            gateway::start_in_process(config, objects.clone(), shutdown.clone()).await.map_err(|error| error.to_string())
        };
        let (service, server) = match started.await {
            Ok(started) => started,
            Err(error) => {
                assert!(gate.is_dead(), "{error}");
                self.hub = Some(Incarnation { objects, store, gate, running: None, shutdown });
                return;
            }
        };
        let after = {
            let invariants = self.invariants.clone();
            Arc::new(move |what: &str| invariants.check(what))
        };
        *self.gateway.lock().unwrap() = Some(service);
        let mind = Arc::default();
        let connection = Connection {
            service: Some(planted::proxmox(self.bug, &mind, gate.proxmox(self.lab.proxmox(), after.clone()))),
            runner: zfs::Runner::Service(planted::zfs(self.bug, &mind, gate.zfs(self.lab.zfs(), after))),
            firewall: Some(Firewall { gateway: ("10.0.2.100".parse().unwrap(), 8081), guests: vec!["10.0.2.0/24".into()] }),
            ..Connection::of_lab(self.lab.endpoint())
        };
        let config = controller::Config {
            door: Default::default(),
            lab: Some(connection),
            data: self.directory.path().to_owned(),
            concurrency: 16,
            source_roots: Vec::new(),
            resync: self.resync(),
        };
        let controllers = controller::start_with(config, Memory::with(Timing::default(), None), objects.clone(), shutdown.clone());
        self.hub = Some(Incarnation { objects, store, gate, running: Some((controllers, server)), shutdown });
    }

    /// Ends the hub as SIGTERM does.
    pub(super) async fn stop(&mut self) {
        let hub = self.hub.take().unwrap();
        hub.shutdown.cancel();
        if let Some((controllers, gateway)) = hub.running {
            controllers.stopped().await;
            gateway.stopped().await;
        }
        hub.store.close().await;
        *self.gateway.lock().unwrap() = None;
    }

    /// Ends the hub as SIGKILL does: from one moment on nothing of it reaches the world.
    pub(super) async fn kill(&mut self) -> Gate {
        let hub = self.hub.take().unwrap();
        hub.gate.kill();
        *self.gateway.lock().unwrap() = None;
        hub.store.close().await;
        // What still waits in this process does so without timers.
        hub.shutdown.cancel();
        if self.bug == Some(Bug::IntentAfterAction) {
            copy_database(&self.directory.path().join("before"), self.directory.path());
        }
        hub.gate
    }

    /// The gate of its commits; keeps the database before each, for a hub that writes down too late what it is about to do.
    fn commits(&self, gate: &Gate) -> store::GoesOn {
        let (commits, directory) = (gate.commits(), self.directory.path().to_owned());
        if self.bug != Some(Bug::IntentAfterAction) {
            return commits;
        }
        Arc::new(move |moment| {
            if matches!(moment, store::Moment::BeforeCommit) {
                copy_database(&directory, &directory.join("before"));
            }
            commits(moment)
        })
    }

    pub(super) fn hub(&self) -> &Incarnation {
        self.hub.as_ref().unwrap()
    }

    async fn create_hub(&self) {
        let file = self.directory.path().join("conversation.yaml");
        let hub: Hub = serde_json::from_value(json!({
            "metadata": { "name": "default" },
            "spec": {
                "infrastructure": { "lab": {} },
                "images": [{ "name": "micro", "dataset": "tank/images/micro@base" }],
                "providers": [{ "name": "replay", "type": "Replay", "models": ["claude-*"], "replay": { "file": file } }],
            },
        }))
        .unwrap();
        self.hub().objects.create(&hub).await.unwrap();
        self.until::<Hub>("the hub is connected", |hub| format!("{:?}", hub.status).contains("micro")).await;
    }

    /// Creates it as a user does, who tries again when no answer comes.
    pub(super) async fn create(&self, name: &str, spec: Value) {
        self.create_in(NAMESPACE, name, spec).await;
    }

    pub(super) async fn create_in(&self, namespace: &str, name: &str, spec: Value) {
        let document = json!({ "metadata": { "namespace": namespace, "name": name }, "spec": spec });
        match self.hub().objects.create(&serde_json::from_value::<Machine>(document).unwrap()).await {
            Ok(_) | Err(objects::Error::AlreadyExists { .. }) => {}
            Err(objects::Error::Store(store::Error::Closed)) => std::future::pending().await,
            Err(error) => panic!("{error}"),
        }
    }

    /// As a user does, who tries again when someone else wrote meanwhile.
    pub(super) async fn set_mode(&self, name: &str, mode: OperatingMode) {
        loop {
            let mut machine = match self.hub().objects.get::<Machine>(NAMESPACE, name).await {
                Ok(found) => found.unwrap(),
                Err(objects::Error::Store(store::Error::Closed)) => std::future::pending().await,
                Err(error) => panic!("{error}"),
            };
            machine.spec.operating_mode = mode;
            match self.hub().objects.update(&machine).await {
                Ok(_) => return,
                Err(objects::Error::Conflict { .. }) => {}
                Err(objects::Error::Store(store::Error::Closed)) => std::future::pending().await,
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Waits in simulated time until some object of the kind is as wanted.
    pub(super) async fn until<K: Kind>(&self, what: &str, wanted: impl Fn(&K) -> bool) -> K {
        let mut changes = self.hub().objects.watch::<K>();
        let mut last = BTreeMap::new();
        let waited = tokio::time::timeout(PATIENCE, async {
            while let Some(event) = changes.next().await {
                if event.change == store::Change::Deleted {
                    last.remove(event.object.name());
                    continue;
                }
                if wanted(&event.object) {
                    return Some(event.object);
                }
                last.insert(event.object.name().to_owned(), serde_json::to_value(&event.object).unwrap()["status"].clone());
            }
            None
        });
        match waited.await {
            Ok(Some(object)) => object,
            Ok(None) => std::future::pending().await,
            _ => panic!("waited in vain until {what}; there are {last:#?}"),
        }
    }

    /// Until Machine `a` is so.
    pub(super) async fn until_it(&self, what: &str, is_so: impl Fn(&Machine) -> bool) -> Machine {
        self.until::<Machine>(&format!("a {what}"), |machine| machine.name() == "a" && is_so(machine)).await
    }

    pub(super) async fn until_finished(&self, name: &str) -> Machine {
        self.until::<Machine>(&format!("{name} is finished"), |machine| machine.name() == name && phase(machine).is_finished()).await
    }

    /// The disks of Machines, and volumes with their memory, wherever they are on the node.
    pub(super) fn disks(&self) -> BTreeSet<String> {
        let of_machine = |name: &String| (name.contains("-disk-") || name.contains("-state-")) && !name.contains('@');
        self.lab.datasets().into_iter().filter(|name| of_machine(name) && !name.contains("-1001-")).collect()
    }

    /// What is under way comes to its end, and what was missed is looked at again.
    pub(super) async fn settle(&self) {
        tokio::time::sleep(self.resync() * 2).await;
    }

    /// When a user lets one checkpoint go, the others stay.
    pub(super) async fn assert_one_goes(&self, what: &str) {
        let stays = |checkpoint: &Checkpoint| checkpoint.status.as_ref().is_some_and(|status| !status.volumes.is_empty());
        let ready: Vec<Checkpoint> = self.checkpoints().await.into_iter().filter(stays).collect();
        let machines = self.hub().objects.list::<Machine>(Some(NAMESPACE)).await.unwrap().0;
        let came_of = |machine: &Machine, name: &str| {
            let status = machine.status.as_ref();
            let put_back_to = status.and_then(|status| status.restored.as_ref()?.checkpoint.as_deref());
            put_back_to == Some(name) || status.and_then(|status| status.spawned_from.as_deref()) == Some(name)
        };
        // Such a one stays for those that came of it.
        let (one, others): (Vec<_>, Vec<_>) =
            ready.iter().partition(|ready| !machines.iter().any(|machine| came_of(machine, ready.name())));
        let Some((one, rest)) = one.split_first() else { return };
        let others = rest.iter().chain(&others);
        self.hub().objects.delete::<Checkpoint>(NAMESPACE, one.name(), None).await.unwrap();
        self.settle().await;
        let snapshots: BTreeSet<String> = self.lab.datasets().iter().filter_map(|name| Some(name.split_once('@')?.1.to_owned())).collect();
        for volume in others.flat_map(|other| &other.status.as_ref().unwrap().volumes) {
            assert!(snapshots.contains(&volume.snapshot), "{what}: with {} went {}", one.name(), volume.snapshot);
        }
        let gone = &one.status.as_ref().unwrap().volumes[0].snapshot;
        let left = self.checkpoints().await.into_iter().find(|left| left.name() == one.name()).and_then(|left| left.status);
        assert!(!snapshots.contains(gone), "{what}: {} is deleted, and {gone} is still there: {left:?}", one.name());
    }

    /// When a user lets all objects go, nothing of theirs stays on the node: neither what was recorded nor what was not.
    pub(super) async fn assert_all_goes(&self, what: &str) {
        let objects = &self.hub().objects;
        for machine in objects.list::<Machine>(Some(NAMESPACE)).await.unwrap().0 {
            objects.delete::<Machine>(NAMESPACE, machine.name(), None).await.unwrap();
        }
        for checkpoint in self.checkpoints().await {
            objects.delete::<Checkpoint>(NAMESPACE, checkpoint.name(), None).await.unwrap();
        }
        self.settle().await;
        assert_eq!(self.disks(), BTreeSet::new(), "{what}: {:?}", self.checkpoints().await);
        self.invariants.assert(what);
    }

    /// Nothing is written or called any more, also when every object is looked at again.
    pub(super) async fn assert_quiet(&self, what: &str) {
        tokio::time::sleep(self.resync()).await;
        let (written, changes) = (self.written().await, self.lab.changes());
        tokio::time::sleep(self.resync() * 3).await;
        assert_eq!(self.written().await, written, "{what}: still written");
        assert_eq!(self.lab.changes(), changes, "{what}: the node is still changed");
    }

    /// What changes with each write; where several hubs may share a database, with each but those by which its leader stays that.
    async fn written(&self) -> Vec<String> {
        let hub = self.hub();
        if self.postgres.is_none() {
            return vec![hub.store.writes().to_string()];
        }
        let mut all = Vec::new();
        for resource in ["machines.autovibe.dev", "checkpoints.autovibe.dev", "hubs.autovibe.dev", "events"] {
            let page = hub.store.list(&store::Query { resource: resource.into(), ..store::Query::default() }).await.unwrap();
            all.extend(page.items.iter().map(|object| format!("{:?} {:?}", object.key, object.revision)));
        }
        assert!(all.len() > 3, "{all:?}");
        all
    }

    pub(super) async fn checkpoints(&self) -> Vec<Checkpoint> {
        self.hub().objects.list::<Checkpoint>(Some(NAMESPACE)).await.unwrap().0
    }
}

pub(super) fn phase(machine: &Machine) -> Phase {
    machine.status.as_ref().map(|status| status.phase).unwrap_or_default()
}
