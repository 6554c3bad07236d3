//! Rules across fields that a schema publishes as `x-kubernetes-validations`, evaluated by kube-cel.
//!
//! Rules come from our own types alone, so their size is ours; a text of a client is never compiled. A rule that can't be
//! evaluated refuses the object.

use super::structural::counterpart;
use crate::api::{FieldError, Problem, rule::WORD};
use kube_cel::{CompiledSchema, compile_schema, validate_compiled};
use serde_json::{Value, json};
use std::{collections::BTreeMap, sync::Arc};

/// The rules of a schema, where they stand; nodes without any are left out.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    here: Option<Arc<CompiledSchema>>,
    fields: BTreeMap<String, Rules>,
    /// Of a list's items, with the list's own words, which say how to find an item's counterpart.
    items: Option<(Box<Rules>, Value)>,
    /// Of a map's values.
    values: Option<Box<Rules>>,
}

impl Rules {
    /// Compiles every rule of a schema.
    pub fn of(schema: &Value) -> Self {
        let some = |schema: &Value| Some(Self::of(schema)).filter(|rules| !rules.is_empty());
        let fields = schema["properties"].as_object().into_iter().flatten();
        Self {
            here: schema.get(WORD).map(|_| Arc::new(compile_schema(&alone(schema, true)))),
            fields: fields.filter_map(|(name, inner)| Some((name.clone(), some(inner)?))).collect(),
            items: schema.get("items").and_then(some).map(|rules| (Box::new(rules), list_words(schema))),
            values: schema.get("additionalProperties").and_then(some).map(Box::new),
        }
    }

    fn is_empty(&self) -> bool {
        self.here.is_none() && self.fields.is_empty() && self.items.is_none() && self.values.is_none()
    }

    /// Texts of rules that do not compile.
    pub fn broken(&self) -> Vec<String> {
        let here = self.here.iter().flat_map(|here| here.compilation_errors()).map(ToString::to_string);
        let items = self.items.iter().map(|(rules, _)| rules.as_ref());
        let below = self.fields.values().chain(items).chain(self.values.as_deref());
        here.chain(below.flat_map(Self::broken)).collect()
    }

    /// The rules that `value` breaks. What stands in `old` just so is forgiven.
    pub fn validate(&self, value: &Value, old: Option<&Value>, path: &str) -> Vec<FieldError> {
        let mut errors = Vec::new();
        self.validate_at(value, old, path, &mut errors);
        errors
    }

    fn validate_at(&self, value: &Value, old: Option<&Value>, path: &str, errors: &mut Vec<FieldError>) {
        if old == Some(value) {
            return;
        }
        if let Some(schema) = &self.here
            && let Err(broken) = validate_compiled(schema, value, old)
        {
            errors.extend(broken.into_iter().map(|broken| field_error(broken, value, path)));
        }
        match value {
            Value::Object(fields) => {
                for (name, value) in fields {
                    if let Some(rules) = self.fields.get(name).or(self.values.as_deref()) {
                        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                        rules.validate_at(value, old.and_then(|old| old.get(name)), &path, errors);
                    }
                }
            }
            Value::Array(items) => {
                let Some((rules, list)) = &self.items else { return };
                for (index, item) in items.iter().enumerate() {
                    let old = old.and_then(|old| counterpart(list, old, item, index));
                    rules.validate_at(item, old, &format!("{path}[{index}]"), errors);
                }
            }
            _ => {}
        }
    }
}

/// A node with its own rules and without those below it, which are evaluated at their own places.
fn alone(schema: &Value, keep: bool) -> Value {
    match schema {
        Value::Object(words) => words
            .iter()
            .filter(|(word, _)| keep || *word != WORD)
            .map(|(word, value)| (word.clone(), if word == WORD { value.clone() } else { alone(value, false) }))
            .collect(),
        Value::Array(values) => values.iter().map(|value| alone(value, false)).collect(),
        other => other.clone(),
    }
}

fn list_words(schema: &Value) -> Value {
    let mut words = json!({});
    for word in ["x-kubernetes-list-type", "x-kubernetes-list-map-keys"] {
        words[word] = schema[word].clone();
    }
    words
}

fn field_error(broken: kube_cel::ValidationError, value: &Value, path: &str) -> FieldError {
    let field = match (path, broken.field_path.trim_start_matches('.')) {
        (path, "") => path.to_owned(),
        ("", inner) => inner.to_owned(),
        (path, inner) => format!("{path}.{inner}"),
    };
    let problem = match broken.reason.as_deref() {
        Some("FieldValueRequired") => Problem::Required,
        Some("FieldValueForbidden") => Problem::Forbidden,
        Some("FieldValueDuplicate") => Problem::Duplicate(value.clone()),
        _ => Problem::Rule,
    };
    FieldError { field, problem, detail: broken.message }
}
