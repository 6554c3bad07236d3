//! Opens the database: the migrations, the installation's id, the epoch, and the tasks behind a [`Store`].

use super::connection::{Connection, query};
use super::database::{Database, Purpose};
use super::{
    Error, Shared, Store, compact, lead, migrations, news::News, postgres, read, sqlite, tail::Tail, transaction::Batch, writer::Writer,
};
use crate::clock::Clock;
use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64},
    },
    time::Duration,
};
use tokio::sync::mpsc;
use tokio_util::task::AbortOnDropHandle;

/// Reads hardly ever wait for each other; more connections would only cost memory.
const READERS: usize = 4;
/// Writers that wait beyond it wait at the channel.
const QUEUE: usize = 1024;

/// How much of the log is kept for watches to resume from: a change leaves when it is beyond both.
#[derive(Clone, Copy, Debug)]
pub struct History {
    pub age: Duration,
    pub changes: u32,
}

impl Default for History {
    /// Longer than clients pause between two watches. Source: kubernetes-api facts: at least 15–30 min and 10,000 rows.
    fn default() -> Self {
        Self { age: Duration::from_mins(30), changes: 10_000 }
    }
}

/// How a store is opened.
#[derive(Clone)]
pub struct Options {
    pub clock: Clock,
    pub history: History,
    /// Asked before and after each commit; when it says no, this store is as one whose process was killed there.
    pub goes_on: Option<GoesOn>,
}

pub type GoesOn = Arc<dyn Fn(Moment) -> bool + Send + Sync>;

/// Where a commit is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    BeforeCommit,
    /// It is durable, and nobody was told.
    AfterCommit,
}

impl Default for Options {
    fn default() -> Self {
        Self { clock: Clock::system(), history: History::default(), goes_on: None }
    }
}

impl Store {
    /// Opens (and creates or migrates) the SQLite database at `path`.
    pub async fn open(path: &Path) -> Result<Self, Error> {
        Self::open_with(&Database::Sqlite(path.into()), Options::default()).await
    }

    /// Opens the database when no other process uses it, also on PostgreSQL.
    pub async fn open_alone(database: &Database) -> Result<Self, Error> {
        let options = Options::default();
        if let Database::Postgres(server) = database {
            server.refuse_others(&options.clock).await?;
        }
        Self::open_as(database, options, true).await
    }

    /// Opens (and creates or migrates) the database. SQLite's is refused when another process has it open; one of PostgreSQL
    /// may be open in several processes.
    pub async fn open_with(database: &Database, options: Options) -> Result<Self, Error> {
        Self::open_as(database, options, matches!(database, Database::Sqlite(_))).await
    }

    async fn open_as(database: &Database, options: Options, alone: bool) -> Result<Self, Error> {
        let clock = options.clock.clone();
        let lock = match database {
            Database::Sqlite(path) => {
                let lock = sqlite::lock(path, &clock).await?;
                sqlite::private(path)?;
                Some(lock)
            }
            Database::Postgres(_) => None,
        };
        let mut connection = database.reach(Purpose::Write, &clock).await?;
        migrations::run(&mut connection).await?;
        let installation = installation(&mut connection).await?;
        let epoch = match &mut connection {
            Connection::Sqlite(_) => lead::next_epoch(connection.link()).await?,
            Connection::Postgres(connection) => {
                postgres::prepare(connection).await?;
                0
            }
        };
        let newest = read::newest(connection.link()).await?;
        let news = Arc::new(News::new(newest));
        let tail = Arc::new(Tail::new(newest));
        let readers = read::Readers::new(database.clone(), clock.clone(), READERS);
        let (requests, incoming) = mpsc::channel(QUEUE);
        let own = Arc::new(AtomicU32::new(0));
        let follower = match database {
            Database::Sqlite(_) => None,
            Database::Postgres(server) => {
                let (news, clock, own) = (news.clone(), clock.clone(), own.clone());
                let others = postgres::Others { server: server.as_ref().clone(), news, clock, own, writer: requests.downgrade() };
                Some(AbortOnDropHandle::new(tokio::spawn(postgres::follow(others))))
            }
        };
        let writes = Arc::new(AtomicU64::new(0));
        let writer = Writer {
            database: database.clone(),
            connection,
            lost: false,
            requests: incoming,
            news: news.clone(),
            tail: tail.clone(),
            readers: readers.clone(),
            clock,
            session: crate::random::uuid(),
            batch: 0,
            shared: Batch::default(),
            lock,
            own,
            follower,
            goes_on: options.goes_on.clone(),
            counted: writes.clone(),
        };
        tokio::spawn(writer.run());
        let one_process = matches!(database, Database::Sqlite(_));
        let (revisions, news) = (news.revisions(), Arc::downgrade(&news));
        let shared = Shared { requests, readers, revisions, news, tail, one_process, epoch, installation, alone, writes };
        let store = Self { shared: Arc::new(shared), fence: None };
        tokio::spawn(compact::regularly(Arc::downgrade(&store.shared), store.revisions(), options));
        Ok(store)
    }
}

/// The installation's id, made with the database.
async fn installation(connection: &mut Connection) -> Result<String, Error> {
    query("INSERT INTO meta (key, value) VALUES ('installation', $1) ON CONFLICT (key) DO NOTHING")
        .bind(crate::random::uuid().to_string())
        .execute(connection.link())
        .await?;
    let (id,): (String,) = query("SELECT value FROM meta WHERE key = 'installation'").fetch_one(connection.link()).await?;
    Ok(id)
}
