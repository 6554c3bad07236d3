//! A checkpoint that goes to another pool and comes back from there, and what must not come of it on the way.

use super::audited::collected;
use super::imported::{Api, NAME, delete, ran, serve, until, until_open};
use super::stage::{Death, NAMESPACE, Stage, die_after_each, status};
use crate::access::{account, bind, to_account};
use crate::process::{autovibe, refused, said};
use crate::served::Client;
use autovibe::api::checkpoint::{CheckpointPhase, Trigger};
use autovibe::api::machine::Phase;
use autovibe::driver::Door;
use autovibe::lab::Call;
use autovibe::zfs::{Dataset, Runner, Zfs};
use serde_json::{Value, json};

/// What the lab has for it.
const POOL: &str = "backup/autovibe";

/// A hub whose Hub lists it, with one Machine that has lived.
async fn lived(setup: &str, door: &Door) -> (Stage, Api) {
    let mut stage = Stage::of_setup(setup).await;
    stage.start_with(None, door.clone()).await;
    stage.create_hub(json!({ "lab": {}, "exportTo": [POOL, "gone/autovibe", "tank/autovibe/x"] }), None).await;
    let api = serve(&stage, door).await;
    stage.create("a", json!({})).await;
    stage.until_finished("a").await;
    until_open(door).await;
    (stage, api)
}

async fn told(stage: &Stage, words: &[&str]) -> String {
    let (data, words) = (stage.data().to_owned(), owned(words));
    ran(move || said(&data, &words.iter().map(String::as_str).collect::<Vec<_>>())).await
}

async fn why_not(stage: &Stage, words: &[&str]) -> String {
    let (data, words) = (stage.data().to_owned(), owned(words));
    ran(move || refused(&data, &words.iter().map(String::as_str).collect::<Vec<_>>())).await
}

