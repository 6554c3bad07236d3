//! Rows of the ledger: accounts, leases, entries. What a limit is, and what an ending means, is said by the caller.

use super::{
    CallEnd, Error, NewCall, NewMessage, Store, Transaction,
    calls::plain,
    connection::{Statement, query},
};
use jiff::Timestamp;
use serde_json::{Value, json};
use std::collections::{BTreeMap, HashMap};

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

impl std::ops::AddAssign for Balance {
    fn add_assign(&mut self, other: Self) {
        self.money += other.money;
        self.reserved += other.reserved;
        self.api_calls += other.api_calls;
        self.tokens_in += other.tokens_in;
        self.tokens_out += other.tokens_out;
    }
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

/// A change of a lease, which is posted to each of its accounts and, as its opposite, to its payee.
pub struct Posting<'a> {
    /// Its state and charge replace what was stored.
    pub lease: Lease,
    /// `reserve`, `settle`, `release` or `expire`.
    pub name: &'static str,
    pub change: Balance,
    pub call: OfCall<'a>,
}

/// What becomes of the lease's call with it.
pub enum OfCall<'a> {
    Nothing,
    /// It is open from now on.
    Begins(&'a NewCall),
    /// With what the assistant said.
    Ends(&'a CallEnd, Option<&'a NewMessage>),
}

/// A parameter's list of lists as `given.value`.
macro_rules! rows {
    (sqlite, $place:literal) => {
        concat!(" FROM json_each(", $place, ") AS given ")
    };
    (postgres, $place:literal) => {
        concat!(" FROM json_array_elements(CAST(", $place, " AS json)) AS given(value) ")
    };
}
macro_rules! text {
    ($at:literal) => {
        concat!("given.value ->> ", $at)
    };
}
macro_rules! integer {
    ($at:literal) => {
        concat!("CAST(given.value ->> ", $at, " AS BIGINT)")
    };
}
macro_rules! sums {
    () => {
        concat!(integer!(3), ", ", integer!(4), ", ", integer!(5), ", ", integer!(6), ", ", integer!(7))
    };
}

/// Leases (2), or their states and charges.
macro_rules! leases {
    ($engine:ident) => {
        concat!(
            "INSERT INTO ledger_leases (id, state, accounts, epoch, reserved, charged, expires_at) SELECT ",
            concat!(text!(0), ", ", text!(1), ", ", text!(2), ", ", integer!(3), ", ", integer!(4), ", ", integer!(5), ", ", integer!(6)),
            rows!($engine, "$2"),
            "WHERE TRUE ON CONFLICT (id) DO UPDATE SET state = excluded.state, charged = excluded.charged, expires_at = excluded.expires_at"
        )
    };
}

/// Entries (3) at a time (1).
macro_rules! entries {
    ($engine:ident) => {
        concat!(
            "INSERT INTO ledger_entries (at_ms, lease, posting, account, money, reserved, api_calls, tokens_in, tokens_out) SELECT $1, ",
            concat!(text!(0), ", ", text!(1), ", ", text!(2), ", ", sums!()),
            rows!($engine, "$3")
        )
    };
}

/// What they come to for each account (4).
macro_rules! accounts {
    ($engine:ident) => {
        concat!(
            "INSERT INTO ledger_accounts (account, money, reserved, api_calls, tokens_in, tokens_out) SELECT ",
            concat!(text!(2), ", ", sums!()),
            rows!($engine, "$4"),
            "WHERE TRUE ON CONFLICT (account) DO UPDATE SET money = ledger_accounts.money + excluded.money, \
             reserved = ledger_accounts.reserved + excluded.reserved, api_calls = ledger_accounts.api_calls + excluded.api_calls, \
             tokens_in = ledger_accounts.tokens_in + excluded.tokens_in, tokens_out = ledger_accounts.tokens_out + excluded.tokens_out"
        )
    };
}

/// Calls (5) that begin.
macro_rules! begun {
    ($engine:ident) => {
        concat!(
            "INSERT INTO calls (started_at_ms, state, id, machine_uid, kind, session, body_hash, provider, model, price_source, turn) SELECT $1, 'Open', ",
            concat!(text!(0), ", ", text!(1), ", ", text!(2), ", ", text!(3), ", ", text!(4), ", ", text!(5), ", ", text!(6), ", "),
            concat!(text!(7), ", ", integer!(8)),
            rows!($engine, "$5")
        )
    };
}

/// Calls (6) that end.
macro_rules! ended {
    ($engine:ident) => {
        concat!(
            "UPDATE calls SET ended_at_ms = $1, ",
            concat!("state = ", text!(1), ", stop_reason = ", text!(2), ", usage = ", text!(3), ", detail = ", text!(4)),
            concat!(", status = ", integer!(5), ", estimated = ", integer!(6), ", cost = ", integer!(7)),
            rows!($engine, "$6"),
            "WHERE calls.id = given.value ->> 0"
        )
    };
}

