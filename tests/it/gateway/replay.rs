//! Provider `Replay` through the whole gateway: a conversation from its file to the transcript and the ledger.

use super::{upstream::Script, *};

const CONVERSATION: &str = r"
tokensPerSecond: 0
thinkSeconds: 0
conversations:
  - match: add a greeting
    turns:
      - text: I write the file.
        tools: [{name: Write, input: {file_path: /w/hello.txt, content: hello}}]
        usage: {input: 10, cacheWrite: 1000, cacheRead: 0, output: 50}
      - text: The greeting is in.
        usage: {input: 10, cacheWrite: 100, cacheRead: 1000, output: 20}
";

#[tokio::test(flavor = "multi_thread")]
async fn a_written_conversation_is_played_metered_and_stored() {
    let upstream = Upstream::start(|_| Script::HangUp).await;
    let home = Home::start(&upstream).await;
    std::fs::write(home.dir.path().join("conversations.yaml"), CONVERSATION).unwrap();
    let guest = home.guest("m", |_| ()).await;
    let mut messages = vec![json!({"role": "user", "content": [
        {"type": "text", "text": "<system-reminder>date</system-reminder>"},
        {"type": "text", "text": format!("Please add a greeting. My token is {}", guest.token)}]})];
    let body = |messages: &[Value]| json!({"model": "claude-opus-4-8", "max_tokens": 1000, "stream": false, "messages": messages});
    let (status, text) = home.call(&guest, &body(&messages)).await;
    let answer: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((status, answer["stop_reason"].as_str()), (200, Some("tool_use")), "{text}");
    messages.push(json!({"role": "assistant", "content": answer["content"]}));
    let id = &answer["content"][1]["id"];
    messages.push(json!({"role": "user", "content": [{"type": "tool_result", "tool_use_id": id, "content": "written", "cache_control": {"type": "ephemeral"}}]}));
    let (_, text) = home.call(&guest, &body(&messages)).await;
    let answer: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((answer["content"][0]["text"].as_str(), answer["stop_reason"].as_str()), (Some("The greeting is in."), Some("end_turn")));

    // claude-opus-4-8: 5 in, 6.25 cache write, 0.5 cache read, 25 out, USD per million.
    let usage = home.settled(&guest).await;
    assert_eq!(usage.money.0, 20 * 5_000 + 1100 * 6_250 + 1000 * 500 + 70 * 25_000);
    let entries =
        eventually("four messages are stored", async || Some(home.transcript(&guest).await).filter(|entries| entries.len() == 4)).await;
    let said: Vec<(&str, &str)> =
        entries.iter().map(|e| (e.role.as_str(), e.content[0]["text"].as_str().or(e.content[0]["content"].as_str()).unwrap())).collect();
    assert_eq!(
        said,
        [
            ("user", "Please add a greeting. My token is [redacted]"),
            ("assistant", "I write the file."),
            ("user", "written"),
            ("assistant", "The greeting is in."),
        ]
    );
    assert!(upstream.received().is_empty());

    let counted = home.post("/v1/messages/count_tokens", &guest, &body(&messages)).send().await.unwrap();
    assert!(counted.json::<Value>().await.unwrap()["input_tokens"].as_u64().unwrap() > 50);
    std::fs::write(home.dir.path().join("conversations.yaml"), "conversations: 7").unwrap();
    let (status, text) = home.call(&guest, &request_to_replay("broken")).await;
    assert_eq!(status, 500);
    assert!(text.contains("conversations.yaml cannot be used"), "{text}");
}

fn request_to_replay(text: &str) -> Value {
    json!({"model": "claude-opus-4-8", "max_tokens": 1000, "stream": true, "messages": [{"role": "user", "content": text}]})
}
