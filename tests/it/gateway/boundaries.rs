//! Checkpoints before what is risky, at breakpoints and after changes of files: asked for, held for, and named.

use super::{upstream::Script, *};
use autovibe::api::{Checkpoint, checkpoint::Trigger};

fn shell(command: &'static str) -> Script {
    Script::Answer { words: 2, tools: vec![("Bash", json!({ "command": command }))], gate: None }
}

fn turn() -> Value {
    json!({"model": MODEL, "max_tokens": 1000, "stream": true, "tools": [{"name": "Bash", "input_schema": {}}],
        "messages": [{"role": "user", "content": "go"}]})
}

/// The same conversation after a call of a tool with this result.
fn after(name: &str, input: &Value, result: &str) -> Value {
    let mut body = turn();
    body["messages"].as_array_mut().unwrap().extend([
        json!({"role": "assistant", "content": [{"type": "tool_use", "id": "toolu_0", "name": name, "input": input}]}),
        json!({"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_0", "content": result}]}),
    ]);
    body
}

async fn checkpoints(home: &Home) -> Vec<Checkpoint> {
    home.objects.list::<Checkpoint>(Some("default")).await.unwrap().0
}

/// The first checkpoint, once its reasons are these.
async fn with_reasons(home: &Home, expected: &[&str]) -> Checkpoint {
    eventually(&format!("its reasons are {expected:?}"), async || {
        let first = checkpoints(home).await.into_iter().next()?;
        let status = first.status.clone().unwrap_or_default();
        let reasons: Vec<String> = status.reasons.iter().map(|reason| format!("{:?}: {}", reason.trigger, reason.message)).collect();
        (reasons == expected).then_some(first)
    })
    .await
}

const PUSH: &str = "BeforeRiskyOperation: before git push, which leaves the VM";

