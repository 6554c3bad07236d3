//! The real Claude Code against gateway and provider `Replay`: it writes, edits and runs, and every turn is checkpointed.

use super::{upstream::Script, *};
use autovibe::api::{Checkpoint, checkpoint::CheckpointPhase};
use std::{path::PathBuf, process::Stdio};

/// The program, where it is installed.
async fn installed() -> Option<PathBuf> {
    let found = tokio::process::Command::new("sh").args(["-c", "command -v claude"]).output().await.ok()?;
    let path = String::from_utf8(found.stdout).ok()?.trim().to_owned();
    if path.is_empty() {
        eprintln!("SKIPPED: claude is not installed");
        return None;
    }
    Some(path.into())
}

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

#[tokio::test(flavor = "multi_thread")]
async fn the_real_program_works_checkpointed_turn_by_turn() {
    let Some(program) = installed().await else { return };
    let upstream = Upstream::start(|_| Script::HangUp).await;
    let home = Home::start(&upstream).await;
    let guest = home.guest("m", |spec| spec.checkpoints.between_messages = Toggle::Enabled).await;
    let (user, workspace) = (home.dir.path().join("home"), home.dir.path().join("workspace"));
    [&user, &workspace].map(|dir| std::fs::create_dir(dir).unwrap());
    std::fs::write(home.dir.path().join("conversations.yaml"), conversation(workspace.to_str().unwrap())).unwrap();

    let session = "5f3c8a52-6c1e-4b1e-9d55-0a8f3f1d2c3b";
    let mut command = tokio::process::Command::new(program);
    command
        .args(["-p", "Please write a small program", "--output-format", "stream-json", "--verbose", "--dangerously-skip-permissions"])
        .args(["--session-id", session, "--model", "claude-opus-4-8"])
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .env("HOME", &user)
        .env("IS_SANDBOX", "1")
        .env("ANTHROPIC_BASE_URL", format!("http://{}", home.gateway))
        .env("ANTHROPIC_API_KEY", &guest.token)
        .env("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1")
        .env("CLAUDE_CODE_MAX_OUTPUT_TOKENS", "8000")
        .current_dir(&workspace)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    let running = command.output();
    let controller = async {
        loop {
            for mut checkpoint in home.objects.list::<Checkpoint>(Some("default")).await.unwrap().0 {
                let status = checkpoint.status.get_or_insert_default();
                if status.phase == CheckpointPhase::Pending {
                    status.phase = CheckpointPhase::Ready;
                    let _ = home.objects.update_status(&checkpoint).await;
                }
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let output = tokio::select! {
        output = tokio::time::timeout(Duration::from_secs(120), running) => output.expect("it ends").unwrap(),
        () = controller => unreachable!(),
    };
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

    let checkpoints = home.objects.list::<Checkpoint>(Some("default")).await.unwrap().0;
    let names: Vec<&str> = checkpoints.iter().map(Kind::name).collect();
    assert_eq!(names, ["m-0001", "m-0002", "m-0003", "m-0004"], "{said}");
    assert!(checkpoints.iter().all(|c| c.metadata.annotations.as_ref().unwrap()["autovibe.dev/quiescent"] == "true"));
    let transcript = home.transcript(&guest).await;
    let roles: Vec<&str> = transcript.iter().map(|entry| entry.role.as_str()).collect();
    assert_eq!(roles, ["user", "assistant", "user", "assistant", "user", "assistant", "user", "assistant"], "{transcript:#?}");
}
