//! Every command of docs/controllers.md, with the real kubectl: a life under controllers that have the rights named there and
//! no others, with a source that comes in and a workspace that goes out over the API.

use super::elsewhere::HUB;
use super::killed::{assert_nothing_is_left, end, manifest};
use crate::process::{Hub, LabOf, said, wait};
use autovibe::remote;
use serde_json::{Value, json};
use std::path::Path;
use std::process::{Command, Output};

const DOCUMENT: &str = include_str!("../../../docs/controllers.md");

fn run(program: &str, arguments: &[&str], data: &Path) -> Option<Output> {
    let mut command = Command::new(if program == "autovibe" { env!("CARGO_BIN_EXE_autovibe") } else { program });
    command.args(arguments).current_dir(data).env("HOME", data).env("KUBECONFIG", data.join("kubeconfig")).env("AUTOVIBE_DATA", data);
    command.output().ok()
}

fn ran(program: &str, arguments: &[&str], data: &Path) -> String {
    let output = run(program, arguments, data).unwrap();
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A directory of files under git, below `root`.
pub(super) fn source(root: &Path) -> String {
    let directory = root.join("project");
    std::fs::create_dir_all(&directory).unwrap();
    std::fs::write(directory.join("README"), "hello\n").unwrap();
    directory.display().to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_command_of_the_document_is_run_and_a_machine_lives_by_the_rights_it_names() {
    rustls::crypto::ring::default_provider().install_default().ok();
    let home = tempfile::tempdir().unwrap();
    let data = home.path();
    if run("kubectl", &["version", "--client"], data).is_none() {
        eprintln!("SKIPPED: kubectl is not installed, so the commands of docs/controllers.md were not tried");
        return;
    }
    let _lab = LabOf(data.into());
    let hub = Hub::start(data, &HUB).serves();
    let block = DOCUMENT.split("```sh\n").nth(1).and_then(|rest| rest.split("```").next()).expect("a block of commands");
    let mut started = None;
    for line in block.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words[..] {
            ["autovibe", "controller", "--kubeconfig", file] => {
                let kubeconfig = data.join(file).display().to_string();
                let roots = data.join("sources").display().to_string();
                let arguments = ["--kubeconfig", &kubeconfig, "--lab", "simulated", "--source-root", &roots];
                started = Some(Hub::controllers(data, &arguments));
            }
            [program, ref arguments @ ..] => drop(ran(program, arguments, data)),
            [] => {}
        }
    }
    let controllers = started.expect("the last command starts the controllers");

    let file = manifest(data);
    let documents = std::fs::read_to_string(&file).unwrap();
    let (first, machine) = documents.split_once("\n---\n").unwrap();
    let mut machine: Value = serde_json::from_str(machine).unwrap();
    machine["spec"]["source"] = json!({ "directory": source(&data.join("sources")) });
    std::fs::write(&file, format!("{first}\n---\n{machine}\n")).unwrap();
    said(data, &["apply", "-f", &file]);
    let ended = end(data, "under the document's rights");
    assert_eq!(ended["status"]["terminationReason"], "Completed", "{:#}", ended["status"]);

    // A fork of it, that runs and is deleted: a checkpoint is spawned from, and one that nobody needs goes.
    machine["metadata"]["name"] = "b".into();
    machine["spec"]["from"] = json!({ "checkpoint": "a-final" });
    machine["spec"].as_object_mut().unwrap().remove("source");
    std::fs::write(&file, machine.to_string()).unwrap();
    said(data, &["apply", "-f", &file]);
    wait("the fork has ended", || said(data, &["get", "machine", "b", "-o", "json"]).contains("\"terminationReason\": \"Completed\""));
    said(data, &["delete", "machine", "b"]);
    said(data, &["delete", "checkpoint", "b-final"]);
    wait("it is gone", || !said(data, &["get", "checkpoints", "-o", "json"]).contains("b-final"));

    // The workspace came over the API, as git knows it.
    let last: Value = serde_json::from_str(&said(data, &["get", "checkpoint", "a-final", "-o", "json"])).unwrap();
    let commit = last["status"]["commit"].as_str().expect("the workspace was recorded");
    let api = remote::Client::open(&data.join("kubeconfig"), None).unwrap();
    let bundle = api.bytes("/apis/autovibe.dev/v1alpha1/namespaces/default/checkpoints/a-final/bundle").await.unwrap();
    std::fs::write(data.join("a.bundle"), &bundle).unwrap();
    assert!(ran("git", &["bundle", "list-heads", "a.bundle"], data).contains(commit));
    ran("git", &["clone", "-q", "a.bundle", "clone"], data);
    assert_eq!(std::fs::read_to_string(data.join("clone/README")).unwrap(), "hello\n");
    let log = controllers.logged();
    assert!(!log.contains("forbidden"), "a right is missing: {log}");

    // A Secret for git takes the binding of the document's second block, and the Machine says so.
    machine["metadata"]["name"] = "d".into();
    machine["spec"]["from"] = json!({ "checkpoint": "a-final" });
    machine["spec"]["source"] = json!({ "git": "https://127.0.0.1:1/todo.git", "credentialsSecretRef": { "name": "todo-git" } });
    std::fs::write(&file, machine.to_string()).unwrap();
    said(data, &["apply", "-f", &file]);
    let told = || said(data, &["get", "machine", "d", "-o", "json"]);
    let command = DOCUMENT.split("```sh\n").nth(2).and_then(|rest| rest.lines().next()).unwrap().replace("todo", "default");
    wait("what it lacks is said", || told().contains("CredentialMissing") && told().contains(&command));
    ran("kubectl", &command.split(' ').skip(1).collect::<Vec<_>>(), data);
    ran("kubectl", &["annotate", "machine", "d", "look=again"], data);
    wait("the Secret is looked for", || told().contains("has neither ssh-privatekey nor password"));
    said(data, &["delete", "machine", "d"]);
    machine["spec"].as_object_mut().unwrap().remove("source");

    // One that is missing is named.
    ran("kubectl", &["delete", "clusterrolebinding", "controller"], data);
    machine["metadata"]["name"] = "c".into();
    std::fs::write(&file, machine.to_string()).unwrap();
    said(data, &["apply", "-f", &file]);
    wait("the missing right is named", || {
        let log = controllers.logged();
        log.contains(r#"User "system:serviceaccount:autovibe-system:controller" cannot"#) && log.contains("autovibe.dev")
    });
    ran("kubectl", &["-n", "autovibe-system", "delete", "rolebinding", "controller"], data);
    wait("the Lease too", || controllers.logged().contains(r#"cannot update resource "leases" in API group "coordination.k8s.io""#));
    said(data, &["delete", "machine", "c"]);
    drop(controllers);
    assert_eq!(hub.terminate().0, Some(0));
    // Machine c was never begun, as nobody had the right to.
    assert_nothing_is_left(data, &ended, "under the document's rights").await;
}
