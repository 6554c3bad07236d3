use super::*;
use crate::llm::{Protocol, sse::encode};

fn stream() -> String {
    let usage = json!({"input_tokens": 10, "cache_creation_input_tokens": 20, "cache_read_input_tokens": 30, "output_tokens": 1,
        "cache_creation": {"ephemeral_5m_input_tokens": 15, "ephemeral_1h_input_tokens": 5}});
    [
        json!({"type": "message_start", "message": {"id": "msg_1", "type": "message", "role": "assistant", "content": [], "usage": usage}}),
        json!({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}),
        json!({"type": "ping"}),
        json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hel"}}),
        json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "lo"}}),
        json!({"type": "content_block_stop", "index": 0}),
        json!({"type": "content_block_start", "index": 1, "content_block": {"type": "tool_use", "id": "t1", "name": "Bash", "input": {}}}),
        json!({"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": "{\"command\":"}}),
        json!({"type": "content_block_delta", "index": 1, "delta": {"type": "input_json_delta", "partial_json": "\"ls\"}"}}),
        json!({"type": "content_block_stop", "index": 1}),
        json!({"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 40}}),
        json!({"type": "message_delta", "delta": {"stop_reason": "tool_use"}, "usage": {"output_tokens": 55}}),
        json!({"type": "message_stop"}),
    ]
    .iter()
    .map(|event| encode(event["type"].as_str().unwrap(), event))
    .collect()
}

#[test]
fn a_whole_stream_is_metered_as_reported_and_assembled() {
    let mut meter = Meter::new(Protocol::Messages);
    meter.stream(stream().as_bytes());
    let usage = Usage { input: 10, cache_write: 15, cache_write_long: 5, cache_read: 30, output: 55, web_searches: 0 };
    assert_eq!(meter.metered(9, 9, Caching::Never), Metered { usage, estimated: false, assumed_input: false });
    assert!(meter.is_complete());
    assert_eq!(meter.tools(), [("t1".to_owned(), "Bash".to_owned())]);
    let message = meter.message();
    let expected = json!([{"type": "text", "text": "Hello"}, {"type": "tool_use", "id": "t1", "name": "Bash", "input": {"command": "ls"}}]);
    assert_eq!(
        (&message["content"], &message["stop_reason"], &message["usage"]["output_tokens"]),
        (&expected, &json!("tool_use"), &json!(55))
    );
    // The same answer in one piece is metered alike.
    let mut whole = Meter::new(Protocol::Messages);
    whole.whole(message.to_string().as_bytes());
    assert_eq!(whole.metered(9, 9, Caching::Never), Metered { usage, estimated: false, assumed_input: false });
}

#[test]
fn a_stream_cut_anywhere_is_never_metered_below_what_was_seen() {
    let text = stream();
    for cut in 0..text.len() {
        let mut meter = Meter::new(Protocol::Messages);
        meter.stream(&text.as_bytes()[..cut]);
        let metered = meter.metered(500, 700, Caching::Short);
        let seen = &text[..cut];
        let complete = |part: &str| seen.find(part).is_some_and(|at| seen[at..].contains("\n\n"));
        if complete("message_delta\n") {
            assert!(!metered.estimated && metered.usage.output >= 40, "cut at {cut}");
        } else {
            assert!(metered.estimated, "cut at {cut}");
            assert!(metered.usage.output > 0, "cut at {cut}: never nothing");
        }
        if complete("message_start\n") {
            assert_eq!(metered.usage.total_input(), 60);
            assert!(metered.usage.output <= 55.max("Hello{\"command\":\"ls\"}".len() as u64));
        } else {
            assert_eq!((metered.usage.cache_write, metered.usage.output), (500, 700), "nothing seen: the worst case");
        }
    }
}

