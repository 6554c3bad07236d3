//! Reads an answer as it passes: what it used, what it says, how it stopped. Whatever the protocol, that is told in the
//! Messages API's words: content blocks, and the stop reasons `end_turn`, `tool_use`, `max_tokens`, `refusal`.
//!
//! Source: Messages API streaming. Usage values are cumulative; `message_start` has the input side, the last
//! `message_delta` the output. The other protocols' files say theirs.

mod chat;
mod responses;

use super::{Protocol, sse::Parser};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::time::Duration;

/// Tokens that a model writes in a second at most, several times what those do that think unseen; and for how long it may go on when nobody
/// reads any more.
const TOKENS_A_SECOND: u64 = 1000;
const GOES_ON: Duration = Duration::from_secs(10);

/// More tokens than any call has; a larger report is taken for none.
const IMPLAUSIBLE: u64 = 100_000_000;

/// How input may be written to the provider's cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Caching {
    #[default]
    Never,
    /// For 5 minutes.
    Short,
    /// For an hour.
    Long,
}

/// Tokens of one call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Usage {
    /// Input that was neither written to nor read from the cache.
    pub input: u64,
    /// Written to the cache for 5 minutes.
    pub cache_write: u64,
    /// Written to the cache for an hour.
    pub cache_write_long: u64,
    pub cache_read: u64,
    /// Thinking included.
    pub output: u64,
    pub web_searches: u64,
}

impl Usage {
    /// All input.
    pub fn total_input(&self) -> u64 {
        self.input + self.cache_write + self.cache_write_long + self.cache_read
    }

    /// Reads a `usage` object on top of what is known; values that make no sense are passed over.
    ///
    /// `iterations` has each pass of the model over the input: what is told beside them may be the last one's alone.
    fn merge(&mut self, usage: &Value) {
        self.read(usage);
        let mut all = Self::default();
        for iteration in usage["iterations"].as_array().into_iter().flatten() {
            let mut one = Self::default();
            one.read(iteration);
            all.map(one, u64::saturating_add);
        }
        self.map(all, u64::max);
    }

    fn map(&mut self, other: Self, of: impl Fn(u64, u64) -> u64) {
        self.input = of(self.input, other.input);
        self.cache_write = of(self.cache_write, other.cache_write);
        self.cache_write_long = of(self.cache_write_long, other.cache_write_long);
        self.cache_read = of(self.cache_read, other.cache_read);
        self.output = of(self.output, other.output);
        self.web_searches = of(self.web_searches, other.web_searches);
    }

    fn read(&mut self, usage: &Value) {
        let read = count;
        let raise = |field: &mut u64, value: Option<u64>| *field = (*field).max(value.unwrap_or(0));
        raise(&mut self.input, read(&usage["input_tokens"]));
        raise(&mut self.cache_read, read(&usage["cache_read_input_tokens"]));
        raise(&mut self.output, read(&usage["output_tokens"]));
        raise(&mut self.web_searches, read(&usage["server_tool_use"]["web_search_requests"]));
        let long = read(&usage["cache_creation"]["ephemeral_1h_input_tokens"]);
        raise(&mut self.cache_write_long, long);
        let written = read(&usage["cache_creation_input_tokens"]).map(|all| all.saturating_sub(self.cache_write_long));
        raise(&mut self.cache_write, written.or(read(&usage["cache_creation"]["ephemeral_5m_input_tokens"])));
    }
}

/// A number of tokens, if it is one.
fn count(value: &Value) -> Option<u64> {
    let number = value.as_u64().or_else(|| value.as_str().and_then(|text| text.parse().ok()));
    number.filter(|n| *n <= IMPLAUSIBLE)
}

impl Usage {
    /// Takes the usage of an OpenAI-compatible answer, whose input includes what came from the cache. The last report holds.
    /// Whether it reported the output.
    fn report(&mut self, input: &Value, details: &Value, output: &Value) -> bool {
        if let Some(all) = count(input).filter(|all| *all > 0) {
            self.cache_read = count(&details["cached_tokens"]).unwrap_or(0).min(all);
            self.cache_write = count(&details["cache_write_tokens"]).unwrap_or(0).min(all - self.cache_read);
            self.input = all - self.cache_read - self.cache_write;
        }
        self.output = self.output.max(count(output).unwrap_or(0));
        count(output).is_some()
    }
}

/// What an answer used, and whether the provider said so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metered {
    pub usage: Usage,
    /// Some of it is counted or assumed.
    pub estimated: bool,
    /// The provider did not report the input: it is the bound.
    pub assumed_input: bool,
}

