//! Where a kind's objects are below `/apis`.

use crate::api::{GROUP, Kind, Scope, VERSION};

/// Path of a collection; of all namespaces when none is given. `group` is empty for core.
pub fn collection(group: &str, version: &str, plural: &str, namespace: Option<&str>) -> String {
    let base = if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") };
    match namespace {
        Some(namespace) => format!("{base}/namespaces/{}/{plural}", segment(namespace)),
        None => format!("{base}/{plural}"),
    }
}

/// Path of a kind of ours: the collection, or one object.
pub fn of_kind<K: Kind>(namespace: Option<&str>, name: Option<&str>) -> String {
    let collection = collection(GROUP, VERSION, K::PLURAL, namespace.filter(|_| K::SCOPE == Scope::Namespaced));
    match name {
        Some(name) => format!("{collection}/{}", segment(name)),
        None => collection,
    }
}

/// A name as one segment of a path, whatever a person typed.
pub fn segment(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC)
        .to_string()
        .replace("%2D", "-")
        .replace("%2E", ".")
        .replace("%5F", "_")
}
