//! The gateway's log of model calls: what was asked, how it ended, what it cost. Never what was said.

use super::{Error, Store, Transaction};
use jiff::Timestamp;

/// How far a call came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallState {
    /// It runs.
    Open,
    /// It ended and its cost is known.
    Settled,
    /// The budget did not allow it.
    Refused,
    /// The answer broke off, or the gateway died under it.
    Cut,
    /// The provider refused it or could not be reached.
    Failed,
}

/// Whose request it is within its Machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallKind {
    /// The agent's conversation.
    Main,
    /// A sub-agent's.
    Sub,
    /// A title, a summary: no part of a conversation.
    Side,
}

/// A call as controllers see it.
#[derive(Clone, Debug, PartialEq)]
pub struct CallSummary {
    pub id: String,
    pub started_at: Timestamp,
    pub state: CallState,
    /// As the model gave it: `end_turn`, `tool_use`, `max_tokens`.
    pub stop_reason: Option<String>,
    /// HTTP status of the answer to the agent.
    pub status: Option<u16>,
}

/// A call when it begins.
#[derive(Clone, Debug)]
pub struct NewCall {
    /// Also the id of its lease.
    pub id: String,
    pub machine_uid: String,
    pub kind: CallKind,
    pub session: String,
    /// Number of the boundary within the Machine; 0 for side requests.
    pub turn: u64,
    /// SHA-256 of the body without `stream`, hex.
    pub body_hash: String,
    pub provider: String,
    pub model: String,
    /// Where its prices come from, with version.
    pub price_source: String,
}

/// How a call ended.
#[derive(Clone, Debug)]
pub struct CallEnd {
    pub state: CallState,
    pub status: Option<u16>,
    pub stop_reason: Option<String>,
    /// Whether the cost is counted or assumed rather than reported.
    pub estimated: bool,
    /// The provider's usage, JSON.
    pub usage: Option<String>,
    /// Nano-USD.
    pub cost: Option<i64>,
    /// For people: why it failed.
    pub detail: Option<String>,
}

impl Store {
    /// The newest call of the agent's own conversation.
    pub async fn last_main_call(&self, _machine_uid: &str) -> Result<Option<CallSummary>, Error> {
        unimplemented!()
    }

    /// The highest turn of a Machine and the body hash of its newest main call; `(0, None)` before the first.
    pub async fn last_turn(&self, _machine_uid: &str) -> Result<(u64, Option<String>), Error> {
        unimplemented!()
    }
}

impl Transaction<'_> {
    /// Records a call as `state`, begun at `at`.
    pub async fn begin_call(&mut self, _call: &NewCall, _state: CallState, _at: Timestamp) -> Result<(), Error> {
        unimplemented!()
    }

    /// Records how a call ended; a later end replaces it.
    pub async fn end_call(&mut self, _id: &str, _end: &CallEnd, _at: Timestamp) -> Result<(), Error> {
        unimplemented!()
    }
}
