//! Machines that are suspended with their memory: they go on where they were, and where that cannot be had, from their disks.

use super::stage::{AT_ONCE, Death, NAMESPACE, Stage, die_after_each, status};
use autovibe::api::machine::{MachineStatus, OperatingMode, Phase, Restore};
use autovibe::api::{Kind, Machine};
use autovibe::lab::Call;
use autovibe::store::Query;
use autovibe::zfs::{Dataset, Runner, Zfs};
use futures::StreamExt;
use serde_json::{Value, json};

fn spec(prompt: &str) -> Value {
    json!({
        "goal": { "prompt": prompt },
        "agent": { "type": "ClaudeCode", "model": "claude-sonnet-4-5" },
        "suspend": { "memory": "Keep" },
    })
}

async fn set(stage: &Stage, mode: OperatingMode) {
    stage.change("a", move |machine| machine.spec.operating_mode = mode).await;
}

fn agent(machine: &Machine) -> (u32, u32) {
    let agent = status(machine).agent.unwrap();
    (agent.launches, agent.resumed)
}

/// Names of the volumes with memory that are in the pool.
fn memories(stage: &Stage) -> Vec<String> {
    stage.datasets().into_iter().filter(|name| name.contains("-state-")).collect()
}

/// How often it was said that a memory was not kept.
async fn lost_memories(stage: &Stage) -> usize {
    let query = Query { resource: "events".into(), ..Query::default() };
    let events = stage.store().list(&query).await.unwrap();
    events.items.iter().filter(|item| item.document["reason"] == "MemoryNotKept").count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_machine_goes_on_from_its_memory() {
    let mut stage = Stage::new().await;
    stage.create("a", spec("#sim idle=true")).await;
    let running = stage.until_phase("a", Phase::Running).await;
    let vmid = status(&running).vm.unwrap().vmid;
    for round in 1..=2 {
        set(&stage, OperatingMode::Suspended).await;
        let suspended = stage.until_phase("a", Phase::Suspended).await;
        assert!(status(&suspended).memory_kept_at.is_some(), "{:?}", status(&suspended));
        // Each suspension is a checkpoint of its own.
        assert_eq!(status(&suspended).last_checkpoint, Some(format!("a-suspend-{round}")));
        let config = stage.config(vmid).await.values;
        assert_eq!(config["lock"], "suspended");
        assert!(config["vmstate"].contains(&format!("vm-{vmid}-state-suspend-")), "{config:?}");
        assert_eq!(memories(&stage).len(), 1);
        let taken = stage.checkpoint(&format!("a-suspend-{round}")).await.unwrap().status.unwrap();
        assert_eq!((taken.volumes.len(), taken.quiescent), (1, Some(false)), "{taken:?}");
        set(&stage, OperatingMode::Running).await;
        let again = stage.until_phase("a", Phase::Running).await;
        assert_eq!((agent(&again), status(&again).memory_kept_at), ((1, round), None));
        assert_eq!(memories(&stage), Vec::<String>::new());
        let config = stage.config(vmid).await.values;
        assert_eq!((config["protection"].as_str(), config.get("lock"), config.get("vmstate")), ("1", None, None));
    }
    assert_eq!(lost_memories(&stage).await, 0);
    stage.stop().await;
}

/// What a life with one suspension comes to, whatever happened on its way.
async fn assert_same_end(stage: &Stage, what: &str) {
    let machine = stage.until_finished("a").await;
    let state = status(&machine);
    assert_eq!(state.phase, Phase::Succeeded, "{what}: {state:?}");
    assert_eq!(agent(&machine), (1, 1), "{what}: {state:?}");
    // Its conversation is as if nothing had been: two answers, and no prompt between.
    let disk = stage.lab.disk(&format!("tank/autovibe/m-{}-disk-0", machine.uid())).unwrap();
    let roles: Vec<&str> = disk["messages"].as_array().unwrap().iter().map(|message| message["role"].as_str().unwrap()).collect();
    assert_eq!(roles, ["user", "assistant", "user", "assistant"], "{what}");
    assert_eq!(disk["messages"][2]["content"].as_array().unwrap().len(), 1, "{what}: {disk}");
    stage.assert_ended_well(&machine).await;
    assert_eq!(memories(stage), Vec::<String>::new(), "{what}");
    let balance = stage.store().balance(&format!("machine/{}", machine.uid())).await.unwrap();
    let audit = stage.store().audit(&format!("machine/{}", machine.uid())).await.unwrap();
    assert_eq!((balance, balance.reserved), (audit, 0), "{what}");
}

/// Suspends it and lets it go on, as a person does.
async fn suspend_and_go_on(stage: &Stage) {
    stage.until("a", "running", |m| status(m).phase == Phase::Running || agent_went_on(&status(m))).await;
    set(stage, OperatingMode::Suspended).await;
    stage.until("a", "suspended", |m| status(m).phase == Phase::Suspended).await;
    set(stage, OperatingMode::Running).await;
    stage.until("a", "on again", |m| agent_went_on(&status(m))).await;
}

fn agent_went_on(state: &MachineStatus) -> bool {
    state.agent.as_ref().is_some_and(|agent| agent.resumed > 0 || agent.launches > 1)
}

/// Whether a life with a suspension has a step of that number; if so, the hub died after it.
async fn dies_after(step: u32) -> bool {
    let death = Death::unarmed(step);
    let mut stage = Stage::with(Some(death.hook())).await;
    stage.create("a", spec("work\n#sim pace=1500")).await;
    stage.until_phase("a", Phase::Running).await;
    death.arm();
    let reached = tokio::select! {
        () = death.came() => true,
        () = suspend_and_go_on(&stage) => false,
    };
    if reached {
        stage.stop().await;
        stage.start(None).await;
        let (state, what) = (status(&stage.get("a").await), format!("died after step {step}"));
        if !agent_went_on(&state) {
            if stage.get("a").await.spec.operating_mode == OperatingMode::Suspended {
                stage.until_phase("a", Phase::Suspended).await;
            }
            set(&stage, OperatingMode::Running).await;
        }
        assert_same_end(&stage, &what).await;
    }
    stage.stop().await;
    reached
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_that_dies_after_any_step_of_a_suspension_loses_and_repeats_nothing() {
    let reached = die_after_each(dies_after).await;
    assert!(reached >= 7, "only {reached} steps were counted");
}

async fn loses_the_reply_to(call: Call) {
    let mut stage = Stage::new().await;
    stage.create("a", spec("work\n#sim pace=1500")).await;
    stage.until_phase("a", Phase::Running).await;
    stage.lab.drop_reply(call);
    suspend_and_go_on(&stage).await;
    assert_same_end(&stage, &format!("{call:?} lost its reply")).await;
    // Each of its requests was paid once. A hub that dies with one under way pays for what it cannot give any more.
    assert_eq!(status(&stage.get("a").await).usage.api_calls, 2, "{call:?} lost its reply");
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_reply_to_any_call_of_a_suspension_loses_and_repeats_nothing() {
    let calls =
        [Call::Suspend, Call::Start, Call::Configure, Call::Config, Call::TaskStatus, Call::Status, Call::AgentExec, Call::AgentPing];
    futures::stream::iter(calls).for_each_concurrent(AT_ONCE, loses_the_reply_to).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_its_memory_it_goes_on_from_its_disks_and_says_so() {
    let mut stage = Stage::new().await;
    stage.create("a", spec("#sim idle=true")).await;
    stage.until_phase("a", Phase::Running).await;
    set(&stage, OperatingMode::Suspended).await;
    stage.until_phase("a", Phase::Suspended).await;
    // Someone destroys it on the node.
    let memory = memories(&stage).remove(0);
    let zfs = Zfs::open(Runner::Socket(stage.lab.endpoint().zfs_socket.clone().unwrap())).await.unwrap();
    zfs.destroy_dataset(&Dataset(memory)).await.unwrap();
    set(&stage, OperatingMode::Running).await;
    let again = stage.until_phase("a", Phase::Running).await;
    assert_eq!((agent(&again), status(&again).memory_kept_at), ((2, 0), None));
    assert_eq!(lost_memories(&stage).await, 1);
    let config = stage.config(status(&again).vm.unwrap().vmid).await.values;
    assert_eq!((config.get("lock"), config.get("vmstate")), (None, None));
    stage.stop().await;
}

/// As on a node that is short of memory for a moment.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_memory_that_fails_to_load_for_a_while_is_kept() {
    let mut stage = Stage::new().await;
    stage.create("a", spec("#sim idle=true")).await;
    stage.until_phase("a", Phase::Running).await;
    set(&stage, OperatingMode::Suspended).await;
    stage.until_phase("a", Phase::Suspended).await;
    for _ in 0..4 {
        stage.lab.fail_next(Call::Start, 500);
    }
    set(&stage, OperatingMode::Running).await;
    let again = stage.until_phase("a", Phase::Running).await;
    assert_eq!(stage.lab.fired(), 4);
    assert_eq!((agent(&again), lost_memories(&stage).await), ((1, 1), 0));
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_its_memory_cannot_be_saved_it_is_suspended_without() {
    let mut stage = Stage::new().await;
    stage.create("a", spec("#sim idle=true")).await;
    stage.until_phase("a", Phase::Running).await;
    for _ in 0..3 {
        stage.lab.fail_next(Call::Suspend, 500);
    }
    set(&stage, OperatingMode::Suspended).await;
    let suspended = stage.until_phase("a", Phase::Suspended).await;
    assert_eq!(status(&suspended).memory_kept_at, None);
    assert_eq!(lost_memories(&stage).await, 1);
    let config = stage.config(status(&suspended).vm.unwrap().vmid).await.values;
    assert_eq!((config.get("lock"), config["protection"].as_str()), (None, "1"));
    set(&stage, OperatingMode::Running).await;
    assert_eq!(agent(&stage.until_phase("a", Phase::Running).await), (2, 0));
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_stands_with_its_memory_is_forked_put_back_and_deleted() {
    let mut stage = Stage::new().await;
    let first = stage.create("a", spec("#sim idle=true")).await;
    stage.until_phase("a", Phase::Running).await;
    set(&stage, OperatingMode::Suspended).await;
    stage.until_phase("a", Phase::Suspended).await;
    // A fork begins from its disks, and has no memory of it.
    stage.create("b", json!({ "from": { "machine": { "name": "a", "capture": "Now" } } })).await;
    let fork = stage.until_finished("b").await;
    assert_eq!((status(&fork).phase, status(&fork).spawned_from.as_deref()), (Phase::Succeeded, Some("a-suspend-1")));
    assert_eq!(memories(&stage).len(), 1);
    // It is put back: its memory is of another state, and goes.
    let restore = Restore { checkpoint: "a-suspend-1".into(), request: String::new() };
    stage.change("a", move |machine| machine.spec.restore = Some(restore.clone())).await;
    let back = stage.until("a", "put back", |m| status(m).phase == Phase::Suspended && status(m).restored.is_some()).await;
    assert_eq!((status(&back).memory_kept_at, memories(&stage)), (None, Vec::new()));
    set(&stage, OperatingMode::Running).await;
    stage.until_phase("a", Phase::Running).await;
    set(&stage, OperatingMode::Suspended).await;
    stage.until_phase("a", Phase::Suspended).await;
    assert_eq!(memories(&stage).len(), 1);
    stage.objects().delete::<Machine>(NAMESPACE, "a", None).await.unwrap();
    stage.until_gone("a").await;
    assert!(!stage.vms().values().any(|name| name == "a"), "{:?}", stage.vms());
    assert_eq!(memories(&stage), Vec::<String>::new());
    let last = stage.checkpoint("a-final").await.unwrap().status.unwrap();
    assert_eq!(last.machine_uid.as_deref(), Some(first.uid()));
    stage.stop().await;
}
