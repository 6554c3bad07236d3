//! Watches as clients see them: nothing lost, nothing twice, in order, whatever other clients do.

use crate::served::Served;
use autovibe::store::{History, Options};
use serde_json::{Value, json};
use std::time::Duration;

fn config_map(name: &str, labels: &Value) -> Value {
    json!({"metadata": {"name": name, "labels": labels}, "data": {"k": "v"}})
}

fn version(object: &Value) -> &str {
    object["metadata"]["resourceVersion"].as_str().expect("a resourceVersion")
}

fn names(list: &Value) -> Vec<&str> {
    list["items"].as_array().expect("items").iter().map(|i| i["metadata"]["name"].as_str().expect("a name")).collect()
}

#[tokio::test]
async fn a_watch_replays_resumes_and_tells_deletions() {
    let server = Served::shared();
    server.namespace("watch").await;
    let path = "/api/v1/namespaces/watch/configmaps";
    let (_, a) = server.post(path, &config_map("a", &json!({"color": "red"}))).await;
    let mut watch = server.watch(&format!("{path}?watch=1&timeoutSeconds=60")).await;
    assert_eq!(watch.named().await, ("ADDED".into(), "a".into()));
    server.post(path, &config_map("b", &json!({}))).await;
    assert_eq!(watch.named().await, ("ADDED".into(), "b".into()));
    server.patch(&format!("{path}/b"), "application/merge-patch+json", &json!({"data": {"k": "w"}})).await;
    let (kind, changed) = watch.next().await.unwrap();
    assert_eq!((kind.as_str(), &changed["data"]["k"], &changed["kind"]), ("MODIFIED", &json!("w"), &json!("ConfigMap")));
    // A patch that changes nothing is told to no one.
    server.patch(&format!("{path}/b"), "application/merge-patch+json", &json!({"data": {"k": "w"}})).await;
    server.delete(&format!("{path}/b")).await;
    let (kind, gone) = watch.next().await.unwrap();
    assert_eq!(kind, "DELETED");
    let number = |v: &Value| version(v).parse::<i64>().unwrap();
    assert!(number(&gone) > number(&changed), "a deletion has a revision of its own");

    let mut resumed = server.watch(&format!("{path}?watch=true&resourceVersion={}", version(&a))).await;
    for expect in ["ADDED", "MODIFIED", "DELETED"] {
        assert_eq!(resumed.named().await, (expect.into(), "b".into()));
    }
    let mut after = server.watch(&format!("{path}?watch=true&resourceVersion={}", version(&gone))).await;
    server.post(path, &config_map("c", &json!({}))).await;
    assert_eq!(after.named().await, ("ADDED".into(), "c".into()), "the deletion is not told again");
}

#[tokio::test]
async fn objects_enter_and_leave_a_watch_as_their_labels_do() {
    let server = Served::shared();
    server.namespace("enter").await;
    let path = "/api/v1/namespaces/enter/configmaps";
    server.post(path, &config_map("a", &json!({"color": "red"}))).await;
    let mut watch = server.watch(&format!("{path}?watch=1&labelSelector=color%3Dblue&resourceVersion=0")).await;
    let relabel = async |color: &str| {
        server.patch(&format!("{path}/a"), "application/merge-patch+json", &json!({"metadata": {"labels": {"color": color}}})).await.1
    };
    relabel("blue").await;
    assert_eq!(watch.named().await.0, "ADDED");
    let left = relabel("red").await;
    let (kind, object) = watch.next().await.unwrap();
    assert_eq!((kind.as_str(), &object["metadata"]["labels"]["color"]), ("DELETED", &json!("blue")), "leaving shows what it was");
    assert_eq!(version(&object), version(&left), "with the revision of the change");
    relabel("green").await;
    relabel("blue").await;
    assert_eq!(watch.named().await.0, "ADDED");
    server.delete(&format!("{path}/a")).await;
    assert_eq!(watch.named().await.0, "DELETED");
}

#[tokio::test]
async fn a_watch_list_marks_the_end_of_the_initial_events_and_its_time_ends_it() {
    let server = Served::shared();
    server.namespace("marks").await;
    let path = "/api/v1/namespaces/marks/configmaps";
    server.post(path, &config_map("a", &json!({}))).await;
    let query = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&timeoutSeconds=3";
    let mut watch = server.watch(&format!("{path}?{query}")).await;
    assert_eq!(watch.named().await, ("ADDED".into(), "a".into()));
    let (kind, mark) = watch.next().await.unwrap();
    assert_eq!((kind.as_str(), &mark["metadata"]["annotations"]["k8s.io/initial-events-end"]), ("BOOKMARK", &json!("true")));
    // Shortly before the deadline comes a bookmark to resume from, and then a clean end.
    let (kind, last) = watch.next().await.unwrap();
    assert_eq!((kind.as_str(), &last["kind"]), ("BOOKMARK", &json!("ConfigMap")));
    assert!(version(&last).parse::<i64>().unwrap() >= version(&mark).parse().unwrap());
    assert_eq!(watch.next().await, None);
    assert_eq!(server.get(&format!("{path}?watch=1&sendInitialEvents=true")).await.0, 422);
}

