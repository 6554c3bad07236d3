use super::graph::{FOREGROUND, Graph, owners};
use crate::store::Key;
use serde_json::{Value, json};

fn key(name: &str) -> Key {
    Key::new("configmaps", "n", name)
}

fn document(uid: &str, owners: &[(&str, bool)]) -> Value {
    let owners: Vec<Value> = owners
        .iter()
        .map(|(uid, blocks)| json!({"apiVersion": "v1", "kind": "ConfigMap", "name": uid, "uid": uid, "blockOwnerDeletion": blocks}))
        .collect();
    json!({"metadata": {"uid": uid, "ownerReferences": owners}})
}

fn ending(mut document: Value) -> Value {
    document["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
    document["metadata"]["finalizers"] = json!([FOREGROUND]);
    document
}

#[test]
fn only_what_a_change_may_have_moved_is_looked_at() {
    let mut graph = Graph::default();
    assert!(graph.seen(&key("a"), &document("a", &[])).is_empty(), "an object without owners concerns nobody");
    assert_eq!(graph.seen(&key("b"), &document("b", &[("a", true)])), [key("b")]);
    assert!(graph.seen(&key("b"), &document("b", &[("a", true)])).is_empty(), "the same owners again");
    assert_eq!((graph.dependents("a"), graph.is_blocked(&key("a"), "a")), (vec![key("b")], true));
    assert_eq!(graph.seen(&key("a"), &ending(document("a", &[]))), [key("a"), key("b")]);
    assert_eq!(graph.seen(&key("b"), &document("b", &[("a", false)])), [key("b"), key("a"), key("a")], "it blocks no more");
    assert!(!graph.is_blocked(&key("a"), "a"));
    assert_eq!(graph.gone(&key("b"), &document("b", &[])), [key("a")]);
    assert!(graph.gone(&key("a"), &document("a", &[])).is_empty());
}

#[test]
fn an_owner_is_looked_for_where_it_may_be() {
    let place = |key: &Key, kind: &str, api_version: &str| {
        let document = json!({"metadata": {"ownerReferences": [{"apiVersion": api_version, "kind": kind, "name": "x", "uid": "u"}]}});
        owners(key, &document).remove(0).key
    };
    assert_eq!(place(&key("a"), "Secret", "v1"), Some(Key::new("secrets", "n", "x")));
    assert_eq!(place(&key("a"), "Machine", "autovibe.dev/v1alpha1"), Some(Key::new("machines.autovibe.dev", "n", "x")));
    assert_eq!(place(&key("a"), "Hub", "autovibe.dev/v9"), Some(Key::new("hubs.autovibe.dev", "", "x")), "whatever the version");
    assert_eq!(place(&key("a"), "Deployment", "apps/v1"), None);
    let hub = Key::new("hubs.autovibe.dev", "", "h");
    assert_eq!(place(&hub, "Secret", "v1"), None, "nothing namespaced owns what has no namespace");
}

#[test]
fn members_of_a_circle_do_not_wait_for_each_other() {
    let mut graph = Graph::default();
    for (name, its_owner) in [("a", "c"), ("b", "a"), ("c", "b"), ("d", "a"), ("self", "self")] {
        graph.seen(&key(name), &document(name, &[(its_owner, true)]));
    }
    let blocked = |name: &str| graph.is_blocked(&key(name), name);
    assert!(blocked("a"), "by d, which is outside of it");
    assert!(!blocked("b") && !blocked("c") && !blocked("self"));
}
