//! The words of `explain`, as people read them.

use super::sentences;
use serde_json::{Value, json};

fn object<T: serde::de::DeserializeOwned>(name: &str, spec: &Value, status: &Value) -> T {
    serde_json::from_value(json!({ "metadata": { "name": name, "namespace": "shop" }, "spec": spec, "status": status })).unwrap()
}

fn now() -> jiff::Timestamp {
    "2026-01-01T01:00:00Z".parse().unwrap()
}

#[test]
fn a_running_machine() {
    let machine = object(
        "add-tests",
        &json!({ "goal": { "after": ["add-authentication"], "prompt": "Add end-to-end tests." }, "budget": { "name": "shop", "limits": { "money": { "amount": "5", "currency": "USD" } } } }),
        &json!({
            "phase": "Running", "vm": { "node": "pve2", "vmid": 20017 }, "spawnedFrom": "add-authentication-final", "lastCheckpoint": "add-tests-0004",
            "agent": { "launches": 2, "launchedAt": "2026-01-01T00:57:00Z" }, "usage": { "money": "0.22", "time": "3m", "apiCalls": 4 },
            "conditions": [{ "type": "BudgetAvailable", "status": "False", "reason": "NearLimit", "message": "little is left", "lastTransitionTime": "2026-01-01T00:38:00Z" }],
        }),
    );
    let last = object(
        "add-tests-0004",
        &json!({ "machine": "add-tests", "trigger": "BetweenMessages" }),
        &json!({ "phase": "Ready", "capturedAt": "2026-01-01T00:59:48Z", "quiescent": true, "took": "31ms" }),
    );
    let budget =
        object("shop", &json!({ "limits": { "money": { "amount": "200", "currency": "USD" } } }), &json!({ "usage": { "money": "61.2" } }));
    let hub = object("default", &json!({ "infrastructure": { "lab": {} } }), &json!({}));
    let expect = "\
Running on pve2 as VM 20017, from checkpoint add-authentication-final.
Goal: Add end-to-end tests.
Waiting for: nothing.
Agent ClaudeCode was launched 3m ago; it was resumed once.
Last checkpoint: add-tests-0004, 12s ago (BetweenMessages, quiescent, 31 ms).
Spent: $0.22 of $5.00, 3m of 2h, 4 of 1000 calls.
Approvals: a tool call that leaves the VM waits up to 10m for a person, then it is denied.
Network: its hub, and nothing else.
Budget shop: $61.20 of $200.00 spent.
BudgetAvailable is False (NearLimit): little is left";
    assert_eq!(sentences::machine(&machine, Some(&last), &[budget], Some(&hub), now()).join("\n"), expect);
}

#[test]
fn a_waiting_machine_says_for_what_and_whose_limits_hold() {
    let machine = object(
        "a",
        &json!({ "from": { "image": "debian" }, "goal": { "prompt": "Do it.\nWell." } }),
        &json!({ "phase": "Waiting", "message": "for image debian of hub default; it is there when `autovibe image build` has made it" }),
    );
    let text = sentences::machine(&machine, None, &[], None, now()).join("\n");
    let expect = "\
Waiting.
Goal: Do it.…
Waiting for image debian of hub default; it is there when `autovibe image build` has made it
No checkpoint of it yet.
Spent: $0.00, 0s, 0 calls. It names no budget: these limits are the defaults of its Hub.
Approvals: a tool call that leaves the VM waits up to 10m for a person, then it is denied.
Network: its hub, and nothing else.";
    assert_eq!(text, expect);
}

#[test]
fn checkpoints_budgets_and_hubs() {
    let checkpoint = object(
        "x-final",
        &json!({ "machine": "x", "trigger": "Final", "description": "release 1" }),
        &json!({ "phase": "Ready", "parent": "x-0007", "goal": "Ship it.", "capturedAt": "2026-01-01T00:00:00Z", "took": "1.25s",
                 "volumes": [{ "node": "n", "dataset": "rpool/keep/m-1-disk-0", "snapshot": "av-1", "guid": "1", "referenced": 1_610_612_736 }] }),
    );
    let expect = "\
Ready, of machine x: x-final, 60m ago (Final, 1.2 s).
Note: release 1
It came from checkpoint x-0007 by the goal “Ship it.”.
Disk: rpool/keep/m-1-disk-0@av-1 on n, 1.5 GiB.";
    assert_eq!(sentences::checkpoint(&checkpoint, now()).join("\n"), expect);
    let budget = object(
        "team",
        &json!({ "parentRef": { "name": "company" }, "limits": { "apiCalls": 10 } }),
        &json!({ "usage": { "money": "1", "apiCalls": 3 } }),
    );
    assert_eq!(sentences::budget(&budget).join("\n"), "Budget team: $1.00, without a limit spent, 3 of 10 calls; part of budget company.");
    let hub = object(
        "default",
        &json!({ "infrastructure": { "lab": {} }, "providers": [{ "name": "replay", "type": "Replay", "replay": { "file": "/c.yaml" }, "models": ["*"] }], "images": [{ "name": "debian", "file": "d.raw" }, { "name": "micro", "file": "m.raw" }] }),
        &json!({ "images": [{ "name": "debian", "message": "importing" }, { "name": "micro", "snapshot": "tank/micro@base", "message": "the file changed" }] }),
    );
    let expect = "\
Not looked at yet. It drives the lab beside this hub.
Provider replay (Replay) answers from the written conversation /c.yaml: no key, no real cost; models *.
Image debian importing.
Image micro is ready as tank/micro@base, but the file changed.";
    assert_eq!(sentences::hub(&hub).join("\n"), expect);
}
