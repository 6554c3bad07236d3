//! What users write is data: it is not obeyed by terminals, logs or pages; and nobody sets what is not theirs to set.

use crate::access::{account, bind, to_account};
use crate::process::{ANY_PORTS, Hub, said};
use crate::served::{Client, Served};
use autovibe::admission::{metadata_schema, resources};
use autovibe::api::GROUP;
use autovibe::store::Options;
use serde_json::{Value, json};

const MERGE: &str = "application/merge-patch+json";

/// What drives a terminal, a page, a shell, a database, a spreadsheet, a formatter or a log, with a word to find it by.
fn canaries() -> Vec<String> {
    [
        "\u{1b}[31mCANARY\u{1b}[0m",
        "\u{1b}]0;CANARY\u{7}",
        "CANARY\u{8}\u{8}\r\u{9b}2J",
        "\u{202e}CANARY\u{2066}",
        "CANARY\n2026-01-01T00:00:00Z ERROR the hub is lost",
        "CANARY<script>alert(1)</script>",
        "CANARY'; DROP TABLE objects; --",
        "$(touch CANARY) `touch CANARY`",
        "=CANARY()+cmd|' /C calc'!A0",
        "%s%n{}{{CANARY}}${jndi:ldap://CANARY}",
        "../../../CANARY",
        "CANARY\u{0}",
    ]
    .map(str::to_owned)
    .to_vec()
}

/// Whether a terminal would take some of it for more than text.
fn drives(text: &str) -> Option<char> {
    let turns = |c: char| matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.chars().find(|c| c.is_control() && !matches!(c, '\n' | '\t') || turns(*c))
}

