//! Kubernetes' dialect of JSONPath, as far as printer columns use it: `.a.b`, `['a.b']`, `[0]`, `[*]`, `[?(@.type=="Ready")]`.

use serde_json::Value;

#[cfg(test)]
mod tests;

/// A parsed path.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Path(Vec<Step>);

#[derive(Clone, Debug, PartialEq)]
enum Step {
    Key(String),
    /// From the end, if negative.
    Index(i64),
    Every,
    /// Keeps the items whose member at the keys compares so to the value.
    Filter {
        keys: Vec<String>,
        equal: bool,
        value: Value,
    },
}

impl Path {
    /// `None` for what is outside the dialect.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let text = text.strip_prefix('{').and_then(|t| t.strip_suffix('}')).unwrap_or(text);
        let mut rest = text.strip_prefix('$').unwrap_or(text);
        let mut steps = Vec::new();
        while !rest.is_empty() {
            if let Some(after) = rest.strip_prefix('[') {
                let (inside, after) = bracket(after)?;
                steps.push(bracketed(inside.trim())?);
                rest = after;
            } else {
                let after = rest.strip_prefix('.').unwrap_or(rest);
                let end = after.find(['.', '[']).unwrap_or(after.len());
                let key = &after[..end];
                match key {
                    "" if after.starts_with('[') => {}
                    "" => return None,
                    "*" => steps.push(Step::Every),
                    key => steps.push(Step::Key(key.into())),
                }
                rest = &after[end..];
            }
        }
        Some(Self(steps))
    }

    /// The first value that it leads to; printer columns use no other.
    pub(super) fn first<'a>(&self, value: &'a Value) -> Option<&'a Value> {
        follow(&self.0, value)
    }
}

/// What stands before the closing bracket, and what comes after it.
fn bracket(text: &str) -> Option<(&str, &str)> {
    let (mut depth, mut quote) = (0_u32, None);
    for (at, c) in text.char_indices() {
        match (c, quote) {
            (c, Some(open)) => quote = (c != open).then_some(open),
            ('\'' | '"', None) => quote = Some(c),
            ('(' | '[', None) => depth += 1,
            (')', None) => depth = depth.checked_sub(1)?,
            (']', None) if depth == 0 => return Some((&text[..at], &text[at + 1..])),
            (']', None) => depth -= 1,
            (_, None) => {}
        }
    }
    None
}

fn quoted(text: &str) -> Option<&str> {
    ['\'', '"'].into_iter().find_map(|q| text.strip_prefix(q)?.strip_suffix(q))
}

fn bracketed(inside: &str) -> Option<Step> {
    if inside == "*" {
        return Some(Step::Every);
    }
    if let Some(key) = quoted(inside) {
        return Some(Step::Key(key.into()));
    }
    if let Ok(index) = inside.parse() {
        return Some(Step::Index(index));
    }
    let condition = inside.strip_prefix("?(")?.strip_suffix(')')?.trim().strip_prefix('@')?;
    let (path, equal, value) = match condition.split_once("!=") {
        Some((path, value)) => (path, false, value),
        None => condition.split_once("==").map(|(path, value)| (path, true, value))?,
    };
    let value = value.trim();
    let value = quoted(value).map(Value::from).or_else(|| serde_json::from_str(value).ok())?;
    let keys = path.trim().split('.').filter(|k| !k.is_empty()).map(Into::into).collect();
    Some(Step::Filter { keys, equal, value })
}

fn follow<'a>(steps: &[Step], value: &'a Value) -> Option<&'a Value> {
    let Some((step, rest)) = steps.split_first() else {
        return Some(value);
    };
    match step {
        Step::Key(key) => follow(rest, value.get(key)?),
        Step::Index(index) => {
            let items = value.as_array()?;
            let at = if *index < 0 { i64::try_from(items.len()).ok()? + index } else { *index };
            follow(rest, items.get(usize::try_from(at).ok()?)?)
        }
        Step::Every => match value {
            Value::Array(items) => items.iter().find_map(|item| follow(rest, item)),
            Value::Object(fields) => fields.values().find_map(|item| follow(rest, item)),
            _ => None,
        },
        Step::Filter { keys, equal, value: expect } => value.as_array()?.iter().find_map(|item| {
            let found = keys.iter().try_fold(item, |v, key| v.get(key));
            if (found == Some(expect)) == *equal { follow(rest, item) } else { None }
        }),
    }
}
