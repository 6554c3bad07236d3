//! Label and field selectors of lists and watches. Source: apimachinery `labels.Parse` and `fields.ParseSelector`.

use super::{catalog::Entry, status::Status};
use serde_json::Value;

#[cfg(test)]
mod tests;

/// Which objects a client wants; the default is all.
#[derive(Clone, Debug, Default)]
pub(super) struct Selector {
    labels: Vec<Requirement>,
    fields: Vec<Field>,
}

#[derive(Clone, Debug, PartialEq)]
struct Requirement {
    key: String,
    test: Test,
}

#[derive(Clone, Debug, PartialEq)]
enum Test {
    Exists,
    Absent,
    In(Vec<String>),
    /// Holds for objects without the label, too.
    NotIn(Vec<String>),
    Greater(i64),
    Less(i64),
}

#[derive(Clone, Debug, PartialEq)]
struct Field {
    path: String,
    equal: bool,
    value: String,
}

impl Selector {
    /// Errors: 400 for what cannot be read, and for a field that is not offered for this kind.
    pub(super) fn parse(entry: &Entry, labels: Option<&str>, fields: Option<&str>) -> Result<Self, Status> {
        let labels =
            requirements(labels.unwrap_or_default()).map_err(|why| Status::bad_request(format!("unable to parse requirement: {why}")))?;
        let fields =
            field_terms(fields.unwrap_or_default()).map_err(|why| Status::bad_request(format!("invalid field selector: {why}")))?;
        if let Some(unknown) = fields.iter().find(|f| !offered(entry, &f.path)) {
            return Err(Status::bad_request(format!("field label not supported: {}", unknown.path)));
        }
        Ok(Self { labels, fields })
    }

    pub(super) fn is_all(&self) -> bool {
        self.labels.is_empty() && self.fields.is_empty()
    }

    pub(super) fn matches(&self, object: &Selectable) -> bool {
        self.labels.iter().all(|r| r.holds(object.label(&r.key)))
            && self.fields.iter().all(|f| (object.field(&f.path) == f.value) == f.equal)
    }
}

/// The one name that a field selector admits, if it names one. What cannot be read names none.
pub(super) fn only_name(fields: &str) -> Option<String> {
    let terms = field_terms(fields).ok()?;
    terms.into_iter().find(|field| field.equal && field.path == "metadata.name").map(|field| field.value)
}

impl Requirement {
    fn holds(&self, label: Option<&str>) -> bool {
        let number = || label.and_then(|l| l.parse::<i64>().ok());
        match &self.test {
            Test::Exists => label.is_some(),
            Test::Absent => label.is_none(),
            Test::In(values) => label.is_some_and(|l| values.iter().any(|v| v == l)),
            Test::NotIn(values) => label.is_none_or(|l| values.iter().all(|v| v != l)),
            Test::Greater(bound) => number().is_some_and(|n| n > *bound),
            Test::Less(bound) => number().is_some_and(|n| n < *bound),
        }
    }
}

/// Fields that can be selected, beside name and namespace. Source: Kubernetes' field label conversions of the core kinds.
fn offered(entry: &Entry, path: &str) -> bool {
    if matches!(path, "metadata.name" | "metadata.namespace") {
        return true;
    }
    match (entry.plural, entry.group) {
        ("events", _) => {
            let reference = path.strip_prefix("involvedObject.").or_else(|| path.strip_prefix("regarding."));
            reference.is_some_and(|r| matches!(r, "kind" | "namespace" | "name" | "uid" | "apiVersion" | "resourceVersion" | "fieldPath"))
                || matches!(path, "reason" | "reportingComponent" | "reportingController" | "source" | "type")
        }
        ("secrets", "") => path == "type",
        ("namespaces", "") => path == "status.phase",
        _ => false,
    }
}

/// Paths of fields that can be selected, as they are stored; those of [`offered`] are among them.
const FIELDS: [&str; 14] = [
    "metadata.name",
    "metadata.namespace",
    "involvedObject.kind",
    "involvedObject.namespace",
    "involvedObject.name",
    "involvedObject.uid",
    "involvedObject.apiVersion",
    "involvedObject.resourceVersion",
    "involvedObject.fieldPath",
    "reason",
    "reportingComponent",
    "source.component",
    "type",
    "status.phase",
];

