//! Namespaces and Events: the kinds whose objects the server itself makes, ends and checks.

use super::{config_map, names};
use crate::served::Served;
use serde_json::{Value, json};
#[tokio::test]
async fn events_have_two_names_and_are_found_by_what_they_are_about() {
    let server = Served::shared();
    server.namespace("events").await;
    let view = "/apis/events.k8s.io/v1/namespaces/events/events";
    let event = json!({
        "apiVersion": "events.k8s.io/v1", "kind": "Event", "metadata": {"name": "m.1"}, "eventTime": "2026-01-01T00:00:00.000000Z",
        "reportingController": "test", "reportingInstance": "test-1", "action": "Look", "reason": "Seen", "type": "Normal", "note": "hello",
        "regarding": {"apiVersion": "autovibe.dev/v1alpha1", "kind": "Machine", "name": "m", "namespace": "events", "uid": "u1"},
    });
    let (code, made) = server.post(view, &event).await;
    assert_eq!((code, &made["note"], &made["apiVersion"]), (201, &json!("hello"), &json!("events.k8s.io/v1")), "{made}");
    let core = "/api/v1/namespaces/events/events";
    let (_, found) =
        server.get(&format!("{core}?fieldSelector=involvedObject.name%3Dm,involvedObject.kind%3DMachine,involvedObject.uid%3Du1")).await;
    assert_eq!(
        (&found["items"][0]["message"], &found["items"][0]["metadata"]["uid"]),
        (&json!("hello"), &made["metadata"]["uid"]),
        "{found}"
    );
    assert!(names(&server.get(&format!("{core}?fieldSelector=involvedObject.name%3Dother")).await.1).is_empty());
    let (_, table) = server.table(core).await;
    let cells = &table["rows"][0]["cells"];
    assert_eq!(
        (&cells[1], &cells[2], &cells[3], &cells[6]),
        (&json!("Normal"), &json!("Seen"), &json!("machine/m"), &json!("hello")),
        "{table}"
    );
    let series = json!({"series": {"count": 2, "lastObservedTime": "2026-01-01T00:01:00.000000Z"}});
    let (code, changed) = server.patch(&format!("{view}/m.1"), "application/merge-patch+json", &series).await;
    assert_eq!((code, &changed["series"]["count"]), (200, &json!(2)), "{changed}");
}

#[tokio::test]
async fn a_deleted_namespace_takes_its_content_along() {
    let server = Served::shared();
    server.namespace("going").await;
    let held = json!({"metadata": {"name": "held", "finalizers": ["example.dev/hold"]}});
    assert_eq!(server.post("/api/v1/namespaces/going/configmaps", &held).await.0, 201);
    server.post("/api/v1/namespaces/going/configmaps", &config_map("a", &json!({}))).await;
    let mut watch = server.watch("/api/v1/namespaces?watch=1&fieldSelector=metadata.name%3Dgoing").await;
    assert_eq!(watch.named().await.0, "ADDED");
    let (code, deleted) = server.delete("/api/v1/namespaces/going").await;
    assert_eq!((code, &deleted["status"]["phase"]), (200, &json!("Terminating")), "{deleted}");
    let (code, status) = server.post("/api/v1/namespaces/going/configmaps", &config_map("late", &json!({}))).await;
    assert_eq!((code, &status["reason"]), (403, &json!("Forbidden")), "{status}");
    let cause = json!({"reason": "NamespaceTerminating", "message": "namespace going is being terminated", "field": "metadata.namespace"});
    assert_eq!((&status["details"]["causes"][0], &status["details"]["kind"]), (&cause, &json!("configmaps")), "clients look for the cause");
    // The last finalizer's end lets the Namespace go, without anyone asking again.
    let release = json!({"metadata": {"finalizers": null}});
    let (code, _) = server.patch("/api/v1/namespaces/going/configmaps/held", "application/merge-patch+json", &release).await;
    assert_eq!(code, 200);
    while watch.named().await.0 != "DELETED" {}
    assert_eq!(server.get("/api/v1/namespaces/going").await.0, 404);
    assert_eq!(server.get("/api/v1/namespaces/going/configmaps/a").await.0, 404);
    let (code, status) = server.delete("/api/v1/namespaces/default").await;
    assert_eq!((code, &status["reason"]), (403, &json!("Forbidden")));
    let (code, status) = server.post("/api/v1/namespaces/nowhere/configmaps", &config_map("a", &json!({}))).await;
    assert_eq!((code, &status["message"]), (404, &json!("namespaces \"nowhere\" not found")));
}

