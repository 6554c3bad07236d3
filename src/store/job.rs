//! What the writer is asked for: a caller's work with its types forgotten, and the way back to the caller.

use super::{Error, Expect, Key, Object, Revision, Transaction};
use futures::{FutureExt, future::BoxFuture};
use serde_json::Value;
use std::{any::Any, panic::AssertUnwindSafe};
use tokio::sync::oneshot;

pub(super) enum Request {
    Write(Job),
    Close(oneshot::Sender<()>),
}

/// A caller's work, its types forgotten.
pub(super) enum Job {
    Any(Box<dyn Work>),
    /// One object, and nothing else: those that wait may be stored together, and there is nothing to take back of one.
    Put(Box<dyn Put>),
}

/// What the caller waits for: its result, or the panic of its work.
pub(super) type Answer<T, E> = Result<Result<T, E>, Box<dyn Any + Send>>;

pub(super) trait Work: Send {
    fn run<'t>(self: Box<Self>, transaction: &'t mut Transaction<'_>) -> BoxFuture<'t, Done>
    where
        Self: 't;
    /// Tells the caller that its work was not begun.
    fn refuse(self: Box<Self>, error: Error);
}

pub(super) trait Put: Send {
    /// Asks the transaction for the put, or not.
    fn prepare<'t>(&'t mut self, transaction: &'t mut Transaction<'_>) -> BoxFuture<'t, ()>;
    /// What it replaces, when nothing must be read before: then it may be made at once.
    fn ready(&mut self) -> Option<&mut Ready> {
        None
    }
    /// What became of it, if it was asked for.
    fn done(self: Box<Self>, put: &mut dyn Iterator<Item = Result<Object, Error>>) -> Done;
    /// Tells the caller that its work was not begun.
    fn refuse(self: Box<Self>, error: Error);
}

impl Job {
    /// Tells the caller that its work was not begun.
    pub(super) fn refuse(self, error: Error) {
        match self {
            Self::Any(work) => work.refuse(error),
            Self::Put(put) => put.refuse(error),
        }
    }
}

/// A job that ran: whether its writes stay, and how to tell its caller once the commit is durable (or failed).
pub(super) struct Done {
    pub(super) keep: bool,
    pub(super) tell: Box<dyn FnOnce(Result<(), Error>) + Send>,
}

impl Done {
    fn new<T, E>(result: Answer<T, E>, reply: oneshot::Sender<Answer<T, E>>) -> Self
    where
        T: Send + 'static,
        E: From<Error> + Send + 'static,
    {
        let keep = matches!(result, Ok(Ok(_)));
        let tell = Box::new(move |commit: Result<(), Error>| {
            let answer = match (commit, result) {
                // Also what was refused: it may have been for a write of the same batch, which is not there now.
                (Err(error), Ok(_)) => Ok(Err(error.into())),
                (_, result) => result,
            };
            // The caller may have gone; its write stands all the same.
            let _ = reply.send(answer);
        });
        Self { keep, tell }
    }
}

struct AnyWork<F, T, E> {
    work: F,
    reply: oneshot::Sender<Answer<T, E>>,
}

/// Wraps a caller's work and the way back to the caller.
pub(super) fn any<T, E, F>(work: F, reply: oneshot::Sender<Answer<T, E>>) -> Job
where
    T: Send + 'static,
    E: From<Error> + Send + 'static,
    F: for<'t> FnOnce(&'t mut Transaction<'_>) -> BoxFuture<'t, Result<T, E>> + Send + 'static,
{
    Job::Any(Box::new(AnyWork { work, reply }))
}

impl<T, E, F> Work for AnyWork<F, T, E>
where
    T: Send + 'static,
    E: From<Error> + Send + 'static,
    F: for<'t> FnOnce(&'t mut Transaction<'_>) -> BoxFuture<'t, Result<T, E>> + Send + 'static,
{
    fn run<'t>(self: Box<Self>, transaction: &'t mut Transaction<'_>) -> BoxFuture<'t, Done>
    where
        Self: 't,
    {
        let Self { work, reply } = *self;
        let result = caught(work, transaction);
        Box::pin(async move { Done::new(result.await, reply) })
    }

    fn refuse(self: Box<Self>, error: Error) {
        let _ = self.reply.send(Ok(Err(error.into())));
    }
}

