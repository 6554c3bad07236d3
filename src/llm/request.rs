//! A request to a model: what the gateway must know of it, and what it takes out or refuses. One file per protocol says how.

mod chat;
mod messages;
mod pieces;
mod responses;

pub(super) use chat::tool_use;
pub use pieces::Pieces;

use super::{Protocol, meter::Caching};
use bytes::Bytes;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

/// What the provider adds by itself: the prompt that explains tools.
const OVERHEAD_TOKENS: u64 = 1000;
/// More input than any model takes: what a document may come to, as its pages cannot be told from its bytes.
const CONTEXT_TOKENS: u64 = 1_000_000;
/// Values in a body; each takes some 100 bytes of memory, however short it is written.
const MOST_VALUES: usize = 300_000;
/// Fewer output tokens are of no use to an agent.
const FLOOR_TOKENS: u64 = 4096;

/// A checked request.
#[derive(Clone, Debug)]
pub struct Request {
    pub protocol: Protocol,
    pub model: String,
    pub stream: bool,
    pub max_tokens: u64,
    body: Map<String, Value>,
    shape: Shape,
    /// The bytes as they came, unless the request had to be changed.
    original: Option<Bytes>,
    size: u64,
}

/// What a protocol's own rules make of a body.
#[derive(Clone, Debug, Default)]
struct Shape {
    max_tokens: u64,
    /// The field that bounds the output; `None` when the body has none.
    bound: Option<&'static str>,
    /// The conversation as the Messages API would write it, where the body does not.
    conversation: Option<Vec<Value>>,
    images: Images,
    /// The body is not any more as it came.
    changed: bool,
    /// The client did not ask for the usage of its stream.
    hides_usage: bool,
}

/// Images in a body: they count by their own measure, not by their bytes.
#[derive(Clone, Copy, Debug, Default)]
struct Images {
    count: u64,
    bytes: u64,
    /// Files of another kind.
    documents: u64,
}

/// Why a request is not forwarded; the text is for the agent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refused(pub String);

impl Request {
    /// Reads a body; takes the provider's own web tools out and refuses what makes the provider fetch, store or run something.
    ///
    /// `counting`: a body for `count_tokens`, which has no `max_tokens`.
    pub fn parse(protocol: Protocol, bytes: Bytes, counting: bool) -> Result<Self, Refused> {
        let refuse = |text: &str| Refused(text.to_owned());
        if has_too_many_values(&bytes) {
            return Err(Refused(format!("autovibe: the body has more than {MOST_VALUES} values; send fewer")));
        }
        let Ok(Value::Object(mut body)) = serde_json::from_slice(&bytes) else {
            return Err(refuse("the body is not a JSON object"));
        };
        let model = body.get("model").and_then(Value::as_str).ok_or_else(|| refuse("model: Field required"))?.to_owned();
        // OpenRouter's name for a model that is given what it finds in the web.
        if protocol != Protocol::Messages && model.ends_with(":online") {
            return Err(refuse("autovibe: a model with `:online` is not allowed: the provider would search the web. Name it without"));
        }
        let stream = body.get("stream").and_then(Value::as_bool).unwrap_or(false);
        let shape = match protocol {
            Protocol::Messages => messages::check(&mut body, counting)?,
            Protocol::Chat => chat::check(&mut body, stream)?,
            Protocol::Responses => responses::check(&mut body)?,
        };
        let size = bytes.len() as u64;
        let original = (!shape.changed).then_some(bytes);
        Ok(Self { protocol, model, stream, max_tokens: shape.max_tokens, body, shape, original, size })
    }

    /// The conversation, in the Messages API's form: tool results are blocks of a user's message, calls are blocks of the
    /// assistant's.
    pub fn messages(&self) -> &[Value] {
        let written = || self.body.get("messages").and_then(Value::as_array);
        self.shape.conversation.as_ref().or_else(written).map_or(&[], Vec::as_slice)
    }

    pub fn has_tools(&self) -> bool {
        self.body.get("tools").and_then(Value::as_array).is_some_and(|tools| !tools.is_empty())
    }

    /// The schema that the answer has to fit, if any.
    pub fn schema(&self) -> Option<&Value> {
        match self.protocol {
            Protocol::Messages => self.body.get("output_config")?.get("format")?.get("schema"),
            Protocol::Chat => self.body.get("response_format")?.get("json_schema")?.get("schema"),
            Protocol::Responses => self.body.get("text")?.get("format")?.get("schema"),
        }
    }

    /// Whether the usage of its stream is for the gateway alone.
    pub fn hides_usage(&self) -> bool {
        self.shape.hides_usage
    }

    /// Has the bound of the output in `field`, the one that the server knows: in another it would bound nothing.
    pub fn bound_output(&mut self, field: &'static str) {
        if self.protocol == Protocol::Chat && self.shape.bound != Some(field) {
            self.shape.bound.map(|other| self.body.remove(other));
            self.write_bound(field);
        }
    }

    /// Whether the model may think, which is paid for and need not be shown.
    pub fn thinks(&self) -> bool {
        self.body.get("thinking").is_some_and(|thinking| !thinking.is_null() && thinking["type"] != "disabled")
    }

    /// Whether the provider may leave out more than what was thought before, as a guest tells it to.
    pub fn is_edited(&self) -> bool {
        let edits = self.body.get("context_management").and_then(|management| management["edits"].as_array());
        edits.into_iter().flatten().any(|edit| !edit["type"].as_str().is_some_and(|kind| kind.starts_with("clear_thinking_")))
    }

