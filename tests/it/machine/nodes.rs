//! P10: the node of a Hub goes down while the rest of its cluster answers: what was there is unknown, and not gone.

use super::stage::{NAMESPACE, Stage, status};
use autovibe::api::{Kind, Machine, machine::Phase};
use autovibe::clock::Clock;
use autovibe::lab::Call;
use serde_json::json;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p10_the_vm_of_a_node_that_is_down_is_neither_made_again_nor_given_up() {
    let mut stage = Stage::in_cluster().await;
    stage.create("worker", json!({ "goal": { "prompt": "#sim turns=0 hang=true" } })).await;
    stage.create("leaver", json!({ "goal": { "prompt": "#sim turns=0 hang=true" } })).await;
    let leaver = stage.until_phase("leaver", Phase::Running).await;
    let before = stage.until_phase("worker", Phase::Running).await;
    let vm = status(&before).vm.unwrap();
    let (vms, datasets) = (stage.vms(), stage.datasets());
    let counts = |stage: &Stage| {
        let of = |call| stage.lab.count(call);
        [of(Call::Create), of(Call::Delete), of(Call::Zfs("destroy")), of(Call::Zfs("clone")), of(Call::Zfs("rename"))]
    };
    let done = counts(&stage);

    stage.lab.kill("lab").await;
    stage.create("late", json!({})).await;
    stage.objects().delete::<Machine>(NAMESPACE, "leaver", None).await.unwrap();
    // The whole of what is done about it, over some turns.
    let looked = stage.lab.count(Call::Resources);
    Clock::system().sleep(Duration::from_secs(8)).await;
    assert!(stage.lab.count(Call::Resources) > looked + 1, "nobody looked");
    let unseen = |machine: &Machine| {
        let conditions = status(machine).conditions;
        conditions.iter().any(|c| (c.type_.as_str(), c.status.as_str(), c.reason.as_str()) == ("MachineReady", "Unknown", "VmUnknown"))
    };
    stage.until("worker", "said to be unseen", unseen).await;
    let late = status(&stage.get("late").await);
    assert!(late.vm.is_none() && !late.phase.is_finished(), "{late:?}");
    assert!(stage.get("leaver").await.metadata().deletion_timestamp.is_some(), "it waits for what it is to leave");
    let meanwhile = stage.get("worker").await;
    assert_eq!(status(&meanwhile).vm.as_ref(), Some(&vm), "its VM is remembered");
    assert_eq!(status(&meanwhile).phase, Phase::Running, "{:?}", status(&meanwhile));
    assert_eq!(counts(&stage), done, "nothing is made, destroyed or moved");
    assert_eq!((stage.vms(), stage.datasets()), (vms, datasets));
    let leases = stage.store().vmid_leases("default").await.unwrap();
    assert!(leases.iter().any(|lease| lease.machine_uid == before.uid()), "{leases:?}");

    // Its power was cut: the VM is off, and the agent is launched again in it.
    stage.lab.revive("lab");
    let again = |machine: &Machine| {
        let state = status(machine);
        state.phase == Phase::Running && state.agent.is_some_and(|agent| agent.launches >= 2) || state.phase.is_finished()
    };
    let after = status(&stage.until("worker", "cared for again", again).await);
    assert!(after.phase.is_finished() || after.vm == Some(vm), "{after:?}");
    stage.until_finished("late").await;
    stage.until_gone("leaver").await;
    assert!(!stage.vms().values().any(|name| name == "leaver"), "{:?}", stage.vms());
    let leases = stage.store().vmid_leases("default").await.unwrap();
    assert!(!leases.iter().any(|lease| lease.machine_uid == leaver.uid()), "{leases:?}");
    assert_eq!(counts(&stage)[0], done[0] + 1, "one VM for `late`, and no second one for the others");
    stage.stop().await;
}
