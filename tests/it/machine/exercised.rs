//! `autovibe doctor --hub NAME --exercise` against a node: it shows what it saw, and leaves nothing behind however it ends.

use super::parts::{Parts, until};
use crate::process::{PATIENCE, autovibe};
use autovibe::lab::Call;
use serde_json::Value;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const EXERCISE: [&str; 6] = ["doctor", "--hub", "default", "--exercise", "--timeout", "20"];

/// Started, and not waited for.
fn exercise(parts: &Parts) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_autovibe"));
    command.arg("--data").arg(parts.data()).args(EXERCISE).env_remove("KUBECONFIG").env_remove("AUTOVIBE_DATA").env_remove("RUST_LOG");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

async fn ended(child: Child) -> Output {
    tokio::task::spawn_blocking(|| child.wait_with_output().unwrap()).await.unwrap()
}

/// Of an exercise nothing is left, and of all else nothing is lost.
async fn assert_as_before(parts: &Parts, before: &[String], what: &str) {
    let started = Instant::now();
    // The last deletion's traces go a moment after its object.
    while parts.lab.datasets() != before || !parts.lab.vms().is_empty() {
        assert!(started.elapsed() < PATIENCE, "{what}: {:?} {:?}", parts.lab.vms(), parts.lab.datasets());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let spaces = parts.api.get("/api/v1/namespaces").await.unwrap().to_string();
    assert!(!spaces.contains("autovibe-exercise"), "{what}: {spaces}");
    let vmids = parts.api.get("/apis/autovibe.dev/v1alpha1/hubs/default/vmids").await.unwrap();
    assert_eq!(vmids["items"].as_array().map(Vec::len), Some(0), "{what}: {vmids}");
    assert_eq!(parts.get("checkpoints", "a-final").await["status"]["phase"], "Ready", "{what}");
}

fn texts(output: &Output) -> (String, String) {
    (String::from_utf8_lossy(&output.stdout).into_owned(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_exercise_says_what_it_saw_and_leaves_nothing_however_it_ends() {
    let parts = Parts::start(async |address| address).await;
    let _controllers = parts.controllers("one", None, "30s");
    // Someone's own, which stays.
    parts.create("a").await;
    parts.ends_well("a").await;
    let before = parts.lab.datasets();

    let output = ended(exercise(&parts)).await;
    let (text, error) = texts(&output);
    assert!(output.status.success(), "{text}{error}");
    for step in ["audit", "spawn", "checkpoint", "fork", "end", "holds", "collect", "gone"] {
        assert!(text.contains(&format!("✔ {step} ")), "{step}: {text}");
    }
    assert!(text.contains("tank/data/vm-") && text.contains("guid ") && text.contains("nothing of it is left"), "{text}");
    assert_as_before(&parts, &before, "done").await;

    // In the middle: the first VM runs, and no other one starts any more.
    let (starts, child) = (parts.lab.count(Call::Start), exercise(&parts));
    until("the first VM starts", || parts.lab.count(Call::Start) > starts).await;
    for _ in 0..1000 {
        parts.lab.fail_next(Call::Start, 500);
    }
    let output = ended(child).await;
    let (text, error) = texts(&output);
    assert_eq!(output.status.code(), Some(1), "{text}{error}");
    assert!(text.contains("✔ checkpoint ") && text.contains("✘ fork "), "{text}");
    assert!(error.contains("step `fork` failed") && error.contains("injected failure") && error.contains("zfs clone"), "{error}");
    assert_as_before(&parts, &before, "failed in the middle").await;

    // Each planted failure is met once; a person who has had enough of them.
    let child = exercise(&parts);
    until("a VM is there", || !parts.lab.vms().is_empty()).await;
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let output = ended(child).await;
    let (text, error) = texts(&output);
    assert_eq!(output.status.code(), Some(1), "{text}{error}");
    assert!(error.contains("interrupted"), "{text}{error}");
    assert_as_before(&parts, &before, "interrupted").await;

    let output = autovibe(parts.data(), &["doctor", "--hub", "nosuch", "--exercise"]);
    assert!(!output.status.success() && texts(&output).1.contains("there is no hub nosuch"), "{output:?}");
    let output = autovibe(parts.data(), &["doctor", "--hub", "default", "--exercise", "--image", "nosuch", "--timeout", "2", "-o", "json"]);
    let steps: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&steps[1]["step"], &steps[1]["passed"]), (&"spawn".into(), &false.into()), "{steps}");
    assert!(steps[1]["seen"].as_str().unwrap().contains("image nosuch"), "{steps}");
    assert_as_before(&parts, &before, "an image that is not there").await;
}
