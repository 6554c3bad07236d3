//! Watches: each reads the change log at its own pace from its own position, so a slow client delays no one and loses nothing.

use super::{
    catalog::Entry,
    list::{self, Listing},
    negotiate::Shape,
    present,
    query::Query,
    selector::Selector,
    status::Status,
    table::{self, Include, Printer},
};
use crate::{
    objects::Objects,
    store::{Change, Event, Revision},
};
use axum::body::Body;
use bytes::Bytes;
use serde_json::{Value, json};
use std::{pin::pin, time::Duration};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Events read from the log at once.
const BATCH: u32 = 500;
/// Batches that may wait for a slow client.
const BUFFER: usize = 4;
/// How often an idle client learns a revision that is safe to resume from.
const BOOKMARK_EVERY: Duration = Duration::from_mins(1);
/// The last bookmark comes so long before the deadline.
const LAST_BOOKMARK: Duration = Duration::from_secs(2);
/// What marks the end of the initial events. Source: meta/v1 `InitialEventsAnnotationKey`.
const INITIAL_EVENTS_END: &str = "k8s.io/initial-events-end";

/// What a client asked for.
pub(super) struct Request {
    /// The initial state comes first, as `ADDED`.
    initial: bool,
    /// Begin behind this revision; `None` is now.
    from: Option<Revision>,
    bookmarks: bool,
    /// A bookmark marks the end of the initial state.
    mark_end: bool,
    timeout: Duration,
    pub(super) shape: Shape,
    pub(super) include: Include,
}

impl Request {
    /// Errors: 400 and 422 for combinations that mean nothing.
    pub(super) fn parse(query: &Query, shape: Shape, include: Include) -> Result<Self, Status> {
        let revision = query.revision()?;
        let bookmarks = query.flag("allowWatchBookmarks")?.unwrap_or(false);
        let send_initial = query.flag("sendInitialEvents")?;
        let forbidden = |field: &str, body: &str| Err(Status::invalid_option("ListOptions", field, "FieldValueForbidden", body));
        match (query.get("resourceVersionMatch"), send_initial) {
            (None, None) | (Some("NotOlderThan"), Some(_)) => {}
            (None, Some(_)) => {
                return forbidden(
                    "resourceVersionMatch",
                    "Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
                );
            }
            (Some("NotOlderThan"), None) => {
                return forbidden(
                    "resourceVersionMatch",
                    "Forbidden: resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided",
                );
            }
            (Some(other), _) => {
                let body = format!("Unsupported value: {other:?}: supported values: \"NotOlderThan\"");
                return Err(Status::invalid_option("ListOptions", "resourceVersionMatch", "FieldValueNotSupported", &body));
            }
        }
        let unset = revision.is_none_or(|r| r == 0);
        // Without a wish of the client's: between 30 and 60 minutes, so that reconnects are spread.
        let timeout = match query.number::<u64>("timeoutSeconds")? {
            Some(seconds) if seconds > 0 => Duration::from_secs(seconds),
            _ => Duration::from_secs(rand::random_range(1800..3600)),
        };
        Ok(Self {
            initial: send_initial.unwrap_or(unset),
            from: if unset { None } else { revision.map(Revision) },
            bookmarks,
            mark_end: bookmarks && send_initial == Some(true),
            timeout,
            shape,
            include,
        })
    }
}

/// Starts a watch and returns its stream. What goes wrong from here on is an `ERROR` event in it.
pub(super) fn start(
    objects: Objects,
    entry: &'static Entry,
    namespace: Option<String>,
    selector: Selector,
    request: Request,
    shutdown: CancellationToken,
) -> Body {
    let (sender, receiver) = mpsc::channel::<Result<Bytes, std::convert::Infallible>>(BUFFER);
    let mut watch = Watch { printer: Printer::of(entry), objects, entry, namespace, selector, request, sender, columns_sent: false };
    tokio::spawn(async move {
        let deadline = watch.objects.clock().clone();
        let timeout = watch.request.timeout;
        let closed = watch.sender.clone();
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = closed.closed() => {}
            () = deadline.sleep(timeout) => {}
            ended = watch.run() => {
                if let Err(End::Failed(status)) = ended {
                    let line = line("ERROR", &status.to_value());
                    let _ = watch.sender.send(Ok(line.into())).await;
                }
            }
        }
    });
    Body::from_stream(tokio_stream::wrappers::ReceiverStream::new(receiver))
}

/// Why a watch ends by itself.
enum End {
    /// The client or the server went away.
    Closed,
    Failed(Status),
}

