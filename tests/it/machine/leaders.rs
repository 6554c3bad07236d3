//! Leaders that are stopped, killed and replaced.

use super::elsewhere::{leader, send};
use super::parts::{Parts, until};
use crate::process::Hub;
use autovibe::api;
use autovibe::clock::{Clock, Tenure};
use autovibe::controller::client::{Client, Remote};
use autovibe::lab::Call;
use autovibe::objects::Error;
use autovibe::remote;
use autovibe::store;
use reqwest::Method;
use std::time::{Duration, Instant};

/// A number from outside, else the usual one.
#[expect(clippy::disallowed_methods, reason = "how much is for who runs it to say; there is no configuration here")]
fn given(name: &str, usually: u64) -> u64 {
    std::env::var(name).ok().map_or(usually, |text| text.parse().expect("a number"))
}

fn client(api: &remote::Client) -> Client {
    Remote::new(api.clone(), Clock::system()).into()
}

/// Gives the Lease to `holder`, as another process would take it; the epoch that begins.
async fn give(api: &remote::Client, holder: &str) -> i64 {
    let client = client(api);
    let mut lease = client.lease().await.unwrap().expect("someone led");
    lease["spec"]["holderIdentity"] = holder.into();
    lease["spec"]["leaseDurationSeconds"] = 3600.into();
    let given = client.put_lease(lease).await.unwrap();
    given["metadata"]["annotations"]["autovibe.dev/epoch"].as_str().unwrap().parse().unwrap()
}

/// Stopped right after one of its changes came to the node, in another place of a life each time, for longer than its Lease;
/// another leads when it goes on. `AUTOVIBE_STOPS=30` stops it in thirty places.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_was_stopped_in_the_middle_of_a_step_changes_nothing_more() {
    let parts = Parts::start(async |node| node).await;
    let controllers = parts.controllers("first", None, "3s");
    let pid = controllers.process.child.id();
    parts.leads(&controllers).await;
    let (mut stopped_in_life, mut slipped) = (0, Vec::new());
    for stop in 0..given("AUTOVIBE_STOPS", 6) {
        let (name, before) = (format!("m{stop}"), parts.lab.changes());
        parts.create(&name).await;
        let place = before + 1 + 5 * (stop % 8);
        while parts.lab.changes() < place && !parts.is_finished(&name).await {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        send("-STOP", pid);
        stopped_in_life += u64::from(!parts.is_finished(&name).await);
        tokio::time::sleep(Duration::from_millis(3100)).await;
        give(&parts.api, "another").await;
        let acted = parts.lab.counts();
        let known = controllers.said("no longer leading");
        send("-CONT", pid);
        until("it learns that another leads", || controllers.said("no longer leading") > known).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        let changes =
            |counts: std::collections::BTreeMap<Call, u64>| counts.into_iter().filter(|(call, _)| call.changes()).collect::<Vec<_>>();
        let late: u64 = changes(parts.lab.counts()).iter().map(|(_, count)| count).sum::<u64>()
            - changes(acted).iter().map(|(_, count)| count).sum::<u64>();
        eprintln!("stopped after {} changes of {name}: {late} came when it went on", place - before);
        slipped.push(late);
        give(&parts.api, "").await;
        parts.leads(&controllers).await;
        parts.ends_well(&name).await;
    }
    assert!(stopped_in_life >= 4, "{stopped_in_life}");
    assert!(slipped.iter().all(|late| *late == 0), "{slipped:?}");
}

