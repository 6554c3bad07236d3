//! `autovibe describe`: one object as a whole, its conditions as a table, and its events.

use super::{Context, print, resource};
use serde_json::{Map, Value};
use std::process::ExitCode;

/// Shows one object with its conditions and events.
#[derive(Debug, clap::Args)]
pub(super) struct Describe {
    /// A kind, or KIND/NAME
    kind: String,
    /// Its name
    name: Option<String>,
}

impl Describe {
    pub(super) async fn run(&self, context: &Context) -> anyhow::Result<ExitCode> {
        let (kind, name) = resource::named(&self.kind, self.name.as_deref())?;
        let client = context.client()?;
        let object = client.get(&resource::path(kind, &client.namespace, &name)).await?;
        let namespace = object["metadata"]["namespace"].as_str().unwrap_or("default");
        let events = client.get(&format!("/api/v1/namespaces/{namespace}/events")).await?;
        let uid = object["metadata"]["uid"].as_str();
        let about: Vec<Value> = events["items"]
            .as_array()
            .into_iter()
            .flatten()
            .filter(|event| event["involvedObject"]["uid"].as_str() == uid)
            .cloned()
            .collect();
        if let Some(output @ (super::Output::Json | super::Output::Yaml)) = context.options.output {
            let whole = serde_json::json!({ "object": object, "events": about });
            print::out(&print::document(&whole, output)?)?;
        } else {
            print::out(&print::printable(&text(&object, about)?))?;
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn text(object: &Value, mut events: Vec<Value>) -> anyhow::Result<String> {
    let mut object = object.clone();
    let conditions = object["status"].as_object_mut().and_then(|status| status.remove("conditions"));
    if object["kind"] == "Secret"
        && let Some(data) = object["data"].as_object_mut()
    {
        // Shown as kubectl shows it: sizes, never values.
        for value in data.values_mut() {
            *value = format!("{} bytes, encoded", value.as_str().map_or(0, str::len)).into();
        }
    }
    let metadata = object["metadata"].as_object().cloned().unwrap_or_default();
    let mut head = Map::new();
    for key in [
        "name",
        "namespace",
        "uid",
        "creationTimestamp",
        "deletionTimestamp",
        "generation",
        "labels",
        "annotations",
        "finalizers",
        "ownerReferences",
    ] {
        if let Some(value) = metadata.get(key).filter(|value| !value.is_null()) {
            head.insert(key.into(), value.clone());
        }
    }
    if let Some(annotations) = head.get_mut("annotations").and_then(Value::as_object_mut) {
        annotations.remove(super::apply::LAST_APPLIED);
        if annotations.is_empty() {
            head.remove("annotations");
        }
    }
    let mut text = String::new();
    text += &serde_yaml::to_string(&serde_json::json!({ "kind": object["kind"], "metadata": head }))?;
    if let Some(fields) = object.as_object() {
        for (name, value) in fields {
            if !matches!(name.as_str(), "apiVersion" | "kind" | "metadata") && !value.is_null() {
                text += &serde_yaml::to_string(&serde_json::json!({ name: value }))?;
            }
        }
    }
    if let Some(Value::Array(conditions)) = conditions {
        let cell = |c: &Value, name: &str| c[name].as_str().unwrap_or_default().to_owned();
        let rows: Vec<Vec<String>> =
            conditions.iter().map(|c| ["type", "status", "reason", "message"].iter().map(|name| cell(c, name)).collect()).collect();
        text += "conditions:\n";
        text += &indented(&print::columns(&["TYPE", "STATUS", "REASON", "MESSAGE"].map(String::from), &rows));
    }
    let last =
        |event: &Value| ["lastTimestamp", "eventTime"].iter().find_map(|name| event[*name].as_str().map(str::to_owned)).unwrap_or_default();
    events.sort_by_key(last);
    if events.is_empty() {
        text += "events: none\n";
        return Ok(text);
    }
    let now = print::now();
    let rows: Vec<Vec<String>> = events
        .iter()
        .map(|event| {
            let age = last(event).parse().map_or_else(|_| "?".into(), |at| print::span(print::between(at, now)));
            let times = event["count"].as_i64().filter(|n| *n > 1).map(|n| format!(" (x{n})")).unwrap_or_default();
            let word = |name: &str| event[name].as_str().unwrap_or_default().to_owned();
            vec![age + &times, word("type"), word("reason"), word("message")]
        })
        .collect();
    text += "events:\n";
    text += &indented(&print::columns(&["AGE", "TYPE", "REASON", "MESSAGE"].map(String::from), &rows));
    Ok(text)
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("  {line}\n")).collect()
}
