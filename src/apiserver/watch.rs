//! Watches: each goes through the changes of its resource at its client's pace, from its own position.
//!
//! A watch is made of what the client pulls: it has no task and no queue, so it costs the same whether its client reads or
//! not. One that has seen the newest change reads from the cache; one that resumes from further back reads the store's log
//! until it has caught up. A client that is overtaken by the cache's whole past is cut, told why, and may resume.

use super::{
    Shared,
    cache::{Cache, Event, Item, Next, PAST, Told, View, Watcher, line},
    definitions, list,
    query::Query,
    selector::Selector,
    status::Status,
};
use crate::{objects::Objects, store::Revision};
use axum::body::Body;
use bytes::Bytes;
use futures::{future::BoxFuture, stream};
use jiff::Timestamp;
use serde_json::json;
use std::{collections::VecDeque, convert::Infallible, sync::Arc, time::Duration};
use tokio_util::sync::CancellationToken;

/// Size in bytes from which on initial objects are sent.
const CHUNK: usize = 64 << 10;
/// Size in bytes up to which changes that are there at once are sent as one piece: a frame, and about a TLS record.
const GATHER: usize = 16 << 10;
/// How often an idle client learns a revision that is safe to resume from.
const BOOKMARK_EVERY: Duration = Duration::from_mins(1);
/// The last bookmark comes so long before the deadline.
const LAST_BOOKMARK: Duration = Duration::from_secs(2);
/// A client that takes nothing for so long is slow; a watch that is overtaken for another reason just catches up.
const PATIENCE: Duration = Duration::from_secs(5);
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
}

impl Request {
    /// Errors: 400 and 422 for combinations that mean nothing.
    pub(super) fn parse(query: &Query) -> Result<Self, Status> {
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
            _ => Duration::from_secs(rand::Rng::random_range(&mut crate::random::Source, 1800..3600)),
        };
        Ok(Self {
            initial: send_initial.unwrap_or(unset),
            from: if unset { None } else { revision.map(Revision) },
            bookmarks,
            mark_end: bookmarks && send_initial == Some(true),
            timeout,
        })
    }
}

/// Starts a watch and returns its stream. What goes wrong from here on is an `ERROR` event in it.
pub(super) fn start(server: &Shared, view: View, namespace: Option<String>, selector: Selector, request: Request) -> Body {
    let clock = server.objects.clock().clone();
    let timeout = request.timeout;
    // One bookmark falls shortly before the deadline, the others in even steps before it.
    let last = timeout.saturating_sub(LAST_BOOKMARK);
    let steps = last.as_secs().div_euclid(BOOKMARK_EVERY.as_secs());
    let first = last.saturating_sub(BOOKMARK_EVERY * u32::try_from(steps).unwrap_or(u32::MAX));
    let watch = Watch {
        objects: server.objects.clone(),
        cache: view.entry.resource().map(|resource| server.caches.of(resource).clone()),
        bookmark: sleep(&server.objects, first),
        phase: Phase::Begin,
        slow: false,
        columns_sent: false,
        view,
        namespace,
        selector,
        request,
    };
    let deadline: BoxFuture<'static, ()> = Box::pin(async move { clock.sleep(timeout).await });
    let stream = Stream { watch, deadline, shutdown: server.shutdown.clone(), sent: None, ended: false };
    Body::from_stream(stream::unfold(stream, Stream::next))
}

fn sleep(objects: &Objects, time: Duration) -> BoxFuture<'static, ()> {
    let clock = objects.clock().clone();
    Box::pin(async move { clock.sleep(time).await })
}

/// A watch and what ends it.
struct Stream {
    watch: Watch,
    deadline: BoxFuture<'static, ()>,
    shutdown: CancellationToken,
    /// When the client was last given something.
    sent: Option<Timestamp>,
    ended: bool,
}

