//! What a schema cannot say, kind by kind: our kinds through [`Kind::validate`], core kinds by upstream's rules.

use super::{
    Resource, events,
    names::{Naming, qualified},
    roles,
};
use crate::api::{Approval, Budget, Checkpoint, FieldError, GROUP, Hub, Kind, Machine};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};

/// All data of a Secret or ConfigMap. Source: core/v1 `MaxSecretSize`.
const DATA_BYTES: usize = 1 << 20;
const DATA_KEY: &str = "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or \
    'key-name', regex used for validation is '[-._a-zA-Z0-9]+')";

/// What names of this resource must be. Machines: their name becomes a host name and a label's value.
pub(super) fn naming(resource: &Resource) -> Naming {
    match (resource.group, resource.kind) {
        ("", "Namespace") | (GROUP, "Machine") => Naming::Label,
        (roles::RBAC, _) => Naming::PathSegment,
        _ => Naming::Subdomain,
    }
}

/// Defaults that depend on other fields.
pub(super) fn default(resource: &Resource, document: &mut Value) {
    if resource.group == roles::RBAC {
        return roles::default(document);
    }
    if (resource.group, resource.kind) != ("", "Secret") {
        return;
    }
    let Some(fields) = document.as_object_mut() else { return };
    // stringData is only a way to write: it wins over data and is never read back.
    // Where either is of a wrong type, both stay for validation to name it.
    let (texts, data) = (fields.get("stringData").and_then(Value::as_object), fields.get("data"));
    if let Some(texts) = texts
        && texts.values().all(Value::is_string)
        && data.is_none_or(Value::is_object)
    {
        let mut merged = data.cloned().unwrap_or_else(|| json!({}));
        for (key, text) in texts {
            merged[key] = STANDARD.encode(text.as_str().unwrap_or_default()).into();
        }
        fields.insert("data".into(), merged);
        fields.remove("stringData");
    }
    fields.entry("type").or_insert_with(|| "Opaque".into());
}

pub(super) fn validate(resource: &Resource, document: &Value, old: Option<&Value>) -> Vec<FieldError> {
    match (resource.group, resource.kind) {
        (GROUP, "Machine") => typed::<Machine>(document),
        (GROUP, "Checkpoint") => typed::<Checkpoint>(document),
        (GROUP, "Budget") => typed::<Budget>(document),
        (GROUP, "Approval") => typed::<Approval>(document),
        (GROUP, "Hub") => typed::<Hub>(document),
        ("", "Secret") => [data_keys(document, "data"), changed(document, old, &["data"])].concat(),
        ("", "ConfigMap") => [config_map(document), changed(document, old, &["data", "binaryData"])].concat(),
        ("", "Event") => events::validate(document),
        ("", "Namespace") => namespace(document),
        (roles::RBAC, _) => roles::validate(resource, document, old),
        _ => Vec::new(),
    }
}

/// What may not change; our own kinds say it in their schemas.
fn changed(document: &Value, old: Option<&Value>, fields: &[&str]) -> Vec<FieldError> {
    let (mut errors, Some(old)) = (Vec::new(), old) else { return Vec::new() };
    if document["type"] != old["type"] {
        errors.push(FieldError::invalid("type", &document["type"], "field is immutable"));
    }
    if old["immutable"] == true {
        for field in fields.iter().chain(&["immutable"]).filter(|field| document[**field] != old[**field]) {
            errors.push(FieldError::forbidden(*field, "field is immutable when `immutable` is set"));
        }
    }
    errors
}

/// Reads the document as its type; what the type refuses becomes an error that names the field.
fn typed<K: Kind>(document: &Value) -> Vec<FieldError> {
    match serde_path_to_error::deserialize::<_, K>(document) {
        Ok(object) => object.validate(),
        Err(error) => {
            let path = error.path().to_string();
            let value = at(document, &path);
            vec![FieldError::invalid(path, value, error.into_inner().to_string())]
        }
    }
}

/// The value at a path such as `spec.images[0].file`.
fn at<'v>(document: &'v Value, path: &str) -> &'v Value {
    path.split(['.', '[', ']']).filter(|part| !part.is_empty()).fold(document, |value, part| match part.parse::<usize>() {
        Ok(index) if value.is_array() => &value[index],
        _ => &value[part],
    })
}

fn config_map(document: &Value) -> Vec<FieldError> {
    let mut errors = data_keys(document, "data");
    errors.extend(data_keys(document, "binaryData"));
    for key in document["binaryData"].as_object().into_iter().flatten().map(|(key, _)| key) {
        if document["data"].get(key).is_some() {
            errors.push(FieldError::invalid(format!("data[{key}]"), key, "duplicate of key present in binaryData"));
        }
    }
    errors
}

fn data_keys(document: &Value, field: &str) -> Vec<FieldError> {
    let (mut errors, mut size) = (Vec::new(), 0);
    for (key, value) in document[field].as_object().into_iter().flatten() {
        size += value.as_str().map_or(0, str::len);
        let legal = key.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
        if key.is_empty() || key.len() > 253 || !legal || matches!(key.as_str(), "." | "..") {
            errors.push(FieldError::invalid(format!("{field}[{key}]"), key, DATA_KEY));
        }
    }
    if size > DATA_BYTES {
        errors.push(FieldError::invalid(field, format!("{size} bytes"), format!("may not be more than {DATA_BYTES} bytes")));
    }
    errors
}

/// Source: Kubernetes `ValidateNamespaceStatusUpdate` and `ValidateNamespaceFinalizeUpdate`.
fn namespace(document: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let (phase, is_ending) = (&document["status"]["phase"], document["metadata"]["deletionTimestamp"].is_string());
    let (expect, when) = if is_ending { ("Terminating", "not empty") } else { ("Active", "empty") };
    if !phase.is_null() && *phase != expect {
        errors.push(FieldError::invalid("status.phase", phase, format!("may only be '{expect}' if `deletionTimestamp` is {when}")));
    }
    for finalizer in document["spec"]["finalizers"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        let detail = qualified(finalizer).or_else(|| {
            let is_plain = !finalizer.contains('/') && !matches!(finalizer, "kubernetes" | "orphan" | "foregroundDeletion");
            is_plain.then(|| "name is neither a standard finalizer name nor is it fully qualified".into())
        });
        errors.extend(detail.map(|detail| FieldError::invalid("spec.finalizers", finalizer, detail)));
    }
    errors
}
