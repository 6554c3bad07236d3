//! What a write transaction can do to objects. Relational tables add their own methods in sibling files.

use super::connection::{Connection, Link, query};
use super::{Change, Error, Event, Expect, Key, Object, Revision, document::Stored, postgres, sqlite, tail::Logged};
use serde_json::Value;

/// One write transaction. When its work returns an error, nothing of it remains.
pub struct Transaction<'c> {
    connection: &'c mut Connection,
    /// Unix time of the transaction, for the log's age.
    now: i64,
    logged: Vec<Logged>,
    /// What it changed is more than the changes that it logged say.
    rewrites: bool,
}

impl<'c> Transaction<'c> {
    pub(super) fn new(connection: &'c mut Connection, now: i64) -> Self {
        Self { connection, now, logged: Vec::new(), rewrites: false }
    }

    /// The changes, in order, and whether they are all that there is to know.
    pub(super) fn end(self) -> (Vec<Logged>, bool) {
        (self.logged, !self.rewrites)
    }

    /// Says that this transaction changes the log itself.
    pub(super) fn rewrites_log(&mut self) {
        self.rewrites = true;
    }

    /// For the relational tables of this module. Never begins or ends a transaction: the writer does.
    pub(super) fn connection(&mut self) -> Link<'_> {
        self.connection.link()
    }

    pub async fn get(&mut self, key: &Key) -> Result<Option<Object>, Error> {
        super::read::get(self.connection(), key).await
    }

    /// Whether a namespace holds any object, or one of `resource`.
    pub async fn any_in(&mut self, namespace: &str, resource: Option<&str>) -> Result<Option<Key>, Error> {
        let sql = "SELECT resource, name FROM objects WHERE namespace = $1 AND ($2 IS NULL OR resource = $2) LIMIT 1";
        let row: Option<(String, String)> = query(sql).bind(namespace).bind(resource).fetch_optional(self.connection()).await?;
        Ok(row.map(|(resource, name)| Key::new(resource, namespace, name)))
    }

    /// Stores `document` and returns it with its new `metadata.resourceVersion`.
    pub async fn put(&mut self, key: &Key, mut document: Value, expect: Expect) -> Result<Object, Error> {
        let text = stored(&mut document);
        let (change, at) = match expect {
            Expect::Absent => (Change::Added, None),
            Expect::Present => (Change::Modified, None),
            Expect::At(revision) => (Change::Modified, Some(revision.0)),
        };
        let sql = match (self.connection(), change) {
            (Link::Sqlite(_), Change::Added) => sqlite::ADD,
            (Link::Sqlite(_), _) => sqlite::MODIFY,
            (Link::Postgres(_), Change::Added) => postgres::ADD,
            (Link::Postgres(_), _) => postgres::MODIFY,
        };
        let put = query(sql).bind(&key.resource).bind(&key.namespace).bind(&key.name).bind(&text).bind(self.now);
        let put = if change == Change::Added { put } else { put.bind(at) };
        let Some((revision,)) = put.fetch_optional::<(i64,)>(self.connection()).await? else {
            return Err(self.unexpected(key, expect).await?);
        };
        super::stamp(&mut document, Revision(revision));
        let event = Event { revision: Revision(revision), change, key: key.clone(), document };
        self.logged.push(Logged { event: event.clone(), size: text.len() });
        Ok(Object { key: event.key, revision: event.revision, document: event.document })
    }

    /// Removes the object and returns its last document, with the deletion's revision.
    pub async fn delete(&mut self, key: &Key, expect: Expect) -> Result<Object, Error> {
        let (at, text) = match (super::read::get_text(self.connection(), key).await?, expect) {
            (Some(found), Expect::Present) => found,
            (Some(found), Expect::At(wanted)) if found.0 == wanted => found,
            _ => return Err(self.unexpected(key, expect).await?),
        };
        let sql = "INSERT INTO log (change, resource, namespace, name, document, previous, previous_revision, at_seconds) \
                   VALUES ('Deleted', $1, $2, $3, $4, $4, $5, $6)";
        let values = query(sql).bind(&key.resource).bind(&key.namespace).bind(&key.name).bind(&text).bind(at.0).bind(self.now);
        let revision = Revision(values.insert(self.connection()).await?);
        let sql = "DELETE FROM objects WHERE resource = $1 AND namespace = $2 AND name = $3";
        query(sql).bind(&key.resource).bind(&key.namespace).bind(&key.name).execute(self.connection()).await?;
        let size = text.len();
        let event = Event { revision, change: Change::Deleted, key: key.clone(), document: Stored::from(text).read(key, revision) };
        self.logged.push(Logged { event: event.clone(), size });
        Ok(Object { key: event.key, revision, document: event.document })
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
