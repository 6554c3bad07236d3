//! What an Event must be. Source: Kubernetes `pkg/apis/core/validation/events.go`, whose names of fields are core's.
//!
//! Those with an eventTime are complete; older clients write v1 Events without one, of which less is asked. Who writes
//! through `events.k8s.io/v1` writes complete ones and changes nothing but their series.

use super::names;
use crate::api::FieldError;
use serde_json::Value;

/// Bytes of action, reason and reportingInstance.
const WORD: usize = 128;
/// Bytes of the message.
const NOTE: usize = 1024;

fn text<'v>(event: &'v Value, field: &str) -> &'v str {
    event[field].as_str().unwrap_or_default()
}

/// Rules of both versions.
pub(super) fn validate(event: &Value) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let (involved, own) = (text(&event["involvedObject"], "namespace"), text(&event["metadata"], "namespace"));
    let is_complete = !event["eventTime"].is_null();
    // The object has no namespace: then its Events are in one that upstream takes for such.
    let matches = match (involved, is_complete) {
        ("", _) => matches!(own, "default" | "kube-system"),
        (_, true) => true,
        (involved, false) => involved == own,
    };
    if !matches {
        errors.push(FieldError::invalid("involvedObject.namespace", involved, "does not match event.namespace"));
    }
    if !is_complete {
        return errors;
    }
    let controller = text(event, "reportingComponent");
    if controller.is_empty() {
        errors.push(FieldError::required("reportingController", ""));
    }
    errors.extend(names::qualified(controller).map(|detail| FieldError::invalid("reportingController", controller, detail)));
    for (field, most) in [("reportingInstance", WORD), ("action", WORD), ("reason", WORD), ("message", NOTE)] {
        let given = text(event, field);
        if given.is_empty() && field != "message" {
            errors.push(FieldError::required(field, ""));
        }
        if given.len() > most {
            errors.push(FieldError::invalid(field, "", format!("can have at most {most} characters")));
        }
    }
    errors
}

/// What `events.k8s.io/v1` asks beyond that; `old` is what the Event replaces.
pub fn validate_new(event: &Value, old: Option<&Value>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    if old.is_none_or(|old| old["series"] != event["series"]) {
        series(&event["series"], &mut errors);
    }
    if let Some(old) = old {
        let fixed = [
            "involvedObject",
            "reason",
            "message",
            "source",
            "firstTimestamp",
            "lastTimestamp",
            "count",
            "type",
            "eventTime",
            "action",
            "related",
            "reportingComponent",
            "reportingInstance",
        ];
        for field in fixed.into_iter().filter(|field| event[*field] != old[*field]) {
            errors.push(FieldError::invalid(field, &event[field], "field is immutable"));
        }
        return errors;
    }
    if event["eventTime"].is_null() {
        errors.push(FieldError::required("eventTime", ""));
    }
    let kind = text(event, "type");
    if !matches!(kind, "Normal" | "Warning") {
        errors.push(FieldError::invalid("type", "", format!("has invalid value: {kind}")));
    }
    let source = &event["source"];
    for (field, is_set) in [
        ("firstTimestamp", !event["firstTimestamp"].is_null()),
        ("lastTimestamp", !event["lastTimestamp"].is_null()),
        ("count", event["count"].as_i64().is_some_and(|count| count != 0)),
        ("source", !text(source, "component").is_empty() || !text(source, "host").is_empty()),
    ] {
        if is_set {
            errors.push(FieldError::invalid(field, "", "needs to be unset"));
        }
    }
    errors
}

fn series(series: &Value, errors: &mut Vec<FieldError>) {
    if series.is_null() {
        return;
    }
    if series["count"].as_i64().unwrap_or_default() < 2 {
        errors.push(FieldError::invalid("series.count", "", "should be at least 2"));
    }
    if series["lastObservedTime"].is_null() {
        errors.push(FieldError::required("series.lastObservedTime", ""));
    }
}
