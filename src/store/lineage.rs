//! Which line of history a database is on, and how one goes on that went back: by a restore, or because a replica took over
//! that lacked the newest commits.
//!
//! Whoever saw what is lost must neither be told of other changes under the same revisions, nor act on what it remembers. So
//! revisions and epochs go on far above all that can have been given: every watch begins anew, the leader is refused and
//! begins anew, and whoever leads then looks at the world before it acts. The ledger says that something may be missing in it.
//! A server that changed its line without a loss, as with synchronous replication, cannot prove that; it is treated alike.

use super::{Error, postgres};
use crate::clock::Clock;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Row as _};

/// More changes than a hub makes between a backup and its restore: a thousand a second for eleven days. Source: kubernetes-api
/// facts 7.3.
pub(super) const REVISIONS: i64 = 1_000_000_000;
/// More than begin meanwhile.
const EPOCHS: i64 = 1_000_000;

/// How often the database went back before an epoch: what was made before that may be lost to it, and is not unknown for being
/// unused.
pub fn line(epoch: i64) -> i64 {
    epoch / EPOCHS
}

/// The session's line: the cluster's system identifier, and its timeline, which each promotion of a replica changes. A server
/// whose line this was does not become another one's while a session lasts. Source: PostgreSQL, chapter "Timelines".
const NOTE: &str = "SELECT pg_is_in_recovery(), set_config('autovibe.lineage', CASE WHEN pg_is_in_recovery() THEN '' ELSE \
                    (SELECT system_identifier FROM pg_control_system()) || '/' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8) END, FALSE)";

/// The first line is noted, and after a restore the one that it came to.
const BEGIN: &str = "INSERT INTO meta (key, value) SELECT 'lineage', line FROM current_setting('autovibe.lineage') AS line \
                     WHERE line <> '' ON CONFLICT (key) DO NOTHING";

/// The session's line and the noted one; empty where it is not known.
macro_rules! lines {
    () => {
        "COALESCE(current_setting('autovibe.lineage', TRUE), ''), COALESCE((SELECT value FROM meta WHERE key = 'lineage'), '')"
    };
}
pub(super) use lines;

/// Notes the line for a session that writes.
///
/// Errors: `Unavailable` by a replica, which cannot be written.
pub(super) async fn note(connection: &mut PgConnection) -> Result<(), Error> {
    match postgres::patiently(sqlx::raw_sql(NOTE).fetch_one(&mut *connection)).await {
        Ok(row) if row.try_get(0)? => Err(Error::Unavailable("it is a replica, and is not written".into())),
        Ok(_) => Ok(()),
        // A server that is only like PostgreSQL, or hides these functions: what went back is known by its revisions alone.
        Err(Error::Database(sqlx::Error::Database(_))) => {
            let unknown = sqlx::raw_sql("SELECT set_config('autovibe.lineage', '', FALSE)");
            postgres::patiently(unknown.execute(connection)).await.map(drop)
        }
        Err(error) => Err(error),
    }
}

/// Notes the first line in the database.
pub(super) async fn begin(connection: &mut PgConnection) -> Result<(), Error> {
    postgres::patiently(sqlx::raw_sql(BEGIN).execute(connection)).await.map(drop)
}

/// Why the database is not the one that was written; `None` when it is. `known` is the newest revision that was seen here.
pub(super) fn went_back(begun: &postgres::Begun, known: i64) -> Option<String> {
    let postgres::Begun { newest, line, noted, .. } = begun;
    if *newest < known {
        return Some(format!("from revision {known} to {newest}"));
    }
    let other = !line.is_empty() && !noted.is_empty() && line != noted;
    other.then(|| format!("to revision {newest} or a newer one: its system and timeline were {noted} and are {line}"))
}

/// Goes on above all that can have been given, and commits. The lock of the revisions is held.
pub(super) async fn go_on(connection: &mut PgConnection, known: i64, clock: &Clock) -> Result<(), Error> {
    let counter = format!("UPDATE revisions SET number = GREATEST(number, {known}) + {REVISIONS};");
    let sql = format!("{} {BEGIN}; {}", statements(&counter, postgres::NEWEST, "failover", clock), postgres::COMMIT_AND_TELL);
    postgres::patiently(sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection)).await.map(drop)
}

/// The statements that make a state one to go on from. `counter` raises the revision, which `newest` reads; `cause` is noted
/// in the ledger.
pub(super) fn statements(counter: &str, newest: &str, cause: &str, clock: &Clock) -> String {
    let now = clock.now().as_millisecond();
    format!(
        "{counter} \
         INSERT INTO meta (key, value) SELECT 'restored', 'at {now} ms, with changes up to ' || COALESCE(CAST(max(at_seconds) AS TEXT), '0') || ' s' FROM log \
         WHERE TRUE ON CONFLICT (key) DO UPDATE SET value = excluded.value; \
         DELETE FROM log; \
         DELETE FROM meta WHERE key = 'lineage'; \
         UPDATE meta SET value = CAST(({newest}) AS TEXT) WHERE key = 'compacted'; \
         UPDATE meta SET value = CAST(CAST(value AS BIGINT) + {EPOCHS} AS TEXT) WHERE key IN ('epoch', 'leader'); \
         INSERT INTO ledger_entries (at_ms, lease, posting, account, money, reserved, api_calls, tokens_in, tokens_out) \
         VALUES ({now}, '{cause}', 'gap', 'store', 0, 0, 0, 0, 0);\n"
    )
}
