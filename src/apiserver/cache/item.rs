//! One state of one object, and one change, as many clients share them.

use crate::apiserver::{
    catalog::Entry,
    negotiate::Shape,
    present,
    selector::{Selectable, Selector},
    status::Status,
    table::{self, Include, Printer},
};
use crate::{
    objects::{self, Objects},
    store::{self, Change, Revision},
};
use bytes::Bytes;
use jiff::Timestamp;
use serde_json::{Value, json};
use std::sync::{Arc, Mutex, PoisonError};

/// One state of one object: as text, which takes a fifth of a parsed document's memory and goes out as it is.
#[derive(Debug)]
pub(in crate::apiserver) struct Item {
    pub(in crate::apiserver) namespace: String,
    pub(in crate::apiserver) name: String,
    pub(in crate::apiserver) revision: Revision,
    /// What selectors can ask for.
    selectable: Selectable,
    /// As it lies in the store: values of Secrets stay encrypted until someone is sent them.
    text: Bytes,
    /// Name of the resource when `text` must be decrypted first.
    sealed: Option<String>,
}

impl Item {
    /// `document` as it lies in the store, with its `resourceVersion`.
    pub(in crate::apiserver) fn new(key: store::Key, revision: Revision, document: &Value) -> Self {
        let degraded = objects::degraded(&key, document);
        let document = degraded.as_ref().unwrap_or(document);
        Self {
            selectable: Selectable::of(document),
            text: document.to_string().into(),
            sealed: (key.resource == "secrets").then_some(key.resource),
            namespace: key.namespace,
            name: key.name,
            revision,
        }
    }

    pub(in crate::apiserver) fn matches(&self, selector: &Selector) -> bool {
        selector.matches(&self.selectable)
    }

    /// What it takes, about: the text once, and once more for the line of a watch.
    pub(super) fn size(&self) -> usize {
        2 * self.text.len()
    }

    /// Parsed and decrypted.
    pub(in crate::apiserver) fn document(&self, objects: &Objects) -> Result<Value, Status> {
        let document: Value = serde_json::from_slice(&self.text).map_err(|e| Status::internal(&e))?;
        match &self.sealed {
            // One that no key opens must not hide the others.
            Some(resource) => Ok(objects.unseal(resource, document.clone()).unwrap_or_else(|error| without_values(document, &error))),
            None => Ok(document),
        }
    }

    /// The text that goes out as it is, if this entry shows it so.
    pub(in crate::apiserver) fn ready(&self, entry: &Entry) -> Option<&Bytes> {
        (self.sealed.is_none() && !entry.is_view()).then_some(&self.text)
    }

    /// The plain JSON object, as `entry` shows it.
    pub(in crate::apiserver) fn json(&self, entry: &Entry, objects: &Objects) -> Result<Bytes, Status> {
        match self.ready(entry) {
            Some(text) => Ok(text.clone()),
            None => Ok(present::out(entry, self.document(objects)?).to_string().into()),
        }
    }
}

/// A Secret whose values cannot be decrypted: what is known of it, and why not more.
fn without_values(mut document: Value, error: &crate::objects::Error) -> Value {
    tracing::error!("{error}");
    if let Some(fields) = document.as_object_mut() {
        fields.remove("data");
    }
    if let Some(metadata) = document["metadata"].as_object_mut() {
        metadata.remove("annotations");
    }
    let message = error.to_string();
    let condition = json!({"type": "Degraded", "status": "True", "reason": "Undecryptable", "message": message, "lastTransitionTime": "1970-01-01T00:00:00Z"});
    document["status"] = json!({"conditions": [condition]});
    document
}

/// What a watch tells of a change: an object enters or leaves a selection as its labels and fields do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::apiserver) enum Told {
    Added,
    Modified,
    Deleted,
    /// It is no longer selected: told as deleted, with what it was and the change's revision.
    Left,
}

impl Told {
    fn word(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted | Self::Left => "DELETED",
        }
    }
}

/// How a watch wants its objects.
pub(in crate::apiserver) struct View {
    pub(in crate::apiserver) entry: &'static Entry,
    pub(in crate::apiserver) shape: Shape,
    pub(in crate::apiserver) include: Include,
    pub(in crate::apiserver) printer: Printer,
}

impl View {
    pub(in crate::apiserver) fn is_table(&self) -> bool {
        self.shape == Shape::Table
    }

    /// The object as a table or metadata; `None` if it is wanted as it is.
    pub(in crate::apiserver) fn shaped(&self, document: &Value, now: Timestamp, columns: bool) -> Option<Value> {
        match self.shape {
            Shape::Table => {
                let metadata = json!({"resourceVersion": document.pointer("/metadata/resourceVersion")});
                Some(self.printer.table(std::slice::from_ref(document), &metadata, self.include, now, columns))
            }
            Shape::Metadata => Some(table::partial(document)),
            Shape::Plain | Shape::Discovery(_) => None,
        }
    }

