//! A type's JSON schema in the structural form that CustomResourceDefinition and `kubectl explain` understand:
//! no references, no `anyOf`, one type per node.

use schemars::{JsonSchema, SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value};

/// The structural schema of a type; `null` is never a value of its own, an absent field is absent.
pub fn structural<T: JsonSchema>() -> Value {
    let mut settings = SchemaSettings::draft07();
    settings.inline_subschemas = true;
    settings.meta_schema = None;
    let schema = SchemaGenerator::new(settings).into_root_schema_for::<T>();
    let mut schema = schema.to_value();
    rewrite(&mut schema);
    schema
}

/// Words of JSON schema that have no place in a structural one, or say nothing there.
const DROPPED: &[&str] = &["$schema", "$defs", "definitions", "title", "examples", "$id"];

fn rewrite(schema: &mut Value) {
    let Some(node) = schema.as_object_mut() else {
        // `true`: anything goes.
        *schema = serde_json::json!({ "x-kubernetes-preserve-unknown-fields": true });
        return;
    };
    node.retain(|word, _| !DROPPED.contains(&word.as_str()));
    fold_optional(node);
    fold_enum(node);
    fold_numbers(node);
    if let Some(Value::String(text)) = node.get_mut("description") {
        // Doc comments are wrapped for the source; a reader of `kubectl explain` has another width.
        *text = text.split("\n\n").map(|paragraph| paragraph.replace('\n', " ")).collect::<Vec<_>>().join("\n\n");
    }
    // A closed object is what a structural schema means anyway.
    if node.get("additionalProperties") == Some(&Value::Bool(false)) {
        node.remove("additionalProperties");
    }
    if let Some(properties) = node.get_mut("properties").and_then(Value::as_object_mut) {
        properties.values_mut().for_each(rewrite);
    }
    for word in ["items", "additionalProperties"] {
        if let Some(inner) = node.get_mut(word) {
            rewrite(inner);
        }
    }
}

/// `Option<T>` to `T`: drops `null` from types and choices, and lifts the one choice that is left.
fn fold_optional(node: &mut Map<String, Value>) {
    if let Some(Value::Array(types)) = node.get("type") {
        let real: Vec<Value> = types.iter().filter(|t| *t != "null").cloned().collect();
        if let [one] = real.as_slice() {
            node.insert("type".into(), one.clone());
        }
    }
    if let Some(Value::Array(values)) = node.get_mut("enum") {
        values.retain(|value| !value.is_null());
    }
    if node.get("default") == Some(&Value::Null) {
        node.remove("default");
    }
    for word in ["anyOf", "allOf", "oneOf"] {
        let Some(Value::Array(choices)) = node.get(word) else { continue };
        let real: Vec<Value> = choices.iter().filter(|choice| choice["type"] != "null").cloned().collect();
        let [Value::Object(one)] = real.as_slice() else { continue };
        node.remove(word);
        for (key, value) in one {
            // What is said at the field (its description, its default) wins over what is said at the type.
            node.entry(key.clone()).or_insert_with(|| value.clone());
        }
        fold_optional(node);
    }
}

/// `oneOf` constants (an enum whose variants have descriptions) to `enum`, the descriptions gathered in the field's.
fn fold_enum(node: &mut Map<String, Value>) {
    let Some(Value::Array(choices)) = node.get("oneOf") else { return };
    let (mut values, mut notes) = (Vec::new(), Vec::new());
    for choice in choices {
        let of_choice: Vec<Value> = match (choice.get("const"), choice.get("enum")) {
            (Some(value), _) => vec![value.clone()],
            (None, Some(Value::Array(list))) => list.clone(),
            _ => return,
        };
        if let ([Value::String(name)], Some(text)) = (of_choice.as_slice(), choice["description"].as_str()) {
            notes.push(format!("{name}: {text}"));
        }
        values.extend(of_choice);
    }
    node.remove("oneOf");
    node.insert("type".into(), "string".into());
    node.insert("enum".into(), values.into());
    if !notes.is_empty() {
        let description = node.get("description").and_then(Value::as_str).unwrap_or_default();
        node.insert("description".into(), format!("{description} {}", notes.join(" ")).trim().into());
    }
}

/// Rust's unsigned widths to the formats that Kubernetes has.
fn fold_numbers(node: &mut Map<String, Value>) {
    let format = match node.get("format").and_then(Value::as_str) {
        Some("uint8" | "int8" | "uint16" | "int16") => "int32",
        Some("uint32" | "uint64" | "uint") => "int64",
        _ => return,
    };
    node.insert("format".into(), format.into());
}
