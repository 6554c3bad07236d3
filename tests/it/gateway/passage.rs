//! What passes, what is taken out, what is refused, and where keys go.

use super::{upstream::Script, *};

#[tokio::test(flavor = "multi_thread")]
async fn a_call_passes_as_it_is_and_costs_what_the_provider_bills() {
    let upstream = Upstream::start(|_| Script::words(20)).await;
    let home = Home::start(&upstream).await;
    let guest = home.guest("m", |_| ()).await;
    let body = request("hello");
    let response = home
        .post("/v1/messages?beta=true", &guest, &body)
        .header("authorization", "Bearer somebody-elses-key")
        .header("anthropic-version", "2023-06-01")
        .header("anthropic-beta", "one-2025")
        .header("anthropic-beta", "two-2025")
        .header("cookie", "a=b")
        .header("x-forwarded-for", "10.0.0.1")
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), 200);
    let header = |name: &str| response.headers().get(name).map(|v| v.to_str().unwrap().to_owned());
    assert_eq!((header("connection"), header("request-id")), (Some("close".into()), Some("req_1".into())));
    assert_eq!(header("content-type").unwrap(), "text/event-stream");
    assert_eq!((header("anthropic-organization-id"), header("set-cookie")), (None, None));
    let sent: String = upstream::events(&body, 20, &[]).into_iter().map(|(text, _)| text).collect();
    assert_eq!(response.text().await.unwrap(), sent, "byte for byte");

    let received = upstream.received().remove(0);
    assert_eq!(received.line, "POST /v1/messages?beta=true HTTP/1.1");
    assert_eq!(received.body, body);
    assert_eq!((received.header("x-api-key"), received.header("authorization")), (Some(KEY), None));
    assert_eq!(received.header("anthropic-beta"), Some("one-2025,two-2025"));
    let all = format!("{received:?}");
    assert!(!all.contains(&guest.token) && !all.contains("somebody") && !all.contains("10.0.0.1") && !all.contains("cookie"), "{all}");

    let usage = home.settled(&guest).await;
    assert_eq!((usage.money.0, usage.api_calls, usage.tokens_in, usage.tokens_out), (upstream.bill(), 1, 100, 20));
    let call = home.until_last_call(&guest, CallState::Settled).await;
    assert_eq!((call.stop_reason.as_deref(), call.status), (Some("end_turn"), Some(200)));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_piece_answers_are_metered_alike() {
    let upstream = Upstream::start(|_| Script::words(33)).await;
    let home = Home::start(&upstream).await;
    let guest = home.guest("m", |_| ()).await;
    let mut body = request("hello");
    body["stream"] = json!(false);
    let (status, text) = home.call(&guest, &body).await;
    let message: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((status, message["stop_reason"].as_str()), (200, Some("end_turn")));
    assert_eq!(home.settled(&guest).await.money.0, upstream.bill());
}

