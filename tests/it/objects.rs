//! The one path to objects: metadata rules, patches, deletion, namespaces, Secrets at rest, Events, and the watch stream.

use autovibe::admission::{self, Resource};
use autovibe::api::machine::{Agent, AgentType, BudgetUse, From, Goal, MachineSpec, MachineStatus, Phase};
use autovibe::api::{Checkpoint, Hub, Kind, Machine};
use autovibe::clock::Clock;
use autovibe::objects::{
    Cipher, DELETE_CHECKPOINTS, DeleteOptions, Deleted, Error, EventType, FieldValidation, Objects, Part, Patch, WriteOptions, Written,
};
use autovibe::store::{Change, Database, History, Options, Query, Revision, Store};
use futures::StreamExt;
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use std::{os::unix::fs::PermissionsExt, time::Duration};

struct Home {
    dir: tempfile::TempDir,
    objects: Objects,
}

async fn home() -> Home {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("autovibe.db")).await.unwrap();
    let cipher = Cipher::load(&dir.path().join("secrets.key")).unwrap();
    let objects = Objects::new(store, Clock::system(), cipher);
    objects.ensure_presets().await.unwrap();
    Home { dir, objects }
}

fn machine(name: &str) -> Machine {
    let goal = Goal { prompt: "work".into(), ..Goal::default() };
    let from = Some(From { image: Some("micro".into()), ..From::default() });
    let agent = Agent { r#type: AgentType::Command, command: vec!["true".into()], ..Agent::default() };
    Machine::new("default", name, MachineSpec { from, goal, agent, ..MachineSpec::default() })
}

fn resource(plural: &str) -> &'static Resource {
    admission::resources().iter().find(|r| r.plural == plural).unwrap()
}

fn strict() -> WriteOptions {
    WriteOptions { field_validation: FieldValidation::Strict, ..WriteOptions::default() }
}

