//! P7: a storage that fills up takes no new Machines, and says so; those that are there go on to their ends, and so does all elsewhere.

use super::confined::{change_hub, condition, until_hub};
use super::places;
use super::stage::{Stage, status};
use autovibe::api::machine::{Machine, MachineStatus, Phase};
use serde_json::json;

const LASTS: &str = "#sim turns=0 hang=true";
/// All that the lab's storage has, bytes.
const ALL: u64 = 256 << 30;

fn waits(state: &MachineStatus) -> Option<&str> {
    let found = state.conditions.iter().find(|condition| condition.type_ == "Ready" && condition.reason == "NoNode")?;
    Some(&found.message)
}

/// The Hub looks when it is changed, and else each 5 minutes.
async fn look(stage: &Stage, number: u32) {
    change_hub(stage, |hub| hub.metadata.labels = Some([("look".to_owned(), number.to_string())].into())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p7_a_storage_with_less_free_than_is_kept_takes_no_new_machine() {
    let mut stage = Stage::new().await;
    stage.create("there", json!({ "goal": { "prompt": LASTS } })).await;
    stage.until_phase("there", Phase::Running).await;

    // A tenth is kept, as long as nothing else is said.
    stage.lab.fill_storage("lab", ALL / 10 * 9 + (1 << 30));
    // A hub that starts anew has seen nothing of it; one that runs looks each minute.
    stage.stop().await;
    stage.start(None).await;
    stage.create("late", json!({})).await;
    let late = stage.until("late", "waiting for room", |machine| waits(&status(machine)).is_some()).await;
    let state = status(&late);
    let why = "lab: storage tank has 9 % of 256 GiB free, and spec.infrastructure.storageReservePercent keeps 10";
    assert!(waits(&state).is_some_and(|message| message.contains(why)), "{state:?}");
    assert!(state.vm.is_none() && stage.vms().len() == 1, "nothing of it was made");
    look(&stage, 1).await;
    let hub = until_hub(&stage, "it is said", |hub| condition(hub, "StorageLow").is_some()).await;
    let message = condition(&hub, "StorageLow").unwrap();
    assert!(message.contains("node lab: storage tank has 9 % of 256 GiB free") && message.contains("Delete checkpoints"), "{message}");

    // What is there goes on, to its end and what it leaves.
    stage.objects().delete::<Machine>(super::stage::NAMESPACE, "there", None).await.unwrap();
    stage.until_gone("there").await;
    assert!(stage.checkpoint("there-final").await.is_some());
    assert!(waits(&status(&stage.get("late").await)).is_some());

    stage.lab.fill_storage("lab", ALL / 2);
    stage.until_finished("late").await;
    look(&stage, 2).await;
    until_hub(&stage, "there is room", |hub| condition(hub, "StorageLow").is_none()).await;
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn p7_machines_go_where_there_is_room_and_a_hub_may_keep_less() {
    let mut stage = places::stage(&[]).await;
    stage.lab.fill_storage("lab", ALL - 1);
    stage.lab.fill_storage("pve2", ALL / 100 * 97);
    for name in ["a", "b"] {
        stage.create(name, json!({ "goal": { "prompt": LASTS } })).await;
        let machine = stage.until_phase(name, Phase::Running).await;
        assert_eq!(status(&machine).node.as_deref(), Some("pve3"));
    }
    let pinned = json!({ "goal": { "prompt": LASTS }, "placement": { "nodes": ["lab", "pve2"] } });
    stage.create("pinned", pinned).await;
    let waiting = status(&stage.until("pinned", "waiting for room", |machine| waits(&status(machine)).is_some()).await);
    let message = waits(&waiting).unwrap();
    assert!(
        message.contains("lab: storage tank has 0 % of 256 GiB free") && message.contains("pve2: storage tank has 3 % of"),
        "{message}"
    );
    look(&stage, 1).await;
    let hub = until_hub(&stage, "it is said", |hub| condition(hub, "StorageLow").is_some()).await;
    let of = |name: &str| hub.status.iter().flat_map(|status| &status.nodes).find(|node| node.name == name).unwrap().message.clone();
    assert!(of("lab").is_some_and(|why| why.contains("storageReservePercent keeps 10")) && of("pve3").is_none(), "{hub:?}");

    change_hub(&stage, |hub| hub.spec.infrastructure.storage_reserve_percent = 2).await;
    let pinned = stage.until_phase("pinned", Phase::Running).await;
    assert_eq!(status(&pinned).node.as_deref(), Some("pve2"));
    stage.stop().await;
}
