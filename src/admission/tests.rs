//! Prune, default, validate: one line a case. Patches: Kubernetes' own differences from the RFCs.

#![expect(clippy::needless_pass_by_value, reason = "a table of cases reads better without borrows")]

use super::{default, named, patch, prune, resource, resources, validate};
use crate::api::{Checkpoint, Hub, Kind, Machine};
use serde_json::{Value, json};

fn machine(spec: Value) -> Value {
    json!({ "apiVersion": "autovibe.dev/v1alpha1", "kind": "Machine", "metadata": { "name": "m", "namespace": "shop" }, "spec": spec })
}

/// What is wrong with a Machine of this spec, after pruning and defaulting, as a user reads it.
fn errors(spec: Value) -> Vec<String> {
    errors_of::<Machine>(spec, None)
}

/// Of any kind, new or changed from an old spec.
fn errors_of<K: Kind>(spec: Value, old: Option<Value>) -> Vec<String> {
    let resource = resource::<K>();
    let object = |spec: Value| {
        let mut document = json!({ "apiVersion": "autovibe.dev/v1alpha1", "kind": K::KIND, "metadata": { "name": "m" }, "spec": spec });
        assert_eq!(prune(resource, &mut document), Vec::<String>::new());
        default(resource, &mut document);
        document
    };
    validate(resource, &object(spec), old.map(object).as_ref()).iter().map(ToString::to_string).collect()
}

fn check(spec: Value, expected: &[&str]) {
    agree(&spec, errors(spec.clone()), expected);
}

fn agree(spec: &Value, found: Vec<String>, expected: &[&str]) {
    let fits = found.len() == expected.len() && found.iter().zip(expected).all(|(found, expected)| found.contains(expected));
    assert!(fits, "{spec}\n found    {found:#?}\n expected {expected:#?}");
}

#[test]
fn every_served_resource_has_a_schema_of_its_own() {
    let names: Vec<String> = resources().iter().map(super::Resource::name).collect();
    assert_eq!(names.len(), names.iter().collect::<std::collections::BTreeSet<_>>().len());
    for resource in resources() {
        assert_eq!(resource.schema["type"], "object", "{}", resource.kind);
        assert!(resource.schema["properties"].get("metadata").is_none(), "{}", resource.kind);
        assert!(!resource.schema.to_string().contains("$ref"), "{} is not inlined", resource.kind);
    }
}

#[test]
fn the_shortest_machine_gets_all_defaults() {
    let mut document = machine(json!({ "from": { "image": "micro" }, "goal": { "prompt": "work" } }));
    default(resource::<Machine>(), &mut document);
    let spec = &document["spec"];
    assert_eq!(spec["agent"]["type"], "ClaudeCode");
    assert_eq!(spec["resources"], json!({ "cpu": "1", "memory": "2Gi" }));
    assert_eq!(spec["checkpoints"]["retention"]["keepLast"], 20);
    assert_eq!(spec["goal"]["afterFailure"], "Wait");
    assert_eq!(validate(resource::<Machine>(), &document, None), []);
    // What the schema fills in is what the type itself would.
    let typed: Machine = serde_json::from_value(document.clone()).unwrap();
    assert_eq!(serde_json::to_value(&typed.spec).unwrap(), document["spec"]);
}

