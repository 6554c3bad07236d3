//! Reads: each sees one snapshot, on a connection of its own, so that it waits for no writer.

use super::{Change, Error, Event, Key, Object, Page, Query, Revision, Store, parse};
use sqlx::{Connection, SqliteConnection};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A few connections that only read. Not sqlx's pool: that one has timers, which a test with paused time would run out.
#[derive(Clone)]
pub(super) struct Readers {
    free: Arc<Mutex<Vec<SqliteConnection>>>,
    permits: Arc<Semaphore>,
}

/// A borrowed connection; goes back when dropped. A transaction that was left open on it is rolled back at its next use.
pub(super) struct Reader {
    connection: Option<SqliteConnection>,
    home: Arc<Mutex<Vec<SqliteConnection>>>,
    _permit: OwnedSemaphorePermit,
}

impl Readers {
    pub(super) fn new(connections: Vec<SqliteConnection>) -> Self {
        let permits = Arc::new(Semaphore::new(connections.len()));
        Self { free: Arc::new(Mutex::new(connections)), permits }
    }

    pub(super) async fn take(&self) -> Result<Reader, Error> {
        let permit = self.permits.clone().acquire_owned().await.map_err(|_| Error::Closed)?;
        let connection = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop().ok_or(Error::Closed)?;
        Ok(Reader { connection: Some(connection), home: self.free.clone(), _permit: permit })
    }

    /// Refuses new readers and closes the connections that are not in use; those in use close when they are done.
    pub(super) async fn close(&self) {
        self.permits.close();
        let free = std::mem::take(&mut *self.free.lock().unwrap_or_else(PoisonError::into_inner));
        for connection in free {
            let _ = connection.close().await;
        }
    }
}

impl Reader {
    /// The connection itself; begin a transaction on it when several statements must see the same snapshot.
    pub(super) fn connection(&mut self) -> &mut SqliteConnection {
        self.connection.as_mut().expect("taken only by drop")
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            self.home.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
        }
    }
}

/// Revision, change, namespace, name, document, previous document and its revision.
type LogRow = (i64, String, String, String, String, Option<String>, Option<i64>);

impl Store {
    /// A connection for reads, for the relational tables of this module.
    pub(super) async fn reader(&self) -> Result<Reader, Error> {
        self.shared.readers.take().await
    }

    /// The object, as of now.
    pub async fn get(&self, key: &Key) -> Result<Option<Object>, Error> {
        get(self.reader().await?.connection(), key).await
    }

    /// A state at one revision, ordered by namespace and name.
    ///
    /// Errors: `Expired` when `query.at` lies before the retained history.
    pub async fn list(&self, query: &Query) -> Result<Page, Error> {
        let mut reader = self.reader().await?;
        let mut snapshot = reader.connection().begin().await?;
        let newest = newest(&mut snapshot).await?;
        let revision = query.at.filter(|at| *at < newest).unwrap_or(newest);
        if revision < newest {
            retained(&mut snapshot, revision).await?;
        }
        let mut items = list(&mut snapshot, query, revision, newest).await?;
        let limit = usize::try_from(query.limit).unwrap_or(usize::MAX);
        let more = limit > 0 && items.len() > limit;
        if more {
            items.truncate(limit);
        }
        let remaining = match items.last() {
            Some(last) if more => count_after(&mut snapshot, query, &last.key).await?,
            _ => 0,
        };
        Ok(Page { revision, items, remaining })
    }

    /// Changes after `after` in revision order, at most `limit` (0 is all), and the revision up to which they are complete.
    ///
    /// Errors: `Expired` when `after` lies before the retained history.
    pub async fn changes(&self, resource: &str, after: Revision, limit: u32) -> Result<(Vec<Event>, Revision), Error> {
        let mut reader = self.reader().await?;
        let mut snapshot = reader.connection().begin().await?;
        let newest = newest(&mut snapshot).await?;
        retained(&mut snapshot, after).await?;
        let sql = "SELECT revision, change, namespace, name, document, previous, previous_revision FROM log \
                   WHERE resource = $1 AND revision > $2 ORDER BY revision LIMIT $3";
        let limit = if limit == 0 { -1 } else { i64::from(limit) };
        let rows: Vec<LogRow> = sqlx::query_as(sql).bind(resource).bind(after.0).bind(limit).fetch_all(&mut *snapshot).await?;
        let full = i64::try_from(rows.len()).is_ok_and(|count| count == limit);
        let mut events = Vec::with_capacity(rows.len());
        for (revision, change, namespace, name, document, previous, previous_revision) in rows {
            let (key, revision) = (Key::new(resource, namespace, name), Revision(revision));
            let previous = match (previous, previous_revision) {
                (Some(text), Some(at)) => Some(parse(&key, &text, Revision(at))?),
                _ => None,
            };
            let document = parse(&key, &document, revision)?;
            events.push(Event { revision, change: Change::from_text(&change)?, key, document, previous });
        }
        let complete = match events.last() {
            Some(last) if full => last.revision,
            _ => newest.max(after),
        };
        Ok((events, complete))
    }
}

