use super::scripts::{self, Verb};
use super::*;
use crate::api::machine::Agent;
use rand::{Rng, SeedableRng, rngs::StdRng};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// A scratch guest on this machine: a root directory, and the shell that runs the scripts.
struct Guest {
    root: tempfile::TempDir,
    shell: Vec<String>,
    path: String,
    user: &'static str,
}

/// The host's own shell, and busybox with nothing but its applets in front.
fn guests() -> Vec<Guest> {
    let new = |shell: &[&str], path: &str| Guest {
        root: tempfile::tempdir().unwrap(),
        shell: shell.iter().map(|s| (*s).to_owned()).collect(),
        path: path.to_owned(),
        user: "no-such-user",
    };
    let mut guests = vec![new(&["/bin/sh"], "/usr/bin:/bin")];
    if Command::new("busybox").arg("true").status().is_ok_and(|s| s.success()) {
        let mut guest = new(&["busybox", "sh"], "");
        let applets = guest.root.path().join("applets");
        std::fs::create_dir(&applets).unwrap();
        assert!(Command::new("busybox").args(["--install", "-s"]).arg(&applets).status().unwrap().success());
        guest.path = format!("{}:/usr/bin:/bin", applets.display());
        guests.push(guest);
    } else {
        eprintln!("SKIPPED guest scripts under busybox: it is not installed");
    }
    guests
}

impl Guest {
    fn state(&self) -> PathBuf {
        self.root.path().join("var/lib/autovibe")
    }
    fn workspace(&self) -> String {
        self.root.path().join("home/agent/it's a workspace").display().to_string()
    }
    fn run(&self, verb: Verb, args: &[&str], input: &str) -> Output {
        let mut child = self.spawn(verb, args);
        child.stdin.take().unwrap().write_all(input.as_bytes()).ok();
        child.wait_with_output().unwrap()
    }
    fn spawn(&self, verb: Verb, args: &[&str]) -> Child {
        Command::new(&self.shell[0])
            .args(&self.shell[1..])
            .args(["-c", verb.script, verb.name])
            .args(args)
            .env_clear()
            .env("PATH", &self.path)
            .env("AUTOVIBE_ROOT", self.root.path())
            .env("AUTOVIBE_USER", self.user)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap()
    }
    fn ok(&self, verb: Verb, args: &[&str], input: &str) -> String {
        let output = self.run(verb, args, input);
        assert!(output.status.success(), "{} {args:?}: {output:?}", verb.name);
        String::from_utf8(output.stdout).unwrap()
    }
    fn status(&self) -> String {
        self.ok(scripts::STATUS, &[], "")
    }
    fn launch(&self, number: u32, gateway: &str, argv: &[&str]) {
        let environment = [
            ("AUTOVIBE_SESSION", "s"),
            ("AUTOVIBE_PROMPT", "p"),
            ("AUTOVIBE_CONTINUE", "c"),
            ("AUTOVIBE_GATEWAY", gateway),
            ("AUTOVIBE_TOKEN", "av_1"),
            ("AUTOVIBE_WORKSPACE", &self.workspace()),
            ("HOME", "/"),
        ]
        .into_iter()
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .collect();
        let number = number.to_string();
        let args: Vec<&str> = std::iter::once(number.as_str()).chain(argv.iter().copied()).collect();
        self.ok(scripts::LAUNCH, &args, &format!("avr_key\n{}", exports(&environment)));
    }
    fn await_status(&self, wanted: &str) {
        until(|| self.status() == wanted, || format!("status {wanted:?}, is {:?}", self.status()));
    }
}

fn until(condition: impl Fn() -> bool, what: impl Fn() -> String) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < Duration::from_secs(20), "waited in vain for {}", what());
        std::thread::yield_now();
    }
}

#[test]
fn exports_survive_every_shell() {
    let mut random = StdRng::seed_from_u64(7);
    let alphabet: Vec<char> = "'\"\\`$(){};|&<>*?~#!%-=\n\t\r äé\u{1f600}abcZ09\0".chars().collect();
    let environment: BTreeMap<String, String> = (0..60)
        .map(|i| (format!("K{i}"), (0..random.random_range(0..40)).map(|_| alphabet[random.random_range(0..alphabet.len())]).collect()))
        .chain([("QUOTE".to_owned(), "'".to_owned()), ("END".to_owned(), "ends with newlines\n\n".to_owned())])
        .collect();
    for guest in guests() {
        for (name, value) in &environment {
            let script = format!("{}printf %s \"${name}\"", exports(&environment));
            let output = Command::new(&guest.shell[0]).args(&guest.shell[1..]).args(["-c", &script]).output().unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), value.replace('\0', ""), "{name}");
        }
    }
}

