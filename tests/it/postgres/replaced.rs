//! A replacement alone is one question to the server: it begins, checks, writes and commits. What may go wrong of the steps may go
//! wrong of the one.

use super::proxy::{Fault, Proxy};
use super::states::{LASTING, PASSING, TRIGGERS, arm, raised};
use super::{RESOURCE, follow, key, put_all};
use crate::database::{Cluster, Home};
use autovibe::store::{Error, Expect, Object, Options, Revision, Store};
use serde_json::{Value, json};
use std::time::Duration;

fn document(value: u64) -> Value {
    json!({"metadata": {"name": "sum", "namespace": "shop"}, "spec": {"value": value, "text": "of 'quotes', \"quotes\" and \\"}})
}

async fn make(store: &Store) -> Object {
    store.write(|t| Box::pin(async { t.put(&key("sum"), document(0), Expect::Absent).await as Result<_, Error> })).await.unwrap()
}

/// Returns when who follows for `store` has begun to: what that has the writer do would be of one batch with what is written meanwhile.
async fn is_followed(store: &Store, other: &Store) {
    let first = put_all(other, vec!["first".into()], Duration::ZERO).await.unwrap();
    store.revisions().wait_for(|newest| *newest >= first).await.unwrap();
}

async fn replace(store: &Store, at: Revision, value: u64) -> Result<Object, Error> {
    store.replace(key("sum"), at, document(value)).await
}

fn value(object: &Object) -> u64 {
    object.document["spec"]["value"].as_u64().unwrap()
}

