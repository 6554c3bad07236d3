//! The store's contract, on both engines: one order of all changes, no gap, no loss. And of SQLite alone: one process.

use crate::database::{Home, on_both};
use autovibe::clock::Clock;
use autovibe::store::{Change, Error, Expect, History, Key, Options, Query, Revision, Store};
use serde_json::{Value, json};
use std::{os::unix::fs::PermissionsExt, path::Path, time::Duration};

fn key(name: &str) -> Key {
    Key::new("machines.autovibe.dev", "shop", name)
}

fn document(name: &str, value: u64) -> Value {
    json!({"metadata": {"name": name, "namespace": "shop"}, "spec": {"value": value}})
}

async fn put(store: &Store, name: &str, value: u64, expect: Expect) -> Result<Revision, Error> {
    let (key, document) = (key(name), document(name, value));
    store.write(move |t| Box::pin(async move { t.put(&key, document, expect).await.map(|o| o.revision) })).await
}

async fn delete(store: &Store, name: &str) -> Result<Revision, Error> {
    let key = key(name);
    store.write(move |t| Box::pin(async move { t.delete(&key, Expect::Present).await.map(|o| o.revision) })).await
}

/// Holds the writer up with a transaction that changes nothing, and has begun: what is written meanwhile comes into one commit.
pub(crate) async fn hold(store: &Store) -> tokio::task::JoinHandle<()> {
    let (begun, begins) = tokio::sync::oneshot::channel();
    let store = store.clone();
    let held = tokio::spawn(async move {
        let work = store.write(|_| {
            Box::pin(async {
                begun.send(()).unwrap();
                tokio::time::sleep(Duration::from_millis(200)).await;
                Ok::<(), Error>(())
            })
        });
        work.await.unwrap();
    });
    begins.await.unwrap();
    held
}

fn all() -> Query {
    Query { resource: "machines.autovibe.dev".into(), ..Query::default() }
}

on_both! {
    a_write_is_read_back_with_its_revision,
    what_is_not_as_expected_is_refused_and_leaves_nothing,
    a_panic_in_a_write_reaches_its_caller_alone,
    whatever_fails_among_writes_of_one_commit_takes_nothing_with_it,
    puts_of_one_commit_find_what_those_before_them_left,
    a_watcher_sees_the_changes_of_sixteen_writers_in_order_and_without_a_gap,
    a_deletion_carries_its_own_revision_and_the_last_document,
    pages_are_ordered_and_show_one_revision_however_much_changes_between_them,
    history_beyond_its_window_expires_and_revisions_go_on,
    d10_a_deletion_at_the_compacted_revision_is_not_lost_to_a_watch_that_lags,
    d10_a_watch_of_a_future_revision_gets_no_old_event,
    the_changes_are_the_same_from_memory_and_from_the_log,
    a_dropped_store_opens_again_with_all_it_answered_and_a_new_epoch,
    a_newer_database_is_refused_instead_of_read_wrongly,
    what_a_leader_writes_is_refused_once_another_leads,
    a_killed_writer_loses_nothing_that_was_answered,
    migrations_that_fail_in_the_middle_leave_nothing,
}

async fn a_write_is_read_back_with_its_revision(home: Home) {
    let store = home.open().await;
    let first = put(&store, "a", 1, Expect::Absent).await.unwrap();
    let second = put(&store, "a", 2, Expect::At(first)).await.unwrap();
    assert!(second > first);
    let object = store.get(&key("a")).await.unwrap().unwrap();
    assert_eq!(object.revision, second);
    assert_eq!(object.document["metadata"]["resourceVersion"], second.0.to_string());
    assert_eq!(object.document["spec"]["value"], 2);
    assert_eq!(*store.revisions().borrow(), second);
    for file in std::fs::read_dir(home.path()).unwrap() {
        let file = file.unwrap();
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o077, 0, "{} is readable by others", file.path().display());
    }
}

