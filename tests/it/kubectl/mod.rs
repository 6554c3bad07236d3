//! The real kubectl against a real server: what people will type. One by one in `table`, in their courses here.

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
async fn apply_twice_is_created_then_unchanged_and_an_edit_is_configured() {
    let Some(kubectl) = Kubectl::new("kubectl-apply").await else { return };
    assert_eq!(ok(kubectl.on_file("apply", MACHINE).await).trim(), "machine.autovibe.dev/add-tests created");
    assert_eq!(ok(kubectl.on_file("apply", MACHINE).await).trim(), "machine.autovibe.dev/add-tests unchanged");
    let edited = format!("{MACHINE}  operatingMode: Suspended\n");
    assert_eq!(ok(kubectl.on_file("apply", &edited).await).trim(), "machine.autovibe.dev/add-tests configured");
    assert_eq!(ok(kubectl.run("get machine add-tests -o jsonpath={.spec.operatingMode}").await), "Suspended");
    // What is no longer in the file goes back to its default.
    assert_eq!(ok(kubectl.on_file("apply", MACHINE).await).trim(), "machine.autovibe.dev/add-tests configured");
    assert_eq!(ok(kubectl.run("get machine add-tests -o jsonpath={.spec.operatingMode}").await), "Running");
    // Server-side apply comes later: it is refused, and says what is taken.
    let refused = kubectl.on_file("apply --server-side", MACHINE).await.expect_err("not offered");
    assert!(refused.contains("UnsupportedMediaType") || refused.contains("accepted media types"), "{refused}");
}

#[tokio::test]
async fn a_malformed_manifest_applies_nothing_and_the_field_is_named() {
    let Some(kubectl) = Kubectl::new("kubectl-malformed").await else { return };
    for (text, expect) in [
        (MACHINE.replace("goal:", "gaol:"), "gaol"),
        (MACHINE.replace("agent: {type: Command, ", "agent: {type: Wizard, "), "spec.agent.type"),
        (format!("{MACHINE}  bogus: 1\n"), "spec.bogus"),
        (MACHINE.replace("{image: micro}", "{image: micro, checkpoint: c}"), "spec.from"),
        (MACHINE.replace("prompt: \"Add end-to-end tests.\"", "prompt: 3"), "spec.goal.prompt"),
    ] {
        let complaint = kubectl.on_file("apply", &text).await.expect_err(expect);
        assert!(complaint.contains(expect), "{expect}: {complaint}");
    }
    assert!(
        kubectl.on_file("apply", &MACHINE.replace("kind: Machine", "kind: Mashine")).await.expect_err("no such kind").contains("Mashine")
    );
    assert_eq!(ok(kubectl.run("get machines -o name").await), "");
    // A change that is not allowed says which field it is.
    ok(kubectl.on_file("create", MACHINE).await);
    let complaint = kubectl.on_file("apply", &MACHINE.replace("Add end", "Remove end")).await.expect_err("immutable");
    assert!(complaint.contains("spec.goal") && complaint.contains("immutable"), "{complaint}");
}

#[tokio::test]
async fn reading_tables_yaml_descriptions_and_selections() {
    let Some(kubectl) = Kubectl::new("kubectl-read").await else { return };
    assert_eq!(ok(kubectl.on_file("create", MACHINE).await).trim(), "machine.autovibe.dev/add-tests created");
    assert!(kubectl.on_file("create", MACHINE).await.expect_err("there is one").contains("AlreadyExists"));
    let table = ok(kubectl.run("get machines").await);
    let (head, row) = table.split_once('\n').expect("two lines");
    assert!(head.starts_with("NAME") && head.contains("PHASE") && head.contains("GOAL") && head.trim_end().ends_with("AGE"), "{table}");
    assert!(row.starts_with("add-tests") && row.contains("Add end-to-end tests."), "{table}");
    assert!(ok(kubectl.run("get all -A").await).contains("machine.autovibe.dev/add-tests"));
    let yaml = ok(kubectl.run("get machine add-tests -o yaml").await);
    assert!(yaml.contains("kind: Machine") && yaml.contains("prompt: Add end-to-end tests."), "{yaml}");
    assert!(ok(kubectl.run("get mach -o wide").await).contains("add-tests"));
    assert_eq!(ok(kubectl.run("label machine add-tests team=a").await).trim(), "machine.autovibe.dev/add-tests labeled");
    assert_eq!(ok(kubectl.run("annotate machine add-tests note=b").await).trim(), "machine.autovibe.dev/add-tests annotated");
    assert_eq!(ok(kubectl.run("get machines -l team=a -o name").await).trim(), "machine.autovibe.dev/add-tests");
    assert_eq!(ok(kubectl.run("get machines -l team!=a -o name").await), "");
    assert_eq!(
        ok(kubectl.run("get machines --field-selector metadata.name=add-tests -o name").await).trim(),
        "machine.autovibe.dev/add-tests"
    );
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
    assert!(kubectl.run("get machine nope").await.expect_err("none").contains("machines.autovibe.dev \"nope\" not found"));
}

