//! The runner with the real Claude Code: each risky tool has its own checkpoint, and what leaves the VM waits for a person as long as it
//! takes. The gateway believes a runner only by its key.

use super::{upstream::Script, *};
use autovibe::{
    api::{Approval, approval::ApprovalPhase},
    wire::runner::{RUNNER_PATH, TOOL_PATH},
};
use std::os::unix::fs::PermissionsExt;

const SESSION: &str = "0b1c7a80-4a53-4f0c-9a31-5f2b7b0f9e21";

/// One answer that writes, destroys and pushes; then the agent goes on.
const CONVERSATION: &str = r#"
tokensPerSecond: 0
thinkSeconds: 0
conversations:
  - match: publish the work
    turns:
      - text: I do it all.
        tools:
          - {name: Write, input: {file_path: WORKSPACE/draft.txt, content: draft}}
          - {name: Bash, input: {command: "rm -rf draft.txt", description: clean}}
          - {name: Bash, input: {command: "git push nowhere main; echo pushed > pushed.txt", description: push}}
      - text: I note it.
        tools: [{name: Bash, input: {command: "echo went on > noted.txt", description: note}}]
      - text: All done.
"#;

impl Home {
    fn workspace(&self) -> PathBuf {
        self.dir.path().join("workspace")
    }

    fn has(&self, file: &str) -> bool {
        self.workspace().join(file).exists()
    }

    /// The runner as the launch script starts it; `home` is prepared.
    fn runner(&self, program: &Path, guest: &Guest) -> tokio::process::Command {
        let (dir, workspace) = (self.dir.path(), self.workspace());
        std::fs::create_dir_all(dir.join("home")).unwrap();
        // A project that allows everything changes nothing.
        std::fs::create_dir_all(workspace.join(".claude")).unwrap();
        let allow = r#"{"permissions":{"allow":["Bash","Bash(git push:*)","Write"]}}"#;
        std::fs::write(workspace.join(".claude/settings.json"), allow).unwrap();
        std::fs::write(dir.join("conversations.yaml"), CONVERSATION.replace("WORKSPACE", workspace.to_str().unwrap())).unwrap();
        let (key, script) = (dir.join("runner.key"), dir.join("agent.sh"));
        std::fs::write(&key, format!("{}\n", guest.key)).unwrap();
        std::fs::set_permissions(&key, PermissionsExt::from_mode(0o600)).unwrap();
        std::fs::write(&script, "shift\ncd \"$HOME/../workspace\" && exec \"$@\"\n").unwrap();
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_autovibe"));
        command
            .arg("guest")
            .arg(format!("--gateway=http://{}", self.gateway))
            .arg(format!("--key={}", key.display()))
            .arg(format!("--home={}", dir.join("home").display()))
            .args([&format!("--session={SESSION}"), "--prompt=Please publish the work", "--go-on=Continue from where you left off"])
            .arg(format!("--script={}", script.display()))
            .args(["--", "--output-format", "stream-json", "--verbose", "--model", "claude-opus-4-8"])
            .env_clear()
            .env("PATH", format!("{}:/usr/local/bin:/usr/bin:/bin", program.parent().unwrap().display()))
            .env("HOME", dir.join("home"))
            .env("ANTHROPIC_BASE_URL", format!("http://{}", self.gateway))
            .env("ANTHROPIC_API_KEY", &guest.token)
            .env("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1")
            .env("CLAUDE_CODE_MAX_OUTPUT_TOKENS", "8000")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    async fn waiting(&self) -> Approval {
        eventually("an approval is asked for", async || {
            let approvals = self.objects.list::<Approval>(Some("default")).await.unwrap().0;
            approvals.into_iter().find(|approval| approval.phase() == ApprovalPhase::Pending)
        })
        .await
    }

    async fn say(&self, approval: &Approval, spec: Value) {
        let part = autovibe::objects::Part::Main;
        self.objects.merge::<Approval>("default", approval.name(), part, json!({ "spec": spec })).await.unwrap();
    }
}

/// A gateway whose own patience is so short that everything would be refused, were it the one to withhold.
async fn impatient() -> (Home, Guest) {
    let upstream = Upstream::start(|_| Script::HangUp).await;
    let mut home = Home::start(&upstream).await;
    home.stop().await;
    home.patience = Duration::from_millis(1);
    home.serve(Duration::from_secs(20)).await;
    let guest = home
        .guest("m", |spec| {
            spec.checkpoints.before_risky_operations = Toggle::Enabled;
            spec.approvals.leaving_vm = Requirement::Required;
        })
        .await;
    (home, guest)
}

/// The result line that ends what the program said.
fn result(output: &std::process::Output) -> Value {
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines = said.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()).collect::<Vec<_>>();
    assert!(lines.iter().all(|line| !line["type"].as_str().unwrap_or_default().starts_with("control_")), "the channel is no log: {said}");
    lines.into_iter().rfind(|line| line["type"] == "result").unwrap_or_else(|| panic!("no result: {}", super::said(output)))
}

