//! Stored documents as a served kind shows them, and back: the same for all but Events, which have two names.
//!
//! Source: Kubernetes' conversion between `core/v1` and `events.k8s.io/v1` Events: one stored object, other field names.

use super::catalog::{Entry, Source};
use serde_json::{Map, Value};

#[cfg(test)]
mod tests;

/// `core/v1` name, `events.k8s.io/v1` name.
const EVENT_FIELDS: [(&str, &str); 7] = [
    ("involvedObject", "regarding"),
    ("message", "note"),
    ("reportingComponent", "reportingController"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
];

/// A stored document as a client sees it, always with its kind.
pub(super) fn out(entry: &Entry, mut document: Value) -> Value {
    if let (Source::EventsView(_), Value::Object(fields)) = (entry.source, &mut document) {
        rename(fields, |(core, view)| (core, view));
    }
    if document.is_object() {
        document["kind"] = entry.kind.into();
        document["apiVersion"] = entry.api_version().into();
    }
    document
}

/// A client's document (or merge patch) as it is stored.
pub(super) fn stored(entry: &Entry, mut document: Value) -> Value {
    if let (Source::EventsView(resource), Value::Object(fields)) = (entry.source, &mut document) {
        rename(fields, |(core, view)| (view, core));
        if fields.contains_key("apiVersion") {
            fields.insert("apiVersion".into(), resource.api_version().into());
        }
    }
    document
}

/// A client's JSON patch as it applies to what is stored.
pub(super) fn stored_patch(entry: &Entry, mut operations: Value) -> Value {
    if !matches!(entry.source, Source::EventsView(_)) {
        return operations;
    }
    for operation in operations.as_array_mut().into_iter().flatten() {
        for pointer in ["path", "from"] {
            let Some(path) = operation.get(pointer).and_then(Value::as_str).and_then(|p| p.strip_prefix('/')) else {
                continue;
            };
            let (head, rest) = path.split_once('/').map_or((path, String::new()), |(head, rest)| (head, format!("/{rest}")));
            if let Some((core, _)) = EVENT_FIELDS.iter().find(|(_, view)| *view == head) {
                operation[pointer] = format!("/{core}{rest}").into();
            }
        }
    }
    operations
}

fn rename(fields: &mut Map<String, Value>, direction: impl Fn((&'static str, &'static str)) -> (&'static str, &'static str)) {
    for (from, to) in EVENT_FIELDS.map(direction) {
        if let Some(value) = fields.remove(from) {
            fields.insert(to.into(), value);
        }
    }
}

/// The schema of core Events under the names of `events.k8s.io`.
pub(super) fn schema(core: &Value) -> Value {
    let mut schema = core.clone();
    if let Some(Value::Object(properties)) = schema.get_mut("properties") {
        rename(properties, |(core, view)| (core, view));
    }
    for required in schema.get_mut("required").and_then(Value::as_array_mut).into_iter().flatten() {
        if let Some((_, view)) = EVENT_FIELDS.iter().find(|(core, _)| required == core) {
            *required = (*view).into();
        }
    }
    schema
}
