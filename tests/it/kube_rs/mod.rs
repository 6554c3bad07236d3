//! kube-rs against a real server: a client that we did not write. Its plain calls are here, what it builds on watches in
//! `watching`, and a small operator in `operator`.

mod operator;
mod watching;

use crate::served::{self, Served};
use autovibe::api::budget::{BudgetSpec, BudgetStatus};
use autovibe::api::machine::{MachineSpec, MachineStatus};
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::{DeleteParams, DynamicObject, ListParams, ObjectMeta, Patch, PatchParams, PostParams, Preconditions};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::{ApiResource, GroupVersionKind, Object, WatchEvent};
use kube::discovery::{self, Scope, verbs};
use kube::{Api, Client};
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Our kinds as kube-rs holds kinds whose resource it learned by discovery.
type Machine = Object<MachineSpec, MachineStatus>;
type Budget = Object<BudgetSpec, BudgetStatus>;

async fn client(server: &served::Client) -> Client {
    let kubeconfig = Kubeconfig::read_from(server.directory.join("kubeconfig")).expect("kube-rs reads our kubeconfig");
    let mut config = kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.expect("it is complete");
    config.proxy_url = None;
    Client::try_from(config).expect("a client")
}

async fn resource(client: &Client, kind: &str) -> ApiResource {
    let kind = GroupVersionKind::gvk("autovibe.dev", "v1alpha1", kind);
    discovery::pinned_kind(client, &kind).await.expect("the kind is discovered").0
}

fn machine(name: &str, resource: &ApiResource) -> Machine {
    let spec = json!({"from": {"image": "micro"}, "goal": {"prompt": "Write hello."}, "agent": {"type": "Command", "command": ["true"]}});
    Machine::new(name, resource, serde_json::from_value(spec).expect("a spec"))
}

fn config_map(name: &str, value: &str) -> ConfigMap {
    let metadata = ObjectMeta { name: Some(name.into()), ..ObjectMeta::default() };
    ConfigMap { metadata, data: Some(BTreeMap::from([("k".into(), value.into())])), ..ConfigMap::default() }
}

/// HTTP code and reason of a refusal.
fn refused<T: std::fmt::Debug>(result: kube::Result<T>) -> (u16, String, String) {
    match result {
        Err(kube::Error::Api(status)) => (status.code, status.reason, status.message),
        other => panic!("not refused by the server: {other:?}"),
    }
}

#[tokio::test]
async fn discovery_finds_every_kind_both_ways() {
    let client = client(&Served::shared()).await;
    let one_by_one = discovery::Discovery::new(client.clone()).run().await.unwrap();
    let aggregated = discovery::Discovery::new(client.clone()).run_aggregated().await.unwrap();
    let kinds = |found: &discovery::Discovery| {
        let mut kinds: Vec<String> = found
            .groups()
            .flat_map(kube::discovery::ApiGroup::recommended_resources)
            .map(|(resource, capabilities)| {
                let subresources: Vec<String> = capabilities.subresources.iter().map(|(r, _)| r.plural.clone()).collect();
                let verbs = [verbs::LIST, verbs::WATCH, verbs::PATCH].map(|verb| capabilities.supports_operation(verb));
                format!(
                    "{} {} {} {:?} {subresources:?} {verbs:?}",
                    resource.api_version, resource.kind, resource.plural, capabilities.scope
                )
            })
            .collect();
        kinds.sort();
        kinds
    };
    assert_eq!(kinds(&one_by_one), kinds(&aggregated));
    let (_, capabilities) =
        discovery::pinned_kind(&client, &GroupVersionKind::gvk("autovibe.dev", "v1alpha1", "Hub")).await.expect("Hub is there");
    assert_eq!(capabilities.scope, Scope::Cluster);
    assert!(client.apiserver_version().await.unwrap().git_version.starts_with("v1.34"));
}

