//! A provider that speaks the Messages API over real HTTP, does as it is told, and keeps its own bill.

use serde_json::{Value, json};
use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
};

/// Nano-USD per token of claude-sonnet-4-5, from its public price list.
const INPUT: i64 = 3_000;
const OUTPUT: i64 = 15_000;
/// Input tokens that every request is billed for.
pub(super) const INPUT_TOKENS: i64 = 100;

/// A request as it arrived.
#[derive(Clone, Debug)]
pub(super) struct Received {
    pub(super) line: String,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Value,
}

impl Received {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }
}

/// What is done with a request.
#[derive(Clone)]
pub(super) enum Script {
    /// A whole answer of so many words (a token each), after `gate` turned true.
    Answer { words: usize, tools: Vec<(&'static str, Value)>, gate: Option<watch::Receiver<bool>> },
    /// The same, the connection reset after so many bytes of it.
    Cut { words: usize, after: usize },
    /// These bytes, as they are, then the end.
    Raw(Vec<u8>),
    /// Nothing: the connection is closed.
    HangUp,
}

impl Script {
    pub(super) fn words(words: usize) -> Self {
        Self::Answer { words, tools: Vec::new(), gate: None }
    }
    pub(super) fn status(status: u16, headers: &str, body: &str) -> Self {
        let length = body.len();
        let text = format!(
            "HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {length}\r\nconnection: close\r\n{headers}\r\n{body}"
        );
        Self::Raw(text.into_bytes())
    }
}

type Plan = Arc<dyn Fn(&Received) -> Script + Send + Sync>;

pub(super) struct Upstream {
    pub(super) address: SocketAddr,
    received: Arc<Mutex<Vec<Received>>>,
    bill: Arc<Mutex<i64>>,
    plan: Arc<Mutex<Plan>>,
}

impl Upstream {
    pub(super) async fn start(plan: impl Fn(&Received) -> Script + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let upstream = Self {
            address: listener.local_addr().unwrap(),
            received: Arc::default(),
            bill: Arc::default(),
            plan: Arc::new(Mutex::new(Arc::new(plan))),
        };
        let (received, bill, plan) = (upstream.received.clone(), upstream.bill.clone(), upstream.plan.clone());
        tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let (received, bill, plan) = (received.clone(), bill.clone(), plan.clone());
                tokio::spawn(async move {
                    if let Some((request, socket)) = read(socket).await {
                        let plan = plan.lock().unwrap().clone();
                        let script = plan(&request);
                        received.lock().unwrap().push(request.clone());
                        play(socket, &request, script, &bill).await;
                    }
                });
            }
        });
        upstream
    }

    /// From now on, this is done.
    pub(super) fn then(&self, plan: impl Fn(&Received) -> Script + Send + Sync + 'static) {
        *self.plan.lock().unwrap() = Arc::new(plan);
    }
    pub(super) fn received(&self) -> Vec<Received> {
        self.received.lock().unwrap().clone()
    }
    /// Nano-USD.
    pub(super) fn bill(&self) -> i64 {
        *self.bill.lock().unwrap()
    }
}

async fn read(mut socket: TcpStream) -> Option<(Received, TcpStream)> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(at) = bytes.windows(4).position(|w| w == b"\r\n\r\n") {
            break at;
        }
        if socket.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    };
    let head = String::from_utf8(bytes[..end].to_vec()).unwrap();
    let mut lines = head.lines();
    let line = lines.next().unwrap().to_owned();
    let headers: Vec<(String, String)> = lines.filter_map(|l| l.split_once(": ")).map(|(n, v)| (n.to_owned(), v.to_owned())).collect();
    let length: usize = headers.iter().find(|(n, _)| n.eq_ignore_ascii_case("content-length")).map_or(0, |(_, v)| v.parse().unwrap());
    let mut body = bytes[end + 4..].to_vec();
    while body.len() < length {
        if socket.read_buf(&mut body).await.ok()? == 0 {
            return None;
        }
    }
    let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
    Some((Received { line, headers, body }, socket))
}

