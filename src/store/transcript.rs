//! What the agent and the model said to each other, message by message, each stored once.

use super::{Error, Store, Transaction};
use jiff::Timestamp;
use serde_json::Value;

/// A stored message.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TranscriptEntry {
    /// Rises within a Machine; read on from it.
    pub seq: i64,
    pub at: Timestamp,
    /// `user` or `assistant`.
    pub role: String,
    /// A list of content blocks as the Messages API writes them, secrets redacted.
    pub content: Value,
}

/// A message to store.
#[derive(Clone, Debug, PartialEq)]
pub struct NewMessage {
    /// Equal for the same message seen again: it is stored once.
    pub key: String,
    pub role: String,
    pub content: Value,
}

impl Store {
    /// Messages of a Machine after `after_seq` (0 for all), oldest first, at most `limit`.
    pub async fn transcript(&self, _machine_uid: &str, _after_seq: i64, _limit: u32) -> Result<Vec<TranscriptEntry>, Error> {
        unimplemented!()
    }
}

impl Transaction<'_> {
    /// Stores those messages of a Machine that are not stored yet, in order.
    pub async fn append_transcript(&mut self, _machine_uid: &str, _messages: &[NewMessage], _at: Timestamp) -> Result<(), Error> {
        unimplemented!()
    }
}
