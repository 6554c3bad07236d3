//! The checkpoint between messages: asked for, waited for, let go.

use super::{upstream::Script, *};
use autovibe::{
    api::{Checkpoint, checkpoint::CheckpointPhase},
    objects,
};
use tokio::sync::watch;

const SESSION: &str = "11111111-2222-3333-4444-555555555555";

fn enabled(spec: &mut MachineSpec) {
    spec.checkpoints.between_messages = Toggle::Enabled;
}

/// A conversation as Claude Code sends it, after so many answered turns.
fn turn(turns: usize) -> Value {
    let mut messages = vec![json!({"role": "user", "content": [{"type": "text", "text": "go", "cache_control": {"type": "ephemeral"}}]})];
    for n in 0..turns {
        messages
            .push(json!({"role": "assistant", "content": [{"type": "tool_use", "id": format!("toolu_{n}"), "name": "Bash", "input": {}}]}));
        messages.push(json!({"role": "user", "content": [{"type": "tool_result", "tool_use_id": format!("toolu_{n}"), "content": "ok"}]}));
    }
    json!({"model": MODEL, "max_tokens": 1000, "stream": true, "tools": [{"name": "Bash", "input_schema": {}}], "messages": messages})
}

async fn send(home: &Home, guest: &Guest, body: &Value, agent: Option<&str>) -> (u16, String) {
    let mut call = home.post("/v1/messages?beta=true", guest, body).header("X-Claude-Code-Session-Id", SESSION);
    if let Some(agent) = agent {
        call = call.header("x-claude-code-agent-id", agent);
    }
    let response = call.send().await.unwrap();
    (response.status().as_u16(), response.text().await.unwrap())
}

async fn checkpoint(home: &Home, name: &str) -> Checkpoint {
    eventually(&format!("checkpoint {name} is there"), async || home.objects.get::<Checkpoint>("default", name).await.unwrap()).await
}

async fn names(home: &Home) -> Vec<String> {
    home.objects.list::<Checkpoint>(Some("default")).await.unwrap().0.iter().map(|c| c.name().to_owned()).collect()
}