async fn what_is_not_as_expected_is_refused_and_leaves_nothing(home: Home) {
    let store = home.open().await;
    let first = put(&store, "a", 1, Expect::Absent).await.unwrap();
    assert!(matches!(put(&store, "a", 2, Expect::Absent).await, Err(Error::Exists(_))));
    assert!(matches!(put(&store, "b", 2, Expect::Present).await, Err(Error::NotFound(_))));
    assert!(matches!(put(&store, "b", 2, Expect::At(first)).await, Err(Error::NotFound(_))));
    assert!(matches!(put(&store, "a", 2, Expect::At(Revision(first.0 + 1))).await, Err(Error::Conflict(_))));
    assert!(matches!(delete(&store, "b").await, Err(Error::NotFound(_))));
    // A transaction whose second half fails leaves nothing of its first.
    let failed: Result<(), Error> = store
        .write(|t| {
            Box::pin(async move {
                t.put(&key("c"), document("c", 1), Expect::Absent).await?;
                t.put(&key("a"), document("a", 9), Expect::Absent).await?;
                Ok(())
            })
        })
        .await;
    assert!(matches!(failed, Err(Error::Exists(_))));
    assert!(store.get(&key("c")).await.unwrap().is_none());
    assert_eq!(*store.revisions().borrow(), first);
    assert_eq!(store.changes("machines.autovibe.dev", Revision(0), 0).await.unwrap().0.len(), 1);
}

async fn a_panic_in_a_write_reaches_its_caller_alone(home: Home) {
    let store = home.open().await;
    let other = store.clone();
    let panicked = tokio::spawn(async move {
        other
            .write::<(), Error, _>(|t| {
                Box::pin(async move {
                    t.put(&key("a"), document("a", 1), Expect::Absent).await?;
                    panic!("on purpose")
                })
            })
            .await
    });
    assert!(panicked.await.unwrap_err().is_panic());
    assert!(store.get(&key("a")).await.unwrap().is_none());
    put(&store, "a", 1, Expect::Absent).await.unwrap();
}

async fn whatever_fails_among_writes_of_one_commit_takes_nothing_with_it(home: Home) {
    let store = home.open().await;
    put(&store, "there", 0, Expect::Absent).await.unwrap();
    let began = store.writes();
    let held = hold(&store).await;
    // 0: puts one object; 1: puts one that is there; 2: a transaction; 3: one that fails after its first change; 4: one that
    // fails in a half that was read before, and must not be remembered.
    let kinds = [0_u8, 3, 1, 4, 2, 0, 0, 3, 2, 4, 1, 1, 3, 0, 2, 2, 4, 4, 0].repeat(3);
    let writes = kinds.iter().enumerate().map(|(n, kind)| {
        let (store, kind) = (&store, *kind);
        let (name, other) = (format!("n{n}"), format!("other{n}"));
        async move {
            match kind {
                0 => {
                    store
                        .put(key(&name), Expect::Absent, {
                            let document = document(&name, 0);
                            move |_| Box::pin(async { Ok(document) })
                        })
                        .await
                }
                1 => store.put(key("there"), Expect::Absent, |_| Box::pin(async { Ok(document("there", 9)) })).await,
                _ => {
                    store
                        .write(move |t| {
                            Box::pin(async move {
                                let before = t.get(&key(&name)).await?;
                                assert!(before.is_none());
                                let put = t.put(&key(&name), document(&name, 2), Expect::Absent).await?;
                                if kind == 3 {
                                    t.put(&key("there"), document("there", 9), Expect::Absent).await?;
                                }
                                if kind == 4 {
                                    assert_eq!(t.get(&key(&name)).await?.unwrap().revision, put.revision);
                                    t.delete(&key(&other), Expect::Present).await?;
                                }
                                assert_eq!(t.get(&key("there")).await?.unwrap().document["spec"]["value"], 0);
                                Ok(put)
                            })
                        })
                        .await
                }
            }
        }
    });
    let done: Vec<Result<_, Error>> = futures::future::join_all(writes).await;
    held.await.unwrap();
    let mut given = Vec::new();
    for (n, (kind, done)) in kinds.iter().zip(done).enumerate() {
        let there = store.get(&key(&format!("n{n}"))).await.unwrap();
        match (kind, done) {
            (0 | 2, Ok(put)) => {
                assert_eq!(there.unwrap().revision, put.revision);
                given.push(put.revision.0);
            }
            (1 | 3, Err(Error::Exists(_))) | (4, Err(Error::NotFound(_))) => assert!(there.is_none(), "{n}: {there:?}"),
            (kind, other) => panic!("{n} of kind {kind}: {other:?}"),
        }
    }
    // What was taken back was given no revision.
    given.sort_unstable();
    assert_eq!(given, (2..).take(given.len()).collect::<Vec<i64>>());
    let logged = store.changes("machines.autovibe.dev", Revision(1), 0).await.unwrap().0;
    assert_eq!(logged.iter().map(|event| event.revision.0).collect::<Vec<_>>(), given);
    assert_eq!(store.writes() - began, 1 + given.len() as u64);
}

