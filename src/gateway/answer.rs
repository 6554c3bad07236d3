//! One answer of a provider while it comes: who calls it fills, who asked for it reads along, and a repeat of the request
//! may read it again from its start.

use super::hold::Outcome;
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use serde_json::Value;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::{io, sync::Arc};
use tokio::sync::watch;

/// How an answer begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) status: u16,
    pub(super) content_type: String,
    /// `request-id`, `retry-after`, `x-should-retry`.
    pub(super) headers: Vec<(&'static str, String)>,
}

/// How an answer ended.
#[derive(Clone, Debug)]
pub(super) enum End {
    /// Whole; as one message, when it is one.
    Complete(Option<Arc<Value>>),
    /// It broke off.
    Cut(String),
}

/// An answer, filled by one and read by any number.
pub(super) struct Answer {
    /// Id of the call.
    pub(super) id: String,
    /// Body hash of the request, without `stream`.
    pub(super) hash: String,
    /// Whether it is an event stream that was asked for.
    pub(super) stream: bool,
    state: Mutex<State>,
    changed: watch::Sender<()>,
}

#[derive(Default)]
struct State {
    head: Option<Head>,
    chunks: Vec<Bytes>,
    end: Option<End>,
    /// Opens when the checkpoint before it is decided.
    gate: Option<Gate>,
    readers: usize,
    delivered: bool,
}

/// Opens once.
pub(super) type Gate = watch::Receiver<Option<Outcome>>;

impl Answer {
    pub(super) fn new(id: String, hash: String, stream: bool) -> Arc<Self> {
        Arc::new(Self { id, hash, stream, state: Mutex::default(), changed: watch::channel(()).0 })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state());
        self.changed.send_replace(());
    }

    pub(super) fn set_gate(&self, gate: Gate) {
        self.state().gate = Some(gate);
    }

    pub(super) fn begin(&self, head: Head) {
        self.change(|state| state.head = Some(head));
    }

    pub(super) fn push(&self, chunk: Bytes) {
        if chunk.is_empty() {
            return;
        }
        self.change(|state| state.chunks.push(chunk));
    }

    pub(super) fn end(&self, end: End) {
        self.change(|state| state.end = Some(end));
    }

    /// Ends it as cut, unless it has ended.
    pub(super) fn abandon(&self) {
        self.change(|state| {
            if state.end.is_none() {
                // Without a head the connection is closed before a status: agents try again.
                state.head.get_or_insert(Head { status: 529, content_type: "application/json".into(), headers: Vec::new() });
                state.end = Some(End::Cut("the call was abandoned".into()));
            }
        });
    }

    /// A whole answer in one piece: what the gateway itself says.
    pub(super) fn say(&self, head: Head, body: Bytes) {
        self.change(|state| {
            state.head = Some(head);
            state.chunks = vec![body];
            state.end = Some(End::Complete(None));
        });
    }

    /// Whether a repeat of its request may be given this one: it still comes, or it came whole and `may_repeat` says that it
    /// cannot have arrived. Only for the same kind of body, or for one message out of a stream.
    pub(super) fn serves(&self, stream: bool, lost: impl FnOnce(bool) -> bool) -> bool {
        let state = self.state();
        let fits = self.stream || !stream;
        let sound = match (&state.head, &state.end) {
            (Some(head), _) if head.status != 200 => false,
            (_, None) => true,
            (_, Some(End::Complete(message))) => message.is_some() && lost(state.delivered),
            (_, Some(End::Cut(_))) => false,
        };
        fits && sound
    }

    /// Waits for the head and for the checkpoint before it.
    pub(super) async fn head(&self) -> Head {
        let (head, gate) = self.until(|state| state.head.clone().map(|head| (head, state.gate.clone()))).await;
        if let Some(mut gate) = gate {
            // A gate whose keeper is gone is open.
            let _ = gate.wait_for(Option::is_some).await;
        }
        head
    }

    /// Waits for the end.
    pub(super) async fn ended(&self) -> End {
        self.until(|state| state.end.clone()).await
    }

    /// Waits until nobody reads it any more; `true` when someone had all of it.
    pub(super) async fn read_out(&self) -> bool {
        self.until(|state| (state.readers == 0 || state.delivered).then_some(state.delivered)).await
    }

    /// Waits until someone had all of it.
    pub(super) async fn delivered(&self) {
        self.until(|state| state.delivered.then_some(())).await;
    }

    async fn until<T>(&self, mut look: impl FnMut(&State) -> Option<T>) -> T {
        let mut changed = self.changed.subscribe();
        loop {
            if let Some(found) = look(&self.state()) {
                return found;
            }
            // The sender lives as long as `self`.
            let _ = changed.changed().await;
        }
    }

    /// Registers a reader, from now on until its drop.
    pub(super) fn reader(self: &Arc<Self>) -> Reader {
        self.state().readers += 1;
        Reader { answer: self.clone(), changed: self.changed.subscribe(), next: 0 }
    }
}

/// One who asked for the answer; its drop before the end means that the connection is gone.
pub(super) struct Reader {
    pub(super) answer: Arc<Answer>,
    changed: watch::Receiver<()>,
    next: usize,
}

impl Reader {
    /// The body from its start, as it comes. A cut answer ends in an error, so that the connection breaks too.
    pub(super) fn body(self) -> BoxStream<'static, io::Result<Bytes>> {
        stream::unfold(self, |mut reader| async move {
            let next = reader.chunk().await?;
            Some((next, reader))
        })
        .boxed()
    }

    /// Notes that it was given to the client in another form.
    pub(super) fn delivered(self) {
        self.answer.change(|state| state.delivered = true);
    }

    async fn chunk(&mut self) -> Option<io::Result<Bytes>> {
        loop {
            self.changed.borrow_and_update();
            {
                let mut state = self.answer.state();
                if let Some(chunk) = state.chunks.get(self.next) {
                    self.next += 1;
                    return Some(Ok(chunk.clone()));
                }
                match &state.end {
                    None => {}
                    // It is said once, then the stream is over.
                    Some(End::Cut(why)) if self.next != usize::MAX => {
                        let why = why.clone();
                        self.next = usize::MAX;
                        return Some(Err(io::Error::other(why)));
                    }
                    Some(_) => {
                        state.delivered |= self.next != usize::MAX;
                        drop(state);
                        self.answer.changed.send_replace(());
                        return None;
                    }
                }
            }
            self.changed.changed().await.ok()?;
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.answer.change(|state| state.readers -= 1);
    }
}
