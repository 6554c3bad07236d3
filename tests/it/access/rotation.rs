//! The key of the Secrets is changed by the command, wherever it is cut off, and never for a wrong one.

use autovibe::{
    admission,
    clock::Clock,
    objects::{Locked, Objects, Stage, WriteOptions},
    store::{Query, Store},
};
use serde_json::json;
use std::{path::Path, process::Command, time::Duration};

const SECRETS: usize = 120;

async fn objects(data: &Path) -> Result<Objects, Locked> {
    let store = Store::open(&data.join("autovibe.db")).await.expect("nobody else has it");
    Objects::unlock(store, Clock::system(), &data.join("secrets.key")).await
}

/// A database with Secrets, some of them changed and some removed, so that the history holds them too.
async fn filled() -> tempfile::TempDir {
    let data = tempfile::tempdir().unwrap();
    let objects = objects(data.path()).await.unwrap();
    objects.ensure_presets().await.unwrap();
    let secrets = admission::named("", "secrets").unwrap();
    let options = WriteOptions::default();
    for number in 0..SECRETS {
        let document = json!({"metadata": {"name": format!("s{number}"), "annotations": {"a": "note"}}, "stringData": {"v": format!("value {number}")}});
        objects.create_document(secrets, "default", document, &options).await.unwrap();
    }
    let patch = autovibe::objects::Patch::Merge(json!({"metadata": {"annotations": {"a": "changed"}}}));
    objects.patch_document(secrets, "default", "s1", autovibe::objects::Part::Main, &patch, &options).await.unwrap();
    let document = json!({"metadata": {"name": "gone"}, "stringData": {"v": "gone"}});
    objects.create_document(secrets, "default", document, &options).await.unwrap();
    objects.delete_document(secrets, "default", "gone", &autovibe::objects::DeleteOptions::default()).await.unwrap();
    objects.store().close().await;
    data
}

fn rotate(data: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_autovibe"));
    command.arg("--data").arg(data).args(["secrets", "rotate-key"]).env_remove("AUTOVIBE_DATA").env_remove("KUBECONFIG");
    command
}

fn said(command: &mut Command) -> Result<String, String> {
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

/// Every Secret reads as it was written, in the history too; their revisions tell whether anyone was made to see a change.
async fn whole(data: &Path) -> Vec<i64> {
    let objects = objects(data).await.expect("the key opens it");
    let secrets = admission::named("", "secrets").unwrap();
    let page = objects.read_page(secrets, &Query::default()).await.unwrap();
    assert_eq!(page.items.len(), SECRETS);
    let one = objects.secret("default", "s7", "v").await.unwrap().unwrap();
    assert_eq!(secrecy::ExposeSecret::expose_secret(&one), "value 7");
    let (events, _) = objects.read_changes(secrets, autovibe::store::Revision(0), 0).await.unwrap();
    assert_eq!(events.len(), SECRETS + 3, "creations, a change, and one that came and went");
    objects.store().close().await;
    page.items.iter().map(|item| item.revision.0).collect()
}

/// All encrypted values of the database.
async fn sealed(data: &Path) -> Vec<String> {
    let store = Store::open(&data.join("autovibe.db")).await.unwrap();
    let page = store.list(&Query { resource: "secrets".into(), ..Query::default() }).await.unwrap();
    store.close().await;
    page.items.iter().map(|item| item.document["data"]["v"].as_str().unwrap().to_owned()).collect()
}

fn key(data: &Path) -> String {
    std::fs::read_to_string(data.join("secrets.key")).unwrap()
}

#[tokio::test]
async fn a_new_key_opens_everything_and_of_the_old_form_nothing_is_left() {
    let data = filled().await;
    let data = data.path();
    let (before, old, old_values) = (whole(data).await, key(data), sealed(data).await);
    let text = said(&mut rotate(data)).unwrap();
    assert!(text.contains("are encrypted with a new key") && !text.contains("went on"), "{text}");
    assert_eq!(whole(data).await, before, "no watch sees it");
    let new = key(data);
    assert!(new != old && new.lines().count() == 1);
    for file in std::fs::read_dir(data).unwrap() {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        let text = String::from_utf8_lossy(&bytes);
        assert!(!old_values.iter().any(|value| text.contains(&value[..60])) && !text.contains(old.trim()));
    }
    // The old key is worth nothing now, and says so instead of starting over.
    std::fs::write(data.join("secrets.key"), &old).unwrap();
    assert!(matches!(objects(data).await, Err(Locked::Wrong(_))));
    std::fs::remove_file(data.join("secrets.key")).unwrap();
    assert!(matches!(objects(data).await, Err(Locked::Missing(_))));
    assert!(!data.join("secrets.key").exists());
}

#[tokio::test]
async fn a_wrong_key_or_a_running_hub_changes_nothing() {
    let data = filled().await;
    let data = data.path();
    let (right, values) = (key(data), sealed(data).await);
    let wrong = format!("{}\n", "5".repeat(64));
    for (file, complaint) in [(wrong.as_str(), "cannot be decrypted"), ("nonsense\n", "64 hex digits"), ("", "64 hex digits")] {
        std::fs::write(data.join("secrets.key"), file).unwrap();
        let refused = said(&mut rotate(data)).unwrap_err();
        assert!(refused.contains("was not changed") && refused.contains(complaint), "{refused}");
        assert_eq!(key(data), file);
        assert_eq!(sealed(data).await, values);
    }
    std::fs::remove_file(data.join("secrets.key")).unwrap();
    assert!(said(&mut rotate(data)).is_err() && !data.join("secrets.key").exists());
    std::fs::write(data.join("secrets.key"), &right).unwrap();
    let hub = objects(data).await.unwrap();
    let refused = said(&mut rotate(data)).unwrap_err();
    assert!(refused.contains("another autovibe") && refused.contains("stop it first"), "{refused}");
    hub.store().close().await;
    assert_eq!((key(data), sealed(data).await), (right, values));
}

#[tokio::test]
async fn a_change_that_was_cut_off_goes_on() {
    let data = filled().await;
    let data = data.path();
    let before = whole(data).await;
    for pause in (0..40).step_by(2).chain(40..60) {
        let mut child = rotate(data).stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).spawn().unwrap();
        tokio::time::sleep(Duration::from_millis(pause)).await;
        child.kill().unwrap();
        child.wait().unwrap();
        // A hub may start on what is left.
        assert_eq!(whole(data).await, before, "killed after {pause} ms");
    }
    // However it fell out: one that was begun, and nothing more.
    let objects = objects(data).await.unwrap();
    assert!(!matches!(objects.rotate(&[]).await.unwrap().stage, Stage::Done));
    objects.store().close().await;
    assert_eq!(whole(data).await, before);
    let first = key(data).lines().next().unwrap().to_owned();
    let text = said(&mut rotate(data)).unwrap();
    assert!(text.contains("It went on with a change that was cut off."), "{text}");
    assert_eq!(key(data).trim(), first, "the key that was begun with");
    assert_eq!(whole(data).await, before);
}
