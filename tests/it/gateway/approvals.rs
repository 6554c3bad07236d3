//! A call that leaves the VM waits for a person: approved, denied, expired, asked again, through restarts; and by the real programs.

use super::{upstream::Script, *};
use autovibe::{
    api::{
        Approval,
        approval::{ApprovalPhase, OnTimeout},
        quantity::GoDuration,
    },
    apiserver,
    objects::{Part, Patch},
};

const PUSH: &str = "cd /w && git push origin main";

fn shell(command: &'static str) -> Script {
    Script::Answer { words: 2, tools: vec![("Bash", json!({ "command": command }))], gate: None }
}

/// A request of so many messages, which upstream makes the ids of its calls of.
fn turn(number: usize) -> Value {
    let messages = vec![json!({"role": "user", "content": "go"}); number];
    json!({"model": MODEL, "max_tokens": 1000, "stream": true, "tools": [{"name": "Bash", "input_schema": {}}], "messages": messages})
}

fn required(spec: &mut MachineSpec) {
    spec.approvals.leaving_vm = Requirement::Required;
}

impl Home {
    async fn approvals(&self) -> Vec<Approval> {
        self.objects.list::<Approval>(Some("default")).await.unwrap().0
    }

    /// The only one that waits, once there is one.
    async fn asked(&self) -> Approval {
        eventually("an approval is asked for", async || {
            self.approvals().await.into_iter().find(|approval| approval.phase() == ApprovalPhase::Pending)
        })
        .await
    }

    async fn decide(&self, approval: &Approval, spec: Value) -> Result<(), autovibe::objects::Error> {
        let resource = autovibe::admission::resource::<Approval>();
        let options = WriteOptions { user: Some("alice".into()), ..WriteOptions::default() };
        let patch = Patch::Merge(json!({ "spec": spec, "status": { "decidedBy": "mallory", "phase": "Approved" } }));
        self.objects.patch_document(resource, "default", approval.name(), Part::Main, &patch, &options).await.map(drop)
    }

