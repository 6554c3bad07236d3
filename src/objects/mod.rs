//! The one path that reads and writes objects: admission, then the store. API server, controllers and gateway all use it.

mod account;
mod cipher;
mod decision;
mod event;
mod keys;
mod last_word;
pub mod leader;
mod metadata;
mod namespace;
mod possible;
mod roles;
mod rotation;
mod seal;
mod typed;
mod watch;
mod write;

pub use cipher::Cipher;
pub use event::{EventDocuments, record};
pub use keys::Locked;
pub use last_word::LastWord;
pub use metadata::graft;
pub use namespace::DELETE_CHECKPOINTS;
pub use rotation::{Rotation, Stage};
pub use typed::{degraded, secret_value, typed};
pub use watch::{Feed, Told, follow};

use crate::api::FieldError;
use crate::clock::Clock;
use crate::store::{self, Change, Revision, Store};
use std::sync::{Arc, Mutex};

/// Reads and writes objects; cheap to clone.
#[derive(Clone)]
pub struct Objects {
    store: Store,
    clock: Clock,
    cipher: Arc<Cipher>,
    /// What is in the way of a change of the key.
    trouble: Arc<Mutex<Option<String>>>,
}

/// A change as a controller sees it.
#[derive(Clone, Debug)]
pub struct Event<K> {
    pub change: Change,
    pub object: K,
    pub revision: Revision,
}

/// Why a read or write was refused; carries all that the wire's Status needs.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{resource} {name:?} not found")]
    NotFound { resource: String, name: String },
    #[error("{resource} {name:?} already exists")]
    AlreadyExists { resource: String, name: String },
    /// The object was changed since it was read: read again.
    #[error("Operation cannot be fulfilled on {resource} {name:?}: {message}")]
    Conflict { resource: String, name: String, message: String },
    /// Wrong fields, all of them.
    #[error("{} {name:?} is invalid: {}", qualified(.group, .kind), all(.errors))]
    Invalid { group: String, kind: String, name: String, errors: Vec<FieldError> },
    /// A patch that does not fit the object: 422 without details on the wire.
    #[error("the server rejected our request due to an error in our request: {0}")]
    Unprocessable(String),
    #[error("{0}")]
    BadRequest(String),
    #[error("{0}")]
    Forbidden(String),
    /// Nothing new can be made in a namespace that is ending.
    #[error("{resource} {name:?} is forbidden: unable to create new content in namespace {namespace} because it is being terminated")]
    Terminating { resource: String, name: String, namespace: String },
    #[error("{0}")]
    Expired(String),
    /// What is stored of it is of another version, or damaged. It is there, and nothing is to be done about it until it is mended.
    #[error("{resource} {namespace}/{name} cannot be read: {why}")]
    Unreadable { resource: String, namespace: String, name: String, why: String },
    #[error(transparent)]
    Store(store::Error),
}

impl Objects {
    /// `cipher` encrypts Secrets at rest; see [`Cipher::load`].
    pub fn new(store: Store, clock: Clock, cipher: Cipher) -> Self {
        Self { store, clock, cipher: Arc::new(cipher), trouble: Arc::default() }
    }

    /// The same, where all that is written is refused as `Fenced` once the leader's `epoch` is over.
    #[must_use]
    pub fn under(&self, epoch: i64) -> Self {
        Self { store: self.store.under(epoch), ..self.clone() }
    }

    pub fn store(&self) -> &Store {
        &self.store
    }

    pub fn clock(&self) -> &Clock {
        &self.clock
    }
}

fn qualified(group: &str, kind: &str) -> String {
    if group.is_empty() { kind.into() } else { format!("{kind}.{group}") }
}

/// One error as it is, several in brackets. Source: apimachinery `field.ErrorList.ToAggregate`.
fn all(errors: &[FieldError]) -> String {
    let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
    if let [one] = texts.as_slice() { one.clone() } else { format!("[{}]", texts.join(", ")) }
}

/// Kubernetes' two types of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventType {
    Normal,
    Warning,
}

/// How a write is to be done. Source: query parameters of the Kubernetes API.
#[derive(Clone, Debug, Default)]
pub struct WriteOptions {
    pub dry_run: bool,
    pub field_validation: FieldValidation,
    pub field_manager: String,
    /// What the version that the sender speaks asks for beyond the kind's own rules: of the new document, and what it replaces.
    pub rules: Option<VersionRules>,
    /// Has the last word on what would be written.
    pub last_word: Option<LastWord>,
    /// The user who writes; nobody where the hub itself does.
    pub user: Option<String>,
}

pub type VersionRules = fn(&serde_json::Value, Option<&serde_json::Value>) -> Vec<FieldError>;

/// What happens to unknown and duplicate fields.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FieldValidation {
    Ignore,
    #[default]
    Warn,
    Strict,
}

/// Which part of an object a write is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    Main,
    Status,
    /// A Namespace's own finalizers.
    Finalizers,
}

/// A patch, as its content type says.
#[derive(Clone, Debug)]
pub enum Patch {
    Json(serde_json::Value),
    Merge(serde_json::Value),
    /// Core kinds only.
    Strategic(serde_json::Value),
}

/// Source: meta/v1 DeleteOptions.
#[derive(Clone, Debug, Default)]
pub struct DeleteOptions {
    pub dry_run: bool,
    pub uid: Option<String>,
    pub resource_version: Option<String>,
    /// `Background` (the default), `Foreground` or `Orphan`.
    pub propagation_policy: Option<String>,
}

/// The object after a write.
#[derive(Clone, Debug)]
pub struct Written {
    pub object: serde_json::Value,
    pub warnings: Vec<String>,
}

/// What a deletion led to.
#[derive(Clone, Debug)]
pub enum Deleted {
    /// It is gone; the last document.
    Gone(serde_json::Value),
    /// Finalizers remain.
    Marked(serde_json::Value),
}
