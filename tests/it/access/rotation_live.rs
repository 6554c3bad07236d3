//! The key of the Secrets is changed while hubs serve, several on one database too, and are killed over it.

use crate::database::Home;
use crate::hubs::directory;
use crate::process::{ANY_PORTS, Hub, autovibe, refused, said};
use crate::served::Client;
use autovibe::store::{Query, Revision};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Mutex,
    time::Duration,
};

const SECRETS: &str = "/api/v1/namespaces/default/secrets";
const KEY: &str = "/autovibe/secrets/key";

/// Values of Secrets that were acknowledged, by name.
type Written = Mutex<BTreeMap<String, String>>;

/// Makes Secrets and changes them, until it is told to end; a hub that is killed meanwhile answers nothing, and what it did
/// then is not counted. Returns how many writes were acknowledged.
async fn write(client: &Client, who: usize, written: &Written, end: &tokio_util::sync::CancellationToken, firm: bool) -> usize {
    let mut count = 0;
    for n in 0.. {
        if end.is_cancelled() {
            break;
        }
        let (name, value) = (format!("w{who}-{}", n % 40), format!("value {who} {n}"));
        let body = json!({"metadata": {"name": name, "annotations": {"a": value}}, "data": {"v": STANDARD.encode(&value)}});
        // What is in doubt is not compared.
        written.lock().unwrap().remove(&name);
        let request = match n / 40 {
            0 => client.request(reqwest::Method::POST, SECRETS),
            _ => client.request(reqwest::Method::PUT, &format!("{SECRETS}/{name}")),
        };
        let answer = request.json(&body).send().await;
        let answer = match answer {
            Ok(answer) => Some((answer.status().as_u16(), answer.bytes().await.unwrap_or_default())),
            Err(_) => None,
        };
        match answer {
            Some((200 | 201, _)) => {
                written.lock().unwrap().insert(name.clone(), value.clone());
                count += 1;
                let (code, read) = if firm { client.get(&format!("{SECRETS}/{name}")).await } else { continue };
                assert_eq!((code, read["data"]["v"].as_str()), (200, Some(&*STANDARD.encode(&value))), "{read}");
            }
            other if firm => panic!("{name} was answered {other:?}"),
            _ => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
    count
}

/// All that was acknowledged reads as it was written. What a writer is at meanwhile is left out.
async fn compare(client: &Client, written: &Written) {
    let acknowledged = written.lock().unwrap().clone();
    let (code, list) = client.get(SECRETS).await;
    assert_eq!(code, 200, "{list}");
    let found: BTreeMap<&str, &Value> =
        list["items"].as_array().unwrap().iter().map(|i| (i["metadata"]["name"].as_str().unwrap(), i)).collect();
    let still = written.lock().unwrap();
    for (name, value) in acknowledged.iter().filter(|(name, value)| still.get(*name) == Some(*value)) {
        let item = found.get(name.as_str()).unwrap_or_else(|| panic!("{name} was acknowledged and is gone"));
        assert_eq!(item["data"]["v"].as_str(), Some(&*STANDARD.encode(value)), "{item}");
        assert_eq!(item["metadata"]["annotations"]["a"].as_str(), Some(&**value), "{item}");
    }
}

fn key(data: &Path) -> String {
    std::fs::read_to_string(data.join("secrets.key")).unwrap()
}

/// Nothing in the database, the history included, is sealed with another key than this one.
async fn sealed_with(home: &Home, id: &str) {
    let store = home.open().await;
    let page = store.list(&Query { resource: "secrets".into(), ..Query::default() }).await.unwrap();
    let (events, _) = store.history("secrets", Revision(0), 0).await.unwrap();
    store.close().await;
    let all = page.items.into_iter().map(|item| item.document);
    let all: Vec<Value> = all.chain(events.into_iter().flat_map(|(event, previous)| [Some(event.document), previous]).flatten()).collect();
    let value = format!("xchacha20poly1305:v2:{id}:");
    assert!(all.len() > 100, "{} versions", all.len());
    for document in all {
        let text = document.to_string();
        assert_eq!(text.matches("xchacha20").count(), text.matches(&value).count(), "{text}");
    }
}

fn rotate(data: &Path, more: &[&str]) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_autovibe"));
    for variable in ["KUBECONFIG", "AUTOVIBE_DATA", "AUTOVIBE_DATABASE_URL", "RUST_LOG"] {
        command.env_remove(variable);
    }
    command.arg("--data").arg(data).args(["secrets", "rotate-key"]).args(more);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

fn ended(child: Child) -> String {
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Where a hub of a test on SQLite keeps all.
fn sqlite() -> (Home, PathBuf) {
    let home = Home::sqlite();
    let data = home.path().to_owned();
    (home, data)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_key_is_changed_under_writes() {
    rustls::crypto::ring::default_provider().install_default().ok();
    let (home, data) = sqlite();
    let hub = tokio::task::block_in_place(|| Hub::start(&data, &ANY_PORTS).serves());
    let (client, written, end) = (Client::open(&data), Written::default(), tokio_util::sync::CancellationToken::new());
    let writers = (0..4).map(|who| write(&client, who, &written, &end, true));
    let rotations = async {
        for n in 0..3 {
            while written.lock().unwrap().len() < 30 * (n + 1) {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            let before = key(&data);
            let text = tokio::task::block_in_place(|| said(&data, &["secrets", "rotate-key"]));
            assert!(text.contains("encrypted with the new key") && !text.contains("went on"), "{text}");
            let after = key(&data);
            assert!(after != before && after.lines().count() == 1, "the old key is gone from the file");
        }
        // And under the last key.
        while written.lock().unwrap().len() <= 100 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        end.cancel();
    };
    let (counts, ()) = tokio::join!(futures::future::join_all(writers), rotations);
    assert!(counts.iter().sum::<usize>() > 90);
    compare(&client, &written).await;
    let (code, state) = client.get(KEY).await;
    assert_eq!((code, &state["stage"]), (200, &json!("Done")), "{state}");
    let (code, answer) = client.put(KEY, &json!({})).await;
    assert_eq!(code, 405, "{answer}");
    let (code, answer) = client.post(KEY, &json!({"whom": []})).await;
    assert_eq!(code, 400, "{answer}");
    // It is not for everyone.
    let token = super::account(&client, "default", "someone").await;
    let someone = client.with_token(&token);
    assert_eq!((someone.get(KEY).await.0, someone.post(KEY, &json!({})).await.0), (403, 403));
    assert_eq!(tokio::task::block_in_place(|| hub.terminate()).0, Some(0));
    sealed_with(&home, state["key"].as_str().unwrap()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_killed_over_a_change_of_the_key_goes_on_with_it_and_loses_nothing() {
    rustls::crypto::ring::default_provider().install_default().ok();
    let (home, data) = sqlite();
    let mut hub = tokio::task::block_in_place(|| Hub::start(&data, &ANY_PORTS).serves());
    let (client, written, end) = (Client::open(&data), Written::default(), tokio_util::sync::CancellationToken::new());
    let writers = (0..3).map(|who| write(&client, who, &written, &end, false));
    let kills = async {
        let (mut cut, mut keys) = (0, std::collections::BTreeSet::new());
        for n in 0..16 {
            let asked = client.request(reqwest::Method::POST, KEY).json(&json!({})).send();
            // Killed between its begin and its end, which come within some tenths of a second: every other time once it is seen to
            // have begun, else anywhere.
            let killed = async {
                if n % 2 == 0 {
                    tokio::time::sleep(Duration::from_millis(n * 40)).await;
                } else {
                    let begun = async {
                        while key(&data).lines().count() < 2 {
                            tokio::time::sleep(Duration::from_millis(2)).await;
                        }
                    };
                    let _ = tokio::time::timeout(Duration::from_secs(2), begun).await;
                    tokio::time::sleep(Duration::from_millis(n * 3)).await;
                }
                hub.child.kill().unwrap();
                hub.child.wait().unwrap();
            };
            let _ = tokio::join!(asked, killed);
            cut += usize::from(key(&data).lines().count() > 1);
            hub = tokio::task::block_in_place(|| Hub::start(&data, &["--lab", "off"]).serves());
            compare(&client, &written).await;
            keys.extend(key(&data).lines().next().map(str::to_owned));
        }
        end.cancel();
        (cut, keys.len())
    };
    let (_, (cut, keys)) = tokio::join!(futures::future::join_all(writers), kills);
    eprintln!("{cut} of 16 kills left a change begun, {keys} keys");
    assert!(cut > 1 && keys > 2, "{cut} of the kills left a change begun, {keys} keys");
    let text = tokio::task::block_in_place(|| said(&data, &["secrets", "rotate-key"]));
    assert!(text.contains("encrypted with the new key"), "{text}");
    assert_eq!(key(&data).lines().count(), 1);
    compare(&client, &written).await;
    let (_, state) = client.get(KEY).await;
    assert_eq!(tokio::task::block_in_place(|| hub.terminate()).0, Some(0));
    sealed_with(&home, state["key"].as_str().unwrap()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_on_one_database_take_the_new_key_before_anything_is_sealed_with_it() {
    let Some(home) = Home::postgres().await else { return };
    rustls::crypto::ring::default_provider().install_default().ok();
    let with = |more: &[&'static str]| [&ANY_PORTS[..], &["--database-url", Box::leak(home.url.clone().into_boxed_str())], more].concat();
    let first = directory(&home, "first", None);
    let hub = tokio::task::block_in_place(|| Hub::start(&first, &with(&[])).serves());
    let beside = directory(&home, "beside", Some(&first));
    let server = tokio::task::block_in_place(|| Hub::start(&beside, &with(&["--api-only"])).serves());
    let lost = directory(&home, "lost", Some(&first));
    tokio::task::block_in_place(|| Hub::start(&lost, &with(&["--api-only"])).serves().kill());
    let clients = [Client::open(&first), Client::open(&beside)];
    let (written, end) = (Written::default(), tokio_util::sync::CancellationToken::new());
    let writers = (0..4).map(|who| write(&clients[who % 2], who, &written, &end, true));
    let change = async {
        while written.lock().unwrap().len() < 100 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let old = clients[0].get(KEY).await.1["key"].clone();
        let mut waits = rotate(&first, &["--database-url", &home.url]);
        // As long as one lacks it, nothing is sealed with it, and all goes on.
        let mut stage = Value::Null;
        for _ in 0..40 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let (_, state) = clients[1].get(KEY).await;
            assert_eq!(state["key"], old);
            stage = state["stage"].clone();
        }
        let waiting = stage["Waiting"].to_string();
        assert!(waiting.contains("/beside") && waiting.contains("/lost") && !waiting.contains("/first"), "{stage}");
        assert!(waits.try_wait().unwrap().is_none());
        std::fs::copy(first.join("secrets.key"), beside.join("secrets.key")).unwrap();
        tokio::time::sleep(Duration::from_secs(3)).await;
        let (_, state) = clients[1].get(KEY).await;
        let gone = state["stage"]["Waiting"][0].as_str().expect("one is left").to_owned();
        assert!(gone.ends_with("/lost") && state["key"] == old, "{state}");
        // It was killed for good.
        let text = tokio::task::block_in_place(|| ended(rotate(&first, &["--database-url", &home.url, "--gone", &gone])));
        assert!(text.contains("went on"), "{text}");
        let output = waits.wait_with_output().unwrap();
        let complaints = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success() && complaints.contains("/beside: copy secrets.key there"), "{complaints}");
        tokio::time::sleep(Duration::from_secs(2)).await;
        end.cancel();
    };
    let (counts, ()) = tokio::join!(futures::future::join_all(writers), change);
    assert!(counts.iter().all(|count| *count > 50), "{counts:?}");
    for client in &clients {
        compare(client, &written).await;
    }
    assert!(key(&first) == key(&beside) && key(&first).lines().count() == 1, "both forgot the old one");
    // Who comes back with the old key is told what to do.
    let error = tokio::task::block_in_place(|| refused(&lost, &[&["up"], &with(&["--api-only"])[..]].concat()));
    assert!(error.contains("secrets.key"), "{error}");
    std::fs::copy(first.join("secrets.key"), lost.join("secrets.key")).unwrap();
    let back = tokio::task::block_in_place(|| Hub::start(&lost, &with(&["--api-only"])).serves());
    compare(&Client::open(&lost), &written).await;
    for log in [hub.logged(), server.logged(), back.logged()] {
        assert!(!key(&first).lines().chain(key(&lost).lines()).any(|key| log.contains(key)), "a key is in the log");
    }
    let (_, state) = clients[0].get(KEY).await;
    for process in [back, server, hub] {
        assert_eq!(tokio::task::block_in_place(|| process.terminate()).0, Some(0));
    }
    sealed_with(&home, state["key"].as_str().unwrap()).await;
    // With all at rest the command does it alone, and another that ended in order is not waited for.
    let output = tokio::task::block_in_place(|| autovibe(&first, &["secrets", "rotate-key", "--database-url", &home.url]));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}