/// What was said in calls (7).
macro_rules! said {
    ($engine:ident) => {
        concat!(
            "INSERT INTO transcript (machine_uid, at_ms, role, key, content) SELECT calls.machine_uid, $1, 'assistant', ",
            concat!(text!(1), ", ", text!(2)),
            rows!($engine, "$7"),
            "CROSS JOIN calls WHERE calls.id = given.value ->> 0 ON CONFLICT (machine_uid, key) DO NOTHING"
        )
    };
}

/// All of it at once, for each statement is a way to the database and back. SQLite takes several in one text,
const ON_SQLITE: &str = concat!(
    concat!(leases!(sqlite), "; ", entries!(sqlite), "; ", begun!(sqlite), "; "),
    concat!(ended!(sqlite), "; ", said!(sqlite), "; ", accounts!(sqlite))
);
/// PostgreSQL one, with parts.
const ON_POSTGRES: &str = concat!(
    concat!("WITH leases AS (", leases!(postgres), "), entries AS (", entries!(postgres), "), begun AS (", begun!(postgres), "), "),
    concat!("ended AS (", ended!(postgres), "), said AS (", said!(postgres), ") ", accounts!(postgres))
);

fn row(lease: &str, posting: &str, account: &str, change: &Balance) -> Value {
    json!([lease, posting, account, change.money, change.reserved, change.api_calls, change.tokens_in, change.tokens_out])
}

impl Transaction<'_> {
    /// What accounts have consumed; none of those that were never charged.
    pub async fn balances(&mut self, accounts: &[String]) -> Result<HashMap<String, Balance>, Error> {
        type Named = (String, i64, i64, i64, i64, i64);
        let sql = self.either(
            "SELECT account, money, reserved, api_calls, tokens_in, tokens_out FROM ledger_accounts \
             WHERE account IN (SELECT value FROM json_each($1))",
            "SELECT account, money, reserved, api_calls, tokens_in, tokens_out FROM ledger_accounts \
             WHERE account IN (SELECT json_array_elements_text(CAST($1 AS json)))",
        );
        let rows: Vec<Named> = query(sql).bind(json!(accounts).to_string()).fetch_all(self.connection()).await?;
        Ok(rows.into_iter().map(|(account, a, b, c, d, e)| (account, balance((a, b, c, d, e)))).collect())
    }

    /// The leases of these ids, as far as they are there.
    pub async fn leases(&mut self, ids: &[String]) -> Result<HashMap<String, Lease>, Error> {
        let sql = self.either(
            "SELECT id, state, epoch, accounts, reserved, charged, expires_at FROM ledger_leases \
             WHERE id IN (SELECT value FROM json_each($1))",
            "SELECT id, state, epoch, accounts, reserved, charged, expires_at FROM ledger_leases \
             WHERE id IN (SELECT json_array_elements_text(CAST($1 AS json)))",
        );
        let rows: Vec<LeaseRow> = query(sql).bind(json!(ids).to_string()).fetch_all(self.connection()).await?;
        rows.into_iter().map(|row| lease(row).map(|lease| (lease.id.clone(), lease))).collect()
    }

    /// Stores leases and posts their changes, as entries and in the sums, with what becomes of their calls. Each lease is there once.
    pub async fn post(&mut self, postings: &[Posting<'_>], at: Timestamp) -> Result<(), Error> {
        let (mut leases, mut entries, mut sums) = (Vec::new(), Vec::new(), BTreeMap::<&str, Balance>::new());
        let (mut begun, mut ended, mut messages) = (Vec::new(), Vec::new(), Vec::new());
        for Posting { lease, name, change, call } in postings {
            let accounts = json!({ "chain": lease.accounts, "payee": lease.payee }).to_string();
            let expires_at = lease.expires_at.as_millisecond();
            leases.push(json!([lease.id, lease.state, accounts, lease.epoch, lease.reserved, lease.charged, expires_at]));
            let counter = Balance { money: -change.money, reserved: -change.reserved, ..Balance::default() };
            for (account, change) in lease.accounts.iter().map(|account| (account, change)).chain([(&lease.payee, &counter)]) {
                entries.push(row(&lease.id, name, account, change));
                *sums.entry(account).or_default() += *change;
            }
            match call {
                OfCall::Nothing => {}
                OfCall::Begins(call) => begun.push(call.row()),
                OfCall::Ends(end, said) => {
                    ended.push(end.row(&lease.id));
                    messages.extend(said.map(|said| json!([lease.id, plain(&said.key), said.content.to_string()])));
                }
            }
        }
        let sums = sums.into_iter().map(|(account, change)| row("", "", account, &change)).collect();
        let statement = query(self.either(ON_SQLITE, ON_POSTGRES)).bind(at.as_millisecond());
        let lists = [leases, entries, sums, begun, ended, messages].into_iter().map(|rows| Value::Array(rows).to_string());
        lists.fold(statement, Statement::bind).execute(self.connection()).await.map(drop)
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