#[test]
fn a_name_that_is_no_name_is_not_exported() {
    let environment = [("A;reboot".to_owned(), String::new()), ("1A".to_owned(), String::new()), (String::new(), String::new())].into();
    assert_eq!(exports(&environment), "");
}

#[test]
fn a_launch_starts_once_and_its_exit_code_is_kept() {
    for guest in guests() {
        assert_eq!(guest.status(), "state=none\n");
        let go = guest.root.path().join("go");
        let started = guest.root.path().join("started");
        let script = format!("echo x >>'{}'; until [ -e '{}' ]; do sleep 0.02; done; pwd; exit \"$1\"", started.display(), go.display());
        for _ in 0..2 {
            guest.launch(1, "", &["/bin/sh", "-c", &script, "agent's", "7"]);
        }
        guest.await_status("state=running\nlaunch=1\n");
        until(|| started.exists(), || "the agent".into());
        assert_eq!(guest.run(scripts::LAUNCH, &["2", "true"], "").status.code(), Some(75), "two launches at once");
        std::fs::write(&go, "").unwrap();
        guest.await_status("state=exited\nlaunch=1\nexit=7\n");
        assert_eq!(std::fs::read_to_string(&started).unwrap(), "x\n");
        assert_eq!(std::fs::read_to_string(guest.state().join("agent.log")).unwrap().trim_end(), guest.workspace());
        guest.launch(2, "", &["/bin/sh", "-c", "exit 0"]);
        guest.await_status("state=exited\nlaunch=2\nexit=0\n");
    }
}

#[test]
fn a_stopped_agent_ends_with_all_its_children_even_if_it_ignores_the_signal() {
    for guest in guests() {
        let mark = guest.root.path().join("alive");
        let script = format!("trap '' TERM; (trap '' TERM; while :; do echo x >>'{}'; sleep 0.05; done) & wait; wait", mark.display());
        guest.launch(1, "", &["/bin/sh", "-c", &script]);
        until(|| mark.exists(), || "the agent's child".into());
        guest.ok(scripts::STOP, &[], "");
        guest.await_status("state=exited\nlaunch=1\nexit=137\n");
        std::fs::remove_file(&mark).unwrap();
        guest.ok(scripts::STOP, &[], "");
        assert!(!mark.exists(), "a child lived on");
    }
}

#[test]
fn an_agent_that_vanished_has_no_exit_code() {
    for guest in guests() {
        guest.launch(1, "", &["/bin/sh", "-c", "sleep 60"]);
        guest.await_status("state=running\nlaunch=1\n");
        let pids = std::fs::read_to_string(guest.state().join("launch.1/pid")).unwrap();
        for pid in pids.split_whitespace().skip(1) {
            // The shell's own: a machine may lack the command.
            assert!(Command::new("sh").args(["-c", "kill -KILL $0", pid]).status().unwrap().success());
        }
        guest.await_status("state=exited\nlaunch=1\n");
    }
}

#[test]
fn the_exit_is_reported_until_it_is_accepted() {
    for guest in guests() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let gateway = format!("http://{}", listener.local_addr().unwrap());
        guest.launch(3, &gateway, &["/bin/sh", "-c", "exit 5"]);
        for answer in [
            "HTTP/1.1 503 Later\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            "HTTP/1.1 204 Fine\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        ] {
            let (mut stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
            let mut text = String::new();
            let mut buffer = [0; 4096];
            while !text.ends_with('}') {
                let read = stream.read(&mut buffer).unwrap();
                assert!(read > 0, "the request ended early: {text}");
                text.push_str(std::str::from_utf8(&buffer[..read]).unwrap());
            }
            assert!(text.starts_with("POST /autovibe/v1/exit HTTP/1"), "{text}");
            assert!(text.to_lowercase().contains("authorization: bearer av_1"), "{text}");
            let body = text.split("\r\n\r\n").nth(1).unwrap();
            let report: crate::wire::ExitReport = serde_json::from_str(body).unwrap();
            assert_eq!(report, crate::wire::ExitReport { launch: 3, exit_code: 5 });
            stream.write_all(answer.as_bytes()).unwrap();
        }
    }
}

#[test]
fn a_new_identity_forgets_the_parents_launches_and_token() {
    for guest in guests() {
        guest.ok(scripts::PERSONALISE, &["a", "0123456789abcdef0123456789abcdef", "1"], "");
        guest.launch(1, "", &["/bin/sh", "-c", "exit 0"]);
        guest.await_status("state=exited\nlaunch=1\nexit=0\n");
        std::fs::create_dir(guest.state().join("workspace.git")).unwrap();
        guest.ok(scripts::PERSONALISE, &["a", "0123456789abcdef0123456789abcdef", "2"], "");
        assert_eq!(guest.status(), "state=exited\nlaunch=1\nexit=0\n", "the same Machine forgets nothing");
        guest.ok(scripts::PERSONALISE, &["b", "f123456789abcdef0123456789abcdef", "3"], "");
        assert_eq!(guest.status(), "state=none\n");
        assert!(!guest.state().join("agent.env").exists());
        assert!(guest.state().join("workspace.git").exists(), "the base of diffs stays");
        let etc = |name: &str| std::fs::read_to_string(guest.root.path().join("etc").join(name)).unwrap();
        assert_eq!((etc("hostname").as_str(), etc("machine-id").as_str()), ("b\n", "f123456789abcdef0123456789abcdef\n"));
    }
}

