//! Charges against the provider's own bill: races for the last of a budget, cuts at any byte, agents that hang up.

use super::{upstream::Script, *};
use futures::StreamExt;
use tokio::sync::watch;

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_at_once_on_room_for_three() {
    let (open, gate) = watch::channel(false);
    let upstream = Upstream::start(move |_| Script::Answer { words: 10, tools: Vec::new(), gate: Some(gate.clone()) }).await;
    let home = Home::start(&upstream).await;
    // A body of about 130 bytes and 1000 tokens of overhead at 3 USD per million, and 1000 tokens of output at 15.
    let budget = home.budget("team", 3 * 19_000_000, None).await;
    let guest = home
        .guest("m", |spec| {
            spec.budget =
                Some(BudgetUse { name: Some("team".into()), limits: Limits { money: Some(usd(1_000_000_000)), ..Limits::default() } });
        })
        .await;
    let account = format!("budget/{}", budget.uid());
    let bodies: Vec<Value> = (0..100).map(|i| request(&format!("request number {i:03}"))).collect();
    let mut calls: futures::stream::FuturesUnordered<_> = bodies.iter().map(|body| home.call(&guest, body)).collect();
    let mut refused = Vec::new();
    while refused.len() < 97 {
        refused.push(calls.next().await.unwrap());
        let usage = home.usage(&account).await;
        assert!(usage.money.0 + usage.reserved.0 <= 3 * 19_000_000);
    }
    assert!(
        refused.iter().all(|(status, text)| *status == 429 && text.contains("budget busy: money of Budget default/team")),
        "{:?}",
        refused[0]
    );
    assert_eq!(upstream.received().len(), 3);
    open.send_replace(true);
    let passed: Vec<(u16, String)> = calls.collect().await;
    assert!(passed.len() == 3 && passed.iter().all(|(status, _)| *status == 200));
    home.settled(&guest).await;
    assert_eq!(home.usage(&account).await.money.0, upstream.bill());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exhausted_budget_stops_the_agent_and_says_what_to_do() {
    let upstream = Upstream::start(|_| Script::words(900)).await;
    let home = Home::start(&upstream).await;
    let guest = home.guest("m", limit(25_000_000)).await;
    assert_eq!(home.call(&guest, &request("first")).await.0, 200);
    let spent = home.settled(&guest).await.money.0;
    assert_eq!(spent, upstream.bill());
    let response = home.post("/v1/messages", &guest, &request("second")).send().await.unwrap();
    assert_eq!((response.status().as_u16(), response.headers()["x-should-retry"].to_str().unwrap()), (400, "false"));
    let error: Value = response.json().await.unwrap();
    assert_eq!(error["error"]["type"], "invalid_request_error");
    let text = error["error"]["message"].as_str().unwrap();
    assert!(text.starts_with("autovibe: budget exhausted: money of Machine default/m: $0.01 of $0.03 are spent"), "{text}");
    assert!(text.ends_with("can raise spec.budget.limits of Machine default/m.money"), "{text}");
    assert_eq!(home.until_last_call(&guest, CallState::Refused).await.status, Some(400));
    assert_eq!(upstream.received().len(), 1);
    // A higher limit is enough to go on.
    let mut machine = home.objects.get::<Machine>("default", "m").await.unwrap().unwrap();
    limit(1_000_000_000)(&mut machine.spec);
    home.objects.update(&machine).await.unwrap();
    eventually("it passes", async || (home.call(&guest, &request("second")).await.0 == 200).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_image_came_to_makes_no_room_for_a_text_of_its_size() {
    let upstream = Upstream::start(|_| Script::words(5)).await;
    let home = Home::start(&upstream).await;
    let guest = home.guest("m", limit(1_000_000_000)).await;
    let size = 1_300_000;
    let body = |content: Value| {
        json!({"model": MODEL, "max_tokens": 1, "stream": true, "tools": [{"name": "Bash", "input_schema": {}}],
            "messages": [{"role": "user", "content": [content]}]})
    };
    let image = body(json!({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "A".repeat(size)}}));
    assert_eq!(home.call(&guest, &image).await.0, 200);
    home.settled(&guest).await;
    // The same once more is known by now: with the answer it is bounded by what it came to.
    let mut more = image.clone();
    more["messages"].as_array_mut().unwrap().push(json!({"role": "assistant", "content": "go on"}));
    assert_eq!(home.call(&guest, &more).await.0, 200);
    home.settled(&guest).await;
    let (status, why) = home.call(&guest, &body(json!({"type": "text", "text": "x".repeat(size)}))).await;
    assert!(status == 400 && why.contains("budget exhausted: money of Machine default/m"), "{status} {why}");
    assert_eq!(upstream.received().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespaces_default_budget_pays_for_who_names_none() {
    let upstream = Upstream::start(|_| Script::words(5)).await;
    let home = Home::start(&upstream).await;
    // Whatever limit it gives itself.
    let guest = home.guest("m", limit(1_000_000_000_000)).await;
    assert_eq!(home.call(&guest, &request("before")).await.0, 200);
    home.settled(&guest).await;
    let budget = home.budget("default", 1_000_000, None).await;
    let refused =
        eventually("it is within it", async || Some(home.call(&guest, &request("after")).await).filter(|(status, _)| *status != 200)).await;
    assert!(refused.0 == 400 && refused.1.contains("money of Budget default/default"), "{refused:?}");
    home.objects.delete::<Budget>("default", "default", Some(budget.uid())).await.unwrap();
    eventually("it is not any more", async || (home.call(&guest, &request("last")).await.0 == 200).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_has_so_many_calls_under_way_and_the_others_wait() {
    let (open, gate) = watch::channel(false);
    let upstream = Upstream::start(move |_| Script::Answer { words: 1, tools: Vec::new(), gate: Some(gate.clone()) }).await;
    let home = Home::start(&upstream).await;
    let guest = home.guest("m", limit(1_000_000_000_000)).await;
    let bodies: Vec<Value> = (0..40).map(|n| request(&format!("request {n}"))).collect();
    let calls = futures::future::join_all(bodies.iter().map(|body| home.call(&guest, body)));
    let watched = async {
        eventually("they are under way", async || (upstream.received().len() == 32).then_some(())).await;
        autovibe::clock::Clock::system().sleep(Duration::from_millis(300)).await;
        assert_eq!(upstream.received().len(), 32);
        open.send_replace(true);
    };
    let (calls, ()) = tokio::join!(calls, watched);
    assert!(calls.iter().all(|(status, _)| *status == 200), "{calls:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn output_is_cut_to_what_the_budget_still_allows() {
    let upstream = Upstream::start(|_| Script::words(5)).await;
    let home = Home::start(&upstream).await;
    let guest = home.guest("m", limit(100_000_000)).await;
    let mut body = request("x");
    body["max_tokens"] = json!(32_000);
    assert_eq!(home.call(&guest, &body).await.0, 200);
    let asked = upstream.received()[0].body["max_tokens"].as_u64().unwrap();
    assert!((4096..7000).contains(&asked), "{asked}: 0.10 USD at 15 per million, less the input");
    let poor = home.guest("n", limit(40_000_000)).await;
    assert_eq!(home.call(&poor, &body).await.0, 400, "below what is of use");
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_of_calls_and_defaults_of_the_hub_hold() {
    let upstream = Upstream::start(|_| Script::words(1)).await;
    let home = Home::start(&upstream).await;
    let limits = Limits { api_calls: Some(2), ..Limits::default() };
    let guest = home.guest("m", |spec| spec.budget = Some(BudgetUse { name: None, limits })).await;
    for (number, expected) in [(1, 200), (2, 200), (3, 400)] {
        let (status, text) = home.call(&guest, &request(&format!("call {number}"))).await;
        assert_eq!(status, expected, "{text}");
    }
    // Money comes from the hub's defaults: 5 USD, too little for this.
    let mut body = request("x");
    body["messages"][0]["content"] = json!("x".repeat(3_000_000));
    let other = home.guest("n", |_| ()).await;
    let (status, text) = home.call(&other, &body).await;
    assert_eq!(status, 400);
    assert!(text.contains("of $5.00"), "{text}");
    let missing = home.guest("o", |spec| spec.budget = Some(BudgetUse { name: Some("nobody".into()), limits: Limits::default() })).await;
    let (status, text) = home.call(&missing, &request("x")).await;
    assert_eq!(status, 529);
    assert!(text.contains("Budget default/nobody does not exist"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_cut_at_any_byte_is_charged_once_and_never_below_the_bill() {
    const WORDS: usize = 6;
    let upstream = Upstream::start(|_| Script::HangUp).await;
    let home = Home::start(&upstream).await;
    let guest = home.guest("m", limit(1_000_000_000_000)).await;
    let whole = upstream::length(&request("0000"), WORDS);
    let (mut charged, mut billed, mut cut_points) = (0, 0, 0);
    for after in (0..=whole).step_by(7).chain([whole]) {
        upstream.then(move |_| Script::Cut { words: WORDS, after });
        let body = request(&format!("{after:04}"));
        // A connection that breaks before the head is a cut like any other.
        let whole_answer = match home.post("/v1/messages", &guest, &body).send().await {
            Ok(response) => response.status() == 200 && response.bytes().await.is_ok(),
            Err(_) => false,
        };
        assert_eq!(whole_answer, after == whole, "cut after {after}");
        let money = home.settled(&guest).await.money.0;
        let (charge, bill) = (money - charged, upstream.bill() - billed);
        assert!(charge >= bill, "cut after {after}: charged {charge}, billed {bill}");
        if after == whole {
            assert_eq!(charge, bill);
        }
        let state = home.last_call(&guest).await.unwrap().state;
        assert!(state != CallState::Open, "cut after {after}");
        (charged, billed, cut_points) = (money, upstream.bill(), cut_points + 1);
    }
    assert!(cut_points >= 200, "{cut_points}");
    assert_eq!(upstream.received().len(), cut_points, "nothing was asked twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_hangs_up_is_charged_in_full_and_may_ask_again_for_free() {
    let (open, gate) = watch::channel(false);
    let upstream = Upstream::start(move |_| Script::Answer { words: 50, tools: Vec::new(), gate: Some(gate.clone()) }).await;
    let home = Home::start(&upstream).await;
    let guest = home.guest("m", |_| ()).await;
    let body = request("hello");
    let call = home.call(&guest, &body);
    // Hang up once the provider has the request.
    tokio::select! {
        _ = call => panic!("nothing was answered yet"),
        () = eventually("it arrived", async || (!upstream.received().is_empty()).then_some(())) => {}
    }
    open.send_replace(true);
    let usage = home.settled(&guest).await;
    assert_eq!((usage.money.0, usage.tokens_out), (upstream.bill(), 50));
    home.until_last_call(&guest, CallState::Cut).await;

    // The program repeats without `stream`, and gets the same answer as one message.
    let mut again = body.clone();
    again.as_object_mut().unwrap().remove("stream");
    let (status, text) = home.call(&guest, &again).await;
    let message: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((status, message["content"][0]["text"].as_str().unwrap()), (200, "word ".repeat(50).as_str()));
    assert_eq!((message["usage"]["input_tokens"].as_i64(), message["usage"]["output_tokens"].as_i64()), (Some(100), Some(50)));
    assert_eq!(upstream.received().len(), 1);
    home.until_last_call(&guest, CallState::Settled).await;
    assert_eq!(home.settled(&guest).await.money.0, upstream.bill());

    // A plain program may mean it when it asks the same again.
    let (status, _) = home.call(&guest, &again).await;
    assert_eq!((status, upstream.received().len()), (200, 2));
    assert_eq!(home.settled(&guest).await.money.0, upstream.bill());
}

#[tokio::test(flavor = "multi_thread")]
async fn equal_requests_at_once_are_one_call() {
    let (open, gate) = watch::channel(false);
    let upstream = Upstream::start(move |_| Script::Answer { words: 5, tools: Vec::new(), gate: Some(gate.clone()) }).await;
    let home = Home::start(&upstream).await;
    let guest = home.guest("m", |_| ()).await;
    let body = request("hello");
    let calls = futures::future::join_all((0..5).map(|_| home.call(&guest, &body)));
    let opener = async {
        eventually("it arrived", async || (!upstream.received().is_empty()).then_some(())).await;
        open.send_replace(true);
    };
    let (answers, ()) = tokio::join!(calls, opener);
    assert!(answers.iter().all(|answer| *answer == answers[0] && answer.0 == 200));
    // Late ones may have come when the first had its answer: then they were calls of their own.
    assert_eq!(home.settled(&guest).await.money.0, upstream.bill());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_that_stops_or_dies_charges_what_was_open() {
    let (_open, gate) = watch::channel(false);
    let upstream = Upstream::start(move |_| Script::Answer { words: 5, tools: Vec::new(), gate: Some(gate.clone()) }).await;
    let mut home = Home::start(&upstream).await;
    let guest = home.guest("m", |_| ()).await;
    let body = request("hello");
    let call = tokio::spawn(home.post("/v1/messages", &guest, &body).send());
    eventually("it arrived", async || (!upstream.received().is_empty()).then_some(())).await;
    home.stop().await;
    let _ = call.await.unwrap();
    let usage = home.settled(&guest).await;
    assert!(usage.money.0 > 0, "the provider has the request: it may bill it");
    assert_eq!(home.last_call(&guest).await.unwrap().state, CallState::Failed);
    let call = home.client.post(format!("http://{}/v1/messages", home.gateway)).send().await;
    assert!(call.is_err(), "it listens no more");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_provider_costs_no_more_than_its_bound() {
    let mut bytes = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\ndata: ".to_vec();
    bytes.resize(40 << 20, b'x');
    let upstream = Upstream::start(move |_| Script::Raw(bytes.clone())).await;
    let home = Home::start(&upstream).await;
    let guest = home.guest("m", |_| ()).await;
    let response = home.post("/v1/messages", &guest, &request("x")).send().await.unwrap();
    assert_eq!(response.status(), 200);
    assert!(response.bytes().await.is_err(), "it is cut off");
    let usage = home.settled(&guest).await;
    assert!(usage.money.0 > 0 && usage.tokens_out <= 1000);
    assert_eq!(home.last_call(&guest).await.unwrap().state, CallState::Cut);
}
