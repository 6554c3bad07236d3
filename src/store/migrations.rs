//! The numbered migrations and how they are brought into a database. Each runs once, in order, in a transaction of its own.

use super::Error;
use sqlx::SqliteConnection;

/// Every migration: number, name, text. Add yours at its number; a landed one is never edited.
const ALL: &[(i64, &str, &str)] = &[
    (1, "objects", include_str!("../../migrations/sqlite/0001_objects.sql")),
    (2, "vmids", include_str!("../../migrations/sqlite/0002_vmids.sql")),
    (3, "gateway", include_str!("../../migrations/sqlite/0003_gateway.sql")),
    (4, "bundles", include_str!("../../migrations/sqlite/0004_bundles.sql")),
    (5, "account_tokens", include_str!("../../migrations/sqlite/0005_account_tokens.sql")),
];

/// Brings the database up to date; refuses one that a newer autovibe made.
pub(super) async fn run(connection: &mut SqliteConnection) -> Result<(), Error> {
    sqlx::query("CREATE TABLE IF NOT EXISTS migrations (number INTEGER PRIMARY KEY, name TEXT NOT NULL)").execute(&mut *connection).await?;
    let applied: Vec<(i64, String)> =
        sqlx::query_as("SELECT number, name FROM migrations ORDER BY number").fetch_all(&mut *connection).await?;
    for (number, name) in &applied {
        if !ALL.iter().any(|(known, ..)| known == number) {
            return Err(Error::Corrupt(format!(
                "the database has migration {number} ({name}), which this autovibe does not know; run a newer one"
            )));
        }
    }
    for (number, name, text) in ALL {
        if applied.iter().any(|(seen, _)| seen == number) {
            continue;
        }
        sqlx::query("BEGIN IMMEDIATE").execute(&mut *connection).await?;
        let result = apply(connection, *number, name, text).await;
        let end = if result.is_ok() { "COMMIT" } else { "ROLLBACK" };
        sqlx::query(end).execute(&mut *connection).await?;
        result?;
    }
    Ok(())
}

async fn apply(connection: &mut SqliteConnection, number: i64, name: &str, text: &'static str) -> Result<(), Error> {
    sqlx::raw_sql(text).execute(&mut *connection).await?;
    sqlx::query("INSERT INTO migrations (number, name) VALUES ($1, $2)").bind(number).bind(name).execute(connection).await?;
    Ok(())
}
