//! A user deletes the Machine in the middle of its life, and the hub may die while it puts things away.

use super::gate::{Moment, Plan};
use super::life::{each, life};
use super::stage::{NAMESPACE, Stage, simulate};
use autovibe::api::Machine;
use autovibe::objects;
use std::sync::Arc;
use tokio::sync::Notify;

/// Deletes the Machine right before a call; the hub dies so many points after that, or lives on.
fn deleted(what: &str, call: usize, dies_after: Option<usize>) {
    let what = what.to_owned();
    simulate(0, async move || {
        let now: Arc<Notify> = Arc::default();
        let told = now.clone();
        let fault = move |number: usize, _: &str| {
            if number == call {
                told.notify_one();
            }
            None
        };
        let mut stage = Stage::with(None, Plan { fault: Some(Box::new(fault)), ..Plan::default() }).await;
        stage.create("a", life()).await;
        now.notified().await;
        match stage.hub().objects.delete::<Machine>(NAMESPACE, "a", None).await {
            Ok(()) | Err(objects::Error::NotFound { .. }) => {}
            Err(error) => panic!("{what}: {error}"),
        }
        if let Some(points) = dies_after {
            let gate = stage.hub().gate.clone();
            gate.die_after(points);
            // There may not be so many left.
            tokio::select! {
                biased;
                () = gate.died() => {}
                () = stage.settle() => {}
            }
            stage.kill().await;
            stage.start(Plan::default()).await;
        }
        stage.settle().await;
        let left = stage.hub().objects.list::<Machine>(Some(NAMESPACE)).await.unwrap().0;
        assert!(left.is_empty(), "{what}: {:?}", left[0].status);
        assert_eq!(stage.lab.vms().into_keys().collect::<Vec<_>>(), [super::invariants::FOREIGN], "{what}: no VM but someone else's");
        assert!(stage.hub().store.vmid_leases("default").await.unwrap().is_empty(), "{what}");
        assert_eq!(stage.lab.holds("tank/images/micro@base"), stage.base_holds, "{what}: its fork does not let its base go");
        stage.assert_quiet(&what).await;
        stage.assert_all_goes(&what).await;
    });
}

#[test]
fn a_machine_that_is_deleted_at_any_point_goes_whole() {
    let points = super::life::live("no fault", 0, vec![]).points;
    let calls = points.iter().filter(|point| point.moment == Moment::BeforeSend).count();
    each(calls * 2, |case| {
        // Spread, so that all distances come with all parts of a life.
        let (call, dies_after) = (case / 2 + 1, (case % 2 == 1).then_some(case * 7919 % 40));
        deleted(&format!("deleted before call {call}, died {dies_after:?} points after"), call, dies_after);
    });
}

/// The hub dies with a hold on the base, and no clone of it.
#[test]
fn a_machine_that_is_deleted_before_its_disk_was_cloned_lets_its_base_go() {
    let points = super::life::live("no fault", 0, vec![]).points;
    let held = points.iter().position(|point| point.what == "zfs hold" && point.moment == Moment::AfterDone).unwrap();
    simulate(0, async move || {
        let mut stage = Stage::with(None, Plan { meet_at: Some(held), ..Plan::default() }).await;
        stage.create("a", life()).await;
        stage.hub().gate.met().await;
        assert_eq!(stage.lab.holds("tank/images/micro@base"), stage.base_holds + 1);
        stage.hub().objects.delete::<Machine>(NAMESPACE, "a", None).await.unwrap();
        stage.kill().await;
        stage.start(Plan::default()).await;
        stage.settle().await;
        assert!(stage.hub().objects.list::<Machine>(Some(NAMESPACE)).await.unwrap().0.is_empty());
        assert_eq!(stage.disks(), std::collections::BTreeSet::new());
        assert!(stage.hub().store.vmid_leases("default").await.unwrap().is_empty());
        assert_eq!(stage.lab.holds("tank/images/micro@base"), stage.base_holds);
        stage.assert_quiet("a base that was held").await;
    });
}
