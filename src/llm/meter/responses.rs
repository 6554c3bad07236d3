//! Answers of the Responses API. Deltas say what comes; the last event carries the whole answer with its usage.

use super::{Block, Meter};
use crate::llm::request::tool_use;
use serde_json::{Map, Value, json};

impl Meter {
    /// Reads an event of a stream.
    pub(super) fn responses_event(&mut self, mut event: Value) {
        let index = event["output_index"].as_u64();
        match event["type"].as_str().unwrap_or_default() {
            "response.created" | "response.in_progress" => {
                if let Value::Object(head) = event["response"].take() {
                    self.head = head;
                }
            }
            "response.output_item.added" => {
                if let Some(value) = block(&event["item"]) {
                    self.blocks.push(Block::new(value, index));
                }
            }
            "response.output_item.done" => {
                let newest = self.blocks.iter_mut().rfind(|block| block.index == index);
                if let (Some(known), Some(value)) = (newest, block(&event["item"])) {
                    known.value = value;
                    known.partial.clear();
                    known.closed = true;
                }
            }
            "response.completed" | "response.incomplete" | "response.failed" => {
                if let Value::Object(response) = event["response"].take() {
                    self.response(response);
                }
            }
            "error" => self.error = Some(event["message"].as_str().unwrap_or("an error without words").to_owned()),
            kind if kind.rsplit('.').next() == Some("delta") => self.responses_delta(&event["delta"], index),
            _ => {}
        }
    }

    fn responses_delta(&mut self, delta: &Value, index: Option<u64>) {
        let Some(text) = delta.as_str() else { return };
        self.generated += text.len() as u64;
        let Some(block) = self.blocks.iter_mut().rfind(|block| block.index == index) else { return };
        match block.value["type"].as_str().unwrap_or_default() {
            "tool_use" => block.partial.push_str(text),
            "thinking" => block.push("thinking", text),
            _ => block.push("text", text),
        }
    }

    /// Reads the whole answer: in one piece, or as the last event of a stream has it.
    pub(super) fn response(&mut self, response: Map<String, Value>) {
        let usage = response.get("usage").unwrap_or(&Value::Null);
        self.output_reported |= self.usage.report(&usage["input_tokens"], &usage["input_tokens_details"], &usage["output_tokens"]);
        let output: Vec<Value> = response.get("output").and_then(Value::as_array).into_iter().flatten().filter_map(block).collect();
        if !output.is_empty() {
            self.generated = self.generated.max(output.iter().map(|block| block.to_string().len() as u64).sum());
            self.blocks = output.into_iter().map(|value| Block::new(value, None)).collect();
        }
        self.blocks.iter_mut().for_each(Block::close);
        let text = |name: &str, field: &str| response.get(name).and_then(|value| value[field].as_str()).map(str::to_owned);
        match response.get("status").and_then(Value::as_str) {
            Some("failed" | "cancelled") => {
                self.error = Some(text("error", "message").unwrap_or_else(|| "an error without words".into()));
            }
            Some("incomplete") => {
                let reason = text("incomplete_details", "reason").unwrap_or_default();
                self.stop_reason = Some(if reason == "content_filter" { "refusal" } else { "max_tokens" }.into());
                self.complete = true;
            }
            _ => {
                self.stop_reason = Some(if self.tools().is_empty() { "end_turn" } else { "tool_use" }.into());
                self.complete = true;
            }
        }
        self.head = response;
    }
}

/// An item of the output as a block, if it says or calls something.
fn block(item: &Value) -> Option<Value> {
    let texts = |parts: &Value| -> String {
        let parts = parts.as_array().into_iter().flatten();
        parts.filter_map(|part| part["text"].as_str().or(part["refusal"].as_str())).collect()
    };
    Some(match item["type"].as_str()? {
        "message" => json!({ "type": "text", "text": texts(&item["content"]) }),
        "reasoning" => json!({ "type": "thinking", "thinking": texts(&item["summary"]) + &texts(&item["content"]) }),
        "function_call" => tool_use(&item["call_id"], &item["name"], &item["arguments"]),
        "custom_tool_call" => tool_use(&item["call_id"], &item["name"], &item["input"]),
        "local_shell_call" => tool_use(&item["call_id"], &"local_shell".into(), &item["action"]),
        _ => return None,
    })
}
