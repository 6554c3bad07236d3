//! The slow look at everything: what is in the pool and in Proxmox against what the objects say. It changes nothing, unless a person
//! asks it to collect.

mod collect;
mod judge;
mod look;
#[cfg(test)]
mod tests;

use super::observe::Link;
use crate::api::hub::{AUDIT, Audit, COLLECT, Finding, FindingKind};
use crate::api::{Hub, Kind};
use crate::controller::{Context, Error};
use crate::proxmox::Node;
use jiff::{SignedDuration, Timestamp};
use std::collections::BTreeSet;

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
    // Once for each time that a person asks.
    let before = hub.status.as_ref().and_then(|status| status.audit.as_ref());
    let collects = asked.is_some() && hub.annotation(COLLECT) == asked.as_deref() && before.is_some_and(|before| before.asked != asked);
    let mut all = Audit { at, asked, ..Audit::default() };
    let mut evidence = Vec::new();
    for node in link.driver.nodes() {
        let seen = match look::look(hub, link, node, context).await? {
            Ok(seen) => seen,
            Err(why) => {
                let before = before.cloned().unwrap_or_default();
                return Ok(Audit { at: all.at, asked: all.asked, message: Some(why), ..before });
            }
        };
        all.datasets += count(seen.datasets.len());
        all.snapshots += count(seen.snapshots.len());
        all.vms = count(seen.vms.len());
        evidence.push((node, seen));
    }
    let mut findings = together(evidence.iter().map(|(node, seen)| (*node, judge::judge(seen))).collect());
    for (node, seen) in evidence.iter().filter(|_| collects) {
        let named = |name: &str| if evidence.len() == 1 { name.to_owned() } else { on_node(name, node) };
        // One that went away since it was looked at is left for the next time.
        if let (Some(before), Ok(driver)) = (before, link.driver.at(node).await) {
            all.collected.extend(collect::collect(seen, &named, &mut findings, &before.findings, &driver).await);
        }
    }
    all.found = count(findings.len());
    findings.truncate(MOST);
    tracing::info!(object.name = hub.name(), "the audit found {} things that do not agree", all.found);
    all.findings = findings;
    Ok(all)
}

fn count(length: usize) -> u32 {
    u32::try_from(length).unwrap_or(u32::MAX)
}

fn on_node(name: &str, node: &Node) -> String {
    format!("{name} on node {node}")
}

/// The findings of all nodes. What lies in one pool names its node; a VMID that nothing bears here may be borne there.
fn together(mut found: Vec<(&Node, Vec<Finding>)>) -> Vec<Finding> {
    if let [(_, only)] = &mut found[..] {
        return std::mem::take(only);
    }
    let everywhere = |finding: &Finding| found.iter().all(|(_, findings)| findings.contains(finding));
    let mut all = BTreeSet::new();
    for (node, findings) in &found {
        for finding in findings {
            let in_pool = matches!(finding.kind, FindingKind::SnapshotUnused | FindingKind::DiskUnused)
                || (finding.kind == FindingKind::Foreign && finding.name.contains('/'));
            if in_pool {
                all.insert(Finding { name: on_node(&finding.name, node), ..finding.clone() });
            } else if finding.kind != FindingKind::LeaseUnused || everywhere(finding) {
                all.insert(finding.clone());
            }
        }
    }
    all.into_iter().collect()
}
