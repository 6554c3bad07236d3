//! Documents as they lie in the store: values and annotations of Secrets are encrypted there. Annotations, because
//! `kubectl apply` keeps the whole applied Secret in one.

use super::{Cipher, Error, Objects, cipher::is_sealed_with, rotation::Ring};
use crate::store::{self, Transaction};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::Value;

/// Name of the resource whose documents are sealed.
pub(super) const SECRETS: &str = "secrets";

/// Whether documents of the resource are sealed.
pub(super) fn seals(resource: &str) -> bool {
    resource == SECRETS
}

impl Cipher {
    /// The document for the store, sealed with the key that is the one to write with in this very transaction.
    ///
    /// Errors: `Unavailable` when this server does not have that key. Nothing is written then.
    pub(super) async fn seal_document(
        &self,
        transaction: &mut Transaction<'_>,
        resource: &str,
        document: Value,
    ) -> Result<Value, store::Error> {
        if !seals(resource) {
            return Ok(document);
        }
        let id = match Ring::read(transaction).await? {
            Some(ring) => ring.writes,
            None => self.ids().swap_remove(0),
        };
        self.seal_with(&id, document).ok_or_else(|| {
            let file = self.file().map(|file| file.display().to_string()).unwrap_or_default();
            tracing::error!("a Secret was not written: this server lacks the key {id}; copy the secrets.key of another server to {file}");
            store::Error::Unavailable(format!("the key {id} of the Secrets is not in {file}"))
        })
    }

    /// The Secret, sealed; `None` without that key.
    pub(super) fn seal_with(&self, id: &str, mut document: Value) -> Option<Value> {
        let place = place(&document);
        for (key, value) in values(&mut document, "/data") {
            // Validation has seen that it is base64; were it not, it would still not be stored in the clear.
            let text = value.as_str().unwrap_or_default();
            let plain = STANDARD.decode(text).unwrap_or_else(|_| text.as_bytes().to_vec());
            *value = self.seal(id, &format!("{place}/{key}"), &plain)?.into();
        }
        for (key, value) in values(&mut document, "/metadata/annotations") {
            let at = format!("{place}/metadata.annotations/{key}");
            *value = self.seal(id, &at, value.as_str().unwrap_or_default().as_bytes())?.into();
        }
        Some(document)
    }

    /// The document as its readers see it.
    pub(super) fn unseal_document(&self, resource: &str, mut document: Value) -> Result<Value, Error> {
        if seals(resource) {
            let place = place(&document);
            let corrupt = |e: &dyn std::fmt::Display| Error::Store(store::Error::Corrupt(e.to_string()));
            for (key, value) in values(&mut document, "/data") {
                let plain = self.open(&format!("{place}/{key}"), value.as_str().unwrap_or_default()).map_err(|e| corrupt(&e))?;
                *value = STANDARD.encode(plain).into();
            }
            for (key, value) in values(&mut document, "/metadata/annotations") {
                let at = format!("{place}/metadata.annotations/{key}");
                let plain = self.open(&at, value.as_str().unwrap_or_default()).map_err(|e| corrupt(&e))?;
                *value = String::from_utf8(plain).map_err(|e| corrupt(&e))?.into();
            }
        }
        Ok(document)
    }
}

/// Whether all of a stored Secret is sealed with this key.
pub(super) fn is_wholly_sealed_with(id: &str, document: &Value) -> bool {
    let fields = ["/data", "/metadata/annotations"].into_iter().filter_map(|pointer| document.pointer(pointer)?.as_object());
    fields.flatten().all(|(_, value)| is_sealed_with(id, value.as_str().unwrap_or_default()))
}

impl Objects {
    /// The document as its readers see it, of one as [`store::Store`] gives it.
    pub fn unseal(&self, resource: &str, document: Value) -> Result<Value, Error> {
        self.cipher.unseal_document(resource, document)
    }

    pub(super) fn unseal_event(&self, event: store::Event) -> Result<store::Event, Error> {
        let document = self.unseal(&event.key.resource, event.document)?;
        Ok(store::Event { document, ..event })
    }
}

/// `namespace/name`; neither holds a slash.
fn place(document: &Value) -> String {
    let text = |field: &str| document["metadata"][field].as_str().unwrap_or_default();
    format!("{}/{}", text("namespace"), text("name"))
}

fn values<'v>(document: &'v mut Value, pointer: &str) -> impl Iterator<Item = (&'v String, &'v mut Value)> {
    document.pointer_mut(pointer).and_then(Value::as_object_mut).into_iter().flatten()
}
