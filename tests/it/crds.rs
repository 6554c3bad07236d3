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
            "maxLength",
            "pattern",
            "example",
            "minItems",
            "maxItems",
            "uniqueItems",
            "x-kubernetes-list-type",
            "x-kubernetes-list-map-keys",
            "x-kubernetes-validations",
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

/// What a real API server asks of a rule before it takes the definition: that it compiles, has a message, and is cheap.
#[test]
fn rules_compile_are_cheap_and_say_what_to_do() {
    let mut seen = 0;
    for crd in crd::all() {
        let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        assert_eq!(autovibe::admission::cel::Rules::of(schema).broken(), Vec::<String>::new());
        rules(schema, &mut |node, rule| {
            seen += 1;
            let text = rule["rule"].as_str().unwrap();
            assert!(rule["message"].as_str().is_some_and(|message| !message.is_empty() && !message.contains('\n')), "{rule}");
            let warnings = kube_cel::estimate_rule_cost(text, &kube_cel::compile_schema(node));
            assert!(warnings.is_empty(), "{rule}: {warnings:?}");
            let path = rule["fieldPath"].as_str().unwrap_or_default().trim_start_matches('.');
            assert!(path.is_empty() || node["properties"].get(path).is_some(), "{rule} names a field that is not there");
        });
    }
    assert!(seen > 15, "{seen} rules");
}

fn rules(node: &Value, look: &mut impl FnMut(&Value, &Value)) {
    for rule in node["x-kubernetes-validations"].as_array().into_iter().flatten() {
        look(node, rule);
    }
    for inner in
        node["properties"].as_object().into_iter().flat_map(serde_json::Map::values).chain([&node["items"], &node["additionalProperties"]])
    {
        if inner.is_object() {
            rules(inner, look);
        }
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