/// Of a stored document what selectors can ask for, so that the rest need not be kept parsed.
#[derive(Debug)]
pub(super) struct Selectable {
    labels: Box<[(Box<str>, Box<str>)]>,
    fields: Box<[(&'static str, Box<str>)]>,
}

impl Selectable {
    pub(super) fn of(document: &Value) -> Self {
        let labels = document.pointer("/metadata/labels").and_then(Value::as_object).into_iter().flatten();
        let field = |path: &'static str| {
            let value = path.split('.').try_fold(document, |value, key| value.get(key)).and_then(Value::as_str)?;
            Some((path, value.into()))
        };
        Self {
            labels: labels.filter_map(|(key, value)| Some((key.as_str().into(), value.as_str()?.into()))).collect(),
            fields: FIELDS.into_iter().filter_map(field).collect(),
        }
    }

    fn label(&self, key: &str) -> Option<&str> {
        self.labels.iter().find(|(k, _)| **k == *key).map(|(_, value)| &**value)
    }

    /// A missing field reads as empty, as in Kubernetes.
    fn field(&self, path: &str) -> &str {
        let stored = |field: &str| match path {
            "source" => field == "source.component",
            "reportingController" => field == "reportingComponent",
            path => match path.strip_prefix("regarding.") {
                Some(part) => field.strip_prefix("involvedObject.") == Some(part),
                None => field == path,
            },
        };
        self.fields.iter().find(|(field, _)| stored(field)).map_or("", |(_, value)| value)
    }
}

/// Splits at commas outside parentheses.
fn terms(text: &str) -> Vec<&str> {
    let (mut depth, mut start, mut found) = (0_i32, 0, Vec::new());
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                found.push(&text[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    found.push(&text[start..]);
    found
}

fn requirements(text: &str) -> Result<Vec<Requirement>, String> {
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    terms(text).into_iter().map(|term| requirement(term.trim())).collect()
}

fn requirement(term: &str) -> Result<Requirement, String> {
    let make = |key: &str, test: Test| {
        let key = key.trim();
        if is_label_key(key) { Ok(Requirement { key: key.into(), test }) } else { Err(format!("invalid label key {key:?} in {term:?}")) }
    };
    let one = |value: &str| {
        let value = value.trim();
        if is_label_value(value) { Ok(vec![value.to_owned()]) } else { Err(format!("invalid label value {value:?} in {term:?}")) }
    };
    if let Some(key) = term.strip_prefix('!') {
        return make(key, Test::Absent);
    }
    if let Some((key, value)) = term.split_once("!=") {
        return make(key, Test::NotIn(one(value)?));
    }
    if let Some((key, value)) = term.split_once("==").or_else(|| term.split_once('=')) {
        return make(key, Test::In(one(value)?));
    }
    for (sign, test) in [('>', Test::Greater as fn(i64) -> Test), ('<', Test::Less as fn(i64) -> Test)] {
        if let Some((key, value)) = term.split_once(sign) {
            let bound = value.trim().parse().map_err(|_| format!("{value:?} is not an integer in {term:?}"))?;
            return make(key, test(bound));
        }
    }
    let Some((key, rest)) = term.split_once(char::is_whitespace) else {
        return make(term, Test::Exists);
    };
    let rest = rest.trim();
    let (operator, list) = rest.split_once('(').ok_or_else(|| format!("found {rest:?}, expected: in, notin, =, ==, !=, >, <"))?;
    let list = list.trim_end().strip_suffix(')').ok_or_else(|| format!("{term:?} lacks its closing parenthesis"))?;
    let values = list.split(',').map(|v| one(v).map(|mut v| v.remove(0))).collect::<Result<Vec<_>, _>>()?;
    match operator.trim() {
        "in" => make(key, Test::In(values)),
        "notin" => make(key, Test::NotIn(values)),
        other => Err(format!("found {other:?}, expected: in, notin")),
    }
}

fn is_label_value(value: &str) -> bool {
    let inner = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    value.is_empty()
        || (value.len() <= 63
            && value.chars().all(inner)
            && value.starts_with(|c: char| c.is_ascii_alphanumeric())
            && value.ends_with(|c: char| c.is_ascii_alphanumeric()))
}

fn is_label_key(key: &str) -> bool {
    let (prefix, name) = key.split_once('/').map_or((None, key), |(p, n)| (Some(p), n));
    let prefix_right = prefix.is_none_or(|p| {
        !p.is_empty() && p.len() <= 253 && p.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '.'))
    });
    prefix_right && !name.is_empty() && is_label_value(name)
}

/// `a=b,c!=d`, where a backslash takes the next `,`, `=` or backslash as it is.
fn field_terms(text: &str) -> Result<Vec<Field>, String> {
    let mut fields = Vec::new();
    let mut term = (String::new(), None::<bool>, String::new());
    let mut finish = |term: &mut (String, Option<bool>, String)| -> Result<(), String> {
        let (path, equal, value) = std::mem::take(term);
        match equal {
            Some(equal) => fields.push(Field { path: path.trim().into(), equal, value }),
            None if path.trim().is_empty() => {}
            None => return Err(format!("{path:?} lacks an operator")),
        }
        Ok(())
    };
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match (c, term.1) {
            ('\\', _) => {
                let next = chars.next().ok_or("a backslash ends it")?;
                if term.1.is_some() { term.2.push(next) } else { term.0.push(next) }
            }
            (',', _) => finish(&mut term)?,
            ('!', None) if chars.peek() == Some(&'=') => {
                chars.next();
                term.1 = Some(false);
            }
            ('=', None) => {
                chars.next_if_eq(&'=');
                term.1 = Some(true);
            }
            ('=', Some(_)) => return Err("an = in a value must be written \\=".into()),
            (c, Some(_)) => term.2.push(c),
            (c, None) => term.0.push(c),
        }
    }
    finish(&mut term)?;
    Ok(fields)
}
