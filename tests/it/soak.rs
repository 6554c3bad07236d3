//! Writers and watchers of a hub process that is killed and started again while they work. What they saw is one history.

use crate::database::{Cluster, Home};
use crate::history::{Answer, Call, Entry, Recorder, State, check};
use crate::process::{ANY_PORTS, Hub};
use crate::served::{Client, Served};
use autovibe::store::Options;
use futures::future::join_all;
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use reqwest::{Method, RequestBuilder, header};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const OBJECTS: &[&str] = &["a", "b", "c", "d", "e"];
/// What ends the log.
const END: &str = "end";
const SEED: u64 = 5;

/// How much there is of everything.
struct Size {
    writers: usize,
    watchers: usize,
    /// Operations of each writer.
    operations: usize,
}

fn map(name: &str, state: &State) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": state})
}

fn revision(object: &Value) -> i64 {
    object["metadata"]["resourceVersion"].as_str().and_then(|text| text.parse().ok()).expect("a resourceVersion")
}

fn state(object: &Value) -> State {
    serde_json::from_value(object["data"].clone()).expect("a map's data")
}

fn request(client: &Client, object: &str, call: &Call) -> RequestBuilder {
    let path = format!("{MAPS}/{object}");
    match call {
        Call::Create(to) => client.request(Method::POST, MAPS).json(&map(object, to)),
        Call::Update(at, to) => {
            let mut body = map(object, to);
            if let Some(at) = at {
                body["metadata"]["resourceVersion"] = at.to_string().into();
            }
            client.request(Method::PUT, &path).json(&body)
        }
        Call::Patch(change) => client
            .request(Method::PATCH, &path)
            .header(header::CONTENT_TYPE, "application/merge-patch+json")
            .body(json!({"data": change}).to_string()),
        Call::Delete(at) => {
            let preconditions = at.map_or_else(|| json!({}), |at| json!({"resourceVersion": at.to_string()}));
            client.request(Method::DELETE, &path).json(&json!({"preconditions": preconditions}))
        }
        Call::Get => client.request(Method::GET, &path),
        Call::List => client.request(Method::GET, MAPS),
    }
}

/// Sends it and reads the answer; none, or half of one, is unknown.
async fn send(client: &Client, object: &str, call: &Call) -> Answer {
    let Ok(response) = request(client, object, call).send().await else { return Answer::Unknown };
    let code = response.status().as_u16();
    let Ok(body) = response.json::<Value>().await else { return Answer::Unknown };
    match (code, body["reason"].as_str().unwrap_or_default(), call) {
        (200, _, Call::Get) => Answer::Read(revision(&body), state(&body)),
        (200, _, Call::List) => {
            let items = body["items"].as_array().expect("items").iter();
            let one = |item: &Value| (item["metadata"]["name"].as_str().expect("a name").to_owned(), (revision(item), state(item)));
            Answer::Listed(revision(&body), items.map(one).collect())
        }
        (200, _, Call::Delete(_)) => Answer::Gone,
        (200 | 201, ..) => Answer::Done(revision(&body)),
        (404, "NotFound", _) => Answer::Absent,
        (409, "AlreadyExists", _) => Answer::Exists,
        // The last two when the database is away: nothing was written.
        (409, "Conflict", Call::Patch(_) | Call::Update(None, _))
        | (429, ..)
        | (500, "ServerTimeout", _)
        | (503, "ServiceUnavailable", _) => Answer::Refused,
        (409, "Conflict", _) => Answer::Conflict,
        (504, "Timeout", _) => Answer::Unknown,
        // A hub that is killed tells no one.
        _ => panic!("{call:?} of {object} was answered {code} {body}"),
    }
}

/// Does what comes to its mind, with revisions that it has seen, and values that only it writes.
async fn write(client: Client, writer: usize, size: &Size, recorder: &Recorder, done: &AtomicUsize) {
    let mut random = StdRng::seed_from_u64(SEED + writer as u64);
    let mut seen: BTreeMap<&str, i64> = BTreeMap::new();
    for n in 0..size.operations {
        let object = *OBJECTS.choose(&mut random).expect("some");
        let value: State = [(format!("w{writer}"), n.to_string())].into();
        let known = seen.get(object).copied();
        let call = match random.random_range(0..12) {
            0 | 1 => Call::Create(value),
            2 | 3 => Call::Update(known, value),
            4 => Call::Update(None, value),
            5..8 => Call::Patch(value),
            8 if known.is_some() => Call::Delete(known),
            9 => Call::List,
            _ => Call::Get,
        };
        let answer = recorder.perform(object, call.clone(), send(&client, object, &call)).await;
        match answer {
            Answer::Done(revision) | Answer::Read(revision, _) => drop(seen.insert(object, revision)),
            Answer::Unknown | Answer::Refused => tokio::time::sleep(Duration::from_millis(50)).await,
            _ => {}
        }
        done.fetch_add(1, Ordering::SeqCst);
    }
}

