//! Model providers: one file per provider, and what they share: the request's shape, the event stream, usage, prices.
//!
//! The wires are those of [`Protocol`]. Inside, a conversation has one form whatever it came in: the Messages API's. What a
//! request may cost and whose it is, is decided elsewhere.

pub mod anthropic;
mod client;
pub mod kept;
pub mod meter;
pub mod openai;
pub mod prices;
mod protocol;
pub mod replay;
pub mod request;
pub mod sse;
pub mod usage_chunk;

pub use client::Client;
pub use protocol::Protocol;

use bytes::Bytes;
use futures::stream::BoxStream;

/// An upstream's answer: its head, and its body as it comes.
pub struct Reply {
    pub status: u16,
    pub content_type: Option<String>,
    /// The provider's id of this call.
    pub request_id: Option<String>,
    pub retry_after: Option<String>,
    /// The provider's `x-should-retry`.
    pub should_retry: Option<String>,
    pub body: BoxStream<'static, Result<Bytes, Broken>>,
}

/// A body that ended too early.
#[derive(Clone, Debug, thiserror::Error)]
#[error("the provider's answer broke off: {0}")]
pub struct Broken(pub String);

/// A call that got no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// Nothing was sent: nothing can have been billed.
    #[error("the provider cannot be reached: {0}")]
    Unreachable(String),
    /// It was sent, and no answer came: it may have been billed.
    #[error("the provider gave no answer: {0}")]
    NoAnswer(String),
}
