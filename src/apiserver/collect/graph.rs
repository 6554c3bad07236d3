//! Who belongs to whom: the ownerReferences of all objects, by the owner's uid. Pure.

use crate::admission::{self, Resource};
use crate::api::Scope;
use crate::store::Key;
use serde_json::Value;
use std::collections::{BTreeSet, HashMap, HashSet};

/// Finalizer of an owner whose dependents go first. Source: meta/v1 `FinalizerDeleteDependents`.
pub(super) const FOREGROUND: &str = "foregroundDeletion";
/// Finalizer of an owner whose dependents are left behind. Source: meta/v1 `FinalizerOrphanDependents`.
pub(super) const ORPHAN: &str = "orphan";

/// One ownerReference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Owner {
    pub(super) uid: String,
    /// Where the owner must be; `None` for a kind that is not served here, and for a namespaced owner of an object that
    /// has no namespace: such an owner can never be seen to be absent.
    pub(super) key: Option<Key>,
    /// Its foreground deletion waits for this dependent.
    pub(super) blocks: bool,
}

/// The owners of an object. An owner is looked for in the dependent's own namespace, or in none.
pub(super) fn owners(key: &Key, document: &Value) -> Vec<Owner> {
    let references = document["metadata"]["ownerReferences"].as_array().into_iter().flatten();
    let text = |reference: &Value, field: &str| reference[field].as_str().unwrap_or_default().to_owned();
    let owner = |reference: &Value| {
        let resource = served(&text(reference, "apiVersion"), &text(reference, "kind"));
        let reachable = resource.filter(|r| r.scope == Scope::Cluster || !key.namespace.is_empty());
        let place = |r: &Resource| {
            let namespace = if r.scope == Scope::Cluster { "" } else { &key.namespace };
            r.key(namespace, &text(reference, "name"))
        };
        Owner { uid: text(reference, "uid"), key: reachable.map(place), blocks: reference["blockOwnerDeletion"] == true }
    };
    references.map(owner).collect()
}

fn served(api_version: &str, kind: &str) -> Option<&'static Resource> {
    let group = api_version.split_once('/').map_or("", |(group, _)| group);
    admission::resources().iter().find(|r| r.group == group && r.kind == kind)
}

pub(super) fn uid(document: &Value) -> &str {
    document["metadata"]["uid"].as_str().unwrap_or_default()
}

pub(super) fn is_ending(document: &Value) -> bool {
    document["metadata"]["deletionTimestamp"].is_string()
}

pub(super) fn has_finalizer(document: &Value, finalizer: &str) -> bool {
    document["metadata"]["finalizers"].as_array().is_some_and(|all| all.iter().any(|f| f == finalizer))
}

/// An object that has owners.
struct Node {
    uid: String,
    owners: Vec<Owner>,
}

/// What is known of all objects: only those that have owners, and owners that wait for their dependents, take memory.
#[derive(Default)]
pub(super) struct Graph {
    owned: HashMap<Key, Node>,
    dependents: HashMap<String, BTreeSet<Key>>,
    /// Owners, by uid, that are being deleted and wait for this collector.
    waiting: HashMap<String, Key>,
}

impl Graph {
    /// Takes in an object's new state and says which objects must be looked at because of it.
    pub(super) fn seen(&mut self, key: &Key, document: &Value) -> Vec<Key> {
        let mut look = Vec::new();
        let owners = owners(key, document);
        let before = self.forget(key);
        if before != owners {
            // A new dependent may have come too late for its owner; a lost or loosened one may let an owner go.
            look.push(key.clone());
            look.extend(before.iter().chain(&owners).filter_map(|owner| self.waiting.get(&owner.uid).cloned()));
        }
        for owner in &owners {
            self.dependents.entry(owner.uid.clone()).or_default().insert(key.clone());
        }
        let uid = uid(document);
        if !owners.is_empty() {
            self.owned.insert(key.clone(), Node { uid: uid.to_owned(), owners });
        }
        let waits = is_ending(document) && (has_finalizer(document, FOREGROUND) || has_finalizer(document, ORPHAN));
        if waits {
            self.waiting.insert(uid.to_owned(), key.clone());
            look.push(key.clone());
            look.extend(self.dependents(uid));
        } else {
            self.waiting.remove(uid);
        }
        look
    }

    /// Takes in that an object is gone.
    pub(super) fn gone(&mut self, key: &Key, document: &Value) -> Vec<Key> {
        let uid = uid(document);
        self.waiting.remove(uid);
        let mut look = self.dependents(uid);
        look.extend(self.forget(key).iter().filter_map(|owner| self.waiting.get(&owner.uid).cloned()));
        look
    }

    /// Owners that wait, and those they wait for.
    pub(super) fn waited_for(&self) -> Vec<Key> {
        self.waiting.iter().flat_map(|(uid, key)| self.dependents(uid).into_iter().chain([key.clone()])).collect()
    }

    pub(super) fn dependents(&self, owner: &str) -> Vec<Key> {
        self.dependents.get(owner).into_iter().flatten().cloned().collect()
    }

    /// Whether a dependent holds up the foreground deletion of its owner. Members of a circle do not wait for each other.
    pub(super) fn is_blocked(&self, key: &Key, uid: &str) -> bool {
        let blocks = |dependent: &Key| {
            let Some(node) = self.owned.get(dependent) else { return false };
            node.owners.iter().any(|owner| owner.uid == uid && owner.blocks) && !self.leads_to(node, key)
        };
        self.dependents.get(uid).into_iter().flatten().any(blocks)
    }

    /// Whether `key` is among the dependents of a dependent, and theirs.
    fn leads_to(&self, from: &Node, key: &Key) -> bool {
        let (mut seen, mut next) = (HashSet::new(), vec![from]);
        while let Some(node) = next.pop() {
            if seen.insert(&node.uid) {
                let dependents = self.dependents.get(&node.uid).into_iter().flatten();
                for dependent in dependents {
                    if dependent == key {
                        return true;
                    }
                    next.extend(self.owned.get(dependent));
                }
            }
        }
        false
    }

    fn forget(&mut self, key: &Key) -> Vec<Owner> {
        let owners = self.owned.remove(key).map(|node| node.owners).unwrap_or_default();
        for owner in &owners {
            if let Some(all) = self.dependents.get_mut(&owner.uid) {
                all.remove(key);
                if all.is_empty() {
                    self.dependents.remove(&owner.uid);
                }
            }
        }
        owners
    }
}