async fn stored(store: &Store) -> Object {
    store.get(&key("sum")).await.unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_one_question_and_the_next_revision_whatever_is_cut() {
    let Some(home) = Home::postgres().await else { return };
    let proxy = Proxy::start(Cluster::shared().unwrap().socket()).await;
    let store = Store::open_with(&proxy.url(&home.url).parse().unwrap(), Options::default()).await.unwrap();
    let other = home.open().await;
    is_followed(&store, &other).await;
    let mut at = make(&store).await.revision;
    let mut fewest = u64::MAX;
    for round in 1..=15_u64 {
        // What is cut before it came is made step by step, what is cut after it was committed is looked up: each once.
        let fault = [Fault::None, Fault::CutAfterReplacement, Fault::None, Fault::CutAsked("of 'quotes'"), Fault::None]
            [usize::try_from(round).unwrap() % 5];
        let (faults, asked) = (proxy.faults(), proxy.asked());
        proxy.arm(fault);
        let replaced = replace(&store, at, round).await.unwrap();
        if fault == Fault::None {
            fewest = fewest.min(proxy.asked() - asked);
        }
        assert_eq!(proxy.faults() - faults, u32::from(fault != Fault::None), "round {round}: {fault:?} was not injected");
        assert_eq!((value(&replaced), replaced.revision), (round, Revision(at.0 + 1)), "round {round}: {fault:?}");
        at = replaced.revision;
        assert_eq!(replaced.document["metadata"]["resourceVersion"], at.0.to_string());
        for store in [&store, &other] {
            let stored = stored(store).await;
            assert_eq!((stored.document, stored.revision), (replaced.document.clone(), at), "round {round}");
        }
    }
    assert_eq!(fewest, 1, "questions");
    // Who follows, here or in another process, is told of each once.
    for store in [store, other] {
        let seen = follow(store, |seen| seen.last() == Some(&at)).await;
        assert_eq!(seen, (1..=at.0).map(Revision).collect::<Vec<_>>());
    }
}

/// What was not committed when that was looked up is made step by step, and so must never come to stand by itself.
#[tokio::test(flavor = "multi_thread")]
async fn one_that_comes_to_the_server_late_does_nothing() {
    let Some(home) = Home::postgres().await else { return };
    let proxy = Proxy::start(Cluster::shared().unwrap().socket()).await;
    let store = Store::open_with(&proxy.url(&home.url).parse().unwrap(), Options::default()).await.unwrap();
    is_followed(&store, &home.open().await).await;
    let mut at = make(&store).await.revision;
    for round in 1..=4 {
        proxy.arm(Fault::LateAsked("of 'quotes'"));
        let replaced = replace(&store, at, round).await.unwrap();
        assert_eq!(u64::from(proxy.faults()), 2 * round, "not injected, or it never came");
        assert_eq!((value(&replaced), replaced.revision), (round, Revision(at.0 + 1)));
        assert_eq!(stored(&store).await.document, replaced.document);
        at = replaced.revision;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_refused_as_the_steps_would_be() {
    let Some(home) = Home::postgres().await else { return };
    let (leader, server) = (home.open().await, home.open().await);
    let (leader, epoch) = Home::lead(&leader).await;
    let made = make(&server).await.revision;
    let first = replace(&server, made, 1).await.unwrap().revision;
    assert!(matches!(replace(&server, made, 2).await, Err(Error::Conflict(_))));
    assert!(matches!(server.replace::<Error>(key("none"), first, document(2)).await, Err(Error::NotFound(_))));
    let second = replace(&leader, first, 2).await.unwrap().revision;
    let (_, next) = Home::lead(&home.open().await).await;
    let refused = replace(&leader, second, 3).await;
    assert!(matches!(refused, Err(Error::Fenced { ours, theirs }) if (ours, theirs) == (epoch, next)), "{refused:?}");
    home.execute("INSERT INTO migrations (number, name) VALUES (9999, 'later')").await;
    let refused = replace(&server, second, 3).await;
    assert!(matches!(&refused, Err(Error::NotCommitted(why)) if why.contains("9999 (later)")), "{refused:?}");
    home.execute("DELETE FROM migrations WHERE number = 9999").await;
    assert_eq!(value(&stored(&server).await), 2);
    // The database went back, and says the same number for something else.
    let third = replace(&server, second, 3).await.unwrap().revision;
    home.execute(&format!(
        "UPDATE revisions SET number = {0}; DELETE FROM log WHERE revision > {0}; UPDATE objects SET revision = {0}",
        second.0
    ))
    .await;
    let gone_on = replace(&server, second, 4).await.unwrap();
    assert!(gone_on.revision > Revision(third.0 + 1_000_000), "{gone_on:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_server_refuses_once_is_made_all_the_same_and_once() {
    let Some(home) = Home::postgres().await else { return };
    let store = home.open().await;
    let mut at = make(&store).await.revision;
    home.execute(TRIGGERS).await;
    for (state, what) in PASSING.iter().chain(LASTING) {
        for place in ["begin", "commit"] {
            arm(&home, place, state, 1).await;
            let replaced = replace(&store, at, 1).await.unwrap_or_else(|error| panic!("{what} at {place}: {error}"));
            assert!(raised(&home, 1).await, "{what} at {place}: not injected");
            assert_eq!(replaced.revision, Revision(at.0 + 1), "{what} at {place}");
            at = replaced.revision;
            assert_eq!(stored(&store).await.revision, at, "{what} at {place}");
        }
    }
}

/// Each reads, and replaces what it read unless another came between: none is lost, and revisions have no gap.
#[tokio::test(flavor = "multi_thread")]
async fn of_many_processes_none_overwrites_what_another_wrote() {
    const PROCESSES: u64 = 6;
    const EACH: u64 = 25;
    let Some(home) = Home::postgres().await else { return };
    let watching = tokio::spawn(follow(home.open().await, |seen| seen.len() as u64 > PROCESSES * (EACH + 1)));
    let first = home.open().await;
    make(&first).await;
    let adds = (0..PROCESSES).map(|process| {
        let home = &home;
        async move {
            let store = home.open().await;
            put_all(&store, vec![format!("other-{process}")], Duration::ZERO).await.unwrap();
            let (mut added, mut conflicts) = (0, 0);
            while added < EACH {
                let so_far = stored(&store).await;
                match replace(&store, so_far.revision, value(&so_far) + 1).await {
                    Ok(_) => added += 1,
                    Err(Error::Conflict(_)) => conflicts += 1,
                    Err(other) => panic!("{other}"),
                }
            }
            conflicts
        }
    });
    let conflicts: u32 = futures::future::join_all(adds).await.into_iter().sum();
    assert!(conflicts > 0, "they never met");
    let sum = stored(&first).await;
    assert_eq!(value(&sum), PROCESSES * EACH);
    let expected: Vec<Revision> = (1..=i64::try_from(1 + PROCESSES * (EACH + 1)).unwrap()).map(Revision).collect();
    assert_eq!(watching.await.unwrap(), expected);
    // The log says of each what it replaced.
    let past = first.history(RESOURCE, Revision(0), 0).await.unwrap().0;
    let mut last = 0;
    for (event, before) in past.iter().filter(|(event, _)| event.key == key("sum") && event.revision > Revision(1)) {
        let Some(now) = event.document["spec"]["value"].as_u64() else { panic!("{event:?}") };
        assert_eq!((before.as_ref().unwrap()["spec"]["value"].as_u64(), now), (Some(last), last + 1));
        last = now;
    }
    assert_eq!(last, PROCESSES * EACH);
}