#[tokio::test]
async fn a_revision_beyond_the_history_is_an_error_event_and_an_expired_list() {
    let options = Options { history: History { age: Duration::ZERO, changes: 2 }, ..Options::default() };
    let server = Served::start(options.clone()).await;
    let path = "/api/v1/namespaces/default/configmaps";
    let (_, first) = server.post(path, &config_map("a", &json!({}))).await;
    server.post(path, &config_map("b", &json!({}))).await;
    let (_, page) = server.get(&format!("{path}?limit=1")).await;
    let token = page["metadata"]["continue"].as_str().unwrap().to_owned();
    for n in 0..20 {
        server.patch(&format!("{path}/a"), "application/merge-patch+json", &json!({"data": {"n": n.to_string()}})).await;
    }
    server.objects.store().compact(&options).await.unwrap();
    let mut watch = server.watch(&format!("{path}?watch=1&resourceVersion={}", version(&first))).await;
    let (kind, status) = watch.next().await.unwrap();
    assert_eq!(
        (kind.as_str(), &status["code"], &status["reason"], &status["kind"]),
        ("ERROR", &json!(410), &json!("Expired"), &json!("Status"))
    );
    assert_eq!(watch.next().await, None);
    let (code, status) = server.get(&format!("{path}?limit=1&continue={token}")).await;
    assert_eq!((code, &status["reason"]), (410, &json!("Expired")));
    // The refusal carries a token that goes on at the latest state.
    let fresh = status["metadata"]["continue"].as_str().unwrap();
    let (code, rest) = server.get(&format!("{path}?limit=1&continue={fresh}")).await;
    assert_eq!((code, names(&rest)), (200, vec!["b"]));
    server.stop().await;
}

#[tokio::test]
async fn a_stop_ends_watches_cleanly() {
    let server = Served::start(Options::default()).await;
    let mut watch = server.watch("/api/v1/namespaces?watch=1&resourceVersion=0").await;
    assert_eq!(watch.next().await.unwrap().0, "ADDED");
    server.shutdown.cancel();
    while let Some((kind, _)) = watch.next().await {
        assert_eq!(kind, "ADDED", "an end is no error");
    }
    drop(watch);
    server.stop().await;
}

#[tokio::test]
async fn every_watcher_sees_every_change_once_and_in_one_order() {
    const WRITERS: usize = 4;
    const WRITES: usize = 20;
    const WATCHERS: usize = 8;
    let server = Served::shared();
    server.namespace("soak").await;
    let path = "/api/v1/namespaces/soak/configmaps";
    for writer in 0..WRITERS {
        server.post(path, &config_map(&format!("w{writer}"), &json!({}))).await;
    }
    let (_, list) = server.get(path).await;
    let from = version(&list).to_owned();
    let writers = futures::future::join_all((0..WRITERS).map(|writer| {
        let server = &server;
        async move {
            for n in 0..WRITES {
                let patch = json!({"data": {"n": n.to_string()}});
                let (code, _) = server.patch(&format!("{path}/w{writer}"), "application/merge-patch+json", &patch).await;
                assert_eq!(code, 200);
            }
        }
    }));
    // Some resume from the list, some from a state that they are handed first, while the writers write.
    let watchers = futures::future::join_all((0..WATCHERS).map(|_| async {
        let mut watch = server.watch(&format!("{path}?watch=1&resourceVersion={from}")).await;
        let mut seen = Vec::new();
        while seen.len() < WRITERS * WRITES {
            let (kind, object) = watch.next().await.expect("an event");
            assert_eq!(kind, "MODIFIED");
            seen.push((version(&object).parse::<i64>().expect("a number"), object["data"]["n"].as_str().unwrap_or_default().to_owned()));
        }
        seen
    }));
    let (_, seen) = tokio::join!(writers, watchers);
    assert!(seen[0].windows(2).all(|pair| pair[0].0 < pair[1].0), "revisions only rise");
    assert!(seen.iter().all(|other| *other == seen[0]), "all see the same");
}

#[tokio::test]
async fn a_client_that_does_not_read_delays_no_one() {
    let (idle, server) = (Served::shared(), Served::shared());
    server.namespace("slow").await;
    let path = "/api/v1/namespaces/slow/configmaps";
    let mut unread = idle.watch(&format!("{path}?watch=1")).await;
    let mut watch = server.watch(&format!("{path}?watch=1")).await;
    let big = "x".repeat(256 * 1024);
    for n in 0..40 {
        let name = format!("c{n}");
        let body = json!({"metadata": {"name": name}, "data": {"k": big}});
        assert_eq!(server.post(path, &body).await.0, 201);
        assert_eq!(watch.named().await, ("ADDED".into(), name));
    }
    // And when it reads at last, it has missed nothing.
    for n in 0..40 {
        assert_eq!(unread.named().await, ("ADDED".into(), format!("c{n}")));
    }
}

