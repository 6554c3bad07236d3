//! An agent as the gateway sees it: requests in the form of Claude Code's, each with something new in it, and how long their
//! answers take.

use super::upstream::MODEL;
use anyhow::{Context as _, bail};
use bytes::Bytes;
use futures::StreamExt;
use serde_json::json;
use std::{
    net::SocketAddr,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

/// How large a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Size {
    /// 1.6 KB.
    Small,
    /// 80 KB, most of it tools and system prompt, as Claude Code's are.
    Large,
}

impl Size {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Small => "1.6 KB",
            Self::Large => "80 KB",
        }
    }
    fn padding(self) -> usize {
        match self {
            Self::Small => 1_130,
            Self::Large => 79_200,
        }
    }
}

/// From the request until the answer's first byte, and until its last.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    pub(super) first: Duration,
    pub(super) whole: Duration,
}

/// Who asks, and whom: the gateway as a Machine's agent, or a provider directly.
pub(super) struct Caller {
    http: reqwest::Client,
    url: String,
    token: String,
    session: String,
    headers: Vec<(&'static str, String)>,
    small: String,
    large: String,
    count: AtomicU64,
}

impl Caller {
    pub(super) fn new(address: SocketAddr, token: &str) -> anyhow::Result<Self> {
        rustls::crypto::ring::default_provider().install_default().ok();
        let http = reqwest::Client::builder().no_proxy().timeout(Duration::from_mins(1)).tcp_nodelay(true).build()?;
        let session = crate::random::uuid().to_string();
        Ok(Self {
            http,
            url: format!("http://{address}/v1/messages"),
            token: token.to_owned(),
            small: rest(Size::Small, &session),
            large: rest(Size::Large, &session),
            session,
            headers: Vec::new(),
            count: AtomicU64::new(0),
        })
    }

    /// Sends these too.
    pub(super) fn with_headers(self, headers: Vec<(&'static str, String)>) -> Self {
        Self { headers, ..self }
    }

    /// Asks once and reads the answer to its end. Errors: it is not 200, or breaks off.
    pub(super) async fn call(&self, size: Size, stream: bool) -> anyhow::Result<Times> {
        let body = self.body(size, stream);
        let begun = Instant::now();
        let request = self.http.post(&self.url).header("content-type", "application/json").header("anthropic-version", "2023-06-01");
        let request = request.header("x-api-key", &self.token).header("x-claude-code-session-id", &self.session);
        let request = self.headers.iter().fold(request, |request, (name, value)| request.header(*name, value));
        let response = request.body(body).send().await.with_context(|| format!("{} was not asked", self.url))?;
        let status = response.status();
        let mut first = None;
        let mut text = Vec::new();
        let mut chunks = response.bytes_stream();
        while let Some(chunk) = chunks.next().await {
            let chunk = chunk.with_context(|| format!("the answer of {} broke off", self.url))?;
            first.get_or_insert_with(|| begun.elapsed());
            if !status.is_success() {
                text.extend_from_slice(&chunk);
            }
        }
        if !status.is_success() {
            bail!("{} answered {status}: {}", self.url, String::from_utf8_lossy(&text));
        }
        let whole = begun.elapsed();
        Ok(Times { first: first.unwrap_or(whole), whole })
    }

    /// No two are alike: a repeat would be given the answer to the first.
    fn body(&self, size: Size, stream: bool) -> Bytes {
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        let rest = match size {
            Size::Small => &self.small,
            Size::Large => &self.large,
        };
        let messages = json!([{ "role": "user", "content": [{ "type": "text", "text": format!("Step {number}: go on.") }] }]);
        format!("{{\"stream\":{stream},\"messages\":{messages},{rest}").into()
    }
}

/// What is the same in every request of a session: all but the opening brace, `stream` and `messages`.
fn rest(size: Size, session: &str) -> String {
    let words = "Runs a command in the workspace and returns what it printed. ";
    let description: String = words.chars().cycle().take(size.padding()).collect();
    let schema = json!({ "type": "object", "properties": { "command": { "type": "string" } }, "required": ["command"] });
    let rest = json!({
        "model": MODEL,
        "max_tokens": 1024,
        "system": [{ "type": "text", "text": "You are a coding agent." }],
        "tools": [{ "name": "Bash", "description": description, "input_schema": schema }],
        "metadata": { "user_id": json!({ "device_id": "bench", "account_uuid": "", "session_id": session }).to_string() },
    });
    rest.to_string()[1..].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_as_large_as_they_say_and_never_alike() {
        let caller = Caller::new(SocketAddr::from(([127, 0, 0, 1], 1)), "t").unwrap();
        let small = caller.body(Size::Small, true);
        assert!((1500..1700).contains(&small.len()), "{}", small.len());
        assert!((79_500..80_500).contains(&caller.body(Size::Large, true).len()));
        assert_ne!(small, caller.body(Size::Small, true));
        let value: serde_json::Value = serde_json::from_slice(&small).unwrap();
        assert_eq!((value["stream"].as_bool(), value["tools"].as_array().map(Vec::len)), (Some(true), Some(1)));
    }
}
