//! The slow look at everything: what is in the pool and in Proxmox against what the objects say. It changes nothing, unless a person
//! asks it to collect.

mod collect;
mod judge;
mod look;
#[cfg(test)]
mod tests;

use super::observe::Link;
use crate::api::hub::{AUDIT, Audit, COLLECT};
use crate::api::{Hub, Kind};
use crate::controller::{Context, Error};
use jiff::{SignedDuration, Timestamp};

/// So many findings are told in full.
const MOST: usize = 50;
/// Nobody needs to ask.
const EVERY: SignedDuration = SignedDuration::from_hours(24);
/// How soon one that could not be done is tried again.
const AGAIN: SignedDuration = SignedDuration::from_mins(5);

/// What asks for one.
fn asked(hub: &Hub) -> Option<String> {
    hub.annotation(AUDIT).map(str::to_owned)
}

/// Whether it is time for one.
pub(super) fn is_due(hub: &Hub, now: Timestamp) -> bool {
    let asked = asked(hub);
    let Some(last) = hub.status.as_ref().and_then(|status| status.audit.as_ref()) else {
        // The first one comes with the first day, when there is something to look at.
        let created = hub.metadata.creation_timestamp.as_ref().map_or(now, |created| created.0);
        return asked.is_some() || now.duration_since(created) >= EVERY;
    };
    let wait = if last.message.is_some() { AGAIN } else { EVERY };
    let old = last.at.as_ref().is_none_or(|at| now.duration_since(at.0) >= wait);
    old || asked.is_some() && asked != last.asked
}

/// Looks, and says what was found. What cannot be seen is no evidence: then what was found before stands, and why it is old.
///
/// Errors: only of our own store.
pub(super) async fn audit(hub: &Hub, link: &Link, context: &Context) -> Result<Audit, Error> {
    let (at, asked) = (Some(context.objects.clock().api_now()), asked(hub));
    let evidence = match look::look(hub, link, context).await? {
        Ok(evidence) => evidence,
        Err(why) => {
            let before = hub.status.as_ref().and_then(|status| status.audit.clone()).unwrap_or_default();
            return Ok(Audit { at, asked, message: Some(why), ..before });
        }
    };
    let count = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
    let mut findings = judge::judge(&evidence);
    let before = hub.status.as_ref().and_then(|status| status.audit.as_ref());
    // Once for each time that a person asks.
    let collects = asked.is_some() && hub.annotation(COLLECT) == asked.as_deref() && before.is_some_and(|before| before.asked != asked);
    let collected = match before.filter(|_| collects) {
        Some(before) => collect::collect(&evidence, &mut findings, &before.findings, &link.driver).await,
        None => Vec::new(),
    };
    let found = count(findings.len());
    findings.truncate(MOST);
    tracing::info!(object.name = hub.name(), "the audit found {found} things that do not agree");
    Ok(Audit {
        at,
        asked,
        message: None,
        datasets: count(evidence.datasets.len()),
        snapshots: count(evidence.snapshots.len()),
        vms: count(evidence.vms.len()),
        findings,
        found,
        collected,
    })
}
