//! `spec.push` and private sources: the hub's own way to git repositories, over a real sshd.

use super::stage::{NAMESPACE, Stage, status};
use crate::ssh::sshd::Sshd;
use autovibe::api::Machine;
use autovibe::api::machine::{Phase, Push};
use autovibe::objects::WriteOptions;
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;

fn git(directory: &Path, arguments: &[&str]) -> String {
    let mut command = Command::new("git");
    command.args(["-c", "user.name=t", "-c", "user.email=t@localhost", "-c", "init.defaultBranch=main"]).args(arguments);
    let output = command.current_dir(directory).output().unwrap();
    assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

async fn secret(stage: &Stage, name: &str, values: Value) {
    let secrets = autovibe::admission::resources().iter().find(|resource| resource.plural == "secrets").unwrap();
    let document =
        json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": name, "namespace": NAMESPACE }, "stringData": values });
    stage.objects().create_document(secrets, NAMESPACE, document, &WriteOptions::default()).await.unwrap();
}

fn told(machine: &Machine) -> (String, String, String) {
    let found = status(machine).conditions.into_iter().find(|condition| condition.type_ == "Pushed");
    found.map(|condition| (condition.status, condition.reason, condition.message)).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_private_repository_is_read_and_the_work_goes_back_as_a_branch() {
    let name = "a_private_repository_is_read_and_the_work_goes_back_as_a_branch";
    // Whoever has the key may run git there.
    let Some(sshd) = Sshd::with_command(name, "eval $SSH_ORIGINAL_COMMAND") else { return };
    let home = tempfile::tempdir().unwrap();
    let (bare, clone) = (home.path().join("up.git"), home.path().join("up"));
    git(home.path(), &["init", "--quiet", "--bare", bare.to_str().unwrap()]);
    git(home.path(), &["clone", "--quiet", bare.to_str().unwrap(), clone.to_str().unwrap()]);
    std::fs::write(clone.join("a"), "one\n").unwrap();
    git(&clone, &["add", "."]);
    git(&clone, &["commit", "--quiet", "-m", "begun"]);
    git(&clone, &["push", "--quiet", "origin", "HEAD:main"]);
    let url = format!("ssh://{}@127.0.0.1:{}{}", sshd.user(), sshd.port, bare.display());
    let known = format!("[127.0.0.1]:{} {}", sshd.port, sshd.host_key);

    let mut stage = Stage::new().await;
    secret(&stage, "repository", json!({ "ssh-privatekey": sshd.key(), "known_hosts": known })).await;
    secret(&stage, "stranger", json!({ "ssh-privatekey": sshd.key(), "known_hosts": format!("[127.0.0.1]:{} ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJX5/pjDrSOjqwBXTmvvbyZfGzZLcYYzdB2nyY7UtFH7", sshd.port) })).await;
    secret(&stage, "empty", json!({ "token": "x" })).await;
    let source = json!({ "git": url, "credentialsSecretRef": { "name": "repository" } });
    stage.create("a", json!({ "source": source, "push": {} })).await;
    let machine = stage.until("a", "pushed", |machine| status(machine).pushed.is_some()).await;
    let pushed = status(&machine).pushed.unwrap();
    assert_eq!((pushed.git.as_str(), pushed.branch.as_str()), (url.as_str(), "autovibe/a"));
    assert_eq!(git(&bare, &["rev-parse", "autovibe/a"]), pushed.commit);
    assert_eq!(git(&bare, &["show", "autovibe/a:a"]), "one");
    assert_eq!((told(&machine).0.as_str(), status(&machine).phase), ("True", Phase::Succeeded));
    // The hub's own key is in no object but its Secret.
    assert!(!serde_json::to_string(&machine).unwrap().contains("PRIVATE KEY"));

    // Once is enough, also for a hub that was killed; a changed branch is pushed too.
    git(&bare, &["update-ref", "-d", "refs/heads/autovibe/a"]);
    stage.stop().await;
    stage.start(None).await;
    stage.change("a", |machine| machine.spec.push = Some(Push { branch: Some("again".into()), ..Push::default() })).await;
    stage.until("a", "pushed again", |machine| status(machine).pushed.is_some_and(|pushed| pushed.branch == "again")).await;
    assert_eq!(git(&bare, &["for-each-ref", "--format=%(refname:short)", "refs/heads"]), "again\nmain");

    // What cannot be: the Machine has succeeded all the same, says why, and nothing there is changed.
    let before = git(&bare, &["rev-parse", "main"]);
    git(&clone, &["commit", "--quiet", "--allow-empty", "-m", "theirs"]);
    git(&clone, &["push", "--quiet", "origin", "HEAD:refs/heads/theirs"]);
    let table = [
        ("b", json!({ "branch": "theirs" }), "PushFailed", "branch theirs of ssh://"),
        ("c", json!({ "credentialsSecretRef": { "name": "stranger" } }), "PushFailed", "Host key verification failed"),
        ("d", json!({ "credentialsSecretRef": { "name": "empty" } }), "CredentialMissing", "has neither ssh-privatekey nor password"),
        ("e", json!({ "credentialsSecretRef": { "name": "nobody" } }), "CredentialMissing", "Secret default/nobody has neither"),
        ("f", json!({ "git": "file:///etc" }), "PushFailed", "not below a directory that this hub may read"),
    ];
    for (name, push, reason, why) in table {
        stage.create(name, json!({ "source": source, "push": push })).await;
        let machine = stage.until(name, "refused", |machine| told(machine).0 == "False").await;
        let (_, found, message) = told(&machine);
        assert!(found == reason && message.contains(why), "{name}: {found}: {message}");
        assert_eq!((status(&machine).phase, status(&machine).pushed), (Phase::Succeeded, None));
    }
    assert_eq!(git(&bare, &["rev-parse", "main"]), before);
    // One that names another branch goes on to it.
    stage.change("b", |machine| machine.spec.push = Some(Push { branch: Some("mine".into()), ..Push::default() })).await;
    let machine = stage.until("b", "pushed", |machine| status(machine).pushed.is_some()).await;
    assert_eq!(told(&machine).0, "True");
    stage.stop().await;
}
