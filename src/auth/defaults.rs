//! The ClusterRoles and bindings that every server has. Source: Kubernetes' `bootstrappolicy`, for the kinds served here.
//!
//! Of our own kinds: `view` reads them, `edit` also runs Machines, decides their Approvals and takes Checkpoints, `admin` also sets
//! Budgets, so that who spends does not decide how much. Hubs have cluster scope, so they are for cluster-admin.

use super::{AUTHENTICATED, MASTERS, RBAC, UNAUTHENTICATED};
use crate::api::GROUP;
use k8s_openapi::{
    api::rbac::v1::{AggregationRule, ClusterRole, ClusterRoleBinding, PolicyRule, RoleRef, Subject},
    apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta},
};

const READ: &[&str] = &["get", "list", "watch"];
const WRITE: &[&str] = &["create", "delete", "deletecollection", "patch", "update"];
const CREATE: &[&str] = &["create"];
const ALL: &[&str] = &["*"];

fn texts(list: &[&str]) -> Vec<String> {
    list.iter().map(ToString::to_string).collect()
}

fn rule(group: &str, resources: &[&str], verbs: &[&str]) -> PolicyRule {
    PolicyRule { api_groups: Some(texts(&[group])), resources: Some(texts(resources)), verbs: texts(verbs), ..PolicyRule::default() }
}

fn paths(paths: &[&str]) -> PolicyRule {
    PolicyRule { non_resource_urls: Some(texts(paths)), verbs: texts(&["get"]), ..PolicyRule::default() }
}

fn view() -> Vec<PolicyRule> {
    let ours = &[
        "approvals",
        "approvals/status",
        "budgets",
        "budgets/status",
        "checkpoints",
        "checkpoints/bundle",
        "checkpoints/status",
        "machines",
        "machines/log",
        "machines/status",
    ];
    vec![
        rule(GROUP, ours, READ),
        // Without Secrets: who may read one may be what its token is.
        rule("", &["configmaps", "events", "namespaces", "namespaces/status", "serviceaccounts"], READ),
        rule("events.k8s.io", &["events"], READ),
        rule("coordination.k8s.io", &["leases"], READ),
    ]
}

fn edit() -> Vec<PolicyRule> {
    let mut rules = view();
    rules.extend([
        rule(GROUP, &["checkpoints", "machines"], WRITE),
        // Who may make a Machine's agent do something may as well do it in its guest.
        rule(GROUP, &["machines/exec"], CREATE),
        // All that was ever on a disk, also what the workspace leaves out: not for who only views.
        rule(GROUP, &["checkpoints/export"], &["create", "get"]),
        rule(GROUP, &["checkpoints/import"], CREATE),
        // Made by the hub alone. Who may run a Machine without any may also decide those of one that has them.
        rule(GROUP, &["approvals"], &["patch", "update"]),
        rule("", &["configmaps", "events", "secrets", "serviceaccounts"], WRITE),
        rule("", &["secrets"], READ),
        rule("", &["serviceaccounts"], &["impersonate"]),
        rule("", &["serviceaccounts/token"], CREATE),
        rule("events.k8s.io", &["events"], WRITE),
        rule("coordination.k8s.io", &["leases"], WRITE),
    ]);
    rules
}

fn admin() -> Vec<PolicyRule> {
    let mut rules = edit();
    rules.extend([
        rule(GROUP, &["budgets"], WRITE),
        rule(RBAC, &["rolebindings", "roles"], &[READ, WRITE].concat()),
        rule("authorization.k8s.io", &["localsubjectaccessreviews"], CREATE),
    ]);
    rules
}

/// The label of ClusterRoles whose rules the role named takes in.
fn aggregates_to(role: &str) -> String {
    format!("rbac.authorization.k8s.io/aggregate-to-{role}")
}

fn aggregation(role: &str) -> AggregationRule {
    let label = (aggregates_to(role), "true".to_owned());
    let selector = LabelSelector { match_labels: Some([label].into()), ..LabelSelector::default() };
    AggregationRule { cluster_role_selectors: Some(vec![selector]) }
}

fn metadata(name: &str) -> ObjectMeta {
    let pair = |key: &str, value: &str| [(key.to_owned(), value.to_owned())].into();
    ObjectMeta {
        name: Some(name.into()),
        labels: Some(pair("kubernetes.io/bootstrapping", "rbac-defaults")),
        annotations: Some(pair("rbac.authorization.kubernetes.io/autoupdate", "true")),
        ..ObjectMeta::default()
    }
}