async fn puts_of_one_commit_find_what_those_before_them_left(home: Home) {
    let store = home.open().await;
    let there = put(&store, "there", 0, Expect::Absent).await.unwrap();
    let held = hold(&store).await;
    let plain = |name: &'static str, value: u64, expect: Expect| {
        store.put(key(name), expect, move |_| Box::pin(async move { Ok(document(name, value)) }))
    };
    let panics = store.clone();
    let panics = tokio::spawn(async move { panics.put::<Error, _>(key("p"), Expect::Absent, |_| panic!("on purpose")).await });
    let reads = store.put(key("a"), Expect::Present, |t| {
        Box::pin(async move {
            let value = t.get(&key("a")).await?.map_or(0, |object| object.document["spec"]["value"].as_u64().unwrap());
            Ok(document("a", value + 10))
        })
    });
    let looks = store.put(key("e"), Expect::Absent, |t| {
        Box::pin(async move {
            let found = t.any_in("shop", Some("machines.autovibe.dev")).await?;
            Ok(document("e", u64::from(found.is_some())))
        })
    });
    let refuses = store.put(key("f"), Expect::Absent, |_| Box::pin(async { Err(Error::Corrupt("it will not".into())) }));
    let done: Vec<Result<_, Error>> = {
        // They are sent in this order.
        let (first, again) = (plain("a", 1, Expect::Absent), plain("a", 2, Expect::Absent));
        let (missing, stale, right) =
            (plain("b", 1, Expect::Present), plain("there", 1, Expect::At(Revision(99))), plain("there", 2, Expect::At(there)));
        let all = futures::join!(first, again, reads, missing, stale, right, looks, refuses);
        vec![all.0, all.1, all.2, all.3, all.4, all.5, all.6, all.7]
    };
    held.await.unwrap();
    assert!(panics.await.unwrap_err().is_panic());
    let revisions: Vec<i64> = done.iter().flatten().map(|object| object.revision.0).collect();
    assert_eq!(revisions, [2, 3, 4, 5], "{done:?}");
    for (done, expected) in done.iter().zip(["", "Exists", "", "NotFound", "Conflict", "", "", "Corrupt"]) {
        assert!(done.as_ref().err().is_none_or(|error| format!("{error:?}").starts_with(expected) && !expected.is_empty()), "{done:?}");
    }
    let value = async |name: &str| store.get(&key(name)).await.unwrap().map(|object| object.document["spec"]["value"].as_u64().unwrap());
    for (name, expected) in [("a", Some(11)), ("there", Some(2)), ("e", Some(1)), ("b", None), ("f", None), ("p", None)] {
        assert_eq!(value(name).await, expected, "{name}");
    }
    let (past, _) = store.history("machines.autovibe.dev", Revision(1), 10).await.unwrap();
    let before = |n: usize| past[n].1.as_ref().map(|document| document["spec"]["value"].as_u64().unwrap());
    assert_eq!(
        (0..past.len()).map(|n| (past[n].0.revision.0, before(n))).collect::<Vec<_>>(),
        [(2, None), (3, Some(1)), (4, Some(0)), (5, None)]
    );
}

async fn a_watcher_sees_the_changes_of_sixteen_writers_in_order_and_without_a_gap(home: Home) {
    let store = home.open().await;
    let (writers, rounds) = (16_u64, 20_u64);
    let watcher = tokio::spawn(follow(store.clone(), writers * rounds));
    let mut tasks = Vec::new();
    for writer in 0..writers {
        let store = store.clone();
        tasks.push(tokio::spawn(async move {
            let name = format!("w{writer}");
            let mut revisions = Vec::new();
            for round in 0..rounds {
                let expect = revisions.last().map_or(Expect::Absent, |at| Expect::At(*at));
                let revision = put(&store, &name, round, expect).await.unwrap();
                // Read your own write, and know it published.
                assert_eq!(store.get(&key(&name)).await.unwrap().unwrap().revision, revision);
                assert!(*store.revisions().borrow() >= revision);
                revisions.push(revision);
            }
            revisions
        }));
    }
    let mut given = Vec::new();
    for task in tasks {
        let revisions = task.await.unwrap();
        assert!(revisions.is_sorted());
        given.extend(revisions);
    }
    let seen = watcher.await.unwrap();
    given.sort_unstable();
    assert_eq!(seen, given, "every revision that a writer got, in order, once");
}

