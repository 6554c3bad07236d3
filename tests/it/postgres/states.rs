//! D6: every state of a server in which it refuses, raised by the server itself: triggers of the test's own raise the
//! SQLSTATE where a batch begins, in the middle of it, and at its commit.

use super::{key, put_all};
use crate::database::{Cluster, Home};
use crate::store::hold;
use autovibe::store::{Error, Expect, Options, Store};
use serde_json::json;
use std::time::Duration;

/// States that pass. Source: PostgreSQL, appendix "PostgreSQL Error Codes".
pub(super) const PASSING: &[(&str, &str)] = &[
    ("40001", "serialization failure"),
    ("40P01", "deadlock"),
    ("55P03", "lock not available"),
    ("57014", "statement time-out"),
    ("57P01", "admin shutdown"),
    ("57P03", "cannot connect now"),
    ("53300", "too many connections"),
    ("53200", "out of memory"),
    ("53100", "disk full"),
    ("53000", "insufficient resources"),
    ("25006", "read-only"),
    ("25P03", "idle in a transaction for too long"),
    ("08006", "connection failure"),
    ("58030", "IO error"),
];
/// States that are someone's fault: repeating does not mend them.
pub(super) const LASTING: &[(&str, &str)] =
    &[("42501", "insufficient privilege"), ("XX001", "data corrupted"), ("22P05", "untranslatable character")];

/// Raises the SQLSTATE in the row of `faults`, as often as it says; a sequence counts, for a rollback does not undo it.
pub(super) const TRIGGERS: &str = "CREATE SEQUENCE raised; CREATE TABLE faults (place TEXT, state TEXT, times BIGINT); \
    CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS $$ DECLARE it record; BEGIN \
        SELECT * INTO it FROM faults WHERE place = TG_ARGV[0]; \
        IF FOUND AND nextval('raised') <= it.times THEN RAISE EXCEPTION 'injected' USING ERRCODE = it.state; END IF; \
        RETURN NULL; END $$; \
    CREATE TRIGGER fail AFTER INSERT OR UPDATE ON writers FOR EACH ROW EXECUTE FUNCTION fail('begin'); \
    CREATE TRIGGER fail AFTER INSERT ON objects FOR EACH ROW WHEN (NEW.name LIKE 'poor%') EXECUTE FUNCTION fail('middle'); \
    CREATE CONSTRAINT TRIGGER fail_late AFTER INSERT ON log DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION fail('commit')";

pub(super) async fn arm(home: &Home, place: &str, state: &str, times: u32) {
    let sql = format!("DELETE FROM faults; INSERT INTO faults VALUES ('{place}', '{state}', {times}); SELECT setval('raised', 1, FALSE)");
    home.execute(&sql).await;
}

/// How often it was raised.
pub(super) async fn raised(home: &Home, times: u32) -> bool {
    let last: u32 = home.ask("SELECT last_value::text FROM raised").await.parse().unwrap();
    last >= times && home.ask("SELECT is_called::text FROM raised").await == "true"
}

