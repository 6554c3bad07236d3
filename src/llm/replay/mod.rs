//! Provider `Replay`: answers from a written conversation, in the event stream of the protocol that the agent speaks and with a
//! model's pacing. No key, nothing sent anywhere. The format is documented in docs/replay.md.
//!
//! Which turn to play follows from the request alone (how many assistant messages its conversation has), so that it can be
//! resumed, repeated and forked like a real one.

mod answer;
mod chat;
mod responses;

use super::{Reply, request::Request};
use crate::clock::Clock;
use answer::Answer;
use bytes::Bytes;
use futures::{StreamExt, stream};
use serde::Deserialize;
use serde_json::{Value, json};
use std::{collections::HashMap, path::Path, sync::Arc, sync::Mutex, sync::PoisonError, time::Duration, time::SystemTime};

/// A file of written conversations.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct File {
    /// How fast text comes; 0 is at once.
    #[serde(default = "default_speed")]
    pub tokens_per_second: u32,
    /// How long the model thinks before a turn that does not say it.
    #[serde(default = "default_think")]
    pub think_seconds: f64,
    pub conversations: Vec<Conversation>,
}

fn default_speed() -> u32 {
    200
}
fn default_think() -> f64 {
    1.0
}

/// What is answered to one prompt.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Conversation {
    /// For people.
    #[serde(default)]
    pub name: Option<String>,
    /// The prompt that begins it contains this text, in any case; an empty one matches every prompt.
    #[serde(rename = "match")]
    pub pattern: String,
    pub turns: Vec<Turn>,
    /// What is said when the turns are used up.
    #[serde(default = "default_end")]
    pub end: String,
}

fn default_end() -> String {
    "Done.".into()
}

/// One assistant message: text, then tools. Without tools it ends the agent's turn.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Turn {
    #[serde(default)]
    pub think_seconds: Option<f64>,
    #[serde(default)]
    pub text: Option<String>,
    #[serde(default)]
    pub tools: Vec<Tool>,
    /// Default: estimated from the texts.
    #[serde(default)]
    pub usage: Option<WrittenUsage>,
}

/// A tool call.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Tool {
    pub name: String,
    pub input: Value,
}

/// Tokens that a turn reports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct WrittenUsage {
    pub input: u64,
    pub cache_write: u64,
    pub cache_read: u64,
    pub output: u64,
}

/// Reads a file.
pub fn parse(text: &str) -> Result<File, String> {
    let file: File = serde_yaml::from_str(text).map_err(|e| e.to_string())?;
    if file.conversations.is_empty() {
        return Err("conversations: at least one is needed".into());
    }
    for (index, conversation) in file.conversations.iter().enumerate() {
        for (number, turn) in conversation.turns.iter().enumerate() {
            if turn.text.is_none() && turn.tools.is_empty() {
                return Err(format!("conversations[{index}].turns[{number}]: give text, tools, or both"));
            }
        }
    }
    Ok(file)
}

type Loaded = HashMap<String, (SystemTime, Arc<File>)>;

/// The files in use, read again when they change; cheap to clone.
#[derive(Clone)]
pub struct Replays {
    clock: Clock,
    files: Arc<Mutex<Loaded>>,
}

impl Replays {
    pub fn new(clock: Clock) -> Self {
        Self { clock, files: Arc::default() }
    }

    /// Answers a request from the file at `path`; its problems are the text of a 500. `side`: it is no part of a conversation.
    pub fn answer(&self, path: &str, request: &Request, side: bool) -> Reply {
        match self.load(path) {
            Ok(file) => file.reply(request, side, self.clock.clone()),
            Err(why) => {
                let text = format!("autovibe: the conversation file {path} cannot be used: {why}");
                json_reply(500, &request.protocol.error_body("api_error", &text))
            }
        }
    }

    fn load(&self, path: &str) -> Result<Arc<File>, String> {
        let changed = Path::new(path).metadata().and_then(|m| m.modified()).map_err(|e| e.to_string())?;
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, file)) = files.get(path)
            && *at == changed
        {
            return Ok(file.clone());
        }
        let file = Arc::new(parse(&std::fs::read_to_string(path).map_err(|e| e.to_string())?)?);
        files.insert(path.to_owned(), (changed, file.clone()));
        Ok(file)
    }
}

/// Answers `POST /v1/messages/count_tokens` by an estimate.
pub fn count_tokens(request: &Request) -> Reply {
    json_reply(200, &json!({ "input_tokens": request.size() / 4 + 1 }))
}

fn json_reply(status: u16, body: &Value) -> Reply {
    let bytes = Bytes::from(body.to_string());
    Reply {
        status,
        content_type: Some("application/json".into()),
        request_id: None,
        retry_after: None,
        should_retry: None,
        body: stream::iter([Ok(bytes)]).boxed(),
    }
}

