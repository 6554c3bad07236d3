//! `/openapi/v2`: definitions alone, as Swagger JSON and as gnostic's protobuf `Document`, which `kubectl apply` and Argo read.
//!
//! Swagger 2 cannot say all that OpenAPI 3 can: what it cannot is left out. Message numbers are those of gnostic's
//! `OpenAPIv2.proto`; vendor extensions are YAML text there, for which JSON will do.

use super::{
    catalog, meta_schemas,
    openapi_v3::{self, Document},
};
use prost::Message;
use serde_json::{Map, Value, json};
use std::sync::LazyLock;

#[cfg(test)]
mod tests;

/// The JSON form.
pub(super) fn as_json() -> &'static Document {
    static JSON: LazyLock<Document> = LazyLock::new(|| Document::new(swagger().to_string()));
    &JSON
}

/// The protobuf form.
pub(super) fn as_protobuf() -> &'static Document {
    static PROTOBUF: LazyLock<Document> = LazyLock::new(|| Document::new(wire_document(&swagger()).encode_to_vec()));
    &PROTOBUF
}

fn swagger() -> Value {
    let mut schemas = meta_schemas::all();
    for entry in catalog::entries() {
        schemas.extend(openapi_v3::schemas_of(entry));
    }
    let definitions: Map<String, Value> = schemas.into_iter().map(|(name, schema)| (name, reduce(&schema, true))).collect();
    json!({
        "swagger": "2.0",
        "info": {"title": "autovibe", "version": format!("v{}", env!("CARGO_PKG_VERSION"))},
        "paths": {},
        "definitions": definitions,
    })
}

/// A schema without what Swagger 2 does not know.
fn reduce(schema: &Value, keep_default: bool) -> Value {
    let Value::Object(fields) = schema else {
        return json!({});
    };
    let target =
        |reference: &Value| json!({"$ref": reference.as_str().unwrap_or_default().replace("#/components/schemas/", "#/definitions/")});
    let mut reduced = Map::new();
    if let Some(reference) = fields.get("$ref") {
        return target(reference);
    }
    // A reference that has words of its own: Swagger takes either, and the reference matters.
    if let Some([only]) = fields.get("allOf").and_then(Value::as_array).map(Vec::as_slice)
        && let Some(reference) = only.get("$ref")
    {
        return target(reference);
    }
    let loose = fields.get("x-kubernetes-int-or-string") == Some(&json!(true));
    let open = fields.get("x-kubernetes-preserve-unknown-fields") == Some(&json!(true));
    for (key, value) in fields {
        match key.as_str() {
            "type" if loose => {}
            // Several types, or none that Swagger knows, are left untyped.
            "type" if !value.is_string() => {}
            "properties" if open => {}
            "properties" => {
                let inner = value.as_object().into_iter().flatten().map(|(name, schema)| (name.clone(), reduce(schema, keep_default)));
                reduced.insert(key.clone(), Value::Object(inner.collect()));
            }
            "items" => {
                reduced.insert(key.clone(), reduce(value, false));
            }
            "additionalProperties" if value.is_object() => {
                reduced.insert(key.clone(), reduce(value, false));
            }
            "default" if !keep_default => {}
            "description"
            | "type"
            | "format"
            | "title"
            | "default"
            | "required"
            | "enum"
            | "pattern"
            | "minimum"
            | "maximum"
            | "minLength"
            | "maxLength"
            | "minItems"
            | "maxItems"
            | "additionalProperties" => {
                reduced.insert(key.clone(), value.clone());
            }
            key if key.starts_with("x-kubernetes-") => {
                reduced.insert(key.into(), value.clone());
            }
            _ => {}
        }
    }
    Value::Object(reduced)
}

fn wire_document(swagger: &Value) -> wire::Document {
    let text = |pointer: &str| swagger.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    let definitions = swagger["definitions"].as_object().into_iter().flatten().map(|(name, schema)| named(name, schema)).collect();
    wire::Document {
        swagger: text("/swagger"),
        info: Some(wire::Info { title: text("/info/title"), version: text("/info/version") }),
        paths: Some(wire::Paths {}),
        definitions: Some(wire::Definitions { additional_properties: definitions }),
    }
}

fn named(name: &str, schema: &Value) -> wire::NamedSchema {
    wire::NamedSchema { name: name.into(), value: Some(wire_schema(schema)) }
}

fn wire_schema(schema: &Value) -> wire::Schema {
    let text = |field: &str| schema.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    let any = |value: &Value| wire::Any { yaml: value.to_string() };
    let list = |field: &str| schema.get(field).and_then(Value::as_array).into_iter().flatten();
    let count = |field: &str| schema.get(field).and_then(Value::as_i64).unwrap_or_default();
    let additional = match schema.get("additionalProperties") {
        Some(Value::Bool(flag)) => Some(wire::additional::Oneof::Boolean(*flag)),
        Some(inner) => Some(wire::additional::Oneof::Schema(Box::new(wire_schema(inner)))),
        None => None,
    };
    let extensions = schema.as_object().into_iter().flatten().filter(|(key, _)| key.starts_with("x-"));
    wire::Schema {
        reference: text("$ref"),
        format: text("format"),
        title: text("title"),
        description: text("description"),
        default: schema.get("default").map(any),
        maximum: schema.get("maximum").and_then(Value::as_f64).unwrap_or_default(),
        minimum: schema.get("minimum").and_then(Value::as_f64).unwrap_or_default(),
        max_length: count("maxLength"),
        min_length: count("minLength"),
        pattern: text("pattern"),
        max_items: count("maxItems"),
        min_items: count("minItems"),
        required: list("required").filter_map(Value::as_str).map(Into::into).collect(),
        r#enum: list("enum").map(any).collect(),
        additional_properties: additional.map(|oneof| Box::new(wire::AdditionalProperties { oneof: Some(oneof) })),
        r#type: schema.get("type").and_then(Value::as_str).map(|t| wire::Types { value: vec![t.into()] }),
        items: schema.get("items").map(|items| wire::Items { schema: vec![wire_schema(items)] }),
        properties: schema.get("properties").and_then(Value::as_object).map(|properties| wire::Properties {
            additional_properties: properties.iter().map(|(name, schema)| named(name, schema)).collect(),
        }),
        vendor_extension: extensions.map(|(key, value)| wire::NamedAny { name: key.clone(), value: Some(any(value)) }).collect(),
    }
}

