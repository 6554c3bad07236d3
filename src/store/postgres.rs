//! What is PostgreSQL's own: sessions, the one lock that makes commits follow revisions, and what became of a lost commit.
//!
//! Every write transaction first locks the row of the revision counter and holds it until it has committed. So revisions
//! become visible in their order, whichever process commits, a rollback leaves no gap, and no two writers meet anywhere else:
//! there is nothing to deadlock or to serialize.

use super::{Error, Key, Revision, database::Purpose, job, lineage, lineage::lines, migrations, migrations::newest_migration, news::News};
use crate::clock::Clock;
use jiff::SignedDuration;
use secrecy::{ExposeSecret, SecretString};
use sqlx::postgres::{PgConnectOptions, PgConnection, PgListener, PgPoolOptions, PgSslMode};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection as _, Row as _};
use std::{
    borrow::Cow,
    cell::RefCell,
    fmt,
    str::FromStr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

/// The server ends a statement of ours after 30 s (below); one that does not even say that is gone.
const ANSWER: Duration = Duration::from_secs(40);
/// The sessions of a hub that has just ended are gone within this.
const GONE: SignedDuration = SignedDuration::from_secs(2);
const LOOK: Duration = Duration::from_millis(50);
/// What takes no time at the server, and waits there for 10 s at most (`lock_timeout` below), is answered within this.
const SHORT: Duration = Duration::from_secs(12);
/// The same of what waits for nothing there.
const SHORTEST: Duration = Duration::from_secs(3);
/// Who waits for a change learns of it within this, also when nothing tells us.
const CATCH_UP: Duration = Duration::from_secs(1);

pub(super) const NEWEST: &str = "SELECT number FROM revisions";

/// The lock of the migrations: any number that nobody else in this database uses.
pub(super) const BEGIN_MIGRATION: &str = "BEGIN; SELECT pg_advisory_xact_lock(7061756572)";

/// Who listens is told at the commit that there is something new. In a transaction that has failed it is an error, where
/// `COMMIT` alone would roll back and say that all is well; so it also stands where nobody needs to be told.
pub(super) const COMMIT_AND_TELL: &str = "NOTIFY autovibe; COMMIT";
const COMMIT: &str = "SELECT 1; COMMIT";

/// What [`super::sqlite`]'s do, with the revision that they are given.
pub(super) const ADD: &str = "WITH added AS (INSERT INTO objects (resource, namespace, name, revision, document) \
     VALUES ($1, $2, $3, $5, $6) ON CONFLICT DO NOTHING RETURNING revision) \
     INSERT INTO log (revision, change, resource, namespace, name, document, at_seconds) \
     SELECT revision, 'Added', $1, $2, $3, $6, $4 FROM added RETURNING revision";
pub(super) const MODIFY: &str = "WITH before AS (SELECT document, revision FROM objects \
     WHERE resource = $1 AND namespace = $2 AND name = $3 AND ($7 IS NULL OR revision = $7)), \
     modified AS (UPDATE objects SET revision = $5, document = $6 WHERE resource = $1 AND namespace = $2 AND name = $3 \
     AND ($7 IS NULL OR revision = $7)) \
     INSERT INTO log (revision, change, resource, namespace, name, document, previous, previous_revision, at_seconds) \
     SELECT $5, 'Modified', $1, $2, $3, $6, document, revision, $4 FROM before RETURNING revision";
/// Many puts: keys (1 to 3), expected revisions (4; null is any, -1 none at all), documents (5), the time (6), the newest revision (7).
/// Those that find what they expect get the next revisions in their order. Of each: its number, its revision or null, and whether
/// there was such an object.
pub(super) const PUT_ALL: &str = "WITH wanted AS (SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::text[]) \
     WITH ORDINALITY AS wanted (resource, namespace, name, expected, document, n)), \
     found AS (SELECT wanted.*, objects.revision AS before_revision, objects.document AS before FROM wanted \
     LEFT JOIN objects USING (resource, namespace, name)), \
     sound AS (SELECT *, $7 + row_number() OVER (ORDER BY n) AS revision FROM found WHERE CASE WHEN expected = -1 THEN before_revision IS NULL \
     WHEN expected IS NULL THEN before_revision IS NOT NULL ELSE expected = before_revision END), \
     added AS (INSERT INTO objects (resource, namespace, name, revision, document) \
     SELECT resource, namespace, name, revision, document FROM sound WHERE before_revision IS NULL), \
     modified AS (UPDATE objects SET revision = sound.revision, document = sound.document FROM sound WHERE before_revision IS NOT NULL \
     AND objects.resource = sound.resource AND objects.namespace = sound.namespace AND objects.name = sound.name), \
     logged AS (INSERT INTO log (revision, change, resource, namespace, name, document, previous, previous_revision, at_seconds) \
     SELECT revision, CASE WHEN before_revision IS NULL THEN 'Added' ELSE 'Modified' END, resource, namespace, name, document, before, before_revision, $6 \
     FROM sound) \
     SELECT found.n, sound.revision, found.before_revision IS NOT NULL FROM found LEFT JOIN sound USING (n) ORDER BY n";
/// Replaces a document and commits, all in one: of a key (1 to 3) at a time (4), the revision that follows the newest (5), with a
/// document (6), if the object is at a revision (7), the newest is the one that is known here (8), the newest migration too (9), and
/// the database went nowhere, by a writer (10) who notes that it did so (11). What it reads is the state of that newest revision: the
/// row that each writer locks is taken as it is when the lock was got, and nothing is done if it says another number, or if what is noted
/// of the writer is not there or not older: see [`was_committed`]. The server's process, if it did.
const REPLACE: &str = concat!(
    "WITH ours AS (SELECT number FROM revisions CROSS JOIN (SELECT ",
    lines!(),
    ") AS lines (line, noted) WHERE number = $8 AND (line = '' OR noted = '' OR line = noted) AND $9 = ",
    newest_migration!(),
    " FOR UPDATE OF revisions), \
     before AS (SELECT document, revision FROM objects CROSS JOIN ours \
     WHERE resource = $1 AND namespace = $2 AND name = $3 AND revision = $7), \
     sound AS (UPDATE writers SET batch = $11, at = now() FROM before WHERE writer = $10::uuid AND batch < $11 \
     RETURNING before.document, before.revision), \
     counted AS (UPDATE revisions SET number = $5 FROM sound), \
     replaced AS (UPDATE objects SET revision = $5, document = $6 FROM sound \
     WHERE resource = $1 AND namespace = $2 AND name = $3 AND objects.revision = $7), \
     logged AS (INSERT INTO log (revision, change, resource, namespace, name, document, previous, previous_revision, at_seconds) \
     SELECT $5, 'Modified', $1, $2, $3, $6, document, revision, $4 FROM sound) \
     SELECT pg_backend_pid(), pg_notify('autovibe', '')::text FROM sound"
);
pub(super) const REMOVE: &str = "WITH removed AS (DELETE FROM objects WHERE resource = $1 AND namespace = $2 AND name = $3 \
     AND ($6 IS NULL OR revision = $6) RETURNING document, revision) \
     INSERT INTO log (revision, change, resource, namespace, name, document, previous, previous_revision, at_seconds) \
     SELECT $5, 'Deleted', $1, $2, $3, document, document, revision, $4 FROM removed RETURNING revision, document";

/// How a server is reached.
#[derive(Clone)]
pub struct Server {
    url: SecretString,
    options: PgConnectOptions,
}

impl Server {
    pub(super) fn parse(url: &str) -> Result<Self, Error> {
        let options = PgConnectOptions::from_str(url).map_err(|_| {
            Error::Url("the address of the PostgreSQL database cannot be read; write postgres://USER:PASSWORD@HOST:PORT/NAME".into())
        })?;
        if options.get_database().is_none() {
            return Err(Error::Url("the address of the PostgreSQL server names no database; add /NAME".into()));
        }
        let options = with_files(options, url)?;
        Ok(Self { url: url.into(), options: options.application_name("autovibe").disable_statement_logging() })
    }

    /// How sessions are opened: each says for itself what a server's configuration may say otherwise.
    pub(super) fn options(&self, purpose: Purpose) -> PgConnectOptions {
        // A process that stops in the middle of a transaction, or a machine that vanishes, gives the lock back within 5 s.
        let common = [("statement_timeout", "30s"), ("lock_timeout", "10s"), ("idle_in_transaction_session_timeout", "5s")];
        let own = match purpose {
            // So that all statements of a read see one state.
            Purpose::Read => [("default_transaction_isolation", "repeatable read"), ("default_transaction_read_only", "on")],
            // So that each statement sees what the lock waited for; and what was answered is on disk.
            Purpose::Write => [("default_transaction_isolation", "read committed"), ("synchronous_commit", "on")],
        };
        self.options.clone().options(common).options(own)
    }

    pub(super) async fn connect(&self, purpose: Purpose) -> Result<PgConnection, Error> {
        let options = self.options(purpose);
        let connected = async {
            let mut connection = within(SHORT, PgConnection::connect_with(&options)).await?;
            if purpose == Purpose::Write {
                lineage::note(&mut connection).await?;
            }
            Ok(connection)
        };
        connected.await.map_err(|error| match error {
            Error::Unavailable(why) => Error::Unavailable(format!("{self} cannot be used: {why}")),
            // It will say the same again: of the certificate, the password, the database's name.
            Error::Database(why) => Error::Url(format!("{self} cannot be used: {why}")),
            other => other,
        })
    }
}

/// Looks after the files that the address names: an error at the connection would not say which. A CA is not named to be
/// ignored: with one, `require` checks the certificate, as libpq documents it.
fn with_files(options: PgConnectOptions, url: &str) -> Result<PgConnectOptions, Error> {
    let mut options = options;
    for (key, file) in url::Url::parse(url).iter().flat_map(url::Url::query_pairs) {
        if matches!(&*key, "sslrootcert" | "sslcert" | "sslkey") {
            std::fs::File::open(&*file).map_err(|e| Error::Url(format!("{key}={file} cannot be read: {e}")))?;
        }
        if key == "sslrootcert" && matches!(options.get_ssl_mode(), PgSslMode::Require) {
            options = options.ssl_mode(PgSslMode::VerifyCa);
        }
    }
    Ok(options)
}

/// Whether the peer's certificate was not taken, which another try does not change.
fn is_distrust(error: &std::io::Error) -> bool {
    error.get_ref().is_some_and(|error| matches!(error.downcast_ref(), Some(rustls::Error::InvalidCertificate(_))))
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let host = match self.options.get_socket() {
            Some(socket) => socket.display().to_string(),
            None => self.options.get_host().to_owned(),
        };
        write!(f, "postgres://{host}:{}/{}", self.options.get_port(), self.options.get_database().unwrap_or_default())
    }
}

