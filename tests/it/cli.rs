//! The executable as people use it: `up` and its restarts, and what the commands say.

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Far longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_mins(1);

fn autovibe(data: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_autovibe"));
    command.arg("--data").arg(data).args(arguments).current_dir(env!("CARGO_MANIFEST_DIR"));
    command.env_remove("KUBECONFIG").env_remove("AUTOVIBE_DATA").env_remove("RUST_LOG").stdin(Stdio::null()).output().unwrap()
}

/// Standard output of a command that must succeed.
fn said(data: &Path, arguments: &[&str]) -> String {
    let output = autovibe(data, arguments);
    assert!(output.status.success(), "autovibe {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// Standard error of a command that must fail with exit code 1.
fn refused(data: &Path, arguments: &[&str]) -> String {
    let output = autovibe(data, arguments);
    assert_eq!(output.status.code(), Some(1), "autovibe {arguments:?} printed {}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8(output.stderr).unwrap()
}

fn wait(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < PATIENCE, "{what} did not happen");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A hub process; killed when dropped.
struct Hub {
    child: Child,
    data: PathBuf,
}

impl Hub {
    fn start(data: &Path, arguments: &[&str]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_autovibe"));
        command.arg("up").arg("--data").arg(data).args(arguments).env_remove("RUST_LOG").stdin(Stdio::null());
        let child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        Self { child, data: data.to_owned() }
    }

    fn serves(self) -> Self {
        wait("serving", || autovibe(&self.data, &["get", "hubs"]).status.success());
        self
    }

    /// Ends it as `kill -9` does.
    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Ends it by SIGTERM; returns its exit code and all that it printed.
    fn terminate(mut self) -> (Option<i32>, String) {
        assert!(Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().unwrap().success());
        let status = self.child.wait().unwrap();
        let mut text = String::new();
        self.child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        (status.code(), text)
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

const ANY_PORTS: [&str; 6] = ["--lab", "off", "--listen", "127.0.0.1:0", "--gateway-listen", "127.0.0.1:0"];

fn write(path: &Path, text: &str) -> String {
    std::fs::write(path, text).unwrap();
    path.display().to_string()
}

const BUDGET: &str = "apiVersion: autovibe.dev/v1alpha1\nkind: Budget\nmetadata: {name: team, namespace: default}\nspec: {limits: {money: {amount: \"5\"}}}\n";

#[test]
fn up_says_where_it_serves_and_ends_in_order() {
    let data = tempfile::tempdir().unwrap();
    let started = Instant::now();
    let hub = Hub::start(data.path(), &ANY_PORTS).serves();
    // It takes a fraction of a second; the rest is for a machine that compiles something else meanwhile.
    assert!(started.elapsed() < Duration::from_secs(20), "serving took {:?}", started.elapsed());
    let (code, text) = hub.terminate();
    assert_eq!(code, Some(0), "{text}");
    let kubeconfig = std::fs::read_to_string(data.path().join("kubeconfig")).unwrap();
    let url = text.split_whitespace().find(|word| word.starts_with("https://")).unwrap();
    assert!(kubeconfig.contains(url), "{text}\n{kubeconfig}");
    assert!(text.contains("kubectl --kubeconfig ") && text.trim_end().ends_with("`autovibe up` goes on from here."), "{text}");
    let error = refused(data.path(), &["get", "machines"]);
    assert!(error.contains("does not answer") && error.contains("autovibe up"), "{error}");
}

#[test]
fn a_killed_hub_goes_on_where_it_was_under_the_same_address() {
    let data = tempfile::tempdir().unwrap();
    let manifest = write(&data.path().join("b.yaml"), BUDGET);
    let hub = Hub::start(data.path(), &ANY_PORTS).serves();
    assert_eq!(said(data.path(), &["apply", "-f", &manifest]), "budget/team created\n");
    let uid = said(data.path(), &["get", "budget", "team", "-o", "json"]);
    let uid = uid.lines().find(|line| line.contains("\"uid\"")).unwrap().to_owned();
    let before = std::fs::read_to_string(data.path().join("kubeconfig")).unwrap();
    hub.kill();

    let _hub = Hub::start(data.path(), &["--lab", "off"]).serves();
    assert_eq!(std::fs::read_to_string(data.path().join("kubeconfig")).unwrap(), before, "clients need nothing new");
    assert!(said(data.path(), &["get", "budget/team", "-o", "json"]).contains(&uid));
    assert_eq!(said(data.path(), &["apply", "-f", &manifest]), "budget/team unchanged\n");
}

#[test]
fn a_second_hub_on_the_same_data_is_refused() {
    let data = tempfile::tempdir().unwrap();
    let hub = Hub::start(data.path(), &ANY_PORTS).serves();
    let error = refused(data.path(), &["up", "--lab", "off"]);
    assert!(error.contains(&hub.child.id().to_string()) && error.contains("stop it first"), "{error}");
    // The one that runs is not disturbed.
    said(data.path(), &["get", "hubs"]);
}

#[test]
fn a_malformed_manifest_applies_nothing_and_is_named_by_file_document_and_field() {
    let data = tempfile::tempdir().unwrap();
    let _hub = Hub::start(data.path(), &ANY_PORTS).serves();
    let machine = "---\napiVersion: autovibe.dev/v1alpha1\nkind: Machine\nmetadata: {name: m}\n";
    for (wrong, field) in [
        ("spec: {from: {image: debian}, goal: {prompt: x}, colour: red}\n", "spec.colour"),
        ("spec: {goal: {prompt: x}}\n", "spec.from: Required value"),
        ("spec: {from: {image: debian}, goal: {prompt: x}, resources: {memory: lots}}\n", "spec.resources.memory"),
        ("spec: {from: {image: debian}, goal: {prompt: x}, agent: {type: Parrot}}\n", "spec.agent.type"),
    ] {
        let file = write(&data.path().join("m.yaml"), &format!("{BUDGET}{machine}{wrong}"));
        let error = refused(data.path(), &["apply", "-f", &file]);
        assert!(
            error.contains("nothing was applied")
                && error.contains(&format!("{file}, document 2 (Machine default/m)"))
                && error.contains(field),
            "{error}"
        );
        let listed = said(data.path(), &["get", "budgets", "-o", "name"]);
        assert_eq!(listed, "", "the good document was applied too");
    }
}

#[test]
fn people_get_tables_programs_get_documents() {
    let data = tempfile::tempdir().unwrap();
    let _hub = Hub::start(data.path(), &ANY_PORTS).serves();
    said(data.path(), &["apply", "-f", "examples/quickstart"]);
    let table = said(data.path(), &["get", "machines", "-n", "todo"]);
    assert!(table.lines().next().unwrap().starts_with("NAME ") && table.contains("add-tests"), "{table}");
    let list: serde_json::Value = serde_json::from_str(&said(data.path(), &["get", "machines", "-A", "-o", "json"])).unwrap();
    assert_eq!(list["items"].as_array().unwrap().len(), 2);
    wait("a status", || {
        said(data.path(), &["explain", "machine/add-tests", "-n", "todo"]).contains("Waiting for machine add-authentication")
    });
    let lineage = said(data.path(), &["lineage", "-n", "todo"]);
    let order: Vec<Option<usize>> = ["todo-a", "└─ add-authentication", "   └─ add-tests"].iter().map(|what| lineage.find(what)).collect();
    assert!(order.iter().all(Option::is_some) && order.is_sorted(), "{lineage}");
    assert_eq!(said(data.path(), &["delete", "machine", "add-tests", "-n", "todo"]), "machine/add-tests deleted\n");
    let error = refused(data.path(), &["describe", "machine/add-tests", "-n", "todo"]);
    assert!(error.contains("\"add-tests\" not found"), "{error}");
}

#[test]
fn without_a_hub_it_says_how_to_get_one() {
    let data = tempfile::tempdir().unwrap();
    let error = refused(data.path(), &["get", "machines"]);
    assert!(error.contains("autovibe up") && error.contains("kubeconfig"), "{error}");
    assert_eq!(autovibe(data.path(), &["get"]).status.code(), Some(2), "a wrong command line is another matter");
}

/// Ends the lab of a data directory, whatever becomes of the test.
struct LabOf(PathBuf);

impl Drop for LabOf {
    fn drop(&mut self) {
        autovibe(&self.0, &["lab", "stop"]);
    }
}

#[test]
fn the_lab_outlives_a_killed_hub_and_is_found_again() {
    let data = tempfile::tempdir().unwrap();
    let _lab = LabOf(data.path().into());
    let arguments = ["--lab", "simulated", "--listen", "127.0.0.1:0", "--gateway-listen", "127.0.0.1:0"];
    let ready = || said(data.path(), &["get", "hub", "default", "-o", "json"]).contains("proxmoxVersion");
    let made = || autovibe(data.path(), &["get", "hub", "default"]).status.success();
    let pid = || {
        let endpoint: serde_json::Value = serde_json::from_slice(&std::fs::read(data.path().join("lab/endpoint.json")).unwrap()).unwrap();
        endpoint["pid"].as_u64().unwrap()
    };
    let hub = Hub::start(data.path(), &arguments).serves();
    wait("the Hub that drives the lab", made);
    wait("an answer of the lab", ready);
    let first = pid();
    hub.kill();
    assert!(Path::new(&format!("/proc/{first}")).exists(), "the lab went with the hub");

    let hub = Hub::start(data.path(), &["--lab", "simulated"]).serves();
    wait("an answer of the lab", ready);
    assert_eq!(pid(), first, "a second lab was started");
    hub.kill();
    let text = said(data.path(), &["lab", "stop"]);
    assert!(text.contains("ended, and 0 guests"), "{text}");
    // Its parent is gone, so whoever reaps orphans may leave a zombie for a moment; it has no command line any more.
    assert!(std::fs::read(format!("/proc/{first}/cmdline")).unwrap_or_default().is_empty());
    assert!(said(data.path(), &["lab", "stop"]).starts_with("No lab runs in "));
}
