//! What a write transaction can do to objects. Relational tables add their own methods in sibling files.

use super::connection::{Connection, Link, Statement, query};
use super::{Change, Error, Event, Expect, Key, Object, Revision, document::Stored, postgres, sqlite, tail::Logged};
use serde_json::Value;
use std::collections::HashMap;

/// One write transaction. When its work returns an error, nothing of it remains.
pub struct Transaction<'c> {
    connection: &'c mut Connection,
    batch: &'c mut Batch,
    /// Unix time of the transaction, for the log's age.
    now: i64,
    logged: Vec<Logged>,
    /// What it changed is more than the changes that it logged say.
    rewrites: bool,
    /// The database failed in the middle of a change.
    broken: bool,
    /// Puts that are made together, before anything is read that they may change.
    pending: Vec<Pending>,
    /// What became of those that were, in order.
    settled: Vec<Result<Object, Error>>,
    /// It was not begun: a put begins and commits by itself, and is all there is in it.
    alone: bool,
}

/// A put that waits for others.
struct Pending {
    key: Key,
    document: Value,
    text: String,
    expect: Expect,
}

/// What the transactions that are committed together know of each other.
#[derive(Default)]
pub(super) struct Batch {
    /// The newest revision, where it is counted here: on PostgreSQL, whose counter's row is written once, at the commit. A row
    /// that is locked by the transaction and changed in each of its savepoints would cost ever more.
    pub(super) newest: Option<i64>,
    /// Objects that were read: many are created in one namespace.
    read: HashMap<Key, Option<Object>>,
}

/// What became of a transaction.
pub(super) struct Ended {
    /// The changes, in order,
    pub(super) logged: Vec<Logged>,
    /// and whether they are all that there is to know.
    pub(super) complete: bool,
    /// Whether some of a change may stand in the database.
    pub(super) broken: bool,
    /// What became of the puts that were asked for with [`Transaction::put_soon`], in order.
    pub(super) settled: Vec<Result<Object, Error>>,
}

impl Batch {
    /// Nothing of the transaction stands that began at `newest`.
    pub(super) fn take_back(&mut self, newest: Option<i64>) {
        *self = Self { newest, ..Self::default() };
    }
}

impl<'c> Transaction<'c> {
    pub(super) fn new(connection: &'c mut Connection, batch: &'c mut Batch, now: i64) -> Self {
        let (logged, pending, settled) = (Vec::new(), Vec::new(), Vec::new());
        Self { connection, batch, now, logged, rewrites: false, broken: false, pending, settled, alone: false }
    }

    /// One that was not begun, for a single put: on SQLite all of it is one statement. What its work reads before is what there
    /// is at the put, for nobody else writes.
    pub(super) fn not_begun(self) -> Self {
        Self { alone: true, ..self }
    }

    pub(super) fn end(self) -> Ended {
        Ended { logged: self.logged, complete: !self.rewrites, broken: self.broken, settled: self.settled }
    }

    /// Says that this transaction changes the log itself.
    pub(super) fn rewrites_log(&mut self) {
        self.rewrites = true;
        self.batch.read.clear();
    }

