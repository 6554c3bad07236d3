//! The real Claude Code against gateway and provider `Replay`: it writes, edits and runs, and every turn is checkpointed.

use super::{upstream::Script, *};

fn conversation(workspace: &str) -> String {
    format!(
        r#"
tokensPerSecond: 0
thinkSeconds: 0
conversations:
  - match: write a small program
    turns:
      - text: I write it.
        tools: [{{name: Write, input: {{file_path: {workspace}/hello.sh, content: "echo hello\n"}}}}]
      - text: I change it.
        tools: [{{name: Edit, input: {{file_path: {workspace}/hello.sh, old_string: hello, new_string: goodbye, replace_all: false}}}}]
      - text: I run it.
        tools: [{{name: Bash, input: {{command: "sh hello.sh > out.txt; cat out.txt", description: run it}}}}]
      - text: All done.
"#
    )
}

const SESSION: &str = "5f3c8a52-6c1e-4b1e-9d55-0a8f3f1d2c3b";

impl Home {
    /// Makes workspace and conversation; `think` is said of the second turn.
    fn prepare(&self, think: &str) -> PathBuf {
        let workspace = self.dir.path().join("workspace");
        for dir in [&self.dir.path().join("home"), &workspace] {
            std::fs::create_dir(dir).unwrap();
        }
        let text = conversation(workspace.to_str().unwrap()).replace("- text: I change it.", &format!("- {think}text: I change it."));
        std::fs::write(self.dir.path().join("conversations.yaml"), text).unwrap();
        workspace
    }

