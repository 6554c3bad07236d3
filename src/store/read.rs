//! Reads: each sees one snapshot, on a connection of its own, so that it waits for no writer.

use super::connection::{Connection, Link, Snapshot, query};
use super::database::{Database, Purpose};
use super::{Change, Error, Event, Key, Object, Page, Past, Query, Revision, Store, document::Stored, postgres, sqlite, tail::Known};
use crate::clock::Clock;
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// A connection that does not answer within this is let go, and another one asked.
const UNTRIED: Duration = Duration::from_secs(2);
/// So long a server counts as away that could not be reached.
const AWAY: Duration = Duration::from_secs(1);

/// A few connections that only read, opened when needed. Not sqlx's pool: that one has timers, which a test with paused time
/// would run out.
#[derive(Clone)]
pub(super) struct Readers {
    database: Database,
    clock: Clock,
    idle: Arc<Mutex<Vec<Connection>>>,
    permits: Arc<Semaphore>,
    /// When the server could last not be reached, and why.
    away: Arc<Mutex<Option<(Instant, String)>>>,
}

/// A borrowed connection; goes back when dropped.
pub(super) struct Reader {
    connection: Option<Connection>,
    home: Arc<Mutex<Vec<Connection>>>,
    _permit: OwnedSemaphorePermit,
}

impl Readers {
    pub(super) fn new(database: Database, clock: Clock, most: usize) -> Self {
        Self { database, clock, idle: Arc::default(), permits: Arc::new(Semaphore::new(most)), away: Arc::default() }
    }

    pub(super) async fn take(&self) -> Result<Reader, Error> {
        let (mut idle, permit) = self.take_idle().await?;
        let lives = match &mut idle {
            Some(connection) => connection.lives().await,
            None => false,
        };
        let connection = match idle.filter(|_| lives) {
            Some(connection) => connection,
            None if self.permits.is_closed() => return Err(Error::Closed),
            None => self.reach().await?,
        };
        Ok(self.lend(connection, permit))
    }

    /// A new connection. Who asks again right after it could not be had is told the same: the reads of one request are to wait
    /// once for a server that is away.
    async fn reach(&self) -> Result<Connection, Error> {
        let last = self.away.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((_, why)) = last.filter(|(since, _)| since.elapsed() < AWAY) {
            return Err(Error::Unavailable(why));
        }
        let reached = self.database.reach(Purpose::Read, &self.clock).await;
        if let Err(Error::Unavailable(why)) = &reached {
            *self.away.lock().unwrap_or_else(PoisonError::into_inner) = Some((Instant::now(), why.clone()));
        }
        reached
    }

    /// One that lay idle, if there is one, not known to live: what fails on it is to be done again on one that
    /// [`Readers::take`] gives.
    async fn take_untried(&self) -> Result<Option<Reader>, Error> {
        let (idle, permit) = self.take_idle().await?;
        Ok(idle.map(|connection| self.lend(connection, permit)))
    }

    async fn take_idle(&self) -> Result<(Option<Connection>, OwnedSemaphorePermit), Error> {
        let permit = self.permits.clone().acquire_owned().await.map_err(|_| Error::Closed)?;
        Ok((self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop(), permit))
    }

    fn lend(&self, connection: Connection, permit: OwnedSemaphorePermit) -> Reader {
        Reader { connection: Some(connection), home: self.idle.clone(), _permit: permit }
    }

    /// Refuses new readers and closes the connections that are not in use; those in use close when they are done.
    pub(super) async fn close(&self) {
        self.permits.close();
        let idle = std::mem::take(&mut *self.idle.lock().unwrap_or_else(PoisonError::into_inner));
        for connection in idle {
            let _ = connection.close().await;
        }
    }
}

