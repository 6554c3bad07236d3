//! What a Hub's status says: pure.

use super::observe::{Observed, State};
use super::plan::Plan;
use crate::api::hub::{HubStatus, ImageStatus};
use crate::api::{Hub, Kind};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

pub(super) fn status(hub: &Hub, observed: &Observed, plan: &Plan, now: &Time) -> HubStatus {
    let mut status = hub.status.clone().unwrap_or_default();
    status.observed_generation = Some(hub.generation());
    plan.readiness.apply(&mut status.conditions, hub.generation(), now);
    status.message = (!plan.readiness.is_ready()).then(|| plan.readiness.message().to_owned());
    if let State::Open { version } = &observed.state {
        if let Some(version) = version.present() {
            status.proxmox_version = Some(version.clone());
        }
        status.images = hub.spec.images.iter().map(|image| image_status(&image.name, observed, plan)).collect();
    }
    status
}

fn image_status(name: &str, observed: &Observed, plan: &Plan) -> ImageStatus {
    let image = observed.images.get(name).and_then(|seen| seen.present());
    let stale = image.filter(|image| image.stale).map(|image| {
        format!("the file changed since it was imported, and {} is what it was; give the new one another name", image.snapshot.dataset)
    });
    ImageStatus {
        name: name.to_owned(),
        snapshot: image.map(|image| image.snapshot.to_string()),
        guid: image.map(|image| image.guid.clone()),
        message: plan.missing.get(name).cloned().or(stale),
    }
}