/// The subset of gnostic's messages that says the above.
mod wire {
    use prost::{Message, Oneof as OneofDerive};

    #[derive(Clone, PartialEq, Message)]
    pub(super) struct Document {
        #[prost(string, tag = "1")]
        pub(super) swagger: String,
        #[prost(message, optional, tag = "2")]
        pub(super) info: Option<Info>,
        #[prost(message, optional, tag = "8")]
        pub(super) paths: Option<Paths>,
        #[prost(message, optional, tag = "9")]
        pub(super) definitions: Option<Definitions>,
    }

    #[derive(Clone, PartialEq, Message)]
    pub(super) struct Info {
        #[prost(string, tag = "1")]
        pub(super) title: String,
        #[prost(string, tag = "2")]
        pub(super) version: String,
    }

    #[derive(Clone, Copy, PartialEq, Message)]
    pub(super) struct Paths {}

    #[derive(Clone, PartialEq, Message)]
    pub(super) struct Definitions {
        #[prost(message, repeated, tag = "1")]
        pub(super) additional_properties: Vec<NamedSchema>,
    }

    #[derive(Clone, PartialEq, Message)]
    pub(super) struct NamedSchema {
        #[prost(string, tag = "1")]
        pub(super) name: String,
        #[prost(message, optional, tag = "2")]
        pub(super) value: Option<Schema>,
    }

    #[derive(Clone, PartialEq, Message)]
    pub(super) struct Any {
        #[prost(string, tag = "2")]
        pub(super) yaml: String,
    }

    #[derive(Clone, PartialEq, Message)]
    pub(super) struct NamedAny {
        #[prost(string, tag = "1")]
        pub(super) name: String,
        #[prost(message, optional, tag = "2")]
        pub(super) value: Option<Any>,
    }

    #[derive(Clone, PartialEq, Message)]
    pub(super) struct Types {
        #[prost(string, repeated, tag = "1")]
        pub(super) value: Vec<String>,
    }

    #[derive(Clone, PartialEq, Message)]
    pub(super) struct Items {
        #[prost(message, repeated, tag = "1")]
        pub(super) schema: Vec<Schema>,
    }

    #[derive(Clone, PartialEq, Message)]
    pub(super) struct Properties {
        #[prost(message, repeated, tag = "1")]
        pub(super) additional_properties: Vec<NamedSchema>,
    }

    #[derive(Clone, PartialEq, Message)]
    pub(super) struct AdditionalProperties {
        #[prost(oneof = "additional::Oneof", tags = "1, 2")]
        pub(super) oneof: Option<additional::Oneof>,
    }

    pub(super) mod additional {
        #[derive(Clone, PartialEq, super::OneofDerive)]
        pub(in super::super) enum Oneof {
            #[prost(message, tag = "1")]
            Schema(Box<super::Schema>),
            #[prost(bool, tag = "2")]
            Boolean(bool),
        }
    }

    #[derive(Clone, PartialEq, Message)]
    pub(super) struct Schema {
        #[prost(string, tag = "1")]
        pub(super) reference: String,
        #[prost(string, tag = "2")]
        pub(super) format: String,
        #[prost(string, tag = "3")]
        pub(super) title: String,
        #[prost(string, tag = "4")]
        pub(super) description: String,
        #[prost(message, optional, tag = "5")]
        pub(super) default: Option<Any>,
        #[prost(double, tag = "7")]
        pub(super) maximum: f64,
        #[prost(double, tag = "9")]
        pub(super) minimum: f64,
        #[prost(int64, tag = "11")]
        pub(super) max_length: i64,
        #[prost(int64, tag = "12")]
        pub(super) min_length: i64,
        #[prost(string, tag = "13")]
        pub(super) pattern: String,
        #[prost(int64, tag = "14")]
        pub(super) max_items: i64,
        #[prost(int64, tag = "15")]
        pub(super) min_items: i64,
        #[prost(string, repeated, tag = "19")]
        pub(super) required: Vec<String>,
        #[prost(message, repeated, tag = "20")]
        pub(super) r#enum: Vec<Any>,
        #[prost(message, optional, boxed, tag = "21")]
        pub(super) additional_properties: Option<Box<AdditionalProperties>>,
        #[prost(message, optional, tag = "22")]
        pub(super) r#type: Option<Types>,
        #[prost(message, optional, tag = "23")]
        pub(super) items: Option<Items>,
        #[prost(message, optional, tag = "25")]
        pub(super) properties: Option<Properties>,
        #[prost(message, repeated, tag = "31")]
        pub(super) vendor_extension: Vec<NamedAny>,
    }
}
