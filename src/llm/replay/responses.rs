//! An answer as the Responses API tells it: typed events, of which the last carries all, or one response.

use super::answer::{Answer, block_text, pieces, tokens};
use crate::llm::{request::Request, sse::encode};
use serde_json::{Value, json};

impl Answer {
    /// The response with so many of its items, or without its end.
    fn response_with(&self, request: &Request, output: &[Value], usage: Option<Value>) -> Value {
        let status = if usage.is_some() { "completed" } else { "in_progress" };
        json!({
            "id": format!("resp_replay_{}", self.id), "object": "response", "created_at": 0, "model": request.model,
            "status": status, "error": null, "incomplete_details": null, "output": output, "usage": usage, "store": false,
        })
    }

    fn items(&self) -> Vec<Value> {
        let items = self.blocks.iter().enumerate().map(|(index, block)| {
            let id = format!("item_replay_{}_{index}", self.id);
            if block["type"] == "text" {
                let part = json!({ "type": "output_text", "text": block["text"], "annotations": [] });
                json!({ "id": id, "type": "message", "role": "assistant", "status": "completed", "content": [part] })
            } else {
                json!({ "id": id, "type": "function_call", "status": "completed", "call_id": block["id"], "name": block["name"],
                    "arguments": block_text(block) })
            }
        });
        items.collect()
    }

    pub(super) fn response(&self, request: &Request) -> Value {
        let used = self.used(request);
        let input = used.input + used.cache_write + used.cache_read;
        let usage = json!({
            "input_tokens": input,
            "input_tokens_details": { "cached_tokens": used.cache_read, "cache_write_tokens": used.cache_write },
            "output_tokens": used.output,
            "output_tokens_details": { "reasoning_tokens": 0 },
            "total_tokens": input + used.output,
        });
        self.response_with(request, &self.items(), Some(usage))
    }

    /// The events, each with the tokens that had to be generated for it.
    pub(super) fn responses_events(&self, request: &Request) -> Vec<(u32, String)> {
        let mut told: Vec<(u32, Value)> =
            vec![(0, json!({ "type": "response.created", "response": self.response_with(request, &[], None) }))];
        for (index, item) in self.items().into_iter().enumerate() {
            let (mut begun, id) = (item.clone(), item["id"].clone());
            begun["status"] = "in_progress".into();
            let of = |kind: &str, field: &str, value: Value| {
                let mut event = json!({ "type": kind, "item_id": id, "output_index": index });
                if item["type"] == "message" {
                    event["content_index"] = 0.into();
                }
                event[field] = value;
                event
            };
            let (name, text) = if item["type"] == "message" {
                begun["content"] = json!([]);
                ("output_text", item["content"][0]["text"].clone())
            } else {
                begun["arguments"] = "".into();
                ("function_call_arguments", item["arguments"].clone())
            };
            told.push((0, json!({ "type": "response.output_item.added", "output_index": index, "item": begun })));
            if name == "output_text" {
                let empty = json!({ "type": "output_text", "text": "", "annotations": [] });
                told.push((0, of("response.content_part.added", "part", empty)));
            }
            for piece in pieces(text.as_str().unwrap_or_default()) {
                told.push((tokens(&piece), of(&format!("response.{name}.delta"), "delta", piece.into())));
            }
            let field = if name == "output_text" { "text" } else { "arguments" };
            told.push((0, of(&format!("response.{name}.done"), field, text)));
            if name == "output_text" {
                told.push((0, of("response.content_part.done", "part", item["content"][0].clone())));
            }
            told.push((0, json!({ "type": "response.output_item.done", "output_index": index, "item": item })));
        }
        told.push((0, json!({ "type": "response.completed", "response": self.response(request) })));
        let number = |(number, (tokens, mut event)): (usize, (u32, Value))| {
            event["sequence_number"] = number.into();
            let name = event["type"].as_str().unwrap_or_default().to_owned();
            (tokens, encode(&name, &event))
        };
        told.into_iter().enumerate().map(number).collect()
    }
}
