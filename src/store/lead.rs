//! Who may act: of the processes on one database the one that took over last, under the epoch that began with that.
//!
//! Neither Proxmox nor ZFS can check an epoch. So the process that runs controllers takes over first, and then each of its
//! transactions, and with that each intent before an action, checks that the epoch is still its own. A process that only
//! serves the API never leads, and is never refused. SQLite is open in one process, which leads from the start.

use super::{Error, Store, Transaction, connection::Link, connection::query};
use std::sync::atomic::{AtomicI64, Ordering};
use tokio_util::sync::CancellationToken;

/// Whether this process leads.
pub(super) struct Lead {
    /// 0 as long as it does not.
    epoch: AtomicI64,
    lost: CancellationToken,
}

impl Lead {
    pub(super) fn new(epoch: i64) -> Self {
        Self { epoch: AtomicI64::new(epoch), lost: CancellationToken::new() }
    }

    /// The epoch under which it does, else 0.
    pub(super) fn epoch(&self) -> i64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Refuses to go on when another process leads where we did; `stored` is the database's epoch.
    pub(super) fn check(&self, stored: i64) -> Result<(), Error> {
        let ours = self.epoch();
        if ours == 0 || stored == ours {
            return Ok(());
        }
        self.lost.cancel();
        Err(Error::Fenced { ours, theirs: stored })
    }
}

impl Store {
    /// The epoch under which is written: the leader's, else that under which this process leads; 0 when it does not.
    pub fn epoch(&self) -> i64 {
        self.fence.unwrap_or_else(|| self.shared.lead.epoch())
    }

    /// Makes this process the leader: from now on, each write of whoever led before is refused as `Fenced`, as will be ours
    /// when another takes over. Changes nothing when we lead. Returns the epoch.
    pub async fn take_over(&self) -> Result<i64, Error> {
        if self.shared.lead.epoch() == 0 {
            let epoch = self.write(|transaction| Box::pin(async move { next_epoch(transaction.connection()).await })).await?;
            self.shared.lead.epoch.store(epoch, Ordering::Release);
        }
        Ok(self.epoch())
    }

    /// Returns when another process has taken over from this one, which must then end.
    pub async fn lost_lead(&self) {
        self.shared.lead.lost.cancelled().await;
    }
}

/// Begins a new epoch, so that whoever led before can write no more.
pub(super) async fn next_epoch(connection: Link<'_>) -> Result<i64, Error> {
    let sql = "UPDATE meta SET value = CAST(CAST(value AS BIGINT) + 1 AS TEXT) WHERE key = 'epoch' RETURNING CAST(value AS BIGINT)";
    let (epoch,): (i64,) = query(sql).fetch_one(connection).await?;
    Ok(epoch)
}

/// Names the leader's epoch in `meta`: that of whoever holds the controllers' Lease, in this process or another.
const LEADER: &str = "leader";

impl Store {
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
