//! The gateway against a provider with a bill of its own: what is charged, what passes, what is held.

#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

mod aider;
mod approvals;
mod boundaries;
mod budget;
mod checkpoints;
mod claude;
mod egress;
mod mcp;
mod openai;
mod passage;
mod permissions;
mod qwen;
mod replay;
mod runner;
mod upstream;

use autovibe::{
    agent,
    api::{
        Budget, Checkpoint, Hub, Kind, Machine,
        budget::{BudgetLimits, BudgetSpec},
        checkpoint::CheckpointPhase,
        hub::{HubSpec, Provider, ProviderType, SecretRef},
        machine::{Agent, AgentType, BudgetUse, From, Goal, Limits, MachineSpec, MachineStatus, Phase, Requirement, Toggle},
        quantity::{Currency, Money, NanoUsd},
    },
    clock::Clock,
    gateway,
    ledger::{Ledger, Usage},
    objects::{Cipher, Objects, WriteOptions},
    store::{CallState, CallSummary, Store, TranscriptEntry},
    wire,
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};
use tokio_util::sync::CancellationToken;
use upstream::Upstream;

const KEY: &str = "sk-ant-the-real-key";
const MODEL: &str = "claude-sonnet-4-5";

/// A hub with its gateway, and a provider that is ours.
struct Home {
    dir: tempfile::TempDir,
    objects: Objects,
    gateway: SocketAddr,
    shutdown: CancellationToken,
    server: Option<gateway::Server>,
    /// How long an answer waits for a person.
    patience: Duration,
    client: reqwest::Client,
}

/// A Machine and its token.
struct Guest {
    machine: Machine,
    key: String,
    token: String,
}

impl Home {
    async fn start(upstream: &Upstream) -> Self {
        Self::start_with(upstream, Duration::from_secs(20)).await
    }

