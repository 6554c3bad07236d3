//! Rows of the ledger: accounts, leases, entries. What a limit is, and what an ending means, is said by the caller.

use super::{
    CallEnd, CallState, Error, NewCall, NewMessage, Store, Transaction,
    calls::{begin, end},
    connection::query,
};
use jiff::Timestamp;
use serde_json::json;
use std::collections::HashMap;

/// Sums over an account. Money in nano-USD.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Balance {
    /// Charged.
    pub money: i64,
    /// Held by open leases, beside `money`.
    pub reserved: i64,
    pub api_calls: i64,
    pub tokens_in: i64,
    pub tokens_out: i64,
}

/// A reservation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    pub id: String,
    /// `Open`, `Settled`, `Released` or `Expired`.
    pub state: String,
    /// Of the process that reserved.
    pub epoch: i64,
    /// The accounts it is held by, from root to leaf.
    pub accounts: Vec<String>,
    /// Whom the money goes to: the account of the counter-entries.
    pub payee: String,
    /// Nano-USD.
    pub reserved: i64,
    /// Nano-USD.
    pub charged: i64,
    pub expires_at: Timestamp,
}

impl Store {
    /// What an account has consumed; zero for one never charged.
    pub async fn balance(&self, account: &str) -> Result<Balance, Error> {
        let row: Option<Sums> = query(BALANCE).bind(account).fetch_optional(self.reader().await?.connection()).await?;
        Ok(row.map(balance).unwrap_or_default())
    }

    /// The same sums, added up from the entries: what [`Store::balance`] must equal.
    pub async fn audit(&self, account: &str) -> Result<Balance, Error> {
        let sql = "SELECT CAST(COALESCE(SUM(money), 0) AS BIGINT), CAST(COALESCE(SUM(reserved), 0) AS BIGINT), \
                   CAST(COALESCE(SUM(api_calls), 0) AS BIGINT), CAST(COALESCE(SUM(tokens_in), 0) AS BIGINT), \
                   CAST(COALESCE(SUM(tokens_out), 0) AS BIGINT) FROM ledger_entries WHERE account = $1";
        Ok(balance(query(sql).bind(account).fetch_one(self.reader().await?.connection()).await?))
    }
}

/// A time from which on entries may be missing before it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Gap {
    /// When it was found.
    pub at: Timestamp,
    /// `restore` or `failover`.
    pub cause: String,
}

impl Store {
    /// The newest gap that the ledger notes.
    pub async fn ledger_gap(&self) -> Result<Option<Gap>, Error> {
        let sql = "SELECT at_ms, lease FROM ledger_entries WHERE lease IN ('restore', 'failover') AND posting = 'gap' \
                   ORDER BY at_ms DESC LIMIT 1";
        let row: Option<(i64, String)> = query(sql).fetch_optional(self.reader().await?.connection()).await?;
        row.map(|(at, cause)| Ok(Gap { at: super::calls::instant(at)?, cause })).transpose()
    }
}

const BALANCE: &str = "SELECT money, reserved, api_calls, tokens_in, tokens_out FROM ledger_accounts WHERE account = $1";

type Sums = (i64, i64, i64, i64, i64);

fn balance((money, reserved, api_calls, tokens_in, tokens_out): Sums) -> Balance {
    Balance { money, reserved, api_calls, tokens_in, tokens_out }
}

type LeaseRow = (String, String, i64, String, i64, i64, i64);

/// What the call of a lease gets when something is posted to it.
#[derive(Clone, Copy, Debug)]
pub enum OfCall<'a> {
    Nothing,
    Begins(&'a NewCall),
    /// With what the assistant said.
    Ends(&'a CallEnd, Option<&'a NewMessage>),
}

/// A list of lists (10) as rows of `value`.
macro_rules! rows {
    (sqlite) => {
        "json_each($10)"
    };
    (postgres) => {
        "json_array_elements(CAST($10 AS json)) AS rows(value)"
    };
}

/// The lease (1 to 7), or its state and charge.
macro_rules! lease {
    () => {
        "INSERT INTO ledger_leases (id, state, epoch, accounts, reserved, charged, expires_at) VALUES ($1, $2, $3, $4, $5, $6, $7) \
         ON CONFLICT (id) DO UPDATE SET state = excluded.state, charged = excluded.charged, expires_at = excluded.expires_at"
    };
}