impl<E: Into<Status>> From<E> for End {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

struct Watch {
    objects: Objects,
    entry: &'static Entry,
    namespace: Option<String>,
    selector: Selector,
    request: Request,
    printer: Printer,
    sender: mpsc::Sender<Result<Bytes, std::convert::Infallible>>,
    columns_sent: bool,
}

impl Watch {
    async fn run(&mut self) -> Result<(), End> {
        let Some(resource) = self.entry.resource() else {
            return self.generated().await;
        };
        let mut revisions = self.objects.store().revisions();
        let mut cursor = match (self.request.initial, self.request.from) {
            (true, from) => {
                list::wait_for(&self.objects, from.unwrap_or_default().0).await?;
                let request = list::Request::default();
                let listing = list::list(&self.objects, self.entry, self.namespace.as_deref(), &self.selector, &request).await?;
                self.send_initial(listing).await?
            }
            (false, Some(from)) => from,
            (false, None) => *revisions.borrow(),
        };
        let clock = self.objects.clock().clone();
        // One bookmark falls shortly before the deadline, the others in even steps before it.
        let last = self.request.timeout.saturating_sub(LAST_BOOKMARK);
        let steps = last.as_secs().div_euclid(BOOKMARK_EVERY.as_secs());
        let mut next = pin!(clock.sleep(last.saturating_sub(BOOKMARK_EVERY * u32::try_from(steps).unwrap_or(u32::MAX))));
        loop {
            revisions.mark_unchanged();
            let (events, complete) = self.objects.read_changes(resource, cursor, BATCH).await?;
            let more = complete < *revisions.borrow();
            cursor = cursor.max(complete);
            let mut batch = Vec::new();
            for event in events {
                self.encode(event, &mut batch);
            }
            if !batch.is_empty() {
                self.send(batch).await?;
            }
            if more {
                continue;
            }
            tokio::select! {
                changed = revisions.changed() => changed.map_err(|_| End::Closed)?,
                () = &mut next => {
                    if self.request.bookmarks {
                        let bookmark = self.bookmark(cursor, false);
                        self.send(bookmark).await?;
                    }
                    next.set(clock.sleep(BOOKMARK_EVERY));
                }
            }
        }
    }

    /// Sends the state as `ADDED`, and the mark behind it; returns where to go on.
    async fn send_initial(&mut self, listing: Listing) -> Result<Revision, End> {
        let mut batch = Vec::new();
        for document in listing.items {
            self.push(&mut batch, "ADDED", document);
            if batch.len() > 256 * 1024 {
                self.send(std::mem::take(&mut batch)).await?;
            }
        }
        if self.request.mark_end {
            batch.extend(self.bookmark(listing.revision, true));
        }
        if !batch.is_empty() {
            self.send(batch).await?;
        }
        Ok(listing.revision)
    }

    /// Generated objects never change while the server runs.
    async fn generated(&mut self) -> Result<(), End> {
        if self.request.initial {
            let listing = super::definitions::list(&self.objects, &self.selector).await?;
            self.send_initial(listing).await?;
        }
        std::future::pending().await
    }

    /// An object enters or leaves the watch as its labels and fields do; leaving shows what it was.
    fn encode(&mut self, event: Event, batch: &mut Vec<u8>) {
        if self.namespace.as_ref().is_some_and(|n| *n != event.key.namespace) {
            return;
        }
        let is = event.change != Change::Deleted && self.selector.matches(&event.document);
        let was = match (&event.previous, event.change) {
            (_, Change::Added) => false,
            (Some(previous), _) => self.selector.matches(previous),
            (None, Change::Deleted) => self.selector.matches(&event.document),
            (None, Change::Modified) => is,
        };
        let (kind, mut document) = match (was, is) {
            (false, true) => ("ADDED", event.document),
            (true, true) => ("MODIFIED", event.document),
            (true, false) if event.change == Change::Deleted => ("DELETED", event.document),
            (true, false) => ("DELETED", event.previous.unwrap_or(event.document)),
            (false, false) => return,
        };
        document["metadata"]["resourceVersion"] = event.revision.0.to_string().into();
        self.push(batch, kind, document);
    }

    fn push(&mut self, batch: &mut Vec<u8>, kind: &str, document: Value) {
        let object = self.shaped(&document).unwrap_or_else(|| present::out(self.entry, document));
        batch.extend(line(kind, &object));
    }

    /// The object as a table or metadata; `None` if it is wanted as it is.
    fn shaped(&mut self, document: &Value) -> Option<Value> {
        match self.request.shape {
            Shape::Table => {
                let metadata = json!({"resourceVersion": document.pointer("/metadata/resourceVersion")});
                let (now, include) = (self.objects.clock().now(), self.request.include);
                let with_columns = !std::mem::replace(&mut self.columns_sent, true);
                Some(self.printer.table(std::slice::from_ref(document), &metadata, include, now, with_columns))
            }
            Shape::Metadata => Some(table::partial(document)),
            Shape::Plain | Shape::Discovery(_) => None,
        }
    }

    fn bookmark(&mut self, revision: Revision, ends_initial: bool) -> Vec<u8> {
        let mut metadata = json!({"resourceVersion": revision.0.to_string(), "creationTimestamp": null});
        if ends_initial {
            metadata["annotations"] = json!({INITIAL_EVENTS_END: "true"});
        }
        let bare = json!({"kind": self.entry.kind, "apiVersion": self.entry.api_version(), "metadata": metadata});
        let object = self.shaped(&bare).unwrap_or(bare);
        line("BOOKMARK", &object)
    }

    async fn send(&self, batch: Vec<u8>) -> Result<(), End> {
        self.sender.send(Ok(batch.into())).await.map_err(|_| End::Closed)
    }
}

fn line(kind: &str, object: &Value) -> Vec<u8> {
    let mut line = json!({"type": kind, "object": object}).to_string().into_bytes();
    line.push(b'\n');
    line
}
