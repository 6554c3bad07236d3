//! Leases of VM ids: one per Machine, never two Machines with one id, ended only on purpose.

use crate::database::{Home, on_both};
use autovibe::store::{Error, Store, VmidLease};

on_both! {
    a_machine_keeps_its_lease_until_it_is_ended_even_over_a_restart,
    machines_that_ask_at_once_get_ids_of_their_own,
}

async fn lease(store: &Store, hub: &'static str, machine: String, range: (u32, u32), taken: Vec<u32>) -> Option<u32> {
    store.write::<_, Error, _>(move |t| Box::pin(async move { t.lease_vmid(hub, &machine, range, &taken).await })).await.unwrap()
}

async fn end(store: &Store, hub: &'static str, machine: &'static str) {
    store.write::<_, Error, _>(move |t| Box::pin(async move { t.end_vmid_lease(hub, machine).await })).await.unwrap();
}

async fn a_machine_keeps_its_lease_until_it_is_ended_even_over_a_restart(home: Home) {
    let range = (100, 103);
    let store = home.open().await;
    assert_eq!(lease(&store, "h", "a".into(), range, vec![100]).await, Some(101), "100 is seen in use");
    assert_eq!(lease(&store, "h", "b".into(), range, vec![100]).await, Some(102));
    assert_eq!(lease(&store, "other", "a".into(), range, vec![]).await, Some(100), "another hub's ids are its own");
    store.close().await;
    drop(store);

    let store = home.open().await;
    // Its own VM is seen in use now: the lease is found all the same.
    assert_eq!(lease(&store, "h", "a".into(), range, vec![100, 101]).await, Some(101));
    assert_eq!(lease(&store, "h", "c".into(), range, vec![100]).await, Some(103));
    assert_eq!(lease(&store, "h", "d".into(), range, vec![100]).await, None, "the range is full");
    end(&store, "h", "b").await;
    end(&store, "h", "b").await;
    assert_eq!(lease(&store, "h", "d".into(), range, vec![100]).await, Some(102));
    let leases = store.vmid_leases("h").await.unwrap();
    let expected = [(101, "a"), (102, "d"), (103, "c")].map(|(vmid, uid)| VmidLease { vmid, machine_uid: uid.into() });
    assert_eq!(leases, expected);
}

async fn machines_that_ask_at_once_get_ids_of_their_own(home: Home) {
    let store = home.open().await;
    let asked = (0..40).map(|n| lease(&store, "h", format!("m{}", n % 20), (100, 200), vec![]));
    let given: Vec<u32> = futures::future::join_all(asked).await.into_iter().flatten().collect();
    assert_eq!(given.len(), 40);
    let distinct: std::collections::BTreeSet<u32> = given.iter().copied().collect();
    assert_eq!(distinct.len(), 20, "twenty machines, each asking twice");
    assert_eq!(store.vmid_leases("h").await.unwrap().len(), 20);
}
