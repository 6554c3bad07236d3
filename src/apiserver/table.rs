//! `kubectl get`: lists as tables, whose cells the server computes.

use super::{catalog::Entry, jsonpath::Path, present};
use crate::auth::RBAC;
use jiff::Timestamp;
use serde_json::{Value, json};

#[cfg(test)]
mod tests;

/// What each row carries of its object. Source: query parameter `includeObject`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Include {
    None,
    #[default]
    Metadata,
    Object,
}

impl Include {
    pub(super) fn parse(text: Option<&str>) -> Option<Self> {
        match text {
            None | Some("" | "Metadata") => Some(Self::Metadata),
            Some("None") => Some(Self::None),
            Some("Object") => Some(Self::Object),
            Some(_) => None,
        }
    }
}

/// A column and how its cell is made.
struct Column {
    name: &'static str,
    r#type: &'static str,
    description: &'static str,
    priority: i32,
    cell: Cell,
}

enum Cell {
    /// A declared column.
    Path(Path),
    /// A core kind's own.
    Made(fn(&Value, Timestamp) -> Value),
}

/// How one kind is printed.
pub(super) struct Printer {
    entry: &'static Entry,
    columns: Vec<Column>,
}

const NAME: &str = "Name must be unique within a namespace.";
const AGE: &str = "Time since the object was created.";

impl Printer {
    pub(super) fn of(entry: &'static Entry) -> Self {
        let made = |name, r#type, priority, cell| Column { name, r#type, description: name, priority, cell: Cell::Made(cell) };
        let created =
            || Column { description: AGE, ..made("Age", "string", 0, |o, now| age(o.pointer("/metadata/creationTimestamp"), now)) };
        let mut columns = vec![Column { description: NAME, ..made("Name", "string", 0, |o, _| at(o, "/metadata/name")) }];
        match (entry.group, entry.plural) {
            ("", "namespaces") => columns.extend([made("Status", "string", 0, |o, _| at(o, "/status/phase")), created()]),
            ("", "secrets") => columns.extend([
                made("Type", "string", 0, |o, _| at(o, "/type")),
                made("Data", "string", 0, |o, _| count(o, &["data"])),
                created(),
            ]),
            ("", "configmaps") => columns.extend([made("Data", "string", 0, |o, _| count(o, &["data", "binaryData"])), created()]),
            ("", "serviceaccounts") => columns.extend([made("Secrets", "string", 0, |o, _| count(o, &["secrets"])), created()]),
            ("coordination.k8s.io", "leases") => {
                columns.extend([made("Holder", "string", 0, |o, _| at(o, "/spec/holderIdentity")), created()]);
            }
            (RBAC, "rolebindings" | "clusterrolebindings") => columns.extend([
                made("Role", "string", 0, |o, _| {
                    let part = |name: &str| o.pointer(&format!("/roleRef/{name}")).and_then(Value::as_str).unwrap_or_default();
                    format!("{}/{}", part("kind"), part("name")).into()
                }),
                created(),
                made("Users", "string", 1, |o, _| subjects(o, "User")),
                made("Groups", "string", 1, |o, _| subjects(o, "Group")),
                made("ServiceAccounts", "string", 1, |o, _| subjects(o, "ServiceAccount")),
            ]),
            ("apiextensions.k8s.io" | RBAC, _) => columns.push(made("Created At", "date", 0, |o, _| at(o, "/metadata/creationTimestamp"))),
            ("" | "events.k8s.io", "events") => {
                columns = vec![
                    made("Last Seen", "string", 0, |o, now| age(last_seen(o), now)),
                    made("Type", "string", 0, |o, _| at(o, "/type")),
                    made("Reason", "string", 0, |o, _| at(o, "/reason")),
                    made("Object", "string", 0, |o, _| {
                        let part = |name: &str| o.pointer(&format!("/involvedObject/{name}")).and_then(Value::as_str).unwrap_or_default();
                        format!("{}/{}", part("kind").to_lowercase(), part("name")).into()
                    }),
                    made("Subobject", "string", 1, |o, _| at(o, "/involvedObject/fieldPath")),
                    made("Source", "string", 1, |o, _| {
                        let source = at(o, "/source/component");
                        if source == "" { at(o, "/reportingComponent") } else { source }
                    }),
                    made("Message", "string", 0, |o, _| at(o, "/message").as_str().unwrap_or_default().trim().into()),
                    made("First Seen", "string", 1, |o, now| age(first_seen(o), now)),
                    made("Count", "string", 1, |o, _| o.get("count").cloned().unwrap_or(Value::Null)),
                    Column { description: NAME, ..made("Name", "string", 1, |o, _| at(o, "/metadata/name")) },
                ];
            }
            _ if entry.columns().is_empty() => columns.push(created()),
            _ => columns.extend(entry.columns().iter().filter_map(|c| {
                let cell = Cell::Path(Path::parse(c.json_path)?);
                Some(Column { name: c.name, r#type: c.r#type, description: c.description, priority: c.priority, cell })
            })),
        }
        Self { entry, columns }
    }

    /// The table of `objects` under a list's `metadata`. Only a watch's first table need have the column definitions.
    pub(super) fn table(&self, objects: &[Value], metadata: &Value, include: Include, now: Timestamp, with_columns: bool) -> Value {
        let rows: Vec<Value> = objects.iter().map(|o| self.row(o, include, now)).collect();
        let columns = if with_columns { self.definitions() } else { Value::Null };
        json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata, "columnDefinitions": columns, "rows": rows})
    }

