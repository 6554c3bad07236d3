//! kube-rs' watcher and reflector: a list and then a watch, or a watch that begins with the list.

use super::{client, config_map};
use crate::served::Served;
use autovibe::store::{History, Options};
use futures::{Stream, StreamExt as _};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams};
use kube::runtime::watcher::{self, Event, watcher};
use kube::runtime::{WatchStreamExt as _, reflector};
use kube::{Api, Client, ResourceExt as _};
use serde_json::json;
use std::{fmt::Debug, pin::pin, time::Duration};

const PATIENCE: Duration = Duration::from_secs(30);

async fn next<T>(stream: &mut (impl Stream<Item = T> + Unpin)) -> T {
    tokio::time::timeout(PATIENCE, stream.next()).await.expect("an event in time").expect("the stream goes on")
}

/// `Apply a`, `Delete b` …
fn told<E: Debug>(event: Result<Event<ConfigMap>, E>) -> String {
    match event.expect("no error") {
        Event::Init => "Init".into(),
        Event::InitDone => "InitDone".into(),
        Event::InitApply(object) => format!("InitApply {}", object.name_any()),
        Event::Apply(object) => format!("Apply {}", object.name_any()),
        Event::Delete(object) => format!("Delete {}", object.name_any()),
    }
}

async fn maps(server: &crate::served::Client, namespace: &str) -> (Client, Api<ConfigMap>) {
    let client = client(server).await;
    (client.clone(), Api::namespaced(client, namespace))
}

async fn set(api: &Api<ConfigMap>, name: &str, value: &str) {
    api.patch(name, &PatchParams::default(), &Patch::Merge(json!({"data": {"k": value}}))).await.expect("it is patched");
}

#[tokio::test]
async fn both_ways_to_begin_tell_the_same() {
    for (namespace, config) in [
        ("kube-list-watch", watcher::Config::default().page_size(2)),
        ("kube-any", watcher::Config::default().any_semantic()),
        ("kube-streaming", watcher::Config::default().streaming_lists()),
    ] {
        let server = Served::shared();
        server.namespace(namespace).await;
        let (_, api) = maps(&server, namespace).await;
        for name in ["a", "b", "c", "d", "e"] {
            api.create(&PostParams::default(), &config_map(name, "1")).await.unwrap();
        }
        let mut events = pin!(watcher(api.clone(), config));
        let mut began = Vec::new();
        while began.last().is_none_or(|last| last != "InitDone") {
            began.push(told(next(&mut events).await));
        }
        let expect = ["Init", "InitApply a", "InitApply b", "InitApply c", "InitApply d", "InitApply e", "InitDone"];
        assert_eq!(began, expect, "{namespace}");
        api.create(&PostParams::default(), &config_map("f", "1")).await.unwrap();
        set(&api, "a", "2").await;
        api.delete("b", &DeleteParams::default()).await.unwrap();
        for expect in ["Apply f", "Apply a", "Delete b"] {
            assert_eq!(told(next(&mut events).await), expect, "{namespace}");
        }
    }
}

#[tokio::test]
async fn a_selector_makes_objects_come_and_go() {
    let server = Served::shared();
    server.namespace("kube-select").await;
    let (_, api) = maps(&server, "kube-select").await;
    api.create(&PostParams::default(), &config_map("a", "1")).await.unwrap();
    let mut events = pin!(watcher(api.clone(), watcher::Config::default().labels("color=blue").streaming_lists()));
    assert_eq!(told(next(&mut events).await), "Init");
    assert_eq!(told(next(&mut events).await), "InitDone");
    for (color, expect) in [("blue", "Apply a"), ("red", "Delete a"), ("blue", "Apply a")] {
        let patch = json!({"metadata": {"labels": {"color": color}}});
        api.patch("a", &PatchParams::default(), &Patch::Merge(patch)).await.unwrap();
        assert_eq!(told(next(&mut events).await), expect);
    }
}

#[tokio::test]
async fn a_reflectors_store_holds_what_a_list_shows() {
    for (namespace, config) in
        [("kube-store-list", watcher::Config::default()), ("kube-store-stream", watcher::Config::default().streaming_lists())]
    {
        let server = Served::shared();
        server.namespace(namespace).await;
        let (_, api) = maps(&server, namespace).await;
        api.create(&PostParams::default(), &config_map("old", "1")).await.unwrap();
        let (reader, writer) = reflector::store();
        // Watches of a second: the store must survive many ends and beginnings.
        let events = reflector(writer, watcher(api.clone(), config.timeout(1))).default_backoff().touched_objects();
        let driver = tokio::spawn(events.for_each(|event| async move { drop(event.expect("no error")) }));
        tokio::time::timeout(PATIENCE, reader.wait_until_ready()).await.expect("ready in time").expect("the writer lives");
        for n in 0..60 {
            let name = format!("m{}", n % 6);
            match n / 6 {
                0 => drop(api.create(&PostParams::default(), &config_map(&name, "0")).await.unwrap()),
                9 if n % 2 == 0 => drop(api.delete(&name, &DeleteParams::default()).await.unwrap()),
                round => set(&api, &name, &round.to_string()).await,
            }
            tokio::time::sleep(Duration::from_millis(40)).await;
        }
        let versions = |items: Vec<ConfigMap>| {
            let mut versions: Vec<_> = items.iter().map(|m| (m.name_any(), m.resource_version())).collect();
            versions.sort();
            versions
        };
        let listed = versions(api.list(&Default::default()).await.unwrap().items);
        assert_eq!(listed.len(), 4);
        let agrees = async {
            while versions(reader.state().iter().map(|m| (**m).clone()).collect()) != listed {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(PATIENCE, agrees).await.expect("the store catches up");
        driver.abort();
    }
}

#[tokio::test]
async fn a_watcher_that_slept_past_the_history_lists_anew() {
    for config in [watcher::Config::default(), watcher::Config::default().streaming_lists()] {
        let options = Options { history: History { age: Duration::ZERO, changes: 2 }, ..Options::default() };
        let server = Served::start(options.clone()).await;
        let (_, api) = maps(&server, "default").await;
        api.create(&PostParams::default(), &config_map("a", "1")).await.unwrap();
        api.create(&PostParams::default(), &config_map("b", "1")).await.unwrap();
        let mut events = pin!(watcher(api.clone(), config.timeout(1)));
        for expect in ["Init", "InitApply a", "InitApply b", "InitDone"] {
            assert_eq!(told(next(&mut events).await), expect);
        }
        set(&api, "a", "2").await;
        assert_eq!(told(next(&mut events).await), "Apply a");
        // Its watch has ended when one that began later and lasts longer has.
        let mut longer = server.watch("/api/v1/namespaces/default/configmaps?watch=1&timeoutSeconds=2").await;
        while longer.next().await.is_some() {}
        for n in 0..20 {
            set(&api, "a", &format!("later {n}")).await;
        }
        api.delete("b", &DeleteParams::default()).await.unwrap();
        server.objects.store().compact(&options).await.unwrap();
        let mut said = Vec::new();
        while said.last().is_none_or(|last| last != "InitDone") {
            said.push(match next(&mut events).await {
                Err(watcher::Error::WatchError(status)) => format!("{} {}", status.code, status.reason),
                event => told(event),
            });
        }
        assert_eq!(said, ["410 Expired", "Init", "InitApply a", "InitDone"]);
        server.stop().await;
    }
}
