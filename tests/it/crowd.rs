//! A thousand watchers at once, most of whom never read: the others hear of everything, and the hub's memory stays bounded.

use crate::process::Hub;
use crate::served::{Client, Lines};
use serde_json::json;

const CONNECTIONS: usize = 20;
const WATCHERS: usize = 1000;
/// Only the watches of so many connections are read: those that are not hold up the others of their own connection, by the
/// client's own window (RFC 9113 §5.2).
const READERS: usize = 2;
const EVENTS: usize = 60;
/// Bytes of each event. What all that never read are owed is together 1.1 GB.
const LARGE: usize = 20 << 10;
/// MiB. Far more than a debug build needs, far less than a copy for each watcher would be.
const GROWTH: u64 = 128;

/// Resident memory, MiB.
fn resident(hub: &Hub) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", hub.child.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().split(' ').next().unwrap().parse::<u64>().unwrap() / 1024
}

/// So many watches over each of the connections, all opened at once, from `revision` on.
async fn watches(connections: &[Client], each: usize, path: &str, revision: &str) -> Vec<Vec<Lines>> {
    let path = format!("{path}?watch=1&timeoutSeconds=600&resourceVersion={revision}");
    let of = |connection| futures::future::join_all((0..each).map(|_| Client::watch(connection, &path)));
    futures::future::join_all(connections.iter().map(of)).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_watchers_of_whom_most_never_read_cost_bounded_memory_and_delay_no_one() {
    rustls::crypto::ring::default_provider().install_default().ok();
    let directory = tempfile::tempdir().unwrap();
    let hub = Hub::start(directory.path(), &["--lab", "off", "--listen", "127.0.0.1:0", "--gateway-listen", "127.0.0.1:0"]).serves();
    let writer = Client::open(directory.path());
    let path = "/api/v1/namespaces/default/configmaps";
    let (_, made) = writer.post(path, &json!({"metadata": {"name": "c"}})).await;
    let begin = made["metadata"]["resourceVersion"].as_str().unwrap();
    let connections: Vec<Client> = (0..CONNECTIONS).map(|_| Client::open(directory.path())).collect();
    let before = resident(&hub);
    let mut crowd = watches(&connections, WATCHERS / CONNECTIONS, path, begin).await;
    let mut readers: Vec<Lines> = crowd.split_off(CONNECTIONS - READERS).into_iter().flatten().collect();
    let mut most = 0;
    let text = "x".repeat(LARGE);
    for number in 0..EVENTS {
        let change = json!({"data": {"text": text, "number": number.to_string()}});
        assert_eq!(writer.patch(&format!("{path}/c"), "application/merge-patch+json", &change).await.0, 200);
        let heard = readers.iter_mut().map(async |reader| reader.next().await.unwrap().1["data"]["number"].take());
        for heard in futures::future::join_all(heard).await {
            assert_eq!(heard, number.to_string(), "who reads misses nothing, and waits for no one");
        }
        most = most.max(resident(&hub));
    }
    assert!(most < before + GROWTH, "the hub grew from {before} to {most} MiB");
    // All of them come again at once, as after a restart of what is between; each hears the whole past.
    drop((crowd, readers));
    let mut again = watches(&connections, WATCHERS / CONNECTIONS, path, begin).await;
    let readers = again.iter_mut().rev().take(READERS).flatten().map(async |reader| {
        for number in 0..EVENTS {
            assert_eq!(reader.next().await.unwrap().1["data"]["number"], number.to_string());
        }
    });
    futures::future::join_all(readers).await;
    let most = resident(&hub);
    assert!(most < before + GROWTH, "the hub grew from {before} to {most} MiB when all came again");
}
