//! A hub that dies at any point of a life, once and twice, comes to the same end.

use super::gate::{Plan, Point};
use super::stage::{Stage, simulate};
use autovibe::api::checkpoint::CheckpointPhase;
use autovibe::api::machine::{Phase, TerminationReason};
use autovibe::api::{Kind, Machine};
use serde_json::json;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};

fn life() -> serde_json::Value {
    json!({
        "from": { "image": "micro" },
        "goal": { "prompt": "work", "verify": { "command": ["sim-turns", "2"] } },
        "agent": { "type": "ClaudeCode", "model": "claude-sonnet-4-5" },
    })
}

fn dying_at(point: usize) -> Plan {
    Plan { die_at: Some(point), ..Plan::default() }
}

/// The Machine's end is that of a life without faults, and nothing else of it is left.
async fn assert_same_end(stage: &Stage, machine: &Machine, what: &str) {
    let state = machine.status.clone().unwrap();
    assert_eq!((state.phase, state.termination_reason), (Phase::Succeeded, Some(TerminationReason::Completed)), "{what}: {state:?}");
    stage.invariants.assert(what);
    let disk = format!("tank/autovibe/m-{}-disk-0", machine.uid());
    let disks: Vec<String> = stage.lab.datasets().into_iter().filter(|name| name.contains("-disk-") && !name.contains('@')).collect();
    assert_eq!(disks.iter().filter(|name| !name.contains("-1001-")).collect::<Vec<_>>(), [&disk], "{what}: one disk, kept");
    assert_eq!(stage.lab.vms().into_keys().collect::<Vec<_>>(), [super::invariants::FOREIGN], "{what}: no VM but someone else's");
    let hub = stage.hub();
    assert!(hub.store.vmid_leases("default").await.unwrap().is_empty(), "{what}");
    // Each checkpoint that is Ready has its snapshot, with its hold; the final one is the Machine's.
    let snapshots: BTreeSet<String> = stage.lab.datasets().into_iter().filter(|name| name.starts_with(&format!("{disk}@"))).collect();
    let mut recorded = BTreeSet::new();
    for checkpoint in stage.checkpoints().await {
        let taken = checkpoint.status.clone().unwrap_or_default();
        assert_eq!(taken.phase, CheckpointPhase::Ready, "{what}: {} {taken:?}", checkpoint.name());
        for volume in &taken.volumes {
            let name = format!("{disk}@{}", volume.snapshot);
            assert!(snapshots.contains(&name), "{what}: {name} is gone; there are {snapshots:?}");
            assert!(stage.lab.holds(&name) > 0, "{what}: nobody holds {name}");
            recorded.insert(name);
        }
    }
    assert_eq!(recorded, snapshots, "{what}: each snapshot is of a checkpoint");
    assert!(state.final_checkpoint.is_some_and(|name| !name.is_empty()), "{what}");
    // Each model call was charged once.
    let account = format!("machine/{}", machine.uid());
    let (balance, audit) = (hub.store.balance(&account).await.unwrap(), hub.store.audit(&account).await.unwrap());
    assert_eq!(balance, audit, "{what}");
    assert_eq!(balance.reserved, 0, "{what}: nothing stays reserved");
}

/// A life whose hubs die at these points, each counted from its own hub's start. Returns how many of them were reached, and
/// the points that the last hub passed.
fn lives_through(deaths: &[usize]) -> (usize, Vec<Point>) {
    let deaths = deaths.to_vec();
    simulate(async move || {
        let what = format!("died at {deaths:?}");
        let mut plans = deaths.into_iter().map(dying_at);
        let mut stage = Stage::new(plans.next().unwrap_or_default()).await;
        let mut died = 0;
        loop {
            let gate = stage.hub().gate.clone();
            let story = async {
                stage.create("a", life()).await;
                stage.until_finished("a").await;
            };
            let fell = tokio::select! {
                biased;
                () = gate.died() => true,
                () = story => false,
            };
            if !fell {
                break;
            }
            died += 1;
            stage.kill().await;
            stage.start(plans.next().unwrap_or_default()).await;
        }
        let machine = stage.until_finished("a").await;
        let points = stage.hub().gate.points();
        assert_same_end(&stage, &machine, &what).await;
        stage.assert_quiet(&what).await;
        (died, points)
    })
}

/// Runs `one` for each number below `count`, on some threads.
fn each(count: usize, one: impl Fn(usize) + Sync) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= count {
                        break;
                    }
                    one(number);
                }
            });
        }
    });
}

#[test]
fn a_life_is_the_same_in_each_run() {
    let first = lives_through(&[]).1;
    assert!(first.len() > 150, "{}", first.len());
    let second = lives_through(&[]).1;
    let differs = first.iter().zip(&second).position(|(first, second)| first != second);
    assert_eq!(differs.map(|at| (&first[at], &second[at])), None);
    assert_eq!(first.len(), second.len());
}

#[test]
fn a_hub_that_dies_at_any_point_comes_to_the_same_end() {
    let points = lives_through(&[]).1;
    let began = std::time::Instant::now();
    each(points.len(), |point| {
        let (died, _) = lives_through(&[point]);
        assert_eq!(died, 1, "point {point} of {}, {:?}, was not reached", points.len(), points[point]);
    });
    eprintln!("{} points, {:?}", points.len(), began.elapsed());
}

#[test]
fn timing() {
    for _ in 0..4 {
        simulate(async || {
            let t = std::time::Instant::now();
            let stage = Stage::new(Plan::default()).await;
            let a = t.elapsed();
            stage.create("a", life()).await;
            let machine = stage.until_finished("a").await;
            let b = t.elapsed();
            assert_same_end(&stage, &machine, "").await;
            let c = t.elapsed();
            stage.assert_quiet("").await;
            eprintln!("{a:?} {:?} {:?} {:?}", b - a, c - b, t.elapsed() - c);
        });
    }
}