    /// The row of one object.
    pub(super) fn row(&self, object: &Value, include: Include, now: Timestamp) -> Value {
        json!({"cells": self.cells(object, now), "object": self.included(object, include)})
    }

    /// What the columns are.
    pub(super) fn definitions(&self) -> Value {
        let definition = |c: &Column| {
            let format = if c.name == "Name" { "name" } else { "" };
            json!({"name": c.name, "type": c.r#type, "format": format, "description": c.description, "priority": c.priority})
        };
        self.columns.iter().map(definition).collect()
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let cell = |column: &Column| match &column.cell {
            Cell::Made(make) => make(object, now),
            Cell::Path(path) => path.first(object).map_or(Value::Null, |value| declared(column.r#type, value, now)),
        };
        self.columns.iter().map(cell).collect()
    }

    fn included(&self, object: &Value, include: Include) -> Value {
        match include {
            Include::None => Value::Null,
            Include::Metadata => partial(object),
            Include::Object => present::out(self.entry, object.clone()),
        }
    }
}

/// Source: apiextensions' `tableconvertor`.
fn declared(r#type: &str, value: &Value, now: Timestamp) -> Value {
    match r#type {
        "integer" => value.as_i64().or_else(|| truncated(value)).map_or(Value::Null, Into::into),
        "number" => value.as_f64().map_or(Value::Null, Into::into),
        "boolean" => value.as_bool().map_or(Value::Null, Into::into),
        "date" => age(Some(value), now),
        _ => match value {
            Value::String(text) => text.as_str().into(),
            Value::Null => "<no value>".into(),
            other => other.to_string().into(),
        },
    }
}

#[expect(clippy::cast_possible_truncation, reason = "an integer column shows a fraction cut off")]
fn truncated(value: &Value) -> Option<i64> {
    value.as_f64().map(|f| f as i64)
}

fn at(object: &Value, pointer: &str) -> Value {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default().into()
}

/// Names of a binding's subjects of one kind; ServiceAccounts as `namespace/name`.
fn subjects(binding: &Value, kind: &str) -> Value {
    let of_kind = binding["subjects"].as_array().into_iter().flatten().filter(|subject| subject["kind"] == kind);
    let name = |subject: &Value| {
        let text = |field: &str| subject[field].as_str().unwrap_or_default();
        if kind == "ServiceAccount" { format!("{}/{}", text("namespace"), text("name")) } else { text("name").to_owned() }
    };
    of_kind.map(name).collect::<Vec<_>>().join(", ").into()
}

fn count(object: &Value, fields: &[&str]) -> Value {
    let size = |value: &Value| value.as_object().map(serde_json::Map::len).or_else(|| value.as_array().map(Vec::len)).unwrap_or(0);
    fields.iter().filter_map(|f| object.get(f)).map(size).sum::<usize>().into()
}

/// Events have two generations of times; a repeated one counts by its series.
fn last_seen(event: &Value) -> Option<&Value> {
    ["/series/lastObservedTime", "/lastTimestamp"]
        .iter()
        .find_map(|p| event.pointer(p).filter(|v| !v.is_null()))
        .or_else(|| first_seen(event))
}

fn first_seen(event: &Value) -> Option<&Value> {
    ["/firstTimestamp", "/eventTime"].iter().find_map(|p| event.pointer(p).filter(|v| !v.is_null()))
}

fn age(time: Option<&Value>, now: Timestamp) -> Value {
    let Some(time) = time.filter(|t| !t.is_null()) else {
        return "<unknown>".into();
    };
    match time.as_str().and_then(|t| t.parse::<Timestamp>().ok()) {
        Some(time) => human(now.as_second() - time.as_second()).into(),
        None => "<invalid>".into(),
    }
}

/// A length of time in two units at most. Source: apimachinery `duration.HumanDuration`.
pub(super) fn human(seconds: i64) -> String {
    let two = |big: i64, big_unit: &str, small: i64, small_unit: &str| {
        if small == 0 { format!("{big}{big_unit}") } else { format!("{big}{big_unit}{small}{small_unit}") }
    };
    let (minutes, hours, days, years) = (seconds / 60, seconds / 3600, seconds / 86_400, seconds / 86_400 / 365);
    match seconds {
        ..-1 => "<invalid>".into(),
        -1..=0 => "0s".into(),
        1..120 => format!("{seconds}s"),
        120..600 => two(minutes, "m", seconds % 60, "s"),
        600..10_800 => format!("{minutes}m"),
        10_800..28_800 => two(hours, "h", minutes % 60, "m"),
        28_800..172_800 => format!("{hours}h"),
        172_800..691_200 => two(days, "d", hours % 24, "h"),
        691_200..63_072_000 => format!("{days}d"),
        63_072_000..252_288_000 => two(years, "y", days % 365, "d"),
        _ => format!("{years}y"),
    }
}

/// `PartialObjectMetadata` of an object.
pub(super) fn partial(object: &Value) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"]})
}
