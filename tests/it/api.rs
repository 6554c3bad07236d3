//! The API as clients see it: discovery, errors, lists, watches, tables, writes; over TLS, against a real server.

mod namespaces;

use crate::served::Served;
use autovibe::store::Options;
use reqwest::{Method, header};
use serde_json::{Value, json};

const GROUP: &str = "/apis/autovibe.dev/v1alpha1";

/// What kubectl asks for.
const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,\
    application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList,application/json";

fn machines(namespace: &str) -> String {
    format!("{GROUP}/namespaces/{namespace}/machines")
}

fn machine(name: &str) -> Value {
    json!({
        "apiVersion": "autovibe.dev/v1alpha1", "kind": "Machine", "metadata": {"name": name},
        "spec": {"from": {"image": "micro"}, "goal": {"prompt": "Write hello."}, "agent": {"type": "Command", "command": ["true"]}},
    })
}

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
async fn without_a_token_only_health_and_version_answer() {
    let server = Served::shared();
    let bare = |path: &str| server.http.get(format!("{}{path}", server.url));
    for path in ["/healthz", "/livez", "/readyz"] {
        let response = bare(path).send().await.unwrap();
        assert_eq!((response.status().as_u16(), response.text().await.unwrap().as_str()), (200, "ok"), "{path}");
    }
    let (code, version) = server.send(bare("/version")).await;
    assert_eq!((code, version["major"].as_str()), (200, Some("1")));
    assert!(version["gitVersion"].as_str().unwrap().starts_with("v1.34.0+autovibe."));
    for path in ["/api", "/apis", "/openapi/v3", "/api/v1/secrets", "/nowhere", "/"] {
        let (code, status) = server.send(bare(path)).await;
        assert_eq!(
            (code, &status["reason"], &status["message"], &status["kind"]),
            (401, &json!("Unauthorized"), &json!("Unauthorized"), &json!("Status"))
        );
        let (code, _) = server.send(bare(path).bearer_auth("av-admin-wrong")).await;
        assert_eq!(code, 401, "{path}");
    }
    // A wrong credential is refused even where none is needed.
    assert_eq!(server.send(bare("/version").bearer_auth("wrong")).await.0, 401);
}

#[tokio::test]
async fn private_files_are_the_owners_alone_and_hold_no_plain_token_but_the_kubeconfig() {
    use std::os::unix::fs::PermissionsExt;
    let server = Served::shared();
    for file in ["ca.key", "ca.crt", "admin-token.sha256", "kubeconfig"] {
        let path = server.directory.join(file);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600, "{file}");
        assert_eq!(std::fs::read_to_string(&path).unwrap().contains(&server.token), file == "kubeconfig", "{file}");
    }
}

#[tokio::test]
async fn a_restart_keeps_the_authority_and_the_token() {
    let first = Served::start(Options::default()).await;
    let (token, ca) = (first.token.clone(), std::fs::read(first.directory.join("ca.crt")).unwrap());
    let directory = first.stop().await;
    let second = Served::start_in_same(directory).await;
    assert_eq!(second.token, token);
    assert_eq!(std::fs::read(second.directory.join("ca.crt")).unwrap(), ca);
    assert_eq!(second.get("/api").await.0, 200);
    // A lost kubeconfig gets a new token, and the old one is worth nothing.
    let directory = second.stop().await;
    std::fs::remove_file(directory.path().join("kubeconfig")).unwrap();
    let third = Served::start_in_same(directory).await;
    assert_ne!(third.token, token);
    assert_eq!(third.send(third.http.get(format!("{}/api", third.url)).bearer_auth(&token)).await.0, 401);
}