/// Refuses a database whose texts are not Unicode, and forgets writers that are long gone.
pub(super) async fn prepare(connection: &mut PgConnection) -> Result<(), Error> {
    let (encoding,): (String,) = patiently(sqlx::query_as("SHOW server_encoding").fetch_one(&mut *connection)).await?;
    if encoding != "UTF8" {
        return Err(Error::Url(format!("the database's encoding is {encoding}; create one with UTF8")));
    }
    patiently(sqlx::raw_sql("DELETE FROM writers WHERE at < now() - INTERVAL '7 days'").execute(&mut *connection)).await?;
    lineage::begin(connection).await
}

/// What a process knows at the beginning of a batch, the lock being held.
pub(super) struct Begun {
    /// The newest revision that anyone committed.
    pub(super) newest: i64,
    /// See [`lineage`].
    pub(super) line: String,
    pub(super) noted: String,
    /// The server's process for this session.
    pub(super) process: u32,
    /// See [`migrations::newest_migration`].
    pub(super) schema: String,
}

/// Begins a batch: takes the lock, and notes who commits what, so that the outcome of a lost commit can be looked up.
pub(super) async fn begin(connection: &mut PgConnection, writer: Uuid, batch: i64) -> Result<Begun, Error> {
    let sql = format!(
        "BEGIN; SELECT number FROM revisions FOR UPDATE; \
         INSERT INTO writers (writer, batch) VALUES ('{writer}', {batch}) ON CONFLICT (writer) DO UPDATE SET batch = excluded.batch, at = now(); \
         SELECT number, {}, pg_backend_pid(), {} FROM revisions",
        lines!(),
        newest_migration!()
    );
    let rows = within(SHORT, sqlx::raw_sql(AssertSqlSafe(sql)).fetch_all(connection)).await?;
    let row = rows.last().ok_or_else(|| Error::Corrupt("the database has no revision counter".into()))?;
    Ok(Begun {
        newest: row.try_get(0)?,
        line: row.try_get(1)?,
        noted: row.try_get(2)?,
        process: row.try_get::<i32, _>(3)?.cast_unsigned(),
        schema: row.try_get(4)?,
    })
}

