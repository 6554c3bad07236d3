//! The real Qwen Code against gateway and provider `Replay`, launched as in a guest: it writes, edits and runs, and every turn is
//! checkpointed.

use super::{upstream::Script, *};

fn conversation(workspace: &Path, think: &str) -> String {
    let file = workspace.join("hello.sh").display().to_string();
    format!(
        r#"
tokensPerSecond: 0
thinkSeconds: 0
conversations:
  - match: write a small program
    turns:
      - text: I write it.
        tools: [{{name: write_file, input: {{file_path: {file}, content: "echo hello\n"}}}}]
      - {think}text: I change it.
        tools:
          - {{name: read_file, input: {{file_path: {file}}}}}
          - {{name: edit, input: {{file_path: {file}, old_string: hello, new_string: goodbye}}}}
      - text: I run it.
        tools: [{{name: run_shell_command, input: {{command: "sh hello.sh > out.txt; cat out.txt", is_background: false}}}}]
      - text: All done.
"#
    )
}

impl Home {
    async fn qwen_guest(&self, think: &str, change: impl FnOnce(&mut MachineSpec)) -> Guest {
        let text = conversation(&self.dir.path().join("workspace"), think);
        std::fs::write(self.dir.path().join("conversations.yaml"), text).unwrap();
        self.guest("m", |spec| {
            spec.agent = Agent { r#type: AgentType::QwenCode, model: Some("qwen3-coder-plus".into()), ..Agent::default() };
            spec.goal.prompt = "Please write a small program".into();
            change(spec);
        })
        .await
    }

    fn written(&self, name: &str) -> String {
        std::fs::read_to_string(self.dir.path().join("workspace").join(name)).unwrap_or_default()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_real_program_works_checkpointed_turn_by_turn() {
    let Some(program) = installed("qwen") else { return };
    let upstream = Upstream::start(|_| Script::HangUp).await;
    let home = Home::start(&upstream).await;
    let guest = home.qwen_guest("", |spec| spec.checkpoints.between_messages = Toggle::Enabled).await;
    let output = home.capturing(home.agent(&program, &guest, 1).output()).await.unwrap();
    let said = said(&output);
    assert_eq!((home.written("hello.sh").as_str(), home.written("out.txt").as_str()), ("echo goodbye\n", "goodbye\n"), "{said}");
    let last = home.until_last_call(&guest, CallState::Settled).await;
    assert_eq!(last.stop_reason.as_deref(), Some("end_turn"));
    let usage = home.settled(&guest).await;
    assert!(usage.money.0 > 0 && usage.api_calls == 4, "{usage:?}\n{said}");
    assert_eq!(home.quiescent_checkpoints().await, ["m-0001", "m-0002", "m-0003", "m-0004"], "{said}");
    let results: Vec<Vec<String>> = home
        .objects
        .list::<Checkpoint>(Some("default"))
        .await
        .unwrap()
        .0
        .iter()
        .map(|c| c.metadata.annotations.as_ref().unwrap()["autovibe.dev/await-results"].split_terminator(',').map(str::to_owned).collect())
        .collect();
    assert_eq!(results.iter().map(Vec::len).collect::<Vec<_>>(), [0, 1, 2, 1]);
    // What the flush before a snapshot waits for is in the session's file.
    let file = std::process::Command::new("grep")
        .args(["-rF", &format!("\"callId\":\"{}\"", results[3][0])])
        .arg(home.dir.path().join("home/.qwen"))
        .output();
    assert!(file.unwrap().status.success(), "{results:?}");
    // The first is what the program says of itself.
    assert_eq!(home.roles(&guest, 9).await[1..], ["user", "assistant", "user", "assistant", "user", "assistant", "user", "assistant"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_real_program_stops_when_the_budget_is_exhausted() {
    let Some(program) = installed("qwen") else { return };
    let upstream = Upstream::start(|_| Script::HangUp).await;
    let home = Home::start(&upstream).await;
    let guest = home.qwen_guest("", limit(1_000_000)).await;
    let started = std::time::Instant::now();
    let output = home.capturing(home.agent(&program, &guest, 1).output()).await.unwrap();
    let said = said(&output);
    assert!(said.contains("autovibe: budget exhausted: money of Machine default/m"), "{said}");
    home.assert_refused_at_once(&guest, started).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_real_program_goes_on_where_it_was_killed() {
    let Some(program) = installed("qwen") else { return };
    let upstream = Upstream::start(|_| Script::HangUp).await;
    let home = Home::start(&upstream).await;
    let guest = home.qwen_guest("thinkSeconds: 3\n        ", |spec| spec.checkpoints.between_messages = Toggle::Enabled).await;
    let mut first = home.agent(&program, &guest, 1).process_group(0).spawn().unwrap();
    home.capturing(eventually("the second turn was asked for", async || {
        home.objects.get::<Checkpoint>("default", "m-0002").await.unwrap().map(|_| ())
    }))
    .await;
    eventually("the first result is in the session's file", async || {
        let found =
            std::process::Command::new("grep").args(["-rqF", "\"callId\":"]).arg(home.dir.path().join("home/.qwen/projects")).status();
        found.unwrap().success().then_some(())
    })
    .await;
    let group = format!("-{}", first.id().unwrap());
    assert!(std::process::Command::new("kill").args(["-KILL", "--", &group]).status().unwrap().success());
    first.wait().await.unwrap();
    home.capturing(home.until_last_call(&guest, CallState::Cut)).await;
    assert!(home.settled(&guest).await.money.0 > 0);
    let output = home.capturing(home.agent(&program, &guest, 2).output()).await.unwrap();
    let said = said(&output);
    assert_eq!(home.written("out.txt"), "goodbye\n", "{said}");
    assert_eq!(home.until_last_call(&guest, CallState::Settled).await.stop_reason.as_deref(), Some("end_turn"));
    assert_eq!(home.settled(&guest).await.api_calls, 5, "two before the kill, three after it: {said}");
}
