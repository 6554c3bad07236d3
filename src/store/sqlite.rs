//! What is SQLite's own: the file and its lock, the settings, one writer by `BEGIN IMMEDIATE`.

use super::{Error, database::Purpose};
use crate::clock::Clock;
use sqlx::error::DatabaseError;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteError, SqliteJournalMode, SqliteSynchronous};
use sqlx::{ConnectOptions, Connection as _};
use std::{cell::Cell, fs::File, io::Write, os::unix::fs::OpenOptionsExt, path::Path, time::Duration};

/// A store that was just dropped in this process, or a process that is just ending, gives the lock back within this.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);

/// How long a statement waits for another process: a backup, or a person's sqlite3.
pub(super) const BUSY: Duration = Duration::from_secs(10);

/// Bytes that the WAL keeps once it was copied back; it grows beyond them while someone reads for long.
const WAL_KEPT: &str = "16777216";

/// Takes the write lock; a commit is then in revision order, for there is no other writer.
pub(super) const BEGIN: &str = "BEGIN IMMEDIATE";

/// The highest revision ever given, also when its log entry is gone; no row before the first.
pub(super) const NEWEST: &str = "SELECT seq FROM sqlite_sequence WHERE name = 'log'";

/// The key's row.
macro_rules! this {
    () => {
        "resource = $1 AND namespace = $2 AND name = $3"
    };
}

/// Adds the object of a key (1 to 3) at a time (4) with a document (6) unless there is one; the revision, if it did. Several
/// statements that are sent at once: each is a way to SQLite's own thread and back. The log counts the revisions (5 is null).
macro_rules! add {
    ($before:literal, $after:literal) => {
        concat!(
            $before,
            "INSERT INTO log (revision, change, resource, namespace, name, document, at_seconds) \
             SELECT $5, 'Added', $1, $2, $3, $6, $4 WHERE NOT EXISTS (SELECT 1 FROM objects WHERE ",
            this!(),
            "); \
             INSERT INTO objects (resource, namespace, name, revision, document) \
             SELECT $1, $2, $3, last_insert_rowid(), $6 WHERE NOT EXISTS (SELECT 1 FROM objects WHERE ",
            this!(),
            ") RETURNING revision",
            $after
        )
    };
}

/// Replaces the document of a key's object, if it is at a revision (7) or that is null; the new revision, if it did.
macro_rules! modify {
    ($before:literal, $after:literal) => {
        concat!(
            $before,
            "INSERT INTO log (revision, change, resource, namespace, name, document, previous, previous_revision, at_seconds) \
             SELECT $5, 'Modified', resource, namespace, name, $6, document, revision, $4 FROM objects WHERE ",
            this!(),
            " AND ($7 IS NULL OR revision = $7); \
             UPDATE objects SET revision = last_insert_rowid(), document = $6 WHERE ",
            this!(),
            " AND ($7 IS NULL OR revision = $7) RETURNING revision",
            $after
        )
    };
}

pub(super) const ADD: &str = add!("", "");
pub(super) const MODIFY: &str = modify!("", "");
/// The same as a whole transaction.
pub(super) const ADD_ALONE: &str = add!("BEGIN IMMEDIATE; ", "; COMMIT");
pub(super) const MODIFY_ALONE: &str = modify!("BEGIN IMMEDIATE; ", "; COMMIT");

/// Removes a key's object, if it is at a revision (6) or that is null; the revision of its deletion and its document, if it did.
pub(super) const REMOVE: &str = concat!(
    "INSERT INTO log (revision, change, resource, namespace, name, document, previous, previous_revision, at_seconds) \
     SELECT $5, 'Deleted', resource, namespace, name, document, document, revision, $4 FROM objects WHERE ",
    this!(),
    " AND ($6 IS NULL OR revision = $6); \
     DELETE FROM objects WHERE ",
    this!(),
    " AND ($6 IS NULL OR revision = $6) RETURNING last_insert_rowid(), document"
);

thread_local! {
    static IN_PLACE: Cell<bool> = const { Cell::new(false) };
}

/// From now on this thread waits for SQLite where it stands, instead of doing other work meanwhile: under a paused clock no
/// time passes then, and what a simulation does comes in the same order in each run.
pub fn wait_in_place() {
    IN_PLACE.set(true);
}

/// What SQLite's own thread does.
pub(super) async fn done<F: Future>(work: F) -> F::Output {
    if IN_PLACE.get() { futures::executor::block_on(work) } else { work.await }
}

pub(super) async fn connect(path: &Path, purpose: Purpose) -> Result<SqliteConnection, Error> {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        // A commit that was answered survives a power cut.
        .synchronous(SqliteSynchronous::Full)
        .foreign_keys(true)
        // What a long backup has made of the WAL is given back afterwards.
        .pragma("journal_size_limit", WAL_KEPT)
        .busy_timeout(BUSY)
        .disable_statement_logging();
    let options = match purpose {
        Purpose::Read => options.pragma("query_only", "ON"),
        Purpose::Write => options,
    };
    Ok(done(SqliteConnection::connect_with(&options)).await?)
}

/// The extended code of a result. Source: SQLite, "Result and Error Codes".
fn code(error: &sqlx::Error) -> Option<i32> {
    let sqlx::Error::Database(error) = error else { return None };
    error.try_downcast_ref::<SqliteError>()?.code()?.parse().ok()
}

/// Whether this passes: SQLITE_BUSY, SQLITE_LOCKED, SQLITE_READONLY and SQLITE_FULL. Nothing was written.
pub(super) fn is_passing(error: &sqlx::Error) -> bool {
    code(error).is_some_and(|code| matches!(code & 0xff, 5 | 6 | 8 | 13))
}

/// What a failed commit says. When it was a sync that failed, SQLITE_IOERR_FSYNC, all was written, and what came to the disk is
/// not known: whoever opens the file next finds it or not. A write that fails leaves no commit, for that is written last.
pub(super) fn not_synced(error: Error) -> Error {
    match error {
        Error::Database(why) if code(&why) == Some(1034) => Error::Unknown(why.to_string()),
        other => other,
    }
}

/// Takes the lock file beside the database; the kernel gives it back however this process ends.
pub(super) async fn lock(path: &Path, clock: &Clock) -> Result<File, Error> {
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
pub(super) fn private(path: &Path) -> Result<(), Error> {
    match File::options().write(true).create_new(true).mode(0o600).open(path) {
        Err(e) if e.kind() != std::io::ErrorKind::AlreadyExists => {
            Err(Error::Locked(format!("the database {} cannot be made: {e}", path.display())))
        }
        _ => Ok(()),
    }
}
