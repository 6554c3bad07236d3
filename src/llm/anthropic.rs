//! The client of Anthropic's Messages API, or of anything that speaks it. No redirects, no proxies, no cookies: the key
//! goes to the configured endpoint and nowhere else.

use super::{Broken, Error, Reply};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use secrecy::{ExposeSecret, SecretString};
use std::time::Duration;

/// Where requests go when a provider names no endpoint.
pub const ENDPOINT: &str = "https://api.anthropic.com";
/// The API version that is sent when an agent names none.
const VERSION: &str = "2023-06-01";
/// Agents give up after 300 s of silence; what is silent for twice as long is dead.
const SILENCE: Duration = Duration::from_mins(10);
const CONNECT: Duration = Duration::from_secs(10);

/// One call.
pub struct Call<'a> {
    /// Base URL, without `/v1`.
    pub endpoint: &'a str,
    /// `/v1/messages` or `/v1/messages/count_tokens`.
    pub path: &'a str,
    /// `?beta=true`.
    pub beta: bool,
    pub key: &'a SecretString,
    /// The agent's `anthropic-version` and `anthropic-beta`.
    pub version: Option<&'a str>,
    pub betas: Option<&'a str>,
    pub body: Bytes,
}

/// A client; cheap to clone.
#[derive(Clone, Debug)]
pub struct Client(reqwest::Client);

impl Client {
    pub fn new() -> Result<Self, Error> {
        let client = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .connect_timeout(CONNECT)
            .read_timeout(SILENCE)
            .user_agent(concat!("autovibe/", env!("CARGO_PKG_VERSION")))
            .build();
        client.map(Self).map_err(|e| Error::Unreachable(cause(&e)))
    }

    /// Sends a call and returns when the head of the answer is there, whatever its status.
    pub async fn send(&self, call: Call<'_>) -> Result<Reply, Error> {
        let url = format!("{}{}{}", call.endpoint.trim_end_matches('/'), call.path, if call.beta { "?beta=true" } else { "" });
        let mut key = reqwest::header::HeaderValue::from_str(call.key.expose_secret().trim())
            .map_err(|_| Error::Unreachable("the key in the Secret is not a header value".into()))?;
        key.set_sensitive(true);
        let mut request = self
            .0
            .post(url)
            .header("content-type", "application/json")
            .header("x-api-key", key)
            .header("anthropic-version", call.version.unwrap_or(VERSION))
            .body(call.body);
        if let Some(betas) = call.betas {
            request = request.header("anthropic-beta", betas);
        }
        let response = request
            .send()
            .await
            .map_err(|e| if e.is_connect() || e.is_builder() { Error::Unreachable(cause(&e)) } else { Error::NoAnswer(cause(&e)) })?;
        let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        Ok(Reply {
            status: response.status().as_u16(),
            content_type: header("content-type"),
            request_id: header("request-id"),
            retry_after: header("retry-after"),
            should_retry: header("x-should-retry"),
            body: response.bytes_stream().map_err(|e| Broken(cause(&e))).boxed(),
        })
    }
}

/// The innermost cause, without the URL.
fn cause(error: &reqwest::Error) -> String {
    let mut inner: &dyn std::error::Error = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    if std::ptr::addr_eq(inner, error) { error.to_string() } else { inner.to_string() }
}
