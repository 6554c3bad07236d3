use super::*;
use serde_json::json;

/// A conversation whose newest answer calls these tools, with their results.
fn conversation(calls: &[(&str, Value, Value)]) -> Vec<Value> {
    let uses: Vec<Value> = calls
        .iter()
        .enumerate()
        .map(|(n, (name, input, _))| json!({ "type": "tool_use", "id": format!("t{n}"), "name": name, "input": input }))
        .collect();
    let results: Vec<Value> = calls
        .iter()
        .enumerate()
        .map(|(n, (.., result))| {
            let mut block = json!({ "type": "tool_result", "tool_use_id": format!("t{n}") });
            block.as_object_mut().unwrap().extend(result.as_object().unwrap().clone());
            block
        })
        .collect();
    let user = |content: Value| json!({ "role": "user", "content": content });
    vec![
        user("go".into()),
        json!({ "role": "assistant", "content": uses }),
        user(results.into()),
        json!({ "role": "system", "content": "x" }),
    ]
}

fn shell(command: &str, output: &str) -> (&'static str, Value, Value) {
    ("Bash", json!({ "command": command }), json!({ "content": output }))
}
fn file(name: &'static str, path: &str) -> (&'static str, Value, Value) {
    (name, json!({ "file_path": path, "old_string": "a", "new_string": "b", "content": "c" }), json!({ "content": "done" }))
}

#[test]
fn changes_of_files_are_rated() {
    let score = |calls: &[(&str, Value, Value)]| changes(&done(&conversation(calls))).score;
    assert_eq!(score(&[shell("ls", "a")]), 0);
    assert_eq!(score(&[file("Edit", "/w/a.rs")]), 1);
    assert_eq!(score(&[file("Write", "/w/a.rs")]), 2);
    assert_eq!(score(&[file("Write", "/w/a.rs"), file("edit", "/w/b.rs")]), 3);
    assert_eq!(score(&[file("Edit", "/w/Cargo.toml")]), 4);
    assert_eq!(score(&[file("write_file", "/w/db/migrations/1.sql")]), 5);
    assert_eq!(score(&[shell("git mv a b", "")]), 3);
    assert_eq!(score(&[shell("rm a", "")]), 3);
    assert_eq!(score(&[shell("npm install x", "")]), 2);
    let many: Vec<_> = (0..6).map(|n| file("Edit", &format!("/w/{n}"))).collect();
    assert_eq!(score(&many), 6 + 3);
    let long = json!({ "file_path": "/w/a", "old_string": "a", "new_string": "a\n".repeat(201) });
    assert_eq!(score(&[("Edit", long, json!({ "content": "done" }))]), 2);
    let (name, input, _) = file("Write", "/w/a");
    assert_eq!(score(&[(name, input, json!({ "content": "no", "is_error": true }))]), 0, "what failed changed nothing");
}

#[test]
fn breakpoints_are_a_commit_and_tests_that_passed() {
    let at = |call: (&str, Value, Value)| breakpoint(&done(&conversation(&[call])));
    let passed = Some("tests passed");
    assert_eq!(at(shell("git add -A && git commit -m 'x'", "[main 1a2b] x")), Some("a commit was made"));
    assert_eq!(at(shell("git commit -m x; git status", "")), None, "how it ended is hidden");
    assert_eq!(at(shell("cargo test", "test result: ok. 3 passed")), passed);
    assert_eq!(at(shell("cd a && timeout 60 pytest -q", "")), passed);
    assert_eq!(at(shell("python3 -m pytest", "3 passed")), passed);
    assert_eq!(at(shell("cargo test 2>&1 | tail -3", "test result: ok. 3 passed")), passed);
    assert_eq!(at(shell("cargo test 2>&1 | tail -3", "error: could not compile")), None);
    assert_eq!(at(shell("cargo test | tail", "test result: FAILED. 1 passed; 1 failed")), None);
    assert_eq!(at(shell("cargo test || true", "")), None);
    assert_eq!(at(shell("echo cargo test", "")), None);
    assert_eq!(at(("Bash", json!({ "command": "cargo test" }), json!({ "content": "", "is_error": true }))), None);
    let qwen = |code: &str| {
        ("run_shell_command", json!({ "command": "npm test" }), json!({ "content": format!("Output: x\nExit Code: {code}\n") }))
    };
    assert_eq!((at(qwen("1")), at(qwen("0")), at(qwen("(none)"))), (None, passed, passed));
}
