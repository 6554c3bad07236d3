//! The numbered migrations and how they are brought into a database: all that are missing in one transaction, so that one
//! killed in the middle leaves nothing; under a lock, so that of several processes one does it.

use super::connection::{Connection, query};
use super::{Error, postgres, sqlite};

/// Number, name, text.
type Migration = (i64, &'static str, &'static str);

/// Every migration. Add yours at its number, for both engines; a landed one is never edited.
macro_rules! migrations {
    ($engine:literal) => {
        &[
            (1, "objects", include_str!(concat!("../../migrations/", $engine, "/0001_objects.sql"))),
            (2, "vmids", include_str!(concat!("../../migrations/", $engine, "/0002_vmids.sql"))),
            (3, "gateway", include_str!(concat!("../../migrations/", $engine, "/0003_gateway.sql"))),
            (4, "bundles", include_str!(concat!("../../migrations/", $engine, "/0004_bundles.sql"))),
            (5, "account_tokens", include_str!(concat!("../../migrations/", $engine, "/0005_account_tokens.sql"))),
            (6, "token_addresses", include_str!(concat!("../../migrations/", $engine, "/0006_token_addresses.sql"))),
        ]
    };
}

const SQLITE: &[Migration] = migrations!("sqlite");
const POSTGRES: &[Migration] = migrations!("postgres");

/// Brings the database up to date; refuses one that a newer autovibe made.
pub(super) async fn run(connection: &mut Connection) -> Result<(), Error> {
    let (begin, all) = match connection {
        Connection::Sqlite(_) => (sqlite::BEGIN, SQLITE),
        Connection::Postgres(_) => (postgres::BEGIN_MIGRATION, POSTGRES),
    };
    connection.link().run(begin).await?;
    let result = bring(connection, all).await;
    connection.link().run(if result.is_ok() { "COMMIT" } else { "ROLLBACK" }).await?;
    result
}

fn unknown(number: i64, name: &str) -> Error {
    Error::Corrupt(format!("the database has migration {number} ({name}), which this autovibe does not know; run a newer one"))
}

/// The newest migration of a PostgreSQL database, as one column; a newer autovibe may bring one in while this one runs.
macro_rules! newest_migration {
    () => {
        "(SELECT number || ' ' || name FROM migrations ORDER BY number DESC LIMIT 1)"
    };
}
pub(super) use newest_migration;

/// What [`newest_migration`] says of a database that is up to date.
pub(super) fn newest_known() -> String {
    POSTGRES.last().map(|(number, name, _)| format!("{number} {name}")).unwrap_or_default()
}

/// Errors: when [`newest_migration`] is one that this autovibe does not know.
pub(super) fn is_known(newest: &str) -> Result<(), Error> {
    let (number, name) = newest.split_once(' ').unwrap_or_default();
    match number.parse() {
        Ok(number) if POSTGRES.iter().all(|(known, ..)| *known < number) => Err(unknown(number, name)),
        _ => Ok(()),
    }
}

async fn bring(connection: &mut Connection, all: &[Migration]) -> Result<(), Error> {
    connection.link().run("CREATE TABLE IF NOT EXISTS migrations (number BIGINT PRIMARY KEY, name TEXT NOT NULL)").await?;
    let applied: Vec<(i64, String)> = query("SELECT number, name FROM migrations ORDER BY number").fetch_all(connection.link()).await?;
    for (number, name) in &applied {
        if !all.iter().any(|(known, ..)| known == number) {
            return Err(unknown(*number, name));
        }
    }
    for (number, name, text) in all.iter().filter(|(number, ..)| !applied.iter().any(|(seen, _)| seen == number)) {
        connection.link().run(text).await?;
        query("INSERT INTO migrations (number, name) VALUES ($1, $2)").bind(*number).bind(*name).execute(connection.link()).await?;
    }
    Ok(())
}
