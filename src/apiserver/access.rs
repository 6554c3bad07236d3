//! May this user do that: asked of all roles and bindings, kept in a view that is never older than the request.

use super::{query::Query, route::Route, selector, status::Status};
use crate::auth::{Action, Documents, Policy, User, What};
use crate::objects::Objects;
use crate::store::{self, Revision};
use axum::http::Method;
use serde::de::DeserializeOwned;
use serde_json::json;
use std::sync::Arc;
use tokio::sync::Mutex;

const ROLES: &str = "roles.rbac.authorization.k8s.io";
const ROLE_BINDINGS: &str = "rolebindings.rbac.authorization.k8s.io";
const CLUSTER_ROLES: &str = "clusterroles.rbac.authorization.k8s.io";
const CLUSTER_ROLE_BINDINGS: &str = "clusterrolebindings.rbac.authorization.k8s.io";

/// What is known of roles and bindings.
pub(super) struct Access {
    objects: Objects,
    view: Mutex<View>,
}

#[derive(Default)]
struct View {
    /// The policy is that of all revisions from its reading up to here; `None` before the first.
    at: Option<Revision>,
    policy: Arc<Policy>,
}

impl Access {
    pub(super) fn new(objects: Objects) -> Self {
        Self { objects, view: Mutex::default() }
    }

    /// The policy as of now. Read again only when a role or binding changed; while nothing at all changes, the store is not
    /// even asked. A write is published before it is answered, so whoever wrote a role sees it hold.
    pub(super) async fn policy(&self) -> Result<Arc<Policy>, Status> {
        let mut view = self.view.lock().await;
        let now = *self.objects.store().revisions().borrow();
        if let Some(at) = view.at {
            if at >= now {
                return Ok(view.policy.clone());
            }
            let (changed, known) = self.objects.store().changed(&[ROLES, ROLE_BINDINGS, CLUSTER_ROLES, CLUSTER_ROLE_BINDINGS], at).await?;
            if !changed {
                view.at = Some(known);
                return Ok(view.policy.clone());
            }
        }
        // The four lists may be of different revisions: what changes between them is seen the next time.
        let (cluster_roles, first) = self.read(CLUSTER_ROLES).await?;
        let documents = Documents {
            cluster_roles,
            roles: self.read(ROLES).await?.0,
            role_bindings: self.read(ROLE_BINDINGS).await?.0,
            cluster_role_bindings: self.read(CLUSTER_ROLE_BINDINGS).await?.0,
        };
        *view = View { at: Some(first), policy: Arc::new(Policy::new(documents)) };
        Ok(view.policy.clone())
    }

    async fn read<T: DeserializeOwned>(&self, resource: &str) -> Result<(Vec<T>, Revision), Status> {
        let page = self.objects.store().list(&store::Query { resource: resource.into(), ..store::Query::default() }).await?;
        let typed = |item: store::Object| {
            let read = serde_json::from_value(item.document);
            read.inspect_err(|error| tracing::warn!("{resource} \"{}\" grants nothing, for it cannot be read: {error}", item.key.name)).ok()
        };
        Ok((page.items.into_iter().filter_map(typed).collect(), page.revision))
    }

    /// Errors: 403 with the reason that upstream gives.
    pub(super) async fn authorize(&self, user: &User, action: &Action) -> Result<(), Status> {
        if user.is_master() {
            return Ok(());
        }
        let policy = self.policy().await?;
        let decision = policy.decide(user, action);
        if decision.is_allowed() { Ok(()) } else { Err(forbidden(user, action, &decision.reason())) }
    }
}

/// Source: apiserver `responsewriters.Forbidden`.
pub(super) fn forbidden(user: &User, action: &Action, reason: &str) -> Status {
    let refusal = action.refusal(&user.name).replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
    let refusal = if reason.is_empty() { refusal } else { format!("{refusal}: {reason}") };
    let (message, details) = match &action.what {
        What::Path(_) => (format!("forbidden: {refusal}"), json!({})),
        What::Resource { group, resource, name, .. } => {
            let qualified = if group.is_empty() { resource.clone() } else { format!("{resource}.{group}") };
            let named = if name.is_empty() { qualified } else { format!("{qualified} {name:?}") };
            let mut details = json!({"kind": resource});
            for (field, text) in [("group", group), ("name", name)] {
                if !text.is_empty() {
                    details[field] = json!(text);
                }
            }
            (format!("{named} is forbidden: {refusal}"), details)
        }
    };
    Status { details, ..Status::new(403, "Forbidden", message) }
}

/// What a request would do. Source: apiserver `RequestInfoFactory`.
///
/// Errors: 400 where the query cannot be read.
pub(super) fn action(method: &Method, route: &Route, path: &str, query: &Query) -> Result<Action, Status> {
    let Route::Object(target) = route else {
        return Ok(Action { verb: method.as_str().to_lowercase(), what: What::Path(path.into()) });
    };
    let mut name = target.name.clone().unwrap_or_default();
    let verb = match (method, &target.name) {
        (&Method::GET | &Method::HEAD, None) => {
            // A list of one is a read of that one.
            name = query.get("fieldSelector").and_then(selector::only_name).unwrap_or_default();
            if query.flag("watch")?.unwrap_or(false) { "watch" } else { "list" }
        }
        (&Method::GET | &Method::HEAD, Some(_)) => "get",
        (&Method::POST, _) => "create",
        (&Method::PUT, _) => "update",
        (&Method::PATCH, _) => "patch",
        (&Method::DELETE, None) => "deletecollection",
        (&Method::DELETE, Some(_)) => "delete",
        (other, _) => other.as_str(),
    };
    let entry = target.entry;
    // A Namespace stands in itself, so that a role in it can show it.
    let itself = (entry.group.is_empty() && entry.plural == "namespaces").then(|| target.name.clone()).flatten();
    let namespace = target.namespace.clone().or(itself).unwrap_or_default();
    let subresource = target.subresource.clone().unwrap_or_default();
    let (group, resource) = (entry.group.into(), entry.plural.into());
    Ok(Action { verb: verb.to_lowercase(), what: What::Resource { group, resource, subresource, namespace, name } })
}
