//! Requests of the Messages API.

use super::{Images, Refused, Shape, keep_tools, refuse_fields};
use serde_json::{Map, Value};

/// What a model counts for an image at most, whatever the bytes. Source: the provider's vision guide, 1568² / 750, with margin.
pub(super) const IMAGE_TOKENS: u64 = 5000;

/// Tools that the provider runs itself, by prefix of their type: they leave through it, past the guest's firewall.
const SERVER_TOOLS: [&str; 4] = ["web_search", "web_fetch", "code_execution", "mcp_toolset"];
/// Fields that make the provider fetch, store or run something, or change the price in a way that is not known here.
const REFUSED: [(&str, &str); 4] = [
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
    let (mut url, mut images) = (false, Images::default());
    for message in body.get("messages").and_then(Value::as_array).into_iter().flatten().chain(body.get("system")) {
        let content = if message.get("content").is_some() { &message["content"] } else { message };
        each_source(content, &mut |source| {
            url |= matches!(source["type"].as_str(), Some("url" | "file"));
            if source["media_type"].as_str().is_some_and(|t| t.starts_with("image/")) {
                images.count += 1;
                images.bytes += source["data"].as_str().map_or(0, str::len) as u64;
            }
        });
    }
    if url {
        return Err(Refused(
            "autovibe: content by URL or file id is not allowed: the provider would fetch it. Send it as base64 or text".into(),
        ));
    }
    let is_own = |tool: &Value| !tool["type"].as_str().is_some_and(|kind| SERVER_TOOLS.iter().any(|prefix| kind.starts_with(prefix)));
    let changed = keep_tools(body, is_own);
    Ok(Shape { max_tokens, bound: Some("max_tokens"), images, changed, ..Shape::default() })
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
