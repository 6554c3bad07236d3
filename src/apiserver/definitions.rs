//! Our kinds as CustomResourceDefinitions, read-only: for tools that look there before they trust a kind.

use super::{
    cache::Item,
    catalog::{self, Entry},
    list::Listing,
    selector::Selector,
    status::Status,
};
use crate::{
    objects::Objects,
    store::{Key, Revision},
};
use serde_json::{Value, json};
use std::sync::Arc;
use uuid::Uuid;

/// Generated objects have one revision, for ever.
const REVISION: Revision = Revision(1);
const RESOURCE: &str = "customresourcedefinitions.apiextensions.k8s.io";

/// All that the selector takes, by name.
pub(super) async fn list(objects: &Objects, selector: &Selector) -> Result<Listing, Status> {
    let since = since(objects).await?;
    let item = |e: &Entry| Item::new(Key::new(RESOURCE, "", e.name()), REVISION, &definition(e, &since));
    let mut items: Vec<Arc<Item>> = catalog::entries().iter().filter(|e| e.is_custom()).map(|e| Arc::new(item(e))).collect();
    items.retain(|item| item.matches(selector));
    items.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(Listing { revision: REVISION, items, continue_token: None, remaining: None })
}

/// One by name.
pub(super) async fn get(objects: &Objects, name: &str) -> Result<Value, Status> {
    let since = since(objects).await?;
    let found = catalog::entries().iter().filter(|e| e.is_custom()).find(|e| e.name() == name);
    found.map(|e| definition(e, &since)).ok_or_else(|| Status::not_found(RESOURCE, name))
}

/// They are as old as the store: as its first namespace.
async fn since(objects: &Objects) -> Result<String, Status> {
    let namespace = objects.store().get(&Key::new("namespaces", "", "default")).await?;
    let created = namespace.and_then(|n| n.document.pointer("/metadata/creationTimestamp")?.as_str().map(Into::into));
    Ok(created.unwrap_or_else(|| "1970-01-01T00:00:00Z".into()))
}

fn definition(entry: &Entry, since: &str) -> Value {
    let names = json!({
        "plural": entry.plural, "singular": entry.singular, "kind": entry.kind, "listKind": format!("{}List", entry.kind),
        "shortNames": entry.short_names, "categories": entry.categories,
    });
    let column = |c: &crate::api::meta::Column| json!({"name": c.name, "type": c.r#type, "jsonPath": c.json_path, "priority": c.priority, "description": c.description});
    let columns: Vec<Value> = entry.columns().iter().map(column).collect();
    let mut version = json!({
        "name": entry.version, "served": true, "storage": true, "additionalPrinterColumns": columns,
        "schema": {"openAPIV3Schema": entry.resource().map(|r| &r.schema)},
    });
    if entry.resource().is_some_and(|r| r.has_status) {
        version["subresources"] = json!({"status": {}});
    }
    let condition = |kind: &str, reason: &str, message: &str| json!({"type": kind, "status": "True", "reason": reason, "message": message, "lastTransitionTime": since});
    let name = entry.name();
    json!({
        "kind": "CustomResourceDefinition",
        "apiVersion": "apiextensions.k8s.io/v1",
        "metadata": {
            "name": name, "uid": Uuid::new_v5(&Uuid::NAMESPACE_DNS, name.as_bytes()).to_string(), "resourceVersion": REVISION.0.to_string(),
            "generation": 1, "creationTimestamp": since,
        },
        "spec": {
            "group": entry.group, "names": names, "scope": if entry.namespaced { "Namespaced" } else { "Cluster" },
            "versions": [version], "conversion": {"strategy": "None"},
        },
        "status": {
            "acceptedNames": names, "storedVersions": [entry.version],
            "conditions": [
                condition("NamesAccepted", "NoConflicts", "no conflicts found"),
                condition("Established", "InitialNamesAccepted", "the initial names have been accepted"),
            ],
        },
    })
}
