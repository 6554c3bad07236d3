//! Checks parameters as Proxmox does, from its own recorded schema: `schema.json` has, for each call served here, the
//! parameters and the permissions that `pvesh` of Proxmox VE 9.2 shows, without what only documents.
//!
//! Not here: which permissions a caller has (`permission`), and what handlers check themselves.

use super::{answer::Refusal, format, keys, parameters::Parameters};
use regex::Regex;
use serde::Deserialize;
use serde_json::Value;
use std::{collections::BTreeMap, sync::LazyLock};

const UNKNOWN: &str = "property is not defined in schema and the schema does not allow additional properties";
const MISSING: &str = "property is missing and it is not optional";
const CONFIG: &str = "PUT /nodes/{node}/qemu/{vmid}/config";

static SCHEMA: LazyLock<Schema> =
    LazyLock::new(|| serde_json::from_str(include_str!("schema.json")).expect("the schema is part of the program and its test reads it"));

#[derive(Debug, Deserialize)]
struct Schema {
    /// What a value's `key=value,…` may be, by name.
    formats: BTreeMap<String, BTreeMap<String, Property>>,
    calls: BTreeMap<String, Call>,
}

/// One method of one path.
#[derive(Debug, Deserialize)]
pub(super) struct Call {
    parameters: BTreeMap<String, Property>,
    /// Which privileges it takes; none: any user may.
    pub(super) check: Option<Value>,
    /// Without any credential.
    #[serde(default)]
    pub(super) world: bool,
    /// Not with a token.
    #[serde(default)]
    pub(super) ticket: bool,
}

/// What a value must be.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Property {
    #[serde(rename = "type")]
    kind: Option<String>,
    optional: bool,
    format: Option<String>,
    nested: Option<String>,
    #[serde(rename = "enum")]
    values: Option<Vec<String>>,
    minimum: Option<f64>,
    maximum: Option<f64>,
    max_length: Option<usize>,
    min_length: Option<usize>,
    pattern: Option<String>,
    requires: Option<String>,
    alias: Option<String>,
    key_alias: Option<String>,
    #[serde(rename = "default_key")]
    default_key: bool,
}

