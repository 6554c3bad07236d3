//! D1: PostgreSQL is killed under load, thirty times.

use super::{RESOURCE, key, scatter};
use crate::database::{Cluster, Home};
use crate::history::{Answer, Call, Entry, Recorder, State, check};
use autovibe::store::{Error, Event, Expect, Key, Revision, Store};
use serde_json::json;
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

const KILLS: u64 = 30;
/// Few, so that writers meet.
const OBJECTS: u64 = 6;

fn state(document: &serde_json::Value) -> State {
    [("value".to_owned(), document["spec"]["value"].to_string())].into()
}

fn entry(event: &Event) -> Entry {
    Entry { revision: event.revision.0, object: event.key.name.clone(), state: Some(state(&event.document)) }
}

/// What a write was told. None of them is sent without a revision, so a conflict is with the one that was read.
fn answer(done: &Result<[Revision; 2], Error>, half: usize) -> Answer {
    match done {
        Ok(revisions) => Answer::Done(revisions[half].0),
        Err(Error::Conflict(_)) if half == 0 => Answer::Conflict,
        Err(Error::Exists(_)) if half == 0 => Answer::Exists,
        Err(Error::NotCommitted(_) | Error::Unavailable(_) | Error::Conflict(_) | Error::Exists(_)) => Answer::Refused,
        Err(Error::Unknown(_)) => Answer::Unknown,
        Err(other) => panic!("{other}"),
    }
}

/// Reads an object, and changes it and its twin in one transaction, unless it was changed meanwhile.
async fn change(store: &Store, object: &str, new: u64, recorder: &Recorder) {
    let twin = format!("{object}-twin");
    let get = async {
        match store.get(&key(object)).await {
            Ok(Some(found)) => Answer::Read(found.revision.0, state(&found.document)),
            Ok(None) => Answer::Absent,
            Err(Error::Unavailable(_)) => Answer::Refused,
            Err(other) => panic!("{other}"),
        }
    };
    let expect = match recorder.perform(object, Call::Get, get).await {
        Answer::Read(revision, _) => Some(revision),
        Answer::Absent => None,
        _ => return,
    };
    let (one, other) = (key(object), key(&twin));
    let put = store.write(move |t| {
        Box::pin(async move {
            let document = |key: &Key| json!({"metadata": {"name": key.name, "namespace": "shop"}, "spec": {"value": new}});
            let first = t.put(&one, document(&one), expect.map_or(Expect::Absent, |at| Expect::At(Revision(at)))).await?.revision;
            let expect = t.get(&other).await?.map_or(Expect::Absent, |_| Expect::Present);
            Ok([first, t.put(&other, document(&other), expect).await?.revision])
        })
    });
    let to: State = [("value".to_owned(), new.to_string())].into();
    // It is made with its object and changed with it, and never looked at.
    let (call, of_twin) = match expect {
        Some(at) => (Call::Update(Some(at), to.clone()), Call::Update(None, to)),
        None => (Call::Create(to.clone()), Call::Create(to)),
    };
    let (tell, told) = tokio::sync::oneshot::channel();
    let first = recorder.perform(object, call, async {
        let done = put.await;
        tell.send(answer(&done, 1)).unwrap();
        answer(&done, 0)
    });
    tokio::join!(recorder.perform(&twin, of_twin, async { told.await.unwrap() }), first);
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
    // What a process had written to the kernel outlives it, so nothing needs to be synced.
    let Some(mut cluster) = Cluster::start("-c fsync=off") else { return };
    let home = Home::at(cluster.create().await);
    let stores = [home.open().await, home.open().await];
    let (stop, end) = (Arc::new(AtomicBool::new(false)), Arc::new(std::sync::OnceLock::new()));
    let watchers: Vec<_> = (0..4).map(|n| tokio::spawn(watch(stores[n % 2].clone(), end.clone()))).collect();
    let recorder = Arc::new(Recorder::default());
    let writers: Vec<_> = (0..8_u64)
        .map(|writer| {
            let (store, stop, recorder) = (stores[usize::try_from(writer % 2).unwrap()].clone(), stop.clone(), recorder.clone());
            tokio::spawn(async move {
                for round in 0.. {
                    if stop.load(Ordering::Acquire) {
                        break;
                    }
                    let object = format!("o{}", scatter(writer * 7919 + round, OBJECTS));
                    change(&store, &object, (writer << 32) + round, &recorder).await;
                }
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
    for writer in writers {
        writer.await.unwrap();
    }
    let (events, newest) = stores[0].changes(RESOURCE, Revision(0), 0).await.unwrap();
    let log: Vec<Entry> = events.iter().map(entry).collect();
    assert!(log.iter().zip(1..).all(|(entry, n)| entry.revision == n), "a gap in the revisions");
    // A transaction is there in whole, or not at all.
    for both in log.chunks(2) {
        assert!(both.len() == 2 && both[1].state == both[0].state, "half a transaction: {both:?}");
    }
    let operations = Arc::into_inner(recorder).expect("its users have ended").operations();
    assert_eq!(check(&operations, &log), Ok(()));
    let count = |of: fn(&Answer) -> bool| operations.iter().filter(|operation| of(&operation.answer)).count();
    let (done, refused) = (count(|answer| matches!(answer, Answer::Done(_))), count(|answer| matches!(answer, Answer::Refused)));
    eprintln!("{KILLS} kills: {} operations, of them {done} writes done and {refused} refused", operations.len());
    assert!(done > 100, "only {done} writes were answered");
    end.set(newest).unwrap();
    for watcher in watchers {
        let seen = tokio::time::timeout(Duration::from_mins(1), watcher).await.expect("the watcher comes to the end").unwrap();
        assert!(seen == log, "a watcher saw something else than the log");
    }
}
