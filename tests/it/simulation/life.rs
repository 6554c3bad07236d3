//! One Machine's life from an image to its final checkpoint, as a user asks for it, whatever becomes of the hubs; and what its
//! end must look like. And lives of one that fails, is put back to its newest checkpoint, and fails again; of one that is suspended
//! while it works; and of one of which two are forked while it works.

use super::gate::{Fault, Plan, Point};
use super::planted::Bug;
use super::stage::{Stage, phase, simulate, simulate_on_postgres};
use autovibe::api::checkpoint::CheckpointPhase;
use autovibe::api::machine::{OperatingMode, Phase, TerminationReason};
use autovibe::api::{Checkpoint, Kind as _, Machine};
use serde_json::{Value, json};
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

pub(super) fn life() -> Value {
    json!({
        "from": { "image": "micro" },
        "goal": { "prompt": "work", "verify": { "command": ["sim-turns", "2"] } },
        "agent": { "type": "ClaudeCode", "model": "claude-sonnet-4-5" },
    })
}

/// Which life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// To success.
    Plain,
    /// Its verification never passes: it is put back once, and fails.
    PutBack,
    /// Its user suspends it while it works, and lets it go on.
    Suspended,
    /// Likewise, with its memory.
    Kept,
    /// Two are forked from what it is while it works.
    Forked,
}

impl Kind {
    fn spec(self) -> Value {
        let mut spec = life();
        match self {
            Self::Plain => {}
            Self::PutBack => {
                spec["goal"]["verify"]["command"] = json!(["sim-turns", "9"]);
                spec["retry"] = json!({ "limit": 1, "mode": "Fork" });
            }
            // It works for so long that it has not ended when it is asked for something.
            Self::Suspended | Self::Kept | Self::Forked => spec["goal"]["prompt"] = json!("work\n#sim pace=60000"),
        }
        if self == Self::Kept {
            spec["suspend"] = json!({ "memory": "Keep" });
        }
        spec
    }

    fn end(self) -> (Phase, TerminationReason) {
        match self {
            Self::PutBack => (Phase::Failed, TerminationReason::VerifyFailed),
            _ => (Phase::Succeeded, TerminationReason::Completed),
        }
    }

    /// How many disks each of its Machines has had.
    fn disks(self) -> u32 {
        if self == Self::PutBack { 2 } else { 1 }
    }

    fn machines(self) -> &'static [&'static str] {
        if self == Self::Forked { &["a", "b", "c"] } else { &["a"] }
    }

    /// How often the agent of a Machine was launched, and went on from its memory.
    fn launches(self) -> (u32, u32) {
        match self {
            Self::Plain | Self::Forked => (1, 0),
            Self::PutBack | Self::Suspended => (2, 0),
            Self::Kept => (1, 1),
        }
    }

    /// How many calls to a model a Machine pays for.
    fn calls(self) -> u64 {
        if self == Self::PutBack { 3 } else { 2 }
    }

    /// How many more, beside those of hubs that die: its agent is ended with one under way.
    fn cut(self) -> u64 {
        u64::from(self == Self::Suspended)
    }

    /// What its user does, beginning again where the last hub died; the user knows whether it `stood_still`.
    async fn by_its_user(self, stage: &Stage, stood_still: &Cell<bool>) {
        stage.create("a", self.spec()).await;
        match self {
            Self::Plain | Self::PutBack => {}
            Self::Suspended | Self::Kept => {
                if !stood_still.get() {
                    let is_asked = |a: &Machine| a.spec.operating_mode == OperatingMode::Suspended;
                    stage.until_it("works", |a| phase(a) == Phase::Running || is_asked(a) || phase(a).is_finished()).await;
                    stage.set_mode("a", OperatingMode::Suspended).await;
                    stage.until_it("stands still", |a| phase(a) == Phase::Suspended || phase(a).is_finished()).await;
                    stood_still.set(true);
                }
                stage.set_mode("a", OperatingMode::Running).await;
            }
            Self::Forked => {
                stage.until_it("works", |a| phase(a) == Phase::Running || phase(a).is_finished()).await;
                for name in ["b", "c"] {
                    let mut fork = life();
                    fork["from"] = json!({ "machine": { "name": "a", "capture": "Now" } });
                    stage.create(name, fork).await;
                }
            }
        }
        for name in self.machines() {
            stage.until_finished(name).await;
        }
    }
}