/// What is to be put, column by column.
#[derive(Default)]
pub(super) struct Puts {
    pub(super) resources: Vec<String>,
    pub(super) namespaces: Vec<String>,
    pub(super) names: Vec<String>,
    pub(super) expected: Vec<Option<i64>>,
    pub(super) documents: Vec<String>,
}

/// Runs [`PUT_ALL`]: of each, in order, its revision, unless what it expects is not so, and whether there was such an object.
pub(super) async fn put_all(connection: &mut PgConnection, puts: Puts, now: i64, newest: i64) -> Result<Vec<(Option<i64>, bool)>, Error> {
    let documents: Vec<Cow<'_, str>> = puts.documents.iter().map(|text| storable(text)).collect();
    let statement = sqlx::query_as::<_, (i64, Option<i64>, bool)>(PUT_ALL).bind(puts.resources).bind(puts.namespaces).bind(puts.names);
    let statement = statement.bind(puts.expected).bind(documents).bind(now).bind(newest);
    let rows = patiently(statement.fetch_all(connection)).await?;
    Ok(rows.into_iter().map(|(_, revision, was)| (revision, was)).collect())
}

/// A replacement that is all there is to commit.
pub(super) struct Replacement<'a> {
    pub(super) key: &'a Key,
    pub(super) at: Revision,
    pub(super) text: &'a str,
    pub(super) now: i64,
    /// The newest revision that is known here: it gets the one behind it.
    pub(super) known: i64,
    pub(super) writer: Uuid,
    pub(super) batch: i64,
}