#[test]
fn verify_gives_the_commands_code_and_the_end_of_its_output() {
    for guest in guests() {
        std::fs::create_dir_all(guest.workspace()).unwrap();
        std::fs::create_dir_all(guest.state()).unwrap();
        let output =
            guest.run(scripts::VERIFY, &["20", &guest.workspace(), "/bin/sh", "-c", "pwd; echo \"$1\" >&2; exit 3", "x", "a b"], "");
        assert_eq!(output.status.code(), Some(3));
        assert_eq!(String::from_utf8_lossy(&output.stdout), format!("{}\na b\n", guest.workspace()));
        let start = Instant::now();
        let output = guest.run(scripts::VERIFY, &["1", &guest.workspace(), "/bin/sh", "-c", "sleep 30"], "");
        assert!(!output.status.success() && start.elapsed() < Duration::from_secs(15), "{output:?}");
        assert_eq!(guest.run(scripts::VERIFY, &["1", "/no/such/place", "true"], "").status.code(), Some(127));
    }
}

#[test]
fn exec_gives_both_streams_as_they_are_and_the_commands_code() {
    for guest in guests() {
        std::fs::create_dir_all(guest.workspace()).unwrap();
        std::fs::create_dir_all(guest.state()).unwrap();
        let workspace = guest.workspace();
        let exec = |seconds: &str, workspace: &str, most: &str, command: &[&str], input: &str| {
            let fixed = ["1f", seconds, "agent", workspace, most];
            let output = guest.run(scripts::EXEC, &[&fixed, command].concat(), input);
            let (out, err) = read(&guest, "1f", "0", most);
            guest.ok(scripts::EXEC_END, &["1f"], "");
            assert!(!guest.root.path().join("run/autovibe/exec.1f").exists());
            (output.status.code(), out, err)
        };
        let script = "pwd; printf '<%s>' \"$@\"; printf '\\000\\377\\n' >&2; cat; exit 3";
        let (code, out, err) = exec("20", &workspace, "1000", &["/bin/sh", "-c", script, "x", "a b", "", "it's"], "put in\n");
        assert_eq!((code, err.as_slice()), (Some(3), b"\0\xff\n".as_slice()));
        assert_eq!(String::from_utf8(out).unwrap(), format!("{workspace}\n<a b><><it's>put in\n"));
        // What is too much is cut, and the command goes on.
        let (code, out, _) = exec("20", &workspace, "5", &["/bin/sh", "-c", "head -c 1000000 /dev/zero; exit 4"], "");
        assert_eq!((code, out.len()), (Some(4), 5));
        let start = Instant::now();
        assert_eq!(exec("1", &workspace, "5", &["sleep", "30"], "").0, Some(137));
        assert!(start.elapsed() < Duration::from_secs(15));
        assert_eq!(exec("20", &workspace, "5", &["/no/such/program"], "").0, Some(127));
        // Before its source came there is no workspace; people look for why.
        let (code, out, _) = exec("20", "/no/such/place", "100", &["pwd"], "");
        assert_eq!((code, out.as_slice()), (Some(0), b"/\n".as_slice()));
        // What it leaves running is not waited for, and runs on.
        let start = Instant::now();
        let left = guest.root.path().join("left");
        let script = format!("(sleep 2; echo > '{}') & echo begun", left.display());
        assert_eq!(exec("20", &workspace, "100", &["/bin/sh", "-c", &script], "").1, b"begun\n");
        assert!(start.elapsed() < Duration::from_secs(15));
        until(|| left.exists(), || "what was left running".into());
        assert_eq!(guest.run(scripts::EXEC_READ, &["1f", "1", "0", "9", "9"], "").status.code(), Some(3), "it was removed");
    }
}

/// What a command wrote so far behind its first bytes.
fn read(guest: &Guest, id: &str, from: &str, most: &str) -> (Vec<u8>, Vec<u8>) {
    let output = guest.run(scripts::EXEC_READ, &[id, from, "0", most, most], "");
    let text = |bytes: &[u8]| decode(std::str::from_utf8(bytes).unwrap());
    (text(&output.stdout), text(&output.stderr))
}

