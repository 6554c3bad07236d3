//! Objects as JSON documents, one strictly ordered revision sequence, and a change log that watches resume from.
//!
//! One writer task commits many callers' transactions at once, so that a durable write costs a share of one fsync; readers
//! have connections of their own. Relational tables (VMID leases, ledger, tokens, transcripts) live beside the objects and
//! share their transactions. The store knows documents and rows; what they mean is said elsewhere.

pub mod calls;
pub mod ledger;
pub mod tokens;
pub mod transcript;

pub use calls::{CallEnd, CallKind, CallState, CallSummary, NewCall};
pub use tokens::TokenOwner;
pub use transcript::{NewMessage, TranscriptEntry};

use futures::future::BoxFuture;
use serde_json::Value;

/// Position in the one order of all changes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct Revision(pub i64);

/// Names one object: the plural with its group (`machines.autovibe.dev`, `secrets`), namespace (empty if cluster-scoped), name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    pub resource: String,
    pub namespace: String,
    pub name: String,
}

impl Key {
    pub fn new(resource: impl Into<String>, namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { resource: resource.into(), namespace: namespace.into(), name: name.into() }
    }
}

/// A stored object; `document.metadata.resourceVersion` is its revision.
#[derive(Clone, Debug)]
pub struct Object {
    pub key: Key,
    pub revision: Revision,
    pub document: Value,
}

/// What a change did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    Added,
    Modified,
    Deleted,
}

/// One entry of the change log.
#[derive(Clone, Debug)]
pub struct Event {
    pub revision: Revision,
    pub change: Change,
    pub key: Key,
    /// The object after the change; for `Deleted` the last one, with the deletion's revision.
    pub document: Value,
    /// The object before the change, so that a selector can tell entering from leaving.
    pub previous: Option<Value>,
}

/// What [`Store::list`] returns: a state at one revision, ordered by namespace and name.
#[derive(Clone, Debug)]
pub struct Page {
    pub revision: Revision,
    pub items: Vec<Object>,
    /// How many more there are behind the last item.
    pub remaining: u64,
}

/// What to list.
#[derive(Clone, Debug, Default)]
pub struct Query {
    pub resource: String,
    /// Only this namespace.
    pub namespace: Option<String>,
    /// Only what comes after this namespace and name.
    pub after: Option<(String, String)>,
    /// At most so many; 0 is all.
    pub limit: u32,
}

/// What a caller can act on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The object was changed since it was read.
    #[error("{0:?} was changed since it was read")]
    Conflict(Key),
    #[error("{0:?} exists already")]
    Exists(Key),
    #[error("{0:?} does not exist")]
    NotFound(Key),
    /// The revision lies before the retained history.
    #[error("revision {requested:?} is too old; the history begins at {oldest:?}")]
    Expired { requested: Revision, oldest: Revision },
    /// Another process has this database open.
    #[error("{0}")]
    Locked(String),
    #[error("the database failed: {0}")]
    Database(#[from] sqlx::Error),
    #[error("{0}")]
    Corrupt(String),
    #[error("the store is closing")]
    Closed,
}

/// What must hold for a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// The object must not exist.
    Absent,
    /// The object must be at this revision.
    At(Revision),
    /// The object must exist.
    Present,
}

/// A handle to the database; cheap to clone.
#[derive(Clone)]
pub struct Store {
    _todo: (),
}

/// One write transaction. Dropped without return value, nothing of it remains.
pub struct Transaction<'a> {
    _connection: std::marker::PhantomData<&'a mut ()>,
}

impl Store {
    /// Opens (and creates or migrates) the database at `path`; refuses it when another process has it open.
    pub async fn open(_path: &std::path::Path) -> Result<Self, Error> {
        unimplemented!()
    }
    /// The object, as of now.
    pub async fn get(&self, _key: &Key) -> Result<Option<Object>, Error> {
        unimplemented!()
    }
    pub async fn list(&self, _query: &Query) -> Result<Page, Error> {
        unimplemented!()
    }
    /// Changes after `after` in revision order, at most `limit`, and the revision up to which they are complete.
    pub async fn changes(&self, _resource: &str, _after: Revision, _limit: u32) -> Result<(Vec<Event>, Revision), Error> {
        unimplemented!()
    }
    /// The newest committed revision, and a way to wait for a newer one.
    pub fn revisions(&self) -> tokio::sync::watch::Receiver<Revision> {
        unimplemented!()
    }
    /// Runs `work` in a write transaction; when it returns an error nothing is written. Durable when this returns.
    pub async fn write<T, E, F>(&self, _work: F) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<Error> + Send + 'static,
        F: for<'t> FnOnce(&'t mut Transaction<'_>) -> BoxFuture<'t, Result<T, E>> + Send + 'static,
    {
        unimplemented!()
    }
    /// Commits what was accepted and closes the database.
    pub async fn close(&self) {}
}

impl Transaction<'_> {
    pub async fn get(&mut self, _key: &Key) -> Result<Option<Object>, Error> {
        unimplemented!()
    }
    /// Stores `document` and returns it with its new `metadata.resourceVersion`.
    pub async fn put(&mut self, _key: &Key, _document: Value, _expect: Expect) -> Result<Object, Error> {
        unimplemented!()
    }
    /// Removes the object and returns its last document, with the deletion's revision.
    pub async fn delete(&mut self, _key: &Key, _expect: Expect) -> Result<Object, Error> {
        unimplemented!()
    }
}
