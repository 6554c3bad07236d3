//! A connection's bytes, with an eye on how long it keeps the server waiting.

use super::{Activity, Place};
use futures::future::BoxFuture;
use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::atomic::Ordering,
    task::{Context, Poll, ready},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::WaitForCancellationFutureOwned;

/// A stream that ends when its client has waited too long, or must make room.
pub(in crate::apiserver) struct Watched<S> {
    stream: S,
    place: Place,
    must_end: Pin<Box<WaitForCancellationFutureOwned>>,
    /// Which request is awaited, and whether some of it came already.
    awaited: (u64, bool),
    patience: Option<Patience>,
    over: bool,
    /// Runs while the client takes nothing.
    stalled: Option<BoxFuture<'static, ()>>,
    /// Runs while pieces of answers wait; those up to this one must be taken when it ends.
    unread: Option<(u64, BoxFuture<'static, ()>)>,
}

/// How long the client may go on like this.
struct Patience {
    awaited: (u64, bool),
    end: BoxFuture<'static, ()>,
}

impl<S> Watched<S> {
    pub(super) fn new(stream: S, place: Place) -> Self {
        let must_end = Box::pin(place.end.clone().cancelled_owned());
        Self { stream, place, must_end, awaited: (0, false), patience: None, over: false, stalled: None, unread: None }
    }

    fn activity(&self) -> &Activity {
        &self.place.activity
    }

    /// Notes that bytes of a request's head came.
    fn came(&mut self) {
        let begun = self.activity().begun.load(Ordering::SeqCst);
        let head = self.activity().running.load(Ordering::SeqCst) == 0 && !self.activity().multiplexed.load(Ordering::SeqCst);
        self.awaited = (begun, head);
    }

    /// Whether it is to end now; else it is looked at again when the time has come.
    fn is_over(&mut self, cx: &mut Context<'_>) -> bool {
        self.over = self.over || self.must_end.as_mut().poll(cx).is_ready() || self.has_waited(cx) || self.is_unread(cx);
        self.over
    }

    /// Whether the client has left an answer unread for too long, while it may well have taken others.
    fn is_unread(&mut self, cx: &mut Context<'_>) -> bool {
        if !self.activity().multiplexed.load(Ordering::SeqCst) {
            return false;
        }
        self.activity().waiting.connection.register(cx.waker());
        loop {
            let (Some(oldest), newest) = self.activity().waiting.oldest_and_newest() else {
                self.unread = None;
                return false;
            };
            let time = self.place.connections.limits.stall;
            let (until, end) = match &mut self.unread {
                Some(unread) => unread,
                none => none.insert((newest, self.place.sleep(time))),
            };
            if end.as_mut().poll(cx).is_pending() {
                return false;
            }
            if oldest <= *until {
                tracing::info!("a connection was ended: of an answer on it nothing was taken for {} s", time.as_secs());
                return true;
            }
            self.unread = None;
        }
    }

    fn has_waited(&mut self, cx: &mut Context<'_>) -> bool {
        if self.activity().running.load(Ordering::SeqCst) > 0 {
            self.patience = None;
            return false;
        }
        let begun = self.activity().begun.load(Ordering::SeqCst);
        if self.awaited.0 != begun {
            self.awaited = (begun, false);
        }
        let awaited = self.awaited;
        if self.patience.as_ref().is_none_or(|p| p.awaited != awaited) {
            let limits = &self.place.connections.limits;
            let time = if awaited.1 || begun == 0 { limits.head } else { limits.idle };
            // The first request of a connection has one span, whether some of it came or not.
            let goes_on = begun == 0 && self.patience.as_ref().is_some_and(|p| p.awaited.0 == 0);
            match self.patience.as_mut().filter(|_| goes_on) {
                Some(patience) => patience.awaited = awaited,
                None => self.patience = Some(Patience { awaited, end: self.place.sleep(time) }),
            }
        }
        self.patience.as_mut().is_some_and(|p| p.end.as_mut().poll(cx).is_ready())
    }

    /// Of something that was tried to be sent: whether the client has taken nothing for too long.
    fn sent<T>(&mut self, cx: &mut Context<'_>, done: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if done.is_ready() {
            self.stalled = None;
            return done;
        }
        if self.stalled.is_none() {
            self.stalled = Some(self.place.sleep(self.place.connections.limits.stall));
        }
        if let Some(stalled) = &mut self.stalled {
            ready!(stalled.as_mut().poll(cx));
        }
        self.stalled = None;
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        match read {
            Poll::Ready(done) => {
                if buffer.filled().len() > before {
                    self.came();
                }
                Poll::Ready(done)
            }
            // As if the client had ended: then it is told, where there is a way to.
            Poll::Pending if self.is_over(cx) => Poll::Ready(Ok(())),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let done = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.sent(cx, done)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let done = Pin::new(&mut self.stream).poll_write_vectored(cx, bytes);
        self.sent(cx, done)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let done = Pin::new(&mut self.stream).poll_flush(cx);
        self.sent(cx, done)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let done = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.sent(cx, done)
    }
}