#[tokio::test]
async fn discovery_is_aggregated_for_those_who_ask_and_has_a_tag() {
    let server = Served::shared();
    let response = server.request(Method::GET, "/apis").header(header::ACCEPT, AGGREGATED).send().await.unwrap();
    assert_eq!(response.headers()[header::CONTENT_TYPE], "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList");
    let tag = response.headers()[header::ETAG].clone();
    let list: Value = response.json().await.unwrap();
    assert_eq!(list["items"][0]["metadata"]["name"], "autovibe.dev");
    let resources = list["items"][0]["versions"][0]["resources"].as_array().unwrap();
    let machine = resources.iter().find(|r| r["resource"] == "machines").unwrap();
    assert_eq!((&machine["scope"], &machine["responseKind"]["kind"]), (&json!("Namespaced"), &json!("Machine")));
    assert!(machine["subresources"].as_array().unwrap().iter().any(|s| s["subresource"] == "status"));
    let hub = resources.iter().find(|r| r["resource"] == "hubs").unwrap();
    assert_eq!(hub["scope"], "Cluster");
    let again =
        server.request(Method::GET, "/apis").header(header::ACCEPT, AGGREGATED).header(header::IF_NONE_MATCH, tag).send().await.unwrap();
    assert_eq!(again.status().as_u16(), 304);
    assert!(again.bytes().await.unwrap().is_empty());
}

#[tokio::test]
async fn legacy_discovery_names_every_group_and_resource() {
    let server = Served::shared();
    let (_, groups) = server.get("/apis").await;
    assert_eq!(groups["kind"], "APIGroupList");
    let versions: Vec<&str> =
        groups["groups"].as_array().unwrap().iter().map(|g| g["preferredVersion"]["groupVersion"].as_str().unwrap()).collect();
    for expect in
        ["autovibe.dev/v1alpha1", "coordination.k8s.io/v1", "events.k8s.io/v1", "apiextensions.k8s.io/v1", "authorization.k8s.io/v1"]
    {
        assert!(versions.contains(&expect), "{versions:?}");
        let (code, list) = server.get(&format!("/apis/{expect}")).await;
        assert_eq!((code, &list["kind"], &list["groupVersion"]), (200, &json!("APIResourceList"), &json!(expect)));
    }
    let (_, core) = server.get("/api/v1").await;
    let plurals: Vec<&str> = core["resources"].as_array().unwrap().iter().map(|r| r["name"].as_str().unwrap()).collect();
    assert!(["namespaces", "secrets", "events"].iter().all(|p| plurals.contains(p)), "{plurals:?}");
    assert_eq!(server.get("/api").await.1["versions"], json!(["v1"]));
    assert_eq!(server.get("/apis/nothing.dev").await.0, 404);
    assert_eq!(server.get("/apis/autovibe.dev/v9").await.0, 404);
}

#[tokio::test]
async fn openapi_lets_kubectl_find_dry_run_and_validation() {
    let server = Served::shared();
    let (_, index) = server.get("/openapi/v3").await;
    let url = index["paths"]["apis/autovibe.dev/v1alpha1"]["serverRelativeURL"].as_str().unwrap().to_owned();
    let response = server.request(Method::GET, &url).send().await.unwrap();
    assert!(response.headers()[header::CACHE_CONTROL].to_str().unwrap().contains("immutable"));
    let document: Value = response.json().await.unwrap();
    let patch = &document["paths"]["/apis/autovibe.dev/v1alpha1/namespaces/{namespace}/machines/{name}"]["patch"];
    assert_eq!(patch["x-kubernetes-group-version-kind"], json!({"group": "autovibe.dev", "version": "v1alpha1", "kind": "Machine"}));
    let parameters: Vec<&str> = patch["parameters"].as_array().unwrap().iter().map(|p| p["name"].as_str().unwrap()).collect();
    assert!(["dryRun", "fieldValidation"].iter().all(|p| parameters.contains(p)), "{parameters:?}");
    let schema = &document["components"]["schemas"]["dev.autovibe.v1alpha1.Machine"];
    assert_eq!(schema["x-kubernetes-group-version-kind"][0]["kind"], "Machine");
    assert!(schema["properties"]["spec"]["properties"]["goal"]["description"].is_string());
}