/// Reads one answer.
#[derive(Debug)]
pub struct Meter {
    protocol: Protocol,
    parser: Parser,
    /// What the answer says of itself, beside its content.
    head: Map<String, Value>,
    blocks: Vec<Block>,
    usage: Usage,
    /// The output side was reported at the end.
    output_reported: bool,
    stop_reason: Option<String>,
    stop_sequence: Value,
    complete: bool,
    error: Option<String>,
    /// Bytes of generated text: each token is at least one.
    generated: u64,
    /// The model may have generated what it does not show.
    hides: bool,
    /// From the request to the last of its answer, once that is known.
    ran: Option<Duration>,
    /// Input that the provider left out, as the request told it to; `None` when it does not say.
    cleared: Option<u64>,
}

#[derive(Debug)]
struct Block {
    value: Value,
    /// Input of a tool as it is being written.
    partial: String,
    /// By which the protocol names it in its deltas, where it does.
    index: Option<u64>,
    /// It has come to its end.
    closed: bool,
}

impl Block {
    fn new(value: Value, index: Option<u64>) -> Self {
        Self { value, partial: String::new(), index, closed: false }
    }

    /// Adds to a text of it.
    fn push(&mut self, field: &str, text: &str) {
        let Some(value) = self.value.as_object_mut() else { return };
        match value.entry(field).or_insert("".into()) {
            Value::String(so_far) => so_far.push_str(text),
            other => *other = text.into(),
        }
    }

    /// Reads the input of a tool, which has come to its end.
    fn close(&mut self) {
        self.closed = true;
        if let Some(value) = self.value.as_object_mut().filter(|_| !self.partial.is_empty()) {
            let partial = std::mem::take(&mut self.partial);
            value.insert("input".into(), serde_json::from_str(&partial).unwrap_or_else(|_| json!({ "incomplete": partial })));
        }
    }
}

impl Meter {
    pub fn new(protocol: Protocol) -> Self {
        Self {
            protocol,
            parser: Parser::default(),
            head: Map::new(),
            blocks: Vec::new(),
            usage: Usage::default(),
            output_reported: false,
            stop_reason: None,
            stop_sequence: Value::Null,
            complete: false,
            error: None,
            generated: 0,
            hides: false,
            ran: None,
            cleared: None,
        }
    }

    /// The same for a request whose model may think: it need not show that, nor how much it was.
    #[must_use]
    pub fn of_one_that_thinks(self, thinks: bool) -> Self {
        Self { hides: thinks, ..self }
    }

    /// Reads the next bytes of an event stream.
    pub fn stream(&mut self, bytes: &[u8]) {
        for event in self.parser.push(bytes) {
            match self.protocol {
                Protocol::Messages => self.event(event),
                Protocol::Chat => self.chat_chunk(event),
                Protocol::Responses => self.responses_event(event),
            }
        }
    }

    /// Reads an answer that came in one piece.
    pub fn whole(&mut self, bytes: &[u8]) {
        let Ok(Value::Object(mut message)) = serde_json::from_slice(bytes) else {
            self.generated += bytes.len() as u64;
            return;
        };
        match self.protocol {
            Protocol::Messages => {}
            Protocol::Chat => return self.chat_completion(message),
            Protocol::Responses => return self.response(message),
        }
        if let Some(usage) = message.get("usage") {
            self.usage.merge(usage);
            self.output_reported = usage.get("output_tokens").is_some();
        }
        self.left_out(message.get("context_management"));
        self.stop_reason = message.get("stop_reason").and_then(Value::as_str).map(str::to_owned);
        if let Some(Value::Array(content)) = message.remove("content") {
            self.generated += content.iter().map(|block| block.to_string().len() as u64).sum::<u64>();
            self.blocks = content.into_iter().map(|value| Block { closed: true, ..Block::new(value, None) }).collect();
        }
        self.head = message;
        self.complete = true;
    }

    fn event(&mut self, mut event: Value) {
        match event["type"].as_str().unwrap_or_default() {
            "message_start" => {
                self.usage.merge(&event["message"]["usage"]);
                if let Value::Object(head) = event["message"].take() {
                    self.head = head;
                }
            }
            "content_block_start" => self.blocks.push(Block::new(event["content_block"].take(), None)),
            "content_block_delta" => self.delta(&event["delta"]),
            "content_block_stop" => {
                if let Some(block) = self.blocks.last_mut() {
                    block.close();
                }
            }
            "message_delta" => {
                self.usage.merge(&event["usage"]);
                self.output_reported |= event["usage"]["output_tokens"].as_u64().is_some_and(|n| n <= IMPLAUSIBLE);
                if let Some(reason) = event["delta"]["stop_reason"].as_str() {
                    self.stop_reason = Some(reason.to_owned());
                }
                self.stop_sequence = event["delta"]["stop_sequence"].clone();
                self.left_out(event.get("context_management"));
            }
            "message_stop" => self.complete = true,
            "error" => self.error = Some(event["error"]["message"].as_str().unwrap_or("an error without words").to_owned()),
            _ => {}
        }
    }

    fn left_out(&mut self, told: Option<&Value>) {
        let Some(edits) = told.and_then(|told| told["applied_edits"].as_array()) else { return };
        self.cleared = Some(edits.iter().filter_map(|edit| count(&edit["cleared_input_tokens"])).sum());
    }

