//! D9: rows that were damaged, or that another version wrote. The object is shown as it is; all others are served.

use crate::database::{Home, on_both};
use crate::kubectl::{Kubectl, ok};
use crate::process::{ANY_PORTS, Hub, said, wait, write};
use crate::served::{Client, Served};
use autovibe::api::{Kind, Machine};
use autovibe::store::Options;
use futures::StreamExt;
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};
use std::collections::BTreeMap;

on_both! {
    d9_a_hundred_damaged_rows_are_named_and_all_others_served,
    d9_what_another_version_wrote_is_shown_as_it_is_and_the_rest_runs,
}

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const MACHINES: &str = "/apis/autovibe.dev/v1alpha1/namespaces/default/machines";

async fn list(server: &Client, path: &str) -> BTreeMap<String, Value> {
    let (code, mut list) = server.get(path).await;
    assert_eq!(code, 200, "{list}");
    let items = list["items"].take();
    let name = |item: &Value| item["metadata"]["name"].as_str().unwrap().to_owned();
    items.as_array().unwrap().iter().map(|item| (name(item), item.clone())).collect()
}

fn is_degraded(object: &Value) -> bool {
    let conditions = object["status"]["conditions"].as_array();
    conditions.is_some_and(|all| {
        all.iter().any(|c| c["type"] == "Degraded" && c["status"] == "True" && !c["message"].as_str().unwrap().is_empty())
    })
}

async fn d9_a_hundred_damaged_rows_are_named_and_all_others_served(home: Home) {
    let (database, raw, sqlite) = (home.database(), Home::at(home.url.clone()), home.url.starts_with("sqlite"));
    let served = Served::start_on(&database, home.directory, Options::default()).await;
    for n in 0..150 {
        let body = json!({"metadata": {"name": format!("m{n}"), "labels": {"n": n.to_string()}}, "data": {"key": "value ".repeat(20)}});
        assert_eq!(served.post(MAPS, &body).await.0, 201);
    }
    let before = list(&served, MAPS).await;
    let directory = served.stop().await;
    let mut random = StdRng::seed_from_u64(9);
    for n in 0..100 {
        let mut bytes = {
            let mut document = before[&format!("m{n}")].clone();
            document["metadata"].as_object_mut().unwrap().remove("resourceVersion");
            document.to_string().into_bytes()
        };
        // PostgreSQL itself keeps what is no text, or holds a NUL, from being stored.
        loop {
            let (at, bit) = (random.random_range(0..bytes.len()), random.random_range(0..if sqlite { 8 } else { 7 }));
            if sqlite || bytes[at] != 1 << bit {
                bytes[at] ^= 1 << bit;
                break;
            }
        }
        let document = match String::from_utf8(bytes.clone()) {
            Ok(text) if !sqlite => format!("'{}'", text.replace('\'', "''")),
            _ => format!("CAST(X'{}' AS TEXT)", bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>()),
        };
        raw.execute(&format!("UPDATE objects SET document = {document} WHERE resource = 'configmaps' AND name = 'm{n}'")).await;
    }
    let served = Served::start_on(&database, directory, Options::default()).await;
    let after = list(&served, MAPS).await;
    assert_eq!(after.len(), 150, "each is listed, under its own name");
    for n in 100..150 {
        let name = format!("m{n}");
        assert_eq!(after[&name], before[&name], "an object that was not touched");
    }
    let degraded: Vec<&String> = after.iter().filter(|(_, object)| is_degraded(object)).map(|(name, _)| name).collect();
    assert!(degraded.len() > 20, "only {degraded:?}");
    for name in &degraded {
        let (code, one) = served.get(&format!("{MAPS}/{name}")).await;
        assert!(code == 200 && is_degraded(&one) && one["kind"] == "ConfigMap", "{one}");
        assert!(one["stored"].as_str().unwrap().contains("value"), "what is stored can be read: {one}");
        assert_eq!(after[*name]["kind"], "ConfigMap");
    }
    // Watches, selectors and tables go on; what is damaged can be deleted and made anew.
    let mut watch =
        served.watch(&format!("{MAPS}?watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true")).await;
    for _ in 0..150 {
        assert_eq!(watch.named().await.0, "ADDED");
    }
    assert_eq!(list(&served, &format!("{MAPS}?labelSelector=n%3D120")).await.len(), 1);
    assert_eq!(served.table(MAPS).await.1["rows"].as_array().unwrap().len(), 150);
    let (code, answer) = served.delete(&format!("{MAPS}/{}", degraded[0])).await;
    assert_eq!(code, 200, "{answer}");
    let (code, answer) = served.post(MAPS, &json!({"metadata": {"name": degraded[0]}, "data": {}})).await;
    assert_eq!(code, 201, "{answer}");
    served.stop().await;
}