#[tokio::test]
async fn a_life_of_an_object_and_its_refusals() {
    let server = Served::shared();
    server.namespace("life").await;
    let (code, made) = server.post(&machines("life"), &machine("m1")).await;
    assert_eq!(code, 201, "{made}");
    assert_eq!(
        (&made["kind"], &made["metadata"]["namespace"], &made["metadata"]["generation"]),
        (&json!("Machine"), &json!("life"), &json!(1))
    );
    assert!(made["metadata"]["uid"].is_string() && made["metadata"]["creationTimestamp"].is_string());

    let (code, status) = server.post(&machines("life"), &machine("m1")).await;
    assert_eq!((code, &status["reason"], &status["details"]["kind"]), (409, &json!("AlreadyExists"), &json!("machines")));
    assert_eq!(status["message"], "machines.autovibe.dev \"m1\" already exists");

    let one = format!("{}/m1", machines("life"));
    let (code, status) = server.get(&format!("{}/nope", machines("life"))).await;
    assert_eq!((code, &status["message"]), (404, &json!("machines.autovibe.dev \"nope\" not found")));
    assert_eq!(status["details"], json!({"name": "nope", "group": "autovibe.dev", "kind": "machines"}));

    let mut stale = made.clone();
    let (code, _) = server.patch(&one, "application/merge-patch+json", &json!({"metadata": {"labels": {"a": "b"}}})).await;
    assert_eq!(code, 200);
    stale["metadata"]["labels"] = json!({"a": "c"});
    let (code, status) = server.put(&one, &stale).await;
    assert_eq!((code, &status["reason"]), (409, &json!("Conflict")));
    assert_eq!(
        status["message"],
        "Operation cannot be fulfilled on machines.autovibe.dev \"m1\": the object has been modified; please apply your changes to the latest version and try again"
    );

    let (code, status) = server.put(&one, &machine("other")).await;
    assert_eq!((code, &status["message"]), (400, &json!("the name of the object (other) does not match the name on the URL (m1)")));

    let (code, status) = server.delete(&one).await;
    assert_eq!((code, &status["status"], &status["details"]["uid"]), (200, &json!("Success"), &made["metadata"]["uid"]));
    assert_eq!(server.get(&one).await.0, 404);
}

#[tokio::test]
async fn wrong_fields_are_named_one_by_one() {
    let server = Served::shared();
    server.namespace("wrong").await;
    let mut bad = machine("Bad_Name");
    bad["spec"]["operatingMode"] = json!("Sometimes");
    let (code, status) = server.post(&machines("wrong"), &bad).await;
    assert_eq!((code, &status["reason"], &status["details"]["kind"]), (422, &json!("Invalid"), &json!("Machine")), "{status}");
    let fields: Vec<&str> = status["details"]["causes"].as_array().unwrap().iter().map(|c| c["field"].as_str().unwrap()).collect();
    assert!(fields.contains(&"metadata.name") && fields.contains(&"spec.operatingMode"), "{fields:?}");
}

