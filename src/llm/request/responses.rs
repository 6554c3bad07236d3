//! Requests of the Responses API.

use super::{
    Images, Refused, Shape,
    chat::{output_bound, parts, result, tool_use},
    keep_tools, refuse_fields,
};
use serde_json::{Map, Value, json};

/// Fields that make the provider fetch or keep something, or change the price in a way that is not known here.
const REFUSED: [(&str, &str); 5] = [
    ("previous_response_id", "the provider would keep the conversation; send it whole, as `input`"),
    ("conversation", "the provider would keep it; send it whole, as `input`"),
    ("prompt", "the provider keeps it, so its size is not known here"),
    ("background", "its cost would come when nobody sees it"),
    ("service_tier", "its price is not known here"),
];
/// Tools that the agent runs itself; the others leave through the provider, past the guest's firewall.
const OWN_TOOLS: [&str; 4] = ["function", "custom", "local_shell", "apply_patch"];

/// Checks a body, takes out what must not be in it, and has the provider keep nothing.
pub(super) fn check(body: &mut Map<String, Value>) -> Result<Shape, Refused> {
    refuse_fields(body, &REFUSED)?;
    let mut images = Images::default();
    let conversation = Some(conversation(body, &mut images)?);
    let (max_tokens, bound) = output_bound(body, &["max_output_tokens"])?;
    let mut changed = keep_tools(body, |tool| tool["type"].as_str().is_some_and(|kind| OWN_TOOLS.contains(&kind)));
    changed |= body.insert("store".into(), false.into()) != Some(Value::Bool(false));
    if bound.is_none() {
        body.insert("max_output_tokens".into(), max_tokens.into());
        changed = true;
    }
    Ok(Shape { max_tokens, bound: Some("max_output_tokens"), conversation, images, changed, hides_usage: false })
}

fn conversation(body: &Map<String, Value>, images: &mut Images) -> Result<Vec<Value>, Refused> {
    let mut told = Vec::new();
    if let Some(instructions) = body.get("instructions").filter(|text| text.is_string()) {
        told.push(json!({ "role": "system", "content": [{ "type": "text", "text": instructions }] }));
    }
    let items = match body.get("input") {
        Some(text @ Value::String(_)) => {
            told.push(json!({ "role": "user", "content": parts(text, images)? }));
            return Ok(told);
        }
        Some(Value::Array(items)) => items,
        _ => return Err(Refused("input: a text or a list of items is required".into())),
    };
    for item in items {
        match item["type"].as_str().unwrap_or("message") {
            "message" => {
                let content = parts(&item["content"], images)?;
                match item["role"].as_str().unwrap_or_default() {
                    "assistant" => say(&mut told, content),
                    "system" | "developer" => told.push(json!({ "role": "system", "content": content })),
                    _ => told.push(json!({ "role": "user", "content": content })),
                }
            }
            "item_reference" => {
                return Err(Refused("autovibe: an item by its id is not allowed: the provider keeps none. Send the item itself".into()));
            }
            kind if kind.ends_with("_output") => result(&mut told, &item["call_id"], parts(&item["output"], images)?),
            "local_shell_call" => say(&mut told, vec![tool_use(&item["call_id"], &"local_shell".into(), &item["action"])]),
            kind if kind.ends_with("_call") => {
                let arguments = item.get("arguments").or(item.get("input")).unwrap_or(&Value::Null);
                say(&mut told, vec![tool_use(&item["call_id"], &item["name"], arguments)]);
            }
            // What the model thought: encrypted, and of no use to anyone else.
            _ => {}
        }
    }
    Ok(told)
}

/// Adds to what the assistant said: the items of one answer are one message.
fn say(told: &mut Vec<Value>, content: Vec<Value>) {
    match told.last_mut().filter(|last| last["role"] == "assistant").and_then(|last| last["content"].as_array_mut()) {
        Some(said) => said.extend(content),
        None => told.push(json!({ "role": "assistant", "content": content })),
    }
}
