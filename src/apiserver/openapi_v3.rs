//! `/openapi/v3`: an index, and one document a group version, from which kubectl validates and explains.

use super::{
    catalog::{self, Entry, Source},
    meta_schemas::{self, META},
};
use bytes::Bytes;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use std::{collections::BTreeMap, sync::LazyLock};

/// A document and the hash of its text.
pub(super) struct Document {
    pub(super) body: Bytes,
    pub(super) tag: String,
}

impl Document {
    pub(super) fn new(body: impl Into<Bytes>) -> Self {
        let body = body.into();
        let tag = hex::encode(&Sha256::digest(&body)[..16]);
        Self { body, tag }
    }
}

/// The index.
pub(super) fn index() -> &'static Document {
    static INDEX: LazyLock<Document> = LazyLock::new(|| {
        let url = |(key, document): (&String, &Document)| {
            (key.clone(), json!({"serverRelativeURL": format!("/openapi/v3/{key}?hash={}", document.tag)}))
        };
        let paths: Map<String, Value> = groups().iter().map(url).collect();
        Document::new(json!({"paths": paths}).to_string())
    });
    &INDEX
}

/// Documents by `api/v1` and `apis/GROUP/VERSION`.
pub(super) fn groups() -> &'static BTreeMap<String, Document> {
    static GROUPS: LazyLock<BTreeMap<String, Document>> = LazyLock::new(|| {
        let mut groups = vec![("", "v1")];
        groups.extend(catalog::groups());
        groups.into_iter().map(|(group, version)| (key(group, version), Document::new(document(group, version).to_string()))).collect()
    });
    &GROUPS
}

fn key(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

fn document(group: &str, version: &str) -> Value {
    let mut paths = Map::new();
    let mut schemas = meta_schemas::all();
    // Lists of deletions and statuses are shared by every group: their kinds are told for this one.
    for shared in ["DeleteOptions", "Status"] {
        let api_version = if shared == "Status" { ("", "v1") } else { (group, version) };
        if let Some(schema) = schemas.get_mut(&format!("{META}.{shared}")) {
            schema["x-kubernetes-group-version-kind"] = json!([gvk(api_version.0, api_version.1, shared)]);
        }
    }
    for entry in catalog::entries().iter().filter(|e| e.group == group && e.version == version) {
        schemas.extend(schemas_of(entry));
        paths.extend(paths_of(entry));
    }
    json!({
        "openapi": "3.0.0",
        "info": {"title": "autovibe", "version": format!("v{}", env!("CARGO_PKG_VERSION"))},
        "paths": paths,
        "components": {"schemas": schemas, "securitySchemes": {"BearerToken": {
            "type": "apiKey", "in": "header", "name": "authorization", "description": "Bearer token of the kubeconfig",
        }}},
    })
}

fn gvk(group: &str, version: &str, kind: &str) -> Value {
    json!({"group": group, "version": version, "kind": kind})
}

/// Reverse-domain name of a kind's schema, as Kubernetes names its own.
pub(super) fn schema_name(entry: &Entry) -> String {
    let (version, kind) = (entry.version, entry.kind);
    match entry.group {
        "" => format!("io.k8s.api.core.{version}.{kind}"),
        "apiextensions.k8s.io" => format!("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.{version}.{kind}"),
        group => match group.strip_suffix(".k8s.io") {
            Some(name) => format!("io.k8s.api.{}.{version}.{kind}", name.split('.').next().unwrap_or(name)),
            None => format!("{}.{version}.{kind}", group.rsplit('.').collect::<Vec<_>>().join(".")),
        },
    }
}

/// A kind's schema, and its list's if it has one.
pub(super) fn schemas_of(entry: &Entry) -> Vec<(String, Value)> {
    let name = schema_name(entry);
    let mut schema = match entry.source {
        Source::Stored(resource) => resource.schema.clone(),
        Source::EventsView(resource) => super::present::schema(&resource.schema),
        Source::Definitions => open("A kind that is served.", &["spec", "status"]),
        Source::Review(_) => open("A question about oneself, answered at once.", &["spec", "status"]),
    };
    schema["type"] = "object".into();
    if !schema["properties"].is_object() {
        schema["properties"] = json!({});
    }
    let properties = &mut schema["properties"];
    properties["apiVersion"] = meta_schemas::api_version();
    properties["kind"] = meta_schemas::kind();
    properties["metadata"] = meta_schemas::field("ObjectMeta", "Name, namespace, labels and the like.");
    schema["x-kubernetes-group-version-kind"] = json!([gvk(entry.group, entry.version, entry.kind)]);
    let mut schemas = vec![(name.clone(), schema)];
    if entry.has_verb("list") {
        let kind = format!("{}List", entry.kind);
        let list = json!({
            "type": "object", "description": format!("A list of {}.", entry.kind), "required": ["items"],
            "properties": {
                "apiVersion": meta_schemas::api_version(), "kind": meta_schemas::kind(),
                "items": {"type": "array", "description": "The objects.", "items": {"$ref": format!("#/components/schemas/{name}")}},
                "metadata": meta_schemas::field("ListMeta", "Metadata of the list."),
            },
            "x-kubernetes-group-version-kind": [gvk(entry.group, entry.version, &kind)],
        });
        schemas.push((format!("{name}List"), list));
    }
    schemas
}

fn open(description: &str, parts: &[&str]) -> Value {
    let part =
        |part: &&str| ((*part).to_owned(), json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true, "description": part}));
    json!({"type": "object", "description": description, "properties": parts.iter().map(part).collect::<Map<_, _>>()})
}

