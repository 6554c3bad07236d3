//! The one path that reads and writes objects: admission, then the store. API server, controllers and gateway all use it.

mod cipher;

pub use cipher::Cipher;

use crate::admission::Resource;
use crate::api::Kind;
use crate::clock::Clock;
use crate::store::{self, Change, Revision, Store};
use futures::stream::BoxStream;

/// Reads and writes objects; cheap to clone.
#[derive(Clone)]
pub struct Objects {
    store: Store,
    clock: Clock,
    cipher: std::sync::Arc<Cipher>,
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
    #[error("{resource} \"{name}\" not found")]
    NotFound { resource: String, name: String },
    #[error("{resource} \"{name}\" already exists")]
    AlreadyExists { resource: String, name: String },
    /// The object was changed since it was read: read again.
    #[error("Operation cannot be fulfilled on {resource} \"{name}\": {message}")]
    Conflict { resource: String, name: String, message: String },
    /// Wrong fields, all of them.
    #[error("{kind} \"{name}\" is invalid: {}", .errors.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))]
    Invalid { group: String, kind: String, name: String, errors: Vec<crate::api::FieldError> },
    #[error("{0}")]
    BadRequest(String),
    #[error("{0}")]
    Forbidden(String),
    #[error("{0}")]
    Expired(String),
    #[error(transparent)]
    Store(#[from] store::Error),
}

impl Objects {
    /// `cipher` encrypts Secrets at rest; see [`Cipher::load`].
    pub fn new(store: Store, clock: Clock, cipher: Cipher) -> Self {
        Self { store, clock, cipher: std::sync::Arc::new(cipher) }
    }
    /// Creates the namespaces that always exist; call it once at start.
    pub async fn ensure_presets(&self) -> Result<(), Error> {
        unimplemented!()
    }
    /// Empties namespaces that are being deleted, and removes those that are empty; a background task calls it now and then.
    pub async fn finish_namespaces(&self) -> Result<(), Error> {
        unimplemented!()
    }
    /// Removes Events older than an hour; a background task calls it now and then.
    pub async fn expire_events(&self) -> Result<u64, Error> {
        unimplemented!()
    }
    pub fn store(&self) -> &Store {
        &self.store
    }
    pub fn clock(&self) -> &Clock {
        &self.clock
    }
    /// The object, or `None`; an error is never an absence.
    pub async fn get<K: Kind>(&self, _namespace: &str, _name: &str) -> Result<Option<K>, Error> {
        unimplemented!()
    }
    /// All of a kind (of one namespace), at one revision.
    pub async fn list<K: Kind>(&self, _namespace: Option<&str>) -> Result<(Vec<K>, Revision), Error> {
        unimplemented!()
    }
    /// Creates it: defaults, validates, sets uid and creationTimestamp, drops status.
    pub async fn create<K: Kind>(&self, _object: &K) -> Result<K, Error> {
        unimplemented!()
    }
    /// Replaces all but status; `metadata.resourceVersion` must be the one that was read. Silent when nothing changes.
    pub async fn update<K: Kind>(&self, _object: &K) -> Result<K, Error> {
        unimplemented!()
    }
    /// Replaces status alone, likewise. Silent when nothing changes.
    pub async fn update_status<K: Kind>(&self, _object: &K) -> Result<K, Error> {
        unimplemented!()
    }
    /// Asks for deletion: gone at once without finalizers, else marked with a deletionTimestamp. `uid` guards against a namesake.
    pub async fn delete<K: Kind>(&self, _namespace: &str, _name: &str, _uid: Option<&str>) -> Result<(), Error> {
        unimplemented!()
    }
    /// Every object as `Added`, then every change in order; resumes by itself. Ends only when the store closes.
    pub fn watch<K: Kind>(&self) -> BoxStream<'static, Event<K>> {
        unimplemented!()
    }
    /// A Secret's value, decrypted.
    pub async fn secret(&self, _namespace: &str, _name: &str, _key: &str) -> Result<Option<secrecy::SecretString>, Error> {
        unimplemented!()
    }
    /// Records a Kubernetes Event about an object; repeats are counted on one object. Failing to record is only logged.
    pub async fn record<K: Kind>(&self, _about: &K, _kind: EventType, _reason: &str, _message: &str) {
        unimplemented!()
    }
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
}

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

/// The same path for documents: what the API server uses. `namespace` is empty for cluster-scoped resources.
impl Objects {
    /// As stored; a Secret's data decrypted.
    pub async fn read(&self, _resource: &Resource, _namespace: &str, _name: &str) -> Result<serde_json::Value, Error> {
        unimplemented!()
    }
    /// The documents of a page, as [`Store::list`] gives them, Secrets decrypted.
    pub async fn read_page(&self, _resource: &Resource, _query: &store::Query) -> Result<store::Page, Error> {
        unimplemented!()
    }
    /// Changes after a revision, as [`Store::changes`] gives them, Secrets decrypted.
    pub async fn read_changes(&self, _resource: &Resource, _after: Revision, _limit: u32) -> Result<(Vec<store::Event>, Revision), Error> {
        unimplemented!()
    }
    pub async fn create_document(&self, _resource: &Resource, _namespace: &str, _document: serde_json::Value, _options: &WriteOptions) -> Result<Written, Error> {
        unimplemented!()
    }
    pub async fn update_document(&self, _resource: &Resource, _namespace: &str, _name: &str, _part: Part, _document: serde_json::Value, _options: &WriteOptions) -> Result<Written, Error> {
        unimplemented!()
    }
    pub async fn patch_document(&self, _resource: &Resource, _namespace: &str, _name: &str, _part: Part, _patch: &Patch, _options: &WriteOptions) -> Result<Written, Error> {
        unimplemented!()
    }
    pub async fn delete_document(&self, _resource: &Resource, _namespace: &str, _name: &str, _options: &DeleteOptions) -> Result<Deleted, Error> {
        unimplemented!()
    }
}
