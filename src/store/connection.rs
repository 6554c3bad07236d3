//! A connection to either engine, and statements that both understand.
//!
//! The SQL of this module is written once, in what the engines share: `$1` placeholders, `ON CONFLICT`, `RETURNING`, integers
//! of 64 bits, texts, bytes. What they do not share stands in `sqlite` and `postgres`.

use super::{Error, postgres, sqlite::done};
use sqlx::postgres::{PgArguments, PgConnection, PgRow};
use sqlx::sqlite::{SqliteArguments, SqliteConnection, SqliteRow};
use sqlx::{Arguments, Connection as _, FromRow, Postgres, Sqlite};
use std::{borrow::Cow, time::Duration};

/// A server that does not answer within this is not asked any more.
const PING: Duration = Duration::from_secs(5);

/// An open connection.
pub(super) enum Connection {
    Sqlite(SqliteConnection),
    Postgres(PgConnection),
}

/// A borrowed connection, to run one statement on.
pub(super) enum Link<'c> {
    Sqlite(&'c mut SqliteConnection),
    Postgres(&'c mut PgConnection),
}

/// A read transaction: its statements see one state.
pub(super) enum Snapshot<'c> {
    Sqlite(sqlx::Transaction<'c, Sqlite>),
    Postgres(sqlx::Transaction<'c, Postgres>),
}

impl Connection {
    pub(super) fn link(&mut self) -> Link<'_> {
        match self {
            Self::Sqlite(connection) => Link::Sqlite(connection),
            Self::Postgres(connection) => Link::Postgres(connection),
        }
    }

    /// Whether it can still be used after it lay idle.
    pub(super) async fn lives(&mut self) -> bool {
        match self {
            Self::Sqlite(_) => true,
            Self::Postgres(connection) => postgres::within(PING, connection.ping()).await.is_ok(),
        }
    }

    pub(super) async fn snapshot(&mut self) -> Result<Snapshot<'_>, Error> {
        Ok(match self {
            Self::Sqlite(connection) => Snapshot::Sqlite(done(connection.begin()).await?),
            Self::Postgres(connection) => Snapshot::Postgres(postgres::patiently(connection.begin()).await?),
        })
    }

    pub(super) async fn close(self) -> Result<(), Error> {
        match self {
            Self::Sqlite(connection) => done(connection.close()).await?,
            Self::Postgres(connection) => postgres::patiently(connection.close()).await?,
        }
        Ok(())
    }
}

impl Snapshot<'_> {
    pub(super) fn link(&mut self) -> Link<'_> {
        match self {
            Self::Sqlite(transaction) => Link::Sqlite(transaction),
            Self::Postgres(transaction) => Link::Postgres(transaction),
        }
    }

    /// Ends it now: what is dropped on PostgreSQL ends only when the connection is next used, or when the server tires of it.
    pub(super) async fn end(self) -> Result<(), Error> {
        match self {
            Self::Sqlite(_) => Ok(()),
            Self::Postgres(transaction) => postgres::patiently(transaction.rollback()).await,
        }
    }
}

impl Link<'_> {
    /// Runs statements without parameters, in order, until one fails.
    pub(super) async fn run(self, sql: &'static str) -> Result<(), Error> {
        match self {
            // Kept prepared, but for migrations and the like.
            Self::Sqlite(connection) if sql.len() < 50 => done(sqlx::query(sql).execute(connection)).await.map(drop)?,
            Self::Sqlite(connection) => done(sqlx::raw_sql(sql).execute(connection)).await.map(drop)?,
            Self::Postgres(connection) => postgres::patiently(sqlx::raw_sql(sql).execute(connection)).await.map(drop)?,
        }
        Ok(())
    }
}

/// Rows of either engine become it: tuples of `i64`, `String`, `Vec<u8>`, and options of these.
pub(super) trait Row: for<'r> FromRow<'r, SqliteRow> + for<'r> FromRow<'r, PgRow> + Send + Unpin {}

impl<T> Row for T where T: for<'r> FromRow<'r, SqliteRow> + for<'r> FromRow<'r, PgRow> + Send + Unpin {}