#[tokio::test(flavor = "multi_thread")]
async fn only_a_live_machines_own_token_opens() {
    let upstream = Upstream::start(|_| Script::words(1)).await;
    let home = Home::start(&upstream).await;
    let (one, two) = (home.guest("one", |_| ()).await, home.guest("two", |_| ()).await);
    let url = format!("http://{}/v1/messages", home.gateway);
    let send = async |headers: &[(&str, &str)]| {
        let mut call = home.client.post(&url).json(&request("x"));
        for (name, value) in headers {
            call = call.header(*name, *value);
        }
        let response = call.send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    };
    let bearer = format!("Bearer {}", one.token);
    assert_eq!(send(&[("authorization", &bearer)]).await.0, 200);
    assert_eq!(send(&[("x-api-key", &one.token), ("authorization", &bearer)]).await.0, 200);
    let wrong = format!("av_{}", "0".repeat(64));
    let absent = send(&[]).await;
    assert_eq!(absent.0, 401);
    assert!(absent.1.contains("authentication_error"), "{}", absent.1);
    for headers in [[("x-api-key", wrong.as_str())], [("x-api-key", KEY)], [("authorization", &one.token)], [("x-api-key", "av_' OR 1=1")]]
    {
        assert_eq!(send(&headers).await, absent, "absent and wrong look alike: {headers:?}");
    }
    assert_eq!(send(&[("x-api-key", &two.token), ("authorization", &bearer)]).await.0, 401, "two Machines at once");

    let uid = one.machine.uid().to_owned();
    let revoked: Result<(), autovibe::store::Error> =
        home.objects.store().write(move |t| Box::pin(async move { t.revoke_tokens(&uid).await })).await;
    revoked.unwrap();
    assert_eq!(send(&[("x-api-key", &one.token)]).await, absent);

    let mut ended = home.objects.get::<Machine>("default", "two").await.unwrap().unwrap();
    ended.status.get_or_insert_default().phase = Phase::Succeeded;
    home.objects.update_status(&ended).await.unwrap();
    let (status, text) =
        eventually("the end is known", async || Some(send(&[("x-api-key", &two.token)]).await).filter(|(status, _)| *status != 200)).await;
    assert_eq!(status, 403);
    assert!(text.contains("Machine default/two has ended"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_else_is_served() {
    let upstream = Upstream::start(|_| Script::words(1)).await;
    let home = Home::start(&upstream).await;
    let guest = home.guest("m", |_| ()).await;
    for path in [
        "/",
        "/v1/files",
        "/v1/embeddings",
        "/v1/batches",
        "/v1/responses/r",
        "/v1/messages/batches",
        "/v1/messages/../files",
        "/v1/complete",
        "//v1/messages",
        "/metrics",
    ] {
        let (status, text) = {
            let response = home.post(path, &guest, &request("x")).send().await.unwrap();
            (response.status().as_u16(), response.text().await.unwrap())
        };
        assert_eq!(status, 404, "{path}");
        assert!(text.contains("not_found_error"), "{path}: {text}");
    }
    let get = home.client.get(format!("http://{}/v1/messages", home.gateway)).send().await.unwrap();
    assert_eq!(get.status(), 405);
    assert!(upstream.received().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_provider_would_do_for_the_guest_is_taken_out_or_refused() {
    let upstream = Upstream::start(|_| Script::words(1)).await;
    let home = Home::start(&upstream).await;
    let guest = home.guest("m", |_| ()).await;
    let with = |field: &str, value: Value| {
        let mut body = request("x");
        body[field] = value;
        body
    };
    let tools = json!([{"name": "Bash", "input_schema": {}}, {"type": "web_search_20250305", "name": "web_search"}, {"type": "web_fetch_20250910", "name": "web_fetch"}]);
    let mut body = with("tools", tools);
    body["tool_choice"] = json!({"type": "tool", "name": "web_search"});
    assert_eq!(home.call(&guest, &body).await.0, 200);
    let received = upstream.received().remove(0).body;
    assert_eq!(received["tools"], json!([{"name": "Bash", "input_schema": {}}]));
    assert!(received.get("tool_choice").is_none());
    assert_eq!(home.call(&guest, &with("tools", json!([{"type": "web_search_20250305", "name": "web_search"}]))).await.0, 200);
    assert!(upstream.received()[1].body.get("tools").is_none());

    let image = |source: Value| json!([{"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": [{"type": "image", "source": source}]}]}]);
    let url = json!({"type": "url", "url": "http://169.254.169.254/"});
    for (body, part) in [
        (with("mcp_servers", json!([{"type": "url", "url": "http://evil"}])), "mcp_servers"),
        (with("container", json!("c")), "container"),
        (with("speed", json!("fast")), "speed"),
        (with("messages", image(url)), "by URL"),
        (with("messages", image(json!({"type": "file", "file_id": "f"}))), "by URL or file id"),
        (with("model", json!("claude-opus-unpriced-model-")), "no known price"),
        (with("model", json!("gpt-5")), "no known price"),
        (with("model", json!("llama")), "is not configured in Hub default; it has: claude-sonnet-*"),
        (with("max_tokens", json!(-1)), "max_tokens"),
        (json!([]), "not a JSON object"),
    ] {
        let (status, text) = home.call(&guest, &body).await;
        assert_eq!(status, 400, "{part}: {text}");
        assert!(text.contains(part) && text.contains("invalid_request_error"), "{part}: {text}");
    }
    let base64 = json!({"type": "base64", "media_type": "image/png", "data": "AAAA"});
    assert_eq!(home.call(&guest, &with("messages", image(base64))).await.0, 200);
    assert_eq!(upstream.received().len(), 3, "what was refused went nowhere");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_that_people_can_mend_is_told_once_to_them_too() {
    let upstream = Upstream::start(|_| Script::words(1)).await;
    let home = Home::start(&upstream).await;
    let guest = home.guest("m", |_| ()).await;
    let with = |model: &str| {
        let mut body = request("x");
        body["model"] = json!(model);
        body
    };
    for _ in 0..3 {
        assert_eq!(home.call(&guest, &with("llama")).await.0, 400);
        assert_eq!(home.call(&guest, &with("gpt-5")).await.0, 400);
    }
    let resource = |plural: &str| autovibe::admission::resources().iter().find(|r| r.plural == plural && r.group.is_empty()).unwrap();
    let told = async || {
        let page = home.objects.read_page(resource("events"), &Default::default()).await.unwrap();
        let of_it = page.items.into_iter().map(|item| item.document).filter(|event| event["reason"] == "CallRefused");
        let mut told: Vec<(String, Value)> =
            of_it.map(|event| (event["message"].as_str().unwrap().to_owned(), event["count"].clone())).collect();
        told.sort_by(|a, b| a.0.cmp(&b.0));
        told
    };
    let events = told().await;
    assert_eq!(events.len(), 2, "{events:?}");
    assert!(events[1].0.contains("model `llama` is not configured in Hub default") && events[1].1 == 1, "{events:?}");
    assert!(events[0].0.contains("no known price") && events[0].1 == 1, "{events:?}");
    // Who judges the end of its agent knows it too.
    let machine: Machine = home.objects.get("default", "m").await.unwrap().unwrap();
    let note: wire::Unsent = serde_json::from_str(machine.annotation(wire::annotation::UNSENT).unwrap()).unwrap();
    assert!(note.launch == 0 && note.why.contains("no known price"), "{note:?}");
    // A Secret that is gone.
    home.objects.delete_document(resource("secrets"), "autovibe-system", "anthropic", &Default::default()).await.unwrap();
    eventually("it is told", async || {
        home.call(&guest, &request("x")).await;
        told().await.iter().any(|(text, _)| text.contains("needs Secret autovibe-system/anthropic with key apiKey")).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redirect_is_not_followed_and_the_key_goes_nowhere_else() {
    let elsewhere = Upstream::start(|_| Script::words(1)).await;
    let target = format!("location: http://{}/v1/messages\r\n", elsewhere.address);
    let upstream = Upstream::start(move |_| Script::status(307, &target, "")).await;
    let home = Home::start(&upstream).await;
    let guest = home.guest("m", |_| ()).await;
    let (status, text) = home.call(&guest, &request("x")).await;
    assert_eq!(status, 502);
    assert!(text.contains("redirect"), "{text}");
    assert!(elsewhere.received().is_empty());
    assert_eq!(home.settled(&guest).await.money.0, 0);

    upstream.then(|_| Script::status(401, "", &format!("{{\"error\": \"invalid key {KEY}\"}}")));
    let (status, text) = home.call(&guest, &request("y")).await;
    assert_eq!(status, 403, "a bad key of the hub is not the agent's to retry");
    assert!(text.contains("Secret") && !text.contains(KEY), "{text}");
    let refused = eventually("it is logged", async || home.last_call(&guest).await.filter(|call| call.status == Some(403))).await;
    assert!(refused.detail.as_ref().is_some_and(|why| why.contains("refused the hub's key (401)") && !why.contains(KEY)), "{refused:?}");
    upstream.then(|_| Script::status(400, "", &format!("{{\"error\": \"you sent {KEY}\"}}")));
    let (status, text) = home.call(&guest, &request("z")).await;
    assert_eq!((status, text.as_str()), (400, "{\"error\": \"you sent [redacted]\"}"));
    let usage = home.settled(&guest).await;
    assert_eq!((usage.money.0, usage.api_calls), (0, 0), "an error is not charged");
    assert_eq!(home.until_last_call(&guest, CallState::Failed).await.status, Some(400));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_pass_is_said_so_that_agents_try_again() {
    let upstream = Upstream::start(|_| Script::status(529, "retry-after: 7\r\n", "{\"type\":\"error\"}")).await;
    let home = Home::start(&upstream).await;
    let guest = home.guest("m", |_| ()).await;
    let response = home.post("/v1/messages", &guest, &request("x")).send().await.unwrap();
    assert_eq!((response.status().as_u16(), response.headers()["retry-after"].to_str().unwrap()), (529, "7"));
    assert_eq!(home.settled(&guest).await.money.0, 0);
    // A provider that nobody can connect to was not paid; one that hung up may have been.
    let gone = { tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap() };
    let mut hub = home.objects.get::<Hub>("", "default").await.unwrap().unwrap();
    hub.spec.providers[0].endpoint = Some(format!("http://{gone}"));
    home.objects.update(&hub).await.unwrap();
    let (status, text) = eventually("the new endpoint is used", async || {
        let (status, text) = home.call(&guest, &request("y")).await;
        text.contains("cannot be reached").then_some((status, text))
    })
    .await;
    assert_eq!(status, 529, "{text}");
    assert_eq!(home.settled(&guest).await.money.0, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_key_is_used_at_once() {
    let upstream = Upstream::start(|_| Script::words(1)).await;
    let home = Home::start(&upstream).await;
    let guest = home.guest("m", |_| ()).await;
    assert_eq!(home.call(&guest, &request("x")).await.0, 200);
    home.set_key("sk-ant-the-next-key").await;
    eventually("the next key is sent", async || {
        home.call(&guest, &request("x")).await;
        let last = upstream.received().pop().unwrap();
        (last.header("x-api-key") == Some("sk-ant-the-next-key")).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn tokens_are_counted_by_the_provider_for_free() {
    let upstream = Upstream::start(|_| Script::status(200, "", "{\"input_tokens\": 42}")).await;
    let home = Home::start(&upstream).await;
    let guest = home.guest("m", |_| ()).await;
    let body = json!({"model": MODEL, "messages": [{"role": "user", "content": "x"}]});
    let response = home.post("/v1/messages/count_tokens?beta=true", &guest, &body).send().await.unwrap();
    assert_eq!(response.json::<Value>().await.unwrap(), json!({"input_tokens": 42}));
    let received = upstream.received().remove(0);
    assert_eq!((received.line.as_str(), received.header("x-api-key")), ("POST /v1/messages/count_tokens?beta=true HTTP/1.1", Some(KEY)));
    let usage = home.settled(&guest).await;
    assert_eq!((usage.money.0, usage.api_calls), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_report_of_an_agents_end_wakes_its_controller() {
    let upstream = Upstream::start(|_| Script::words(1)).await;
    let home = Home::start(&upstream).await;
    let guest = home.guest("m", |_| ()).await;
    let report = json!({"launch": 2, "exitCode": 137});
    let url = format!("http://{}/autovibe/v1/exit", home.gateway);
    let send =
        async || home.client.post(&url).header("authorization", format!("Bearer {}", guest.token)).json(&report).send().await.unwrap();
    assert_eq!(send().await.status(), 200);
    assert_eq!(send().await.status(), 200, "a report that is repeated is accepted");
    let machine = home.objects.get::<Machine>("default", "m").await.unwrap().unwrap();
    assert_eq!(machine.metadata.annotations.unwrap()["autovibe.dev/agent-exit"], "2:137");
    assert_eq!(home.client.post(&url).json(&report).send().await.unwrap().status(), 401);
}