impl Stream {
    async fn next(mut self) -> Option<(Result<Bytes, Infallible>, Self)> {
        if self.ended {
            return None;
        }
        let clock = self.watch.objects.clock().clone();
        self.watch.slow = self.sent.is_some_and(|sent| clock.now().duration_since(sent).unsigned_abs() > PATIENCE);
        let chunk = tokio::select! {
            biased;
            () = self.shutdown.cancelled() => return None,
            () = &mut self.deadline => return None,
            chunk = self.watch.chunk() => chunk,
        };
        let chunk = chunk.unwrap_or_else(|status| {
            self.ended = true;
            line("ERROR", status.to_value().to_string().as_bytes())
        });
        self.sent = Some(clock.now());
        Some((Ok(chunk), self))
    }
}

struct Watch {
    objects: Objects,
    /// `None` for generated objects, which never change while the server runs.
    cache: Option<Arc<Cache>>,
    view: View,
    namespace: Option<String>,
    selector: Selector,
    request: Request,
    phase: Phase,
    /// The next bookmark is due when this ends.
    bookmark: BoxFuture<'static, ()>,
    /// The client has just let its last piece wait for longer than [`PATIENCE`].
    slow: bool,
    columns_sent: bool,
}

/// How far a watch has come.
enum Phase {
    Begin,
    /// These are still to be sent, and the changes behind this revision.
    Initial(std::vec::IntoIter<Arc<Item>>, Revision),
    Follow(Follow),
    /// Nothing more will come.
    Still,
}

struct Follow {
    watcher: Watcher,
    /// Everything up to here was sent.
    cursor: Revision,
    /// Read from the log, still to be sent; then the log is read up to the revision.
    logged: VecDeque<Arc<Event>>,
    read_to: Revision,
    /// It was up to date once: if it falls behind now, its client is slow.
    live: bool,
}

impl Watch {
    /// The next piece of the stream; waits until there is one.
    async fn chunk(&mut self) -> Result<Bytes, Status> {
        loop {
            let piece = match &mut self.phase {
                Phase::Begin => {
                    self.begin().await?;
                    None
                }
                Phase::Initial(..) => self.initial()?,
                Phase::Follow(_) => self.follow().await?,
                Phase::Still => std::future::pending().await,
            };
            if let Some(piece) = piece {
                return Ok(piece);
            }
        }
    }

    async fn begin(&mut self) -> Result<(), Status> {
        let Some(cache) = self.cache.clone() else {
            let listing = definitions::list(&self.objects, &self.selector).await?;
            let items = if self.request.initial { listing.items } else { Vec::new() };
            self.phase = Phase::Initial(items.into_iter(), listing.revision);
            return Ok(());
        };
        self.phase = match (self.request.initial, self.request.from) {
            (false, Some(from)) => Phase::Follow(Follow::new(&cache, from)),
            (initial, from) => {
                list::wait_for(&self.objects, from.unwrap_or_default().0).await?;
                cache.catch_up().await?;
                let namespace = self.namespace.as_deref();
                let now = cache.slice(namespace, None, &self.selector, 0).ok_or_else(|| Status::internal(&"an empty cache"))?;
                if initial { Phase::Initial(now.items.into_iter(), now.revision) } else { Phase::Follow(Follow::new(&cache, now.revision)) }
            }
        };
        Ok(())
    }

    /// Sends the state as `ADDED`, and the mark behind it.
    fn initial(&mut self) -> Result<Option<Bytes>, Status> {
        let Phase::Initial(items, revision) = &mut self.phase else { return Ok(None) };
        let revision = *revision;
        let table = self.view.is_table();
        let mut chunk = Vec::new();
        for item in items.by_ref() {
            let columns = table && !std::mem::replace(&mut self.columns_sent, true);
            chunk.extend(self.view.line(Told::Added, &item, &self.objects, columns)?);
            if chunk.len() >= CHUNK {
                return Ok(Some(chunk.into()));
            }
        }
        if self.request.mark_end {
            chunk.extend(self.bookmark_line(revision, true));
        }
        self.phase = match &self.cache {
            Some(cache) => Phase::Follow(Follow::new(cache, revision)),
            None => Phase::Still,
        };
        Ok((!chunk.is_empty()).then(|| chunk.into()))
    }

