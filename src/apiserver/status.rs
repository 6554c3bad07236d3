//! Refusals as Kubernetes `Status` objects. Clients switch on `reason` and `code`; people read `message`.

use crate::objects;
use crate::store;
use axum::{
    body::Body,
    http::{StatusCode, header},
    response::Response,
};
use serde_json::{Value, json};

/// A refusal. Source: meta/v1 Status, and apimachinery's `api/errors`.
#[derive(Clone, Debug)]
pub(super) struct Status {
    pub(super) code: u16,
    pub(super) reason: &'static str,
    pub(super) message: String,
    pub(super) details: Value,
    /// A token to go on with, of an expired list.
    pub(super) continue_token: Option<String>,
    /// Only where nothing can have been written: clients then repeat by themselves.
    pub(super) retry_after: Option<u32>,
}

impl Status {
    pub(super) fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self { code, reason, message: message.into(), details: Value::Null, continue_token: None, retry_after: None }
    }
    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }
    pub(super) fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized")
    }
    /// No such path, group or resource.
    pub(super) fn no_path() -> Self {
        Self { details: json!({}), ..Self::new(404, "NotFound", "the server could not find the requested resource") }
    }
    /// `resource` is the plural with its group: `machines.autovibe.dev`.
    pub(super) fn not_found(resource: &str, name: &str) -> Self {
        Self { details: of(resource, name), ..Self::new(404, "NotFound", format!("{resource} {name:?} not found")) }
    }
    pub(super) fn method_not_allowed() -> Self {
        Self::new(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
    }
    pub(super) fn conflict(resource: &str, name: &str, message: &str) -> Self {
        let message = format!("Operation cannot be fulfilled on {resource} \"{name}\": {message}");
        Self { details: of(resource, name), ..Self::new(409, "Conflict", message) }
    }
    pub(super) fn unsupported_media(accepted: &[&str]) -> Self {
        let list = accepted.join(", ");
        Self::new(
            415,
            "UnsupportedMediaType",
            format!("the body of the request was in an unknown format - accepted media types include: {list}"),
        )
    }
    pub(super) fn not_acceptable() -> Self {
        Self::new(406, "NotAcceptable", "only the following media types are accepted: application/json, application/yaml")
    }
    pub(super) fn too_large() -> Self {
        Self::new(413, "RequestEntityTooLarge", "the request is too large: a body may have at most 3 MiB")
    }
    /// More than [`super::body`] takes of an object's single values.
    pub(super) fn too_many_values(most: usize) -> Self {
        Self::new(413, "RequestEntityTooLarge", format!("the request is too large: an object may have at most {most} values"))
    }
    pub(super) fn too_many_requests() -> Self {
        let message = "too many requests run at once, please try again later";
        Self { details: json!({"retryAfterSeconds": 1}), retry_after: Some(1), ..Self::new(429, "TooManyRequests", message) }
    }
    pub(super) fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }
    /// Ends a watch whose client reads too slowly. Clients pause and go on from the last revision that they saw.
    pub(super) fn too_slow(cursor: crate::store::Revision) -> Self {
        let message = format!(
            "this watch was cut: its client reads more slowly than the resource changes, and has not seen what came after \
             resourceVersion {}; watch again from there",
            cursor.0
        );
        Self { details: json!({"retryAfterSeconds": 1}), retry_after: Some(1), ..Self::new(429, "TooManyRequests", message) }
    }
    /// Hides `cause` from the caller and logs it.
    pub(super) fn internal(cause: &dyn std::fmt::Display) -> Self {
        tracing::error!("a request failed: {cause}");
        Self::new(500, "InternalError", "Internal error occurred: the server could not do it; its log says why under this Audit-Id")
    }
    /// One wrong parameter of an options kind (`ListOptions`, `PatchOptions`, `DeleteOptions`).
    pub(super) fn invalid_option(kind: &str, field: &str, cause: &'static str, body: &str) -> Self {
        Self {
            details: json!({"group": "meta.k8s.io", "kind": kind, "causes": [{"reason": cause, "message": body, "field": field}]}),
            ..Self::new(422, "Invalid", format!("{kind}.meta.k8s.io \"\" is invalid: {field}: {body}"))
        }
    }
    pub(super) fn future_revision(asked: i64, current: i64) -> Self {
        Self {
            details: json!({"causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}], "retryAfterSeconds": 1}),
            retry_after: Some(1),
            ..Self::new(504, "Timeout", format!("Timeout: Too large resource version: {asked}, current: {current}"))
        }
    }

    /// The wire's object.
    pub(super) fn to_value(&self) -> Value {
        let mut metadata = json!({});
        if let Some(token) = &self.continue_token {
            metadata["continue"] = json!(token);
        }
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": metadata, "status": "Failure",
            "message": self.message, "reason": self.reason, "code": self.code,
        });
        if !self.details.is_null() {
            status["details"] = self.details.clone();
        }
        status
    }

    pub(super) fn into_response(self) -> Response {
        let code = StatusCode::from_u16(self.code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = Response::new(Body::from(self.to_value().to_string()));
        *response.status_mut() = code;
        response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
        if let Some(seconds) = self.retry_after {
            response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
        }
        response
    }
}

