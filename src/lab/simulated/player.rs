//! Plays a coding agent: asks the model through the gateway, "runs" its tools on the model disk, sends their results, until
//! the model ends its turn. What it does when things break is what Claude Code does: retries what was not answered at all,
//! and exits with 1 when an answer breaks off.

use super::{
    Reach,
    disk::{Disk, Exit},
    guest::Launch,
    prompt::Directives,
    sse::Message,
};
use crate::{
    clock::Clock,
    lab::state::Store,
    wire::{EXIT_PATH, ExitReport},
};
use reqwest::StatusCode;
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};

/// Claude Code tries 10 times, waiting longer each time.
const TRIES: u32 = 10;
const FIRST_WAIT: Duration = Duration::from_millis(200);
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// How long it waits for the head of an answer, where `API_TIMEOUT_MS` says nothing else. A gateway whose process was stopped
/// takes a request and never answers it.
const ANSWERED: Duration = Duration::from_mins(10);
/// Between two reports of the agent's end, until one is accepted.
const REPORT: Duration = Duration::from_secs(2);
/// How long a report waits to be heard.
const HEARD: Duration = Duration::from_secs(30);
const MODEL: &str = "claude-sonnet-4-5";
const MAX_TOKENS: u32 = 4096;

pub(super) struct Player {
    pub(super) store: Arc<Store>,
    pub(super) gateway: Reach,
    pub(super) vmid: u32,
    pub(super) launch: Launch,
}

/// Why no further answer comes.
enum Broken {
    /// The gateway refused for good, or a stream broke off: the agent exits with 1.
    Exit,
}

impl Player {
    pub(super) async fn run(self) {
        let code = match self.disk(|disk| disk.exit) {
            // The lab was ended between the agent's exit and its report.
            Some(Some(exit)) if exit.launch == self.launch.number => exit.code,
            _ => {
                let code = self.work().await;
                self.disk(|disk| disk.exit = Some(Exit { launch: self.launch.number, code }));
                code
            }
        };
        self.report(code).await;
    }

    fn variable(&self, name: &str) -> &str {
        self.launch.environment.get(name).map_or("", String::as_str)
    }

    fn disk<R>(&self, change: impl FnOnce(&mut Disk) -> R) -> Option<R> {
        self.store.change(|state| state.disk_of(self.vmid).map(change))
    }

    /// Works until it ends; returns the exit code.
    async fn work(&self) -> i32 {
        let directives = Directives::read(self.variable("AUTOVIBE_PROMPT"));
        if directives.idle {
            std::future::pending::<()>().await;
        }
        self.open_session();
        let mut ended = false;
        while !ended {
            let turns = self.disk(|disk| disk.messages.iter().filter(|message| message["role"] == "assistant").count()).unwrap_or_default();
            if directives.turns.is_some_and(|most| turns >= most as usize) {
                break;
            }
            let Some(messages) = self.disk(|disk| disk.messages.clone()) else { return 1 };
            match self.ask(&messages).await {
                Ok(message) => ended = self.act(&message),
                Err(Broken::Exit) => return 1,
            }
            Clock::system().sleep(directives.pace).await;
        }
        if directives.hang {
            std::future::pending::<()>().await;
        }
        directives.exit
    }

    /// The same session goes on where its file ends; another begins anew on whatever is in the workspace.
    fn open_session(&self) {
        let (session, resumed) = (self.variable("AUTOVIBE_SESSION").to_owned(), self.launch.number > 1);
        let prompt = json!({ "type": "text", "text": self.variable("AUTOVIBE_PROMPT") });
        let go_on = json!({ "type": "text", "text": self.variable("AUTOVIBE_CONTINUE") });
        self.disk(|disk| {
            if disk.session != session || disk.messages.is_empty() {
                disk.session = session;
                disk.messages = vec![json!({ "role": "user", "content": [prompt] })];
            } else if resumed {
                match disk.messages.last_mut() {
                    // Its request was never answered: what resumes it joins the same message.
                    Some(last) if last["role"] == "user" => {
                        if let Some(content) = last["content"].as_array_mut() {
                            content.push(go_on);
                        }
                    }
                    _ => disk.messages.push(json!({ "role": "user", "content": [go_on] })),
                }
            }
        });
    }