/// Follows the log as a watch does, until it saw `count` changes.
async fn follow(store: Store, count: u64) -> Vec<Revision> {
    let mut newest = store.revisions();
    let (mut seen, mut after) = (Vec::new(), Revision(0));
    loop {
        // A small limit, so that incomplete answers occur.
        let (events, complete) = store.history("machines.autovibe.dev", after, 7).await.unwrap();
        for (event, previous) in events {
            assert!(event.revision > after && event.revision <= complete);
            assert_eq!(event.change, if previous.is_some() { Change::Modified } else { Change::Added });
            after = event.revision;
            seen.push(event.revision);
        }
        after = complete;
        if seen.len() as u64 == count {
            return seen;
        }
        newest.wait_for(|newest| *newest > after).await.unwrap();
    }
}

async fn a_deletion_carries_its_own_revision_and_the_last_document(home: Home) {
    let store = home.open().await;
    let created = put(&store, "a", 1, Expect::Absent).await.unwrap();
    let deleted = delete(&store, "a").await.unwrap();
    let again = put(&store, "a", 2, Expect::Absent).await.unwrap();
    assert!(created < deleted && deleted < again);
    let (events, complete) = store.history("machines.autovibe.dev", created, 0).await.unwrap();
    assert_eq!(complete, again);
    assert_eq!(events.iter().map(|(event, _)| event.change).collect::<Vec<_>>(), [Change::Deleted, Change::Added]);
    let (gone, previous) = &events[0];
    assert_eq!(gone.document["spec"]["value"], 1);
    assert_eq!(gone.document["metadata"]["resourceVersion"], deleted.0.to_string());
    assert_eq!(previous.as_ref().unwrap()["metadata"]["resourceVersion"], created.0.to_string());
    assert!(events[1].1.is_none());
    // Another resource's watcher learns nothing but that it is complete.
    assert!(matches!(store.changes("secrets", created, 0).await.unwrap(), (none, at) if none.is_empty() && at == again));
}

async fn pages_are_ordered_and_show_one_revision_however_much_changes_between_them(home: Home) {
    let store = home.open().await;
    for name in ["d", "a", "c", "b", "e"] {
        put(&store, name, 1, Expect::Absent).await.unwrap();
    }
    let first = store.list(&Query { limit: 2, ..all() }).await.unwrap();
    assert_eq!((first.items.len(), first.more), (2, true));
    put(&store, "c", 2, Expect::Present).await.unwrap();
    put(&store, "c", 3, Expect::Present).await.unwrap();
    delete(&store, "d").await.unwrap();
    put(&store, "d", 4, Expect::Absent).await.unwrap();
    put(&store, "bb", 5, Expect::Absent).await.unwrap();
    delete(&store, "e").await.unwrap();
    let after = Some(("shop".to_owned(), first.items[1].key.name.clone()));
    let rest = store.list(&Query { after, at: Some(first.revision), ..all() }).await.unwrap();
    assert_eq!((rest.revision, rest.more), (first.revision, false));
    let names: Vec<_> =
        first.items.iter().chain(&rest.items).map(|o| (o.key.name.as_str(), o.document["spec"]["value"].as_u64().unwrap())).collect();
    assert_eq!(names, [("a", 1), ("b", 1), ("c", 1), ("d", 1), ("e", 1)]);
    let now = store.list(&all()).await.unwrap();
    assert_eq!(now.items.iter().map(|o| o.key.name.as_str()).collect::<Vec<_>>(), ["a", "b", "bb", "c", "d"]);
}

