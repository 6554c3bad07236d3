//! One rule of a role: what it allows, and whether rules that someone has cover rules that they would grant.
//!
//! Source: Kubernetes `plugin/pkg/auth/authorizer/rbac` (what a rule allows) and `component-helpers/auth/rbac/validation`
//! (what covers what).

use k8s_openapi::api::rbac::v1::PolicyRule;
use std::collections::BTreeSet;

/// Single permissions that a set of rules is taken apart into before it counts as too many to judge.
const MOST: usize = 10_000;

/// What a request would do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Action {
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`, or one with a meaning of its own
    /// (`impersonate`, `escalate`, `bind`). For a path it is the method in lower case.
    pub verb: String,
    pub what: What,
}

/// What it would be done to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum What {
    /// Empty texts are: the core group, no subresource, no name (a collection), no namespace (cluster scope, or all of them).
    Resource {
        group: String,
        resource: String,
        subresource: String,
        namespace: String,
        name: String,
    },
    Path(String),
}

impl Action {
    /// On a resource, without a subresource.
    pub fn on(verb: &str, group: &str, resource: &str, namespace: &str, name: &str) -> Self {
        let (group, resource, subresource) = (group.into(), resource.into(), String::new());
        Self { verb: verb.into(), what: What::Resource { group, resource, subresource, namespace: namespace.into(), name: name.into() } }
    }

    /// Why it is refused, as clients are told it. Source: apiserver `responsewriters.forbiddenMessage`.
    pub fn refusal(&self, user: &str) -> String {
        let verb = &self.verb;
        match &self.what {
            What::Path(path) => format!("User {user:?} cannot {verb} path {path:?}"),
            What::Resource { group, resource, subresource, namespace, .. } => {
                let resource = if subresource.is_empty() { resource.clone() } else { format!("{resource}/{subresource}") };
                let place = if namespace.is_empty() { "at the cluster scope".into() } else { format!("in the namespace {namespace:?}") };
                format!("User {user:?} cannot {verb} resource {resource:?} in API group {group:?} {place}")
            }
        }
    }
}

fn has(list: &[String], text: &str) -> bool {
    list.iter().any(|item| item == text)
}

fn has_all(list: &[String], texts: &[String]) -> bool {
    texts.iter().all(|text| has(list, text))
}

fn list(field: Option<&Vec<String>>) -> &[String] {
    field.map_or(&[], Vec::as_slice)
}

/// Whether a rule alone allows the action, wherever the rule holds.
pub(super) fn allows(rule: &PolicyRule, action: &Action) -> bool {
    if !has(&rule.verbs, "*") && !has(&rule.verbs, &action.verb) {
        return false;
    }
    match &action.what {
        What::Path(path) => list(rule.non_resource_urls.as_ref()).iter().any(|url| path_covers(url, path)),
        What::Resource { group, resource, subresource, name, .. } => {
            let (groups, names) = (list(rule.api_groups.as_ref()), list(rule.resource_names.as_ref()));
            let whole = if subresource.is_empty() { resource.clone() } else { format!("{resource}/{subresource}") };
            (has(groups, "*") || has(groups, group))
                && list(rule.resources.as_ref()).iter().any(|pattern| resource_covers(pattern, &whole))
                && (names.is_empty() || has(names, name))
        }
    }
}

/// `*`, the same, or `*/log` for any resource's log.
fn resource_covers(pattern: &str, resource: &str) -> bool {
    let part = |text: &str| text.split_once('/').map(|(_, part)| part.to_owned());
    pattern == "*" || pattern == resource || (pattern.starts_with("*/") && part(pattern).is_some() && part(pattern) == part(resource))
}

/// The same, or all that begins like it when it ends in `*`.
fn path_covers(pattern: &str, path: &str) -> bool {
    pattern == path || (pattern.ends_with('*') && path.starts_with(pattern.trim_end_matches('*')))
}

/// Whether one rule covers another.
fn covers(owner: &PolicyRule, rule: &PolicyRule) -> bool {
    let (owned, wanted) = (list(owner.api_groups.as_ref()), list(rule.api_groups.as_ref()));
    let groups = has(owned, "*") || has_all(owned, wanted);
    let owned = list(owner.resources.as_ref());
    let resources = list(rule.resources.as_ref()).iter().all(|wanted| owned.iter().any(|pattern| resource_covers(pattern, wanted)));
    let owned = list(owner.non_resource_urls.as_ref());
    let urls = list(rule.non_resource_urls.as_ref()).iter().all(|wanted| owned.iter().any(|pattern| path_covers(pattern, wanted)));
    let (owned, wanted) = (list(owner.resource_names.as_ref()), list(rule.resource_names.as_ref()));
    let names = owned.is_empty() || (!wanted.is_empty() && has_all(owned, wanted));
    (has(&owner.verbs, "*") || has_all(&owner.verbs, &rule.verbs)) && groups && resources && urls && names
}

/// What of `wanted` the rules `owned` do not cover, in single permissions of one verb on one thing.
///
/// Errors: when `wanted` says more single permissions than can be judged; a wider rule says the same shorter.
pub fn missing(owned: &[PolicyRule], wanted: &[PolicyRule]) -> Result<Vec<PolicyRule>, String> {
    let (mut left, mut count) = (Vec::new(), 0_usize);
    for rule in wanted.iter().filter(|rule| !owned.iter().any(|owner| covers(owner, rule))) {
        let size = |list: &[String]| list.len().max(1);
        let single = [&rule.api_groups, &rule.resources, &rule.resource_names].map(|list_| size(list(list_.as_ref())));
        let all = single.into_iter().fold(rule.verbs.len(), usize::saturating_mul);
        count = count.saturating_add(all.max(rule.verbs.len().saturating_mul(list(rule.non_resource_urls.as_ref()).len())));
        if count > MOST {
            return Err(format!("the rules are more than {MOST} single permissions, too many to compare with what you have; use `*`"));
        }
        left.extend(singles(rule).into_iter().filter(|single| !owned.iter().any(|owner| covers(owner, single))));
    }
    Ok(left)
}

/// A rule as rules of one verb on one resource, name or path each.
fn singles(rule: &PolicyRule) -> Vec<PolicyRule> {
    let mut singles = Vec::new();
    for verb in &rule.verbs {
        let base = PolicyRule { verbs: vec![verb.clone()], ..PolicyRule::default() };
        for group in list(rule.api_groups.as_ref()) {
            for resource in list(rule.resources.as_ref()) {
                let one = PolicyRule { api_groups: Some(vec![group.clone()]), resources: Some(vec![resource.clone()]), ..base.clone() };
                let names = list(rule.resource_names.as_ref());
                singles.extend(names.iter().map(|name| PolicyRule { resource_names: Some(vec![name.clone()]), ..one.clone() }));
                if names.is_empty() {
                    singles.push(one);
                }
            }
        }
        let urls = list(rule.non_resource_urls.as_ref()).iter();
        singles.extend(urls.map(|url| PolicyRule { non_resource_urls: Some(vec![url.clone()]), ..base.clone() }));
    }
    singles
}

/// Single permissions as lines of text, verbs of the same thing together. Source: rbac `CompactRules`, `CompactString`.
pub fn summary(singles: &[PolicyRule]) -> String {
    let mut together: Vec<PolicyRule> = Vec::new();
    for rule in singles {
        let same = |other: &&mut PolicyRule| PolicyRule { verbs: rule.verbs.clone(), ..(**other).clone() } == *rule;
        match together.iter_mut().find(same) {
            Some(other) => other.verbs.extend(rule.verbs.clone()),
            None => together.push(rule.clone()),
        }
    }
    let quoted = |list: &[String]| list.iter().map(|text| format!("{text:?}")).collect::<Vec<_>>().join(" ");
    let line = |rule: &PolicyRule| {
        let fields = [
            ("APIGroups", list(rule.api_groups.as_ref())),
            ("Resources", list(rule.resources.as_ref())),
            ("NonResourceURLs", list(rule.non_resource_urls.as_ref())),
            ("ResourceNames", list(rule.resource_names.as_ref())),
            ("Verbs", rule.verbs.as_slice()),
        ];
        let parts = fields.iter().filter(|(_, list)| !list.is_empty()).map(|(name, list)| format!("{name}:[{}]", quoted(list)));
        format!("{{{}}}", parts.collect::<Vec<_>>().join(", "))
    };
    together.iter().map(line).collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>().join("\n")
}
