use super::*;
use crate::llm::meter::{Caching, Meter};
use crate::llm::{Protocol, usage_chunk::Filter};

const TEXT: &str = r#"
tokensPerSecond: 0
thinkSeconds: 0
conversations:
  - match: add authentication
    turns:
      - text: I look first.
        tools:
          - {name: Bash, input: {command: ls}}
      - thinkSeconds: 2.5
        tools:
          - {name: Write, input: {file_path: /a, content: "héllo\n"}}
          - {name: Write, input: {file_path: /b, content: x}}
        usage: {input: 3, cacheWrite: 200, cacheRead: 1000, output: 77}
      - text: Authentication is in.
  - match: add tests
    turns: [{text: Tests are in.}]
    end: Nothing more to do.
"#;

fn request(messages: Value, more: Value) -> Request {
    let mut body =
        json!({"model": "claude-sonnet-4-5", "max_tokens": 100, "messages": messages, "tools": [{"name": "Bash"}], "stream": true});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    Request::parse(Protocol::Messages, Bytes::from(body.to_string()), false).unwrap()
}

async fn play(messages: Value) -> Meter {
    let reply = parse(TEXT).unwrap().reply(&request(messages, json!({})), false, Clock::system());
    assert_eq!(reply.status, 200);
    let mut meter = Meter::new(Protocol::Messages);
    let chunks: Vec<_> = reply.body.collect().await;
    chunks.into_iter().for_each(|chunk| meter.stream(&chunk.unwrap()));
    assert!(meter.is_complete());
    meter
}

