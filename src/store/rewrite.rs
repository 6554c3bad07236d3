//! Stored documents written anew in place: for a change of how they lie here, not of what they say.

use super::{Database, Error, Key, Revision, Store, Transaction, connection::query, database::Purpose, document::parse, postgres};
use serde_json::Value;
use sqlx::{ConnectOptions, Connection, sqlite::SqliteConnectOptions};

/// Rows of the log that are in memory at once.
const BITE: i64 = 500;

impl Transaction<'_> {
    /// Replaces every document of a resource, also in the history, by what `anew` makes of it. No revision, no change, no
    /// watch sees it. Returns how many documents there were.
    pub async fn rewrite<E: From<Error>>(&mut self, resource: &str, anew: impl Fn(Value) -> Result<Value, E>) -> Result<u64, E> {
        self.rewrites_log();
        let mut count = 0;
        let text = |key: &Key, text: &str, revision| -> Result<String, E> {
            let mut document = anew(parse(key, text, Revision(revision))?)?;
            Ok(super::transaction::stored(&mut document))
        };
        let sql = "SELECT namespace, name, revision, document FROM objects WHERE resource = $1";
        let rows: Vec<(String, String, i64, String)> = query(sql).bind(resource).fetch_all(self.connection()).await?;
        for (namespace, name, revision, document) in rows {
            let document = text(&Key::new(resource, &*namespace, &*name), &document, revision)?;
            let sql = "UPDATE objects SET document = $1 WHERE resource = $2 AND namespace = $3 AND name = $4";
            let update = query(sql).bind(document).bind(resource).bind(namespace).bind(name);
            update.execute(self.connection()).await?;
            count += 1;
        }
        let mut after = 0;
        loop {
            let sql = "SELECT revision, namespace, name, document, previous FROM log WHERE resource = $1 AND revision > $2 \
                       ORDER BY revision LIMIT $3";
            let rows: Vec<(i64, String, String, String, Option<String>)> =
                query(sql).bind(resource).bind(after).bind(BITE).fetch_all(self.connection()).await?;
            let Some((last, ..)) = rows.last() else { return Ok(count) };
            after = *last;
            for (revision, namespace, name, document, previous) in rows {
                let key = Key::new(resource, namespace, name);
                let document = text(&key, &document, revision)?;
                let previous = previous.map(|previous| text(&key, &previous, revision)).transpose()?;
                let sql = "UPDATE log SET document = $1, previous = $2 WHERE revision = $3";
                let update = query(sql).bind(document).bind(previous.as_deref()).bind(revision);
                update.execute(self.connection()).await?;
                count += 1;
            }
        }
    }
}

impl Store {
    /// Writes a closed database anew, so that nothing remains in its files of what was replaced or removed.
    pub async fn scrub(database: &Database) -> Result<(), Error> {
        match database {
            Database::Sqlite(path) => {
                let mut connection = SqliteConnectOptions::new().filename(path).disable_statement_logging().connect().await?;
                sqlx::raw_sql("VACUUM; PRAGMA wal_checkpoint(TRUNCATE)").execute(&mut connection).await?;
                connection.close().await?;
            }
            Database::Postgres(server) => {
                let mut connection = server.connect(Purpose::Write).await?;
                for sql in ["SET statement_timeout = 0", "VACUUM FULL objects", "VACUUM FULL log"] {
                    sqlx::raw_sql(sql).execute(&mut connection).await?;
                }
                postgres::patiently(connection.close()).await?;
            }
        }
        Ok(())
    }
}
