//! Prune, default and validate a document by a structural schema, in upstream's order and words.
//!
//! Patterns are published but not checked here: the types that carry one refuse a wrong text with a better sentence.

use crate::api::{FieldError, Problem};
use serde_json::{Map, Value};

/// Removes fields that the schema does not know and returns their paths; `path` is where `value` stands.
pub fn prune(schema: &Value, value: &mut Value, path: &str) -> Vec<String> {
    let mut unknown = Vec::new();
    prune_at(schema, value, path, &mut unknown);
    unknown
}

fn prune_at(schema: &Value, value: &mut Value, path: &str, unknown: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            let keeps_all = schema["x-kubernetes-preserve-unknown-fields"] == true;
            if let Some(inner) = schema.get("additionalProperties") {
                fields.iter_mut().for_each(|(key, value)| prune_at(inner, value, &below(path, key), unknown));
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
            items.iter_mut().enumerate().for_each(|(index, item)| prune_at(&schema["items"], item, &format!("{path}[{index}]"), unknown));
        }
        _ => {}
    }
}

/// Fills missing fields that have a default, and drops `null`s, which say no more than absence does.
pub fn default(schema: &Value, value: &mut Value) {
    match value {
        Value::Object(fields) => {
            if let Some(inner) = schema.get("additionalProperties") {
                fields.retain(|_, value| !value.is_null());
                fields.values_mut().for_each(|value| default(inner, value));
                return;
            }
            let keeps_all = schema["x-kubernetes-preserve-unknown-fields"] == true;
            fields.retain(|_, value| keeps_all || !value.is_null());
            for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
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

/// What in `value` is not as the schema says. What stands in `old` just so is forgiven: a schema that became stricter must
/// not lock old objects.
pub fn validate(schema: &Value, value: &Value, old: Option<&Value>, path: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    validate_at(schema, value, old, path, &mut errors);
    errors
}

fn validate_at(schema: &Value, value: &Value, old: Option<&Value>, path: &str, errors: &mut Vec<FieldError>) {
    if old == Some(value) {
        return;
    }
    if let Some(wanted) = schema["type"].as_str()
        && !is_of(value, wanted)
    {
        let found = type_name(value);
        let remedy = if wanted == "string" && (value.is_number() || value.is_boolean()) { "; put it in quotes" } else { "" };
        let detail = format!("{} in body must be of type {wanted}: \"{found}\"{remedy}", root(path));
        errors.push(FieldError { field: root(path).into(), problem: Problem::TypeInvalid(found.into()), detail });
        return;
    }
    if let Some(allowed) = schema["enum"].as_array()
        && !allowed.contains(value)
    {
        let supported = allowed.iter().filter_map(Value::as_str).map(str::to_owned).collect();
        errors.push(FieldError {
            field: path.into(),
            problem: Problem::NotSupported { value: value.clone(), supported },
            detail: String::new(),
        });
    }
    match value {
        Value::Object(fields) => validate_fields(schema, fields, old, path, errors),
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                // An item is the same one when it stands at the same place.
                let old = old.and_then(|old| old.get(index));
                validate_at(&schema["items"], item, old, &format!("{path}[{index}]"), errors);
            }
            duplicates(schema, items, path, errors);
        }
        Value::Number(number) => {
            bound(schema, number.as_f64(), path, value, errors);
        }
        Value::String(text) => {
            if let Some(problem) = schema["format"].as_str().and_then(|format| wrong_format(format, text)) {
                errors.push(FieldError::invalid(path, text, format!("{path} in body must be of type {problem}")));
            }
        }
        _ => {}
    }
}

fn validate_fields(schema: &Value, fields: &Map<String, Value>, old: Option<&Value>, path: &str, errors: &mut Vec<FieldError>) {
    for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        if !fields.contains_key(name) {
            errors.push(FieldError::required(below(path, name), ""));
        }
    }
    for (name, value) in fields {
        let inner = schema["properties"].get(name).or_else(|| schema.get("additionalProperties"));
        if let Some(inner) = inner {
            validate_at(inner, value, old.and_then(|old| old.get(name)), &below(path, name), errors);
        }
    }
}

fn duplicates(schema: &Value, items: &[Value], path: &str, errors: &mut Vec<FieldError>) {
    let identity = |item: &Value| -> Option<Value> {
        match schema["x-kubernetes-list-type"].as_str()? {
            "set" => Some(item.clone()),
            "map" => {
                let keys = schema["x-kubernetes-list-map-keys"].as_array()?;
                Some(keys.iter().filter_map(Value::as_str).map(|key| (key.to_owned(), item[key].clone())).collect::<Map<_, _>>().into())
            }
            _ => None,
        }
    };
    let identities: Vec<_> = items.iter().map(identity).collect();
    for (index, id) in identities.iter().enumerate() {
        if let Some(id) = id
            && identities[..index].contains(&Some(id.clone()))
        {
            errors.push(FieldError { field: format!("{path}[{index}]"), problem: Problem::Duplicate(id.clone()), detail: String::new() });
        }
    }
}

fn bound(schema: &Value, number: Option<f64>, path: &str, value: &Value, errors: &mut Vec<FieldError>) {
    let Some(number) = number else { return };
    if schema["minimum"].as_f64().is_some_and(|least| number < least) {
        let detail = format!("{path} in body should be greater than or equal to {}", plain(&schema["minimum"]));
        errors.push(FieldError::invalid(path, value, detail));
    }
    if schema["maximum"].as_f64().is_some_and(|most| number > most) {
        let detail = format!("{path} in body should be less than or equal to {}", plain(&schema["maximum"]));
        errors.push(FieldError::invalid(path, value, detail));
    }
}

/// `100`, where the schema has `100.0`.
fn plain(number: &Value) -> String {
    let text = number.to_string();
    text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
}

fn wrong_format(format: &str, text: &str) -> Option<String> {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let fine = match format {
        "date-time" => text.parse::<jiff::Timestamp>().is_ok(),
        "byte" => STANDARD.decode(text).is_ok(),
        _ => true,
    };
    (!fine).then(|| format!("{format}: \"{text}\""))
}

fn is_of(value: &Value, wanted: &str) -> bool {
    match wanted {
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        other => type_name(value) == other,
    }
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn below(path: &str, name: &str) -> String {
    if path.is_empty() { name.into() } else { format!("{path}.{name}") }
}

fn root(path: &str) -> &str {
    if path.is_empty() { "<root>" } else { path }
}
