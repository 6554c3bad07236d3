//! Manifests: files become documents that know where they came from.

use super::{LAST_APPLIED, resource};
use crate::admission::{Resource, document};
use crate::api::Scope;
use anyhow::{Context as _, anyhow, bail};
use serde_json::Value;
use std::{io::Read, path::Path, path::PathBuf, sync::Arc};

/// One object of a file.
#[derive(Clone, Debug)]
pub(crate) struct Document {
    /// The file as the person named it.
    file: String,
    text: Arc<str>,
    /// Counted from 1.
    index: usize,
    /// Which of the items of a List it is.
    item: Option<usize>,
    pub(crate) value: Value,
    pub(crate) resource: &'static Resource,
    /// Empty for cluster-scoped kinds.
    pub(crate) namespace: String,
    pub(crate) name: String,
}

impl Document {
    pub(crate) fn kind(&self) -> &'static str {
        self.resource.kind
    }
    /// `machine/add-tests`.
    pub(crate) fn short(&self) -> String {
        format!("{}/{}", self.resource.singular, self.name)
    }
    pub(crate) fn path(&self) -> String {
        resource::path(self.resource, &self.namespace, &self.name)
    }
    /// Puts it into another namespace.
    pub(crate) fn move_to(&mut self, namespace: &str) {
        if self.resource.scope == Scope::Namespaced {
            namespace.clone_into(&mut self.namespace);
            self.value["metadata"]["namespace"] = namespace.into();
        }
    }
    /// The document with the annotation of what was applied. Secrets go without: it would repeat them in the clear.
    pub(super) fn to_apply(&self) -> Value {
        let mut value = self.value.clone();
        if self.kind() != "Secret" {
            let text = value.to_string();
            value["metadata"]["annotations"][LAST_APPLIED] = text.into();
        }
        value
    }
    /// `machines.yaml, document 2 (Machine shop/add-tests): …`.
    pub(super) fn complaint(&self, what: &str) -> String {
        let place = if self.namespace.is_empty() { String::new() } else { format!("{}/", self.namespace) };
        format!("{}, document {} ({} {place}{}): {what}", self.file, self.index, self.kind(), self.name)
    }
    /// The same, with the line of a field: `machines.yaml, document 2 (Machine shop/add-tests), line 7: spec.goal: …`.
    pub(super) fn complaint_of(&self, field: &str, what: &str) -> String {
        let whole = self.complaint("");
        let path = self.item.map_or_else(|| field.to_owned(), |item| format!("items[{item}].{field}"));
        match document::line_of(&self.text, self.index - 1, &path) {
            Some(line) => format!("{}, line {line}: {field}: {what}", whole.trim_end_matches(": ")),
            None => format!("{whole}{field}: {what}"),
        }
    }
    pub(super) fn explain(&self, error: anyhow::Error) -> anyhow::Error {
        let what = self.complaint("was not applied; documents before it were");
        error.context(what)
    }
}

/// Fails naming every complaint; no complaint is fine.
pub(super) fn nothing_applied(complaints: Vec<String>) -> anyhow::Result<()> {
    match complaints.as_slice() {
        [] => Ok(()),
        [one] => bail!("nothing was applied: {one}"),
        many => bail!("nothing was applied, {} things are wrong:\n  {}", many.len(), many.join("\n  ")),
    }
}