#[test]
fn wrong_machines_are_refused_with_field_and_remedy() {
    let with = |more: Value| {
        let mut spec = json!({ "from": { "image": "micro" }, "goal": { "prompt": "work" } });
        patch::merge(&mut spec, &more);
        spec
    };
    check(json!({ "from": { "image": "a" } }), &["spec.goal: Required value"]);
    check(json!({ "goal": { "prompt": "x" } }), &["spec.from: Required value: name a checkpoint, machine or image"]);
    check(with(json!({ "from": { "checkpoint": "a" } })), &["exactly one of checkpoint, machine and image"]);
    check(
        with(json!({ "operatingMode": "Paused" })),
        &["spec.operatingMode: Unsupported value: \"Paused\": supported values: \"Running\", \"Suspended\""],
    );
    check(
        with(json!({ "resources": { "cpu": 2 } })),
        &["spec.resources.cpu in body must be of type string: \"integer\"; put it in quotes"],
    );
    check(
        with(json!({ "resources": { "memory": "4 GB" } })),
        &["spec.resources.memory: Invalid value: \"4 GB\": `4 GB` is not an amount of bytes; write for example `4Gi`"],
    );
    check(
        with(json!({ "checkpoints": { "interval": "30s" } })),
        &["spec.checkpoints.interval: Invalid value: \"30s\": must be at least 1m; leave it out for none"],
    );
    check(with(json!({ "resources": { "memory": "1Mi" } })), &["spec.resources.memory: Invalid value: \"1Mi\": must be at least 64Mi"]);
    check(
        with(json!({ "goal": { "verify": { "command": ["a"], "timeout": "soon" } } })),
        &["spec.goal.verify.timeout: Invalid value: \"soon\": `soon` is not a duration"],
    );
    check(with(json!({ "goal": { "after": ["m"] } })), &["spec.goal.after[0]: Invalid value: \"m\": a Machine cannot wait for itself"]);
    check(with(json!({ "goal": { "after": ["a", "b", "a"] } })), &["spec.goal.after[2]: Duplicate value: \"a\""]);
    check(with(json!({ "goal": { "after": ["a", 1] } })), &["spec.goal.after[1]: Invalid value: \"integer\""]);
    check(with(json!({ "agent": { "type": "Command" } })), &["spec.agent.command: Required value"]);
    check(
        with(json!({ "checkpoints": { "retention": { "keepLast": -1 } } })),
        &["spec.checkpoints.retention.keepLast in body should be greater than or equal to 0"],
    );
    check(
        with(json!({ "budget": { "limits": { "money": { "amount": "1", "currency": "EUR" } } } })),
        &["Unsupported value: \"EUR\": supported values: \"USD\""],
    );
    check(
        with(json!({ "budget": { "limits": { "money": { "amount": "-1" } } } })),
        &["spec.budget.limits.money.amount: Invalid value: \"-1\""],
    );
    check(with(json!({ "source": {} })), &["exactly one of git and directory"]);
}

#[test]
fn agents_take_what_their_type_can_use() {
    let agent = |agent: Value| json!({ "from": { "image": "a" }, "goal": { "prompt": "p" }, "agent": agent });
    check(agent(json!({ "type": "Command", "command": ["true"] })), &[]);
    check(agent(json!({ "maxTurns": 3, "command": [] })), &[]);
    check(
        agent(json!({ "type": "Command", "maxTurns": 3, "command": ["true"] })),
        &["spec.agent.maxTurns: Forbidden: type Command has no turns; remove it"],
    );
    check(agent(json!({ "type": "QwenCode", "model": "qwen3-coder-plus", "maxTurns": 3 })), &[]);
    check(agent(json!({ "type": "QwenCode" })), &["spec.agent.model: Required value: types QwenCode and Aider have no default"]);
    check(
        agent(json!({ "type": "Aider", "model": "gpt-4o", "maxTurns": 3 })),
        &["spec.agent.maxTurns: Forbidden: type Aider cannot count turns; set apiCalls in spec.budget.limits instead"],
    );
    check(
        agent(json!({ "command": ["true"] })),
        &["spec.agent.command: Forbidden: only type Command takes one; use spec.agent.args for further arguments"],
    );
    let verify = json!({ "from": { "image": "a" }, "goal": { "prompt": "p", "verify": { "command": [] } } });
    check(verify, &["spec.goal.verify.command: Required value: give the program and its arguments as a list"]);
}

