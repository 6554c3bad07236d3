//! Answers as HTTP responses.

use super::negotiate::Encoding;
use axum::{
    body::Body,
    http::{
        HeaderMap, HeaderName, HeaderValue, StatusCode,
        header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, IF_NONE_MATCH, VARY, WARNING},
    },
    response::Response,
};
use bytes::Bytes;
use serde_json::Value;

/// Where a request is named, in the answer and in the log.
pub(super) const AUDIT_ID: HeaderName = HeaderName::from_static("audit-id");
/// How much text of warnings an answer carries. Source: apiserver `truncateAtTotalRunes`.
const WARNINGS_TOTAL: usize = 4096;
const WARNING_CUT: usize = 256;

pub(super) fn encoded(code: u16, value: &Value, encoding: Encoding) -> Response {
    let yaml = if encoding == Encoding::Yaml { serde_yaml::to_string(value).ok() } else { None };
    match yaml {
        Some(text) => with_type(code, text, "application/yaml"),
        None => with_type(code, value.to_string(), "application/json"),
    }
}

pub(super) fn with_type(code: u16, body: impl Into<Body>, content_type: &'static str) -> Response {
    let mut response = Response::new(body.into());
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

/// One JSON document a line, as long as it lasts.
pub(super) fn stream(body: Body) -> Response {
    with_type(200, body, "application/json")
}

/// A document that clients keep: with a strong tag, and nothing but that when they have it already.
pub(super) fn document(request: &HeaderMap, body: Bytes, tag: &str, content_type: &'static str) -> Response {
    let tag = format!("\"{tag}\"");
    let known = request.get_all(IF_NONE_MATCH).iter().filter_map(|v| v.to_str().ok()).flat_map(|v| v.split(','));
    let known = known.map(|t| t.trim().trim_start_matches("W/")).any(|t| t == tag || t == "*");
    let mut response = if known { with_type(304, Body::empty(), content_type) } else { with_type(200, body, content_type) };
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("public"));
    headers.insert(VARY, HeaderValue::from_static("Accept"));
    if let Ok(tag) = HeaderValue::from_str(&tag) {
        headers.insert(ETAG, tag);
    }
    response
}

/// Adds `Warning` headers, which kubectl prints. Source: RFC 7234 §5.5, code 299.
pub(super) fn warn(response: &mut Response, warnings: &[String]) {
    let total: usize = warnings.iter().map(|w| w.chars().count()).sum();
    let mut seen: Vec<&String> = Vec::new();
    let mut left = WARNINGS_TOTAL;
    for warning in warnings {
        if seen.contains(&warning) {
            continue;
        }
        seen.push(warning);
        let cut = if total > WARNINGS_TOTAL { WARNING_CUT } else { usize::MAX };
        let text: String = warning.chars().filter(|c| !c.is_control()).take(cut).collect();
        let Some(rest) = left.checked_sub(text.chars().count()) else { break };
        left = rest;
        let text = text.replace('\\', "\\\\").replace('"', "\\\"");
        if let Ok(value) = HeaderValue::from_bytes(format!("299 - \"{text}\"").as_bytes()) {
            response.headers_mut().append(WARNING, value);
        }
    }
}
