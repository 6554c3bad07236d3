//! Machines over the nodes of a Hub: spread, pinned, refused where nothing fits, forked elsewhere than their origin is.

use super::stage::{NAMESPACE, Stage, status};
use crate::ssh::lives::tls;
use autovibe::api::machine::{Machine, MachineStatus, Phase};
use autovibe::api::{Checkpoint, Kind};
use autovibe::clock::Clock;
use autovibe::lab::Call;

use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

const TOKEN: &str = "autovibe@pve!hub";
const NODES: [&str; 3] = ["lab", "pve2", "pve3"];
const GIB: u64 = 1 << 30;

/// A Hub with three nodes, each as `limits` says of it.
pub(super) async fn stage(limits: &[(&str, Value)]) -> Stage {
    let stage = Stage::cluster_without_hub().await;
    let (address, fingerprint) = tls(&stage.lab).await;
    let at = stage.lab.endpoint().clone();
    let nodes: Vec<Value> = NODES
        .iter()
        .map(|name| {
            let mut node = json!({ "name": name, "runner": { "socket": stage.lab.endpoint_of(name).zfs_socket } });
            for (_, more) in limits.iter().filter(|(limited, _)| limited == name) {
                node.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            }
            node
        })
        .collect();
    let secret = stage.lab.token(TOKEN, false);
    stage.create_secret("pve", &[("tokenId", TOKEN), ("secret", &secret)]).await;
    let infrastructure = json!({
        "proxmox": {
            "endpoint": format!("https://{address}"), "fingerprint": fingerprint, "tokenSecretRef": { "name": "pve" },
            "vmids": { "from": at.vmid_from, "to": at.vmid_to }, "bridge": at.bridge,
        },
        "zfs": { "storage": at.storage, "dataset": at.dataset, "keep": at.keep },
        "nodes": nodes,
    });
    stage.create_hub(infrastructure, Some(&at.gateway_url)).await;
    stage
}

fn hanging() -> Value {
    json!({ "prompt": "#sim turns=0 hang=true" })
}

fn node(machine: &Machine) -> String {
    let state = status(machine);
    let node = state.node.clone().unwrap_or_else(|| panic!("{} was not placed: {state:?}", machine.name()));
    assert!(state.vm.is_none_or(|vm| vm.node == node), "its VM is elsewhere");
    node
}

fn waits_for_room(state: &MachineStatus) -> bool {
    state.conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "False" && condition.reason == "NoNode")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn machines_spread_and_pins_hold() {
    let mut stage = stage(&[]).await;
    for index in 0..6 {
        stage.create(&format!("m{index}"), json!({ "goal": hanging() })).await;
    }
    stage.create("pinned", json!({ "goal": hanging(), "placement": { "nodes": ["pve3"] } })).await;
    let mut on: BTreeMap<String, u32> = BTreeMap::new();
    for index in 0..6 {
        let machine = stage.until_phase(&format!("m{index}"), Phase::Running).await;
        *on.entry(node(&machine)).or_default() += 1;
        let vm = status(&machine).vm.unwrap();
        assert_eq!(stage.lab.nodes_of_vms().get(&vm.vmid), Some(&vm.node));
        assert!(stage.lab.datasets_of(&vm.node).contains(&vm.disks[0]), "its disk is in the pool of its node");
    }
    let pinned = stage.until_phase("pinned", Phase::Running).await;
    assert_eq!(node(&pinned), "pve3");
    assert!(NODES.iter().all(|node| (1..=3).contains(&on.get(*node).copied().unwrap_or_default())), "{on:?}");

    // Whole lives, wherever they are: ended, kept on their node, collected.
    for name in ["m0", "m1", "m2", "pinned"] {
        let machine = stage.get(name).await;
        stage.objects().delete::<Machine>(NAMESPACE, name, None).await.unwrap();
        stage.until_gone(name).await;
        let kept = format!("tank/autovibe/m-{}-disk-0", machine.uid());
        assert!(stage.lab.datasets_of(&node(&machine)).contains(&kept), "{name}: its disk is kept where it was");
        collect(&stage, &format!("{name}-final")).await;
        assert!(!stage.lab.datasets_of(&node(&machine)).contains(&kept), "{name}: its disk goes with its last checkpoint");
    }
    stage.stop().await;
}

