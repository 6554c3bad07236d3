//! What the agent and the model said to each other, message by message, each stored once.

use super::{Error, Store, Transaction, calls::instant, connection::query};
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
    pub async fn transcript(&self, machine_uid: &str, after_seq: i64, limit: u32) -> Result<Vec<TranscriptEntry>, Error> {
        let sql = "SELECT seq, at_ms, role, content FROM transcript WHERE machine_uid = $1 AND seq > $2 ORDER BY seq LIMIT $3";
        let query = query(sql).bind(machine_uid).bind(after_seq).bind(limit);
        let rows: Vec<(i64, i64, String, String)> = query.fetch_all(self.reader().await?.connection()).await?;
        let entry = |(seq, at, role, content): (i64, i64, String, String)| {
            let content =
                serde_json::from_str(&content).map_err(|e| Error::Corrupt(format!("message {seq} of the transcript is not JSON: {e}")))?;
            Ok(TranscriptEntry { seq, at: instant(at)?, role, content })
        };
        rows.into_iter().map(entry).collect()
    }
}

impl Transaction<'_> {
    /// Stores those messages of a Machine that are not stored yet, in order.
    pub async fn append_transcript(&mut self, machine_uid: &str, messages: &[NewMessage], at: Timestamp) -> Result<(), Error> {
        let sql = "INSERT INTO transcript (machine_uid, key, at_ms, role, content) VALUES ($1, $2, $3, $4, $5) ON CONFLICT (machine_uid, key) DO NOTHING";
        for message in messages {
            let query = query(sql).bind(machine_uid).bind(&message.key).bind(at.as_millisecond()).bind(&message.role);
            query.bind(message.content.to_string()).execute(self.connection()).await?;
        }
        Ok(())
    }
}