/// What is found for a path: the call's name, the call, and the values in the path.
type Found = (&'static str, &'static Call, Vec<(&'static str, String)>);

/// The call that a path means, with the values that stand in it: `{vmid}`, `{node}`, …
pub(super) fn find(method: &str, path: &[&str]) -> Option<Found> {
    SCHEMA.calls.iter().find_map(|(name, call)| {
        let (verb, template) = name.split_once(' ')?;
        let template: Vec<&'static str> = template.split('/').skip(1).collect();
        // A volume's id has slashes.
        let whole = template.last() == Some(&"{volume}") && path.len() >= template.len();
        if verb != method || (template.len() != path.len() && !whole) {
            return None;
        }
        let mut values = Vec::new();
        for (at, part) in template.iter().enumerate() {
            match part.strip_prefix('{').and_then(|part| part.strip_suffix('}')) {
                Some("volume") => values.push(("volume", path[at..].join("/"))),
                Some(parameter) => values.push((parameter, path[at].to_owned())),
                None if *part == path[at] => {}
                None => return None,
            }
        }
        Some((name.as_str(), call, values))
    })
}

/// Whether some call is meant by a path with `*` in it.
pub(super) fn serves(method: &str, parts: &[String]) -> bool {
    SCHEMA.calls.keys().filter_map(|name| name.split_once(' ')).any(|(verb, path)| {
        let path: Vec<&str> = path.split('/').skip(1).collect();
        let same = |(part, wanted): (&&str, &String)| part.starts_with('{') || wanted == "*" || wanted == part;
        verb == method && path.len() == parts.len() && path.iter().zip(parts).all(same)
    })
}

/// Whether a VM's config may have this key.
pub(super) fn is_config_key(key: &str) -> bool {
    config_property(key).is_some()
}

/// Whether a config's value is shown as a number.
pub(super) fn is_number(key: &str) -> bool {
    config_property(key).is_some_and(|property| matches!(property.kind.as_deref(), Some("integer" | "boolean")))
}

fn config_property(key: &str) -> Option<&'static Property> {
    let not_of_config = ["background_delay", "delete", "digest", "force", "node", "revert", "skiplock", "vmid", "import-working-storage"];
    (!not_of_config.contains(&key)).then(|| SCHEMA.calls.get(CONFIG)?.property(key)).flatten()
}

impl Call {
    /// `scsi0` is described by `scsi[n]`.
    fn property(&self, name: &str) -> Option<&Property> {
        self.parameters.get(name).filter(|_| !name.contains('[')).or_else(|| self.parameters.get(&format!("{}[n]", keys::family(name)?.0)))
    }

    /// All of a call's parameters, those of its path among them. Errors: 400 with the reason of each.
    pub(super) fn verify(&self, parameters: &Parameters) -> Result<(), Refusal> {
        let mut errors = BTreeMap::new();
        for (name, values) in &parameters.values {
            let checked = match self.property(name) {
                None => Err(UNKNOWN.to_owned()),
                Some(property) if property.kind.as_deref() == Some("array") => Ok(()),
                Some(_) if values.len() > 1 => Err("type check ('string') failed - got ARRAY".to_owned()),
                Some(property) => values.iter().try_for_each(|value| property.check(name, value)),
            };
            if let Err(reason) = checked {
                errors.insert(name.clone(), reason);
                continue;
            }
            let needs = self.property(name).and_then(|property| property.requires.as_ref());
            if let Some(needed) = needs.filter(|needed| !parameters.values.contains_key(*needed)) {
                errors.insert(needed.clone(), format!("missing property required by '{name}'"));
            }
        }
        let required = self.parameters.iter().filter(|(name, property)| !property.optional && !name.contains('['));
        for (name, _) in required.filter(|(name, _)| !parameters.values.contains_key(*name)) {
            errors.insert(name.clone(), MISSING.to_owned());
        }
        if errors.is_empty() { Ok(()) } else { Err(Refusal::Parameters(errors)) }
    }
}

impl Property {
    /// The reason why a value is refused; the order is Proxmox'.
    fn check(&self, name: &str, text: &str) -> Result<(), String> {
        let number = match self.kind.as_deref() {
            Some("integer") => Some(text.parse::<i64>().map_err(|_| format!("type check ('integer') failed - got '{text}'"))?.to_string()),
            Some("number") => {
                text.parse::<f64>().map_err(|_| format!("type check ('number') failed - got '{text}'"))?;
                Some(text.to_owned())
            }
            Some("boolean") if !matches!(text, "0" | "1") => return Err(format!("type check ('boolean') failed - got '{text}'")),
            _ => None,
        };
        if let Some(nested) = &self.nested {
            // An empty value takes the key away, where that is allowed.
            return if text.is_empty() {
                Ok(())
            } else {
                check_nested(name, nested, text).map_err(|why| format!("invalid format - {why}"))
            };
        }
        if let Some(format) = &self.format {
            format::check(format, text).map_err(|why| format!("invalid format - {why}\n"))?;
        } else if let Some(pattern) = &self.pattern {
            // Unreadable patterns refuse nothing; a test reads all.
            if pattern_of(pattern).is_ok_and(|regex| !regex.is_match(text)) {
                return Err("value does not match the regex pattern".to_owned());
            }
        }
        if let Some(max) = self.max_length.filter(|max| text.chars().count() > *max) {
            return Err(format!("value may only be {max} characters long"));
        }
        if let Some(min) = self.min_length.filter(|min| text.chars().count() < *min) {
            return Err(format!("value must be at least {min} characters long"));
        }
        if let Some(number) = number.and_then(|number| number.parse::<f64>().ok()) {
            if let Some(max) = self.maximum.filter(|max| number > *max) {
                return Err(format!("value must have a maximum value of {max}"));
            }
            if let Some(min) = self.minimum.filter(|min| number < *min) {
                return Err(format!("value must have a minimum value of {min}"));
            }
        }
        match &self.values {
            Some(values) if !values.iter().any(|value| value == text) => {
                Err(format!("value '{text}' does not have a value in the enumeration '{}'", values.join(", ")))
            }
            _ => Ok(()),
        }
    }
}

fn pattern_of(pattern: &str) -> Result<Regex, regex::Error> {
    Regex::new(&format!("^(?:{pattern})$"))
}

/// `key=value,…`, with aliases and a key that may be left out.
fn check_nested(name: &str, nested: &str, text: &str) -> Result<(), String> {
    let Some(properties) = SCHEMA.formats.get(nested) else { return Ok(()) };
    let default = properties.iter().find(|(_, property)| property.default_key).map(|(key, _)| key.clone());
    let mut given: BTreeMap<String, String> = BTreeMap::new();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (mut key, value) = match part.split_once('=') {
            Some((key, value)) if !key.is_empty() && !key.contains([':', '/', ' ']) => (key.to_owned(), value.to_owned()),
            _ => {
                let key = default.clone().ok_or("value without key, but schema does not define a default key\n")?;
                // A default key may stand for the name of another: `e1000` is a model.
                (key, part.to_owned())
            }
        };
        if let Some(property) = properties.get(&key)
            && let Some(alias) = &property.alias
        {
            if let Some(named) = &property.key_alias {
                given.insert(named.clone(), key.clone());
            }
            key.clone_from(alias);
        }
        if given.insert(key.clone(), value).is_some() {
            return Err(format!("duplicate key in comma-separated list property: {key}\n"));
        }
    }
    let mut errors = BTreeMap::new();
    for (key, value) in &given {
        let checked =
            properties.get(key).map_or_else(|| Err(UNKNOWN.to_owned()), |property| property.check(&format!("{name}.{key}"), value));
        errors.extend(checked.err().map(|why| (key.clone(), why)));
    }
    let missing = properties.iter().filter(|(key, property)| !property.optional && property.alias.is_none() && !given.contains_key(*key));
    errors.extend(missing.map(|(key, _)| (key.clone(), MISSING.to_owned())));
    if errors.is_empty() {
        return Ok(());
    }
    let lines: String = errors.iter().map(|(key, why)| format!("{name}.{key}: {why}\n")).collect();
    Err(format!("format error\n{lines}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_of_the_schema_is_understood() {
        assert!(SCHEMA.calls.contains_key(CONFIG) && SCHEMA.formats.len() > 10);
        let all = SCHEMA.calls.values().map(|call| &call.parameters).chain(SCHEMA.formats.values());
        for (name, property) in all.flatten() {
            if let Some(pattern) = &property.pattern {
                assert!(pattern_of(pattern).is_ok(), "{name}: {pattern}");
            }
            if let Some(nested) = &property.nested {
                assert!(SCHEMA.formats.contains_key(nested), "{name}: {nested}");
            }
            if let Some(family) = name.strip_suffix("[n]") {
                assert!(keys::family(&format!("{family}0")).is_some(), "{name} has no number of members");
            }
        }
    }
}
