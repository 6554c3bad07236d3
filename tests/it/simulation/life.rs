//! One Machine's life from an image to its final checkpoint, as a user asks for it, whatever becomes of the hubs; and what its
//! end must look like. And the life of one that fails, is put back to its newest checkpoint, and fails again.

use super::gate::{Fault, Plan, Point};
use super::planted::Bug;
use super::stage::{Stage, simulate};
use autovibe::api::checkpoint::CheckpointPhase;
use autovibe::api::machine::{Phase, TerminationReason};
use autovibe::api::{Kind as _, Machine};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

pub(super) fn life() -> serde_json::Value {
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
}

impl Kind {
    fn spec(self) -> serde_json::Value {
        let mut spec = life();
        if self == Self::PutBack {
            spec["goal"]["verify"]["command"] = json!(["sim-turns", "9"]);
            spec["retry"] = json!({ "limit": 1, "mode": "Fork" });
        }
        spec
    }

    fn end(self) -> (Phase, TerminationReason) {
        match self {
            Self::Plain => (Phase::Succeeded, TerminationReason::Completed),
            Self::PutBack => (Phase::Failed, TerminationReason::VerifyFailed),
        }
    }

    fn disks(self) -> u32 {
        match self {
            Self::Plain => 1,
            Self::PutBack => 2,
        }
    }
}

/// The Machine's end is that of a life without faults, and nothing else of it is left.
async fn assert_same_end(kind: Kind, stage: &Stage, machine: &Machine, died: usize, what: &str) {
    let state = machine.status.clone().unwrap();
    let (phase, reason) = kind.end();
    assert_eq!((state.phase, state.termination_reason), (phase, Some(reason)), "{what}: {state:?}");
    stage.invariants.assert(what);
    let expected: Vec<String> = (0..kind.disks()).map(|disk| format!("tank/autovibe/m-{}-disk-{disk}", machine.uid())).collect();
    let disks: Vec<String> = stage.lab.datasets().into_iter().filter(|name| name.contains("-disk-") && !name.contains('@')).collect();
    let own = disks.into_iter().filter(|name| !name.contains("-1001-"));
    assert_eq!(own.collect::<Vec<_>>(), expected, "{what}: each disk that it had, kept");
    assert_eq!(stage.lab.vms().into_keys().collect::<Vec<_>>(), [super::invariants::FOREIGN], "{what}: no VM but someone else's");
    let hub = stage.hub();
    assert!(hub.store.vmid_leases("default").await.unwrap().is_empty(), "{what}");
    // Each checkpoint that is Ready has its snapshot, with its hold; the final one is the Machine's.
    let of_it = |name: &String| expected.iter().any(|disk| name.starts_with(&format!("{disk}@")));
    let snapshots: BTreeSet<String> = stage.lab.datasets().into_iter().filter(of_it).collect();
    let mut recorded = BTreeSet::new();
    for checkpoint in stage.checkpoints().await {
        let taken = checkpoint.status.clone().unwrap_or_default();
        if taken.phase == CheckpointPhase::Failed && (taken.released || died > 0) && taken.volumes.is_empty() {
            // It could not be had in time, and says so: the answer behind it was let go, or ended with the hub that held it.
            continue;
        }
        assert_eq!(taken.phase, CheckpointPhase::Ready, "{what}: {} {taken:?}", checkpoint.name());
        for volume in &taken.volumes {
            let number = volume.dataset.rsplit_once("-disk-").map_or("", |(_, number)| number);
            let name = format!("tank/autovibe/m-{}-disk-{number}@{}", machine.uid(), volume.snapshot);
            assert!(snapshots.contains(&name), "{what}: {name} is gone; there are {snapshots:?}");
            assert!(stage.lab.holds(&name) > 0, "{what}: nobody holds {name}");
            recorded.insert(name);
        }
    }
    assert!(recorded.is_subset(&snapshots), "{what}");
    assert_eq!(stage.lab.holds("tank/images/micro@base"), stage.base_holds, "{what}: a fork does not let its base go");
    assert!(state.final_checkpoint.is_some_and(|name| !name.is_empty()), "{what}");
    // Each model call was charged once.
    let account = format!("machine/{}", machine.uid());
    let (balance, audit) = (hub.store.balance(&account).await.unwrap(), hub.store.audit(&account).await.unwrap());
    assert_eq!(balance, audit, "{what}");
    assert_eq!(balance.reserved, 0, "{what}: nothing stays reserved");
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

/// Likewise, of one that is put back.
pub(super) fn put_back(what: &str, seed: u64, plans: Vec<Plan>) -> Lived {
    live_as(Kind::PutBack, None, what, seed, plans)
}

/// Likewise, and each of the hubs has a bug.
pub(super) fn live_with(bug: Option<Bug>, what: &str, seed: u64, plans: Vec<Plan>) -> Lived {
    live_as(Kind::Plain, bug, what, seed, plans)
}

fn live_as(kind: Kind, bug: Option<Bug>, what: &str, seed: u64, plans: Vec<Plan>) -> Lived {
    let what = what.to_owned();
    simulate(seed, async move || {
        let mut plans = plans.into_iter();
        let mut stage = Stage::with(bug, plans.next().unwrap_or_default()).await;
        let (mut died, mut struck) = (0, BTreeMap::new());
        loop {
            let gate = stage.hub().gate.clone();
            let story = async {
                stage.create("a", kind.spec()).await;
                stage.until_finished("a").await;
            };
            let fell = tokio::select! {
                biased;
                () = gate.died() => true,
                () = story => false,
            };
            for (fault, times) in gate.struck() {
                *struck.entry(fault).or_default() += times;
            }
            if !fell {
                break;
            }
            died += 1;
            if let Some(last) = gate.circle() {
                panic!("{what}: the hub goes in a circle, at last: {last:#?}");
            }
            stage.kill().await;
            stage.start(plans.next().unwrap_or_default()).await;
        }
        let gate = &stage.hub().gate;
        let points = gate.points();
        gate.calm();
        let machine = stage.until_finished("a").await;
        stage.settle().await;
        assert_same_end(kind, &stage, &machine, died, &what).await;
        stage.assert_quiet(&what).await;
        stage.assert_one_goes(&what).await;
        stage.assert_all_goes(&what).await;
        Lived { died, struck, points }
    })
}

/// Runs `one` for each number below `count`, on some threads; tells of the first that fail.
pub(super) fn each(count: usize, one: impl Fn(usize) + Sync) {
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
