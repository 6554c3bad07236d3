//! Workspaces in the store: what a checkpoint's bundle builds on comes with it, in order.

use crate::database::{Home, on_both};
use autovibe::store::{Error, Store};

on_both! {
    a_chain_is_read_oldest_first,
    the_first_bundle_of_a_checkpoint_stays_and_a_missing_base_is_said,
}

async fn put(store: &Store, uid: &'static str, commit: &'static str, base: Option<&'static str>) {
    let written: Result<(), Error> =
        store.write(move |t| Box::pin(async move { t.put_bundle(uid, commit, base, commit.as_bytes()).await })).await;
    written.unwrap();
}

async fn a_chain_is_read_oldest_first(home: Home) {
    let store = home.open().await;
    put(&store, "c1", "aaa", None).await;
    put(&store, "c2", "bbb", Some("aaa")).await;
    // Two forks of one state, and one that changed nothing.
    put(&store, "c3", "ccc", Some("bbb")).await;
    put(&store, "c4", "ddd", Some("bbb")).await;
    let commits = |chain: Vec<autovibe::store::BundleRow>| chain.into_iter().map(|row| row.commit).collect::<Vec<_>>();
    assert_eq!(commits(store.bundle_chain("c4").await.unwrap()), ["aaa", "bbb", "ddd"]);
    assert_eq!(commits(store.bundle_chain("c1").await.unwrap()), ["aaa"]);
    assert!(store.bundle_chain("other").await.unwrap().is_empty());
    assert_eq!(store.bundle("c3").await.unwrap().unwrap().bytes, b"ccc");
}

async fn the_first_bundle_of_a_checkpoint_stays_and_a_missing_base_is_said(home: Home) {
    let store = home.open().await;
    put(&store, "c1", "aaa", Some("zzz")).await;
    put(&store, "c1", "bbb", None).await;
    assert_eq!(store.bundle("c1").await.unwrap().unwrap().commit, "aaa");
    let error = store.bundle_chain("c1").await.unwrap_err();
    assert!(matches!(&error, Error::Corrupt(text) if text.contains("zzz")), "{error}");
    put(&store, "ring", "yyy", Some("yyy")).await;
    assert!(matches!(store.bundle_chain("ring").await, Err(Error::Corrupt(_))));
}
