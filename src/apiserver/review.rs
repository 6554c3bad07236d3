//! The reviews that clients make of themselves: who am I, and what may I do. Answered, never stored.

use super::catalog::{Entry, Review};
use crate::auth::User;
use serde_json::{Value, json};

/// Answers `body`, a review of kind `entry`.
pub(super) fn answer(entry: &Entry, review: Review, user: &User, body: &Value) -> Value {
    let allowed = user.is_master();
    let status = match review {
        Review::Subject => json!({"userInfo": {"username": user.name, "uid": user.uid, "groups": user.groups}}),
        Review::Access if allowed => json!({"allowed": true, "reason": "the admin may do everything"}),
        Review::Access => json!({"allowed": false}),
        Review::Rules => {
            let rules = |rule: Value| if allowed { json!([rule]) } else { json!([]) };
            json!({
                "resourceRules": rules(json!({"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]})),
                "nonResourceRules": rules(json!({"verbs": ["*"], "nonResourceURLs": ["*"]})),
                "incomplete": false,
            })
        }
    };
    let mut answer = json!({
        "kind": entry.kind, "apiVersion": entry.api_version(), "metadata": {"creationTimestamp": null}, "status": status,
    });
    if let Some(spec) = body.get("spec") {
        answer["spec"] = spec.clone();
    }
    answer
}
