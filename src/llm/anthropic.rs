//! Anthropic's Messages API, or anything that speaks it: where calls go and with which headers.

use super::{
    Error, Reply,
    client::{Client, plain, secret},
};
use bytes::Bytes;
use reqwest::header::HeaderMap;
use secrecy::SecretString;

/// Where requests go when a provider names no endpoint.
pub const ENDPOINT: &str = "https://api.anthropic.com";
/// The API version that is sent when an agent names none.
const VERSION: &str = "2023-06-01";

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

/// Sends a call and returns when the head of the answer is there, whatever its status.
pub async fn send(client: &Client, call: Call<'_>) -> Result<Reply, Error> {
    let url = format!("{}{}{}", call.endpoint.trim_end_matches('/'), call.path, if call.beta { "?beta=true" } else { "" });
    let mut headers = HeaderMap::new();
    headers.insert("x-api-key", secret("", call.key)?);
    headers.insert("anthropic-version", plain(call.version.unwrap_or(VERSION))?);
    if let Some(betas) = call.betas {
        headers.insert("anthropic-beta", plain(betas)?);
    }
    client.post(&url, headers, call.body).await
}
