//! Hubs beside each other on one PostgreSQL database, with one lab.

use super::elsewhere::{SIMULATED, leader, send};
use super::killed::{end, lives_through, manifest};
use super::parted::Network;
use crate::database::{Cluster, Home};
use crate::process::{Hub, LOG, LabOf, PATIENCE, said, wait};
use autovibe::remote;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// Two hubs in one directory, whose kubeconfig is the second one's.
struct Two {
    first: Hub,
    second: Hub,
    /// The first one's kubeconfig.
    of_first: PathBuf,
}

/// The first one leads when this returns, and the second one stands by.
fn two(data: &Path, databases: [&str; 2]) -> Two {
    let start = |url| {
        let addresses = ["--listen", "127.0.0.1:0", "--gateway-listen", "127.0.0.1:0"];
        Hub::start(data, &[&SIMULATED[..], &addresses, &["--lease-duration", "3s", "--database-url", url]].concat())
    };
    let (config, of_first) = (data.join("kubeconfig"), data.join("kubeconfig-of-the-first"));
    let first = start(databases[0]).serves();
    wait("the first one leads", || leader(data).is_some_and(|(pid, _)| pid == first.child.id()));
    std::fs::copy(&config, &of_first).unwrap();
    let second = start(databases[1]);
    let is_new = || std::fs::read(&config).unwrap() != std::fs::read(&of_first).unwrap();
    wait("the second one serves and stands by", || is_new() && second.logged().contains("leads; standing by"));
    Two { first, second, of_first }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hubs_on_one_postgresql_database_stand_by_for_each_other() {
    let Some(home) = Home::postgres().await else { return };
    rustls::crypto::ring::default_provider().install_default().ok();
    let data = home.path();
    let _lab = LabOf(data.into());
    let Two { first, second, of_first } = two(data, [&home.url; 2]);
    let config = data.join("kubeconfig");
    said(data, &["apply", "-f", &manifest(data)]);
    end(data, "under the first");
    assert_eq!(leader(data).unwrap().0, first.child.id());

    send("-STOP", first.child.id());
    wait("the second one leads", || leader(data).is_some_and(|(pid, _)| pid == second.child.id()));
    said(data, &["delete", "machine", "a"]);
    said(data, &["apply", "-f", &manifest(data)]);
    let ended = end(data, "after the leader was stopped");
    assert_eq!(ended["status"]["terminationReason"], "Completed", "{:#}", ended["status"]);
    send("-CONT", first.child.id());
    wait("the first one learns it", || first.logged().contains("no longer leading"));
    // Both serve.
    let both = [&of_first, &config].map(|config| said(data, &["--kubeconfig", config.to_str().unwrap(), "get", "machines", "-o", "json"]));
    let names = both.map(|list| serde_json::from_str::<Value>(&list).unwrap()["items"][0]["metadata"]["name"].clone());
    assert_eq!(names, ["a", "a"]);
    assert_eq!(leader(data).unwrap().0, second.child.id());

    // Released, the Lease is free at once.
    assert_eq!(second.terminate().0, Some(0));
    std::fs::copy(&of_first, &config).unwrap();
    wait("the first one leads again", || leader(data).is_some_and(|(pid, _)| pid == first.child.id()));
    said(data, &["delete", "machine", "a"]);
    said(data, &["apply", "-f", &manifest(data)]);
    end(data, "after the leader has ended");
    let log = std::fs::read_to_string(data.join(LOG)).unwrap();
    assert_eq!(first.terminate().0, Some(0), "{log}");
}

async fn until(what: &str, holds: impl AsyncFn() -> bool) {
    let started = Instant::now();
    while !holds().await {
        assert!(started.elapsed() < PATIENCE, "{what} did not happen");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// How much a call may cost is reserved while it runs.
async fn reserved(home: &Home, account: &str) -> i64 {
    let store = home.open().await;
    let reserved = store.balance(account).await.map_or(0, |balance| balance.reserved);
    store.close().await;
    reserved
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_life_goes_on_when_the_leader_is_stopped_in_the_middle_of_its_guests_call() {
    let Some(home) = Home::postgres().await else { return };
    rustls::crypto::ring::default_provider().install_default().ok();
    let data = home.path();
    let _lab = LabOf(data.into());
    let Two { first, second, .. } = two(data, [&home.url; 2]);
    let manifest = manifest(data);
    let conversation = data.join("conversation.yaml");
    let text = std::fs::read_to_string(&conversation).unwrap().replace("thinkSeconds: 0", "thinkSeconds: 5");
    std::fs::write(&conversation, text).unwrap();
    said(data, &["apply", "-f", &manifest]);
    let machine: Value = serde_json::from_str(&said(data, &["get", "machine", "a", "-o", "json"])).unwrap();
    let account = format!("machine/{}", machine["metadata"]["uid"].as_str().unwrap());
    until("the guest calls", async || reserved(&home, &account).await > 0).await;
    send("-STOP", first.child.id());
    wait("the second one leads", || leader(data).is_some_and(|(pid, _)| pid == second.child.id()));
    let ended = end(data, "after the leader was stopped in the middle of a call");
    assert_eq!(ended["status"]["terminationReason"], "Completed", "{:#}", ended["status"]);
    send("-CONT", first.child.id());
    wait("the first one learns it", || first.logged().contains("no longer leading"));
    // The call that nobody waits for any more comes to its end.
    until("nothing is reserved any more", async || reserved(&home, &account).await == 0).await;
}

/// What a client of this hub reads of `path`, and after how long.
async fn read(kubeconfig: &Path, path: &str) -> (Result<Value, remote::Error>, Duration) {
    let (client, began) = (remote::Client::open(kubeconfig, None).unwrap(), Instant::now());
    (client.get(path).await, began.elapsed())
}

/// In less time than the client waits: it is told, and not left alone.
fn is_refused(answer: &Result<Value, remote::Error>) -> bool {
    matches!(answer, Err(remote::Error::Refused(refused)) if refused.code == 503)
}

/// H2. Cut off from the database, by a network that swallows or one that refuses: it leads no longer, another does, and who asks
/// it for an object is refused and shown nothing that may be over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_that_is_cut_off_from_the_database_neither_leads_nor_shows_the_past() {
    const MACHINES: &str = "/apis/autovibe.dev/v1alpha1/namespaces/default/machines";
    let Some(cluster) = Cluster::start_tcp("-c fsync=off -c max_connections=100") else { return };
    rustls::crypto::ring::default_provider().install_default().ok();
    let home = Home::at(cluster.create().await);
    let data = home.path();
    let name = home.url.strip_prefix("postgres:///").unwrap().split('?').next().unwrap();
    let ways = [Network::new().await, Network::new().await];
    ways.iter().for_each(|way| way.lead_to(([127, 0, 0, 1], cluster.port()).into()));
    let urls = ways.each_ref().map(|way| format!("postgres://autovibe@{}/{name}?sslmode=disable", way.address));
    let _lab = LabOf(data.into());
    let Two { first, second, of_first } = tokio::task::block_in_place(|| two(data, [&urls[0], &urls[1]]));
    let config = data.join("kubeconfig");
    let manifest = manifest(data);
    let leads = |hub: &Hub| leader(data).is_some_and(|(pid, _)| pid == hub.child.id());

    tokio::task::block_in_place(|| said(data, &["apply", "-f", &manifest]));
    tokio::task::block_in_place(|| assert!(lives_through(data, 4), "it is cut off before the end"));
    assert!(read(&of_first, MACHINES).await.0.is_ok());
    ways[0].part();
    let began = Instant::now();
    until("the second one leads", async || tokio::task::block_in_place(|| leads(&second))).await;
    eprintln!("another led {:?} after the first one was cut off", began.elapsed());
    until("the first one knows", async || first.logged().matches("no longer leading").count() >= 1).await;
    tokio::task::block_in_place(|| end(data, "under the second one"));
    tokio::task::block_in_place(|| said(data, &["delete", "machine", "a"]));
    // What it knows from before would do for `resourceVersion=0`; it cannot say of when that is.
    let any = format!("{MACHINES}?resourceVersion=0");
    let paths = [MACHINES, &format!("{MACHINES}/a"), &any, MACHINES, MACHINES, &any];
    let answers = futures::future::join_all(paths.map(|path| read(&of_first, path))).await;
    for (path, (answer, took)) in paths.iter().zip(answers) {
        eprintln!("{path}: {answer:?} after {took:?}");
        assert!(is_refused(&answer), "{path}: {answer:?}");
    }
    assert_eq!(read(&config, MACHINES).await.0.unwrap()["items"], serde_json::json!([]));
    ways[0].heal();
    until("the first one serves again", async || {
        read(&of_first, MACHINES).await.0.is_ok_and(|list| list["items"].as_array().unwrap().is_empty())
    })
    .await;
    assert!(tokio::task::block_in_place(|| leads(&second)));

    // The other one, while it leads; what it is asked over its own address is refused, so the first one is asked who leads.
    std::fs::copy(&config, data.join("kubeconfig-of-the-second")).unwrap();
    std::fs::copy(&of_first, &config).unwrap();
    tokio::task::block_in_place(|| said(data, &["apply", "-f", &manifest]));
    ways[1].refuse();
    until("the first one leads", async || tokio::task::block_in_place(|| leads(&first))).await;
    until("the second one knows", async || second.logged().matches("no longer leading").count() >= 2).await;
    let (answer, took) = read(&data.join("kubeconfig-of-the-second"), MACHINES).await;
    assert!(is_refused(&answer), "{answer:?}");
    assert!(took < Duration::from_secs(15), "{took:?}");
    let ended = tokio::task::block_in_place(|| end(data, "under the first one again"));
    assert_eq!(ended["status"]["terminationReason"], "Completed", "{:#}", ended["status"]);
    ways[1].heal();
    until("the second one serves again", async || read(&data.join("kubeconfig-of-the-second"), MACHINES).await.0.is_ok()).await;
}