/// Runs [`REPLACE`]: the server's process for this session, if it was done; it was not when something is not as expected, or when
/// the server refused it.
///
/// Errors: `Unavailable` when no answer came: it may have been done.
pub(super) async fn replace(connection: &mut PgConnection, replacement: &Replacement<'_>) -> Result<Option<u32>, Error> {
    let Replacement { key, at, text, now, known, writer, batch } = *replacement;
    let newest = migrations::newest_known();
    let statement = sqlx::query_as::<_, (i32, String)>(REPLACE).bind(&key.resource).bind(&key.namespace).bind(&key.name).bind(now);
    let statement = statement.bind(known + 1).bind(storable(text)).bind(at.0).bind(known).bind(newest).bind(writer.to_string()).bind(batch);
    // All rows: what follows them is the commit.
    match answered(ANSWER, statement.fetch_all(connection)).await? {
        Ok(rows) => Ok(rows.first().map(|(process, _)| process.cast_unsigned())),
        // It is one statement, which takes effect as a whole.
        Err(sqlx::Error::Database(refused)) => {
            tracing::debug!("a write is made step by step, for at once it was refused: {refused}");
            Ok(None)
        }
        Err(lost) => Err(Error::Unavailable(lost.to_string())),
    }
}

/// Its texts cannot hold a NUL.
pub(super) fn storable(text: &str) -> Cow<'_, str> {
    if text.contains('\0') { text.replace('\0', "\u{FFFD}").into() } else { text.into() }
}

