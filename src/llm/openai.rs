//! OpenAI's API, or anything that is compatible with it: where calls go and with which headers.

use super::{
    Error, Reply,
    client::{Client, secret},
};
use bytes::Bytes;
use reqwest::header::HeaderMap;
use secrecy::SecretString;

/// Where requests go when a provider names no endpoint.
pub const ENDPOINT: &str = "https://api.openai.com/v1";

/// One call.
pub struct Call<'a> {
    /// Base URL, with `/v1` where the provider has it.
    pub endpoint: &'a str,
    /// `/chat/completions` or `/responses`.
    pub path: &'a str,
    /// A server of one's own may need none.
    pub key: Option<&'a SecretString>,
    pub body: Bytes,
}

/// Sends a call and returns when the head of the answer is there, whatever its status.
pub async fn send(client: &Client, call: Call<'_>) -> Result<Reply, Error> {
    let url = format!("{}{}", call.endpoint.trim_end_matches('/'), call.path);
    let mut headers = HeaderMap::new();
    if let Some(key) = call.key {
        headers.insert("authorization", secret("Bearer ", key)?);
    }
    client.post(&url, headers, call.body).await
}

/// The field of chat completions that bounds the output at an endpoint, for requests that name none: OpenAI's newer models
/// refuse `max_tokens`, and not every compatible server knows the newer name.
pub fn output_bound(endpoint: &str) -> &'static str {
    if endpoint.trim_end_matches('/') == ENDPOINT { "max_completion_tokens" } else { "max_tokens" }
}
