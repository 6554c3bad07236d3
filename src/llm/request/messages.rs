//! Requests of the Messages API.

use super::{Images, Refused, Shape, keep_tools, refuse_fields};
use serde_json::{Map, Value, json};

/// What a model counts for an image at most, whatever the bytes. Source: the provider's vision guide, 1568² / 750, with margin.
pub(super) const IMAGE_TOKENS: u64 = 5000;

/// Tools that the agent runs itself, by prefix of their type. Others leave through the provider, past the guest's firewall, have the model
/// read its input again and again, or ask another one, which nobody allowed and whose price is not known here.
const OWN_TOOLS: [&str; 5] = ["custom", "bash_", "text_editor_", "memory_", "computer_"];
/// Fields that are known: others are taken out, as what they would cost is not.
const FIELDS: [&str; 18] = [
    "model",
    "messages",
    "system",
    "max_tokens",
    "metadata",
    "stop_sequences",
    "stream",
    "temperature",
    "top_p",
    "top_k",
    "thinking",
    "tools",
    "tool_choice",
    "service_tier",
    "context_management",
    "output_config",
    "output_format",
    "cache_control",
];
/// Fields that make the provider fetch, store or run something, or change the price in a way that is not known here.
const REFUSED: [(&str, &str); 5] = [
    ("fallbacks", "another model would answer, at another price"),
    ("mcp_servers", "the provider would call servers of the guest's choice"),
    ("container", "the provider would run code and keep files"),
    ("speed", "its price is not known here"),
    ("inference_geo", "its price is not known here"),
];

/// Checks a body and takes out what must not be in it.
pub(super) fn check(body: &mut Map<String, Value>, counting: bool) -> Result<Shape, Refused> {
    let refuse = |text: &str| Refused(text.to_owned());
    if !body.get("messages").is_some_and(Value::is_array) {
        return Err(refuse("messages: Field required"));
    }
    let max_tokens = match body.get("max_tokens").map(Value::as_u64) {
        Some(Some(count)) if count > 0 => count,
        None if counting => 1,
        _ => return Err(refuse("max_tokens: a whole number above 0 is required")),
    };
    refuse_fields(body, &REFUSED)?;
    let before = body.len();
    body.retain(|field, _| FIELDS.contains(&field.as_str()));
    let mut changed = body.len() != before;
    changed |= keep_edits(body);
    let (mut url, mut images) = (false, Images::default());
    for message in body.get("messages").and_then(Value::as_array).into_iter().flatten().chain(body.get("system")) {
        let content = if message.get("content").is_some() { &message["content"] } else { message };
        each_source(content, &mut |source| {
            url |= matches!(source["type"].as_str(), Some("url" | "file"));
            images.add_source(source);
        });
    }
    if url {
        return Err(Refused(
            "autovibe: content by URL or file id is not allowed: the provider would fetch it. Send it as base64 or text".into(),
        ));
    }
    let is_own = |tool: &Value| match &tool["type"] {
        Value::Null => true,
        kind => kind.as_str().is_some_and(|kind| OWN_TOOLS.iter().any(|prefix| kind.starts_with(prefix))),
    };
    changed |= keep_tools(body, is_own);
    Ok(Shape { max_tokens, bound: Some("max_tokens"), images, changed, ..Shape::default() })
}

/// Keeps the edits that only leave something out. Another has the model read the whole once more, to sum it up, and its usage is told
/// beside the answer's. Whether the body was changed.
fn keep_edits(body: &mut Map<String, Value>) -> bool {
    let Some(edits) = body.get_mut("context_management").and_then(|management| management.get_mut("edits")?.as_array_mut()) else {
        return body.get("context_management").is_some() && body.remove("context_management").is_some();
    };
    let before = edits.len();
    edits.retain(|edit| edit["type"].as_str().is_some_and(|kind| kind.starts_with("clear_")));
    edits.len() != before
}

/// Calls `visit` with the `source` of every block, also inside tool results and documents.
fn each_source(content: &Value, visit: &mut impl FnMut(&Value)) {
    for block in content.as_array().into_iter().flatten() {
        if block["type"] == "container_upload" {
            // A file that the provider has.
            visit(&json!({ "type": "file" }));
        }
        if let Some(source) = block.get("source") {
            visit(source);
            each_source(&source["content"], visit);
        }
        each_source(&block["content"], visit);
    }
}
