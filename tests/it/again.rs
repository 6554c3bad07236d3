//! Requests that are sent again because their answer was lost, and names that are used again: neither is done twice, and
//! nothing that was meant for an object of before touches the one of now.

use crate::limits::raw;
use crate::served::{Client, Served};
use autovibe::store::Options;
use reqwest::{Method, header};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::io::AsyncWriteExt;

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const MERGE: &str = "application/merge-patch+json";
const JSON_PATCH: &str = "application/json-patch+json";
/// When the client is gone: before anything was done, while it is done, and after.
const LOST_AFTER: [u64; 6] = [0, 1, 2, 4, 8, 40];

struct Request {
    method: Method,
    path: String,
    content_type: &'static str,
    body: Value,
}

impl Request {
    fn new(method: Method, path: &str, content_type: &'static str, body: Value) -> Self {
        Self { method, path: path.into(), content_type, body }
    }

    async fn send(&self, client: &Client) -> (u16, Value) {
        let request = client.request(self.method.clone(), &self.path).header(header::CONTENT_TYPE, self.content_type);
        client.send(request.body(self.body.to_string())).await
    }

    /// Sends it over a connection that is cut before any answer is read.
    async fn lose(&self, server: &Client, after: Duration) {
        let body = self.body.to_string();
        let head = format!(
            "{} {} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\nContent-Type: {}\r\nContent-Length: {}\r\n\r\n",
            self.method,
            self.path,
            server.token,
            self.content_type,
            body.len()
        );
        let mut connection = raw(server).await;
        connection.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
        connection.flush().await.unwrap();
        tokio::time::sleep(after).await;
        drop(connection);
    }
}

fn text<'v>(object: &'v Value, field: &str) -> &'v str {
    object["metadata"][field].as_str().unwrap_or_default()
}

