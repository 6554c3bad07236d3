//! The one task that writes. It takes all requests that wait, runs each in a savepoint, and commits them together: while
//! one commit syncs the disk the next batch gathers, so the cost of a sync is shared exactly when there is load.

use super::connection::Connection;
use super::database::{Database, PATIENCE, PAUSE, Purpose};
use super::job::{self, Done, Job, Put, Request};
use super::{
    Change, Error, GoesOn, Moment, Revision, Transaction, lineage, migrations,
    news::News,
    postgres, read, sqlite,
    tail::{Logged, Tail},
    transaction::{Batch, Ended},
};
use crate::clock::Clock;
use jiff::SignedDuration;
use std::{
    collections::{BTreeSet, VecDeque},
    ops::ControlFlow,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

/// A commit of more would make the first caller wait for too much work of others.
const BATCH: usize = 256;
/// How long the outcome of a commit is asked for: what is not known would be done twice, or not at all.
const OUTCOME: SignedDuration = SignedDuration::from_mins(1);

pub(super) struct Writer {
    pub(super) database: Database,
    pub(super) connection: Connection,
    /// Whether the connection must be replaced before the next transaction.
    pub(super) lost: bool,
    pub(super) requests: mpsc::Receiver<Request>,
    pub(super) news: Arc<News>,
    pub(super) tail: Arc<Tail>,
    pub(super) readers: read::Readers,
    pub(super) clock: Clock,
    /// Names this writer among those of a PostgreSQL database,
    pub(super) session: uuid::Uuid,
    /// and this the transaction: with both, the outcome of a lost commit can be looked up.
    pub(super) batch: i64,
    /// What the jobs of the batch share.
    pub(super) shared: Batch,
    /// Held as long as this process may write.
    pub(super) lock: Option<std::fs::File>,
    /// The server's process for this session.
    pub(super) own: Arc<AtomicU32>,
    /// Publishes what others commit.
    pub(super) follower: Option<AbortOnDropHandle<()>>,
    pub(super) goes_on: Option<GoesOn>,
    /// Writes that were committed.
    pub(super) counted: Arc<AtomicU64>,
}

impl Writer {
    pub(super) async fn run(mut self) {
        let mut waiting = VecDeque::new();
        let mut close = None;
        'open: while close.is_none() {
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
                if self.commit(&mut waiting).await.is_break() {
                    // The dead hold no lock on the file: whoever opens it next finds what was committed, at once.
                    break 'open;
                }
            }
        }
        self.requests.close();
        self.readers.close().await;
        if let Err(error) = self.connection.close().await {
            tracing::warn!("the database was not closed cleanly: {error}; it recovers by itself at the next start");
        }
        drop(self.follower);
        // Dropped alone it would stay locked for as long as a child that another thread has just forked has not become its program.
        if let Some(Err(error)) = self.lock.as_ref().map(std::fs::File::unlock) {
            tracing::warn!("the database's lock was not given back: {error}; it goes with this process");
        }
        if let Some(done) = close {
            let _ = done.send(());
        }
    }

    /// Runs and commits what waits. A database error that ends the transaction ends the batch early; the rest stays waiting.
    /// Breaks when this store was to die here.
    async fn commit(&mut self, waiting: &mut VecDeque<Job>) -> ControlFlow<()> {
        if self.at_once(waiting).await {
            return ControlFlow::Continue(());
        }
        // One alone needs no savepoint: it is the transaction.
        let alone = waiting.len() == 1;
        // And if it is one statement, that begins and ends it: on SQLite, where each statement is a way to its thread and back.
        let whole = alone && waiting.iter().all(|job| matches!(job, Job::Put(_))) && !self.lost && self.goes_on.is_none();
        let whole = whole && matches!(self.connection, Connection::Sqlite(_));
        self.shared = Batch::default();
        if !whole && let Err(error) = self.begin().await {
            tracing::error!("no write transaction could be begun: {error}");
            waiting.drain(..).for_each(|job| job.refuse(error.repeat()));
            return ControlFlow::Continue(());
        }
        let mut savepoint = Savepoint::default();
        let mut finished = Vec::new();
        let (mut kept, mut logged, mut complete) = (false, Vec::new(), true);
        let mut outcome: Result<(), Error> = Ok(());
        while outcome.is_ok() {
            let Some(job) = waiting.pop_front() else { break };
            let one_change = matches!(job, Job::Put(_));
            if let Some(sql) = savepoint.before(alone || one_change)
                && let Err(error) = self.connection.link().run(sql).await
            {
                job.refuse(Error::NotCommitted(error.to_string()));
                outcome = Err(error);
                break;
            }
            let newest = self.shared.newest;
            let together = matches!(self.connection, Connection::Postgres(_));
            let mut transaction = Transaction::new(&mut self.connection, &mut self.shared, self.clock.now().as_second());
            if whole {
                transaction = transaction.not_begun();
            }
            let (done, ended) = match job {
                Job::Any(work) => {
                    let done = work.run(&mut transaction).await;
                    (vec![done], transaction.end())
                }
                Job::Put(first) => put(first, waiting, together, transaction).await,
            };
            let keep = done.iter().any(|done| done.keep);
            if keep {
                kept = true;
                logged.extend(ended.logged);
                complete &= ended.complete;
            } else if !one_change {
                self.shared.take_back(newest);
            }
            if one_change && ended.broken && whole {
                let _ = self.connection.link().run("ROLLBACK").await;
                self.lost = true;
            } else if one_change && ended.broken && !alone {
                outcome = Err(Error::NotCommitted("another write of the same commit failed in the database".into()));
            }
            savepoint.after(keep, one_change);
            finished.extend(done);
        }
        if outcome.is_ok()
            && kept
            && let Some(sql) = savepoint.end()
        {
            outcome = self.connection.link().run(sql).await;
        }
        let asked = self.goes_on.clone().filter(|_| kept);
        let goes_on = |moment| asked.as_ref().is_none_or(|goes_on| goes_on(moment));
        if outcome.is_ok() && !goes_on(Moment::BeforeCommit) {
            return ControlFlow::Break(());
        }
        if outcome.is_ok() && !whole {
            outcome = if kept { self.finish(!logged.is_empty()).await } else { self.connection.link().run("ROLLBACK").await };
        }
        match outcome {
            Ok(()) => {
                if !goes_on(Moment::AfterCommit) {
                    return ControlFlow::Break(());
                }
                self.committed(logged, complete, finished);
            }
            Err(error) => {
                tracing::error!("a commit of {} writes failed: {error}", finished.len());
                // Fails when the database has rolled back by itself, which is what is wanted.
                let _ = self.connection.link().run("ROLLBACK").await;
                for done in finished {
                    (done.tell)(Err(error.repeat()));
                }
            }
        }
        ControlFlow::Continue(())
    }

    /// On PostgreSQL, makes a replacement that waits alone by one statement, which begins and commits by itself. Whether it was made,
    /// or its outcome is not known; if not, all else is as before, and it is made step by step.
    async fn at_once(&mut self, waiting: &mut VecDeque<Job>) -> bool {
        let Connection::Postgres(connection) = &mut self.connection else { return false };
        if waiting.len() != 1 || self.lost || self.goes_on.is_some() {
            return false;
        }
        let Some(Job::Put(put)) = waiting.front_mut() else { return false };
        let Some(job::Ready { key, at, document }) = put.ready() else { return false };
        let (text, known) = (super::transaction::stored(document), self.news.newest().0);
        self.batch += 1;
        let (now, writer, batch) = (self.clock.now().as_second(), self.session, self.batch);
        let replacement = postgres::Replacement { key, at: *at, text: &text, now, known, writer, batch };
        let done = postgres::replace(connection, &replacement).await;
        let (key, size) = (key.clone(), text.len());
        let outcome = match done {
            Ok(None) => return false,
            Ok(Some(process)) => {
                self.own.store(process, Ordering::Relaxed);
                Ok(())
            }
            Err(error) => match self.look_up(error.to_string()).await {
                // Nothing was done.
                Err(Error::NotCommitted(_)) => return false,
                outcome => outcome,
            },
        };
        let Some(Job::Put(mut put)) = waiting.pop_front() else { return false };
        let document = put.ready().map(|ready| ready.document.take()).unwrap_or_default();
        let (object, logged) = super::transaction::changed(Change::Modified, &key, document, known + 1, size);
        match outcome {
            Ok(()) => self.committed(vec![logged], true, vec![put.done(&mut std::iter::once(Ok(object)))]),
            Err(error) => put.refuse(error),
        }
        true
    }

    /// Makes known what was committed, in memory first.
    fn committed(&self, logged: Vec<Logged>, complete: bool, finished: Vec<Done>) {
        let ends = logged.first().zip(logged.last()).map(|(first, last)| (first.event.revision, last.event.revision));
        let resources: BTreeSet<String> = logged.iter().map(|change| change.event.key.resource.clone()).collect();
        self.tail.extend(logged);
        if !complete {
            self.tail.forget();
        }
        if let Some((first, newest)) = ends {
            let resources: Vec<&str> = resources.iter().map(String::as_str).collect();
            self.news.publish(newest, complete.then_some((first, &resources)));
        }
        self.counted.fetch_add(finished.iter().filter(|done| done.keep).count() as u64, Ordering::Relaxed);
        for done in finished {
            (done.tell)(Ok(()));
        }
    }

    /// Commits. An answer that is lost says nothing: what became of the transaction is looked up.
    async fn finish(&mut self, changed: bool) -> Result<(), Error> {
        let committed = match &mut self.connection {
            Connection::Sqlite(_) => self.connection.link().run("COMMIT").await.map_err(sqlite::not_synced),
            Connection::Postgres(connection) => postgres::commit(connection, self.shared.newest.filter(|_| changed)).await,
        };
        match committed {
            Err(Error::Unavailable(why)) => self.look_up(why).await,
            other => {
                // What another commit would come in the place of is looked at anew.
                self.lost = matches!(other, Err(Error::Unknown(_)));
                other
            }
        }
    }

    /// What became of the transaction whose answer was lost. Errors: `NotCommitted`, and `Unknown` when nobody can say.
    async fn look_up(&mut self, why: String) -> Result<(), Error> {
        tracing::warn!("the answer to a commit was lost: {why}; looking up what became of it");
        let until = self.clock.now() + OUTCOME;
        loop {
            let looked_up = async {
                self.connection = self.database.connect(Purpose::Write).await?;
                match &mut self.connection {
                    Connection::Postgres(connection) => postgres::was_committed(connection, self.session, self.batch).await,
                    Connection::Sqlite(_) => Ok(false),
                }
            };
            match looked_up.await {
                Ok(true) => return Ok(()),
                Ok(false) => return Err(Error::NotCommitted(why)),
                Err(_) if self.clock.now() < until => self.clock.sleep(PAUSE).await,
                Err(error) => {
                    self.lost = true;
                    return Err(Error::Unknown(error.to_string()));
                }
            }
        }
    }

    /// Begins a transaction. Nothing was done yet, so a database that is away is waited for.
    async fn begin(&mut self) -> Result<(), Error> {
        let until = self.clock.now() + PATIENCE;
        loop {
            match self.begin_now().await {
                Err(Error::Unavailable(why)) => {
                    self.lost = true;
                    if self.clock.now() >= until {
                        return Err(Error::Unavailable(why));
                    }
                    tracing::debug!("no write transaction could be begun: {why}; trying again");
                    self.clock.sleep(PAUSE).await;
                }
                Err(other) => {
                    // What was begun of it would be in the way of the next one.
                    let _ = self.connection.link().run("ROLLBACK").await;
                    return Err(other);
                }
                Ok(()) => return Ok(()),
            }
        }
    }

    async fn begin_now(&mut self) -> Result<(), Error> {
        if self.lost {
            self.connection = self.database.connect(Purpose::Write).await?;
            self.lost = false;
        }
        match &mut self.connection {
            Connection::Sqlite(_) => self.connection.link().run(sqlite::BEGIN).await,
            Connection::Postgres(connection) => {
                self.batch += 1;
                let mut begun = postgres::begin(connection, self.session, self.batch).await?;
                migrations::is_known(&begun.schema)?;
                let known = self.news.newest().0;
                if let Some(back) = lineage::went_back(&begun, known) {
                    tracing::error!("the database went back {back}. What was committed since is lost; the ledger notes the gap");
                    lineage::go_on(connection, known, &self.clock).await?;
                    // That was a commit of its own, which is not to be taken for the one that follows.
                    self.batch += 1;
                    begun = postgres::begin(connection, self.session, self.batch).await?;
                    self.tail.forget();
                    self.news.publish(Revision(begun.newest), None);
                }
                self.shared.newest = Some(begun.newest);
                self.own.store(begun.process, Ordering::Relaxed);
                Ok(())
            }
        }
    }
}

