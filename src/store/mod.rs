//! Objects as JSON documents, one strictly ordered revision sequence, and a change log that watches resume from.
//!
//! One writer task commits many callers' transactions at once, so that a durable write costs a share of one fsync; readers
//! have connections of their own. On PostgreSQL several processes may do so on one database: see `postgres` for how commits
//! follow revisions, and `lead` for who may act. Relational tables (VMID leases, ledger, tokens, transcripts) live beside the
//! objects and share their transactions. The store knows documents and rows; what they mean is said elsewhere.

pub mod account_tokens;
mod backup;
pub mod bundles;
pub mod calls;
mod changed;
mod compact;
mod connection;
mod database;
mod document;
mod job;
mod lead;
pub mod ledger;
mod lineage;
mod migrations;
mod news;
mod open;
mod postgres;
mod read;
mod restore;
pub mod rewrite;
mod sqlite;
mod tail;
pub mod tokens;
mod transaction;
pub mod transcript;
mod vmids;
mod writer;

pub use account_tokens::AccountTokenRow;
pub use backup::backup;
pub use bundles::BundleRow;
pub use calls::{CallEnd, CallKind, CallState, CallSummary, LastTurn, NewCall};
pub use database::Database;
pub use lineage::line;
pub use open::{GoesOn, History, Moment, Options};
pub use postgres::wait_in_place_of;
pub use restore::{Replace, restore};
pub use sqlite::wait_in_place;
pub use tokens::TokenOwner;
pub use transaction::Transaction;
pub use transcript::{NewMessage, TranscriptEntry};
pub use vmids::VmidLease;

use futures::future::BoxFuture;
use serde_json::Value;
use std::sync::{
    Arc, Weak,
    atomic::{AtomicU64, Ordering},
};
use tokio::sync::{mpsc, oneshot, watch};

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
}

/// One entry of the change log with the object before it, so that a selector can tell entering from leaving.
pub type Past = (Event, Option<Value>);

/// What [`Store::list`] returns: a state at one revision, ordered by namespace and name.
#[derive(Clone, Debug)]
pub struct Page {
    pub revision: Revision,
    pub items: Vec<Object>,
    /// Whether there are more behind the last item.
    pub more: bool,
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
    /// The state as it was at this revision; without it, as of now.
    pub at: Option<Revision>,
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
    /// The address of the database cannot be used.
    #[error("the database's URL: {0}")]
    Url(String),
    /// A backup or restore was not done.
    #[error("{0}")]
    Backup(String),
    #[error("the database failed: {0}")]
    Database(#[source] sqlx::Error),
    /// The database does not answer, or bears no more now. Nothing was written.
    #[error("the database is not available: {0}")]
    Unavailable(String),
    #[error("{0}")]
    Corrupt(String),
    /// Another leads: whoever led under `ours` must not act any more.
    #[error("another leads, in epoch {theirs}; ours, {ours}, is over")]
    Fenced { ours: i64, theirs: i64 },
    /// Nothing of it was written; it may be tried again.
    #[error("the write was not committed: {0}")]
    NotCommitted(String),
    /// The database was lost under the commit, and did not come back to say what became of it.
    #[error("whether the write was committed is not known: {0}; read before it is tried again")]
    Unknown(String),
    #[error("the store is closing")]
    Closed,
}

impl From<sqlx::Error> for Error {
    fn from(error: sqlx::Error) -> Self {
        if postgres::is_passing(&error) || sqlite::is_passing(&error) {
            Self::Unavailable(error.to_string())
        } else {
            Self::Database(error)
        }
    }
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

/// A handle to the database; cheap to clone. Dropping the last one closes it after the writes that were accepted.
#[derive(Clone)]
pub struct Store {
    shared: Arc<Shared>,
    /// The leader's epoch that each write is made under, if it is a leader's.
    fence: Option<i64>,
}

struct Shared {
    requests: mpsc::Sender<job::Request>,
    readers: read::Readers,
    revisions: watch::Receiver<Revision>,
    /// Theirs who publish: with them it ends.
    news: Weak<news::News>,
    tail: Arc<tail::Tail>,
    /// No other process writes to this database while it is open.
    one_process: bool,
    /// See [`Store::process_epoch`].
    epoch: i64,
    installation: String,
    /// Whether no other process can have the database open.
    alone: bool,
    /// Writes that were committed.
    writes: Arc<AtomicU64>,
}

impl Store {
    /// The newest committed revision, and a way to wait for a newer one. It closes when the store does.
    pub fn revisions(&self) -> watch::Receiver<Revision> {
        self.shared.revisions.clone()
    }

