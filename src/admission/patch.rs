//! Applies patches as Kubernetes does: JSON merge patch, JSON patch, and the strategic merge patch of core kinds.
//!
//! Our own JSON patch, because Kubernetes' library differs from RFC 6902: `test` of an absent path against `null` holds, and
//! a negative index counts from the end; clients rely on both.

use serde_json::{Map, Value};

/// Why a patch was not applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// The patch is no patch.
    #[error("error decoding patch: {0}")]
    Malformed(String),
    /// A `test` failed or a path is not there.
    #[error("{0}")]
    Unprocessable(String),
}

/// Operations that one JSON patch may have. Source: apiserver `jsonpatch.MaxJSONPatchOperations`.
const MOST_OPERATIONS: usize = 10_000;

/// RFC 7386: objects merge, `null` deletes, all else replaces.
pub fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(changes) = patch else {
        *target = patch.clone();
        return;
    };
    let fields = make_object(target);
    for (name, change) in changes {
        if change.is_null() {
            fields.remove(name);
        } else {
            merge(fields.entry(name.clone()).or_insert(Value::Null), change);
        }
    }
}

/// RFC 6902 with Kubernetes' differences. On an error `target` may be half changed: patch a copy.
pub fn json(target: &mut Value, patch: &Value) -> Result<(), PatchError> {
    let Value::Array(operations) = patch else { return Err(PatchError::Malformed("a JSON patch is a list of operations".into())) };
    if operations.len() > MOST_OPERATIONS {
        return Err(PatchError::Malformed(format!("a JSON patch may have at most {MOST_OPERATIONS} operations")));
    }
    operations.iter().try_for_each(|operation| apply(target, operation))
}

fn apply(target: &mut Value, operation: &Value) -> Result<(), PatchError> {
    let text = |field: &str| operation[field].as_str().ok_or_else(|| PatchError::Malformed(format!("an operation lacks `{field}`")));
    let value = || operation.get("value").cloned().ok_or_else(|| PatchError::Malformed("an operation lacks `value`".into()));
    let path = pointer(text("path")?)?;
    match text("op")? {
        "add" => add(target, &path, value()?),
        "remove" => remove(target, &path).map(drop),
        "replace" => {
            let place = find_mut(target, &path).ok_or_else(|| missing(&path))?;
            *place = value()?;
            Ok(())
        }
        "test" => {
            let found = find(target, &path).unwrap_or(&Value::Null);
            // Left out, the value to compare with is null.
            let wanted = operation.get("value").unwrap_or(&Value::Null);
            if same(found, wanted) { Ok(()) } else { Err(PatchError::Unprocessable(format!("testing path {} failed", text("path")?))) }
        }
        "move" => {
            let moved = remove(target, &pointer(text("from")?)?)?;
            add(target, &path, moved)
        }
        "copy" => {
            let from = pointer(text("from")?)?;
            let copied = find(target, &from).cloned().ok_or_else(|| missing(&from))?;
            add(target, &path, copied)
        }
        other => Err(PatchError::Malformed(format!("unknown operation `{other}`"))),
    }
}

fn pointer(text: &str) -> Result<Vec<String>, PatchError> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    let rest = text.strip_prefix('/').ok_or_else(|| PatchError::Malformed(format!("the path `{text}` does not begin with `/`")))?;
    Ok(rest.split('/').map(|part| part.replace("~1", "/").replace("~0", "~")).collect())
}

fn missing(path: &[String]) -> PatchError {
    PatchError::Unprocessable(format!("there is nothing at /{}", path.join("/")))
}

/// An index into a list of `length`; negative ones count from the end.
fn index(part: &str, length: usize) -> Option<usize> {
    let number: i64 = part.parse().ok()?;
    let from_end = if number < 0 { i64::try_from(length).ok()? + number } else { number };
    usize::try_from(from_end).ok()
}

fn find<'v>(value: &'v Value, path: &[String]) -> Option<&'v Value> {
    path.iter().try_fold(value, |value, part| match value {
        Value::Array(items) => items.get(index(part, items.len())?),
        _ => value.get(part),
    })
}

fn find_mut<'v>(value: &'v mut Value, path: &[String]) -> Option<&'v mut Value> {
    path.iter().try_fold(value, |value, part| match value {
        Value::Array(items) => {
            let index = index(part, items.len())?;
            items.get_mut(index)
        }
        _ => value.get_mut(part),
    })
}

