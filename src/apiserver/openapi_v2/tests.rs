//! What Swagger 2 cannot say is left out; nothing refers into the void.

use super::*;

fn references(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            if let Some(reference) = fields.get("$ref").and_then(Value::as_str) {
                found.push(reference.into());
            }
            fields.values().for_each(|v| references(v, found));
        }
        Value::Array(items) => items.iter().for_each(|v| references(v, found)),
        _ => {}
    }
}

#[test]
fn every_reference_resolves() {
    let swagger = swagger();
    let mut found = Vec::new();
    references(&swagger, &mut found);
    assert!(!found.is_empty());
    for reference in found {
        let name = reference.strip_prefix("#/definitions/").expect("within the document");
        assert!(swagger["definitions"].get(name).is_some(), "{reference}");
    }
}

#[test]
fn a_schema_is_reduced_to_what_swagger_knows() {
    let schema = json!({
        "type": "object", "nullable": true,
        "properties": {
            "size": {"x-kubernetes-int-or-string": true, "type": "string", "anyOf": [{"type": "integer"}]},
            "list": {"type": "array", "items": {"type": "string", "default": "x"}},
            "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {"a": {"type": "string"}}},
            "meta": {"allOf": [{"$ref": "#/components/schemas/M"}], "description": "d"},
        },
    });
    assert_eq!(
        reduce(&schema, true),
        json!({
            "type": "object",
            "properties": {
                "size": {"x-kubernetes-int-or-string": true},
                "list": {"type": "array", "items": {"type": "string"}},
                "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
                "meta": {"$ref": "#/definitions/M"},
            },
        })
    );
}

#[test]
fn the_protobuf_form_holds_every_definition() {
    let document = wire::Document::decode(as_protobuf().body.clone()).expect("our own bytes");
    let definitions = document.definitions.unwrap_or_default().additional_properties;
    let machine = definitions.iter().find(|d| d.name == "dev.autovibe.v1alpha1.Machine").expect("defined");
    let schema = machine.value.as_ref().expect("has a schema");
    let extension = schema.vendor_extension.iter().find(|e| e.name == "x-kubernetes-group-version-kind").expect("has its kind");
    assert!(extension.value.as_ref().expect("has a value").yaml.contains("\"Machine\""));
}