#[test]
fn a_machines_beginning_cannot_change_and_the_rest_can() {
    let spec = |more: Value| {
        let mut whole = json!({ "from": { "image": "a" }, "goal": { "prompt": "p" } });
        whole.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        whole
    };
    let refused = |more: Value| errors_of::<Machine>(spec(more), Some(spec(json!({}))));
    for (field, value) in [
        ("from", json!({ "image": "b" })),
        ("goal", json!({ "prompt": "q" })),
        ("agent", json!({ "model": "other" })),
        ("source", json!({ "git": "https://git.example/a" })),
        ("hub", json!("other")),
    ] {
        let texts = [format!("spec.{field}: Forbidden: is immutable; create a new Machine instead")];
        assert_eq!(refused(json!({ field: value })), texts);
        // What was there may not go either.
        if !["from", "goal"].contains(&field) {
            assert_eq!(errors_of::<Machine>(spec(json!({})), Some(spec(json!({ field: value })))), texts);
        }
    }
    let free = json!({ "operatingMode": "Suspended", "budget": { "limits": { "apiCalls": 5 } }, "checkpoints": { "retention": { "keepLast": 1 } }, "ttlAfterFinished": "1h" });
    assert_eq!(refused(free), Vec::<String>::new());
    // What was left out and is now spelled out is no change.
    assert_eq!(
        refused(json!({ "goal": { "prompt": "p", "afterFailure": "Wait" }, "agent": { "type": "ClaudeCode" } })),
        Vec::<String>::new()
    );
}

#[test]
fn checkpoints_capture_or_import_and_never_change_which() {
    let check = |spec: Value, expected: &[&str]| agree(&spec, errors_of::<Checkpoint>(spec.clone(), None), expected);
    check(json!({ "machine": "m" }), &[]);
    check(json!({}), &["spec: Invalid value: exactly one of machine and import must be given"]);
    check(json!({ "machine": "m", "import": { "image": "i" } }), &["exactly one of machine and import"]);
    let changed = |spec: Value| errors_of::<Checkpoint>(spec, Some(json!({ "machine": "m" })));
    agree(
        &json!("changed"),
        changed(json!({ "machine": "n", "trigger": "Final" })),
        &["spec.machine: Forbidden: is immutable; create a new Checkpoint instead", "spec.trigger: Forbidden"],
    );
    assert_eq!(changed(json!({ "machine": "m", "keep": "Forever", "description": "before the release" })), Vec::<String>::new());
}

