//! Machines that lose something by hand: a tag, a mark, a number, a disk, the object of their Hub, the right time.

use super::imported::until;
use super::parts::Parts;
use super::stage::{NAMESPACE, Stage, status};
use autovibe::api::checkpoint::CheckpointPhase;
use autovibe::api::machine::{Machine, Phase};
use autovibe::api::{API_VERSION, Checkpoint, Kind};
use autovibe::proxmox::{self, Node, Power, Vmid};
use autovibe::zfs::{Dataset, Runner, Zfs};
use jiff::SignedDuration;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};
use std::time::Duration;

fn stays() -> Value {
    json!({ "goal": { "prompt": "#sim turns=0 hang=true" } })
}

fn client(stage: &Stage) -> proxmox::Client {
    let at = stage.lab.endpoint().clone();
    let credential = proxmox::Credential::token(at.token_id, at.secret);
    proxmox::Client::new(proxmox::Config { endpoint: at.endpoint, fingerprint: None, credential }).unwrap()
}

async fn zfs(stage: &Stage) -> Zfs {
    Zfs::open(Runner::Socket(stage.lab.endpoint().zfs_socket.clone().unwrap())).await.unwrap()
}

/// Whether its condition Ready says this.
fn says(machine: &Machine, words: &str) -> bool {
    status(machine).conditions.iter().any(|condition| condition.type_ == "Ready" && condition.message.contains(words))
}

