//! Prune, default and validate a document by a structural schema, in upstream's order and words.
//!
//! Source: apiextensions-apiserver `pkg/apiserver/schema` (pruning, defaulting, listtype) and `validation`, whose texts are
//! kube-openapi's. Rules across fields are [`super::cel`]'s.

mod bounds;
mod formats;
mod lists;
#[cfg(test)]
mod tests;
mod validate;

use serde_json::Value;

pub(super) use bounds::is_pattern;
pub(super) use lists::counterpart;
pub use validate::validate;

/// Word of a schema node: everything below is kept, known or not.
const KEEPS_ALL: &str = "x-kubernetes-preserve-unknown-fields";
/// Word of a schema node: an integer or a string.
const INT_OR_STRING: &str = "x-kubernetes-int-or-string";

/// Removes fields that the schema does not know and returns their paths; `path` is where `value` stands.
pub fn prune(schema: &Value, value: &mut Value, path: &str) -> Vec<String> {
    let mut unknown = Vec::new();
    prune_at(schema, value, path, &mut unknown);
    unknown
}

fn prune_at(schema: &Value, value: &mut Value, path: &str, unknown: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            let keeps_all = schema[KEEPS_ALL] == true;
            if let Some(inner) = schema.get("additionalProperties") {
                if inner.is_object() {
                    fields.iter_mut().for_each(|(key, value)| prune_at(inner, value, &below(path, key), unknown));
                }
                return;
            }
            fields.retain(|key, value| match schema["properties"].get(key) {
                Some(inner) => {
                    prune_at(inner, value, &below(path, key), unknown);
                    true
                }
                None if keeps_all => true,
                None => {
                    unknown.push(below(path, key));
                    false
                }
            });
        }
        Value::Array(items) => {
            let Some(inner) = schema.get("items") else { return };
            items.iter_mut().enumerate().for_each(|(index, item)| prune_at(inner, item, &format!("{path}[{index}]"), unknown));
        }
        _ => {}
    }
}

/// Fills missing fields that have a default, and drops a `null` where the schema does not say `nullable`: there it says no
/// more than absence does.
pub fn default(schema: &Value, value: &mut Value) {
    match value {
        Value::Object(fields) => {
            if let Some(inner) = schema.get("additionalProperties") {
                let nullable = inner["nullable"] == true || !inner.is_object();
                fields.retain(|_, value| nullable || !value.is_null());
                fields.values_mut().for_each(|value| default(inner, value));
                return;
            }
            let properties = &schema["properties"];
            fields.retain(|name, value| !value.is_null() || properties.get(name).map_or(schema[KEEPS_ALL] == true, nullable));
            for (name, inner) in properties.as_object().into_iter().flatten() {
                if let (false, Some(text)) = (fields.contains_key(name), inner.get("default")) {
                    fields.insert(name.clone(), text.clone());
                }
                if let Some(value) = fields.get_mut(name) {
                    default(inner, value);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| default(&schema["items"], item)),
        _ => {}
    }
}

fn nullable(schema: &Value) -> bool {
    schema["nullable"] == true
}

fn below(path: &str, name: &str) -> String {
    if path.is_empty() { name.into() } else { format!("{path}.{name}") }
}

fn root(path: &str) -> &str {
    if path.is_empty() { "<root>" } else { path }
}
