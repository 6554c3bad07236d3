//! Lists that are sets or maps: which item is which, and none twice. Source: apiextensions-apiserver `schema/listtype`.

use crate::api::{FieldError, Problem};
use serde_json::{Map, Value};
use std::collections::HashSet;

/// What makes an item this item: all of it in a set, its keys in a map, nothing in a plain list.
fn identity(schema: &Value, item: &Value) -> Option<Value> {
    match schema["x-kubernetes-list-type"].as_str()? {
        "set" => Some(item.clone()),
        "map" => {
            let keys = schema["x-kubernetes-list-map-keys"].as_array()?;
            Some(keys.iter().filter_map(Value::as_str).map(|key| (key.to_owned(), item[key].clone())).collect::<Map<_, _>>().into())
        }
        _ => None,
    }
}

/// The item of `old` that `item` was: the one with its identity, or in a plain list the one at its place.
pub(in crate::admission) fn counterpart<'v>(schema: &Value, old: &'v Value, item: &Value, index: usize) -> Option<&'v Value> {
    match identity(schema, item) {
        None => old.get(index),
        Some(id) => old.as_array()?.iter().find(|old| identity(schema, old).as_ref() == Some(&id)),
    }
}

pub(super) fn duplicates(schema: &Value, items: &[Value], path: &str, value: &Value, errors: &mut Vec<FieldError>) {
    let mut seen = HashSet::new();
    for (index, id) in items.iter().map(|item| identity(schema, item)).enumerate() {
        if let Some(id) = id
            && !seen.insert(id.to_string())
        {
            errors.push(FieldError { field: format!("{path}[{index}]"), problem: Problem::Duplicate(id), detail: String::new() });
        }
    }
    if schema["uniqueItems"] == true && items.iter().map(Value::to_string).collect::<HashSet<_>>().len() < items.len() {
        errors.push(FieldError::invalid(path, value, format!("{path} in body shouldn't contain duplicates")));
    }
}
