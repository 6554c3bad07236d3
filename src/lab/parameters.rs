//! Checks parameters as Proxmox' schema does: nothing unknown, nothing of the wrong type, each with its words.

use super::answer::Refusal;
use serde_json::Value;
use std::collections::BTreeMap;

/// By name; a repeated key has several values.
#[derive(Debug, Default)]
pub(super) struct Parameters(pub(super) BTreeMap<String, Vec<String>>);

/// What a value must be.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    Integer(i64, i64),
    Number,
    Flag,
    /// At most so many characters.
    Text(usize),
    List,
    OneOf(&'static [&'static str]),
    Vmid,
    DnsName,
    Tags,
    Memory,
    /// `skiplock`: known, but not for tokens.
    RootOnly,
}

/// A parameter of a call: name, kind, whether it must be given.
pub(super) type Field = (&'static str, Kind, bool);

pub(super) const UNKNOWN: &str = "property is not defined in schema and the schema does not allow additional properties";
const MISSING: &str = "property is missing and it is not optional";
const NO_VMID: &str = "invalid format - value does not look like a valid VM ID\n";

fn integer(text: &str, min: i64, max: i64) -> Result<(), String> {
    let number: i64 = text.parse().map_err(|_| format!("type check ('integer') failed - got '{text}'"))?;
    if number < min {
        return Err(format!("value must have a minimum value of {min}"));
    }
    if number > max { Err(format!("value must have a maximum value of {max}")) } else { Ok(()) }
}

fn is_dns_name(text: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
    };
    text.split('.').all(label)
}

/// Tags may be separated by `;`, `,` and spaces.
pub(super) fn split_tags(text: &str) -> impl Iterator<Item = &str> {
    text.split([';', ',', ' ', '\0']).filter(|tag| !tag.is_empty())
}

fn is_tag(tag: &str) -> bool {
    let first = |c: char| c.is_ascii_alphanumeric() || c == '_';
    tag.starts_with(first) && tag.chars().all(|c| first(c) || "-+.".contains(c))
}

impl Kind {
    /// The reason why a value is refused.
    pub(super) fn check(self, text: &str) -> Result<(), String> {
        match self {
            Self::Integer(min, max) => integer(text, min, max),
            Self::Number => text.parse::<f64>().map(drop).map_err(|_| format!("type check ('number') failed - got '{text}'")),
            Self::Flag if matches!(text, "0" | "1") => Ok(()),
            Self::Flag => Err(format!("type check ('boolean') failed - got '{text}'")),
            Self::Text(max) if text.chars().count() > max => Err(format!("value may only be {max} characters long")),
            Self::Text(_) | Self::List => Ok(()),
            Self::OneOf(values) if values.contains(&text) => Ok(()),
            Self::OneOf(values) => Err(format!("value '{text}' does not have a value in the enumeration '{}'", values.join(", "))),
            Self::Vmid => {
                text.parse::<i64>().map_err(|_| format!("type check ('integer') failed - got '{text}'"))?;
                if text.len() >= 3 && text.len() <= 9 && !text.starts_with('0') && text.bytes().all(|b| b.is_ascii_digit()) {
                    Ok(())
                } else {
                    Err(NO_VMID.to_owned())
                }
            }
            Self::DnsName if is_dns_name(text) => Ok(()),
            Self::DnsName => Err("invalid format - value does not look like a valid DNS name\n".to_owned()),
            Self::Tags if split_tags(text).all(is_tag) => Ok(()),
            Self::Tags => Err("invalid format - invalid characters in tag\n".to_owned()),
            Self::Memory => integer(text.trim_start_matches("current="), 16, i64::MAX)
                .map_err(|why| format!("invalid format - format error\nmemory.current: {why}\n")),
            Self::RootOnly => Err("Only root may use this option.".to_owned()),
        }
    }
}

impl Parameters {
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.last().map(String::as_str)
    }

    pub(super) fn all(&self, name: &str) -> Vec<String> {
        self.0.get(name).cloned().unwrap_or_default()
    }

    pub(super) fn flag(&self, name: &str) -> bool {
        self.get(name) == Some("1")
    }

    pub(super) fn number<N: std::str::FromStr>(&self, name: &str) -> Option<N> {
        self.get(name)?.parse().ok()
    }

    /// Reads `a=1&b=2`; `;` separates too, as in Proxmox.
    pub(super) fn add_form(&mut self, text: &str) {
        for (name, value) in url::form_urlencoded::parse(text.replace(';', "&").as_bytes()) {
            self.0.entry(name.into_owned()).or_default().push(value.into_owned());
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
            self.0.insert(name.clone(), values);
        }
    }

    /// Checks against a call's fields; `more` knows the kinds of further names.
    pub(super) fn check(&self, fields: &[Field], more: impl Fn(&str) -> Option<Kind>) -> Result<(), Refusal> {
        let mut errors = BTreeMap::new();
        for (name, values) in &self.0 {
            let kind = fields.iter().find(|(field, ..)| field == name).map(|(_, kind, _)| *kind).or_else(|| more(name));
            let result = match kind {
                None => Err(UNKNOWN.to_owned()),
                Some(Kind::List) => Ok(()),
                Some(_) if values.len() > 1 => Err("type check ('string') failed - got ARRAY".to_owned()),
                Some(kind) => values.iter().try_for_each(|value| kind.check(value)),
            };
            if let Err(reason) = result {
                errors.insert(name.clone(), reason);
            }
        }
        for (name, _, _) in fields.iter().filter(|(name, _, required)| *required && !self.0.contains_key(*name)) {
            errors.insert((*name).to_owned(), MISSING.to_owned());
        }
        if errors.is_empty() { Ok(()) } else { Err(Refusal::Parameters(errors)) }
    }
}

fn scalar(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Bool(flag) => u8::from(*flag).to_string(),
        other => other.to_string(),
    }
}
