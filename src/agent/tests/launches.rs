//! The agent in its guest: launched, watched, stopped, launched again; and how each CLI is called.

use super::*;

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