async fn history_beyond_its_window_expires_and_revisions_go_on(home: Home) {
    let options = Options { clock: Clock::system(), history: History { age: Duration::ZERO, changes: 3 }, ..Options::default() };
    let store = home.open_with(options.clone()).await;
    let mut revisions = Vec::new();
    for value in 0..10 {
        let expect = revisions.last().map_or(Expect::Absent, |at| Expect::At(*at));
        revisions.push(put(&store, "a", value, expect).await.unwrap());
    }
    // Young history stays, however much there is.
    let young = Options { history: History { age: Duration::from_hours(1), changes: 3 }, ..options.clone() };
    assert_eq!(store.compact(&young).await.unwrap(), 0);
    assert_eq!(store.compact(&options).await.unwrap(), 7);
    let oldest = revisions[6];
    let expired = store.changes("machines.autovibe.dev", revisions[5], 0).await;
    assert!(matches!(expired, Err(Error::Expired { oldest: o, .. }) if o == oldest), "{expired:?}");
    assert!(matches!(store.list(&Query { at: Some(revisions[5]), ..all() }).await, Err(Error::Expired { .. })));
    assert_eq!(store.changes("machines.autovibe.dev", oldest, 0).await.unwrap().0.len(), 3);
    // Even without any history left, a revision is not given twice.
    let none = Options { history: History { age: Duration::ZERO, changes: 0 }, ..options };
    store.compact(&none).await.unwrap();
    drop(store);
    let store = home.open().await;
    assert_eq!(*store.revisions().borrow(), revisions[9]);
    assert!(put(&store, "a", 11, Expect::Present).await.unwrap() > revisions[9]);
}

/// etcd 18089, 19179: a watch that resumed right at a compaction was not told of the deletion that stood there.
async fn d10_a_deletion_at_the_compacted_revision_is_not_lost_to_a_watch_that_lags(home: Home) {
    let store = home.open().await;
    let created = put(&store, "a", 1, Expect::Absent).await.unwrap();
    let deleted = delete(&store, "a").await.unwrap();
    let next = put(&store, "b", 1, Expect::Absent).await.unwrap();
    // All but the last change goes: the deletion is the newest that is gone.
    let options = Options { clock: Clock::system(), history: History { age: Duration::ZERO, changes: 1 }, ..Options::default() };
    assert_eq!(store.compact(&options).await.unwrap(), 2);
    let lags = store.changes("machines.autovibe.dev", created, 0).await;
    assert!(matches!(lags, Err(Error::Expired { oldest, .. }) if oldest == deleted), "it is told to list anew: {lags:?}");
    let (events, complete) = store.changes("machines.autovibe.dev", deleted, 0).await.unwrap();
    assert_eq!((events.iter().map(|event| event.revision).collect::<Vec<_>>(), complete), (vec![next], next));
    let names: Vec<String> = store.list(&all()).await.unwrap().items.into_iter().map(|item| item.key.name).collect();
    assert_eq!(names, ["b"]);
}

/// etcd 15271, 17529, 20221: a watch that asked for a revision to come was sent what was before it.
async fn d10_a_watch_of_a_future_revision_gets_no_old_event(home: Home) {
    let store = home.open().await;
    let first = put(&store, "a", 0, Expect::Absent).await.unwrap();
    let future = Revision(first.0 + 3);
    for value in 1..6 {
        let (events, complete) = store.changes("machines.autovibe.dev", future, 0).await.unwrap();
        assert!(events.iter().all(|event| event.revision > future), "{events:?}");
        assert_eq!(complete, future.max(*store.revisions().borrow()));
        put(&store, "a", value, Expect::Present).await.unwrap();
    }
    assert_eq!(store.changes("machines.autovibe.dev", future, 0).await.unwrap().0.len(), 2);
}

