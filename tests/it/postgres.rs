//! The store on PostgreSQL: several processes on one database, a server that is killed, and answers that are lost.
//!
//! Each store here stands for a process: it shares nothing with the others but the database.

mod failover;
mod kills;
mod proxy;
mod replaced;
mod states;
mod tls;

use crate::database::{Cluster, Home};
use autovibe::store::{Error, Expect, Key, Object, Query, Revision, Store};
use proxy::{Fault, Proxy};
use serde_json::json;
use std::{
    collections::BTreeSet,
    sync::Arc,
    time::{Duration, Instant},
};

const RESOURCE: &str = "machines.autovibe.dev";

fn key(name: &str) -> Key {
    Key::new(RESOURCE, "shop", name)
}

/// Puts objects of these names in one transaction, which pauses before its end; the revision of the last.
async fn put_all(store: &Store, names: Vec<String>, pause: Duration) -> Result<Revision, Error> {
    store
        .write(move |t| {
            Box::pin(async move {
                let mut revision = Revision(0);
                for name in names {
                    let document = json!({"metadata": {"name": name, "namespace": "shop"}});
                    revision = t.put(&key(&name), document, Expect::Absent).await?.revision;
                }
                tokio::time::sleep(pause).await;
                Ok(revision)
            })
        })
        .await
}

/// Follows the log as a watch does until `enough` of what it saw; each revision once, in order.
async fn follow(store: Store, enough: impl Fn(&[Revision]) -> bool) -> Vec<Revision> {
    let mut newest = store.revisions();
    let (mut seen, mut after) = (Vec::new(), Revision(0));
    while !enough(&seen) {
        match store.changes(RESOURCE, after, 7).await {
            Ok((events, complete)) => {
                assert!(events.iter().map(|event| event.revision).is_sorted_by(|a, b| a < b));
                assert!(events.iter().all(|event| event.revision > after && event.revision <= complete));
                seen.extend(events.iter().map(|event| event.revision));
                if events.is_empty() && complete == after {
                    let _ = tokio::time::timeout(Duration::from_secs(2), newest.wait_for(|newest| *newest > after)).await;
                }
                after = complete;
            }
            // As a watcher's client does: again from where it was.
            Err(Error::Unavailable(_)) => tokio::time::sleep(Duration::from_millis(50)).await,
            Err(other) => panic!("{other}"),
        }
    }
    seen
}

/// A number that looks random and is the same in each run.
fn scatter(seed: u64, below: u64) -> u64 {
    (seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407) >> 33) % below
}

