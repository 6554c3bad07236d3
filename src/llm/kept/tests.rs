//! What waits, what is passed on, and what stands in a call's place; through the meter, which reads it as an agent would.

use super::*;
use crate::llm::meter::Meter;

fn block(index: u64, id: &str, command: &str) -> Vec<String> {
    let block = json!({ "type": "tool_use", "id": id, "name": "Bash", "input": {} });
    let text = json!({ "command": command }).to_string();
    let (first, second) = text.split_at(text.len() / 2);
    let delta = |part: &str| json!({ "type": "content_block_delta", "index": index, "delta": { "type": "input_json_delta", "partial_json": part } });
    vec![
        encode("content_block_start", &json!({ "type": "content_block_start", "index": index, "content_block": block })),
        encode("content_block_delta", &delta(first)),
        encode("content_block_delta", &delta(second)),
        encode("content_block_stop", &json!({ "type": "content_block_stop", "index": index })),
    ]
}

fn chunk(call: Value, reason: Option<&str>) -> String {
    format!("data: {}\n\n", json!({ "choices": [{ "index": 0, "delta": { "tool_calls": [call] }, "finish_reason": reason }] }))
}

/// What is passed on, piece by piece of the stream, and the calls that are read of it.
fn pass(protocol: Protocol, stream: &str, inputs: &Inputs) -> (Vec<String>, Vec<Value>) {
    let (mut events, mut kept, mut meter) = (Events::default(), Kept::default(), Meter::new(protocol));
    let mut passed = Vec::new();
    // In any cut.
    for bytes in stream.as_bytes().chunks(7) {
        for event in events.push(bytes).unwrap() {
            meter.stream(&event);
            let out = kept.push(event, meter.is_calling(|_| true), protocol, inputs).unwrap();
            if !out.is_empty() {
                passed.push(String::from_utf8(out.to_vec()).unwrap());
            }
        }
    }
    assert!(kept.is_empty() && events.end().is_empty());
    let mut read = Meter::new(protocol);
    read.stream(passed.concat().as_bytes());
    let calls = read.calls().into_iter().map(|call| call["input"].clone()).collect();
    (passed, calls)
}

#[test]
fn a_call_is_passed_on_whole_or_with_another_input() {
    let stream = [block(0, "a", "ls"), block(1, "b", "git push"), block(2, "c", "pwd")].concat().concat();
    let (passed, calls) = pass(Protocol::Messages, &stream, &Inputs::new());
    assert_eq!((passed.len(), passed.concat()), (3, stream.clone()));
    assert_eq!(calls[1]["command"], "git push");
    let inputs = Inputs::from([("b".to_owned(), json!({ "command": "echo no" }))]);
    let (passed, calls) = pass(Protocol::Messages, &stream, &inputs);
    assert!(!passed.concat().contains("push"), "{passed:?}");
    assert_eq!(calls, [json!({"command": "ls"}), json!({"command": "echo no"}), json!({"command": "pwd"})]);
}

#[test]
fn calls_of_chat_completions_wait_for_the_end_of_all() {
    let call = |index: u64, id: &str, arguments: &str| json!({ "index": index, "id": id, "type": "function", "function": { "name": "sh", "arguments": arguments } });
    let more = |index: u64, arguments: &str| json!({ "index": index, "function": { "arguments": arguments } });
    let stream = [
        chunk(call(0, "a", ""), None),
        chunk(more(0, r#"{"command":"git "#), None),
        chunk(more(0, r#"push"}"#), None),
        chunk(call(1, "b", r#"{"command":"ls"}"#), None),
        format!("data: {}\n\n", json!({ "choices": [{ "index": 0, "delta": {}, "finish_reason": "tool_calls" }] })),
    ]
    .concat();
    let (passed, calls) = pass(Protocol::Chat, &stream, &Inputs::new());
    assert_eq!((passed.len(), passed.concat()), (1, stream.clone()));
    assert_eq!(calls[0]["command"], "git push");
    let inputs = Inputs::from([("a".to_owned(), json!({ "command": "echo no" }))]);
    let (passed, calls) = pass(Protocol::Chat, &stream, &inputs);
    assert!(!passed.concat().contains("push"), "{passed:?}");
    assert_eq!(calls, [json!({"command": "echo no"}), json!({"command": "ls"})]);
}

#[test]
fn an_answer_in_one_piece_is_changed_likewise() {
    let inputs = Inputs::from([("a".to_owned(), json!({ "command": "echo no" }))]);
    let message = json!({ "content": [{ "type": "tool_use", "id": "a", "input": { "command": "git push" } }] }).to_string();
    let changed = whole(message.as_bytes(), Protocol::Messages, &inputs).unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&changed).unwrap()["content"][0]["input"]["command"], "echo no");
    let completion =
        json!({ "choices": [{ "message": { "tool_calls": [{ "id": "a", "function": { "arguments": "{\"command\":\"git push\"}" } }] } }] });
    let changed = whole(completion.to_string().as_bytes(), Protocol::Chat, &inputs).unwrap();
    assert!(String::from_utf8(changed.to_vec()).unwrap().contains("echo no"));
    assert_eq!(whole(b"{}", Protocol::Responses, &inputs), Err(Unchangeable));
}

#[test]
fn a_stream_has_the_same_events_however_it_is_cut() {
    let stream = b"event: a\ndata: 1\n\ndata: 2\r\n\r\n: a comment\n\n\ndata: 3\n\r\ndata: 4".as_slice();
    let cut = |size: usize| {
        let mut events = Events::default();
        let all: Vec<Bytes> = stream.chunks(size).flat_map(|piece| events.push(piece).unwrap()).collect();
        (all, events.end())
    };
    let whole = cut(stream.len());
    assert_eq!((whole.0.len(), whole.1.as_ref()), (4, b"data: 4".as_slice()), "{whole:?}");
    for size in 1..stream.len() {
        assert_eq!(cut(size), whole, "in pieces of {size}");
    }
}

#[test]
fn an_event_without_an_end_is_not_kept_for_ever() {
    let mut events = Events::default();
    let piece = vec![b'x'; 8 << 10];
    let pushed = (0..=MAX_EVENT / piece.len()).map(|_| events.push(&piece)).find(Result::is_err);
    assert_eq!(pushed, Some(Err(TooLong)));
}

#[test]
fn a_call_whose_id_comes_late_is_changed_from_its_beginning() {
    let stream = [
        chunk(json!({ "index": 0, "function": { "name": "run", "arguments": "{\"command\":" } }), None),
        chunk(json!({ "index": 0, "id": "a", "function": { "arguments": "\"git push\"}" } }), None),
        chunk(json!({ "index": 0 }), Some("tool_calls")),
    ];
    let inputs: Inputs = [("a".to_owned(), json!({ "command": "echo no" }))].into();
    let (passed, _) = pass(Protocol::Chat, &stream.concat(), &inputs);
    let passed = passed.concat();
    assert!(!passed.contains("git push"), "{passed}");
    let mut meter = Meter::new(Protocol::Chat);
    meter.stream(passed.as_bytes());
    assert_eq!(meter.calls()[0]["input"], json!({ "command": "echo no" }));
}