fn add(target: &mut Value, path: &[String], value: Value) -> Result<(), PatchError> {
    let Some((last, parent)) = path.split_last() else {
        *target = value;
        return Ok(());
    };
    match find_mut(target, parent) {
        Some(Value::Object(fields)) => {
            fields.insert(last.clone(), value);
            Ok(())
        }
        Some(Value::Array(items)) => {
            // One place more than there are items: `-1` appends, as Kubernetes' library has it.
            let at = if last == "-" { Some(items.len()) } else { index(last, items.len() + 1) };
            let at = at.filter(|at| *at <= items.len()).ok_or_else(|| missing(path))?;
            items.insert(at, value);
            Ok(())
        }
        _ => Err(missing(path)),
    }
}

fn remove(target: &mut Value, path: &[String]) -> Result<Value, PatchError> {
    let (last, parent) = path.split_last().ok_or_else(|| missing(path))?;
    match find_mut(target, parent) {
        Some(Value::Object(fields)) => fields.remove(last).ok_or_else(|| missing(path)),
        Some(Value::Array(items)) => match index(last, items.len()).filter(|at| *at < items.len()) {
            Some(at) => Ok(items.remove(at)),
            None => Err(missing(path)),
        },
        _ => Err(missing(path)),
    }
}

/// Equality as JSON has it: 1 and 1.0 are the same number.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a == b || (a.is_f64() || b.is_f64()) && a.as_f64() == b.as_f64(),
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Object(a), Value::Object(b)) => a.len() == b.len() && a.iter().all(|(key, a)| b.get(key).is_some_and(|b| same(a, b))),
        _ => a == b,
    }
}

/// How core kinds merge their lists; all others are replaced. Source: `patchStrategy` and `patchMergeKey` in their Go types.
const MERGED_LISTS: &[(&str, &str)] =
    &[("ownerReferences", "uid"), ("conditions", "type"), ("secrets", "name"), ("imagePullSecrets", "name")];

/// The strategic merge patch, as far as the core kinds that are served need it.
pub fn strategic(target: &mut Value, patch: &Value) -> Result<(), PatchError> {
    let Value::Object(changes) = patch else { return Err(PatchError::Malformed("a strategic merge patch is an object".into())) };
    match changes.get("$patch").and_then(Value::as_str) {
        None | Some("merge") => {}
        Some("replace") => {
            *target = changes.iter().filter(|(name, _)| *name != "$patch").map(|(name, value)| (name.clone(), value.clone())).collect();
            return Ok(());
        }
        Some("delete") => {
            *target = Value::Object(Map::new());
            return Ok(());
        }
        Some(other) => return Err(PatchError::Malformed(format!("unknown $patch directive `{other}`"))),
    }
    let fields = make_object(target);
    for (name, change) in changes {
        if let Some(list) = name.strip_prefix("$deleteFromPrimitiveList/") {
            if let Some(Value::Array(items)) = fields.get_mut(list) {
                items.retain(|item| !change.as_array().is_some_and(|gone| gone.contains(item)));
            }
            continue;
        }
        if name.starts_with('$') {
            // $setElementOrder and $retainKeys only say what order and what siblings the sender saw.
            continue;
        }
        let key = MERGED_LISTS.iter().find(|(list, _)| list == name).map(|(_, key)| *key);
        match (change, key) {
            (Value::Null, _) => {
                fields.remove(name);
            }
            (Value::Object(_), _) => strategic(fields.entry(name.clone()).or_insert(Value::Null), change)?,
            (Value::Array(changes), Some(key)) => merge_list(fields.entry(name.clone()).or_insert(Value::Null), changes, key)?,
            (Value::Array(changes), None) if name == "finalizers" => {
                let items = make_array(fields.entry(name.clone()).or_insert(Value::Null));
                for change in changes {
                    if !items.contains(change) {
                        items.push(change.clone());
                    }
                }
            }
            _ => {
                fields.insert(name.clone(), change.clone());
            }
        }
    }
    Ok(())
}

fn merge_list(target: &mut Value, changes: &[Value], key: &str) -> Result<(), PatchError> {
    let items = make_array(target);
    for change in changes {
        let at = items.iter().position(|item| item[key] == change[key]);
        match (change["$patch"].as_str(), at) {
            (Some("delete"), Some(at)) => {
                items.remove(at);
            }
            (Some("delete"), None) => {}
            (_, Some(at)) => strategic(&mut items[at], change)?,
            (_, None) => items.push(change.clone()),
        }
    }
    Ok(())
}

fn make_object(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    value.as_object_mut().expect("just made")
}

fn make_array(value: &mut Value) -> &mut Vec<Value> {
    if !value.is_array() {
        *value = Value::Array(Vec::new());
    }
    value.as_array_mut().expect("just made")
}