/// What a process has just committed it does not read from the database; nobody may tell by what is answered.
async fn the_changes_are_the_same_from_memory_and_from_the_log(home: Home) {
    const OTHER: &str = "secrets";
    let store = home.open().await;
    let both = store.clone();
    let refused = async move || {
        let twice = both.write(|t| {
            Box::pin(async move {
                t.put(&key("refused"), document("refused", 0), Expect::Absent).await?;
                t.put(&key("refused"), document("refused", 0), Expect::Absent).await
            })
        });
        assert!(matches!(twice.await, Err(Error::Exists(_))));
    };
    for value in 0..40 {
        let name = format!("m{}", value % 7);
        // Together, so that some are committed at once, with one that is rolled back between them.
        let other = store
            .write(move |t| Box::pin(async move { t.put(&Key::new(OTHER, "shop", "s"), document("s", value), Expect::Present).await }));
        let (written, (), _) = tokio::join!(put(&store, &name, value, Expect::Present), refused(), other);
        if matches!(written, Err(Error::NotFound(_))) {
            tokio::join!(put(&store, &name, value, Expect::Absent), refused()).0.unwrap();
        }
        if value == 5 {
            let secret =
                store.write(|t| Box::pin(async move { t.put(&Key::new(OTHER, "shop", "s"), document("s", 0), Expect::Absent).await }));
            secret.await.unwrap();
        }
        if value % 9 == 8 {
            delete(&store, &name).await.unwrap();
        }
    }
    let newest = *store.revisions().borrow();
    let asked = (0..newest.0 + 2).flat_map(|after| [0, 1, 7].map(|limit| (Revision(after), limit)));
    let asked: Vec<_> =
        asked.flat_map(|(after, limit)| ["machines.autovibe.dev", OTHER].map(|resource| (resource, after, limit))).collect();
    let answers = async |store: &Store| {
        let mut answers = Vec::new();
        for (resource, after, limit) in &asked {
            let answer = store.changes(resource, *after, *limit).await.unwrap();
            assert_eq!(format!("{answer:?}"), format!("{:?}", store.told(resource, *after, *limit).await.unwrap()));
            let changed = store.changed(&[resource], *after).await.unwrap();
            assert_eq!(changed.0, !store.changes(resource, *after, 0).await.unwrap().0.is_empty());
            let history = store.history(resource, *after, *limit).await.unwrap();
            let told = (history.0.iter().map(|(event, _)| event).collect::<Vec<_>>(), history.1);
            assert_eq!(format!("{answer:?}"), format!("{told:?}"));
            answers.push(format!("{answer:?}"));
        }
        answers
    };
    let memory = answers(&store).await;
    drop((store, refused));
    let log = answers(&home.open().await).await;
    for ((memory, log), asked) in memory.iter().zip(&log).zip(&asked) {
        assert_eq!(memory, log, "{asked:?}");
    }
}

