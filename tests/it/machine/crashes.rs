//! Every step of a life with the hub gone after it, and with Proxmox' answer to it lost: the same end.

use super::stage::{AT_ONCE, Death, Stage, die_after_each, status};
use autovibe::api::Kind;
use autovibe::api::machine::{Phase, TerminationReason};
use autovibe::lab::Call;
use futures::StreamExt;
use serde_json::json;

fn spec() -> serde_json::Value {
    json!({
        "goal": { "prompt": "work", "verify": { "command": ["sim-turns", "2"] } },
        "agent": { "type": "ClaudeCode", "model": "claude-sonnet-4-5" },
    })
}

async fn assert_same_end(stage: &Stage, what: &str) {
    let machine = stage.until_finished("a").await;
    let state = status(&machine);
    assert_eq!((state.phase, state.termination_reason), (Phase::Succeeded, Some(TerminationReason::Completed)), "{what}: {state:?}");
    stage.assert_ended_well(&machine).await;
    let disks: Vec<String> = stage.datasets().into_iter().filter(|name| name.contains("-disk-") && !name.contains('@')).collect();
    assert_eq!(disks, [format!("tank/autovibe/m-{}-disk-0", machine.uid())], "{what}: one disk, kept");
    // What the agent paid is what its Machine was charged: each call once.
    let balance = stage.store().balance(&format!("machine/{}", machine.uid())).await.unwrap();
    let audit = stage.store().audit(&format!("machine/{}", machine.uid())).await.unwrap();
    assert_eq!(balance, audit, "{what}");
    assert_eq!(balance.reserved, 0, "{what}: nothing stays reserved");
}

/// Whether a life has a step of that number; if so, the hub died after it.
async fn dies_after(step: u32) -> bool {
    let death = Death::after(step);
    let mut stage = Stage::with(Some(death.hook())).await;
    stage.create("a", spec()).await;
    let reached = tokio::select! {
        () = death.came() => true,
        _ = stage.until_finished("a") => false,
    };
    if reached {
        stage.stop().await;
        stage.start(None).await;
        assert_same_end(&stage, &format!("died after step {step}")).await;
    }
    stage.stop().await;
    reached
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_that_dies_after_any_step_comes_to_the_same_end() {
    let reached = die_after_each(dies_after).await;
    assert!(reached > 12, "only {reached} steps were counted in a life");
}

async fn loses_the_reply_to(call: Call) {
    let mut stage = Stage::new().await;
    stage.lab.drop_reply(call);
    stage.create("a", spec()).await;
    assert_same_end(&stage, &format!("{call:?} lost its reply")).await;
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_reply_to_any_call_comes_to_the_same_end() {
    let calls = [
        Call::Create,
        Call::Start,
        Call::Shutdown,
        Call::Configure,
        Call::Delete,
        Call::Config,
        Call::TaskStatus,
        Call::Resources,
        Call::List,
        Call::AgentPing,
        Call::AgentExec,
        Call::AgentExecStatus,
        Call::Zfs("clone"),
        Call::Zfs("snapshot"),
        Call::Zfs("hold"),
        Call::Zfs("rename"),
    ];
    futures::stream::iter(calls).for_each_concurrent(AT_ONCE, loses_the_reply_to).await;
}
