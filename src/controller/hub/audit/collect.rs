//! Destroys what this installation made and nothing needs, as the audit shows it.

use super::judge::unused;
use super::look::Evidence;
use crate::api::hub::Finding;
use crate::driver::Driver;

/// Returns the names of what was destroyed, as findings have them: `named` makes those. Their findings go; those of what was not
/// destroyed say why.
pub(super) async fn collect(
    evidence: &Evidence,
    named: &(impl Fn(&str) -> String + Sync),
    findings: &mut Vec<Finding>,
    before: &[Finding],
    driver: &Driver,
) -> Vec<String> {
    let (snapshots, disks) = unused(evidence, named, findings, before);
    let mut collected = Vec::new();
    // Snapshots first: a disk that carries one stays.
    for snapshot in snapshots {
        let outcome = driver.destroy_unused_snapshot(snapshot).await;
        settle(&named(&snapshot.name.to_string()), outcome, findings, &mut collected);
    }
    for disk in disks {
        let outcome = driver.destroy_unused_disk(disk).await;
        settle(&named(&disk.name.to_string()), outcome, findings, &mut collected);
    }
    if !collected.is_empty() {
        tracing::info!(object.name = evidence.hub, "the audit collected {}", collected.join(", "));
    }
    collected
}

fn settle(name: &str, outcome: Result<(), crate::driver::Error>, findings: &mut Vec<Finding>, collected: &mut Vec<String>) {
    match outcome {
        Ok(()) => {
            findings.retain(|finding| finding.name != name);
            collected.push(name.to_owned());
        }
        Err(error) => findings.iter_mut().filter(|finding| finding.name == name).for_each(|finding| {
            finding.message = format!("{}; it was not collected: {error}", finding.message);
        }),
    }
}
