use super::*;
use crate::llm::sse::encode;

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
    let mut meter = Meter::default();
    meter.stream(stream().as_bytes());
    let usage = Usage { input: 10, cache_write: 15, cache_write_long: 5, cache_read: 30, output: 55, web_searches: 0 };
    assert_eq!(meter.metered(9, 9, Caching::Never), Metered { usage, estimated: false });
    assert!(meter.is_complete());
    assert_eq!(meter.tools(), [("t1".to_owned(), "Bash".to_owned())]);
    let message = meter.message();
    let expected = json!([{"type": "text", "text": "Hello"}, {"type": "tool_use", "id": "t1", "name": "Bash", "input": {"command": "ls"}}]);
    assert_eq!(
        (&message["content"], &message["stop_reason"], &message["usage"]["output_tokens"]),
        (&expected, &json!("tool_use"), &json!(55))
    );
    // The same answer in one piece is metered alike.
    let mut whole = Meter::default();
    whole.whole(message.to_string().as_bytes());
    assert_eq!(whole.metered(9, 9, Caching::Never), Metered { usage, estimated: false });
}

#[test]
fn a_stream_cut_anywhere_is_never_metered_below_what_was_seen() {
    let text = stream();
    for cut in 0..text.len() {
        let mut meter = Meter::default();
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
        let mut meter = Meter::default();
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
    let mut meter = Meter::default();
    meter.stream(&stream().as_bytes()[..400]);
    meter.stream(b"\n\nevent: error\ndata: {\"type\":\"error\",\"error\":{\"type\":\"overloaded_error\",\"message\":\"Overloaded\"}}\n\n");
    assert_eq!((meter.error(), meter.is_complete()), (Some("Overloaded"), false));
}
