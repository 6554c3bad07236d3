//! The picture of a lineage, and that nothing given is lost in it.

use super::graph::{Graph, Id, Way};
use super::tree::{forest, render};
use super::{find, picture, svg};
use crate::api::{Checkpoint, Machine};
use serde_json::{Value, json};
use std::collections::BTreeSet;

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
        checkpoint(
            "add-authentication-0003",
            json!({ "machine": "add-authentication", "trigger": "BetweenMessages" }),
            json!({ "parent": "shop-a", "reasons": [
                { "trigger": "BetweenMessages", "message": "" }, { "trigger": "Breakpoint", "message": "tests passed" },
                { "trigger": "Breakpoint", "message": "a commit was made" },
            ] }),
        ),
        checkpoint(
            "add-authentication-final",
            json!({ "machine": "add-authentication", "trigger": "Final" }),
            json!({ "parent": "add-authentication-0003", "verified": { "outcome": "Passed", "message": "" } }),
        ),
        checkpoint(
            "gone-final",
            json!({ "machine": "gone", "trigger": "Final" }),
            json!({ "parent": "add-authentication-final", "goal": "An old idea.", "verified": { "outcome": "Failed", "message": "" } }),
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
   │  kept: 1 BetweenMessages, 1 Breakpoint, 1 Final
   │  ⇒ checkpoint add-authentication-final  ✔ verified
   ├─ add-tests           Running     3m  $0.22   4 checkpoints  the agent works
   │  │  “Add end-to-end tests.”
   │  └─ later            Waiting         $0.00   0 checkpoints  waits for machine add-tests
   │        “Deploy.”
   ├─ gone                deleted                1 checkpoint
   │     “An old idea.”
   │     kept: 1 Final
   │     ⇒ checkpoint gone-final  ✘ its verification failed
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

fn names(ids: impl IntoIterator<Item = Id>) -> Vec<String> {
    ids.into_iter().map(|(_, name)| name).collect()
}

fn edges(graph: &Graph) -> BTreeSet<(&str, &str, Way, &str)> {
    graph.edges.iter().map(|edge| (edge.from.1.as_str(), edge.to.1.as_str(), edge.way, edge.label.as_str())).collect()
}

#[test]
fn the_graph_has_goals_on_its_edges_forks_and_what_is_gone() {
    let (machines, checkpoints) = shop();
    let graph = Graph::new(&machines, &checkpoints);
    let expect = [
        ("checkpoint/shop-a", "machine/add-authentication", Way::Led, "Add authentication:\nsign-up, log-in."),
        ("machine/add-authentication", "checkpoint/add-authentication-0003", Way::Led, ""),
        ("checkpoint/add-authentication-0003", "checkpoint/add-authentication-final", Way::Led, ""),
        ("checkpoint/add-authentication-0003", "machine/try", Way::Led, "fork: Try it."),
        ("checkpoint/add-authentication-final", "machine/add-tests", Way::Led, "Add end-to-end tests."),
        ("checkpoint/add-authentication-final", "machine/gone", Way::Led, "An old idea."),
        ("machine/gone", "checkpoint/gone-final", Way::Led, ""),
        ("machine/add-tests", "machine/later", Way::Waits, "Deploy."),
    ];
    assert_eq!(edges(&graph), BTreeSet::from(expect));
    assert_eq!(graph.nodes.len(), 9);

    let focus = find(&graph, "shop", "try").unwrap();
    let related = names(graph.related(&focus));
    assert_eq!(related, ["checkpoint/add-authentication-0003", "checkpoint/shop-a", "machine/add-authentication", "machine/try"]);
    let focus = find(&graph, "shop", "ckpt/add-authentication-final").unwrap();
    let related = names(graph.related(&focus));
    assert!(!related.contains(&"machine/try".to_owned()) && related.contains(&"machine/later".to_owned()), "{related:?}");
    let error = find(&graph, "shop", "machine/shop-a").unwrap_err().to_string();
    assert!(error.contains("machine/shop-a") && error.contains("autovibe lineage -n shop"), "{error}");
}

/// Machine `m` with a row of checkpoints, put back to the third of ten, and gone on from there.
fn put_back() -> (Vec<Machine>, Vec<Checkpoint>) {
    let restored = json!({ "checkpoint": "m-0003", "count": 2, "firstDisk": 1 });
    let machines = vec![machine(
        "m",
        json!({ "from": { "image": "debian" }, "goal": { "prompt": "Say \"a\\b\" & <c>\u{1b}[31m" } }),
        json!({ "phase": "Running", "restored": restored }),
    )];
    let plain = |n: u32, parent: Option<u32>| {
        let parent = parent.map(|n| format!("m-{n:04}"));
        let spec = json!({ "machine": "m", "trigger": "BetweenMessages" });
        checkpoint(&format!("m-{n:04}"), spec, json!({ "phase": "Ready", "parent": parent }))
    };
    let mut checkpoints: Vec<Checkpoint> = (1..=10).map(|n| plain(n, (n > 1).then_some(n - 1))).collect();
    checkpoints.push(checkpoint(
        "m-before-restore-2",
        json!({ "machine": "m", "trigger": "Restore" }),
        json!({ "phase": "Ready", "parent": "m-0010" }),
    ));
    checkpoints.push(plain(11, Some(3)));
    (machines, checkpoints)
}

#[test]
fn a_row_is_drawn_as_one_and_a_machine_that_was_put_back_leads_back() {
    let (machines, checkpoints) = put_back();
    let whole = Graph::new(&machines, &checkpoints);
    assert!(edges(&whole).contains(&("checkpoint/m-before-restore-2", "checkpoint/m-0003", Way::PutBack, "put back (2 times)")));
    let short = whole.clone().in_short();
    // 1, 2 and the fork at 3; 4 to 10 as one; what it was before; and what came since.
    let expect = [
        ("machine/m", "checkpoint/m-0001", Way::Led, ""),
        ("checkpoint/m-0001", "checkpoint/m-0002", Way::Led, ""),
        ("checkpoint/m-0002", "checkpoint/m-0003", Way::Led, ""),
        ("checkpoint/m-0003", "checkpoint/m-0004", Way::Led, ""),
        ("checkpoint/m-0003", "checkpoint/m-0011", Way::Led, ""),
        ("checkpoint/m-0004", "checkpoint/m-before-restore-2", Way::Led, ""),
        ("checkpoint/m-before-restore-2", "checkpoint/m-0003", Way::PutBack, "put back (2 times)"),
    ];
    assert_eq!(edges(&short), BTreeSet::from(expect));
    let row = &short.nodes[&("shop".to_owned(), "checkpoint/m-0004".to_owned())];
    assert_eq!(row.lines, ["m-0004 … m-0010", "7 checkpoints between messages"]);
    // What came of the state before is not what came of the state after.
    let focus = find(&whole, "shop", "checkpoint/m-0011").unwrap();
    let related = names(whole.related(&focus));
    assert_eq!(related, ["checkpoint/m-0001", "checkpoint/m-0002", "checkpoint/m-0003", "checkpoint/m-0011", "machine/m"]);
}

#[test]
fn pictures_hold_each_node_and_edge_and_nothing_that_others_wrote_breaks_them() {
    let (machines, checkpoints) = put_back();
    let graph = Graph::new(&machines, &checkpoints);
    let dot = picture::dot(&graph);
    assert!(dot.starts_with("digraph lineage {\n") && dot.ends_with("}\n"), "{dot}");
    assert_eq!(dot.matches(" -> ").count(), graph.edges.len());
    assert_eq!(dot.matches("shape=box").count(), 1);
    assert!(dot.contains(r#"from image debian\nSay \"a\\b\" & <c>[31m", style"#), "{dot}");
    assert!(dot.contains(r#""shop/checkpoint/m-before-restore-2" -> "shop/checkpoint/m-0003" [label="put back (2 times)", style=dashed"#));
    let svg = svg::svg(&graph);
    assert_eq!(svg.matches("<g><rect ").count(), graph.nodes.len(), "{svg}");
    assert_eq!(svg.matches("<path ").count(), graph.edges.len());
    assert!(svg.contains("Say &quot;a\\b&quot; &amp; &lt;c&gt;[31m") && !svg.contains('\u{1b}'), "{svg}");
    assert!(svg.contains("before it was put back"));
}

#[test]
fn no_lineage_is_too_large_or_too_strange_to_be_drawn() {
    crate::random::seed(7);
    for size in [0_u32, 1, 2, 5, 30, 120, 3000] {
        let (mut machines, mut checkpoints) = (Vec::new(), Vec::new());
        for n in 0..size {
            // Any parent, also ones that are gone, itself, and rings.
            let parent = crate::random::draw::<u32>() % (size + 2);
            let name = format!("c{}", n / 4);
            let status = json!({ "phase": "Ready", "parent": format!("s{parent}") });
            checkpoints.push(checkpoint(&format!("s{n}"), json!({ "machine": name, "trigger": "BetweenMessages" }), status));
            if n % 8 == 0 {
                let status = json!({ "spawnedFrom": format!("s{parent}"), "restored": { "checkpoint": format!("s{n}"), "count": 1, "firstDisk": 0 } });
                machines.push(machine(&name, json!({ "goal": { "prompt": "x" } }), status));
            }
        }
        let graph = Graph::new(&machines, &checkpoints).in_short();
        assert_eq!(svg::svg(&graph).matches("<g><rect ").count(), graph.nodes.len());
        assert!(!picture::dot(&graph).is_empty());
    }
}
