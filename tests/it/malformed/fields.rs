//! Each field of each kind, given in every way that its schema forbids. What must be said follows from the schema.

use super::{Case, Outcome, refuse_all};
use crate::fuzz::Generator;
use crate::served::Served;
use autovibe::admission::{Resource, metadata_schema, resources};
use autovibe::api::{GROUP, Scope};
use autovibe::store::Options;
use serde_json::{Value, json};

/// Where the fuzzer's valid objects live.
const NAMESPACE: &str = "fuzz";

enum Step {
    Key(String),
    First,
}

/// `spec.images[0].name`.
fn path(steps: &[Step]) -> String {
    steps.iter().fold(String::new(), |path, step| match step {
        Step::Key(key) if path.is_empty() => key.clone(),
        Step::Key(key) => format!("{path}.{key}"),
        Step::First => format!("{path}[0]"),
    })
}

/// The place in a document; what leads there is made where it is not.
fn place<'d>(document: &'d mut Value, steps: &[Step]) -> &'d mut Value {
    steps.iter().fold(document, |value, step| match step {
        Step::Key(key) => {
            if !value.is_object() {
                *value = json!({});
            }
            &mut value[key]
        }
        Step::First => {
            if value.as_array().is_none_or(Vec::is_empty) {
                *value = json!([null]);
            }
            &mut value[0]
        }
    })
}

struct Walk<'w> {
    resource: &'w Resource,
    steps: Vec<Step>,
    cases: Vec<Case>,
}

impl Walk<'_> {
    fn add(&mut self, what: &str, change: impl FnOnce(&mut Value), outcome: (u16, &str), says: Vec<String>) {
        let Resource { group, plural, kind, .. } = self.resource;
        let mut document = Generator::valid(kind);
        if self.resource.scope == Scope::Cluster {
            document["metadata"].as_object_mut().expect("an object").remove("namespace");
        }
        change(&mut document);
        let root = if group.is_empty() { "/api/v1".into() } else { format!("/apis/{}", self.resource.api_version()) };
        let place = if self.resource.scope == Scope::Namespaced { format!("/namespaces/{NAMESPACE}") } else { String::new() };
        let (code, reason) = outcome;
        self.cases.push(Case {
            what: format!("{kind} {}: {what}", path(&self.steps)),
            path: format!("{root}{place}/{plural}?fieldValidation=Strict"),
            content_type: "application/json",
            body: document.to_string().into_bytes(),
            outcome: Outcome { code, reason: reason.into(), says },
        });
    }

    /// `of` stands where the walk is.
    fn wrong(&mut self, what: &str, of: Value, says: Vec<String>) {
        let steps = std::mem::take(&mut self.steps);
        let change = |document: &mut Value| *place(document, &steps) = of;
        self.steps = Vec::new();
        let before = self.cases.len();
        self.add(what, change, (422, "Invalid"), says);
        self.steps = steps;
        self.cases[before].what = format!("{} {}: {what}", self.resource.kind, path(&self.steps));
    }

    fn node(&mut self, schema: &Value) {
        let here = path(&self.steps);
        let wanted = if schema["x-kubernetes-int-or-string"] == true { "integer,string" } else { schema["type"].as_str().unwrap_or("") };
        // All that is of another type; a fraction is no integer.
        let others = [
            ("boolean", json!(true)),
            ("integer", json!(7)),
            ("number", json!(1.5)),
            ("string", json!("x")),
            ("array", json!([])),
            ("object", json!({})),
        ];
        for (found, value) in others {
            let fits = wanted.is_empty() || wanted.split(',').any(|one| one == found || one == "number" && found == "integer");
            if fits || self.is_emptied(&value) {
                continue;
            }
            let remedy = if wanted == "string" && matches!(found, "boolean" | "integer" | "number") { "; put it in quotes" } else { "" };
            let text = format!("{here}: Invalid value: \"{found}\": {here} in body must be of type {wanted}: \"{found}\"{remedy}");
            self.wrong(found, value, vec![text]);
        }
        if let Some(choices) = schema["enum"].as_array() {
            let list: Vec<String> = choices.iter().map(|choice| format!("\"{}\"", choice.as_str().expect("a text"))).collect();
            let text = format!("{here}: Unsupported value: \"Wizard\": supported values: {}", list.join(", "));
            self.wrong("no choice", json!("Wizard"), vec![text]);
        }
        self.missing(schema);
        self.unknown(schema);
        for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
            self.below(Step::Key(name.clone()), inner);
        }
        if let Some(inner) = schema.get("additionalProperties").filter(|inner| inner.is_object()) {
            self.below(Step::Key("k".into()), inner);
        }
        if let Some(inner) = schema.get("items") {
            self.below(Step::First, inner);
        }
    }

    /// Empty lists and mappings in metadata are dropped before anything is judged.
    fn is_emptied(&self, value: &Value) -> bool {
        let [Step::Key(head), Step::Key(_)] = self.steps.as_slice() else { return false };
        head == "metadata" && (*value == json!([]) || *value == json!({}))
    }

    fn missing(&mut self, schema: &Value) {
        for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            let field = format!("{}.{name}", path(&self.steps));
            // What has a default is never missing; this one's depends on the kind.
            if schema["properties"][name].get("default").is_some() || field == "roleRef.apiGroup" {
                continue;
            }
            self.wrong(&format!("without {name}"), json!({}), vec![format!("{field}: Required value")]);
        }
    }

    fn unknown(&mut self, schema: &Value) {
        let closed = schema["properties"].is_object() && schema["x-kubernetes-preserve-unknown-fields"] != true;
        if !closed || schema.get("additionalProperties").is_some() {
            return;
        }
        let mut field = path(&self.steps);
        field.push_str(if field.is_empty() { "bogus" } else { ".bogus" });
        let text = format!(
            "{kind} in version \"{}\" cannot be handled as a {kind}: strict decoding error: unknown field \"{field}\"",
            self.resource.version,
            kind = self.resource.kind
        );
        let steps = std::mem::take(&mut self.steps);
        self.add("unknown", |document| place(document, &steps)["bogus"] = json!(1), (400, "BadRequest"), vec![text]);
        self.steps = steps;
    }

    fn below(&mut self, step: Step, schema: &Value) {
        self.steps.push(step);
        if !skipped(self.resource, &path(&self.steps)) {
            self.node(schema);
        }
        self.steps.pop();
    }
}

