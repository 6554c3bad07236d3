//! Structure-aware fuzzing: valid documents, patches and requests, changed at random. Nothing panics, no answer is a 5xx.
//!
//! A few seconds of fixed seeds run with the other tests. By the hour, with seeds of their own:
//! `cargo test --test it fuzz -- --ignored --nocapture`. A failure names its seed and its input.

mod generate;

use crate::served::Served;
use autovibe::admission::{self, Resource, document, patch};
use autovibe::api::quantity::{Bytes, GoDuration, Millicores, NanoUsd};
use autovibe::store::Options;
use generate::Generator;
use serde_json::Value;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

const SHORT: Duration = Duration::from_secs(4);
const LONG: Duration = Duration::from_mins(30);

/// Runs `round` on seed after seed; returns how many there were. `round` leaves its input in the text, for the report.
fn rounds(first: u64, time: Duration, mut round: impl FnMut(u64, &mut String)) -> u64 {
    let started = Instant::now();
    let mut seed = first;
    while started.elapsed() < time {
        let mut input = String::new();
        let went_well = catch_unwind(AssertUnwindSafe(|| round(seed, &mut input))).is_ok();
        assert!(went_well, "seed {seed} panicked on:\n{input}");
        seed += 1;
    }
    seed - first
}

/// Text to document, prune, default, validate, patch, validate again: all that admission does with a body.
fn admit(seed: u64, input: &mut String) {
    let mut random = Generator::new(seed);
    let resources = admission::resources();
    let resource = &resources[random.below(resources.len())];
    let mut wanted = Generator::valid(resource.kind);
    for _ in 0..random.below(4) {
        random.mutate(&mut wanted);
    }
    let text = random.text(&wanted);
    input.push_str(&String::from_utf8_lossy(&text));
    let read = if random.one_in(2) { document::json(&text) } else { document::yaml(&text) };
    let Ok(read) = read else { return };
    let old = admitted(resource, Generator::valid(resource.kind));
    assert_eq!(admission::validate(resource, &old, None), [], "the valid {} is valid", resource.kind);
    judge(resource, &admitted(resource, read.value.clone()), &old);

    let change = random.patch(&old);
    input.push_str(&format!("\n{change}"));
    let mut patched = old.clone();
    let applied = match random.below(3) {
        0 => patch::json(&mut patched, &change).is_ok(),
        1 => patch::strategic(&mut patched, &read.value).is_ok(),
        _ => {
            patch::merge(&mut patched, &read.value);
            true
        }
    };
    if applied {
        judge(resource, &admitted(resource, patched), &old);
    }
}

fn admitted(resource: &Resource, mut document: Value) -> Value {
    admission::prune(resource, &mut document);
    admission::default(resource, &mut document);
    // Again is no change: what is stored is read, pruned and defaulted at each write.
    let once = document.clone();
    assert_eq!(admission::prune(resource, &mut document), Vec::<String>::new());
    admission::default(resource, &mut document);
    assert_eq!(document, once, "admission is not idempotent");
    document
}

fn judge(resource: &Resource, document: &Value, old: &Value) {
    for error in admission::validate(resource, document, Some(old)).iter().chain(&admission::validate(resource, document, None)) {
        assert!(!error.to_string().is_empty() && !error.reason().is_empty());
    }
}

/// Whatever text: quantities that are read are written so that they are read again, and lines are found or not.
fn parse(seed: u64, input: &mut String) {
    let mut random = Generator::new(seed);
    let text = random.word();
    input.push_str(&text);
    if let Ok(value) = text.parse::<Bytes>() {
        assert_eq!(value.to_string().parse::<Bytes>().unwrap(), value);
    }
    if let Ok(value) = text.parse::<Millicores>() {
        assert_eq!(value.to_string().parse::<Millicores>().unwrap(), value);
    }
    if let Ok(value) = text.parse::<NanoUsd>() {
        assert_eq!(value.to_string().parse::<NanoUsd>().unwrap(), value);
    }
    if let Ok(value) = text.parse::<GoDuration>() {
        assert_eq!(value.to_string().parse::<GoDuration>().unwrap(), value);
    }
    let mut whole = Generator::valid("Hub");
    random.mutate(&mut whole);
    let yaml = random.text(&whole);
    let yaml = String::from_utf8_lossy(&yaml);
    input.push_str(&format!("\n{yaml}"));
    drop(document::yaml_stream(&yaml));
    document::line_of(&yaml, 0, &text);
}

/// Requests of every kind to a running server.
async fn requests(first: u64, time: Duration) -> u64 {
    let server = Served::start(Options::default()).await;
    server.namespace("fuzz").await;
    let started = Instant::now();
    let mut seed = first;
    while started.elapsed() < time {
        let mut random = Generator::new(seed);
        let sent = random.request();
        let mut request = server.request(sent.method.clone(), &sent.path).timeout(Duration::from_secs(20));
        for (name, value) in &sent.headers {
            request = request.header(*name, value.as_str());
        }
        let shown = || format!("seed {seed}: {} {} {:?}\n{}", sent.method, sent.path, sent.headers, String::from_utf8_lossy(&sent.body));
        let response = request.body(sent.body.clone()).send().await.unwrap_or_else(|error| panic!("{}\n{error:?}", shown()));
        let code = response.status().as_u16();
        // A watch goes on; anything else is read, and a refusal must be a Status.
        if !sent.path.contains("watch=") {
            let body = response.bytes().await.unwrap_or_else(|error| panic!("{}\n{error:?}", shown()));
            assert!(code < 500, "{code} {}\n{}", shown(), String::from_utf8_lossy(&body));
            if code >= 400 && sent.method != reqwest::Method::HEAD {
                let status: Value = serde_json::from_slice(&body).unwrap_or_else(|error| panic!("{code} {}\n{error}", shown()));
                assert_eq!((status["kind"].as_str(), status["code"].as_u64()), (Some("Status"), Some(code.into())), "{}", shown());
            }
        }
        assert!(code < 500, "{code} {}", shown());
        seed += 1;
    }
    // And it still does what it should.
    let map = serde_json::json!({"metadata": {"name": "after"}});
    assert_eq!(server.post("/api/v1/namespaces/fuzz/configmaps", &map).await.0, 201);
    server.stop().await;
    seed - first
}

#[test]
fn admission_takes_or_refuses_anything() {
    eprintln!("{} documents", rounds(0, SHORT, admit));
}

#[test]
fn parsers_read_or_refuse_anything() {
    eprintln!("{} texts", rounds(0, SHORT, parse));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_api_answers_anything_and_never_5xx() {
    eprintln!("{} requests", requests(0, SHORT).await);
}

fn own() -> u64 {
    let seed = rand::random::<u64>() >> 16;
    eprintln!("first seed {seed}");
    seed
}

#[test]
#[ignore = "half an hour"]
fn admission_for_long() {
    eprintln!("{} documents", rounds(own(), LONG, admit));
}

#[test]
#[ignore = "half an hour"]
fn parsers_for_long() {
    eprintln!("{} texts", rounds(own(), LONG, parse));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "half an hour"]
async fn the_api_for_long() {
    eprintln!("{} requests", requests(own(), LONG).await);
}
