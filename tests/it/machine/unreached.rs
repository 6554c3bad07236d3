//! Guests that do not reach the gateway, and those that were not heard of for other reasons.

use super::rotated::infrastructure;
use super::stage::{NAMESPACE, Stage, status};
use autovibe::api::Machine;
use autovibe::api::machine::Phase;
use autovibe::lab::Call;
use serde_json::json;
use std::time::Duration;

const TOKEN: &str = "autovibe@pve!hub";
const SILENCE: Duration = Duration::from_millis(500);

fn ready(machine: &Machine) -> (String, String) {
    let found = status(machine).conditions.into_iter().find(|condition| condition.type_ == "Ready");
    found.map(|found| (found.status, found.reason)).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_that_does_not_reach_the_gateway_is_told_of_and_goes_on() {
    let mut stage = Stage::impatient(SILENCE).await;
    // Nothing listens there yet.
    let elsewhere = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let secret = stage.lab.token(TOKEN, false);
    stage.create_secret("pve", &[("tokenId", TOKEN), ("secret", &secret)]).await;
    stage.create_hub(infrastructure(&stage).await, Some(&format!("http://{elsewhere}"))).await;
    for (name, agent) in
        [("a", json!({ "type": "ClaudeCode", "model": "claude-sonnet-4-5" })), ("ends", json!({ "type": "Command", "command": ["true"] }))]
    {
        stage.create(name, json!({ "agent": agent, "goal": { "prompt": "#sim turns=0 exit=0" } })).await;
        let told = stage.until(name, "it is told", |m| ready(m).1 == "GatewayNotReached").await;
        let (state, message) = (status(&told), status(&told).message.unwrap());
        assert_eq!((state.phase, ready(&told).0.as_str()), (Phase::Running, "False"), "{message}");
        for part in [&format!("http://{elsewhere}"), "refused", "DHCP", "gateway.url", "firewall"] {
            assert!(message.contains(part), "{part}: {message}");
        }
    }
    // Whatever answers there, it is reached.
    let _listener = std::net::TcpListener::bind(elsewhere).unwrap();
    for name in ["a", "ends"] {
        stage.until(name, "it is reached", |m| ready(m) == ("True".into(), "Running".into())).await;
    }
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_was_heard_of_is_not_looked_at_and_who_need_not_call_is_once() {
    let mut stage = Stage::impatient(SILENCE).await;
    stage.create_hub(json!({ "lab": {} }), None).await;
    stage
        .create(
            "calls",
            json!({ "goal": { "prompt": "#sim turns=1 hang=true" }, "agent": { "type": "ClaudeCode", "model": "claude-sonnet-4-5" } }),
        )
        .await;
    stage.until("calls", "it called", |m| status(m).usage.api_calls == 1 && status(m).phase == Phase::Running).await;
    let execs = || stage.lab.counts().get(&Call::AgentExec).copied().unwrap_or_default();
    stage.until("calls", "its checkpoint is there", |m| status(m).last_checkpoint.is_some()).await;
    let before = execs();
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(execs(), before, "it was heard of");
    stage.create("quiet", json!({ "goal": { "prompt": "#sim idle=true" } })).await;
    stage.until_phase("quiet", Phase::Running).await;
    let before = execs();
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!((execs(), ready(&stage.get("quiet").await).1.as_str()), (before + 1, "Running"), "one look, which found nothing wrong");
    stage.objects().delete::<Machine>(NAMESPACE, "quiet", None).await.unwrap();
    stage.stop().await;
}
