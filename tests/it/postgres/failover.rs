//! D5: a replica takes over that lacks the newest commits. Two real servers, the second following the first without being
//! waited for; a proxy stands for the address that moves.

use super::{RESOURCE, follow, proxy::Proxy, put_all};
use crate::database::{Cluster, Home};
use autovibe::store::{Database, Error, Options, Query, Revision, Store};
use std::time::Duration;

const SOON: Duration = Duration::from_secs(30);

/// The address, the two servers behind it, and the database.
struct Pair {
    first: Cluster,
    second: Cluster,
    proxy: Proxy,
    /// The database of each, past the proxy.
    direct: [Home; 2],
    through: Database,
}

impl Pair {
    async fn start() -> Option<Self> {
        let first = Cluster::start("-c fsync=off")?;
        let direct = first.create().await;
        let second = first.replica();
        let name = direct.strip_prefix("postgres:///").unwrap().split('?').next().unwrap();
        let other = second.url(name);
        let proxy = Proxy::start(first.socket()).await;
        let through = proxy.url(&direct).parse().unwrap();
        Some(Self { first, second, proxy, direct: [Home::at(direct), Home::at(other)], through })
    }

    async fn open(&self) -> Store {
        Store::open_with(&self.through, Options::default()).await.unwrap()
    }

    /// Waits until the replica has all that was committed.
    async fn caught_up(&self) {
        let newest: String = self.direct[0].ask("SELECT pg_current_wal_lsn()::text").await;
        let sql = format!("SELECT (pg_last_wal_replay_lsn() >= '{newest}'::pg_lsn)::text");
        let until = tokio::time::Instant::now() + SOON;
        while self.direct[1].ask(&sql).await != "true" {
            assert!(tokio::time::Instant::now() < until, "the replica does not follow");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// From here on the replica learns nothing.
    async fn part(&self) {
        self.direct[1].execute("ALTER SYSTEM SET primary_conninfo = ''").await;
        self.direct[1].execute("SELECT pg_reload_conf()").await;
        let until = tokio::time::Instant::now() + SOON;
        while self.direct[1].ask("SELECT count(*)::text FROM pg_stat_wal_receiver").await != "0" {
            assert!(tokio::time::Instant::now() < until, "the replica still receives");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// The first server dies, and the second takes over.
    async fn fail_over(&self) {
        self.first.kill();
        self.direct[1].execute("SELECT pg_promote()").await;
        self.proxy.turn(self.second.socket());
    }
}

/// How often the ledger notes a gap by a fail-over.
async fn gaps(home: &Home) -> String {
    home.ask("SELECT count(*)::text FROM ledger_entries WHERE posting = 'gap' AND lease = 'failover'").await
}

async fn put(store: &Store, name: &str) -> Result<Revision, Error> {
    put_all(store, vec![name.into()], Duration::ZERO).await
}

/// As a client does that is told to try again.
async fn put_patiently(store: &Store, name: &str) -> Result<Revision, Error> {
    let until = tokio::time::Instant::now() + SOON;
    loop {
        match put(store, name).await {
            Err(Error::Unavailable(_) | Error::NotCommitted(_)) if tokio::time::Instant::now() < until => {}
            other => return other,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn d5_a_replica_that_lacks_commits_takes_over_and_nothing_goes_on_as_if_it_had_not() {
    let Some(pair) = Pair::start().await else { return };
    let (leader, server, bystander) = (pair.open().await, pair.open().await, pair.open().await);
    let (leader, epoch) = Home::lead(&leader).await;
    let kept = put(&leader, "kept").await.unwrap();
    pair.caught_up().await;
    pair.part().await;
    let lost = put(&leader, "lost").await.unwrap();
    // One process saw what is lost, another one did not: its view ends before.
    server.revisions().wait_for(|newest| *newest >= lost).await.unwrap();
    assert_eq!(server.changes(RESOURCE, kept, 0).await.unwrap().0.len(), 1);
    pair.fail_over().await;

    let refused = put_patiently(&leader, "after").await;
    assert!(matches!(refused, Err(Error::Fenced { ours, .. }) if ours == epoch), "{refused:?}");
    assert_eq!(gaps(&pair.direct[1]).await, "1", "the ledger says that something is missing, once");

    // The others go on: above all that was given, and whoever watched begins anew.
    let after = put_patiently(&server, "after").await.unwrap();
    assert!(after > lost && put_patiently(&bystander, "bystander").await.unwrap() > after);
    for known in [kept, lost] {
        let expired = server.changes(RESOURCE, known, 0).await;
        assert!(matches!(expired, Err(Error::Expired { .. })), "{expired:?}");
    }
    let page = server.list(&Query { resource: RESOURCE.into(), ..Query::default() }).await.unwrap();
    let names: Vec<&str> = page.items.iter().map(|item| item.key.name.as_str()).collect();
    assert_eq!(names, ["after", "bystander", "kept"]);
    let seen = tokio::spawn(follow_from(server.clone(), page.revision, 1));
    let last = put(&bystander, "last").await.unwrap();
    assert_eq!(seen.await.unwrap(), [last]);

    // Who leads next, does so under an epoch that nobody had.
    let next = pair.open().await;
    let (next, later) = Home::lead(&next).await;
    assert!(later > epoch + 1);
    put(&next, "led").await.unwrap();
    assert_eq!(gaps(&pair.direct[1]).await, "1");
}

/// That the loss is found does not depend on who comes first: here one that knew nothing of it writes on, beyond what is lost.
#[tokio::test(flavor = "multi_thread")]
async fn d5_one_that_knows_nothing_of_the_loss_does_not_hide_it() {
    let Some(pair) = Pair::start().await else { return };
    let (leader, _) = Home::lead(&pair.open().await).await;
    put(&leader, "kept").await.unwrap();
    pair.caught_up().await;
    pair.part().await;
    let lost = put(&leader, "lost").await.unwrap();
    pair.fail_over().await;
    let ignorant = Store::open_with(&pair.direct[1].database(), Options::default()).await.unwrap();
    for n in 0..5 {
        assert!(put(&ignorant, &format!("n{n}")).await.unwrap() > lost);
    }
    let refused = put_patiently(&leader, "after").await;
    assert!(matches!(refused, Err(Error::Fenced { .. })), "{refused:?}");
    assert_eq!(gaps(&pair.direct[1]).await, "1");
    assert!(matches!(leader.changes(RESOURCE, lost, 0).await, Err(Error::Expired { .. })));
}

/// A server that comes back as it was is no other one.
#[tokio::test(flavor = "multi_thread")]
async fn d5_a_restart_of_the_same_server_is_no_fail_over() {
    let Some(mut cluster) = Cluster::start("-c fsync=off") else { return };
    let home = Home::at(cluster.create().await);
    let store = home.open().await;
    for n in 1..4 {
        assert_eq!(put_patiently(&store, &format!("n{n}")).await.unwrap(), Revision(n));
        cluster.kill();
        cluster.run();
    }
    assert_eq!(gaps(&home).await, "0");
    assert_eq!(follow(store, |seen| seen.len() == 3).await.len(), 3);
}

async fn follow_from(store: Store, from: Revision, count: usize) -> Vec<Revision> {
    let (mut newest, mut seen, mut after) = (store.revisions(), Vec::new(), from);
    while seen.len() < count {
        newest.wait_for(|newest| *newest > after).await.unwrap();
        let (events, complete) = store.changes(RESOURCE, after, 0).await.unwrap();
        seen.extend(events.iter().map(|event| event.revision));
        after = complete;
    }
    seen
}
