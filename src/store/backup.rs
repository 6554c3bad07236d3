//! A copy of the whole database in one file, consistent while hubs write: SQLite's own format, or PostgreSQL's archive.
//!
//! Secrets are encrypted in it as they are in the database; their key is not in it.

use super::connection::{Connection, query};
use super::{Database, Error, postgres, read, sqlite};
use secrecy::ExposeSecret;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions, Connection as _};
use std::{
    fs::{self, File},
    os::unix::fs::OpenOptionsExt,
    path::Path,
    process::Stdio,
};
use tokio::process::{Child, Command};

/// Writes a copy of the database to `file`, which must not exist: all of it, or nothing under that name. Any process may do
/// it, also while a hub runs.
pub async fn backup(database: &Database, file: &Path) -> Result<(), Error> {
    if file.exists() {
        return Err(Error::Backup(format!("{} exists already; name another file", file.display())));
    }
    let aside = file.with_added_extension("part");
    let written = match database {
        Database::Sqlite(path) => copy(path, &aside).await,
        Database::Postgres(server) => dump(server, &aside).await,
    };
    let kept = written.and_then(|()| {
        let kept =
            File::open(&aside).and_then(|copy| copy.sync_all()).and_then(|()| fs::rename(&aside, file)).and_then(|()| sync_parent(file));
        kept.map_err(|e| Error::Backup(format!("{} cannot be written: {e}", file.display())))
    });
    if kept.is_err() {
        let _ = fs::remove_file(&aside);
    }
    kept
}

async fn copy(path: &Path, aside: &Path) -> Result<(), Error> {
    if !path.exists() {
        return Err(Error::Backup(format!("there is no database at {}", path.display())));
    }
    make_private(aside)?;
    let mut source = SqliteConnectOptions::new().filename(path).busy_timeout(sqlite::BUSY).disable_statement_logging().connect().await?;
    let target = aside.to_str().ok_or_else(|| Error::Backup(format!("{} is not Unicode", aside.display())))?;
    sqlx::query("VACUUM INTO $1").bind(target).execute(&mut source).await?;
    source.close().await?;
    verify(aside).await
}

/// Refuses a file that SQLite finds damaged, or that is no store.
pub(super) async fn verify(path: &Path) -> Result<(), Error> {
    let wrong = |why: String| Error::Backup(format!("{} is no backup of a store: {why}", path.display()));
    let options = SqliteConnectOptions::new().filename(path).read_only(true).disable_statement_logging();
    let connection: SqliteConnection = options.connect().await.map_err(|e| wrong(e.to_string()))?;
    let mut connection = Connection::Sqlite(connection);
    let (verdict,): (String,) = query("PRAGMA quick_check").fetch_one(connection.link()).await.map_err(|e| wrong(e.to_string()))?;
    if verdict != "ok" {
        return Err(wrong(verdict));
    }
    read::newest(connection.link()).await.map_err(|e| wrong(e.to_string()))?;
    connection.close().await
}

async fn dump(server: &postgres::Server, aside: &Path) -> Result<(), Error> {
    make_private(aside)?;
    let mut command = program(server, "pg_dump")?;
    command.args(["--format=custom", "--no-owner", "--no-privileges", "--file"]).arg(aside);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    succeed("pg_dump", start("pg_dump", &mut command)?.wait_with_output().await)
}

/// One of PostgreSQL's programs on this database. The password goes by the environment: arguments are for all to see.
pub(super) fn program(server: &postgres::Server, name: &str) -> Result<Command, Error> {
    let (url, password) = server.apart()?;
    let mut command = Command::new(name);
    command.arg("--dbname").arg(url).arg("--no-password").kill_on_drop(true);
    if !password.expose_secret().is_empty() {
        command.env("PGPASSWORD", password.expose_secret());
    }
    Ok(command)
}

pub(super) fn start(name: &str, command: &mut Command) -> Result<Child, Error> {
    command.spawn().map_err(|e| Error::Backup(format!("{name} cannot be started: {e}; it comes with the package postgresql-client")))
}

/// What a program said when it failed.
pub(super) fn succeed(name: &str, output: std::io::Result<std::process::Output>) -> Result<(), Error> {
    let output = output.map_err(|e| Error::Backup(format!("{name} was lost: {e}")))?;
    let failed = || Error::Backup(format!("{name} failed: {}", String::from_utf8_lossy(&output.stderr).trim()));
    output.status.success().then_some(()).ok_or_else(failed)
}

/// An empty file for its owner alone; one that a killed backup left is replaced.
pub(super) fn make_private(path: &Path) -> Result<(), Error> {
    let made = fs::remove_file(path).or_else(|e| if e.kind() == std::io::ErrorKind::NotFound { Ok(()) } else { Err(e) });
    let made = made.and_then(|()| File::options().write(true).create_new(true).mode(0o600).open(path));
    made.map(drop).map_err(|e| Error::Backup(format!("{} cannot be written: {e}", path.display())))
}

/// Makes a renaming in the file's directory last.
pub(super) fn sync_parent(file: &Path) -> std::io::Result<()> {
    let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(parent)?.sync_all()
}
