//! Who may say what in an object's metadata: rules of create, update and delete. Pure.

use crate::api::FieldError;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Map, Value};
use std::collections::BTreeSet;

/// Fields that the server alone sets.
const SERVERS: &[&str] = &["uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation", "generateName"];
/// Fields that are not kept at all.
const DROPPED: &[&str] = &["managedFields", "selfLink"];
/// Random characters behind a generateName. Source: apimachinery `util/rand`: no vowels, so no words.
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

/// `metadata`, made when it is missing.
pub(super) fn of(document: &mut Value) -> &mut Map<String, Value> {
    if !document["metadata"].is_object() {
        document["metadata"] = Value::Object(Map::new());
    }
    document["metadata"].as_object_mut().expect("just made")
}

pub(super) fn text<'v>(document: &'v Value, field: &str) -> &'v str {
    document["metadata"][field].as_str().unwrap_or_default()
}

/// Drops what is not kept and what says nothing, so that equal objects are equal documents.
pub(super) fn tidy(document: &mut Value) {
    let metadata = of(document);
    metadata.retain(|name, value| {
        let empty = value.is_null() || value.as_object().is_some_and(Map::is_empty) || value.as_array().is_some_and(Vec::is_empty);
        !empty && !DROPPED.contains(&name.as_str())
    });
}

/// What the sender should know of references and finalizers, in upstream's words; `before` is what is replaced. References
/// that name an owner twice are kept once. Source: apiserver `rest.dedupOwnerReferencesAndAddWarning`, `validation` of CRs.
pub(super) fn courtesy(document: &mut Value, before: Option<&Value>) -> Vec<String> {
    let mut warnings = Vec::new();
    if let Some(owners) = document.pointer_mut("/metadata/ownerReferences").and_then(Value::as_array_mut) {
        let (mut seen, mut twice) = (BTreeSet::new(), BTreeSet::new());
        owners.retain(|owner| {
            let uid = owner["uid"].as_str().unwrap_or_default().to_owned();
            let new = seen.insert(uid.clone());
            if !new {
                twice.insert(uid);
            }
            new
        });
        if !twice.is_empty() {
            let uids = twice.into_iter().collect::<Vec<_>>().join(", ");
            warnings.push(format!(
                ".metadata.ownerReferences contains duplicate entries; API server dedups owner references in 1.20+, and may reject such \
                 requests as early as 1.24; please fix your requests; duplicate UID(s) observed: {uids}"
            ));
        }
    }
    let finalizers = |document: &Value| -> Vec<String> {
        let all = document["metadata"]["finalizers"].as_array().into_iter().flatten();
        all.filter_map(Value::as_str).map(Into::into).collect()
    };
    let known = before.map(finalizers).unwrap_or_default();
    for finalizer in finalizers(document) {
        let plain = !finalizer.contains('/') && !matches!(finalizer.as_str(), "orphan" | "foregroundDeletion" | "kubernetes");
        if plain && !known.contains(&finalizer) {
            warnings.push(format!(
                "metadata.finalizers: {finalizer:?}: prefer a domain-qualified finalizer name including a path (/) to avoid accidental \
                 conflicts with other finalizer writers"
            ));
        }
    }
    warnings
}

/// What a new object gets; whatever the sender says of it is wiped.
pub(super) fn begin(document: &mut Value, now: &Time, generation: bool) {
    // One of a wrong type stays, to be refused.
    let prefix = document["metadata"]["generateName"].clone();
    let metadata = of(document);
    metadata.retain(|name, _| name != "resourceVersion" && !SERVERS.contains(&name.as_str()));
    metadata.insert("uid".into(), crate::random::uuid().to_string().into());
    metadata.insert("creationTimestamp".into(), serde_json::to_value(now).unwrap_or_default());
    if generation {
        metadata.insert("generation".into(), 1.into());
    }
    if !prefix.is_null() && prefix != "" {
        metadata.insert("generateName".into(), prefix);
    }
}

/// A name from a prefix. Source: apiserver `names.SimpleNameGenerator`: 58 characters of it and 5 random ones.
pub(super) fn generate_name(prefix: &str) -> String {
    use rand::seq::IndexedRandom;
    let mut rng = crate::random::Source;
    let head: String = prefix.chars().take(58).collect();
    let tail: String = (0..5).filter_map(|_| ALPHABET.choose(&mut rng)).map(|b| char::from(*b)).collect();
    format!("{head}{tail}")
}

