//! Request bodies: JSON (with a look for duplicate keys), YAML, and protobuf of the core kinds.

use super::{
    catalog::Entry,
    protobuf,
    status::{self, Status},
};
use bytes::Bytes;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

#[cfg(test)]
mod tests;

/// A decoded body.
#[derive(Debug, Default)]
pub(super) struct Body {
    pub(super) value: Value,
    /// Paths of keys that were given more than once, such as `spec.goal`; the last one counts.
    pub(super) duplicates: Vec<String>,
}

/// Single values, containers included, of one body: hundreds of times what our largest objects have. One takes about 100
/// bytes of memory, so a body of the largest size could else take 300 MB.
const MAX_VALUES: usize = 100_000;
/// Duplicate keys that are named.
const MAX_DUPLICATES: usize = 100;
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
pub(super) fn decode(content_type: Option<&str>, bytes: &Bytes, kind: &str) -> Result<Body, Status> {
    match media_type(content_type) {
        "" | JSON => json(bytes),
        YAML if bytes.len() > MAX_YAML => Err(Status::new(
            413,
            "RequestEntityTooLarge",
            format!("the request is too large: YAML may have at most {MAX_YAML} bytes; send JSON"),
        )),
        YAML => read("YAML", serde_yaml::Deserializer::from_slice(bytes)),
        PROTOBUF => protobuf::decode(bytes, kind).map(|value| Body { value, duplicates: Vec::new() }).map_err(|error| match error {
            protobuf::Error::Unsupported => Status::unsupported_media(&[JSON, YAML]),
            protobuf::Error::Malformed(why) => Status::bad_request(format!("the body is not a protobuf {kind}: {why}")),
        }),
        _ => Err(Status::unsupported_media(&[JSON, YAML, PROTOBUF])),
    }
}

/// Decodes JSON and remembers which keys came twice.
pub(super) fn json(bytes: &[u8]) -> Result<Body, Status> {
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let body = read("valid JSON", &mut reader)?;
    reader.end().map_err(|e| Status::bad_request(format!("the body is not valid JSON: {e}")))?;
    Ok(body)
}

fn read<'de, D: Deserializer<'de>>(what: &str, deserializer: D) -> Result<Body, Status> {
    let mut found = Found { values: 0, duplicates: Vec::new() };
    match (Seen { path: Path::Root, found: &mut found }).deserialize(deserializer) {
        Ok(value) => Ok(Body { value, duplicates: found.duplicates }),
        Err(_) if found.values > MAX_VALUES => Err(Status::too_many_values(MAX_VALUES)),
        Err(e) => Err(Status::bad_request(format!("the body is not {what}: {e}"))),
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

/// What was met on the way.
struct Found {
    values: usize,
    duplicates: Vec<String>,
}

/// Where a value stands. Written out only when something is said of it: keys may be long.
#[derive(Clone, Copy)]
enum Path<'a> {
    Root,
    Key(&'a Path<'a>, &'a str),
    Item(&'a Path<'a>, usize),
}

impl std::fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Root => Ok(()),
            Self::Key(Self::Root, key) => f.write_str(key),
            Self::Key(parent, key) => write!(f, "{parent}.{key}"),
            Self::Item(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

/// Reads any JSON value; `path` is where it stands.
struct Seen<'a> {
    path: Path<'a>,
    found: &'a mut Found,
}

impl<'de> DeserializeSeed<'de> for Seen<'_> {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        // A value takes many times its text's memory: they are counted before they are kept.
        self.found.values += 1;
        if self.found.values > MAX_VALUES {
            return Err(serde::de::Error::custom("it has too many values"));
        }
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seen<'_> {
    type Value = Value;
    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a JSON value")
    }
    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(v.into())
    }
    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(v.into())
    }
    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(v.into())
    }
    fn visit_f64<E: serde::de::Error>(self, v: f64) -> Result<Value, E> {
        // YAML knows numbers that JSON does not.
        Number::from_f64(v).map(Value::Number).ok_or_else(|| E::custom(format!("{}: {v} is not a number that JSON knows", self.path)))
    }
    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(v.into())
    }
    fn visit_string<E>(self, v: String) -> Result<Value, E> {
        Ok(v.into())
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element_seed(Seen { path: Path::Item(&self.path, items.len()), found: self.found })? {
            items.push(item);
        }
        Ok(items.into())
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            let path = Path::Key(&self.path, &key);
            let value = map.next_value_seed(Seen { path, found: self.found })?;
            if object.contains_key(&key) && self.found.duplicates.len() < MAX_DUPLICATES {
                let path = path.to_string();
                if !self.found.duplicates.contains(&path) {
                    self.found.duplicates.push(path);
                }
            }
            object.insert(key, value);
        }
        Ok(object.into())
    }
}