#[tokio::test]
async fn bodies_that_are_not_objects_of_the_kind_are_refused() {
    let server = Served::shared();
    server.namespace("bodies").await;
    let path = machines("bodies");
    let post = |content_type: &'static str, body: String| {
        server.send(server.request(Method::POST, &path).header(header::CONTENT_TYPE, content_type).body(body))
    };
    assert_eq!(post("application/json", "{".into()).await.0, 400);
    assert_eq!(post("text/plain", "{}".into()).await.0, 415);
    assert_eq!(post("application/json", json!({"kind": "Machine", "metadata": {"name": "x"}}).to_string()).await.0, 400);
    assert_eq!(post("application/json", " ".repeat(3 * 1024 * 1024 + 1)).await.0, 413);
    let (code, status) = post("application/json", json!({"apiVersion": "autovibe.dev/v1", "kind": "Machine"}).to_string()).await;
    assert_eq!((code, &status["reason"]), (400, &json!("BadRequest")));
    let mut other = machine("x");
    other["kind"] = json!("Other");
    let (code, status) = post("application/json", other.to_string()).await;
    assert_eq!((code, &status["details"]["causes"][0]["field"]), (422, &json!("kind")), "{status}");
    let mut elsewhere = machine("x");
    elsewhere["metadata"]["namespace"] = json!("other");
    assert_eq!(post("application/json", elsewhere.to_string()).await.0, 400);
    // YAML is welcome, and so is JSON without a content type.
    let (code, made) = post("application/yaml", serde_yaml::to_string(&machine("from-yaml")).unwrap()).await;
    assert_eq!(code, 201, "{made}");
    let (code, made) = server.send(server.request(Method::POST, &path).body(machine("untyped").to_string())).await;
    assert_eq!(code, 201, "{made}");
    let (code, status) = server.patch(&format!("{path}/untyped"), "application/apply-patch+yaml", &machine("untyped")).await;
    assert_eq!(code, 415);
    assert!(status["message"].as_str().unwrap().contains("application/json-patch+json, application/merge-patch+json"), "{status}");
    assert_eq!(server.patch(&format!("{path}/untyped"), "application/strategic-merge-patch+json", &json!({})).await.0, 415);
    assert_eq!(server.send(server.request(Method::PUT, &path).json(&machine("x"))).await.0, 405);
}

#[tokio::test]
async fn field_validation_warns_or_refuses_and_dry_runs_store_nothing() {
    let server = Served::shared();
    server.namespace("fields").await;
    let path = machines("fields");
    let body = r#"{"apiVersion":"autovibe.dev/v1alpha1","kind":"Machine","metadata":{"name":"m","bogus":1},
        "spec":{"from":{"image":"micro"},"goal":{"prompt":"a","prompt":"b"},"agent":{"type":"Command","command":["true"]}}}"#;
    let send = |query: &str| {
        server.request(Method::POST, &format!("{path}?{query}")).header(header::CONTENT_TYPE, "application/json").body(body).send()
    };
    let strict = send("fieldValidation=Strict").await.unwrap();
    assert_eq!(strict.status().as_u16(), 400);
    let status: Value = strict.json().await.unwrap();
    assert!(status["message"].as_str().unwrap().contains("duplicate field \"spec.goal.prompt\""), "{status}");
    let warned = send("dryRun=All").await.unwrap();
    assert_eq!(warned.status().as_u16(), 201);
    let warnings: Vec<String> = warned.headers().get_all(header::WARNING).iter().map(|w| w.to_str().unwrap().to_owned()).collect();
    assert!(warnings.contains(&"299 - \"unknown field \\\"metadata.bogus\\\"\"".to_owned()), "{warnings:?}");
    assert!(warnings.contains(&"299 - \"duplicate field \\\"spec.goal.prompt\\\"\"".to_owned()), "{warnings:?}");
    assert_eq!(warned.json::<Value>().await.unwrap()["spec"]["goal"]["prompt"], "b");
    assert_eq!(server.get(&format!("{path}/m")).await.0, 404, "a dry run stores nothing");
    let (code, status) = server.post(&format!("{path}?dryRun=Maybe"), &machine("m")).await;
    assert_eq!((code, &status["reason"]), (422, &json!("Invalid")));
    let (code, status) = server
        .post(&format!("{path}?fieldValidation=Strict"), &serde_json::from_str(&body.replace("\"prompt\":\"a\",", "")).unwrap())
        .await;
    assert_eq!(code, 400);
    assert!(status["message"].as_str().unwrap().contains("unknown field \"metadata.bogus\""), "{status}");
}