impl File {
    fn reply(&self, request: &Request, side: bool, clock: Clock) -> Reply {
        let answer = self.choose(request, side);
        let think = answer.think;
        let request_id = Some(format!("req_{}", answer.id));
        if !request.stream {
            let message = Bytes::from(answer.message(request).to_string());
            let written = Duration::from_secs(answer.output_tokens()).checked_div(self.tokens_per_second).unwrap_or_default();
            let wait = Duration::from_secs_f64(think) + written;
            let body = stream::once(async move {
                clock.sleep(wait).await;
                Ok(message)
            });
            return Reply { body: body.boxed(), request_id, ..json_reply(200, &Value::Null) };
        }
        let mut wait = Duration::from_secs_f64(think);
        let speed = self.tokens_per_second;
        let steps: Vec<(Duration, Bytes)> = answer
            .events(request)
            .into_iter()
            .map(|(tokens, text)| {
                let pace = Duration::from_secs(u64::from(tokens)).checked_div(speed).unwrap_or_default();
                (std::mem::take(&mut wait) + pace, Bytes::from(text))
            })
            .collect();
        let body = stream::iter(steps).then(move |(wait, bytes)| {
            let clock = clock.clone();
            async move {
                if !wait.is_zero() {
                    clock.sleep(wait).await;
                }
                Ok(bytes)
            }
        });
        Reply {
            content_type: Some("text/event-stream; charset=utf-8".into()),
            body: body.boxed(),
            request_id,
            ..json_reply(200, &Value::Null)
        }
    }

    /// The answer to a request: a turn, a conversation's end, or something short for what is no conversation.
    fn choose(&self, request: &Request, side: bool) -> Answer {
        if let Some(schema) = request.schema() {
            return Answer::short("schema", &filled(schema).to_string());
        }
        if side {
            return Answer::short("side", "A step of a written conversation");
        }
        let Some((conversation, begin)) = self.conversation(request.messages()) else {
            let text = if request.has_tools() { "No written conversation matches this prompt." } else { "OK." };
            return Answer::short("none", text);
        };
        let spoken = request.messages()[begin..].iter().filter(|m| m["role"] == "assistant" && !is_synthetic(m)).count();
        let index = self.conversations.iter().position(|c| std::ptr::eq(c, conversation)).unwrap_or(0);
        let id = format!("{index}_{spoken}");
        match conversation.turns.get(spoken) {
            Some(turn) => Answer::of(&id, turn, self.think_seconds),
            None => Answer::of(&id, &Turn { text: Some(conversation.end.clone()), ..Turn::default() }, self.think_seconds),
        }
    }

    /// The conversation that the newest matching prompt begins, and where: an agent may carry earlier ones along.
    fn conversation(&self, messages: &[Value]) -> Option<(&Conversation, usize)> {
        messages.iter().enumerate().rev().filter(|(_, message)| message["role"] == "user").find_map(|(index, message)| {
            let prompt = prompt(message)?.to_lowercase();
            self.conversations.iter().find(|c| prompt.contains(&c.pattern.to_lowercase())).map(|c| (c, index))
        })
    }
}

/// What a person said in a user message; `None` for tool results and for what the agent's program adds by itself.
fn prompt(message: &Value) -> Option<String> {
    let own = |text: &&str| !text.trim_start().starts_with("<system-reminder>");
    let text = match &message["content"] {
        Value::String(text) => text.clone(),
        Value::Array(blocks) if blocks.iter().any(|b| b["type"] == "tool_result") => return None,
        Value::Array(blocks) => blocks.iter().filter_map(|b| b["text"].as_str()).filter(own).collect::<Vec<_>>().join("\n"),
        _ => return None,
    };
    (!text.trim().is_empty() && !text.trim_start().starts_with(RESUMED)).then_some(text)
}

/// How a prompt begins that resumes a conversation after a break (Claude Code adds one, and our own begins alike).
const RESUMED: &str = "Continue from where you left off";
/// What agents' programs let the assistant say: Claude Code to a prompt that resumes, Aider to the files that it shows.
const PUT_INTO_ITS_MOUTH: [&str; 5] = [
    "No response requested.",
    "Ok.",
    "Ok, I won't try and edit those files without asking first.",
    "Ok, any changes I propose will be to those files.",
    "Ok, based on your requests I will suggest which files need to be edited and then stop and wait for your approval.",
];

fn is_synthetic(message: &Value) -> bool {
    let put = |text: &Value| text.as_str().is_some_and(|text| PUT_INTO_ITS_MOUTH.contains(&text));
    match &message["content"] {
        Value::Array(blocks) => matches!(blocks.as_slice(), [block] if put(&block["text"])),
        text => put(text),
    }
}

/// The smallest value that fits a JSON schema of titles and the like.
fn filled(schema: &Value) -> Value {
    match schema["type"].as_str() {
        Some("object") => {
            let fields = schema["properties"].as_object().into_iter().flatten();
            Value::Object(fields.map(|(name, schema)| (name.clone(), filled(schema))).collect())
        }
        Some("array") => json!([]),
        Some("boolean") => json!(false),
        Some("integer" | "number") => json!(0),
        _ => schema["enum"].get(0).cloned().unwrap_or_else(|| json!("Written conversation")),
    }
}

#[cfg(test)]
mod tests;
