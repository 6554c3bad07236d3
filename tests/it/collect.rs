//! Garbage collection: dependents go with their owners, before them, or stay, as the deletion says; nobody else goes.

use crate::served::{Client, Served};
use autovibe::{
    admission,
    clock::Clock,
    objects::{Cipher, DeleteOptions, Objects, WriteOptions},
    store::{Options, Store},
};
use futures::StreamExt;
use reqwest::Method;
use serde_json::{Value, json};
use std::time::Duration;

const MERGE: &str = "application/merge-patch+json";

fn path(namespace: &str, name: &str) -> String {
    format!("/api/v1/namespaces/{namespace}/configmaps/{name}")
}

fn owner(of: &Value) -> Value {
    let kind = of["kind"].as_str().expect("a kind");
    json!({"apiVersion": of["apiVersion"], "kind": kind, "name": of["metadata"]["name"], "uid": of["metadata"]["uid"], "blockOwnerDeletion": true})
}

async fn make(server: &Client, namespace: &str, name: &str, owners: &[Value]) -> Value {
    make_with(server, namespace, name, owners, &[]).await
}

async fn make_with(server: &Client, namespace: &str, name: &str, owners: &[Value], finalizers: &[&str]) -> Value {
    let body = json!({"metadata": {"name": name, "ownerReferences": owners, "finalizers": finalizers}});
    let (code, made) = server.post(&format!("/api/v1/namespaces/{namespace}/configmaps"), &body).await;
    assert_eq!(code, 201, "{made}");
    made
}

async fn delete(server: &Client, path: &str, policy: &str) -> (u16, Value) {
    server.send(server.request(Method::DELETE, path).json(&json!({"propagationPolicy": policy}))).await
}

async fn exists(server: &Client, path: &str) -> bool {
    server.get(path).await.0 == 200
}

/// Waits until `holds`.
async fn until(what: &str, holds: impl AsyncFn() -> bool) {
    for _ in 0..400 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("not within 10 s: {what}");
}

async fn gone(server: &Client, path: &str) {
    until(&format!("{path} is gone"), async || !exists(server, path).await).await;
}

/// Waits long enough for the collector to have looked, and finds the store as it was.
async fn stays_as_it_is(server: &Served) {
    tokio::time::sleep(Duration::from_millis(300)).await;
    let before = *server.objects.store().revisions().borrow();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(*server.objects.store().revisions().borrow(), before, "nothing is written when there is nothing to do");
}

#[tokio::test]
async fn dependents_go_after_their_last_owner() {
    let server = Served::start(Options::default()).await;
    let (a, b) = (make(&server, "default", "a", &[]).await, make(&server, "default", "b", &[]).await);
    make(&server, "default", "of-a", &[owner(&a)]).await;
    let both = make(&server, "default", "of-both", &[owner(&a), owner(&b)]).await;
    make(&server, "default", "of-both-2", &[owner(&both)]).await;
    let (code, status) = delete(&server, &path("default", "a"), "Background").await;
    assert_eq!((code, &status["status"]), (200, &json!("Success")), "the owner goes at once");
    gone(&server, &path("default", "of-a")).await;
    until("the reference to the lost owner is dropped", async || {
        server.get(&path("default", "of-both")).await.1["metadata"]["ownerReferences"] == json!([owner(&b)])
    })
    .await;
    stays_as_it_is(&server).await;
    delete(&server, &path("default", "b"), "Background").await;
    gone(&server, &path("default", "of-both-2")).await;
    assert!(!exists(&server, &path("default", "of-both")).await);
    server.stop().await;
}

