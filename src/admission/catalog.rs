//! The table of resources: our kinds from their types, core kinds from k8s-openapi's.

use super::{Resource, cel::Rules, roles::RBAC};
use crate::api::meta::Scope;
use crate::api::{Approval, Budget, Checkpoint, GROUP, Hub, Kind, Machine, VERSION, schema::structural};
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{ConfigMap, Event, Namespace, Secret, ServiceAccount};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use schemars::JsonSchema;
use serde_json::Value;

pub(super) fn all() -> Vec<Resource> {
    vec![
        ours::<Machine>(),
        ours::<Checkpoint>(),
        ours::<Budget>(),
        ours::<Approval>(),
        ours::<Hub>(),
        core::<Namespace>("Namespace", "namespaces", "namespace", &["ns"], Scope::Cluster),
        core::<Secret>("Secret", "secrets", "secret", &[], Scope::Namespaced),
        core::<ConfigMap>("ConfigMap", "configmaps", "configmap", &["cm"], Scope::Namespaced),
        core::<Event>("Event", "events", "event", &["ev"], Scope::Namespaced),
        core::<ServiceAccount>("ServiceAccount", "serviceaccounts", "serviceaccount", &["sa"], Scope::Namespaced),
        Resource { group: "coordination.k8s.io", ..core::<Lease>("Lease", "leases", "lease", &[], Scope::Namespaced) },
        rbac::<Role>("Role", "roles", "role", Scope::Namespaced),
        rbac::<RoleBinding>("RoleBinding", "rolebindings", "rolebinding", Scope::Namespaced),
        rbac::<ClusterRole>("ClusterRole", "clusterroles", "clusterrole", Scope::Cluster),
        rbac::<ClusterRoleBinding>("ClusterRoleBinding", "clusterrolebindings", "clusterrolebinding", Scope::Cluster),
    ]
}

fn rbac<T: JsonSchema>(kind: &'static str, plural: &'static str, singular: &'static str, scope: Scope) -> Resource {
    Resource { group: RBAC, ..core::<T>(kind, plural, singular, &[], scope) }
}

fn ours<K: Kind + JsonSchema>() -> Resource {
    let schema = structural::<K>();
    Resource {
        group: GROUP,
        version: VERSION,
        kind: K::KIND,
        plural: K::PLURAL,
        singular: K::SINGULAR,
        short_names: K::SHORT_NAMES,
        scope: K::SCOPE,
        categories: &["all", "autovibe"],
        columns: K::COLUMNS,
        has_status: true,
        rules: Rules::of(&schema),
        schema,
    }
}

/// Tables of core kinds are computed, so they have no columns here.
fn core<T: JsonSchema>(
    kind: &'static str,
    plural: &'static str,
    singular: &'static str,
    short_names: &'static [&'static str],
    scope: Scope,
) -> Resource {
    let mut schema = structural::<T>();
    if let Some(properties) = schema["properties"].as_object_mut() {
        properties.retain(|name, _| !matches!(name.as_str(), "apiVersion" | "kind" | "metadata"));
    }
    if let Some(required) = schema["required"].as_array_mut() {
        required.retain(|name| !matches!(name.as_str(), Some("metadata")));
    }
    if schema["required"].as_array().is_some_and(Vec::is_empty)
        && let Some(node) = schema.as_object_mut()
    {
        node.remove("required");
    }
    mark_lists(&mut schema);
    Resource {
        group: "",
        version: "v1",
        kind,
        plural,
        singular,
        short_names,
        scope,
        categories: &[],
        columns: &[],
        has_status: false,
        rules: Rules::default(),
        schema,
    }
}

/// Conditions are a list-map in every core kind, which the types do not say.
fn mark_lists(schema: &mut Value) {
    if let Some(conditions) = schema.pointer_mut("/properties/status/properties/conditions").and_then(Value::as_object_mut) {
        conditions.insert("x-kubernetes-list-type".into(), "map".into());
        conditions.insert("x-kubernetes-list-map-keys".into(), serde_json::json!(["type"]));
    }
}
