//! Asks the hub, again and again while it is away.

use crate::clock::Clock;
use crate::wire::runner::{RUNNER_PATH, TOOL_PATH, ToolAnswer, ToolQuestion};
use serde::Serialize;
use std::time::Duration;

/// How soon a hub that did not answer is asked again.
const AGAIN: Duration = Duration::from_secs(2);
/// How long an answer may take; the gateway says `Wait` before.
const ANSWER: Duration = Duration::from_mins(2);
/// How often the gateway is told that someone answers for the agent's calls.
const PRESENT: Duration = Duration::from_secs(10);

pub(super) struct Hub {
    client: reqwest::Client,
    gateway: String,
    key: String,
    clock: Clock,
}

impl Hub {
    pub(super) fn new(gateway: &str, key: &str, clock: Clock) -> Result<Self, reqwest::Error> {
        let client = reqwest::Client::builder().no_proxy().redirect(reqwest::redirect::Policy::none()).timeout(ANSWER).build()?;
        Ok(Self { client, gateway: gateway.trim_end_matches('/').to_owned(), key: key.to_owned(), clock })
    }

    /// Whether a call may be made; waits as long as it takes, and allows nothing by itself.
    pub(super) async fn ask(&self, question: &ToolQuestion) -> ToolAnswer {
        loop {
            match self.post(TOOL_PATH, question).await.map(|body| serde_json::from_str(&body)) {
                Ok(Ok(ToolAnswer::Wait)) => {}
                Ok(Ok(answer)) => return answer,
                // Not our hub's words, or none: it goes on waiting.
                Ok(Err(_)) | Err(_) => self.clock.sleep(AGAIN).await,
            }
        }
    }

    /// Tells the gateway, until it is dropped, that this runner answers for the agent's calls.
    pub(super) async fn present(&self) {
        loop {
            let again = if self.post(RUNNER_PATH, &()).await.is_ok() { PRESENT } else { AGAIN };
            self.clock.sleep(again).await;
        }
    }

    async fn post(&self, path: &str, body: &impl Serialize) -> Result<String, reqwest::Error> {
        let request = self.client.post(format!("{}{path}", self.gateway)).bearer_auth(&self.key).json(body);
        request.send().await?.error_for_status()?.text().await
    }
}
