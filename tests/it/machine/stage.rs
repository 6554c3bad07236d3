//! A hub in this process, beside a lab that outlives it.

use autovibe::{
    api::{Checkpoint, Hub, Kind, Machine, checkpoint::CheckpointPhase, machine::Phase},
    clock::Clock,
    controller::{
        self, Controllers,
        machine::{AfterStep, Memory, Timing},
    },
    driver::{Connection, Door},
    gateway,
    lab::{self, Lab, Mode},
    objects::{Cipher, Objects, Part, Patch, WriteOptions},
    proxmox::{self, Node, VmConfig, Vmid},
    store::{self, Database, Store},
    wire::Service,
};
use futures::StreamExt;
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    sync::atomic::{AtomicBool, AtomicU16, AtomicU32, Ordering},
    time::Duration,
};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

pub(crate) const NAMESPACE: &str = "default";
/// How long a condition may take to come true.
const PATIENCE: Duration = Duration::from_mins(1);
/// What the model says: each goal takes two answers, the first with a tool call.
pub(crate) const CONVERSATION: &str = "\
tokensPerSecond: 100000
thinkSeconds: 0
conversations:
  - name: any
    match: work
    turns:
      - text: I look around.
        tools:
          - name: Bash
            input: {command: ls}
      - text: Done.
";

/// A loopback address that no other stage of this or another test process uses.
fn own_loopback() -> Ipv4Addr {
    static STAGES: AtomicU16 = AtomicU16::new(1);
    let [high, low] = STAGES.fetch_add(1, Ordering::Relaxed).to_be_bytes();
    let process = u8::try_from(std::process::id() % 250).expect("below 250");
    Ipv4Addr::new(127, process + 2, high, low)
}

fn client(lab: &Lab) -> proxmox::Client {
    let endpoint = lab.endpoint().clone();
    let credential = proxmox::Credential::token(endpoint.token_id, endpoint.secret);
    proxmox::Client::new(proxmox::Config { endpoint: endpoint.endpoint, fingerprint: None, credential }).unwrap()
}

async fn config(lab: &Lab, vmid: Vmid) -> VmConfig {
    client(lab).config(&Node(lab.endpoint().node.clone()), vmid).await.unwrap()
}

