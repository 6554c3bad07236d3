//! The three-way merge of `apply`, as a JSON merge patch (RFC 7386): pure.

use super::LAST_APPLIED;
use serde_json::{Map, Value};

/// What turns `current` into what `wanted` says: its fields are set, and fields that the last `apply` set and `wanted` no
/// longer names are removed. Anything else, such as defaults and what other clients wrote, stays.
pub(super) fn three_way(current: &Value, wanted: &Value) -> Value {
    let last =
        current["metadata"]["annotations"][LAST_APPLIED].as_str().and_then(|text| serde_json::from_str(text).ok()).unwrap_or(Value::Null);
    let mut patch = difference(current, wanted);
    remove(&mut patch, &last, wanted, current);
    Value::Object(patch)
}

fn difference(current: &Value, wanted: &Value) -> Map<String, Value> {
    let mut patch = Map::new();
    for (key, value) in wanted.as_object().into_iter().flatten() {
        match (current.get(key), value) {
            (Some(now @ Value::Object(_)), Value::Object(_)) => {
                let inner = difference(now, value);
                if !inner.is_empty() {
                    patch.insert(key.clone(), Value::Object(inner));
                }
            }
            (Some(now), value) if now == value => {}
            // A null in a manifest means "not set", and a merge patch says it the same way.
            (None, Value::Null) => {}
            (_, value) => drop(patch.insert(key.clone(), value.clone())),
        }
    }
    patch
}

fn remove(patch: &mut Map<String, Value>, last: &Value, wanted: &Value, current: &Value) {
    for (key, before) in last.as_object().into_iter().flatten() {
        let Some(now) = current.get(key) else { continue };
        match wanted.get(key) {
            None => drop(patch.insert(key.clone(), Value::Null)),
            Some(value) if value.is_object() && before.is_object() && now.is_object() => {
                let mut inner = match patch.remove(key) {
                    Some(Value::Object(inner)) => inner,
                    _ => Map::new(),
                };
                remove(&mut inner, before, value, now);
                if !inner.is_empty() {
                    patch.insert(key.clone(), Value::Object(inner));
                }
            }
            Some(_) => {}
        }
    }
}