/// `details` that name an object by its plural.
fn of(resource: &str, name: &str) -> Value {
    let (plural, group) = resource.split_once('.').unwrap_or((resource, ""));
    let mut details = json!({"name": name, "kind": plural});
    if !group.is_empty() {
        details["group"] = json!(group);
    }
    details
}

impl From<objects::Error> for Status {
    fn from(error: objects::Error) -> Self {
        let message = error.to_string();
        match error {
            objects::Error::NotFound { resource, name } => Self::not_found(&resource, &name),
            objects::Error::AlreadyExists { resource, name } => {
                Self { details: of(&resource, &name), ..Self::new(409, "AlreadyExists", message) }
            }
            objects::Error::Conflict { resource, name, .. } => {
                Self { details: of(&resource, &name), ..Self::new(409, "Conflict", message) }
            }
            objects::Error::Invalid { group, kind, name, errors } => invalid(&group, &kind, &name, &errors),
            // Upstream says no more than this; the reason is in the log.
            objects::Error::Unprocessable(why) => {
                tracing::debug!("a patch did not fit its object: {why}");
                let message = "the server rejected our request due to an error in our request";
                Self { details: json!({}), ..Self::new(422, "Invalid", message) }
            }
            objects::Error::BadRequest(message) => Self::bad_request(message),
            objects::Error::Forbidden(message) => Self::new(403, "Forbidden", message),
            objects::Error::Terminating { resource, name, namespace } => {
                let mut details = of(&resource, &name);
                let cause = format!("namespace {namespace} is being terminated");
                details["causes"] = json!([{"reason": "NamespaceTerminating", "message": cause, "field": "metadata.namespace"}]);
                Self { details, ..Self::new(403, "Forbidden", message) }
            }
            objects::Error::Expired(message) => Self::expired(message),
            objects::Error::Unreadable { .. } => Self::internal(&error),
            objects::Error::Store(error) => error.into(),
        }
    }
}

impl From<store::Error> for Status {
    fn from(error: store::Error) -> Self {
        match error {
            store::Error::Expired { requested, oldest } => {
                Self::expired(format!("too old resource version: {} ({})", requested.0, oldest.0))
            }
            store::Error::NotFound(key) => Self::not_found(&key.resource, &key.name),
            store::Error::NotCommitted(why) => {
                tracing::warn!("a write was not committed: {why}");
                let message = "the write could not be completed at this time, please try again";
                Self { details: json!({"retryAfterSeconds": 1}), retry_after: Some(1), ..Self::new(500, "ServerTimeout", message) }
            }
            // The latter when it refuses a session that it once gave.
            store::Error::Unavailable(why) | store::Error::Url(why) => {
                tracing::warn!("the database is not available: {why}");
                let message = "the database is not available now, please try again";
                Self { details: json!({"retryAfterSeconds": 1}), retry_after: Some(1), ..Self::new(503, "ServiceUnavailable", message) }
            }
            store::Error::Unknown(why) => {
                tracing::error!("whether a write was committed is not known: {why}");
                Self::new(504, "Timeout", "the write may or may not have been completed; read the object before you try again")
            }
            store::Error::Fenced { ours, theirs } => {
                Self { details: json!({"ours": ours, "theirs": theirs}), ..Self::new(412, "Fenced", error.to_string()) }
            }
            store::Error::Closed => Self::new(503, "ServiceUnavailable", "the server is shutting down; try again"),
            error => Self::internal(&error),
        }
    }
}

/// Wrong fields: one cause each; `details.kind` is the Kind here, unlike everywhere else.
pub(super) fn invalid(group: &str, kind: &str, name: &str, errors: &[crate::api::FieldError]) -> Status {
    let qualified = if group.is_empty() { kind.to_owned() } else { format!("{kind}.{group}") };
    let all: Vec<String> = errors.iter().map(ToString::to_string).collect();
    let text = if let [one] = all.as_slice() { one.clone() } else { format!("[{}]", all.join(", ")) };
    let causes: Vec<Value> = errors.iter().map(|e| json!({"reason": e.reason(), "message": e.body(), "field": e.field})).collect();
    let mut details = json!({"name": name, "kind": kind, "causes": causes});
    if !group.is_empty() {
        details["group"] = json!(group);
    }
    Status { details, ..Status::new(422, "Invalid", format!("{qualified} {name:?} is invalid: {text}")) }
}
