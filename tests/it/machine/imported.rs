//! A file that becomes a checkpoint, with the hub gone after each step of it; and streams that nobody takes, or nobody may.

use super::commands::source;
use super::stage::{Death, NAMESPACE, Stage, die_after_each};
use crate::process::{autovibe, refused, said};
use crate::served::Client;
use autovibe::api::Checkpoint;
use autovibe::api::checkpoint::CheckpointPhase;
use autovibe::apiserver;
use autovibe::driver::Door;
use autovibe::store;
use rand::{RngCore, SeedableRng, rngs::StdRng};
use serde_json::json;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_mins(1);
pub(super) const NAME: &str = "a-final";

/// The API of a stage's hub, with files in the stage's directory.
pub(crate) struct Api {
    server: apiserver::Server,
    shutdown: CancellationToken,
}

pub(crate) async fn serve(stage: &Stage, door: &Door) -> Api {
    let shutdown = CancellationToken::new();
    let config =
        apiserver::Config { listen: "127.0.0.1:0".parse().unwrap(), names: Vec::new(), data: stage.data().into(), door: door.clone() };
    let server = apiserver::start(config, stage.objects().clone(), shutdown.clone()).await.unwrap();
    Api { server, shutdown }
}

impl Api {
    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        self.server.stopped().await;
    }
}

/// A stage whose API and controllers have this door.
async fn stage(door: &Door) -> (Stage, Api) {
    let mut stage = Stage::without_hub().await;
    stage.stop().await;
    stage.start_with(None, door.clone()).await;
    stage.create_hub(json!({ "lab": {} }), None).await;
    let api = serve(&stage, door).await;
    (stage, api)
}

pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let looks = async {
        while !holds().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, looks).await.unwrap_or_else(|_| panic!("{what} did not happen"));
}

pub(crate) async fn until_open(door: &Door) {
    until("the hub is connected", async || door.drivers().await.is_some_and(|drivers| !drivers.is_empty())).await;
}

/// Waits, elsewhere, for a command.
pub(crate) async fn ran<R: Send + 'static>(work: impl FnOnce() -> R + Send + 'static) -> R {
    tokio::task::spawn_blocking(work).await.unwrap()
}

async fn import(stage: &Stage, file: &Path) -> String {
    let (data, file) = (stage.data().to_owned(), file.display().to_string());
    ran(move || said(&data, &["import", &file])).await
}

/// What one hub exports, workspace included.
async fn exported(directory: &Path) -> PathBuf {
    let door = Door::default();
    let (mut stage, api) = stage(&door).await;
    stage.create("a", json!({ "source": { "directory": source(&stage.source_root()) } })).await;
    stage.until_finished("a").await;
    let file = directory.join("a.tar");
    let (data, to) = (stage.data().to_owned(), file.display().to_string());
    ran(move || said(&data, &["export", NAME, "--to", &to])).await;
    api.stop().await;
    stage.stop().await;
    file
}

/// Disks of imports.
fn disks(stage: &Stage) -> Vec<String> {
    stage.datasets().into_iter().filter(|name| name.contains("/c-")).collect()
}

pub(super) async fn delete(stage: &Stage) {
    stage.objects().delete::<Checkpoint>(NAMESPACE, NAME, None).await.unwrap();
    until("it is deleted", async || stage.checkpoint(NAME).await.is_none()).await;
}

