//! Request bodies: JSON, YAML, and protobuf of the core kinds.

use super::{
    catalog::Entry,
    protobuf,
    status::{self, Status},
};
use crate::admission::document::{self, Document};
use bytes::Bytes;
use serde_json::{Map, Value};

#[cfg(test)]
mod tests;

/// Bytes of a YAML body: its parser needs more than a hundred for each.
const MAX_YAML: usize = 256 << 10;
const JSON: &str = "application/json";
const YAML: &str = "application/yaml";
const PROTOBUF: &str = "application/vnd.kubernetes.protobuf";

/// The media type of a header, without its parameters.
pub(super) fn media_type(content_type: Option<&str>) -> &str {
    content_type.unwrap_or_default().split(';').next().unwrap_or_default().trim()
}

/// Decodes an object of `kind`. No content type is JSON, as the Python client needs.
///
/// Errors: 415 for another type; 400 for what cannot be read.
pub(super) fn decode(content_type: Option<&str>, bytes: &Bytes, kind: &str) -> Result<Document, Status> {
    match media_type(content_type) {
        "" | JSON => json(bytes),
        YAML if bytes.len() > MAX_YAML => Err(Status::new(
            413,
            "RequestEntityTooLarge",
            format!("the request is too large: YAML may have at most {MAX_YAML} bytes; send JSON"),
        )),
        YAML => document::yaml(bytes).map_err(|error| refusal("YAML", &error)),
        PROTOBUF => protobuf::decode(bytes, kind).map(|value| Document { value, duplicates: Vec::new() }).map_err(|error| match error {
            protobuf::Error::Unsupported => Status::unsupported_media(&[JSON, YAML]),
            protobuf::Error::Malformed(why) => Status::bad_request(format!("the body is not a protobuf {kind}: {why}")),
        }),
        _ => Err(Status::unsupported_media(&[JSON, YAML, PROTOBUF])),
    }
}

/// Decodes JSON.
pub(super) fn json(bytes: &[u8]) -> Result<Document, Status> {
    document::json(bytes).map_err(|error| refusal("valid JSON", &error))
}

fn refusal(what: &str, error: &document::Error) -> Status {
    match error {
        document::Error::TooManyValues => Status::too_many_values(document::MOST_VALUES),
        document::Error::Malformed(_) => Status::bad_request(format!("the body is not {what}: {error}")),
    }
}

/// Checks `apiVersion`, `kind` and `metadata` against the URL, and fills in what the URL says.
///
/// Core kinds may leave `kind` and `apiVersion` out; custom ones may not.
pub(super) fn fit(value: &mut Value, entry: &Entry, namespace: Option<&str>, name: Option<&str>) -> Result<(), Status> {
    let shown = |value: &Value| value.to_string().chars().take(200).collect::<String>();
    if !value.is_object() {
        return Err(Status::bad_request(format!("the body must be an object, but it is: {}", shown(value))));
    }
    let expected = entry.api_version();
    for (field, expect) in [("kind", entry.kind), ("apiVersion", expected.as_str())] {
        let given = value.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
        match (field, given.as_str()) {
            (_, given) if given == expect => {}
            ("kind", "") if entry.is_custom() => {
                return Err(Status::bad_request(format!("Object 'Kind' is missing in '{}'", shown(value))));
            }
            ("apiVersion", "") if entry.is_custom() => {
                return Err(Status::bad_request(format!("Object 'apiVersion' is missing in '{}'", shown(value))));
            }
            (_, "") => value[field] = expect.into(),
            ("apiVersion", given) => {
                return Err(Status::bad_request(format!(
                    "the API version in the data ({given}) does not match the expected API version ({expect})"
                )));
            }
            (_, given) => {
                let name = value.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
                let wrong = crate::api::FieldError::invalid("kind", given, format!("must be {expect}"));
                return Err(status::invalid(entry.group, entry.kind, name, &[wrong]));
            }
        }
    }
    if value.get("metadata").is_none_or(Value::is_null) {
        value["metadata"] = Value::Object(Map::new());
    }
    let Some(metadata) = value["metadata"].as_object_mut() else {
        return Err(Status::bad_request("metadata must be an object"));
    };
    let given = |metadata: &Map<String, Value>, field: &str| metadata.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    if let Some(name) = name {
        let body = given(metadata, "name");
        if !body.is_empty() && body != name {
            return Err(Status::bad_request(format!("the name of the object ({body}) does not match the name on the URL ({name})")));
        }
        metadata.insert("name".into(), name.into());
    }
    let body = given(metadata, "namespace");
    match namespace {
        _ if body.is_empty() => {}
        Some(namespace) if body == namespace => {}
        None if !entry.namespaced => {
            metadata.remove("namespace");
        }
        _ => {
            return Err(Status::bad_request("the namespace of the provided object does not match the namespace sent on the request"));
        }
    }
    if let Some(namespace) = namespace {
        metadata.insert("namespace".into(), namespace.into());
    }
    Ok(())
}