/// Deletes a Checkpoint, and waits until it is gone.
async fn collect(stage: &Stage, name: &str) {
    stage.objects().delete::<Checkpoint>(NAMESPACE, name, None).await.unwrap();
    let gone = async {
        while stage.checkpoint(name).await.is_some() {
            Clock::system().sleep(Duration::from_millis(20)).await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(30), gone).await.is_ok(), "{name} is still there: {:?}", stage.checkpoint(name).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fork_elsewhere_starts_from_a_copy_that_goes_with_its_checkpoint() {
    let mut stage = stage(&[]).await;
    let agent = json!({ "type": "ClaudeCode", "model": "claude-sonnet-4-5" });
    stage.create("first", json!({ "goal": { "prompt": "work" }, "agent": agent, "placement": { "nodes": ["lab"] } })).await;
    let first = stage.until_finished("first").await;
    assert_eq!((status(&first).phase, node(&first).as_str()), (Phase::Succeeded, "lab"));
    let origin = status(&first).final_checkpoint.unwrap();

    // A stream that breaks is gone on with.
    stage.lab.drop_reply(Call::Zfs("send"));
    let from = json!({ "checkpoint": origin });
    let elsewhere = json!({ "nodes": ["pve2"] });
    stage.create("second", json!({ "from": from, "goal": hanging(), "placement": elsewhere })).await;
    // Where it may choose it stays where its origin is.
    stage.create("near", json!({ "from": from, "goal": hanging() })).await;
    let near = stage.until_phase("near", Phase::Running).await;
    let second = stage.until_phase("second", Phase::Running).await;
    assert_eq!((node(&second).as_str(), stage.lab.fired()), ("pve2", 1));
    assert!(["lab", "pve2"].contains(&node(&near).as_str()), "{}", node(&near));

    let checkpoint = stage.checkpoint(&origin).await.unwrap();
    let volume = checkpoint.status.clone().unwrap().volumes.remove(0);
    let copy = format!("tank/autovibe/c-{}-disk-0", checkpoint.uid());
    assert_eq!((volume.node.as_str(), volume.copies.len()), ("lab", 1));
    assert_eq!(
        (volume.copies[0].node.as_str(), volume.copies[0].dataset.as_str(), volume.copies[0].received),
        ("pve2", copy.as_str(), true)
    );
    let zfs = |node: &str| autovibe::zfs::Runner::Socket(stage.lab.endpoint_of(node).zfs_socket.unwrap());
    let pve2 = autovibe::zfs::Zfs::open(zfs("pve2")).await.unwrap();
    let snapshot =
        |dataset: &str| autovibe::zfs::Snapshot { dataset: autovibe::zfs::Dataset(dataset.into()), name: volume.snapshot.clone() };
    let received = pve2.snapshot_info(&snapshot(&copy)).await.unwrap().unwrap();
    assert_eq!((received.guid.as_str(), received.holds), (volume.guid.as_str(), 1), "the same one, and held");
    assert_eq!(received.properties["autovibe:checkpoint"], checkpoint.uid());
    assert_eq!(received.properties["autovibe:machine"], first.uid());
    let disk = autovibe::zfs::Dataset(status(&second).vm.unwrap().disks.remove(0));
    assert_eq!(pve2.dataset(&disk).await.unwrap().unwrap().origin, Some(snapshot(&copy)));

    // An export read the copy, and was killed.
    pve2.hold("autovibe-export", &[snapshot(&copy)]).await.unwrap();
    // What is needed stays; what is not goes, with its copies.
    stage.objects().delete::<Machine>(NAMESPACE, "near", None).await.unwrap();
    stage.until_gone("near").await;
    stage.objects().delete::<Checkpoint>(NAMESPACE, &origin, None).await.unwrap();
    Clock::system().sleep(Duration::from_secs(1)).await;
    assert!(stage.lab.datasets_of("pve2").contains(&copy), "a Machine lives on it");
    stage.objects().delete::<Machine>(NAMESPACE, "second", None).await.unwrap();
    stage.until_gone("second").await;
    for name in ["near-final", "second-final"] {
        collect(&stage, name).await;
    }
    let gone = async {
        while stage.checkpoint(&origin).await.is_some() {
            Clock::system().sleep(Duration::from_millis(20)).await;
        }
    };
    let in_time = tokio::time::timeout(Duration::from_secs(90), gone).await.is_ok();
    assert!(in_time, "{:?}", stage.checkpoint(&origin).await.unwrap().status);
    for node in NODES {
        // The first one's other checkpoints are where they were.
        let other = |name: &String| !name.starts_with(&format!("tank/autovibe/m-{}", first.uid())) || name.ends_with(&volume.snapshot);
        let left: Vec<String> = stage.lab.datasets_of(node).into_iter().filter(|name| name.starts_with("tank/autovibe/")).collect();
        assert_eq!(left.into_iter().filter(other).collect::<Vec<_>>(), [""; 0], "{node}");
    }
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_changed_is_sent_where_an_ancestor_is() {
    let mut stage = stage(&[]).await;
    let pinned = |node: &str, from: Value| json!({ "from": from, "goal": { "prompt": "#sim turns=0" }, "placement": { "nodes": [node] } });
    stage.create("a", pinned("lab", json!({ "image": "micro" }))).await;
    let a = status(&stage.until_finished("a").await).final_checkpoint.unwrap();
    // Its own way: the copy on pve2 is of `a`, the disk of `c` on lab a clone of `a`, so of `c` only what changed is sent.
    stage.create("b", pinned("pve2", json!({ "checkpoint": a }))).await;
    stage.until_finished("b").await;
    stage.create("c", pinned("lab", json!({ "checkpoint": a }))).await;
    let c = status(&stage.until_finished("c").await).final_checkpoint.unwrap();
    stage.create("d", pinned("pve2", json!({ "checkpoint": c }))).await;
    assert_eq!(status(&stage.until_finished("d").await).phase, Phase::Succeeded);
    let (a, c) = (stage.checkpoint(&a).await.unwrap(), stage.checkpoint(&c).await.unwrap());
    let pve2 = autovibe::zfs::Zfs::open(autovibe::zfs::Runner::Socket(stage.lab.endpoint_of("pve2").zfs_socket.unwrap())).await.unwrap();
    let copy = |checkpoint: &Checkpoint| autovibe::zfs::Dataset(format!("tank/autovibe/c-{}-disk-0", checkpoint.uid()));
    let of_c = pve2.dataset(&copy(&c)).await.unwrap().unwrap();
    assert_eq!(of_c.origin.map(|origin| origin.dataset), Some(copy(&a)));
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_down_takes_nothing_new_and_only_its_own_wait() {
    let mut stage = stage(&[]).await;
    for (name, on) in [("one", "lab"), ("two", "pve2"), ("three", "pve3")] {
        stage.create(name, json!({ "goal": hanging(), "placement": { "nodes": [on] } })).await;
    }
    for name in ["one", "two", "three"] {
        stage.until_phase(name, Phase::Running).await;
    }
    let vm = status(&stage.get("two").await).vm;
    stage.lab.kill("pve2").await;
    let unseen = |machine: &Machine| {
        let conditions = status(machine).conditions;
        conditions.iter().any(|c| (c.type_.as_str(), c.status.as_str(), c.reason.as_str()) == ("MachineReady", "Unknown", "VmUnknown"))
    };
    // As long as the view may be old, and a turn.
    stage.objects().delete::<Machine>(NAMESPACE, "three", None).await.unwrap();
    stage.until_gone("three").await;
    for index in 0..4 {
        stage.create(&format!("late{index}"), json!({ "goal": hanging() })).await;
    }
    stage.create("there", json!({ "goal": hanging(), "placement": { "nodes": ["pve2"] } })).await;
    for index in 0..4 {
        let late = stage.until_phase(&format!("late{index}"), Phase::Running).await;
        assert_ne!(node(&late), "pve2");
    }
    let there = stage.until("there", "said to have no node", |machine| waits_for_room(&status(machine))).await;
    let message = status(&there).message.unwrap_or_default();
    assert!(message.contains("pve2: node pve2 is offline") && message.contains("lab: spec.placement.nodes does not name it"), "{message}");
    assert!(status(&there).node.is_none(), "nothing was decided");
    let two = stage.until("two", "said to be unseen", unseen).await;
    assert_eq!((status(&two).phase, status(&two).vm), (Phase::Running, vm), "its VM is remembered");
    assert_eq!(status(&stage.get("one").await).phase, Phase::Running);

    stage.lab.revive("pve2");
    assert_eq!(node(&stage.until_phase("there", Phase::Running).await), "pve2");
    stage.until("two", "seen again", |machine| !unseen(machine)).await;
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_nothing_fits_each_node_says_why_until_there_is_room() {
    let memory = json!({ "memory": "3Gi" });
    let mut stage = stage(&[("lab", json!({ "maxMachines": 1 })), ("pve2", memory.clone()), ("pve3", memory)]).await;
    let big = json!({ "cpu": "1", "memory": format!("{}", 2 * GIB) });
    for index in 0..4 {
        stage.create(&format!("m{index}"), json!({ "goal": hanging(), "resources": big })).await;
    }
    // One on each, and one that waits: decided at once by many, yet nobody is promised the same room.
    let (mut running, mut waiting) = (BTreeMap::new(), Vec::new());
    for index in 0..4 {
        let name = format!("m{index}");
        let settled = |machine: &Machine| status(machine).phase == Phase::Running || waits_for_room(&status(machine));
        let machine = stage.until(&name, "placed or refused", settled).await;
        match status(&machine).phase {
            Phase::Running => drop(running.insert(node(&machine), name)),
            _ => waiting.push((name, status(&machine).message.unwrap_or_default())),
        }
    }
    assert_eq!((running.len(), waiting.len()), (3, 1), "{running:?} {waiting:?}");
    let (last, message) = &waiting[0];
    for part in [
        "lab: it has 1 of 1 Machines",
        "pve2: 1024 MiB of 3072 MiB of memory are left, 2048 MiB are asked for",
        "pve3: 1024 MiB of 3072 MiB of memory are left, 2048 MiB are asked for",
    ] {
        assert!(message.contains(part), "{message}");
    }
    stage.objects().delete::<Machine>(NAMESPACE, &running["pve3"], None).await.unwrap();
    assert_eq!(node(&stage.until_phase(last, Phase::Running).await), "pve3");
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_any_step_of_a_move_it_is_placed_once_and_copied_once() {
    // Killed after each of the steps that there are with a move, one after the other.
    let killing = std::sync::Arc::new(std::sync::Mutex::new(None::<&'static str>));
    let armed = killing.clone();
    let after: autovibe::controller::machine::AfterStep = std::sync::Arc::new(move |step: &str| {
        let mut armed = armed.lock().unwrap();
        if armed.is_some_and(|wanted| wanted == step) {
            *armed = None;
            return false;
        }
        true
    });
    let mut stage = stage(&[]).await;
    stage.create("a", json!({ "goal": { "prompt": "#sim turns=0" }, "placement": { "nodes": ["pve3"] } })).await;
    let base = status(&stage.until_finished("a").await).final_checkpoint.unwrap();
    for (index, step) in ["Copy", "Lease", "Fork", "CreateVm"].into_iter().enumerate() {
        *killing.lock().unwrap() = Some(step);
        stage.stop().await;
        stage.start(Some(after.clone())).await;
        let name = format!("m{index}");
        let target = NODES[index % 2];
        let spec = json!({ "from": { "checkpoint": base }, "goal": hanging(), "placement": { "nodes": [target] } });
        stage.create(&name, spec).await;
        let dead = async {
            while killing.lock().unwrap().is_some() {
                Clock::system().sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), dead).await.unwrap_or_else(|_| panic!("{step} was never reached"));
        stage.stop().await;
        *killing.lock().unwrap() = None;
        stage.start(None).await;
        let machine = stage.until_phase(&name, Phase::Running).await;
        assert_eq!(node(&machine), target, "{step}");
        assert_eq!(stage.vms().values().filter(|vm| **vm == name).count(), 1, "{step}");
    }
    let checkpoint = stage.checkpoint(&base).await.unwrap();
    let copies = checkpoint.status.unwrap().volumes.remove(0).copies;
    assert!(copies.iter().all(|copy| copy.received), "{copies:?}");
    assert_eq!(copies.len(), 2, "one on each of the others: {copies:?}");
    stage.stop().await;
}

/// Of an image that only one node has, another gets a copy with the same guid.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_image_that_a_node_lacks_is_copied_to_it() {
    let mut stage = stage(&[]).await;
    let pve2 = autovibe::zfs::Zfs::open(autovibe::zfs::Runner::Socket(stage.lab.endpoint_of("pve2").zfs_socket.unwrap())).await.unwrap();
    let own = autovibe::zfs::Snapshot { dataset: autovibe::zfs::Dataset("tank/images/micro".into()), name: "base".into() };
    pve2.destroy_snapshot(&own).await.unwrap();
    stage.create("m", json!({ "placement": { "nodes": ["pve2"] } })).await;
    let machine = stage.until_finished("m").await;
    assert_eq!((status(&machine).phase, node(&machine).as_str()), (Phase::Succeeded, "pve2"));
    let lab = autovibe::zfs::Zfs::open(autovibe::zfs::Runner::Socket(stage.lab.endpoint_of("lab").zfs_socket.unwrap())).await.unwrap();
    let copied = autovibe::zfs::Snapshot { dataset: autovibe::zfs::Dataset("tank/autovibe/image-micro".into()), name: "base".into() };
    let (here, there) = (pve2.snapshot_info(&copied).await.unwrap().unwrap(), lab.snapshot_info(&own).await.unwrap().unwrap());
    assert!(here.guid == there.guid && here.holds == 1, "{here:?} {there:?}");
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vm_that_someone_moved_is_neither_lost_nor_made_again() {
    let mut stage = stage(&[]).await;
    stage.create("m", json!({ "goal": hanging(), "placement": { "nodes": ["pve2"] } })).await;
    let before = status(&stage.until_phase("m", Phase::Running).await);
    let vm = before.vm.clone().unwrap();
    stage.lab.move_vm(vm.vmid, "pve3");
    // What is known of it is asked again when something is to be done.
    stage.objects().delete::<Machine>(NAMESPACE, "m", None).await.unwrap();
    let told = |machine: &Machine| {
        let said = status(machine).conditions.into_iter().map(|condition| condition.message);
        said.chain(status(machine).message).any(|text| text.contains(&format!("VM {} was moved from node pve2 to pve3", vm.vmid)))
    };
    let waiting = stage.until("m", "said to be moved", told).await;
    assert_eq!(status(&waiting).vm, before.vm);
    assert_eq!(stage.lab.nodes_of_vms()[&vm.vmid], "pve3", "it is left alone");
    assert!(stage.lab.datasets_of("pve2").contains(&vm.disks[0]));
    stage.lab.move_vm(vm.vmid, "pve2");
    stage.until_gone("m").await;
    assert!(!stage.lab.nodes_of_vms().contains_key(&vm.vmid));
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_whose_first_node_is_down_runs_on_the_others() {
    let mut stage = stage(&[]).await;
    let on = |node: &str| json!({ "placement": { "nodes": [node] } });
    stage.create("a", on("lab")).await;
    let base = status(&stage.until_finished("a").await).final_checkpoint.unwrap();
    stage.lab.kill("lab").await;
    stage.create("b", on("pve2")).await;
    assert_eq!(status(&stage.until_finished("b").await).phase, Phase::Succeeded);
    // What is on that node alone is waited for, and not placed away from it.
    stage.create("c", json!({ "from": { "checkpoint": base } })).await;
    let waiting = stage.until("c", "said to wait", |machine| waits_for_room(&status(machine))).await;
    assert!(status(&waiting).message.unwrap_or_default().contains("is on lab alone"), "{:?}", status(&waiting).message);
    // Also one that starts anew.
    stage.stop_without_first_node().await;
    stage.start(None).await;
    stage.create("d", json!({})).await;
    let d = stage.until_finished("d").await;
    assert_eq!(status(&d).phase, Phase::Succeeded);
    assert_ne!(node(&d), "lab");
    stage.lab.revive("lab");
    assert_eq!(node(&stage.until_finished("c").await), "lab");
    stage.stop().await;
}
