//! Keeps back the part of an answer that calls tools until it is known whether the agent may have it, and puts another input into
//! a call where it may not. Pure: bytes in, bytes out.
//!
//! A call is passed on whole or not at all: once its beginning is out, its end can only be cut off, which ends most programs.

use super::{Protocol, sse::encode, usage_chunk::MAX_EVENT, usage_chunk::event_length};
use bytes::Bytes;
use serde_json::{Value, json};
use std::collections::HashMap;

/// Inputs that take the place of those of calls, by the calls' ids.
pub type Inputs = HashMap<String, Value>;

/// Cuts a stream into its events.
#[derive(Debug, Default)]
pub struct Events {
    rest: Vec<u8>,
    /// So much of the rest has no end of an event in it.
    searched: usize,
}

/// An event that is longer than any of a model: what it says could not be judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an event of the provider's answer is longer than {MAX_EVENT} bytes")]
pub struct TooLong;

impl Events {
    /// The events that `bytes` complete, each with the empty line that ends it. Looks at each byte once, however they come.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Vec<Bytes>, TooLong> {
        self.rest.extend_from_slice(bytes);
        let (mut events, mut start) = (Vec::new(), 0);
        // The line that ends one may have begun before.
        let mut from = self.searched.saturating_sub(2);
        while let Some(length) = event_length(&self.rest[from..]) {
            events.push(Bytes::copy_from_slice(&self.rest[start..from + length]));
            start = from + length;
            from = start;
        }
        self.rest.drain(..start);
        self.searched = self.rest.len();
        if self.rest.len() > MAX_EVENT { Err(TooLong) } else { Ok(events) }
    }

    /// What is left at the end of the stream.
    pub fn end(&mut self) -> Bytes {
        std::mem::take(&mut self.rest).into()
    }
}

/// The events that are kept back.
#[derive(Debug, Default)]
pub struct Kept(Vec<Bytes>);

impl Kept {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes the next event; returns what may be passed on. `calling`: a call has begun and not ended, so that this event, and all
    /// until the end of the call, wait. Errors: a call's input cannot be put in another's place.
    pub fn push(&mut self, event: Bytes, calling: bool, protocol: Protocol, inputs: &Inputs) -> Result<Bytes, Unchangeable> {
        if !calling && self.0.is_empty() {
            return Ok(event);
        }
        self.0.push(event);
        if calling {
            return Ok(Bytes::new());
        }
        let events = std::mem::take(&mut self.0);
        if inputs.is_empty() {
            return Ok(events.concat().into());
        }
        match protocol {
            Protocol::Messages => Ok(messages(&events, inputs)),
            Protocol::Chat => Ok(chat(&events, inputs)),
            Protocol::Responses => Err(Unchangeable),
        }
    }
}

/// The protocol repeats a call's input in too many places to put another into it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unchangeable;

/// The same for an answer that came in one piece.
pub fn whole(body: &[u8], protocol: Protocol, inputs: &Inputs) -> Result<Bytes, Unchangeable> {
    let mut message: Value = serde_json::from_slice(body).map_err(|_| Unchangeable)?;
    match protocol {
        Protocol::Messages => {
            for block in message["content"].as_array_mut().into_iter().flatten() {
                if let Some(input) = block["id"].as_str().and_then(|id| inputs.get(id)) {
                    block["input"] = input.clone();
                }
            }
        }
        Protocol::Chat => {
            for call in message["choices"][0]["message"]["tool_calls"].as_array_mut().into_iter().flatten() {
                if let Some(input) = call["id"].as_str().and_then(|id| inputs.get(id)) {
                    call["function"]["arguments"] = input.to_string().into();
                }
            }
        }
        Protocol::Responses => return Err(Unchangeable),
    }
    Ok(message.to_string().into())
}

/// The JSON of an event.
fn data(event: &[u8]) -> Option<Value> {
    let text = std::str::from_utf8(event).ok()?;
    let lines = text.lines().filter_map(|line| line.strip_prefix("data:")).collect::<Vec<_>>();
    serde_json::from_str(&lines.join("\n")).ok()
}

/// The events of blocks: a changed one has its new input in one piece.
fn messages(events: &[Bytes], inputs: &Inputs) -> Bytes {
    let mut passed = Vec::new();
    let mut changed = false;
    for event in events {
        let value = data(event).unwrap_or_default();
        match value["type"].as_str() {
            Some("content_block_start") => {
                passed.extend_from_slice(event);
                let input = value["content_block"]["id"].as_str().and_then(|id| inputs.get(id));
                changed = input.is_some();
                if let Some(input) = input {
                    let delta = json!({ "type": "input_json_delta", "partial_json": input.to_string() });
                    let delta = json!({ "type": "content_block_delta", "index": value["index"], "delta": delta });
                    passed.extend_from_slice(encode("content_block_delta", &delta).as_bytes());
                }
            }
            Some("content_block_delta") if changed => {}
            Some("content_block_stop") => {
                changed = false;
                passed.extend_from_slice(event);
            }
            _ => passed.extend_from_slice(event),
        }
    }
    passed.into()
}

/// The chunks of choices: a changed call has its new arguments where its id stands.
fn chat(events: &[Bytes], inputs: &Inputs) -> Bytes {
    let calls_of = |value: &Value| value["choices"][0]["delta"]["tool_calls"].as_array().cloned().unwrap_or_default();
    let parsed: Vec<Option<Value>> = events.iter().map(|event| data(event)).collect();
    // Places of changed calls among the calls, with their new input until that is out. A call's id need not come first.
    let mut changed: Vec<(Value, Option<&Value>)> = Vec::new();
    for call in parsed.iter().flatten().flat_map(calls_of) {
        if let Some(input) = call["id"].as_str().and_then(|id| inputs.get(id)) {
            changed.push((call["index"].clone(), Some(input)));
        }
    }
    let mut passed = Vec::new();
    for (event, value) in events.iter().zip(parsed) {
        let Some(mut value) = value.filter(|value| value["choices"][0]["delta"]["tool_calls"].is_array()) else {
            passed.extend_from_slice(event);
            continue;
        };
        for call in value["choices"][0]["delta"]["tool_calls"].as_array_mut().into_iter().flatten() {
            if let Some((_, input)) = changed.iter_mut().find(|(index, _)| *index == call["index"]) {
                call["function"]["arguments"] = input.take().map(ToString::to_string).unwrap_or_default().into();
            }
        }
        passed.extend_from_slice(format!("data: {value}\n\n").as_bytes());
    }
    passed.into()
}

#[cfg(test)]
mod tests;
