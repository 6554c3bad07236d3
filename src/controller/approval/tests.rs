//! What is next for an Approval, and how its news are signed.

use super::plan::{Plan, Step, plan};
use super::webhook::signature;
use crate::api::Approval;
use crate::runtime::Requeue;
use jiff::Timestamp;
use serde_json::{Value, json};
use std::time::Duration;

fn approval(status: Value) -> Approval {
    let spec = json!({ "machine": "m", "tool": "Bash", "asks": "git push", "call": "c", "class": 4, "rule": "git push, which leaves the VM",
        "expiresAt": "2026-11-22T12:10:00Z" });
    serde_json::from_value(json!({ "metadata": { "name": "m-1" }, "spec": spec, "status": status })).unwrap()
}

#[test]
fn it_is_told_once_and_closed_in_time() {
    let at = |text: &str| -> Timestamp { text.parse().unwrap() };
    let check = |status: Value, tells: bool, now: &str, step: Option<Step>, requeue: Requeue| {
        assert_eq!(plan(&approval(status.clone()), tells, at(now)), Plan { step, requeue }, "{status} {tells} {now}");
    };
    let (start, left) = ("2026-11-22T12:00:00Z", Requeue::After(Duration::from_mins(10)));
    let pending = json!({ "phase": "Pending" });
    check(pending.clone(), true, start, Some(Step::Notify), left);
    check(pending.clone(), false, start, None, left);
    check(json!({ "phase": "Pending", "notifiedAt": start }), true, start, None, left);
    check(pending, true, "2026-11-22T12:10:00Z", Some(Step::Expire), Requeue::Never);
    for phase in ["Approved", "Denied", "Expired"] {
        check(json!({ "phase": phase }), true, start, None, Requeue::Never);
    }
}

/// Source: GitHub, "Validating webhook deliveries", its test values.
#[test]
fn a_body_is_signed_as_github_signs_it() {
    let expected = "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
    assert_eq!(signature(b"It's a Secret to Everybody", b"Hello, World!"), expected);
}
