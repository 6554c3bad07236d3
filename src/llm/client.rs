//! The HTTP client for all providers. No redirects, no proxies, no cookies: the key goes to the configured endpoint and
//! nowhere else.

use super::{Broken, Error, Reply};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use reqwest::header::{HeaderMap, HeaderValue};
use secrecy::{ExposeSecret, SecretString};
use std::time::Duration;

/// Agents give up after 300 s of silence; what is silent for twice as long is dead.
const SILENCE: Duration = Duration::from_mins(10);
const CONNECT: Duration = Duration::from_secs(10);

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

    /// Posts JSON and returns when the head of the answer is there, whatever its status.
    pub(super) async fn post(&self, url: &str, headers: HeaderMap, body: Bytes) -> Result<Reply, Error> {
        let sent = self.0.post(url).headers(headers).header("content-type", "application/json").body(body).send().await;
        let response =
            sent.map_err(|e| if e.is_connect() || e.is_builder() { Error::Unreachable(cause(&e)) } else { Error::NoAnswer(cause(&e)) })?;
        let header = |name: &str| response.headers().get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        Ok(Reply {
            status: response.status().as_u16(),
            content_type: header("content-type"),
            request_id: header("request-id").or_else(|| header("x-request-id")),
            retry_after: header("retry-after"),
            should_retry: header("x-should-retry"),
            body: response.bytes_stream().map_err(|e| Broken(cause(&e))).boxed(),
        })
    }
}

/// A header with a key, which nothing prints.
pub(super) fn secret(prefix: &str, key: &SecretString) -> Result<HeaderValue, Error> {
    let mut value = HeaderValue::from_str(&format!("{prefix}{}", key.expose_secret().trim()))
        .map_err(|_| Error::Unreachable("the key in the Secret is not a header value".into()))?;
    value.set_sensitive(true);
    Ok(value)
}

/// A header of an agent, passed on.
pub(super) fn plain(value: &str) -> Result<HeaderValue, Error> {
    HeaderValue::from_str(value).map_err(|_| Error::Unreachable("the agent sent a header that cannot be passed on".into()))
}

/// The innermost cause, without the URL.
fn cause(error: &reqwest::Error) -> String {
    let mut inner: &dyn std::error::Error = error;
    while let Some(source) = inner.source() {
        inner = source;
    }
    if std::ptr::addr_eq(inner, error) { error.to_string() } else { inner.to_string() }
}
