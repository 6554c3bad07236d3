//! Bundles of real directories and repositories, cloned again.

use super::*;
use std::process::Command;

fn git(directory: &Path, arguments: &[&str]) -> String {
    let mut command = Command::new("git");
    command.args([
        "-c",
        "user.name=t",
        "-c",
        "user.email=t@localhost",
        "-c",
        "init.defaultBranch=trunk",
        "-c",
        "protocol.file.allow=always",
    ]);
    let output = command.args(arguments).current_dir(directory).output().unwrap();
    assert!(output.status.success(), "git {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

fn write(path: &Path, text: &str) {
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(path, text).unwrap();
}

fn directory(path: &Path, reference: Option<&str>, root: &Path) -> Source {
    Source { origin: Origin::Directory(path.into()), reference: reference.map(Into::into), roots: vec![root.into()], credential: None }
}

fn repository(url: &str, reference: Option<&str>, root: &Path) -> Source {
    Source { origin: Origin::Repository(url.into()), reference: reference.map(Into::into), roots: vec![root.into()], credential: None }
}

/// What a guest does with it.
fn cloned(bundle: &Bundle, into: &Path) -> PathBuf {
    let file = into.join("b.bundle");
    std::fs::write(&file, &bundle.bytes).unwrap();
    let target = into.join("clone");
    git(into, &["clone", "--quiet", file.to_str().unwrap(), target.to_str().unwrap()]);
    assert_eq!(git(&target, &["rev-parse", "HEAD"]), bundle.commit);
    assert_eq!(git(&target, &["symbolic-ref", "--short", "HEAD"]), bundle.branch);
    target
}

#[tokio::test]
async fn a_plain_directory_becomes_one_commit_the_same_each_time() {
    let temp = tempfile::tempdir().unwrap();
    let project = temp.path().join("project");
    write(&project.join("a.py"), "print()\n");
    write(&project.join("sub/.gitignore"), "*.log\n");
    write(&project.join("sub/x.log"), "noise\n");
    std::os::unix::fs::symlink("/etc/passwd", project.join("link")).unwrap();
    let first = bundle(&directory(&project, None, temp.path())).await.unwrap();
    let second = bundle(&directory(&project, None, temp.path())).await.unwrap();
    assert_eq!(first.commit, second.commit);
    let clone = cloned(&first, temp.path());
    assert_eq!(std::fs::read_to_string(clone.join("a.py")).unwrap(), "print()\n");
    assert!(!clone.join("sub/x.log").exists(), "ignored files stay behind");
    assert_eq!(std::fs::read_link(clone.join("link")).unwrap(), Path::new("/etc/passwd"), "links are kept, not followed");
    assert_eq!(git(&clone, &["rev-list", "--count", "HEAD"]), "1");
}

#[tokio::test]
async fn a_repository_directory_is_taken_as_it_stands_and_its_configuration_is_not_run() {
    let temp = tempfile::tempdir().unwrap();
    let project = temp.path().join("project");
    write(&project.join("a"), "one\n");
    git(&project, &["init", "--quiet"]);
    git(&project, &["add", "."]);
    git(&project, &["commit", "--quiet", "-m", "one"]);
    write(&project.join("a"), "changed\n");
    let proof = temp.path().join("ran");
    write(&project.join(".gitattributes"), "* filter=evil\n");
    git(&project, &["config", "filter.evil.clean", &format!("touch {}; cat", proof.display())]);
    git(&project, &["config", "core.fsmonitor", &format!("touch {}", proof.display())]);
    let made = bundle(&directory(&project, None, temp.path())).await.unwrap();
    let clone = cloned(&made, temp.path());
    assert_eq!(std::fs::read_to_string(clone.join("a")).unwrap(), "changed\n");
    assert!(!proof.exists(), "configuration of the source was executed");
}

#[tokio::test]
async fn a_reference_gives_that_commit_with_its_history() {
    let temp = tempfile::tempdir().unwrap();
    let project = temp.path().join("project");
    write(&project.join("a"), "one\n");
    git(&project, &["init", "--quiet"]);
    git(&project, &["add", "."]);
    git(&project, &["commit", "--quiet", "-m", "one"]);
    git(&project, &["tag", "v1"]);
    let first = git(&project, &["rev-parse", "HEAD"]);
    git(&project, &["checkout", "--quiet", "-b", "feature/x"]);
    write(&project.join("a"), "two\n");
    git(&project, &["commit", "--quiet", "-am", "two"]);
    let second = git(&project, &["rev-parse", "HEAD"]);
    git(&project, &["checkout", "--quiet", "trunk"]);
    let url = format!("file://{}", project.display());

    for (source, commit, branch) in [
        (directory(&project, Some("v1"), temp.path()), &first, "main"),
        (directory(&project, Some("feature/x"), temp.path()), &second, "feature/x"),
        (repository(&url, None, temp.path()), &first, "trunk"),
        (repository(&url, Some(&second[..10]), temp.path()), &second, "main"),
    ] {
        let made = bundle(&source).await.unwrap();
        assert_eq!((&made.commit, made.branch.as_str()), (commit, branch), "{source:?}");
        let place = tempfile::tempdir().unwrap();
        cloned(&made, place.path());
    }
    for wrong in ["nowhere", "--upload-pack=x", "a..b"] {
        let error = bundle(&repository(&url, Some(wrong), temp.path())).await.unwrap_err();
        assert!(matches!(&error, Error::NoReference { reference, .. } if reference == wrong), "{wrong}: {error}");
    }
}

#[tokio::test]
async fn what_the_hub_may_not_read_is_refused_before_anything_runs() {
    let temp = tempfile::tempdir().unwrap();
    let outside = tempfile::tempdir().unwrap();
    write(&outside.path().join("secret"), "s\n");
    std::os::unix::fs::symlink(outside.path(), temp.path().join("link")).unwrap();
    for source in [
        directory(outside.path(), None, temp.path()),
        directory(&temp.path().join("link"), None, temp.path()),
        repository(&format!("file://{}", outside.path().display()), None, temp.path()),
        repository("http://example.com/x.git", None, temp.path()),
        repository("ext::sh -c id", None, temp.path()),
        repository("--upload-pack=id", None, temp.path()),
        repository("/etc", None, temp.path()),
        repository("https://user:hunter2@example.com/x.git", None, temp.path()),
    ] {
        let error = bundle(&source).await.unwrap_err();
        assert!(matches!(error, Error::NotAllowed(_)), "{source:?}: {error}");
        assert!(!error.to_string().contains("hunter2"), "{error}");
        assert!(!error.is_transient());
    }
    let missing = bundle(&directory(&temp.path().join("missing"), None, temp.path())).await.unwrap_err();
    assert!(matches!(missing, Error::NotFound(_)));
}

#[tokio::test]
async fn an_empty_directory_and_a_nested_repository_are_named() {
    let temp = tempfile::tempdir().unwrap();
    let project = temp.path().join("project");
    std::fs::create_dir(&project).unwrap();
    assert!(matches!(bundle(&directory(&project, None, temp.path())).await.unwrap_err(), Error::Empty(_)));
    write(&project.join("inner/a"), "one\n");
    git(&project.join("inner"), &["init", "--quiet"]);
    git(&project.join("inner"), &["add", "."]);
    git(&project.join("inner"), &["commit", "--quiet", "-m", "one"]);
    let error = bundle(&directory(&project, None, temp.path())).await.unwrap_err();
    assert!(error.to_string().contains("inner"), "{error}");
}

#[tokio::test]
async fn the_scratch_directory_goes() {
    let path = {
        let scratch = Scratch::new().unwrap();
        scratch.path().to_owned()
    };
    assert!(!path.exists());
}

#[tokio::test]
async fn bundles_that_build_on_each_other_are_compared() {
    let temp = tempfile::tempdir().unwrap();
    let project = temp.path().join("project");
    write(&project.join("a"), "one\n");
    git(&project, &["init", "--quiet"]);
    git(&project, &["add", "."]);
    git(&project, &["commit", "--quiet", "-m", "one"]);
    let first = git(&project, &["rev-parse", "HEAD"]);
    git(&project, &["bundle", "create", "--quiet", "../1", "HEAD"]);
    write(&project.join("b"), "two\n");
    git(&project, &["add", "."]);
    git(&project, &["commit", "--quiet", "-m", "two"]);
    let second = git(&project, &["rev-parse", "HEAD"]);
    git(&project, &["bundle", "create", "--quiet", "../2", "HEAD", &format!("^{first}")]);
    let bundles: Vec<Vec<u8>> = ["1", "2"].iter().map(|n| std::fs::read(temp.path().join(n)).unwrap()).collect();

    let both = Comparison { bundles: bundles.clone(), from: Some(first.clone()), to: second.clone() };
    let text = compare(&both, Detail::Full, false).await.unwrap();
    assert!(text.contains("+++ b/b") && text.contains("+two") && !text.contains("+one"), "{text}");
    assert!(compare(&both, Detail::Stat, false).await.unwrap().contains("1 file changed"));
    let everything = compare(&Comparison { from: None, ..both.clone() }, Detail::Full, false).await.unwrap();
    assert!(everything.contains("+one") && everything.contains("+two"), "{everything}");
    assert_eq!(compare(&Comparison { from: Some(second.clone()), ..both.clone() }, Detail::Full, false).await.unwrap(), "");
    let broken = Comparison { bundles: bundles[1..].to_vec(), ..both };
    assert!(matches!(compare(&broken, Detail::Full, false).await, Err(Error::Failed { .. })));
}

/// A bare repository of people with one commit, a clone of it, and that commit.
fn upstream(temp: &Path) -> (PathBuf, PathBuf, String) {
    let (bare, clone) = (temp.join("up.git"), temp.join("up"));
    git(temp, &["init", "--quiet", "--bare", bare.to_str().unwrap()]);
    git(temp, &["clone", "--quiet", bare.to_str().unwrap(), clone.to_str().unwrap()]);
    write(&clone.join("a"), "one\n");
    git(&clone, &["add", "."]);
    git(&clone, &["commit", "--quiet", "-m", "begun"]);
    git(&clone, &["push", "--quiet", "origin", "HEAD:trunk"]);
    let commit = git(&clone, &["rev-parse", "HEAD"]);
    (bare, clone, commit)
}

/// What a guest's script makes of a workspace: a commit without history, or on an earlier one; and a bundle of it since that.
fn kept(temp: &Path, name: &str, files: &[(&str, &str)], base: Option<&str>, source: &str) -> (Vec<u8>, String) {
    let work = temp.join("guest");
    std::fs::create_dir_all(&work).unwrap();
    if !work.join(".git").exists() {
        git(&work, &["init", "--quiet"]);
    }
    for (path, text) in files {
        write(&work.join(path), text);
    }
    git(&work, &["add", "."]);
    let tree = git(&work, &["write-tree"]);
    let source = format!("Source: {source}");
    let mut arguments = vec!["commit-tree", &tree, "-m", name, "-m", "Source: of the prompt", "-m", &source];
    arguments.extend(base.iter().flat_map(|base| ["-p", base]));
    let commit = git(&work, &arguments);
    let reference = format!("refs/autovibe/{name}");
    git(&work, &["update-ref", &reference, &commit]);
    let file = temp.join(format!("{name}.bundle"));
    let since = base.map(|base| format!("^{base}"));
    let mut arguments = vec!["bundle", "create", "-q", file.to_str().unwrap(), &reference];
    arguments.extend(since.as_deref());
    git(&work, &arguments);
    (std::fs::read(file).unwrap(), commit)
}

#[tokio::test]
async fn a_workspace_is_pushed_on_top_of_what_it_began_from() {
    let temp = tempfile::tempdir().unwrap();
    let temp = temp.path();
    let (bare, clone, began) = upstream(temp);
    // People went on meanwhile.
    write(&clone.join("b"), "theirs\n");
    git(&clone, &["add", "."]);
    git(&clone, &["commit", "--quiet", "-m", "theirs"]);
    git(&clone, &["push", "--quiet", "origin", "HEAD:trunk"]);
    let (first, one) = kept(temp, "First", &[("a", "one\ntwo\n")], None, &began);
    let target = |branch: &str| Target {
        url: format!("file://{}", bare.display()),
        branch: branch.into(),
        credential: None,
        roots: vec![temp.into()],
    };
    let pushed = deliver(std::slice::from_ref(&first), &one, &target("autovibe/a")).await.unwrap();
    assert_eq!(git(&bare, &["rev-parse", "refs/heads/autovibe/a"]), pushed);
    assert_eq!(git(&bare, &["merge-base", "trunk", "autovibe/a"]), began, "it can be merged");
    assert_eq!(git(&bare, &["diff", "--name-only", &began, &pushed]), "a");
    assert_eq!(git(&bare, &["log", "-1", "--format=%B", &pushed]), "First\n\nSource: of the prompt", "the prompt's own words stay");
    // Repeated, it is the same; what builds on it moves the branch on.
    assert_eq!(deliver(std::slice::from_ref(&first), &one, &target("autovibe/a")).await.unwrap(), pushed);
    let (second, two) = kept(temp, "Second", &[("c", "three\n")], Some(&one), &began);
    let chain = [first.clone(), second];
    let later = deliver(&chain, &two, &target("autovibe/a")).await.unwrap();
    assert_eq!(git(&bare, &["rev-parse", &format!("{later}^")]), pushed);
    // Never by force: neither back nor aside.
    for (bundles, commit, branch) in [(&chain[..1], &one, "autovibe/a"), (&chain[..], &two, "trunk")] {
        let refused = deliver(bundles, commit, &target(branch)).await.unwrap_err();
        assert!(matches!(&refused, Error::Diverged { branch: named, .. } if named == branch), "{refused}");
        assert!(!refused.is_transient());
    }
    assert_eq!(git(&bare, &["rev-parse", "autovibe/a"]), later);
    // One that never had it gets all of it, for what it is.
    let other = temp.join("other.git");
    git(temp, &["init", "--quiet", "--bare", other.to_str().unwrap()]);
    let elsewhere = Target { url: format!("file://{}", other.display()), ..target("x") };
    deliver(&chain, &two, &elsewhere).await.unwrap();
    assert_eq!(git(&other, &["rev-list", "--count", "x"]), "2");
    for (wrong, why) in [
        (Target { branch: "a..b".into(), ..target("x") }, "cannot be the name of a branch"),
        (Target { url: "https://me:secret@host/x".into(), ..target("x") }, "carries a password"),
        (Target { url: format!("file://{}", bare.display()), roots: Vec::new(), ..target("x") }, "may read"),
        (Target { url: "ext::sh -c id".into(), ..target("x") }, "not a URL that this hub fetches"),
    ] {
        let refused = deliver(&chain, &two, &wrong).await.unwrap_err().to_string();
        assert!(refused.contains(why) && !refused.contains("secret"), "{refused}");
    }
}

#[tokio::test]
async fn a_password_is_given_to_git_alone_and_stands_on_no_command_line() {
    let temp = tempfile::tempdir().unwrap();
    let mut command = tokio::process::Command::new("git");
    let credential = Credential::Basic { username: "me".into(), password: "p'a\"ss $x".to_owned().into() };
    credential.give(&mut command, "https://example.org/a.git", temp.path()).unwrap();
    let shown = format!("{:?}", command.as_std().get_args().collect::<Vec<_>>());
    assert!(!shown.contains("p'a"), "{shown}");
    assert!(!format!("{credential:?}").contains("p'a"));
    command.args(["credential", "fill"]).env("GIT_TERMINAL_PROMPT", "0").env("HOME", temp.path()).stdin(std::process::Stdio::piped());
    let mut child = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
    let asked = b"protocol=https\nhost=example.org\n\n";
    tokio::io::AsyncWriteExt::write_all(&mut child.stdin.take().unwrap(), asked).await.unwrap();
    let said = String::from_utf8(child.wait_with_output().await.unwrap().stdout).unwrap();
    assert!(said.contains("username=me\npassword=p'a\"ss $x\n"), "{said}");
}

#[tokio::test]
async fn a_password_is_for_the_server_of_its_url_alone() {
    let temp = tempfile::tempdir().unwrap();
    let mut command = tokio::process::Command::new("git");
    let credential = Credential::Basic { username: "me".into(), password: "secret".to_owned().into() };
    credential.give(&mut command, "https://example.org/a.git", temp.path()).unwrap();
    command.args(["credential", "fill"]).env("GIT_TERMINAL_PROMPT", "0").env("HOME", temp.path()).stdin(std::process::Stdio::piped());
    let mut child = command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::null()).spawn().unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut child.stdin.take().unwrap(), b"protocol=https\nhost=evil.example\n\n").await.unwrap();
    let said = String::from_utf8(child.wait_with_output().await.unwrap().stdout).unwrap();
    assert!(!said.contains("secret"), "{said}");
}

#[test]
fn without_a_credential_the_hub_is_nobody() {
    let temp = tempfile::tempdir().unwrap();
    let command = command::Git::new(temp.path().join("repository.git"), "https://example.org/a.git".into()).command().unwrap();
    let of = |name: &str| command.as_std().get_envs().find(|(key, _)| *key == name).and_then(|(_, value)| value).unwrap().to_owned();
    assert_eq!(of("HOME"), temp.path());
    assert!(of("GIT_SSH_COMMAND").to_str().unwrap().contains("IdentityAgent=none"));
    assert!(command.as_std().get_args().any(|word| word == "credential.helper="), "those of the machine are left out");
}