/// One entry for each account, at a time (8), of a posting (9).
macro_rules! entries {
    ($engine:ident) => {
        concat!(
            "INSERT INTO ledger_entries (at_ms, lease, posting, account, money, reserved, api_calls, tokens_in, tokens_out) \
             SELECT $8, $1, $9, value ->> 0, CAST(value ->> 1 AS BIGINT), CAST(value ->> 2 AS BIGINT), CAST(value ->> 3 AS BIGINT), \
             CAST(value ->> 4 AS BIGINT), CAST(value ->> 5 AS BIGINT) FROM ",
            rows!($engine)
        )
    };
}

/// The same in the sums.
macro_rules! sums {
    ($engine:ident) => {
        concat!(
            "INSERT INTO ledger_accounts (account, money, reserved, api_calls, tokens_in, tokens_out) \
             SELECT value ->> 0, CAST(value ->> 1 AS BIGINT), CAST(value ->> 2 AS BIGINT), CAST(value ->> 3 AS BIGINT), \
             CAST(value ->> 4 AS BIGINT), CAST(value ->> 5 AS BIGINT) FROM ",
            rows!($engine),
            " WHERE TRUE ON CONFLICT (account) DO UPDATE SET money = ledger_accounts.money + excluded.money, \
             reserved = ledger_accounts.reserved + excluded.reserved, api_calls = ledger_accounts.api_calls + excluded.api_calls, \
             tokens_in = ledger_accounts.tokens_in + excluded.tokens_in, tokens_out = ledger_accounts.tokens_out + excluded.tokens_out"
        )
    };
}

/// All of a posting at once: each statement is a way to the database and back. SQLite takes several statements, PostgreSQL one.
macro_rules! post {
    (sqlite $(, [$name:ident, $more:expr])*) => {
        concat!(lease!(), "; ", entries!(sqlite), "; ", sums!(sqlite) $(, "; ", $more)*)
    };
    (postgres $(, [$name:ident, $more:expr])*) => {
        concat!(
            "WITH lease AS (", lease!(), "), entries AS (", entries!(postgres), ")"
            $(, ", ", stringify!($name), " AS (", $more, ")")*, " ", sums!(postgres)
        )
    };
}

/// The lease's call, begun or ended (from 11).
macro_rules! begins {
    () => {
        begin!("$1", "$8", "$11", "$12", "$13", "$14", "$15", "$16", "$17", "$18", "$19")
    };
}
macro_rules! ends {
    () => {
        end!("$1", "$8", "$11", "$12", "$13", "$14", "$15", "$16", "$17")
    };
}

/// What was said in it, if anything (18, 19).
macro_rules! said {
    () => {
        "INSERT INTO transcript (machine_uid, key, at_ms, role, content) \
         SELECT machine_uid, $18, $8, 'assistant', $19 FROM calls WHERE id = $1 AND $18 IS NOT NULL \
         ON CONFLICT (machine_uid, key) DO NOTHING"
    };
}