    /// What the model is to read.
    pub fn pieces(&self) -> Pieces {
        Pieces::of(self.protocol, &self.body)
    }

    /// Asks for fewer output tokens.
    pub fn clamp(&mut self, max_tokens: u64) {
        if max_tokens < self.max_tokens {
            self.max_tokens = max_tokens;
            self.write_bound(self.shape.bound.unwrap_or("max_tokens"));
        }
    }

    fn write_bound(&mut self, field: &'static str) {
        self.shape.bound = Some(field);
        self.body.insert(field.into(), self.max_tokens.into());
        self.original = None;
    }

    /// The body to send.
    pub fn bytes(&self) -> Bytes {
        self.original.clone().unwrap_or_else(|| serde_json::to_vec(&self.body).map(Bytes::from).unwrap_or_default())
    }

    /// Size of the body as it came.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// SHA-256 of the body without `stream`, hex: agents repeat a broken request without that field.
    pub fn hash(&self) -> String {
        let mut hash = Sha256::new();
        // The same body may be one of two protocols, whose answers differ.
        if self.protocol != Protocol::Messages {
            hash.update(self.protocol.path());
        }
        for (name, value) in self.body.iter().filter(|(name, _)| *name != "stream") {
            hash.update(name.as_bytes());
            // Hashing into a hasher cannot fail.
            let _ = serde_json::to_writer(HashWriter(&mut hash), value);
        }
        hex::encode(hash.finalize())
    }

    /// An upper bound of the input tokens: a token is at least one byte; images count by their own measure, and a document is as
    /// much as a model takes.
    pub fn input_bound(&self) -> u64 {
        self.shape.images.bound(self.protocol, self.size) + OVERHEAD_TOKENS
    }

    /// How the input may be written to the provider's cache, which costs more than plain input.
    pub fn caching(&self) -> Caching {
        fn find(value: &Value, most: &mut Caching) {
            match value {
                Value::Object(map) => {
                    if let Some(control) = map.get("cache_control").filter(|c| !c.is_null()) {
                        let long = control["ttl"].as_str().is_some_and(|ttl| ttl != "5m");
                        *most = (*most).max(if long { Caching::Long } else { Caching::Short });
                    }
                    map.values().for_each(|v| find(v, most));
                }
                Value::Array(list) => list.iter().for_each(|v| find(v, most)),
                _ => {}
            }
        }
        let mut most = Caching::Never;
        self.body.values().for_each(|value| find(value, &mut most));
        if self.body.get("cache_control").is_some_and(|c| !c.is_null()) {
            most = most.max(Caching::Long);
        }
        most
    }

    /// The least output that is of use: below it the request is better refused than cut short.
    pub fn floor(&self) -> u64 {
        let thinking = self.body.get("thinking").and_then(|t| t["budget_tokens"].as_u64()).unwrap_or(0);
        (FLOOR_TOKENS + thinking).min(self.max_tokens)
    }
}

/// Looks at the marks between values alone, before any of them takes memory.
fn has_too_many_values(bytes: &[u8]) -> bool {
    let (mut values, mut in_text, mut escaped) = (0_usize, false, false);
    for byte in bytes {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_text => escaped = true,
            b'"' => in_text = !in_text,
            b',' | b'[' | b'{' if !in_text => values += 1,
            _ => {}
        }
    }
    values > MOST_VALUES
}

struct HashWriter<'a>(&'a mut Sha256);

impl std::io::Write for HashWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Refuses a body that has one of these fields with a value other than those that change nothing.
fn refuse_fields(body: &Map<String, Value>, fields: &[(&str, &str)]) -> Result<(), Refused> {
    let harmless = |value: &Value| match value {
        Value::Null | Value::Bool(false) => true,
        Value::Array(list) => list.is_empty(),
        Value::String(text) => matches!(text.as_str(), "standard" | "global" | "auto" | "default"),
        _ => false,
    };
    for (field, why) in fields {
        if body.get(*field).is_some_and(|value| !harmless(value)) {
            return Err(Refused(format!("autovibe: `{field}` is not allowed: {why}. Send the request without it")));
        }
    }
    Ok(())
}

/// Keeps the tools that `wanted` wants, and `tool_choice` only when it can still be met. Whether the body was changed.
fn keep_tools(body: &mut Map<String, Value>, wanted: impl Fn(&Value) -> bool) -> bool {
    let Some(tools) = body.get_mut("tools").and_then(Value::as_array_mut) else { return false };
    let before = tools.len();
    tools.retain(wanted);
    if tools.len() == before {
        return false;
    }
    let tools = body.get("tools").and_then(Value::as_array).map_or(&[] as &[Value], Vec::as_slice);
    let orphan = tools.is_empty() || body.get("tool_choice").is_some_and(|choice| !can_be_met(choice, tools));
    let none = tools.is_empty();
    if orphan {
        body.remove("tool_choice");
    }
    if none {
        body.remove("tools");
    }
    true
}

/// Whether there is the tool that a `tool_choice` names, by its name or by its type.
fn can_be_met(choice: &Value, tools: &[Value]) -> bool {
    match (choice["name"].as_str().or(choice["function"]["name"].as_str()), choice["type"].as_str()) {
        (Some(name), _) => tools.iter().any(|tool| tool["name"] == name || tool["function"]["name"] == name),
        (None, Some("auto" | "any" | "none" | "allowed_tools") | None) => true,
        (None, Some(kind)) => tools.iter().any(|tool| tool["type"] == kind),
    }
}

#[cfg(test)]
mod tests;
