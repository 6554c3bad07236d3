//! Keeps each Hub's connection to its Proxmox and its ZFS, imports its images, and tells other controllers where it is.

mod act;
mod audit;
mod connection;
mod nodes;
mod observe;
mod plan;
mod providers;
mod registry;
mod status;
#[cfg(test)]
mod tests;
mod unowned;
mod verify;

pub use connection::Waiting;
pub use nodes::{low, usable};
pub use registry::{HubHandle, Hubs};

use super::{Context, Error, kstatus};
use crate::api::hub::HubStatus;
use crate::api::{Hub, Kind};
use crate::objects::EventType;
use crate::runtime::{Key, Requeue};
use std::sync::Arc;

/// Moves one Hub a step closer to its spec. Safe to call at any time, any number of times.
pub async fn reconcile(key: Key, context: Arc<Context>) -> Result<Requeue, Error> {
    let Some(hub) = context.objects.get::<Hub>("", &key.name).await? else {
        context.hubs.remove(&key.name).await;
        return Ok(Requeue::Never);
    };
    tracing::Span::current().record("object.uid", hub.uid());
    let mut observed = observe::observe(&hub, &context).await?;
    observed.keyless = providers::keyless(&hub, &context).await;
    let mut plan = plan::plan(&hub, &observed, context.config.resync);
    // What is ready can be used while the rest is imported.
    context.hubs.publish(&hub, &observed, plan.readiness.message()).await;
    if !plan.imports.is_empty() {
        write_status(&hub, &observed, &plan, &context).await?;
        observed = act::import(&plan, observed).await;
        plan = plan::plan(&hub, &observed, context.config.resync);
        context.hubs.publish(&hub, &observed, plan.readiness.message()).await;
    }
    if let Some(link) = observed.link.as_ref().filter(|_| audit::is_due(&hub, context.objects.clock().now())) {
        observed.audit = Some(audit::audit(&hub, link, &context).await?);
    }
    if let Some(link) = observed.link.as_ref().filter(|_| plan.readiness.is_ready() && verify::is_due(&hub, context.objects.clock().now()))
    {
        observed.verification = verify::ask(&hub, link, &context).await?;
    }
    let requeue = verify::no_later(plan.requeue, &hub, context.objects.clock().now());
    let hub = context.objects.get::<Hub>("", &key.name).await?.filter(|now| now.uid() == hub.uid());
    if let Some(hub) = hub {
        write_status(&hub, &observed, &plan, &context).await?;
    }
    Ok(requeue)
}

async fn write_status(hub: &Hub, observed: &observe::Observed, plan: &plan::Plan, context: &Context) -> Result<(), Error> {
    let before = hub.status.clone().unwrap_or_default();
    let after = status::status(hub, observed, plan, &context.objects.clock().api_now());
    if before == after {
        return Ok(());
    }
    let mut changed = hub.clone();
    changed.status = Some(after.clone());
    context.objects.update_status(&changed).await?;
    kstatus::record_change(&context.objects, hub, &before.conditions, &after.conditions).await;
    if before.lacking != after.lacking
        && let Some(found) = after.conditions.iter().find(|condition| condition.type_ == status::LACKING)
    {
        context.objects.record(hub, EventType::Warning, &found.reason, &found.message).await;
    }
    let keyless = |status: &HubStatus| status.conditions.iter().find(|found| found.type_ == status::KEYLESS).cloned();
    if let Some(found) = keyless(&after).filter(|found| keyless(&before).is_none_or(|old| old.message != found.message)) {
        context.objects.record(hub, EventType::Warning, &found.reason, &found.message).await;
    }
    let has = |status: &HubStatus, kind: &str| status.conditions.iter().any(|condition| condition.type_ == kind);
    for found in after.conditions.iter().filter(|found| [status::FIREWALL, status::STORAGE].contains(&found.type_.as_str())) {
        if !has(&before, &found.type_) {
            context.objects.record(hub, EventType::Warning, &found.reason, &found.message).await;
        }
    }
    if before.audit.as_ref().map(|audit| &audit.findings) != after.audit.as_ref().map(|audit| &audit.findings)
        && let Some(found) = after.conditions.iter().find(|condition| condition.type_ == status::AUDIT)
    {
        context.objects.record(hub, EventType::Warning, &found.reason, &found.message).await;
    }
    for message in status::newly_stale(&before, &after) {
        context.objects.record(hub, EventType::Warning, "ImageStale", &message).await;
    }
    if before.unowned_vms != after.unowned_vms
        && let Some(found) = after.conditions.iter().find(|condition| condition.type_ == status::UNOWNED)
    {
        context.objects.record(hub, EventType::Warning, &found.reason, &found.message).await;
    }
    Ok(())
}
