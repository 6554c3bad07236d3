//! All roles and bindings together, indexed by whom they are for: may this user do that, and why.

use super::{
    RBAC, User, account_user,
    rules::{Action, What, allows},
};
use k8s_openapi::{
    api::rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject},
    apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta},
};
use std::collections::{HashMap, HashSet};

/// The objects that say who may do what.
#[derive(Clone, Debug, Default)]
pub struct Documents {
    pub roles: Vec<Role>,
    pub cluster_roles: Vec<ClusterRole>,
    pub role_bindings: Vec<RoleBinding>,
    pub cluster_role_bindings: Vec<ClusterRoleBinding>,
}

/// Who may do what.
#[derive(Debug, Default)]
pub struct Policy {
    roles: HashMap<RoleKey, Vec<PolicyRule>>,
    grants: HashMap<Who, Vec<Grant>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Who {
    User(String),
    Group(String),
}

/// Namespace (empty for ClusterRoles) and name.
type RoleKey = (String, String);

/// What a binding gives to one of its subjects.
#[derive(Clone, Debug)]
struct Grant {
    /// Where it holds; `None` is everywhere.
    namespace: Option<String>,
    role: RoleKey,
    /// The binding in words.
    by: String,
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision<'p> {
    /// The user is one of those who may do everything.
    Master,
    /// The binding in words: `RoleBinding "b/ns" of Role "r" to User "u"`.
    Allowed(&'p str),
    /// Roles that bindings of the user name and that do not exist.
    Denied { unknown: Vec<UnknownRole> },
}

/// A role that a binding names and that does not exist.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{resource}.{RBAC} \"{name}\" not found")]
pub struct UnknownRole {
    /// `role` or `clusterrole`.
    pub resource: &'static str,
    pub name: String,
}

impl Decision<'_> {
    pub fn is_allowed(&self) -> bool {
        !matches!(self, Self::Denied { .. })
    }

    /// Why, as reviews and refusals say it; empty when there is nothing to say. Source: rbac `RBACAuthorizer.Authorize`.
    pub fn reason(&self) -> String {
        match self {
            Self::Allowed(by) => format!("RBAC: allowed by {by}"),
            Self::Denied { unknown } if !unknown.is_empty() => {
                let texts: Vec<String> = unknown.iter().map(ToString::to_string).collect();
                if let [one] = texts.as_slice() { format!("RBAC: {one}") } else { format!("RBAC: [{}]", texts.join(", ")) }
            }
            Self::Master | Self::Denied { .. } => String::new(),
        }
    }
}

impl Policy {
    pub fn new(documents: Documents) -> Self {
        let mut policy = Self::default();
        for role in &documents.cluster_roles {
            policy.roles.insert((String::new(), name(&role.metadata)), aggregated(role, &documents.cluster_roles));
        }
        for role in documents.roles {
            policy.roles.insert((namespace(&role.metadata), name(&role.metadata)), role.rules.unwrap_or_default());
        }
        for binding in documents.role_bindings {
            let home = namespace(&binding.metadata);
            let what = format!("RoleBinding {:?}", format!("{}/{home}", name(&binding.metadata)));
            for subject in binding.subjects.unwrap_or_default() {
                policy.grant(&what, Some(&home), &binding.role_ref, &subject);
            }
        }
        for binding in documents.cluster_role_bindings {
            let what = format!("ClusterRoleBinding {:?}", name(&binding.metadata));
            for subject in binding.subjects.unwrap_or_default() {
                policy.grant(&what, None, &binding.role_ref, &subject);
            }
        }
        policy
    }

    fn grant(&mut self, binding: &str, home: Option<&str>, role: &RoleRef, subject: &Subject) {
        let (who, shown) = match subject.kind.as_str() {
            "User" => (Who::User(subject.name.clone()), subject.name.clone()),
            "Group" => (Who::Group(subject.name.clone()), subject.name.clone()),
            "ServiceAccount" => {
                // Without a namespace it is one of the binding's own.
                let Some(namespace) = subject.namespace.as_deref().filter(|n| !n.is_empty()).or(home) else { return };
                (Who::User(account_user(namespace, &subject.name)), format!("{}/{namespace}", subject.name))
            }
            _ => return,
        };
        let by = format!("{binding} of {} {:?} to {} {shown:?}", role.kind, role.name, subject.kind);
        let grant = Grant { namespace: home.map(Into::into), role: role_key(role, home), by };
        self.grants.entry(who).or_default().push(grant);
    }

    /// Whether `user` may do it.
    pub fn decide(&self, user: &User, action: &Action) -> Decision<'_> {
        if user.is_master() {
            return Decision::Master;
        }
        let place = match &action.what {
            What::Resource { namespace, .. } => namespace.as_str(),
            What::Path(_) => "",
        };
        let mut unknown = Vec::new();
        for grant in self.of(user, place) {
            match self.roles.get(&grant.role) {
                Some(rules) if rules.iter().any(|rule| allows(rule, action)) => return Decision::Allowed(&grant.by),
                Some(_) => {}
                None => unknown.push(grant.unknown()),
            }
        }
        Decision::Denied { unknown }
    }

