//! A Machine's agent as a user: `spec.permissions` are its roles, in its own namespace and nowhere else.
//!
//! Roles and bindings that people write neither add to them nor are needed: who may write the Machine decides, and nobody permits
//! it more than they may do themselves.

use super::{AUTHENTICATED, Documents, Policy, RBAC, User};
use crate::api::{Checkpoint, GROUP, Kind, Machine, Permission};
use k8s_openapi::{
    api::rbac::v1::{PolicyRule, Role, RoleBinding, RoleRef, Subject},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};

const MACHINE: &str = "system:machine:";
const MACHINES: &str = "system:machines";

impl User {
    /// The agent of a Machine.
    pub fn machine(machine: &Machine) -> Self {
        let (namespace, name) = (machine.namespace(), machine.name());
        let groups = vec![MACHINES.into(), format!("{MACHINES}:{namespace}"), AUTHENTICATED.into()];
        Self { name: format!("{MACHINE}{namespace}:{name}"), uid: machine.uid().into(), groups }
    }
}

/// What a permission lets an agent do, as a rule of a role in its namespace.
pub fn rule_of(permission: Permission) -> PolicyRule {
    let (resource, verbs): (&str, &[&str]) = match permission {
        Permission::Checkpoint => (Checkpoint::PLURAL, &["create"]),
        Permission::ReadBudget => (crate::api::Budget::PLURAL, &["get"]),
        Permission::ReadLineage => (Checkpoint::PLURAL, &["get"]),
        Permission::SpawnMachines => (Machine::PLURAL, &["create", "list"]),
    };
    PolicyRule {
        api_groups: Some(vec![GROUP.into()]),
        resources: Some(vec![resource.into()]),
        verbs: verbs.iter().map(ToString::to_string).collect(),
        ..PolicyRule::default()
    }
}

/// All that a Machine's agent may do.
pub fn policy_of(machine: &Machine) -> Policy {
    let metadata = |permission: &Permission| ObjectMeta {
        name: Some(format!("{permission:?}")),
        namespace: Some(machine.namespace().into()),
        ..ObjectMeta::default()
    };
    let user = User::machine(machine).name;
    let subject = Subject { kind: "User".into(), api_group: Some(RBAC.into()), name: user, namespace: None };
    let role = |permission: &Permission| Role { metadata: metadata(permission), rules: Some(vec![rule_of(*permission)]) };
    let binding = |permission: &Permission| RoleBinding {
        metadata: metadata(permission),
        role_ref: RoleRef { api_group: RBAC.into(), kind: "Role".into(), name: format!("{permission:?}") },
        subjects: Some(vec![subject.clone()]),
    };
    let permissions = &machine.spec.permissions;
    Policy::new(Documents {
        roles: permissions.iter().map(role).collect(),
        role_bindings: permissions.iter().map(binding).collect(),
        ..Documents::default()
    })
}
