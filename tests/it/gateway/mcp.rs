//! The same as tools of the Model Context Protocol: its official Python client, by the newest version and by the handshake of before; and
//! the real Claude Code and Qwen Code, launched as in a guest.

use super::{upstream::Script, *};
use autovibe::{api::Permission, wire::asks::MCP_PATH};
use std::os::unix::fs::PermissionsExt;

impl Home {
    async fn rpc(&self, guest: &Guest, body: &Value) -> (u16, Value) {
        let request = self.post(MCP_PATH, guest, body).header("accept", "application/json, text/event-stream");
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        (status, serde_json::from_str(&response.text().await.unwrap()).unwrap_or_default())
    }

    /// Says what the model of a Machine is to do.
    fn converse(&self, text: &str) {
        let text = format!("tokensPerSecond: 0\nthinkSeconds: 0\nconversations:\n  - match: ask the hub\n    turns:\n{text}");
        std::fs::write(self.dir.path().join("conversations.yaml"), text).unwrap();
    }

    /// What came of each tool call, as the model was told it.
    async fn results(&self, guest: &Guest) -> String {
        self.transcript(guest)
            .await
            .into_iter()
            .filter(|entry| entry.role != "assistant")
            .map(|entry| format!("{}\n", entry.content))
            .collect()
    }
}

