//! Who decided an Approval, and when: what the server itself says of a write, never what its sender says.

use super::Part;
use crate::admission::Resource;
use crate::api::{Approval, GROUP, Kind};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

/// Who decides, where the hub's own code does.
const HUB: &str = "autovibe";

/// Notes on an Approval that was not decided before, and is now, by whom.
pub(super) fn complete(resource: &Resource, part: Part, document: &mut Value, before: Option<&Value>, user: Option<&str>, now: &Time) {
    if resource.group != GROUP || resource.kind != Approval::KIND || part != Part::Main {
        return;
    }
    if before.is_none() {
        document["status"] = json!({ "phase": "Pending" });
    }
    let was_open = before.is_none_or(|before| before["spec"]["decision"].is_null());
    // One that has expired is over; admission says so.
    let is_pending = document["status"]["phase"].as_str().is_none_or(|phase| phase == "Pending");
    if let Some(decision) = document["spec"]["decision"].as_str().map(str::to_owned)
        && was_open
        && is_pending
    {
        let status = &mut document["status"];
        status["phase"] = decision.into();
        status["decidedBy"] = user.unwrap_or(HUB).into();
        status["decidedAt"] = json!(now);
    }
}
