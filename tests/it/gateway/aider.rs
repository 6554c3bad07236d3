//! The real Aider against gateway and provider `Replay`, launched as in a guest: it writes, its test fails, it mends and commits.

use super::{upstream::Script, *};

fn conversation(think: &str) -> String {
    let edit = |words: &str, old: &str, new: &str| {
        format!("{words}\n\nhello.sh\n```\n<<<<<<< SEARCH\n{old}=======\n{new}>>>>>>> REPLACE\n```\n").replace('\n', "\n          ")
    };
    format!(
        "tokensPerSecond: 0\nthinkSeconds: 0\nconversations:\n  - match: write a small program\n    turns:\n      - text: |\n          {}\n      - {think}text: |\n          {}\n      - text: |\n          {}\n    end: All done.\n",
        edit("I write it.", "", "exit 3\n"),
        edit("I mend it.", "exit 3\n", "echo goodbye\n"),
        // A file that is not in the chat yet is put there first, and asked about again.
        edit("I mend it.", "exit 3\n", "echo goodbye\n")
    )
}

impl Home {
    async fn aider_guest(&self, think: &str, change: impl FnOnce(&mut MachineSpec)) -> Guest {
        std::fs::write(self.dir.path().join("conversations.yaml"), conversation(think)).unwrap();
        self.guest("m", |spec| {
            let args = ["--edit-format", "diff", "--auto-test", "--test-cmd", "sh hello.sh"].map(str::to_owned).into();
            spec.agent = Agent { r#type: AgentType::Aider, model: Some("gpt-4.1".into()), args, ..Agent::default() };
            spec.goal.prompt = "Please write a small program".into();
            change(spec);
        })
        .await
    }

    fn git(&self, args: &[&str]) -> String {
        let output = std::process::Command::new("git").args(args).current_dir(self.dir.path().join("workspace")).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_real_program_works_checkpointed_turn_by_turn() {
    let Some(program) = installed("aider") else { return };
    let upstream = Upstream::start(|_| Script::HangUp).await;
    let home = Home::start(&upstream).await;
    for (model, provider) in [("gpt-4.1", "chat completions"), ("claude-opus-4-8", "the Messages API")] {
        let guest = if model == "gpt-4.1" {
            home.aider_guest("", |spec| spec.checkpoints.between_messages = Toggle::Enabled).await
        } else {
            let _ = std::fs::remove_dir_all(home.dir.path().join("workspace"));
            home.guest("other", |spec| {
                let args = ["--edit-format", "diff", "--auto-test", "--test-cmd", "sh hello.sh"].map(str::to_owned).into();
                spec.agent = Agent { r#type: AgentType::Aider, model: Some(model.into()), args, ..Agent::default() };
                spec.goal.prompt = "Please write a small program".into();
            })
            .await
        };
        let output = home.capturing(home.agent(&program, &guest, 1).output()).await.unwrap();
        let said = said(&output);
        assert_eq!(home.git(&["show", "HEAD:hello.sh"]), "echo goodbye\n", "{provider}: {said}");
        assert_eq!(home.git(&["log", "--format=%s"]), "A step of a written conversation\n".repeat(2), "{provider}: {said}");
        assert_eq!(home.git(&["status", "--porcelain"]), "", "nothing of its own lies in the project: {said}");
        let last = home.until_last_call(&guest, CallState::Settled).await;
        assert_eq!(last.stop_reason.as_deref(), Some("end_turn"));
        let usage = home.settled(&guest).await;
        assert!(usage.money.0 > 0 && usage.api_calls == 4, "two answers, two commit messages: {usage:?}\n{said}");
    }
    assert_eq!(home.quiescent_checkpoints().await, ["m-0001", "m-0002"], "commit messages are no part of the conversation");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_real_program_stops_when_the_budget_is_exhausted() {
    let Some(program) = installed("aider") else { return };
    let upstream = Upstream::start(|_| Script::HangUp).await;
    let home = Home::start(&upstream).await;
    let guest = home.aider_guest("", limit(1_000_000)).await;
    let started = std::time::Instant::now();
    let output = home.capturing(home.agent(&program, &guest, 1).output()).await.unwrap();
    let said = said(&output);
    // It breaks lines.
    let words: Vec<&str> = said.split_whitespace().collect();
    assert!(words.join(" ").contains("autovibe: budget exhausted: money of Machine default/m"), "{said}");
    home.assert_refused_at_once(&guest, started).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_real_program_goes_on_where_it_was_killed() {
    let Some(program) = installed("aider") else { return };
    let upstream = Upstream::start(|_| Script::HangUp).await;
    let home = Home::start(&upstream).await;
    let guest = home.aider_guest("thinkSeconds: 5\n        ", |spec| spec.checkpoints.between_messages = Toggle::Enabled).await;
    let mut first = home.agent(&program, &guest, 1).spawn().unwrap();
    home.capturing(eventually("the second turn was asked for", async || {
        home.objects.get::<Checkpoint>("default", "m-0002").await.unwrap().map(|_| ())
    }))
    .await;
    first.kill().await.unwrap();
    home.capturing(home.until_last_call(&guest, CallState::Cut)).await;
    assert!(home.settled(&guest).await.money.0 > 0);
    let output = home.capturing(home.agent(&program, &guest, 2).output()).await.unwrap();
    let said = said(&output);
    assert_eq!(home.git(&["show", "HEAD:hello.sh"]), "echo goodbye\n", "{said}");
    assert_eq!(home.until_last_call(&guest, CallState::Settled).await.stop_reason.as_deref(), Some("end_turn"));
}
