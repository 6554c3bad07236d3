//! Stored documents written anew in place: for a change of how they lie here, not of what they say.

use super::{Database, Error, Key, Revision, Store, Transaction, connection::query, database::Purpose, document::parse, postgres};
use serde_json::Value;
use sqlx::{ConnectOptions, Connection, sqlite::SqliteConnectOptions};

/// Rows that are in memory, and under the lock of one transaction, at once.
const SLICE: i64 = 32;

/// Where a rewriting is: the objects come first. A write takes an object's text over into the history, so what is done in this
/// order is done for good, whatever is written meanwhile.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Behind this namespace and name.
    Objects(String, String),
    /// Behind this revision.
    History(i64),
}

impl Place {
    pub fn begin() -> Self {
        Self::Objects(String::new(), String::new())
    }
}

impl Transaction<'_> {
    /// Replaces the next documents of a resource by what `anew` makes of them; `None` leaves one as it is. No revision, no
    /// change, no watch sees it. Returns how many were replaced, and where the next ones begin unless these were the last.
    pub async fn rewrite<E: From<Error>>(
        &mut self,
        resource: &str,
        from: Place,
        anew: impl Fn(Value) -> Result<Option<Value>, E>,
    ) -> Result<(u64, Option<Place>), E> {
        let text = |key: &Key, text: &str, revision| -> Result<Option<String>, E> {
            let document = anew(parse(key, text, Revision(revision))?)?;
            Ok(document.map(|mut document| super::transaction::stored(&mut document)))
        };
        self.rewrites_log();
        let mut count = 0;
        let after = match from {
            Place::Objects(namespace, name) => {
                let sql = "SELECT namespace, name, revision, document FROM objects \
                           WHERE resource = $1 AND (namespace, name) > ($2, $3) ORDER BY namespace, name LIMIT $4";
                let rows: Vec<(String, String, i64, String)> =
                    query(sql).bind(resource).bind(namespace).bind(name).bind(SLICE).fetch_all(self.connection()).await?;
                let next = rows.last().map(|(namespace, name, ..)| Place::Objects(namespace.clone(), name.clone()));
                for (namespace, name, revision, document) in rows {
                    let Some(document) = text(&Key::new(resource, &*namespace, &*name), &document, revision)? else { continue };
                    let sql = "UPDATE objects SET document = $1 WHERE resource = $2 AND namespace = $3 AND name = $4";
                    let update = query(sql).bind(document).bind(resource).bind(namespace).bind(name);
                    update.execute(self.connection()).await?;
                    count += 1;
                }
                return Ok((count, Some(next.unwrap_or(Place::History(0)))));
            }
            Place::History(after) => after,
        };
        let sql = "SELECT revision, namespace, name, document, previous FROM log WHERE resource = $1 AND revision > $2 \
                   ORDER BY revision LIMIT $3";
        let rows: Vec<(i64, String, String, String, Option<String>)> =
            query(sql).bind(resource).bind(after).bind(SLICE).fetch_all(self.connection()).await?;
        let next = rows.last().map(|(revision, ..)| Place::History(*revision));
        for (revision, namespace, name, document, previous) in rows {
            let key = Key::new(resource, namespace, name);
            let new = text(&key, &document, revision)?;
            let new_previous = previous.as_deref().map(|previous| text(&key, previous, revision)).transpose()?.flatten();
            if new.is_none() && new_previous.is_none() {
                continue;
            }
            let (document, previous) = (new.unwrap_or(document), new_previous.or(previous));
            let sql = "UPDATE log SET document = $1, previous = $2 WHERE revision = $3";
            query(sql).bind(document).bind(previous.as_deref()).bind(revision).execute(self.connection()).await?;
            count += 1;
        }
        Ok((count, next))
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
