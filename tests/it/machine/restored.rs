//! D11: a backup is restored that is older than the world. What is younger than it is named and left alone.

use super::stage::{Stage, status};
use autovibe::api::{Hub, Kind, hub::HubStatus, machine::Phase};
use autovibe::clock::Clock;
use autovibe::driver::{made_by, storage::MADE_BY};
use autovibe::store::{Replace, backup, restore};
use autovibe::zfs::{Dataset, Runner, Zfs};
use futures::StreamExt;
use serde_json::json;
use std::{collections::BTreeSet, time::Duration};

async fn until_hub(stage: &Stage, wanted: impl Fn(&HubStatus) -> bool) -> HubStatus {
    let mut changes = stage.objects().watch::<Hub>();
    let waited = tokio::time::timeout(Duration::from_mins(1), async {
        loop {
            let found = changes.next().await.expect("the store is open").object.status.unwrap_or_default();
            if wanted(&found) {
                return found;
            }
        }
    });
    waited.await.expect("the Hub says it")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d11_vms_that_are_younger_than_a_restored_backup_are_named_and_left_alone() {
    let mut stage = Stage::new().await;
    let runs = json!({ "goal": { "prompt": "#sim turns=0 hang=true" } });
    let waits = json!({ "goal": { "prompt": "#sim turns=0 hang=true", "after": ["gate"] } });
    stage.create("old", runs.clone()).await;
    stage.create("half", waits).await;
    let old = status(&stage.until_phase("old", Phase::Running).await).vm.unwrap();
    let file = tempfile::tempdir().unwrap();
    let file = file.path().join("backup");
    backup(&stage.database(), &file).await.unwrap();

    // The world goes on: one Machine is made, and one that waited gets its VM.
    stage.create("young", runs.clone()).await;
    stage.create("gate", json!({})).await;
    let young = stage.until_phase("young", Phase::Running).await;
    let half = status(&stage.until_phase("half", Phase::Running).await).vm.unwrap();
    let vmid = status(&young).vm.unwrap().vmid;
    let (config, datasets) = (stage.config(vmid).await, stage.datasets());
    assert!(until_hub(&stage, |hub| hub.conditions.iter().any(|c| c.type_ == "Ready")).await.unowned_vms.is_empty());
    stage.stop().await;
    restore(&file, &stage.database(), Replace::Overwrite, &Clock::system()).await.unwrap();
    stage.start(None).await;

    let hub = until_hub(&stage, |hub| hub.unowned_vms.len() == 2).await;
    let mut named: Vec<_> = hub.unowned_vms.iter().map(|vm| (vm.name.as_str(), vm.vmid)).collect();
    named.sort_unstable();
    assert_eq!(named, [("half", half.vmid), ("young", vmid)]);
    let said = |kind: &str| hub.conditions.iter().find(|c| c.type_ == kind).map(|c| (c.status.as_str(), c.message.as_str()));
    assert!(said("UnownedVms").is_some_and(|(is, why)| is == "True" && why.contains("default/young")), "{hub:?}");
    assert!(said("LedgerGap").is_some_and(|(is, why)| is == "True" && why.contains("a backup was restored")), "{hub:?}");

    // Who comes now gets another number, also one of the lost one's name.
    stage.create("young", runs.clone()).await;
    stage.create("new", runs).await;
    for name in ["young", "new"] {
        let given = status(&stage.until_phase(name, Phase::Running).await).vm.unwrap().vmid;
        assert!(![old.vmid, half.vmid, vmid].contains(&given), "{given} was given again");
    }
    // Their disks say that another line of the database made them: what this one does not know may be what it lost.
    let zfs = Zfs::open(Runner::Socket(stage.lab.endpoint().zfs_socket.clone().unwrap())).await.unwrap();
    let mut lines = BTreeSet::new();
    for vmid in [vmid, status(&stage.get("new").await).vm.unwrap().vmid] {
        let disk = zfs.dataset(&Dataset(format!("tank/data/vm-{vmid}-disk-0"))).await.unwrap().unwrap();
        lines.insert(disk.properties[MADE_BY].clone());
    }
    let installation = stage.store().installation();
    assert_eq!(lines, [0, 1].map(|line| made_by(installation, line)).into());

    // The one that waited and has a VM already, gets that one back, and not a second.
    stage.create("gate", json!({})).await;
    let again = status(&stage.until_phase("half", Phase::Running).await).vm.unwrap();
    assert_eq!(again.vmid, half.vmid);
    assert_eq!(stage.vms().values().filter(|name| *name == "half").count(), 1, "{:?}", stage.vms());
    let hub = until_hub(&stage, |hub| hub.unowned_vms.len() == 1).await;
    assert_eq!(hub.unowned_vms[0].machine_uid, young.uid());

    // What was running then is still looked after; what is lost is as it was.
    assert_eq!(status(&stage.get("old").await).vm.unwrap().vmid, old.vmid);
    assert_eq!(stage.config(vmid).await, config, "nothing has touched it");
    let disks: Vec<_> = datasets.iter().filter(|name| name.contains(&format!("vm-{vmid}-"))).collect();
    assert!(!disks.is_empty() && disks.iter().all(|disk| stage.datasets().contains(disk)));
    stage.stop().await;
}
