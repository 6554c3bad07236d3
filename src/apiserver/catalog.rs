//! Everything that is served, in order of preference: what the store keeps, and the views and reviews that it does not.

use crate::admission::{self, Resource};
use crate::api::{self, Scope, meta::Column};
use std::sync::LazyLock;

/// A served resource.
#[derive(Debug)]
pub(super) struct Entry {
    /// Empty for core.
    pub(super) group: &'static str,
    pub(super) version: &'static str,
    pub(super) kind: &'static str,
    pub(super) plural: &'static str,
    pub(super) singular: &'static str,
    pub(super) short_names: &'static [&'static str],
    pub(super) categories: &'static [&'static str],
    pub(super) namespaced: bool,
    pub(super) verbs: &'static [&'static str],
    pub(super) subresources: Vec<Subresource>,
    pub(super) source: Source,
}

#[derive(Debug)]
pub(super) struct Subresource {
    pub(super) name: &'static str,
    pub(super) verbs: &'static [&'static str],
    /// Group, version and kind of what it speaks; `None` is the resource's own.
    pub(super) kind: Option<(&'static str, &'static str, &'static str)>,
}

impl Subresource {
    fn of_own_kind(name: &'static str, verbs: &'static [&'static str]) -> Self {
        Self { name, verbs, kind: None }
    }
}

/// Where its objects come from.
#[derive(Clone, Copy, Debug)]
pub(super) enum Source {
    Stored(&'static Resource),
    /// The core Events under the names of `events.k8s.io`.
    EventsView(&'static Resource),
    /// Our kinds' CustomResourceDefinitions, generated.
    Definitions,
    /// Answered at once, never stored.
    Review(Review),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Review {
    /// `kubectl auth whoami`.
    Subject,
    /// `kubectl auth can-i`.
    Access,
    /// `kubectl auth can-i --list`.
    Rules,
    /// Access of another.
    SubjectAccess,
    /// Access of another in one namespace.
    LocalAccess,
}

const ALL: &[&str] = &["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
const READ: &[&str] = &["get", "list", "watch"];
const CREATE: &[&str] = &["create"];
const PART: &[&str] = &["get", "patch", "update"];
const GET: &[&str] = &["get"];
const UPDATE: &[&str] = &["update"];

impl Entry {
    /// The stored resource behind it.
    pub(super) fn resource(&self) -> Option<&'static Resource> {
        match self.source {
            Source::Stored(resource) | Source::EventsView(resource) => Some(resource),
            Source::Definitions | Source::Review(_) => None,
        }
    }
    /// `machines.autovibe.dev`, or `secrets` for core.
    pub(super) fn name(&self) -> String {
        if self.group.is_empty() { self.plural.into() } else { format!("{}.{}", self.plural, self.group) }
    }
    pub(super) fn api_version(&self) -> String {
        group_version(self.group, self.version)
    }
    /// Whether it shows what another entry stores, under other names.
    pub(super) fn is_view(&self) -> bool {
        matches!(self.source, Source::EventsView(_))
    }
    /// Whether it is one of our own kinds, which behave as custom resources do.
    pub(super) fn is_custom(&self) -> bool {
        self.group == api::GROUP
    }
    pub(super) fn columns(&self) -> &'static [Column] {
        self.resource().map_or(&[], |r| r.columns)
    }
    pub(super) fn subresource(&self, name: &str) -> Option<&Subresource> {
        self.subresources.iter().find(|part| part.name == name)
    }
    pub(super) fn has_verb(&self, verb: &str) -> bool {
        self.verbs.contains(&verb)
    }
}

/// `v1` for core, `group/version` for the rest.
pub(super) fn group_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.into() } else { format!("{group}/{version}") }
}

pub(super) fn find(group: &str, version: &str, plural: &str) -> Option<&'static Entry> {
    entries().iter().find(|e| e.group == group && e.version == version && e.plural == plural)
}

/// Groups other than core with their one version, in order.
pub(super) fn groups() -> Vec<(&'static str, &'static str)> {
    let mut groups = Vec::new();
    for entry in entries().iter().filter(|e| !e.group.is_empty()) {
        if !groups.contains(&(entry.group, entry.version)) {
            groups.push((entry.group, entry.version));
        }
    }
    groups
}