impl Reader {
    /// For one statement.
    pub(super) fn connection(&mut self) -> Link<'_> {
        self.borrowed().link()
    }

    /// For several statements that must see the same state.
    pub(super) async fn snapshot(&mut self) -> Result<Snapshot<'_>, Error> {
        self.borrowed().snapshot().await
    }

    /// Lets go of a connection that cannot be used any more.
    fn discard(mut self) {
        self.connection = None;
    }

    fn borrowed(&mut self) -> &mut Connection {
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

const CHANGES: &str = "SELECT revision, change, namespace, name, document, NULL, NULL FROM log \
                       WHERE resource = $1 AND revision > $2 ORDER BY revision LIMIT $3";
const HISTORY: &str = "SELECT revision, change, namespace, name, document, previous, previous_revision FROM log \
                       WHERE resource = $1 AND revision > $2 ORDER BY revision LIMIT $3";

/// Revision, change, namespace, name, document, previous document and its revision.
type LogRow = (i64, String, String, String, Stored, Option<Stored>, Option<i64>);

impl Store {
    /// A connection for reads, for the relational tables of this module.
    pub(super) async fn reader(&self) -> Result<Reader, Error> {
        self.shared.readers.take().await
    }

    /// The object, as of now.
    pub async fn get(&self, key: &Key) -> Result<Option<Object>, Error> {
        let known = if self.shared.one_process { self.shared.tail.get(key) } else { Known::Nothing };
        match known {
            Known::Object(object) => return Ok(Some(object)),
            Known::Gone => return Ok(None),
            Known::Nothing => {}
        }
        // Whether it lives is not asked first, where that is the way to the server once more.
        if !self.shared.one_process
            && let Some(mut reader) = self.shared.readers.take_untried().await?
        {
            match tokio::time::timeout(UNTRIED, get(reader.connection(), key)).await {
                Ok(Err(Error::Unavailable(_))) | Err(_) => reader.discard(),
                Ok(found) => return found,
            }
        }
        get(self.reader().await?.connection(), key).await
    }

    /// The object as this process last wrote it, if it did so lately. Another process may have changed it since: it serves for a
    /// write that expects the revision.
    pub fn recent(&self, key: &Key) -> Option<Object> {
        match self.shared.tail.get(key) {
            Known::Object(object) => Some(object),
            Known::Gone | Known::Nothing => None,
        }
    }

    /// A state at one revision, ordered by namespace and name.
    ///
    /// Errors: `Expired` when `query.at` lies before the retained history.
    pub async fn list(&self, query: &Query) -> Result<Page, Error> {
        let mut reader = self.reader().await?;
        let mut snapshot = reader.snapshot().await?;
        let newest = newest(snapshot.link()).await?;
        let revision = query.at.filter(|at| *at < newest).unwrap_or(newest);
        if revision < newest {
            retained(snapshot.link(), revision).await?;
        }
        let mut items = list(snapshot.link(), query, revision, newest).await?;
        snapshot.end().await?;
        let limit = usize::try_from(query.limit).unwrap_or(usize::MAX);
        let more = limit > 0 && items.len() > limit;
        if more {
            items.truncate(limit);
        }
        Ok(Page { revision, items, more })
    }

    /// Changes after `after` in revision order, at most `limit` (0 is all), and the revision up to which they are complete.
    ///
    /// Errors: `Expired` when `after` lies before the retained history.
    pub async fn changes(&self, resource: &str, after: Revision, limit: u32) -> Result<(Vec<Event>, Revision), Error> {
        let holds_all = self.shared.one_process || newest(self.reader().await?.connection()).await? == self.shared.tail.complete();
        if holds_all && let Some(changes) = self.shared.tail.read(resource, after, limit as usize) {
            return Ok(changes);
        }
        self.read_changes(resource, after, limit).await
    }

    /// The same, but other processes' changes only as far as [`Store::revisions`] has told of them: for who waits for that.
    pub async fn told(&self, resource: &str, after: Revision, limit: u32) -> Result<(Vec<Event>, Revision), Error> {
        if self.knows_all()
            && let Some(changes) = self.shared.tail.read(resource, after, limit as usize)
        {
            return Ok(changes);
        }
        self.read_changes(resource, after, limit).await
    }

    /// The same from the log alone, and of each object what it was before: for who does not follow all changes.
    pub async fn history(&self, resource: &str, after: Revision, limit: u32) -> Result<(Vec<Past>, Revision), Error> {
        self.read_log(HISTORY, resource, after, limit).await
    }

    /// Whether the tail reaches as far as anyone was told.
    pub(super) fn knows_all(&self) -> bool {
        self.shared.tail.complete() >= *self.shared.revisions.borrow()
    }

    async fn read_changes(&self, resource: &str, after: Revision, limit: u32) -> Result<(Vec<Event>, Revision), Error> {
        let (entries, complete) = self.read_log(CHANGES, resource, after, limit).await?;
        Ok((entries.into_iter().map(|(event, _)| event).collect(), complete))
    }

    async fn read_log(&self, sql: &'static str, resource: &str, after: Revision, limit: u32) -> Result<(Vec<Past>, Revision), Error> {
        let mut reader = self.reader().await?;
        let mut snapshot = reader.snapshot().await?;
        let newest = newest(snapshot.link()).await?;
        retained(snapshot.link(), after).await?;
        let limit = if limit == 0 { i64::MAX } else { i64::from(limit) };
        let rows: Vec<LogRow> = query(sql).bind(resource).bind(after.0).bind(limit).fetch_all(snapshot.link()).await?;
        snapshot.end().await?;
        let full = i64::try_from(rows.len()).is_ok_and(|count| count == limit);
        let mut events = Vec::with_capacity(rows.len());
        for (revision, change, namespace, name, document, previous, previous_revision) in rows {
            let (key, revision) = (Key::new(resource, namespace, name), Revision(revision));
            let previous = match (previous, previous_revision) {
                (Some(previous), Some(at)) => Some(previous.read(&key, Revision(at))),
                _ => None,
            };
            let document = document.read(&key, revision);
            events.push((Event { revision, change: Change::from_text(&change)?, key, document }, previous));
        }
        let complete = match events.last() {
            Some((last, _)) if full => last.revision,
            _ => newest.max(after),
        };
        Ok((events, complete))
    }
}

const GET: &str = "SELECT revision, document FROM objects WHERE resource = $1 AND namespace = $2 AND name = $3";

async fn get_stored(connection: Link<'_>, key: &Key) -> Result<Option<(Revision, Stored)>, Error> {
    let row: Option<(i64, Stored)> = query(GET).bind(&key.resource).bind(&key.namespace).bind(&key.name).fetch_optional(connection).await?;
    Ok(row.map(|(revision, stored)| (Revision(revision), stored)))
}

pub(super) async fn get_text(connection: Link<'_>, key: &Key) -> Result<Option<(Revision, String)>, Error> {
    Ok(get_stored(connection, key).await?.map(|(revision, stored)| (revision, stored.text())))
}

pub(super) async fn get(connection: Link<'_>, key: &Key) -> Result<Option<Object>, Error> {
    let found = get_stored(connection, key).await?;
    Ok(found.map(|(revision, stored)| Object { key: key.clone(), revision, document: stored.read(key, revision) }))
}

/// The highest revision ever given, also when its log entry is gone.
pub(super) async fn newest(connection: Link<'_>) -> Result<Revision, Error> {
    let sql = match connection {
        Link::Sqlite(_) => sqlite::NEWEST,
        Link::Postgres(_) => postgres::NEWEST,
    };
    let row: Option<(i64,)> = query(sql).fetch_optional(connection).await?;
    Ok(Revision(row.map_or(0, |(newest,)| newest)))
}

/// Refuses a revision whose successors are no longer all in the log.
pub(super) async fn retained(connection: Link<'_>, requested: Revision) -> Result<(), Error> {
    let (text,): (String,) = query("SELECT value FROM meta WHERE key = 'compacted'").fetch_one(connection).await?;
    let oldest = Revision(text.parse().map_err(|_| Error::Corrupt(format!("the compacted revision `{text}` is not a number")))?);
    if requested < oldest { Err(Error::Expired { requested, oldest }) } else { Ok(()) }
}

/// What lies in one namespace, and in all, behind a position; it is found in the index, whatever lies before it.
macro_rules! inside {
    (one) => {
        "resource = $1 AND namespace = $2 AND name > $3"
    };
    (all) => {
        "resource = $1 AND (namespace, name) > ($2, $3)"
    };
}

/// The newest state.
macro_rules! current {
    ($where:ident) => {
        concat!("SELECT namespace, name, revision, document FROM objects WHERE ", inside!($where), " ORDER BY namespace, name LIMIT $4")
    };
}

/// An older state: objects that did not change since, and of the others what their first change since replaced.
macro_rules! past {
    ($where:ident) => {
        concat!(
            "SELECT namespace, name, revision, document FROM (SELECT * FROM ( \
               SELECT namespace, name, revision, document FROM objects WHERE ",
            inside!($where),
            " AND revision <= $5 ORDER BY namespace, name LIMIT $4) AS unchanged \
             UNION ALL \
             SELECT namespace, name, previous_revision, previous FROM log WHERE ",
            inside!($where),
            " AND revision > $5 AND previous_revision <= $5) AS state ORDER BY namespace, name LIMIT $4"
        )
    };
}

const CURRENT_ONE: &str = current!(one);
const CURRENT_ALL: &str = current!(all);
const PAST_ONE: &str = past!(one);
const PAST_ALL: &str = past!(all);

/// One row more than the limit, so that the caller sees whether there are more.
async fn list(connection: Link<'_>, wanted: &Query, at: Revision, newest: Revision) -> Result<Vec<Object>, Error> {
    let sql = match (&wanted.namespace, at == newest) {
        (Some(_), true) => CURRENT_ONE,
        (None, true) => CURRENT_ALL,
        (Some(_), false) => PAST_ONE,
        (None, false) => PAST_ALL,
    };
    let (mut namespace, mut name) = (wanted.namespace.as_deref().unwrap_or_default(), "");
    if let Some(after) = wanted.after.as_ref().filter(|(after, _)| wanted.namespace.as_ref().is_none_or(|n| n == after)) {
        (namespace, name) = (&after.0, &after.1);
    }
    let limit = if wanted.limit == 0 { i64::MAX } else { i64::from(wanted.limit) + 1 };
    let mut statement = query(sql).bind(&wanted.resource).bind(namespace).bind(name).bind(limit);
    if at != newest {
        statement = statement.bind(at.0);
    }
    let rows: Vec<(String, String, i64, Stored)> = statement.fetch_all(connection).await?;
    let object = |(namespace, name, revision, stored): (String, String, i64, Stored)| {
        let (key, revision) = (Key::new(wanted.resource.clone(), namespace, name), Revision(revision));
        let document = stored.read(&key, revision);
        Object { key, revision, document }
    };
    Ok(rows.into_iter().map(object).collect())
}

#[cfg(test)]
mod tests;
