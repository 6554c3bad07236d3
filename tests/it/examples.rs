//! The examples: every file is taken by the admission that a hub has, and the quickstart's conversation fits its project.

use autovibe::admission::resources;
use autovibe::api::{Machine, Scope};
use autovibe::clock::Clock;
use autovibe::llm::replay;
use autovibe::objects::{Cipher, FieldValidation, Objects, WriteOptions};
use autovibe::store::Store;
use serde::Deserialize;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn files(below: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(below).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found.sort();
    found
}

fn documents(file: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(file).unwrap();
    let parse =
        |part| serde_json::to_value(serde_yaml::Value::deserialize(part).unwrap_or_else(|e| panic!("{}: {e}", file.display()))).unwrap();
    serde_yaml::Deserializer::from_str(&text).map(parse).filter(|document| !document.is_null()).collect()
}

/// YAML files that hold objects: what `autovibe apply -f DIR` and `kubectl apply -f DIR` read.
fn manifests() -> Vec<PathBuf> {
    let found: Vec<PathBuf> = files(&root().join("examples")).into_iter().filter(|f| f.extension().is_some_and(|e| e == "yaml")).collect();
    found.into_iter().filter(|file| file.parent().is_none_or(|directory| !directory.ends_with("replay"))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_manifest_is_admitted() {
    let directory = tempfile::tempdir().unwrap();
    let store = Store::open(&directory.path().join("autovibe.db")).await.unwrap();
    let objects = Objects::new(store, Clock::system(), Cipher::load(&directory.path().join("key")).unwrap());
    let options = WriteOptions { field_validation: FieldValidation::Strict, field_manager: "test".into(), ..WriteOptions::default() };
    let mut kinds = std::collections::BTreeSet::new();
    for file in manifests() {
        // Namespaces first, as apply does.
        let mut documents = documents(&file);
        documents.sort_by_key(|document| document["kind"] != "Namespace");
        assert!(!documents.is_empty(), "{} holds nothing", file.display());
        for document in documents {
            let (kind, name) = (document["kind"].as_str().unwrap().to_owned(), document["metadata"]["name"].clone());
            let resource = resources()
                .iter()
                .find(|r| r.kind == kind && r.api_version() == document["apiVersion"])
                .unwrap_or_else(|| panic!("{kind} is not served"));
            let namespace = if resource.scope == Scope::Cluster {
                ""
            } else {
                document["metadata"]["namespace"].as_str().expect("the examples name their namespace")
            };
            let result = objects.create_document(resource, namespace, document.clone(), &options).await;
            match result {
                // Several directories may bring the same Hub.
                Ok(_) | Err(autovibe::objects::Error::AlreadyExists { .. }) => {}
                Err(error) => panic!("{}: {kind} {name}: {error}", file.display()),
            }
            kinds.insert(kind);
        }
    }
    assert_eq!(kinds.into_iter().collect::<Vec<_>>(), ["Budget", "Checkpoint", "Hub", "Machine", "Namespace"]);
}

#[test]
fn paths_in_the_manifests_are_there() {
    for file in manifests() {
        for document in documents(&file) {
            let mut paths: Vec<Value> = vec![document["spec"]["source"]["directory"].clone()];
            paths.extend(document["spec"]["providers"].as_array().into_iter().flatten().map(|provider| provider["replay"]["file"].clone()));
            for path in paths.iter().filter_map(Value::as_str) {
                assert!(root().join(path).exists(), "{}: {path} does not exist", file.display());
            }
        }
    }
}

fn conversations() -> replay::File {
    replay::parse(&std::fs::read_to_string(root().join("examples/quickstart/replay/conversation.yaml")).unwrap()).unwrap()
}

fn machines() -> Vec<Machine> {
    let all = documents(&root().join("examples/quickstart/machines.yaml"));
    all.into_iter().filter(|document| document["kind"] == "Machine").map(|document| serde_json::from_value(document).unwrap()).collect()
}

#[test]
fn each_goal_of_the_quickstart_has_one_conversation() {
    let written = conversations();
    for machine in machines() {
        let prompt = machine.spec.goal.prompt.to_lowercase();
        let found = written.conversations.iter().filter(|c| prompt.contains(&c.pattern.to_lowercase())).count();
        assert_eq!(found, 1, "{prompt}");
    }
}

/// Plays the written tools on a copy of the project, as an agent would, and verifies after each goal what its Machine verifies.
#[test]
fn the_conversation_fits_the_project() {
    if Command::new("python3").arg("--version").output().is_err() {
        eprintln!("SKIPPED the_conversation_fits_the_project: python3 is missing here");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let workspace = directory.path().join("todo");
    let project = root().join("examples/quickstart/project");
    for file in files(&project).into_iter().filter(|file| !file.components().any(|part| part.as_os_str() == "__pycache__")) {
        let target = workspace.join(file.strip_prefix(&project).unwrap());
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
        std::fs::copy(&file, target).unwrap();
    }
    let shell = |script: &str| {
        Command::new("bash").args(["-c", script]).current_dir(&workspace).env("PYTHONDONTWRITEBYTECODE", "1").output().unwrap()
    };
    assert!(shell("git init -q . && git add -A && git -c user.name=t -c user.email=t@localhost commit -qm source").status.success());

    let mut outputs = String::new();
    for (machine, conversation) in machines().iter().zip(conversations().conversations) {
        let place = |text: &Value| text.as_str().unwrap().replace(machine.workspace(), workspace.to_str().unwrap());
        let mut read = std::collections::BTreeSet::new();
        for tool in conversation.turns.iter().flat_map(|turn| &turn.tools) {
            let input = &tool.input;
            match tool.name.as_str() {
                "Read" => drop(read.insert(place(&input["file_path"]))),
                "Write" => {
                    let path = place(&input["file_path"]);
                    assert!(read.contains(&path) || !Path::new(&path).exists(), "Claude Code refuses to overwrite {path} unread");
                    std::fs::write(path, input["content"].as_str().unwrap()).unwrap();
                }
                "Edit" => {
                    let path = place(&input["file_path"]);
                    assert!(read.contains(&path), "Claude Code refuses to edit {path} unread");
                    let text = std::fs::read_to_string(&path).unwrap();
                    let (old, new) = (input["old_string"].as_str().unwrap(), input["new_string"].as_str().unwrap());
                    assert_eq!(text.matches(old).count(), 1, "{path} has not once: {old}");
                    std::fs::write(&path, text.replace(old, new)).unwrap();
                }
                "Bash" => {
                    let output = shell(&place(&input["command"]));
                    outputs += &String::from_utf8_lossy(&output.stdout);
                    assert!(output.status.success(), "{}: {}", input["command"], String::from_utf8_lossy(&output.stderr));
                }
                other => panic!("the quickstart does not use {other}"),
            }
        }
        let verify = machine.spec.goal.verify.as_ref().unwrap();
        let verdict = Command::new(&verify.command[0]).args(&verify.command[1..]).current_dir(&workspace).output().unwrap();
        assert!(verdict.status.success(), "{}: {}", conversation.pattern, String::from_utf8_lossy(&verdict.stderr));
    }
    assert!(outputs.contains("FAILED (errors=2)") && outputs.contains("Ran 11 tests"), "goal 2 finds a fault and mends it:\n{outputs}");
    assert!(json!(outputs).to_string().contains("log in first"), "{outputs}");
}
