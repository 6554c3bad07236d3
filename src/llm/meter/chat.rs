//! Answers of chat completions. Usage comes once, in a chunk of its own after the last choice, or in the whole answer.

use super::{Block, Meter};
use serde_json::{Map, Value, json};

impl Meter {
    /// Reads a chunk of a stream.
    pub(super) fn chat_chunk(&mut self, mut chunk: Value) {
        if let Some(error) = chunk.get("error").filter(|error| !error.is_null()) {
            let words = error["message"].as_str().or(error.as_str()).unwrap_or("an error without words");
            self.error = Some(words.to_owned());
            return;
        }
        self.chat_head(&mut chunk);
        let choice = &chunk["choices"][0];
        self.chat_choice(&choice["delta"], choice["finish_reason"].as_str());
    }

    /// Reads an answer that came in one piece.
    pub(super) fn chat_completion(&mut self, completion: Map<String, Value>) {
        let mut completion = Value::Object(completion);
        self.chat_head(&mut completion);
        let choice = &completion["choices"][0];
        self.chat_choice(&choice["message"], choice["finish_reason"].as_str().or(Some("stop")));
    }

    fn chat_head(&mut self, part: &mut Value) {
        for field in ["id", "created", "model", "system_fingerprint"] {
            if let Some(value) = part.get(field).filter(|value| !value.is_null()) {
                self.head.insert(field.into(), value.clone());
            }
        }
        if let Some(usage) = part.get_mut("usage").filter(|usage| usage.is_object()).map(Value::take) {
            let (details, output) = (&usage["prompt_tokens_details"], &usage["completion_tokens"]);
            self.output_reported |= self.usage.report(&usage["prompt_tokens"], details, output);
            self.head.insert("usage".into(), usage);
        }
    }

    fn chat_choice(&mut self, delta: &Value, finish_reason: Option<&str>) {
        // Servers disagree on the name of what was thought; some write both.
        let thought = delta["reasoning_content"].as_str().or(delta["reasoning"].as_str());
        for (text, kind) in [(thought, "thinking"), (delta["content"].as_str(), "text"), (delta["refusal"].as_str(), "text")] {
            if let Some(text) = text.filter(|text| !text.is_empty()) {
                self.generated += text.len() as u64;
                self.block(kind).push(kind, text);
            }
        }
        for (position, call) in delta["tool_calls"].as_array().into_iter().flatten().enumerate() {
            self.tool_call(call, call["index"].as_u64().unwrap_or(position as u64));
        }
        let Some(reason) = finish_reason else { return };
        self.blocks.iter_mut().for_each(Block::close);
        self.complete = true;
        self.stop_reason = Some(match reason {
            // Some servers say `stop` also when tools are called.
            _ if !self.tools().is_empty() && reason != "length" => "tool_use".into(),
            "stop" => "end_turn".into(),
            "length" => "max_tokens".into(),
            "content_filter" => "refusal".into(),
            other => other.into(),
        });
    }

    /// The block that a text goes to: the newest, when it is of that kind.
    fn block(&mut self, kind: &str) -> &mut Block {
        if self.blocks.last().is_none_or(|block| block.value["type"] != kind) {
            self.blocks.push(Block::new(json!({ "type": kind, kind: "" }), None));
        }
        let newest = self.blocks.len() - 1;
        &mut self.blocks[newest]
    }

    fn tool_call(&mut self, call: &Value, index: u64) {
        let at = self.blocks.iter().position(|block| block.index == Some(index)).unwrap_or_else(|| {
            let value = json!({ "type": "tool_use", "id": "", "name": "", "input": {} });
            self.blocks.push(Block::new(value, Some(index)));
            self.blocks.len() - 1
        });
        let block = &mut self.blocks[at];
        for (field, value) in [("id", &call["id"]), ("name", &call["function"]["name"])] {
            if value.as_str().is_some_and(|text| !text.is_empty()) {
                block.value[field] = value.clone();
            }
        }
        if let Some(arguments) = call["function"]["arguments"].as_str() {
            self.generated += arguments.len() as u64;
            block.partial.push_str(arguments);
        }
    }

    /// The answer in one piece.
    pub(super) fn as_chat_completion(&self) -> Value {
        let of = |kind: &str| self.blocks.iter().filter(|block| block.value["type"] == kind).map(|block| &block.value).collect::<Vec<_>>();
        let text: String = of("text").into_iter().filter_map(|block| block["text"].as_str()).collect();
        let calls: Vec<Value> = of("tool_use")
            .into_iter()
            .map(|call| {
                json!({ "id": call["id"], "type": "function",
                "function": { "name": call["name"], "arguments": call["input"].to_string() } })
            })
            .collect();
        let mut message = json!({ "role": "assistant", "content": (!text.is_empty()).then_some(text) });
        if !calls.is_empty() {
            message["tool_calls"] = calls.into();
        }
        let reason = self.stop_reason.as_deref().map(|reason| match reason {
            "end_turn" => "stop",
            "tool_use" => "tool_calls",
            "max_tokens" => "length",
            "refusal" => "content_filter",
            other => other,
        });
        let mut completion = self.head.clone();
        completion.insert("object".into(), "chat.completion".into());
        completion.insert("choices".into(), json!([{ "index": 0, "message": message, "finish_reason": reason }]));
        Value::Object(completion)
    }
}