/// Watches from `from` until the end of the log, again from where it was whenever the stream breaks, at the next server; all
/// that it was told.
async fn watch(clients: Vec<Client>, from: i64, reconnects: &AtomicUsize) -> Vec<Entry> {
    let (mut log, mut last, mut clients) = (Vec::new(), from, clients.iter().cycle());
    loop {
        let client = clients.next().expect("one at least");
        let path = format!("{MAPS}?watch=1&allowWatchBookmarks=true&resourceVersion={last}");
        if let Ok(mut lines) = client.try_watch(&path, "application/json").await {
            while let Ok(Some((kind, object))) = lines.try_next().await {
                assert_ne!(kind, "ERROR", "{object}");
                last = revision(&object);
                if kind == "BOOKMARK" {
                    continue;
                }
                let name = object["metadata"]["name"].as_str().expect("a name").to_owned();
                if name == END {
                    return log;
                }
                log.push(Entry { revision: last, object: name, state: (kind != "DELETED").then(|| state(&object)) });
            }
        }
        reconnects.fetch_add(1, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Runs all of them, and `trouble` beside them, which is told how many operations were done; then holds what they saw together.
async fn run(clients: &[&Client], size: Size, trouble: impl AsyncFnOnce(&AtomicUsize)) {
    let (recorder, done, reconnects) = (Recorder::default(), AtomicUsize::new(0), AtomicUsize::new(0));
    let client = |n: usize| clients[n % clients.len()].alone();
    let from = revision(&client(0).get(MAPS).await.1);
    let writers = async {
        tokio::join!(trouble(&done), join_all((0..size.writers).map(|writer| write(client(writer), writer, &size, &recorder, &done))));
        let (code, answer) = client(0).post(MAPS, &map(END, &State::new())).await;
        assert_eq!(code, 201, "{answer}");
    };
    let watchers = join_all((0..size.watchers).map(|n| watch((n..n + clients.len()).map(client).collect(), from, &reconnects)));
    let ((), logs) = tokio::join!(writers, watchers);
    for log in &logs {
        assert_eq!(*log, logs[0], "every watcher sees every revision, once, in order");
    }
    let operations = recorder.operations();
    let count = |of: fn(&Answer) -> bool| operations.iter().filter(|operation| of(&operation.answer)).count();
    eprintln!(
        "{} operations ({} lost, {} refused, {} conflicts), {} revisions, {} watchers ({} reconnects)",
        operations.len(),
        count(|answer| matches!(answer, Answer::Unknown)),
        count(|answer| matches!(answer, Answer::Refused)),
        count(|answer| matches!(answer, Answer::Conflict)),
        logs[0].len(),
        logs.len(),
        reconnects.load(Ordering::SeqCst),
    );
    assert_eq!(check(&operations, &logs[0]), Ok(()));
    assert!(count(|answer| matches!(answer, Answer::Conflict)) > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_four_clients_make_one_linearizable_history() {
    let server = Served::start(Options::default()).await;
    run(&[&server], Size { writers: 64, watchers: 4, operations: 40 }, async |_| {}).await;
    server.stop().await;
}

/// Kills the hub whenever so many more operations were done, and starts it again.
async fn kill(data: &Path, hub: Hub, kills: usize, every: usize, done: &AtomicUsize) -> Hub {
    let mut hub = hub;
    for n in 1..=kills {
        while done.load(Ordering::SeqCst) < n * every {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        hub = tokio::task::block_in_place(|| {
            hub.kill();
            Hub::start(data, &["--lab", "off"]).serves()
        });
    }
    hub
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_hub_killed_again_and_again_loses_no_write_and_no_watcher_misses_one() {
    rustls::crypto::ring::default_provider().install_default().ok();
    let data = tempfile::tempdir().unwrap();
    let data = data.path();
    let hub = Hub::start(data, &ANY_PORTS).serves();
    let client = Client::open(data);
    let size = Size { writers: 16, watchers: 50, operations: 120 };
    let kills = 6;
    let every = size.writers * size.operations / (kills + 2);
    let mut ended = None;
    run(&[&client], size, async |done| ended = Some(kill(data, hub, kills, every, done).await)).await;
    assert_eq!(ended.expect("the hub runs").terminate().0, Some(0));
}

/// Two servers on one PostgreSQL, one of which leads; each of the three is killed in turn.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn servers_and_postgresql_killed_in_turn_lose_no_write_and_no_watcher_misses_one() {
    let Some(mut cluster) = Cluster::start("-c fsync=off") else { return };
    rustls::crypto::ring::default_provider().install_default().ok();
    let home = Home::at(cluster.create().await);
    let directories = ["hub", "server"].map(|name| home.path().join(name));
    let arguments = [&["--lab", "off"][..], &["--api-only"]].map(|role| [role, &["--database-url", &home.url]].concat());
    let start = |n: usize, more: &[&str]| {
        std::fs::create_dir_all(&directories[n]).unwrap();
        Hub::start(&directories[n], &[&arguments[n], more].concat()).serves()
    };
    let hub = start(0, &ANY_PORTS[2..]);
    std::fs::create_dir_all(&directories[1]).unwrap();
    std::fs::copy(directories[0].join("secrets.key"), directories[1].join("secrets.key")).unwrap();
    let server = start(1, &ANY_PORTS[2..4]);
    let clients = directories.each_ref().map(|directory| Client::open(directory));
    let size = Size { writers: 16, watchers: 50, operations: 100 };
    let kills = 9;
    let every = size.writers * size.operations / (kills + 2);
    let mut processes = [Some(hub), Some(server)];
    run(&clients.each_ref(), size, async |done| {
        for n in 1..=kills {
            while done.load(Ordering::SeqCst) < n * every {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            tokio::task::block_in_place(|| match n % 3 {
                0 => {
                    cluster.kill();
                    cluster.run();
                }
                who => {
                    processes[who - 1].take().expect("it runs").kill();
                    processes[who - 1] = Some(start(who - 1, &[]));
                }
            });
        }
    })
    .await;
    for process in processes.into_iter().flatten() {
        assert_eq!(process.terminate().0, Some(0));
    }
}
