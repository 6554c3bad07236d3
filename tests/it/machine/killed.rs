//! Hub and lab as real processes, the hub killed with SIGKILL at one moment of a Machine's life after the other.

use super::stage::CONVERSATION;
use crate::process::{Hub, LOG, LabOf, PATIENCE, autovibe, said, wait, write};
use autovibe::proxmox;
use autovibe::store::Store;
use autovibe::wire::LabEndpoint;
use serde_json::{Value, json};
use std::path::Path;
use std::time::{Duration, Instant};

/// What a life goes through that is written down; a hub is killed at every third.
const STRIDE: usize = 3;

fn machine(data: &Path) -> Option<Value> {
    let output = autovibe(data, &["get", "machine", "a", "-o", "json"]);
    output.status.success().then(|| serde_json::from_slice(&output.stdout).unwrap())
}

fn is_finished(machine: &Value) -> bool {
    matches!(machine["status"]["phase"].as_str(), Some("Succeeded" | "Failed"))
}

/// Watches until so many different states were seen; `false` when the life was over before.
pub(super) fn lives_through(data: &Path, states: usize) -> bool {
    let (mut seen, mut last, mut is_over) = (0, String::new(), false);
    wait("another state", || {
        let Some(machine) = machine(data) else { return false };
        let revision = machine["metadata"]["resourceVersion"].to_string();
        if revision != last {
            seen += 1;
            last = revision;
        }
        is_over = is_finished(&machine);
        is_over || seen >= states
    });
    !is_over
}

pub(crate) fn end(data: &Path, what: &str) -> Value {
    let started = Instant::now();
    loop {
        let machine = machine(data);
        if let Some(machine) = machine.as_ref().filter(|machine| is_finished(machine)) {
            return machine.clone();
        }
        if started.elapsed() > PATIENCE {
            let log = std::fs::read_to_string(data.join(LOG)).unwrap();
            panic!("{what}: it does not end: {:#}\n{log}", machine.unwrap_or_default()["status"]);
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

pub(crate) fn manifest(data: &Path) -> String {
    let conversation = write(&data.join("conversation.yaml"), CONVERSATION);
    let hub = json!({
        "apiVersion": "autovibe.dev/v1alpha1", "kind": "Hub", "metadata": { "name": "default" },
        "spec": {
            "infrastructure": { "lab": {} },
            "images": [{ "name": "micro", "dataset": "tank/images/micro@base" }],
            "providers": [{ "name": "replay", "type": "Replay", "models": ["claude-*"], "replay": { "file": conversation } }],
        },
    });
    let machine = json!({
        "apiVersion": "autovibe.dev/v1alpha1", "kind": "Machine", "metadata": { "name": "a", "namespace": "default" },
        "spec": {
            "from": { "image": "micro" }, "agent": { "model": "claude-sonnet-4-5" },
            "goal": { "prompt": "work\n#sim pace=100", "verify": { "command": ["sim-turns", "2"] } },
        },
    });
    write(&data.join("a.yaml"), &format!("{hub}\n---\n{machine}\n"))
}

pub(super) async fn assert_nothing_is_left(data: &Path, machine: &Value, what: &str) {
    let endpoint: LabEndpoint = serde_json::from_slice(&std::fs::read(data.join("lab/endpoint.json")).unwrap()).unwrap();
    let credential = proxmox::Credential::token(endpoint.token_id, endpoint.secret);
    let config = proxmox::Config { endpoint: endpoint.endpoint, fingerprint: None, credential };
    let client = proxmox::Client::new(config).unwrap();
    let node = client.nodes().await.unwrap().remove(0);
    assert_eq!(client.node_vms(&node).await.unwrap(), [], "{what}");
    // The hub has ended, so the store may be opened.
    let store = Store::open(&data.join("autovibe.db")).await.unwrap();
    assert_eq!(store.vmid_leases("default").await.unwrap(), [], "{what}");
    let account = format!("machine/{}", machine["metadata"]["uid"].as_str().unwrap());
    let (balance, audit) = (store.balance(&account).await.unwrap(), store.audit(&account).await.unwrap());
    assert_eq!((balance, balance.reserved), (audit, 0), "{what}");
    store.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_process_killed_at_any_moment_comes_to_the_same_end() {
    rustls::crypto::ring::default_provider().install_default().ok();
    let arguments = ["--lab", "simulated", "--listen", "127.0.0.1:0", "--gateway-listen", "127.0.0.1:0"];
    let (mut kills, mut missed, mut states) = (0, 0, 1);
    loop {
        let data = tempfile::tempdir().unwrap();
        let data = data.path();
        let _lab = LabOf(data.into());
        let manifest = manifest(data);
        let mut hub = Hub::start(data, &arguments).serves();
        said(data, &["apply", "-f", &manifest]);
        let was_alive = lives_through(data, states);
        if was_alive {
            hub.kill();
            kills += 1;
            hub = Hub::start(data, &["--lab", "simulated"]).serves();
        }
        let what = format!("killed at state {states}");
        let ended = end(data, &what);
        assert_eq!(ended["status"]["terminationReason"], "Completed", "{what}: {:#}", ended["status"]);
        let last: Value = serde_json::from_str(&said(data, &["get", "checkpoint", "a-final", "-o", "json"])).unwrap();
        assert_eq!((&last["status"]["phase"], &last["status"]["machineUid"]), (&json!("Ready"), &ended["metadata"]["uid"]), "{what}");
        assert_eq!(hub.terminate().0, Some(0));
        assert_nothing_is_left(data, &ended, &what).await;
        if was_alive {
            states += STRIDE;
        } else if kills < 2 && missed < 4 {
            // A busy machine looked too seldom to see so many states of a life.
            missed += 1;
        } else {
            break;
        }
    }
    assert!(kills >= 2, "a life of so few states is none");
}