#[tokio::test]
async fn nothing_goes_without_evidence_that_its_owners_are_gone() {
    let server = Served::start(Options::default()).await;
    server.namespace("other").await;
    let a = make(&server, "default", "a", &[]).await;
    let reference =
        |api_version: &str, kind: &str, name: &str, uid: &str| json!({"apiVersion": api_version, "kind": kind, "name": name, "uid": uid});
    make(&server, "default", "of-unknown", &[reference("apps/v1", "Deployment", "d", "u1")]).await;
    let machine = json!({
        "apiVersion": "autovibe.dev/v1alpha1", "kind": "Machine", "metadata": {"name": "of-living", "ownerReferences": [owner(&a)]},
        "spec": {"from": {"image": "micro"}, "goal": {"prompt": "Write."}, "agent": {"type": "Command", "command": ["true"]}},
    });
    let machines = "/apis/autovibe.dev/v1alpha1/namespaces/default/machines";
    let (code, made) = server.post(machines, &machine).await;
    assert_eq!(code, 201, "{made}");
    let space = json!({"metadata": {"name": "owned", "ownerReferences": [owner(&a)]}});
    assert_eq!(server.post("/api/v1/namespaces", &space).await.0, 201);
    // An owner of that name with another uid, one that never was, and one in another namespace are all absent.
    let mut other_uid = owner(&a);
    other_uid["uid"] = json!("another");
    make(&server, "default", "of-another", &[other_uid]).await;
    make(&server, "default", "of-nobody", &[reference("v1", "Secret", "s", "u2")]).await;
    make(&server, "other", "of-elsewhere", &[owner(&a)]).await;
    for (namespace, name) in [("default", "of-another"), ("default", "of-nobody"), ("other", "of-elsewhere")] {
        gone(&server, &path(namespace, name)).await;
    }
    stays_as_it_is(&server).await;
    assert!(exists(&server, &path("default", "of-unknown")).await, "its owner's kind is not known here");
    assert!(exists(&server, &format!("{machines}/of-living")).await);
    assert!(exists(&server, "/api/v1/namespaces/owned").await, "nothing namespaced owns what has no namespace");
    server.stop().await;
}

#[tokio::test]
async fn in_the_foreground_dependents_go_first() {
    let server = Served::start(Options::default()).await;
    let a = make(&server, "default", "a", &[]).await;
    let b = make_with(&server, "default", "b", &[owner(&a)], &["example.dev/hold"]).await;
    make(&server, "default", "c", &[owner(&b)]).await;
    let (code, marked) = delete(&server, &path("default", "a"), "Foreground").await;
    assert_eq!((code, &marked["metadata"]["finalizers"]), (200, &json!(["foregroundDeletion"])), "{marked}");
    assert!(marked["metadata"]["deletionTimestamp"].is_string());
    gone(&server, &path("default", "c")).await;
    until("only the other finalizer holds it", async || {
        server.get(&path("default", "b")).await.1["metadata"]["finalizers"] == json!(["example.dev/hold"])
    })
    .await;
    stays_as_it_is(&server).await;
    assert!(exists(&server, &path("default", "a")).await, "the owner waits for a dependent that is held");
    server.patch(&path("default", "b"), MERGE, &json!({"metadata": {"finalizers": null}})).await;
    gone(&server, &path("default", "a")).await;
    assert!(!exists(&server, &path("default", "b")).await);
    // One that does not block its owner goes too, and the owner does not wait for it.
    let a = make(&server, "default", "a", &[]).await;
    let mut loose = owner(&a);
    loose["blockOwnerDeletion"] = json!(false);
    make_with(&server, "default", "b", &[loose], &["example.dev/hold"]).await;
    delete(&server, &path("default", "a"), "Foreground").await;
    gone(&server, &path("default", "a")).await;
    until("it is being deleted", async || server.get(&path("default", "b")).await.1["metadata"]["deletionTimestamp"].is_string()).await;
    server.stop().await;
}