fn user(text: &str) -> Value {
    json!({"role": "user", "content": [{"type": "text", "text": "<system-reminder>add tests</system-reminder>"}, {"type": "text", "text": text}]})
}
fn assistant(text: &str) -> Value {
    json!({"role": "assistant", "content": [{"type": "text", "text": text}]})
}
fn result() -> Value {
    json!({"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "add tests"}]})
}

#[tokio::test(start_paused = true)]
async fn the_turn_follows_from_the_request_alone() {
    let first = play(json!([user("Please Add Authentication.")])).await;
    assert_eq!(first.content()[0]["text"], "I look first.");
    assert_eq!((first.tools()[0].1.as_str(), first.stop_reason()), ("Bash", Some("tool_use")));
    let started = tokio::time::Instant::now();
    let second = play(json!([user("add authentication"), assistant("I look first."), result()])).await;
    assert_eq!(started.elapsed(), Duration::from_millis(2500), "it thought as long as written");
    assert_eq!(second.content()[0]["input"], json!({"file_path": "/a", "content": "héllo\n"}));
    let metered = second.metered(0, 0, Caching::Never);
    assert_eq!((metered.estimated, metered.usage.cache_write, metered.usage.cache_read, metered.usage.output), (false, 200, 1000, 77));
    let ids: Vec<String> = second.tools().into_iter().map(|(id, _)| id).collect();
    assert!(ids[0] != ids[1] && ids[0] != first.tools()[0].0, "tool ids are unique: {ids:?}");
    // After a break Claude Code adds two messages of its own; the conversation goes on where it was.
    let resumed =
        json!([user("add authentication"), assistant("a"), result(), user(RESUMED), assistant(PUT_INTO_ITS_MOUTH[0]), user("Go on.")]);
    assert_eq!(play(resumed).await.content()[0]["name"], "Write");
}

#[tokio::test]
async fn a_later_prompt_begins_another_conversation_and_each_ends() {
    let history = [user("add authentication"), assistant("a"), result(), assistant("b"), result(), assistant("c")];
    let with = |more: &[Value]| Value::Array(history.iter().chain(more).cloned().collect());
    assert_eq!(play(with(&[user("Now add tests")])).await.content()[0]["text"], "Tests are in.");
    let over = play(with(&[user("Now add tests"), assistant("Tests are in."), user("And?")])).await;
    assert_eq!((over.content()[0]["text"].as_str(), over.stop_reason()), (Some("Nothing more to do."), Some("end_turn")));
    let unknown = play(json!([user("Bake a cake")])).await;
    assert_eq!(
        (unknown.content()[0]["text"].as_str(), unknown.stop_reason()),
        (Some("No written conversation matches this prompt."), Some("end_turn"))
    );
}

#[tokio::test]
async fn what_is_no_conversation_gets_something_short() {
    let schema = json!({"type": "object", "properties": {"title": {"type": "string"}}});
    let more = json!({"tools": [], "stream": false, "output_config": {"format": {"type": "json_schema", "schema": schema}}});
    let reply = parse(TEXT).unwrap().reply(&request(json!([user("add authentication")]), more), true, Clock::system());
    let bytes = reply.body.collect::<Vec<_>>().await.remove(0).unwrap();
    let message: Value = serde_json::from_slice(&bytes).unwrap();
    let title: Value = serde_json::from_str(message["content"][0]["text"].as_str().unwrap()).unwrap();
    assert_eq!((title["title"].as_str(), message["stop_reason"].as_str()), (Some("Written conversation"), Some("end_turn")));
}

/// Plays a turn in a protocol, streamed and in one piece; both have to say and cost the same.
async fn play_as(protocol: Protocol, body: Value) -> (Meter, String) {
    let mut met = Vec::new();
    let mut text = String::new();
    for stream in [false, true] {
        let mut body = body.clone();
        body["stream"] = stream.into();
        let request = Request::parse(protocol, Bytes::from(body.to_string()), false).unwrap();
        assert_eq!(request.hides_usage(), stream && protocol == Protocol::Chat);
        let reply = parse(TEXT).unwrap().reply(&request, false, Clock::system());
        let chunks: Vec<_> = reply.body.collect().await;
        let mut meter = Meter::new(protocol);
        let bytes: Vec<u8> = chunks.into_iter().flat_map(Result::unwrap).collect();
        if stream {
            meter.stream(&bytes);
        } else {
            meter.whole(&bytes);
        }
        text = String::from_utf8(bytes).unwrap();
        met.push(meter);
    }
    let (streamed, whole) = (met.pop().unwrap(), met.pop().unwrap());
    assert!(streamed.is_complete() && whole.is_complete());
    assert_eq!(streamed.content(), whole.content());
    assert_eq!((streamed.stop_reason(), streamed.error()), (whole.stop_reason(), None));
    assert_eq!(streamed.metered(0, 0, Caching::Never).usage.output, whole.metered(0, 0, Caching::Never).usage.output);
    // What a client without `stream` would have got is what the stream adds up to.
    let mut again = Meter::new(protocol);
    again.whole(streamed.message().to_string().as_bytes());
    assert_eq!((again.content(), again.metered(0, 0, Caching::Never)), (whole.content(), streamed.metered(0, 0, Caching::Never)));
    (streamed, text)
}

#[tokio::test(start_paused = true)]
async fn the_same_conversation_is_played_in_every_protocol() {
    let call = |id: &str| json!({"id": id, "type": "function", "function": {"name": "Bash", "arguments": "{}"}});
    let chat = json!([
        {"role": "system", "content": "You add tests."},
        {"role": "user", "content": [{"type": "text", "text": "Add Authentication."}]},
        {"role": "assistant", "content": null, "tool_calls": [call("a"), call("b")]},
        {"role": "tool", "tool_call_id": "a", "content": "add tests"},
        {"role": "tool", "tool_call_id": "b", "content": [{"type": "text", "text": "done"}]},
    ]);
    let item = |kind: &str, id: &str| json!({"type": kind, "call_id": id, "name": "Bash", "arguments": "{}", "output": "add tests"});
    let responses = json!([
        {"role": "user", "content": [{"type": "input_text", "text": "Add Authentication."}]},
        {"type": "reasoning", "encrypted_content": "x"},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "I look first."}]},
        item("function_call", "a"), item("function_call", "b"), item("function_call_output", "a"), item("function_call_output", "b"),
    ]);
    for (protocol, body) in [
        (Protocol::Chat, json!({"model": "gpt-4o", "messages": chat, "max_tokens": 100})),
        (Protocol::Responses, json!({"model": "gpt-4o", "input": responses, "instructions": "You add tests."})),
    ] {
        let (second, text) = play_as(protocol, body).await;
        let names: Vec<String> = second.tools().into_iter().map(|(_, name)| name).collect();
        assert_eq!((names, second.stop_reason()), (vec!["Write".into(), "Write".into()], Some("tool_use")), "{protocol:?}");
        assert_eq!(second.content()[0]["input"], json!({"file_path": "/a", "content": "héllo\n"}));
        let metered = second.metered(0, 0, Caching::Never);
        assert_eq!((metered.estimated, metered.usage.total_input(), metered.usage.cache_read), (false, 1203, 1000), "{protocol:?}");
        assert_eq!(metered.usage.output, 77);
        let passed = Filter::default().push(text.as_bytes());
        assert_eq!(passed.len() < text.len(), protocol == Protocol::Chat, "only chat completions have a usage chunk");
    }
    let (last, _) = play_as(Protocol::Chat, json!({"model": "gpt-4o", "messages": [{"role": "user", "content": "add tests"}]})).await;
    assert_eq!((last.content()[0]["text"].as_str(), last.stop_reason()), (Some("Tests are in."), Some("end_turn")));
}

#[test]
fn a_wrong_file_says_where() {
    assert!(parse("conversations: []").unwrap_err().contains("at least one"));
    assert!(parse("conversations: [{match: a, turns: [{}]}]").unwrap_err().contains("conversations[0].turns[0]"));
    assert!(parse("conversations: [{match: a, turns: [], wait: 1}]").unwrap_err().contains("wait"));
}

#[test]
fn a_file_is_read_again_when_it_changes() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.yaml");
    std::fs::write(&path, TEXT).unwrap();
    let replays = Replays::new(Clock::system());
    let load = || replays.load(path.to_str().unwrap());
    let first = load().unwrap();
    assert!(Arc::ptr_eq(&first, &load().unwrap()));
    std::fs::write(&path, TEXT.replace("Tests are in.", "More tests.")).unwrap();
    let later = std::fs::metadata(&path).unwrap().modified().unwrap() + Duration::from_secs(1);
    std::fs::File::options().write(true).open(&path).unwrap().set_modified(later).unwrap();
    assert_ne!(load().unwrap(), first);
}
