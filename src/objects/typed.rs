//! Our own kinds as their types: what controllers and the gateway use.

use super::{DeleteOptions, Error, Objects, Part, Patch, WriteOptions, metadata, seal::SECRETS};
use crate::admission;
use crate::api::Kind;
use crate::store::{self, Key, Revision};
use base64::{Engine, engine::general_purpose::STANDARD};
use secrecy::SecretString;
use serde_json::Value;

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
pub fn typed<K: Kind>(key: &Key, document: &Value) -> Result<K, Error> {
    // By reference: the document is copied only in the rare case that follows.
    let read = serde_path_to_error::deserialize(document).or_else(|_| {
        let mut known = document.clone();
        admission::prune(admission::resource::<K>(), &mut known);
        serde_path_to_error::deserialize(known)
    });
    read.map_err(|error| {
        let text = format!("{} {}/{} cannot be read: {}: {}", key.resource, key.namespace, key.name, error.path(), error.inner());
        Error::Store(store::Error::Corrupt(text))
    })
}