/// Reads all documents; namespaces come first, everything else in the order written.
pub(super) fn read(files: &[PathBuf], namespace: &str) -> anyhow::Result<Vec<Document>> {
    let (mut documents, mut wrong) = (Vec::new(), Vec::new());
    for (file, text) in texts(files)? {
        let text: Arc<str> = text.into();
        for (index, read) in (1..).zip(document::yaml_stream(&text)) {
            let read = match read {
                Ok(read) if read.value.is_null() => continue,
                Ok(read) => read,
                Err(error) => {
                    wrong.push(format!("{file}, document {index}: {error}"));
                    continue;
                }
            };
            for path in &read.duplicates {
                let line = document::line_of(&text, index - 1, path).map_or_else(String::new, |line| format!(", line {line}"));
                wrong.push(format!("{file}, document {index}{line}: {path}: is written twice"));
            }
            let value = read.value;
            let items: Vec<(Option<usize>, Value)> = match value["items"].as_array() {
                Some(items) if value["kind"].as_str().is_some_and(|kind| kind.ends_with("List")) => {
                    items.iter().cloned().enumerate().map(|(at, item)| (Some(at), item)).collect()
                }
                _ => vec![(None, value)],
            };
            for (item, value) in items {
                match document(&file, &text, index, value, namespace) {
                    Ok(document) => documents.push(Document { item, ..document }),
                    Err(error) => wrong.push(format!("{file}, document {index}: {error:#}")),
                }
            }
        }
    }
    for (at, document) in documents.iter().enumerate() {
        if let Some(first) = documents[..at].iter().find(|other| other.path() == document.path()) {
            wrong.push(document.complaint(&format!("is written twice; the first is {}, document {}", first.file, first.index)));
        }
    }
    nothing_applied(wrong)?;
    if documents.is_empty() {
        bail!("the files hold no objects");
    }
    documents.sort_by_key(|document| document.kind() != "Namespace");
    Ok(documents)
}

fn document(file: &str, text: &Arc<str>, index: usize, mut value: Value, namespace: &str) -> anyhow::Result<Document> {
    if !value.is_object() {
        bail!("it is no object; write apiVersion, kind, metadata and spec");
    }
    let word = |path: &[&str]| path.iter().try_fold(&value, |value, key| value.get(key)).and_then(Value::as_str).map(str::to_owned);
    let api_version =
        word(&["apiVersion"]).ok_or_else(|| anyhow!("apiVersion: Required value: write apiVersion: {}", crate::api::API_VERSION))?;
    let kind = word(&["kind"]).ok_or_else(|| anyhow!("kind: Required value: write for example kind: Machine"))?;
    let name = word(&["metadata", "name"])
        .filter(|name| !name.is_empty())
        .ok_or_else(|| anyhow!("metadata.name: Required value: give the {kind} a name"))?;
    let resource = resource::of(&api_version, &kind)?;
    let namespace = match resource.scope {
        Scope::Cluster => String::new(),
        Scope::Namespaced => word(&["metadata", "namespace"]).unwrap_or_else(|| namespace.to_owned()),
    };
    if resource.scope == Scope::Namespaced {
        value["metadata"]["namespace"] = namespace.clone().into();
    }
    // The server's own, when someone applies what `get -o yaml` printed.
    if let Some(metadata) = value["metadata"].as_object_mut() {
        for field in ["uid", "resourceVersion", "creationTimestamp", "generation", "managedFields", "selfLink"] {
            metadata.remove(field);
        }
        if let Some(annotations) = metadata.get_mut("annotations").and_then(Value::as_object_mut) {
            annotations.remove(LAST_APPLIED);
        }
    }
    if let Some(object) = value.as_object_mut() {
        object.remove("status");
    }
    Ok(Document { file: file.into(), text: text.clone(), index, item: None, value, resource, namespace, name })
}

/// Every file's name and text; of a directory, its own YAML and JSON files in order.
fn texts(files: &[PathBuf]) -> anyhow::Result<Vec<(String, String)>> {
    let mut texts = Vec::new();
    for file in files {
        let read = |path: &Path| std::fs::read_to_string(path).with_context(|| format!("{} cannot be read as UTF-8 text", path.display()));
        if file.as_os_str() == "-" {
            let mut text = String::new();
            std::io::stdin().read_to_string(&mut text).context("standard input cannot be read")?;
            texts.push(("standard input".into(), text));
        } else if file.is_dir() {
            let entries = std::fs::read_dir(file).with_context(|| format!("{} cannot be read", file.display()))?;
            let mut inside: Vec<PathBuf> = entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect();
            inside.retain(|path| path.is_file() && path.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json"));
            inside.sort();
            if inside.is_empty() {
                bail!("{} holds no *.yaml files", file.display());
            }
            for path in inside {
                texts.push((path.display().to_string(), read(&path)?));
            }
        } else {
            texts.push((file.display().to_string(), read(file)?));
        }
    }
    Ok(texts)
}