/// The ClusterRoles.
pub fn cluster_roles() -> Vec<ClusterRole> {
    let role = |name: &str, rules: Vec<PolicyRule>| ClusterRole { metadata: metadata(name), rules: Some(rules), aggregation_rule: None };
    // A role that adds to view adds to edit and admin too.
    let open = |name: &str, wider: Option<&str>, rules| {
        let mut role = ClusterRole { aggregation_rule: Some(aggregation(name)), ..role(name, rules) };
        role.metadata.labels.get_or_insert_default().extend(wider.map(|wider| (aggregates_to(wider), "true".to_owned())));
        role
    };
    let everywhere = PolicyRule { non_resource_urls: Some(texts(ALL)), verbs: texts(ALL), ..PolicyRule::default() };
    vec![
        role("cluster-admin", vec![rule("*", ALL, ALL), everywhere]),
        open("admin", None, admin()),
        open("edit", Some("admin"), edit()),
        open("view", Some("edit"), view()),
        role(
            "system:basic-user",
            vec![
                rule("authorization.k8s.io", &["selfsubjectaccessreviews", "selfsubjectrulesreviews"], CREATE),
                rule("authentication.k8s.io", &["selfsubjectreviews"], CREATE),
            ],
        ),
        role(
            "system:discovery",
            vec![
                paths(&[
                    "/",
                    "/api",
                    "/api/*",
                    "/apis",
                    "/apis/*",
                    "/healthz",
                    "/livez",
                    "/openapi",
                    "/openapi/*",
                    "/readyz",
                    "/version",
                    "/version/",
                ]),
                // Our own kinds' definitions, generated: no more than OpenAPI says.
                rule("apiextensions.k8s.io", &["customresourcedefinitions"], READ),
            ],
        ),
        role(
            "autovibe:controller",
            vec![
                rule(GROUP, &["approvals", "budgets", "checkpoints", "hubs", "machines"], READ),
                rule(GROUP, &["checkpoints"], &["create", "delete", "update"]),
                rule(GROUP, &["machines"], &["create", "delete", "update"]),
                // The Hub that drives the lab beside it.
                rule(GROUP, &["hubs"], CREATE),
                rule(GROUP, &["approvals/status", "budgets/status", "checkpoints/status", "hubs/status", "machines/status"], &["update"]),
                rule(GROUP, &["budgets/usage", "hubs/vmids", "machines/calls", "machines/usage"], &["get"]),
                rule(GROUP, &["checkpoints/bundle"], &["get", "update"]),
                rule(GROUP, &["machines/token"], &["update"]),
                rule(GROUP, &["machines/vmid"], &["delete", "update"]),
                rule(GROUP, &["checkpoints/vmid"], &["delete"]),
                rule("", &["events"], &["create", "get", "update"]),
            ],
        ),
        // To be bound in autovibe-system alone: Proxmox tokens lie there, and the Lease.
        role(
            "autovibe:controller-system",
            vec![rule("", &["secrets"], &["get"]), rule("coordination.k8s.io", &["leases"], &["create", "get", "update"])],
        ),
        // To be bound in each namespace whose Machines name Secrets for git.
        role("autovibe:controller-project", vec![rule("", &["secrets"], &["get"])]),
        role("system:public-info-viewer", vec![paths(&["/healthz", "/livez", "/readyz", "/version", "/version/"])]),
    ]
}

/// Their bindings.
pub fn cluster_role_bindings() -> Vec<ClusterRoleBinding> {
    [
        ("cluster-admin", &[MASTERS][..]),
        ("system:basic-user", &[AUTHENTICATED]),
        ("system:discovery", &[AUTHENTICATED]),
        ("system:public-info-viewer", &[AUTHENTICATED, UNAUTHENTICATED]),
    ]
    .into_iter()
    .map(|(name, groups)| {
        let subject = |group: &&str| Subject { kind: "Group".into(), api_group: Some(RBAC.into()), name: (*group).into(), namespace: None };
        ClusterRoleBinding {
            metadata: metadata(name),
            role_ref: RoleRef { api_group: RBAC.into(), kind: "ClusterRole".into(), name: name.into() },
            subjects: Some(groups.iter().map(subject).collect()),
        }
    })
    .collect()
}