/// Runs `work`, and catches its panic.
fn caught<'t, T, E, F>(work: F, transaction: &'t mut Transaction<'_>) -> BoxFuture<'t, Answer<T, E>>
where
    T: Send + 'static,
    E: Send + 'static,
    F: for<'a> FnOnce(&'a mut Transaction<'_>) -> BoxFuture<'a, Result<T, E>>,
{
    let future = std::panic::catch_unwind(AssertUnwindSafe(|| work(transaction)));
    Box::pin(async move {
        match future {
            Ok(future) => AssertUnwindSafe(future).catch_unwind().await,
            Err(panic) => Err(panic),
        }
    })
}

/// A document that replaces what is at a revision.
pub(super) struct Ready {
    pub(super) key: Key,
    pub(super) at: Revision,
    pub(super) document: Value,
}

struct Replace<E> {
    ready: Ready,
    /// Why nothing is put.
    failed: Option<Error>,
    reply: oneshot::Sender<Answer<Object, E>>,
}

/// Wraps a replacement.
pub(super) fn replace<E: From<Error> + Send + 'static>(ready: Ready, reply: oneshot::Sender<Answer<Object, E>>) -> Job {
    Job::Put(Box::new(Replace { ready, failed: None, reply }))
}

impl<E: From<Error> + Send + 'static> Put for Replace<E> {
    fn prepare<'t>(&'t mut self, transaction: &'t mut Transaction<'_>) -> BoxFuture<'t, ()> {
        Box::pin(async move {
            let Ready { key, at, document } = &mut self.ready;
            self.failed = transaction.put_soon(key, document.take(), Expect::At(*at)).await.err();
        })
    }

    fn ready(&mut self) -> Option<&mut Ready> {
        Some(&mut self.ready)
    }

    fn done(self: Box<Self>, put: &mut dyn Iterator<Item = Result<Object, Error>>) -> Done {
        let result = match self.failed {
            Some(error) => Err(error),
            None => next(put),
        };
        Done::new(Ok(result.map_err(E::from)), self.reply)
    }

    fn refuse(self: Box<Self>, error: Error) {
        let _ = self.reply.send(Ok(Err(error.into())));
    }
}

fn next(put: &mut dyn Iterator<Item = Result<Object, Error>>) -> Result<Object, Error> {
    put.next().unwrap_or_else(|| Err(Error::NotCommitted("it was not put".into())))
}

struct One<F, E> {
    key: Key,
    expect: Expect,
    make: Option<F>,
    /// Why nothing is put.
    ended: Option<Answer<Object, E>>,
    reply: oneshot::Sender<Answer<Object, E>>,
}

/// Wraps a put of the document that `make` makes.
pub(super) fn put<E, F>(key: Key, expect: Expect, make: F, reply: oneshot::Sender<Answer<Object, E>>) -> Job
where
    E: From<Error> + Send + 'static,
    F: for<'t> FnOnce(&'t mut Transaction<'_>) -> BoxFuture<'t, Result<Value, E>> + Send + 'static,
{
    Job::Put(Box::new(One { key, expect, make: Some(make), ended: None, reply }))
}

impl<E, F> Put for One<F, E>
where
    E: From<Error> + Send + 'static,
    F: for<'t> FnOnce(&'t mut Transaction<'_>) -> BoxFuture<'t, Result<Value, E>> + Send + 'static,
{
    fn prepare<'t>(&'t mut self, transaction: &'t mut Transaction<'_>) -> BoxFuture<'t, ()> {
        Box::pin(async move {
            let Some(make) = self.make.take() else { return };
            match caught(make, transaction).await {
                Ok(Ok(document)) => {
                    let asked = transaction.put_soon(&self.key, document, self.expect).await;
                    self.ended = asked.err().map(|error| Ok(Err(error.into())));
                }
                Ok(Err(error)) => self.ended = Some(Ok(Err(error))),
                Err(panic) => self.ended = Some(Err(panic)),
            }
        })
    }

    fn done(self: Box<Self>, put: &mut dyn Iterator<Item = Result<Object, Error>>) -> Done {
        let result = match self.ended {
            Some(ended) => ended,
            None => Ok(next(put).map_err(E::from)),
        };
        Done::new(result, self.reply)
    }

    fn refuse(self: Box<Self>, error: Error) {
        let _ = self.reply.send(Ok(Err(error.into())));
    }
}