#[tokio::test]
async fn a_namespace_has_a_status_and_finalizers_of_its_own() {
    let server = Served::shared();
    let name = "finalized";
    let (path, merge) = (format!("/api/v1/namespaces/{name}"), "application/merge-patch+json");
    let body = json!({"metadata": {"name": name}, "spec": {"finalizers": ["example.dev/keep"]}});
    let (code, made) = server.post("/api/v1/namespaces", &body).await;
    assert_eq!((code, &made["spec"]["finalizers"]), (201, &json!(["example.dev/keep", "kubernetes"])));
    // The main resource changes neither.
    let both = json!({"spec": {"finalizers": []}, "status": {"phase": "Terminating"}});
    let (code, same) = server.patch(&path, merge, &both).await;
    assert_eq!((code, &same["spec"], &same["status"]), (200, &made["spec"], &json!({"phase": "Active"})));
    // The status takes conditions, and no phase that is not true; nothing else goes in by it.
    let condition =
        json!({"type": "Checked", "status": "True", "reason": "R", "message": "m", "lastTransitionTime": "2026-01-01T00:00:00Z"});
    let (code, told) =
        server.patch(&format!("{path}/status"), merge, &json!({"status": {"conditions": [condition]}, "spec": {"finalizers": []}})).await;
    assert_eq!((code, &told["status"]["conditions"], &told["spec"]), (200, &json!([condition]), &made["spec"]), "{told}");
    let (code, refused) = server.patch(&format!("{path}/status"), merge, &json!({"status": {"phase": "Terminating"}})).await;
    assert_eq!((code, &refused["details"]["causes"][0]["field"]), (422, &json!("status.phase")), "{refused}");
    let (code, shown) = server.get(&format!("{path}/status")).await;
    assert_eq!((code, &shown["status"]), (200, &json!({"phase": "Active", "conditions": [condition]})));
    // Finalizers are written as a whole, and only so.
    assert_eq!(server.get(&format!("{path}/finalize")).await.0, 405);
    assert_eq!(server.patch(&format!("{path}/finalize"), merge, &json!({})).await.0, 405);
    let finalize = async |list: Value| server.put(&format!("{path}/finalize"), &json!({"metadata": {"name": name}, "spec": list})).await;
    let (code, refused) = finalize(json!({"finalizers": ["plain"]})).await;
    assert_eq!((code, &refused["details"]["causes"][0]["field"]), (422, &json!("spec.finalizers")), "{refused}");
    let (code, set) = finalize(json!({"finalizers": ["example.dev/a", "kubernetes"]})).await;
    assert_eq!((code, &set["spec"]["finalizers"], &set["status"]), (200, &json!(["example.dev/a", "kubernetes"]), &shown["status"]));
    assert_eq!(server.put(&format!("{path}/finalize?dryRun=All"), &json!({"spec": {}})).await.0, 200);
    assert_eq!(server.get(&path).await.1["spec"], set["spec"], "a dry run is none");

    // What another holds does not end; when it lets go, what is in it still does.
    let held = json!({"metadata": {"name": "held", "finalizers": ["example.dev/f"]}});
    assert_eq!(server.post(&format!("{path}/configmaps"), &held).await.0, 201);
    assert_eq!(server.delete(&path).await.1["status"]["phase"], "Terminating");
    let request = server.request(reqwest::Method::PUT, &format!("{path}/finalize")).json(&json!({"spec": {"finalizers": []}}));
    let response = request.send().await.unwrap();
    let warning = response.headers()["warning"].to_str().unwrap().to_owned();
    assert!(warning.contains("stays until the namespace is deleted and empty") && warning.contains("1 configmaps"), "{warning}");
    assert_eq!(response.json::<Value>().await.unwrap()["spec"]["finalizers"], json!(["kubernetes"]));
    let freed = json!({"metadata": {"finalizers": null}});
    assert_eq!(server.patch(&format!("{path}/configmaps/held"), merge, &freed).await.0, 200);
    let (code, gone) = finalize(json!({})).await;
    assert!(code == 200 || code == 404, "{gone}");
    assert_eq!(server.get(&path).await.0, 404);
}

