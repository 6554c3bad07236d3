//! The roles and bindings that every server has: made at start, and repaired where something of them was taken away.
//! Source: Kubernetes `pkg/registry/rbac/rest` and `component-helpers/auth/rbac/reconciliation`.

use super::{DeleteOptions, Error, Objects, WriteOptions};
use crate::admission::{self, Resource};
use crate::auth::{self, RBAC};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Serialize, de::DeserializeOwned};

/// `false` on a default role or binding: it is left as it is.
const AUTOUPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";

impl Objects {
    /// Creates what is missing of the default roles and bindings, and adds what is missing in them; call it once at start.
    /// What people added stays.
    pub async fn ensure_roles(&self) -> Result<(), Error> {
        for role in auth::cluster_roles() {
            self.ensure(resource("clusterroles"), &role, complete_role).await?;
        }
        for binding in auth::cluster_role_bindings() {
            self.ensure(resource("clusterrolebindings"), &binding, complete_binding).await?;
        }
        Ok(())
    }

    /// `complete` adds to the stored object what it lacks of the wanted one, or says that it must be made anew.
    async fn ensure<T: Serialize + DeserializeOwned>(
        &self,
        resource: &Resource,
        wanted: &T,
        complete: fn(&mut T, &T) -> Repair,
    ) -> Result<(), Error> {
        let document = serde_json::to_value(wanted).expect("roles have string keys");
        let name = document["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        let options = WriteOptions::default();
        let stored = match self.read(resource, "", &name).await {
            Ok(stored) => stored,
            Err(Error::NotFound { .. }) => return settled(self.create_document(resource, "", document, &options).await),
            Err(error) => return Err(error),
        };
        if stored["metadata"]["annotations"][AUTOUPDATE] == "false" {
            return Ok(());
        }
        let Ok(mut found) = serde_json::from_value::<T>(stored) else { return Ok(()) };
        match complete(&mut found, wanted) {
            Repair::Whole => Ok(()),
            Repair::Completed => {
                let document = serde_json::to_value(found).expect("roles have string keys");
                settled(self.update_document(resource, "", &name, super::Part::Main, document, &options).await)
            }
            Repair::Replaced => {
                settled(self.delete_document(resource, "", &name, &DeleteOptions::default()).await)?;
                settled(self.create_document(resource, "", document, &options).await)
            }
        }
    }
}

/// What became of an object that was to be completed.
enum Repair {
    /// It lacked nothing.
    Whole,
    Completed,
    /// What it lacks cannot be changed.
    Replaced,
}

fn resource(plural: &str) -> &'static Resource {
    admission::named(RBAC, plural).expect("roles are in the catalog")
}

/// Another server may have done the same meanwhile.
fn settled<T>(done: Result<T, Error>) -> Result<(), Error> {
    match done {
        Ok(_) | Err(Error::AlreadyExists { .. } | Error::Conflict { .. } | Error::NotFound { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

fn complete_role(found: &mut ClusterRole, wanted: &ClusterRole) -> Repair {
    let before = found.clone();
    let has = found.rules.get_or_insert_default();
    for rule in wanted.rules.iter().flatten() {
        if !auth::missing(has, std::slice::from_ref(rule)).is_ok_and(|missing| missing.is_empty()) {
            has.push(rule.clone());
        }
    }
    if found.aggregation_rule.is_none() {
        found.aggregation_rule.clone_from(&wanted.aggregation_rule);
    }
    complete_labels(&mut found.metadata, &wanted.metadata);
    if *found == before { Repair::Whole } else { Repair::Completed }
}

fn complete_binding(found: &mut ClusterRoleBinding, wanted: &ClusterRoleBinding) -> Repair {
    if found.role_ref != wanted.role_ref {
        return Repair::Replaced;
    }
    let before = found.clone();
    let has = found.subjects.get_or_insert_default();
    for subject in wanted.subjects.iter().flatten() {
        if !has.contains(subject) {
            has.push(subject.clone());
        }
    }
    complete_labels(&mut found.metadata, &wanted.metadata);
    if *found == before { Repair::Whole } else { Repair::Completed }
}

fn complete_labels(found: &mut ObjectMeta, wanted: &ObjectMeta) {
    for (key, value) in wanted.labels.iter().flatten() {
        found.labels.get_or_insert_default().entry(key.clone()).or_insert_with(|| value.clone());
    }
    for (key, value) in wanted.annotations.iter().flatten() {
        found.annotations.get_or_insert_default().entry(key.clone()).or_insert_with(|| value.clone());
    }
}