async fn d9_what_another_version_wrote_is_shown_as_it_is_and_the_rest_runs(home: Home) {
    let (database, raw) = (home.database(), Home::at(home.url.clone()));
    let namespace = if home.url.starts_with("sqlite") { "damage-sqlite" } else { "damage-postgres" };
    let served = Served::start_on(&database, home.directory, Options::default()).await;
    for name in ["good", "enum", "newer", "last"] {
        let spec = json!({"from": {"image": "micro"}, "goal": {"prompt": "x"}, "agent": {"type": "Command", "command": ["true"]}});
        assert_eq!(
            served
                .post(
                    MACHINES,
                    &json!({"apiVersion": "autovibe.dev/v1alpha1", "kind": "Machine", "metadata": {"name": name}, "spec": spec})
                )
                .await
                .0,
            201
        );
    }
    let directory = served.stop().await;
    let change = |name: &str, from: &str, to: &str| {
        format!(
            "UPDATE objects SET document = replace(document, '{from}', '{to}') WHERE resource = 'machines.autovibe.dev' AND name = '{name}'"
        )
    };
    raw.execute(&change("enum", r#""type":"Command""#, r#""type":"Telepathy""#)).await;
    raw.execute(&change("newer", "autovibe.dev/v1alpha1", "autovibe.dev/v7")).await;
    raw.execute(&change("newer", r#""prompt":"x""#, r#""prompt":"x","mood":"bright""#)).await;
    let served = Served::start_on(&database, directory, Options::default()).await;
    assert_eq!(list(&served, MACHINES).await.len(), 4);
    let (_, shown) = served.get(&format!("{MACHINES}/enum")).await;
    assert_eq!(shown["spec"]["agent"]["type"], "Telepathy");
    let (_, mut newer) = served.get(&format!("{MACHINES}/newer")).await;
    assert_eq!(newer["spec"]["goal"]["mood"], "bright");
    // Each way to them says that they are not acted on, and why.
    let listed = list(&served, MACHINES).await;
    let mut watch = served
        .watch(&format!("{MACHINES}?watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"))
        .await;
    for _ in 0..4 {
        let (_, object) = watch.next().await.expect("an event");
        let name = object["metadata"]["name"].as_str().unwrap();
        let bad = ["enum", "newer"].contains(&name);
        assert_eq!((is_degraded(&object), is_degraded(&listed[name])), (bad, bad), "{object}");
        assert_eq!(object["apiVersion"], "autovibe.dev/v1alpha1", "clients can read what they asked for");
        assert_eq!(object, served.get(&format!("{MACHINES}/{name}")).await.1);
    }
    let message =
        |object: &Value| object["status"]["conditions"].as_array().unwrap().last().unwrap()["message"].as_str().unwrap().to_owned();
    let said = message(&listed["enum"]);
    assert!(
        said.contains("default/enum") && said.contains("spec.agent.type") && said.contains("Telepathy") && said.contains("delete it"),
        "{said}"
    );
    let said = message(&listed["newer"]);
    assert!(said.contains("autovibe.dev/v7") && said.contains("autovibe.dev/v1alpha1"), "{said}");
    if let Some(kubectl) = Kubectl::new(namespace).await.map(|kubectl| kubectl.with_config(served.directory.join("kubeconfig"))) {
        let table = ok(kubectl.run("get machines -n default").await);
        assert!(["good", "enum", "newer", "last"].iter().all(|name| table.contains(name)), "{table}");
        assert!(ok(kubectl.run("describe machine enum -n default").await).contains("Degraded"));
        ok(kubectl.run("wait machine/newer -n default --for=condition=Degraded --timeout=20s").await);
        assert!(kubectl.run("wait machine/good -n default --for=condition=Degraded --timeout=1s").await.is_err());
    }
    // Controllers see all but those that they cannot understand.
    let seen = served.objects.watch::<Machine>().take(2).map(|event| event.object.name().to_owned()).collect::<Vec<_>>();
    let mut seen = tokio::time::timeout(std::time::Duration::from_secs(20), seen).await.expect("the others come");
    seen.sort();
    assert_eq!(seen, ["good", "last"]);
    // Written as this version knows it, it is as any other.
    newer["spec"]["goal"].as_object_mut().unwrap().remove("mood");
    let (code, answer) = served.put(&format!("{MACHINES}/newer"), &newer).await;
    assert_eq!((code, is_degraded(&answer)), (200, false), "{answer}");
    assert!(!is_degraded(&served.get(&format!("{MACHINES}/newer")).await.1));
    let patch = json!({"metadata": {"labels": {"touched": "yes"}}});
    let (code, answer) = served.patch(&format!("{MACHINES}/good"), "application/merge-patch+json", &patch).await;
    assert_eq!(code, 200, "{answer}");
    assert_eq!(served.delete(&format!("{MACHINES}/enum")).await.0, 200);
    served.stop().await;
}

/// The controllers leave it alone, say so once, and go on with all others, also those of its namespace.
#[tokio::test(flavor = "multi_thread")]
async fn d9_what_controllers_cannot_read_they_leave_and_say_so_once() {
    let home = Home::sqlite();
    let data = home.path().to_owned();
    let machine = |name: &str| {
        format!(
            "apiVersion: autovibe.dev/v1alpha1\nkind: Machine\nmetadata: {{name: {name}, namespace: default}}\nspec: {{from: {{image: micro}}, \
             goal: {{prompt: x}}, agent: {{type: Command, command: [\"true\"]}}}}\n---\n"
        )
    };
    let checkpoint = "apiVersion: autovibe.dev/v1alpha1\nkind: Checkpoint\nmetadata: {name: c, namespace: default}\nspec: {machine: good, trigger: Requested}\n";
    let shown = |kind: &str| -> Value { serde_json::from_str(&said(&data, &["get", kind, "-o", "json"])).unwrap() };
    let apply = |text: &str| drop(said(&data, &["apply", "-f", &write(&data.join("m.yaml"), text)]));
    tokio::task::block_in_place(|| {
        let hub = Hub::start(&data, &ANY_PORTS).serves();
        apply(&(machine("good") + &machine("enum") + checkpoint));
        wait("a status", || shown("machine/enum")["status"]["phase"].is_string() && shown("checkpoint/c")["status"].is_object());
        hub.terminate();
    });
    let change = |kind: &str, name: &str, from: &str, to: &str| {
        format!(
            "UPDATE objects SET document = replace(document, '{from}', '{to}') WHERE resource = '{kind}.autovibe.dev' AND name = '{name}'"
        )
    };
    home.execute(&change("machines", "enum", r#""type":"Command""#, r#""type":"Telepathy""#)).await;
    home.execute(&change("checkpoints", "c", r#""trigger":"Requested""#, r#""trigger":"Intuition""#)).await;
    tokio::task::block_in_place(|| {
        std::fs::remove_file(data.join(crate::process::LOG)).unwrap();
        let hub = Hub::start(&data, &["--lab", "off"]).serves();
        let before = (shown("machine/enum"), shown("checkpoint/c"));
        assert!(is_degraded(&before.0) && is_degraded(&before.1), "{before:?}");
        apply(&machine("later"));
        wait("another's status", || shown("machine/later")["status"]["phase"].is_string());
        // Time for a second and third try, were there any.
        std::thread::sleep(std::time::Duration::from_secs(5));
        assert_eq!((shown("machine/enum"), shown("checkpoint/c")), before, "nothing was done about it");
        let log = hub.logged();
        for name in ["machines.autovibe.dev default/enum", "checkpoints.autovibe.dev default/c"] {
            let complaints: Vec<&str> = log.lines().filter(|line| line.contains(&format!("{name} cannot be read"))).collect();
            // The watches of controllers and gateway, and the reconcile that was asked for.
            assert!((1..=3).contains(&complaints.len()), "{complaints:#?}");
        }
        hub.terminate();
    });
}
