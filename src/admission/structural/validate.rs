//! What is wrong with a value: its type, its choices, what is missing; node by node.

use super::{INT_OR_STRING, below, bounds, counterpart, formats, lists, nullable, root};
use crate::admission::MOST_FAULTS;
use crate::api::{FieldError, Problem};
use serde_json::{Map, Value};

/// What in `value` is not as the schema says. What stands in `old` just so is forgiven: a schema that became stricter must
/// not lock old objects.
pub fn validate(schema: &Value, value: &Value, old: Option<&Value>, path: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    validate_at(schema, value, old, path, &mut errors);
    errors
}

fn validate_at(schema: &Value, value: &Value, old: Option<&Value>, path: &str, errors: &mut Vec<FieldError>) {
    if errors.len() >= MOST_FAULTS || old == Some(value) || value.is_null() && nullable(schema) {
        return;
    }
    let wanted = if schema[INT_OR_STRING] == true { Some("integer,string") } else { schema["type"].as_str() };
    if let Some(wanted) = wanted
        && !wanted.split(',').any(|wanted| is_of(value, wanted))
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
        let supported = allowed.iter().map(|one| one.as_str().map_or_else(|| one.to_string(), str::to_owned)).collect();
        errors.push(FieldError {
            field: path.into(),
            problem: Problem::NotSupported { value: value.clone(), supported },
            detail: String::new(),
        });
    }
    match value {
        Value::Object(fields) => {
            bounds::entries(schema, "Properties", fields.len(), path, value, errors);
            validate_fields(schema, fields, old, path, errors);
        }
        Value::Array(items) => {
            bounds::entries(schema, "Items", items.len(), path, value, errors);
            for (index, item) in items.iter().enumerate() {
                let old = old.and_then(|old| counterpart(schema, old, item, index));
                validate_at(&schema["items"], item, old, &format!("{path}[{index}]"), errors);
            }
            lists::duplicates(schema, items, path, value, errors);
        }
        Value::Number(number) => bounds::number(schema, number, path, value, errors),
        Value::String(text) => {
            bounds::text(schema, text, path, errors);
            if let Some(format) = schema["format"].as_str().filter(|format| !formats::fits(format, text)) {
                let detail = format!("{path} in body must be of type {format}: {value}");
                errors.push(FieldError { field: path.into(), problem: Problem::TypeInvalid(value.clone()), detail });
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
