//! Our own kinds as their types: what controllers and the gateway use.

use super::{DeleteOptions, Error, Objects, Part, Patch, WriteOptions, metadata, seal::SECRETS};
use crate::admission;
use crate::api::{API_VERSION, Approval, Budget, Checkpoint, GROUP, Hub, Kind, Machine};
use crate::store::{self, Key, Revision, Transaction};
use base64::{Engine, engine::general_purpose::STANDARD};
use futures::future::BoxFuture;
use secrecy::SecretString;
use serde_json::{Value, json};

impl Objects {
    /// The object, or `None`; an error is never an absence.
    pub async fn get<K: Kind>(&self, namespace: &str, name: &str) -> Result<Option<K>, Error> {
        match self.current(&admission::resource::<K>().key(namespace, name)).await {
            Ok(object) => typed(&object.key, &object.document).map(Some),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All of a kind (of one namespace), at one revision.
    pub async fn list<K: Kind>(&self, namespace: Option<&str>) -> Result<(Vec<K>, Revision), Error> {
        let query = store::Query { namespace: namespace.map(Into::into), ..store::Query::default() };
        let page = self.read_page(admission::resource::<K>(), &query).await?;
        let items = page.items.iter().map(|item| typed(&item.key, &item.document)).collect::<Result<_, _>>()?;
        Ok((items, page.revision))
    }

    /// Those of a kind in a namespace whose stored document `takes` accepts. One that cannot be read is in the way only of who
    /// asks for it.
    pub async fn list_where<K: Kind>(&self, namespace: &str, takes: impl Fn(&Value) -> bool) -> Result<Vec<K>, Error> {
        let query = store::Query { namespace: Some(namespace.into()), ..store::Query::default() };
        let page = self.read_page(admission::resource::<K>(), &query).await?;
        page.items.iter().filter(|item| takes(&item.document)).map(|item| typed(&item.key, &item.document)).collect()
    }

    /// Creates it: defaults, validates, sets uid and creationTimestamp, drops status.
    pub async fn create<K: Kind>(&self, object: &K) -> Result<K, Error> {
        let resource = admission::resource::<K>();
        let mut document = value(object);
        metadata::of(&mut document).remove("resourceVersion");
        let written = self.create_document(resource, object.namespace(), document, &WriteOptions::default()).await?;
        typed(&resource.key(object.namespace(), object.name()), &written.object)
    }

    /// Replaces all but status; `metadata.resourceVersion` must be the one that was read. Silent when nothing changes.
    pub async fn update<K: Kind>(&self, object: &K) -> Result<K, Error> {
        self.write(object, Part::Main).await
    }

    /// Replaces status alone, likewise. Silent when nothing changes.
    pub async fn update_status<K: Kind>(&self, object: &K) -> Result<K, Error> {
        self.write(object, Part::Status).await
    }

    /// Replaces status alone, likewise, and does `beside` in the same transaction: both are done, or neither. Not for what is sealed.
    pub async fn update_status_beside<K, F>(&self, object: &K, beside: F) -> Result<K, Error>
    where
        K: Kind,
        F: for<'t> FnOnce(&'t mut Transaction<'_>) -> BoxFuture<'t, Result<(), store::Error>> + Send + 'static,
    {
        let resource = admission::resource::<K>();
        let key = resource.key(object.namespace(), object.name());
        let written = self.replace_status_beside(resource, &key, value(object), beside).await?;
        typed(&key, &written)
    }

    async fn write<K: Kind>(&self, object: &K, part: Part) -> Result<K, Error> {
        let resource = admission::resource::<K>();
        let key = resource.key(object.namespace(), object.name());
        if object.metadata().resource_version.is_none() {
            return Err(Error::BadRequest(format!("{} \"{}\" must be read before it is updated", key.resource, key.name)));
        }
        let new = value(object);
        let graft = |before: &Value| -> Result<Value, Error> {
            if before["metadata"]["resourceVersion"] != new["metadata"]["resourceVersion"] {
                // Refused by the caller, which compares the two.
                return Ok(new.clone());
            }
            let read: K = typed(&key, before)?;
            Ok(metadata::graft(before, &value(&read), &new))
        };
        let written = self.replace(resource, &key, part, &WriteOptions::default(), graft).await?;
        typed(&key, &written.object)
    }

    /// Merges `change` into the object as it is now (RFC 7386), whoever else writes it meanwhile.
    pub async fn merge<K: Kind>(&self, namespace: &str, name: &str, part: Part, change: Value) -> Result<K, Error> {
        let resource = admission::resource::<K>();
        let written = self.patch_document(resource, namespace, name, part, &Patch::Merge(change), &WriteOptions::default()).await?;
        typed(&resource.key(namespace, name), &written.object)
    }

    /// Asks for deletion: gone at once without finalizers, else marked with a deletionTimestamp. `uid` guards against a namesake.
    pub async fn delete<K: Kind>(&self, namespace: &str, name: &str, uid: Option<&str>) -> Result<(), Error> {
        let options = DeleteOptions { uid: uid.map(Into::into), ..DeleteOptions::default() };
        self.delete_document(admission::resource::<K>(), namespace, name, &options).await.map(drop)
    }

    /// A Secret's value, decrypted; `None` when there is no such Secret or key.
    pub async fn secret(&self, namespace: &str, name: &str, key: &str) -> Result<Option<SecretString>, Error> {
        let secret = match self.current(&Key::new(SECRETS, namespace, name)).await {
            Ok(secret) => secret,
            Err(Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        secret_value(&secret.document, namespace, name, key)
    }
}

/// A key's value in a Secret's document, decrypted.
pub fn secret_value(secret: &Value, namespace: &str, name: &str, key: &str) -> Result<Option<SecretString>, Error> {
    let Some(text) = secret["data"][key].as_str() else { return Ok(None) };
    let wrong = || Error::BadRequest(format!("key {key} of secret {namespace}/{name} is not text; write it with stringData"));
    let bytes = STANDARD.decode(text).map_err(|_| wrong())?;
    String::from_utf8(bytes).map(|text| Some(text.into())).map_err(|_| wrong())
}

fn value<K: Kind>(object: &K) -> Value {
    serde_json::to_value(object).expect("our kinds have string keys and no failing parts")
}

/// Reads a stored document as its type; fields that an older version stored and this one does not know are left out.
///
/// Errors: `Unreadable`, also when the server that showed the document could not read it.
pub fn typed<K: Kind>(key: &Key, document: &Value) -> Result<K, Error> {
    let unreadable =
        |why: String| Error::Unreadable { resource: key.resource.clone(), namespace: key.namespace.clone(), name: key.name.clone(), why };
    if let Some(why) = another_version(document) {
        return Err(unreadable(why));
    }
    // By reference: the document is copied only in the rare case that follows.
    let read = serde_path_to_error::deserialize(document).or_else(|_| {
        let mut known = document.clone();
        admission::prune(admission::resource::<K>(), &mut known);
        serde_path_to_error::deserialize(known)
    });
    read.map_err(|error| unreadable(format!("{}: {}", error.path(), error.inner())))
}

/// Reason of the condition `Degraded` of a document that cannot be read as its kind.
const UNREADABLE: &str = "Unreadable";

/// Why a document is not of the version that is read here, if that can be seen without reading it.
fn another_version(document: &Value) -> Option<String> {
    let version = document["apiVersion"].as_str().unwrap_or(API_VERSION);
    if version != API_VERSION {
        return Some(format!("it is stored as {version}, and this autovibe reads {API_VERSION}"));
    }
    // A server shows it under its own version, and says this.
    let conditions = document["status"]["conditions"].as_array();
    let degraded = conditions.into_iter().flatten().find(|c| c["type"] == "Degraded" && c["reason"] == UNREADABLE);
    degraded.map(|condition| condition["message"].as_str().unwrap_or_default().to_owned())
}

/// What is shown instead of a stored document of one of our kinds that this version cannot read: the same, as it is stored,
/// with a condition that says so. `None` for all others.
pub fn degraded(key: &Key, document: &Value) -> Option<Value> {
    fn fault<K: Kind>(key: &Key, document: &Value) -> Option<Error> {
        if another_version(document).is_none() && K::deserialize(document).is_ok() {
            return None;
        }
        typed::<K>(key, document).err()
    }
    let fault = match key.resource.strip_suffix(GROUP)? {
        "machines." => fault::<Machine>(key, document),
        "checkpoints." => fault::<Checkpoint>(key, document),
        "budgets." => fault::<Budget>(key, document),
        "approvals." => fault::<Approval>(key, document),
        "hubs." => fault::<Hub>(key, document),
        _ => None,
    }?;
    let message = format!("{fault}; nothing acts on it: write it as this version knows it, run the version that wrote it, or delete it");
    let condition = json!({
        "type": "Degraded", "status": "True", "reason": UNREADABLE, "message": message, "lastTransitionTime": "1970-01-01T00:00:00Z",
    });
    let mut shown = document.clone();
    // What a client asked for, so that it can read it; the message says what it is.
    shown["apiVersion"] = API_VERSION.into();
    if !shown["status"].is_object() {
        shown["status"] = json!({});
    }
    match shown["status"]["conditions"].as_array_mut() {
        // The store has said already that it is damaged.
        Some(conditions) if conditions.iter().any(|c| c["type"] == "Degraded") => {}
        Some(conditions) => conditions.push(condition),
        None => shown["status"]["conditions"] = json!([condition]),
    }
    Some(shown)
}