#[tokio::test]
async fn orphans_stay_and_a_later_deletion_may_change_its_mind() {
    let server = Served::start(Options::default()).await;
    let a = make(&server, "default", "a", &[]).await;
    let b = make(&server, "default", "b", &[owner(&a)]).await;
    let (code, marked) = server.delete(&format!("{}?propagationPolicy=Orphan", path("default", "a"))).await;
    assert_eq!((code, &marked["metadata"]["finalizers"]), (200, &json!(["orphan"])), "{marked}");
    gone(&server, &path("default", "a")).await;
    let (_, left) = server.get(&path("default", "b")).await;
    assert_eq!((left["metadata"].get("ownerReferences"), &left["metadata"]["uid"]), (None, &b["metadata"]["uid"]));
    stays_as_it_is(&server).await;
    // Waiting in the foreground for a dependent that is held, it is told not to wait.
    make_with(&server, "default", "c", &[owner(&b)], &["example.dev/hold"]).await;
    delete(&server, &path("default", "b"), "Foreground").await;
    until("its dependent is being deleted", async || {
        server.get(&path("default", "c")).await.1["metadata"]["deletionTimestamp"].is_string()
    })
    .await;
    let (_, again) = delete(&server, &path("default", "b"), "Foreground").await;
    assert_eq!(again["metadata"]["finalizers"], json!(["foregroundDeletion"]), "asking again changes nothing: {again}");
    let (_, status) = delete(&server, &path("default", "b"), "Background").await;
    assert_eq!(status["status"], "Success", "{status}");
    assert!(!exists(&server, &path("default", "b")).await);
    let (code, status) = delete(&server, &path("default", "c"), "Bogus").await;
    assert_eq!((code, &status["details"]["causes"][0]["field"]), (422, &json!("propagationPolicy")));
    server.stop().await;
}

#[tokio::test]
async fn a_circle_in_the_foreground_comes_to_its_end() {
    let server = Served::start(Options::default()).await;
    let a = make(&server, "default", "a", &[]).await;
    let b = make(&server, "default", "b", &[owner(&a)]).await;
    let (code, a) = server.patch(&path("default", "a"), MERGE, &json!({"metadata": {"ownerReferences": [owner(&b)]}})).await;
    assert_eq!(code, 200, "{a}");
    stays_as_it_is(&server).await;
    delete(&server, &path("default", "a"), "Foreground").await;
    gone(&server, &path("default", "a")).await;
    gone(&server, &path("default", "b")).await;
    // One that owns itself goes, too.
    let own = make(&server, "default", "own", &[]).await;
    server.patch(&path("default", "own"), MERGE, &json!({"metadata": {"ownerReferences": [owner(&own)]}})).await;
    delete(&server, &path("default", "own"), "Foreground").await;
    gone(&server, &path("default", "own")).await;
    server.stop().await;
}

#[tokio::test]
async fn what_lost_its_owner_while_nobody_looked_goes_at_the_next_start() {
    let server = Served::start(Options::default()).await;
    let (a, b) = (make(&server, "default", "a", &[]).await, make(&server, "default", "b", &[]).await);
    make(&server, "default", "of-a", &[owner(&a)]).await;
    make(&server, "default", "of-b", &[owner(&b)]).await;
    let directory = server.stop().await;
    {
        let store = Store::open(&directory.path().join("store.db")).await.unwrap();
        let objects = Objects::new(store.clone(), Clock::system(), Cipher::ephemeral());
        let maps = admission::named("", "configmaps").unwrap();
        objects.delete_document(maps, "default", "a", &DeleteOptions::default()).await.unwrap();
        let foreground = DeleteOptions { propagation_policy: Some("Foreground".into()), ..DeleteOptions::default() };
        objects.delete_document(maps, "default", "b", &foreground).await.unwrap();
        store.close().await;
    }
    let server = Served::start_in_same(directory).await;
    for name in ["of-a", "of-b", "b"] {
        gone(&server, &path("default", name)).await;
    }
    stays_as_it_is(&server).await;
    server.stop().await;
}

