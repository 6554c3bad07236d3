//! An answer as chat completions tell it: chunks that end with `[DONE]`, or one completion.

use super::answer::{Answer, block_text, pieces, tokens};
use crate::llm::request::Request;
use serde_json::{Value, json};

impl Answer {
    fn finish_reason(&self) -> &'static str {
        if self.calls_tools() { "tool_calls" } else { "stop" }
    }

    fn chat_usage(&self, request: &Request) -> Value {
        let used = self.used(request);
        let input = used.input + used.cache_write + used.cache_read;
        json!({
            "prompt_tokens": input,
            "completion_tokens": used.output,
            "total_tokens": input + used.output,
            "prompt_tokens_details": { "cached_tokens": used.cache_read, "cache_write_tokens": used.cache_write },
        })
    }

    /// A part of the answer, or the answer.
    fn chat_part(&self, request: &Request, object: &str, choices: &Value, usage: Option<Value>) -> Value {
        let mut part = json!({
            "id": format!("chatcmpl-replay-{}", self.id), "object": object, "created": 0, "model": request.model, "choices": choices,
        });
        if let Some(usage) = usage {
            part["usage"] = usage;
        }
        part
    }

    /// Each call with its place among the calls.
    fn calls(&self) -> impl Iterator<Item = (usize, &Value)> {
        self.blocks.iter().filter(|block| block["type"] == "tool_use").enumerate()
    }

    pub(super) fn chat_completion(&self, request: &Request) -> Value {
        let text: String = self.blocks.iter().filter_map(|block| block["text"].as_str()).collect();
        let mut message = json!({ "role": "assistant", "content": (!text.is_empty()).then_some(text) });
        if self.calls_tools() {
            let call = |(_, call): (usize, &Value)| function(&call["id"], &call["name"], &block_text(call));
            message["tool_calls"] = self.calls().map(call).collect();
        }
        let choices = json!([{ "index": 0, "message": message, "finish_reason": self.finish_reason() }]);
        self.chat_part(request, "chat.completion", &choices, Some(self.chat_usage(request)))
    }

    /// The chunks, each with the tokens that had to be generated for it. Every stream that comes here asks for its usage.
    pub(super) fn chat_chunks(&self, request: &Request) -> Vec<(u32, String)> {
        let chunk = |choices: Value, usage| format!("data: {}\n\n", self.chat_part(request, "chat.completion.chunk", &choices, usage));
        let delta = |delta: Value, reason: Option<&str>| chunk(json!([{ "index": 0, "delta": delta, "finish_reason": reason }]), None);
        let mut chunks = vec![(0, delta(json!({ "role": "assistant", "content": "" }), None))];
        for text in self.blocks.iter().filter(|block| block["type"] == "text").map(block_text) {
            chunks.extend(pieces(&text).into_iter().map(|piece| (tokens(&piece), delta(json!({ "content": piece }), None))));
        }
        for (index, call) in self.calls() {
            let mut first = function(&call["id"], &call["name"], "");
            first["index"] = index.into();
            chunks.push((0, delta(json!({ "tool_calls": [first] }), None)));
            for piece in pieces(&block_text(call)) {
                let arguments = json!({ "tool_calls": [{ "index": index, "function": { "arguments": piece } }] });
                chunks.push((tokens(&piece), delta(arguments, None)));
            }
        }
        chunks.push((0, delta(json!({}), Some(self.finish_reason()))));
        chunks.push((0, chunk(json!([]), Some(self.chat_usage(request)))));
        chunks.push((0, "data: [DONE]\n\n".to_owned()));
        chunks
    }
}

fn function(id: &Value, name: &Value, arguments: &str) -> Value {
    json!({ "id": id, "type": "function", "function": { "name": name, "arguments": arguments } })
}