fn launches(machine: &Machine) -> (u32, u32) {
    machine.status.as_ref().and_then(|status| status.agent.as_ref()).map_or((0, 0), |agent| (agent.launches, agent.resumed))
}

/// The end is that of a life without faults, and nothing else of it is left.
async fn assert_same_end(kind: Kind, stage: &Stage, lived: &Lived, what: &str) {
    let mut machines = Vec::new();
    for name in kind.machines() {
        machines.push(stage.until_finished(name).await);
    }
    stage.invariants.assert(what);
    let disks_of = |uid: &str| -> Vec<String> { (0..kind.disks()).map(|disk| format!("tank/autovibe/m-{uid}-disk-{disk}")).collect() };
    let expected: BTreeSet<String> = machines.iter().flat_map(|machine| disks_of(machine.uid())).collect();
    assert_eq!(stage.disks(), expected, "{what}: each disk that it had, kept, and no memory");
    assert_eq!(stage.lab.vms().into_keys().collect::<Vec<_>>(), [super::invariants::FOREIGN], "{what}: no VM but someone else's");
    let hub = stage.hub();
    assert!(hub.store.vmid_leases("default").await.unwrap().is_empty(), "{what}");
    assert_eq!(stage.lab.holds("tank/images/micro@base"), stage.base_holds, "{what}: a fork does not let its base go");
    let checkpoints = stage.checkpoints().await;
    for machine in &machines {
        let (what, state) = (format!("{what}: {}", machine.name()), machine.status.clone().unwrap());
        let (phase, reason) = kind.end();
        assert_eq!((state.phase, state.termination_reason), (phase, Some(reason)), "{what}: {state:?}");
        assert!(state.final_checkpoint.as_ref().is_some_and(|name| !name.is_empty()), "{what}");
        let of_it = checkpoints.iter().filter(|checkpoint| checkpoint.spec.machine.as_deref() == Some(machine.name()));
        assert_kept(stage, &disks_of(machine.uid()), of_it, lived.died, &what);
        // Each model call was charged once.
        let account = format!("machine/{}", machine.uid());
        let (balance, audit) = (hub.store.balance(&account).await.unwrap(), hub.store.audit(&account).await.unwrap());
        assert_eq!((balance, balance.reserved), (audit, 0), "{what}: nothing stays reserved");
        if lived.struck.is_empty() {
            // A hub that dies with one under way pays for what it cannot give any more, and the agent that waits for it ends.
            let deaths = u32::try_from(lived.died).unwrap();
            let ((launches, resumed), (expected, from_memory), calls) = (launches(machine), kind.launches(), state.usage.api_calls);
            assert_eq!(resumed, from_memory, "{what}: {state:?}");
            assert!((expected..=expected + deaths).contains(&launches), "{what}: launched {launches} times");
            let most = kind.calls() + kind.cut() + u64::from(deaths);
            assert!((kind.calls()..=most).contains(&calls), "{what}: paid for {calls} calls");
        }
    }
}

/// Each checkpoint that is Ready has its snapshot on these disks, with its hold.
fn assert_kept<'a>(stage: &Stage, disks: &[String], checkpoints: impl Iterator<Item = &'a Checkpoint>, died: usize, what: &str) {
    let of_it = |name: &String| disks.iter().any(|disk| name.starts_with(&format!("{disk}@")));
    let snapshots: BTreeSet<String> = stage.lab.datasets().into_iter().filter(of_it).collect();
    for checkpoint in checkpoints {
        let taken = checkpoint.status.clone().unwrap_or_default();
        if taken.phase == CheckpointPhase::Failed && (taken.released || died > 0) && taken.volumes.is_empty() {
            // It could not be had in time, and says so: the answer behind it was let go, or ended with the hub that held it.
            continue;
        }
        assert_eq!(taken.phase, CheckpointPhase::Ready, "{what}: {} {taken:?}", checkpoint.name());
        for volume in &taken.volumes {
            let number = volume.dataset.rsplit_once("-disk-").map_or("", |(_, number)| number);
            let disk = disks.iter().find(|disk| disk.ends_with(&format!("-disk-{number}")));
            let name = format!("{}@{}", disk.map_or("", String::as_str), volume.snapshot);
            assert!(snapshots.contains(&name), "{what}: {name} is gone; there are {snapshots:?}");
            assert!(stage.lab.holds(&name) > 0, "{what}: nobody holds {name}");
        }
    }
}

