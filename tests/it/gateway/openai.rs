//! OpenAI-compatible calls: what passes, what is asked for besides, what it costs, and how refusals look to their agents.

use super::{
    upstream::{Received, Script},
    *,
};

/// gpt-4o: 2.5 in, 1.25 from the cache, 10 out, USD per million.
const COST: i64 = 60 * 2_500 + 40 * 1_250 + 20 * 10_000;

fn events(lines: &[Value]) -> Vec<u8> {
    let body: String = lines.iter().map(|line| format!("data: {line}\n\n")).collect();
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nx-request-id: req_9\r\nopenai-organization: org-secret\r\nconnection: close\r\n\r\n";
    format!("{head}{body}").into_bytes()
}

/// Answers as a server does that has been asked, or not, for the usage of its stream.
fn chat(received: &Received) -> Script {
    let chunk = |delta: Value, reason: Value| json!({"id": "c", "model": "gpt-4o", "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]});
    let usage = json!({"prompt_tokens": 100, "completion_tokens": 20, "prompt_tokens_details": {"cached_tokens": 40}});
    if received.body["stream"] != true {
        let message = json!({"role": "assistant", "content": "Hello."});
        let body =
            json!({"id": "c", "model": "gpt-4o", "choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": usage});
        return Script::status(200, "", &body.to_string());
    }
    let mut lines = vec![
        chunk(json!({"role": "assistant", "content": ""}), Value::Null),
        chunk(json!({"content": "Hello."}), Value::Null),
        chunk(json!({}), json!("stop")),
    ];
    if received.body["stream_options"]["include_usage"] == true {
        lines.push(json!({"id": "c", "choices": [], "usage": usage}));
    }
    let mut bytes = events(&lines);
    bytes.extend(b"data: [DONE]\n\n");
    Script::Raw(bytes)
}

fn body(more: Value) -> Value {
    let mut body = json!({"model": "gpt-4o", "stream": true, "messages": [{"role": "user", "content": "hello"}]});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

impl Home {
    async fn ask(&self, path: &str, guest: &Guest, body: &Value) -> (u16, String) {
        let call = self.client.post(format!("http://{}{path}", self.gateway)).bearer_auth(&guest.token).json(body);
        let response = call.send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_usage_is_asked_for_and_kept_from_those_who_did_not_ask() {
    let upstream = Upstream::start(chat).await;
    let home = Home::start(&upstream).await;
    for (name, asked) in [("silent", false), ("asking", true)] {
        let guest = home.guest(name, |_| ()).await;
        let sent = body(if asked { json!({"stream_options": {"include_usage": true}, "max_tokens": 50}) } else { json!({}) });
        let call = home.client.post(format!("http://{}/v1/chat/completions", home.gateway)).bearer_auth(&guest.token).json(&sent);
        let response = call.send().await.unwrap();
        assert_eq!(response.headers()["x-request-id"], "req_9");
        assert!(!response.headers().contains_key("openai-organization"));
        let text = response.text().await.unwrap();
        assert_eq!(
            (text.contains("\"choices\":[]"), text.contains("Hello."), text.ends_with("data: [DONE]\n\n")),
            (asked, true, true),
            "{text}"
        );

        let received = upstream.received().pop().unwrap();
        assert_eq!(received.line, "POST /v1/chat/completions HTTP/1.1");
        assert_eq!(received.header("authorization"), Some(format!("Bearer {KEY}").as_str()));
        assert!(!format!("{received:?}").contains(&guest.token));
        assert_eq!(received.body["stream_options"]["include_usage"], true);
        assert_eq!(received.body["max_tokens"], if asked { 50 } else { 16_000 }, "its output is bounded");
        let usage = home.settled(&guest).await;
        assert_eq!((usage.money.0, usage.api_calls, usage.tokens_in, usage.tokens_out), (COST, 1, 100, 20));
        assert_eq!(home.until_last_call(&guest, CallState::Settled).await.stop_reason.as_deref(), Some("end_turn"));
        let entries =
            eventually("both messages are stored", async || Some(home.transcript(&guest).await).filter(|entries| entries.len() == 2)).await;
        assert_eq!(entries[1].content[0]["text"], "Hello.");
    }
    let guest = home.guest("whole", |_| ()).await;
    let (status, text) = home.ask("/v1/chat/completions", &guest, &body(json!({"stream": false}))).await;
    let answer: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((status, &answer["choices"][0]["message"]["content"]), (200, &json!("Hello.")));
    assert_eq!(home.settled(&guest).await.money.0, COST);
}

#[tokio::test(flavor = "multi_thread")]
async fn responses_pass_and_the_provider_keeps_nothing() {
    let upstream = Upstream::start(|_| {
        let item = json!({"type": "message", "id": "m", "role": "assistant", "content": [{"type": "output_text", "text": "Hello."}]});
        let usage = json!({"input_tokens": 100, "input_tokens_details": {"cached_tokens": 40}, "output_tokens": 20});
        let response = json!({"id": "r", "object": "response", "status": "completed", "output": [item], "usage": usage});
        Script::Raw(events(&[
            json!({"type": "response.created", "response": {"id": "r", "status": "in_progress", "output": []}}),
            json!({"type": "response.completed", "response": response}),
        ]))
    })
    .await;
    let home = Home::start(&upstream).await;
    let guest = home.guest("m", |_| ()).await;
    let (status, text) = home.ask("/v1/responses", &guest, &json!({"model": "gpt-4o", "input": "hello", "stream": true})).await;
    assert_eq!((status, text.contains("response.completed")), (200, true), "{text}");
    let received = upstream.received().remove(0);
    assert_eq!(
        (received.line.as_str(), &received.body["store"], &received.body["max_output_tokens"]),
        ("POST /v1/responses HTTP/1.1", &json!(false), &json!(16_000))
    );
    assert_eq!(home.settled(&guest).await.money.0, COST);
    assert_eq!(home.until_last_call(&guest, CallState::Settled).await.stop_reason.as_deref(), Some("end_turn"));
    let (status, text) =
        home.ask("/v1/responses", &guest, &json!({"model": "gpt-4o", "input": "hello", "previous_response_id": "r"})).await;
    assert_eq!((status, text.contains("`previous_response_id` is not allowed")), (400, true), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_has_the_shape_and_the_status_at_which_its_agents_stop() {
    let upstream = Upstream::start(|_| Script::status(401, "", "{}")).await;
    let home = Home::start(&upstream).await;
    let guest = home.guest("m", |_| ()).await;
    let poor = home.guest("poor", limit(1)).await;
    let stranger = Guest { machine: guest.machine.clone(), key: String::new(), token: format!("av_{}", "0".repeat(64)) };
    for (guest, body, expected, words) in [
        (&stranger, body(json!({})), 401, "this is not a token of a Machine"),
        (&poor, body(json!({})), 400, "autovibe: budget exhausted: money of Machine default/poor"),
        (&guest, body(json!({"model": "gpt-unheard-of"})), 400, "is not configured in Hub default"),
        (&guest, body(json!({"model": MODEL})), 400, "provider anthropic in Hub default, which does not speak chat completions"),
        (&guest, body(json!({"model": "gpt-4o-unheard-of"})), 400, "has no known price"),
        (&guest, body(json!({"n": 3})), 400, "`n` above 1"),
        // The provider refuses the hub's key: Aider would try 403 again and again.
        (&guest, body(json!({})), 400, "Put a valid one into its Secret"),
    ] {
        let (status, text) = home.ask("/v1/chat/completions", guest, &body).await;
        let error: Value = serde_json::from_str(&text).unwrap();
        let message = error["error"]["message"].as_str().unwrap();
        assert!(status == expected && message.contains(words), "{status} {text}");
        assert!(error["error"]["type"].is_string() && error["error"].get("param").is_some(), "{text}");
    }
    let (status, text) = home.call(&guest, &json!({"model": "gpt-4o", "max_tokens": 9, "messages": []})).await;
    assert_eq!((status, text.contains("which does not speak the Messages API")), (400, true), "{text}");
    home.shutdown.cancel();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_stream_settles_at_what_it_may_have_cost() {
    let upstream = Upstream::start(|received| {
        let Script::Raw(mut bytes) = chat(received) else { panic!("a stream") };
        bytes.truncate(bytes.windows(6).position(|w| w == b"Hello.").unwrap());
        // Announced longer than it is.
        let text = String::from_utf8(bytes).unwrap().replace("connection: close", "content-length: 100000\r\nconnection: close");
        Script::Raw(text.into_bytes())
    })
    .await;
    let home = Home::start(&upstream).await;
    let guest = home.guest("m", |_| ()).await;
    let call = home
        .client
        .post(format!("http://{}/v1/chat/completions", home.gateway))
        .bearer_auth(&guest.token)
        .json(&body(json!({"max_tokens": 50})));
    // In the head or in the body, as the bytes happened to leave.
    let broke = match call.send().await {
        Ok(response) => response.text().await.is_err(),
        Err(_) => true,
    };
    assert!(broke, "the client sees that it broke off");
    home.until_last_call(&guest, CallState::Cut).await;
    let usage = home.settled(&guest).await;
    assert_eq!(usage.tokens_out, 50, "what a model thinks is not shown, so all may have been used");
    assert!(usage.money.0 >= 50 * 10_000 && usage.tokens_in > 1000, "{usage:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_is_told_its_models() {
    let upstream = Upstream::start(|_| Script::HangUp).await;
    let home = Home::start(&upstream).await;
    let guest = home.guest("m", |spec| spec.agent.model = Some("gpt-4.1-mini".into())).await;
    let get = async |token: &str| home.client.get(format!("http://{}/v1/models", home.gateway)).bearer_auth(token).send().await.unwrap();
    assert_eq!(get("sk-other").await.status(), 401);
    let list: Value = get(&guest.token).await.json().await.unwrap();
    let models: Vec<(&str, &str)> =
        list["data"].as_array().unwrap().iter().map(|m| (m["id"].as_str().unwrap(), m["owned_by"].as_str().unwrap())).collect();
    assert_eq!(models, [("gpt-4.1-mini", "replay"), ("gpt-4o", "openai"), ("gpt-5", "anthropic"), ("qwen3-coder-plus", "replay")]);
}