    /// The same, told only of what may have changed an object of `resource`, and now and then besides. Whoever then asks
    /// [`Store::told`] misses nothing.
    pub fn news(&self, resource: &str) -> watch::Receiver<Revision> {
        match self.shared.news.upgrade() {
            Some(news) => news.of(resource),
            None => self.revisions(),
        }
    }

    /// Id of this installation: random, made with the database.
    pub fn installation(&self) -> &str {
        &self.shared.installation
    }

    /// Whether this process alone uses the database.
    pub fn is_alone(&self) -> bool {
        self.shared.alone
    }

    /// How many writes were committed since it was opened, those of the relational tables among them.
    pub fn writes(&self) -> u64 {
        self.shared.writes.load(Ordering::Relaxed)
    }

    /// Runs `work` in a write transaction; when it returns an error nothing is written. Durable when this returns.
    ///
    /// `work` runs alone: it must not wait for anything but this transaction, and it hands on each error of the database. A
    /// panic in it reaches the caller.
    pub async fn write<T, E, F>(&self, work: F) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<Error> + Send + 'static,
        F: for<'t> FnOnce(&'t mut Transaction<'_>) -> BoxFuture<'t, Result<T, E>> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let job = match self.fence {
            None => job::any(work, reply),
            Some(epoch) => job::any(fenced(epoch, work), reply),
        };
        self.submit(job, answer).await
    }

    /// Writes one object, as [`Transaction::put`] does, with the document that `make` makes. It may read what it needs in the
    /// same transaction, and writes nothing: so there is nothing to take back, which is faster among many.
    pub async fn put<E, F>(&self, key: Key, expect: Expect, make: F) -> Result<Object, E>
    where
        E: From<Error> + Send + 'static,
        F: for<'t> FnOnce(&'t mut Transaction<'_>) -> BoxFuture<'t, Result<serde_json::Value, E>> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let job = match self.fence {
            None => job::put(key, expect, make, reply),
            Some(epoch) => job::put(key, expect, fenced(epoch, make), reply),
        };
        self.submit(job, answer).await
    }

    /// Replaces the object that is at revision `at`: [`Store::put`] of a document that needs nothing read, which is faster alone.
    pub async fn replace<E: From<Error> + Send + 'static>(&self, key: Key, at: Revision, document: Value) -> Result<Object, E> {
        let (reply, answer) = oneshot::channel();
        let job = match self.fence {
            None => job::replace(job::Ready { key, at, document }, reply),
            Some(_) => return self.put(key, Expect::At(at), |_| Box::pin(async { Ok(document) })).await,
        };
        self.submit(job, answer).await
    }

    async fn submit<T, E: From<Error>>(&self, job: job::Job, answer: oneshot::Receiver<job::Answer<T, E>>) -> Result<T, E> {
        self.shared.requests.send(job::Request::Write(job)).await.map_err(|_| Error::Closed)?;
        match answer.await.map_err(|_| Error::Closed)? {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    /// Commits what was accepted and closes the database; writes after it are refused as `Closed`.
    pub async fn close(&self) {
        let (done, closed) = oneshot::channel();
        if self.shared.requests.send(job::Request::Close(done)).await.is_ok() {
            let _ = closed.await;
        }
    }
}

/// The same work, if `epoch` still leads.
fn fenced<T, E, F>(epoch: i64, work: F) -> impl for<'t> FnOnce(&'t mut Transaction<'_>) -> BoxFuture<'t, Result<T, E>> + Send + 'static
where
    T: Send + 'static,
    E: From<Error> + Send + 'static,
    F: for<'t> FnOnce(&'t mut Transaction<'_>) -> BoxFuture<'t, Result<T, E>> + Send + 'static,
{
    move |transaction| {
        Box::pin(async move {
            transaction.check_leader(epoch).await?;
            work(transaction).await
        })
    }
}

/// Puts the revision into a document, as `metadata.resourceVersion`.
fn stamp(document: &mut Value, revision: Revision) {
    if let Some(metadata) = document.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.insert("resourceVersion".into(), revision.0.to_string().into());
    }
}