impl Home {
    async fn create(&self, plural: &str, namespace: &str, document: Value) -> Result<Value, Error> {
        Ok(self.objects.create_document(resource(plural), namespace, document, &WriteOptions::default()).await?.object)
    }
    async fn patch(&self, plural: &str, namespace: &str, name: &str, patch: Patch) -> Result<Written, Error> {
        self.objects.patch_document(resource(plural), namespace, name, Part::Main, &patch, &WriteOptions::default()).await
    }
    async fn delete(&self, plural: &str, namespace: &str, name: &str) -> Result<Deleted, Error> {
        self.objects.delete_document(resource(plural), namespace, name, &DeleteOptions::default()).await
    }
    fn revision(&self) -> Revision {
        *self.objects.store().revisions().borrow()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_object_gets_what_the_server_gives_and_loses_what_it_must_not_say() {
    let home = home().await;
    let mut asked = machine("a");
    asked.metadata.uid = Some("mine".into());
    asked.metadata.generation = Some(7);
    asked.metadata.resource_version = Some("9".into());
    asked.status = Some(MachineStatus { phase: Phase::Succeeded, ..MachineStatus::default() });
    let stored = home.objects.create(&asked).await.unwrap();
    assert_eq!(stored.uid().len(), 36);
    assert_eq!(stored.generation(), 1);
    assert!(stored.metadata.creation_timestamp.is_some());
    assert!(stored.status.is_none());
    assert_eq!(stored.metadata.resource_version, Some(home.revision().0.to_string()));
    assert_eq!(home.objects.get::<Machine>("default", "a").await.unwrap().unwrap().uid(), stored.uid());
    assert!(home.objects.get::<Machine>("default", "b").await.unwrap().is_none());
    assert!(matches!(home.objects.create(&asked).await, Err(Error::AlreadyExists { .. })));
    let with_version = json!({ "metadata": { "name": "x", "resourceVersion": "1" } });
    assert!(matches!(home.create("configmaps", "default", with_version).await, Err(Error::BadRequest(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn generated_names_are_unique_and_a_name_is_needed() {
    let home = home().await;
    let nameless = json!({ "metadata": { "generateName": "run-" } });
    let a = home.create("configmaps", "default", nameless.clone()).await.unwrap();
    let b = home.create("configmaps", "default", nameless).await.unwrap();
    let name = a["metadata"]["name"].as_str().unwrap();
    assert!(name.starts_with("run-") && name.len() == 9 && b["metadata"]["name"] != name, "{name}");
    let error = home.create("configmaps", "default", json!({})).await.unwrap_err();
    assert!(error.to_string().ends_with("metadata.name: Required value: name or generateName is required"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn spec_and_status_are_written_apart_and_only_spec_counts_the_generation() {
    let home = home().await;
    let mut object = home.objects.create(&machine("a")).await.unwrap();
    object.status = Some(MachineStatus { phase: Phase::Running, ..MachineStatus::default() });
    object.spec.budget = Some(BudgetUse::default());
    let spoken = home.objects.update_status(&object).await.unwrap();
    assert_eq!(spoken.status.as_ref().unwrap().phase, Phase::Running);
    assert!(spoken.spec.budget.is_none(), "spec is not status' business");
    assert_eq!(spoken.generation(), 1);
    let mut object = spoken.clone();
    object.status = None;
    object.spec.budget = Some(BudgetUse::default());
    let updated = home.objects.update(&object).await.unwrap();
    assert_eq!(updated.status.as_ref().unwrap().phase, Phase::Running, "status is not the update's business");
    assert_eq!((updated.generation(), updated.uid()), (2, spoken.uid()));
    // The one who read before is refused.
    assert!(matches!(home.objects.update(&spoken).await, Err(Error::Conflict { .. })));
    assert!(matches!(home.objects.update_status(&spoken).await, Err(Error::Conflict { .. })));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_write_that_changes_nothing_is_silent() {
    let home = home().await;
    let object = home.objects.create(&machine("a")).await.unwrap();
    let before = home.revision();
    home.objects.update(&object).await.unwrap();
    home.objects.update_status(&object).await.unwrap();
    let same = json!({ "metadata": { "labels": {}, "managedFields": [{}] }, "spec": { "operatingMode": "Running" } });
    let written = home.patch("machines", "default", "a", Patch::Merge(same)).await.unwrap();
    assert_eq!(written.object["metadata"]["resourceVersion"], before.0.to_string());
    home.patch("machines", "default", "a", Patch::Merge(json!({}))).await.unwrap();
    assert_eq!(home.revision(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controllers_write_keeps_the_users_spelling() {
    let home = home().await;
    let document = json!({
        "metadata": { "name": "a" },
        "spec": { "from": { "image": "micro" }, "goal": { "prompt": "x", "verify": { "command": ["a"], "timeout": "10m" } }, "resources": { "memory": "4096Mi" } },
    });
    home.create("machines", "default", document).await.unwrap();
    let mut object = home.objects.get::<Machine>("default", "a").await.unwrap().unwrap();
    object.metadata.finalizers = Some(vec!["autovibe.dev/machine".into()]);
    let object = home.objects.update(&object).await.unwrap();
    assert_eq!(object.generation(), 1, "a finalizer is not a change of the spec");
    let stored = home.objects.read(resource("machines"), "default", "a").await.unwrap();
    assert_eq!(stored["spec"]["goal"]["verify"]["timeout"], "10m");
    assert_eq!(stored["spec"]["resources"]["memory"], "4096Mi");
    assert_eq!(stored["metadata"]["finalizers"], json!(["autovibe.dev/machine"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn immutable_and_wrong_fields_are_refused_and_nothing_is_written() {
    let home = home().await;
    home.objects.create(&machine("a")).await.unwrap();
    let before = home.revision();
    let refused = home.patch("machines", "default", "a", Patch::Merge(json!({ "spec": { "goal": { "prompt": "other" } } }))).await;
    let error = refused.unwrap_err().to_string();
    assert_eq!(error, "Machine.autovibe.dev \"a\" is invalid: spec.goal: Forbidden: is immutable; create a new Machine instead");
    let refused =
        home.patch("machines", "default", "a", Patch::Merge(json!({ "spec": { "goal": { "prompt": 1 }, "operatingMode": "x" } }))).await;
    let Err(Error::Invalid { errors, .. }) = refused else { panic!("{refused:?}") };
    assert_eq!(errors.iter().map(|e| e.field.as_str()).collect::<Vec<_>>(), ["spec.goal.prompt", "spec.operatingMode"]);
    let refused = home.create("machines", "default", json!({ "kind": "Hub", "metadata": { "name": "b" } })).await;
    assert!(refused.unwrap_err().to_string().contains("kind: Invalid value: \"Hub\": must be Machine"));
    assert!(matches!(home.create("machines", "default", json!({ "apiVersion": "v9" })).await, Err(Error::BadRequest(_))));
    assert!(matches!(home.create("machines", "default", json!({ "metadata": { "namespace": "other" } })).await, Err(Error::BadRequest(_))));
    assert_eq!(home.revision(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_fields_are_never_accepted_and_ignored() {
    let home = home().await;
    let mut document = serde_json::to_value(machine("a")).unwrap();
    document["spec"]["bogus"] = 1.into();
    let create = async |document: &Value, options: &WriteOptions| {
        home.objects.create_document(resource("machines"), "default", document.clone(), options).await
    };
    for options in [strict(), WriteOptions::default()] {
        let error = create(&document, &options).await.unwrap_err().to_string();
        assert!(error.ends_with("strict decoding error: unknown field \"spec.bogus\""), "{error}");
    }
    let ignore = WriteOptions { field_validation: FieldValidation::Ignore, dry_run: true, ..WriteOptions::default() };
    assert!(create(&document, &ignore).await.unwrap().object["spec"].get("bogus").is_none());
    // Outside the spec upstream's rule holds: a warning.
    let mut outside = serde_json::to_value(machine("a")).unwrap();
    outside["metadata"]["foo"] = 1.into();
    let written = create(&outside, &WriteOptions::default()).await.unwrap();
    assert_eq!(written.warnings, ["unknown field \"metadata.foo\""]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_shows_the_result_and_keeps_nothing() {
    let home = home().await;
    home.objects.create(&machine("a")).await.unwrap();
    let before = home.revision();
    let dry = WriteOptions { dry_run: true, ..WriteOptions::default() };
    let created =
        home.objects.create_document(resource("machines"), "default", serde_json::to_value(machine("b")).unwrap(), &dry).await.unwrap();
    assert_eq!(created.object["spec"]["resources"]["memory"], "2Gi");
    let taken = home.objects.create_document(resource("machines"), "default", serde_json::to_value(machine("a")).unwrap(), &dry).await;
    assert!(matches!(taken, Err(Error::AlreadyExists { .. })));
    let homeless = home
        .objects
        .create_document(resource("machines"), "nowhere", json!({ "metadata": { "name": "c" }, "spec": machine("c").spec }), &dry)
        .await;
    assert!(matches!(homeless, Err(Error::NotFound { resource, .. }) if resource == "namespaces"));
    let change = Patch::Merge(json!({ "spec": { "operatingMode": "Suspended" } }));
    let patched = home.objects.patch_document(resource("machines"), "default", "a", Part::Main, &change, &dry).await.unwrap();
    assert_eq!(
        (&patched.object["metadata"]["generation"], &patched.object["metadata"]["resourceVersion"]),
        (&json!(2), &json!(before.0.to_string()))
    );
    let options = DeleteOptions { dry_run: true, ..DeleteOptions::default() };
    home.objects.delete_document(resource("machines"), "default", "a", &options).await.unwrap();
    assert_eq!(home.revision(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn patches_win_over_concurrent_writers_unless_they_name_a_version() {
    let home = home().await;
    let object = home.objects.create(&machine("a")).await.unwrap();
    let patches = (0..16).map(|index| {
        home.patch("machines", "default", "a", Patch::Merge(json!({ "metadata": { "labels": { format!("l{index}"): "x" } } })))
    });
    for result in futures::future::join_all(patches).await {
        result.unwrap();
    }
    let stored = home.objects.read(resource("machines"), "default", "a").await.unwrap();
    assert_eq!(stored["metadata"]["labels"].as_object().unwrap().len(), 16);
    let stale = Patch::Merge(json!({ "metadata": { "resourceVersion": object.metadata.resource_version, "labels": { "z": "x" } } }));
    assert!(matches!(home.patch("machines", "default", "a", stale).await, Err(Error::Conflict { .. })));
    let failing = Patch::Json(json!([{ "op": "test", "path": "/spec/hub", "value": "other" }]));
    assert!(matches!(home.patch("machines", "default", "a", failing).await, Err(Error::Unprocessable(_))));
    let renaming = Patch::Merge(json!({ "metadata": { "name": "b" } }));
    assert!(matches!(home.patch("machines", "default", "a", renaming).await, Err(Error::BadRequest(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn replacing_needs_a_version_for_our_kinds_and_not_for_core() {
    let home = home().await;
    home.objects.create(&machine("a")).await.unwrap();
    let put = async |plural: &str, name: &str, document: Value| {
        home.objects.update_document(resource(plural), "default", name, Part::Main, document, &WriteOptions::default()).await
    };
    let error = put("machines", "a", serde_json::to_value(machine("a")).unwrap()).await.unwrap_err().to_string();
    assert!(error.starts_with("machines.autovibe.dev \"a\" is invalid: metadata.resourceVersion: Invalid value"), "{error}");
    home.create("configmaps", "default", json!({ "metadata": { "name": "c" }, "data": { "a": "1" } })).await.unwrap();
    let replaced = put("configmaps", "c", json!({ "metadata": { "name": "c" }, "data": { "b": "2" } })).await.unwrap();
    assert_eq!(replaced.object["data"], json!({ "b": "2" }));
    assert!(matches!(put("configmaps", "none", json!({ "metadata": { "name": "none" } })).await, Err(Error::NotFound { .. })));
    // A Lease is made by its first renewal.
    assert!(put("leases", "leader", json!({ "metadata": { "name": "leader" }, "spec": { "holderIdentity": "me" } })).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn finalizers_hold_back_the_end_until_the_last_is_removed() {
    let home = home().await;
    let mut object = machine("a");
    object.metadata.finalizers = Some(vec!["autovibe.dev/machine".into()]);
    let object = home.objects.create(&object).await.unwrap();
    let wrong_uid = home.objects.delete::<Machine>("default", "a", Some("other")).await;
    assert!(matches!(wrong_uid, Err(Error::Conflict { .. })));
    home.objects.delete::<Machine>("default", "a", Some(object.uid())).await.unwrap();
    let marked = home.objects.get::<Machine>("default", "a").await.unwrap().unwrap();
    assert!(marked.is_deleting());
    assert_eq!(marked.generation(), 2);
    let revision = home.revision();
    home.objects.delete::<Machine>("default", "a", None).await.unwrap();
    assert_eq!(home.revision(), revision, "asking twice changes nothing");
    let mut more = marked.clone();
    more.metadata.finalizers = Some(vec!["autovibe.dev/machine".into(), "b.c/d".into()]);
    assert!(home.objects.update(&more).await.unwrap_err().to_string().contains("no new finalizers can be added"));
    let mut last = marked;
    last.metadata.finalizers = None;
    home.objects.update(&last).await.unwrap();
    assert!(home.objects.get::<Machine>("default", "a").await.unwrap().is_none());
    assert!(matches!(home.objects.delete::<Machine>("default", "a", None).await, Err(Error::NotFound { .. })));
    // Status writes do not end it.
    let again = home.objects.create(&machine("a")).await.unwrap();
    assert_ne!(again.uid(), object.uid());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_namespace_ends_when_it_is_empty_and_keeps_checkpoints_until_told() {
    let home = home().await;
    assert!(matches!(
        home.create("machines", "shop", json!({ "metadata": { "name": "m" }, "spec": machine("m").spec })).await,
        Err(Error::NotFound { .. })
    ));
    let namespace = home.create("namespaces", "", json!({ "metadata": { "name": "shop" } })).await.unwrap();
    assert_eq!(namespace["status"]["phase"], "Active");
    assert_eq!(namespace["metadata"]["labels"]["kubernetes.io/metadata.name"], "shop");
    let with_finalizer = json!({ "metadata": { "name": "m", "finalizers": ["autovibe.dev/machine"] }, "spec": machine("m").spec });
    home.create("machines", "shop", with_finalizer).await.unwrap();
    home.create("checkpoints", "shop", json!({ "metadata": { "name": "c" }, "spec": { "machine": "m" } })).await.unwrap();
    home.create("secrets", "shop", json!({ "metadata": { "name": "s" }, "stringData": { "k": "v" } })).await.unwrap();
    assert!(matches!(home.delete("namespaces", "", "default").await, Err(Error::Forbidden(_))));
    assert!(matches!(home.delete("namespaces", "", "shop").await.unwrap(), Deleted::Marked(_)));
    let refused = home.create("budgets", "shop", json!({ "metadata": { "name": "b" }, "spec": {} })).await.unwrap_err().to_string();
    assert!(refused.contains("because it is being terminated"), "{refused}");
    // The Machine is asked to go; the Secret stays as long as its controller may need it.
    assert!(home.objects.get::<Machine>("shop", "m").await.unwrap().unwrap().is_deleting());
    assert!(home.objects.secret("shop", "s", "k").await.unwrap().is_some());
    // Its controller may still leave a final Checkpoint.
    home.create("checkpoints", "shop", json!({ "metadata": { "name": "final" }, "spec": { "machine": "m" } })).await.unwrap();
    home.patch("machines", "shop", "m", Patch::Merge(json!({ "metadata": { "finalizers": null } }))).await.unwrap();
    home.objects.finish_namespaces().await.unwrap();
    let waiting = home.objects.read(resource("namespaces"), "", "shop").await.unwrap();
    let message = waiting["status"]["conditions"][0]["message"].as_str().unwrap();
    assert!(message.contains("2 checkpoints.autovibe.dev") && message.contains(DELETE_CHECKPOINTS), "{message}");
    assert_eq!(waiting["status"]["phase"], "Terminating");
    let revision = home.revision();
    home.objects.finish_namespaces().await.unwrap();
    assert_eq!(home.revision(), revision, "waiting writes nothing");
    home.patch("namespaces", "", "shop", Patch::Merge(json!({ "metadata": { "annotations": { DELETE_CHECKPOINTS: "true" } } })))
        .await
        .unwrap();
    home.objects.finish_namespaces().await.unwrap();
    assert!(matches!(home.objects.read(resource("namespaces"), "", "shop").await, Err(Error::NotFound { .. })));
    assert!(home.objects.secret("shop", "s", "k").await.unwrap().is_none());
    assert!(home.objects.list::<Checkpoint>(Some("shop")).await.unwrap().0.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_lie_encrypted_in_every_byte_of_the_data_directory() {
    const VALUE: &str = "correct-horse-battery-staple";
    let home = home().await;
    let applied = json!({ "stringData": { "apiKey": VALUE } }).to_string();
    let secret = json!({
        "metadata": { "name": "s", "annotations": { "kubectl.kubernetes.io/last-applied-configuration": applied } },
        "stringData": { "apiKey": VALUE, "other": "x" },
    });
    let created = home.create("secrets", "default", secret).await.unwrap();
    let encoded = created["data"]["apiKey"].as_str().unwrap().to_owned();
    home.patch("secrets", "default", "s", Patch::Strategic(json!({ "data": { "other": null }, "metadata": { "labels": { "a": "b" } } })))
        .await
        .unwrap();
    let value = home.objects.secret("default", "s", "apiKey").await.unwrap().unwrap();
    assert_eq!(value.expose_secret(), VALUE);
    assert!(home.objects.secret("default", "s", "other").await.unwrap().is_none());
    assert!(home.objects.secret("default", "none", "k").await.unwrap().is_none());
    let read = home.objects.read(resource("secrets"), "default", "s").await.unwrap();
    assert!(read["metadata"]["annotations"].to_string().contains(VALUE));
    let page = home.objects.read_page(resource("secrets"), &Query::default()).await.unwrap();
    assert_eq!(page.items[0].document["data"]["apiKey"], encoded);
    let (changes, _) = home.objects.read_changes(resource("secrets"), Revision(0), 0).await.unwrap();
    assert_eq!(changes.len(), 2);
    assert!(changes.iter().all(|change| change.document["data"]["apiKey"] == encoded));
    // A write that changes nothing stays silent though each encryption differs.
    let before = home.revision();
    home.patch("secrets", "default", "s", Patch::Merge(json!({ "data": { "apiKey": encoded } }))).await.unwrap();
    assert_eq!(home.revision(), before);
    home.delete("secrets", "default", "s").await.unwrap();
    for entry in std::fs::read_dir(home.dir.path()).unwrap() {
        let path = entry.unwrap().path();
        let bytes = std::fs::read(&path).unwrap();
        for needle in [VALUE, encoded.trim_end_matches('=')] {
            let found = bytes.windows(needle.len()).any(|window| window == needle.as_bytes());
            assert!(!found, "{} holds the Secret in the clear", path.display());
        }
    }
    let key = home.dir.path().join("secrets.key");
    assert_eq!(std::fs::metadata(&key).unwrap().permissions().mode() & 0o777, 0o600);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_key_opens_nothing_and_says_so() {
    let Home { dir, objects } = home().await;
    objects
        .create_document(resource("secrets"), "default", json!({ "metadata": { "name": "s" }, "stringData": { "k": "v" } }), &strict())
        .await
        .unwrap();
    let other = Objects::new(objects.store().clone(), Clock::system(), Cipher::ephemeral());
    let error = other.secret("default", "s", "k").await.unwrap_err().to_string();
    assert!(error.contains("default/s/k") && error.contains("secrets.key"), "{error}");
    let same = Objects::new(objects.store().clone(), Clock::system(), Cipher::load(&dir.path().join("secrets.key")).unwrap());
    assert!(same.secret("default", "s", "k").await.unwrap().is_some());
    std::fs::write(dir.path().join("bad.key"), "not a key").unwrap();
    assert!(Cipher::load(&dir.path().join("bad.key")).is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_counted_and_expire() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("autovibe.db")).await.unwrap();
    let objects = Objects::new(store, Clock::system(), Cipher::ephemeral());
    objects.ensure_presets().await.unwrap();
    let object = objects.create(&machine("a")).await.unwrap();
    for _ in 0..3 {
        objects.record(&object, EventType::Warning, "Waiting", "for an image").await;
    }
    objects.record(&object, EventType::Normal, "Spawned", "on node pve1").await;
    let hub: Hub =
        serde_json::from_value(json!({ "metadata": { "name": "default", "uid": "u" }, "spec": { "infrastructure": { "lab": {} } } }))
            .unwrap();
    objects.record(&hub, EventType::Normal, "Connected", "to the lab").await;
    let page = objects.read_page(resource("events"), &Query::default()).await.unwrap();
    let mut counts: Vec<_> =
        page.items.iter().map(|e| (e.document["reason"].as_str().unwrap(), e.document["count"].as_i64().unwrap())).collect();
    counts.sort_unstable();
    assert_eq!(counts, [("Connected", 1), ("Spawned", 1), ("Waiting", 3)]);
    let waiting = page.items.iter().find(|e| e.document["reason"] == "Waiting").unwrap();
    assert_eq!(waiting.document["involvedObject"]["uid"], object.uid());
    assert_eq!(objects.expire_events().await.unwrap(), 0, "they are young");
    let old = json!({
        "metadata": { "name": "old", "creationTimestamp": null }, "involvedObject": { "kind": "Machine", "namespace": "default", "name": "a" },
        "reason": "Old", "lastTimestamp": "2020-01-01T00:00:00Z",
    });
    let written = objects.create_document(resource("events"), "default", old, &WriteOptions::default()).await.unwrap();
    assert_eq!(objects.expire_events().await.unwrap(), 0, "it was created just now: {}", written.object);
    let later =
        Objects::new(objects.store().clone(), Clock::simulated(Clock::system().now() + Duration::from_secs(3700)), Cipher::ephemeral());
    assert_eq!(later.expire_events().await.unwrap(), 4);
}

/// The next event of a watch, or a failure when there is none.
async fn next<K: Kind>(watch: &mut futures::stream::BoxStream<'static, autovibe::objects::Event<K>>) -> (Change, String) {
    let event = tokio::time::timeout(Duration::from_secs(10), watch.next()).await.expect("an event is due").expect("the watch goes on");
    (event.change, event.object.name().to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_tells_what_there_is_and_then_every_change() {
    let home = home().await;
    let mut a = home.objects.create(&machine("a")).await.unwrap();
    let mut watch = home.objects.watch::<Machine>();
    assert_eq!(next(&mut watch).await, (Change::Added, "a".into()));
    home.objects.create(&machine("b")).await.unwrap();
    assert_eq!(next(&mut watch).await, (Change::Added, "b".into()));
    a.status = Some(MachineStatus::default());
    home.objects.update_status(&a).await.unwrap();
    assert_eq!(next(&mut watch).await, (Change::Modified, "a".into()));
    home.objects.delete::<Machine>("default", "a", None).await.unwrap();
    assert_eq!(next(&mut watch).await, (Change::Deleted, "a".into()));
    home.objects.store().close().await;
    assert!(watch.next().await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_that_lost_history_lists_again_and_tells_of_what_vanished() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options { clock: Clock::system(), history: History { age: Duration::ZERO, changes: 0 }, ..Options::default() };
    let store = Store::open_with(&Database::Sqlite(dir.path().join("autovibe.db")), options.clone()).await.unwrap();
    let objects = Objects::new(store.clone(), Clock::system(), Cipher::ephemeral());
    objects.ensure_presets().await.unwrap();
    for name in ["gone", "kept", "renewed", "changed"] {
        objects.create(&machine(name)).await.unwrap();
    }
    let mut watch = objects.watch::<Machine>();
    for _ in 0..4 {
        assert_eq!(next(&mut watch).await.0, Change::Added);
    }
    objects.delete::<Machine>("default", "gone", None).await.unwrap();
    objects.delete::<Machine>("default", "renewed", None).await.unwrap();
    objects.create(&machine("renewed")).await.unwrap();
    objects.merge::<Machine>("default", "changed", Part::Main, json!({ "metadata": { "labels": { "a": "b" } } })).await.unwrap();
    objects.create(&machine("new")).await.unwrap();
    assert!(store.compact(&options).await.unwrap() > 0);
    let mut seen = Vec::new();
    for _ in 0..5 {
        seen.push(next(&mut watch).await);
    }
    let expected = [
        (Change::Modified, "changed"),
        (Change::Added, "new"),
        (Change::Deleted, "renewed"),
        (Change::Added, "renewed"),
        (Change::Deleted, "gone"),
    ];
    assert_eq!(seen, expected.map(|(change, name)| (change, name.to_owned())));
    // And it goes on.
    objects.delete::<Machine>("default", "kept", None).await.unwrap();
    assert_eq!(next(&mut watch).await, (Change::Deleted, "kept".into()));
}
