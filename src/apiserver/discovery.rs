//! What there is: `/version`, `/api`, `/apis`, in the aggregated form of current clients and in the older one by version.

use super::catalog::{self, Entry, Subresource};
use serde_json::{Value, json};

/// The Kubernetes whose API this speaks. kubectl warns beyond one minor version of difference.
const MINOR: &str = "34";

pub(super) fn version() -> Value {
    let autovibe = env!("CARGO_PKG_VERSION").split('.').take(2).collect::<Vec<_>>().join(".");
    json!({
        "major": "1", "minor": MINOR, "gitVersion": format!("v1.{MINOR}.0+autovibe.{autovibe}"), "gitCommit": "", "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z", "goVersion": "none", "compiler": "rustc",
        "platform": format!("{}/{}", std::env::consts::OS, std::env::consts::ARCH),
    })
}

pub(super) fn root() -> Value {
    let groups = catalog::groups().into_iter().flat_map(|(group, version)| [format!("/apis/{group}"), format!("/apis/{group}/{version}")]);
    let fixed = |paths: &[&str]| paths.iter().map(ToString::to_string).collect::<Vec<_>>();
    let mut paths = fixed(&["/api", "/api/v1", "/apis"]);
    paths.extend(groups);
    paths.extend(fixed(&["/healthz", "/livez", "/openapi/v2", "/openapi/v3", "/readyz", "/version"]));
    json!({"paths": paths})
}

/// `APIGroupDiscoveryList` of the core group, or of all others. `version` is that of `apidiscovery.k8s.io`.
pub(super) fn aggregated(core: bool, version: &str) -> Value {
    let groups = if core { vec![("", "v1")] } else { catalog::groups() };
    let items: Vec<Value> = groups
        .into_iter()
        .map(|(group, served)| {
            let resources: Vec<Value> = of(group, served).map(aggregated_resource).collect();
            json!({"metadata": {"name": group, "creationTimestamp": null}, "versions": [{"version": served, "freshness": "Current", "resources": resources}]})
        })
        .collect();
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": format!("apidiscovery.k8s.io/{version}"), "metadata": {}, "items": items})
}

/// `/api` for older clients.
pub(super) fn core_versions(host: &str) -> Value {
    json!({
        "kind": "APIVersions", "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": host}],
    })
}

/// `/apis` for older clients.
pub(super) fn groups() -> Value {
    let groups: Vec<Value> = catalog::groups().into_iter().map(|(group, version)| group_fields(group, version)).collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

/// `/apis/GROUP`.
pub(super) fn group(name: &str) -> Option<Value> {
    let (group, version) = catalog::groups().into_iter().find(|(group, _)| *group == name)?;
    let mut value = group_fields(group, version);
    value["kind"] = "APIGroup".into();
    value["apiVersion"] = "v1".into();
    Some(value)
}

/// `/api/v1` and `/apis/GROUP/VERSION`.
pub(super) fn resources(group: &str, version: &str) -> Option<Value> {
    let mut resources = Vec::new();
    for entry in of(group, version) {
        let mut resource = json!({
            "name": entry.plural, "singularName": entry.singular, "namespaced": entry.namespaced, "kind": entry.kind, "verbs": entry.verbs,
        });
        if !entry.short_names.is_empty() {
            resource["shortNames"] = json!(entry.short_names);
        }
        if !entry.categories.is_empty() {
            resource["categories"] = json!(entry.categories);
        }
        resources.push(resource);
        for sub in &entry.subresources {
            let mut part = json!({
                "name": format!("{}/{}", entry.plural, sub.name), "singularName": "", "namespaced": entry.namespaced, "kind": entry.kind,
                "verbs": sub.verbs,
            });
            if let Some((group, version, kind)) = sub.kind {
                (part["group"], part["version"], part["kind"]) = (group.into(), version.into(), kind.into());
            }
            resources.push(part);
        }
    }
    if resources.is_empty() {
        return None;
    }
    let group_version = catalog::group_version(group, version);
    Some(json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": resources}))
}

fn of(group: &str, version: &str) -> impl Iterator<Item = &'static Entry> {
    catalog::entries().iter().filter(move |e| e.group == group && e.version == version)
}

fn group_fields(group: &str, version: &str) -> Value {
    let version = json!({"groupVersion": format!("{group}/{version}"), "version": version});
    json!({"name": group, "versions": [version], "preferredVersion": version})
}

fn aggregated_resource(entry: &'static Entry) -> Value {
    let kind = json!({"group": entry.group, "version": entry.version, "kind": entry.kind});
    let of = |sub: &Subresource| {
        let other = sub.kind.map(|(group, version, kind)| json!({"group": group, "version": version, "kind": kind}));
        json!({"subresource": sub.name, "responseKind": other.unwrap_or_else(|| kind.clone()), "verbs": sub.verbs})
    };
    let subresources: Vec<Value> = entry.subresources.iter().map(of).collect();
    let mut resource = json!({
        "resource": entry.plural, "responseKind": kind, "scope": if entry.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": entry.singular, "verbs": entry.verbs,
    });
    for (field, list) in [("shortNames", entry.short_names), ("categories", entry.categories)] {
        if !list.is_empty() {
            resource[field] = json!(list);
        }
    }
    if !subresources.is_empty() {
        resource["subresources"] = json!(subresources);
    }
    resource
}