/// What is not the sender's to say on creation, so that nothing is said of it.
fn skipped(resource: &Resource, path: &str) -> bool {
    let servers =
        ["uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation", "resourceVersion", "selfLink"];
    let is_servers = path.strip_prefix("metadata.").is_some_and(|field| servers.contains(&field));
    // Their place in the URL is judged first: that is the table's matter.
    let is_place = matches!(path, "metadata" | "metadata.namespace" | "apiVersion" | "kind");
    is_servers || is_place && path != "metadata" || resource.has_status && path == "status"
}

#[tokio::test]
async fn every_field_of_every_kind_given_wrongly_is_named_with_its_remedy() {
    let server = Served::start(Options::default()).await;
    server.namespace(NAMESPACE).await;
    let mut count = 0;
    // A Namespace's spec and status are the server's own on creation.
    for resource in resources().iter().filter(|resource| resource.kind != "Namespace") {
        let mut walk = Walk { resource, steps: Vec::new(), cases: Vec::new() };
        for (name, schema) in resource.schema["properties"].as_object().into_iter().flatten() {
            if !matches!(name.as_str(), "metadata" | "apiVersion" | "kind") {
                walk.below(Step::Key(name.clone()), schema);
            }
        }
        for name in resource.schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned) {
            let says = vec![format!("{name}: Required value")];
            walk.add(
                &format!("without {name}"),
                |document| drop(document.as_object_mut().expect("an object").remove(&name)),
                (422, "Invalid"),
                says,
            );
        }
        walk.unknown(&json!({"properties": {}}));
        walk.steps.push(Step::Key("metadata".into()));
        walk.unknown(metadata_schema());
        // Once is enough for all kinds, and once for what differs between ours and core's.
        if matches!((resource.group, resource.kind), (GROUP, "Machine") | ("", "ConfigMap")) {
            for (name, schema) in metadata_schema()["properties"].as_object().into_iter().flatten() {
                walk.below(Step::Key(name.clone()), schema);
            }
        }
        count += walk.cases.len();
        refuse_all(&server, NAMESPACE, &walk.cases).await;
    }
    eprintln!("{count} wrong fields");
    assert!(count >= 500, "{count}");
    server.stop().await;
}
