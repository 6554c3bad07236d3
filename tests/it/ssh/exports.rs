//! An export to another pool and back on this machine's own ZFS, through the API, a real sshd and the helper (skipped aloud where no ZFS
//! answers).

use super::lives::infrastructure;
use super::pools::{Pool, pool};
use super::sshd::Sshd;
use crate::machine::imported::{ran, serve, until, until_open};
use crate::machine::stage::{NAMESPACE, Stage};
use crate::own_zfs::{unmount_again, zfs, zpool};
use crate::process::{autovibe, refused, said};
use autovibe::api::Checkpoint;
use autovibe::api::checkpoint::CheckpointPhase;
use autovibe::driver::Door;
use autovibe::zfs::{Dataset, Runner, Zfs};
use serde_json::json;

const NAME: &str = "first";

async fn hub(stage: &Stage, own: &Pool, sshd: &Sshd, export: &str) {
    let at = stage.lab.endpoint().clone();
    let mut infrastructure = infrastructure(stage, sshd, &own.data(), &own.keep()).await;
    infrastructure["exportTo"] = json!([export]);
    let file = own.dir.path().join("image.raw");
    std::fs::write(&file, (0..2_000_000_u32).flat_map(u32::to_le_bytes).collect::<Vec<u8>>()).unwrap();
    stage.create_hub_with(infrastructure, Some(&at.gateway_url), json!({ "name": "debian", "file": file })).await;
}

async fn phase(stage: &Stage) -> Option<CheckpointPhase> {
    stage.checkpoint(NAME).await.map(|found| found.status.unwrap_or_default().phase)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_checkpoint_is_carried_in_a_real_pool() {
    let name = "a_checkpoint_is_carried_in_a_real_pool";
    let (Some(own), Some(backup)) = (pool(name).await, pool(name).await) else { return };
    let export = format!("{}/x", backup.name);
    let Some(sshd) = Sshd::start(name, &format!("{} --exports {export}", own.arguments())) else { return };
    rustls::crypto::ring::default_provider().install_default().ok();
    let door = Door::default();
    let mut stage = Stage::of_setup("").await;
    stage.start_with(None, door.clone()).await;
    hub(&stage, &own, &sshd, &export).await;
    let api = serve(&stage, &door).await;
    until_open(&door).await;
    let first: Checkpoint = serde_json::from_value(json!({
        "metadata": { "namespace": NAMESPACE, "name": NAME }, "spec": { "import": { "image": "debian" }, "trigger": "Import", "description": "in many words ".repeat(150) },
    }))
    .unwrap();
    stage.objects().create(&first).await.unwrap();
    until("it is ready", async || phase(&stage).await == Some(CheckpointPhase::Ready)).await;
    let volume = stage.checkpoint(NAME).await.unwrap().status.unwrap().volumes.remove(0);
    let call = async |words: &[&str], fails: bool| {
        let (data, words) = (stage.data().to_owned(), words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>());
        ran(move || {
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            if fails { refused(&data, &words) } else { said(&data, &words) }
        })
        .await
    };
    let (out, back): (&[&str], &[&str]) = (&["export", NAME, "--to-pool", &export], &["import", "--from-pool", &export]);

    let why = call(out, true).await;
    assert!(why.contains(&format!("has no dataset {export}")), "{why}");
    let local = Zfs::open(Runner::Local).await.unwrap();
    zfs(&["create", &export]);
    if !local.capabilities().volumes {
        let why = call(out, true).await;
        assert!(why.contains("would be mounted") && why.contains(&format!("zfs set mountpoint=none {export}")), "{why}");
    }
    zfs(&["set", "mountpoint=none", &export]);
    zfs(&["set", "quota=4M", &export]);
    let why = call(out, true).await;
    assert!(why.contains(&format!("not exported to {export}: the pool is out of space")), "{why}");
    assert!(call(back, true).await.contains("no whole checkpoint"));
    zfs(&["set", "quota=none", &export]);
    assert!(call(out, false).await.contains("holds it"));
    assert!(call(out, false).await.contains("held it before"));

    let found = local.tree(&Dataset(export.clone())).await.unwrap();
    let (disk, snapshot) = (found.0.last().unwrap(), &found.1[0]);
    assert_eq!((found.1.len(), &snapshot.guid, snapshot.holds), (1, &volume.guid, 1));
    assert!(disk.properties.len() >= 4, "more than one piece, whose values came whole: {:?}", disk.properties.keys());
    if !local.capabilities().volumes {
        let mounts = std::fs::read_to_string("/proc/mounts").unwrap();
        assert!(!mounts.contains(&disk.name.0), "{mounts}");
    }
    // The helper lets nobody destroy it.
    let remote = Zfs::open(sshd.runner()).await.unwrap();
    for result in [remote.release("autovibe", std::slice::from_ref(&snapshot.name)).await, remote.destroy_dataset(&disk.name).await] {
        assert!(matches!(result, Err(autovibe::zfs::Error::Refused(_))), "{result:?}");
    }

    // Away, as on its way to another machine: its first owner has forgotten it when it is back.
    stage.objects().delete::<Checkpoint>(NAMESPACE, NAME, None).await.unwrap();
    until("it is deleted", async || phase(&stage).await.is_none()).await;
    until("it is away", async || {
        unmount_again(&backup.name);
        zpool(&["export", &backup.name]).unwrap().status.success()
    })
    .await;
    let why = call(back, true).await;
    assert!(why.contains(&format!("pool {} is not there", backup.name)), "{why}");
    let returned = zpool(&["import", "-d", &backup.dir.path().display().to_string(), &backup.name]).unwrap();
    assert!(returned.status.success(), "{}", String::from_utf8_lossy(&returned.stderr));
    assert!(call(back, false).await.contains(&format!("checkpoint/{NAME} imported")));
    let imported = stage.checkpoint(NAME).await.unwrap();
    let status = imported.status.unwrap();
    assert_eq!((status.phase, &status.volumes[0].guid), (CheckpointPhase::Ready, &volume.guid));
    assert_eq!(status.volumes[0].dataset, format!("{}/c-{}-disk-0", own.keep(), imported.metadata.uid.unwrap()));
    let data = stage.data().to_owned();
    let audit = ran(move || String::from_utf8(autovibe(&data, &["audit", "default"]).stdout).unwrap()).await;
    assert!(!audit.contains(&backup.name), "{audit}");
    api.stop().await;
    stage.stop().await;
}