/// The events of an answer: each text and how many tokens were generated once it is out.
pub(super) fn events(request: &Value, words: usize, tools: &[(&'static str, Value)]) -> Vec<(String, i64)> {
    let event = |value: Value| format!("event: {}\ndata: {value}\n\n", value["type"].as_str().unwrap());
    let usage = json!({"input_tokens": INPUT_TOKENS, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0, "output_tokens": 1});
    let message = json!({"id": "msg_1", "type": "message", "role": "assistant", "model": request["model"], "content": [],
        "stop_reason": null, "stop_sequence": null, "usage": usage});
    let mut tokens = 0;
    let mut all = vec![(event(json!({"type": "message_start", "message": message})), 0)];
    all.push((event(json!({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}})), 0));
    for _ in 0..words {
        tokens += 1;
        all.push((event(json!({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "word "}})), tokens));
    }
    all.push((event(json!({"type": "content_block_stop", "index": 0})), tokens));
    for (index, (name, input)) in tools.iter().enumerate() {
        let (index, id) = (index + 1, format!("toolu_{}_{index}", request["messages"].as_array().map_or(0, Vec::len)));
        let block = json!({"type": "tool_use", "id": id, "name": name, "input": {}});
        all.push((event(json!({"type": "content_block_start", "index": index, "content_block": block})), tokens));
        tokens += 10;
        let delta = json!({"type": "input_json_delta", "partial_json": input.to_string()});
        all.push((event(json!({"type": "content_block_delta", "index": index, "delta": delta})), tokens));
        all.push((event(json!({"type": "content_block_stop", "index": index})), tokens));
    }
    let reason = if tools.is_empty() { "end_turn" } else { "tool_use" };
    let delta = json!({"stop_reason": reason, "stop_sequence": null});
    all.push((event(json!({"type": "message_delta", "delta": delta, "usage": {"output_tokens": tokens}})), tokens));
    all.push((event(json!({"type": "message_stop"})), tokens));
    all
}

const STREAM: &str = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\nrequest-id: req_1\r\n\
    anthropic-organization-id: org-secret\r\nset-cookie: a=b\r\nconnection: close\r\n\r\n";

async fn play(mut socket: TcpStream, request: &Received, script: Script, bill: &Mutex<i64>) {
    let chunk = |text: &str| format!("{:x}\r\n{text}\r\n", text.len()).into_bytes();
    match script {
        Script::HangUp => {}
        Script::Raw(bytes) => {
            let _ = socket.write_all(&bytes).await;
            let _ = socket.shutdown().await;
        }
        Script::Answer { words, tools, gate } => {
            let events = events(&request.body, words, &tools);
            let tokens = events.last().unwrap().1;
            if let Some(mut gate) = gate {
                let _ = gate.wait_for(|open| *open).await;
            }
            *bill.lock().unwrap() += INPUT_TOKENS * INPUT + tokens * OUTPUT;
            if request.body["stream"] == true {
                // A gateway that hung up is billed all the same.
                let _ = socket.write_all(STREAM.as_bytes()).await;
                for (text, _) in events {
                    let _ = socket.write_all(&chunk(&text)).await;
                }
                let _ = socket.write_all(b"0\r\n\r\n").await;
            } else {
                let usage = json!({"input_tokens": INPUT_TOKENS, "output_tokens": tokens});
                let content = json!([{"type": "text", "text": "word ".repeat(words)}]);
                let body = json!({"id": "msg_1", "type": "message", "role": "assistant", "model": request.body["model"],
                    "content": content, "stop_reason": "end_turn", "stop_sequence": null, "usage": usage})
                .to_string();
                let head = format!(
                    "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                    body.len()
                );
                let _ = socket.write_all((head + &body).as_bytes()).await;
            }
            let _ = socket.shutdown().await;
        }
        Script::Cut { words, after } => {
            let events = events(&request.body, words, &[]);
            let mut bytes = STREAM.as_bytes().to_vec();
            let mut ends = Vec::new();
            for (text, tokens) in &events {
                bytes.extend(chunk(text));
                ends.push((bytes.len(), *tokens));
            }
            bytes.extend(b"0\r\n\r\n");
            let after = after.min(bytes.len());
            // Billed is what was generated by then.
            let tokens = ends.iter().filter(|(end, _)| *end <= after).map(|(_, tokens)| *tokens).max().unwrap_or(0);
            *bill.lock().unwrap() += INPUT_TOKENS * INPUT + tokens * OUTPUT;
            let _ = socket.write_all(&bytes[..after]).await;
            let _ = socket.shutdown().await;
        }
    }
}

/// How many bytes the answer of [`Script::Cut`] has.
pub(super) fn length(request: &Value, words: usize) -> usize {
    let chunks: usize = events(request, words, &[]).iter().map(|(text, _)| format!("{:x}\r\n{text}\r\n", text.len()).len()).sum();
    STREAM.len() + chunks + 5
}
