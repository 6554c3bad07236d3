//! Opens the database: the lock, the settings, the migrations, the epoch, and the tasks behind a [`Store`].

use super::{Error, Revision, Shared, Store, compact, migrations, read, writer::Writer};
use crate::clock::Clock;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{ConnectOptions, SqliteConnection};
use std::{
    fs::File,
    io::Write,
    os::unix::fs::OpenOptionsExt,
    path::Path,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};
use tokio::sync::{mpsc, watch};

/// Reads hardly ever wait for each other; more connections would only cost memory.
const READERS: usize = 4;
/// Writers that wait beyond it wait at the channel.
const QUEUE: usize = 1024;
/// A store that was just dropped in this process, or a process that is just ending, gives the lock back within this.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);

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
#[derive(Clone, Debug)]
pub struct Options {
    pub clock: Clock,
    pub history: History,
}

impl Default for Options {
    fn default() -> Self {
        Self { clock: Clock::system(), history: History::default() }
    }
}

impl Store {
    /// Opens (and creates or migrates) the database at `path`; refuses it when another process has it open.
    pub async fn open(path: &Path) -> Result<Self, Error> {
        Self::open_with(path, Options::default()).await
    }

    /// Like [`Store::open`], with another clock or history.
    pub async fn open_with(path: &Path, options: Options) -> Result<Self, Error> {
        let lock = lock(path, &options.clock).await?;
        private(path)?;
        let connect = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            // A commit that was answered survives a power cut.
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(Duration::from_secs(10))
            .disable_statement_logging();
        let mut connection = connect.connect().await?;
        migrations::run(&mut connection).await?;
        let epoch = take_over(&mut connection).await?;
        let (installation,): (String,) =
            sqlx::query_as("SELECT value FROM meta WHERE key = 'installation'").fetch_one(&mut connection).await?;
        let revision = read::newest(&mut connection).await?;
        let mut connections = Vec::new();
        for _ in 0..READERS {
            connections.push(connect.clone().pragma("query_only", "ON").connect().await?);
        }
        let readers = read::Readers::new(connections);
        let (requests, incoming) = mpsc::channel(QUEUE);
        let (publish, revisions) = watch::channel::<Revision>(revision);
        let clock = options.clock.clone();
        let writes = Arc::new(AtomicU64::new(0));
        let counted = writes.clone();
        let writer = Writer { connection, requests: incoming, revisions: publish, readers: readers.clone(), clock, epoch, lock, counted };
        tokio::spawn(writer.run());
        let store = Self { shared: Arc::new(Shared { requests, readers, revisions, epoch, installation, writes }) };
        tokio::spawn(compact::regularly(Arc::downgrade(&store.shared), store.revisions(), options));
        Ok(store)
    }
}

/// Takes the lock file beside the database; the kernel gives it back however this process ends.
async fn lock(path: &Path, clock: &Clock) -> Result<File, Error> {
    let lock_path = path.with_added_extension("lock");
    let cannot = |what: &str, e: &dyn std::fmt::Display| Error::Locked(format!("the database {} cannot be {what}: {e}", path.display()));
    let mut file = File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&lock_path)
        .map_err(|e| cannot("locked", &e))?;
    let pause = Duration::from_millis(20);
    let mut waited = Duration::ZERO;
    loop {
        match file.try_lock() {
            Ok(()) => break,
            Err(std::fs::TryLockError::Error(e)) => return Err(cannot("locked", &e)),
            Err(std::fs::TryLockError::WouldBlock) if waited < LOCK_PATIENCE => clock.sleep(pause).await,
            Err(std::fs::TryLockError::WouldBlock) => {
                let owner = std::fs::read_to_string(&lock_path).unwrap_or_default();
                return Err(Error::Locked(format!(
                    "another autovibe (process {}) has the database {} open; stop it first, or use another --data directory",
                    owner.trim(),
                    path.display()
                )));
            }
        }
        waited += pause;
    }
    // Only for the message above: the lock itself is the kernel's.
    let written = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
    written.map_err(|e| cannot("locked", &e))?;
    Ok(file)
}

/// Makes the database file readable by its owner alone before SQLite makes it for everyone; its siblings follow its mode.
fn private(path: &Path) -> Result<(), Error> {
    match File::options().write(true).create_new(true).mode(0o600).open(path) {
        Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => Err(Error::Database(e.into())),
        _ => Ok(()),
    }
}

/// Begins a new epoch, so that whoever held the store before can write no more; gives the installation its id.
async fn take_over(connection: &mut SqliteConnection) -> Result<i64, Error> {
    sqlx::query("INSERT OR IGNORE INTO meta (key, value) VALUES ('installation', $1)")
        .bind(uuid::Uuid::new_v4().to_string())
        .execute(&mut *connection)
        .await?;
    let sql = "UPDATE meta SET value = CAST(CAST(value AS INTEGER) + 1 AS TEXT) WHERE key = 'epoch' RETURNING CAST(value AS INTEGER)";
    let (epoch,): (i64,) = sqlx::query_as(sql).fetch_one(connection).await?;
    Ok(epoch)
}
