//! A VM that becomes someone else's: its number is handed on, and whoever made the new one copied our tag.

use super::gate::{Moment, Plan, Point};
use super::life::{each, life};
use super::planted::Bug;
use super::stage::{Stage, simulate};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const VMID: u32 = 1000;
const THEIRS: &str = "uuid=0f0f0f0f-0000-4000-8000-000000000000";

/// Lives until long after VM 1000 has become someone else's, right before a call. It must be as they left it.
pub(super) fn live(bug: Option<Bug>, what: &str, call: usize) {
    let what = what.to_owned();
    simulate(0, async move || {
        let taken: Arc<Mutex<bool>> = Arc::default();
        let lab = Arc::new(Mutex::new(None::<Arc<autovibe::lab::Lab>>));
        let (of_plan, theirs) = (lab.clone(), taken.clone());
        let take = move |number: usize, _: &str| {
            if number >= call
                && let Some(lab) = &*of_plan.lock().unwrap()
                && lab.configs().get(&VMID).is_some_and(|config| config.contains_key("smbios1"))
                && !std::mem::replace(&mut *theirs.lock().unwrap(), true)
            {
                lab.edit_config(VMID, "smbios1", Some(THEIRS));
            }
            None
        };
        let stage = Stage::with(bug, Plan { fault: Some(Box::new(take)), ..Plan::default() }).await;
        *lab.lock().unwrap() = Some(stage.lab.clone());
        stage.create("a", life()).await;
        let mut before = None;
        for _ in 0..60 {
            tokio::time::sleep(Duration::from_mins(1)).await;
            if *taken.lock().unwrap() {
                let now = (stage.lab.configs().remove(&VMID), stage.lab.vms().remove(&VMID));
                let before = before.get_or_insert_with(|| now.clone());
                assert_eq!(&now, before, "{what}: someone else's VM is not as it was");
                assert!(now.0.is_some(), "{what}: someone else's VM was deleted");
            }
        }
        stage.invariants.assert(&what);
    });
}

/// Numbers of the calls before which it may happen. Not the deletion: Proxmox deletes without a condition. What comes right
/// before it is bound to the digest of the config that both marks were read from.
pub(super) fn calls(points: &[Point]) -> Vec<usize> {
    let calls = points.iter().filter(|point| point.moment == Moment::BeforeSend);
    (1..).zip(calls).filter(|(_, call)| !call.what.starts_with("DELETE")).map(|(number, _)| number).collect()
}

#[test]
fn a_vm_that_became_someone_elses_is_left_alone() {
    let calls = calls(&super::life::live("no fault", 0, vec![]).points);
    each(calls.len(), |case| live(None, &format!("taken before call {}", calls[case]), calls[case]));
}