/// How often an object was written since a revision, by the history that a watch tells.
async fn writes(server: &Client, name: &str, from: &str) -> Vec<String> {
    let mark = server.post(MAPS, &json!({"metadata": {"generateName": "mark-"}})).await.1;
    let mut watch = server.watch(&format!("{MAPS}?watch=1&resourceVersion={from}")).await;
    let mut kinds = Vec::new();
    loop {
        let (kind, object) = watch.next().await.unwrap();
        if text(&object, "name") == text(&mark, "name") {
            return kinds;
        }
        if text(&object, "name") == name {
            kinds.push(kind);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_sent_again_after_a_lost_answer_is_done_once() {
    let server = Served::start(Options::default()).await;
    for (n, after) in LOST_AFTER.into_iter().enumerate() {
        let name = format!("a{n}");
        let path = format!("{MAPS}/{name}");
        let (_, list) = server.get(MAPS).await;
        let from = text(&list, "resourceVersion").to_owned();
        let expect = async |what: &str, request: &Request, codes: &[u16], kinds: &[&str], from: &str| {
            request.lose(&server, Duration::from_millis(after)).await;
            let (code, answer) = request.send(&server).await;
            assert!(codes.contains(&code), "{what} after {after} ms: {code} {answer}");
            // What was lost may still be on its way: it is done once, by one of the two.
            let (code, _) = request.send(&server).await;
            assert!(codes.contains(&code), "{what} after {after} ms, again: {code}");
            assert_eq!(writes(&server, &name, from).await, kinds, "{what} after {after} ms");
            server.get(&path).await.1
        };
        let create = Request::new(Method::POST, MAPS, "application/json", json!({"metadata": {"name": name}, "data": {"k": "1"}}));
        let made = expect("a creation", &create, &[201, 409], &["ADDED"], &from).await;

        let mut wanted = made.clone();
        wanted["data"]["k"] = "2".into();
        let update = Request::new(Method::PUT, &path, "application/json", wanted);
        let updated = expect("an update", &update, &[200, 409], &["MODIFIED"], text(&made, "resourceVersion")).await;
        assert_eq!(updated["data"]["k"], "2");

        let merge = Request::new(Method::PATCH, &path, MERGE, json!({"data": {"k": "3"}}));
        let merged = expect("a merge patch", &merge, &[200], &["MODIFIED"], text(&updated, "resourceVersion")).await;

        // One that is not the same when it is done twice names what it read.
        let append = json!([
            {"op": "test", "path": "/metadata/resourceVersion", "value": text(&merged, "resourceVersion")},
            {"op": "add", "path": "/metadata/finalizers", "value": ["example.dev/f"]},
            {"op": "add", "path": "/metadata/finalizers/-", "value": "example.dev/g"},
        ]);
        let append = Request::new(Method::PATCH, &path, JSON_PATCH, append);
        let appended = expect("a JSON patch", &append, &[200, 409, 422], &["MODIFIED"], text(&merged, "resourceVersion")).await;
        assert_eq!(appended["metadata"]["finalizers"], json!(["example.dev/f", "example.dev/g"]));

        let delete = json!({"preconditions": {"uid": text(&made, "uid")}});
        let delete = Request::new(Method::DELETE, &path, "application/json", delete);
        let marked = expect("a deletion", &delete, &[200], &["MODIFIED"], text(&appended, "resourceVersion")).await;
        let free = Request::new(Method::PATCH, &path, MERGE, json!({"metadata": {"finalizers": null}}));
        expect("an end", &free, &[200, 404], &["DELETED"], text(&marked, "resourceVersion")).await;
        // And once more, when someone made another one of that name.
        let another = server.post(MAPS, &json!({"metadata": {"name": name}})).await.1;
        let (code, status) = delete.send(&server).await;
        assert_eq!((code, &status["reason"]), (409, &json!("Conflict")), "{status}");
        assert_eq!(server.get(&path).await.1, another);
    }
    server.stop().await;
}

/// Everything that someone may do who has read an object and knows it by its uid or revision.
fn intents(path: &str, read: &Value, is_ours: bool) -> Vec<(&'static str, Request)> {
    let (uid, revision) = (text(read, "uid"), text(read, "resourceVersion"));
    let mut whole = read.clone();
    whole["metadata"]["labels"] = json!({"by": "old"});
    let mut unconditional = whole.clone();
    unconditional["metadata"].as_object_mut().unwrap().remove("resourceVersion");
    let patch = |fields: Value| json!({"metadata": fields});
    let delete = |fields: Value| Request::new(Method::DELETE, path, "application/json", json!({"preconditions": fields}));
    let mut intents = vec![
        ("PUT of what was read", Request::new(Method::PUT, path, "application/json", whole.clone())),
        (
            "merge patch at a revision",
            Request::new(Method::PATCH, path, MERGE, patch(json!({"resourceVersion": revision, "labels": {"by": "old"}}))),
        ),
        ("merge patch of a uid", Request::new(Method::PATCH, path, MERGE, patch(json!({"uid": uid, "labels": {"by": "old"}})))),
        ("a finalizer taken away", Request::new(Method::PATCH, path, MERGE, patch(json!({"uid": uid, "finalizers": null})))),
        (
            "JSON patch that tests the uid",
            Request::new(
                Method::PATCH,
                path,
                JSON_PATCH,
                json!([{"op": "test", "path": "/metadata/uid", "value": uid}, {"op": "add", "path": "/metadata/labels", "value": {"by": "old"}}]),
            ),
        ),
        ("DELETE of a uid", delete(json!({"uid": uid}))),
        ("DELETE at a revision", delete(json!({"resourceVersion": revision}))),
        ("DELETE of both", delete(json!({"uid": uid, "resourceVersion": revision}))),
    ];
    if is_ours {
        let mut status = read.clone();
        status["status"] = json!({"phase": "Failed"});
        intents.push(("PUT of a status", Request::new(Method::PUT, &format!("{path}/status"), "application/json", status)));
    } else {
        // Core kinds take an update without a revision; the uid still holds.
        intents.push(("PUT of a uid", Request::new(Method::PUT, path, "application/json", unconditional)));
    }
    intents
}

#[tokio::test]
async fn nothing_that_was_meant_for_an_object_of_before_touches_the_one_of_now() {
    let server = Served::shared();
    server.namespace("again").await;
    let machine = json!({
        "apiVersion": "autovibe.dev/v1alpha1", "kind": "Machine", "metadata": {"name": "m", "finalizers": ["example.dev/f"]},
        "spec": {"from": {"image": "i"}, "goal": {"prompt": "p"}, "agent": {"type": "Command", "command": ["true"]}},
    });
    let map = json!({"metadata": {"name": "m", "finalizers": ["example.dev/f"]}, "data": {"a": "b"}});
    let mut count = 0;
    for (collection, body, is_ours) in
        [("/api/v1/namespaces/again/configmaps", map, false), ("/apis/autovibe.dev/v1alpha1/namespaces/again/machines", machine, true)]
    {
        let path = format!("{collection}/m");
        let free = async || server.patch(&path, MERGE, &json!({"metadata": {"finalizers": null}})).await;
        let number = intents(&path, &json!({"metadata": {}}), is_ours).len();
        // While it ends, when it is gone, when there is another one, and when that one ends.
        for moment in ["ending", "gone", "made again", "ending again"] {
            for index in 0..number {
                let (code, old) = server.post(collection, &body).await;
                assert_eq!(code, 201, "{old}");
                assert_eq!(server.delete(&path).await.0, 200);
                if moment != "ending" {
                    assert_eq!(free().await.0, 200);
                }
                let now = match moment {
                    "made again" => server.post(collection, &body).await.1,
                    "ending again" => {
                        server.post(collection, &body).await;
                        server.delete(&path).await;
                        server.get(&path).await.1
                    }
                    _ => server.get(&path).await.1,
                };
                let (what, request) = intents(&path, &old, is_ours).swap_remove(index);
                let (code, status) = request.send(&server).await;
                let what = format!("{what}, when it is {moment}: {code} {status}");
                match moment {
                    "gone" => assert_eq!(code, 404, "{what}"),
                    // It is still the one that was meant; only its revision is another.
                    "ending" => assert!(matches!(code, 200 | 409), "{what}"),
                    _ => {
                        assert!(matches!(code, 409 | 422), "{what}");
                        assert_eq!(server.get(&path).await.1, now, "{what}");
                    }
                }
                free().await;
                server.delete(&path).await;
                free().await;
                assert_eq!(server.get(&path).await.0, 404);
                count += 1;
            }
        }
    }
    assert_eq!(count, 2 * 4 * 9);
}