#[test]
fn what_a_command_writes_is_read_before_its_end_and_all_of_it_is_killed() {
    for guest in guests() {
        std::fs::create_dir_all(guest.state()).unwrap();
        let alive = guest.root.path().join("alive");
        let script = format!("echo 1; (while sleep 0.1; do echo >> '{}'; done) & read go; echo 2; sleep 60", alive.display());
        let mut child = guest.spawn(scripts::EXEC, &["2f", "50", "agent", "/", "100", "/bin/sh", "-c", &script]);
        until(|| read(&guest, "2f", "0", "100").0 == b"1\n", || "its first line".into());
        child.stdin.take().unwrap().write_all(b"go\n").unwrap();
        until(|| read(&guest, "2f", "2", "100").0 == b"2\n", || "its second line".into());
        until(|| alive.exists(), || "what it began".into());
        guest.ok(scripts::EXEC_END, &["2f", "kill"], "");
        assert_eq!(child.wait().unwrap().code(), Some(137));
        let length = || std::fs::metadata(&alive).unwrap().len();
        let before = length();
        std::thread::sleep(Duration::from_secs(1));
        assert_eq!(length(), before, "what it began goes on");
    }
}

#[test]
fn commands_run_as_the_agents_user_where_there_is_one() {
    let root = Command::new("id").arg("-u").output().unwrap().stdout == b"0\n";
    if !root || !Command::new("id").args(["-u", "nobody"]).status().is_ok_and(|s| s.success()) {
        eprintln!("SKIPPED becoming another user: not root, or there is no user `nobody`");
        return;
    }
    for mut guest in guests() {
        guest.user = "nobody";
        let open = |path: &Path| std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        open(guest.root.path());
        std::fs::create_dir_all(guest.workspace()).unwrap();
        std::fs::create_dir_all(guest.state()).unwrap();
        let output = guest.ok(
            scripts::VERIFY,
            &["20", &guest.workspace(), "/bin/sh", "-c", "id -un; printf '<%s>' \"$@\"", "x", "-c", "it's", "a b"],
            "",
        );
        assert_eq!(output, "nobody\n<-c><it's><a b>");
        for (user, name) in [("agent", "nobody\n"), ("root", "root\n")] {
            guest.ok(scripts::EXEC, &[user, "20", user, &guest.workspace(), "100", "id", "-un"], "");
            assert_eq!(read(&guest, user, "0", "100").0, name.as_bytes());
        }
        let key = guest.state().join("runner.key");
        let script = format!("id -un; printf '%s' \"$AUTOVIBE_TOKEN\"; [ ! -r {} ] || exit 3; exit 4", key.display());
        guest.launch(1, "", &["/bin/sh", "-c", &script]);
        guest.await_status("state=exited\nlaunch=1\nexit=4\n");
        assert_eq!(std::fs::read_to_string(guest.state().join("agent.log")).unwrap(), "nobody\nav_1");
        assert_eq!(std::fs::read_to_string(key).unwrap(), "avr_key\n", "for the runner, which is root");
    }
}

#[test]
fn claude_code_is_run_by_the_runner_where_there_is_one_and_the_agent_is_not_root() {
    let root = Command::new("id").arg("-u").output().unwrap().stdout == b"0\n";
    for mut guest in guests() {
        let bin = guest.root.path().join("bin");
        std::fs::create_dir_all(&bin).unwrap();
        for name in ["autovibe", "claude"] {
            let program = bin.join(name);
            std::fs::write(&program, format!("#!/bin/sh\nprintf '<%s>' {name} \"$@\"; exit 6\n")).unwrap();
            std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        }
        guest.path = format!("{}:{}", bin.display(), guest.path);
        let argv = ["/bin/sh", "-c", scripts::CLAUDE, "claude", "--verbose"];
        let log = |guest: &Guest| std::fs::read_to_string(guest.state().join("agent.log")).unwrap();
        guest.user = "nobody-of-that-name";
        guest.launch(1, "", &argv);
        guest.await_status("state=exited\nlaunch=1\nexit=6\n");
        assert!(log(&guest).starts_with("<claude><-p>"), "{}", log(&guest));
        if !root || !Command::new("id").args(["-u", "nobody"]).status().is_ok_and(|s| s.success()) {
            eprintln!("SKIPPED the runner: not root, or there is no user `nobody`");
            return;
        }
        guest.user = "nobody";
        std::fs::remove_file(guest.state().join("agent.log")).unwrap();
        guest.launch(2, "", &argv);
        guest.await_status("state=exited\nlaunch=2\nexit=6\n");
        let key = guest.state().join("runner.key");
        let said = log(&guest);
        assert!(said.starts_with(&format!("<autovibe><guest><--gateway=><--key={}><--home=/>", key.display())), "{said}");
        assert!(said.ends_with(&format!("<--script={}><--><--verbose>", guest.state().join("agent.sh").display())), "{said}");
    }
}

