//! A request of the Messages API: what the gateway must know of it, and what it takes out or refuses.

use super::meter::Caching;
use bytes::Bytes;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

/// What a model counts for an image at most, whatever the bytes. Source: the provider's vision guide, 1568² / 750, with margin.
const IMAGE_TOKENS: u64 = 5000;
/// What the provider adds by itself: the prompt that explains tools.
const OVERHEAD_TOKENS: u64 = 1000;
/// Fewer output tokens are of no use to an agent.
const FLOOR_TOKENS: u64 = 4096;

/// A checked request.
#[derive(Clone, Debug)]
pub struct Request {
    pub model: String,
    pub stream: bool,
    pub max_tokens: u64,
    body: Map<String, Value>,
    /// The bytes as they came, unless the request had to be changed.
    original: Option<Bytes>,
    size: u64,
}

/// Why a request is not forwarded; the text is for the agent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refused(pub String);

impl Request {
    /// Reads a body; takes server-side web tools out and refuses what makes the provider fetch, store or run something.
    ///
    /// `counting`: a body for `count_tokens`, which has no `max_tokens`.
    pub fn parse(bytes: Bytes, counting: bool) -> Result<Self, Refused> {
        let refuse = |text: &str| Refused(text.to_owned());
        let Ok(Value::Object(mut body)) = serde_json::from_slice(&bytes) else {
            return Err(refuse("the body is not a JSON object"));
        };
        let model = body.get("model").and_then(Value::as_str).ok_or_else(|| refuse("model: Field required"))?.to_owned();
        if !body.get("messages").is_some_and(Value::is_array) {
            return Err(refuse("messages: Field required"));
        }
        let max_tokens = match body.get("max_tokens").map(Value::as_u64) {
            Some(Some(count)) if count > 0 => count,
            None if counting => 1,
            _ => return Err(refuse("max_tokens: a whole number above 0 is required")),
        };
        let stream = body.get("stream").and_then(Value::as_bool).unwrap_or(false);
        let changed = strip(&mut body)?;
        let size = bytes.len() as u64;
        Ok(Self { model, stream, max_tokens, body, original: (!changed).then_some(bytes), size })
    }

    pub fn messages(&self) -> &[Value] {
        self.body.get("messages").and_then(Value::as_array).map_or(&[], Vec::as_slice)
    }

    pub fn has_tools(&self) -> bool {
        self.body.get("tools").and_then(Value::as_array).is_some_and(|tools| !tools.is_empty())
    }

    /// Any other field.
    pub fn field(&self, name: &str) -> Option<&Value> {
        self.body.get(name)
    }

    /// Asks for fewer output tokens.
    pub fn clamp(&mut self, max_tokens: u64) {
        if max_tokens < self.max_tokens {
            self.max_tokens = max_tokens;
            self.body.insert("max_tokens".into(), max_tokens.into());
            self.original = None;
        }
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
        for (name, value) in self.body.iter().filter(|(name, _)| *name != "stream") {
            hash.update(name.as_bytes());
            // Hashing into a hasher cannot fail.
            let _ = serde_json::to_writer(HashWriter(&mut hash), value);
        }
        hex::encode(hash.finalize())
    }

    /// An upper bound of the input tokens: a token is at least one byte; images count by their own measure.
    pub fn input_bound(&self) -> u64 {
        let (mut images, mut image_bytes) = (0, 0);
        for message in self.messages() {
            each_source(&message["content"], &mut |source| {
                if source["media_type"].as_str().is_some_and(|t| t.starts_with("image/")) {
                    images += 1;
                    image_bytes += source["data"].as_str().map_or(0, str::len) as u64;
                }
            });
        }
        self.size.saturating_sub(image_bytes) + images * IMAGE_TOKENS + OVERHEAD_TOKENS
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

/// Tools that the provider runs itself, by prefix of their type: they leave through it, past the guest's firewall.
const SERVER_TOOLS: [&str; 4] = ["web_search", "web_fetch", "code_execution", "mcp_toolset"];
/// Fields that make the provider fetch, store or run something, or change the price in a way that is not known here.
const REFUSED_FIELDS: [(&str, &str); 4] = [
    ("mcp_servers", "the provider would call servers of the guest's choice"),
    ("container", "the provider would run code and keep files"),
    ("speed", "its price is not known here"),
    ("inference_geo", "its price is not known here"),
];

/// Whether the body was changed.
fn strip(body: &mut Map<String, Value>) -> Result<bool, Refused> {
    for (field, why) in REFUSED_FIELDS {
        if body.get(field).is_some_and(|v| !(v.is_null() || v.as_array().is_some_and(Vec::is_empty) || v == "standard" || v == "global")) {
            return Err(Refused(format!("autovibe: `{field}` is not allowed: {why}. Send the request without it")));
        }
    }
    let mut url = false;
    for message in body.get("messages").and_then(Value::as_array).into_iter().flatten().chain(body.get("system")) {
        let content = if message.get("content").is_some() { &message["content"] } else { message };
        each_source(content, &mut |source| url |= matches!(source["type"].as_str(), Some("url" | "file")));
    }
    if url {
        return Err(Refused(
            "autovibe: content by URL or file id is not allowed: the provider would fetch it. Send it as base64 or text".into(),
        ));
    }
    let Some(tools) = body.get_mut("tools").and_then(Value::as_array_mut) else { return Ok(false) };
    let before = tools.len();
    tools.retain(|tool| !tool["type"].as_str().is_some_and(|kind| SERVER_TOOLS.iter().any(|prefix| kind.starts_with(prefix))));
    let changed = tools.len() < before;
    if changed {
        let chosen = body.get("tool_choice").and_then(|choice| choice["name"].as_str().map(str::to_owned));
        let tools = body.get("tools").and_then(Value::as_array).map_or(&[] as &[Value], Vec::as_slice);
        let orphan = tools.is_empty() || chosen.is_some_and(|name| !tools.iter().any(|tool| tool["name"] == name.as_str()));
        let none = tools.is_empty();
        if orphan {
            body.remove("tool_choice");
        }
        if none {
            body.remove("tools");
        }
    }
    Ok(changed)
}

/// Calls `visit` with the `source` of every block, also inside tool results and documents.
fn each_source(content: &Value, visit: &mut impl FnMut(&Value)) {
    for block in content.as_array().into_iter().flatten() {
        if let Some(source) = block.get("source") {
            visit(source);
            each_source(&source["content"], visit);
        }
        each_source(&block["content"], visit);
    }
}