fn owned(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// What lies in the other pool.
fn there(stage: &Stage) -> Vec<String> {
    stage.datasets().into_iter().filter(|name| name.starts_with("backup/autovibe/")).collect()
}

async fn zfs(stage: &Stage) -> Zfs {
    Zfs::open(Runner::Socket(stage.lab.endpoint().zfs_socket.clone().unwrap())).await.unwrap()
}

const EXPORT: &[&str] = &["export", NAME, "--to-pool", POOL];
const IMPORT: &[&str] = &["import", "--from-pool", POOL];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_checkpoint_comes_back_from_another_pool_and_is_spawned_from() {
    let door = Door::default();
    let (mut stage, api) = lived("", &door).await;
    let source = stage.checkpoint(NAME).await.unwrap();
    assert!(told(&stage, EXPORT).await.contains("backup/autovibe on node lab holds it"));
    let uid = source.metadata.uid.clone().unwrap();
    let volume = source.status.as_ref().unwrap().volumes[0].clone();
    let disk = format!("backup/autovibe/c-{uid}-disk-0");
    assert_eq!(there(&stage), [disk.clone(), format!("{disk}@{}", volume.snapshot)]);
    assert_eq!(stage.lab.holds(&format!("{disk}@{}", volume.snapshot)), 1);
    // Twice is once.
    let changes = zfs(&stage).await.dataset(&Dataset(disk.clone())).await.unwrap();
    assert!(told(&stage, EXPORT).await.contains("held it before"));
    assert_eq!(zfs(&stage).await.dataset(&Dataset(disk.clone())).await.unwrap(), changes);
    let hold = stage.datasets().into_iter().find(|name| name.starts_with("tank/autovibe/m-") && name.contains('@')).unwrap();
    assert_eq!(stage.lab.holds(&hold), 1, "it is let go");
    // Here it is already.
    assert!(why_not(&stage, &[IMPORT, &["--name", "twin"]].concat()).await.contains("here already, as checkpoint a-final"));

    // Nobody's audit collects it, and it does not need the one that it was made of.
    delete(&stage).await;
    for asked in ["once", "twice"] {
        let audit = collected(&stage, asked).await;
        assert!(!serde_json::to_string(&audit).unwrap().contains("backup/"), "{audit:?}");
    }
    assert_eq!(there(&stage).len(), 2);

    assert!(told(&stage, IMPORT).await.contains("checkpoint/a-final imported"));
    let back = stage.checkpoint(NAME).await.unwrap();
    let state = back.status.clone().unwrap();
    assert_eq!((state.phase, back.spec.trigger, &state.volumes[0].guid), (CheckpointPhase::Ready, Trigger::Import, &volume.guid));
    assert_eq!(state.imported.unwrap().machine.as_deref(), Some("a"));
    assert_eq!(state.digests, source.status.unwrap().digests);
    assert!(told(&stage, IMPORT).await.contains("imported before"));
    // The other pool may go.
    let zfs = zfs(&stage).await;
    let snapshot = autovibe::zfs::Snapshot { dataset: Dataset(disk.clone()), name: volume.snapshot.clone() };
    zfs.release("autovibe", std::slice::from_ref(&snapshot)).await.unwrap();
    zfs.destroy_snapshot(&snapshot).await.unwrap();
    zfs.destroy_dataset(&snapshot.dataset).await.unwrap();
    stage.create("b", json!({ "from": { "checkpoint": NAME } })).await;
    assert_eq!(status(&stage.until_finished("b").await).phase, Phase::Succeeded);
    api.stop().await;
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_changed_since_needs_what_it_builds_on_at_both_ends() {
    let door = Door::default();
    let (mut stage, api) = lived("", &door).await;
    stage.create("b", json!({ "from": { "checkpoint": NAME } })).await;
    stage.until_finished("b").await;
    let since: &[&str] = &["export", "b-final", "--to-pool", POOL, "--since", NAME];
    let why = why_not(&stage, since).await;
    assert!(why.contains("checkpoint a-final is not in backup/autovibe; export that first") && there(&stage).is_empty(), "{why}");
    told(&stage, EXPORT).await;
    told(&stage, since).await;
    let uid = stage.checkpoint("b-final").await.unwrap().metadata.uid.unwrap();
    let disk = Dataset(format!("{POOL}/c-{uid}-disk-0"));
    let origin = zfs(&stage).await.dataset(&disk).await.unwrap().unwrap().origin.unwrap();
    assert!(origin.dataset.0.starts_with("backup/autovibe/c-"), "{origin}");

    let several = why_not(&stage, IMPORT).await;
    assert!(several.contains("there are several; name one") && several.contains("a-final (") && several.contains(&uid), "{several}");
    let none = why_not(&stage, &[IMPORT, &["c-final"]].concat()).await;
    assert!(none.contains("no whole checkpoint c-final is there; there are"), "{none}");
    // In a namespace that has nothing yet.
    let there = ["-n", "autovibe-system"];
    let why = why_not(&stage, &[IMPORT, &["b-final"], &there].concat()).await;
    assert!(why.contains("since checkpoint a-final, which is not in namespace autovibe-system"), "{why}");
    told(&stage, &[IMPORT, &[NAME, "--name", "base"], &there].concat()).await;
    told(&stage, &[IMPORT, &[&uid], &there].concat()).await;
    let imported: Value =
        serde_json::from_str(&told(&stage, &[&["get", "checkpoint", "b-final", "-o", "json"] as &[&str], &there].concat()).await).unwrap();
    assert_eq!(imported["status"]["parent"], "base", "{imported:#}");
    let own = Dataset(imported["status"]["volumes"][0]["dataset"].as_str().unwrap().into());
    let origin = zfs(&stage).await.dataset(&own).await.unwrap().unwrap().origin.unwrap();
    assert!(origin.dataset.0.starts_with("tank/autovibe/c-"), "{origin}");
    api.stop().await;
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_listed_not_there_or_without_room_is_refused_by_name() {
    let full = "faults: [{ call: zfs receive, fault: { fail: { status: 500, text: out of space } } }]";
    let door = Door::default();
    let (mut stage, api) = lived(full, &door).await;
    for (pool, words) in [
        (
            "tank/data",
            "tank/data is none of the datasets that may be exported to: spec.infrastructure.exportTo of its Hub lists backup/autovibe",
        ),
        ("../x", "is none of the datasets"),
        ("gone/autovibe", "node lab: pool gone is not there"),
        ("tank/autovibe/x", "is not apart from the Hub's own tank/autovibe"),
    ] {
        for command in [&["export", NAME, "--to-pool", pool] as &[&str], &["import", "--from-pool", pool]] {
            let why = why_not(&stage, command).await;
            assert!(why.contains(words), "{command:?}: {why}");
        }
    }
    assert!(why_not(&stage, IMPORT).await.contains("no whole checkpoint that you may import is in backup/autovibe"));
    let why = why_not(&stage, EXPORT).await;
    assert!(why.contains("not exported to backup/autovibe: the pool is out of space") && there(&stage).is_empty(), "{why}");
    assert!(told(&stage, EXPORT).await.contains("holds it"));
    let both = ["export", NAME, "--to-pool", POOL, "--to", "x.tar"];
    let data = stage.data().to_owned();
    assert_eq!(ran(move || autovibe(&data, &both).status.code()).await, Some(2));
    api.stop().await;
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_has_no_whole_manifest_is_not_imported() {
    let door = Door::default();
    let (mut stage, api) = lived("", &door).await;
    // Its mark is not set: there is a disk, and nobody takes it for a checkpoint.
    stage.lab.fail_next(Call::Zfs("set"), 500);
    assert!(why_not(&stage, EXPORT).await.contains("not exported to backup/autovibe"));
    assert_eq!(there(&stage).len(), 2);
    assert!(why_not(&stage, IMPORT).await.contains("no whole checkpoint"));
    told(&stage, EXPORT).await;
    delete(&stage).await;
    // One bit of it.
    let disk = Dataset(there(&stage)[0].clone());
    let zfs = zfs(&stage).await;
    let right = zfs.dataset(&disk).await.unwrap().unwrap().properties["autovibe:manifest-0"].clone();
    zfs.mark(&disk, "autovibe:manifest-0", &right.replacen('e', "f", 1)).await.unwrap();
    let why = why_not(&stage, IMPORT).await;
    assert!(why.contains(&format!("not whole: {disk} (its manifest is damaged; export it again)")), "{why}");
    // A manifest that is right, of a snapshot that is not.
    zfs.mark(&disk, "autovibe:manifest-0", &right).await.unwrap();
    let snapshot = zfs.snapshots(&disk).await.unwrap().remove(0).name;
    zfs.release("autovibe", std::slice::from_ref(&snapshot)).await.unwrap();
    zfs.destroy_snapshot(&snapshot).await.unwrap();
    zfs.snapshot(std::slice::from_ref(&snapshot), &autovibe::zfs::Properties::new()).await.unwrap();
    let why = why_not(&stage, IMPORT).await;
    assert!(why.contains(&format!("it has no {snapshot} of guid ")), "{why}");
    assert!(stage.checkpoint(NAME).await.is_none());
    api.stop().await;
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_takes_from_there_what_is_of_a_namespace_that_is_not_theirs() {
    let door = Door::default();
    let (mut stage, api) = lived("", &door).await;
    told(&stage, EXPORT).await;
    let client = Client::open(stage.data());
    let (code, answer) = client.post("/api/v1/namespaces", &json!({ "metadata": { "name": "theirs" } })).await;
    assert_eq!(code, 201, "{answer}");
    let token = account(&client, "theirs", "dev").await;
    bind(&client, "theirs", "dev", "edit", to_account("theirs", "dev")).await;
    let import = async || {
        let path = format!("{}/apis/autovibe.dev/v1alpha1/namespaces/theirs/checkpoints/-/import?fromPool={POOL}", client.url);
        let answer = client.http.post(path).bearer_auth(&token).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    let (code, text) = import().await;
    assert!(code == 422 && text.contains("no whole checkpoint that you may import") && !text.contains(NAME), "{code} {text}");
    bind(&client, NAMESPACE, "dev", "edit", to_account("theirs", "dev")).await;
    let (code, text) = import().await;
    assert_eq!(code, 201, "{text}");
    api.stop().await;
    stage.stop().await;
}

/// The hold of an export whose process was killed goes with what was read, also where that was imported itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_imported_checkpoint_whose_export_was_cut_off_goes() {
    let door = Door::default();
    let (mut stage, api) = lived("", &door).await;
    told(&stage, EXPORT).await;
    delete(&stage).await;
    told(&stage, IMPORT).await;
    let volume = stage.checkpoint(NAME).await.unwrap().status.unwrap().volumes.remove(0);
    let imported = autovibe::zfs::Snapshot { dataset: Dataset(volume.dataset), name: volume.snapshot };
    zfs(&stage).await.hold("autovibe-export", std::slice::from_ref(&imported)).await.unwrap();
    assert_eq!(stage.lab.holds(&imported.to_string()), 2);
    delete(&stage).await;
    assert!(!stage.datasets().contains(&imported.to_string()), "{:?}", stage.datasets());
    api.stop().await;
    stage.stop().await;
}

/// Whether an export has a step of that number; if so, the hub died after it.
async fn dies_after(step: u32) -> bool {
    let (mut stage, api) = lived("", &Door::default()).await;
    api.stop().await;
    stage.stop().await;
    let death = Death::after(step);
    let door = Door::with(death.hook());
    stage.start_with(None, door.clone()).await;
    let api = serve(&stage, &door).await;
    until_open(&door).await;
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_autovibe"));
    command.arg("--data").arg(stage.data()).args(EXPORT).kill_on_drop(true);
    let mut exporting = command.stdout(std::process::Stdio::null()).spawn().unwrap();
    let died = tokio::select! {
        () = death.came() => true,
        ended = exporting.wait() => { assert!(ended.unwrap().success()); false }
    };
    if died {
        exporting.kill().await.unwrap();
    }
    stage.kill().await;
    api.stop().await;
    if !died {
        return false;
    }
    let door = Door::default();
    stage.start_with(None, door.clone()).await;
    let api = serve(&stage, &door).await;
    until_open(&door).await;
    let what = format!("died after step {step}");
    let before = told(&stage, EXPORT).await;
    assert!(before.contains("holds it") || before.contains("held it before"), "{what}: {before}");
    assert_eq!(there(&stage).len(), 2, "{what}");
    // The hold of the export that was killed is let go with its checkpoint.
    delete(&stage).await;
    assert!(told(&stage, IMPORT).await.contains("imported"), "{what}");
    api.stop().await;
    stage.stop().await;
    true
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_export_whose_hub_dies_after_any_step_goes_on() {
    let reached = die_after_each(dies_after).await;
    assert_eq!(reached, 3, "exported, a piece of the manifest, sealed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_exports_at_once_are_one_and_a_deletion_waits_for_them() {
    let paused = std::sync::Arc::new(tokio::sync::Semaphore::new(0));
    let (gate, runtime) = (paused.clone(), tokio::runtime::Handle::current());
    let hook = move |step: &str| {
        if step == "piece of a manifest" {
            let gate = gate.clone();
            tokio::task::block_in_place(|| runtime.block_on(async move { gate.acquire().await.unwrap().forget() }));
        }
        true
    };
    let door = Door::with(std::sync::Arc::new(hook));
    let (mut stage, api) = lived("", &door).await;
    let before = stage.lab.count(Call::Zfs("hold"));
    let both = async {
        let (one, other) = tokio::join!(told(&stage, EXPORT), told(&stage, EXPORT));
        let held = [&one, &other].into_iter().filter(|told| told.contains("held it before")).count();
        assert_eq!(held, 1, "{one}{other}");
    };
    let deleted = async {
        // One alone holds its source and what it makes.
        until("both are under way", async || stage.lab.count(Call::Zfs("hold")) >= before + 3).await;
        stage.objects().delete::<autovibe::api::Checkpoint>(NAMESPACE, NAME, None).await.unwrap();
        let waits = async || {
            let message = stage.checkpoint(NAME).await.unwrap().status.unwrap().message;
            message.is_some_and(|message| message.contains("it stays until it is exported"))
        };
        until("it waits", waits).await;
        paused.add_permits(100);
        until("it is deleted", async || stage.checkpoint(NAME).await.is_none()).await;
    };
    tokio::join!(both, deleted);
    assert!(told(&stage, IMPORT).await.contains("imported"));
    api.stop().await;
    stage.stop().await;
}