/// What became of a life.
pub(super) struct Lived {
    /// How many hubs died by their plans.
    pub(super) died: usize,
    /// How often each fault struck.
    pub(super) struck: BTreeMap<Fault, usize>,
    /// The points that the last hub passed until the Machine's end.
    pub(super) points: Vec<Point>,
}

/// Lives through hubs with these plans, one after the other; the last one lives on without a plan. Asserts that the end is
/// that of a life without faults, and that then nothing more happens.
pub(super) fn live(what: &str, seed: u64, plans: Vec<Plan>) -> Lived {
    live_as(Kind::Plain, None, what, seed, plans)
}

/// Likewise, and each of the hubs has a bug.
pub(super) fn live_with(bug: Option<Bug>, what: &str, seed: u64, plans: Vec<Plan>) -> Lived {
    live_as(Kind::Plain, bug, what, seed, plans)
}

/// Likewise, of another kind.
pub(super) fn live_as(kind: Kind, bug: Option<Bug>, what: &str, seed: u64, plans: Vec<Plan>) -> Lived {
    let what = what.to_owned();
    simulate(seed, async move || {
        let mut plans = plans.into_iter();
        let stage = Stage::with(bug, plans.next().unwrap_or_default()).await;
        live_on(stage, kind, &what, plans).await
    })
}

/// Likewise, on PostgreSQL, if there is one.
pub(super) fn live_on_postgres(kind: Kind, what: &str, plans: Vec<Plan>) -> Option<Lived> {
    let what = what.to_owned();
    simulate_on_postgres(0, async move |database| {
        let mut plans = plans.into_iter();
        let stage = Stage::on(Some(database), None, plans.next().unwrap_or_default()).await;
        live_on(stage, kind, &what, plans).await
    })
}

async fn live_on(mut stage: Stage, kind: Kind, what: &str, mut plans: impl Iterator<Item = Plan>) -> Lived {
    let stood_still = Cell::new(false);
    let mut lived = Lived { died: 0, struck: BTreeMap::new(), points: Vec::new() };
    loop {
        let gate = stage.hub().gate.clone();
        let fell = tokio::select! {
            biased;
            () = gate.died() => true,
            () = kind.by_its_user(&stage, &stood_still) => false,
        };
        for (fault, times) in gate.struck() {
            *lived.struck.entry(fault).or_default() += times;
        }
        if !fell {
            break;
        }
        lived.died += 1;
        if let Some(last) = gate.circle() {
            panic!("{what}: the hub goes in a circle, at last: {last:#?}");
        }
        stage.kill().await;
        stage.start(plans.next().unwrap_or_default()).await;
    }
    let gate = &stage.hub().gate;
    lived.points = gate.points();
    gate.calm();
    stage.settle().await;
    assert_same_end(kind, &stage, &lived, what).await;
    stage.assert_quiet(what).await;
    stage.assert_one_goes(what).await;
    stage.assert_all_goes(what).await;
    lived
}

/// Runs `one` for each number below `count`, on some threads; tells of the first that fail. `AUTOVIBE_CASE=n` runs one alone.
pub(super) fn each(count: usize, one: impl Fn(usize) + Sync) {
    if let Some(case) = super::given("AUTOVIBE_CASE") {
        return one(case);
    }
    let (next, failed) = (AtomicUsize::new(0), Mutex::new(BTreeMap::new()));
    let threads = super::given("AUTOVIBE_THREADS").unwrap_or(2);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count || failed.lock().unwrap().len() >= 5 {
                        break;
                    }
                    if let Err(panic) = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| one(number))) {
                        let text = panic.downcast_ref::<String>().map_or("a panic", String::as_str).to_owned();
                        failed.lock().unwrap().insert(number, text);
                    }
                }
            });
        }
    });
    let failed = failed.into_inner().unwrap();
    let told: Vec<String> = failed.iter().map(|(number, text)| format!("case {number}: {text}")).collect();
    assert!(failed.is_empty(), "{} of {count}:\n{}", failed.len(), told.join("\n"));
}
