//! The gateway's log of model calls: what was asked, how it ended, what it cost. Never what was said.

use super::{Error, Store, Transaction, connection::query};
use jiff::Timestamp;
use serde_json::{Value, json};

/// How far a call came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
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
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CallSummary {
    pub id: String,
    pub started_at: Timestamp,
    pub state: CallState,
    /// As the model gave it: `end_turn`, `tool_use`, `max_tokens`.
    pub stop_reason: Option<String>,
    /// HTTP status of the answer to the agent.
    pub status: Option<u16>,
    /// For people: why it failed, as the agent was told; without the provider's key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// Where a conversation stands.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LastTurn {
    /// The highest turn that was given.
    pub turn: u64,
    /// Session and body hash of the newest main call.
    pub main: Option<(String, String)>,
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

impl CallEnd {
    /// An end in `state` of which nothing else is known.
    pub fn of(state: CallState) -> Self {
        Self { state, status: None, stop_reason: None, estimated: false, usage: None, cost: None, detail: None }
    }
}

impl Store {
    /// The newest call of the agent's own conversation.
    pub async fn last_main_call(&self, machine_uid: &str) -> Result<Option<CallSummary>, Error> {
        let sql = "SELECT id, started_at_ms, state, stop_reason, status, detail FROM calls WHERE machine_uid = $1 AND kind = 'Main' ORDER BY seq DESC LIMIT 1";
        let row: Option<SummaryRow> = query(sql).bind(machine_uid).fetch_optional(self.reader().await?.connection()).await?;
        let Some((id, started, state, stop_reason, status, detail)) = row else { return Ok(None) };
        let status =
            status.map(u16::try_from).transpose().map_err(|_| Error::Corrupt(format!("the status of call {id} is none of HTTP")))?;
        Ok(Some(CallSummary { id, started_at: instant(started)?, state: CallState::parse(&state)?, stop_reason, status, detail }))
    }

    /// Where the conversation of a Machine stands; `Default` before its first call.
    pub async fn last_turn(&self, machine_uid: &str) -> Result<LastTurn, Error> {
        let mut reader = self.reader().await?;
        let sql = "SELECT COALESCE(MAX(turn), 0) FROM calls WHERE machine_uid = $1";
        let (turn,): (i64,) = query(sql).bind(machine_uid).fetch_one(reader.connection()).await?;
        let sql = "SELECT session, body_hash FROM calls WHERE machine_uid = $1 AND kind = 'Main' ORDER BY seq DESC LIMIT 1";
        let main: Option<(String, String)> = query(sql).bind(machine_uid).fetch_optional(reader.connection()).await?;
        Ok(LastTurn { turn: turn.unsigned_abs(), main })
    }
}

/// A text without what PostgreSQL has in none; what providers and agents say may have a NUL.
pub(super) fn plain(text: &str) -> String {
    text.replace('\0', "\u{FFFD}")
}

impl NewCall {
    /// As the ledger's statement takes it.
    pub(super) fn row(&self) -> Value {
        let Self { id, machine_uid, kind, session, turn, body_hash, provider, model, price_source } = self;
        json!([id, machine_uid, kind.text(), plain(session), body_hash, provider, plain(model), price_source, turn])
    }
}

impl CallEnd {
    /// The end of this call, as the ledger's statement takes it.
    pub(super) fn row(&self, id: &str) -> Value {
        let Self { state, status, stop_reason, estimated, usage, cost, detail } = self;
        let (stop_reason, detail) = (stop_reason.as_deref().map(plain), detail.as_deref().map(plain));
        json!([id, state.text(), stop_reason, usage, detail, status, i64::from(*estimated), cost])
    }
}

impl Transaction<'_> {
    /// Records a call that was refused at `at`, and why.
    pub async fn refuse_call(&mut self, call: &NewCall, why: &str, at: Timestamp) -> Result<(), Error> {
        let sql = "INSERT INTO calls (id, machine_uid, kind, session, turn, body_hash, provider, model, price_source, started_at_ms, \
                   ended_at_ms, state, status, detail) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $10, 'Refused', 400, $11)";
        query(sql)
            .bind(&call.id)
            .bind(&call.machine_uid)
            .bind(call.kind.text())
            .bind(&call.session)
            .bind(call.turn.cast_signed())
            .bind(&call.body_hash)
            .bind(&call.provider)
            .bind(&call.model)
            .bind(&call.price_source)
            .bind(at.as_millisecond())
            .bind(why)
            .execute(self.connection())
            .await?;
        Ok(())
    }

    /// Records how a call ended; a later end replaces it.
    pub async fn end_call(&mut self, id: &str, end: &CallEnd, at: Timestamp) -> Result<(), Error> {
        let sql = "UPDATE calls SET state = $2, status = $3, stop_reason = $4, estimated = $5, usage = $6, cost = $7, detail = $8, ended_at_ms = $9 \
                   WHERE id = $1";
        query(sql)
            .bind(id)
            .bind(end.state.text())
            .bind(end.status)
            .bind(&end.stop_reason)
            .bind(end.estimated)
            .bind(&end.usage)
            .bind(end.cost)
            .bind(&end.detail)
            .bind(at.as_millisecond())
            .execute(self.connection())
            .await?;
        Ok(())
    }

    /// Marks a call whose process died under it as `Cut`, charged at `cost` nano-USD.
    pub async fn cut_call(&mut self, id: &str, cost: i64, at: Timestamp) -> Result<(), Error> {
        let sql = "UPDATE calls SET state = 'Cut', estimated = 1, cost = $2, ended_at_ms = $3, \
                   detail = 'nobody saw its end: charged at its worst case' WHERE id = $1 AND state = 'Open'";
        query(sql).bind(id).bind(cost).bind(at.as_millisecond()).execute(self.connection()).await?;
        Ok(())
    }
}

impl CallState {
    fn text(self) -> &'static str {
        match self {
            Self::Open => "Open",
            Self::Settled => "Settled",
            Self::Refused => "Refused",
            Self::Cut => "Cut",
            Self::Failed => "Failed",
        }
    }

    fn parse(text: &str) -> Result<Self, Error> {
        [Self::Open, Self::Settled, Self::Refused, Self::Cut, Self::Failed]
            .into_iter()
            .find(|state| state.text() == text)
            .ok_or_else(|| Error::Corrupt(format!("`{text}` is not a state of a call")))
    }
}

impl CallKind {
    fn text(self) -> &'static str {
        match self {
            Self::Main => "Main",
            Self::Sub => "Sub",
            Self::Side => "Side",
        }
    }
}

/// id, start, state, stop reason, status, detail
type SummaryRow = (String, i64, String, Option<String>, Option<i64>, Option<String>);

/// An instant from its stored milliseconds.
pub(super) fn instant(milliseconds: i64) -> Result<Timestamp, Error> {
    Timestamp::from_millisecond(milliseconds).map_err(|e| Error::Corrupt(format!("{milliseconds} is not an instant: {e}")))
}