#[test]
fn hubs_name_their_infrastructure_providers_and_images() {
    let check = |spec: Value, expected: &[&str]| agree(&spec, errors_of::<Hub>(spec.clone(), None), expected);
    let lab = |more: Value| {
        let mut spec = json!({ "infrastructure": { "lab": {} } });
        patch::merge(&mut spec, &more);
        spec
    };
    let zfs = json!({ "storage": "local-zfs", "dataset": "rpool/data", "keep": "rpool/autovibe" });
    let proxmox =
        |from: u32| json!({ "endpoint": "https://pve1:8006", "tokenSecretRef": { "name": "pve" }, "vmids": { "from": from, "to": 299 } });
    let gateway = json!({ "url": "http://10.0.0.1:8081" });
    check(lab(json!({})), &[]);
    check(json!({ "infrastructure": { "proxmox": proxmox(200), "zfs": zfs }, "gateway": gateway }), &[]);
    check(
        json!({ "infrastructure": {} }),
        &["spec.infrastructure: Invalid value: give either proxmox and one of zfs and templates, or lab: {}, alone or with templates"],
    );
    check(lab(json!({ "infrastructure": { "templates": { "storage": "tank" } }, "images": [{ "name": "a", "template": 900 }] })), &[]);
    check(lab(json!({ "infrastructure": { "zfs": zfs } })), &["spec.infrastructure: Invalid value: give either"]);
    check(
        json!({ "infrastructure": { "proxmox": proxmox(200), "zfs": zfs } }),
        &["spec.gateway: Required value: give the URL at which guests reach this hub's gateway"],
    );
    check(
        json!({ "infrastructure": { "proxmox": proxmox(300), "zfs": zfs }, "gateway": gateway }),
        &["spec.infrastructure.proxmox.vmids: Invalid value: `from` must not be above `to`"],
    );
    let templates = |more: Value| {
        let mut spec =
            json!({ "infrastructure": { "proxmox": proxmox(200), "templates": { "storage": "local-lvm" } }, "gateway": gateway });
        patch::merge(&mut spec, &more);
        spec
    };
    check(templates(json!({ "images": [{ "name": "a", "template": 9000 }] })), &[]);
    check(templates(json!({ "infrastructure": { "zfs": zfs } })), &["spec.infrastructure: Invalid value: give either"]);
    check(
        templates(json!({ "infrastructure": { "nodes": [{ "name": "pve1" }] } })),
        &["spec.infrastructure.nodes: Forbidden: with templates a hub has one node; remove nodes and name it in proxmox.node"],
    );
    check(
        templates(json!({ "images": [{ "name": "a", "file": "a.raw" }, { "name": "b", "dataset": "rpool/b@c" }] })),
        &["spec.images[0].file: Forbidden: cannot be imported", "spec.images[1].dataset: Forbidden: this hub has no zfs"],
    );
    check(lab(json!({ "images": [{ "name": "a", "template": 9000 }] })), &["spec.images[0].template: Forbidden: is for a hub with"]);
    let several = |nodes: Value, more: Value| {
        let mut spec = json!({ "infrastructure": { "proxmox": proxmox(200), "zfs": zfs, "nodes": nodes }, "gateway": gateway });
        patch::merge(&mut spec, &more);
        spec
    };
    let nodes = json!([{ "name": "pve1" }, { "name": "pve2", "runner": { "socket": "/run/zfs" }, "maxMachines": 3, "memory": "64Gi" }]);
    check(several(nodes.clone(), json!({})), &[]);
    check(
        several(nodes.clone(), json!({ "infrastructure": { "proxmox": { "node": "pve1" } } })),
        &["spec.infrastructure.nodes: Forbidden: names the nodes already; remove proxmox.node"],
    );
    check(
        several(nodes.clone(), json!({ "infrastructure": { "zfs": { "runner": { "socket": "/run/zfs" } } } })),
        &["spec.infrastructure.nodes: Forbidden: says for each node how zfs is run there; remove zfs.runner"],
    );
    check(
        lab(json!({ "infrastructure": { "nodes": nodes } })),
        &["spec.infrastructure.nodes: Forbidden: the lab has one node; remove nodes"],
    );
    check(several(json!([{ "name": "a" }, { "name": "a" }]), json!({})), &["spec.infrastructure.nodes[1]: Duplicate value"]);
    let provider = |provider: Value| lab(json!({ "providers": [provider] }));
    check(provider(json!({ "name": "a", "models": ["*"] })), &["spec.providers[0].apiKeySecretRef: Required value: type Anthropic"]);
    check(
        provider(json!({ "name": "a", "type": "OpenAI", "models": ["*"] })),
        &["spec.providers[0].apiKeySecretRef: Required value: type OpenAI needs a Secret with key apiKey, unless endpoint names"],
    );
    check(provider(json!({ "name": "a", "type": "OpenAI", "endpoint": "http://10.0.0.7:8000/v1", "models": ["*"] })), &[]);
    check(provider(json!({ "name": "a", "type": "Replay", "models": ["*"] })), &["spec.providers[0].replay: Required value"]);
    check(provider(json!({ "name": "a", "type": "Replay", "replay": { "file": "f" } })), &["spec.providers[0].models: Required value"]);
    check(
        lab(json!({ "images": [{ "name": "a" }] })),
        &["spec.images[0]: Invalid value: exactly one of file, dataset and template must be given"],
    );
    check(
        lab(json!({ "images": [{ "name": "a", "file": "f" }, { "name": "a", "dataset": "rpool/a" }] })),
        &["spec.images[1]: Duplicate value: {\"name\":\"a\"}"],
    );
}

#[test]
fn unknown_fields_are_found_with_their_paths() {
    let mut document = machine(json!({ "bogus": 1, "goal": { "prompt": "x", "deeper": {} } }));
    document["metadata"]["foo"] = 1.into();
    document["extra"] = true.into();
    let mut unknown = prune(resource::<Machine>(), &mut document);
    unknown.sort();
    assert_eq!(unknown, ["extra", "metadata.foo", "spec.bogus", "spec.goal.deeper"]);
    assert_eq!(document, machine(json!({ "goal": { "prompt": "x" } })));
    let mut hub = json!({ "spec": { "images": [{ "name": "a", "size": 1 }] } });
    assert_eq!(prune(named("autovibe.dev", "hubs").unwrap(), &mut hub), ["spec.images[0].size"]);
    // Maps have no unknown keys.
    let mut secret = json!({ "data": { "any": "eA==" }, "metadata": { "labels": { "any": "x" } } });
    assert_eq!(prune(named("", "secrets").unwrap(), &mut secret), Vec::<String>::new());
}

