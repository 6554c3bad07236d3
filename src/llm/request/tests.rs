use super::*;
use serde_json::json;

fn parse(protocol: Protocol, body: &Value) -> Result<Request, Refused> {
    Request::parse(protocol, Bytes::from(body.to_string()), false)
}

fn sent(request: &Request) -> Value {
    serde_json::from_slice(&request.bytes()).unwrap()
}

fn chat(more: Value) -> Value {
    let mut body = json!({"model": "gpt-4o", "messages": [{"role": "user", "content": "go"}]});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

fn responses(more: Value) -> Value {
    let mut body = json!({"model": "gpt-5", "input": "go", "store": false, "max_output_tokens": 100});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

#[test]
fn a_body_that_needs_no_change_goes_on_byte_by_byte() {
    for (protocol, text) in [
        (Protocol::Chat, r#"{ "model":"gpt-4o",  "messages":[], "max_tokens": 9 }"#),
        (Protocol::Chat, r#"{ "model":"m", "messages":[], "max_tokens": 9, "stream":true, "stream_options" : {"include_usage":true}}"#),
        (Protocol::Responses, r#"{ "model":"gpt-5", "input":[], "store" : false, "max_output_tokens": 9 }"#),
        (Protocol::Messages, r#"{ "model":"claude-opus-4-8", "messages":[], "max_tokens": 9 }"#),
    ] {
        let mut request = Request::parse(protocol, Bytes::from(text), false).unwrap();
        request.bound_output("max_tokens");
        request.clamp(10);
        assert_eq!(request.bytes(), text);
        assert!(!request.hides_usage());
        request.clamp(5);
        let field = if protocol == Protocol::Responses { "max_output_tokens" } else { "max_tokens" };
        assert_eq!((&sent(&request)[field], request.max_tokens), (&json!(5), 5));
    }
}

#[test]
fn the_usage_of_a_stream_is_asked_for() {
    for options in [json!({}), json!({"stream_options": null}), json!({"stream_options": {"include_usage": false, "x": 1}})] {
        let mut body = chat(options);
        assert!(!parse(Protocol::Chat, &body).unwrap().hides_usage(), "an answer in one piece has it anyway");
        body["stream"] = true.into();
        let request = parse(Protocol::Chat, &body).unwrap();
        assert!(request.hides_usage());
        let sent = sent(&request);
        assert_eq!((&sent["stream_options"]["include_usage"], &sent["stream_options"]["x"]), (&json!(true), &body["stream_options"]["x"]));
    }
}

#[test]
fn the_output_is_always_bounded() {
    for (more, field, bound) in [
        (json!({}), "max_tokens", 16_000),
        (json!({"max_completion_tokens": null, "max_tokens": 7}), "max_tokens", 7),
        (json!({"max_completion_tokens": 8, "max_tokens": 7}), "max_tokens", 8),
    ] {
        let mut request = parse(Protocol::Chat, &chat(more)).unwrap();
        request.bound_output("max_tokens");
        let sent = sent(&request);
        assert_eq!((request.max_tokens, &sent[field]), (bound, &json!(bound)));
        let both = sent["max_tokens"].is_u64() && sent["max_completion_tokens"].is_u64();
        assert!(!both, "OpenAI refuses both: {sent}");
    }
    let request = parse(Protocol::Responses, &json!({"model": "gpt-5", "input": "go"})).unwrap();
    assert_eq!((&sent(&request)["max_output_tokens"], &sent(&request)["store"]), (&json!(16_000), &json!(false)));
    for bad in [json!(0), json!(-1), json!("7"), json!(1.5)] {
        assert!(parse(Protocol::Chat, &chat(json!({"max_tokens": bad}))).unwrap_err().0.contains("max_tokens: a whole number"));
    }
}

#[test]
fn what_makes_the_provider_fetch_keep_or_charge_otherwise_is_refused() {
    let part = |part: Value| json!({"messages": [{"role": "user", "content": [part]}]});
    for (more, words) in [
        (json!({"n": 2}), "`n` above 1"),
        (json!({"web_search_options": {}}), "`web_search_options` is not allowed"),
        (json!({"prediction": {"type": "content"}}), "`prediction`"),
        (json!({"service_tier": "priority"}), "`service_tier`"),
        (part(json!({"type": "image_url", "image_url": {"url": "https://x/y.png"}})), "by URL or file id"),
        (part(json!({"type": "file", "file": {"file_data": "data:application/pdf;base64,AAAA"}})), "files are not allowed"),
        (part(json!({"type": "input_audio", "input_audio": {}})), "audio is not allowed"),
        (json!({"messages": "x"}), "messages: Field required"),
    ] {
        let refused = parse(Protocol::Chat, &chat(more.clone())).unwrap_err();
        assert!(refused.0.contains(words), "{more}: {refused}");
    }
    let item = |item: Value| json!({"input": [item]});
    for (more, words) in [
        (json!({"previous_response_id": "r"}), "`previous_response_id`"),
        (json!({"conversation": {"id": "c"}}), "`conversation`"),
        (json!({"prompt": {"id": "p"}}), "`prompt`"),
        (json!({"background": true}), "`background`"),
        (item(json!({"type": "item_reference", "id": "i"})), "by its id"),
        (item(json!({"role": "user", "content": [{"type": "input_image", "file_id": "f"}]})), "by URL or file id"),
        (item(json!({"role": "user", "content": [{"type": "input_file", "file_url": "https://x"}]})), "files are not allowed"),
        (json!({"input": 7}), "input: a text or a list"),
    ] {
        let refused = parse(Protocol::Responses, &responses(more.clone())).unwrap_err();
        assert!(refused.0.contains(words), "{more}: {refused}");
    }
    let harmless = json!({"n": 1, "service_tier": "auto", "store": false, "prediction": null});
    assert!(parse(Protocol::Chat, &chat(harmless)).is_ok());
    assert!(sent(&parse(Protocol::Chat, &chat(json!({"store": true}))).unwrap()).get("store").is_none());
}

#[test]
fn tools_that_the_provider_runs_are_taken_out() {
    let own = json!({"type": "function", "name": "f"});
    let body = responses(
        json!({"tools": [{"type": "web_search"}, own, {"type": "code_interpreter", "container": {}}], "tool_choice": {"type": "web_search"}}),
    );
    let request = parse(Protocol::Responses, &body).unwrap();
    assert_eq!((&sent(&request)["tools"], sent(&request).get("tool_choice"), request.has_tools()), (&json!([own]), None, true));
    let chosen = json!({"type": "function", "name": "f"});
    let body = responses(json!({"tools": [{"type": "mcp", "server_url": "https://x"}, own], "tool_choice": chosen}));
    assert_eq!(sent(&parse(Protocol::Responses, &body).unwrap())["tool_choice"], chosen);
    let body = json!({"model": "claude-opus-4-8", "max_tokens": 9, "messages": [], "tools": [{"type": "web_search_20250305", "name": "web_search"}, {"name": "Bash"}],
        "tool_choice": {"type": "any"}});
    let sent = sent(&parse(Protocol::Messages, &body).unwrap());
    assert_eq!((&sent["tools"], &sent["tool_choice"]), (&json!([{"name": "Bash"}]), &json!({"type": "any"})));
}

#[test]
fn an_image_counts_by_its_own_measure() {
    let url = format!("data:image/png;base64,{}", "A".repeat(400_000));
    let body = chat(json!({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]}]}));
    let bound = parse(Protocol::Chat, &body).unwrap().input_bound();
    assert!((50_000..52_000).contains(&bound), "{bound}");
}

#[test]
fn a_repeat_is_known_by_its_body_and_its_protocol() {
    let body = json!({"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "go"}]});
    let hash = |protocol, body: &Value| parse(protocol, body).unwrap().hash();
    assert_eq!(hash(Protocol::Chat, &body), hash(Protocol::Chat, &body));
    assert_ne!(hash(Protocol::Chat, &body), hash(Protocol::Messages, &body), "their answers differ");
    let mut streamed = body.clone();
    streamed["stream"] = true.into();
    assert_eq!(hash(Protocol::Messages, &streamed), hash(Protocol::Messages, &body), "Claude Code repeats a broken stream without it");
}

#[test]
fn a_document_is_as_much_as_a_model_takes() {
    let block = |media: &str| json!({"type": "document", "source": {"type": "base64", "media_type": media, "data": "JVBERi0="}});
    let body = |media| json!({"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": [{"type": "tool_result", "content": [block(media)]}]}]});
    for media in ["application/pdf", "audio/wav"] {
        let request = parse(Protocol::Messages, &body(media)).unwrap();
        assert!(request.input_bound() >= CONTEXT_TOKENS, "{media}");
        assert!(request.pieces().beyond(&Pieces::default()) >= CONTEXT_TOKENS, "{media}");
    }
    assert!(parse(Protocol::Messages, &body("image/png")).unwrap().input_bound() < 10_000);
}

#[test]
fn what_another_model_would_do_is_taken_out_or_refused() {
    let body = |more: Value| {
        let mut body = json!({"model": "claude-haiku-4-5", "max_tokens": 9, "messages": []});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        parse(Protocol::Messages, &body)
    };
    let advisor = json!({"type": "advisor_20260301", "name": "advisor", "model": "claude-opus-4-8"});
    let asked = sent(
        &body(json!({"tools": [advisor, {"name": "Bash"}, {"type": "bash_20250124", "name": "bash"}, {"type": 7}], "novel": 1})).unwrap(),
    );
    assert_eq!(asked["tools"], json!([{"name": "Bash"}, {"type": "bash_20250124", "name": "bash"}]));
    assert!(asked.get("novel").is_none(), "what an unknown field costs is not known");
    assert!(body(json!({"fallbacks": [{"model": "claude-opus-4-8"}]})).unwrap_err().0.contains("`fallbacks`"));
    let upload = json!({"messages": [{"role": "user", "content": [{"type": "container_upload", "file_id": "f"}]}]});
    assert!(body(upload).unwrap_err().0.contains("file id"));
    let edits =
        json!({"context_management": {"edits": [{"type": "compact_20260112"}, {"type": "clear_thinking_20251015", "keep": "all"}]}});
    let request = body(edits).unwrap();
    assert_eq!(sent(&request)["context_management"], json!({"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]}));
    assert!(
        !request.is_edited() && body(json!({"context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]}})).unwrap().is_edited()
    );
    assert!(sent(&body(json!({"context_management": 7})).unwrap()).get("context_management").is_none());
}

#[test]
fn content_that_a_server_may_fetch_or_charge_otherwise_is_refused() {
    let part = |part: Value| parse(Protocol::Chat, &chat(json!({"messages": [{"role": "user", "content": [part]}]})));
    for kind in ["video_url", "document_url", "audio_url", "novel"] {
        let refused = part(json!({"type": kind, (kind): {"url": "https://evil.example/?d=SECRET"}})).unwrap_err();
        assert!(refused.0.contains(kind), "{refused}");
    }
    for harmless in [json!({"type": "text", "text": "a"}), json!({"text": "a"}), json!({"type": "refusal", "refusal": "no"})] {
        assert!(part(harmless.clone()).is_ok(), "{harmless}");
    }
    let shot = |url: &str| {
        let output = json!({"type": "computer_screenshot", "image_url": url});
        parse(Protocol::Responses, &responses(json!({"input": [{"type": "computer_call_output", "call_id": "c", "output": output}]})))
    };
    assert!(shot("https://evil.example/x.png").unwrap_err().0.contains("by URL"));
    assert!(shot("data:image/png;base64,AAAA").unwrap().input_bound() > 50_000);
    assert!(parse(Protocol::Chat, &chat(json!({"model": "openai/gpt-4o:online"}))).unwrap_err().0.contains("search the web"));
    assert!(parse(Protocol::Chat, &chat(json!({"model": "qwen3:32b"}))).is_ok());
    for n in [json!(2), json!(8.0), json!("8"), json!(1.0), json!(0)] {
        assert!(parse(Protocol::Chat, &chat(json!({"n": n}))).unwrap_err().0.contains("`n` above 1"), "{n}");
    }
}

#[test]
fn the_output_is_bounded_where_the_server_looks() {
    for (field, other) in [("max_tokens", "max_completion_tokens"), ("max_completion_tokens", "max_tokens")] {
        let mut request = parse(Protocol::Chat, &chat(json!({(other): 7}))).unwrap();
        request.bound_output(field);
        assert_eq!((&sent(&request)[field], sent(&request).get(other)), (&json!(7), None));
    }
}

#[test]
fn a_body_of_too_many_values_is_not_even_read() {
    let body = |count: usize| format!(r#"{{"model":"m","max_tokens":9,"messages":[0{}]}}"#, ",0".repeat(count));
    assert!(Request::parse(Protocol::Messages, Bytes::from(body(MOST_VALUES)), false).unwrap_err().0.contains("values"));
    // What stands in a text is none.
    let text = json!({"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": ",[{\"".repeat(MOST_VALUES)}]});
    assert!(parse(Protocol::Messages, &text).is_ok());
}

#[test]
fn only_what_the_last_call_had_counts_as_it_was_measured() {
    let image = || json!({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "A".repeat(1_300_000)}});
    let body = |content: Value, more: Value| {
        let mut body = json!({"model": "m", "max_tokens": 9, "system": [{"type": "text", "text": "s".repeat(50_000)}], "tools": [{"name": "Bash"}],
            "messages": [{"role": "user", "content": content}]});
        body["messages"].as_array_mut().unwrap().extend(more.as_array().unwrap().clone());
        parse(Protocol::Messages, &body).unwrap().pieces()
    };
    let first = body(json!([{"type": "text", "text": "go"}, image()]), json!([]));
    // A text as large as the image was is all new.
    let swapped = body(json!([{"type": "text", "text": "x".repeat(1_300_000)}]), json!([]));
    assert!(swapped.beyond(&first) >= 1_300_000);
    // What is left out makes no room, what moves or is marked for the cache is the same.
    let marked = json!({"type": "text", "text": "go", "cache_control": {"type": "ephemeral"}});
    assert_eq!(body(json!([marked]), json!([])).beyond(&first), 0);
    assert_eq!(body(json!([image(), {"type": "text", "text": "go"}]), json!([])).beyond(&first), 0);
    // What is there twice is new once.
    let twice = body(json!([{"type": "text", "text": "go"}, image(), image()]), json!([])).beyond(&first);
    assert!((messages::IMAGE_TOKENS..messages::IMAGE_TOKENS + 500).contains(&twice), "{twice}");
    // The turn that was added, and its structure.
    let added = body(
        json!([{"type": "text", "text": "go"}, image()]),
        json!([{"role": "assistant", "content": [{"type": "text", "text": "y".repeat(100)}]}]),
    );
    let added = added.beyond(&first);
    assert!((100..300).contains(&added), "{added}");
    // A tool that may be loaded later is not in what was measured.
    let deferred = json!({"name": "Later", "defer_loading": true, "description": "d".repeat(40_000)});
    let mut with_tool = json!({"model": "m", "max_tokens": 9, "messages": [], "tools": [{"name": "Bash"}, deferred]});
    let once = parse(Protocol::Messages, &with_tool).unwrap().pieces();
    assert!(once.beyond(&once) >= 40_000);
    with_tool["tools"][1]["defer_loading"] = false.into();
    let once = parse(Protocol::Messages, &with_tool).unwrap().pieces();
    assert_eq!(once.beyond(&once), 0);
    // What a user said is not what the assistant said.
    let said = body(json!([]), json!([{"role": "assistant", "content": [{"type": "text", "text": "go"}]}]));
    assert!(said.beyond(&first) > 0);
}