/// Takes over from the stored object what an update cannot change.
pub(super) fn carry(before: &Value, next: &mut Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let deleting = before["metadata"]["deletionTimestamp"].is_string();
    let old: Vec<&Value> = before["metadata"]["finalizers"].as_array().into_iter().flatten().collect();
    let new: Vec<&Value> = next["metadata"]["finalizers"].as_array().into_iter().flatten().filter(|f| !old.contains(f)).collect();
    if deleting && !new.is_empty() {
        let list: Vec<&str> = new.iter().filter_map(|f| f.as_str()).collect();
        let detail = format!("no new finalizers can be added if the object is being deleted, found new finalizers {list:?}");
        errors.push(FieldError::forbidden("metadata.finalizers", detail));
    }
    let metadata = of(next);
    for field in SERVERS.iter().chain(&["name", "namespace", "resourceVersion"]) {
        match before["metadata"].get(*field) {
            Some(value) => metadata.insert((*field).into(), value.clone()),
            None => metadata.remove(*field),
        };
    }
    errors
}

/// Counts the generation up when anything but metadata and status changed.
pub(super) fn count_generation(before: &Value, next: &mut Value) {
    let content = |document: &Value| -> Map<String, Value> {
        let fields = document.as_object().into_iter().flatten();
        fields
            .filter(|(name, _)| !matches!(name.as_str(), "metadata" | "status"))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect()
    };
    if content(before) != content(next) {
        raise_generation(next);
    }
}

fn raise_generation(document: &mut Value) {
    if let Some(generation) = document["metadata"]["generation"].as_i64() {
        document["metadata"]["generation"] = (generation + 1).into();
    }
}

/// Marks it as being deleted.
pub(super) fn mark_deleted(document: &mut Value, now: &Time) {
    raise_generation(document);
    let metadata = of(document);
    metadata.insert("deletionTimestamp".into(), serde_json::to_value(now).unwrap_or_default());
    metadata.insert("deletionGracePeriodSeconds".into(), 0.into());
}

/// Sets the finalizers by which the garbage collector knows what becomes of the dependents. Without a policy those that are
/// there stay; a later deletion may ask for another one. Source: apiserver `deletionFinalizersForGarbageCollection`.
pub(super) fn propagate(document: &mut Value, policy: Option<&str>) {
    let Some(policy) = policy else { return };
    let mut wanted: Vec<Value> = document["metadata"]["finalizers"].as_array().cloned().unwrap_or_default();
    let before = wanted.clone();
    for (finalizer, its) in [("orphan", "Orphan"), ("foregroundDeletion", "Foreground")] {
        match (wanted.iter().position(|f| f == finalizer), policy == its) {
            (None, true) => wanted.push(finalizer.into()),
            (Some(at), false) => drop(wanted.remove(at)),
            _ => {}
        }
    }
    if wanted != before {
        document["metadata"]["finalizers"] = wanted.into();
        tidy(document);
    }
}

/// Whether nothing holds back the end of an object that is being deleted.
pub(super) fn may_go(document: &Value) -> bool {
    document["metadata"]["finalizers"].as_array().is_none_or(Vec::is_empty)
}

/// The stored document with what changed between the typed object as read and as written: spellings that a type would
/// normalise (`10m` to `10m0s`) stay as the user wrote them, so a controller's write changes nothing it did not mean to.
pub fn graft(stored: &Value, read: &Value, written: &Value) -> Value {
    if read == written {
        return stored.clone();
    }
    match (stored, read, written) {
        (Value::Object(stored), Value::Object(read), Value::Object(written)) => {
            let mut result = Map::new();
            for (name, value) in written {
                let value = match (stored.get(name), read.get(name)) {
                    (Some(stored), Some(read)) => graft(stored, read, value),
                    _ => value.clone(),
                };
                result.insert(name.clone(), value);
            }
            // What the type does not know of stays.
            for (name, value) in stored {
                if !read.contains_key(name) && !written.contains_key(name) {
                    result.insert(name.clone(), value.clone());
                }
            }
            Value::Object(result)
        }
        _ => written.clone(),
    }
}