#[test]
fn nulls_say_no_more_than_absence() {
    let mut document =
        machine(json!({ "from": { "image": "a", "checkpoint": null }, "goal": { "prompt": "x" }, "agent": null, "hub": null }));
    document["metadata"]["creationTimestamp"] = Value::Null;
    default(resource::<Machine>(), &mut document);
    assert_eq!(document["spec"]["agent"]["type"], "ClaudeCode");
    assert!(document["spec"].get("hub").is_none());
    assert_eq!(validate(resource::<Machine>(), &document, None), []);
}

#[test]
fn names_are_judged_as_upstream_does() {
    use super::names::{dns_label, dns_subdomain};
    for good in ["a", "web-1", "0", &"a".repeat(63)] {
        assert_eq!(dns_label(good), None, "{good}");
    }
    for bad in ["", "Web", "a.b", "-a", "a-", "a_b", "ä", &"a".repeat(64)] {
        assert!(dns_label(bad).is_some(), "{bad}");
    }
    assert_eq!(dns_subdomain("a.b-c.d"), None);
    for bad in ["", "a..b", ".a", "a.", "A.b", &"a".repeat(254)] {
        assert!(dns_subdomain(bad).is_some(), "{bad}");
    }
    let check = |field: &str, value: Value| {
        let mut document = machine(json!({ "from": { "image": "a" }, "goal": { "prompt": "x" } }));
        document["metadata"][field] = value;
        validate(resource::<Machine>(), &document, None).len()
    };
    assert_eq!(check("labels", json!({ "a.b/c": "Ok_1", "plain": "" })), 0);
    assert_eq!(check("labels", json!({ "a b": "x" })), 1);
    assert_eq!(check("labels", json!({ "a": "not ok" })), 1);
    assert_eq!(check("labels", json!({ "a": 1 })), 1);
    assert_eq!(check("annotations", json!({ "Ex.io/Some": "any thing" })), 0);
    assert_eq!(check("finalizers", json!(["a.b/c", "/x"])), 1);
    assert_eq!(check("ownerReferences", json!([{ "apiVersion": "v1", "kind": "A", "name": "a", "uid": "" }])), 1);
}

#[test]
fn secrets_take_plain_text_and_refuse_bad_keys() {
    let secrets = named("", "secrets").unwrap();
    let mut secret =
        json!({ "metadata": { "name": "s", "namespace": "a" }, "data": { "k": "b2xk", "j": "eA==" }, "stringData": { "k": "new" } });
    default(secrets, &mut secret);
    assert_eq!(secret["data"], json!({ "k": "bmV3", "j": "eA==" }));
    assert_eq!((&secret["type"], secret.get("stringData")), (&json!("Opaque"), None));
    assert_eq!(validate(secrets, &secret, None), []);
    let mut wrong = json!({ "metadata": { "name": "s" }, "data": "x", "stringData": { "k": 1 } });
    default(secrets, &mut wrong);
    let fields: Vec<String> = validate(secrets, &wrong, None).into_iter().map(|error| error.field).collect();
    assert_eq!(fields, ["data", "stringData.k"]);
    secret["data"] = json!({ "a/b": "eA==" });
    assert!(validate(secrets, &secret, None)[0].to_string().starts_with("data[a/b]: Invalid value"));
    secret["data"] = json!({ "a": "not base64!" });
    assert!(validate(secrets, &secret, None)[0].to_string().contains("must be of type byte"));
    let frozen = json!({ "metadata": { "name": "s" }, "type": "Opaque", "immutable": true, "data": { "a": "eA==" } });
    let mut changed = frozen.clone();
    changed["data"]["a"] = "eQ==".into();
    assert!(validate(secrets, &changed, Some(&frozen))[0].to_string().starts_with("data: Forbidden: field is immutable"));
}

