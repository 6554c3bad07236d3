//! Every step of a life with the hub gone after it, and with Proxmox' answer to it lost: the same end.

use super::stage::{Stage, status};
use autovibe::api::Kind;
use autovibe::api::machine::{Phase, TerminationReason};
use autovibe::lab::Call;
use futures::StreamExt;
use serde_json::json;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

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

/// So many lives go on side by side: most of a life is waiting.
const AT_ONCE: usize = 6;

/// Whether a life has a step of that number; if so, the hub died after it.
async fn dies_after(step: u32) -> bool {
    let left = Arc::new(AtomicU32::new(step));
    let (counted, died) = (Arc::clone(&left), Arc::new(tokio::sync::Notify::new()));
    let tell = Arc::clone(&died);
    // After step number `step` the hub does nothing more.
    let hook = move |_: &str| {
        let goes_on = counted.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok();
        if !goes_on {
            tell.notify_one();
        }
        goes_on
    };
    let mut stage = Stage::with(Some(Arc::new(hook))).await;
    stage.create("a", spec()).await;
    let reached = tokio::select! {
        () = died.notified() => true,
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
    let mut steps = futures::stream::iter(0..).map(dies_after).buffered(AT_ONCE);
    let mut reached = 0;
    while steps.next().await == Some(true) {
        reached += 1;
    }
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
