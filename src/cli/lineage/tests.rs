//! The picture of a lineage, and that nothing given is lost in it.

use super::tree::{forest, render};
use crate::api::{Checkpoint, Machine};
use serde_json::{Value, json};

fn machine(name: &str, spec: Value, status: Value) -> Machine {
    serde_json::from_value(json!({ "metadata": { "name": name, "namespace": "shop" }, "spec": spec, "status": status })).unwrap()
}

fn checkpoint(name: &str, spec: Value, status: Value) -> Checkpoint {
    serde_json::from_value(json!({ "metadata": { "name": name, "namespace": "shop" }, "spec": spec, "status": status })).unwrap()
}

fn shop() -> (Vec<Machine>, Vec<Checkpoint>) {
    let machines = vec![
        machine(
            "add-authentication",
            json!({ "from": { "checkpoint": "shop-a" }, "goal": { "prompt": "Add authentication:\nsign-up, log-in.\n", "verify": { "command": ["npm", "test"] } } }),
            json!({
                "phase": "Succeeded", "spawnedFrom": "shop-a", "finalCheckpoint": "add-authentication-final", "checkpoints": 23,
                "usage": { "money": "1.37" }, "startedAt": "2026-01-01T00:00:00Z", "finishedAt": "2026-01-01T00:38:00Z", "terminationReason": "Completed",
                "conditions": [{ "type": "GoalAchieved", "status": "True", "reason": "Verified", "message": "", "lastTransitionTime": "2026-01-01T00:38:00Z" }],
            }),
        ),
        machine(
            "add-tests",
            json!({ "goal": { "after": ["add-authentication"], "prompt": "Add end-to-end tests." } }),
            json!({ "phase": "Running", "message": "the agent works", "spawnedFrom": "add-authentication-final", "checkpoints": 4, "usage": { "money": "0.22" }, "startedAt": "2026-01-01T00:57:00Z" }),
        ),
        machine(
            "later",
            json!({ "goal": { "after": ["add-tests"], "prompt": "Deploy." } }),
            json!({ "phase": "Waiting", "message": "waits for machine add-tests" }),
        ),
        machine(
            "try",
            json!({ "from": { "machine": { "name": "add-authentication" } }, "goal": { "prompt": "Try it." } }),
            json!({ "spawnedFrom": "add-authentication-0003", "phase": "Failed", "terminationReason": "Timeout" }),
        ),
    ];
    let checkpoints = vec![
        checkpoint(
            "shop-a",
            json!({ "import": { "image": "debian" } }),
            json!({ "phase": "Ready", "volumes": [{ "node": "n", "dataset": "d", "snapshot": "s", "guid": "1", "referenced": 13_314_398_618_u64 }] }),
        ),
        checkpoint("add-authentication-0003", json!({ "machine": "add-authentication" }), json!({ "parent": "shop-a" })),
        checkpoint(
            "add-authentication-final",
            json!({ "machine": "add-authentication", "trigger": "Final" }),
            json!({ "parent": "add-authentication-0003" }),
        ),
        checkpoint(
            "gone-final",
            json!({ "machine": "gone", "trigger": "Final" }),
            json!({ "parent": "add-authentication-final", "goal": "An old idea." }),
        ),
    ];
    (machines, checkpoints)
}

#[test]
fn the_picture() {
    let (machines, checkpoints) = shop();
    let text = render(&forest(&machines, &checkpoints, "2026-01-01T01:00:00Z".parse().unwrap()));
    let expect = "\
shop-a                    import                                    image debian, 12.4 GiB
└─ add-authentication     Succeeded  38m  $1.37  23 checkpoints  verify ✔ npm test
   │  “Add authentication:…”
   │  ⇒ checkpoint add-authentication-final
   ├─ add-tests           Running     3m  $0.22   4 checkpoints  the agent works
   │  │  “Add end-to-end tests.”
   │  └─ later            Waiting         $0.00   0 checkpoints  waits for machine add-tests
   │        “Deploy.”
   ├─ gone                deleted                1 checkpoint
   │     “An old idea.”
   │     ⇒ checkpoint gone-final
   └─ try                 Failed          $0.00   0 checkpoints  Timeout
         “Try it.”
         spawned from checkpoint add-authentication-0003
";
    let squeeze =
        |text: &str| text.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect::<Vec<_>>().join("\n");
    assert_eq!(squeeze(&text), squeeze(expect), "\n{text}");
    let rows: Vec<usize> = text.lines().filter_map(|line| line.find(" checkpoints  ").map(|at| line[..at].chars().count())).collect();
    assert!(rows.windows(2).all(|pair| pair[0] == pair[1]), "columns are aligned:\n{text}");
}

#[test]
fn nothing_is_lost_when_parents_are_gone_or_form_a_ring() {
    let (machines, _) = shop();
    let now = "2026-01-01T01:00:00Z".parse().unwrap();
    let text = render(&forest(&machines, &[], now));
    for machine in &machines {
        assert_eq!(text.matches(&format!(" {} ", machine.metadata.name.as_deref().unwrap())).count(), 1, "\n{text}");
    }
    assert!(text.contains("shop-a") && text.contains("gone"));
    let ring: Vec<Machine> = [("a", "b"), ("b", "a")]
        .map(|(name, after)| machine(name, json!({ "goal": { "after": [after], "prompt": "x" } }), json!({})))
        .into();
    let text = render(&forest(&ring, &[], now));
    assert!(text.starts_with('a') && text.contains("└─ b"), "\n{text}");
}
