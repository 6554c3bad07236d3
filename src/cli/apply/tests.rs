//! The merge as a table, and what a reader of manifests says about wrong ones.

use super::{LAST_APPLIED, manifest, merge};
use serde_json::{Value, json};
use std::path::PathBuf;

fn stored(last: &Value, mut object: Value) -> Value {
    object["metadata"]["annotations"][LAST_APPLIED] = last.to_string().into();
    object
}

/// Applies a merge patch as RFC 7386 defines it.
fn patched(target: &Value, patch: &Value) -> Value {
    let Some(patch) = patch.as_object() else { return patch.clone() };
    let mut target = target.as_object().cloned().unwrap_or_default();
    for (key, value) in patch {
        if value.is_null() {
            target.remove(key);
        } else {
            let merged = patched(target.get(key).unwrap_or(&Value::Null), value);
            target.insert(key.clone(), merged);
        }
    }
    Value::Object(target)
}

#[test]
fn fields_that_are_no_longer_written_go_and_others_stay() {
    let last = json!({ "spec": { "a": 1, "b": { "c": 1, "d": 2 }, "list": [1, 2] } });
    let current = stored(&last, json!({ "spec": { "a": 1, "b": { "c": 1, "d": 2, "default": true }, "list": [1, 2], "other": "kept" } }));
    for (wanted, expect) in [
        (
            json!({ "spec": { "a": 1, "b": { "c": 1, "d": 2 }, "list": [1, 2] } }),
            json!({ "a": 1, "b": { "c": 1, "d": 2, "default": true }, "list": [1, 2], "other": "kept" }),
        ),
        (
            json!({ "spec": { "a": 2, "b": { "c": 1 }, "list": [2] } }),
            json!({ "a": 2, "b": { "c": 1, "default": true }, "list": [2], "other": "kept" }),
        ),
        (json!({ "spec": { "new": { "x": 1 } } }), json!({ "new": { "x": 1 }, "other": "kept" })),
        (json!({ "spec": { "a": null, "b": "text" } }), json!({ "b": "text", "other": "kept" })),
    ] {
        let patch = merge::three_way(&current, &wanted);
        assert_eq!(patched(&current, &patch)["spec"], expect, "{wanted} by {patch}");
    }
}

#[test]
fn the_same_again_is_no_change() {
    let document = json!({ "spec": { "a": 1 } });
    let mut wanted = document.clone();
    wanted["metadata"]["annotations"][LAST_APPLIED] = document.to_string().into();
    let current = stored(&document, json!({ "spec": { "a": 1, "default": 2 }, "status": {} }));
    assert_eq!(merge::three_way(&current, &wanted), json!({}));
}

fn read(text: &str) -> Result<Vec<String>, String> {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("m.yaml");
    std::fs::write(&file, text).unwrap();
    let documents = manifest::read(&[PathBuf::from(&file)], "here")
        .map_err(|error| format!("{error:#}").replace(&file.display().to_string(), "m.yaml"))?;
    Ok(documents.iter().map(|d| format!("{} {} {}", d.kind(), d.namespace, d.name)).collect())
}

#[test]
fn documents_know_their_place() {
    let text = "apiVersion: autovibe.dev/v1alpha1\nkind: Machine\nmetadata: {name: a}\nspec: {}\n---\n# nothing\n---\napiVersion: v1\nkind: Namespace\nmetadata: {name: here}\n---\n\
                apiVersion: autovibe.dev/v1alpha1\nkind: Hub\nmetadata: {name: default}\nspec: {}\n";
    assert_eq!(read(text).unwrap(), ["Namespace  here", "Machine here a", "Hub  default"]);
}

#[test]
fn wrong_manifests_are_named_by_file_document_and_field() {
    let good = "apiVersion: autovibe.dev/v1alpha1\nkind: Machine\nmetadata: {name: a}\nspec: {}\n---\n";
    for (bad, expect) in [
        ("kind: Machine\nmetadata: {name: b}\n", "m.yaml, document 2: apiVersion: Required value"),
        ("apiVersion: autovibe.dev/v1alpha1\nmetadata: {name: b}\n", "m.yaml, document 2: kind: Required value"),
        ("apiVersion: autovibe.dev/v1alpha1\nkind: Machine\nspec: {}\n", "m.yaml, document 2: metadata.name: Required value"),
        ("apiVersion: autovibe.dev/v1\nkind: Machine\nmetadata: {name: b}\n", "write autovibe.dev/v1alpha1"),
        ("apiVersion: autovibe.dev/v1alpha1\nkind: Pod\nmetadata: {name: b}\n", "kind: `Pod` is not known; write one of"),
        ("apiVersion: [\n", "m.yaml, document 2: "),
        (
            "apiVersion: autovibe.dev/v1alpha1\nkind: Machine\nmetadata: {name: b, name: c}\n",
            "m.yaml, document 2, line 8: metadata.name: is written twice",
        ),
        ("- a list\n", "m.yaml, document 2: it is no object"),
        (
            "apiVersion: autovibe.dev/v1alpha1\nkind: Machine\nmetadata: {name: a}\n",
            "m.yaml, document 2 (Machine here/a): is written twice",
        ),
    ] {
        let error = read(&format!("{good}{bad}")).unwrap_err();
        assert!(error.starts_with("nothing was applied: ") && error.contains(expect), "{bad}: {error}");
    }
}