async fn make_foreign(lab: &Lab) -> VmConfig {
    let disk = format!("{}:4", lab.endpoint().storage);
    let values = [("name", "precious"), ("tags", "autovibe;theirs"), ("scsi0", &disk)];
    let values = values.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    client(lab).create(&Node(lab.endpoint().node.clone()), FOREIGN, &values).await.unwrap();
    while config(lab, FOREIGN).await.values.contains_key("lock") {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    config(lab, FOREIGN).await
}

/// The hub's part: ended and started again on the same store.
struct HubSide {
    objects: Objects,
    store: Store,
    controllers: Controllers,
    gateway: gateway::Server,
    shutdown: CancellationToken,
}

/// Someone else's VM on the node, within the hub's own range of VMIDs: nothing may change it.
const FOREIGN: Vmid = Vmid(1001);

pub(crate) struct Stage {
    pub(crate) lab: Arc<Lab>,
    hub: Option<HubSide>,
    gateway: SocketAddr,
    foreign: VmConfig,
    /// After how long without a call an agent is silent.
    silence: Duration,
    directory: tempfile::TempDir,
}

impl Stage {
    pub(crate) async fn new() -> Self {
        Self::with(None).await
    }

    pub(crate) async fn with(after_step: Option<AfterStep>) -> Self {
        let mut stage = Self::lab_alone("").await;
        stage.start(after_step).await;
        stage.create_hub(json!({ "lab": {} }), None).await;
        stage
    }

    /// The Hub's node has two others beside it.
    pub(crate) async fn in_cluster() -> Self {
        let mut stage = Self::lab_alone("nodes: [{ node: lab }, { node: pve2 }, { node: pve3 }]").await;
        stage.start(None).await;
        stage.create_hub(json!({ "lab": {} }), None).await;
        stage
    }

    /// The same without a Hub.
    pub(crate) async fn cluster_without_hub() -> Self {
        let mut stage = Self::lab_alone("nodes: [{ node: lab }, { node: pve2 }, { node: pve3 }]").await;
        stage.start(None).await;
        stage
    }

    /// Controllers that have no Hub yet.
    pub(crate) async fn without_hub() -> Self {
        let mut stage = Self::lab_alone("").await;
        stage.start(None).await;
        stage
    }

    /// The same, to which an agent is silent after so long.
    pub(crate) async fn impatient(silence: Duration) -> Self {
        let mut stage = Self { silence, ..Self::lab_alone("").await };
        stage.start(None).await;
        stage
    }

    /// A lab that began from this, and no controllers.
    pub(crate) async fn of_setup(setup: &str) -> Self {
        Self::lab_alone(setup).await
    }

    async fn lab_alone(setup: &str) -> Self {
        rustls::crypto::ring::default_provider().install_default().ok();
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("conversation.yaml"), CONVERSATION).unwrap();
        // A port that is free now and stays the gateway's over restarts, as nothing else uses this address.
        let gateway = std::net::TcpListener::bind((own_loopback(), 0)).unwrap().local_addr().unwrap();
        let file = directory.path().join("lab.yaml");
        std::fs::write(&file, setup).unwrap();
        let lab = lab::start(lab::Config {
            mode: Mode::Simulated,
            data: directory.path().join("lab"),
            listen: "127.0.0.1:0".parse().unwrap(),
            gateway,
            lag: Duration::ZERO,
            refusal: Duration::from_millis(10),
            setup: Some(lab::Setup::read(&file).unwrap()),
        })
        .await
        .unwrap();
        let foreign = make_foreign(&lab).await;
        Self { lab: Arc::new(lab), hub: None, gateway, foreign, silence: Timing::default().silence, directory }
    }

    /// The hub's data directory.
    pub(crate) fn data(&self) -> &std::path::Path {
        self.directory.path()
    }

    /// Where the gateway listens.
    pub(crate) fn gateway_address(&self) -> SocketAddr {
        self.gateway
    }

    pub(crate) fn source_root(&self) -> PathBuf {
        self.directory.path().join("sources")
    }

    /// Starts store, gateway and controllers on what is there.
    pub(crate) async fn start(&mut self, after_step: Option<AfterStep>) {
        self.start_with(after_step, Door::default()).await;
    }

    /// The same, beside an API server that has the same door.
    pub(crate) async fn start_with(&mut self, after_step: Option<AfterStep>, door: Door) {
        self.begin(after_step, door, None, None).await;
    }

    /// Starts them behind something that stands between them and the world: this answers for Proxmox, and that is asked before and
    /// after each commit.
    pub(super) async fn start_behind(&mut self, proxmox: Service, goes_on: store::GoesOn) {
        self.begin(None, Door::default(), Some(proxmox), Some(goes_on)).await;
    }

    async fn begin(&mut self, after_step: Option<AfterStep>, door: Door, proxmox: Option<Service>, goes_on: Option<store::GoesOn>) {
        let options = store::Options { goes_on, ..store::Options::default() };
        let store = Store::open_with(&self.database(), options).await.unwrap();
        let cipher = Cipher::load(&self.directory.path().join("key")).unwrap();
        let objects = Objects::new(store.clone(), Clock::system(), cipher);
        objects.ensure_presets().await.unwrap();
        let shutdown = CancellationToken::new();
        let config = gateway::Config {
            listen: self.gateway,
            hold: Duration::from_secs(10),
            drain: Duration::from_millis(100),
            ..gateway::Config::default()
        };
        let gateway = gateway::start(config, objects.clone(), shutdown.clone()).await.unwrap();
        let timing = Timing { boot: Duration::from_millis(500), shutdown: Duration::from_secs(1), silence: self.silence };
        let config = controller::Config {
            door,
            lab: Some(Connection { service: proxmox, ..Connection::of_lab(self.lab.endpoint()) }),
            data: self.data().to_owned(),
            concurrency: 16,
            source_roots: vec![self.source_root()],
            resync: Duration::from_secs(2),
        };
        // It leads, as whoever runs controllers does.
        let epoch: Result<i64, store::Error> = store.write(|transaction| Box::pin(transaction.next_leader())).await;
        let leader = objects.under(epoch.unwrap());
        let controllers = controller::start_with(config, Memory::with(timing, after_step), leader, shutdown.clone());
        self.hub = Some(HubSide { objects, store, controllers, gateway, shutdown });
    }

    /// The hub's database.
    pub(crate) fn database(&self) -> Database {
        Database::Sqlite(self.directory.path().join("state.db"))
    }

    /// A VM's config, as it is now.
    pub(crate) async fn config(&self, vmid: u32) -> VmConfig {
        config(&self.lab, Vmid(vmid)).await
    }

    /// Ends the hub; lab and guests go on. What is not autovibe's is as it was.
    pub(crate) async fn stop(&mut self) {
        if self.hub.is_some() {
            assert_eq!(config(&self.lab, FOREIGN).await, self.foreign);
        }
        self.stop_without_first_node().await;
    }

    /// The same while the node is down that has what is not autovibe's.
    pub(crate) async fn stop_without_first_node(&mut self) {
        let Some(hub) = self.hub.take() else { return };
        assert!(self.lab.datasets().contains(&format!("tank/data/vm-{FOREIGN}-disk-0")), "{:?}", self.lab.datasets());
        hub.shutdown.cancel();
        hub.controllers.stopped().await;
        hub.gateway.stopped().await;
        hub.store.close().await;
    }

    /// Ends the hub as SIGKILL does: nothing of it is waited for but its gateway's address, which the next one takes.
    pub(super) async fn kill(&mut self) {
        let Some(hub) = self.hub.take() else { return };
        hub.store.close().await;
        hub.shutdown.cancel();
        hub.gateway.stopped().await;
    }

    /// Someone stops and deletes a VM by hand.
    pub(crate) async fn destroy_by_hand(&self, vmid: u32) {
        let (client, node) = (client(&self.lab), Node(self.lab.endpoint().node.clone()));
        let unprotected = [("protection".to_owned(), "0".to_owned())].into();
        client.configure(&node, Vmid(vmid), &unprotected, &[], None).await.unwrap();
        let ended = async |task: &proxmox::Upid| {
            while client.task(task).await.unwrap() == proxmox::TaskStatus::Running {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        ended(&client.stop(&node, Vmid(vmid)).await.unwrap()).await;
        // What runs is not deleted.
        ended(&client.delete(&node, Vmid(vmid)).await.unwrap()).await;
    }

    /// Names of the VMs that are not someone else's, by VMID.
    pub(crate) fn vms(&self) -> BTreeMap<u32, String> {
        self.lab.vms().into_iter().filter(|(vmid, _)| *vmid != FOREIGN.0).collect()
    }

    /// Datasets and snapshots that are not someone else's.
    pub(crate) fn datasets(&self) -> Vec<String> {
        let theirs = format!("/vm-{FOREIGN}-");
        self.lab.datasets().into_iter().filter(|name| !name.contains(&theirs)).collect()
    }

    pub(crate) fn objects(&self) -> &Objects {
        &self.hub.as_ref().unwrap().objects
    }
    pub(crate) fn store(&self) -> &Store {
        &self.hub.as_ref().unwrap().store
    }

    /// Creates a Secret that the Hub may read.
    pub(crate) async fn create_secret(&self, name: &str, values: &[(&str, &str)]) {
        let values: serde_json::Map<String, Value> = values.iter().map(|(key, value)| ((*key).to_owned(), (*value).into())).collect();
        let secrets = autovibe::admission::resources().iter().find(|resource| resource.plural == "secrets").unwrap();
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": { "name": name, "namespace": "autovibe-system" }, "stringData": values,
        });
        self.objects().create_document(secrets, "autovibe-system", secret, &WriteOptions::default()).await.unwrap();
    }

    /// Changes keys of a Secret.
    pub(crate) async fn change_secret(&self, name: &str, values: &[(&str, &str)]) {
        let values: serde_json::Map<String, Value> = values.iter().map(|(key, value)| ((*key).to_owned(), (*value).into())).collect();
        let secrets = autovibe::admission::resources().iter().find(|resource| resource.plural == "secrets").unwrap();
        let patch = Patch::Merge(json!({ "stringData": values }));
        let options = WriteOptions::default();
        self.objects().patch_document(secrets, "autovibe-system", name, Part::Main, &patch, &options).await.unwrap();
    }

    pub(crate) async fn create_hub(&self, infrastructure: Value, gateway: Option<&str>) {
        self.create_hub_with(infrastructure, gateway, json!({ "name": "micro", "dataset": "tank/images/micro@base" })).await;
    }

    /// The same with another image.
    pub(crate) async fn create_hub_with(&self, infrastructure: Value, gateway: Option<&str>, image: Value) {
        let file = self.directory.path().join("conversation.yaml");
        let gateway = gateway.map(|url| json!({ "url": url }));
        let hub: Hub = serde_json::from_value(json!({
            "metadata": { "name": "default" },
            "spec": {
                "infrastructure": infrastructure,
                "gateway": gateway,
                "images": [image],
                "providers": [{ "name": "replay", "type": "Replay", "models": ["claude-*"], "replay": { "file": file } }],
            },
        }))
        .unwrap();
        self.objects().create(&hub).await.unwrap();
    }

    /// Creates a Machine of `spec`; what is left out is: from image micro, a Command agent that ends at once.
    pub(crate) async fn create(&self, name: &str, spec: Value) -> Machine {
        let mut whole = json!({ "from": { "image": "micro" }, "goal": { "prompt": "#sim turns=0" }, "agent": { "type": "Command", "command": ["true"] } });
        for (key, value) in spec.as_object().unwrap() {
            match value {
                Value::Null => drop(whole.as_object_mut().unwrap().remove(key)),
                value => whole[key] = value.clone(),
            }
        }
        let machine: Machine =
            serde_json::from_value(json!({ "metadata": { "namespace": NAMESPACE, "name": name }, "spec": whole })).unwrap();
        self.objects().create(&machine).await.unwrap()
    }

    pub(crate) async fn get(&self, name: &str) -> Machine {
        self.objects().get::<Machine>(NAMESPACE, name).await.unwrap().unwrap()
    }

    pub(crate) async fn change(&self, name: &str, change: impl Fn(&mut Machine)) {
        loop {
            let mut machine = self.get(name).await;
            change(&mut machine);
            match self.objects().update(&machine).await {
                Ok(_) => return,
                Err(autovibe::objects::Error::Conflict { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Waits until the Machine is as `wanted` says.
    pub(crate) async fn until(&self, name: &str, what: &str, wanted: impl Fn(&Machine) -> bool) -> Machine {
        let mut last = None;
        let mut changes = self.objects().watch::<Machine>();
        let waited = tokio::time::timeout(PATIENCE, async {
            while let Some(event) = changes.next().await {
                if event.object.name() == name && event.change != autovibe::store::Change::Deleted {
                    if wanted(&event.object) {
                        return Some(event.object);
                    }
                    last = Some(event.object);
                }
            }
            None
        })
        .await;
        match waited {
            Ok(Some(machine)) => machine,
            _ => panic!("waited in vain for {name} to be {what}; it is {}", serde_json::to_string_pretty(&last.map(|m| m.status)).unwrap()),
        }
    }

    pub(crate) async fn until_phase(&self, name: &str, phase: Phase) -> Machine {
        self.until(name, &format!("{phase:?}"), |machine| status(machine).phase == phase).await
    }

    pub(crate) async fn until_finished(&self, name: &str) -> Machine {
        self.until(name, "finished", |machine| status(machine).phase.is_finished()).await
    }

    pub(crate) async fn until_gone(&self, name: &str) {
        let gone = async {
            while self.objects().get::<Machine>(NAMESPACE, name).await.unwrap().is_some() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        if tokio::time::timeout(PATIENCE, gone).await.is_err() {
            let left = self.objects().get::<Machine>(NAMESPACE, name).await.unwrap();
            panic!("{name} is still there: {:?}", left.map(|machine| machine.status));
        }
    }

    pub(crate) async fn checkpoint(&self, name: &str) -> Option<Checkpoint> {
        self.objects().get::<Checkpoint>(NAMESPACE, name).await.unwrap()
    }

    /// The final checkpoint of a Machine is Ready, its snapshot is where it says or kept, and nothing else of it is left.
    pub(crate) async fn assert_ended_well(&self, machine: &Machine) {
        let state = status(machine);
        let name = state.final_checkpoint.clone().unwrap_or_else(|| panic!("{} has no final checkpoint: {state:?}", machine.name()));
        let checkpoint = self.checkpoint(&name).await.unwrap();
        let taken = checkpoint.status.clone().unwrap();
        assert_eq!((taken.phase, taken.machine_uid.as_deref(), taken.volumes.len()), (CheckpointPhase::Ready, Some(machine.uid()), 1));
        let disk = taken.volumes[0].dataset.rsplit_once("-disk-").unwrap().1;
        let snapshot = format!("tank/autovibe/m-{}-disk-{disk}@{}", machine.uid(), taken.volumes[0].snapshot);
        assert!(self.datasets().contains(&snapshot), "{snapshot} is not there: {:?}", self.datasets());
        self.assert_no_vm(machine).await;
    }

    /// No VM, no disk under a VMID, no lease, no token.
    pub(crate) async fn assert_no_vm(&self, machine: &Machine) {
        assert!(!self.vms().values().any(|name| name == machine.name()), "a VM is left: {:?}", self.vms());
        let leases = self.store().vmid_leases("default").await.unwrap();
        assert!(!leases.iter().any(|lease| lease.machine_uid == machine.uid()), "{leases:?}");
        assert!(status(machine).vm.is_none());
    }
}

pub(crate) fn status(machine: &Machine) -> autovibe::api::machine::MachineStatus {
    machine.status.clone().unwrap_or_default()
}

/// So many lives go on side by side: most of a life is waiting.
pub(super) const AT_ONCE: usize = 6;

/// After a step of that number, counted from when it is armed, a hub does nothing more.
pub(super) struct Death {
    armed: AtomicBool,
    left: AtomicU32,
    came: Notify,
}

impl Death {
    pub(super) fn unarmed(step: u32) -> Arc<Self> {
        Arc::new(Self { armed: AtomicBool::new(false), left: AtomicU32::new(step), came: Notify::new() })
    }
    pub(super) fn after(step: u32) -> Arc<Self> {
        let death = Self::unarmed(step);
        death.arm();
        death
    }
    pub(super) fn arm(&self) {
        self.armed.store(true, Ordering::SeqCst);
    }
    pub(super) async fn came(&self) {
        self.came.notified().await;
    }
    pub(super) fn hook(self: &Arc<Self>) -> AfterStep {
        let this = Arc::clone(self);
        Arc::new(move |_: &str| {
            let goes_on = !this.armed.load(Ordering::SeqCst)
                || this.left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
            if !goes_on {
                this.came.notify_one();
            }
            goes_on
        })
    }
}

/// Lives that die after each step; how many steps there were: the first that was not reached is the last.
pub(super) async fn die_after_each<F: Future<Output = bool>>(dies_after: impl FnMut(u32) -> F) -> u32 {
    let mut steps = futures::stream::iter(0..).map(dies_after).buffered(AT_ONCE);
    let mut reached = 0;
    while steps.next().await == Some(true) {
        reached += 1;
    }
    reached
}
