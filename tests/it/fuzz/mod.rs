//! Structure-aware fuzzing: valid documents, patches and requests, changed at random. Nothing panics, no answer is a 5xx.
//!
//! Half a minute of fixed seeds runs with the other tests. By the hour, with seeds of their own:
//! `AUTOVIBE_FUZZ_MINUTES=30 cargo test --test it fuzz -- --ignored --nocapture`. A failure names its seed and its input.

mod generate;

pub(crate) use generate::Generator;

use crate::process::{ANY_PORTS, Hub};
use crate::served::Client;
use autovibe::admission::{self, Resource, document, patch};
use autovibe::api::quantity::{Bytes, GoDuration, Millicores, NanoUsd};

use serde_json::Value;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

/// A million inputs and more, on two cores that do other things too.
const SHORT: Duration = Duration::from_secs(30);
const SHORT_OF_REQUESTS: Duration = Duration::from_secs(8);
/// What a hub's memory may grow by, with all the objects that the requests leave: many times what one request may take.
const MEMORY: u64 = 128 << 20;

/// Runs `round` on seed after seed; returns how many inputs there were. `round` leaves its input in the text, for the report.
fn rounds(first: u64, time: Duration, mut round: impl FnMut(u64, &mut String) -> u64) -> u64 {
    let (started, mut inputs) = (Instant::now(), 0);
    for seed in first.. {
        if started.elapsed() >= time {
            break;
        }
        let mut input = String::new();
        let count = catch_unwind(AssertUnwindSafe(|| round(seed, &mut input)));
        inputs += count.unwrap_or_else(|_| panic!("seed {seed} panicked on:\n{input}"));
    }
    inputs
}

/// What comes of one text: values that it leads to by one more change each, so that most of the time goes into judging.
const OFFSPRING: usize = 24;

/// A resource, an object of it as it is sent, and the same admitted.
struct Kind {
    resource: &'static Resource,
    sent: Value,
    stored: Value,
}

fn kinds() -> &'static [Kind] {
    static KINDS: LazyLock<Vec<Kind>> = LazyLock::new(|| {
        let kind = |resource: &'static Resource| {
            let sent = Generator::valid(resource.kind);
            let stored = admitted(resource, sent.clone());
            assert_eq!(admission::validate(resource, &stored, None), [], "the valid {} is valid", resource.kind);
            Kind { resource, sent, stored }
        };
        admission::resources().iter().map(kind).collect()
    });
    &KINDS
}

/// Text to document, prune, default, validate, patch, validate again: all that admission does with a body. Returns how many
/// inputs were judged.
fn admit(seed: u64, input: &mut String) -> u64 {
    let mut random = Generator::new(seed);
    let kinds = kinds();
    let Kind { resource, sent, stored } = &kinds[random.below(kinds.len())];
    let mut wanted = sent.clone();
    for _ in 0..random.below(4) {
        random.mutate(&mut wanted);
    }
    let text = random.text(&wanted);
    input.push_str(&String::from_utf8_lossy(&text));
    let read = if random.one_in(2) { document::json(&text) } else { document::yaml(&text) };
    let Ok(read) = read else { return 1 };
    judge(resource, &admitted(resource, read.value.clone()), stored);

    let change = random.patch(stored);
    input.push_str(&format!("\n{change}"));
    let mut patched = stored.clone();
    let applied = match random.below(3) {
        0 => patch::json(&mut patched, &change).is_ok(),
        1 => patch::strategic(&mut patched, &read.value).is_ok(),
        _ => {
            patch::merge(&mut patched, &read.value);
            true
        }
    };
    if applied {
        judge(resource, &admitted(resource, patched.clone()), stored);
    }
    for n in 0..OFFSPRING {
        // Each from a valid one, or from the one before: near to valid, or far from it.
        if n % 4 == 0 {
            patched.clone_from(stored);
        }
        random.mutate(&mut patched);
        // Which of them it is follows from the seed.
        input.push('.');
        let mut document = patched.clone();
        admission::prune(resource, &mut document);
        admission::default(resource, &mut document);
        admission::validate(resource, &document, (n % 2 == 0).then_some(stored));
    }
    2 + OFFSPRING as u64
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

/// Whatever text: quantities that are read are written so that they are read again, and lines are found or not. A file is worth
/// a hundred words, and takes as long.
fn parse(seed: u64, input: &mut String) -> u64 {
    const WORDS: u64 = 100;
    let mut random = Generator::new(seed);
    let mut text = String::new();
    for _ in 0..WORDS {
        text = random.word();
        input.clear();
        input.push_str(&text);
        quantities(&text);
    }
    let mut whole = Generator::valid("Hub");
    random.mutate(&mut whole);
    let yaml = random.text(&whole);
    let yaml = String::from_utf8_lossy(&yaml);
    input.push_str(&format!("\n{yaml}"));
    drop(document::yaml_stream(&yaml));
    document::line_of(&yaml, 0, &text);
    WORDS + 1
}

fn quantities(text: &str) {
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
}

/// Bytes of a process's memory at its largest.
fn peak(process: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("Linux says it");
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

/// Requests of every kind to a hub process, whose memory is watched.
async fn requests(first: u64, time: Duration) -> u64 {
    rustls::crypto::ring::default_provider().install_default().ok();
    let data = tempfile::tempdir().unwrap();
    let data = data.path();
    let hub = tokio::task::block_in_place(|| Hub::start(data, &ANY_PORTS).serves());
    let server = Client::open(data);
    server.namespace("fuzz").await;
    let before = peak(hub.child.id());
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
    // And it still does what it should; the namespace of before may be ending, as anything that was asked for.
    server.namespace("after").await;
    let map = serde_json::json!({"metadata": {"name": "after"}});
    assert_eq!(server.post("/api/v1/namespaces/after/configmaps", &map).await.0, 201);
    let grown = peak(hub.child.id()) - before;
    assert!(grown < MEMORY, "memory grew by {} MiB", grown >> 20);
    assert!(!hub.logged().contains("panicked"), "{}", hub.logged());
    assert_eq!(tokio::task::block_in_place(|| hub.terminate()).0, Some(0));
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
    eprintln!("{} requests", requests(0, SHORT_OF_REQUESTS).await);
}

/// Half an hour each, or as many minutes as `AUTOVIBE_FUZZ_MINUTES` says.
#[expect(clippy::disallowed_methods, reason = "how long is for who runs it to say; there is no configuration here")]
fn long() -> Duration {
    let minutes = std::env::var_os("AUTOVIBE_FUZZ_MINUTES").and_then(|text| text.to_str()?.parse().ok());
    Duration::from_mins(minutes.unwrap_or(30))
}

fn own() -> u64 {
    let seed = autovibe::random::draw::<u64>() >> 16;
    eprintln!("first seed {seed}");
    seed
}

#[test]
#[ignore = "half an hour"]
fn admission_for_long() {
    eprintln!("{} documents", rounds(own(), long(), admit));
}

#[test]
#[ignore = "half an hour"]
fn parsers_for_long() {
    eprintln!("{} texts", rounds(own(), long(), parse));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "half an hour"]
async fn the_api_for_long() {
    eprintln!("{} requests", requests(own(), long()).await);
}