    /// For the relational tables of this module. Never begins or ends a transaction: the writer does.
    pub(super) fn connection(&mut self) -> Link<'_> {
        self.connection.link()
    }

    /// The statement of the engine that it runs on.
    pub(super) fn either(&self, on_sqlite: &'static str, on_postgres: &'static str) -> &'static str {
        match &self.connection {
            Connection::Sqlite(_) => on_sqlite,
            Connection::Postgres(_) => on_postgres,
        }
    }

    pub async fn get(&mut self, key: &Key) -> Result<Option<Object>, Error> {
        if self.pending.iter().any(|pending| pending.key == *key) {
            self.settle().await?;
        }
        if let Some(read) = self.batch.read.get(key) {
            return Ok(read.clone());
        }
        let object = super::read::get(self.connection(), key).await?;
        self.batch.read.insert(key.clone(), object.clone());
        Ok(object)
    }

    /// Whether a namespace holds any object, or one of `resource`.
    pub async fn any_in(&mut self, namespace: &str, resource: Option<&str>) -> Result<Option<Key>, Error> {
        self.settle().await?;
        let sql = "SELECT resource, name FROM objects WHERE namespace = $1 AND ($2 IS NULL OR resource = $2) LIMIT 1";
        let row: Option<(String, String)> = query(sql).bind(namespace).bind(resource).fetch_optional(self.connection()).await?;
        Ok(row.map(|(resource, name)| Key::new(resource, namespace, name)))
    }

    /// Stores `document` and returns it with its new `metadata.resourceVersion`.
    pub async fn put(&mut self, key: &Key, mut document: Value, expect: Expect) -> Result<Object, Error> {
        let text = stored(&mut document);
        self.put_text(key, document, &text, expect).await
    }

    async fn put_text(&mut self, key: &Key, document: Value, text: &str, expect: Expect) -> Result<Object, Error> {
        let (change, on_sqlite, on_postgres) = match (expect, self.alone) {
            (Expect::Absent, false) => (Change::Added, sqlite::ADD, postgres::ADD),
            (Expect::Absent, true) => (Change::Added, sqlite::ADD_ALONE, postgres::ADD),
            (_, false) => (Change::Modified, sqlite::MODIFY, postgres::MODIFY),
            (_, true) => (Change::Modified, sqlite::MODIFY_ALONE, postgres::MODIFY),
        };
        let statement = self.statement(on_sqlite, on_postgres, key).bind(text);
        let statement = if change == Change::Added { statement } else { statement.bind(expect.revision()) };
        // All rows of one: what follows it is done too.
        let put = statement.fetch_all::<(i64,)>(self.connection()).await;
        let Some((revision,)) = self.sound(put)?.pop() else {
            return Err(self.unexpected(key, expect).await?);
        };
        Ok(self.log(change, key, document, revision, text.len()))
    }

    /// Puts it with others: what becomes of it [`Ended::settled`] says. Errors: those of the others that came before it.
    pub(super) async fn put_soon(&mut self, key: &Key, mut document: Value, expect: Expect) -> Result<(), Error> {
        if self.pending.iter().any(|pending| pending.key == *key) {
            self.settle().await?;
        }
        let text = stored(&mut document);
        self.pending.push(Pending { key: key.clone(), document, text, expect });
        Ok(())
    }

    /// Makes the puts that wait: one as it is, several as one statement.
    pub(super) async fn settle(&mut self) -> Result<(), Error> {
        let pending = std::mem::take(&mut self.pending);
        let newest = match (&self.connection, self.batch.newest) {
            (Connection::Postgres(_), Some(newest)) if pending.len() > 1 => newest,
            _ => {
                for Pending { key, document, text, expect } in pending {
                    let put = self.put_text(&key, document, &text, expect).await;
                    self.settled.push(put);
                }
                return Ok(());
            }
        };
        let Connection::Postgres(connection) = &mut *self.connection else { return Ok(()) };
        let mut puts = postgres::Puts::default();
        for Pending { key, text, expect, .. } in &pending {
            puts.resources.push(key.resource.clone());
            puts.namespaces.push(key.namespace.clone());
            puts.names.push(key.name.clone());
            puts.expected.push(if *expect == Expect::Absent { Some(-1) } else { expect.revision() });
            puts.documents.push(text.clone());
        }
        let put = postgres::put_all(connection, puts, self.now, newest).await;
        for (Pending { key, document, text, expect }, (revision, was)) in pending.into_iter().zip(self.sound(put)?) {
            let put = match (revision, expect) {
                (Some(revision), _) => {
                    let change = if was { Change::Modified } else { Change::Added };
                    Ok(self.log(change, &key, document, revision, text.len()))
                }
                (None, Expect::Absent) => Err(Error::Exists(key)),
                (None, _) if !was => Err(Error::NotFound(key)),
                (None, _) => Err(Error::Conflict(key)),
            };
            self.settled.push(put);
        }
        Ok(())
    }

    /// Removes the object and returns its last document, with the deletion's revision.
    pub async fn delete(&mut self, key: &Key, expect: Expect) -> Result<Object, Error> {
        let statement = self.statement(sqlite::REMOVE, postgres::REMOVE, key).bind(expect.revision());
        let removed = statement.fetch_optional::<(i64, Stored)>(self.connection()).await;
        let Some((revision, stored)) = self.sound(removed)? else {
            return Err(self.unexpected(key, expect).await?);
        };
        let text = stored.text();
        let size = text.len();
        Ok(self.log(Change::Deleted, key, Stored::from(text).read(key, Revision(revision)), revision, size))
    }

    /// The engine's statement for a change of a key's object, with what all of them need: the key (1 to 3), the time (4), and
    /// the revision (5), which is null where the database counts.
    fn statement<'q>(&self, on_sqlite: &'static str, on_postgres: &'static str, key: &'q Key) -> Statement<'q> {
        let next = match &self.connection {
            Connection::Sqlite(_) => None,
            Connection::Postgres(_) => self.batch.newest.map(|newest| newest + 1),
        };
        query(self.either(on_sqlite, on_postgres)).bind(&key.resource).bind(&key.namespace).bind(&key.name).bind(self.now).bind(next)
    }

    /// Notes a change that failed half done.
    fn sound<T>(&mut self, result: Result<T, Error>) -> Result<T, Error> {
        self.broken |= result.is_err();
        result.map_err(|error| if self.alone { sqlite::not_synced(error) } else { error })
    }

    fn log(&mut self, change: Change, key: &Key, document: Value, revision: i64, size: usize) -> Object {
        self.batch.read.remove(key);
        if let Some(newest) = &mut self.batch.newest {
            *newest = revision;
        }
        let (object, logged) = changed(change, key, document, revision, size);
        self.logged.push(logged);
        object
    }

    /// Why a write that expected this was not made.
    async fn unexpected(&mut self, key: &Key, expect: Expect) -> Result<Error, Error> {
        Ok(match (super::read::get_text(self.connection(), key).await?, expect) {
            (Some(_), Expect::Absent) => Error::Exists(key.clone()),
            (None, _) => Error::NotFound(key.clone()),
            (Some(_), Expect::At(_) | Expect::Present) => Error::Conflict(key.clone()),
        })
    }
}

/// The object after a change, whose document is `size` long as text, and the change for the log.
pub(super) fn changed(change: Change, key: &Key, mut document: Value, revision: i64, size: usize) -> (Object, Logged) {
    super::stamp(&mut document, Revision(revision));
    let event = Event { revision: Revision(revision), change, key: key.clone(), document };
    let object = Object { key: event.key.clone(), revision: event.revision, document: event.document.clone() };
    (object, Logged { event, size })
}

impl Expect {
    fn revision(self) -> Option<i64> {
        match self {
            Self::At(revision) => Some(revision.0),
            Self::Absent | Self::Present => None,
        }
    }
}

/// The text as it is stored: without `metadata.resourceVersion`, which is the revision.
pub(super) fn stored(document: &mut Value) -> String {
    if let Some(metadata) = document.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("resourceVersion");
    }
    document.to_string()
}

impl Change {
    pub(super) fn from_text(text: &str) -> Result<Self, Error> {
        match text {
            "Added" => Ok(Self::Added),
            "Modified" => Ok(Self::Modified),
            "Deleted" => Ok(Self::Deleted),
            other => Err(Error::Corrupt(format!("the log holds an unknown change `{other}`"))),
        }
    }
}