    async fn start_with(upstream: &Upstream, hold: Duration) -> Self {
        rustls::crypto::ring::default_provider().install_default().ok();
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("state.db")).await.unwrap();
        let objects = Objects::new(store, Clock::system(), Cipher::load(&dir.path().join("key")).unwrap());
        objects.ensure_presets().await.unwrap();
        let anthropic = Provider {
            name: "anthropic".into(),
            r#type: ProviderType::Anthropic,
            endpoint: Some(format!("http://{}", upstream.address)),
            api_key_secret_ref: Some(SecretRef { name: "anthropic".into() }),
            models: vec!["claude-sonnet-*".into(), "gpt-5".into()],
            ..Provider::default()
        };
        let replay = Provider {
            name: "replay".into(),
            r#type: ProviderType::Replay,
            replay: Some(autovibe::api::hub::Replay { file: dir.path().join("conversations.yaml").display().to_string() }),
            models: vec!["claude-opus-*".into(), "qwen3-coder-plus".into(), "gpt-4.1*".into()],
            ..Provider::default()
        };
        let openai = Provider {
            name: "openai".into(),
            r#type: ProviderType::OpenAI,
            endpoint: Some(format!("http://{}/v1", upstream.address)),
            api_key_secret_ref: Some(SecretRef { name: "anthropic".into() }),
            models: vec!["gpt-4o".into(), "gpt-4o-*".into()],
            price_list: Some("openai".into()),
            ..Provider::default()
        };
        let infrastructure = serde_json::from_value(json!({"lab": {}})).unwrap();
        let providers = vec![anthropic, replay, openai];
        let spec = HubSpec {
            infrastructure,
            gateway: None,
            providers,
            images: Vec::new(),
            defaults: Default::default(),
            approvals: Default::default(),
            checkpoints: Default::default(),
            egress: Default::default(),
        };
        objects.create(&Hub::new("", "default", spec)).await.unwrap();
        let mut home = Self {
            dir,
            objects,
            gateway: ([127, 0, 0, 1], 0).into(),
            shutdown: CancellationToken::new(),
            server: None,
            patience: gateway::Config::default().patience,
            client: reqwest::Client::new(),
        };
        home.set_key(KEY).await;
        home.serve(hold).await;
        home
    }

    async fn serve(&mut self, hold: Duration) {
        self.shutdown = CancellationToken::new();
        let config = gateway::Config {
            listen: self.gateway,
            hold,
            patience: self.patience,
            drain: Duration::from_millis(300),
            ..gateway::Config::default()
        };
        let server = gateway::start(config, self.objects.clone(), self.shutdown.clone()).await.unwrap();
        self.gateway = server.address;
        self.server = Some(server);
    }

    async fn stop(&mut self) {
        self.shutdown.cancel();
        self.server.take().unwrap().stopped().await;
    }

    async fn set_key(&self, key: &str) {
        let secrets = autovibe::admission::resources().iter().find(|r| r.plural == "secrets").unwrap();
        let secret = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "anthropic", "namespace": "autovibe-system"}, "stringData": {"apiKey": key}});
        let options = WriteOptions::default();
        if self.objects.read(secrets, "autovibe-system", "anthropic").await.is_ok() {
            let patch = autovibe::objects::Patch::Merge(json!({"stringData": {"apiKey": key}}));
            let part = autovibe::objects::Part::Main;
            self.objects.patch_document(secrets, "autovibe-system", "anthropic", part, &patch, &options).await.unwrap();
        } else {
            self.objects.create_document(secrets, "autovibe-system", secret, &options).await.unwrap();
        }
    }

    /// A running Machine with checkpoints off.
    async fn guest(&self, name: &str, change: impl FnOnce(&mut MachineSpec)) -> Guest {
        let goal = Goal { prompt: "work".into(), workspace: Some("/w".into()), ..Goal::default() };
        let from = Some(From { image: Some("micro".into()), ..From::default() });
        let agent = Agent { r#type: AgentType::Command, command: vec!["true".into()], ..Agent::default() };
        let mut spec = MachineSpec { from, goal, agent, ..MachineSpec::default() };
        let checkpoints = &mut spec.checkpoints;
        for toggle in [
            &mut checkpoints.between_messages,
            &mut checkpoints.after_file_operations,
            &mut checkpoints.before_risky_operations,
            &mut checkpoints.at_breakpoints,
        ] {
            *toggle = Toggle::Disabled;
        }
        spec.approvals.leaving_vm = Requirement::NotRequired;
        change(&mut spec);
        let mut machine = self.objects.create(&Machine::new("default", name, spec)).await.unwrap();
        machine.status = Some(MachineStatus { phase: Phase::Running, ..MachineStatus::default() });
        let machine = self.objects.update_status(&machine).await.unwrap();
        let key = wire::runner::key(Sha256::digest(machine.uid()).into());
        let token = wire::runner::token_of(&key).unwrap();
        let (hash, uid, name) = (hex::encode(Sha256::digest(&token)), machine.uid().to_owned(), name.to_owned());
        let stored: Result<(), autovibe::store::Error> =
            self.objects.store().write(move |t| Box::pin(async move { t.put_token(&hash, &uid, "default", &name).await })).await;
        stored.unwrap();
        Guest { machine, key, token }
    }

    async fn budget(&self, name: &str, money: i64, parent: Option<&str>) -> Budget {
        let limits = BudgetLimits { money: Some(usd(money)), api_calls: None };
        let parent_ref = parent.map(|name| autovibe::api::budget::ParentRef { name: name.into() });
        self.objects.create(&Budget::new("default", name, BudgetSpec { parent_ref, limits })).await.unwrap()
    }

    fn post(&self, path: &str, guest: &Guest, body: &Value) -> reqwest::RequestBuilder {
        self.client.post(format!("http://{}{path}", self.gateway)).header("x-api-key", &guest.token).json(body)
    }

    async fn call(&self, guest: &Guest, body: &Value) -> (u16, String) {
        let response = self.post("/v1/messages?beta=true", guest, body).send().await.unwrap();
        (response.status().as_u16(), response.text().await.unwrap())
    }

    async fn usage(&self, account: &str) -> Usage {
        Ledger::new(self.objects.store().clone(), Clock::system()).usage(account).await.unwrap()
    }

    /// What a Machine has spent, once nothing of it is reserved any more.
    async fn settled(&self, guest: &Guest) -> Usage {
        let account = format!("machine/{}", guest.machine.uid());
        eventually("nothing is reserved", async || {
            let usage = self.usage(&account).await;
            (usage.reserved.0 == 0).then_some(usage)
        })
        .await
    }

    /// A program that is over its budget gave up soon, and nothing was paid.
    async fn assert_refused_at_once(&self, guest: &Guest, started: std::time::Instant) {
        assert!(started.elapsed() < Duration::from_mins(1), "it did not try again and again");
        assert_eq!(self.last_call(guest).await.unwrap().state, CallState::Refused);
        let usage = self.settled(guest).await;
        assert_eq!((usage.money.0, usage.api_calls), (0, 0));
    }

    async fn last_call(&self, guest: &Guest) -> Option<CallSummary> {
        self.objects.store().last_main_call(guest.machine.uid()).await.unwrap()
    }

    async fn until_last_call(&self, guest: &Guest, state: CallState) -> CallSummary {
        eventually(&format!("the last call is {state:?}"), async || self.last_call(guest).await.filter(|call| call.state == state)).await
    }

    async fn transcript(&self, guest: &Guest) -> Vec<TranscriptEntry> {
        self.objects.store().transcript(guest.machine.uid(), 0, 1000).await.unwrap()
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

/// An agent's program, where `make agents` or someone else installed it.
fn installed(name: &str) -> Option<PathBuf> {
    let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/agents/bin").join(name);
    let found = std::process::Command::new("sh").args(["-c", "command -v \"$0\""]).arg(name).output().ok()?;
    let path = String::from_utf8(found.stdout).ok()?.trim().to_owned();
    if ours.exists() {
        return Some(ours);
    }
    if path.is_empty() {
        eprintln!("SKIPPED: {name} is not installed; `make agents` does it");
        return None;
    }
    Some(path.into())
}

impl Home {
    /// The command that starts or resumes a Machine's agent in a guest, to be run here: with a home and a workspace of its own.
    fn agent(&self, program: &Path, guest: &Guest, number: u32) -> tokio::process::Command {
        let gateway_url = format!("http://{}", self.gateway);
        let launch =
            agent::launch(&guest.machine, &agent::Start { number, gateway_url: &gateway_url, key: &guest.key, token: &guest.token });
        let (home, workspace) = (self.dir.path().join("home"), self.dir.path().join("workspace"));
        for directory in [&home, &workspace] {
            std::fs::create_dir_all(directory).unwrap();
        }
        let mut command = tokio::process::Command::new(&launch.argv[0]);
        command
            .args(&launch.argv[1..])
            .env_clear()
            .envs(&launch.environment)
            .env("PATH", format!("{}:/usr/local/bin:/usr/bin:/bin", program.parent().unwrap().display()))
            .env("HOME", home)
            .current_dir(workspace)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        command
    }

    /// Plays the checkpoint controller while something runs.
    async fn capturing<T>(&self, running: impl Future<Output = T>) -> T {
        let controller = async {
            loop {
                for mut checkpoint in self.objects.list::<Checkpoint>(Some("default")).await.unwrap().0 {
                    let status = checkpoint.status.get_or_insert_default();
                    if status.phase == CheckpointPhase::Pending {
                        status.phase = CheckpointPhase::Ready;
                        let _ = self.objects.update_status(&checkpoint).await;
                    }
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::select! {
            output = tokio::time::timeout(Duration::from_mins(2), running) => output.expect("it ends"),
            () = controller => unreachable!(),
        }
    }

    /// Names of the checkpoints, all of which must say that nothing else wrote.
    async fn quiescent_checkpoints(&self) -> Vec<String> {
        let checkpoints = self.objects.list::<Checkpoint>(Some("default")).await.unwrap().0;
        assert!(checkpoints.iter().all(|c| c.metadata.annotations.as_ref().unwrap()["autovibe.dev/quiescent"] == "true"));
        checkpoints.iter().map(|checkpoint| checkpoint.name().to_owned()).collect()
    }

    /// Who said the first `count` messages of a conversation; the last is stored a moment after its call was settled.
    async fn roles(&self, guest: &Guest, count: usize) -> Vec<String> {
        let entries = async || Some(self.transcript(guest).await).filter(|entries| entries.len() >= count);
        eventually("all messages are stored", entries).await.into_iter().map(|entry| entry.role).collect()
    }
}

/// What a program said, on both of its streams.
fn said(output: &std::process::Output) -> String {
    format!("{}\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Asks again until there is an answer, for a minute: programs of agents take long to start on a busy machine.
async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    for _ in 0..6000 {
        if let Some(found) = ask().await {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("waited in vain until {what}");
}

fn usd(nano: i64) -> Money {
    Money { amount: NanoUsd(nano), currency: Currency::USD }
}

fn limit(money: i64) -> impl FnOnce(&mut MachineSpec) {
    move |spec| spec.budget = Some(BudgetUse { name: None, limits: Limits { money: Some(usd(money)), ..Limits::default() } })
}

fn request(text: &str) -> Value {
    json!({"model": MODEL, "max_tokens": 1000, "stream": true, "messages": [{"role": "user", "content": text}]})
}
