//! Who may act: whoever holds the controllers' Lease, in this process or another, under the epoch that began with that.
//!
//! Each transaction of a leader checks that its epoch is still the leader's, and with that each intent before an action.
//! Whoever only serves the API or the gateway is never refused.

use super::{Error, Store, Transaction, connection::Link, connection::query};

/// Begins another epoch of the process that has the database to itself.
pub(super) async fn next_epoch(connection: Link<'_>) -> Result<i64, Error> {
    let sql = "UPDATE meta SET value = CAST(CAST(value AS BIGINT) + 1 AS TEXT) WHERE key = 'epoch' RETURNING CAST(value AS BIGINT)";
    let (epoch,): (i64,) = query(sql).fetch_one(connection).await?;
    Ok(epoch)
}

/// Names the leader's epoch in `meta`.
const LEADER: &str = "leader";

impl Store {
    /// Rises with each process that opens a SQLite database, which it then has to itself: what an earlier one left open is
    /// dead. 0 on PostgreSQL, where others may live.
    pub fn process_epoch(&self) -> i64 {
        self.shared.epoch
    }

    /// The leader's epoch under which is written; 0 when it is under none.
    pub fn epoch(&self) -> i64 {
        self.fence.unwrap_or_default()
    }

    /// The same store, where each write is refused as `Fenced`, in its own transaction, unless `epoch` is the leader's then.
    #[must_use]
    pub fn under(&self, epoch: i64) -> Self {
        Self { fence: Some(epoch), ..self.clone() }
    }
}

impl Transaction<'_> {
    /// The leader's epoch; 0 before the first leader.
    pub async fn leader_epoch(&mut self) -> Result<i64, Error> {
        let sql = "SELECT CAST(value AS BIGINT) FROM meta WHERE key = $1";
        let row: Option<(i64,)> = query(sql).bind(LEADER).fetch_optional(self.connection()).await?;
        Ok(row.map_or(0, |(epoch,)| epoch))
    }

    /// Begins the epoch of another leader: from this commit on, the one before can write nothing more.
    pub async fn next_leader(&mut self) -> Result<i64, Error> {
        let epoch = self.leader_epoch().await? + 1;
        let sql = "INSERT INTO meta (key, value) VALUES ($1, $2) ON CONFLICT (key) DO UPDATE SET value = excluded.value";
        query(sql).bind(LEADER).bind(epoch.to_string()).execute(self.connection()).await?;
        Ok(epoch)
    }

    /// Errors: `Fenced` when the leader's epoch is not `ours`.
    pub(super) async fn check_leader(&mut self, ours: i64) -> Result<(), Error> {
        let theirs = self.leader_epoch().await?;
        if theirs == ours { Ok(()) } else { Err(Error::Fenced { ours, theirs }) }
    }
}