#[test]
fn a_digest_is_of_names_and_contents_whatever_the_shell() {
    let mut first = Vec::new();
    for guest in guests() {
        let dir = guest.root.path().join("home/it's one");
        std::fs::create_dir_all(dir.join("sub")).unwrap();
        std::fs::write(dir.join("a b"), "one").unwrap();
        std::fs::write(dir.join("sub/c"), "two").unwrap();
        let digest = || guest.ok(scripts::DIGEST, &["5", "/home/it's one", "/nowhere"], "");
        let was = digest();
        assert!(was.len() == 64 + " /home/it's one\n".len() && was.ends_with(" /home/it's one\n"), "{was}");
        let mut seen = vec![was.clone()];
        std::fs::write(dir.join("sub/c"), "TWO").unwrap();
        seen.push(digest());
        std::fs::write(dir.join("sub/c"), "two").unwrap();
        assert_eq!(digest(), was);
        std::fs::rename(dir.join("sub/c"), dir.join("sub/d")).unwrap();
        seen.push(digest());
        std::fs::rename(dir.join("sub/d"), dir.join("sub/c")).unwrap();
        std::os::unix::fs::symlink("a b", dir.join("link")).unwrap();
        seen.push(digest());
        assert_eq!(seen.iter().collect::<std::collections::BTreeSet<_>>().len(), 4, "{seen:?}");
        first.push(was);
    }
    assert!(first.iter().all(|one| *one == first[0]), "{first:?}");
}

#[test]
fn flush_waits_for_the_results_of_tools_and_not_for_their_calls() {
    for guest in guests() {
        let dir = guest.root.path().join("sessions/project");
        std::fs::create_dir_all(&dir).unwrap();
        let file = dir.join("s.jsonl");
        std::fs::write(&file, "{\"type\":\"tool_use\",\"id\":\"toolu_1\"}\n").unwrap();
        assert_eq!(guest.ok(scripts::FLUSH, &["/sessions", "toolu_1", "200"], ""), "flushed=false\n");
        let writer = std::thread::spawn(move || {
            let mut file = std::fs::OpenOptions::new().append(true).open(file).unwrap();
            file.write_all(b"{\"tool_use_id\":\"toolu_1\"}\n{\"toolCallResult\":{\"callId\":\"toolu_2\"}}\n").unwrap();
        });
        assert_eq!(guest.ok(scripts::FLUSH, &["/sessions", "toolu_1,toolu_2", "60000"], ""), "flushed=true\n");
        writer.join().unwrap();
        assert_eq!(guest.ok(scripts::FLUSH, &["", "", "0"], ""), "flushed=true\n");
    }
}

fn git(dir: &Path, args: &[&str]) -> String {
    let output = Command::new("git")
        .current_dir(dir)
        .args(["-c", "user.name=t", "-c", "user.email=t@localhost", "-c", "init.defaultBranch=main"])
        .args(args)
        .output()
        .unwrap();
    assert!(output.status.success(), "git {args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn decode(base64_text: &str) -> Vec<u8> {
    use base64::Engine as _;
    base64::engine::general_purpose::STANDARD.decode(base64_text.split_whitespace().collect::<String>()).unwrap()
}

#[test]
fn the_workspace_comes_from_a_bundle_and_goes_out_as_bundles() {
    for guest in guests() {
        let upstream = guest.root.path().join("upstream");
        std::fs::create_dir(&upstream).unwrap();
        git(&upstream, &["init", "-q"]);
        std::fs::write(upstream.join("a.txt"), "one\n").unwrap();
        git(&upstream, &["add", "."]);
        git(&upstream, &["commit", "-qm", "first"]);
        std::fs::create_dir_all(guest.state()).unwrap();
        let bundle = guest.state().join("source.bundle");
        git(&upstream, &["bundle", "create", bundle.to_str().unwrap(), "HEAD", "main"]);
        for _ in 0..2 {
            guest.ok(scripts::SOURCE, &[&guest.workspace(), "main"], "");
        }
        let workspace = PathBuf::from(guest.workspace());
        assert_eq!(std::fs::read_to_string(workspace.join("a.txt")).unwrap(), "one\n");
        assert_eq!(git(&workspace, &["branch", "--show-current"]), "main\n");

        let first = decode(&guest.ok(scripts::BUNDLE, &[&guest.workspace(), "one", "", "First"], ""));
        std::fs::write(workspace.join("b.txt"), "two\n").unwrap();
        // Installed meanwhile, in three ways.
        for (path, text) in [
            (".venv/lib/python3.11/site-packages/requests-2.31.0.dist-info/METADATA", ""),
            ("../../../usr/lib/node_modules/@qwen/code/package.json", "{\n  \"name\": \"x\",\n  \"version\": \"0.1.2\"\n}\n"),
            ("../../../lib/apk/db/installed", "C:x\nP:git\nV:2.39-r0\n\nP:curl\nV:8.1\n"),
        ] {
            let file = workspace.join(path);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, text).unwrap();
        }
        std::fs::write(workspace.join(".gitignore"), ".venv\n").unwrap();
        std::fs::write(workspace.join(".git/info/exclude"), ".cache*\n").unwrap();
        std::fs::write(workspace.join(".cache.db"), "an agent's own\n").unwrap();
        let second = decode(&guest.ok(scripts::BUNDLE, &[&guest.workspace(), "two", "one", "Second"], ""));
        assert_eq!(git(&workspace, &["status", "--porcelain"]), "?? .gitignore\n?? b.txt\n", "the user's own index is left alone");

        let hub = guest.root.path().join("hub");
        std::fs::create_dir(&hub).unwrap();
        git(&hub, &["init", "-q"]);
        for (name, bytes) in [("one", first), ("two", second)] {
            let file = hub.join(name);
            std::fs::write(&file, bytes).unwrap();
            git(&hub, &["fetch", "-q", file.to_str().unwrap(), "+refs/*:refs/*"]);
        }
        let change = git(&hub, &["diff", "refs/autovibe-packages/one", "refs/autovibe-packages/two"]);
        let lines: Vec<&str> =
            change.lines().filter(|line| line.starts_with(['+', '-']) && !line.starts_with("+++") && !line.starts_with("---")).collect();
        assert_eq!(lines, ["+apk curl 8.1", "+apk git 2.39-r0", "+npm @qwen/code 0.1.2", "+pip requests 2.31.0"], "{change}");
        assert_eq!(git(&hub, &["diff", "--name-status", "refs/autovibe/one", "refs/autovibe/two"]), "A\t.gitignore\nA\tb.txt\n");
        // The commit that the files began as, for whoever takes the work back there.
        let began = git(&upstream, &["rev-parse", "HEAD"]);
        assert_eq!(git(&hub, &["log", "-1", "--format=%B", "refs/autovibe/two"]), format!("Second\n\nSource: {}\n\n", began.trim()));
        assert_eq!(guest.ok(scripts::BUNDLE, &["/no/such/place", "x", "", "x"], ""), "none\n");
    }
}