    pub(super) fn claude(&self, program: &PathBuf, guest: &Guest) -> tokio::process::Command {
        let mut command = tokio::process::Command::new(program);
        command
            .args(["--output-format", "stream-json", "--verbose", "--dangerously-skip-permissions", "--model", "claude-opus-4-8"])
            .env_clear()
            .env("PATH", "/usr/local/bin:/usr/bin:/bin")
            .env("HOME", self.dir.path().join("home"))
            .env("IS_SANDBOX", "1")
            .env("ANTHROPIC_BASE_URL", format!("http://{}", self.gateway))
            .env("ANTHROPIC_API_KEY", &guest.token)
            .env("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1")
            .env("CLAUDE_CODE_MAX_OUTPUT_TOKENS", "8000")
            .current_dir(self.dir.path().join("workspace"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_real_program_works_checkpointed_turn_by_turn() {
    let Some(program) = installed("claude") else { return };
    let upstream = Upstream::start(|_| Script::HangUp).await;
    let home = Home::start(&upstream).await;
    let guest = home.guest("m", |spec| spec.checkpoints.between_messages = Toggle::Enabled).await;
    let workspace = home.prepare("");

    let mut command = home.claude(&program, &guest);
    command.args(["-p", "Please write a small program", "--session-id", SESSION]);
    let output = home.capturing(command.output()).await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(std::fs::read_to_string(workspace.join("hello.sh")).unwrap(), "echo goodbye\n", "{said}");
    assert_eq!(std::fs::read_to_string(workspace.join("out.txt")).unwrap(), "goodbye\n", "{said}");

    let last = home.until_last_call(&guest, CallState::Settled).await;
    assert_eq!(last.stop_reason.as_deref(), Some("end_turn"));
    let usage = home.settled(&guest).await;
    assert!(usage.money.0 > 0 && usage.api_calls == 4, "{usage:?}\n{said}");
    let result: Value =
        said.lines().filter_map(|line| serde_json::from_str(line).ok()).find(|line: &Value| line["type"] == "result").unwrap();
    assert_eq!((result["result"].as_str(), result["num_turns"].as_i64()), (Some("All done."), Some(4)));
    let its = result["total_cost_usd"].as_f64().unwrap();
    #[expect(clippy::cast_precision_loss, reason = "compared to a millionth of a dollar")]
    let ours = usage.money.0 as f64 / 1e9;
    assert!((its - ours).abs() < 1e-6, "the program counts {its}, the ledger {ours}");

    assert_eq!(home.quiescent_checkpoints().await, ["m-0001", "m-0002", "m-0003", "m-0004"], "{said}");
    assert_eq!(home.roles(&guest, 8).await, ["user", "assistant", "user", "assistant", "user", "assistant", "user", "assistant"]);
}

/// It destroys what it wrote; until the state before that is captured, it does not.
#[tokio::test(flavor = "multi_thread")]
async fn the_real_program_runs_a_risky_command_only_after_its_checkpoint() {
    let Some(program) = installed("claude") else { return };
    let upstream = Upstream::start(|_| Script::HangUp).await;
    let home = Home::start(&upstream).await;
    let guest = home.guest("m", |spec| spec.checkpoints.before_risky_operations = Toggle::Enabled).await;
    let workspace = home.prepare("");
    let file = home.dir.path().join("conversations.yaml");
    let text = std::fs::read_to_string(&file).unwrap().replace("sh hello.sh > out.txt; cat out.txt", "rm -rf hello.sh");
    std::fs::write(file, text).unwrap();
    let mut command = home.claude(&program, &guest);
    command.args(["-p", "Please write a small program", "--session-id", SESSION]);
    let running = command.output();
    tokio::pin!(running);
    let written = workspace.join("hello.sh");
    tokio::select! {
        early = &mut running => panic!("it ended before its checkpoint was taken: {}", said(&early.unwrap())),
        () = async {
            eventually("a checkpoint was asked for", async || {
                home.objects.list::<Checkpoint>(Some("default")).await.unwrap().0.pop()
            }).await;
            tokio::time::sleep(Duration::from_secs(1)).await;
            assert_eq!(std::fs::read_to_string(&written).unwrap(), "echo goodbye\n", "the command waits");
        } => {}
    }
    let output = home.capturing(running).await.unwrap();
    assert!(output.status.success() && !written.exists(), "{}", said(&output));
    assert_eq!(home.quiescent_checkpoints().await, ["m-0003"], "only the turn that destroys");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_real_program_stops_when_the_budget_is_exhausted() {
    let Some(program) = installed("claude") else { return };
    let upstream = Upstream::start(|_| Script::HangUp).await;
    let home = Home::start(&upstream).await;
    let guest = home.guest("m", limit(1_000_000)).await;
    home.prepare("");
    let started = std::time::Instant::now();
    let mut command = home.claude(&program, &guest);
    command.args(["-p", "Please write a small program", "--session-id", SESSION]);
    let output = home.capturing(command.output()).await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("autovibe: budget exhausted: money of Machine default/m"), "{said}");
    home.assert_refused_at_once(&guest, started).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_real_program_goes_on_where_it_was_killed() {
    let Some(program) = installed("claude") else { return };
    let upstream = Upstream::start(|_| Script::HangUp).await;
    let home = Home::start(&upstream).await;
    let guest = home.guest("m", |spec| spec.checkpoints.between_messages = Toggle::Enabled).await;
    let workspace = home.prepare("thinkSeconds: 3\n        ");
    let mut command = home.claude(&program, &guest);
    command.args(["-p", "Please write a small program", "--session-id", SESSION]);
    let mut first = command.spawn().unwrap();
    home.capturing(eventually("the second turn was asked for", async || {
        home.objects.get::<Checkpoint>("default", "m-0002").await.unwrap().map(|_| ())
    }))
    .await;
    // The transcript is on disk a moment later; that is what the flush before a snapshot waits for.
    let projects = home.dir.path().join("home/.claude/projects");
    eventually("the first result is in the transcript", async || {
        let projects = std::fs::read_dir(&projects).ok()?.filter_map(Result::ok);
        let texts: Vec<String> = projects.filter_map(|p| std::fs::read_to_string(p.path().join(format!("{SESSION}.jsonl"))).ok()).collect();
        texts.iter().any(|text| text.contains("tool_result")).then_some(())
    })
    .await;
    first.kill().await.unwrap();
    // The provider's answer is read to its end, but nobody had it.
    home.capturing(home.until_last_call(&guest, CallState::Cut)).await;

    let mut command = home.claude(&program, &guest);
    command.args(["-p", "Continue from where you left off: the connection was interrupted.", "--resume", SESSION]);
    let output = home.capturing(command.output()).await.unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(std::fs::read_to_string(workspace.join("out.txt")).unwrap(), "goodbye\n", "{said}");
    let last = home.until_last_call(&guest, CallState::Settled).await;
    assert_eq!(last.stop_reason.as_deref(), Some("end_turn"));
    let usage = home.settled(&guest).await;
    assert_eq!(usage.api_calls, 5, "two before the kill, three after it: {said}");
}
