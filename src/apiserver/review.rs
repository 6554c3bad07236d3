//! Questions about access, answered from the same decisions that requests meet: who am I, what may I do, what may they do.
//! Answered, never stored.

use super::{
    access::Access,
    catalog::{Entry, Review},
    status::{self, Status},
};
use crate::api::FieldError;
use crate::auth::{Action, User, What};
use serde_json::{Value, json};

/// Answers `body`, a review of kind `entry`; `namespace` is that of the URL.
///
/// Errors: 422 for a question that cannot be answered.
pub(super) async fn answer(
    access: &Access,
    entry: &Entry,
    review: Review,
    user: &User,
    namespace: Option<&str>,
    body: &Value,
) -> Result<Value, Status> {
    let spec = &body["spec"];
    let refuse = |errors: Vec<FieldError>| {
        if errors.is_empty() { Ok(()) } else { Err(status::invalid(entry.group, entry.kind, "", &errors)) }
    };
    let status = match review {
        Review::Subject => json!({"userInfo": {"username": user.name, "uid": user.uid, "groups": user.groups}}),
        Review::Access => {
            refuse(wrong_question(spec))?;
            verdict(access, user, spec).await?
        }
        Review::SubjectAccess | Review::LocalAccess => {
            let mut errors = wrong_question(spec);
            let (name, groups) = (text(&spec["user"]), texts(&spec["groups"]));
            if name.is_empty() && groups.is_empty() {
                errors.push(FieldError::required("spec.user", "at least one of user or group must be specified"));
            }
            if review == Review::LocalAccess {
                let asked = text(&spec["resourceAttributes"]["namespace"]);
                if !spec["nonResourceAttributes"].is_null() {
                    errors.push(FieldError::forbidden("spec.nonResourceAttributes", "disallowed on this kind of request"));
                } else if asked != namespace.unwrap_or_default() {
                    errors.push(FieldError::invalid("spec.resourceAttributes.namespace", asked, "must match metadata.namespace"));
                }
            }
            refuse(errors)?;
            verdict(access, &User { name, uid: text(&spec["uid"]), groups }, spec).await?
        }
        Review::Rules => {
            let place = text(&spec["namespace"]);
            if place.is_empty() {
                refuse(vec![FieldError::required("spec.namespace", "name a namespace")])?;
            }
            rules(access, user, &place).await?
        }
    };
    let mut answer = json!({
        "kind": entry.kind, "apiVersion": entry.api_version(), "metadata": {"creationTimestamp": null}, "status": status,
    });
    if let Some(spec) = body.get("spec") {
        answer["spec"] = spec.clone();
    }
    Ok(answer)
}

/// Source: `authorization/validation`.
fn wrong_question(spec: &Value) -> Vec<FieldError> {
    let detail = "exactly one of nonResourceAttributes or resourceAttributes must be specified";
    match (spec["resourceAttributes"].is_null(), spec["nonResourceAttributes"].is_null()) {
        (true, true) => vec![FieldError::invalid("spec.resourceAttributes", Value::Null, detail)],
        (false, false) => {
            let detail = "cannot be specified in combination with resourceAttributes";
            vec![FieldError::invalid("spec.nonResourceAttributes", &spec["nonResourceAttributes"], detail)]
        }
        _ => Vec::new(),
    }
}

async fn verdict(access: &Access, user: &User, spec: &Value) -> Result<Value, Status> {
    let policy = access.policy().await?;
    let decision = policy.decide(user, &action(spec));
    let mut verdict = json!({"allowed": decision.is_allowed()});
    let reason = decision.reason();
    if !reason.is_empty() {
        verdict["reason"] = reason.into();
    }
    Ok(verdict)
}

fn action(spec: &Value) -> Action {
    let (resource, path) = (&spec["resourceAttributes"], &spec["nonResourceAttributes"]);
    if resource.is_null() {
        return Action { verb: text(&path["verb"]), what: What::Path(text(&path["path"])) };
    }
    let field = |name: &str| text(&resource[name]);
    let what = What::Resource {
        group: field("group"),
        resource: field("resource"),
        subresource: field("subresource"),
        namespace: field("namespace"),
        name: field("name"),
    };
    Action { verb: field("verb"), what }
}

async fn rules(access: &Access, user: &User, namespace: &str) -> Result<Value, Status> {
    let (rules, unknown) = access.policy().await?.rules(user, namespace);
    let shown = |rule: &k8s_openapi::api::rbac::v1::PolicyRule| serde_json::to_value(rule).unwrap_or_default();
    let (paths, resources): (Vec<_>, Vec<_>) = rules.iter().partition(|rule| rule.non_resource_urls.is_some());
    let mut answer = json!({
        "resourceRules": resources.into_iter().map(shown).collect::<Vec<_>>(),
        "nonResourceRules": paths.into_iter().map(shown).collect::<Vec<_>>(),
        "incomplete": false,
    });
    if !unknown.is_empty() {
        answer["evaluationError"] = unknown.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ").into();
    }
    Ok(answer)
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn texts(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().map(text).collect()
}