/// Commits a batch, and what it made the newest revision, if it made any.
pub(super) async fn commit(connection: &mut PgConnection, newest: Option<i64>) -> Result<(), Error> {
    let sql = match newest {
        Some(newest) => format!("UPDATE revisions SET number = {newest}; {COMMIT_AND_TELL}"),
        None => COMMIT.to_owned(),
    };
    patiently(sqlx::raw_sql(AssertSqlSafe(sql)).execute(connection)).await.map(drop)
}

/// Whether a batch whose answer was lost was committed. Waits for its transaction to end, by taking the lock. If it was not, it never
/// is: a [`REPLACE`] that is still on its way to the server finds nothing noted of its writer, until the next [`begin`].
pub(super) async fn was_committed(connection: &mut PgConnection, writer: Uuid, batch: i64) -> Result<bool, Error> {
    let sql = format!(
        "BEGIN; SELECT number FROM revisions FOR UPDATE; DELETE FROM writers WHERE writer = '{writer}' AND batch < {batch}; \
         SELECT COALESCE((SELECT batch FROM writers WHERE writer = '{writer}'), -1); COMMIT"
    );
    let rows = patiently(sqlx::raw_sql(AssertSqlSafe(sql)).fetch_all(connection)).await?;
    let row = rows.last().ok_or_else(|| Error::Corrupt("the database did not say what it committed".into()))?;
    Ok(row.try_get::<i64, _>(0)? >= batch)
}

/// What the other processes on the database do.
pub(super) struct Others {
    pub(super) server: Server,
    pub(super) news: Arc<News>,
    pub(super) clock: Clock,
    /// The server's process for our own writer, who tells of its commits itself: only then is known here what they changed.
    pub(super) own: Arc<AtomicU32>,
    /// To the writer, who does what must be done when the database went back.
    pub(super) writer: mpsc::WeakSender<job::Request>,
}

/// Publishes what other processes commit. Told by them, and without that by looking; so
/// nothing depends on being told.
pub(super) async fn follow(others: Others) {
    let mut said = false;
    loop {
        let Err(error) = listen(&others, &mut said).await;
        if !said {
            tracing::warn!("changes of other processes are not seen now: {error}; trying again every {} s", CATCH_UP.as_secs());
            said = true;
        }
        others.clock.sleep(CATCH_UP).await;
    }
}

async fn listen(others: &Others, said: &mut bool) -> Result<std::convert::Infallible, Error> {
    let pool = PgPoolOptions::new().max_connections(1).max_lifetime(None).idle_timeout(None);
    let mut listener = patiently(PgListener::connect_with(&pool.connect_lazy_with(others.server.options(Purpose::Read)))).await?;
    patiently(listener.listen("autovibe")).await?;
    *said = false;
    // It may be another server than before.
    look(others).await;
    loop {
        let (newest,): (i64,) = within(SHORTEST, sqlx::query_as(NEWEST).fetch_one(&mut listener)).await?;
        if newest < others.news.newest().0 {
            look(others).await;
        }
        others.news.publish(Revision(newest), None);
        let tick = others.clock.sleep(CATCH_UP);
        tokio::pin!(tick);
        loop {
            tokio::select! {
                told = listener.try_recv() => match told? {
                    Some(told) if told.process_id() == others.own.load(Ordering::Relaxed) => {}
                    Some(_) => break,
                    None => return Err(Error::Unavailable("the connection was lost".into())),
                },
                () = &mut tick => break,
            }
        }
        while listener.next_buffered().is_some() {}
    }
}

/// Has the writer look at the database, which it does before each write: here before one that keeps nothing.
async fn look(others: &Others) {
    let (reply, answer) = oneshot::channel();
    let nothing = job::any(|_| Box::pin(async { Err::<(), _>(Error::Closed) }), reply);
    if let Some(writer) = others.writer.upgrade() {
        let sent = writer.send(job::Request::Write(nothing)).await;
        drop(writer);
        if sent.is_ok() {
            let _ = answer.await;
        }
    }
}