/// Whether an import has a step of that number; if so, the hub died after it.
async fn dies_after(step: u32, file: &Path) -> bool {
    let death = Death::after(step);
    let (mut stage, api) = stage(&Door::with(death.hook())).await;
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_autovibe"));
    command.arg("--data").arg(stage.data()).arg("import").arg(file).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    // Until the controllers are connected there is nobody to receive it.
    let mut importing = loop {
        let mut child = command.spawn().unwrap();
        tokio::select! {
            () = death.came() => break Some(child),
            ended = child.wait() => if ended.unwrap().success() { break None },
        }
    };
    if let Some(child) = &mut importing {
        child.kill().await.unwrap();
    }
    let uid = stage.checkpoint(NAME).await.unwrap().metadata.uid.unwrap();
    api.shutdown.cancel();
    stage.stop().await;
    if importing.is_none() {
        return false;
    }
    let door = Door::default();
    stage.start_with(None, door.clone()).await;
    let api = serve(&stage, &door).await;
    until_open(&door).await;
    let phase = async || stage.checkpoint(NAME).await.unwrap().status.unwrap_or_default().phase;
    until("it is whole or has failed", async || phase().await != CheckpointPhase::Pending).await;
    let what = format!("died after step {step}");
    if phase().await == CheckpointPhase::Failed {
        let failed = stage.checkpoint(NAME).await.unwrap();
        assert!(serde_json::to_string(&failed).unwrap().contains("ImportInterrupted"), "{what}: {failed:?}");
        assert_eq!(stage.store().bundle(&uid).await.unwrap(), None, "{what}: a workspace of nothing");
        // Both ways out: it is deleted by hand, or by the same file, which is imported again.
        if step.is_multiple_of(2) {
            delete(&stage).await;
            assert_eq!(disks(&stage), Vec::<String>::new(), "{what}");
        }
        assert!(import(&stage, file).await.contains("imported"), "{what}");
        assert_eq!(phase().await, CheckpointPhase::Ready, "{what}");
    } else {
        assert!(import(&stage, file).await.contains("imported before"), "{what}");
    }
    let ready = stage.checkpoint(NAME).await.unwrap();
    let bundle = stage.store().bundle(ready.metadata.uid.as_deref().unwrap()).await.unwrap().expect("its workspace came too");
    assert_eq!(ready.status.unwrap().commit, Some(bundle.commit), "{what}");
    assert_eq!(disks(&stage).len(), 2, "{what}: one disk and its snapshot: {:?}", disks(&stage));
    stage.create("b", json!({ "from": { "checkpoint": NAME } })).await;
    stage.until_finished("b").await;
    api.stop().await;
    stage.stop().await;
    true
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_import_whose_hub_dies_after_any_step_is_whole_or_leaves_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let file = exported(directory.path()).await;
    let reached = die_after_each(|step| dies_after(step, &file)).await;
    assert_eq!(reached, 7, "created, said where, received, held, two marks, ready");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_label_that_comes_in_the_meantime_does_not_end_an_import() {
    let directory = tempfile::tempdir().unwrap();
    let file = exported(directory.path()).await;
    let labelled = std::sync::Arc::new(tokio::sync::Notify::new());
    let (told, runtime) = (labelled.clone(), tokio::runtime::Handle::current());
    // The hook waits until somebody else has written it.
    let hook = move |step: &str| {
        if step == "disk marked" {
            let told = told.clone();
            tokio::task::block_in_place(|| runtime.block_on(async move { told.notified().await }));
        }
        true
    };
    let door = Door::with(std::sync::Arc::new(hook));
    let (mut stage, api) = stage(&door).await;
    until_open(&door).await;
    let label = async {
        until("it is there", async || stage.checkpoint(NAME).await.is_some_and(|found| found.status.is_some())).await;
        let change = json!({ "metadata": { "labels": { "mine": "yes" } } });
        stage.objects().merge::<Checkpoint>(NAMESPACE, NAME, autovibe::objects::Part::Main, change).await.unwrap();
        labelled.notify_one();
    };
    tokio::join!(import(&stage, &file), label);
    let ready = stage.checkpoint(NAME).await.unwrap();
    assert_eq!(ready.status.unwrap().phase, CheckpointPhase::Ready);
    assert_eq!(ready.metadata.labels.unwrap()["mine"], "yes");
    api.stop().await;
    stage.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_beside_the_leader_says_whom_to_ask() {
    let directory = tempfile::tempdir().unwrap();
    let file = exported(directory.path()).await;
    let mut stage = Stage::new().await;
    stage.create("a", json!({})).await;
    stage.until_finished("a").await;
    // One that leads nothing.
    let api = serve(&stage, &Door::default()).await;
    let (data, to) = (stage.data().to_owned(), stage.data().join("out.tar").display().to_string());
    let import = file.display().to_string();
    let why = ran(move || {
        assert!(!autovibe(&data, &["export", NAME, "--to", &to]).status.success() && !Path::new(&to).exists());
        [refused(&data, &["export", NAME, "--to", &to]), refused(&data, &["import", &import, "--name", "b"])]
    })
    .await;
    for why in why {
        assert!(why.contains("the server in whose process the controllers lead, and that is not this one"), "{why}");
    }
    assert!(stage.checkpoint("b").await.is_none());
    api.stop().await;
    stage.stop().await;
}

/// More than the connection's buffers hold.
const MUCH: usize = 24 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_takes_nothing_holds_a_checkpoint_until_it_goes() {
    let door = Door::default();
    let (mut stage, api) = stage(&door).await;
    stage.create("a", json!({})).await;
    stage.until_finished("a").await;
    let (uid, large) = (stage.checkpoint(NAME).await.unwrap().metadata.uid.unwrap(), large(stage.data()));
    let put: Result<(), store::Error> =
        stage.store().write(move |t| Box::pin(async move { t.put_bundle(&uid, &large.0, None, &large.1).await })).await;
    put.unwrap();
    until_open(&door).await;

    let client = Client::open(stage.data());
    let path = format!("{}/apis/autovibe.dev/v1alpha1/namespaces/{NAMESPACE}/checkpoints/{NAME}/export", client.url);
    let answer = client.http.get(path).bearer_auth(&client.token).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let snapshot = stage.datasets().into_iter().find(|name| name.contains("/m-") && name.contains('@')).unwrap();
    assert_eq!(stage.lab.holds(&snapshot), 2, "its own hold, and the export's");
    stage.objects().delete::<Checkpoint>(NAMESPACE, NAME, None).await.unwrap();
    let waits = async || {
        let message = stage.checkpoint(NAME).await.unwrap().status.unwrap().message;
        message.is_some_and(|message| message.contains("it stays until it is exported"))
    };
    until("it waits", waits).await;
    drop(answer);
    drop(client);
    until("it is deleted", async || stage.checkpoint(NAME).await.is_none()).await;
    assert!(!stage.datasets().contains(&snapshot));
    api.stop().await;
    stage.stop().await;
}

/// A bundle that does not compress, with its commit.
fn large(directory: &Path) -> (String, Vec<u8>) {
    let repository = directory.join("large");
    std::fs::create_dir_all(&repository).unwrap();
    let mut bytes = vec![0; MUCH];
    StdRng::seed_from_u64(7).fill_bytes(&mut bytes);
    std::fs::write(repository.join("noise"), bytes).unwrap();
    let script = "git init -q . && git add -A && git -c user.name=t -c user.email=t@localhost commit -qm all && \
                  git update-ref refs/autovibe/x HEAD && git bundle create -q ../large.bundle refs/autovibe/x && git rev-parse HEAD";
    let output = std::process::Command::new("sh").args(["-c", script]).current_dir(&repository).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    (String::from_utf8(output.stdout).unwrap().trim().to_owned(), std::fs::read(directory.join("large.bundle")).unwrap())
}
