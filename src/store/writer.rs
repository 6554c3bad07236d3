//! The one task that writes. It takes all requests that wait, runs each in a savepoint, and commits them together: while
//! one commit syncs the disk the next batch gathers, so the cost of a sync is shared exactly when there is load.

use super::{Error, Revision, Transaction, read};
use crate::clock::Clock;
use futures::{FutureExt, future::BoxFuture};
use sqlx::{Connection, SqliteConnection};
use std::{
    any::Any,
    collections::VecDeque,
    panic::AssertUnwindSafe,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio::sync::{mpsc, oneshot, watch};

/// A commit of more would make the first caller wait for too much work of others.
const BATCH: usize = 256;

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
    /// Tells the caller that its work was not begun.
    fn refuse(self: Box<Self>, error: Error);
}

/// A job that ran: whether its writes stay, and how to tell its caller once the commit is durable (or failed).
pub(super) struct Done {
    keep: bool,
    tell: Box<dyn FnOnce(Result<(), Error>) + Send>,
}

struct Work<F, T, E> {
    work: F,
    reply: oneshot::Sender<Answer<T, E>>,
}

/// Wraps a caller's work and the way back to the caller.
pub(super) fn job<T, E, F>(work: F, reply: oneshot::Sender<Answer<T, E>>) -> Box<dyn Job>
where
    T: Send + 'static,
    E: From<Error> + Send + 'static,
    F: for<'t> FnOnce(&'t mut Transaction<'_>) -> BoxFuture<'t, Result<T, E>> + Send + 'static,
{
    Box::new(Work { work, reply })
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
        let Self { work, reply } = *self;
        let future = std::panic::catch_unwind(AssertUnwindSafe(|| work(transaction)));
        Box::pin(async move {
            let result: Answer<T, E> = match future {
                Ok(future) => AssertUnwindSafe(future).catch_unwind().await,
                Err(panic) => Err(panic),
            };
            let keep = matches!(result, Ok(Ok(_)));
            let tell = Box::new(move |commit: Result<(), Error>| {
                let answer = match commit {
                    Err(error) if keep => Ok(Err(error.into())),
                    _ => result,
                };
                // The caller may have gone; its write stands all the same.
                let _ = reply.send(answer);
            });
            Done { keep, tell }
        })
    }

    fn refuse(self: Box<Self>, error: Error) {
        let _ = self.reply.send(Ok(Err(error.into())));
    }
}

pub(super) struct Writer {
    pub(super) connection: SqliteConnection,
    pub(super) requests: mpsc::Receiver<Request>,
    pub(super) revisions: watch::Sender<Revision>,
    pub(super) readers: read::Readers,
    pub(super) clock: Clock,
    pub(super) epoch: i64,
    /// Held as long as this process may write.
    pub(super) lock: std::fs::File,
    /// Writes that were committed.
    pub(super) counted: Arc<AtomicU64>,
}

impl Writer {
    pub(super) async fn run(mut self) {
        let mut waiting = VecDeque::new();
        let mut close = None;
        while close.is_none() {
            let Some(first) = self.requests.recv().await else { break };
            let mut next = Some(first);
            while let Some(request) = next {
                match request {
                    Request::Write(job) => waiting.push_back(job),
                    Request::Close(done) => {
                        close = Some(done);
                        break;
                    }
                }
                next = if waiting.len() < BATCH { self.requests.try_recv().ok() } else { None };
            }
            while !waiting.is_empty() {
                self.commit(&mut waiting).await;
            }
        }
        self.requests.close();
        self.readers.close().await;
        if let Err(error) = self.connection.close().await {
            tracing::warn!("the database was not closed cleanly: {error}; it recovers by itself at the next start");
        }
        drop(self.lock);
        if let Some(done) = close {
            let _ = done.send(());
        }
    }

    /// Runs and commits what waits. A database error that ends the transaction ends the batch early; the rest stays waiting.
    async fn commit(&mut self, waiting: &mut VecDeque<Box<dyn Job>>) {
        if let Err(error) = self.begin().await {
            tracing::error!("no write transaction could be begun: {error}");
            waiting.drain(..).for_each(|job| job.refuse(error.repeat()));
            return;
        }
        // One alone needs no savepoint: it is the transaction.
        let alone = waiting.len() == 1;
        let mut finished = Vec::new();
        let mut revision = None;
        let mut outcome: Result<(), sqlx::Error> = Ok(());
        while outcome.is_ok() {
            let Some(job) = waiting.pop_front() else { break };
            if !alone && let Err(error) = sqlx::query("SAVEPOINT write").execute(&mut self.connection).await {
                job.refuse(Error::NotCommitted(error.to_string()));
                outcome = Err(error);
                break;
            }
            let mut transaction = Transaction::new(&mut self.connection, self.clock.now().as_second());
            let done = job.run(&mut transaction).await;
            if done.keep {
                revision = transaction.revision().or(revision);
            }
            let end = match (alone, done.keep) {
                (true, true) => "COMMIT",
                (true, false) => "ROLLBACK",
                (false, true) => "RELEASE write",
                (false, false) => "ROLLBACK TO write; RELEASE write",
            };
            finished.push(done);
            outcome = sqlx::raw_sql(end).execute(&mut self.connection).await.map(drop);
        }
        if !alone && outcome.is_ok() {
            outcome = sqlx::query("COMMIT").execute(&mut self.connection).await.map(drop);
        }
        match outcome {
            Ok(()) => {
                if let Some(revision) = revision {
                    self.revisions.send_replace(revision);
                }
                self.counted.fetch_add(finished.iter().filter(|done| done.keep).count() as u64, Ordering::Relaxed);
                for done in finished {
                    (done.tell)(Ok(()));
                }
            }
            Err(error) => {
                tracing::error!("a commit of {} writes failed: {error}", finished.len());
                // Fails when SQLite has rolled back by itself, which is what is wanted.
                let _ = sqlx::query("ROLLBACK").execute(&mut self.connection).await;
                for done in finished {
                    (done.tell)(Err(Error::NotCommitted(error.to_string())));
                }
            }
        }
    }

    /// Begins a transaction, if the store is still ours.
    async fn begin(&mut self) -> Result<(), Error> {
        sqlx::query("BEGIN IMMEDIATE").execute(&mut self.connection).await?;
        let (theirs,): (String,) = sqlx::query_as("SELECT value FROM meta WHERE key = 'epoch'").fetch_one(&mut self.connection).await?;
        let theirs = theirs.parse().map_err(|_| Error::Corrupt(format!("the epoch `{theirs}` is not a number")))?;
        if theirs != self.epoch {
            sqlx::query("ROLLBACK").execute(&mut self.connection).await?;
            return Err(Error::Fenced { ours: self.epoch, theirs });
        }
        Ok(())
    }
}

impl Error {
    /// The same for another caller of the batch.
    fn repeat(&self) -> Self {
        match self {
            Self::Fenced { ours, theirs } => Self::Fenced { ours: *ours, theirs: *theirs },
            other => Self::NotCommitted(other.to_string()),
        }
    }
}