fn rpc(method: &str, params: &Value) -> Value {
    json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_is_permitted_is_listed_and_what_is_not_is_refused_in_words() {
    let upstream = Upstream::start(|_| Script::words(1)).await;
    let home = Home::start(&upstream).await;
    for (permissions, names) in [
        (vec![], vec![]),
        (vec![Permission::ReadBudget], vec!["read_budget"]),
        (vec![Permission::SpawnMachines], vec!["spawn_machine", "list_machines"]),
        (Permission::ALL.to_vec(), vec!["checkpoint", "read_budget", "read_lineage", "spawn_machine", "list_machines"]),
    ] {
        let guest = home.guest(&format!("m{}", names.len()), |spec| spec.permissions = permissions).await;
        let (status, answer) = home.rpc(&guest, &rpc("tools/list", &json!({}))).await;
        let listed: Vec<&str> = answer["result"]["tools"].as_array().unwrap().iter().map(|tool| tool["name"].as_str().unwrap()).collect();
        assert_eq!((status, &listed), (200, &names), "{answer}");
        assert!(!answer.to_string().contains("$ref"), "some providers do not follow references: {answer}");
        let (_, answer) = home.rpc(&guest, &rpc("tools/call", &json!({"name": "read_budget", "arguments": {}}))).await;
        let text = answer["result"]["content"][0]["text"].as_str().unwrap();
        let is_error = answer["result"]["isError"] == true;
        assert_eq!(is_error, !names.contains(&"read_budget"), "{answer}");
        assert!(text.contains(if is_error { "takes the permission ReadBudget" } else { "\"levels\"" }), "{answer}");
    }
    let guest = home.guest("m", |spec| spec.permissions = Permission::ALL.to_vec()).await;
    let (_, answer) = home.rpc(&guest, &rpc("tools/call", &json!({"name": "no_such_tool"}))).await;
    assert_eq!(answer["error"]["code"], -32602, "{answer}");
    let wrong = rpc("tools/call", &json!({"name": "spawn_machine", "arguments": {"prompt": "x", "hub": "y"}}));
    let (_, answer) = home.rpc(&guest, &wrong).await;
    assert!(answer["result"]["content"][0]["text"].as_str().unwrap().contains("unknown field `hub`"), "{answer}");
    // A page in someone's browser does not get there, and nobody waits for events that never come.
    let page = home.post(MCP_PATH, &guest, &rpc("tools/list", &json!({}))).header("origin", "http://evil.example").send().await.unwrap();
    assert_eq!(page.status(), 403);
    let stream = home.client.get(format!("http://{}{MCP_PATH}", home.gateway)).bearer_auth(&guest.token).send().await.unwrap();
    assert_eq!(stream.status(), 405);
    let notified = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
    assert_eq!(home.rpc(&guest, &notified).await.0, 202);
    let large = rpc("tools/call", &json!({"name": "spawn_machine", "arguments": {"prompt": "x".repeat(300 << 10)}}));
    assert_eq!(home.rpc(&guest, &large).await.0, 413);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_python_client_calls_the_tools_in_each_version() {
    let upstream = Upstream::start(|_| Script::words(1)).await;
    let home = Home::start(&upstream).await;
    let guest = home.guest("m", |spec| spec.permissions = Permission::ALL.to_vec()).await;
    let url = format!("http://{}{MCP_PATH}", home.gateway);
    let said = home.capturing(crate::python::run("python-mcp", crate::python::MCP, &[], "mcp_tools.py", &[&url, &guest.token])).await;
    let Some(said) = said else { return };
    assert!(said.contains("auto: all of 5 tools") && said.contains("legacy: all of 5 tools"), "{said}");
    let names: Vec<String> = home.objects.list::<Machine>(Some("default")).await.unwrap().0.iter().map(|m| m.name().to_owned()).collect();
    assert_eq!(names, ["by-auto", "by-legacy", "m"]);
}

/// What the two programs are to do: each asks for all four.
fn turns(name: impl Fn(&str) -> String) -> String {
    let calls = [
        ("read_budget", "{}"),
        ("checkpoint", "{description: half way}"),
        ("read_lineage", "{}"),
        ("spawn_machine", "{name: helper, prompt: test it, from: Now}"),
    ];
    let turn = |(tool, input): (&str, &str)| format!("      - text: I ask.\n        tools: [{{name: {}, input: {input}}}]\n", name(tool));
    calls.into_iter().map(turn).collect::<String>() + "      - text: All done.\n"
}

impl Home {
    /// A Machine with all permissions, whose agent asks for all.
    async fn permitted(&self, agent: Agent) -> Guest {
        self.guest("m", |spec| {
            spec.agent = agent;
            spec.goal.prompt = "Please ask the hub".into();
            spec.permissions = Permission::ALL.to_vec();
        })
        .await
    }

    async fn assert_all_was_done(&self, guest: &Guest, said: &str) {
        let results = self.results(guest).await;
        for part in ["Machine default/m", "-asked-", "spawnedFrom", "helper"] {
            assert!(results.contains(part), "{part}: {results}\n{said}");
        }
        let taken = self.objects.list::<Checkpoint>(Some("default")).await.unwrap().0;
        assert_eq!(
            taken.iter().filter_map(|checkpoint| checkpoint.spec.description.as_deref()).collect::<Vec<_>>(),
            ["half way"],
            "{said}"
        );
        let helper: Machine = self.objects.get("default", "helper").await.unwrap().unwrap();
        assert_eq!((helper.spec.goal.prompt.as_str(), helper.spawned_by()), ("test it", Some(("m", guest.machine.uid()))));
        let last = self.until_last_call(guest, CallState::Settled).await;
        assert_eq!(last.stop_reason.as_deref(), Some("end_turn"), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn claude_code_asks_for_all_by_its_tools() {
    let Some(program) = installed("claude") else { return };
    let upstream = Upstream::start(|_| Script::HangUp).await;
    let home = Home::start(&upstream).await;
    home.converse(&turns(|tool| format!("mcp__autovibe__{tool}")));
    let guest = home.permitted(Agent { model: Some("claude-opus-4-8".into()), ..Agent::default() }).await;
    let mut command = home.agent(&program, &guest, 1);
    command.env("IS_SANDBOX", "1");
    let said = said(&home.capturing(command.output()).await.unwrap());
    home.assert_all_was_done(&guest, &said).await;
    assert!(!said.contains(&guest.token), "{said}");
}

/// Where a person decides what leaves the VM, and the runner asks before each tool: none of these needs anybody's word.
#[tokio::test(flavor = "multi_thread")]
async fn claude_code_asks_for_all_under_its_runner_too() {
    let Some(program) = installed("claude") else { return };
    let upstream = Upstream::start(|_| Script::HangUp).await;
    let home = Home::start(&upstream).await;
    home.converse(&turns(|tool| format!("mcp__autovibe__{tool}")));
    let mut guest = home.permitted(Agent { model: Some("claude-opus-4-8".into()), ..Agent::default() }).await;
    guest.machine.spec.approvals.leaving_vm = Requirement::Required;
    guest.machine = home.objects.update(&guest.machine).await.unwrap();
    let (dir, url) = (home.dir.path(), format!("http://{}", home.gateway));
    let launch = agent::launch(&guest.machine, &agent::Start { number: 1, gateway_url: &url, key: &guest.key, token: &guest.token });
    let (key, script) = (dir.join("runner.key"), dir.join("agent.sh"));
    std::fs::write(&key, &guest.key).unwrap();
    std::fs::set_permissions(&key, PermissionsExt::from_mode(0o600)).unwrap();
    std::fs::write(&script, "shift\ncd \"$HOME/../workspace\" && exec \"$@\"\n").unwrap();
    for directory in ["home", "workspace"] {
        std::fs::create_dir_all(dir.join(directory)).unwrap();
    }
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_autovibe"));
    command.arg("guest").arg(format!("--gateway={url}")).arg(format!("--key={}", key.display()));
    command.arg(format!("--home={}", dir.join("home").display())).arg(format!("--script={}", script.display()));
    command.arg(format!("--session={}", launch.environment["AUTOVIBE_SESSION"])).args(["--prompt=Please ask the hub", "--go-on=Go on"]);
    // As the launch script does: without the shell that starts the program otherwise.
    command.arg("--").args(&launch.argv[4..]).env_clear().envs(&launch.environment).env("HOME", dir.join("home"));
    command.env("PATH", format!("{}:/usr/local/bin:/usr/bin:/bin", program.parent().unwrap().display()));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let said = said(&home.capturing(command.output()).await.unwrap());
    home.assert_all_was_done(&guest, &said).await;
    assert_eq!(home.objects.list::<autovibe::api::Approval>(Some("default")).await.unwrap().0.len(), 0, "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn qwen_code_asks_for_all_by_its_tools() {
    let Some(program) = installed("qwen") else { return };
    let upstream = Upstream::start(|_| Script::HangUp).await;
    let home = Home::start(&upstream).await;
    home.converse(&turns(|tool| format!("mcp__autovibe__{tool}")));
    let guest = home.permitted(Agent { r#type: AgentType::QwenCode, model: Some("qwen3-coder-plus".into()), ..Agent::default() }).await;
    let said = said(&home.capturing(home.agent(&program, &guest, 1).output()).await.unwrap());
    home.assert_all_was_done(&guest, &said).await;
    let held = std::process::Command::new("grep").args(["-rqF", &guest.token]).arg(home.dir.path().join("home/.qwen")).status().unwrap();
    assert!(!held.success(), "the token is in a file");
}
