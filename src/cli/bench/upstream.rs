//! A model provider on loopback: the Messages API's answers as they were recorded, after as long a thought as is wanted.

use super::stage::KEY;
use crate::clock::Clock;
use axum::{
    Router,
    body::{Body, Bytes},
    extract::State,
    http::header,
    response::{IntoResponse, Response},
    routing::post,
};
use futures::StreamExt;
use serde_json::{Value, json};
use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::net::TcpListener;

/// A model with a known price: an unknown one is refused.
pub(super) const MODEL: &str = "claude-sonnet-4-5";
/// Text deltas of a streamed answer; with what is around them 64 events, 8.8 KB.
const DELTAS: usize = 60;

/// A provider; it ends with the process.
pub(super) struct Upstream {
    pub(super) address: SocketAddr,
    answers: Arc<Answers>,
}

/// What it answers, written once.
struct Answers {
    think_ms: AtomicU64,
    pace_ms: AtomicU64,
    whole: Bytes,
    /// Each event of the stream.
    events: Vec<Bytes>,
}

impl Upstream {
    pub(super) async fn start() -> std::io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let answers = Arc::new(Answers { think_ms: AtomicU64::new(0), pace_ms: AtomicU64::new(0), whole: whole(), events: events() });
        let router = Router::new()
            .route("/v1/messages", post(answer))
            // As large as the gateway takes.
            .layer(axum::extract::DefaultBodyLimit::max(32 << 20))
            .with_state(answers.clone());
        let listener = axum::serve::ListenerExt::tap_io(listener, |socket| drop(socket.set_nodelay(true)));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Ok(Self { address, answers })
    }

    /// From now on it thinks so long before each answer.
    pub(super) fn think(&self, time: Duration) {
        self.answers.think_ms.store(u64::try_from(time.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// From now on so much time lies between the events of a stream.
    pub(super) fn pace(&self, time: Duration) {
        self.answers.pace_ms.store(u64::try_from(time.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// The provider, as a Hub has it in its spec.
    pub(super) fn provider(&self) -> Value {
        json!({ "name": "bench", "type": "Anthropic", "endpoint": format!("http://{}", self.address),
            "apiKeySecretRef": { "name": KEY }, "models": ["claude-*"] })
    }
}

async fn answer(State(answers): State<Arc<Answers>>, body: Bytes) -> Response {
    let think = Duration::from_millis(answers.think_ms.load(Ordering::Relaxed));
    if !think.is_zero() {
        Clock::system().sleep(think).await;
    }
    // Requests are ours: the flag is written so, and stands in front.
    if body.windows(13).take(40).any(|words| words == b"\"stream\":true") {
        let pace = Duration::from_millis(answers.pace_ms.load(Ordering::Relaxed));
        let events = futures::stream::iter(answers.events.clone()).then(move |event| async move {
            if !pace.is_zero() {
                Clock::system().sleep(pace).await;
            }
            Ok::<_, std::io::Error>(event)
        });
        let head = [(header::CONTENT_TYPE, "text/event-stream; charset=utf-8"), (header::CACHE_CONTROL, "no-cache")];
        (head, Body::from_stream(events)).into_response()
    } else {
        ([(header::CONTENT_TYPE, "application/json")], answers.whole.clone()).into_response()
    }
}

fn usage(output: usize) -> Value {
    json!({ "input_tokens": 100, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 20_000, "output_tokens": output,
        "service_tier": "standard" })
}

/// 1.2 KB, of which most is text.
fn whole() -> Bytes {
    let text = "I look at the project first, then I change it. ".repeat(18);
    let message = json!({ "id": "msg_bench", "type": "message", "role": "assistant", "model": MODEL,
        "content": [{ "type": "text", "text": text }], "stop_reason": "end_turn", "stop_sequence": null, "usage": usage(DELTAS) });
    message.to_string().into()
}

fn events() -> Vec<Bytes> {
    let event = |value: Value| Bytes::from(format!("event: {}\ndata: {value}\n\n", value["type"].as_str().unwrap_or_default()));
    let message = json!({ "id": "msg_bench", "type": "message", "role": "assistant", "model": MODEL, "content": [],
        "stop_reason": null, "stop_sequence": null, "usage": usage(1) });
    let mut events = vec![
        event(json!({ "type": "message_start", "message": message })),
        event(json!({ "type": "content_block_start", "index": 0, "content_block": { "type": "text", "text": "" } })),
    ];
    for _ in 0..DELTAS {
        let delta = json!({ "type": "text_delta", "text": "a few words of text " });
        events.push(event(json!({ "type": "content_block_delta", "index": 0, "delta": delta })));
    }
    events.push(event(json!({ "type": "content_block_stop", "index": 0 })));
    let delta = json!({ "stop_reason": "end_turn", "stop_sequence": null });
    events.push(event(json!({ "type": "message_delta", "delta": delta, "usage": { "output_tokens": DELTAS } })));
    events.push(event(json!({ "type": "message_stop" })));
    events
}