    /// All rules that hold for `user` in a namespace (empty for cluster scope), and the roles of theirs that do not exist.
    pub fn rules(&self, user: &User, namespace: &str) -> (Vec<PolicyRule>, Vec<UnknownRole>) {
        let (mut rules, mut unknown) = (Vec::new(), Vec::new());
        if user.is_master() {
            let star = || Some(vec!["*".to_owned()]);
            let verbs = vec!["*".to_owned()];
            rules.push(PolicyRule { api_groups: star(), resources: star(), verbs: verbs.clone(), ..PolicyRule::default() });
            rules.push(PolicyRule { non_resource_urls: star(), verbs, ..PolicyRule::default() });
        }
        for grant in self.of(user, namespace) {
            match self.roles.get(&grant.role) {
                Some(more) => {
                    for rule in more {
                        if !rules.contains(rule) {
                            rules.push(rule.clone());
                        }
                    }
                }
                None => unknown.push(grant.unknown()),
            }
        }
        (rules, unknown)
    }

    /// The rules of the role that a binding in `home` (`None`: a ClusterRoleBinding) refers to.
    pub fn role(&self, role: &RoleRef, home: Option<&str>) -> Result<&[PolicyRule], UnknownRole> {
        let key = role_key(role, home);
        match self.roles.get(&key) {
            Some(rules) => Ok(rules),
            None => Err(unknown(&key)),
        }
    }

    /// What bindings give to a user in a namespace.
    fn of<'p>(&'p self, user: &User, namespace: &str) -> impl Iterator<Item = &'p Grant> {
        let groups = user.groups.iter().map(|group| Who::Group(group.clone()));
        let whos: Vec<Who> = std::iter::once(Who::User(user.name.clone())).chain(groups).collect();
        let grants = whos.into_iter().filter_map(|who| self.grants.get(&who)).flatten();
        let namespace = namespace.to_owned();
        grants.filter(move |grant| grant.namespace.as_ref().is_none_or(|home| *home == namespace))
    }
}

impl Grant {
    fn unknown(&self) -> UnknownRole {
        unknown(&self.role)
    }
}

fn unknown((namespace, name): &RoleKey) -> UnknownRole {
    UnknownRole { resource: if namespace.is_empty() { "clusterrole" } else { "role" }, name: name.clone() }
}

fn role_key(role: &RoleRef, home: Option<&str>) -> RoleKey {
    let namespace = if role.kind == "Role" { home.unwrap_or_default() } else { "" };
    (namespace.into(), role.name.clone())
}

fn name(metadata: &ObjectMeta) -> String {
    metadata.name.clone().unwrap_or_default()
}

fn namespace(metadata: &ObjectMeta) -> String {
    metadata.namespace.clone().unwrap_or_default()
}

/// A ClusterRole's own rules and those of the ClusterRoles that its aggregation selects, and theirs.
fn aggregated(role: &ClusterRole, all: &[ClusterRole]) -> Vec<PolicyRule> {
    let (mut rules, mut seen, mut open): (Vec<PolicyRule>, HashSet<&Option<String>>, Vec<&ClusterRole>) =
        (Vec::new(), HashSet::new(), vec![role]);
    while let Some(role) = open.pop() {
        if !seen.insert(&role.metadata.name) {
            continue;
        }
        for rule in role.rules.iter().flatten() {
            if !rules.contains(rule) {
                rules.push(rule.clone());
            }
        }
        let selectors = role.aggregation_rule.as_ref().and_then(|rule| rule.cluster_role_selectors.as_ref());
        open.extend(selectors.into_iter().flatten().flat_map(|selector| all.iter().filter(|other| selects(selector, &other.metadata))));
    }
    rules
}

/// Source: meta/v1 `LabelSelector`. An operator that is not known selects nothing.
fn selects(selector: &LabelSelector, metadata: &ObjectMeta) -> bool {
    let label = |key: &str| metadata.labels.as_ref().and_then(|labels| labels.get(key));
    let exact = selector.match_labels.iter().flatten().all(|(key, value)| label(key) == Some(value));
    exact
        && selector.match_expressions.iter().flatten().all(|expression| {
            let (value, values) = (label(&expression.key), expression.values.as_deref().unwrap_or_default());
            match expression.operator.as_str() {
                "In" => value.is_some_and(|value| values.contains(value)),
                "NotIn" => value.is_none_or(|value| !values.contains(value)),
                "Exists" => value.is_some(),
                "DoesNotExist" => value.is_none(),
                _ => false,
            }
        })
}
