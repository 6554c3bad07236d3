//! P10: the node of a Hub goes down while the rest of its cluster answers: what was there is unknown, and not gone.

use super::stage::{Stage, status};
use autovibe::api::{Kind, machine::Phase};
use autovibe::clock::Clock;
use autovibe::lab::Call;
use serde_json::json;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p10_the_vm_of_a_node_that_is_down_is_neither_made_again_nor_given_up() {
    let mut stage = Stage::in_cluster().await;
    stage.create("worker", json!({ "goal": { "prompt": "#sim turns=0 hang=true" } })).await;
    let before = stage.until_phase("worker", Phase::Running).await;
    let vm = status(&before).vm.unwrap();
    let (vms, datasets) = (stage.vms(), stage.datasets());
    let counts = |stage: &Stage| {
        let of = |call| stage.lab.count(call);
        [of(Call::Create), of(Call::Delete), of(Call::Zfs("destroy")), of(Call::Zfs("clone")), of(Call::Zfs("rename"))]
    };
    let done = counts(&stage);

    stage.lab.kill("lab").await;
    let waits = |machine: &autovibe::api::Machine| {
        let conditions = status(machine).conditions;
        conditions.iter().any(|condition| condition.reason == "VmUnknown" && condition.message.contains("595"))
    };
    stage.until("worker", "waiting for its node", waits).await;
    // The whole of what it does about it, over some turns.
    Clock::system().sleep(Duration::from_secs(6)).await;
    let meanwhile = stage.get("worker").await;
    assert_eq!(status(&meanwhile).vm.as_ref(), Some(&vm), "its VM is remembered");
    assert_eq!(status(&meanwhile).phase, Phase::Running, "{:?}", status(&meanwhile));
    assert_eq!(counts(&stage), done, "nothing is made, destroyed or moved");
    assert_eq!((stage.vms(), stage.datasets()), (vms, datasets));
    let leases = stage.store().vmid_leases("default").await.unwrap();
    assert!(leases.iter().any(|lease| lease.machine_uid == before.uid()), "{leases:?}");

    // Its power was cut: the VM is off, and the agent is launched again in it.
    stage.lab.revive("lab");
    let again = |machine: &autovibe::api::Machine| {
        let state = status(machine);
        state.phase == Phase::Running && state.agent.is_some_and(|agent| agent.launches >= 2) || state.phase.is_finished()
    };
    let after = status(&stage.until("worker", "cared for again", again).await);
    assert!(after.phase.is_finished() || after.vm == Some(vm), "{after:?}");
    assert_eq!(counts(&stage)[0], done[0], "no second VM");
    stage.stop().await;
}