    /// A line of the watch that tells of this object.
    pub(in crate::apiserver) fn line(&self, told: Told, item: &Item, objects: &Objects, columns: bool) -> Result<Bytes, Status> {
        if self.shape == Shape::Plain {
            return Ok(line(told.word(), &item.json(self.entry, objects)?));
        }
        Ok(self.document_line(told, item.document(objects)?, objects, columns))
    }

    fn document_line(&self, told: Told, document: Value, objects: &Objects, columns: bool) -> Bytes {
        let object = self.shaped(&document, objects.clock().now(), columns).unwrap_or_else(|| present::out(self.entry, document));
        line(told.word(), object.to_string().as_bytes())
    }

    fn dress(&self, told: Told) -> Dress {
        Dress { told, group: self.entry.group, shape: self.shape, include: self.include }
    }
}

/// What makes two watches' lines of one change equal. A resource's two views differ by their group.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Dress {
    told: Told,
    group: &'static str,
    shape: Shape,
    include: Include,
}

/// One change.
pub(in crate::apiserver) struct Event {
    pub(in crate::apiserver) change: Change,
    /// The state after it; of a deletion the last one, with the deletion's revision.
    pub(in crate::apiserver) item: Arc<Item>,
    /// The state before it.
    pub(in crate::apiserver) previous: Option<Arc<Item>>,
    /// Its lines, each made once for all watches that are told the same.
    lines: Mutex<Vec<(Dress, Bytes)>>,
}

impl Event {
    pub(super) fn new(change: Change, item: Arc<Item>, previous: Option<Arc<Item>>) -> Self {
        Self { change, item, previous, lines: Mutex::new(Vec::new()) }
    }

    /// As the log has it, with the state before it as the log has it.
    pub(in crate::apiserver) fn logged((event, previous): store::Past) -> Self {
        let previous = previous.map(|document| Arc::new(Item::new(event.key.clone(), event.revision, &document)));
        Self::new(event.change, Arc::new(Item::new(event.key, event.revision, &event.document)), previous)
    }

    pub(in crate::apiserver) fn revision(&self) -> Revision {
        self.item.revision
    }

    /// What a watch of this selection is told; `None` is nothing.
    pub(in crate::apiserver) fn told(&self, namespace: Option<&str>, selector: &Selector) -> Option<Told> {
        if namespace.is_some_and(|n| n != self.item.namespace) {
            return None;
        }
        let is = self.change != Change::Deleted && self.item.matches(selector);
        let was = match (&self.previous, self.change) {
            (_, Change::Added) => false,
            (Some(previous), _) => previous.matches(selector),
            (None, Change::Deleted) => self.item.matches(selector),
            (None, Change::Modified) => is,
        };
        match (was, is) {
            (false, true) => Some(Told::Added),
            (true, true) => Some(Told::Modified),
            (true, false) if self.change == Change::Deleted => Some(Told::Deleted),
            (true, false) => Some(Told::Left),
            (false, false) => None,
        }
    }

    /// The line that tells it. Made once and shared, but for Secrets (which are not kept decrypted) and a table's first line.
    pub(in crate::apiserver) fn line(&self, view: &View, told: Told, objects: &Objects, columns: bool) -> Result<Bytes, Status> {
        if columns || self.item.sealed.is_some() {
            return self.encode(view, told, objects, columns);
        }
        let dress = view.dress(told);
        // Held while it is made: whoever wants the same meanwhile waits for it instead of making it again.
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, line)) = lines.iter().find(|(d, _)| *d == dress) {
            return Ok(line.clone());
        }
        let line = self.encode(view, told, objects, false)?;
        lines.push((dress, line.clone()));
        Ok(line)
    }

    fn encode(&self, view: &View, told: Told, objects: &Objects, columns: bool) -> Result<Bytes, Status> {
        match (told, &self.previous) {
            (Told::Left, Some(previous)) => {
                let mut document = previous.document(objects)?;
                document["metadata"]["resourceVersion"] = self.revision().0.to_string().into();
                Ok(view.document_line(told, document, objects, columns))
            }
            _ => view.line(told, &self.item, objects, columns),
        }
    }
}

/// `{"type": …, "object": …}` and a newline.
pub(in crate::apiserver) fn line(word: &str, object: &[u8]) -> Bytes {
    [b"{\"type\":\"", word.as_bytes(), b"\",\"object\":", object, b"}\n"].concat().into()
}