#[test]
fn json_patch_has_kubernetes_differences() {
    let patched = |document: Value, patch: Value| {
        let mut target = document;
        patch::json(&mut target, &patch).map(|()| target).map_err(|e| e.to_string())
    };
    // What kube-rs' finalizer helper sends when there are none.
    let add = json!([{ "op": "test", "path": "/metadata/finalizers", "value": null }, { "op": "add", "path": "/metadata/finalizers", "value": ["a/b"] }]);
    assert_eq!(patched(json!({ "metadata": {} }), add).unwrap(), json!({ "metadata": { "finalizers": ["a/b"] } }));
    assert_eq!(patched(json!({ "l": [1, 2] }), json!([{ "op": "add", "path": "/l/-1", "value": 3 }])).unwrap(), json!({ "l": [1, 2, 3] }));
    assert_eq!(patched(json!({ "l": [1, 2] }), json!([{ "op": "remove", "path": "/l/-1" }])).unwrap(), json!({ "l": [1] }));
    assert_eq!(patched(json!({ "l": [1, 2] }), json!([{ "op": "add", "path": "/l/-", "value": 3 }])).unwrap(), json!({ "l": [1, 2, 3] }));
    assert!(patched(json!({ "n": 1 }), json!([{ "op": "test", "path": "/n", "value": 1.0 }])).is_ok());
    assert!(patched(json!({ "n": 1 }), json!([{ "op": "test", "path": "/n", "value": 2 }])).is_err());
    assert!(patched(json!({}), json!([{ "op": "remove", "path": "/n" }])).is_err());
    assert!(patched(json!({}), json!([{ "op": "replace", "path": "/n", "value": 1 }])).is_err());
    assert!(patched(json!({}), json!([{ "op": "add", "path": "/a/b", "value": 1 }])).is_err());
    assert_eq!(
        patched(json!({ "a/b": { "~": 1 } }), json!([{ "op": "move", "from": "/a~1b/~0", "path": "/x" }])).unwrap(),
        json!({ "a/b": {}, "x": 1 })
    );
    assert_eq!(patched(json!({ "a": [1] }), json!([{ "op": "copy", "from": "/a/0", "path": "/a/0" }])).unwrap(), json!({ "a": [1, 1] }));
    assert!(patched(json!({ "a": [1] }), json!([{ "op": "add", "path": "/a/5", "value": 1 }])).is_err());
    assert!(patched(json!({}), json!({ "op": "add" })).unwrap_err().contains("error decoding patch"));
    assert!(patched(json!({}), json!([{ "op": "frobnicate", "path": "" }])).unwrap_err().contains("frobnicate"));
}

#[test]
fn merge_patches_delete_by_null_and_replace_lists() {
    let mut document = json!({ "a": { "b": 1, "c": 2 }, "l": [1, 2] });
    patch::merge(&mut document, &json!({ "a": { "b": null, "d": { "e": null, "f": 1 } }, "l": [3] }));
    assert_eq!(document, json!({ "a": { "c": 2, "d": { "f": 1 } }, "l": [3] }));
}

#[test]
fn strategic_patches_merge_the_lists_that_have_a_key() {
    let mut document = json!({ "metadata": { "finalizers": ["a"], "ownerReferences": [{ "uid": "1", "name": "x" }], "labels": { "k": "v" } }, "data": { "a": "1" } });
    let change = json!({
        "metadata": { "finalizers": ["b"], "$setElementOrder/finalizers": ["a", "b"], "ownerReferences": [{ "uid": "1", "name": "y" }, { "uid": "2" }], "labels": { "k": null, "j": "w" } },
        "data": { "b": "2" }, "list": [1],
    });
    patch::strategic(&mut document, &change).unwrap();
    assert_eq!(
        document,
        json!({
            "metadata": { "finalizers": ["a", "b"], "ownerReferences": [{ "uid": "1", "name": "y" }, { "uid": "2" }], "labels": { "j": "w" } },
            "data": { "a": "1", "b": "2" }, "list": [1],
        })
    );
    patch::strategic(&mut document, &json!({ "metadata": { "$deleteFromPrimitiveList/finalizers": ["a"], "ownerReferences": [{ "uid": "1", "$patch": "delete" }] }, "data": { "$patch": "replace", "c": "3" } })).unwrap();
    assert_eq!(document["metadata"]["finalizers"], json!(["b"]));
    assert_eq!(document["metadata"]["ownerReferences"], json!([{ "uid": "2" }]));
    assert_eq!(document["data"], json!({ "c": "3" }));
}