/// What the checkpoint controller stores when it has the snapshot.
async fn capture(home: &Home, name: &str) -> Result<Checkpoint, objects::Error> {
    let mut checkpoint = checkpoint(home, name).await;
    checkpoint.status.get_or_insert_default().phase = CheckpointPhase::Ready;
    home.objects.update_status(&checkpoint).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_waits_for_its_checkpoint_and_no_longer() {
    let upstream = Upstream::start(|_| Script::words(3)).await;
    let home = Home::start(&upstream).await;
    let guest = home.guest("m", enabled).await;
    let first = turn(0);
    let held = send(&home, &guest, &first, None);
    tokio::pin!(held);
    let asked = tokio::select! {
        early = &mut held => panic!("let go before the snapshot: {early:?}"),
        asked = async {
            // The request went to the provider at once.
            eventually("it was forwarded", async || (!upstream.received().is_empty()).then_some(())).await;
            checkpoint(&home, "m-0001").await
        } => asked,
    };
    assert_eq!(asked.spec.machine.as_deref(), Some("m"));
    assert_eq!(serde_json::to_value(asked.spec.trigger).unwrap(), "BetweenMessages");
    assert_eq!(asked.metadata.labels.clone().unwrap()["autovibe.dev/machine"], "m");
    let note = |asked: &Checkpoint, name: &str| asked.metadata.annotations.clone().unwrap()[&format!("autovibe.dev/{name}")].clone();
    let session: Value = serde_json::from_str(&note(&asked, "session")).unwrap();
    assert_eq!((session["id"].as_str(), session["turn"].as_u64()), (Some(SESSION), Some(1)));
    assert_eq!((note(&asked, "quiescent"), note(&asked, "await-results")), ("true".into(), String::new()));
    capture(&home, "m-0001").await.unwrap();
    assert_eq!(held.await.0, 200);

    let second = turn(1);
    let (answer, ()) = tokio::join!(send(&home, &guest, &second, None), async {
        assert_eq!(note(&checkpoint(&home, "m-0002").await, "await-results"), "toolu_0");
        capture(&home, "m-0002").await.unwrap();
    });
    assert_eq!(answer.0, 200);
    home.settled(&guest).await;
    assert_eq!(names(&home).await, ["m-0001", "m-0002"]);
    assert!(!home.objects.get::<Checkpoint>("default", "m-0002").await.unwrap().unwrap().status.unwrap().released);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_boundary_takes_no_checkpoint() {
    let upstream = Upstream::start(|_| Script::words(3)).await;
    let home = Home::start(&upstream).await;
    let guest = home.guest("m", enabled).await;
    let mut title = turn(0);
    title["tools"] = json!([]);
    assert_eq!(send(&home, &guest, &title, None).await.0, 200, "a side request");
    let counted =
        home.post("/v1/messages/count_tokens", &guest, &turn(0)).header("X-Claude-Code-Session-Id", SESSION).send().await.unwrap();
    assert_eq!(counted.status(), 200);
    let off = home.guest("off", |_| ()).await;
    assert_eq!(send(&home, &off, &turn(0), None).await.0, 200, "checkpoints are disabled");
    home.settled(&guest).await;
    assert_eq!(names(&home).await, [""; 0]);
    assert_eq!(home.last_call(&guest).await, None, "a side call is not the conversation's");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeat_stands_at_the_same_boundary() {
    let upstream = Upstream::start(|_| Script::status(529, "", "{}")).await;
    let home = Home::start(&upstream).await;
    let guest = home.guest("m", enabled).await;
    let body = turn(0);
    let (overloaded, _) = tokio::join!(send(&home, &guest, &body, None), capture(&home, "m-0001"));
    assert_eq!(overloaded.0, 529);
    upstream.then(|_| Script::words(3));
    let mut again = body.clone();
    again.as_object_mut().unwrap().remove("stream");
    assert_eq!(send(&home, &guest, &again, None).await.0, 200);
    home.settled(&guest).await;
    assert_eq!(names(&home).await, ["m-0001"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeat_after_a_restart_waits_for_the_checkpoint_that_was_asked_for() {
    let (open, gate) = watch::channel(false);
    let upstream = Upstream::start(move |_| Script::Answer { words: 3, tools: Vec::new(), gate: Some(gate.clone()) }).await;
    let mut home = Home::start(&upstream).await;
    let guest = home.guest("m", enabled).await;
    let body = turn(0);
    tokio::select! {
        early = send(&home, &guest, &body, None) => panic!("{early:?}"),
        _ = checkpoint(&home, "m-0001") => {}
    }
    home.stop().await;
    home.serve(Duration::from_secs(20)).await;
    open.send_replace(true);
    let (answer, _) = tokio::join!(send(&home, &guest, &body, None), capture(&home, "m-0001"));
    assert_eq!(answer.0, 200);
    assert_eq!(names(&home).await, ["m-0001"]);
    let (next, _) = {
        let body = turn(1);
        tokio::join!(async { send(&home, &guest, &body, None).await }, capture(&home, "m-0002"))
    };
    assert_eq!(next.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_late_checkpoint_lets_the_answer_go_and_stays_a_plain_one() {
    let upstream = Upstream::start(|_| Script::words(3)).await;
    let home = Home::start_with(&upstream, Duration::from_millis(300)).await;
    let guest = home.guest("m", enabled).await;
    let seen = {
        let body = turn(0);
        tokio::join!(async { send(&home, &guest, &body, None).await }, checkpoint(&home, "m-0001"))
    };
    assert_eq!(seen.0.0, 200);
    let status = home.objects.get::<Checkpoint>("default", "m-0001").await.unwrap().unwrap().status.unwrap();
    assert!(status.released && status.phase == CheckpointPhase::Pending);
    // The controller that comes now with what it had read is told so.
    let mut late = seen.1;
    late.status.get_or_insert_default().phase = CheckpointPhase::Ready;
    assert!(matches!(home.objects.update_status(&late).await, Err(objects::Error::Conflict { .. })));
    assert_eq!(home.settled(&guest).await.money.0, upstream.bill());
}

#[tokio::test(flavor = "multi_thread")]
async fn of_released_and_captured_exactly_one_is_stored_first() {
    let upstream = Upstream::start(|_| Script::words(1)).await;
    let hold = Duration::from_millis(40);
    let home = Home::start_with(&upstream, hold).await;
    for n in 0..24 {
        let guest = home.guest(&format!("m{n}"), enabled).await;
        let name = format!("m{n}-0001");
        let body = turn(0);
        let controller = async {
            let known = checkpoint(&home, &name).await;
            // On a busy machine it is first seen when the gateway has let go.
            if known.status.as_ref().is_some_and(|status| status.released) {
                return false;
            }
            // Around the moment at which the gateway lets go.
            tokio::time::sleep(hold.mul_f64(0.55 + 0.03 * f64::from(n))).await;
            let mut ready = known;
            ready.status.get_or_insert_default().phase = CheckpointPhase::Ready;
            home.objects.update_status(&ready).await.is_ok()
        };
        let (answer, won) = tokio::join!(send(&home, &guest, &body, None), controller);
        assert_eq!(answer.0, 200);
        let status = home.objects.get::<Checkpoint>("default", &name).await.unwrap().unwrap().status.unwrap();
        assert_eq!((status.phase == CheckpointPhase::Ready, status.released), (won, !won), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_checkpoint_holds_nobody() {
    let upstream = Upstream::start(|_| Script::words(1)).await;
    let home = Home::start(&upstream).await;
    let guest = home.guest("m", enabled).await;
    let body = turn(0);
    let (answer, ()) = tokio::join!(send(&home, &guest, &body, None), async {
        let mut failed = checkpoint(&home, "m-0001").await;
        failed.status.get_or_insert_default().phase = CheckpointPhase::Failed;
        home.objects.update_status(&failed).await.unwrap();
    });
    assert_eq!(answer.0, 200);
    home.settled(&guest).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namesakes_old_checkpoint_is_not_taken_for_ours() {
    let upstream = Upstream::start(|_| Script::words(1)).await;
    let home = Home::start(&upstream).await;
    let spec = autovibe::api::checkpoint::CheckpointSpec { machine: Some("m".into()), ..Default::default() };
    let mut old = home.objects.create(&Checkpoint::new("default", "m-0001", spec)).await.unwrap();
    let status = old.status.get_or_insert_default();
    (status.phase, status.machine_uid) = (CheckpointPhase::Ready, Some("another".into()));
    home.objects.update_status(&old).await.unwrap();
    let guest = home.guest("m", enabled).await;
    let own = format!("m-0001-{}", guest.machine.uid().split('-').next().unwrap());
    let body = turn(0);
    let (answer, captured) = tokio::join!(send(&home, &guest, &body, None), capture(&home, &own));
    assert!(answer.0 == 200 && captured.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tool_that_runs_beside_makes_it_not_quiescent() {
    let upstream = Upstream::start(|r| match r.header("x-none") {
        _ if r.body["messages"].as_array().unwrap().len() == 1 && r.body["messages"][0]["content"] == "sub" => {
            Script::Answer { words: 1, tools: vec![("Write", json!({}))], gate: None }
        }
        _ => Script::Answer { words: 1, tools: vec![("Agent", json!({})), ("Agent", json!({}))], gate: None },
    })
    .await;
    let home = Home::start(&upstream).await;
    let guest = home.guest("m", enabled).await;
    let quiescent = async |name: &str| {
        let asked = checkpoint(&home, name).await;
        capture(&home, name).await.unwrap();
        asked.metadata.annotations.unwrap()["autovibe.dev/quiescent"].clone()
    };
    let main = turn(0);
    let mut sub = turn(0);
    sub["messages"][0]["content"] = json!("sub");
    // The main conversation starts two sub-agents; the first one's answer writes a file; then the second one asks.
    let (_, first) = tokio::join!(send(&home, &guest, &main, None), quiescent("m-0001"));
    let (_, second) = tokio::join!(send(&home, &guest, &sub, Some("aaaa")), quiescent("m-0002"));
    let (_, third) = tokio::join!(send(&home, &guest, &sub, Some("bbbb")), quiescent("m-0003"));
    assert_eq!([first.as_str(), second.as_str(), third.as_str()], ["true", "true", "false"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn c3_sub_agents_that_come_soon_after_each_other_share_a_checkpoint_of_rest() {
    let upstream = Upstream::start(|r| {
        let messages = r.body["messages"].as_array().unwrap();
        let tools = match (messages.len(), messages[0]["content"] == "sub") {
            (1, true) => vec![("Write", json!({}))],
            (1, false) => vec![("Agent", json!({})), ("Agent", json!({}))],
            _ => Vec::new(),
        };
        Script::Answer { words: 1, tools, gate: None }
    })
    .await;
    let home = Home::start(&upstream).await;
    let guest = home.guest("m", enabled).await;
    let asked = async |name: &str| checkpoint(&home, name).await.metadata.annotations.unwrap()["autovibe.dev/quiescent"].clone();
    let (main, mut first, mut second) = (turn(0), turn(0), turn(1));
    for sub in [&mut first, &mut second] {
        sub["messages"][0]["content"] = json!("sub");
    }
    tokio::join!(send(&home, &guest, &main, None), capture(&home, "m-0001")).1.unwrap();
    // Both sub-agents ask at once, and both write a file.
    let (one, two) = (send(&home, &guest, &first, Some("aaaa")), send(&home, &guest, &first, Some("bbbb")));
    let both = tokio::join!(one, two, capture(&home, "m-0002"));
    assert!(both.0.0 == 200 && both.1.0 == 200 && both.2.is_ok());
    // Each request is a turn of its own.
    assert_eq!(names(&home).await, ["m-0001", "m-0002"], "one snapshot serves both");
    // The first one's file is written while the second's is not.
    let early = send(&home, &guest, &second, Some("aaaa"));
    let late = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(names(&home).await, ["m-0001", "m-0002"], "it waits for the other");
        send(&home, &guest, &second, Some("bbbb")).await
    };
    let (early, late, rest) = tokio::join!(early, late, asked_then_captured(&home, &asked, "m-0004"));
    assert_eq!((early.0, late.0, rest.as_str()), (200, 200, "true"));
    assert_eq!(names(&home).await, ["m-0001", "m-0002", "m-0004"]);
    // One that does not come is waited for once.
    let mut third = turn(2);
    third["messages"][0]["content"] = json!("sub");
    let mut begun = turn(0);
    begun["messages"][0]["content"] = json!("sub");
    begun["max_tokens"] = json!(900);
    tokio::join!(send(&home, &guest, &begun, Some("cccc")), capture(&home, "m-0006")).1.unwrap();
    for (name, sub, waits) in [("m-0007", "aaaa", true), ("m-0008", "bbbb", false)] {
        let began = std::time::Instant::now();
        let (answer, rest) = tokio::join!(send(&home, &guest, &third, Some(sub)), asked_then_captured(&home, &asked, name));
        assert_eq!((answer.0, rest.as_str()), (200, "false"));
        assert_eq!(began.elapsed() >= Duration::from_secs(2), waits, "{name}: {:?}", began.elapsed());
    }
}

async fn asked_then_captured(home: &Home, asked: &impl AsyncFn(&str) -> String, name: &str) -> String {
    let rest = asked(name).await;
    capture(home, name).await.unwrap();
    rest
}
