//! Guests of the simulated lab: their agent protocol, their verbs, and the agent that they play against a gateway.

use super::{PATIENCE, World};
use autovibe::{
    clock::Clock,
    proxmox::{Error, ExecStatus, Vmid},
    zfs::{Properties, Snapshot},
};
use axum::{Json, Router, extract::State, http::HeaderMap, response::IntoResponse, routing::post};
use serde_json::{Value, json};
use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

const VM: Vmid = Vmid(1000);

/// What the next request is answered with.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Play {
    /// A tool use.
    Tool,
    /// The end of the turn.
    End,
    /// A stream that breaks off.
    Cut,
    /// 529, before any byte.
    Overloaded,
    /// It is taken, and that is all.
    Nothing,
}

#[derive(Default)]
struct Gateway {
    script: Mutex<Vec<Play>>,
    requests: Mutex<Vec<Value>>,
    exits: Mutex<Vec<Value>>,
}

fn event(value: &Value) -> String {
    format!("event: {}\ndata: {value}\n\n", value["type"].as_str().unwrap_or_default())
}

async fn messages(State(gateway): State<Arc<Gateway>>, headers: HeaderMap, Json(body): Json<Value>) -> axum::response::Response {
    assert_eq!(headers["authorization"], "Bearer av_token");
    let play = gateway.script.lock().unwrap().pop().unwrap_or(Play::End);
    if play == Play::Overloaded {
        return (axum::http::StatusCode::from_u16(529).unwrap(), "overloaded").into_response();
    }
    if play == Play::Nothing {
        std::future::pending::<()>().await;
    }
    let turn = gateway.requests.lock().unwrap().len();
    gateway.requests.lock().unwrap().push(body);
    let mut out = event(&json!({ "type": "message_start", "message": { "role": "assistant" } }));
    if play == Play::End {
        out += &event(&json!({ "type": "content_block_start", "index": 0, "content_block": { "type": "text", "text": "" } }));
        out += &event(&json!({ "type": "content_block_delta", "index": 0, "delta": { "type": "text_delta", "text": "done" } }));
    } else {
        out += &event(
            &json!({ "type": "content_block_start", "index": 0, "content_block": { "type": "tool_use", "id": format!("toolu_{turn}"), "name": "Bash", "input": {} } }),
        );
        out += &event(
            &json!({ "type": "content_block_delta", "index": 0, "delta": { "type": "input_json_delta", "partial_json": "{\"command\":" } }),
        );
        out += &event(
            &json!({ "type": "content_block_delta", "index": 0, "delta": { "type": "input_json_delta", "partial_json": "\"ls\"}" } }),
        );
    }
    if play != Play::Cut {
        out += &event(&json!({ "type": "content_block_stop", "index": 0 }));
        out += &event(
            &json!({ "type": "message_delta", "delta": { "stop_reason": if play == Play::End { "end_turn" } else { "tool_use" } } }),
        );
        out += &event(&json!({ "type": "message_stop" }));
    }
    ([("content-type", "text/event-stream")], out).into_response()
}

async fn exit(State(gateway): State<Arc<Gateway>>, Json(body): Json<Value>) {
    gateway.exits.lock().unwrap().push(body);
}

impl Gateway {
    /// Answers requests by this script, in order; then ends turns.
    async fn start(script: &[Play]) -> (Arc<Self>, std::net::SocketAddr) {
        let gateway = Arc::new(Self::default());
        *gateway.script.lock().unwrap() = script.iter().rev().copied().collect();
        let routes = Router::new().route("/v1/messages", post(messages)).route("/autovibe/v1/exit", post(exit)).with_state(gateway.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move { axum::serve(listener, routes).await });
        (gateway, address)
    }

    fn exit_codes(&self) -> Vec<(u64, i64)> {
        self.exits.lock().unwrap().iter().map(|exit| (exit["launch"].as_u64().unwrap(), exit["exitCode"].as_i64().unwrap())).collect()
    }
}

