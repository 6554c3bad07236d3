//! `autovibe fetch` and `autovibe push`: a checkpoint's workspace in repositories of people, by a real git.

use crate::process::{ANY_PORTS, Hub, autovibe, refused, said};
use autovibe::remote::{BASE_COMMIT, COMMIT, Client, UID};
use reqwest::Method;
use serde_json::json;
use std::path::Path;
use std::process::Command;

const CHECKPOINTS: &str = "/apis/autovibe.dev/v1alpha1/namespaces/default/checkpoints";

fn git(directory: &Path, arguments: &[&str]) -> String {
    let mut command = Command::new("git");
    command.args(["-c", "user.name=t", "-c", "user.email=t@localhost", "-c", "init.defaultBranch=main"]);
    let output = command.args(arguments).current_dir(directory).output().unwrap();
    assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A commit of these files, and a bundle of it that builds on `base`.
fn committed(project: &Path, files: &[(&str, &[u8])], base: Option<&str>) -> (String, Vec<u8>) {
    for (name, bytes) in files {
        std::fs::create_dir_all(project.join(name).parent().unwrap()).unwrap();
        std::fs::write(project.join(name), bytes).unwrap();
    }
    git(project, &["add", "."]);
    git(project, &["commit", "--quiet", "-m", files[0].0]);
    let except = base.map(|base| format!("^{base}"));
    let arguments: Vec<&str> = ["bundle", "create", "--quiet", "../bundle", "HEAD"].into_iter().chain(except.as_deref()).collect();
    git(project, &arguments);
    (git(project, &["rev-parse", "HEAD"]), std::fs::read(project.join("../bundle")).unwrap())
}

/// Keeps a workspace with a checkpoint, as the controllers do at the end of a Machine.
async fn keep(client: &Client, name: &str, parent: Option<&str>, bundle: Option<(&str, Option<&str>, Vec<u8>)>) {
    let document = json!({
        "apiVersion": "autovibe.dev/v1alpha1", "kind": "Checkpoint", "metadata": { "name": name }, "spec": { "machine": if parent.is_some() { "m" } else { "b" } },
    });
    let object = client.create(CHECKPOINTS, &document).await.unwrap();
    let path = format!("{CHECKPOINTS}/{name}");
    let commit = bundle.as_ref().map(|(commit, ..)| *commit);
    let status = json!({ "status": { "phase": "Ready", "parent": parent, "commit": commit } });
    client.merge(&format!("{path}/status"), &status).await.unwrap();
    if let Some((commit, base, bytes)) = bundle {
        let mut request = client.request(Method::PUT, &format!("{path}/bundle")).header(COMMIT, commit);
        request = request.header(UID, object["metadata"]["uid"].as_str().unwrap());
        if let Some(base) = base {
            request = request.header(BASE_COMMIT, base);
        }
        client.json(request.body(bytes)).await.unwrap();
    }
}

#[test]
fn a_workspace_becomes_a_bundle_a_branch_and_files() {
    let data = tempfile::tempdir().unwrap();
    let place = tempfile::tempdir().unwrap();
    let project = place.path().join("project");
    std::fs::create_dir(&project).unwrap();
    git(&project, &["init", "--quiet"]);
    let proof = place.path().join("ran");
    let attributes = "* filter=evil\n";
    let (first, one) = committed(&project, &[("a.txt", b"one\n"), (".gitattributes", attributes.as_bytes())], None);
    let (second, two) = committed(&project, &[("sub/[b]", b"\xff\x00two"), ("sub/c", b"c\n")], Some(&first));

    let _hub = Hub::start(data.path(), &[&ANY_PORTS[..], &["--no-controllers"]].concat()).serves();
    rustls::crypto::ring::default_provider().install_default().ok();
    let client = Client::open(&data.path().join("kubeconfig"), None).unwrap();
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
        keep(&client, "base", None, Some((&first, None, one))).await;
        keep(&client, "between", Some("base"), None).await;
        let machine = json!({
            "apiVersion": "autovibe.dev/v1alpha1", "kind": "Machine", "metadata": { "name": "m" },
            "spec": { "from": { "checkpoint": "base" }, "goal": { "prompt": "Add sub." } },
        });
        let machines = CHECKPOINTS.replace("checkpoints", "machines");
        client.create(&machines, &machine).await.unwrap();
        let status = json!({ "status": { "usage": { "money": "1.37", "apiCalls": 12 } } });
        client.merge(&format!("{machines}/m/status"), &status).await.unwrap();
        keep(&client, "end", Some("between"), Some((&second, Some(&first), two))).await;
    });
    let at = |name: &str| place.path().join(name).display().to_string();

    // One bundle with all of the history.
    said(data.path(), &["fetch", "end", "--bundle", &at("whole.bundle")]);
    git(place.path(), &["clone", "--quiet", "whole.bundle", "clone"]);
    let clone = place.path().join("clone");
    assert_eq!((git(&clone, &["rev-parse", "HEAD"]), git(&clone, &["rev-list", "--count", "end"])), (second.clone(), "2".to_owned()));

    // A branch of a repository; it goes forward, and not back.
    let mine = place.path().join("mine");
    std::fs::create_dir(&mine).unwrap();
    git(&mine, &["init", "--quiet"]);
    for (checkpoint, commit) in [("base", &first), ("end", &second)] {
        said(data.path(), &["fetch", checkpoint, "--into", &at("mine"), "--branch", "agent/work"]);
        assert_eq!(&git(&mine, &["rev-parse", "agent/work"]), commit);
    }
    let error = refused(data.path(), &["fetch", "base", "--into", &at("mine"), "--branch", "agent/work"]);
    assert!(error.contains("non-fast-forward") && error.contains("git could not fetch branch agent/work into"), "{error}");
    assert_eq!(git(&mine, &["rev-parse", "agent/work"]), second);
    let error = refused(data.path(), &["fetch", "end", "--into", &at("mine"), "--branch", "a..b"]);
    assert!(error.contains("`a..b` cannot be the name of a branch"), "{error}");

    // Files: a list, bytes as they are, and a directory. Filters that the workspace names are not run.
    assert_eq!(said(data.path(), &["fetch", "end"]), ".gitattributes\na.txt\nsub/[b]\nsub/c\n");
    assert_eq!(autovibe(data.path(), &["fetch", "end", "--", "sub/[b]", "a.txt"]).stdout, b"\xff\x00twoone\n");
    for (path, expect) in [("sub", "is a directory"), ("nothing", "has no file nothing"), ("../a.txt", "has no file")] {
        let error = refused(data.path(), &["fetch", "end", "--", path]);
        assert!(error.contains(expect), "{error}");
    }
    git(place.path(), &["config", "--file", "config", "filter.evil.smudge", &format!("touch {}; cat", proof.display())]);
    let output = Command::new(env!("CARGO_BIN_EXE_autovibe"))
        .arg("--data")
        .arg(data.path())
        .args(["fetch", "end", "--to", &at("files"), "--", "sub/[b]", "a.txt"])
        .env("GIT_CONFIG_GLOBAL", place.path().join("config"))
        .output();
    assert!(output.unwrap().status.success());
    let files = place.path().join("files");
    assert_eq!(std::fs::read(files.join("sub/[b]")).unwrap(), b"\xff\x00two");
    assert!(files.join("a.txt").exists() && !files.join("sub/c").exists() && !proof.exists());
    let error = refused(data.path(), &["fetch", "end", "--to", &at("files")]);
    assert!(error.contains("is not empty"), "{error}");

    // To where others find it.
    git(place.path(), &["init", "--quiet", "--bare", "origin.git"]);
    let push = |checkpoint: &str| autovibe(data.path(), &["push", checkpoint, "--to", &at("origin.git"), "--branch", "topic"]);
    assert!(push("end").status.success());
    assert_eq!(git(&place.path().join("origin.git"), &["rev-parse", "topic"]), second);
    let back = push("base");
    assert_eq!(back.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&back.stderr).contains("could not push branch topic to"), "{back:?}");
    assert_eq!(git(&place.path().join("origin.git"), &["rev-parse", "topic"]), second);
    let error = refused(data.path(), &["push", "end", "--to", "https://me:hunter2@git.example/x", "--branch", "topic"]);
    assert!(error.contains("credential helper") && !error.contains("hunter2"), "{error}");

    // What is on the disk alone says how it is got.
    let error = refused(data.path(), &["fetch", "between"]);
    assert!(error.contains("spec.from.checkpoint: between") && error.contains("type: Command"), "{error}");
    let error = refused(data.path(), &["fetch", "nowhere"]);
    assert!(error.contains("there is no checkpoint or machine nowhere"), "{error}");
    let diff = autovibe(data.path(), &["diff", "base", "end", "--stat"]);
    assert!(String::from_utf8_lossy(&diff.stdout).contains("2 files changed"), "{diff:?}");
    assert_eq!(String::from_utf8_lossy(&diff.stderr), "machine/m: $1.37, 12 calls  “Add sub.”\n");
}