/// A parameter; its type stands also when it is null, for PostgreSQL asks.
pub(super) enum Value<'q> {
    Integer(Option<i64>),
    Text(Option<Cow<'q, str>>),
    Bytes(&'q [u8]),
}

/// A statement with its parameters.
pub(super) struct Statement<'q> {
    sql: &'static str,
    values: Vec<Value<'q>>,
}

/// Begins a statement.
pub(super) fn query<'q>(sql: &'static str) -> Statement<'q> {
    Statement { sql, values: Vec::new() }
}

impl<'q> Statement<'q> {
    /// Adds the next parameter.
    pub(super) fn bind(mut self, value: impl Into<Value<'q>>) -> Self {
        self.values.push(value.into());
        self
    }

    /// Runs it; how many rows it changed.
    pub(super) async fn execute(self, link: Link<'_>) -> Result<u64, Error> {
        Ok(match link {
            Link::Sqlite(connection) => done(sqlx::query_with(self.sql, self.sqlite()?).execute(connection)).await?.rows_affected(),
            Link::Postgres(connection) => {
                postgres::patiently(sqlx::query_with(self.sql, self.postgres()?).execute(connection)).await?.rows_affected()
            }
        })
    }

    pub(super) async fn fetch_optional<R: Row>(self, link: Link<'_>) -> Result<Option<R>, Error> {
        Ok(match link {
            Link::Sqlite(connection) => done(sqlx::query_as_with(self.sql, self.sqlite()?).fetch_optional(connection)).await?,
            Link::Postgres(connection) => {
                postgres::patiently(sqlx::query_as_with(self.sql, self.postgres()?).fetch_optional(connection)).await?
            }
        })
    }

    pub(super) async fn fetch_one<R: Row>(self, link: Link<'_>) -> Result<R, Error> {
        self.fetch_optional(link).await?.ok_or(Error::Database(sqlx::Error::RowNotFound))
    }

    pub(super) async fn fetch_all<R: Row>(self, link: Link<'_>) -> Result<Vec<R>, Error> {
        Ok(match link {
            Link::Sqlite(connection) => done(sqlx::query_as_with(self.sql, self.sqlite()?).fetch_all(connection)).await?,
            Link::Postgres(connection) => {
                postgres::patiently(sqlx::query_as_with(self.sql, self.postgres()?).fetch_all(connection)).await?
            }
        })
    }

    fn sqlite(&self) -> Result<SqliteArguments, Error> {
        let mut arguments = SqliteArguments::default();
        for value in &self.values {
            match value {
                Value::Integer(integer) => arguments.add(integer),
                Value::Text(text) => arguments.add(text.as_deref()),
                Value::Bytes(bytes) => arguments.add(*bytes),
            }
            .map_err(sqlx::Error::Encode)?;
        }
        Ok(arguments)
    }

    fn postgres(&self) -> Result<PgArguments, Error> {
        let mut arguments = PgArguments::default();
        for value in &self.values {
            match value {
                Value::Integer(integer) => arguments.add(integer),
                // What providers and agents say may hold a NUL.
                Value::Text(text) => arguments.add(text.as_deref().map(postgres::storable)),
                Value::Bytes(bytes) => arguments.add(*bytes),
            }
            .map_err(sqlx::Error::Encode)?;
        }
        Ok(arguments)
    }
}

macro_rules! values {
    ($($from:ty => |$value:ident| $to:expr;)*) => {
        $(impl<'q> From<$from> for Value<'q> {
            fn from($value: $from) -> Self {
                $to
            }
        })*
    };
}

values! {
    i64 => |value| Self::Integer(Some(value));
    u32 => |value| Self::Integer(Some(value.into()));
    bool => |value| Self::Integer(Some(value.into()));
    Option<i64> => |value| Self::Integer(value);
    Option<u16> => |value| Self::Integer(value.map(Into::into));
    String => |value| Self::Text(Some(value.into()));
    &'q str => |value| Self::Text(Some(value.into()));
    &'q String => |value| Self::Text(Some(value.into()));
    Option<&'q str> => |value| Self::Text(value.map(Into::into));
    Option<&'q String> => |value| Self::Text(value.map(Into::into));
    &'q Option<String> => |value| Self::Text(value.as_deref().map(Into::into));
    &'q [u8] => |value| Self::Bytes(value);
}