/// Waits for an answer of the server, but not for ever: a peer that vanished says nothing.
pub(super) async fn patiently<T>(answer: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, Error> {
    within(ANSWER, answer).await
}

pub(super) async fn within<T>(patience: Duration, answer: impl Future<Output = Result<T, sqlx::Error>>) -> Result<T, Error> {
    Ok(answered(patience, answer).await??)
}

/// What came within so much time. Errors: `Unavailable` when nothing did.
async fn answered<T>(patience: Duration, answer: impl Future<Output = Result<T, sqlx::Error>>) -> Result<Result<T, sqlx::Error>, Error> {
    // Boxed, for it would make the futures of SQLite's statements larger too.
    let answer = Box::pin(answer);
    let answered = match SESSIONS.with_borrow(Clone::clone) {
        None => tokio::time::timeout(patience, answer).await,
        Some(sessions) => {
            // Its clock is the one that the time is taken by.
            let _of_theirs = sessions.enter();
            futures::executor::block_on(tokio::task::unconstrained(tokio::time::timeout(patience, answer)))
        }
    };
    answered.map_err(|_| Error::Unavailable(format!("it did not answer within {} s", patience.as_secs())))
}

thread_local! {
    static SESSIONS: RefCell<Option<Handle>> = const { RefCell::new(None) };
}

/// From now on this thread waits for PostgreSQL where it stands, as it does for SQLite after [`super::wait_in_place`]. What it opens
/// belongs to `sessions`, a runtime with threads and a clock of its own, which goes on meanwhile.
pub fn wait_in_place_of(sessions: Handle) {
    SESSIONS.set(Some(sessions));
}

/// Whether this is the server's state rather than the statement's fault: what failed may be tried again in whole.
/// Source: PostgreSQL, appendix A, "PostgreSQL Error Codes".
pub(super) fn is_passing(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(error) => !is_distrust(error),
        sqlx::Error::Protocol(_) | sqlx::Error::PoolTimedOut => true,
        sqlx::Error::Database(error) => error.code().is_some_and(|code| {
            let classes = ["08", "40", "53", "57"];
            // lock_not_available, read_only_sql_transaction (a standby), idle_in_transaction_session_timeout, io_error
            let codes = ["55P03", "25006", "25P03", "58030"];
            code.len() == 5 && (classes.iter().any(|class| code.starts_with(class)) || codes.contains(&&*code))
        }),
        _ => false,
    }
}

impl Server {
    /// Refuses to go on while other processes of autovibe use the database.
    pub(super) async fn refuse_others(&self, clock: &Clock) -> Result<(), Error> {
        let mut connection = self.connect(Purpose::Read).await?;
        let sql = "SELECT count(*) FROM pg_stat_activity \
                   WHERE datname = current_database() AND application_name = 'autovibe' AND pid <> pg_backend_pid()";
        let until = clock.now() + GONE;
        let others = loop {
            let (others,): (i64,) = patiently(sqlx::query_as(sql).fetch_one(&mut connection)).await?;
            if others == 0 || clock.now() > until {
                break others;
            }
            clock.sleep(LOOK).await;
        };
        patiently(connection.close()).await?;
        if others > 0 {
            return Err(Error::Locked(format!("{others} sessions of autovibe are open on {self}; stop all hubs on it first")));
        }
        Ok(())
    }

    /// The parts that PostgreSQL's own programs need: the address without its password, and the password.
    pub(super) fn apart(&self) -> Result<(String, SecretString), Error> {
        let mut url = url::Url::parse(self.url.expose_secret()).map_err(|e| Error::Url(format!("the database's address: {e}")))?;
        let written = url.password().unwrap_or_default().to_owned();
        let mut password = percent_encoding::percent_decode_str(&written).decode_utf8_lossy().into_owned();
        let _ = url.set_password(None);
        let mut kept = Vec::new();
        for (key, value) in url.query_pairs() {
            if key == "password" {
                password = value.into_owned();
            } else {
                kept.push((key.into_owned(), value.into_owned()));
            }
        }
        url.set_query(None);
        if !kept.is_empty() {
            url.query_pairs_mut().extend_pairs(kept);
        }
        Ok((url.into(), password.into()))
    }
}
