//! A request in the pieces that a model reads: blocks of messages, tools, other fields. What a call's input came to bounds the next
//! one's by the pieces that both have, in whatever order; only what is new counts by its bytes.

use super::{CONTEXT_TOKENS, Images, chat, messages};
use crate::llm::Protocol;
use serde_json::{Map, Value};
use std::{
    collections::HashMap,
    hash::{BuildHasher, Hash, Hasher, RandomState},
    sync::LazyLock,
};

/// Keys are of this process alone: no guest can make two pieces look alike.
static KEYS: LazyLock<RandomState> = LazyLock::new(RandomState::new);

/// The pieces of a request, each with how often it is there and a bound of its tokens.
#[derive(Clone, Debug, Default)]
pub struct Pieces {
    found: HashMap<u64, (u32, u64)>,
    /// Bound of those that a model reads only when they are asked for: that they were there says nothing.
    deferred: u64,
}

impl Pieces {
    pub(super) fn of(protocol: Protocol, body: &Map<String, Value>) -> Self {
        let mut pieces = Self::default();
        for (field, value) in body {
            let Some(list) = value.as_array() else {
                pieces.add(protocol, field, &Value::Null, value);
                continue;
            };
            for item in list {
                match item["content"].as_array() {
                    Some(blocks) => {
                        for block in blocks {
                            pieces.add(protocol, field, &item["role"], block);
                        }
                        for (name, value) in item.as_object().into_iter().flatten().filter(|(name, _)| *name != "content") {
                            pieces.add(protocol, name, &Value::Null, value);
                        }
                    }
                    None => pieces.add(protocol, field, &Value::Null, item),
                }
            }
        }
        pieces
    }

    fn add(&mut self, protocol: Protocol, field: &str, role: &Value, value: &Value) {
        if value["defer_loading"] == true {
            self.deferred = self.deferred.saturating_add(tokens(protocol, field, value));
            return;
        }
        let mut hasher = KEYS.build_hasher();
        field.hash(&mut hasher);
        hash(role, &mut hasher);
        hash(value, &mut hasher);
        let entry = self.found.entry(hasher.finish()).or_insert_with(|| (0, tokens(protocol, field, value)));
        entry.0 = entry.0.saturating_add(1);
    }

    /// A bound of the tokens of what `before` does not have.
    pub fn beyond(&self, before: &Self) -> u64 {
        let new = self.found.iter().map(|(key, (times, tokens))| {
            let had = before.found.get(key).map_or(0, |(times, _)| *times);
            u64::from(times.saturating_sub(had)).saturating_mul(*tokens)
        });
        new.fold(self.deferred, u64::saturating_add)
    }
}

/// Of a value; where it ends in the cache is no part of it, as that moves from request to request.
fn hash(value: &Value, hasher: &mut impl Hasher) {
    match value {
        Value::Null => 0_u8.hash(hasher),
        Value::Bool(flag) => (1_u8, flag).hash(hasher),
        Value::Number(number) => (2_u8, number).hash(hasher),
        Value::String(text) => (3_u8, text).hash(hasher),
        Value::Array(list) => {
            (4_u8, list.len()).hash(hasher);
            list.iter().for_each(|value| hash(value, hasher));
        }
        Value::Object(map) => {
            5_u8.hash(hasher);
            for (name, value) in map.iter().filter(|(name, _)| *name != "cache_control") {
                name.hash(hasher);
                hash(value, hasher);
            }
            6_u8.hash(hasher);
        }
    }
}

/// A bound of a piece's tokens: one a byte of its JSON, images by their own measure.
fn tokens(protocol: Protocol, field: &str, value: &Value) -> u64 {
    let mut images = Images::default();
    find(protocol, value, &mut images);
    let bytes = value.to_string().len() + field.len() + STRUCTURE;
    images.bound(protocol, bytes as u64)
}

/// What stands around a piece, in bytes.
const STRUCTURE: usize = 16;

/// Images and documents, wherever they stand. Source: the form that each protocol gives them.
fn find(protocol: Protocol, value: &Value, images: &mut Images) {
    match value {
        Value::Array(list) => list.iter().for_each(|value| find(protocol, value, images)),
        Value::Object(map) => {
            match protocol {
                Protocol::Messages => images.add_source(value),
                Protocol::Chat | Protocol::Responses => images.add_part(value),
            }
            map.values().for_each(|value| find(protocol, value, images));
        }
        _ => {}
    }
}

impl Images {
    /// A `source` of the Messages API.
    pub(super) fn add_source(&mut self, source: &Value) {
        let Some(media_type) = source["media_type"].as_str().filter(|_| source["type"] == "base64") else { return };
        if media_type.starts_with("image/") {
            self.count += 1;
            self.bytes += source["data"].as_str().map_or(0, str::len) as u64;
        } else {
            self.documents += 1;
        }
    }

    /// A part of chat completions or Responses: the URL of the image that it is, if it is one.
    pub(super) fn add_part(&mut self, part: &Value) {
        if let Some(url) = image_url(part).filter(|url| url.starts_with("data:")) {
            self.count += 1;
            self.bytes += url.len() as u64;
        }
    }

    /// A bound of the tokens of a text of so many bytes with these images in it.
    pub(super) fn bound(self, protocol: Protocol, bytes: u64) -> u64 {
        let per_image = match protocol {
            Protocol::Messages => messages::IMAGE_TOKENS,
            Protocol::Chat | Protocol::Responses => chat::IMAGE_TOKENS,
        };
        let rest = bytes.saturating_sub(self.bytes).saturating_add(self.count.saturating_mul(per_image));
        if self.documents > 0 { rest.max(CONTEXT_TOKENS) } else { rest }
    }
}

/// The URL of a part that is an image; empty where it has none.
pub(super) fn image_url(part: &Value) -> Option<&str> {
    matches!(part["type"].as_str(), Some("image_url" | "input_image" | "computer_screenshot"))
        .then(|| part["image_url"]["url"].as_str().or(part["image_url"].as_str()).unwrap_or_default())
}
