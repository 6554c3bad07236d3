//! Backups of a store that is written, on both engines, and what a restored one goes on with.

use crate::database::{Home, on_both};
use autovibe::clock::Clock;
use autovibe::store::{Error, Expect, Key, Query, Replace, Revision, Store, backup, restore};
use serde_json::json;
use std::{
    collections::BTreeSet,
    os::unix::fs::PermissionsExt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

on_both! {
    a_backup_of_a_store_that_is_written_is_one_state_and_its_restore_goes_on_above,
    nothing_is_overwritten_unasked_nor_under_a_hub_that_runs,
}

const RESOURCE: &str = "machines.autovibe.dev";

/// Two objects in one transaction.
async fn put_pair(store: &Store, name: String) -> Result<Revision, Error> {
    store
        .write(move |t| {
            Box::pin(async move {
                let mut revision = Revision(0);
                for half in ["a", "b"] {
                    let name = format!("{name}-{half}");
                    let document = json!({"metadata": {"name": name, "namespace": "shop"}});
                    revision = t.put(&Key::new(RESOURCE, "shop", name), document, Expect::Absent).await?.revision;
                }
                t.lease_vmid("h", &name, (100, 100_000), &[]).await?;
                t.put_bundle(&name, &name, None, b"bundle").await?;
                Ok(revision)
            })
        })
        .await
}

async fn names(store: &Store) -> BTreeSet<String> {
    let page = store.list(&Query { resource: RESOURCE.into(), ..Query::default() }).await.unwrap();
    page.items.into_iter().map(|item| item.key.name).collect()
}

async fn a_backup_of_a_store_that_is_written_is_one_state_and_its_restore_goes_on_above(home: Home) {
    let store = home.open().await;
    let (_, epoch) = Home::lead(&store).await;
    put_pair(&store, "first".into()).await.unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let (store, stop) = (store.clone(), stop.clone());
            tokio::spawn(async move {
                for round in 0.. {
                    if stop.load(Ordering::Acquire) {
                        return;
                    }
                    put_pair(&store, format!("{writer}-{round}")).await.unwrap();
                }
            })
        })
        .collect();
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    let file = home.path().join("backup");
    backup(&home.database(), &file).await.unwrap();
    assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let again = backup(&home.database(), &file).await.unwrap_err();
    assert!(again.to_string().contains("exists already"), "{again}");
    stop.store(true, Ordering::Release);
    for writer in writers {
        writer.await.unwrap();
    }
    // Given after the backup: it must not be given again.
    let last = put_pair(&store, "last".into()).await.unwrap();
    let installation = store.installation().to_owned();

    let other = home.another().await;
    restore(&file, &other.database(), Replace::Refuse, &Clock::system()).await.unwrap();
    let restored = other.open().await;
    let (all, kept) = (names(&store).await, names(&restored).await);
    assert!(kept.contains("first-a") && !kept.contains("last-a") && kept.is_subset(&all));
    let halves = kept.iter().map(|name| name[..name.len() - 2].to_owned()).collect::<BTreeSet<_>>();
    assert_eq!(halves.len() * 2, kept.len(), "a transaction is in it in whole");
    assert_eq!(restored.vmid_leases("h").await.unwrap().len(), halves.len());
    assert_eq!(restored.bundle("first").await.unwrap().unwrap().bytes, b"bundle");
    assert_eq!(restored.installation(), installation);

    // Whoever knows a revision from before lists anew, and none is given twice.
    let newest = *restored.revisions().borrow();
    assert!(newest > last);
    for known in [Revision(1), last, Revision(last.0 + 1000)] {
        assert!(matches!(restored.changes(RESOURCE, known, 0).await, Err(Error::Expired { .. })), "{known:?}");
    }
    let listed = restored.list(&Query { resource: RESOURCE.into(), ..Query::default() }).await.unwrap();
    let next = put_pair(&restored, "next".into()).await.unwrap();
    assert!(listed.revision == newest && next > newest);
    assert_eq!(restored.changes(RESOURCE, newest, 0).await.unwrap().0.len(), 2);
    assert!(Home::lead(&restored).await.1 > epoch + 1);
}

async fn nothing_is_overwritten_unasked_nor_under_a_hub_that_runs(home: Home) {
    let store = home.open().await;
    put_pair(&store, "old".into()).await.unwrap();
    let (file, clock) = (home.path().join("backup"), Clock::system());
    backup(&home.database(), &file).await.unwrap();
    put_pair(&store, "new".into()).await.unwrap();
    let running = restore(&file, &home.database(), Replace::Overwrite, &clock).await.unwrap_err();
    assert!(matches!(running, Error::Locked(_)), "{running}");
    store.close().await;
    let refused = restore(&file, &home.database(), Replace::Refuse, &clock).await.unwrap_err();
    assert!(refused.to_string().contains("--overwrite"), "{refused}");
    // Neither a file that is no backup nor half of one.
    let junk = home.path().join("junk");
    let half = std::fs::read(&file).unwrap();
    for content in [b"junk".to_vec(), half[..half.len() / 2].to_vec(), Vec::new()] {
        std::fs::write(&junk, content).unwrap();
        let refused = restore(&junk, &home.database(), Replace::Overwrite, &clock).await.unwrap_err();
        assert!(matches!(refused, Error::Backup(_)), "{refused}");
    }
    let store = home.open().await;
    assert!(names(&store).await.contains("new-a"), "what was refused has changed nothing");
    store.close().await;
    restore(&file, &home.database(), Replace::Overwrite, &clock).await.unwrap();
    let store = home.open().await;
    assert_eq!(names(&store).await, ["old-a", "old-b"].map(str::to_owned).into());
}

#[tokio::test]
async fn a_file_of_one_engine_is_refused_by_the_other() {
    let (Some(postgres), sqlite) = (Home::postgres().await, Home::sqlite()) else { return };
    sqlite.open().await.close().await;
    let file = sqlite.path().join("backup");
    backup(&sqlite.database(), &file).await.unwrap();
    let refused = restore(&file, &postgres.database(), Replace::Refuse, &Clock::system()).await.unwrap_err();
    assert!(refused.to_string().contains("no backup of the kind"), "{refused}");
}
