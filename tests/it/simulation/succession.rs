//! A7: a Machine is deleted at any point of its life, and another of its name is made as soon as that can be. What the hub still
//! does for the first one never touches the second one, which lives as if there had been none before it.

use super::gate::Plan;
use super::life::{each, life, live};
use super::stage::{NAMESPACE, Stage, phase, simulate};
use autovibe::api::machine::{Phase, TerminationReason};
use autovibe::api::{Kind, Machine};
use std::time::Duration;

/// How the first one goes.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Goes {
    /// Its finalizer lets it go once nothing of it is left.
    InOrder,
    /// A person removes its finalizer, and it is gone at once: the hub's pass is that of a Machine that is no more.
    ByForce,
}

async fn delete(stage: &Stage, uid: &str, goes: Goes) {
    let objects = &stage.hub().objects;
    // Whoever lost a race for the object tries again.
    for _ in 0..100 {
        let found = objects.get::<Machine>(NAMESPACE, "a").await.unwrap().filter(|found| found.uid() == uid);
        let Some(mut found) = found else { return };
        if !found.is_deleting() {
            objects.delete::<Machine>(NAMESPACE, "a", Some(uid)).await.ok();
            if goes == Goes::InOrder {
                return;
            }
        } else if goes == Goes::ByForce {
            found.metadata.finalizers = None;
            objects.update(&found).await.ok();
        } else {
            return;
        }
    }
    panic!("it does not go");
}

/// `false` while the first one is there.
async fn make(stage: &Stage, first: &str) -> bool {
    stage.create("a", life()).await;
    stage.hub().objects.get::<Machine>(NAMESPACE, "a").await.unwrap().is_some_and(|found| found.uid() != first)
}

/// Deletes the first one at a point of its life; `false` when that was over before.
fn succeeded(point: usize, goes: Goes) -> bool {
    simulate(0, async move || {
        let what = format!("gone {goes:?} at point {point}");
        let stage = Stage::with(None, Plan { meet_at: Some(point), ..Plan::default() }).await;
        let gate = stage.hub().gate.clone();
        stage.create("a", life()).await;
        let first = stage.hub().objects.get::<Machine>(NAMESPACE, "a").await.unwrap().unwrap();
        let met = tokio::select! {
            biased;
            () = gate.met() => true,
            _ = stage.until_finished("a") => false,
        };
        if !met {
            return false;
        }
        delete(&stage, first.uid(), goes).await;
        let mut made = make(&stage, first.uid()).await;
        gate.go_on();
        while !made {
            tokio::time::sleep(Duration::from_millis(20)).await;
            made = make(&stage, first.uid()).await;
        }
        let second = stage
            .until::<Machine>(&format!("{what}: the second one is finished"), |machine| {
                machine.uid() != first.uid() && phase(machine).is_finished()
            })
            .await;
        stage.settle().await;
        let state = second.status.clone().unwrap();
        assert_eq!((state.phase, state.termination_reason), (Phase::Succeeded, Some(TerminationReason::Completed)), "{what}: {state:?}");
        stage.invariants.assert(&what);
        let disk = format!("tank/autovibe/m-{}-disk-0", second.uid());
        assert!(stage.lab.datasets().contains(&disk), "{what}: its disk is kept: {:?}", stage.lab.datasets());
        let store = &stage.hub().store;
        let leases = store.vmid_leases("default").await.unwrap();
        assert!(!leases.iter().any(|lease| lease.machine_uid == second.uid()), "{what}: {leases:?}");
        let account = format!("machine/{}", second.uid());
        let (balance, audit) = (store.balance(&account).await.unwrap(), store.audit(&account).await.unwrap());
        assert_eq!((balance, balance.reserved), (audit, 0), "{what}");
        if goes == Goes::InOrder {
            assert!(leases.is_empty(), "{what}: {leases:?}");
            assert_eq!(stage.lab.vms().into_keys().collect::<Vec<_>>(), [super::invariants::FOREIGN], "{what}");
            stage.assert_quiet(&what).await;
            stage.assert_all_goes(&what).await;
        }
        true
    })
}

/// At every `step`-th point.
fn at_each(step: usize) {
    let points = live("none was deleted", 0, vec![]).points.len();
    each(2 * points.div_ceil(step), |case| {
        let goes = if case % 2 == 0 { Goes::InOrder } else { Goes::ByForce };
        assert!(succeeded(case / 2 * step, goes), "point {} of {points} was not reached", case / 2 * step);
    });
    eprintln!("{points} points, at each {step}");
}

#[test]
fn a_machine_of_the_same_name_is_another_one() {
    at_each(9);
}

#[test]
#[ignore = "a minute and more; docs/testing.md"]
fn a_machine_of_the_same_name_is_another_one_at_any_point() {
    at_each(1);
}