pub(super) fn entries() -> &'static [Entry] {
    static ENTRIES: LazyLock<Vec<Entry>> = LazyLock::new(|| {
        let mut entries: Vec<Entry> = admission::resources().iter().map(stored).collect();
        let served = |group: &str, plural: &str| entries.iter().any(|e| e.group == group && e.plural == plural);
        let mut more = Vec::new();
        if let Some(events) = admission::resources().iter().find(|r| r.group.is_empty() && r.plural == "events")
            && !served("events.k8s.io", "events")
        {
            more.push(Entry { group: "events.k8s.io", source: Source::EventsView(events), ..stored(events) });
        }
        more.push(Entry {
            group: "apiextensions.k8s.io",
            version: "v1",
            kind: "CustomResourceDefinition",
            plural: "customresourcedefinitions",
            singular: "customresourcedefinition",
            short_names: &["crd", "crds"],
            categories: &["api-extensions"],
            namespaced: false,
            verbs: READ,
            subresources: Vec::new(),
            source: Source::Definitions,
        });
        for (group, kind, plural, singular, review) in [
            ("authentication.k8s.io", "SelfSubjectReview", "selfsubjectreviews", "selfsubjectreview", Review::Subject),
            ("authorization.k8s.io", "SelfSubjectAccessReview", "selfsubjectaccessreviews", "selfsubjectaccessreview", Review::Access),
            ("authorization.k8s.io", "SelfSubjectRulesReview", "selfsubjectrulesreviews", "selfsubjectrulesreview", Review::Rules),
            ("authorization.k8s.io", "SubjectAccessReview", "subjectaccessreviews", "subjectaccessreview", Review::SubjectAccess),
            (
                "authorization.k8s.io",
                "LocalSubjectAccessReview",
                "localsubjectaccessreviews",
                "localsubjectaccessreview",
                Review::LocalAccess,
            ),
        ] {
            more.push(Entry {
                group,
                version: "v1",
                kind,
                plural,
                singular,
                short_names: &[],
                categories: &[],
                namespaced: review == Review::LocalAccess,
                verbs: CREATE,
                subresources: Vec::new(),
                source: Source::Review(review),
            });
        }
        entries.extend(more);
        entries
    });
    &ENTRIES
}

fn stored(resource: &'static Resource) -> Entry {
    let mut subresources = Vec::new();
    if resource.has_status {
        subresources.push(Subresource::of_own_kind("status", PART));
    }
    match (resource.group, resource.plural) {
        ("", "namespaces") => {
            subresources.extend([Subresource::of_own_kind("finalize", &["update"]), Subresource::of_own_kind("status", PART)]);
        }
        (api::GROUP, "machines") => subresources.extend([
            Subresource::of_own_kind("exec", CREATE),
            Subresource::of_own_kind("log", GET),
            Subresource::of_own_kind("calls", GET),
            Subresource::of_own_kind("token", UPDATE),
            Subresource::of_own_kind("usage", GET),
            Subresource::of_own_kind("vmid", &["delete", "update"]),
        ]),
        (api::GROUP, "checkpoints") => {
            subresources.extend([
                Subresource::of_own_kind("bundle", &["get", "update"]),
                Subresource::of_own_kind("export", GET),
                Subresource::of_own_kind("import", CREATE),
                Subresource::of_own_kind("vmid", &["delete"]),
            ]);
        }
        (api::GROUP, "budgets") => subresources.push(Subresource::of_own_kind("usage", GET)),
        (api::GROUP, "hubs") => subresources.push(Subresource::of_own_kind("vmids", GET)),
        ("", "serviceaccounts") => {
            let kind = Some(("authentication.k8s.io", "v1", "TokenRequest"));
            subresources.push(Subresource { name: "token", verbs: CREATE, kind });
        }
        _ => {}
    }
    Entry {
        group: resource.group,
        version: resource.version,
        kind: resource.kind,
        plural: resource.plural,
        singular: resource.singular,
        short_names: resource.short_names,
        categories: resource.categories,
        namespaced: resource.scope == Scope::Namespaced,
        verbs: ALL,
        subresources,
        source: Source::Stored(resource),
    }
}
