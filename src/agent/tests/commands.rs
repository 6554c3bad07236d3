//! What else runs in a guest: commands of persons, the verification, what is read of the workspace.

use super::*;

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
            guest.ok(scripts::SOURCE, &[&guest.workspace(), "main", "https://git.example/up"], "");
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

#[test]
fn a_workspace_with_another_source_is_left_alone_and_an_empty_one_is_filled() {
    for guest in guests() {
        let upstream = guest.root.path().join("upstream");
        std::fs::create_dir(&upstream).unwrap();
        git(&upstream, &["init", "-q"]);
        std::fs::create_dir_all(guest.state()).unwrap();
        let (bundle, done) = (guest.state().join("source.bundle"), guest.state().join("source.done"));
        let put = |text: &str, workspace: &str, origin: &str| {
            std::fs::write(upstream.join("a.txt"), text).unwrap();
            git(&upstream, &["add", "."]);
            git(&upstream, &["commit", "-qm", text]);
            git(&upstream, &["bundle", "create", bundle.to_str().unwrap(), "HEAD", "main"]);
            let output = guest.run(scripts::SOURCE, &[workspace, "main", origin], "");
            assert!(!bundle.exists(), "it takes no room any more");
            (output.status.code(), String::from_utf8(output.stderr).unwrap())
        };
        let first = guest.workspace();
        let elsewhere = guest.root.path().join("elsewhere").display().to_string();
        let holds = |workspace: &str| std::fs::read_to_string(Path::new(workspace).join("a.txt")).unwrap();
        let fine = (Some(0), String::new());
        assert_eq!(put("one", &first, "/srv/x"), fine);
        assert_eq!(std::fs::read_to_string(&done).unwrap(), "/srv/x\n");
        // The same again, and what an older hub put in, stay as they are.
        assert_eq!(put("two", &first, "/srv/x"), fine);
        std::fs::write(&done, "").unwrap();
        assert_eq!(put("three", &first, "/srv/y"), fine);
        assert_eq!(holds(&first), "one");
        std::fs::write(&done, "/srv/x\n").unwrap();
        assert_eq!(put("four", &first, "/srv/y"), (Some(scripts::OTHER_SOURCE), "/srv/x\n".into()));
        assert_eq!((holds(&first).as_str(), std::fs::read_to_string(&done).unwrap().as_str()), ("one", "/srv/x\n"));
        // Another place is filled, whether it is there or not.
        assert_eq!(put("five", &elsewhere, "/srv/y"), fine);
        assert_eq!((holds(&elsewhere).as_str(), std::fs::read_to_string(&done).unwrap().as_str()), ("five", "/srv/y\n"));
        let empty = guest.root.path().join("empty");
        std::fs::create_dir(&empty).unwrap();
        assert_eq!(put("six", empty.to_str().unwrap(), "/srv/z"), fine);
        assert_eq!(holds(empty.to_str().unwrap()), "six");
    }
}

#[test]
fn a_guest_tries_the_gateway_itself() {
    for guest in guests() {
        assert_eq!(guest.ok(scripts::REACH, &["5"], ""), "reached=unknown\n", "it was told of none yet");
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::fs::create_dir_all(guest.state()).unwrap();
        std::fs::write(guest.state().join("agent.env"), format!("export AUTOVIBE_GATEWAY='http://{address}'\n")).unwrap();
        let answers = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 4096]);
            // Any answer will do.
            stream.write_all(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\nConnection: close\r\n\r\n").unwrap();
        });
        assert_eq!(guest.ok(scripts::REACH, &["5"], ""), "reached=yes\n");
        answers.join().unwrap();
        let said = guest.ok(scripts::REACH, &["5"], "");
        assert!(said.starts_with("reached=no\nwhy=") && said.contains("onnect") && said.lines().count() == 2, "{said}");
        // Its agent's end is known there alone.
        std::fs::write(guest.state().join("launched"), "2\n").unwrap();
        std::fs::write(guest.state().join("exit"), "2 143\n").unwrap();
        let said = guest.ok(scripts::REACH, &["5"], "");
        assert!(said.starts_with("reached=no\n") && said.ends_with("\nended=143\n"), "{said}");
    }
}
