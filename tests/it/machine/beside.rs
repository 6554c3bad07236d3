//! Hubs beside each other on one PostgreSQL database, with one lab.

use super::elsewhere::{SIMULATED, leader, send};
use super::killed::{end, manifest};
use crate::database::Home;
use crate::process::{Hub, LOG, LabOf, PATIENCE, said, wait};
use serde_json::Value;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Two hubs in one directory, whose kubeconfig is the second one's.
struct Two {
    first: Hub,
    second: Hub,
    /// The first one's kubeconfig.
    of_first: PathBuf,
}

/// The first one leads when this returns, and the second one stands by.
fn two(home: &Home) -> Two {
    let data = home.path();
    let arguments = [&SIMULATED[..], &["--listen", "127.0.0.1:0", "--gateway-listen", "127.0.0.1:0"], &["--lease-duration", "3s"]].concat();
    let arguments = [&arguments[..], &["--database-url", &home.url]].concat();
    let (config, of_first) = (data.join("kubeconfig"), data.join("kubeconfig-of-the-first"));
    let first = Hub::start(data, &arguments).serves();
    wait("the first one leads", || leader(data).is_some_and(|(pid, _)| pid == first.child.id()));
    std::fs::copy(&config, &of_first).unwrap();
    let second = Hub::start(data, &arguments);
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
    let Two { first, second, of_first } = two(&home);
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
    let Two { first, second, .. } = two(&home);
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