/// A Machine, a Budget and an Event that carry a text wherever any text goes.
fn carriers(n: usize, text: &str) -> [(&'static str, Value); 3] {
    let name = format!("c{n}");
    let metadata = json!({"name": name, "annotations": {"note": text}});
    [
        (
            "/apis/autovibe.dev/v1alpha1/namespaces/default/machines",
            json!({
                "apiVersion": "autovibe.dev/v1alpha1", "kind": "Machine", "metadata": metadata,
                "spec": {
                    "from": {"image": text}, "goal": {"prompt": text, "verify": {"command": [text, text]}},
                    "agent": {"type": "Command", "command": [text], "args": [text], "env": {"A": text}, "model": text},
                    "operatingMode": "Suspended",
                },
            }),
        ),
        (
            "/api/v1/namespaces/default/events",
            json!({
                "metadata": metadata, "involvedObject": {"kind": "Machine", "apiVersion": "autovibe.dev/v1alpha1", "name": name, "namespace": "default"},
                "reason": text, "message": text, "type": "Warning", "source": {"component": text, "host": text}, "count": 1,
            }),
        ),
        ("/api/v1/namespaces/default/configmaps", json!({"metadata": metadata, "data": {"k": text}})),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_written_is_shown_as_text_and_obeyed_by_nothing() {
    rustls::crypto::ring::default_provider().install_default().ok();
    let data = tempfile::tempdir().unwrap();
    let data = data.path();
    let hub = tokio::task::block_in_place(|| Hub::start(data, &ANY_PORTS).serves());
    let client = Client::open(data);
    let mut machines = Vec::new();
    for (n, text) in canaries().iter().enumerate() {
        for (path, body) in carriers(n, text) {
            let (code, made) = client.post(path, &body).await;
            // Either it is refused with words that name the field, or it is kept as it was sent.
            if code == 422 {
                assert!(!made["details"]["causes"].as_array().unwrap().is_empty(), "{text:?}: {made}");
                continue;
            }
            assert_eq!(code, 201, "{text:?} {path}: {made}");
            let name = body["metadata"]["name"].as_str().unwrap();
            let (_, stored) = client.get(&format!("{path}/{name}")).await;
            assert_eq!(stored["metadata"]["annotations"]["note"], **text);
            for part in ["data", "message", "reason"] {
                assert_eq!(stored[part], body[part], "{text:?} {path}");
            }
            if path.ends_with("machines") {
                assert_eq!(stored["spec"]["goal"]["prompt"], **text);
                machines.push(name.to_owned());
            }
        }
    }
    assert!(!machines.is_empty());
    let mut outputs = Vec::new();
    let mut run = |arguments: &[&str]| outputs.push((arguments.join(" "), tokio::task::block_in_place(|| said(data, arguments))));
    for kind in ["machines", "events", "configmaps"] {
        run(&["get", kind]);
        run(&["get", kind, "-o", "wide"]);
        run(&["get", kind, "-o", "yaml"]);
        run(&["get", kind, "-o", "json"]);
    }
    for name in &machines {
        run(&["describe", "machine", name]);
        run(&["explain", &format!("machine/{name}")]);
    }
    for (command, text) in &outputs {
        // YAML has no escape for a letter of a plain text; there, only what controls is.
        let driver = drives(text).filter(|c| c.is_control() || !command.ends_with("yaml"));
        assert_eq!(driver, None, "autovibe {command} drives the terminal:\n{text:?}");
    }
    assert!(outputs.iter().any(|(command, text)| command.starts_with("describe") && text.contains("CANARY")), "they are shown");
    // What the hub refuses is quoted in what it says; a log has one line for each event, whatever it quotes.
    let wrong = json!({"metadata": {"name": "\u{1b}[31mCANARY\n2026 ERROR forged"}});
    let (code, status) = client.post("/api/v1/namespaces/default/configmaps", &wrong).await;
    assert!(code == 422 && drives(status["message"].as_str().unwrap()).is_none_or(|c| c == '\n'), "{status}");
    let log = hub.logged();
    assert_eq!(drives(&log), None, "the log drives a terminal");
    assert!(!log.lines().any(|line| line.starts_with("2026-01-01T00:00:00Z ERROR the hub is lost")), "a line of the log is forged:\n{log}");
    for place in [data, std::path::Path::new(env!("CARGO_MANIFEST_DIR"))] {
        assert!(!place.join("CANARY").exists(), "a shell ran it");
    }
    assert_eq!(client.get("/readyz").await.0, 200);
    assert_eq!(tokio::task::block_in_place(|| hub.terminate()).0, Some(0));
}

/// Every field below a schema: `phase`, `vm.node`, `conditions`.
fn fields(schema: &Value, path: &mut Vec<String>, all: &mut Vec<Vec<String>>) {
    for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
        path.push(name.clone());
        all.push(path.clone());
        fields(inner, path, all);
        path.pop();
    }
}

/// A value that is not there yet, of the schema's type.
fn forged(schema: &Value, path: &[String]) -> Value {
    let node = path.iter().fold(schema, |schema, name| &schema["properties"][name]);
    let leaf = match node["type"].as_str() {
        Some("integer" | "number") => json!(666),
        Some("boolean") => json!(true),
        Some("array") => json!([]),
        Some("object") => json!({}),
        _ if node["enum"].is_array() => node["enum"][0].clone(),
        _ => json!("forged"),
    };
    path.iter().rev().fold(leaf, |inner, name| json!({ name: inner }))
}

#[tokio::test]
async fn no_role_sets_a_status_or_what_the_server_alone_says() {
    let server = Served::start(Options::default()).await;
    server.namespace("mass").await;
    let base = "/apis/autovibe.dev/v1alpha1/namespaces/mass";
    for (plural, kind, spec) in [
        (
            "machines",
            "Machine",
            json!({"from": {"image": "i"}, "goal": {"prompt": "p"}, "agent": {"type": "Command", "command": ["true"]}}),
        ),
        ("budgets", "Budget", json!({"limits": {"money": {"amount": "5"}}})),
        ("checkpoints", "Checkpoint", json!({"machine": "m"})),
        (
            "approvals",
            "Approval",
            json!({"machine": "m", "tool": "Bash", "asks": "git push", "call": "c", "class": 4, "rule": "r", "expiresAt": "2036-01-01T00:00:00Z"}),
        ),
    ] {
        let body = json!({"apiVersion": format!("{GROUP}/v1alpha1"), "kind": kind, "metadata": {"name": "m"}, "spec": spec});
        assert_eq!(server.post(&format!("{base}/{plural}"), &body).await.0, 201, "{kind}");
    }
    let mut roles = Vec::new();
    for role in ["view", "edit", "admin"] {
        let token = account(&server, "mass", role).await;
        bind(&server, "mass", role, role, to_account("mass", role)).await;
        roles.push((role, server.with_token(&token)));
    }
    let mut cells = 0;
    for resource in resources().iter().filter(|resource| resource.group == GROUP && resource.plural != "hubs") {
        let path = format!("{base}/{}/m", resource.plural);
        let status = &resource.schema["properties"]["status"];
        let mut all = Vec::new();
        fields(status, &mut Vec::new(), &mut all);
        let servers =
            ["uid", "creationTimestamp", "generation", "deletionTimestamp", "deletionGracePeriodSeconds", "selfLink", "managedFields"];
        let (_, before) = server.get(&path).await;
        let mut changes: Vec<Value> = all.iter().map(|field| json!({"status": forged(status, field)})).collect();
        let of_metadata = |field: &&str| json!({"metadata": forged(metadata_schema(), &[(**field).to_owned()])});
        changes.extend(servers.iter().map(of_metadata));
        for (role, client) in &roles {
            for change in &changes {
                let may_write = *role == "admin" || *role == "edit" && resource.plural != "budgets";
                let (code, answer) = client.patch(&path, MERGE, change).await;
                // Ignored, or refused; never done.
                let expected: &[u16] = if may_write { &[200, 409, 422] } else { &[403] };
                assert!(expected.contains(&code), "{role} {path} {change}: {code} {answer}");
                if change.get("status").is_some() {
                    let (code, answer) = client.patch(&format!("{path}/status"), MERGE, change).await;
                    assert_eq!(code, 403, "{role} {path}/status {change}: {answer}");
                }
                cells += 1;
            }
        }
        assert_eq!(server.get(&path).await.1, before, "{} is as it was, its revision too", resource.kind);
    }
    eprintln!("{cells} forged fields");
    assert!(cells > 200, "{cells}");
    server.stop().await;
}