#[tokio::test]
async fn a_typed_object_lives_through_every_verb() {
    let server = Served::shared();
    server.namespace("kube-verbs").await;
    let client = client(&server).await;
    let resource = resource(&client, "Machine").await;
    let machines: Api<Machine> = Api::namespaced_with(client.clone(), "kube-verbs", &resource);
    assert!(machines.get_opt("m").await.unwrap().is_none());
    let made = machines.create(&PostParams::default(), &machine("m", &resource)).await.unwrap();
    assert_eq!(made.spec.resources.memory.to_string(), "2Gi", "defaults come back");
    assert_eq!(refused(machines.create(&PostParams::default(), &made).await).0, 400, "a resourceVersion is not for a new object");
    let again = refused(machines.create(&PostParams::default(), &machine("m", &resource)).await);
    assert_eq!((again.0, again.1.as_str()), (409, "AlreadyExists"));

    let mut changed = made.clone();
    changed.metadata.labels = Some(BTreeMap::from([("team".into(), "a".into())]));
    let replaced = machines.replace("m", &PostParams::default(), &changed).await.unwrap();
    assert_ne!(replaced.metadata.resource_version, made.metadata.resource_version);
    let stale = refused(machines.replace("m", &PostParams::default(), &changed).await);
    assert_eq!((stale.0, stale.1.as_str()), (409, "Conflict"));
    changed.metadata.resource_version = None;
    assert_eq!(refused(machines.replace("m", &PostParams::default(), &changed).await).0, 422);

    let params = PatchParams::default();
    let merged = machines.patch("m", &params, &Patch::Merge(json!({"spec": {"operatingMode": "Suspended"}}))).await.unwrap();
    assert_eq!((merged.metadata.generation, format!("{:?}", merged.spec.operating_mode)), (Some(2), "Suspended".into()));
    let operations = json!([
        {"op": "test", "path": "/spec/operatingMode", "value": "Suspended"},
        {"op": "replace", "path": "/spec/operatingMode", "value": "Running"},
    ]);
    let operations = || Patch::Json::<()>(serde_json::from_value(operations.clone()).expect("a JSON patch"));
    assert_eq!(machines.patch("m", &params, &operations()).await.unwrap().metadata.generation, Some(3));
    let failed = refused(machines.patch("m", &params, &operations()).await);
    assert_eq!((failed.0, failed.1.as_str()), (422, "Invalid"), "the test no longer holds");
    let immutable = refused(machines.patch("m", &params, &Patch::Merge(json!({"spec": {"goal": {"prompt": "Other."}}}))).await);
    assert!(immutable.0 == 422 && immutable.2.contains("spec.goal"), "{immutable:?}");
    assert_eq!(refused(machines.patch("m", &params, &Patch::Strategic(json!({}))).await).0, 415);

    let status = json!({"status": {"phase": "Waiting", "message": "for a hub"}, "spec": {"operatingMode": "Suspended"}});
    let written = machines.patch_status("m", &params, &Patch::Merge(status)).await.unwrap();
    assert_eq!(
        (written.status.unwrap().message.as_deref(), format!("{:?}", written.spec.operating_mode)),
        (Some("for a hub"), "Running".into())
    );
    assert_eq!(machines.get_status("m").await.unwrap().status.unwrap().message.as_deref(), Some("for a hub"));
    let partial = machines.patch_metadata("m", &params, &Patch::Merge(json!({"metadata": {"annotations": {"n": "1"}}}))).await.unwrap();
    assert_eq!(partial.types.unwrap().kind, "PartialObjectMetadata");
    assert_eq!(machines.get_metadata("m").await.unwrap().metadata.annotations.unwrap()["n"], "1");
    assert_eq!(machines.list(&ListParams::default().labels("team=a")).await.unwrap().items.len(), 1);
    assert_eq!(machines.list(&ListParams::default().labels("team in (b,c)")).await.unwrap().items.len(), 0);
    assert_eq!(machines.list_metadata(&ListParams::default().fields("metadata.name=m")).await.unwrap().items.len(), 1);

    let wrong = Preconditions { uid: Some("00000000-0000-0000-0000-000000000000".into()), resource_version: None };
    assert_eq!(refused(machines.delete("m", &DeleteParams::default().preconditions(wrong)).await).0, 409);
    let gone = machines.delete("m", &DeleteParams::foreground()).await.unwrap();
    gone.map_left(|object| assert!(object.metadata.deletion_timestamp.is_some())).map_right(|status| assert_eq!(status.code, 0));
}