#[tokio::test]
async fn status_is_written_apart() {
    let server = Served::shared();
    server.namespace("status").await;
    let mut with_status = machine("m");
    with_status["status"] = json!({"phase": "Running"});
    let (_, made) = server.post(&machines("status"), &with_status).await;
    assert!(made.get("status").is_none_or(|s| s.get("phase") != Some(&json!("Running"))), "{made}");
    let path = format!("{}/m", machines("status"));
    let patch = json!({"spec": {"operatingMode": "Suspended"}, "status": {"phase": "Running"}});
    let (code, written) = server.patch(&format!("{path}/status"), "application/merge-patch+json", &patch).await;
    assert_eq!(
        (code, &written["status"]["phase"], &written["spec"]["operatingMode"]),
        (200, &json!("Running"), &json!("Running")),
        "{written}"
    );
    assert_eq!(written["metadata"]["generation"], 1);
    let (_, read) = server.get(&format!("{path}/status")).await;
    assert_eq!(read["status"]["phase"], "Running");
    let (_, changed) = server
        .patch(&path, "application/merge-patch+json", &json!({"spec": {"operatingMode": "Suspended"}, "status": {"phase": "Failed"}}))
        .await;
    assert_eq!((&changed["status"]["phase"], &changed["metadata"]["generation"]), (&json!("Running"), &json!(2)));
    assert_eq!(server.get(&format!("{path}/nothing")).await.0, 404);
    // The conversation of a Machine that has not begun is empty, not missing.
    assert_eq!(server.get(&format!("{path}/log?after=0")).await, (200, json!([])));
}

#[tokio::test]
async fn lists_page_one_state_and_select() {
    let server = Served::shared();
    server.namespace("pages").await;
    let path = "/api/v1/namespaces/pages/configmaps";
    for (name, color) in [("a", "red"), ("b", "blue"), ("c", "red"), ("d", "blue"), ("e", "red")] {
        assert_eq!(server.post(path, &config_map(name, &json!({"color": color}))).await.0, 201);
    }
    let (_, first) = server.get(&format!("{path}?limit=2")).await;
    assert_eq!((names(&first), &first["metadata"]["remainingItemCount"]), (vec!["a", "b"], &json!(3)));
    let token = first["metadata"]["continue"].as_str().unwrap();
    // What happens between two pages is not seen by the second.
    assert_eq!(server.delete(&format!("{path}/c")).await.0, 200);
    assert_eq!(server.post(path, &config_map("bb", &json!({}))).await.0, 201);
    let (_, second) = server.get(&format!("{path}?limit=2&continue={token}")).await;
    assert_eq!((names(&second), version(&second)), (vec!["c", "d"], version(&first)));
    assert_eq!(second["metadata"]["remainingItemCount"], 1, "of the same state");
    let (_, exact) = server.get(&format!("{path}?resourceVersion={}&resourceVersionMatch=Exact", version(&first))).await;
    assert_eq!(names(&exact), ["a", "b", "c", "d", "e"]);

    let (_, red) = server.get(&format!("{path}?labelSelector=color%3Dred&limit=1")).await;
    assert_eq!(names(&red), ["a"]);
    assert!(red["metadata"].get("remainingItemCount").is_none());
    let token = red["metadata"]["continue"].as_str().unwrap();
    let (_, rest) = server.get(&format!("{path}?labelSelector=color%3Dred&limit=5&continue={token}")).await;
    assert_eq!((names(&rest), rest["metadata"].get("continue")), (vec!["e"], None));
    let (_, one) = server.get(&format!("{path}?fieldSelector=metadata.name%3Db")).await;
    assert_eq!(names(&one), ["b"]);
    let (_, all) = server.get(&format!("{path}?resourceVersion=0&limit=1")).await;
    assert_eq!(names(&all), ["a", "b", "bb", "d", "e"], "any state will do: the limit is ignored");

    assert_eq!(server.get(&format!("{path}?fieldSelector=data.k%3Dv")).await.0, 400);
    assert_eq!(server.get(&format!("{path}?labelSelector=a+b")).await.0, 400);
    assert_eq!(server.get(&format!("{path}?continue=bogus")).await.0, 400);
    assert_eq!(server.get(&format!("{path}?resourceVersion=x")).await.0, 400);
    assert_eq!(server.get(&format!("{path}?resourceVersionMatch=Exact")).await.0, 422);
    let (code, status) = server.get(&format!("{path}?resourceVersion=99999999")).await;
    assert_eq!((code, &status["details"]["causes"][0]["reason"]), (504, &json!("ResourceVersionTooLarge")));
}