#[tokio::test]
async fn an_event_of_the_new_version_is_complete_and_does_not_change() {
    let server = Served::shared();
    server.namespace("new-events").await;
    let (new, core) = ("/apis/events.k8s.io/v1/namespaces/new-events/events", "/api/v1/namespaces/new-events/events");
    let complete = |name: &str| {
        json!({
            "metadata": {"name": name}, "eventTime": "2026-01-01T00:00:00.000000Z", "type": "Normal", "reason": "R", "action": "A",
            "reportingController": "example.dev/c", "reportingInstance": "c-1", "note": "n",
            "regarding": {"kind": "Machine", "name": "m", "namespace": "new-events"},
        })
    };
    let with = |field: &str, value: Value| {
        let mut event = complete("wrong");
        event[field] = value;
        event
    };
    let time = json!("2026-01-01T00:00:00Z");
    for (field, value, named) in [
        ("eventTime", Value::Null, "eventTime"),
        ("type", json!("Info"), "type"),
        ("type", Value::Null, "type"),
        ("reason", Value::Null, "reason"),
        ("reason", json!("r".repeat(129)), "reason"),
        ("action", Value::Null, "action"),
        ("action", json!("a".repeat(129)), "action"),
        ("reportingController", Value::Null, "reportingController"),
        ("reportingController", json!("not a name"), "reportingController"),
        ("reportingInstance", json!(""), "reportingInstance"),
        ("reportingInstance", json!("i".repeat(129)), "reportingInstance"),
        ("note", json!("n".repeat(1025)), "message"),
        ("deprecatedCount", json!(1), "count"),
        ("deprecatedFirstTimestamp", time.clone(), "firstTimestamp"),
        ("deprecatedLastTimestamp", time.clone(), "lastTimestamp"),
        ("deprecatedSource", json!({"component": "c"}), "source"),
        ("series", json!({"count": 1, "lastObservedTime": "2026-01-01T00:00:00.000000Z"}), "series.count"),
        ("regarding", json!({"kind": "Machine", "name": "m"}), "involvedObject.namespace"),
    ] {
        let (code, status) = server.post(new, &with(field, value.clone())).await;
        let fields: Vec<&Value> = status["details"]["causes"].as_array().into_iter().flatten().map(|cause| &cause["field"]).collect();
        assert!(code == 422 && fields.contains(&&json!(named)), "{field} {value}: {code} {status}");
    }
    assert_eq!(server.get(core).await.1["items"], json!([]));
    assert_eq!(server.post(new, &complete("e")).await.0, 201);
    // By the old version less is asked.
    let old = json!({"metadata": {"name": "old"}, "involvedObject": {"namespace": "new-events"}});
    assert_eq!(server.post(core, &old).await.0, 201);
    // Only its series goes on.
    let merge = "application/merge-patch+json";
    let series = json!({"series": {"count": 2, "lastObservedTime": "2026-01-01T00:00:01.000000Z"}});
    assert_eq!(server.patch(&format!("{new}/e"), merge, &series).await.0, 200);
    let (code, status) = server.patch(&format!("{new}/e"), merge, &json!({"note": "other"})).await;
    assert_eq!((code, &status["details"]["causes"][0]["field"]), (422, &json!("message")), "{status}");
    assert_eq!(server.patch(&format!("{core}/e"), merge, &json!({"message": "other"})).await.0, 200);
}
