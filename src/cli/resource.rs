//! Which resource a person means by `machine`, `ckpt` or `machine/add-tests`, and its path on the API.

use crate::admission::{Resource, resources};
use crate::api::Scope;
use crate::remote;
use anyhow::{bail, ensure};

/// The resource that `word` names: plural, singular, kind or short name, in any case, with or without the group.
pub(super) fn find(word: &str) -> anyhow::Result<&'static Resource> {
    let wanted = word.to_lowercase();
    let wanted = wanted.strip_suffix(&format!(".{}", crate::api::GROUP)).unwrap_or(&wanted);
    let named =
        |r: &&Resource| r.plural == wanted || r.singular == wanted || r.kind.to_lowercase() == wanted || r.short_names.contains(&wanted);
    if let Some(found) = resources().iter().find(named) {
        return Ok(found);
    }
    let known: Vec<&str> = resources().iter().map(|r| r.plural).collect();
    bail!("there is no kind `{word}`; known are {}", known.join(", "))
}

/// The resource of a document's `apiVersion` and `kind`.
pub(super) fn of(api_version: &str, kind: &str) -> anyhow::Result<&'static Resource> {
    if let Some(found) = resources().iter().find(|r| r.kind == kind && r.api_version() == api_version) {
        return Ok(found);
    }
    if let Some(near) = resources().iter().find(|r| r.kind == kind) {
        bail!("apiVersion: `{api_version}` has no kind {kind}; write {}", near.api_version());
    }
    let known: Vec<&str> = resources().iter().map(|r| r.kind).collect();
    bail!("kind: `{kind}` is not known; write one of {}", known.join(", "))
}

/// Splits `machine add-tests` and `machine/add-tests` alike.
pub(super) fn object(kind: &str, name: Option<&str>) -> anyhow::Result<(&'static Resource, Option<String>)> {
    match kind.split_once('/') {
        None => Ok((find(kind)?, name.map(str::to_owned))),
        Some((kind, first)) => {
            ensure!(name.is_none(), "write either {kind}/{first} or {kind} {first}, and one object at a time");
            Ok((find(kind)?, Some(first.to_owned())))
        }
    }
}

/// Splits `KIND/NAME` or `KIND NAME`, where a name must be given.
pub(super) fn named(kind: &str, name: Option<&str>) -> anyhow::Result<(&'static Resource, String)> {
    match object(kind, name)? {
        (resource, Some(name)) if !name.is_empty() => Ok((resource, name)),
        (resource, _) => bail!("which {}? Write {}/NAME", resource.singular, resource.singular),
    }
}

/// Path of the collection; of all namespaces when none is given.
pub(super) fn collection(resource: &Resource, namespace: Option<&str>) -> String {
    let namespace = namespace.filter(|_| resource.scope == Scope::Namespaced);
    remote::collection(resource.group, resource.version, resource.plural, namespace)
}

/// Path of one object.
pub(super) fn path(resource: &Resource, namespace: &str, name: &str) -> String {
    format!("{}/{}", collection(resource, Some(namespace)), remote::segment(name))
}

/// Path of one Machine.
pub(super) fn machine(namespace: &str, name: &str) -> String {
    our::<crate::api::Machine>(Some(namespace), Some(name))
}

/// Path of one Checkpoint.
pub(super) fn checkpoint(namespace: &str, name: &str) -> String {
    our::<crate::api::Checkpoint>(Some(namespace), Some(name))
}

pub(super) use remote::of_kind as our;
