//! `autovibe exec`: a command in a guest, by the real command line, and who may not.

use super::elsewhere::{HUB, SIMULATED};
use super::killed::manifest;
use crate::process::{Hub, LabOf, autovibe, refused, said, wait};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

/// A Machine that idles, of a Hub in a simulated lab.
pub(super) fn lives(data: &Path) {
    said(data, &["apply", "-f", &manifest(data)]);
    // It idles until it is deleted.
    let path = data.join("idle.json");
    let machine = json!({
        "apiVersion": "autovibe.dev/v1alpha1", "kind": "Machine", "metadata": { "name": "idle", "namespace": "default" },
        "spec": {
            "from": { "image": "micro" }, "agent": { "type": "Command", "command": ["agent"] },
            "goal": { "prompt": "#sim idle=true" },
        },
    });
    std::fs::write(&path, machine.to_string()).unwrap();
    said(data, &["apply", "-f", &path.display().to_string()]);
    wait("the machine runs", || said(data, &["get", "machine", "idle", "-o", "json"]).contains("\"phase\": \"Running\""));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_runs_in_the_guest_and_its_code_comes_out() {
    rustls::crypto::ring::default_provider().install_default().ok();
    let home = tempfile::tempdir().unwrap();
    let data = home.path();
    let _lab = LabOf(data.into());
    let hub = Hub::start(data, &["--lab", "simulated", "--listen", "127.0.0.1:0", "--gateway-listen", "127.0.0.1:0"]).serves();
    lives(data);
    assert_eq!(said(data, &["exec", "idle", "--", "echo", "a b", "-x"]), "a b -x\n");
    assert_eq!(said(data, &["exec", "machine/idle", "--", "hostname"]), "idle\n");
    for (arguments, user) in [(&["exec", "idle", "--", "whoami"][..], "agent\n"), (&["exec", "idle", "--root", "--", "whoami"], "root\n")] {
        assert_eq!(said(data, arguments), user);
    }
    assert_eq!(autovibe(data, &["exec", "idle", "--", "sh", "-c", "exit 7"]).status.code(), Some(7));
    // What it reads.
    let mut command = Command::new(env!("CARGO_BIN_EXE_autovibe"));
    command.arg("--data").arg(data).args(["exec", "-i", "idle", "--", "cat"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), "one\nzwölf\n".as_bytes()).unwrap();
    assert_eq!(child.wait_with_output().unwrap().stdout, "one\nzwölf\n".as_bytes());
    let answer: Value = serde_json::from_str(&said(data, &["exec", "idle", "-o", "json", "--", "echo", "hi"])).unwrap();
    assert_eq!(answer, json!({ "exitCode": 0, "stdout": "aGkK" }));
    // What is written comes as it is, and what is left of a command whose client went away is ended.
    let mut counts = Command::new(env!("CARGO_BIN_EXE_autovibe"));
    counts.arg("--data").arg(data).args(["exec", "idle", "--", "sim-count", "5"]).stdout(Stdio::piped());
    let (began, mut child) = (std::time::Instant::now(), counts.spawn().unwrap());
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert_eq!(lines.next().unwrap(), "1");
    assert!(began.elapsed() < Duration::from_secs(4), "it came at the end");
    assert!(child.try_wait().unwrap().is_none());
    assert_eq!(lines.collect::<Vec<_>>(), ["2", "3", "4", "5"]);
    assert!(child.wait().unwrap().success());
    let mut child = counts.spawn().unwrap();
    BufReader::new(child.stdout.take().unwrap()).lines().next().unwrap().unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    wait("it is ended", || hub.logged().contains("a command was ended whose client went away"));
    // Who asks for no output before the end has it in one answer, as of a client of before.
    let answer: Value = serde_json::from_str(&said(data, &["exec", "idle", "-o", "json", "--", "sim-count", "2"])).unwrap();
    assert_eq!(answer, json!({ "exitCode": 0, "stdout": "MQoyCg==" }));
    // Who did it is told, with the program alone: its arguments may be secrets.
    let events = said(data, &["get", "events", "-o", "json"]);
    assert!(events.contains("ran \\\"echo\\\" in the guest as the agent's user") && !events.contains("a b"), "{events}");
    assert!(events.contains("ran \\\"whoami\\\" in the guest as root"), "{events}");
    // What cannot be.
    let table: [(&[&str], &str); 4] = [
        (&["exec", "nobody", "--", "true"], "\"nobody\" not found"),
        (&["exec", "idle", "--timeout", "2h", "--", "true"], "timeout: Invalid value: \"2h0m0s\": must be between 1s and 1h"),
        (&["exec", "idle", "--", ""], "command: Required value: name a program"),
        (&["exec", "idle", "--", &"x".repeat(40_000)], "must have at most 32768 bytes"),
    ];
    for (arguments, why) in table {
        let said = refused(data, arguments);
        assert!(said.contains(why), "{arguments:?}: {said}");
    }
    wait("a ends", || said(data, &["get", "machine", "a", "-o", "json"]).contains("\"phase\": \"Succeeded\""));
    let why = refused(data, &["exec", "a", "--", "true"]);
    assert!(why.contains("it has no VM (phase Succeeded); a command needs one that runs"), "{why}");
    hub.terminate();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_reaches_no_guests_says_so() {
    rustls::crypto::ring::default_provider().install_default().ok();
    let home = tempfile::tempdir().unwrap();
    let data = home.path();
    let _lab = LabOf(data.into());
    let hub = Hub::start(data, &HUB).serves();
    let controllers = Hub::controllers(data, &SIMULATED);
    lives(data);
    let why = refused(data, &["exec", "idle", "--", "true"]);
    assert!(why.contains("this server does not reach the guests of Hub default: its process does not run the controllers"), "{why}");
    controllers.terminate();
    hub.terminate();
}
