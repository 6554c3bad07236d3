//! Decides what a Hub needs: pure.

use super::observe::{Observed, State};
use crate::api::Hub;
use crate::clock::Retry;
use crate::controller::kstatus::Readiness;
use crate::driver;
use crate::proxmox;
use crate::runtime::{Requeue, Seen};
use std::{collections::BTreeMap, path::PathBuf, time::Duration};

/// How soon a Hub is tried again whose Proxmox, ZFS, Secret or image was not there.
const AGAIN: Duration = Duration::from_secs(5);
/// How soon one is tried again that a person must repair: Proxmox and ZFS do not tell when they are.
const SETTLED: Duration = Duration::from_mins(1);

/// Proxmox refuses the credential. Looking again soon is for a Secret that changes: Proxmox itself is not asked then.
const REFUSED: &str = "CredentialRefused";

/// What is to be done, and how the Hub stands.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Plan {
    /// Image name → file to import.
    pub(super) imports: BTreeMap<String, PathBuf>,
    /// Image name → why it is not ready.
    pub(super) missing: BTreeMap<String, String>,
    pub(super) readiness: Readiness,
    pub(super) requeue: Requeue,
}

pub(super) fn plan(hub: &Hub, observed: &Observed, resync: Duration) -> Plan {
    let again = Requeue::After(AGAIN);
    let nothing = |readiness, requeue| Plan { imports: BTreeMap::new(), missing: BTreeMap::new(), readiness, requeue };
    let version = match &observed.state {
        State::Waiting(waiting) => return nothing(Readiness::waiting("ConnectionIncomplete", &waiting.0), again),
        State::Unreachable(error) => return refused(error),
        State::Refused(why) => return nothing(Readiness::stalled(REFUSED, why), again),
        State::Open { version } => version,
    };
    let (mut imports, mut missing) = (BTreeMap::new(), BTreeMap::new());
    for image in &hub.spec.images {
        match (observed.images.get(&image.name), &image.file) {
            (Some(Seen::Present(_)), _) => {}
            (Some(Seen::Unknown { why }), _) => {
                missing.insert(image.name.clone(), why.clone());
            }
            (Some(Seen::Absent) | None, Some(file)) => {
                imports.insert(image.name.clone(), PathBuf::from(file));
                missing.insert(image.name.clone(), format!("{file} is being imported"));
            }
            (Some(Seen::Absent) | None, None) => {
                missing.insert(image.name.clone(), "its snapshot or template does not exist".into());
            }
        }
    }
    let lacks = observed.lacking.as_ref().is_some_and(|lacking| !lacking.is_empty());
    let (readiness, requeue) = match (version, missing.iter().next()) {
        (Seen::Unknown { why }, _) => (Readiness::waiting("Unreachable", format!("Proxmox does not answer: {why}")), again),
        (_, Some((name, why))) => {
            let reason = if imports.is_empty() { "ImageMissing" } else { "Importing" };
            (Readiness::waiting(reason, format!("image {name}: {why}")), again)
        }
        (Seen::Present(_) | Seen::Absent, None) => (
            Readiness::Ready { reason: "Ready", message: "Proxmox and its storage answer, all images are there".into() },
            Requeue::After(if lacks { SETTLED.min(resync) } else { resync }),
        ),
    };
    Plan { imports, missing, readiness, requeue }
}

/// How a Hub stands whose connection did not come about.
fn refused(error: &driver::Error) -> Plan {
    let (readiness, wait) = match error.retry() {
        _ if matches!(error, driver::Error::Proxmox(proxmox::Error::Unauthorized { .. })) => {
            (Readiness::stalled(REFUSED, error.to_string()), AGAIN)
        }
        Retry::Never => (Readiness::stalled("ConnectionRefused", error.to_string()), SETTLED),
        Retry::Soon => (Readiness::waiting("Unreachable", error.to_string()), AGAIN),
        Retry::After(wait) => (Readiness::waiting("Unreachable", error.to_string()), wait.max(AGAIN)),
    };
    Plan { imports: BTreeMap::new(), missing: BTreeMap::new(), readiness, requeue: Requeue::After(wait) }
}