/// `AUTOVIBE_KILLS=50` kills fifty.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leaders_that_are_killed_again_and_again_are_replaced_in_time_and_nothing_is_done_twice() {
    const LEASE: Duration = Duration::from_secs(5);
    let parts = Parts::start(async |node| node).await;
    let kills = given("AUTOVIBE_KILLS", 12);
    let start = |n: usize| parts.controllers(&format!("c{n}"), None, &format!("{}s", LEASE.as_secs()));
    let mut both = [start(0), start(1)];
    until("someone leads", || leader(parts.data()).is_some()).await;
    let (mut longest, mut last) = (Duration::ZERO, 0);
    for kill in 0..kills {
        parts.create(&format!("m{kill}")).await;
        tokio::time::sleep(Duration::from_millis(kill * 53 % 600)).await;
        let (pid, epoch) = leader(parts.data()).expect("one leads");
        assert!(epoch > last, "each leads in an epoch of its own");
        last = epoch;
        let n = both.iter().position(|controllers| controllers.process.child.id() == pid).expect("one of ours");
        both[n].process.child.kill().unwrap();
        both[n].process.child.wait().unwrap();
        let killed = Instant::now();
        parts.leads(&both[1 - n]).await;
        longest = longest.max(killed.elapsed());
        assert!(killed.elapsed() < 2 * LEASE, "kill {kill}: another led after {:?}", killed.elapsed());
        both[n] = start(n);
    }
    for kill in 0..kills {
        parts.ends_well(&format!("m{kill}")).await;
    }
    // What was begun by a leader that died was found, and not begun again.
    for once in [Call::Zfs("clone"), Call::Create, Call::Start, Call::Delete, Call::Zfs("rename")] {
        assert_eq!(parts.lab.count(once), kills, "{once:?}: {:?}", parts.lab.counts());
    }
    assert!(parts.lab.vms().is_empty());
    eprintln!("{kills} leaders were killed; another led after {longest:?} at most");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_leader_before_writes_over_the_api_is_refused_in_its_transaction() {
    rustls::crypto::ring::default_provider().install_default().ok();
    let data = tempfile::tempdir().unwrap();
    let hub = Hub::start(data.path(), &super::elsewhere::HUB).serves();
    let api = remote::Client::open(&data.path().join("kubeconfig"), None).unwrap();
    let client = client(&api);
    let first = client.put_lease(serde_json::json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": { "name": "autovibe-controller", "namespace": "autovibe-system" }, "spec": { "holderIdentity": "one" },
    }));
    let first: i64 = first.await.unwrap()["metadata"]["annotations"]["autovibe.dev/epoch"].as_str().unwrap().parse().unwrap();
    assert_eq!(give(&api, "one").await, first, "who renews goes on in the same epoch");
    let budget = |name: &str| {
        api::Budget::new("default", name, serde_json::from_str(r#"{"limits": {"money": {"amount": "1", "currency": "USD"}}}"#).unwrap())
    };
    client.under(first, Tenure::unlimited()).create(&budget("a")).await.unwrap();
    let second = give(&api, "two").await;
    assert_eq!(second, first + 1);
    // One that is over, and one that never was: of a database that this server does not know.
    for wrong in [first, second + 1] {
        let late = client.under(wrong, Tenure::unlimited());
        let fenced = |outcome: Result<(), Error>| match outcome {
            Err(Error::Store(store::Error::Fenced { ours, theirs })) => assert_eq!((ours, theirs), (wrong, second)),
            other => panic!("epoch {wrong}: {other:?}"),
        };
        fenced(late.create(&budget("b")).await.map(drop));
        fenced(late.delete::<api::Budget>("default", "a", None).await);
        let mut lease = client.lease().await.unwrap().unwrap();
        lease["spec"]["holderIdentity"] = "late".into();
        fenced(late.put_lease(lease).await.map(drop));
    }
    assert!(client.get::<api::Budget>("default", "b").await.unwrap().is_none());
    assert!(client.get::<api::Budget>("default", "a").await.unwrap().is_some());
    client.under(second, Tenure::unlimited()).create(&budget("b")).await.unwrap();
    let path = "/apis/autovibe.dev/v1alpha1/namespaces/default/budgets/a";
    let send = async |epoch: &str| api.json(api.request(Method::DELETE, path).header("autovibe-epoch", epoch)).await;
    match send(&first.to_string()).await {
        Err(remote::Error::Refused(refused)) => {
            assert_eq!((refused.code, refused.reason.as_str()), (412, "Fenced"));
            assert!(refused.message.contains(&format!("another leads, in epoch {second}")), "{}", refused.message);
        }
        other => panic!("{other:?}"),
    }
    match send("soon").await {
        Err(remote::Error::Refused(refused)) => assert_eq!(refused.code, 400, "{}", refused.message),
        other => panic!("{other:?}"),
    }
    assert_eq!(hub.terminate().0, Some(0));
}
