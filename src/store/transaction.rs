//! What a write transaction can do to objects. Relational tables add their own methods in sibling files.

use super::connection::{Connection, Link, query};
use super::{Change, Error, Expect, Key, Object, Revision, document::Stored, tail::Logged};
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
        let previous = self.expect(key, expect).await?;
        let change = if previous.is_some() { Change::Modified } else { Change::Added };
        let text = stored(&mut document);
        let revision = self.log(key, change, &text, previous.as_ref()).await?;
        let sql = "INSERT INTO objects (resource, namespace, name, revision, document) VALUES ($1, $2, $3, $4, $5) \
                   ON CONFLICT (resource, namespace, name) DO UPDATE SET revision = excluded.revision, document = excluded.document";
        query(sql).bind(&key.resource).bind(&key.namespace).bind(&key.name).bind(revision.0).bind(&text).execute(self.connection()).await?;
        super::stamp(&mut document, revision);
        self.note(key, change, revision, &document, text.len(), previous);
        Ok(Object { key: key.clone(), revision, document })
    }

    /// Removes the object and returns its last document, with the deletion's revision.
    pub async fn delete(&mut self, key: &Key, expect: Expect) -> Result<Object, Error> {
        let Some(previous) = self.expect(key, expect).await? else { return Err(Error::NotFound(key.clone())) };
        let revision = self.log(key, Change::Deleted, &previous.1, Some(&previous)).await?;
        let sql = "DELETE FROM objects WHERE resource = $1 AND namespace = $2 AND name = $3";
        query(sql).bind(&key.resource).bind(&key.namespace).bind(&key.name).execute(self.connection()).await?;
        let document = Stored::from(previous.1.clone()).read(key, revision);
        self.note(key, Change::Deleted, revision, &document, previous.1.len(), Some(previous));
        Ok(Object { key: key.clone(), revision, document })
    }

    fn note(
        &mut self,
        key: &Key,
        change: Change,
        revision: Revision,
        document: &Value,
        length: usize,
        previous: Option<(Revision, String)>,
    ) {
        let size = length + previous.as_ref().map_or(0, |(_, text)| text.len());
        self.logged.push(Logged { revision, change, key: key.clone(), document: document.clone(), previous, size });
    }

    /// The stored revision and text, when they are as expected.
    async fn expect(&mut self, key: &Key, expect: Expect) -> Result<Option<(Revision, String)>, Error> {
        let found = super::read::get_text(self.connection(), key).await?;
        match (&found, expect) {
            (Some(_), Expect::Absent) => Err(Error::Exists(key.clone())),
            (None, Expect::At(_) | Expect::Present) => Err(Error::NotFound(key.clone())),
            (Some((revision, _)), Expect::At(wanted)) if *revision != wanted => Err(Error::Conflict(key.clone())),
            _ => Ok(found),
        }
    }

    async fn log(&mut self, key: &Key, change: Change, document: &str, previous: Option<&(Revision, String)>) -> Result<Revision, Error> {
        let sql = "INSERT INTO log (change, resource, namespace, name, document, previous, previous_revision, at_seconds) \
                   VALUES ($1, $2, $3, $4, $5, $6, $7, $8)";
        let revision = query(sql)
            .bind(change.text())
            .bind(&key.resource)
            .bind(&key.namespace)
            .bind(&key.name)
            .bind(document)
            .bind(previous.map(|(_, text)| text))
            .bind(previous.map(|(revision, _)| revision.0))
            .bind(self.now)
            .insert(self.connection())
            .await?;
        Ok(Revision(revision))
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
    fn text(self) -> &'static str {
        match self {
            Self::Added => "Added",
            Self::Modified => "Modified",
            Self::Deleted => "Deleted",
        }
    }

    pub(super) fn from_text(text: &str) -> Result<Self, Error> {
        match text {
            "Added" => Ok(Self::Added),
            "Modified" => Ok(Self::Modified),
            "Deleted" => Ok(Self::Deleted),
            other => Err(Error::Corrupt(format!("the log holds an unknown change `{other}`"))),
        }
    }
}
