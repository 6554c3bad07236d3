//! Removes history that no watch needs any more.

use super::{Error, Options, Revision, Shared, Store, connection::query};
use std::sync::Weak;
use tokio::sync::watch;

/// Compacts after so many changes: the log stays near its window, and an idle store does nothing.
const EVERY: i64 = 1000;
/// A removal holds up other writes, so it is done in bites.
const BITE: i64 = 1000;

/// Compacts whenever enough has changed, until the store closes.
pub(super) async fn regularly(shared: Weak<Shared>, mut revisions: watch::Receiver<Revision>, options: Options) {
    let mut last = Revision(0);
    while let Ok(newest) = revisions.wait_for(|newest| newest.0 >= last.0 + EVERY).await.map(|newest| *newest) {
        last = newest;
        let Some(shared) = shared.upgrade() else { return };
        match (Store { shared, fence: None }).compact(&options).await {
            Ok(_) => {}
            Err(Error::Closed) => return,
            Err(error) => tracing::warn!("old history was not removed: {error}; it is tried again"),
        }
    }
}

impl Store {
    /// Removes what is beyond the history's age and number; a watch from before it gets `Expired`. Returns how many changes went.
    pub async fn compact(&self, options: &Options) -> Result<u64, Error> {
        let Some(target) = self.beyond(options).await? else { return Ok(0) };
        let mut removed = 0;
        loop {
            let gone = self.write(move |transaction| Box::pin(bite(transaction, target))).await?;
            removed += gone;
            if gone < u64::try_from(BITE).unwrap_or_default() {
                return Ok(removed);
            }
        }
    }

    /// The newest revision that may go.
    async fn beyond(&self, options: &Options) -> Result<Option<Revision>, Error> {
        let before = options.clock.now().as_second() - i64::try_from(options.history.age.as_secs()).unwrap_or(i64::MAX);
        let sql = "SELECT revision FROM log WHERE at_seconds <= $2 AND revision <= \
                   (SELECT revision FROM log ORDER BY revision DESC LIMIT 1 OFFSET $1) ORDER BY revision DESC LIMIT 1";
        let row: Option<(i64,)> =
            query(sql).bind(options.history.changes).bind(before).fetch_optional(self.reader().await?.connection()).await?;
        Ok(row.map(|(revision,)| Revision(revision)))
    }
}

async fn bite(transaction: &mut super::Transaction<'_>, target: Revision) -> Result<u64, Error> {
    let sql = "SELECT max(revision) FROM (SELECT revision FROM log WHERE revision <= $1 ORDER BY revision LIMIT $2) AS bite";
    let (end,): (Option<i64>,) = query(sql).bind(target.0).bind(BITE).fetch_one(transaction.connection()).await?;
    let Some(end) = end else { return Ok(0) };
    transaction.rewrites_log();
    let gone = query("DELETE FROM log WHERE revision <= $1").bind(end).execute(transaction.connection()).await?;
    query("UPDATE meta SET value = $1 WHERE key = 'compacted'").bind(end.to_string()).execute(transaction.connection()).await?;
    Ok(gone)
}
