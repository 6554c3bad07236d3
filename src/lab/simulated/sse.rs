//! Puts a streamed answer of the Messages API together.

use serde_json::{Value, json};

/// An answer as it arrives.
#[derive(Debug, Default)]
pub(super) struct Message {
    buffer: Vec<u8>,
    content: Vec<Value>,
    /// The input of the tool use that is being streamed, as JSON text.
    input: String,
    pub(super) stop_reason: Option<String>,
    /// `message_stop` was seen: nothing is missing.
    pub(super) complete: bool,
    /// An `error` event came in the stream.
    pub(super) failed: bool,
}

impl Message {
    pub(super) fn add(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
        while let Some(end) = self.buffer.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.buffer.drain(..=end).collect();
            let line = String::from_utf8_lossy(&line);
            if let Some(event) = line.trim().strip_prefix("data:").and_then(|data| serde_json::from_str::<Value>(data.trim()).ok()) {
                self.event(&event);
            }
        }
    }

    fn event(&mut self, event: &Value) {
        match event["type"].as_str().unwrap_or_default() {
            "content_block_start" => {
                self.content.push(event["content_block"].clone());
                self.input.clear();
            }
            "content_block_delta" => {
                let delta = &event["delta"];
                let Some(block) = self.content.last_mut() else { return };
                for key in ["text", "thinking"] {
                    if let Some(text) = delta[key].as_str() {
                        block[key] = format!("{}{text}", block[key].as_str().unwrap_or_default()).into();
                    }
                }
                if let Some(signature) = delta["signature"].as_str() {
                    block["signature"] = signature.into();
                }
                self.input.push_str(delta["partial_json"].as_str().unwrap_or_default());
            }
            "content_block_stop" => {
                if let (Some(block), Ok(input)) = (self.content.last_mut(), serde_json::from_str::<Value>(&self.input)) {
                    block["input"] = input;
                }
                self.input.clear();
            }
            "message_delta" => self.stop_reason = event["delta"]["stop_reason"].as_str().map(str::to_owned).or(self.stop_reason.take()),
            "message_stop" => self.complete = true,
            "error" => self.failed = true,
            _ => {}
        }
    }

    /// The message to send back with the next request.
    pub(super) fn assistant(&self) -> Value {
        json!({ "role": "assistant", "content": self.content })
    }

    /// Id, name and input of each tool that is to be run.
    pub(super) fn tools(&self) -> Vec<(String, String, Value)> {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        self.content
            .iter()
            .filter(|block| block["type"] == "tool_use")
            .map(|block| (text(&block["id"]), text(&block["name"]), block["input"].clone()))
            .collect()
    }
}