/// Launches an agent whose program is a stand-in that writes down how it was called, in the workspace `w` of the guest.
fn called(guest: &Guest, name: &str, script: &str, change: impl FnOnce(&mut Agent)) -> (Launch, impl Fn() -> String) {
    let bin = guest.root.path().join("bin");
    let (home, workspace) = (guest.root.path().join("home/agent"), guest.root.path().join("w"));
    for directory in [&bin, &home, &workspace] {
        std::fs::create_dir_all(directory).unwrap();
    }
    let program = bin.join(name);
    std::fs::write(&program, format!("#!/bin/sh\nprintf '<%s>' \"$@\"; {script}; exit 9\n")).unwrap();
    std::fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let mut machine = Machine::new("shop", "a", crate::api::machine::MachineSpec::default());
    machine.metadata.uid = Some("u".into());
    machine.spec.goal.prompt = "--help; $(reboot)\n".into();
    change(&mut machine.spec.agent);
    let launch = launch(&machine, &Start { number: 1, gateway_url: "http://10.0.2.2:1/", key: "", token: "av_x" });
    let (run, path) = (launch.clone(), format!("{}:{}", bin.display(), guest.path));
    let run = move || {
        let output = Command::new(&run.argv[0])
            .args(&run.argv[1..])
            .current_dir(&workspace)
            .env_clear()
            .envs(&run.environment)
            .env("HOME", &home)
            .env("PATH", &path)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(9), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    (launch, run)
}

fn write_session(guest: &Guest, path: &str, text: &str) {
    let file = guest.root.path().join("home/agent").join(path);
    std::fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::fs::write(file, text).unwrap();
}

#[test]
fn claude_code_resumes_exactly_when_its_session_was_begun_on_this_disk() {
    for guest in guests() {
        let (launch, run) = called(&guest, "claude", "cat", |agent| {
            agent.model = Some("claude-sonnet-4-5".into());
            agent.max_turns = Some(3);
        });
        assert_eq!(launch.environment["ANTHROPIC_BASE_URL"], "http://10.0.2.2:1");
        let flags =
            "<--output-format><stream-json><--verbose><--model><claude-sonnet-4-5><--max-turns><3><--disallowedTools><WebSearch><WebFetch>";
        let (id, unasked) = (session("u"), "<--permission-mode><bypassPermissions>");
        assert_eq!(run(), format!("<-p><--session-id><{id}>{unasked}{flags}--help; $(reboot)\n"));
        write_session(&guest, &format!(".claude/projects/x/{id}.jsonl"), "{\"type\":\"user\"}\n");
        assert_eq!(run(), format!("<-p><{INTERRUPTED} {GO_ON}><--resume><{id}>{unasked}{flags}"));
    }
}

#[test]
fn qwen_code_resumes_exactly_when_its_session_was_begun_on_this_disk() {
    for guest in guests() {
        let (launch, run) = called(&guest, "qwen", "cat; cat \"$QWEN_CODE_SYSTEM_SETTINGS_PATH\"", |agent| {
            agent.r#type = AgentType::QwenCode;
            agent.model = Some("qwen3-coder-plus".into());
            agent.max_turns = Some(3);
            agent.args = vec!["--debug".into()];
        });
        assert_eq!(launch.environment["OPENAI_BASE_URL"], "http://10.0.2.2:1/v1");
        let flags = "<--yolo><--output-format><stream-json><--auth-type><openai><--model><qwen3-coder-plus><--max-session-turns><3><--debug><--exclude-tools><agent><web_fetch>";
        let id = session("u");
        let said = run();
        let settings = said.strip_prefix(&format!("<--session-id><{id}>{flags}--help; $(reboot)\n")).unwrap_or_else(|| panic!("{said}"));
        let settings: serde_json::Value = serde_json::from_str(settings).unwrap();
        assert_eq!(settings["memory"]["enableManagedAutoMemory"], false);
        write_session(&guest, &format!(".qwen/projects/x/chats/{id}.jsonl"), "{\"type\":\"user\"}\n");
        assert!(run().starts_with(&format!("<-p><{INTERRUPTED} {GO_ON}><--resume><{id}>{flags}{{")));
    }
}

#[test]
fn aider_resumes_from_the_history_of_its_session_and_leaves_the_project_clean() {
    for guest in guests() {
        let (launch, run) = called(&guest, "aider", "cat \"$2\"; : >.aider.tags; git status --porcelain; git config user.name", |agent| {
            agent.r#type = AgentType::Aider;
            agent.model = Some("gpt-4o".into());
            agent.args = vec!["--auto-test".into()];
        });
        assert_eq!(
            (launch.environment["OPENAI_API_BASE"].as_str(), launch.environment["ANTHROPIC_API_KEY"].as_str()),
            ("http://10.0.2.2:1/v1", "av_x")
        );
        let home = guest.root.path().join("home/agent").display().to_string();
        let id = session("u");
        let files = format!(
            "<--message-file><{home}/.aider/message><--chat-history-file><{home}/.aider/{id}.md><--input-history-file><{home}/.aider/input>"
        );
        let flags: String = launch.argv[4..].iter().map(|flag| format!("<{flag}>")).collect();
        assert!(flags.ends_with("<--model><openai/gpt-4o><--weak-model><openai/gpt-4o><--auto-test><--stream>"), "{flags}");
        assert_eq!(run(), format!("{files}{flags}--help; $(reboot)\nAider\n"));
        write_session(&guest, &format!(".aider/{id}.md"), "# aider chat started\n\n#### go  \n");
        assert_eq!(run(), format!("{files}<--restore-chat-history>{flags}{INTERRUPTED} {GO_ON}\n\nThe goal: --help; $(reboot)\nAider\n"));
        let (launch, _) = called(&guest, "aider", ":", |agent| {
            agent.r#type = AgentType::Aider;
            agent.model = Some("claude-sonnet-4-5".into());
        });
        assert!(launch.argv.contains(&"anthropic/claude-sonnet-4-5".to_owned()), "it speaks the Messages API to that one");
    }
}

#[test]
fn the_user_cannot_change_how_the_agent_reaches_its_hub() {
    let mut machine = Machine::new("shop", "a", crate::api::machine::MachineSpec::default());
    machine.spec.agent.env = [("ANTHROPIC_BASE_URL", "http://evil"), ("CLAUDE_CODE_MAX_OUTPUT_TOKENS", "1"), ("NODE_ENV", "test")]
        .into_iter()
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .collect();
    let environment = launch(&machine, &Start { number: 2, gateway_url: "http://gw", key: "", token: "av_x" }).environment;
    let value = |name: &str| environment[name].as_str();
    assert_eq!(
        (value("ANTHROPIC_BASE_URL"), value("CLAUDE_CODE_MAX_OUTPUT_TOKENS"), value("NODE_ENV"), value("AUTOVIBE_LAUNCH")),
        ("http://gw", "1", "test", "2")
    );
}

/// The token itself is in the environment alone, where no list of processes shows it.
#[test]
fn a_machine_with_permissions_is_told_where_to_ask() {
    use crate::api::Permission;
    let mut machine = Machine::new("shop", "a", crate::api::machine::MachineSpec::default());
    let start = Start { number: 1, gateway_url: "http://gw/", key: "", token: "av_x" };
    let before = launch(&machine, &start);
    assert!(!before.environment.contains_key("AUTOVIBE_MCP") && !before.argv.contains(&"--mcp-config".to_owned()));
    machine.spec.permissions = vec![Permission::ReadBudget];
    let told = launch(&machine, &start);
    assert_eq!(told.environment["AUTOVIBE_MCP"], "http://gw/mcp");
    let at = told.argv.iter().position(|word| word == "--mcp-config").unwrap();
    let config: serde_json::Value = serde_json::from_str(&told.argv[at + 1]).unwrap();
    assert_eq!(config["mcpServers"]["autovibe"]["url"], "${AUTOVIBE_MCP}");
    assert!(told.argv[at + 2].starts_with("--"), "it takes every word that follows");
    assert!(!told.argv.join(" ").contains("av_x"));
}

#[test]
fn sessions_are_stable_and_differ_between_machines() {
    assert_eq!(session("u"), session("u"));
    assert_ne!(session("u"), session("v"));
}

#[test]
fn verdicts() {
    use AgentType::{Aider, ClaudeCode, Command, QwenCode};
    let settled = |reason: &str| LastCall::Settled { stop_reason: Some(reason.into()) };
    let check = |agent, code, last: LastCall, expect: &str| {
        let verdict = verdict(agent, code, &last);
        let text = match &verdict {
            Verdict::Failed(_) => "failed",
            Verdict::Completed => "completed",
            Verdict::BudgetExhausted => "budget",
            Verdict::Interrupted => "interrupted",
        };
        assert_eq!(text, expect, "{agent:?} {code:?} {last:?}");
    };
    check(ClaudeCode, Some(0), settled("end_turn"), "completed");
    check(ClaudeCode, Some(1), settled("end_turn"), "completed");
    check(ClaudeCode, Some(0), LastCall::Refused, "budget");
    check(ClaudeCode, Some(1), LastCall::Cut, "interrupted");
    check(ClaudeCode, Some(1), settled("tool_use"), "failed");
    check(ClaudeCode, None, settled("tool_use"), "interrupted");
    check(ClaudeCode, Some(1), LastCall::Failed { status: Some(529) }, "failed");
    check(ClaudeCode, Some(1), LastCall::None, "failed");
    // These exit with 0 whatever happened.
    for agent in [QwenCode, Aider] {
        check(agent, Some(0), settled("end_turn"), "completed");
        check(agent, Some(0), settled("max_tokens"), "failed");
        check(agent, Some(0), LastCall::Refused, "budget");
        check(agent, Some(0), LastCall::Cut, "interrupted");
        check(agent, Some(0), LastCall::Failed { status: Some(503) }, "failed");
        check(agent, Some(0), LastCall::None, "failed");
        check(agent, None, LastCall::None, "interrupted");
    }
    check(QwenCode, Some(53), settled("tool_use"), "failed");
    check(Command, Some(0), LastCall::None, "completed");
    check(Command, Some(1), LastCall::None, "failed");
    check(Command, Some(1), LastCall::Cut, "interrupted");
    check(Command, Some(1), LastCall::Refused, "budget");
    check(Command, None, LastCall::None, "interrupted");
}

#[test]
fn a_proxy_is_named_only_where_there_is_a_host_to_reach() {
    let environment = |agent: AgentType, hosts: &str, gateway: &str| {
        let spec = serde_json::json!({
            "goal": { "prompt": "x" }, "agent": { "type": agent, "env": { "HTTPS_PROXY": "http://mine" } },
            "network": { "egress": serde_json::from_str::<serde_json::Value>(hosts).unwrap() },
        });
        let machine = Machine::new("shop", "m", serde_json::from_value(spec).unwrap());
        launch(&machine, &Start { number: 1, gateway_url: gateway, key: "k", token: "av_t" }).environment
    };
    let host = r#"[{"host":"pypi.org"}]"#;
    let found = environment(AgentType::ClaudeCode, host, "http://10.0.2.100:8081/");
    for name in ["HTTPS_PROXY", "https_proxy"] {
        assert_eq!(found[name], "http://machine:av_t@10.0.2.100:8081");
    }
    assert_eq!((found["NO_PROXY"].as_str(), found.get("HTTP_PROXY")), ("10.0.2.100,localhost,127.0.0.1,::1", None));
    assert_eq!(environment(AgentType::Aider, host, "https://[fd00::1]/hub")["no_proxy"], "fd00::1,localhost,127.0.0.1,::1");
    let qwen = environment(AgentType::QwenCode, host, "http://h:1");
    assert_eq!((qwen["ALL_PROXY"].as_str(), qwen["HTTPS_PROXY"].as_str()), ("http://machine:av_t@h:1", "http://mine"));
    let none = environment(AgentType::ClaudeCode, "[]", "http://h:1");
    assert_eq!((none["HTTPS_PROXY"].as_str(), none.get("https_proxy"), none.get("NO_PROXY")), ("http://mine", None, None));
}