#[tokio::test(flavor = "multi_thread")]
async fn d3_commits_of_sixteen_processes_are_seen_in_the_order_of_their_revisions_and_without_a_gap() {
    let Some(home) = Home::postgres().await else { return };
    let home = Arc::new(home);
    let (processes, rounds) = (16_u64, 12_u64);
    let count = usize::try_from(processes * rounds).unwrap();
    let watchers: Vec<_> = [home.open().await, home.open().await]
        .map(|store| tokio::spawn(follow(store, move |seen| seen.len() == count)))
        .into_iter()
        .collect();
    let writers = (0..processes).map(|process| {
        let home = home.clone();
        tokio::spawn(async move {
            let store = home.open().await;
            let mut given = Vec::new();
            for round in 0..rounds {
                let pause = Duration::from_millis(scatter(process * 100 + round, 9));
                let name = format!("{process}-{round}");
                given.push(put_all(&store, vec![name.clone()], pause).await.unwrap());
                // One that fails after it took revisions: they are given again.
                let refused = put_all(&store, vec![format!("{name}-x"), name], pause).await;
                assert!(matches!(refused, Err(Error::Exists(_))), "{refused:?}");
            }
            given
        })
    });
    let mut given = Vec::new();
    for writer in futures::future::join_all(writers).await {
        let revisions = writer.unwrap();
        assert!(revisions.is_sorted());
        given.extend(revisions);
    }
    given.sort_unstable();
    let expected: Vec<Revision> = (1..=count).map(|n| Revision(i64::try_from(n).unwrap())).collect();
    assert_eq!(given, expected, "no gap");
    for watcher in watchers {
        assert_eq!(watcher.await.unwrap(), expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn d3_a_process_that_stops_in_a_transaction_holds_the_others_up_for_seconds_and_writes_nothing() {
    let Some(home) = Home::postgres().await else { return };
    let (stuck, other) = (home.open().await, home.open().await);
    let work = tokio::spawn(async move { put_all(&stuck, vec!["stuck".into()], Duration::from_secs(12)).await });
    tokio::time::sleep(Duration::from_millis(300)).await;
    let begun = Instant::now();
    put_all(&other, vec!["other".into()], Duration::ZERO).await.unwrap();
    assert!(begun.elapsed() > Duration::from_secs(2), "it did not wait for the lock");
    assert!(begun.elapsed() < Duration::from_secs(9), "{:?}", begun.elapsed());
    let stuck = work.await.unwrap();
    assert!(matches!(stuck, Err(Error::NotCommitted(_) | Error::Unavailable(_))), "{stuck:?}");
    assert!(other.get(&key("stuck")).await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn d2_a_commit_whose_answer_was_lost_is_looked_up_and_done_once() {
    let Some(home) = Home::postgres().await else { return };
    let proxy = Proxy::start(Cluster::shared().unwrap().socket()).await;
    let store = Store::open_with(&proxy.url(&home.url).parse().unwrap(), autovibe::store::Options::default()).await.unwrap();
    let add = || {
        let store = store.clone();
        async move {
            store
                .write(|t| {
                    Box::pin(async move {
                        let so_far = t.get(&key("sum")).await?;
                        let value = so_far.as_ref().map_or(0, |object| object.document["spec"]["value"].as_u64().unwrap());
                        let expect = so_far.map_or(Expect::Absent, |object| Expect::At(object.revision));
                        let document = json!({"metadata": {"name": "sum", "namespace": "shop"}, "spec": {"value": value + 1}});
                        t.put(&key("sum"), document, expect).await
                    })
                })
                .await as Result<_, Error>
        }
    };
    let mut sum = 0;
    for round in 0..12 {
        let fault = [Fault::CutAfterCommit, Fault::CutBeforeCommit, Fault::None][round % 3];
        let before = proxy.faults();
        proxy.arm(fault);
        let added: Result<Object, Error> = add().await;
        match fault {
            Fault::CutBeforeCommit => assert!(matches!(added, Err(Error::NotCommitted(_))), "{added:?}"),
            _ => {
                sum += 1;
                assert_eq!(added.unwrap().document["spec"]["value"], sum, "round {round}");
            }
        }
        assert_eq!(proxy.faults() - before, u32::from(fault != Fault::None), "the fault was not injected");
        let stored = store.get(&key("sum")).await.unwrap().unwrap();
        assert_eq!(stored.document["spec"]["value"], sum, "round {round}");
    }
    // Of several at once, each is done once, whatever became of their common answer.
    proxy.arm(Fault::CutAfterCommit);
    let done = futures::future::join_all((0..10).map(|_| add())).await;
    assert_eq!(done.iter().filter(|one| one.is_ok()).count(), 10, "{done:?}");
    assert_eq!(store.get(&key("sum")).await.unwrap().unwrap().document["spec"]["value"], sum + 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn d4_what_others_commit_is_seen_at_once_and_without_notifications_within_seconds() {
    let Some(home) = Home::postgres().await else { return };
    let proxy = Proxy::start(Cluster::shared().unwrap().socket()).await;
    let (writer, told) = (home.open().await, home.open().await);
    let deaf = Store::open_with(&proxy.url(&home.url).parse().unwrap(), autovibe::store::Options::default()).await.unwrap();
    proxy.arm(Fault::DropNotifications);
    let mut slowest = Duration::ZERO;
    for n in 0..5 {
        // Once it listens, which a notification of its own shows.
        let revision = put_all(&writer, vec![format!("n{n}")], Duration::ZERO).await.unwrap();
        let begun = Instant::now();
        let waits = async |store: &Store| {
            let mut newest = store.revisions();
            tokio::time::timeout(Duration::from_secs(5), newest.wait_for(|newest| *newest >= revision)).await.unwrap().unwrap();
            begun.elapsed()
        };
        let (fast, slow) = tokio::join!(waits(&told), waits(&deaf));
        assert!(n == 0 || fast < Duration::from_millis(600), "told after {fast:?}");
        slowest = slowest.max(slow);
    }
    assert!(slowest > Duration::from_millis(100), "no notification was dropped: {slowest:?}");
    assert!(proxy.faults() > 0);
}

/// Half-open connections: the network swallows all, and nobody is told.
#[tokio::test(flavor = "multi_thread")]
async fn d4_connections_that_go_silent_are_replaced_in_bounded_time() {
    let Some(home) = Home::postgres().await else { return };
    let proxy = Proxy::start(Cluster::shared().unwrap().socket()).await;
    let other = home.open().await;
    let store = Store::open_with(&proxy.url(&home.url).parse().unwrap(), autovibe::store::Options::default()).await.unwrap();
    for n in 0..2 {
        // All kinds of connections are in use: the writer's, the listener's, several readers'.
        put_all(&store, vec![format!("mine{n}")], Duration::ZERO).await.unwrap();
        let all = Query { resource: RESOURCE.into(), ..Query::default() };
        let reads = (0..4).map(|_| store.list(&all));
        assert!(futures::future::join_all(reads).await.iter().all(Result::is_ok));
        proxy.silence();
        let made = proxy.made();
        let begun = Instant::now();
        let revision = put_all(&other, vec![format!("theirs{n}")], Duration::ZERO).await.unwrap();
        let told = async {
            let mut newest = store.revisions();
            newest.wait_for(|newest| *newest >= revision).await.unwrap();
            begun.elapsed()
        };
        let read = async {
            // One after the other: each of the old connections is found out by someone.
            let mut slowest = Duration::ZERO;
            for _ in 0..6 {
                let begun = Instant::now();
                assert!(store.get(&key(&format!("theirs{n}"))).await.unwrap().is_some());
                slowest = slowest.max(begun.elapsed());
            }
            slowest
        };
        let written = async {
            // What meets the silence is refused, with nothing written, and may be tried again.
            let refused = put_all(&store, vec![format!("after{n}")], Duration::ZERO).await;
            assert!(matches!(refused, Err(Error::Unavailable(_))), "{refused:?}");
            put_all(&store, vec![format!("after{n}")], Duration::ZERO).await.unwrap();
            begun.elapsed()
        };
        let all = async { tokio::join!(told, read, written) };
        let (told, read, written) = tokio::time::timeout(Duration::from_mins(2), all).await.expect("none of it hangs");
        eprintln!("after the silence: told in {told:.1?}, read in {read:.1?} at most, written in {written:.1?}");
        // A new listener first has the writer look at the database, which may itself wait for the silent one.
        assert!(told < Duration::from_secs(20) && read < Duration::from_secs(8) && written < Duration::from_secs(20));
        assert!(told + read + written > Duration::from_secs(3), "nothing was silent");
        assert!(proxy.made() > made, "connections were made anew");
        // What was written is there once.
        let name = format!("after{n}");
        let (events, _) = other.changes(RESOURCE, Revision(0), 0).await.unwrap();
        assert_eq!(events.iter().filter(|event| event.key.name == name).count(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn d4_sessions_that_are_ended_are_opened_again() {
    let Some(home) = Home::postgres().await else { return };
    let store = home.open().await;
    for n in 0..4 {
        put_all(&store, vec![format!("n{n}")], Duration::ZERO).await.unwrap();
        assert!(store.get(&key(&format!("n{n}"))).await.unwrap().is_some());
        home.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()",
        )
        .await;
    }
    // What others do is seen as well.
    let other = home.open().await;
    let revision = put_all(&other, vec!["other".into()], Duration::ZERO).await.unwrap();
    let mut newest = store.revisions();
    tokio::time::timeout(Duration::from_secs(10), newest.wait_for(|newest| *newest >= revision)).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn d6_a_server_with_few_connections_bears_many_watchers() {
    // Of the five, two are the writer's and the listener's.
    let settings = "-c fsync=off -c max_connections=5 -c superuser_reserved_connections=0 -c max_wal_senders=0";
    let Some(cluster) = Cluster::start(settings) else { return };
    let store = Home::at(cluster.create().await).open().await;
    let watchers: Vec<_> = (0..40).map(|_| tokio::spawn(follow(store.clone(), |seen| seen.len() == 60))).collect();
    let writes = (0..60).map(|n| put_all(&store, vec![format!("n{n}")], Duration::ZERO));
    assert!(futures::future::join_all(writes).await.iter().all(Result::is_ok));
    for watcher in watchers {
        watcher.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_process_leads_and_what_the_one_before_it_writes_is_refused() {
    let Some(home) = Home::postgres().await else { return };
    let (first, second, server) = (home.open().await, home.open().await, home.open().await);
    let put = async |store: &Store, name: &str| put_all(store, vec![name.into()], Duration::ZERO).await;
    let (first, epoch) = Home::lead(&first).await;
    put(&first, "a").await.unwrap();
    put(&server, "b").await.unwrap();
    let (second, next) = Home::lead(&second).await;
    let refused = put(&first, "c").await;
    assert!(matches!(refused, Err(Error::Fenced { ours, theirs }) if (ours, theirs) == (epoch, next)), "{refused:?}");
    put(&second, "d").await.unwrap();
    put(&server, "e").await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn d5_a_database_that_went_back_on_its_server_is_found_by_its_revisions() {
    let Some(home) = Home::postgres().await else { return };
    let (leader, server) = (home.open().await, home.open().await);
    let (leader, epoch) = Home::lead(&leader).await;
    let lost = put_all(&leader, vec!["a".into(), "b".into()], Duration::ZERO).await.unwrap();
    home.execute("UPDATE revisions SET number = 1; DELETE FROM log WHERE revision = 2; DELETE FROM objects WHERE revision = 2").await;
    let refused = put_all(&leader, vec!["c".into()], Duration::ZERO).await;
    assert!(matches!(refused, Err(Error::Fenced { ours, .. }) if ours == epoch), "{refused:?}");
    assert!(put_all(&server, vec!["b".into()], Duration::ZERO).await.unwrap() > Revision(lost.0 + 1_000_000));
    assert!(matches!(server.changes(RESOURCE, lost, 0).await, Err(Error::Expired { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn processes_that_start_at_once_migrate_once() {
    let Some(home) = Home::postgres().await else { return };
    let opened = futures::future::join_all((0..8).map(|_| home.open())).await;
    let ids: BTreeSet<&str> = opened.iter().map(Store::installation).collect();
    assert_eq!(ids.len(), 1);
    let puts = opened.iter().enumerate().map(|(n, store)| put_all(store, vec![format!("n{n}")], Duration::ZERO));
    assert!(futures::future::join_all(puts).await.iter().all(Result::is_ok));
}

/// A rolling upgrade: what a newer process has made of the database is not written by an older one that still runs.
#[tokio::test(flavor = "multi_thread")]
async fn h4_a_process_that_runs_writes_nothing_once_a_newer_one_has_migrated() {
    let Some(home) = Home::postgres().await else { return };
    let (leader, server) = (home.open().await, home.open().await);
    let (leader, _) = Home::lead(&leader).await;
    put_all(&leader, vec!["a".into()], Duration::ZERO).await.unwrap();
    home.execute("INSERT INTO migrations (number, name) VALUES (9999, 'later')").await;
    for store in [&leader, &server] {
        let refused = put_all(store, vec!["b".into()], Duration::ZERO).await;
        // Who asked is told to try again: it may come to a newer process.
        assert!(matches!(&refused, Err(Error::NotCommitted(why)) if why.contains("9999 (later)") && why.contains("newer")), "{refused:?}");
        // Its readers need not be cut off in the same moment.
        assert!(store.get(&key("a")).await.unwrap().is_some() && store.get(&key("b")).await.unwrap().is_none());
    }
    home.execute("DELETE FROM migrations WHERE number = 9999").await;
    put_all(&leader, vec!["b".into()], Duration::ZERO).await.unwrap();
}
