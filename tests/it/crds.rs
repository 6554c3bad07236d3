//! `crds/` is what the types say. `AUTOVIBE_BLESS=1 cargo test --test it crds` rewrites it.

use autovibe::api::crd;
use serde_json::Value;
use std::{fs, path::Path};

#[test]
#[expect(clippy::disallowed_methods, reason = "the one switch of the golden files")]
fn files_are_current() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("crds");
    let files = crd::files();
    if std::env::var_os("AUTOVIBE_BLESS").is_some() {
        fs::create_dir_all(&dir).unwrap();
        for (name, text) in &files {
            fs::write(dir.join(name), text).unwrap();
        }
    }
    for (name, text) in &files {
        let stored = fs::read_to_string(dir.join(name)).unwrap_or_default();
        assert!(&stored == text, "crds/{name} is stale; rewrite it with: AUTOVIBE_BLESS=1 cargo test --test it crds");
    }
    let stored = fs::read_dir(&dir).unwrap().count();
    assert_eq!(stored, files.len(), "crds/ holds a file of a kind that is gone; remove it");
}

#[test]
fn schemas_are_structural() {
    for crd in crd::all() {
        let name = crd["metadata"]["name"].as_str().unwrap();
        check(&crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"], name);
    }
}

/// Source: apiextensions/v1, structural schemas: each node has a type, and no word outside the allowed ones.
fn check(node: &Value, path: &str) {
    let node_type = node["type"].as_str().unwrap_or_else(|| panic!("{path} has no type: {node}"));
    for word in node.as_object().unwrap().keys() {
        let known = [
            "type",
            "description",
            "properties",
            "required",
            "items",
            "additionalProperties",
            "enum",
            "default",
            "format",
            "minimum",
            "maximum",
            "pattern",
            "example",
            "minItems",
            "maxItems",
            "uniqueItems",
            "x-kubernetes-list-type",
            "x-kubernetes-list-map-keys",
        ];
        assert!(known.contains(&word.as_str()), "{path} has `{word}`, which a structural schema must not have: {node}");
    }
    match node_type {
        "object" => {
            for (name, inner) in node["properties"].as_object().into_iter().flatten() {
                check(inner, &format!("{path}.{name}"));
            }
            if let Some(inner) = node.get("additionalProperties") {
                check(inner, &format!("{path}[*]"));
            }
        }
        "array" => check(&node["items"], &format!("{path}[]")),
        other => assert!(["string", "integer", "number", "boolean"].contains(&other), "{path} is of type {other}"),
    }
}

#[test]
fn every_field_that_a_user_writes_is_described() {
    for crd in crd::all() {
        let name = crd["metadata"]["name"].as_str().unwrap();
        described(&crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"], name);
    }
}

fn described(node: &Value, path: &str) {
    for (name, inner) in node["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        assert!(inner["description"].as_str().is_some_and(|text| !text.is_empty()), "{path} has no description for `kubectl explain`");
        described(inner, &path);
        described(&inner["items"], &path);
    }
}
