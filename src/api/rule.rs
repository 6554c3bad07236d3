//! Rules across fields, as the schema publishes them: CEL, which any API server that installs `crds/` enforces alike.
//!
//! Here stands what CEL says well: what may not change, what excludes what. What needs a parser or a sentence that quotes
//! the value stays in [`super::Kind::validate`]; no rule stands in both.

use serde_json::{Value, json};

/// Word of a schema node under which its rules stand. Source: apiextensions/v1 `JSONSchemaProps`.
pub const WORD: &str = "x-kubernetes-validations";

/// The field may not change, appear or vanish once the object exists; `remedy` says what to do instead.
pub(super) fn immutable(field: &str, remedy: &str) -> Value {
    let name = escaped(field);
    json!({
        "rule": format!("has(self.{name}) == has(oldSelf.{name}) && (!has(self.{name}) || self.{name} == oldSelf.{name})"),
        "message": format!("is immutable; {remedy}"),
        "reason": "FieldValueForbidden",
        "fieldPath": format!(".{field}"),
    })
}

/// The field may not change, appear or vanish once `decided` was set.
pub(super) fn once(field: &str, decided: &str, remedy: &str) -> Value {
    let (name, decided) = (escaped(field), escaped(decided));
    json!({
        "rule": format!(
            "!has(oldSelf.{decided}) || (has(self.{name}) == has(oldSelf.{name}) && (!has(self.{name}) || self.{name} == oldSelf.{name}))"
        ),
        "message": format!("may be set once; {remedy}"),
        "reason": "FieldValueForbidden",
        "fieldPath": format!(".{field}"),
    })
}

/// Exactly one of the fields is given.
pub(super) fn one_of(fields: &[&str]) -> Value {
    let given: Vec<String> = fields.iter().map(|field| format!("has(self.{})", escaped(field))).collect();
    let (last, others) = fields.split_last().expect("at least two fields");
    json!({
        "rule": format!("[{}].exists_one(given, given)", given.join(", ")),
        "message": format!("exactly one of {} and {last} must be given", others.join(", ")),
    })
}

/// The rule holds, or the field is missing.
pub(super) fn required(field: &str, rule: &str, message: &str) -> Value {
    json!({ "rule": rule, "message": message, "reason": "FieldValueRequired", "fieldPath": format!(".{field}") })
}

/// The rule holds, or the field must not be there.
pub(super) fn forbidden(field: &str, rule: &str, message: &str) -> Value {
    json!({ "rule": rule, "message": message, "reason": "FieldValueForbidden", "fieldPath": format!(".{field}") })
}

/// The rule holds, or the whole is invalid.
pub(super) fn holds(rule: &str, message: &str) -> Value {
    json!({ "rule": rule, "message": message })
}

/// A field's name in CEL. Source: apiserver `cel.Escape`, as far as our names need it.
fn escaped(field: &str) -> String {
    if matches!(field, "import" | "namespace") { format!("__{field}__") } else { field.into() }
}
