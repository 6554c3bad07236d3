//! Rows of the ledger: accounts, leases, entries. What a limit is, and what an ending means, is said by the caller.

use super::{Error, Store, Transaction, connection::query};
use jiff::Timestamp;

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

impl Transaction<'_> {
    /// What an account has consumed; zero for one never charged.
    pub async fn balance(&mut self, account: &str) -> Result<Balance, Error> {
        let row: Option<Sums> = query(BALANCE).bind(account).fetch_optional(self.connection()).await?;
        Ok(row.map(balance).unwrap_or_default())
    }

    /// Stores a lease; its state and charge replace what was stored. Posts nothing.
    pub async fn put_lease(&mut self, lease: &Lease) -> Result<(), Error> {
        let accounts = serde_json::json!({ "chain": lease.accounts, "payee": lease.payee }).to_string();
        let sql = "INSERT INTO ledger_leases (id, state, epoch, accounts, reserved, charged, expires_at) VALUES ($1, $2, $3, $4, $5, $6, $7) \
                   ON CONFLICT (id) DO UPDATE SET state = excluded.state, charged = excluded.charged, expires_at = excluded.expires_at";
        query(sql)
            .bind(&lease.id)
            .bind(&lease.state)
            .bind(lease.epoch)
            .bind(accounts)
            .bind(lease.reserved)
            .bind(lease.charged)
            .bind(lease.expires_at.as_millisecond())
            .execute(self.connection())
            .await?;
        Ok(())
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

    /// Posts `change` to every account of a lease and its opposite to the payee, as entries and in the sums.
    pub async fn post(&mut self, lease: &Lease, posting: &str, change: &Balance, at: Timestamp) -> Result<(), Error> {
        for account in &lease.accounts {
            self.post_one(&lease.id, posting, account, change, at).await?;
        }
        let counter = Balance { money: -change.money, reserved: -change.reserved, ..Balance::default() };
        self.post_one(&lease.id, posting, &lease.payee, &counter, at).await
    }

    async fn post_one(&mut self, lease: &str, posting: &str, account: &str, change: &Balance, at: Timestamp) -> Result<(), Error> {
        let sql = "INSERT INTO ledger_entries (at_ms, lease, posting, account, money, reserved, api_calls, tokens_in, tokens_out) \
                   VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)";
        query(sql)
            .bind(at.as_millisecond())
            .bind(lease)
            .bind(posting)
            .bind(account)
            .bind(change.money)
            .bind(change.reserved)
            .bind(change.api_calls)
            .bind(change.tokens_in)
            .bind(change.tokens_out)
            .execute(self.connection())
            .await?;
        let sql = "INSERT INTO ledger_accounts (account, money, reserved, api_calls, tokens_in, tokens_out) VALUES ($1, $2, $3, $4, $5, $6) \
                   ON CONFLICT (account) DO UPDATE SET money = ledger_accounts.money + excluded.money, \
                   reserved = ledger_accounts.reserved + excluded.reserved, api_calls = ledger_accounts.api_calls + excluded.api_calls, \
                   tokens_in = ledger_accounts.tokens_in + excluded.tokens_in, tokens_out = ledger_accounts.tokens_out + excluded.tokens_out";
        query(sql)
            .bind(account)
            .bind(change.money)
            .bind(change.reserved)
            .bind(change.api_calls)
            .bind(change.tokens_in)
            .bind(change.tokens_out)
            .execute(self.connection())
            .await?;
        Ok(())
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
