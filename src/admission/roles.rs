//! What is wrong with a role or a binding. Source: Kubernetes `pkg/apis/rbac/validation` and the defaults of `rbac/v1`.

use super::{Resource, names};
use crate::api::FieldError;
use serde_json::{Value, json};

pub(super) const RBAC: &str = "rbac.authorization.k8s.io";

/// API groups that are understood when they are left out. A rule without verbs gets none, to be refused in upstream's words.
pub(super) fn default(document: &mut Value) {
    if let Some(role) = document.get_mut("roleRef").and_then(Value::as_object_mut)
        && role.get("apiGroup").is_none_or(|group| group == "")
    {
        role.insert("apiGroup".into(), RBAC.into());
    }
    for subject in items_mut(document, "subjects") {
        let person = matches!(subject["kind"].as_str(), Some("User" | "Group"));
        if person && subject["apiGroup"].as_str().is_none_or(str::is_empty) {
            subject["apiGroup"] = RBAC.into();
        }
    }
    for rule in items_mut(document, "rules") {
        if rule.is_object() && rule.get("verbs").is_none() {
            rule["verbs"] = json!([]);
        }
    }
}

fn items_mut<'v>(document: &'v mut Value, field: &str) -> impl Iterator<Item = &'v mut Value> {
    document.get_mut(field).and_then(Value::as_array_mut).into_iter().flatten().filter(|item| item.is_object())
}

pub(super) fn validate(resource: &Resource, document: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let namespaced = matches!(resource.kind, "Role" | "RoleBinding");
    match resource.kind {
        "Role" | "ClusterRole" => role(document, namespaced),
        _ => binding(document, namespaced, old),
    }
}

fn items<'v>(document: &'v Value, field: &str) -> impl Iterator<Item = (usize, &'v Value)> {
    document[field].as_array().into_iter().flatten().enumerate()
}

fn role(document: &Value, namespaced: bool) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let none = |value: &Value| value.as_array().is_none_or(Vec::is_empty);
    for (index, rule) in items(document, "rules") {
        let at = |field: &str| format!("rules[{index}].{field}");
        if none(&rule["verbs"]) {
            errors.push(FieldError::required(at("verbs"), "verbs must contain at least one value"));
        }
        let urls = &rule["nonResourceURLs"];
        if !none(urls) {
            if namespaced {
                errors.push(FieldError::invalid(at("nonResourceURLs"), urls, "namespaced rules cannot apply to non-resource URLs"));
            }
            if !["apiGroups", "resources", "resourceNames"].iter().all(|field| none(&rule[field])) {
                let detail = "rules cannot apply to both regular resources and non-resource URLs";
                errors.push(FieldError::invalid(at("nonResourceURLs"), urls, detail));
            }
            continue;
        }
        if none(&rule["apiGroups"]) {
            errors.push(FieldError::required(at("apiGroups"), "resource rules must supply at least one api group"));
        }
        if none(&rule["resources"]) {
            errors.push(FieldError::required(at("resources"), "resource rules must supply at least one resource"));
        }
    }
    if let Some(aggregation) = document.get("aggregationRule") {
        let field = "aggregationRule.clusterRoleSelectors";
        if none(&aggregation["clusterRoleSelectors"]) {
            errors.push(FieldError::required(field, "at least one clusterRoleSelector required if aggregationRule is non-nil"));
        }
        for (index, selector) in items(aggregation, "clusterRoleSelectors") {
            for (number, expression) in items(selector, "matchExpressions") {
                let at = format!("{field}[{index}].matchExpressions[{number}]");
                match (expression["operator"].as_str().unwrap_or_default(), none(&expression["values"])) {
                    ("In" | "NotIn", true) => {
                        errors.push(FieldError::required(at + ".values", "must be specified when `operator` is 'In' or 'NotIn'"));
                    }
                    ("Exists" | "DoesNotExist", false) => {
                        errors.push(FieldError::forbidden(
                            at + ".values",
                            "may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
                        ));
                    }
                    ("In" | "NotIn" | "Exists" | "DoesNotExist", _) => {}
                    (other, _) => errors.push(FieldError::invalid(at + ".operator", other, "not a valid selector operator")),
                }
            }
        }
    }
    errors
}

fn binding(document: &Value, namespaced: bool, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let role = &document["roleRef"];
    let text = |value: &Value, field: &str| value[field].as_str().unwrap_or_default().to_owned();
    if text(role, "apiGroup") != RBAC {
        errors.push(FieldError::not_supported("roleRef.apiGroup", &role["apiGroup"], &[RBAC]));
    }
    let kinds: &[&str] = if namespaced { &["Role", "ClusterRole"] } else { &["ClusterRole"] };
    if !kinds.contains(&text(role, "kind").as_str()) {
        errors.push(FieldError::not_supported("roleRef.kind", &role["kind"], kinds));
    }
    match text(role, "name") {
        name if name.is_empty() => errors.push(FieldError::required("roleRef.name", "")),
        name => errors.extend(names::path_segment(&name).map(|detail| FieldError::invalid("roleRef.name", name, detail))),
    }
    for (index, subject) in items(document, "subjects") {
        errors.extend(wrong_subject(subject, namespaced, &format!("subjects[{index}]")));
    }
    if old.is_some_and(|old| old["roleRef"] != *role) {
        errors.push(FieldError::invalid("roleRef", role, "cannot change roleRef"));
    }
    errors
}

fn wrong_subject(subject: &Value, namespaced: bool, path: &str) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let at = |field: &str| format!("{path}.{field}");
    let text = |field: &str| subject[field].as_str().unwrap_or_default();
    let (name, group) = (text("name"), text("apiGroup"));
    if name.is_empty() {
        errors.push(FieldError::required(at("name"), ""));
    }
    match text("kind") {
        "ServiceAccount" => {
            if !name.is_empty() {
                errors.extend(names::dns_subdomain(name).map(|detail| FieldError::invalid(at("name"), name, detail)));
            }
            if !group.is_empty() {
                errors.push(FieldError::not_supported(at("apiGroup"), group, &[""]));
            }
            if !namespaced && text("namespace").is_empty() {
                errors.push(FieldError::required(at("namespace"), ""));
            }
        }
        "User" | "Group" if group != RBAC => errors.push(FieldError::not_supported(at("apiGroup"), group, &[RBAC])),
        "User" | "Group" => {}
        other => errors.push(FieldError::not_supported(at("kind"), other, &["ServiceAccount", "User", "Group"])),
    }
    errors
}