/// What its final checkpoint says, once it is gone.
async fn ends(stage: &Stage, name: &str) -> Checkpoint {
    stage.until_gone(name).await;
    let last = stage.checkpoint(&format!("{name}-final")).await.unwrap();
    assert_eq!(last.status.as_ref().unwrap().phase, CheckpointPhase::Ready, "{:?}", last.status);
    last
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_runs_without_its_tag_is_not_captured_until_it_has_it_again() {
    let mut stage = Stage::new().await;
    stage.create("a", stays()).await;
    let machine = stage.until_phase("a", Phase::Running).await;
    let vm = status(&machine).vm.unwrap();
    let tags = stage.lab.configs()[&vm.vmid]["tags"].clone();
    stage.lab.edit_config(vm.vmid, "tags", Some("autovibe"));
    stage.objects().delete::<Machine>(NAMESPACE, "a", None).await.unwrap();
    stage.until("a", "it says why", |machine| says(machine, "but not the tag av-")).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(stage.lab.is_on(vm.vmid) && stage.datasets().contains(&vm.disks[0]), "{:?}", stage.datasets());
    assert!(!stage.datasets().iter().any(|name| name.starts_with(&format!("{}@", vm.disks[0]))), "{:?}", stage.datasets());
    stage.lab.edit_config(vm.vmid, "tags", Some(&tags));
    ends(&stage, "a").await;
    assert!(stage.vms().is_empty());
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_someone_elses_vm_writes_to_is_not_captured() {
    let mut stage = Stage::new().await;
    stage.create("a", stays()).await;
    let vm = status(&stage.until_phase("a", Phase::Running).await).vm.unwrap();
    stage.lab.edit_config(vm.vmid, "smbios1", Some("uuid=0f0f0f0f-0000-4000-8000-000000000000"));
    stage.objects().delete::<Machine>(NAMESPACE, "a", None).await.unwrap();
    stage.until("a", "it says why", |machine| says(machine, "does not bear its marks any more")).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(stage.lab.is_on(vm.vmid) && stage.datasets().contains(&vm.disks[0]), "{:?}", stage.datasets());
    stage.lab.power_off(vm.vmid);
    ends(&stage, "a").await;
    assert_eq!(stage.vms().len(), 1, "it is theirs");
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_number_that_someone_elses_vm_on_another_node_has_is_given_up() {
    let mut stage = Stage::in_cluster().await;
    stage.create("a", stays()).await;
    let taken = status(&stage.until_phase("a", Phase::Running).await).vm.unwrap().vmid;
    // The next number, after the list was read by which numbers are leased.
    let next = (taken + 1..taken + 9).find(|vmid| !stage.lab.vms().contains_key(vmid)).unwrap();
    let values = [("name", "theirs"), ("tags", "autovibe;av-theirs")].map(|(key, value)| (key.to_owned(), value.to_owned())).into();
    client(&stage).create(&Node("pve2".into()), Vmid(next), &values).await.unwrap();
    stage.create("b", json!({})).await;
    let b = stage.until_finished("b").await;
    assert_eq!(status(&b).phase, Phase::Succeeded);
    assert_eq!((stage.lab.vms().get(&next).map(String::as_str), stage.lab.nodes_of_vms()[&next].as_str()), (Some("theirs"), "pve2"));
    stage.assert_ended_well(&b).await;
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_disks_the_one_that_is_left_is_kept() {
    let mut stage = Stage::new().await;
    stage.create("a", stays()).await;
    let machine = stage.until_phase("a", Phase::Running).await;
    let vm = status(&machine).vm.unwrap();
    stage.stop().await;
    // While nobody looks: it had two disks, its VM is deleted, and the first of them with it.
    let (zfs, second) = (zfs(&stage).await, Dataset(vm.disks[0].replace("-disk-0", "-disk-1")));
    let image = autovibe::zfs::Snapshot { dataset: Dataset("tank/images/micro".into()), name: "base".into() };
    let marks = [("autovibe:machine".to_owned(), machine.uid().to_owned())].into();
    zfs.clone_snapshot(&image, &second, &marks).await.unwrap();
    let kept = autovibe::zfs::Snapshot { dataset: second.clone(), name: "by-hand".into() };
    zfs.snapshot(std::slice::from_ref(&kept), &autovibe::zfs::Properties::new()).await.unwrap();
    stage.destroy_by_hand(vm.vmid).await;
    assert!(!stage.datasets().contains(&vm.disks[0]) && stage.datasets().contains(&second.0), "{:?}", stage.datasets());
    let store = autovibe::store::Store::open(&stage.data().join("state.db")).await.unwrap();
    let cipher = autovibe::objects::Cipher::load(&stage.data().join("key")).unwrap();
    let objects = autovibe::objects::Objects::new(store.clone(), autovibe::clock::Clock::system(), cipher);
    let mut record = objects.get::<Machine>(NAMESPACE, "a").await.unwrap().unwrap();
    record.status.as_mut().unwrap().vm.as_mut().unwrap().disks.push(second.0.clone());
    objects.update_status(&record).await.unwrap();
    store.close().await;

    stage.start(None).await;
    let ended = stage.until_finished("a").await;
    assert_eq!(status(&ended).phase, Phase::Failed);
    stage.assert_no_vm(&ended).await;
    let last = stage.checkpoint("a-final").await.unwrap().status.unwrap();
    assert_eq!((last.phase, last.volumes.len(), &last.volumes[0].dataset), (CheckpointPhase::Ready, 1, &second.0));
    let kept = format!("tank/autovibe/m-{}-disk-1", machine.uid());
    assert!(stage.datasets().contains(&format!("{kept}@{}", last.volumes[0].snapshot)), "{:?}", stage.datasets());
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_is_behind_makes_no_checkpoint_older_than_the_one_before_it() {
    let mut stage = Stage::new().await;
    let mut spec = stays();
    spec["checkpoints"] = json!({ "retention": { "keepLast": 1 } });
    stage.create("a", spec).await;
    stage.until_phase("a", Phase::Running).await;
    let ask = async |name: &str| {
        let asked: Checkpoint =
            serde_json::from_value(json!({ "metadata": { "namespace": NAMESPACE, "name": name }, "spec": { "machine": "a" } })).unwrap();
        stage.objects().create(&asked).await.unwrap();
        stage.until("a", "it has it", |machine| status(machine).last_checkpoint.as_deref() == Some(name)).await;
    };
    let at = async |name: &str| stage.checkpoint(name).await.unwrap().status.unwrap().captured_at.unwrap();
    ask("one").await;
    // As an hour from now, before the clock was set back.
    let hour = Time(at("one").await.0 + SignedDuration::from_hours(1));
    loop {
        let mut one = stage.checkpoint("one").await.unwrap();
        one.status.as_mut().unwrap().captured_at = Some(hour.clone());
        match stage.objects().update_status(&one).await {
            Ok(_) => break,
            Err(autovibe::objects::Error::Conflict { .. }) => {}
            Err(error) => panic!("{error}"),
        }
    }
    ask("two").await;
    assert!(at("two").await > hour);
    let two = at("two").await;
    until("the older one goes", async || stage.checkpoint("one").await.is_none()).await;
    stage.objects().delete::<Machine>(NAMESPACE, "a", None).await.unwrap();
    ends(&stage, "a").await;
    assert!(at("a-final").await > two);
    stage.stop().await;
}

/// The namesake is on a Hub that is not there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_namesake_came_after_is_collected_where_it_lies() {
    let mut stage = Stage::new().await;
    stage.create("a", json!({})).await;
    let first = stage.until_finished("a").await;
    stage.objects().delete::<Machine>(NAMESPACE, "a", None).await.unwrap();
    stage.until_gone("a").await;
    stage.create("a", json!({ "hub": "nowhere" })).await;
    stage.objects().delete::<Checkpoint>(NAMESPACE, "a-final", None).await.unwrap();
    until("it is collected", async || stage.checkpoint("a-final").await.is_none()).await;
    assert!(!stage.datasets().iter().any(|name| name.contains(first.uid())), "{:?}", stage.datasets());
    stage.stop().await;
}

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