#[tokio::test]
async fn discovery_and_explain() {
    let Some(kubectl) = Kubectl::new("kubectl-discovery").await else { return };
    let resources = ok(kubectl.run("api-resources --api-group autovibe.dev -o wide").await);
    for plural in ["machines", "checkpoints", "budgets", "hubs"] {
        assert!(resources.contains(plural), "{resources}");
    }
    assert!(ok(kubectl.run("api-versions").await).contains("autovibe.dev/v1alpha1"));
    assert!(ok(kubectl.run("version").await).contains("Server Version: v1.34.0+autovibe"));
    let spec = ok(kubectl.run("explain machine.spec.goal").await);
    assert!(spec.contains("prompt") && spec.contains("-required-") && spec.contains("GROUP:      autovibe.dev"), "{spec}");
    assert!(ok(kubectl.run("explain machine.metadata").await).contains("ownerReferences"));
    assert!(ok(kubectl.run("explain secret").await).contains("stringData"));
    assert!(ok(kubectl.run("explain machine.spec --recursive").await).contains("workspace"));
    assert!(ok(kubectl.run("auth whoami").await).contains("admin"));
    assert_eq!(ok(kubectl.run("auth can-i delete machines").await).trim(), "yes");
    assert!(ok(kubectl.run("get crds").await).contains("machines.autovibe.dev"));
}

#[tokio::test]
async fn patch_wait_watch_and_delete() {
    let Some(kubectl) = Kubectl::new("kubectl-wait").await else { return };
    ok(kubectl.on_file("create", MACHINE).await);
    ok(kubectl.run_with("patch machine add-tests --type merge", &["-p", r#"{"spec":{"operatingMode":"Suspended"}}"#]).await);
    ok(kubectl
        .run_with("patch machine add-tests --type json", &["-p", r#"[{"op":"replace","path":"/spec/operatingMode","value":"Running"}]"#])
        .await);
    assert!(kubectl.run_with("patch machine add-tests", &["-p", "{}"]).await.is_err(), "no strategic merge for custom kinds");

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

    assert!(ok(kubectl.run("delete machine add-tests --timeout=30s").await).contains("deleted"));
    assert!(kubectl.run("get machine add-tests").await.is_err());
}

#[tokio::test]
async fn namespaces_secrets_and_config_maps_go_in_as_protobuf() {
    let Some(kubectl) = Kubectl::new("kubectl-core").await else { return };
    assert_eq!(ok(kubectl.run("create namespace kubectl-made").await).trim(), "namespace/kubectl-made created");
    assert!(ok(kubectl.run("get ns kubectl-made").await).contains("Active"));
    assert_eq!(ok(kubectl.run("create secret generic s --from-literal=key=value").await).trim(), "secret/s created");
    assert_eq!(ok(kubectl.run("get secret s -o jsonpath={.data.key}").await), "dmFsdWU=");
    assert!(ok(kubectl.run("get secrets").await).contains("Opaque"));
    assert!(!ok(kubectl.run("describe secret s").await).contains("value\n"));
    assert_eq!(ok(kubectl.run("create configmap c --from-literal=a=1").await).trim(), "configmap/c created");
    assert_eq!(ok(kubectl.run("create serviceaccount sa").await).trim(), "serviceaccount/sa created");
    let secret = "apiVersion: v1\nkind: Secret\nmetadata: {name: t}\nstringData: {a: b}\n";
    assert_eq!(ok(kubectl.on_file("apply", secret).await).trim(), "secret/t created");
    assert_eq!(
        ok(kubectl.on_file("apply", secret).await).trim(),
        "secret/t configured",
        "stringData is write-only, so kubectl sends it each time"
    );
    let map = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: m}\ndata: {a: b}\n";
    assert_eq!(ok(kubectl.on_file("apply", map).await).trim(), "configmap/m created");
    assert_eq!(ok(kubectl.on_file("apply", map).await).trim(), "configmap/m unchanged");
    assert_eq!(ok(kubectl.on_file("apply", &map.replace("a: b", "c: d")).await).trim(), "configmap/m configured");
    assert_eq!(ok(kubectl.run("get configmap m -o jsonpath={.data}").await), r#"{"c":"d"}"#);
    assert_eq!(
        ok(kubectl.on_file("apply --dry-run=server", &map.replace("a: b", "e: f")).await).trim(),
        "configmap/m configured (server dry run)"
    );
    assert_eq!(ok(kubectl.run("get configmap m -o jsonpath={.data}").await), r#"{"c":"d"}"#);
    assert!(ok(kubectl.run("delete namespace kubectl-made --timeout=30s").await).contains("deleted"));
    assert!(ok(kubectl.run("delete secret,configmap --all").await).contains("secret \"s\" deleted"));
}

#[tokio::test]
async fn replace_diff_and_edit_go_through() {
    let Some(kubectl) = Kubectl::new("kubectl-replace").await else { return };
    ok(kubectl.on_file("apply", MACHINE).await);
    let suspended = format!("{MACHINE}  operatingMode: Suspended\n");
    let diff = kubectl.on_file("diff", &suspended).await.expect_err("a difference is exit code 1");
    assert!(diff.contains("+  operatingMode: Suspended"), "{diff}");
    assert_eq!(ok(kubectl.on_file("replace", &suspended).await).trim(), "machine.autovibe.dev/add-tests replaced");
    let mut edit = kubectl.command("edit machine add-tests");
    let edited = said(&edit.env("KUBE_EDITOR", "sed -i s/Suspended/Running/").stdin(Stdio::null()).output().await.expect("kubectl starts"));
    assert_eq!(ok(edited).trim(), "machine.autovibe.dev/add-tests edited");
    assert_eq!(ok(kubectl.run("get machine add-tests -o jsonpath={.spec.operatingMode}").await), "Running");
    assert!(ok(kubectl.on_file("replace --force", MACHINE).await).contains("replaced"));
}