    /// Asks, and does something once a person is asked; what the agent got, when it got all.
    async fn asking(&self, guest: &Guest, number: usize, meanwhile: impl AsyncFnOnce(Approval)) -> String {
        let body = turn(number);
        let (answer, ()) = tokio::join!(self.call(guest, &body), async { meanwhile(self.asked().await).await });
        answer.1
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_leaves_the_vm_is_withheld_whole_until_a_person_approves_it_once() {
    let upstream = Upstream::start(|_| shell(PUSH)).await;
    let home = Home::start(&upstream).await;
    let guest = home.guest("m", required).await;
    let mut response = home.post("/v1/messages?beta=true", &guest, &turn(1)).send().await.unwrap();
    let asked = home.asked().await;
    let spec = &asked.spec;
    assert_eq!((spec.machine.as_str(), spec.tool.as_str(), spec.asks.as_str(), spec.class), ("m", "Bash", PUSH, 4));
    assert_eq!((spec.rule.as_str(), spec.on_timeout, spec.decision), ("git push, which leaves the VM", OnTimeout::Deny, None));
    let made = asked.metadata.creation_timestamp.clone().unwrap().0;
    let left = spec.expires_at.0.duration_since(made).as_secs();
    assert!((599..=600).contains(&left), "{left}");
    assert_eq!(asked.metadata.owner_references.clone().unwrap()[0].uid, guest.machine.uid());
    let mut seen = String::new();
    while let Ok(chunk) = tokio::time::timeout(Duration::from_millis(500), response.chunk()).await {
        seen += std::str::from_utf8(&chunk.unwrap().expect("it does not end yet")).unwrap();
    }
    assert!(seen.contains("word") && !seen.contains("tool_use"), "not even its beginning: {seen}");
    home.decide(&asked, json!({ "decision": "Approved" })).await.unwrap();
    let rest = response.text().await.unwrap();
    assert!(rest.contains("git push origin main") && rest.contains("message_stop"), "{rest}");
    let used = home.approvals().await.remove(0).status.unwrap();
    assert_eq!((used.phase, used.decided_by.as_deref()), (ApprovalPhase::Approved, Some("alice")), "as the server knows them");
    assert!(used.used_at.is_some() && used.decided_at.is_some());
    // It was for one call: the same again is another.
    let text = home
        .asking(&guest, 2, async |again| {
            assert_ne!(again.name(), asked.name());
            home.decide(&again, json!({ "decision": "Approved" })).await.unwrap();
        })
        .await;
    assert!(text.contains("git push origin main"), "{text}");
    assert_eq!(home.approvals().await.len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denied_call_becomes_one_that_only_says_so() {
    let upstream = Upstream::start(|_| Script::Answer {
        words: 1,
        tools: vec![("Bash", json!({ "command": "ls" })), ("Bash", json!({ "command": PUSH, "run_in_background": true }))],
        gate: None,
    })
    .await;
    let home = Home::start(&upstream).await;
    let guest = home.guest("m", required).await;
    let text = home
        .asking(&guest, 1, async |asked| {
            let refused = home.decide(&asked, json!({ "reason": "no" })).await.unwrap_err().to_string();
            assert!(refused.contains("spec.decision"), "{refused}");
            home.decide(&asked, json!({ "decision": "Denied", "reason": "not before it's reviewed" })).await.unwrap();
            let changed = home.decide(&asked, json!({ "decision": "Approved" })).await.unwrap_err().to_string();
            assert!(changed.contains("spec.decision") && changed.contains("may be set once"), "{changed}");
            let changed = home.decide(&asked, json!({ "asks": "ls" })).await.unwrap_err().to_string();
            assert!(changed.contains("spec.asks") && changed.contains("is immutable"), "{changed}");
        })
        .await;
    let mut meter = autovibe::llm::meter::Meter::new(autovibe::llm::Protocol::Messages);
    meter.stream(text.as_bytes());
    let calls = meter.calls();
    assert_eq!(calls[0]["input"]["command"], "ls");
    let told = calls[1]["input"]["command"].as_str().unwrap();
    assert!(!text.contains("origin main") && calls[1]["input"]["run_in_background"] == false, "{text}");
    let run = std::process::Command::new("sh").args(["-c", told]).output().unwrap();
    let words = String::from_utf8(run.stderr).unwrap();
    assert_eq!(run.status.code(), Some(1));
    assert!(words.contains("git push, which leaves the VM") && words.contains("alice denied it: not before it's reviewed"), "{words}");
    let status = home.approvals().await.remove(0).status.unwrap();
    assert_eq!((status.phase, status.decided_by.as_deref()), (ApprovalPhase::Denied, Some("alice")));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_decides_goes_as_its_machine_says() {
    let upstream = Upstream::start(|_| shell(PUSH)).await;
    let home = Home::start(&upstream).await;
    for (name, then, runs) in [("deny", OnTimeout::Deny, false), ("allow", OnTimeout::Allow, true)] {
        let guest = home
            .guest(name, |spec| {
                required(spec);
                spec.approvals.timeout = GoDuration(Duration::from_secs(2));
                spec.approvals.on_timeout = then;
            })
            .await;
        let text = home.asking(&guest, 1, async |_| ()).await;
        assert_eq!(text.contains("git push origin main"), runs, "{text}");
        assert_eq!(text.contains("nobody decided in time"), !runs, "{text}");
        let approval = home.approvals().await.into_iter().find(|approval| approval.spec.machine == name).unwrap();
        assert_eq!(approval.phase(), ApprovalPhase::Expired);
        let late = home.decide(&approval, json!({ "decision": "Approved" })).await.unwrap_err().to_string();
        assert!(late.contains("nobody decided it in time"), "{late}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_that_has_to_ask_again_waits_for_the_same_approval() {
    let upstream = Upstream::start(|_| shell(PUSH)).await;
    let mut home = Home::start(&upstream).await;
    home.stop().await;
    home.patience = Duration::from_millis(300);
    home.serve(Duration::from_secs(20)).await;
    let guest = home.guest("m", required).await;
    let text = home.asking(&guest, 1, async |_| ()).await;
    assert!(!text.contains("origin main") && text.contains("Make exactly the same call again"), "{text}");
    let asked = home.asked().await;
    // A gateway that is new knows it too.
    home.stop().await;
    home.serve(Duration::from_secs(20)).await;
    home.decide(&asked, json!({ "decision": "Approved" })).await.unwrap();
    // Another Machine's same call is another.
    let other = home.guest("other", required).await;
    assert!(!home.call(&other, &turn(1)).await.1.contains("origin main"));
    let (_, text) = home.call(&guest, &turn(2)).await;
    assert!(text.contains("git push origin main"), "{text}");
    let approvals = home.approvals().await;
    assert_eq!(approvals.iter().map(|approval| approval.spec.machine.as_str()).collect::<Vec<_>>(), ["m", "other"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hub_that_goes_away_lets_nothing_through() {
    let upstream = Upstream::start(|_| shell(PUSH)).await;
    let mut home = Home::start(&upstream).await;
    let guest = home.guest("m", required).await;
    let mut response = home.post("/v1/messages?beta=true", &guest, &turn(1)).send().await.unwrap();
    let asked = home.asked().await;
    home.stop().await;
    let mut seen = String::new();
    while let Ok(Some(chunk)) = response.chunk().await {
        seen += std::str::from_utf8(&chunk).unwrap();
    }
    assert!(!seen.contains("tool_use") && !seen.contains("message_stop"), "{seen}");
    home.serve(Duration::from_secs(20)).await;
    home.decide(&asked, json!({ "decision": "Approved" })).await.unwrap();
    assert!(home.call(&guest, &turn(1)).await.1.contains("git push origin main"));
    assert_eq!(home.approvals().await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_needs_none_is_asked_nothing() {
    let upstream = Upstream::start(|_| shell(PUSH)).await;
    let home = Home::start(&upstream).await;
    let free = home.guest("free", |_| ()).await;
    assert!(home.call(&free, &turn(1)).await.1.contains("git push origin main"));
    upstream.then(|_| shell("rm -rf build && cargo test"));
    let guest = home.guest("m", required).await;
    assert!(home.call(&guest, &turn(1)).await.1.contains("rm -rf build"));
    assert!(home.approvals().await.is_empty());
}

const SESSION: &str = "7c6f1f3e-0d43-4c61-9d0f-3f8f6f0f6a11";

impl Home {
    /// A conversation in which the agent pushes and then goes on.
    fn pushes(&self) {
        let text = r#"
tokensPerSecond: 0
thinkSeconds: 0
conversations:
  - match: publish the work
    turns:
      - text: I push it.
        tools: [{name: Bash, input: {command: "git push nowhere main; echo pushed > pushed.txt", description: push}}]
      - text: I note it.
        tools: [{name: Bash, input: {command: "echo went on > noted.txt", description: note}}]
      - text: All done.
"#;
        std::fs::write(self.dir.path().join("conversations.yaml"), text).unwrap();
    }

    /// The API server beside the gateway, and a kubectl for it.
    async fn kubectl(&self) -> (apiserver::Server, impl AsyncFn(&[&str]) -> String + use<>) {
        let config = apiserver::Config {
            listen: "127.0.0.1:0".parse().unwrap(),
            names: Vec::new(),
            data: self.dir.path().into(),
            door: Default::default(),
        };
        let server = apiserver::start(config, self.objects.clone(), self.shutdown.clone()).await.unwrap();
        let (home, kubeconfig) = (self.dir.path().to_owned(), self.dir.path().join("kubeconfig"));
        let run = async move |arguments: &[&str]| {
            let mut command = tokio::process::Command::new("kubectl");
            command.env("HOME", &home).env("KUBECONFIG", &kubeconfig).env_remove("HTTPS_PROXY").env_remove("https_proxy");
            let output = command.current_dir(&home).args(arguments).output().await.expect("kubectl starts");
            assert!(output.status.success(), "{arguments:?}: {}", said(&output));
            String::from_utf8(output.stdout).unwrap()
        };
        (server, run)
    }
}

/// Runs the real Claude Code; a person decides with the real kubectl.
async fn publish(decision: &str) -> Option<(Home, Guest, std::process::Output)> {
    let program = installed("claude")?;
    let upstream = Upstream::start(|_| Script::HangUp).await;
    let home = Home::start(&upstream).await;
    let guest = home.guest("m", required).await;
    home.pushes();
    for directory in ["home", "workspace"] {
        std::fs::create_dir(home.dir.path().join(directory)).unwrap();
    }
    let (_server, kubectl) = home.kubectl().await;
    let mut command = home.claude(&program, &guest);
    command.args(["-p", "Please publish the work", "--session-id", SESSION]);
    let pushed = home.dir.path().join("workspace/pushed.txt");
    let person = async {
        let asked = home.asked().await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(!pushed.exists(), "the command waits");
        let table = kubectl(&["get", "approvals"]).await;
        for part in ["Pending", "m ", "git push nowhere main", "git push, which leaves the VM"] {
            assert!(table.contains(part), "{table}");
        }
        kubectl(&["patch", "approval", asked.name(), "--type=merge", "-p", decision]).await;
    };
    let (output, ()) = tokio::join!(tokio::time::timeout(Duration::from_mins(2), command.output()), person);
    Some((home, guest, output.expect("it ends").unwrap()))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_real_program_pushes_once_a_person_approves_it_with_kubectl() {
    let Some((home, _, output)) = publish(r#"{"spec":{"decision":"Approved"}}"#).await else { return };
    assert!(output.status.success(), "{}", said(&output));
    for file in ["pushed.txt", "noted.txt"] {
        assert!(home.dir.path().join("workspace").join(file).exists(), "{file}: {}", said(&output));
    }
    let status = home.approvals().await.remove(0).status.unwrap();
    assert!(status.used_at.is_some() && status.decided_by.is_some(), "{status:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_real_program_is_told_of_a_denial_and_goes_on() {
    let decision = r#"{"spec":{"decision":"Denied","reason":"first a review"}}"#;
    let Some((home, guest, output)) = publish(decision).await else { return };
    assert!(output.status.success(), "{}", said(&output));
    let workspace = home.dir.path().join("workspace");
    assert!(!workspace.join("pushed.txt").exists(), "{}", said(&output));
    assert!(workspace.join("noted.txt").exists(), "it went on: {}", said(&output));
    let told = home
        .transcript(&guest)
        .await
        .iter()
        .filter(|entry| entry.role == "user")
        .map(|entry| entry.content.to_string())
        .collect::<String>();
    assert!(told.contains("denied it: first a review"), "its model reads it: {told}");
}
