//! One answer, as events or as a whole, with its usage. Here it is told in the Messages API; the other protocols have files of
//! their own.

use super::{Turn, WrittenUsage};
use crate::llm::{Protocol, meter::Caching, request::Request, sse::encode};
use serde_json::{Value, json};

/// Characters that stand for a token.
const TOKEN: usize = 4;
/// Tokens of one event, about as a model sends them.
const PIECE: usize = 3;

pub(super) struct Answer {
    /// Unique per conversation and turn, equal for a repeat.
    pub(super) id: String,
    pub(super) think: f64,
    pub(super) blocks: Vec<Value>,
    usage: Option<WrittenUsage>,
}

impl Answer {
    pub(super) fn of(id: &str, turn: &Turn, think: f64) -> Self {
        let text = turn.text.iter().map(|text| json!({ "type": "text", "text": text }));
        let tools = turn.tools.iter().enumerate().map(|(index, tool)| {
            json!({ "type": "tool_use", "id": format!("toolu_replay_{id}_{index}"), "name": tool.name, "input": tool.input })
        });
        let think = turn.think_seconds.unwrap_or(think).clamp(0.0, 3600.0);
        Self { id: id.to_owned(), think, blocks: text.chain(tools).collect(), usage: turn.usage }
    }

    pub(super) fn short(id: &str, text: &str) -> Self {
        Self { id: id.to_owned(), think: 0.0, blocks: vec![json!({ "type": "text", "text": text })], usage: None }
    }

    pub(super) fn output_tokens(&self) -> u64 {
        let written = || self.blocks.iter().map(|block| block_text(block).len() / TOKEN + 1).sum::<usize>() as u64;
        self.usage.map_or_else(written, |usage| usage.output)
    }

    pub(super) fn calls_tools(&self) -> bool {
        self.blocks.iter().any(|block| block["type"] == "tool_use")
    }

    fn stop_reason(&self) -> &'static str {
        if self.calls_tools() { "tool_use" } else { "end_turn" }
    }

    /// What it reports: what was there before the newest message comes from the cache, when the agent or the protocol uses it.
    pub(super) fn used(&self, request: &Request) -> WrittenUsage {
        let newest = request.messages().last().map_or(0, |message| message.to_string().len() as u64);
        let (all, new) = (request.size() / TOKEN as u64 + 1, newest / TOKEN as u64 + 1);
        let first = !request.messages().iter().any(|message| message["role"] == "assistant");
        let old = all.saturating_sub(new);
        let estimate = match (request.protocol, request.caching(), first) {
            (Protocol::Messages, Caching::Never, _) | (Protocol::Chat | Protocol::Responses, _, true) => {
                WrittenUsage { input: all, ..WrittenUsage::default() }
            }
            (Protocol::Messages, _, true) => WrittenUsage { input: 4, cache_write: all, ..WrittenUsage::default() },
            (Protocol::Messages, _, false) => {
                WrittenUsage { input: 4, cache_write: new.min(all), cache_read: old, ..WrittenUsage::default() }
            }
            (Protocol::Chat | Protocol::Responses, _, false) => {
                WrittenUsage { input: all - old, cache_read: old, ..WrittenUsage::default() }
            }
        };
        WrittenUsage { output: self.output_tokens(), ..self.usage.unwrap_or(estimate) }
    }

    fn usage(&self, request: &Request, output: u64) -> Value {
        let usage = self.used(request);
        json!({
            "input_tokens": usage.input,
            "cache_creation_input_tokens": usage.cache_write,
            "cache_read_input_tokens": usage.cache_read,
            "cache_creation": { "ephemeral_5m_input_tokens": usage.cache_write, "ephemeral_1h_input_tokens": 0 },
            "output_tokens": output,
            "service_tier": "standard",
        })
    }

    fn head(&self, request: &Request, content: &[Value], stop_reason: Option<&str>, output: u64) -> Value {
        json!({
            "id": format!("msg_replay_{}", self.id), "type": "message", "role": "assistant", "model": request.model,
            "content": content, "stop_reason": stop_reason, "stop_sequence": null, "usage": self.usage(request, output),
        })
    }

    pub(super) fn message(&self, request: &Request) -> Value {
        match request.protocol {
            Protocol::Messages => {}
            Protocol::Chat => return self.chat_completion(request),
            Protocol::Responses => return self.response(request),
        }
        self.head(request, &self.blocks, Some(self.stop_reason()), self.output_tokens())
    }

    /// The events, each with the tokens that had to be generated for it.
    pub(super) fn events(&self, request: &Request) -> Vec<(u32, String)> {
        match request.protocol {
            Protocol::Messages => {}
            Protocol::Chat => return self.chat_chunks(request),
            Protocol::Responses => return self.responses_events(request),
        }
        let mut events = vec![
            (0, encode("message_start", &json!({ "type": "message_start", "message": self.head(request, &[], None, 1) }))),
            (0, encode("ping", &json!({ "type": "ping" }))),
        ];
        for (index, block) in self.blocks.iter().enumerate() {
            let is_text = block["type"] == "text";
            let mut start = block.clone();
            start[if is_text { "text" } else { "input" }] = if is_text { json!("") } else { json!({}) };
            events.push((
                0,
                encode("content_block_start", &json!({ "type": "content_block_start", "index": index, "content_block": start })),
            ));
            for piece in pieces(&block_text(block)) {
                let delta = if is_text {
                    json!({ "type": "text_delta", "text": piece })
                } else {
                    json!({ "type": "input_json_delta", "partial_json": piece })
                };
                events.push((
                    tokens(&piece),
                    encode("content_block_delta", &json!({ "type": "content_block_delta", "index": index, "delta": delta })),
                ));
            }
            events.push((0, encode("content_block_stop", &json!({ "type": "content_block_stop", "index": index }))));
        }
        let delta = json!({ "stop_reason": self.stop_reason(), "stop_sequence": null });
        let usage = json!({ "output_tokens": self.output_tokens() });
        events.push((0, encode("message_delta", &json!({ "type": "message_delta", "delta": delta, "usage": usage }))));
        events.push((0, encode("message_stop", &json!({ "type": "message_stop" }))));
        events
    }
}

/// What is generated for a block.
pub(super) fn block_text(block: &Value) -> String {
    block["text"].as_str().map_or_else(|| block["input"].to_string(), str::to_owned)
}

/// Tokens of a piece.
pub(super) fn tokens(piece: &str) -> u32 {
    u32::try_from(piece.len().div_ceil(TOKEN)).unwrap_or(u32::MAX)
}

/// A text as it is sent.
pub(super) fn pieces(text: &str) -> Vec<String> {
    let characters: Vec<char> = text.chars().collect();
    characters.chunks(TOKEN * PIECE).map(|piece| piece.iter().collect()).collect()
}