impl Transaction<'_> {
    /// What accounts have consumed, in their order; zero for one never charged.
    pub async fn balances(&mut self, accounts: &[String]) -> Result<Vec<Balance>, Error> {
        let sql = self.either(
            "SELECT account, money, reserved, api_calls, tokens_in, tokens_out FROM ledger_accounts \
             WHERE account IN (SELECT value FROM json_each($1))",
            "SELECT account, money, reserved, api_calls, tokens_in, tokens_out FROM ledger_accounts \
             WHERE account IN (SELECT json_array_elements_text(CAST($1 AS json)))",
        );
        type Named = (String, i64, i64, i64, i64, i64);
        let rows: Vec<Named> = query(sql).bind(json!(accounts).to_string()).fetch_all(self.connection()).await?;
        let found: HashMap<String, Balance> =
            rows.into_iter().map(|(account, a, b, c, d, e)| (account, balance((a, b, c, d, e)))).collect();
        Ok(accounts.iter().map(|account| found.get(account).copied().unwrap_or_default()).collect())
    }

    /// Stores a lease, whose state and charge replace what was stored, and posts `change` to each of its accounts and the opposite
    /// to its payee, as entries and in the sums. Its call is begun or ended with it.
    pub async fn post(&mut self, lease: &Lease, posting: &str, change: &Balance, call: OfCall<'_>, at: Timestamp) -> Result<(), Error> {
        let accounts = json!({ "chain": lease.accounts, "payee": lease.payee }).to_string();
        let row = |account: &str, c: &Balance| json!([account, c.money, c.reserved, c.api_calls, c.tokens_in, c.tokens_out]);
        let counter = Balance { money: -change.money, reserved: -change.reserved, ..Balance::default() };
        let mut rows: Vec<serde_json::Value> = lease.accounts.iter().map(|account| row(account, change)).collect();
        rows.push(row(&lease.payee, &counter));
        let sql = match call {
            OfCall::Nothing => self.either(post!(sqlite), post!(postgres)),
            OfCall::Begins(_) => self.either(post!(sqlite, [begins, begins!()]), post!(postgres, [begins, begins!()])),
            OfCall::Ends(..) => {
                self.either(post!(sqlite, [ends, ends!()], [said, said!()]), post!(postgres, [ends, ends!()], [said, said!()]))
            }
        };
        let statement = query(sql)
            .bind(&lease.id)
            .bind(&lease.state)
            .bind(lease.epoch)
            .bind(accounts)
            .bind(lease.reserved)
            .bind(lease.charged)
            .bind(lease.expires_at.as_millisecond())
            .bind(at.as_millisecond())
            .bind(posting)
            .bind(serde_json::Value::from(rows).to_string());
        let statement = match call {
            OfCall::Nothing => statement,
            OfCall::Begins(call) => call.bind(statement, CallState::Open),
            OfCall::Ends(end, said) => end.bind(statement).bind(said.map(|said| &said.key)).bind(said.map(|said| said.content.to_string())),
        };
        statement.execute(self.connection()).await.map(drop)
    }

    pub async fn lease(&mut self, id: &str) -> Result<Option<Lease>, Error> {
        let sql = "SELECT id, state, epoch, accounts, reserved, charged, expires_at FROM ledger_leases WHERE id = $1";
        let row: Option<LeaseRow> = query(sql).bind(id).fetch_optional(self.connection()).await?;
        row.map(lease).transpose()
    }

    /// Open leases that ran out before `now` or belong to an epoch before `epoch`, at most `limit`.
    pub async fn stale_leases(&mut self, now: Timestamp, epoch: i64, limit: u32) -> Result<Vec<Lease>, Error> {
        let sql = "SELECT id, state, epoch, accounts, reserved, charged, expires_at FROM ledger_leases \
                   WHERE state = 'Open' AND (expires_at < $1 OR epoch < $2) ORDER BY expires_at LIMIT $3";
        let query = query(sql).bind(now.as_millisecond()).bind(epoch).bind(limit);
        let rows: Vec<LeaseRow> = query.fetch_all(self.connection()).await?;
        rows.into_iter().map(lease).collect()
    }

    /// Extends an open lease; `false` when it is not open any more.
    pub async fn extend_lease(&mut self, id: &str, expires_at: Timestamp) -> Result<bool, Error> {
        let sql = "UPDATE ledger_leases SET expires_at = $2 WHERE id = $1 AND state = 'Open'";
        let done = query(sql).bind(id).bind(expires_at.as_millisecond()).execute(self.connection()).await?;
        Ok(done == 1)
    }
}

fn lease((id, state, epoch, accounts, reserved, charged, expires_at): LeaseRow) -> Result<Lease, Error> {
    #[derive(serde::Deserialize)]
    struct Accounts {
        chain: Vec<String>,
        payee: String,
    }
    let accounts: Accounts = serde_json::from_str(&accounts).map_err(|e| Error::Corrupt(format!("accounts of lease {id}: {e}")))?;
    let expires_at = super::calls::instant(expires_at)?;
    Ok(Lease { id, state, epoch, accounts: accounts.chain, payee: accounts.payee, reserved, charged, expires_at })
}
