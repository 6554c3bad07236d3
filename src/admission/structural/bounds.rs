//! Least and most: of numbers, texts, lists and maps. Source of the words: kube-openapi `validation/errors`.

use crate::api::{FieldError, Problem};
use regex::Regex;
use serde_json::{Number, Value};
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

pub(super) fn number(schema: &Value, number: &Number, path: &str, value: &Value, errors: &mut Vec<FieldError>) {
    let Some(number) = number.as_f64() else { return };
    let mut wrong = |what: &str, bound: &Value| {
        errors.push(FieldError::invalid(path, value, format!("{path} in body should be {what} {}", plain(bound))));
    };
    if let Some(least) = schema["minimum"].as_f64() {
        match schema["exclusiveMinimum"] == true {
            true if number <= least => wrong("greater than", &schema["minimum"]),
            false if number < least => wrong("greater than or equal to", &schema["minimum"]),
            _ => {}
        }
    }
    if let Some(most) = schema["maximum"].as_f64() {
        match schema["exclusiveMaximum"] == true {
            true if number >= most => wrong("less than", &schema["maximum"]),
            false if number > most => wrong("less than or equal to", &schema["maximum"]),
            _ => {}
        }
    }
    if let Some(unit) = schema["multipleOf"].as_f64()
        && unit > 0.0
        && (number / unit).fract() != 0.0
    {
        wrong("a multiple of", &schema["multipleOf"]);
    }
}

/// `100`, where the schema has `100.0`.
fn plain(number: &Value) -> String {
    let text = number.to_string();
    text.strip_suffix(".0").map_or(text.clone(), str::to_owned)
}

pub(super) fn text(schema: &Value, text: &str, path: &str, errors: &mut Vec<FieldError>) {
    let length = || u64::try_from(text.chars().count()).unwrap_or(u64::MAX);
    if let Some(most) = schema["maxLength"].as_u64().filter(|most| length() > *most) {
        errors.push(FieldError { field: path.into(), problem: Problem::TooLong(most), detail: String::new() });
    }
    if let Some(least) = schema["minLength"].as_u64().filter(|least| length() < *least) {
        errors.push(FieldError::invalid(path, text, format!("{path} in body should be at least {least} chars long")));
    }
    if let Some(pattern) = schema["pattern"].as_str().filter(|pattern| !matches(pattern, text)) {
        errors.push(FieldError::invalid(path, text, format!("{path} in body should match '{pattern}'")));
    }
}

/// Whether an error is a pattern's: the one complaint for which a type may have a better sentence.
pub(in crate::admission) fn is_pattern(error: &FieldError) -> bool {
    error.detail.contains(" in body should match '")
}

/// Patterns come from schemas alone, so there are few; each is read once.
fn matches(pattern: &str, text: &str) -> bool {
    static READ: Mutex<Option<HashMap<String, Option<Regex>>>> = Mutex::new(None);
    let regex = {
        let mut read = READ.lock().unwrap_or_else(PoisonError::into_inner);
        let known = read.get_or_insert_default();
        match known.get(pattern) {
            Some(regex) => regex.clone(),
            None => known.entry(pattern.into()).or_insert_with(|| Regex::new(pattern).ok()).clone(),
        }
    };
    regex.is_none_or(|regex| regex.is_match(text))
}

/// `word` is `Items` or `Properties`.
pub(super) fn entries(schema: &Value, word: &str, count: usize, path: &str, value: &Value, errors: &mut Vec<FieldError>) {
    let given = u64::try_from(count).unwrap_or(u64::MAX);
    if let Some(least) = schema[format!("min{word}")].as_u64().filter(|least| given < *least) {
        let detail = format!("{path} in body should have at least {least} {}", word.to_lowercase());
        errors.push(FieldError::invalid(path, value, detail));
    }
    if let Some(most) = schema[format!("max{word}")].as_u64().filter(|most| given > *most) {
        errors.push(FieldError { field: path.into(), problem: Problem::TooMany { given, most }, detail: String::new() });
    }
}
