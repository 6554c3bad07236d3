//! Checkpoints as people and the gateway make them: captured, kept, refused to go, collected. Controllers and lab run for
//! real; the agent idles.

use crate::node;
use autovibe::api::budget::{BudgetLimits, BudgetSpec, ParentRef};
use autovibe::api::checkpoint::{CheckpointPhase, CheckpointSpec, CheckpointStatus, FINALIZER, Import, Keep, Session, Trigger};
use autovibe::api::hub::{HubSpec, Image, Infrastructure};
use autovibe::api::machine::{Agent, AgentType, From, MachineSpec, OnTerminate, Phase, Retention};
use autovibe::api::quantity::{Bytes, Currency, GoDuration, Money, NanoUsd};
use autovibe::api::{Budget, Checkpoint, Hub, Kind, Machine};
use autovibe::clock::Clock;
use autovibe::controller::{self, Controllers};
use autovibe::lab::{Call, Lab};
use autovibe::objects::{self, Cipher, Objects};
use autovibe::store::Store;
use autovibe::wire::annotation;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Nothing here takes long; a loaded machine may.
const PATIENCE: Duration = Duration::from_mins(1);
const NAMESPACE: &str = "shop";

struct Bench {
    objects: Objects,
    lab: Lab,
    controllers: Controllers,
    shutdown: CancellationToken,
    _dir: tempfile::TempDir,
}

async fn bench() -> Bench {
    let dir = tempfile::tempdir().unwrap();
    let lab = node::start(dir.path()).await;
    let store = Store::open(&dir.path().join("autovibe.db")).await.unwrap();
    let objects = Objects::new(store, Clock::system(), Cipher::ephemeral());
    objects.ensure_presets().await.unwrap();
    let namespace = autovibe::admission::resources().iter().find(|resource| resource.plural == "namespaces").unwrap();
    let document = serde_json::json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
    objects.create_document(namespace, "", document, &Default::default()).await.unwrap();
    let shutdown = CancellationToken::new();
    let lab_connection = Some(autovibe::driver::Connection::of_lab(lab.endpoint()));
    let config = controller::Config {
        door: Default::default(),
        lab: lab_connection,
        data: std::path::PathBuf::new(),
        concurrency: 8,
        source_roots: Vec::new(),
        resync: Duration::from_mins(1),
    };
    let controllers = controller::start(config, objects.clone(), shutdown.clone());
    Bench { objects, lab, controllers, shutdown, _dir: dir }
}

fn hub() -> Hub {
    let spec = HubSpec {
        infrastructure: Infrastructure { lab: Some(Default::default()), ..Default::default() },
        gateway: None,
        providers: Vec::new(),
        images: vec![Image { name: "micro".into(), dataset: Some("tank/images/micro@base".into()), ..Image::default() }],
        defaults: Default::default(),
        approvals: Default::default(),
        checkpoints: Default::default(),
        egress: Default::default(),
    };
    Hub::new("", "default", spec)
}

