//! What of a conversation is stored: each message once, without caching marks and reminders, secrets redacted.

use crate::store::NewMessage;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::collections::HashMap;

/// A longer text is cut: it is for reading, and a file stands in the checkpoint.
const MAX_TEXT: usize = 64 << 10;

/// The user's messages of a request. What the assistant said was stored when it said it.
pub(super) fn from_request(session: &str, messages: &[Value]) -> Vec<NewMessage> {
    let mut seen: HashMap<[u8; 32], u32> = HashMap::new();
    let mut stored = Vec::new();
    for message in messages.iter().filter(|message| message["role"] == "user") {
        let content: Vec<Value> = blocks(&message["content"]).into_iter().filter(|block| !is_reminder(block)).collect();
        if content.is_empty() {
            continue;
        }
        let content = clean(Value::Array(content));
        let digest: [u8; 32] = Sha256::digest(content.to_string()).into();
        // The same words said again are another message.
        let occurrence = seen.entry(digest).and_modify(|n| *n += 1).or_insert(0);
        let key = format!("{session}/{}/{occurrence}", hex::encode(&digest[..16]));
        stored.push(NewMessage { key, role: "user".into(), content });
    }
    stored
}

/// The assistant's message of a call.
pub(super) fn from_answer(call: &str, content: Vec<Value>) -> NewMessage {
    NewMessage { key: format!("call/{call}"), role: "assistant".into(), content: clean(Value::Array(content)) }
}

fn blocks(content: &Value) -> Vec<Value> {
    match content {
        Value::Array(blocks) => blocks.clone(),
        Value::String(text) => vec![json!({ "type": "text", "text": text })],
        _ => Vec::new(),
    }
}

fn is_reminder(block: &Value) -> bool {
    block["text"].as_str().is_some_and(|text| text.trim_start().starts_with("<system-reminder>"))
}

fn clean(mut value: Value) -> Value {
    match &mut value {
        Value::String(text) => {
            if let Some(redacted) = redact(text) {
                *text = redacted;
            }
            if text.len() > MAX_TEXT {
                let end = (0..=MAX_TEXT).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
                let cut = text.len() - end;
                text.truncate(end);
                *text += &format!("… ({cut} bytes cut)");
            }
            value
        }
        Value::Array(list) => Value::Array(std::mem::take(list).into_iter().map(clean).collect()),
        Value::Object(map) => {
            let kept = std::mem::take(map).into_iter().filter(|(name, _)| !matches!(name.as_str(), "cache_control" | "signature"));
            Value::Object(kept.map(|(name, value)| (name, clean(value))).collect())
        }
        _ => value,
    }
}

/// How well-known secrets begin, and how many characters of theirs at least follow.
const SECRETS: [(&str, usize); 14] = [
    ("av_", 64),
    ("sk-", 20),
    ("ghp_", 30),
    ("gho_", 30),
    ("ghs_", 30),
    ("ghu_", 30),
    ("github_pat_", 30),
    ("glpat-", 20),
    ("npm_", 30),
    ("pypi-", 40),
    ("AKIA", 16),
    ("ASIA", 16),
    ("xoxb-", 20),
    ("xoxp-", 20),
];
const REDACTED: &str = "[redacted]";
const KEY_BEGIN: &str = "-----BEGIN ";
const KEY_END: &str = "PRIVATE KEY-----";

/// The text without what looks like a secret; `None` when there is none.
pub(super) fn redact(text: &str) -> Option<String> {
    let mut found: Vec<(usize, usize)> = Vec::new();
    for (prefix, length) in SECRETS {
        for (start, _) in text.match_indices(prefix) {
            let body = &text[start + prefix.len()..];
            let end = body.find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))).unwrap_or(body.len());
            let begins_word = !text[..start].ends_with(|c: char| c.is_ascii_alphanumeric());
            if end >= length && begins_word {
                found.push((start, start + prefix.len() + end));
            }
        }
    }
    for (start, _) in text.match_indices(KEY_BEGIN) {
        let head = &text[start..];
        let Some(end_of_head) = head.find(KEY_END).filter(|at| *at < 40) else { continue };
        let body = end_of_head + KEY_END.len();
        let end = head[body..].find(KEY_END).map_or(head.len(), |at| body + at + KEY_END.len());
        found.push((start, start + end));
    }
    if found.is_empty() {
        return None;
    }
    found.sort_unstable();
    let (mut out, mut at) = (String::with_capacity(text.len()), 0);
    for (start, end) in found {
        if start >= at {
            out.push_str(&text[at..start]);
            out.push_str(REDACTED);
        }
        at = at.max(end);
    }
    out.push_str(&text[at..]);
    Some(out)
}

#[cfg(test)]
mod tests;
