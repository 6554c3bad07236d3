//! An answer's body in small pieces, so that of one that nobody reads little lies in the connection, and it is noticed.
//!
//! HTTP/2 has a window for each answer: a client may leave one unread while it takes the others, and the connection as a
//! whole never stalls. The server asks for the next piece when there is room for it; until then the last one is waiting.

use super::Activity;
use axum::body::Body;
use bytes::Bytes;
use futures::task::AtomicWaker;
use hyper::body::{Frame, SizeHint};
use std::{
    collections::BTreeSet,
    pin::Pin,
    sync::atomic::Ordering,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

/// Most bytes that are handed out at once.
pub(in crate::apiserver) const PIECE: usize = 64 << 10;

/// The pieces of a connection's answers that were handed out, and behind which nothing was asked for yet.
#[derive(Default)]
pub(super) struct Waiting {
    /// Those that wait, and the newest of all; they are numbered in order.
    pieces: Mutex<(BTreeSet<u64>, u64)>,
    /// The connection, which looks after them.
    pub(super) connection: AtomicWaker,
}

impl Waiting {
    fn pieces(&self) -> MutexGuard<'_, (BTreeSet<u64>, u64)> {
        self.pieces.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn add(&self) -> u64 {
        let (piece, is_first) = {
            let mut pieces = self.pieces();
            pieces.1 += 1;
            let piece = pieces.1;
            pieces.0.insert(piece);
            (piece, pieces.0.len() == 1)
        };
        if is_first {
            self.connection.wake();
        }
        piece
    }

    /// The one that waits for longest, and the newest of all.
    pub(super) fn oldest_and_newest(&self) -> (Option<u64>, u64) {
        let pieces = self.pieces();
        (pieces.0.first().copied(), pieces.1)
    }
}

/// The body of an answer. Until it is dropped its request counts as running.
pub(super) struct Answer {
    body: Body,
    rest: Bytes,
    waits: Option<u64>,
    activity: Arc<Activity>,
}

impl Answer {
    /// One that is still to come.
    pub(super) fn of(activity: Arc<Activity>) -> Self {
        activity.running.fetch_add(1, Ordering::SeqCst);
        Self { body: Body::empty(), rest: Bytes::new(), waits: None, activity }
    }

    pub(super) fn with(mut self, body: Body) -> Self {
        self.body = body;
        self
    }

    /// Someone asks for more, or never will.
    fn taken(&mut self) {
        if let Some(piece) = self.waits.take() {
            self.activity.waiting.pieces().0.remove(&piece);
        }
    }
}

impl hyper::body::Body for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        self.taken();
        while self.rest.is_empty() {
            let frame = match futures::ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => frame,
                end => return Poll::Ready(end),
            };
            match frame.into_data() {
                Ok(data) => self.rest = data,
                Err(other) => return Poll::Ready(Some(Ok(other))),
            }
        }
        let size = self.rest.len().min(PIECE);
        let piece = self.rest.split_to(size);
        self.waits = Some(self.activity.waiting.add());
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (mut hint, rest) = (self.body.size_hint(), self.rest.len() as u64);
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper + rest);
        }
        hint.set_lower(hint.lower() + rest);
        hint
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        self.taken();
        self.activity.running.fetch_sub(1, Ordering::SeqCst);
    }
}