/// A Machine whose agent idles, and whose retention is so much.
fn machine(name: &str, from: From, keep_last: u32) -> Machine {
    let mut spec = MachineSpec { from: Some(from), ..Default::default() };
    spec.goal.prompt = "#sim idle=true".into();
    spec.goal.workspace = Some("/work".into());
    spec.agent = Agent { r#type: AgentType::Command, command: vec!["agent".into()], ..Default::default() };
    spec.checkpoints.retention.keep_last = keep_last;
    Machine::new(NAMESPACE, name, spec)
}

fn image() -> From {
    From { image: Some("micro".into()), ..Default::default() }
}

fn checkpoint(name: &str, machine: &str, trigger: Trigger) -> Checkpoint {
    Checkpoint::new(NAMESPACE, name, CheckpointSpec { machine: Some(machine.into()), trigger, ..Default::default() })
}

/// As the gateway makes it.
fn at_message(machine: &str, turn: u64) -> Checkpoint {
    let mut checkpoint = checkpoint(&format!("{machine}-{turn:04}"), machine, Trigger::BetweenMessages);
    let session = Session { id: "s".into(), turn, request: format!("r{turn}") };
    let annotations = [(annotation::QUIESCENT, "true".to_owned()), (annotation::SESSION, serde_json::to_string(&session).unwrap())];
    checkpoint.metadata.annotations = Some(annotations.into_iter().map(|(name, value)| (name.to_owned(), value)).collect());
    checkpoint.metadata.finalizers = Some(vec![FINALIZER.into()]);
    checkpoint
}

impl Bench {
    async fn until<K: Kind>(&self, namespace: &str, name: &str, what: &str, holds: impl Fn(Option<&K>) -> bool) -> Option<K> {
        let mut changes = self.objects.store().revisions();
        let mut last = None;
        let reached = tokio::time::timeout(PATIENCE, async {
            loop {
                last = self.objects.get::<K>(namespace, name).await.unwrap();
                if holds(last.as_ref()) {
                    return;
                }
                changes.changed().await.unwrap();
            }
        })
        .await;
        assert!(reached.is_ok(), "{name} is not {what}: {last:#?}");
        last
    }

    async fn running(&self, machine: Machine) -> Machine {
        let name = machine.name().to_owned();
        self.objects.create(&machine).await.unwrap();
        let runs = |m: Option<&Machine>| m.is_some_and(|m| m.status.as_ref().is_some_and(|status| status.phase == Phase::Running));
        self.until(NAMESPACE, &name, "Running", runs).await.unwrap()
    }

    async fn in_phase(&self, name: &str, phase: CheckpointPhase) -> CheckpointStatus {
        let is = |c: Option<&Checkpoint>| c.is_some_and(|c| c.status.as_ref().is_some_and(|status| status.phase == phase));
        self.until(NAMESPACE, name, &format!("{phase:?}"), is).await.unwrap().status.unwrap()
    }

    async fn captured(&self, checkpoint: Checkpoint) -> CheckpointStatus {
        self.objects.create(&checkpoint).await.unwrap();
        self.in_phase(checkpoint.name(), CheckpointPhase::Ready).await
    }

    async fn gone<K: Kind>(&self, name: &str) {
        self.until::<K>(NAMESPACE, name, "gone", |found| found.is_none()).await;
    }

    async fn stop(self) {
        self.shutdown.cancel();
        self.controllers.stopped().await;
    }
}

fn ready(status: &CheckpointStatus) -> (String, String) {
    let condition = status.conditions.iter().find(|condition| condition.type_ == "Ready").unwrap();
    (condition.status.clone(), condition.reason.clone())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_asked_for_before_its_time_waits_and_comes() {
    let bench = bench().await;
    // In the wrong order: checkpoint, machine, hub.
    bench.objects.create(&checkpoint("by-hand", "a", Trigger::Requested)).await.unwrap();
    let import = CheckpointSpec { import: Some(Import::of_image("micro")), trigger: Trigger::Import, ..Default::default() };
    bench.objects.create(&Checkpoint::new(NAMESPACE, "first", import)).await.unwrap();
    let waits = |c: Option<&Checkpoint>, for_what: &str| {
        c.and_then(|c| c.status.as_ref()).and_then(|status| status.message.as_ref()).is_some_and(|message| message.contains(for_what))
    };
    bench.until(NAMESPACE, "by-hand", "waiting for a", |c| waits(c, "machine a does not exist")).await;
    bench.until(NAMESPACE, "first", "waiting for the hub", |c| waits(c, "hub default is not connected")).await;
    bench.objects.create(&machine("a", image(), 20)).await.unwrap();
    bench.until(NAMESPACE, "by-hand", "waiting for a VM", |c| waits(c, "machine a is not running yet")).await;
    bench.objects.create(&hub()).await.unwrap();
    let imported = bench.in_phase("first", CheckpointPhase::Ready).await;
    assert_eq!((imported.volumes.len(), imported.volumes[0].dataset.as_str()), (1, "tank/images/micro"));
    let status = bench.in_phase("by-hand", CheckpointPhase::Ready).await;
    assert_eq!(ready(&status), ("True".to_owned(), "Captured".to_owned()));
    let machine = bench.objects.get::<Machine>(NAMESPACE, "a").await.unwrap().unwrap();
    assert_eq!(status.machine_uid.as_deref(), Some(machine.uid()));
    assert_eq!(status.quiescent, Some(false), "the agent may have written");
    assert!(bench.objects.get::<Checkpoint>(NAMESPACE, "by-hand").await.unwrap().unwrap().has_finalizer(FINALIZER));
    // An import goes without its image.
    bench.objects.delete::<Checkpoint>(NAMESPACE, "first", None).await.unwrap();
    bench.gone::<Checkpoint>("first").await;
    assert!(bench.lab.datasets().iter().any(|name| name == "tank/images/micro@base"));
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn turns_follow_each_other_in_one_write_each_and_retention_keeps_the_newest() {
    let bench = bench().await;
    bench.objects.create(&hub()).await.unwrap();
    bench.running(machine("a", image(), 2)).await;
    let mut parent = None;
    for turn in 1..=5 {
        let status = bench.captured(at_message("a", turn)).await;
        assert_eq!((status.parent, status.quiescent, status.session.map(|session| session.turn)), (parent, Some(true), Some(turn)));
        parent = Some(format!("a-{turn:04}"));
    }
    for turn in 1..=3 {
        bench.gone::<Checkpoint>(&format!("a-{turn:04}")).await;
    }
    let (left, _) = bench.objects.list::<Checkpoint>(Some(NAMESPACE)).await.unwrap();
    assert_eq!(left.iter().map(Kind::name).collect::<Vec<_>>(), ["a-0004", "a-0005"]);
    assert_eq!(left[0].status.as_ref().unwrap().parent, None, "what it came after is gone");
    let snapshots = bench.lab.datasets().into_iter().filter(|name| name.contains("@av-")).count();
    assert_eq!(snapshots, 2, "what is not kept is not in the pool: {:?}", bench.lab.datasets());
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retention_that_is_changed_acts_by_itself_and_so_does_time() {
    let bench = bench().await;
    bench.objects.create(&hub()).await.unwrap();
    let mut machine = bench.running(machine("a", image(), 20)).await;
    for turn in 1..=4 {
        bench.captured(at_message("a", turn)).await;
    }
    loop {
        machine.spec.checkpoints.retention =
            Retention { keep_last: 1, keep_within: Some(GoDuration(Duration::from_secs(8))), keep_daily: Some(1), ..Retention::default() };
        match bench.objects.update(&machine).await {
            Ok(_) => break,
            Err(objects::Error::Conflict { .. }) => machine = bench.objects.get(NAMESPACE, "a").await.unwrap().unwrap(),
            Err(error) => panic!("{error}"),
        }
    }
    // Nothing but time passes.
    for turn in 1..=3 {
        bench.gone::<Checkpoint>(&format!("a-{turn:04}")).await;
    }
    let (left, _) = bench.objects.list::<Checkpoint>(Some(NAMESPACE)).await.unwrap();
    assert_eq!(left.iter().map(Kind::name).collect::<Vec<_>>(), ["a-0004"]);
    bench.stop().await;
}

/// The model pool says 64 KiB of each snapshot.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn above_max_bytes_the_oldest_go_until_the_pool_says_that_it_is_enough() {
    let bench = bench().await;
    bench.objects.create(&hub()).await.unwrap();
    let mut machine = machine("a", image(), 20);
    machine.spec.checkpoints.retention.max_bytes = Some(Bytes(2 * 65536));
    bench.running(machine).await;
    bench.captured(at_message("a", 1)).await;
    let mut forever = at_message("a", 2);
    forever.spec.keep = Keep::Forever;
    bench.captured(forever).await;
    bench.captured(at_message("a", 3)).await;
    bench.gone::<Checkpoint>("a-0001").await;
    // Measured by ZFS, and told.
    let measured = |taken: u64| move |m: Option<&Machine>| m.is_some_and(|m| m.status.as_ref().unwrap().checkpoint_bytes == Some(taken));
    bench.until(NAMESPACE, "a", "measured", measured(2 * 65536)).await;
    bench.captured(at_message("a", 4)).await;
    bench.gone::<Checkpoint>("a-0003").await;
    let (left, _) = bench.objects.list::<Checkpoint>(Some(NAMESPACE)).await.unwrap();
    assert_eq!(left.iter().map(Kind::name).collect::<Vec<_>>(), ["a-0002", "a-0004"], "the one that is to stay stays, whatever its age");
    // Nothing that may go is left: a person is told, and nothing goes.
    let mut forever = at_message("a", 5);
    forever.spec.keep = Keep::Forever;
    bench.captured(forever).await;
    bench.gone::<Checkpoint>("a-0004").await;
    let mut forever = at_message("a", 6);
    forever.spec.keep = Keep::Forever;
    bench.captured(forever).await;
    bench.until(NAMESPACE, "a", "measured", measured(3 * 65536)).await;
    tokio::time::timeout(PATIENCE, async {
        loop {
            let resource = autovibe::admission::resources().iter().find(|r| r.plural == "events" && r.group.is_empty()).unwrap();
            let page = bench.objects.read_page(resource, &Default::default()).await.unwrap();
            if page.items.iter().any(|event| event.document["reason"] == "CheckpointsExceedMaxBytes") {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await
    .expect("an Event says that nothing may go");
    let (left, _) = bench.objects.list::<Checkpoint>(Some(NAMESPACE)).await.unwrap();
    assert_eq!(left.iter().map(Kind::name).collect::<Vec<_>>(), ["a-0002", "a-0005", "a-0006"]);
    bench.stop().await;
}

/// One write of the status from Pending to Ready: the log of changes shows each.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_capture_is_one_write() {
    let bench = bench().await;
    bench.objects.create(&hub()).await.unwrap();
    bench.running(machine("a", image(), 20)).await;
    let before = *bench.objects.store().revisions().borrow();
    bench.captured(at_message("a", 1)).await;
    let (changes, _) = bench.objects.store().changes("checkpoints.autovibe.dev", before, 100).await.unwrap();
    let phases: Vec<_> = changes.iter().map(|change| change.document["status"]["phase"].as_str().unwrap_or("none").to_owned()).collect();
    assert_eq!(phases, ["none", "Ready"]);
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_let_go_first_is_never_taken_back() {
    let bench = bench().await;
    bench.objects.create(&hub()).await.unwrap();
    bench.running(machine("a", image(), 20)).await;
    for _ in 0..2 {
        bench.lab.fail_next(Call::Zfs("snapshot"), 500);
    }
    bench.objects.create(&at_message("a", 1)).await.unwrap();
    let failed = |c: Option<&Checkpoint>| c.is_some_and(|c| c.status.as_ref().is_some_and(|status| status.message.is_some()));
    let mut waiting = bench.until::<Checkpoint>(NAMESPACE, "a-0001", "told why it waits", failed).await.unwrap();
    assert_eq!(ready(waiting.status.as_ref().unwrap()), ("False".to_owned(), "NotCaptured".to_owned()));
    waiting.status.as_mut().unwrap().released = true;
    bench.objects.update_status(&waiting).await.unwrap();
    let status = bench.in_phase("a-0001", CheckpointPhase::Ready).await;
    assert_eq!((status.released, status.quiescent), (true, Some(false)));
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_base_stays_until_nothing_needs_it_and_then_goes_by_itself() {
    let bench = bench().await;
    bench.objects.create(&hub()).await.unwrap();
    bench.running(machine("a", image(), 20)).await;
    let base = bench.captured(checkpoint("base", "a", Trigger::Requested)).await;
    let mut fork = machine("b", From { checkpoint: Some("base".into()), ..Default::default() }, 20);
    fork.spec.on_terminate = OnTerminate::Discard;
    let fork = bench.running(fork).await;
    assert_eq!(fork.status.unwrap().spawned_from.as_deref(), Some("base"));
    let child = bench.captured(checkpoint("child", "b", Trigger::Requested)).await;
    assert_eq!(child.parent.as_deref(), Some("base"));

    bench.objects.delete::<Checkpoint>(NAMESPACE, "base", None).await.unwrap();
    let status = bench.in_phase("base", CheckpointPhase::Deleting).await;
    let message = status.message.unwrap();
    assert!(message.contains("machine b lives on a clone of it") && message.contains("checkpoint child"), "{message}");
    let snapshot = format!("{}@{}", base.volumes[0].dataset, base.volumes[0].snapshot);
    assert!(bench.lab.datasets().contains(&snapshot));

    bench.objects.delete::<Machine>(NAMESPACE, "b", None).await.unwrap();
    bench.gone::<Machine>("b").await;
    assert!(bench.lab.datasets().contains(&snapshot), "its child lies on a clone of it");
    bench.objects.delete::<Checkpoint>(NAMESPACE, "child", None).await.unwrap();
    bench.gone::<Checkpoint>("child").await;
    bench.gone::<Checkpoint>("base").await;
    let left: Vec<_> = bench.lab.datasets().into_iter().filter(|name| name.contains("@av-") || name.contains("/m-")).collect();
    assert!(left.is_empty(), "snapshots and kept disks of what is gone: {left:?}");
    bench.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_budget_waits_for_its_parent_and_says_so() {
    let bench = bench().await;
    let money = Money { amount: NanoUsd(200_000_000_000), currency: Currency::USD };
    let limits = BudgetLimits { money: Some(money), api_calls: None };
    let spec = BudgetSpec { parent_ref: Some(ParentRef { name: "company".into() }), limits };
    bench.objects.create(&Budget::new(NAMESPACE, "team", spec)).await.unwrap();
    let reason = |b: Option<&Budget>, reason: &str| {
        b.and_then(|b| b.status.as_ref()).is_some_and(|status| status.conditions.iter().any(|c| c.type_ == "Ready" && c.reason == reason))
    };
    bench.until(NAMESPACE, "team", "waiting for company", |b| reason(b, "ParentMissing")).await;
    bench.objects.create(&Budget::new(NAMESPACE, "company", BudgetSpec::default())).await.unwrap();
    let team = bench.until(NAMESPACE, "team", "Ready", |b| reason(b, "Ready")).await.unwrap();
    assert_eq!(team.status.unwrap().spent.as_deref(), Some("$0.00 of $200.00"));
    bench.stop().await;
}
