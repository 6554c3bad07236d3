//! What a call brings: who calls, and its parameters, those of its path among them. What they must be is in `schema`.

use super::{answer::Refusal, permission::Who};
use serde_json::Value;
use std::collections::BTreeMap;

#[derive(Clone, Debug, Default)]
pub(super) struct Parameters {
    /// By name; a repeated key has several values.
    pub(super) values: BTreeMap<String, Vec<String>>,
    pub(super) who: Who,
}

impl Parameters {
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.values.get(name)?.last().map(String::as_str)
    }

    pub(super) fn all(&self, name: &str) -> Vec<String> {
        self.values.get(name).cloned().unwrap_or_default()
    }

    pub(super) fn flag(&self, name: &str) -> bool {
        self.get(name) == Some("1")
    }

    pub(super) fn number<N: std::str::FromStr>(&self, name: &str) -> Option<N> {
        self.get(name)?.parse().ok()
    }

    /// Takes a parameter of the path: it may be repeated, but not with another value.
    pub(super) fn place(&mut self, name: &str, value: &str) -> Result<(), Refusal> {
        match self.values.insert(name.to_owned(), vec![value.to_owned()]) {
            Some(values) if values.iter().any(|other| other != value) => {
                Err(Refusal::parameter(name, "duplicate parameter (already defined in URI) with conflicting values!"))
            }
            _ => Ok(()),
        }
    }

    /// Reads `a=1&b=2`; `;` separates too, as in Proxmox.
    pub(super) fn add_form(&mut self, text: &str) {
        for (name, value) in url::form_urlencoded::parse(text.replace(';', "&").as_bytes()) {
            self.values.entry(name.into_owned()).or_default().push(value.into_owned());
        }
    }

    /// Reads a JSON object: `true` is 1, null is not given.
    pub(super) fn add_json(&mut self, object: &serde_json::Map<String, Value>) {
        for (name, value) in object {
            let values = match value {
                Value::Null => continue,
                Value::Array(values) => values.iter().map(scalar).collect(),
                other => vec![scalar(other)],
            };
            self.values.insert(name.clone(), values);
        }
    }
}

fn scalar(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Bool(flag) => u8::from(*flag).to_string(),
        other => other.to_string(),
    }
}
