mod commands;
mod launches;

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
    check(ClaudeCode, Some(1), LastCall::Failed { status: Some(529), why: None }, "failed");
    check(ClaudeCode, Some(1), LastCall::None, "failed");
    // These exit with 0 whatever happened.
    for agent in [QwenCode, Aider] {
        check(agent, Some(0), settled("end_turn"), "completed");
        check(agent, Some(0), settled("max_tokens"), "failed");
        check(agent, Some(0), LastCall::Refused, "budget");
        check(agent, Some(0), LastCall::Cut, "interrupted");
        check(agent, Some(0), LastCall::Failed { status: Some(503), why: None }, "failed");
        check(agent, Some(0), LastCall::None, "failed");
        check(agent, None, LastCall::None, "interrupted");
    }
    check(QwenCode, Some(53), settled("tool_use"), "failed");
    check(Command, Some(0), LastCall::None, "completed");
    check(Command, Some(1), LastCall::None, "failed");
    check(Command, Some(1), LastCall::Cut, "interrupted");
    check(Command, Some(1), LastCall::Refused, "budget");
    check(Command, None, LastCall::None, "interrupted");
    let unsent = || LastCall::Unsent { why: "model `x` is not configured".into() };
    check(ClaudeCode, None, unsent(), "interrupted");
    check(Command, Some(0), unsent(), "completed");
    let key = || LastCall::Failed { status: Some(403), why: Some("provider p refused the hub's key (401)".into()) };
    for (agent, last, part) in [
        (ClaudeCode, unsent(), "exited with code 1: the gateway refused its request: model `x` is not configured"),
        (Command, unsent(), "the gateway refused a request of it: model `x` is not configured"),
        (ClaudeCode, key(), "answered with status 403: provider p refused the hub's key (401)"),
        (Command, key(), "its last request failed: provider p refused the hub's key (401)"),
    ] {
        let Verdict::Failed(why) = verdict(agent, Some(1), &last) else { panic!("{agent:?} {last:?}") };
        assert!(why.contains(part), "{why}");
    }
}

#[test]
fn it_is_told_the_workspace_that_it_inherits() {
    let spec = serde_json::json!({ "goal": { "prompt": "p" }, "agent": { "type": "Command", "command": ["true"] } });
    let mut machine = Machine::new("shop", "m", serde_json::from_value(spec).unwrap());
    machine.status = Some(serde_json::from_value(serde_json::json!({ "workspace": "/home/agent/todo" })).unwrap());
    let start = Start { number: 1, gateway_url: "http://hub", key: "k", token: "t" };
    assert_eq!(launch(&machine, &start).environment["AUTOVIBE_WORKSPACE"], "/home/agent/todo");
    assert_eq!(contents(&machine), [(Content::Workspace, "/home/agent/todo".to_owned())]);
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