async fn a_dropped_store_opens_again_with_all_it_answered_and_a_new_epoch(home: Home) {
    let store = home.open().await;
    let revision = put(&store, "a", 1, Expect::Absent).await.unwrap();
    let (installation, epoch) = (store.installation().to_owned(), store.process_epoch());
    drop(store);
    let store = home.open().await;
    assert_eq!(store.get(&key("a")).await.unwrap().unwrap().revision, revision);
    assert_eq!(store.installation(), installation);
    // Of PostgreSQL's processes each may live on beside the others.
    assert_eq!(store.process_epoch(), if home.is_sqlite() { epoch + 1 } else { 0 });
    store.close().await;
    assert!(matches!(put(&store, "b", 1, Expect::Absent).await, Err(Error::Closed)));
    let store = home.open().await;
    assert_eq!(store.list(&all()).await.unwrap().items.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_opener_is_refused_and_told_who_and_what_to_do() {
    let home = Home::sqlite();
    let store = home.open().await;
    // The lock is of the open file, not of the process: within one process it refuses just the same.
    let refused = Store::open(&home.path().join("autovibe.db")).await;
    let Err(Error::Locked(message)) = refused.map(|_| ()) else { panic!("was not refused") };
    assert!(message.contains(&format!("process {}", std::process::id())), "{message}");
    assert!(message.contains("--data"), "{message}");
    put(&store, "a", 1, Expect::Absent).await.unwrap();
}

async fn a_newer_database_is_refused_instead_of_read_wrongly(home: Home) {
    home.open().await.close().await;
    home.execute("INSERT INTO migrations (number, name) VALUES (9999, 'later')").await;
    let opened = Store::open_with(&home.database(), Options::default()).await;
    let Err(Error::Corrupt(message)) = opened.map(|_| ()) else { panic!("was not refused") };
    assert!(message.contains("9999") && message.contains("newer"), "{message}");
}

async fn migrations_that_fail_in_the_middle_leave_nothing(home: Home) {
    // In the way of the last one.
    home.execute("CREATE TABLE bundles (other BIGINT)").await;
    let failed = Store::open_with(&home.database(), Options::default()).await;
    assert!(matches!(failed, Err(Error::Database(_))));
    home.execute("DROP TABLE bundles").await;
    // Of the first ones nothing is left that would be in the way now.
    put(&home.open().await, "a", 1, Expect::Absent).await.unwrap();
}

#[test]
fn migrations_have_the_same_numbers_and_names_on_both_engines() {
    let names = |engine: &str| {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations").join(engine);
        let mut names: Vec<_> = std::fs::read_dir(directory).unwrap().map(|file| file.unwrap().file_name()).collect();
        names.sort();
        names
    };
    assert_eq!(names("sqlite"), names("postgres"));
    assert!(names("sqlite").len() >= 4);
}

async fn what_a_leader_writes_is_refused_once_another_leads(home: Home) {
    let store = home.open().await;
    let (first, epoch) = Home::lead(&store).await;
    put(&first, "a", 1, Expect::Absent).await.unwrap();
    let (second, next) = Home::lead(&store).await;
    let refused = put(&first, "b", 1, Expect::Absent).await;
    assert!(matches!(refused, Err(Error::Fenced { ours, theirs }) if (ours, theirs) == (epoch, next)), "{refused:?}");
    assert!(store.get(&key("b")).await.unwrap().is_none());
    put(&second, "c", 1, Expect::Absent).await.unwrap();
    // Whoever leads nothing is never refused.
    put(&store, "d", 1, Expect::Absent).await.unwrap();
    assert_eq!((first.epoch(), second.epoch(), store.epoch()), (epoch, next, 0));
}

/// Names the database to the child of [`a_killed_writer_loses_nothing_that_was_answered`].
const CHILD: &str = "AUTOVIBE_TEST_STORE_CHILD";

/// In the child: writes until it is killed, and says each answered revision. Without a parent: that it would.
#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::disallowed_methods, reason = "how the parent tells its child what to do")]
async fn a_writer_that_is_to_be_killed() {
    let Ok(url) = std::env::var(CHILD) else { return };
    let store = Store::open_with(&url.parse().unwrap(), Options::default()).await.unwrap();
    // Another name in each life.
    let life = std::process::id();
    for value in 0.. {
        let revisions = futures::future::try_join_all((0..8).map(|n| {
            let store = &store;
            async move { put(store, &format!("{life}-{value}-{n}"), value, Expect::Absent).await }
        }));
        for revision in revisions.await.unwrap() {
            println!("answered {}", revision.0);
        }
    }
}

async fn a_killed_writer_loses_nothing_that_was_answered(home: Home) {
    use tokio::io::{AsyncBufReadExt, BufReader};
    let mut answered = Vec::new();
    for round in 0..3 {
        let mut child = tokio::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "store::a_writer_that_is_to_be_killed", "--nocapture"])
            .env(CHILD, &home.url)
            .stdout(std::process::Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let said = |line: String| line.strip_prefix("answered ").map(|revision| Revision(revision.parse().unwrap()));
        let enough = answered.len() + 40;
        while answered.len() < enough {
            answered.extend(lines.next_line().await.unwrap().map(said).expect("the child writes until it is killed"));
        }
        // A refusal takes its patience, so once is enough.
        if round == 0 && home.url.starts_with("sqlite") {
            let opened = Store::open_with(&home.database(), Options::default()).await;
            let Err(Error::Locked(message)) = opened.map(|_| ()) else { panic!("a second process got in") };
            assert!(message.contains(&format!("process {}", child.id().unwrap())), "{message}");
        }
        // SIGKILL; what it said before still counts.
        child.kill().await.unwrap();
        while let Some(line) = lines.next_line().await.unwrap() {
            answered.extend(said(line));
        }
        let store = home.open().await;
        let (events, complete) = store.changes("machines.autovibe.dev", Revision(0), 0).await.unwrap();
        let logged: Vec<Revision> = events.iter().map(|event| event.revision).collect();
        let lost: Vec<_> = answered.iter().filter(|revision| !logged.contains(revision)).collect();
        assert!(lost.is_empty(), "answered and lost: {lost:?}");
        assert_eq!(store.list(&all()).await.unwrap().items.len(), logged.len(), "objects and log agree");
        assert!(logged.is_sorted() && complete == *logged.last().unwrap());
        store.close().await;
    }
}
