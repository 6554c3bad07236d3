//! The real kubectl against a real server: what people will type, row by row in `table`; here only what runs
//! beside something else.

mod table;

use crate::served::Served;
use std::{
    path::PathBuf,
    process::{Output, Stdio},
};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;

/// kubectl with a home of its own: its discovery cache must not be another server's.
pub(crate) struct Kubectl {
    pub(crate) home: tempfile::TempDir,
    kubeconfig: PathBuf,
    namespace: &'static str,
}

/// What a command printed, if it succeeded; else what it complained.
pub(crate) type Said = Result<String, String>;

impl Kubectl {
    /// `None`, said aloud, where there is no kubectl.
    pub(crate) async fn new(namespace: &'static str) -> Option<Self> {
        let found = Command::new("kubectl").args(["version", "--client"]).stdout(Stdio::null()).stderr(Stdio::null()).status().await;
        if !found.is_ok_and(|status| status.success()) {
            eprintln!("SKIPPED: kubectl is not installed, so the API was not tried with it; `make test` installs it");
            return None;
        }
        let server = Served::shared();
        server.namespace(namespace).await;
        Some(Self { home: tempfile::tempdir().expect("a temporary directory"), kubeconfig: server.directory.join("kubeconfig"), namespace })
    }

    /// The same kubectl with another kubeconfig.
    pub(crate) fn with_config(self, kubeconfig: PathBuf) -> Self {
        Self { kubeconfig, ..self }
    }

    pub(crate) fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new("kubectl");
        command.env("HOME", self.home.path()).env("KUBECONFIG", &self.kubeconfig).env_remove("HTTPS_PROXY").env_remove("https_proxy");
        command.current_dir(self.home.path()).args(["-n", self.namespace]).args(arguments.split_whitespace()).kill_on_drop(true);
        command
    }

    pub(crate) async fn run(&self, arguments: &str) -> Said {
        said(&self.command(arguments).stdin(Stdio::null()).output().await.expect("kubectl starts"))
    }

    /// Runs with arguments that hold spaces.
    pub(crate) async fn run_with(&self, arguments: &str, more: &[&str]) -> Said {
        said(&self.command(arguments).args(more).stdin(Stdio::null()).output().await.expect("kubectl starts"))
    }

    /// Runs on a file with `text`.
    pub(crate) async fn on_file(&self, arguments: &str, text: &str) -> Said {
        std::fs::write(self.home.path().join("file.yaml"), text).expect("the file is written");
        self.run(&format!("{arguments} -f file.yaml")).await
    }
}

fn said(output: &Output) -> Said {
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() { Ok(out) } else { Err(format!("{out}{}", String::from_utf8_lossy(&output.stderr))) }
}

pub(crate) fn ok(said: Said) -> String {
    said.unwrap_or_else(|complaint| panic!("kubectl failed: {complaint}"))
}

const MACHINE: &str = r#"
apiVersion: autovibe.dev/v1alpha1
kind: Machine
metadata: {name: add-tests}
spec:
  from: {image: micro}
  goal: {prompt: "Add end-to-end tests."}
  agent: {type: Command, command: ["true"]}
"#;

#[tokio::test]
async fn events_about_an_object_are_told_with_it() {
    let Some(kubectl) = Kubectl::new("kubectl-read").await else { return };
    ok(kubectl.on_file("create", MACHINE).await);
    let event = r#"
apiVersion: v1
kind: Event
metadata: {name: add-tests.1}
involvedObject: {apiVersion: autovibe.dev/v1alpha1, kind: Machine, name: add-tests, namespace: kubectl-read, uid: UID}
reason: Spawned
message: it was spawned
type: Normal
count: 1
firstTimestamp: "2026-01-01T00:00:00Z"
lastTimestamp: "2026-01-01T00:00:00Z"
source: {component: autovibe}
"#;
    let uid = ok(kubectl.run("get machine add-tests -o jsonpath={.metadata.uid}").await);
    ok(kubectl.on_file("create", &event.replace("UID", &uid)).await);
    let described = ok(kubectl.run("describe machine add-tests").await);
    assert!(described.contains("Prompt:") && described.contains("Spawned") && described.contains("it was spawned"), "{described}");
    let events = ok(kubectl.run("get events").await);
    assert!(events.contains("machine/add-tests") && events.contains("it was spawned"), "{events}");
    assert!(ok(kubectl.run("events --for machine/add-tests").await).contains("Spawned"));
}

#[tokio::test]
async fn who_waits_and_who_watches_sees_a_status_come() {
    let Some(kubectl) = Kubectl::new("kubectl-wait").await else { return };
    ok(kubectl.on_file("create", MACHINE).await);
    let mut watching = kubectl
        .command("get machine add-tests -w -o jsonpath={.status.phase},{.metadata.labels.seen};")
        .stdout(Stdio::piped())
        .spawn()
        .expect("kubectl starts");
    let mut seen = BufReader::new(watching.stdout.take().expect("piped")).split(b';');
    assert_eq!(seen.next_segment().await.unwrap().as_deref(), Some(&b","[..]));

    let status = r#"{"status":{"phase":"Running","conditions":[{"type":"MachineReady","status":"True","reason":"Up","message":"","lastTransitionTime":"2026-01-01T00:00:00Z","observedGeneration":9}]}}"#;
    let condition = kubectl.run("wait machine/add-tests --for=condition=MachineReady --timeout=30s");
    let phase = kubectl.run("wait machine/add-tests --for=jsonpath={.status.phase}=Running --timeout=30s");
    let patch = ["-p", status];
    let write = kubectl.run_with("patch machine add-tests --subresource status --type merge", &patch);
    let (condition, phase, written) = tokio::join!(condition, phase, write);
    ok(written);
    assert!(ok(condition).contains("condition met"));
    assert!(ok(phase).contains("condition met"));
    assert_eq!(seen.next_segment().await.unwrap().as_deref(), Some(&b"Running,"[..]));
    ok(kubectl.run("label machine add-tests seen=yes").await);
    assert_eq!(seen.next_segment().await.unwrap().as_deref(), Some(&b"Running,yes"[..]));
    watching.kill().await.expect("it runs");
}
