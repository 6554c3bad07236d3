//! A node in this process, a hub process that runs no controllers, and processes of controllers that drive that node.

use super::elsewhere::leader;
use super::stage::CONVERSATION;
use crate::process::{Hub, PATIENCE, write};
use crate::ssh::lives::tls;
use autovibe::api::API_VERSION;
use autovibe::lab::{self, Lab, Mode};
use autovibe::remote;
use serde_json::{Value, json};
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

pub(super) struct Parts {
    pub(super) lab: Lab,
    pub(super) _hub: Hub,
    pub(super) api: remote::Client,
    directory: tempfile::TempDir,
}

fn free_port() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// Waits, without keeping the runtime from the lab's and the network's work.
pub(super) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < PATIENCE, "{what} did not happen");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

impl Parts {
    /// With the node's API at `endpoint`, where that is not its own.
    pub(super) async fn start(endpoint: impl AsyncFnOnce(SocketAddr) -> SocketAddr) -> Self {
        rustls::crypto::ring::default_provider().install_default().ok();
        let directory = tempfile::tempdir().unwrap();
        let data = directory.path();
        let gateway = free_port();
        let listen = gateway.to_string();
        let hub = Hub::start(data, &["--no-controllers", "--listen", "127.0.0.1:0", "--gateway-listen", &listen]).serves();
        let (data, gateway) = (data.join("node"), gateway);
        let (lag, refusal) = (Duration::ZERO, Duration::from_millis(10));
        let listen = "127.0.0.1:0".parse().unwrap();
        let lab = lab::start(lab::Config { mode: Mode::Simulated, data, listen, gateway, lag, refusal, setup: None }).await.unwrap();
        let api = remote::Client::open(&directory.path().join("kubeconfig"), None).unwrap();
        let parts = Self { lab, _hub: hub, api, directory };
        let (address, fingerprint) = tls(&parts.lab).await;
        let endpoint = endpoint(address).await;
        parts.create_hub(&format!("https://{endpoint}"), &fingerprint).await;
        parts
    }

    /// The hub's data directory.
    pub(super) fn data(&self) -> &Path {
        self.directory.path()
    }

    async fn create_hub(&self, endpoint: &str, fingerprint: &str) {
        let at = self.lab.endpoint().clone();
        let secret = json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "pve", "namespace": "autovibe-system" },
            "stringData": { "tokenId": at.token_id, "secret": at.secret },
        });
        self.api.create("/api/v1/namespaces/autovibe-system/secrets", &secret).await.unwrap();
        let file = write(&self.data().join("conversation.yaml"), CONVERSATION);
        let hub = json!({
            "apiVersion": API_VERSION, "kind": "Hub", "metadata": { "name": "default" },
            "spec": {
                "infrastructure": {
                    "proxmox": {
                        "endpoint": endpoint, "fingerprint": fingerprint, "tokenSecretRef": { "name": "pve" },
                        "node": at.node,
                        "vmids": { "from": at.vmid_from, "to": at.vmid_to }, "bridge": at.bridge,
                    },
                    "zfs": { "storage": at.storage, "dataset": at.dataset, "keep": at.keep, "runner": { "socket": at.zfs_socket } },
                },
                "gateway": { "url": at.gateway_url },
                "images": [{ "name": "micro", "dataset": "tank/images/micro@base" }],
                "providers": [{ "name": "replay", "type": "Replay", "models": ["claude-*"], "replay": { "file": file } }],
            },
        });
        self.api.create(&format!("/apis/{API_VERSION}/hubs"), &hub).await.unwrap();
    }

    pub(super) async fn create(&self, name: &str) {
        let machine = json!({
            "apiVersion": API_VERSION, "kind": "Machine", "metadata": { "name": name, "namespace": "default" },
            "spec": {
                "from": { "image": "micro" }, "agent": { "model": "claude-sonnet-4-5" },
                "goal": { "prompt": "work\n#sim pace=100", "verify": { "command": ["sim-turns", "2"] } },
            },
        });
        self.api.create(&format!("/apis/{API_VERSION}/namespaces/default/machines"), &machine).await.unwrap();
    }

    pub(super) async fn get(&self, kind: &str, name: &str) -> Value {
        self.api.get(&format!("/apis/{API_VERSION}/namespaces/default/{kind}/{name}")).await.unwrap()
    }

    pub(super) async fn is_finished(&self, name: &str) -> bool {
        matches!(self.get("machines", name).await["status"]["phase"].as_str(), Some("Succeeded" | "Failed"))
    }

    /// Waits until it has ended, as it should, with its final checkpoint and nothing else left of it.
    pub(super) async fn ends_well(&self, name: &str) {
        let started = Instant::now();
        while !self.is_finished(name).await {
            let status = self.get("machines", name).await["status"].clone();
            assert!(started.elapsed() < PATIENCE, "{name} does not end: {status:#}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        let machine = self.get("machines", name).await;
        assert_eq!(machine["status"]["terminationReason"], "Completed", "{name}: {:#}", machine["status"]);
        let last = self.get("checkpoints", &format!("{name}-final")).await;
        assert_eq!((&last["status"]["phase"], &last["status"]["machineUid"]), (&json!("Ready"), &machine["metadata"]["uid"]), "{name}");
        assert!(!self.lab.vms().values().any(|vm| vm == name), "{name}: {:?}", self.lab.vms());
        let vmids = self.api.get(&format!("/apis/{API_VERSION}/hubs/default/vmids")).await.unwrap();
        let theirs =
            |lease: &Value| lease["machineUid"] == machine["metadata"]["uid"] || lease["machine_uid"] == machine["metadata"]["uid"];
        assert!(!vmids["items"].as_array().unwrap().iter().any(theirs), "{name}: {vmids:#}");
    }

    /// Waits until this process leads.
    pub(super) async fn leads(&self, controllers: &Controllers) {
        let pid = controllers.process.child.id();
        until(&format!("{} leads", controllers.directory.display()), || leader(self.data()).is_some_and(|(leader, _)| leader == pid)).await;
    }

    /// Controllers in a directory of their own, which reach the API at `through` where that is not its own address.
    pub(super) fn controllers(&self, name: &str, through: Option<SocketAddr>, lease: &str) -> Controllers {
        let directory = self.data().join(name);
        std::fs::create_dir_all(&directory).unwrap();
        let text = std::fs::read_to_string(self.data().join("kubeconfig")).unwrap();
        let text = through.map_or_else(|| text.clone(), |through| text.replace(&self.api_address().to_string(), &through.to_string()));
        let kubeconfig = write(&directory.join("kubeconfig"), &text);
        let process = Hub::controllers(&directory, &["--kubeconfig", &kubeconfig, "--lease-duration", lease]);
        Controllers { process, directory }
    }

    /// Where the hub's API is.
    pub(super) fn api_address(&self) -> SocketAddr {
        let text = std::fs::read_to_string(self.data().join("kubeconfig")).unwrap();
        let rest = text.split("https://").nth(1).unwrap();
        rest.split(|c: char| !c.is_ascii_digit() && c != '.' && c != ':').next().unwrap().parse().unwrap()
    }
}

/// A process of controllers.
pub(super) struct Controllers {
    pub(super) process: Hub,
    directory: PathBuf,
}

impl Controllers {
    /// How often it logged this.
    pub(super) fn said(&self, text: &str) -> usize {
        self.process.logged().matches(text).count()
    }
}