#[tokio::test]
async fn a_storm_of_a_thousand_dependents_passes_and_others_are_served_meanwhile() {
    let server = Served::start(Options::default()).await;
    let a = make(&server, "default", "a", &[]).await;
    let maps = admission::named("", "configmaps").unwrap();
    let bodies = (0..1000).map(|n| json!({"metadata": {"name": format!("d{n}"), "ownerReferences": [owner(&a)]}}));
    let options = autovibe::objects::WriteOptions::default();
    for made in futures::future::join_all(bodies.map(|body| server.objects.create_document(maps, "default", body, &options))).await {
        made.unwrap();
    }
    delete(&server, &path("default", "a"), "Background").await;
    let asked = std::time::Instant::now();
    assert_eq!(server.get("/api/v1/namespaces/default").await.0, 200);
    assert!(asked.elapsed() < Duration::from_secs(2), "{:?}", asked.elapsed());
    until("all are gone", async || {
        server.get("/api/v1/namespaces/default/configmaps").await.1["items"].as_array().is_some_and(Vec::is_empty)
    })
    .await;
    server.stop().await;
}

/// More deletions at once than one transaction holds, of objects that must be asked for each: all end, a watcher sees each, and
/// others are answered while it lasts. One that is held by its finalizer is told of, and can be let go.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_storm_of_ten_thousand_deletions_passes_and_what_is_held_is_seen() {
    const COUNT: usize = 10_000;
    let server = Served::start(Options::default()).await;
    server.namespace("storm").await;
    let collection = "/api/v1/namespaces/storm/configmaps";
    let maps = admission::named("", "configmaps").unwrap();
    let create = |n: usize| {
        let (objects, finalizers) = (server.objects.clone(), if n == 0 { json!(["example.dev/held"]) } else { json!([]) });
        async move {
            let document = json!({"metadata": {"name": format!("m{n}"), "finalizers": finalizers}});
            objects.create_document(maps, "storm", document, &WriteOptions::default()).await.unwrap();
        }
    };
    futures::stream::iter((0..COUNT).map(create)).buffer_unordered(128).collect::<Vec<()>>().await;
    let (_, list) = server.get(&format!("{collection}?limit=1")).await;
    let from = list["metadata"]["resourceVersion"].as_str().unwrap().to_owned();
    let watch = async {
        let client = server.alone();
        let mut watch = client.watch(&format!("{collection}?watch=1&resourceVersion={from}")).await;
        let mut deleted = 0;
        while deleted < COUNT - 1 {
            let (kind, object) = watch.next().await.unwrap();
            assert!(matches!(kind.as_str(), "DELETED" | "MODIFIED"), "{kind} {object}");
            deleted += usize::from(kind == "DELETED");
        }
    };
    let done = std::sync::atomic::AtomicBool::new(false);
    let storm = async {
        // A request has a minute: one that is not done by then is sent again, as a client does.
        while server.delete(collection).await.0 == 504 {}
        done.store(true, std::sync::atomic::Ordering::SeqCst);
    };
    let others = async {
        let client = server.alone();
        let mut answered = 0;
        while !done.load(std::sync::atomic::Ordering::SeqCst) {
            assert_eq!(client.get("/api/v1/namespaces/default").await.0, 200);
            let other = json!({"metadata": {"generateName": "other-"}});
            assert_eq!(client.post("/api/v1/namespaces/default/configmaps", &other).await.0, 201);
            answered += 1;
        }
        assert!(answered > 10, "{answered} others were answered");
    };
    tokio::join!(watch, storm, others);
    // It is not gone, and says so; whoever may, lets it go.
    let (_, list) = server.get(collection).await;
    let left = list["items"].as_array().unwrap();
    assert_eq!(left.len(), 1);
    assert!(left[0]["metadata"]["deletionTimestamp"].is_string() && left[0]["metadata"]["finalizers"] == json!(["example.dev/held"]));
    assert_eq!(server.delete("/api/v1/namespaces/storm").await.1["status"]["phase"], "Terminating");
    until("the namespace says what holds it", async || {
        let (_, namespace) = server.get("/api/v1/namespaces/storm").await;
        namespace["status"]["conditions"][0]["message"].as_str().is_some_and(|message| message.contains("1 configmaps"))
    })
    .await;
    assert_eq!(server.patch(&path("storm", "m0"), MERGE, &json!({"metadata": {"finalizers": null}})).await.0, 200);
    gone(&server, "/api/v1/namespaces/storm").await;
    server.stop().await;
}