async fn until(what: &str, condition: impl AsyncFn() -> bool) {
    let wait = async {
        while !condition().await {
            Clock::system().sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("never: {what}"));
}

impl World {
    async fn exec(&self, vm: Vmid, words: &[&str], input: Option<&str>) -> (Option<i32>, String) {
        let command: Vec<&str> = ["/bin/sh", "-c", "not read"].into_iter().chain(words.iter().copied()).collect();
        let pid = self.client.agent_exec(&self.node, vm, &command, input).await.unwrap();
        match self.client.agent_exec_status(&self.node, vm, pid).await.unwrap() {
            ExecStatus::Exited { code, out, .. } => (code, out),
            ExecStatus::Running => panic!("a model command ends at once"),
        }
    }

    async fn booted(&self, vm: Vmid) {
        until("the guest agent answers", async || self.client.agent_ping(&self.node, vm).await.is_ok()).await;
    }

    async fn launch(&self, vm: Vmid, number: u32, session: &str, prompt: &str) {
        let gateway = self.lab.endpoint().gateway_url.clone();
        let quoted = prompt.replace('\'', r"'\''");
        let input = format!(
            "export API_TIMEOUT_MS='2000'\nexport AUTOVIBE_CONTINUE='go on'\nexport AUTOVIBE_GATEWAY='{gateway}'\nexport AUTOVIBE_PROMPT='{quoted}'\nexport AUTOVIBE_SESSION='{session}'\nexport AUTOVIBE_TOKEN='av_token'\n"
        );
        assert_eq!(self.exec(vm, &["autovibe-launch", &number.to_string(), "claude"], Some(&input)).await.0, Some(0));
    }

    async fn state(&self, vm: Vmid) -> String {
        self.exec(vm, &["autovibe-status"], None).await.1
    }

    fn disk(&self, vmid: u32) -> Value {
        self.lab.disk(&self.volume(vmid).0).unwrap()
    }
}

#[tokio::test]
async fn an_agent_works_until_the_model_ends_its_turn() {
    let (gateway, address) = Gateway::start(&[Play::Overloaded, Play::Tool, Play::Tool, Play::End]).await;
    let world = World::with_gateway(address).await;
    world.running(1000, "worker").await;
    world.booted(VM).await;
    assert_eq!(world.state(VM).await, "state=none\n");
    world.launch(VM, 1, "s", "don't \"stop\"\nline two ☃").await;
    world.launch(VM, 1, "s", "told twice").await;
    until("the exit is reported", async || !gateway.exit_codes().is_empty()).await;
    assert_eq!(gateway.exit_codes(), [(1, 0)]);
    assert_eq!(world.state(VM).await, "state=exited\nlaunch=1\nexit=0\n");
    let requests = gateway.requests.lock().unwrap().clone();
    assert_eq!(requests[0]["messages"][0]["content"][0]["text"], "don't \"stop\"\nline two ☃");
    assert_eq!(requests[2]["messages"][4]["content"][0], json!({ "type": "tool_result", "tool_use_id": "toolu_1", "content": "ok" }));
    assert_eq!((requests.len(), world.disk(1000)["turns"].as_u64()), (3, Some(3)));
    assert_eq!(world.disk(1000)["workspace"], json!(["Bash {\"command\":\"ls\"}", "Bash {\"command\":\"ls\"}"]));
    assert_eq!(world.exec(VM, &["autovibe-verify", "5", "/w", "sim-turns", "3"], None).await.0, Some(0));
    assert_eq!(world.exec(VM, &["autovibe-verify", "5", "/w", "sim-turns", "4"], None).await.0, Some(1));
}

#[tokio::test]
async fn a_stream_that_breaks_off_ends_the_agent_and_the_next_launch_resumes() {
    let (gateway, address) = Gateway::start(&[Play::Tool, Play::Cut, Play::End]).await;
    let world = World::with_gateway(address).await;
    world.running(1000, "cut").await;
    world.booted(VM).await;
    world.launch(VM, 1, "s", "work").await;
    until("the exit is reported", async || gateway.exit_codes() == [(1, 1)]).await;
    world.launch(VM, 2, "s", "work").await;
    until("the second exit", async || gateway.exit_codes() == [(1, 1), (2, 0)]).await;
    let last = gateway.requests.lock().unwrap().last().unwrap()["messages"].as_array().unwrap().clone();
    assert_eq!(last.len(), 3, "the same conversation: prompt, tool use, its result with what resumes it");
    assert_eq!(last[2]["content"][1]["text"], "go on");
}

#[tokio::test]
async fn a_fork_starts_from_the_snapshot_and_as_another() {
    let (gateway, address) = Gateway::start(&[Play::Tool, Play::End]).await;
    let world = World::with_gateway(address).await;
    world.running(1000, "parent").await;
    world.booted(VM).await;
    world.exec(VM, &["autovibe-personalise", "parent", "aa", "0"], None).await;
    world.launch(VM, 1, "s", "work").await;
    until("the exit is reported", async || gateway.exit_codes() == [(1, 0)]).await;
    let snapshot = Snapshot { dataset: world.volume(1000), name: "av-c".into() };
    world.zfs.snapshot(std::slice::from_ref(&snapshot), &Properties::new()).await.unwrap();
    world.zfs.clone_snapshot(&snapshot, &world.volume(1001), &Properties::new()).await.unwrap();
    let fork = Vmid(1001);
    world.ok(world.client.create(&world.node, fork, &World::values(1001, "fork")).await).await;
    world.ok(world.client.start(&world.node, fork).await).await;
    world.booted(fork).await;
    assert_eq!(world.disk(1001)["turns"], 2);
    world.exec(fork, &["autovibe-personalise", "fork", "bb", "0"], None).await;
    assert_eq!(world.state(fork).await, "state=none\n");
    world.launch(fork, 1, "other", "continue").await;
    until("the fork ends", async || world.disk(1001)["turns"] == 3).await;
    assert_eq!(world.disk(1000)["turns"], 2, "the parent's disk is its own");
    assert_eq!(gateway.requests.lock().unwrap().last().unwrap()["messages"].as_array().unwrap().len(), 1, "another session begins anew");
}

#[tokio::test]
async fn directives_and_power_rule_the_agent() {
    let (gateway, address) = Gateway::start(&[Play::Tool; 20]).await;
    let world = World::with_gateway(address).await;
    world.running(1000, "directed").await;
    world.booted(VM).await;
    world.launch(VM, 1, "s", "work\n#sim turns=2 exit=7\nmore").await;
    until("the exit is reported", async || gateway.exit_codes() == [(1, 7)]).await;
    assert_eq!(gateway.requests.lock().unwrap().len(), 2);
    world.launch(VM, 2, "idle", "#sim idle=true").await;
    assert_eq!(world.state(VM).await, "state=running\nlaunch=2\n");
    world.ok(world.client.stop(&world.node, VM).await).await;
    assert!(matches!(world.client.agent_ping(&world.node, VM).await, Err(Error::NotRunning(_))));
    world.ok(world.client.start(&world.node, VM).await).await;
    world.booted(VM).await;
    assert_eq!(world.state(VM).await, "state=exited\nlaunch=2\n", "cut off without an exit code");
    world.launch(VM, 3, "idle", "#sim idle=true").await;
    world.exec(VM, &["autovibe-stop"], None).await;
    assert_eq!(world.state(VM).await, "state=exited\nlaunch=3\nexit=143\n");
    until("the end is told", async || gateway.exit_codes().last() == Some(&(3, 143))).await;
}

#[tokio::test]
async fn an_agent_goes_on_after_the_lab_was_killed() {
    let (gateway, address) = Gateway::start(&[Play::Tool; 3]).await;
    let world = World::with_gateway(address).await;
    world.running(1000, "long").await;
    world.booted(VM).await;
    world.launch(VM, 1, "s", "#sim pace=150").await;
    until("two turns", async || world.disk(1000)["turns"].as_u64() >= Some(2)).await;
    let world = world.restart().await;
    until("the exit is reported", async || gateway.exit_codes() == [(1, 0)]).await;
    assert_eq!(world.disk(1000)["turns"], 4);
}

#[tokio::test]
async fn an_agent_asks_again_what_is_not_answered_and_is_taken_to_another_gateway() {
    let (silent, address) = Gateway::start(&[Play::Nothing; 100]).await;
    let world = World::with_gateway(address).await;
    world.running(1000, "patient").await;
    world.booted(VM).await;
    world.launch(VM, 1, "s", "work").await;
    until("it asks again", async || silent.script.lock().unwrap().len() <= 98).await;
    let (gateway, address) = Gateway::start(&[Play::Tool]).await;
    let _world = world.restart_for(address).await;
    until("the exit is reported", async || !gateway.exit_codes().is_empty()).await;
    assert_eq!((gateway.exit_codes(), gateway.requests.lock().unwrap().len()), (vec![(1, 0)], 2));
}

#[tokio::test]
async fn a_guest_that_never_boots_has_no_agent() {
    let world = World::start().await;
    world.running(1000, "never-boots-1").await;
    let ping = world.client.agent_ping(&world.node, VM).await;
    assert!(matches!(ping, Err(Error::AgentNotRunning(_))), "{ping:?}");
    let upid = world.client.shutdown(&world.node, VM, Duration::from_secs(1)).await;
    world.ok(upid).await;
}

#[tokio::test]
async fn files_exit_statuses_and_freezes_are_as_a_real_agents() {
    let world = World::start().await;
    world.running(1000, "files").await;
    world.booted(VM).await;
    let (client, node) = (&world.client, &world.node);
    client.agent_write(node, VM, "/var/lib/autovibe/source.bundle", "bündle ☃".as_bytes()).await.unwrap();
    assert_eq!(world.disk(1000)["files"]["/var/lib/autovibe/source.bundle"], "bündle ☃".len());
    client.agent_write(node, VM, "/big", &vec![b'x'; 60 << 10]).await.unwrap();
    let large = client.agent_write(node, VM, "/big", &vec![b'x'; (60 << 10) + 1]).await;
    assert!(matches!(large, Err(Error::Parameters { .. })), "{large:?}");
    let pid = client.agent_exec(node, VM, &["/bin/true"], None).await.unwrap();
    client.agent_exec_status(node, VM, pid).await.unwrap();
    let again = client.agent_exec_status(node, VM, pid).await;
    assert!(matches!(again, Err(Error::AgentNoPid(_))), "an exit status is told once: {again:?}");
}