/// Puts the first, and with `together` those that wait behind it up to the next job that is none.
async fn put(first: Box<dyn Put>, waiting: &mut VecDeque<Job>, together: bool, mut transaction: Transaction<'_>) -> (Vec<Done>, Ended) {
    let mut all = vec![first];
    while together && let Some(Job::Put(next)) = waiting.pop_front_if(|job| matches!(job, Job::Put(_))) {
        all.push(next);
    }
    for put in &mut all {
        put.prepare(&mut transaction).await;
    }
    // What it says is that the database failed, which each of them is told.
    let _ = transaction.settle().await;
    let mut ended = transaction.end();
    let mut settled = std::mem::take(&mut ended.settled).into_iter();
    (all.into_iter().map(|put| put.done(&mut settled)).collect(), ended)
}

/// Where a batch can go back to, so that a job that fails takes nothing with it.
#[derive(Default, PartialEq)]
enum Savepoint {
    #[default]
    None,
    /// Just behind what stays.
    Set,
    /// Something was written behind it, and stays.
    Passed,
    /// What was written behind it must go.
    Undo,
}

impl Savepoint {
    /// What is to be run before a job, which may need nothing to go back to.
    fn before(&mut self, needs_none: bool) -> Option<&'static str> {
        let (sql, next) = match self {
            Self::Undo => ("ROLLBACK TO write", Self::Set),
            Self::None if !needs_none => ("SAVEPOINT write", Self::Set),
            Self::Passed if !needs_none => ("RELEASE write; SAVEPOINT write", Self::Set),
            Self::None | Self::Set | Self::Passed => return None,
        };
        *self = next;
        Some(sql)
    }

    fn after(&mut self, keep: bool, one_change: bool) {
        match (keep, one_change) {
            _ if *self == Self::None => {}
            (true, _) => *self = Self::Passed,
            (false, true) => {}
            (false, false) => *self = Self::Undo,
        }
    }

    /// What is to be run before the commit.
    fn end(&mut self) -> Option<&'static str> {
        (*self == Self::Undo).then_some("ROLLBACK TO write")
    }
}

impl Error {
    /// The same for another caller of a batch that failed.
    #[must_use]
    pub fn repeat(&self) -> Self {
        match self {
            Self::Fenced { ours, theirs } => Self::Fenced { ours: *ours, theirs: *theirs },
            Self::Unavailable(why) => Self::Unavailable(why.clone()),
            Self::Unknown(why) => Self::Unknown(why.clone()),
            Self::NotCommitted(why) => Self::NotCommitted(why.clone()),
            other => Self::NotCommitted(other.to_string()),
        }
    }
}