#[test]
fn usage_that_makes_no_sense_is_no_evidence() {
    for (bad, output) in [
        (json!(-5), 5),
        (json!("many"), 5),
        (json!(1e18), 5),
        (json!(null), 5),
        (json!([1]), 5),
        (json!(0), 5),
        (json!({}), 5),
        (json!(18_446_744_073_709_551_615_u64), 5),
    ] {
        let mut meter = Meter::new(Protocol::Messages);
        let events = [
            json!({"type": "message_start", "message": {"id": "m", "usage": {"input_tokens": bad, "output_tokens": bad}}}),
            json!({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}),
            json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hello"}}),
            json!({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": bad}}),
        ];
        events.iter().for_each(|event| meter.stream(encode("e", event).as_bytes()));
        let metered = meter.metered(321, 700, Caching::Never);
        assert_eq!((metered.estimated, metered.usage.input, metered.usage.output), (true, 321, output), "{bad}");
    }
}

#[test]
fn an_error_event_is_kept_with_what_came_before_it() {
    let mut meter = Meter::new(Protocol::Messages);
    meter.stream(&stream().as_bytes()[..400]);
    meter.stream(b"\n\nevent: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"Overloaded\"}}\n\n");
    assert_eq!((meter.error(), meter.is_complete()), (Some("Overloaded"), false));
}

/// A stream of chat completions as a server sends it: two calls whose parts are mixed, and the usage in a chunk of its own.
fn chunks() -> String {
    let chunk = |delta: Value, reason: Value| json!({"id": "c", "model": "m", "choices": [{"index": 0, "delta": delta, "finish_reason": reason}], "usage": null});
    let call = |index: u64, more: Value| {
        let mut call = json!({"index": index});
        call.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        chunk(json!({"tool_calls": [call]}), Value::Null)
    };
    let events = [
        chunk(json!({"role": "assistant", "content": ""}), Value::Null),
        chunk(json!({"reasoning_content": "Hm", "reasoning": "Hm"}), Value::Null),
        chunk(json!({"content": "I "}), Value::Null),
        chunk(json!({"content": "look"}), Value::Null),
        call(0, json!({"id": "a", "type": "function", "function": {"name": "read_file", "arguments": ""}})),
        call(1, json!({"id": "b", "type": "function", "function": {"name": "edit", "arguments": "{\"x\":"}})),
        call(0, json!({"function": {"arguments": "{}"}})),
        call(1, json!({"function": {"arguments": "1}"}})),
        chunk(json!({}), json!("tool_calls")),
        json!({"choices": [], "usage": {"prompt_tokens": 100, "completion_tokens": 50, "prompt_tokens_details": {"cached_tokens": 40}}}),
    ];
    events.iter().map(|event| format!("data: {event}\n\n")).collect::<String>() + "data: [DONE]\n\n"
}

#[test]
fn chunks_of_a_chat_completion_are_assembled_and_metered() {
    let mut meter = Meter::new(Protocol::Chat);
    meter.stream(chunks().as_bytes());
    let usage = Usage { input: 60, cache_read: 40, output: 50, ..Usage::default() };
    assert_eq!(meter.metered(9, 9, Caching::Never), Metered { usage, estimated: false, assumed_input: false });
    assert_eq!((meter.is_complete(), meter.stop_reason()), (true, Some("tool_use")));
    let expected = json!([
        {"type": "thinking", "thinking": "Hm"},
        {"type": "text", "text": "I look"},
        {"type": "tool_use", "id": "a", "name": "read_file", "input": {}},
        {"type": "tool_use", "id": "b", "name": "edit", "input": {"x": 1}},
    ]);
    assert_eq!(Value::from(meter.content()), expected);
    let message = meter.message();
    assert_eq!(message["choices"][0]["message"]["tool_calls"][1]["function"], json!({"name": "edit", "arguments": "{\"x\":1}"}));
    assert_eq!((&message["choices"][0]["finish_reason"], &message["usage"]["prompt_tokens"]), (&json!("tool_calls"), &json!(100)));
}

#[test]
fn a_chat_completion_cut_anywhere_is_never_metered_as_nothing() {
    let text = chunks();
    for cut in 0..text.len() {
        let mut meter = Meter::new(Protocol::Chat);
        meter.stream(&text.as_bytes()[..cut]);
        let metered = meter.metered(500, 700, Caching::Never);
        let told = text[..cut].find("\"prompt_tokens\"").is_some_and(|at| text[at..cut].contains("\n\n"));
        assert_eq!(metered.estimated, !told, "cut at {cut}");
        assert_eq!(metered.usage.total_input(), if told { 100 } else { 500 });
        let finished = meter.is_complete();
        let output = match (told, finished) {
            (true, _) => 50,
            (false, true) => "HmI look{}{\"x\":1}".len() as u64,
            (false, false) => 700,
        };
        assert_eq!(metered.usage.output, output, "cut at {cut}");
        assert_eq!(finished, text[..cut].find("\"finish_reason\":\"tool_calls\"").is_some_and(|at| text[at..cut].contains("\n\n")));
    }
}

#[test]
fn a_server_that_says_stop_when_it_calls_or_breaks_off_is_understood() {
    let end = |reason: &str, message: Value| {
        let mut meter = Meter::new(Protocol::Chat);
        meter.whole(json!({"choices": [{"message": message, "finish_reason": reason}]}).to_string().as_bytes());
        meter.stop_reason().unwrap().to_owned()
    };
    let call = json!({"tool_calls": [{"id": "a", "function": {"name": "edit", "arguments": "{}"}}]});
    assert_eq!(end("stop", call), "tool_use");
    assert_eq!(end("stop", json!({"content": "Done."})), "end_turn");
    assert_eq!(end("length", json!({"content": "Do"})), "max_tokens");
    let mut meter = Meter::new(Protocol::Chat);
    meter.stream(b"data: {\"error\":{\"message\":\"overloaded\",\"code\":503}}\n\n");
    assert_eq!((meter.error(), meter.is_complete()), (Some("overloaded"), false));
    let mut meter = Meter::new(Protocol::Responses);
    let failed =
        json!({"type": "response.failed", "response": {"id": "r", "status": "failed", "error": {"message": "no capacity"}, "output": []}});
    meter.stream(encode("response.failed", &failed).as_bytes());
    assert_eq!((meter.error(), meter.is_complete()), (Some("no capacity"), false));
    let cut = json!({"id": "r", "status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}, "output": []});
    let mut meter = Meter::new(Protocol::Responses);
    meter.whole(cut.to_string().as_bytes());
    assert_eq!((meter.stop_reason(), meter.is_complete()), (Some("max_tokens"), true));
}

#[test]
fn what_is_no_answer_is_read_without_harm() {
    let kinds = [
        "message_start",
        "content_block_start",
        "content_block_delta",
        "content_block_stop",
        "message_delta",
        "error",
        "response.created",
        "response.output_item.added",
        "response.output_item.done",
        "response.output_text.delta",
        "response.completed",
    ];
    let values = [json!(7), json!(null), json!("x"), json!([]), json!([7]), json!({}), json!([{}]), json!([[]])];
    let fields = ["message", "content_block", "delta", "usage", "error", "choices", "response", "item", "output_index"];
    for protocol in Protocol::ALL {
        let mut meter = Meter::new(protocol);
        for value in &values {
            let mut events = vec![
                value.clone(),
                json!({"choices": [{"delta": value, "finish_reason": value}]}),
                json!({"choices": [{"delta": {"tool_calls": value}}]}),
            ];
            for (kind, field) in kinds.iter().flat_map(|kind| fields.map(|field| (kind, field))) {
                events.push(json!({"type": kind, (field): value}));
                events.push(json!({"type": kind, (field): {"output": value, "usage": value, "text": "t", "type": "text"}}));
            }
            for event in events {
                meter.stream(format!("data: {event}\n\n").as_bytes());
                Meter::new(protocol).whole(event.to_string().as_bytes());
            }
        }
        assert!(meter.metered(500, 700, Caching::Never).usage.total_input() > 0);
        assert!(meter.message().is_object());
    }
}

#[test]
fn what_is_thought_unseen_is_charged_at_its_bound_when_it_is_cut() {
    let start = json!({"type": "message_start", "message": {"id": "m", "usage": {"input_tokens": 10, "output_tokens": 1}}});
    let block = |kind: &str| json!({"type": "content_block_start", "index": 0, "content_block": {"type": kind}});
    let output = |thinks: bool, events: &[Value]| {
        let mut meter = Meter::new(Protocol::Messages).of_one_that_thinks(thinks);
        events.iter().for_each(|event| meter.stream(encode("e", event).as_bytes()));
        meter.metered(9, 700, Caching::Never).usage.output
    };
    let text = json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hello"}});
    assert_eq!(output(false, &[start.clone(), block("text"), text.clone()]), 5);
    assert_eq!(output(true, &[start.clone(), block("text"), text]), 700, "it may have thought before");
    for kind in ["thinking", "redacted_thinking"] {
        let signature = json!({"type": "content_block_delta", "index": 0, "delta": {"type": "signature_delta", "signature": "s"}});
        assert_eq!(output(false, &[start.clone(), block(kind), signature]), 700, "{kind}");
    }
    let end = json!({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 44}});
    assert_eq!(output(true, &[start.clone(), end]), 44, "what is reported holds");
    // A model writes no faster than it can.
    let within = |took: u64, events: &[Value]| {
        let mut meter = Meter::new(Protocol::Messages).of_one_that_thinks(true);
        events.iter().for_each(|event| meter.stream(encode("e", event).as_bytes()));
        meter.ran_for(Duration::from_millis(took));
        meter.metered(9, 64_000, Caching::Never).usage.output
    };
    assert_eq!(within(1500, std::slice::from_ref(&start)), 12_000);
    assert_eq!(within(600_000, &[start]), 64_000, "and no more than it was asked for");
    assert_eq!(within(0, &[]), 64_000, "of what gave no sign nothing is known");
}

#[test]
fn each_pass_over_the_input_is_charged() {
    let usage = json!({"input_tokens": 23_000, "output_tokens": 1000, "iterations": [
        {"type": "compaction", "input_tokens": 180_000, "output_tokens": 3500},
        {"type": "message", "input_tokens": 23_000, "output_tokens": 1000, "cache_read_input_tokens": 7},
    ]});
    let expected = Usage { input: 203_000, output: 4500, cache_read: 7, ..Usage::default() };
    let message = json!({"id": "m", "content": [], "stop_reason": "end_turn", "usage": usage, "context_management": {"applied_edits": [
        {"type": "clear_tool_uses_20250919", "cleared_input_tokens": 500}, {"cleared_input_tokens": 20}, {}]}});
    let mut whole = Meter::new(Protocol::Messages);
    whole.whole(message.to_string().as_bytes());
    assert_eq!((whole.metered(9, 9, Caching::Never).usage, whole.cleared()), (expected, Some(520)));
    let mut streamed = Meter::new(Protocol::Messages);
    let start = json!({"type": "message_start", "message": {"id": "m", "usage": {"input_tokens": 23_000, "output_tokens": 1}}});
    let delta =
        json!({"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": usage, "context_management": {"applied_edits": []}});
    [start, delta].iter().for_each(|event| streamed.stream(encode("e", event).as_bytes()));
    assert_eq!((streamed.metered(9, 9, Caching::Never).usage, streamed.cleared()), (expected, Some(0)));
    assert_eq!(Meter::new(Protocol::Messages).cleared(), None);
}