    /// Notes how long the call took: so long the model may have thought.
    pub fn ran_for(&mut self, took: Duration) {
        self.ran = Some(took);
    }

    /// A bound of what was generated and may not have been shown, of a stream that has begun and was cut.
    fn hidden(&self) -> Option<u64> {
        let seconds = self.ran?.saturating_add(GOES_ON).as_millis().div_ceil(1000);
        let begun = self.protocol == Protocol::Messages && self.hides && !self.head.is_empty();
        begun.then(|| u64::try_from(seconds).unwrap_or(u64::MAX).saturating_mul(TOKENS_A_SECOND).saturating_add(self.generated))
    }

    /// Tokens of the input that the provider left out by itself; `None` when it does not say.
    pub fn cleared(&self) -> Option<u64> {
        self.cleared
    }

    fn delta(&mut self, delta: &Value) {
        let Some(block) = self.blocks.last_mut() else { return };
        self.hides |= block.value["type"].as_str().is_some_and(|kind| kind.ends_with("thinking"));
        for (kind, field) in [("text", "text"), ("thinking", "thinking"), ("signature", "signature")] {
            if let Some(text) = delta[kind].as_str() {
                self.generated += text.len() as u64;
                block.push(field, text);
            }
        }
        if let Some(json) = delta["partial_json"].as_str() {
            self.generated += json.len() as u64;
            block.partial.push_str(json);
        }
    }

    /// Whether the answer came to its end.
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// Why the provider broke it off.
    pub fn error(&self) -> Option<&str> {
        self.error.as_deref()
    }

    pub fn stop_reason(&self) -> Option<&str> {
        self.stop_reason.as_deref()
    }

    /// The content blocks so far.
    pub fn content(&self) -> Vec<Value> {
        self.blocks.iter().map(|block| block.value.clone()).collect()
    }

    /// Id and name of the tools that it calls.
    pub fn tools(&self) -> Vec<(String, String)> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        self.blocks.iter().filter(|b| b.value["type"] == "tool_use").map(|b| (text(&b.value["id"]), text(&b.value["name"]))).collect()
    }

    /// How many tools it calls.
    pub fn tools_begun(&self) -> usize {
        self.blocks.iter().filter(|block| block.value["type"] == "tool_use").count()
    }

    /// Whether a call of a tool that `concerns` is being written.
    pub fn is_calling(&self, concerns: impl Fn(&str) -> bool) -> bool {
        let open = |block: &&Block| !block.closed && block.value["type"] == "tool_use";
        self.blocks.iter().filter(open).any(|block| concerns(block.value["name"].as_str().unwrap_or_default()))
    }

    /// The tool calls that have come whole.
    pub fn calls(&self) -> Vec<&Value> {
        self.blocks.iter().filter(|block| block.closed && block.value["type"] == "tool_use").map(|block| &block.value).collect()
    }

    /// The answer in one piece, as a request without `stream` gets it.
    pub fn message(&self) -> Value {
        match self.protocol {
            Protocol::Messages => {}
            Protocol::Chat => return self.as_chat_completion(),
            // The last event carried it whole.
            Protocol::Responses => return Value::Object(self.head.clone()),
        }
        let mut message = self.head.clone();
        message.insert("content".into(), self.content().into());
        message.insert("stop_reason".into(), self.stop_reason.clone().into());
        message.insert("stop_sequence".into(), self.stop_sequence.clone());
        let usage = message.entry("usage").or_insert_with(|| json!({}));
        if !usage.is_object() {
            *usage = json!({});
        }
        usage["output_tokens"] = self.usage.output.into();
        Value::Object(message)
    }

    /// What it used, by the best evidence: what the provider reported; else what was counted, at one token a byte; else, where
    /// nothing was seen at all, `input_bound` and `output_bound`. Never nothing.
    pub fn metered(&self, input_bound: u64, output_bound: u64, caching: Caching) -> Metered {
        let mut usage = self.usage;
        let assumed_input = usage.total_input() == 0;
        let mut estimated = assumed_input;
        if assumed_input {
            match caching {
                Caching::Never => usage.input = input_bound,
                Caching::Short => usage.cache_write = input_bound,
                Caching::Long => usage.cache_write_long = input_bound,
            }
        }
        if !self.output_reported || (usage.output == 0 && self.generated > 0) {
            estimated = true;
            let unseen = match self.protocol {
                Protocol::Messages if !self.hides => self.head.is_empty() && self.generated == 0,
                // What a model thinks is not shown there, so what was cut may have cost anything.
                Protocol::Messages | Protocol::Chat | Protocol::Responses => !self.complete || self.generated == 0,
            };
            let counted = if unseen { self.hidden().unwrap_or(output_bound) } else { self.generated };
            usage.output = usage.output.max(counted.min(output_bound));
        }
        Metered { usage, estimated, assumed_input }
    }
}

#[cfg(test)]
mod tests;
