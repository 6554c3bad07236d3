//! Requests of chat completions.

use super::{Images, Refused, Shape, keep_tools, pieces::image_url, refuse_fields};
use serde_json::{Map, Value, json};

/// What a model counts for an image at most. Source: OpenAI's vision guide; gpt-4o-mini counts the most, 2833 + 8 × 5667.
pub(super) const IMAGE_TOKENS: u64 = 50_000;
/// Output tokens of a request that names no bound: without one its cost could not be bounded either.
pub(super) const OUTPUT_TOKENS: u64 = 16_000;

/// Fields that make the provider fetch or store something, or change the price in a way that is not known here.
const REFUSED: [(&str, &str); 6] = [
    ("web_search_options", "the provider would search the web"),
    ("audio", "its price is not known here"),
    ("prediction", "its price is not known here"),
    ("service_tier", "its price is not known here"),
    ("plugins", "the provider would run them"),
    ("models", "its price is not known here"),
];

/// Checks a body, takes out what must not be in it, and asks for the usage of a stream.
pub(super) fn check(body: &mut Map<String, Value>, stream: bool) -> Result<Shape, Refused> {
    refuse_fields(body, &REFUSED)?;
    // Written otherwise than as a whole number it may be read as one all the same.
    if body.get("n").is_some_and(|n| !n.is_null() && n.as_u64() != Some(1)) {
        return Err(Refused("autovibe: `n` above 1 is not allowed: each choice would be paid for. Ask again for another".into()));
    }
    let messages = body.get("messages").and_then(Value::as_array).ok_or_else(|| Refused("messages: Field required".into()))?;
    let mut images = Images::default();
    let conversation = Some(conversation(messages, &mut images)?);
    let (max_tokens, bound) = output_bound(body, &["max_completion_tokens", "max_tokens"])?;
    let mut changed = keep_tools(body, |tool| matches!(tool["type"].as_str(), Some("function" | "custom") | None));
    // What the provider keeps outlives the Machine.
    changed |= body.remove("store").is_some_and(|store| store == true);
    if bound == Some("max_completion_tokens") {
        changed |= body.remove("max_tokens").is_some();
    }
    let mut hides_usage = false;
    if stream && body.get("stream_options").is_none_or(|options| options["include_usage"] != true) {
        if !body.get("stream_options").is_some_and(Value::is_object) {
            body.insert("stream_options".into(), json!({}));
        }
        body["stream_options"]["include_usage"] = true.into();
        (hides_usage, changed) = (true, true);
    }
    Ok(Shape { max_tokens, bound, conversation, images, changed, hides_usage })
}

/// The bound of the output and the first of `fields` that has it.
pub(super) fn output_bound(body: &Map<String, Value>, fields: &[&'static str]) -> Result<(u64, Option<&'static str>), Refused> {
    for field in fields {
        match body.get(*field) {
            None | Some(Value::Null) => {}
            Some(value) => {
                let count = value.as_u64().filter(|count| *count > 0);
                let count = count.ok_or_else(|| Refused(format!("{field}: a whole number above 0 is required")))?;
                return Ok((count, Some(field)));
            }
        }
    }
    Ok((OUTPUT_TOKENS, None))
}

fn conversation(messages: &[Value], images: &mut Images) -> Result<Vec<Value>, Refused> {
    let mut told = Vec::with_capacity(messages.len());
    for message in messages {
        let content = parts(&message["content"], images)?;
        match message["role"].as_str().unwrap_or_default() {
            "tool" | "function" => result(&mut told, &message["tool_call_id"], content),
            "assistant" => {
                let calls = message["tool_calls"].as_array().into_iter().flatten();
                let calls = calls.map(|call| tool_use(&call["id"], &call["function"]["name"], &call["function"]["arguments"]));
                told.push(json!({ "role": "assistant", "content": content.into_iter().chain(calls).collect::<Vec<_>>() }));
            }
            "system" | "developer" => told.push(json!({ "role": "system", "content": content })),
            _ => told.push(json!({ "role": "user", "content": content })),
        }
    }
    Ok(told)
}

/// A call as a block; arguments that are no JSON stand as they are.
pub(in crate::llm) fn tool_use(id: &Value, name: &Value, arguments: &Value) -> Value {
    let input = arguments.as_str().map_or_else(|| arguments.clone(), |text| serde_json::from_str(text).unwrap_or_else(|_| text.into()));
    json!({ "type": "tool_use", "id": id, "name": name, "input": input })
}

/// Adds a tool's result: all results of one answer are blocks of one user's message.
pub(super) fn result(told: &mut Vec<Value>, id: &Value, content: Vec<Value>) {
    let block = json!({ "type": "tool_result", "tool_use_id": id, "content": content });
    match told.last_mut().filter(|last| last["content"][0]["type"] == "tool_result").and_then(|last| last["content"].as_array_mut()) {
        Some(results) => results.push(block),
        None => told.push(json!({ "role": "user", "content": [block] })),
    }
}

/// The parts of a content as blocks; images without their bytes.
pub(super) fn parts(content: &Value, images: &mut Images) -> Result<Vec<Value>, Refused> {
    let text = |text: &Value| json!({ "type": "text", "text": text });
    let list = match content {
        Value::String(_) => return Ok(vec![text(content)]),
        Value::Array(list) => list.as_slice(),
        Value::Object(_) => std::slice::from_ref(content),
        _ => return Ok(Vec::new()),
    };
    list.iter()
        .map(|part| match part["type"].as_str().unwrap_or_default() {
            "image_url" | "input_image" | "computer_screenshot" => {
                if !image_url(part).is_some_and(|url| url.starts_with("data:")) {
                    return Err(fetched());
                }
                images.add_part(part);
                Ok(json!({ "type": "image" }))
            }
            // A compressed file may have more tokens than bytes.
            "file" | "input_file" => {
                Err(Refused("autovibe: files are not allowed: their cost cannot be bounded. Send text or images".into()))
            }
            "input_audio" => Err(Refused("autovibe: audio is not allowed: its price is not known here. Send text".into())),
            "" | "text" | "input_text" | "output_text" | "refusal" | "summary_text" | "reasoning_text" | "thinking" => {
                Ok(text(if part["refusal"].is_string() { &part["refusal"] } else { &part["text"] }))
            }
            kind => Err(Refused(format!(
                "autovibe: content of type {kind:.40} is not allowed: the provider may fetch it, and its cost is not known here. Send text \
                 or images"
            ))),
        })
        .collect()
}

fn fetched() -> Refused {
    Refused("autovibe: an image by URL or file id is not allowed: the provider would fetch it. Send it as a data URL".into())
}
