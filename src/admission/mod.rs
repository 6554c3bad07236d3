//! Read, prune, default, validate and patch documents: pure. What is done with a refusal is `objects`' matter.

mod catalog;
pub mod cel;
pub mod document;
pub mod events;
pub mod names;
pub mod patch;
pub mod possible;
mod roles;
mod rules;
pub mod structural;
#[cfg(test)]
mod tests;

use crate::api::meta::{Column, Scope};
use crate::api::{FieldError, Kind, schema};
use crate::store::Key;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::Value;
use std::sync::LazyLock;

/// How many wrong fields are looked for: more than anyone is told of, and few enough that a text of nothing else takes little memory.
const MOST_FAULTS: usize = 1000;

/// A served resource: one of our kinds, or one of core that clients need.
#[derive(Clone, Debug)]
pub struct Resource {
    /// Empty for core.
    pub group: &'static str,
    pub version: &'static str,
    pub kind: &'static str,
    pub plural: &'static str,
    pub singular: &'static str,
    pub short_names: &'static [&'static str],
    pub scope: Scope,
    pub categories: &'static [&'static str],
    /// Beside Name.
    pub columns: &'static [Column],
    pub has_status: bool,
    /// Structural schema of the whole object (`type: object, properties: {spec, status, …}`), with defaults.
    pub schema: Value,
    /// The schema's rules across fields.
    pub rules: cel::Rules,
}

impl Resource {
    /// `machines.autovibe.dev`, or `secrets` for core.
    pub fn name(&self) -> String {
        if self.group.is_empty() { self.plural.into() } else { format!("{}.{}", self.plural, self.group) }
    }
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.into() } else { format!("{}/{}", self.group, self.version) }
    }
    pub fn key(&self, namespace: &str, name: &str) -> Key {
        Key::new(self.name(), namespace, name)
    }
}

/// Everything that is stored and served, in order of preference.
pub fn resources() -> &'static [Resource] {
    static ALL: LazyLock<Vec<Resource>> = LazyLock::new(catalog::all);
    &ALL
}

/// The resource of one of our kinds.
pub fn resource<K: Kind>() -> &'static Resource {
    named(crate::api::GROUP, K::PLURAL).expect("every kind of ours is in the catalog; a test lists them")
}

/// The resource with this plural; `group` is empty for core.
pub fn named(group: &str, plural: &str) -> Option<&'static Resource> {
    resources().iter().find(|r| r.group == group && r.plural == plural)
}

/// Structural schema of `metadata`, without `managedFields`, which are not kept.
pub fn metadata_schema() -> &'static Value {
    static SCHEMA: LazyLock<Value> = LazyLock::new(|| {
        let mut schema = schema::structural::<ObjectMeta>();
        if let Some(properties) = schema["properties"].as_object_mut() {
            properties.remove("managedFields");
        }
        schema
    });
    &SCHEMA
}

/// Removes fields that the resource does not have and returns their paths.
pub fn prune(resource: &Resource, document: &mut Value) -> Vec<String> {
    let Some(fields) = document.as_object_mut() else { return Vec::new() };
    let heads: Vec<(&str, Value)> =
        ["apiVersion", "kind", "metadata"].into_iter().filter_map(|name| Some((name, fields.remove(name)?))).collect();
    let mut unknown = structural::prune(&resource.schema, document, "");
    for (name, mut value) in heads {
        if name == "metadata" {
            unknown.extend(structural::prune(metadata_schema(), &mut value, "metadata"));
        }
        document[name] = value;
    }
    unknown
}

/// Fills in what was left out and has a default, and drops `null`s.
pub fn default(resource: &Resource, document: &mut Value) {
    structural::default(&resource.schema, document);
    if let Some(metadata) = document.get_mut("metadata") {
        structural::default(metadata_schema(), metadata);
    }
    rules::default(resource, document);
}

/// What is wrong with a document: all of it, or the first [`MOST_FAULTS`]; `old` is what it replaces.
pub fn validate(resource: &Resource, document: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if old.is_none_or(|old| old["metadata"] != document["metadata"]) {
        errors.extend(names::metadata(&document["metadata"], rules::naming(resource)));
        errors.extend(structural::validate(metadata_schema(), &document["metadata"], None, "metadata"));
    }
    errors.extend(structural::validate(&resource.schema, document, old, ""));
    // What follows reads the document as its type, which needs the shape to be right. Of a text that breaks its pattern the
    // type may say something better.
    if errors.iter().all(structural::is_pattern) {
        let more = rules::validate(resource, document, old);
        errors.retain(|pattern| !more.iter().any(|better| better.field == pattern.field));
        errors.extend(more);
    }
    if errors.is_empty() {
        errors.extend(resource.rules.validate(document, old, ""));
    }
    errors
}