#[tokio::test(flavor = "multi_thread")]
async fn a_risky_call_is_withheld_until_the_state_before_it_is_safe() {
    let upstream = Upstream::start(|_| shell("cd /w && git push https://secret@example.org")).await;
    let home = Home::start(&upstream).await;
    let guest = home.guest("m", |spec| spec.checkpoints.before_risky_operations = Toggle::Enabled).await;
    let mut response = home.post("/v1/messages?beta=true", &guest, &turn()).send().await.unwrap();
    assert_eq!(response.status(), 200, "its head is not held: nothing was due at the request");
    let mut seen = String::new();
    let asked = eventually("a checkpoint was asked for", async || checkpoints(&home).await.into_iter().next()).await;
    assert_eq!((asked.name(), asked.spec.trigger), ("m-0001", Trigger::BeforeRiskyOperation));
    let notes = asked.metadata.annotations.clone().unwrap();
    assert_eq!(notes["autovibe.dev/quiescent"], "true", "no tool of the answer runs yet");
    assert!(!notes["autovibe.dev/reasons"].contains("secret"));
    while let Ok(chunk) = tokio::time::timeout(Duration::from_millis(300), response.chunk()).await {
        seen += std::str::from_utf8(&chunk.unwrap().expect("it does not end yet")).unwrap();
    }
    assert!(!seen.contains("message_stop") && seen.matches("event: content_block_stop").count() == 1, "{seen}");
    let rest = home.capturing(response.text()).await.unwrap();
    assert!(rest.contains("content_block_stop") && rest.contains("message_stop"), "{rest}");
    with_reasons(&home, &[PUSH]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_snapshot_is_named_by_all_that_it_is_worth() {
    let upstream = Upstream::start(|_| shell("git push")).await;
    let home = Home::start(&upstream).await;
    let guest = home.guest("m", |spec| spec.checkpoints = autovibe::api::machine::Checkpoints::default()).await;
    let body = after("Bash", &json!({"command": "git add -A && git mv a b && git commit -m x"}), "[main 1a] x");
    assert_eq!(home.capturing(home.call(&guest, &body)).await.0, 200);
    // The controller, which this test plays without annotations, would have put these first.
    let asked = with_reasons(&home, &[PUSH]).await;
    let notes = asked.metadata.annotations.unwrap()["autovibe.dev/reasons"].clone();
    let reasons: Vec<autovibe::api::checkpoint::Reason> = serde_json::from_str(&notes).unwrap();
    let reasons: Vec<String> = reasons.iter().map(|reason| format!("{:?}: {}", reason.trigger, reason.message)).collect();
    assert_eq!(
        reasons,
        ["BetweenMessages: after Bash", "AfterFileOperations: files changed: by commands (score 3)", "Breakpoint: a commit was made"]
    );
    home.settled(&guest).await;
    assert_eq!(checkpoints(&home).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_between_messages_only_what_holds_is_taken() {
    let upstream = Upstream::start(|_| shell("cargo test")).await;
    let home = Home::start(&upstream).await;
    let guest = home
        .guest("m", |spec| {
            spec.checkpoints = autovibe::api::machine::Checkpoints { between_messages: Toggle::Disabled, ..Default::default() };
        })
        .await;
    assert_eq!(home.call(&guest, &turn()).await.0, 200);
    let edit = after("Edit", &json!({"file_path": "/w/a.rs", "old_string": "a", "new_string": "b"}), "done");
    assert_eq!(home.call(&guest, &edit).await.0, 200);
    home.settled(&guest).await;
    assert!(checkpoints(&home).await.is_empty());
    let manifest = after("Edit", &json!({"file_path": "/w/Cargo.toml", "old_string": "a", "new_string": "b"}), "done");
    assert_eq!(home.capturing(home.call(&guest, &manifest)).await.0, 200);
    assert_eq!(checkpoints(&home).await[0].spec.trigger, Trigger::AfterFileOperations);
    upstream.then(|_| Script::words(2));
    let mut last = manifest.clone();
    last["messages"][0]["content"] = json!("go on");
    last["messages"][1]["content"][0]["input"]["file_path"] = json!("/w/a.rs");
    assert_eq!(home.capturing(home.call(&guest, &last)).await.0, 200);
    let taken: Vec<Trigger> = checkpoints(&home).await.iter().map(|checkpoint| checkpoint.spec.trigger).collect();
    assert_eq!(taken, [Trigger::AfterFileOperations, Trigger::Breakpoint], "and one at the end of the turn");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_risky_call_without_a_checkpoint_never_reaches_the_agent_and_that_is_recorded() {
    let upstream = Upstream::start(|_| shell("rm -rf /w")).await;
    let home = Home::start_with(&upstream, Duration::from_millis(200)).await;
    let guest = home.guest("m", |spec| spec.checkpoints.before_risky_operations = Toggle::Enabled).await;
    let begun = std::time::Instant::now();
    let mut response = home.post("/v1/messages?beta=true", &guest, &turn()).send().await.unwrap();
    let mut seen = String::new();
    while let Ok(Some(chunk)) = response.chunk().await {
        seen += std::str::from_utf8(&chunk).unwrap();
    }
    assert!(begun.elapsed() >= Duration::from_millis(400), "it is waited for twice");
    assert!(!seen.contains("message_stop") && seen.matches("event: content_block_stop").count() <= 1, "{seen}");
    let events = autovibe::admission::resources().iter().find(|resource| resource.plural == "events").unwrap();
    eventually("an Event says so", async || {
        let (changes, _) = home.objects.read_changes(events, autovibe::store::Revision(0), 1000).await.unwrap();
        let said = |event: &autovibe::store::Event| event.document.to_string();
        let is_it = |text: &String| text.contains("NoCheckpointBefore") && text.contains("before rm -r, which destroys");
        changes.iter().map(said).find(is_it)
    })
    .await;
    let late = checkpoints(&home).await.remove(0).status.unwrap();
    assert!(late.released);
}