#[tokio::test]
async fn core_kinds_patch_strategically_and_go_as_a_collection() {
    let server = Served::shared();
    server.namespace("kube-core").await;
    let client = client(&server).await;
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "kube-core");
    for name in ["a", "b", "c"] {
        maps.create(&PostParams::default(), &config_map(name, "v")).await.unwrap();
    }
    let patch = json!({"data": {"j": "w"}, "metadata": {"finalizers": ["example.dev/a"]}});
    let patched = maps.patch("a", &PatchParams::default(), &Patch::Strategic(patch)).await.unwrap();
    assert_eq!(patched.data.unwrap().len(), 2);
    let pages = maps.list(&ListParams::default().limit(2)).await.unwrap();
    assert_eq!((pages.items.len(), pages.metadata.remaining_item_count), (2, Some(1)));
    let rest = maps.list(&ListParams::default().limit(2).continue_token(&pages.metadata.continue_.unwrap())).await.unwrap();
    assert_eq!(rest.items[0].metadata.name.as_deref(), Some("c"));
    maps.delete_collection(&DeleteParams::default(), &ListParams::default()).await.unwrap();
    let left = maps.list(&ListParams::default()).await.unwrap();
    assert_eq!(left.items.iter().map(|m| m.metadata.name.as_deref().unwrap()).collect::<Vec<_>>(), ["a"], "its finalizer holds it");
    assert!(left.items[0].metadata.deletion_timestamp.is_some());
    // A dry run stores nothing; text of a Secret comes back encoded.
    let metadata = ObjectMeta { generate_name: Some("s-".into()), ..ObjectMeta::default() };
    let secret = Secret { metadata, string_data: Some(BTreeMap::from([("k".into(), "plain".into())])), ..Secret::default() };
    let secrets: Api<Secret> = Api::namespaced(client, "kube-core");
    let dry = secrets.create(&PostParams { dry_run: true, field_manager: None }, &secret).await.unwrap();
    assert!(secrets.get_opt(dry.metadata.name.as_deref().unwrap()).await.unwrap().is_none());
    let made = secrets.create(&PostParams::default(), &secret).await.unwrap();
    assert_eq!((made.data.unwrap()["k"].0.as_slice(), made.string_data), (&b"plain"[..], None));
}

#[tokio::test]
async fn an_untyped_object_keeps_every_field() {
    use futures::TryStreamExt as _;
    let server = Served::shared();
    server.namespace("kube-dynamic").await;
    let client = client(&server).await;
    let resource = resource(&client, "Budget").await;
    let budgets: Api<DynamicObject> = Api::namespaced_with(client, "kube-dynamic", &resource);
    let wanted = DynamicObject::new("team", &resource).data(json!({"spec": {"limits": {"money": {"amount": "5"}, "apiCalls": 10}}}));
    let made = budgets.create(&PostParams::default(), &wanted).await.unwrap();
    assert_eq!(made.data["spec"]["limits"]["apiCalls"], 10);
    let entry = budgets.entry("team").await.unwrap().and_modify(|object| object.data["spec"]["limits"]["apiCalls"] = 11.into());
    let mut entry = entry.or_insert(|| panic!("it exists"));
    entry.commit(&PostParams::default()).await.unwrap();
    let watched: Vec<_> = budgets
        .watch(&kube::api::WatchParams::default().timeout(1), made.metadata.resource_version.as_deref().unwrap())
        .await
        .unwrap()
        .try_collect()
        .await
        .unwrap();
    let calls = |event: &WatchEvent<DynamicObject>| match event {
        WatchEvent::Modified(object) => object.data["spec"]["limits"]["apiCalls"].clone(),
        WatchEvent::Bookmark(_) => Value::from("bookmark"),
        other => panic!("{other:?}"),
    };
    // A bookmark may fall anywhere: the watch is so short that its last one is due at once.
    let changes: Vec<Value> = watched.iter().map(calls).filter(|change| change != "bookmark").collect();
    assert_eq!(changes, [11]);
}