#[test]
fn what_a_machine_may_reach_is_named_exactly() {
    let network = |egress: Value| json!({ "from": { "image": "a" }, "goal": { "prompt": "x" }, "network": { "egress": egress } });
    check(network(json!([{ "host": "pypi.org" }, { "host": "*.example.org", "ports": [443, 8443] }])), &[]);
    check(network(json!([{ "host": "10.0.0.1" }])), &["spec.network.egress[0].host: Invalid value: \"10.0.0.1\": must be a name"]);
    check(
        network(json!([{ "host": "a.org" }, { "host": "*.org" }])),
        &["spec.network.egress[1].host: Invalid value: \"*.org\": would be a whole top-level"],
    );
    check(network(json!([{ "host": "https://a.org/" }])), &["without scheme, port or path"]);
    check(network(json!([{ "host": "a.org" }, { "host": "a.org", "ports": [80] }])), &["spec.network.egress[1]: Duplicate value"]);
    check(network(json!([{ "host": "a.org", "ports": [] }])), &["spec.network.egress[0].ports"]);
    check(network(json!([{ "host": "a.org", "ports": [0] }])), &["spec.network.egress[0].ports[0]"]);
    let many: Vec<Value> = (0..65).map(|n| json!({ "host": format!("h{n}.org") })).collect();
    check(network(many.into()), &["spec.network.egress: Too many"]);
    // It may change while the Machine lives.
    let (none, one) = (network(json!([])), network(json!([{ "host": "a.org" }])));
    agree(&one, errors_of::<Machine>(one.clone(), Some(none)), &[]);
}

#[test]
fn a_hub_manages_the_firewall_only_where_its_gateway_has_an_address() {
    let hub = |url: &str, firewall: Value, networks: Value| {
        json!({
            "infrastructure": {
                "proxmox": {
                    "endpoint": "https://p:8006", "tokenSecretRef": { "name": "p" }, "vmids": { "from": 100, "to": 200 }, "firewall": firewall,
                },
                "zfs": { "storage": "s", "dataset": "rpool/data", "keep": "rpool/keep" },
            },
            "gateway": { "url": url },
            "egress": { "networks": networks },
        })
    };
    let check = |spec: Value, expected: &[&str]| agree(&spec, errors_of::<Hub>(spec.clone(), None), expected);
    check(hub("http://gateway.lan:8081", json!({}), json!([])), &[]);
    for url in ["http://10.0.0.1:8081", "https://10.0.0.1", "http://[fd00::1]:8081/", "http://[fd00::1]"] {
        check(hub(url, json!({ "mode": "Managed", "guestNetworks": ["10.0.0.0/24"] }), json!(["10.1.0.0/16"])), &[]);
    }
    check(hub("http://gateway.lan:8081", json!({ "mode": "Managed" }), json!([])), &["spec.gateway.url: Invalid value"]);
    check(
        hub("http://10.0.0.1", json!({ "guestNetworks": ["10.0.0.0/24"] }), json!([])),
        &["guestNetworks: Forbidden: is for mode Managed"],
    );
    check(hub("http://10.0.0.1", json!({ "mode": "Managed", "guestNetworks": ["lan"] }), json!([])), &["guestNetworks[0]: Invalid value"]);
    check(
        hub("http://10.0.0.1", json!({}), json!(["10.0.0.1/8"])),
        &["spec.egress.networks[0]: Invalid value: \"10.0.0.1/8\": must be a network"],
    );
}