#[tokio::test]
async fn tables_have_the_columns_of_the_kind() {
    let server = Served::shared();
    server.namespace("tables").await;
    server.post(&machines("tables"), &machine("m")).await;
    let (code, table) = server.table(&machines("tables")).await;
    assert_eq!((code, &table["kind"], &table["apiVersion"]), (200, &json!("Table"), &json!("meta.k8s.io/v1")));
    let columns: Vec<&str> = table["columnDefinitions"].as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect();
    assert_eq!((columns[0], *columns.last().unwrap()), ("Name", "Age"), "{columns:?}");
    assert!(columns.contains(&"Phase") && columns.contains(&"Goal"), "{columns:?}");
    assert_eq!(table["columnDefinitions"][0]["format"], "name");
    let row = &table["rows"][0];
    assert_eq!(
        (&row["cells"][0], &row["object"]["kind"], &row["object"]["metadata"]["name"]),
        (&json!("m"), &json!("PartialObjectMetadata"), &json!("m"))
    );
    assert!(row["cells"].as_array().unwrap().last().unwrap().as_str().unwrap().ends_with('s'), "an age: {row}");
    assert_eq!(row["cells"].as_array().unwrap().len(), columns.len());
    let (_, none) = server.table(&format!("{}?includeObject=None", machines("tables"))).await;
    assert_eq!(none["rows"][0]["object"], Value::Null);
    let (_, one) = server.table(&format!("{}/m?includeObject=Object", machines("tables"))).await;
    assert_eq!(one["rows"][0]["object"]["kind"], "Machine");

    let accept = "application/json;as=Table;v=v1;g=meta.k8s.io";
    let mut watch = server.watch_as(&format!("{}?watch=1", machines("tables")), accept).await;
    let (kind, first) = watch.next().await.unwrap();
    assert_eq!((kind.as_str(), &first["kind"], &first["rows"][0]["cells"][0]), ("ADDED", &json!("Table"), &json!("m")));
    assert!(first["columnDefinitions"].is_array());
    server.delete(&format!("{}/m", machines("tables"))).await;
    let (kind, last) = watch.next().await.unwrap();
    assert_eq!((kind.as_str(), &last["columnDefinitions"]), ("DELETED", &Value::Null));
}

#[tokio::test]
async fn other_forms_of_answers() {
    let server = Served::shared();
    server.namespace("forms").await;
    let path = "/api/v1/namespaces/forms";
    let ask = |accept: &'static str| server.request(Method::GET, path).header(header::ACCEPT, accept).send();
    let yaml = ask("application/yaml").await.unwrap().text().await.unwrap();
    assert!(yaml.contains("kind: Namespace"), "{yaml}");
    let partial: Value =
        ask("application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json").await.unwrap().json().await.unwrap();
    assert_eq!((&partial["kind"], partial.get("status")), (&json!("PartialObjectMetadata"), None));
    assert_eq!(ask("application/vnd.kubernetes.protobuf,application/json").await.unwrap().status().as_u16(), 200);
    assert_eq!(ask("application/vnd.kubernetes.protobuf").await.unwrap().status().as_u16(), 406);
}

#[tokio::test]
async fn reviews_say_who_one_is_and_what_one_may() {
    let server = &Served::shared();
    let review = |group: &str, kind: &str, plural: &str, spec: Value| {
        let body = json!({"apiVersion": format!("{group}/v1"), "kind": kind, "spec": spec});
        let path = format!("/apis/{group}/v1/{plural}");
        async move { server.post(&path, &body).await }
    };
    let (code, me) = review("authentication.k8s.io", "SelfSubjectReview", "selfsubjectreviews", json!({})).await;
    assert_eq!((code, &me["status"]["userInfo"]["username"]), (201, &json!("admin")));
    let asked = json!({"resourceAttributes": {"verb": "delete", "group": "autovibe.dev", "resource": "machines"}});
    let (code, may) = review("authorization.k8s.io", "SelfSubjectAccessReview", "selfsubjectaccessreviews", asked.clone()).await;
    assert_eq!((code, &may["status"]["allowed"], &may["spec"]), (201, &json!(true), &asked));
    assert_eq!(server.get("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews").await.0, 405);
}

