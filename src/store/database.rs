//! Which database: a file of SQLite, or PostgreSQL on a server.

use super::{Error, connection::Connection, postgres, sqlite};
use crate::clock::Clock;
use jiff::SignedDuration;
use std::{fmt, path::PathBuf, str::FromStr, time::Duration};

/// How long a database that is away is waited for; a PostgreSQL that was killed is back within 2 s.
pub(super) const PATIENCE: SignedDuration = SignedDuration::from_secs(10);
pub(super) const PAUSE: Duration = Duration::from_millis(200);

/// Where the database is. Its texts never show a password.
#[derive(Clone)]
pub enum Database {
    /// The file; its directory exists.
    Sqlite(PathBuf),
    Postgres(Box<postgres::Server>),
}

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    Read,
    Write,
}

impl Database {
    pub(super) async fn connect(&self, purpose: Purpose) -> Result<Connection, Error> {
        Ok(match self {
            Self::Sqlite(path) => Connection::Sqlite(sqlite::connect(path, purpose).await?),
            Self::Postgres(server) => Connection::Postgres(server.connect(purpose).await?),
        })
    }

    /// Connects, and waits for a server that is away or full.
    pub(super) async fn reach(&self, purpose: Purpose, clock: &Clock) -> Result<Connection, Error> {
        let until = clock.now() + PATIENCE;
        loop {
            // Seldom needed, and its future is large.
            match Box::pin(self.connect(purpose)).await {
                Err(Error::Unavailable(_)) if clock.now() < until => clock.sleep(PAUSE).await,
                other => return other,
            }
        }
    }
}

impl FromStr for Database {
    type Err = Error;

    /// Reads `sqlite:///PATH` or `postgres://USER:PASSWORD@HOST:PORT/NAME?sslmode=…`, as libpq documents it.
    fn from_str(url: &str) -> Result<Self, Error> {
        if url.starts_with("postgres://") || url.starts_with("postgresql://") {
            return Ok(Self::Postgres(Box::new(postgres::Server::parse(url)?)));
        }
        match url.strip_prefix("sqlite://") {
            Some(path) if !path.is_empty() && !path.contains('?') => Ok(Self::Sqlite(path.into())),
            // What was given is not repeated: it may hold a password.
            _ => Err(Error::Url("write sqlite:///PATH or postgres://USER:PASSWORD@HOST:PORT/NAME".into())),
        }
    }
}

impl fmt::Display for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => write!(f, "sqlite://{}", path.display()),
            Self::Postgres(server) => server.fmt(f),
        }
    }
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