#[tokio::test]
async fn a_client_that_is_overtaken_is_cut_told_why_and_resumes() {
    let server = Served::start(Options::default()).await;
    let path = "/api/v1/namespaces/default/configmaps";
    let slow = server.alone();
    let mut unread = slow.watch(&format!("{path}?watch=1")).await;
    let mut other = server.watch(&format!("{path}?watch=1")).await;
    // More than the cache keeps and the sockets take.
    let big = "x".repeat(900 * 1024);
    server.post(path, &json!({"metadata": {"name": "c"}})).await;
    assert_eq!(other.named().await.0, "ADDED");
    for n in 0..40 {
        let (code, _) =
            server.patch(&format!("{path}/c"), "application/merge-patch+json", &json!({"data": {"k": big, "n": n.to_string()}})).await;
        assert_eq!(code, 200);
        assert_eq!(other.next().await.unwrap().1["data"]["n"], n.to_string(), "the others are not delayed");
    }
    tokio::time::sleep(Duration::from_millis(5500)).await;
    let (mut seen, mut last) = (0, String::new());
    let status = loop {
        let (kind, object) = unread.next().await.expect("an event before the end");
        if kind == "ERROR" {
            break object;
        }
        (seen, last) = (seen + 1, version(&object).to_owned());
    };
    assert!(seen < 40, "it was not cut");
    assert_eq!((&status["code"], &status["reason"]), (&json!(429), &json!("TooManyRequests")));
    assert!(status["message"].as_str().unwrap().contains(&format!("resourceVersion {last}")), "{status}");
    assert_eq!(unread.next().await, None);
    // It goes on from the last one that it saw, and misses nothing.
    let mut resumed = slow.watch(&format!("{path}?watch=1&resourceVersion={last}")).await;
    for n in seen - 1..40 {
        assert_eq!(resumed.next().await.unwrap().1["data"]["n"], n.to_string());
    }
    server.stop().await;
}

/// Writers make, change and delete while watchers watch: all of them, some of a selection, some from a listed state, one
/// only as metadata. Each sees each revision that concerns it, in order, once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fifty_watchers_see_every_revision_of_sixteen_writers_in_order() {
    const WRITERS: usize = 16;
    const ROUNDS: usize = 12;
    const WATCHERS: usize = 50;
    let server = Served::start(Options::default()).await;
    let path = "/api/v1/namespaces/default/configmaps";
    let (_, list) = server.get(path).await;
    let from = version(&list).to_owned();
    // Each writer's round: made red, turned blue, deleted.
    let write = async |writer: usize| {
        for n in 0..ROUNDS {
            let name = format!("w{writer}-{n}");
            let (code, _) = server.post(path, &config_map(&name, &json!({"color": "red"}))).await;
            assert_eq!(code, 201);
            let blue = json!({"metadata": {"labels": {"color": "blue"}}});
            assert_eq!(server.patch(&format!("{path}/{name}"), "application/merge-patch+json", &blue).await.0, 200);
            assert_eq!(server.delete(&format!("{path}/{name}")).await.0, 200);
        }
        server.post(path, &config_map(&format!("end-{writer}"), &json!({"color": "blue"}))).await;
    };
    let watch = async |watcher: usize| {
        let accept = if watcher % 5 == 4 { "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1" } else { "application/json" };
        let selector = ["", "&labelSelector=color%3Dred", "&labelSelector=color%3Dblue"][watcher % 3];
        let client = server.alone();
        let mut lines = client.watch_as(&format!("{path}?watch=1&resourceVersion={from}{selector}"), accept).await;
        let (mut seen, mut ends) = (Vec::new(), 0);
        // A watch for red ends never on its own: it has seen all when its last object has left.
        let all = match watcher % 3 {
            0 => WRITERS * (3 * ROUNDS + 1),
            1 => WRITERS * 2 * ROUNDS,
            _ => WRITERS * (2 * ROUNDS + 1),
        };
        while seen.len() < all {
            let (kind, object) = lines.next().await.expect("an event");
            ends += usize::from(object["metadata"]["name"].as_str().unwrap_or_default().starts_with("end-"));
            seen.push((version(&object).parse::<i64>().expect("a number"), kind));
        }
        assert_eq!(ends, if watcher % 3 == 1 { 0 } else { WRITERS });
        seen
    };
    let writers = futures::future::join_all((0..WRITERS).map(write));
    let watchers = futures::future::join_all((0..WATCHERS).map(watch));
    let (_, seen) = tokio::join!(writers, watchers);
    for (watcher, events) in seen.iter().enumerate() {
        assert!(events.windows(2).all(|pair| pair[0].0 < pair[1].0), "watcher {watcher}: revisions only rise");
        assert_eq!(*events, seen[watcher % 3], "watcher {watcher} sees what others of its selection see");
    }
    // Every revision was seen by those who watch all, and none came from elsewhere.
    let (first, last) = (seen[0][0].0, seen[0].last().unwrap().0);
    assert_eq!(usize::try_from(last - first).unwrap() + 1, seen[0].len(), "no revision is left out");
    server.stop().await;
}

