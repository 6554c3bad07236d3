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
        request.bound_output("max_completion_tokens");
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
        (json!({"max_completion_tokens": 8, "max_tokens": 7}), "max_completion_tokens", 8),
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