    fn body(&self, messages: &[Value]) -> Value {
        let model = Some(self.variable("ANTHROPIC_MODEL")).filter(|model| !model.is_empty()).unwrap_or(MODEL);
        let session = self.variable("AUTOVIBE_SESSION");
        json!({
            "model": model,
            "max_tokens": MAX_TOKENS,
            "stream": true,
            "system": [{ "type": "text", "text": "You are a coding agent in a simulated machine." }],
            "tools": [
                { "name": "Bash", "description": "Runs a command.", "input_schema": { "type": "object", "properties": { "command": { "type": "string" } }, "required": ["command"] } },
                { "name": "Write", "description": "Writes a file.", "input_schema": { "type": "object", "properties": { "file_path": { "type": "string" }, "content": { "type": "string" } } } },
            ],
            "metadata": { "user_id": json!({ "device_id": "simulated", "account_uuid": "", "session_id": session }).to_string() },
            "messages": messages,
        })
    }

    /// One request and its whole answer.
    async fn ask(&self, messages: &[Value]) -> Result<Message, Broken> {
        let base = [self.variable("AUTOVIBE_GATEWAY"), self.variable("ANTHROPIC_BASE_URL")]
            .into_iter()
            .find(|url| !url.is_empty())
            .unwrap_or_default();
        let url = self.gateway.url(base, "/v1/messages");
        let answered = self.variable("API_TIMEOUT_MS").parse().map_or(ANSWERED, Duration::from_millis);
        let body = self.body(messages);
        let mut wait = FIRST_WAIT;
        for attempt in 0..=TRIES {
            let request = self
                .gateway
                .http
                .post(&url)
                .bearer_auth(self.variable("AUTOVIBE_TOKEN"))
                .header("anthropic-version", "2023-06-01")
                .header("user-agent", "claude-cli/2.1.197 (external, sdk-cli)")
                .header("x-app", "cli")
                .header("x-claude-code-session-id", self.variable("AUTOVIBE_SESSION"))
                .header("x-stainless-retry-count", attempt)
                .json(&body);
            if let Ok(Some(response)) = tokio::time::timeout(answered, self.gateway.send(request)).await {
                if response.status() == StatusCode::OK {
                    return Self::read(response).await;
                }
                if !worth_retrying(&response) {
                    return Err(Broken::Exit);
                }
            }
            Clock::system().sleep(wait).await;
            wait = (wait * 2).min(LONGEST_WAIT);
        }
        Err(Broken::Exit)
    }

    async fn read(mut response: reqwest::Response) -> Result<Message, Broken> {
        let mut message = Message::default();
        while let Ok(Some(chunk)) = response.chunk().await {
            message.add(&chunk);
        }
        if message.complete && !message.failed { Ok(message) } else { Err(Broken::Exit) }
    }

    /// Runs the tools of an answer; returns whether the agent is done.
    fn act(&self, message: &Message) -> bool {
        let tools = message.tools();
        let done = tools.is_empty();
        self.disk(|disk| {
            disk.turns += 1;
            disk.messages.push(message.assistant());
            let results: Vec<Value> = tools
                .into_iter()
                .map(|(id, name, input)| {
                    disk.workspace.push(format!("{name} {input}"));
                    json!({ "type": "tool_result", "tool_use_id": id, "content": "ok" })
                })
                .collect();
            if !results.is_empty() {
                disk.messages.push(json!({ "role": "user", "content": results }));
            }
        });
        done
    }

    /// Tells the gateway that the agent ended, until it is heard.
    async fn report(&self, code: i32) {
        let url = self.gateway.url(self.variable("AUTOVIBE_GATEWAY"), EXIT_PATH);
        let report = ExitReport { launch: self.launch.number, exit_code: code };
        loop {
            let request = self.gateway.http.post(&url).bearer_auth(self.variable("AUTOVIBE_TOKEN")).json(&report);
            let sent = tokio::time::timeout(HEARD, self.gateway.send(request)).await;
            if sent.is_ok_and(|response| response.is_some_and(|response| response.status().is_success())) {
                return;
            }
            Clock::system().sleep(REPORT).await;
        }
    }
}

fn worth_retrying(response: &reqwest::Response) -> bool {
    match response.headers().get("x-should-retry").map(reqwest::header::HeaderValue::as_bytes) {
        Some(b"true") => true,
        Some(b"false") => false,
        _ => response.status().is_server_error() || matches!(response.status().as_u16(), 408 | 409 | 429),
    }
}
