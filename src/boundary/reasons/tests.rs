use super::*;
use serde_json::json;

const SCRIPT: &str = "/home/agent/demo/hello.py";

/// The tools of an answer, and what holds at the request after it.
type Turn = (&'static [&'static str], &'static [Trigger]);

fn call(name: &str) -> Value {
    let input = match name {
        "Bash" | "run_shell_command" => json!({ "command": "python3 hello.py" }),
        _ => json!({ "file_path": SCRIPT, "content": "print(\"hello\")\n", "old_string": "hello", "new_string": "bye" }),
    };
    json!({ "type": "tool_use", "id": "", "name": name, "input": input })
}

/// The boundaries of the recorded runs, turn by turn: what an answer called, and what holds at the request after it.
#[test]
fn the_recorded_runs_have_their_boundaries() {
    use Trigger::{AfterFileOperations, BetweenMessages};
    let plain: &'static [Trigger] = &[BetweenMessages];
    let significant: &'static [Trigger] = &[BetweenMessages, AfterFileOperations];
    let runs: &[(&str, &[Turn])] = &[
        ("claude-code-std", &[(&["Write"], plain), (&["Bash"], plain), (&["Edit"], plain), (&["Bash"], plain)]),
        ("claude-code-parallel-tools", &[(&["Bash", "Bash", "Write", "Write"], significant)]),
        ("claude-code-subagents", &[(&["Agent", "Agent"], plain)]),
        ("a sub-agent of it", &[(&["Bash"], plain)]),
        ("claude-code-control-protocol", &[(&["Write"], plain), (&["Bash"], plain)]),
        ("claude-code-hooks-http", &[(&["Write"], plain), (&["Bash"], plain)]),
        ("claude-code-tool-runs-before-message-stop", &[(&["Write"], plain), (&["Bash"], plain)]),
        ("qwen-code-std", &[(&["write_file"], plain), (&["run_shell_command"], plain), (&["edit"], plain)]),
    ];
    for (run, turns) in runs {
        for (names, expected) in *turns {
            let mut calls: Vec<Value> = names.iter().map(|name| call(name)).collect();
            let mut results = Vec::new();
            for (n, call) in calls.iter_mut().enumerate() {
                call["id"] = n.into();
                results.push(json!({ "type": "tool_result", "tool_use_id": n, "content": "done" }));
            }
            assert_eq!(in_answer(&context(), &calls, Some("tool_use")), [], "{run}: nothing of it is risky");
            let messages = [json!({ "role": "assistant", "content": calls }), json!({ "role": "user", "content": results })];
            let reasons = at_request(&Boundary::Results(vec!["0".into()]), &messages);
            let found: Vec<Trigger> = reasons.iter().map(|reason| reason.trigger).collect();
            assert_eq!(found, *expected, "{run} after {names:?}");
        }
    }
    let first = at_request(&Boundary::Prompt, &[json!({ "role": "user", "content": "GO-MAIN write a small program" })]);
    assert_eq!(first.iter().map(|reason| reason.trigger).collect::<Vec<_>>(), plain);
    let end = in_answer(&context(), [], Some("end_turn"));
    assert_eq!(end, [Reason { trigger: Trigger::Breakpoint, message: "the agent ended its turn".into() }]);
    let sub = Context { part: Part::Sub("a".into()), ..context() };
    assert_eq!(in_answer(&sub, [], Some("end_turn")), [], "the main conversation goes on");
}

fn context() -> Context {
    Context { session: "s".into(), part: Part::Main }
}

#[test]
fn a_reason_shows_no_more_than_it_must() {
    let input = json!({ "file_path": "/w/a\u{1b}[2J/Cargo.toml\n" , "content": "" });
    let calls: Vec<Value> = (0..9)
        .map(|n| json!({ "type": "tool_use", "id": n, "name": "Write", "input": { "file_path": format!("/w/\u{1b}{n}{}", "x".repeat(500)) } }))
        .chain([json!({ "type": "tool_use", "id": 9, "name": "evil\n", "input": input })])
        .collect();
    let results: Vec<Value> = (0..10).map(|n| json!({ "type": "tool_result", "tool_use_id": n, "content": "" })).collect();
    let messages = [json!({ "role": "assistant", "content": calls }), json!({ "role": "user", "content": results })];
    let reasons = at_request(&Boundary::Results(Vec::new()), &messages);
    assert_eq!(reasons[0].message, "after Write, another tool");
    assert!(reasons[1].message.len() < 300 && !reasons[1].message.contains('\u{1b}'), "{}", reasons[1].message);
}
