//! D1: PostgreSQL is killed under load, thirty times.

use super::{RESOURCE, key, scatter};
use crate::database::{Cluster, Home};
use crate::order::{self, Client, Entry, Told, What};
use autovibe::store::{Error, Event, Expect, Revision, Store};
use serde_json::json;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

const KILLS: u64 = 30;
/// Few, so that writers meet.
const OBJECTS: u64 = 6;
/// Each change is of two objects in one transaction; the twin's value is this much higher.
const TWIN: u64 = 1 << 40;

fn value(document: &serde_json::Value) -> u64 {
    document["spec"]["value"].as_u64().unwrap()
}

fn entry(event: &Event) -> Entry {
    Entry { revision: event.revision.0, object: event.key.name.clone(), value: value(&event.document) }
}

/// Reads an object, and changes it and its twin unless it was changed meanwhile. Says what it was told of both.
async fn change(store: &Store, object: &str, new: u64, told: &mut Client) {
    let twin = format!("{object}-twin");
    let began = Instant::now();
    let before = match store.get(&key(object)).await {
        Ok(before) => before,
        Err(Error::Unavailable(_)) => return,
        Err(other) => panic!("{other}"),
    };
    told.note(object, began, What::Read(before.as_ref().map(|found| (found.revision.0, value(&found.document)))));
    let began = Instant::now();
    let expect = before.map_or(Expect::Absent, |found| Expect::At(found.revision));
    let places = [(key(object), new, Some(expect)), (key(&twin), new + TWIN, None)];
    let done: Result<[Revision; 2], Error> = store
        .write(move |t| {
            Box::pin(async move {
                let mut revisions = [Revision(0); 2];
                for (at, (key, new, expect)) in places.into_iter().enumerate() {
                    let expect = match expect {
                        Some(expect) => expect,
                        None => t.get(&key).await?.map_or(Expect::Absent, |_| Expect::Present),
                    };
                    let document = json!({"metadata": {"name": key.name, "namespace": "shop"}, "spec": {"value": new}});
                    revisions[at] = t.put(&key, document, expect).await?.revision;
                }
                Ok(revisions)
            })
        })
        .await;
    let (one, other) = match done {
        Ok([one, other]) => (What::Wrote { revision: one.0, value: new }, What::Wrote { revision: other.0, value: new + TWIN }),
        Err(Error::NotCommitted(_) | Error::Unavailable(_) | Error::Conflict(_) | Error::Exists(_)) => {
            (What::Refused { value: new }, What::Refused { value: new + TWIN })
        }
        Err(Error::Unknown(_)) => (What::Unknown { value: new }, What::Unknown { value: new + TWIN }),
        Err(other) => panic!("{other}"),
    };
    told.note(object, began, one);
    told.note(&twin, began, other);
}

/// Follows the log from its beginning up to `end`, which is known only later.
async fn watch(store: Store, end: Arc<std::sync::OnceLock<Revision>>) -> Vec<Entry> {
    let mut newest = store.revisions();
    let (mut seen, mut after) = (Vec::new(), Revision(0));
    while end.get().is_none_or(|end| after < *end) {
        match store.changes(RESOURCE, after, 50).await {
            Ok((events, complete)) => {
                assert!(events.iter().all(|event| event.revision > after && event.revision <= complete));
                seen.extend(events.iter().map(entry));
                if events.is_empty() && complete == after {
                    let _ = tokio::time::timeout(Duration::from_millis(300), newest.wait_for(|newest| *newest > after)).await;
                }
                after = complete;
            }
            // As a watcher's client does: again from where it was.
            Err(Error::Unavailable(_)) => tokio::time::sleep(Duration::from_millis(20)).await,
            Err(other) => panic!("{other}"),
        }
    }
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn d1_thirty_kills_lose_nothing_that_was_answered_and_watches_go_on() {
    let Some(mut cluster) = Cluster::start("") else { return };
    let home = Home::at(cluster.create().await);
    let stores = [home.open().await, home.open().await];
    let (stop, end) = (Arc::new(AtomicBool::new(false)), Arc::new(std::sync::OnceLock::new()));
    let watchers: Vec<_> = (0..4).map(|n| tokio::spawn(watch(stores[n % 2].clone(), end.clone()))).collect();
    let writers: Vec<_> = (0..8_u64)
        .map(|writer| {
            let (store, stop) = (stores[usize::try_from(writer % 2).unwrap()].clone(), stop.clone());
            tokio::spawn(async move {
                let mut told = Client::default();
                for round in 0.. {
                    if stop.load(Ordering::Acquire) {
                        break;
                    }
                    let object = format!("o{}", scatter(writer * 7919 + round, OBJECTS));
                    change(&store, &object, (writer << 32) + round + 1, &mut told).await;
                }
                told.told
            })
        })
        .collect();
    for kill in 0..KILLS {
        tokio::time::sleep(Duration::from_millis(60 + scatter(kill, 250))).await;
        cluster.kill();
        cluster.run();
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    stop.store(true, Ordering::Release);
    let mut told: Vec<Told> = Vec::new();
    for writer in writers {
        told.extend(writer.await.unwrap());
    }
    let (events, newest) = stores[0].changes(RESOURCE, Revision(0), 0).await.unwrap();
    let log: Vec<Entry> = events.iter().map(entry).collect();
    assert!(log.iter().zip(1..).all(|(entry, n)| entry.revision == n), "a gap in the revisions");
    let checked = order::check(&told, &log);
    // A transaction is there in whole, or not at all.
    for half in log.chunks(2) {
        assert!(half.len() == 2 && half[1].value == half[0].value + TWIN, "half a transaction: {half:?}");
    }
    let count = |wanted: fn(&What) -> bool| told.iter().filter(|one| wanted(&one.what)).count();
    let (wrote, refused) = (count(|what| matches!(what, What::Wrote { .. })), count(|what| matches!(what, What::Refused { .. })));
    eprintln!("{KILLS} kills: {checked} answers, of them {wrote} written and {refused} refused, in {} changes", log.len());
    assert!(wrote > 100, "only {wrote} writes were answered");
    end.set(newest).unwrap();
    for watcher in watchers {
        let seen = tokio::time::timeout(Duration::from_secs(60), watcher).await.expect("the watcher comes to the end").unwrap();
        assert!(seen == log, "a watcher saw something else than the log");
    }
}
