//! What the writer is asked for: a caller's work with its types forgotten, and the way back to the caller.

use super::{Error, Transaction};
use futures::{FutureExt, future::BoxFuture};
use std::{any::Any, panic::AssertUnwindSafe};
use tokio::sync::oneshot;

pub(super) enum Request {
    Write(Box<dyn Job>),
    Close(oneshot::Sender<()>),
}

/// What the caller waits for: its result, or the panic of its work.
pub(super) type Answer<T, E> = Result<Result<T, E>, Box<dyn Any + Send>>;

/// A caller's work, its types forgotten.
pub(super) trait Job: Send {
    fn run<'t>(self: Box<Self>, transaction: &'t mut Transaction<'_>) -> BoxFuture<'t, Done>
    where
        Self: 't;
    /// Whether it changes one object at its end, and nothing else: there is nothing to take back of it.
    fn is_one_change(&self) -> bool;
    /// Tells the caller that its work was not begun.
    fn refuse(self: Box<Self>, error: Error);
}

/// A job that ran: whether its writes stay, and how to tell its caller once the commit is durable (or failed).
pub(super) struct Done {
    pub(super) keep: bool,
    pub(super) tell: Box<dyn FnOnce(Result<(), Error>) + Send>,
}

struct Work<F, T, E> {
    work: F,
    one_change: bool,
    reply: oneshot::Sender<Answer<T, E>>,
}

/// Wraps a caller's work and the way back to the caller.
pub(super) fn of<T, E, F>(work: F, one_change: bool, reply: oneshot::Sender<Answer<T, E>>) -> Box<dyn Job>
where
    T: Send + 'static,
    E: From<Error> + Send + 'static,
    F: for<'t> FnOnce(&'t mut Transaction<'_>) -> BoxFuture<'t, Result<T, E>> + Send + 'static,
{
    Box::new(Work { work, one_change, reply })
}

impl<T, E, F> Job for Work<F, T, E>
where
    T: Send + 'static,
    E: From<Error> + Send + 'static,
    F: for<'t> FnOnce(&'t mut Transaction<'_>) -> BoxFuture<'t, Result<T, E>> + Send + 'static,
{
    fn run<'t>(self: Box<Self>, transaction: &'t mut Transaction<'_>) -> BoxFuture<'t, Done>
    where
        Self: 't,
    {
        let Self { work, reply, .. } = *self;
        let future = std::panic::catch_unwind(AssertUnwindSafe(|| work(transaction)));
        Box::pin(async move {
            let result: Answer<T, E> = match future {
                Ok(future) => AssertUnwindSafe(future).catch_unwind().await,
                Err(panic) => Err(panic),
            };
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
            Done { keep, tell }
        })
    }

    fn is_one_change(&self) -> bool {
        self.one_change
    }

    fn refuse(self: Box<Self>, error: Error) {
        let _ = self.reply.send(Ok(Err(error.into())));
    }
}