#[tokio::test]
async fn a_watch_from_before_the_cache_reads_the_log_and_loses_nothing() {
    let server = Served::start(Options::default()).await;
    let path = "/api/v1/namespaces/default/configmaps";
    let (_, first) = server.post(path, &config_map("a", &json!({"color": "red"}))).await;
    for n in 0..50 {
        server.patch(&format!("{path}/a"), "application/merge-patch+json", &json!({"data": {"n": n.to_string()}})).await;
    }
    let directory = server.stop().await;
    // The cache of the next server begins at its first read, behind all that.
    let server = Served::start_in_same(directory).await;
    assert_eq!(names(&server.get(path).await.1), ["a"]);
    let mut watch = server.watch(&format!("{path}?watch=1&resourceVersion={}&labelSelector=color%3Dred", version(&first))).await;
    for n in 0..50 {
        let (kind, object) = watch.next().await.unwrap();
        assert_eq!((kind.as_str(), &object["data"]["n"]), ("MODIFIED", &json!(n.to_string())));
    }
    server.patch(&format!("{path}/a"), "application/merge-patch+json", &json!({"metadata": {"labels": {"color": "blue"}}})).await;
    let (kind, left) = watch.next().await.unwrap();
    assert_eq!((kind.as_str(), &left["metadata"]["labels"]["color"]), ("DELETED", &json!("red")));
    server.stop().await;
}

#[tokio::test]
async fn a_read_sees_every_write_that_was_answered_before_it() {
    let server = Served::start(Options::default()).await;
    let path = "/api/v1/namespaces/default/configmaps";
    let _watched = server.watch(&format!("{path}?watch=1")).await;
    for n in 0..60 {
        let (_, made) = server.post(path, &config_map(&format!("c{n:02}"), &json!({}))).await;
        for query in ["", "?resourceVersion=0", "?limit=500", &format!("?resourceVersion={}", version(&made))] {
            let (_, list) = server.get(&format!("{path}{query}")).await;
            assert_eq!(names(&list).len(), n + 1, "{query}");
            assert!(version(&list).parse::<i64>().unwrap() >= version(&made).parse().unwrap());
        }
    }
    server.stop().await;
}

#[tokio::test]
async fn secrets_are_watched_and_listed_in_the_clear_by_those_who_may() {
    let server = Served::start(Options::default()).await;
    let path = "/api/v1/namespaces/default/secrets";
    let secret = |value: &str| json!({"metadata": {"name": "s", "annotations": {"a": value}}, "stringData": {"k": value}});
    // From a revision: without one the watch begins at the newest state, which may be the second already.
    let (_, empty) = server.get(path).await;
    let from = version(&empty);
    let mut watch = server.watch(&format!("{path}?watch=1&fieldSelector=type%3DOpaque&resourceVersion={from}")).await;
    server.post(path, &secret("one")).await;
    server.patch(&format!("{path}/s"), "application/merge-patch+json", &secret("two")).await;
    for (value, base64) in [("one", "b25l"), ("two", "dHdv")] {
        let (_, object) = watch.next().await.unwrap();
        assert_eq!((&object["data"]["k"], &object["metadata"]["annotations"]["a"]), (&json!(base64), &json!(value)));
    }
    let (_, list) = server.get(path).await;
    assert_eq!(list["items"][0]["data"]["k"], "dHdv");
    server.stop().await;
}

#[tokio::test]
async fn a_long_list_comes_in_pieces_and_whole() {
    let server = Served::start(Options::default()).await;
    let path = "/api/v1/namespaces/default/configmaps";
    let text = "y".repeat(10_000);
    for n in 0..40 {
        server.post(path, &json!({"metadata": {"name": format!("c{n:02}")}, "data": {"k": text}})).await;
    }
    let (code, list) = server.get(path).await;
    assert_eq!((code, names(&list).len(), &list["kind"]), (200, 40, &json!("ConfigMapList")));
    assert!(
        list["items"].as_array().unwrap().iter().all(|i| i["data"]["k"] == text && i["kind"] == "ConfigMap" && i["apiVersion"] == "v1")
    );
    server.stop().await;
}