#[tokio::test]
async fn definitions_of_our_kinds_can_be_read_and_not_written() {
    let server = Served::shared();
    let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
    let (_, list) = server.get(path).await;
    assert!(names(&list).contains(&"machines.autovibe.dev"));
    let (_, one) = server.get(&format!("{path}/hubs.autovibe.dev")).await;
    assert_eq!((&one["spec"]["scope"], &one["status"]["conditions"][1]["type"]), (&json!("Cluster"), &json!("Established")));
    assert_eq!(server.delete(&format!("{path}/hubs.autovibe.dev")).await.0, 405);
    let mut watch = server.watch(&format!("{path}?watch=1&fieldSelector=metadata.name%3Dhubs.autovibe.dev&timeoutSeconds=1")).await;
    assert_eq!(watch.named().await, ("ADDED".into(), "hubs.autovibe.dev".into()));
    assert_eq!(watch.next().await, None);
}

#[tokio::test]
async fn a_collection_is_deleted_by_selector() {
    let server = Served::shared();
    server.namespace("collect").await;
    let path = "/api/v1/namespaces/collect/configmaps";
    for (name, color) in [("a", "red"), ("b", "blue"), ("c", "red")] {
        server.post(path, &config_map(name, &json!({"color": color}))).await;
    }
    let (code, deleted) = server.delete(&format!("{path}?labelSelector=color%3Dred")).await;
    assert_eq!((code, names(&deleted)), (200, vec!["a", "c"]));
    assert_eq!(names(&server.get(path).await.1), ["b"]);
    assert_eq!(server.delete("/api/v1/configmaps").await.0, 405);
}

#[tokio::test]
async fn a_checkpoint_that_something_needs_is_not_deleted_and_it_is_named() {
    let server = Served::shared();
    let merge = "application/merge-patch+json";
    for namespace in ["needed", "needed-ends"] {
        server.namespace(namespace).await;
        let path = format!("{GROUP}/namespaces/{namespace}/checkpoints");
        for (name, machine, parent) in [("base", "a", Value::Null), ("child", "b", json!("base"))] {
            let spec = json!({"machine": machine, "trigger": "BetweenMessages"});
            let (code, made) = server.post(&path, &json!({"apiVersion": "autovibe.dev/v1alpha1", "kind": "Checkpoint", "metadata": {"name": name, "labels": {"of": machine}}, "spec": spec})).await;
            assert_eq!(code, 201, "{made}");
            let status = json!({"status": {"phase": "Ready", "machineUid": format!("uid-{machine}"), "parent": parent}});
            let (code, changed) = server.patch(&format!("{path}/{name}/status"), merge, &status).await;
            assert_eq!(code, 200, "{changed}");
        }
    }
    let path = format!("{GROUP}/namespaces/needed/checkpoints");
    let refused = async |path: &str, why: &str| {
        let (code, status) = server.delete(path).await;
        assert_eq!((code, &status["reason"]), (409, &json!("Conflict")), "{status}");
        let message = status["message"].as_str().unwrap();
        assert!(message.contains("\"base\"") && message.contains(why) && message.contains("delete what needs it first"), "{message}");
    };
    refused(&format!("{path}/base"), "checkpoint child was spawned from it").await;
    refused(&format!("{path}?labelSelector=of%3Da"), "checkpoint child was spawned from it").await;
    assert_eq!(names(&server.get(&path).await.1), ["base", "child"]);
    // What needs it goes as well.
    let mut machine = machine("c");
    machine["spec"]["from"] = json!({"checkpoint": "base"});
    assert_eq!(server.post(&machines("needed"), &machine).await.0, 201);
    assert_eq!(server.delete(&format!("{path}/child")).await.0, 200);
    refused(&path, "machine c is to be spawned from it").await;
    assert_eq!(server.delete(&format!("{}/c", machines("needed"))).await.0, 200);
    assert_eq!(server.delete(&path).await.0, 200);
    assert_eq!(names(&server.get(&path).await.1), Vec::<&str>::new());
    // With its namespace it goes as ever.
    server.delete("/api/v1/namespaces/needed-ends").await;
    assert_eq!(server.delete(&format!("{GROUP}/namespaces/needed-ends/checkpoints/base")).await.0, 200);
}

