//! Machines that lose something by hand: a tag, a mark, a number, a disk, the object of their Hub, the right time.

use super::imported::until;
use super::parts::Parts;
use autovibe::api::API_VERSION;
use autovibe::proxmox::{self, Node, Power, Vmid};
use serde_json::{Value, json};
use std::time::Duration;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_whose_hub_object_was_deleted_waits_for_it_and_its_vm_runs_on() {
    let parts = Parts::start(async |node| node).await;
    let controllers = parts.controllers("apart", None, "3s");
    parts.leads(&controllers).await;
    let path = format!("/apis/{API_VERSION}/namespaces/default/machines");
    let machine = json!({
        "apiVersion": API_VERSION, "kind": "Machine", "metadata": { "name": "a", "namespace": "default" },
        "spec": {
            "from": { "image": "micro" }, "agent": { "type": "Command", "command": ["true"] },
            "goal": { "prompt": "#sim turns=0 hang=true" },
        },
    });
    parts.api.create(&path, &machine).await.unwrap();
    until("it runs", async || parts.get("machines", "a").await["status"]["phase"] == "Running").await;
    let vm = parts.get("machines", "a").await["status"]["vm"]["vmid"].as_u64().unwrap();
    let hubs = format!("/apis/{API_VERSION}/hubs");
    let mut hub = parts.api.get(&format!("{hubs}/default")).await.unwrap();
    let delete = async |path: String| parts.api.json(parts.api.request(reqwest::Method::DELETE, &path)).await.unwrap();
    delete(format!("{hubs}/default")).await;
    until("the hub is gone", async || parts.api.get(&format!("{hubs}/default")).await.is_err()).await;
    delete(format!("{path}/a")).await;
    let waits = |status: &Value| {
        let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
        conditions.iter().any(|condition| condition["type"] == "Ready" && condition["reason"] == "HubNotReady")
    };
    until("it waits for its hub", async || waits(&parts.get("machines", "a").await["status"])).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(parts.get("machines", "a").await["status"]["phase"], "Terminating");
    let of_lab = parts.lab.endpoint().clone();
    let credential = proxmox::Credential::token(of_lab.token_id, of_lab.secret);
    let client = proxmox::Client::new(proxmox::Config { endpoint: of_lab.endpoint, fingerprint: None, credential }).unwrap();
    assert_eq!(client.power(&Node(of_lab.node), Vmid(vm.try_into().unwrap())).await.unwrap(), Power::Running);

    hub["metadata"] = json!({ "name": "default" });
    hub.as_object_mut().unwrap().remove("status");
    parts.api.create(&hubs, &hub).await.unwrap();
    until("it ends", async || parts.api.get(&format!("{path}/a")).await.is_err()).await;
    assert_eq!(parts.get("checkpoints", "a-final").await["status"]["phase"], "Ready");
    assert!(parts.lab.vms().is_empty(), "{:?}", parts.lab.vms());
}