#[tokio::test(flavor = "multi_thread")]
async fn each_risky_tool_of_an_answer_waits_for_its_own_checkpoint_and_a_person() {
    let Some(program) = installed("claude") else { return };
    let (home, guest) = impatient().await;
    let mut command = home.runner(&program, &guest);
    let running = command.output();
    tokio::pin!(running);
    let checkpoints = async || home.objects.list::<Checkpoint>(Some("default")).await.unwrap().0;
    tokio::select! {
        early = &mut running => panic!("it ended: {}", said(&early.unwrap())),
        () = async {
            eventually("a checkpoint is asked for", async || checkpoints().await.pop()).await;
            tokio::time::sleep(Duration::from_secs(1)).await;
            assert!(home.has("draft.txt"), "what came before it ran, and it waits");
        } => {}
    }
    let person = async {
        let asked = home.waiting().await;
        // Longer than the gateway alone would have waited.
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert!(!home.has("draft.txt") && !home.has("pushed.txt"), "the one ran, the other waits");
        let names: Vec<String> = checkpoints().await.iter().map(|checkpoint| checkpoint.name().to_owned()).collect();
        assert_eq!(names.len(), 2, "{names:?}");
        let before = asked.spec.checkpoint.clone().unwrap();
        assert!(before != names[0] && names.contains(&before), "{before} of {names:?}: its own");
        home.say(&asked, json!({ "decision": "Approved" })).await;
    };
    let (output, ()) = tokio::join!(home.capturing(running), person);
    let output = output.unwrap();
    assert!(output.status.success() && home.has("pushed.txt") && home.has("noted.txt"), "{}", said(&output));
    assert_eq!(result(&output)["result"], "All done.");
    assert_eq!(home.until_last_call(&guest, CallState::Settled).await.stop_reason.as_deref(), Some("end_turn"));
    home.quiescent_checkpoints().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denial_is_told_through_the_runner_and_the_agent_goes_on() {
    let Some(program) = installed("claude") else { return };
    let (home, guest) = impatient().await;
    let mut command = home.runner(&program, &guest);
    let person = async { home.say(&home.waiting().await, json!({ "decision": "Denied", "reason": "first a review" })).await };
    let (output, ()) = tokio::join!(home.capturing(command.output()), person);
    let output = output.unwrap();
    assert!(output.status.success() && !home.has("pushed.txt") && home.has("noted.txt"), "{}", said(&output));
    let told: String = home.transcript(&guest).await.iter().map(|entry| entry.content.to_string()).collect();
    assert!(told.contains("denied it: first a review"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn while_the_hub_is_away_nothing_runs_and_then_it_goes_on() {
    let Some(program) = installed("claude") else { return };
    let (mut home, guest) = impatient().await;
    let mut command = home.runner(&program, &guest);
    let running = command.output();
    tokio::pin!(running);
    let asked = tokio::select! {
        output = home.capturing(&mut running) => panic!("it ended: {}", said(&output.unwrap())),
        asked = home.waiting() => asked,
    };
    home.stop().await;
    let away = tokio::time::timeout(Duration::from_secs(5), &mut running).await;
    assert!(away.is_err() && !home.has("pushed.txt"), "it waits");
    home.say(&asked, json!({ "decision": "Approved" })).await;
    assert!(!home.has("pushed.txt"), "nobody told it");
    home.serve(Duration::from_secs(20)).await;
    let output = home.capturing(running).await.unwrap();
    assert!(output.status.success() && home.has("pushed.txt") && home.has("noted.txt"), "{}", said(&output));
    assert_eq!(home.objects.list::<Approval>(Some("default")).await.unwrap().0.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agents_token_makes_no_runner() {
    let push = || Script::Answer { words: 1, tools: vec![("Bash", json!({ "command": "git push origin" }))], gate: None };
    let upstream = Upstream::start(move |_| push()).await;
    let mut home = Home::start(&upstream).await;
    home.stop().await;
    home.patience = Duration::from_millis(300);
    home.serve(Duration::from_secs(20)).await;
    let guest = home.guest("m", |spec| spec.approvals.leaving_vm = Requirement::Required).await;
    let claim = async |path: &str, secret: &str| {
        let question = json!({ "tool": "Read", "input": {}, "id": "t" });
        home.client
            .post(format!("http://{}{path}", home.gateway))
            .bearer_auth(secret)
            .json(&question)
            .send()
            .await
            .unwrap()
            .status()
            .as_u16()
    };
    let other = wire::runner::key([7; 32]);
    for path in [RUNNER_PATH, TOOL_PATH] {
        for secret in [guest.token.as_str(), "", "avr_", &other, &guest.key.replace("avr_", "av_")] {
            assert_eq!(claim(path, secret).await, 401, "{path} {secret}");
        }
    }
    let body = request("go");
    assert!(!home.call(&guest, &body).await.1.contains("push origin"), "it is still withheld");
    for path in [RUNNER_PATH, TOOL_PATH] {
        assert_eq!(claim(path, &guest.key).await, 200);
    }
    let again = json!({"model": MODEL, "max_tokens": 1000, "stream": true, "messages": [{"role": "user", "content": "go"}, {"role": "assistant", "content": "?"}, {"role": "user", "content": "again"}]});
    assert!(home.call(&guest, &again).await.1.contains("push origin"), "a runner asks for it");
    // It was not asked, and the conversation goes on: it is not believed any more.
    let third = json!({"model": MODEL, "max_tokens": 1000, "stream": true, "messages": [{"role": "user", "content": "on"}]});
    assert!(!home.call(&guest, &third).await.1.contains("push origin"), "withheld again");
    assert_eq!(claim(RUNNER_PATH, &guest.key).await, 200);
    let fourth = json!({"model": MODEL, "max_tokens": 1000, "stream": true, "messages": [{"role": "user", "content": "and on"}]});
    assert!(!home.call(&guest, &fourth).await.1.contains("push origin"), "for good");
}

/// The whole way of a launch in a guest, in a directory instead of a VM: the launch script as root, its runner, and Claude Code as `nobody`.
#[tokio::test(flavor = "multi_thread")]
async fn the_launch_script_starts_the_runner_as_root_and_the_agent_as_its_user() {
    let Some(program) = installed("claude") else { return };
    let id = |arguments: &[&str]| std::process::Command::new("id").args(arguments).output().ok().map(|output| output.stdout);
    let nobody = id(&["-u", "nobody"]).and_then(|text| String::from_utf8(text).ok()?.trim().parse::<u32>().ok());
    let (Some(nobody), true) = (nobody, id(&["-u"]) == Some(b"0\n".to_vec())) else {
        eprintln!("SKIPPED the launch of a runner: not root, or there is no user `nobody`");
        return;
    };
    let (home, _) = impatient().await;
    // It writes the conversation.
    drop(home.runner(&program, &home.guest("unused", |_| ()).await));
    let (dir, workspace) = (home.dir.path().to_owned(), home.workspace());
    let guest = home
        .guest("launched", |spec| {
            spec.approvals.leaving_vm = Requirement::Required;
            spec.agent = Agent { model: Some("claude-opus-4-8".into()), ..Agent::default() };
            (spec.goal.prompt, spec.goal.workspace) = ("Please publish the work".into(), Some(workspace.display().to_string()));
        })
        .await;
    std::fs::set_permissions(&dir, PermissionsExt::from_mode(0o755)).unwrap();
    for owned in ["home", "workspace"] {
        std::os::unix::fs::chown(dir.join(owned), Some(nobody), None).unwrap();
    }
    let gateway_url = format!("http://{}", home.gateway);
    let mut launch =
        agent::launch(&guest.machine, &agent::Start { number: 1, gateway_url: &gateway_url, key: &guest.key, token: &guest.token });
    launch.environment.insert("HOME".into(), dir.join("home").display().to_string());
    let input = agent::input(&launch);
    let binary = Path::new(env!("CARGO_BIN_EXE_autovibe")).parent().unwrap();
    let mut command = tokio::process::Command::new("sh");
    command
        .args(["-c", agent::scripts::LAUNCH.script, agent::scripts::LAUNCH.name, "1"])
        .args(&launch.argv)
        .env_clear()
        .env("PATH", format!("{}:{}:/usr/bin:/bin", program.parent().unwrap().display(), binary.display()))
        .envs([("AUTOVIBE_ROOT", dir.to_str().unwrap()), ("AUTOVIBE_USER", "nobody")])
        .stdin(Stdio::piped());
    let mut child = command.spawn().unwrap();
    tokio::io::AsyncWriteExt::write_all(&mut child.stdin.take().unwrap(), input.as_bytes()).await.unwrap();
    assert!(child.wait().await.unwrap().success());
    let state = dir.join("var/lib/autovibe");
    let log = || std::fs::read_to_string(state.join("agent.log")).unwrap_or_default();
    let asked = home.waiting().await;
    assert!(!home.has("pushed.txt"), "it waits: {}", log());
    home.say(&asked, json!({ "decision": "Approved" })).await;
    eventually("the launch has ended", async || std::fs::read_to_string(state.join("exit")).ok().filter(|exit| exit == "1 0\n")).await;
    assert!(home.has("noted.txt") && log().contains("All done."), "{}", log());
    let owner = |file: &Path| std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(file).unwrap());
    assert_eq!((owner(&workspace.join("pushed.txt")), owner(&state.join("runner.key"))), (nobody, 0));
}
