//! Nobody grants what they do not have: the last word on writes of roles and bindings, on what a Machine's agent may ask for, and on
//! writes that turn out to create.
//!
//! Source: Kubernetes `pkg/registry/rbac/*/policybased`. The verb `escalate` on a role, or `bind` on the role that a binding
//! names, lifts the rule.

use super::{access::forbidden, route::Target};
use crate::api::{GROUP, Kind, Machine, Permission};
use crate::auth::{self, Action, Policy, RBAC, User};
use crate::objects::{Error, LastWord};
use k8s_openapi::api::rbac::v1::{PolicyRule, RoleRef};
use serde_json::Value;
use std::sync::Arc;

/// What must hold for a write of `user` to `target` beyond its verb.
pub(super) fn last_word(policy: Arc<Policy>, user: &User, target: &Target, verb: &str) -> LastWord {
    let (user, target, verb) = (user.clone(), target.clone(), verb.to_owned());
    LastWord::new(move |before, after| {
        let namespace = target.namespace.as_deref().unwrap_or_default();
        let name = after["metadata"]["name"].as_str().unwrap_or_default();
        if before.is_none() && verb != "create" {
            let create = Action::on("create", target.entry.group, target.entry.plural, namespace, name);
            let decision = policy.decide(&user, &create);
            if !decision.is_allowed() {
                return Err(Error::Forbidden(forbidden(&user, &create, &decision.reason()).message));
            }
        }
        let write = Write { policy: &policy, user: &user, group: target.entry.group, plural: target.entry.plural, namespace, name };
        if (target.entry.group, target.entry.plural) == (GROUP, Machine::PLURAL) {
            return write.has(&given(before, after));
        }
        if target.entry.group != RBAC || before.is_some_and(|before| same_but_for_collection(before, after)) {
            return Ok(());
        }
        if after.get("roleRef").is_some() { write.binding(after) } else { write.role(after) }
    })
}

struct Write<'w> {
    policy: &'w Policy,
    user: &'w User,
    group: &'w str,
    plural: &'w str,
    namespace: &'w str,
    name: &'w str,
}

impl Write<'_> {
    fn may(&self, verb: &str, resource: &str, name: &str) -> bool {
        self.policy.decide(self.user, &Action::on(verb, RBAC, resource, self.namespace, name)).is_allowed()
    }

    fn forbidden(&self, why: &str) -> Error {
        Error::Forbidden(format!("{}.{} \"{}\" is forbidden: {why}", self.plural, self.group, self.name))
    }

    fn role(&self, role: &Value) -> Result<(), Error> {
        if self.may("escalate", self.plural, self.name) {
            return Ok(());
        }
        self.has(&rules(&role["rules"])?)?;
        if role.get("aggregationRule").is_none() {
            return Ok(());
        }
        // It gathers what others write later, so it takes everything.
        let everything = r#"[{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}, {"verbs": ["*"], "nonResourceURLs": ["*"]}]"#;
        let everything = rules(&serde_json::from_str(everything).expect("written above"))?;
        self.has(&everything).map_err(|_| self.forbidden("must have cluster-admin privileges to use an aggregationRule"))
    }

    fn binding(&self, binding: &Value) -> Result<(), Error> {
        let role: RoleRef = serde_json::from_value(binding["roleRef"].clone()).map_err(|error| Error::BadRequest(error.to_string()))?;
        let resource = if role.kind == "Role" { "roles" } else { "clusterroles" };
        if self.may("bind", resource, &role.name) {
            return Ok(());
        }
        let home = Some(self.namespace).filter(|namespace| !namespace.is_empty());
        match self.policy.role(&role, home) {
            Ok(rules) => self.has(rules),
            Err(unknown) => Err(Error::NotFound { resource: format!("{resource}.{RBAC}"), name: unknown.name }),
        }
    }

    /// Whether the user has all that `wanted` gives, here.
    fn has(&self, wanted: &[PolicyRule]) -> Result<(), Error> {
        let (owned, unknown) = self.policy.rules(self.user, self.namespace);
        let missing = auth::missing(&owned, wanted).map_err(|why| self.forbidden(&why))?;
        if missing.is_empty() {
            return Ok(());
        }
        let groups = self.user.groups.iter().map(|group| format!("{group:?}")).collect::<Vec<_>>().join(" ");
        let mut why = format!(
            "user {:?} (groups=[{groups}]) is attempting to grant RBAC permissions not currently held:\n{}",
            self.user.name,
            auth::summary(&missing)
        );
        if !unknown.is_empty() {
            let unknown: Vec<String> = unknown.iter().map(ToString::to_string).collect();
            why += &format!("; resolution errors: [{}]", unknown.join(", "));
        }
        Err(self.forbidden(&why))
    }
}

/// What a Machine's agent is newly permitted, as rules.
fn given(before: Option<&Value>, after: &Value) -> Vec<PolicyRule> {
    let read = |machine: &Value| -> Vec<Permission> {
        let listed = machine["spec"]["permissions"].as_array().into_iter().flatten();
        listed.filter_map(|name| serde_json::from_value(name.clone()).ok()).collect()
    };
    let had = before.map(read).unwrap_or_default();
    read(after).into_iter().filter(|permission| !had.contains(permission)).map(auth::rule_of).collect()
}

fn rules(value: &Value) -> Result<Vec<PolicyRule>, Error> {
    if value.is_null() {
        return Ok(Vec::new());
    }
    serde_json::from_value(value.clone()).map_err(|error| Error::BadRequest(error.to_string()))
}

/// Whether a write changes nothing but what the garbage collector does.
fn same_but_for_collection(before: &Value, after: &Value) -> bool {
    let rest = |document: &Value| {
        let mut document = document.clone();
        if let Some(metadata) = document["metadata"].as_object_mut() {
            metadata.retain(|name, _| !matches!(name.as_str(), "ownerReferences" | "finalizers" | "resourceVersion" | "managedFields"));
        }
        document
    };
    rest(before) == rest(after)
}
