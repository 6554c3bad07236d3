//! Puts a backup in the place of a database. What was done since the backup is not in it, but clients and processes saw it:
//! so it goes on as `lineage` says.

use super::backup::{make_private, program, start, succeed, sync_parent, verify};
use super::database::Purpose;
use super::lineage::{self, REVISIONS};
use super::{Database, Error, postgres, sqlite};
use crate::clock::Clock;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection as _, Executor as _};
use std::{
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
    process::Stdio,
};
use tokio::{io::AsyncWriteExt, process::Command};

/// What to do with a database that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replace {
    Refuse,
    /// A file is kept under another name. In PostgreSQL nothing of it is kept.
    Overwrite,
}

/// Restores `file`, as [`super::backup()`] wrote it, while no hub runs. Returns where a replaced file is kept.
pub async fn restore(file: &Path, database: &Database, replace: Replace, clock: &Clock) -> Result<Option<PathBuf>, Error> {
    let mut head = [0; 16];
    let read = File::open(file).and_then(|mut file| file.read(&mut head));
    read.map_err(|e| Error::Backup(format!("{} cannot be read: {e}", file.display())))?;
    match database {
        Database::Sqlite(path) if head == *b"SQLite format 3\0" => restore_file(file, path, replace, clock).await,
        Database::Postgres(server) if head.starts_with(b"PGDMP") => restore_archive(file, server, replace, clock).await.map(|()| None),
        _ => Err(Error::Backup(format!("{} is no backup of the kind that {database} takes", file.display()))),
    }
}

async fn restore_file(file: &Path, path: &Path, replace: Replace, clock: &Clock) -> Result<Option<PathBuf>, Error> {
    let _lock = sqlite::lock(path, clock).await?;
    if path.exists() && replace == Replace::Refuse {
        return Err(Error::Backup(format!("there is a database at {}; --overwrite puts it aside", path.display())));
    }
    let cannot = |e: io::Error| Error::Backup(format!("{} cannot be restored: {e}", path.display()));
    let aside = path.with_added_extension("restoring");
    make_private(&aside)?;
    fs::copy(file, &aside).map_err(cannot)?;
    verify(&aside).await?;
    // Without a WAL: nothing but this one file is to be moved.
    let mut copy = SqliteConnectOptions::new().filename(&aside).disable_statement_logging().connect().await?;
    let counter = format!(
        "UPDATE sqlite_sequence SET seq = seq + {REVISIONS} WHERE name = 'log'; \
         INSERT INTO sqlite_sequence (name, seq) SELECT 'log', {REVISIONS} WHERE NOT EXISTS (SELECT 1 FROM sqlite_sequence WHERE name = 'log');"
    );
    copy.execute(AssertSqlSafe(format!("BEGIN; {} COMMIT;", lineage::statements(&counter, sqlite::NEWEST, "restore", clock)))).await?;
    copy.close().await?;
    File::open(&aside).and_then(|copy| copy.sync_all()).map_err(cannot)?;
    let kept = path.exists().then(|| path.with_added_extension(format!("replaced-{}", clock.now().as_second())));
    if let Some(kept) = &kept {
        fs::rename(path, kept).map_err(cannot)?;
    }
    // What belongs to the old file must not be taken for the new one's.
    for suffix in ["-wal", "-shm"] {
        let of = |path: &Path| PathBuf::from(format!("{}{suffix}", path.display()));
        let moved = match &kept {
            Some(kept) => fs::rename(of(path), of(kept)),
            None => fs::remove_file(of(path)),
        };
        moved.or_else(|e| if e.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(e) }).map_err(cannot)?;
    }
    fs::rename(&aside, path).and_then(|()| sync_parent(path)).map_err(cannot)?;
    Ok(kept)
}

/// In one transaction of `psql`: what `pg_restore` says, and ours at the end.
async fn restore_archive(file: &Path, server: &postgres::Server, replace: Replace, clock: &Clock) -> Result<(), Error> {
    server.refuse_others(clock).await?;
    let mut connection = server.connect(Purpose::Write).await?;
    let sql = "SELECT count(*) FROM pg_tables WHERE schemaname = current_schema()";
    let (tables,): (i64,) = sqlx::query_as(sql).fetch_one(&mut connection).await?;
    connection.close().await?;
    if tables > 0 && replace == Replace::Refuse {
        return Err(Error::Backup(format!("there are tables in {server}; --overwrite deletes them")));
    }
    let mut command = program(server, "psql")?;
    command.args(["--no-psqlrc", "--quiet", "--single-transaction", "--set=ON_ERROR_STOP=1", "--file=-"]);
    command.env("PGOPTIONS", "-c client_min_messages=warning").stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut psql = start("psql", &mut command)?;
    let mut command = Command::new("pg_restore");
    command.args(["--no-owner", "--no-privileges", "--file=-"]).arg(file).kill_on_drop(true);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut archive = start("pg_restore", &mut command)?;
    let (Some(mut input), Some(mut script)) = (psql.stdin.take(), archive.stdout.take()) else {
        return Err(Error::Backup("psql and pg_restore cannot be joined".into()));
    };
    let said = async move {
        input.write_all(CLEAR.as_bytes()).await?;
        tokio::io::copy(&mut script, &mut input).await?;
        Ok::<_, io::Error>(input)
    };
    let (said, archived) = tokio::join!(said, archive.wait_with_output());
    // One that ends early does not take all that is said; why, it says itself.
    let Ok(mut input) = said else { return succeed("psql", psql.wait_with_output().await) };
    if let Err(error) = succeed("pg_restore", archived) {
        // Before its input ends: that would commit.
        let _ = psql.kill().await;
        return Err(error);
    }
    let counter = format!("UPDATE revisions SET number = number + {REVISIONS};");
    let ours = lineage::statements(&counter, postgres::NEWEST, "restore", clock);
    let _ = input.write_all(format!("\nSET search_path TO DEFAULT;\n{ours}").as_bytes()).await;
    let _ = input.shutdown().await;
    drop(input);
    succeed("psql", psql.wait_with_output().await)
}

/// The database is autovibe's alone: all of it goes.
const CLEAR: &str = "DO $$ DECLARE it record; BEGIN \
    FOR it IN SELECT tablename FROM pg_tables WHERE schemaname = current_schema() LOOP EXECUTE format('DROP TABLE %I CASCADE', it.tablename); END LOOP; \
    FOR it IN SELECT p.oid::regprocedure AS name FROM pg_proc p WHERE pronamespace = current_schema()::regnamespace LOOP \
        EXECUTE format('DROP FUNCTION %s CASCADE', it.name); END LOOP; \
    END $$;\n";
