//! Every kind as a CustomResourceDefinition: what `crds/*.yaml` hold and what clients of a real cluster would install.

use super::{Approval, Budget, Checkpoint, GROUP, Hub, Kind, Machine, Scope, VERSION, schema::structural};
use schemars::JsonSchema;
use serde_json::{Value, json};

/// The CustomResourceDefinitions of all kinds, in order of preference.
pub fn all() -> Vec<Value> {
    vec![crd::<Machine>(), crd::<Checkpoint>(), crd::<Budget>(), crd::<Approval>(), crd::<Hub>()]
}

/// File name and text of every CustomResourceDefinition, as they stand in `crds/`.
pub fn files() -> Vec<(String, String)> {
    all()
        .iter()
        .map(|crd| {
            let name = crd["metadata"]["name"].as_str().unwrap_or_default();
            let text = serde_yaml::to_string(crd).expect("a JSON value has a YAML form");
            let head = "# Generated from src/api. Rewrite it with: AUTOVIBE_BLESS=1 cargo test --test it crds\n";
            (format!("{name}.yaml"), format!("{head}{text}"))
        })
        .collect()
}

fn crd<K: Kind + JsonSchema>() -> Value {
    let mut schema = structural::<K>();
    let properties = schema["properties"].as_object_mut().expect("a kind is an object");
    for (name, text) in [("apiVersion", "Version of the schema of this object: autovibe.dev/v1alpha1."), ("kind", "What this object is.")] {
        properties.insert(name.into(), json!({ "type": "string", "description": text }));
    }
    properties.insert("metadata".into(), json!({ "type": "object" }));
    let columns: Vec<Value> = K::COLUMNS
        .iter()
        .map(|column| {
            json!({
                "name": column.name, "type": column.r#type, "jsonPath": column.json_path,
                "priority": column.priority, "description": column.description,
            })
        })
        .collect();
    json!({
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": { "name": format!("{}.{GROUP}", K::PLURAL) },
        "spec": {
            "group": GROUP,
            "names": {
                "kind": K::KIND, "listKind": format!("{}List", K::KIND), "plural": K::PLURAL, "singular": K::SINGULAR,
                "shortNames": K::SHORT_NAMES, "categories": ["all", "autovibe"],
            },
            "scope": match K::SCOPE { Scope::Namespaced => "Namespaced", Scope::Cluster => "Cluster" },
            "versions": [{
                "name": VERSION, "served": true, "storage": true,
                "additionalPrinterColumns": columns,
                "schema": { "openAPIV3Schema": schema },
                "subresources": { "status": {} },
            }],
        },
    })
}