#[tokio::test]
async fn doubled_owners_and_plain_finalizers_are_warned_of() {
    let server = Served::shared();
    server.namespace("warned").await;
    let path = "/api/v1/namespaces/warned/configmaps";
    let owner = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "d", "uid": "u1"});
    let body = json!({"metadata": {"name": "c", "ownerReferences": [owner, owner], "finalizers": ["hold", "example.dev/hold"]}});
    let answer = server.request(Method::POST, path).json(&body).send().await.unwrap();
    let warnings: Vec<String> = answer.headers().get_all(header::WARNING).iter().map(|w| w.to_str().unwrap().to_owned()).collect();
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(
        warnings[0].contains("duplicate UID(s) observed: u1") && warnings[1].contains("hold") && warnings[1].contains("domain-qualified")
    );
    let made: Value = answer.json().await.unwrap();
    assert_eq!(made["metadata"]["ownerReferences"], json!([owner]));
    let patch = json!({"data": {"a": "b"}}).to_string();
    let again = server.request(Method::PATCH, &format!("{path}/c")).header(header::CONTENT_TYPE, "application/merge-patch+json");
    let again = again.body(patch).send().await.unwrap();
    assert!(again.headers().get(header::WARNING).is_none(), "said once is enough");
    server.patch(&format!("{path}/c"), "application/merge-patch+json", &json!({"metadata": {"finalizers": null}})).await;
}

#[tokio::test]
async fn long_lists_are_compressed_for_who_reads_gzip_and_watches_never() {
    let server = Served::shared();
    server.namespace("gzip").await;
    let path = "/api/v1/namespaces/gzip/configmaps";
    for number in 0..3 {
        let body = json!({"metadata": {"name": format!("c{number}")}, "data": {"k": "x".repeat(60 << 10)}});
        assert_eq!(server.post(path, &body).await.0, 201);
    }
    let ask = async |query: &str, encodings: &str| {
        let request = server.request(reqwest::Method::GET, &format!("{path}{query}")).header("accept-encoding", encodings);
        request.send().await.unwrap()
    };
    let plain = ask("", "identity").await;
    assert!(!plain.headers().contains_key("content-encoding"));
    let plain = plain.bytes().await.unwrap();
    let zipped = ask("", "gzip").await;
    assert_eq!(
        (&zipped.headers()["content-encoding"], &zipped.headers()["vary"]),
        (&"gzip".parse().unwrap(), &"Accept-Encoding".parse().unwrap())
    );
    let zipped = zipped.bytes().await.unwrap();
    assert!(zipped.len() < plain.len() / 20, "{} of {}", zipped.len(), plain.len());
    let mut text = Vec::new();
    std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&zipped[..]), &mut text).unwrap();
    // Not the whole: the list's revision moves with what other tests write.
    let items = |text: &[u8]| serde_json::from_slice::<Value>(text).unwrap()["items"].take();
    assert!(items(&text) == items(&plain) && items(&text)[2]["metadata"]["name"] == "c2");
    for query in ["?limit=1", "?watch=1&timeoutSeconds=1"] {
        assert!(!ask(query, "gzip").await.headers().contains_key("content-encoding"), "{query}");
    }
}
