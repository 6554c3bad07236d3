//! Namespaces: those that always exist, what may be made in them, and how one ends.
//!
//! A namespace that is deleted is emptied: first of our own kinds, whose controllers may still need the Secrets, then of the
//! rest. Checkpoints are the past of a project, so they are let go only when the namespace says so.

use super::{DeleteOptions, Error, Objects, Part, WriteOptions, Written, metadata};
use crate::admission::{self, Resource};
use crate::api::{GROUP, SYSTEM_NAMESPACE, Scope};
use crate::store::{self, Expect, Key, Object};
use serde_json::{Value, json};
use std::fmt::Write;

/// Annotation on a namespace: `true` lets its Checkpoints go with it.
pub const DELETE_CHECKPOINTS: &str = "autovibe.dev/delete-checkpoints";

/// Namespaces that always exist and cannot be deleted. Tools take the uid of kube-system as the id of the cluster.
const PRESETS: &[&str] = &["default", SYSTEM_NAMESPACE, "kube-system"];

/// The server's own finalizer: it goes when a namespace that ends is empty. Source: core/v1 `FinalizerKubernetes`.
const OWN_FINALIZER: &str = "kubernetes";

pub(super) fn is_namespace(resource: &Resource) -> bool {
    resource.group.is_empty() && resource.kind == "Namespace"
}

pub(super) fn is_preset(name: &str) -> bool {
    PRESETS.contains(&name)
}

pub(super) fn key(name: &str) -> Key {
    Key::new("namespaces", "", name)
}

/// Whether it may be made in a namespace that is ending: the final Checkpoints of its Machines, and Events that say why it
/// takes so long.
pub(super) fn admits_while_ending(resource: &Resource) -> bool {
    matches!((resource.group, resource.kind), (GROUP, "Checkpoint") | ("", "Event"))
}

/// Refuses a new object whose namespace is missing or ending. Source: apiserver admission `NamespaceLifecycle`.
pub(super) fn check(key: &Key, home: Option<&Object>, outlives: bool) -> Result<(), Error> {
    let namespace = &key.namespace;
    match home {
        _ if namespace.is_empty() => Ok(()),
        None => Err(Error::NotFound { resource: "namespaces".into(), name: namespace.clone() }),
        Some(home) if home.document["metadata"]["deletionTimestamp"].is_string() && !outlives => {
            Err(Error::Terminating { resource: key.resource.clone(), name: key.name.clone(), namespace: namespace.clone() })
        }
        Some(_) => Ok(()),
    }
}

/// What the server says of a Namespace: its label, its finalizer, its phase. The rest of status and finalizers changes only
/// by those parts.
pub(super) fn complete(resource: &Resource, part: Part, document: &mut Value, before: Option<&Value>) {
    if !is_namespace(resource) {
        return;
    }
    let name = metadata::text(document, "name").to_owned();
    let ending = document["metadata"]["deletionTimestamp"].is_string();
    document["metadata"]["labels"]["kubernetes.io/metadata.name"] = name.into();
    let mut finalizers = match before {
        Some(before) if part != Part::Finalizers => before["spec"]["finalizers"].clone(),
        _ => document["spec"]["finalizers"].take(),
    };
    if let Some(list) = finalizers.as_array_mut()
        && before.is_none()
        && !list.iter().any(|finalizer| finalizer == OWN_FINALIZER)
    {
        list.push(OWN_FINALIZER.into());
    }
    document["spec"] = match finalizers {
        Value::Null if before.is_none() => json!({ "finalizers": [OWN_FINALIZER] }),
        Value::Null => json!({}),
        list => json!({ "finalizers": list }),
    };
    if part == Part::Status {
        return;
    }
    document["status"] = json!({ "phase": if ending { "Terminating" } else { "Active" } });
    if let Some(conditions) = before.and_then(|before| before.pointer("/status/conditions")) {
        document["status"]["conditions"] = conditions.clone();
    }
}

/// Whether someone else's finalizer holds it.
fn is_held(namespace: &Value) -> bool {
    let finalizers = namespace["spec"]["finalizers"].as_array().into_iter().flatten();
    !metadata::may_go(namespace) || finalizers.into_iter().any(|finalizer| finalizer != OWN_FINALIZER)
}

impl Objects {
    /// Creates the namespaces that always exist, and what each namespace has from its beginning; call it once at start.
    pub async fn ensure_presets(&self) -> Result<(), Error> {
        for name in PRESETS {
            if self.store.get(&key(name)).await?.is_none() {
                let document = json!({ "metadata": { "name": name } });
                self.create_document(namespaces(), "", document, &WriteOptions::default()).await?;
            }
        }
        self.ensure_accounts().await
    }

    /// Sets a Namespace's own finalizers. The server's stays until the namespace ends and is empty, and a warning says what is
    /// still there: unlike upstream, nobody can have it removed before, for VMs would be left without an owner.
    pub async fn finalize_namespace(&self, name: &str, mut document: Value, options: &WriteOptions) -> Result<Written, Error> {
        let mut finalizers = document["spec"]["finalizers"].as_array().cloned().unwrap_or_default();
        let keeps = finalizers.iter().any(|finalizer| finalizer == OWN_FINALIZER);
        if !keeps {
            finalizers.push(OWN_FINALIZER.into());
            document["spec"] = json!({ "finalizers": finalizers });
        }
        let mut written = self.update_document(namespaces(), "", name, Part::Finalizers, document, options).await?;
        if keeps || options.dry_run {
            return Ok(written);
        }
        let is_ending = written.object["metadata"]["deletionTimestamp"].is_string();
        if is_ending && self.finish_namespace(name).await? {
            return Ok(written);
        }
        let why = if is_ending {
            written.object = self.current(&key(name)).await?.document;
            written.object["status"]["conditions"][0]["message"].as_str().unwrap_or_default().to_owned()
        } else {
            format!("delete it first: kubectl delete namespace {name}")
        };
        written.warnings.push(format!("the finalizer {OWN_FINALIZER:?} stays until the namespace is deleted and empty; {why}"));
        Ok(written)
    }