    /// The next changes or bookmark; `None` when it must be called again.
    async fn follow(&mut self) -> Result<Option<Bytes>, Status> {
        let Phase::Follow(follow) = &mut self.phase else { return Ok(None) };
        let told = |event: &Event| event.told(self.namespace.as_deref(), &self.selector);
        let mut line_of = |event: &Event, told: Told| {
            let columns = self.view.is_table() && !std::mem::replace(&mut self.columns_sent, true);
            event.line(&self.view, told, &self.objects, columns)
        };
        if let Some(event) = follow.logged.pop_front() {
            follow.cursor = event.revision();
            return told(&event).map(|told| line_of(&event, told)).transpose();
        }
        follow.cursor = follow.cursor.max(follow.read_to);
        let mut lines = Vec::new();
        let mut size = 0;
        let next = loop {
            let next = follow.watcher.next(follow.cursor, |event| told(event).map(|told| (event.clone(), told)));
            let Some(Next::Found((event, told))) = next else { break next };
            let line = line_of(&event, told)?;
            if size > 0 && size + line.len() > GATHER {
                break None;
            }
            (follow.cursor, follow.live) = (event.revision(), true);
            size += line.len();
            lines.push(line);
        };
        match lines.as_mut_slice() {
            [] => {}
            // As all who are told only this share it.
            [line] => return Ok(Some(std::mem::take(line))),
            lines => return Ok(Some(lines.concat().into())),
        }
        match next {
            Some(Next::Found(_)) => return Ok(None),
            Some(Next::Behind) if follow.live && self.slow => return Err(Status::too_slow(follow.cursor)),
            Some(Next::Behind) => {
                follow.live = false;
                return self.read_log().await.map(|()| None);
            }
            Some(Next::CaughtUp(complete)) => (follow.cursor, follow.live) = (complete, true),
            // The cache is being filled.
            None => {}
        }
        tokio::select! {
            biased;
            () = follow.watcher.moved() => return Ok(None),
            () = &mut self.bookmark => {}
        }
        let cursor = follow.cursor;
        self.bookmark = sleep(&self.objects, BOOKMARK_EVERY);
        Ok(self.request.bookmarks.then(|| self.bookmark_line(cursor, false)))
    }

    async fn read_log(&mut self) -> Result<(), Status> {
        let (Phase::Follow(follow), Some(cache)) = (&mut self.phase, &self.cache) else { return Ok(()) };
        if cache.recall(follow.cursor).await? {
            return Ok(());
        }
        let (events, complete) = self.objects.store().history(&cache.resource_name(), follow.cursor, PAST).await?;
        follow.logged = events.into_iter().map(|event| Arc::new(Event::logged(event))).collect();
        follow.read_to = complete;
        Ok(())
    }

    fn bookmark_line(&mut self, revision: Revision, ends_initial: bool) -> Bytes {
        let mut metadata = json!({"resourceVersion": revision.0.to_string(), "creationTimestamp": null});
        if ends_initial {
            metadata["annotations"] = json!({INITIAL_EVENTS_END: "true"});
        }
        let entry = self.view.entry;
        let bare = json!({"kind": entry.kind, "apiVersion": entry.api_version(), "metadata": metadata});
        let columns = self.view.is_table() && !std::mem::replace(&mut self.columns_sent, true);
        let object = self.view.shaped(&bare, self.objects.clock().now(), columns).unwrap_or(bare);
        line("BOOKMARK", object.to_string().as_bytes())
    }
}

impl Follow {
    fn new(cache: &Arc<Cache>, from: Revision) -> Self {
        Self { watcher: cache.watch(), cursor: from, logged: VecDeque::new(), read_to: from, live: false }
    }
}