async fn put(store: &Store, name: &str) -> Result<(), Error> {
    put_all(store, vec![name.into()], Duration::ZERO).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn d6_each_state_at_each_place_leaves_all_or_nothing_and_passes() {
    let Some(home) = Home::postgres().await else { return };
    let store = home.open().await;
    home.execute(TRIGGERS).await;
    for (state, what) in PASSING.iter().chain(LASTING) {
        let passing = PASSING.iter().any(|(passing, _)| passing == state);
        for place in ["begin", "middle", "commit"] {
            let name = format!("poor-{state}-{place}").to_lowercase();
            arm(&home, place, state, 1).await;
            let done = put(&store, &name).await;
            assert!(raised(&home, 1).await, "{what} at {place}: not injected");
            let there = store.get(&key(&name)).await.unwrap().is_some();
            match (place, passing) {
                // Nothing was done yet: the store tries again by itself.
                ("begin", true) => assert!(done.is_ok() && there, "{what} at {place}: {done:?}"),
                (_, true) => {
                    let told = matches!(done, Err(Error::NotCommitted(_) | Error::Unavailable(_)));
                    assert!(told && !there, "{what} at {place}: {done:?}, there: {there}");
                }
                (_, false) => assert!(done.is_err() && !there, "{what} at {place}: {done:?}, there: {there}"),
            }
            put(&store, &format!("{name}-again")).await.unwrap_or_else(|error| panic!("after {what} at {place}: {error}"));
        }
    }
}

/// What one caller of a batch meets is no matter of the others'.
#[tokio::test(flavor = "multi_thread")]
async fn d6_one_that_fails_in_a_batch_fails_alone() {
    let Some(home) = Home::postgres().await else { return };
    let store = home.open().await;
    home.execute(TRIGGERS).await;
    for (round, (state, what)) in PASSING.iter().enumerate() {
        arm(&home, "middle", state, 1).await;
        // One that holds the batch up, so that the others come into one.
        let first = put_all(&store, vec![format!("first{round}")], Duration::from_millis(30));
        let names: Vec<String> = (0..10).map(|n| if n == 4 { format!("poor{round}") } else { format!("n{round}-{n}") }).collect();
        let others = futures::future::join_all(names.iter().map(|name| put(&store, name)));
        let (first, others) = tokio::join!(first, others);
        first.unwrap();
        for (name, done) in names.iter().zip(others) {
            assert_eq!(done.is_ok(), !name.starts_with("poor"), "{what}, {name}: {done:?}");
            assert_eq!(store.get(&key(name)).await.unwrap().is_some(), done.is_ok(), "{what}, {name}");
        }
    }
}

/// Writes of one object have no savepoint: when the database fails one of them, all of the commit are told to try again.
#[tokio::test(flavor = "multi_thread")]
async fn d6_a_put_that_fails_in_a_batch_leaves_nothing_and_nobody_is_told_otherwise() {
    let Some(home) = Home::postgres().await else { return };
    let store = home.open().await;
    home.execute(TRIGGERS).await;
    for (round, (state, what)) in PASSING.iter().enumerate() {
        arm(&home, "middle", state, 1).await;
        let names: Vec<String> = (0..10).map(|n| if n == 4 { format!("poor{round}") } else { format!("n{round}-{n}") }).collect();
        let one = |name: &str| {
            let document = json!({"metadata": {"name": name}});
            store.put(key(name), Expect::Absent, move |_| Box::pin(async { Ok::<_, Error>(document) }))
        };
        let held = hold(&store).await;
        let others = futures::future::join_all(names.iter().map(|name| one(name))).await;
        held.await.unwrap();
        assert!(raised(&home, 1).await, "{what}: not injected");
        for (name, done) in names.iter().zip(others) {
            assert!(matches!(done, Ok(_) | Err(Error::NotCommitted(_) | Error::Unavailable(_))), "{what}, {name}: {done:?}");
            assert!(!name.starts_with("poor") || done.is_err(), "{what}, {name}: {done:?}");
            assert_eq!(store.get(&key(name)).await.unwrap().is_some(), done.is_ok(), "{what}, {name}");
            if done.is_err() {
                one(name).await.unwrap_or_else(|error| panic!("after {what}: {error}"));
            }
        }
    }
}

/// What refuses a write may itself go with the commit: then that is what is told, not a refusal by what is not there.
#[tokio::test(flavor = "multi_thread")]
async fn d6_a_write_that_was_refused_for_another_of_its_batch_goes_with_it() {
    let Some(home) = Home::postgres().await else { return };
    let store = home.open().await;
    home.execute(TRIGGERS).await;
    arm(&home, "commit", "40001", 1).await;
    let held = hold(&store).await;
    let (added, refused) = tokio::join!(put(&store, "a"), put(&store, "a"));
    held.await.unwrap();
    assert!(raised(&home, 1).await);
    assert!(matches!(added, Err(Error::NotCommitted(_) | Error::Unavailable(_))), "{added:?}");
    assert!(matches!(refused, Err(Error::NotCommitted(_) | Error::Unavailable(_))), "{refused:?}");
    assert!(store.get(&key("a")).await.unwrap().is_none());
    put(&store, "a").await.unwrap();
}

/// Not a single session is to be had: those who read are told in bounded time, and are served once there is.
#[tokio::test(flavor = "multi_thread")]
async fn d6_a_server_without_a_free_session_is_waited_for_and_then_named() {
    let settings = "-c fsync=off -c max_connections=5 -c superuser_reserved_connections=0 -c max_wal_senders=0";
    let Some(cluster) = Cluster::start(settings) else { return };
    let home = Home::at(cluster.create().await);
    let store = home.open().await;
    put(&store, "a").await.unwrap();
    let mut hogs = Vec::new();
    while let Ok(hog) = <sqlx::PgConnection as sqlx::Connection>::connect(&home.url).await {
        hogs.push(hog);
    }
    assert!(hogs.len() >= 2, "the store left {} of five sessions", hogs.len());
    // The writer has its session; so what is written goes on.
    put(&store, "b").await.unwrap();
    let refused = store.get(&key("a")).await;
    let Err(Error::Unavailable(why)) = refused else { panic!("{refused:?}") };
    assert!(why.contains("too many clients"), "{why}");
    let other = Store::open_with(&home.database(), Options::default()).await.map(drop);
    assert!(matches!(&other, Err(Error::Unavailable(why)) if why.contains("too many clients")), "{other:?}");
    let freed = tokio::spawn(async move {
        tokio::time::sleep(Duration::from_millis(500)).await;
        drop(hogs);
    });
    // Waited for, and not refused.
    assert!(store.get(&key("a")).await.unwrap().is_some());
    freed.await.unwrap();
}

/// D3: someone holds the lock of the revisions for longer than a writer waits: nobody is skipped, nothing half done.
#[tokio::test(flavor = "multi_thread")]
async fn d3_a_session_that_holds_the_lock_for_long_delays_writers_and_no_watcher_skips() {
    let Some(home) = Home::postgres().await else { return };
    let (one, other) = (home.open().await, home.open().await);
    put(&one, "first").await.unwrap();
    let url = home.url.clone();
    let (held, holds) = tokio::sync::oneshot::channel();
    let holder = tokio::spawn(async move {
        use sqlx::{Connection, Executor};
        let mut raw = sqlx::PgConnection::connect(&url).await.unwrap();
        raw.execute("BEGIN; SELECT number FROM revisions FOR UPDATE").await.unwrap();
        held.send(()).unwrap();
        raw.execute("SELECT pg_sleep(24); COMMIT").await.unwrap();
    });
    holds.await.unwrap();
    let began = tokio::time::Instant::now();
    let watcher = tokio::spawn(super::follow(other.clone(), |seen| seen.len() >= 3));
    let refused = put(&one, "refused").await;
    assert!(matches!(refused, Err(Error::Unavailable(_))), "{refused:?}");
    // Reads do not wait for it.
    assert!(other.get(&key("first")).await.unwrap().is_some() && !holder.is_finished());
    holder.await.unwrap();
    assert!(began.elapsed() > Duration::from_secs(20));
    put(&one, "second").await.unwrap();
    put(&other, "third").await.unwrap();
    assert!(one.get(&key("refused")).await.unwrap().is_none());
    let seen: Vec<i64> = watcher.await.unwrap().into_iter().map(|revision| revision.0).collect();
    assert_eq!(seen, [1, 2, 3]);
}

/// What a client of the API is told: that it may try again, and when.
#[tokio::test(flavor = "multi_thread")]
async fn d6_a_client_is_told_to_try_again_and_loses_nothing() {
    let Some(home) = Home::postgres().await else { return };
    let database = home.database();
    let raw = Home::at(home.url.clone());
    let served = crate::served::Served::start_on(&database, home.directory, Options::default()).await;
    raw.execute(TRIGGERS).await;
    let path = "/api/v1/namespaces/default/configmaps";
    for (state, what) in PASSING {
        arm(&raw, "commit", state, 1).await;
        let body = json!({"metadata": {"name": format!("c-{}", state.to_lowercase())}, "data": {}});
        let answer = served.request(reqwest::Method::POST, path).json(&body).send().await.unwrap();
        assert!([500, 503].contains(&answer.status().as_u16()), "{what}: {}", answer.status());
        assert_eq!(answer.headers().get("retry-after").unwrap(), "1", "{what}");
        let (code, again) = served.post(path, &body).await;
        assert_eq!(code, 201, "{what}: {again}");
    }
    served.stop().await;
}