pub(super) async fn get_text(connection: &mut SqliteConnection, key: &Key) -> Result<Option<(Revision, String)>, Error> {
    let sql = "SELECT revision, document FROM objects WHERE resource = $1 AND namespace = $2 AND name = $3";
    let row: Option<(i64, String)> =
        sqlx::query_as(sql).bind(&key.resource).bind(&key.namespace).bind(&key.name).fetch_optional(connection).await?;
    Ok(row.map(|(revision, text)| (Revision(revision), text)))
}

pub(super) async fn get(connection: &mut SqliteConnection, key: &Key) -> Result<Option<Object>, Error> {
    let Some((revision, text)) = get_text(connection, key).await? else { return Ok(None) };
    Ok(Some(Object { key: key.clone(), revision, document: parse(key, &text, revision)? }))
}

/// The highest revision ever given, also when its log entry is gone.
pub(super) async fn newest(connection: &mut SqliteConnection) -> Result<Revision, Error> {
    let row: Option<(i64,)> = sqlx::query_as("SELECT seq FROM sqlite_sequence WHERE name = 'log'").fetch_optional(connection).await?;
    Ok(Revision(row.map_or(0, |(seq,)| seq)))
}

/// Refuses a revision whose successors are no longer all in the log.
pub(super) async fn retained(connection: &mut SqliteConnection, requested: Revision) -> Result<(), Error> {
    let (text,): (String,) = sqlx::query_as("SELECT value FROM meta WHERE key = 'compacted'").fetch_one(connection).await?;
    let oldest = Revision(text.parse().map_err(|_| Error::Corrupt(format!("the compacted revision `{text}` is not a number")))?);
    if requested < oldest { Err(Error::Expired { requested, oldest }) } else { Ok(()) }
}

/// One row more than the limit, so that the caller sees whether there are more.
async fn list(connection: &mut SqliteConnection, query: &Query, at: Revision, newest: Revision) -> Result<Vec<Object>, Error> {
    // For an older state: objects that did not change since, and of the others what their first change since replaced.
    let sql = if at == newest {
        "SELECT namespace, name, revision, document FROM objects \
         WHERE resource = $1 AND ($2 IS NULL OR namespace = $2) AND ($3 IS NULL OR (namespace, name) > ($3, $4)) \
         ORDER BY namespace, name LIMIT $5"
    } else {
        "SELECT namespace, name, revision, document FROM ( \
           SELECT resource, namespace, name, revision, document FROM objects WHERE revision <= $6 \
           UNION ALL \
           SELECT resource, namespace, name, previous_revision, previous FROM log \
           WHERE revision > $6 AND previous_revision <= $6) \
         WHERE resource = $1 AND ($2 IS NULL OR namespace = $2) AND ($3 IS NULL OR (namespace, name) > ($3, $4)) \
         ORDER BY namespace, name LIMIT $5"
    };
    let limit = if query.limit == 0 { -1 } else { i64::from(query.limit) + 1 };
    let rows: Vec<(String, String, i64, String)> = sqlx::query_as(sql)
        .bind(&query.resource)
        .bind(&query.namespace)
        .bind(query.after.as_ref().map(|(namespace, _)| namespace))
        .bind(query.after.as_ref().map(|(_, name)| name))
        .bind(limit)
        .bind(at.0)
        .fetch_all(connection)
        .await?;
    rows.into_iter()
        .map(|(namespace, name, revision, text)| {
            let (key, revision) = (Key::new(query.resource.clone(), namespace, name), Revision(revision));
            let document = parse(&key, &text, revision)?;
            Ok(Object { key, revision, document })
        })
        .collect()
}

async fn count_after(connection: &mut SqliteConnection, query: &Query, last: &Key) -> Result<u64, Error> {
    let sql = "SELECT count(*) FROM objects WHERE resource = $1 AND ($2 IS NULL OR namespace = $2) AND (namespace, name) > ($3, $4)";
    let (count,): (i64,) = sqlx::query_as(sql)
        .bind(&query.resource)
        .bind(&query.namespace)
        .bind(&last.namespace)
        .bind(&last.name)
        .fetch_one(connection)
        .await?;
    // Of an older state it is an estimate, but never 0 when there is more.
    Ok(u64::try_from(count).unwrap_or_default().max(1))
}