    /// Empties namespaces that are being deleted, and removes those that are empty; the API server's background
    /// task calls it while there are any.
    pub async fn finish_namespaces(&self) -> Result<(), Error> {
        let page = self.store.list(&store::Query { resource: "namespaces".into(), ..store::Query::default() }).await?;
        for item in page.items {
            if item.document["metadata"]["deletionTimestamp"].is_string() {
                self.finish_namespace(&item.key.name).await?;
            }
        }
        Ok(())
    }

    /// One step of the end of a namespace; whether it is gone.
    pub(super) async fn finish_namespace(&self, name: &str) -> Result<bool, Error> {
        let namespace = self.current(&key(name)).await?;
        let lets_go = namespace.document["metadata"]["annotations"][DELETE_CHECKPOINTS] == "true";
        let (ours, core): (Vec<&Resource>, Vec<&Resource>) =
            admission::resources().iter().filter(|r| r.scope == Scope::Namespaced).partition(|r| r.group == GROUP);
        let mut left = self.empty(name, &ours, lets_go).await?;
        if left.is_empty() {
            left = self.empty(name, &core, lets_go).await?;
        }
        if left.is_empty() && !is_held(&namespace.document) && self.remove_if_empty(name).await? {
            return Ok(true);
        }
        self.say_what_is_left(&namespace, name, &left, lets_go).await?;
        Ok(false)
    }

    /// Asks everything of these resources to go; what is still there, as `3 machines.autovibe.dev`.
    async fn empty(&self, namespace: &str, resources: &[&Resource], lets_go: bool) -> Result<Vec<String>, Error> {
        let mut left = Vec::new();
        for resource in resources {
            let query = store::Query { resource: resource.name(), namespace: Some(namespace.into()), ..store::Query::default() };
            let keeps = resource.kind == "Checkpoint" && !lets_go;
            let mut count = 0;
            for item in self.store.list(&query).await?.items {
                let ending = item.document["metadata"]["deletionTimestamp"].is_string();
                if !keeps && !ending {
                    match self.delete_plain(resource, &item.key).await {
                        Ok(gone) if gone => continue,
                        Ok(_) | Err(Error::NotFound { .. } | Error::Conflict { .. }) => {}
                        Err(error) => return Err(error),
                    }
                }
                count += 1;
            }
            if count > 0 {
                left.push(format!("{count} {}", resource.name()));
            }
        }
        Ok(left)
    }

    /// Deletes an object that is no Namespace; whether it is gone. Boxed, for it meets itself on the way.
    async fn delete_plain(&self, resource: &Resource, key: &Key) -> Result<bool, Error> {
        let options = DeleteOptions::default();
        let deletion = Box::pin(self.delete_document(resource, &key.namespace, &key.name, &options));
        Ok(matches!(deletion.await?, super::Deleted::Gone(_)))
    }

    /// Removes the namespace in the transaction that sees it empty.
    async fn remove_if_empty(&self, name: &str) -> Result<bool, Error> {
        let name = name.to_owned();
        self.store
            .write(move |transaction| {
                Box::pin(async move {
                    if transaction.any_in(&name, None).await?.is_some() {
                        return Ok(false);
                    }
                    transaction.delete(&key(&name), Expect::Present).await?;
                    Ok(true)
                })
            })
            .await
    }

    async fn say_what_is_left(&self, namespace: &Object, name: &str, left: &[String], lets_go: bool) -> Result<(), Error> {
        let mut message = if left.is_empty() {
            let all = ["metadata", "spec"].map(|part| namespace.document[part]["finalizers"].as_array().cloned().unwrap_or_default());
            let others: Vec<Value> = all.concat().into_iter().filter(|finalizer| finalizer != OWN_FINALIZER).collect();
            format!("Finalizers of the namespace are remaining: {}", Value::from(others))
        } else {
            format!("Some resources are remaining: {}", left.join(", "))
        };
        if !lets_go && left.iter().any(|text| text.ends_with("checkpoints.autovibe.dev")) {
            let _ = write!(message, "; to let its Checkpoints go: kubectl annotate namespace {name} {DELETE_CHECKPOINTS}=true");
        }
        let mut document = namespace.document.clone();
        let old = &document["status"]["conditions"][0];
        if old["message"] == message.as_str() {
            return Ok(());
        }
        document["status"]["conditions"] = json!([{
            "type": "NamespaceContentRemaining", "status": "True", "reason": "SomeResourcesRemain", "message": message,
            "lastTransitionTime": self.clock.api_now(),
        }]);
        let (key, at) = (namespace.key.clone(), namespace.revision);
        match self.store.replace::<Error>(key, at, document).await {
            // Someone else wrote it meanwhile: the next pass says it.
            Ok(_) | Err(Error::Conflict { .. } | Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

fn namespaces() -> &'static Resource {
    admission::named("", "namespaces").expect("namespaces are in the catalog")
}