fn paths_of(entry: &Entry) -> Vec<(String, Value)> {
    let base = format!("/{}", key(entry.group, entry.version));
    let scoped = if entry.namespaced { format!("{base}/namespaces/{{namespace}}") } else { base.clone() };
    let mut paths = Vec::new();
    let collection: Vec<Value> = entry
        .verbs
        .iter()
        .filter_map(|verb| match *verb {
            "list" => Some(operation(entry, "get", "list", "")),
            "create" => Some(operation(entry, "post", "post", "")),
            "deletecollection" => Some(operation(entry, "delete", "deletecollection", "")),
            _ => None,
        })
        .collect();
    paths.push((format!("{scoped}/{}", entry.plural), path(entry.namespaced, false, collection)));
    if entry.namespaced && entry.has_verb("list") {
        let all = path(false, false, vec![operation(entry, "get", "list", "ForAllNamespaces")]);
        paths.push((format!("{base}/{}", entry.plural), all));
    }
    let named = |verbs: &[&str], suffix: &str| -> Vec<Value> {
        let operations = [("get", "get"), ("update", "put"), ("patch", "patch"), ("delete", "delete")];
        operations.iter().filter(|(verb, _)| verbs.contains(verb)).map(|(_, method)| operation(entry, method, method, suffix)).collect()
    };
    if entry.has_verb("get") {
        paths.push((format!("{scoped}/{}/{{name}}", entry.plural), path(entry.namespaced, true, named(entry.verbs, ""))));
    }
    for sub in &entry.subresources {
        let suffix = format!("{}{}", sub.name[..1].to_uppercase(), &sub.name[1..]);
        let mut operations = named(sub.verbs, &suffix);
        operations.extend(sub.verbs.contains(&"create").then(|| operation(entry, "post", "post", &suffix)));
        paths.push((format!("{scoped}/{}/{{name}}/{}", entry.plural, sub.name), path(entry.namespaced, true, operations)));
    }
    paths
}

fn path(namespaced: bool, named: bool, operations: Vec<Value>) -> Value {
    let parameter = |name: &str| json!({"name": name, "in": "path", "required": true, "schema": {"type": "string", "uniqueItems": true}});
    let mut parameters = Vec::new();
    if named {
        parameters.push(parameter("name"));
    }
    if namespaced {
        parameters.push(parameter("namespace"));
    }
    let mut item = json!({"parameters": parameters});
    for mut operation in operations {
        let method = operation.as_object_mut().and_then(|o| o.remove("method"));
        if let Some(method) = method.as_ref().and_then(Value::as_str) {
            item[method] = operation;
        }
    }
    item
}

/// One operation; `method` is still inside it.
fn operation(entry: &Entry, method: &str, action: &str, suffix: &str) -> Value {
    let query = |name: &&str| json!({"name": name, "in": "query", "schema": {"type": "string", "uniqueItems": true}});
    let parameters: &[&str] = match action {
        "list" => &[
            "allowWatchBookmarks",
            "continue",
            "fieldSelector",
            "labelSelector",
            "limit",
            "resourceVersion",
            "resourceVersionMatch",
            "sendInitialEvents",
            "timeoutSeconds",
            "watch",
        ],
        "get" => &["pretty"],
        "patch" => &["pretty", "dryRun", "fieldManager", "fieldValidation", "force"],
        "delete" | "deletecollection" => &["pretty", "dryRun", "gracePeriodSeconds", "orphanDependents", "propagationPolicy"],
        _ => &["pretty", "dryRun", "fieldManager", "fieldValidation"],
    };
    let name = schema_name(entry);
    let schema = |name: String| json!({"schema": {"$ref": format!("#/components/schemas/{name}")}});
    let answer = match action {
        "list" => format!("{name}List"),
        "delete" | "deletecollection" => format!("{META}.Status"),
        _ => name.clone(),
    };
    let tag = if entry.group.is_empty() { "core".to_owned() } else { entry.group.split('.').next().unwrap_or_default().to_owned() };
    let mut operation = json!({
        "method": method,
        "operationId": format!("{action}{}{}{}{suffix}", capital(&tag), capital(entry.version), entry.kind),
        "tags": [format!("{tag}_{}", entry.version)],
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": gvk(entry.group, entry.version, entry.kind),
        "parameters": parameters.iter().map(query).collect::<Vec<_>>(),
        "responses": {"200": {"description": "OK", "content": {"application/json": schema(answer)}}},
    });
    let body: Option<(&[&str], String)> = match action {
        "post" | "put" => Some((&["application/json"], name)),
        "delete" | "deletecollection" => Some((&["application/json"], format!("{META}.DeleteOptions"))),
        "patch" if entry.is_custom() => Some((&["application/json-patch+json", "application/merge-patch+json"], format!("{META}.Patch"))),
        "patch" => Some((
            &["application/json-patch+json", "application/merge-patch+json", "application/strategic-merge-patch+json"],
            format!("{META}.Patch"),
        )),
        _ => None,
    };
    if let Some((types, name)) = body {
        let content: Map<String, Value> = types.iter().map(|t| ((*t).to_owned(), schema(name.clone()))).collect();
        operation["requestBody"] = json!({"content": content});
        if method != "delete" {
            operation["requestBody"]["required"] = true.into();
        }
    }
    operation
}

fn capital(word: &str) -> String {
    let mut chars = word.chars();
    chars.next().map_or_else(String::new, |first| first.to_uppercase().chain(chars).collect())
}
