//! The databases of the tests: a file of SQLite, or one in a PostgreSQL that the tests start themselves.

use autovibe::store::{Database, Options, Store};
use std::{
    io::Write,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

/// A test on both engines: `name` becomes `sqlite::name` and `postgres::name`, each with a [`Home`] of its own.
macro_rules! on_both {
    ($($name:ident,)*) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                super::$name(crate::database::Home::sqlite()).await;
            })*
        }
        mod postgres {
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                if let Some(home) = crate::database::Home::postgres().await {
                    super::$name(home).await;
                }
            })*
        }
    };
}
pub(crate) use on_both;

/// A database of one test, and a directory beside it.
pub(crate) struct Home {
    pub(crate) url: String,
    pub(crate) directory: tempfile::TempDir,
}

impl Home {
    pub(crate) fn sqlite() -> Self {
        let directory = tempfile::tempdir().unwrap();
        Self { url: format!("sqlite://{}/autovibe.db", directory.path().display()), directory }
    }

    /// `None`, said aloud, where there is no PostgreSQL.
    pub(crate) async fn postgres() -> Option<Self> {
        let cluster = Cluster::shared()?;
        Some(Self::at(cluster.create().await))
    }

    /// Another one on the same engine.
    pub(crate) async fn another(&self) -> Self {
        if self.url.starts_with("sqlite") { Self::sqlite() } else { Self::postgres().await.unwrap() }
    }

    pub(crate) fn at(url: String) -> Self {
        Self { url, directory: tempfile::tempdir().unwrap() }
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) async fn open(&self) -> Store {
        self.open_with(Options::default()).await
    }

    pub(crate) async fn open_with(&self, options: Options) -> Store {
        Store::open_with(&self.database(), options).await.unwrap()
    }

    /// Whether its processes have it to themselves.
    pub(crate) fn is_sqlite(&self) -> bool {
        self.url.starts_with("sqlite")
    }

    pub(crate) fn database(&self) -> Database {
        self.url.parse().unwrap()
    }

    /// As the next leader has it, and its epoch.
    pub(crate) async fn lead(store: &Store) -> (Store, i64) {
        let begun: Result<i64, autovibe::store::Error> = store.write(|t| Box::pin(async move { t.next_leader().await })).await;
        let epoch = begun.unwrap();
        (store.under(epoch), epoch)
    }

    /// The one text that a query of PostgreSQL answers, past the store.
    pub(crate) async fn ask(&self, sql: &str) -> String {
        use sqlx::Connection;
        let mut raw = sqlx::PgConnection::connect(&self.url).await.unwrap();
        let (text,): (String,) = sqlx::query_as(sqlx::AssertSqlSafe(sql.to_owned())).fetch_one(&mut raw).await.unwrap();
        raw.close().await.unwrap();
        text
    }

    /// Runs statements on the database, past the store.
    pub(crate) async fn execute(&self, sql: &str) {
        use sqlx::{Connection, Executor};
        let sql = sqlx::AssertSqlSafe(sql.to_owned());
        if self.url.starts_with("sqlite") {
            let mut raw = sqlx::SqliteConnection::connect(&format!("{}?mode=rwc", self.url)).await.unwrap();
            raw.execute(sql).await.unwrap();
            raw.close().await.unwrap();
        } else {
            let mut raw = sqlx::PgConnection::connect(&self.url).await.unwrap();
            raw.execute(sql).await.unwrap();
            raw.close().await.unwrap();
        }
    }
}

/// A PostgreSQL server in a directory of its own, reached by a socket there. It ends with this process, however that ends.
pub(crate) struct Cluster {
    directory: PathBuf,
    programs: PathBuf,
    /// A shell that starts the server at each line of its standard input; at the end of that it ends it and cleans up.
    keeper: Child,
    /// Of TCP where it listens there, and in the name of the socket.
    port: u16,
    databases: AtomicU32,
}

impl Cluster {
    /// One for all tests that do not harm it.
    pub(crate) fn shared() -> Option<&'static Self> {
        static SHARED: OnceLock<Option<Cluster>> = OnceLock::new();
        SHARED.get_or_init(|| Self::start("-c fsync=off -c max_connections=400")).as_ref()
    }

    /// A new one; `None`, said aloud, where there is no PostgreSQL. `settings` are options of `postgres`.
    pub(crate) fn start(settings: &str) -> Option<Self> {
        Self::make("$1/initdb -D data -U autovibe -A trust -E UTF8 --no-locale -N", settings, 5432)
    }

    /// A new one that also listens on localhost.
    pub(crate) fn start_tcp(settings: &str) -> Option<Self> {
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let settings = format!("-c port={port} -c listen_addresses=localhost {settings}");
        Self::make("$1/initdb -D data -U autovibe -A trust -E UTF8 --no-locale -N", &settings, port)
    }

    /// A replica, which follows this one without being waited for.
    pub(crate) fn replica(&self) -> Self {
        let copy = format!("$1/pg_basebackup -h {} -U autovibe -D data -R -X stream -c fast", self.directory.display());
        Self::make(&copy, "-c fsync=off", 5432).expect("there is a first one")
    }

    fn make(data: &str, settings: &str, port: u16) -> Option<Self> {
        let find = "readlink -f \"$(command -v initdb || ls -d /usr/lib/postgresql/*/bin/initdb | tail -n 1)\"";
        let found = Command::new("sh").args(["-c", find]).output().unwrap();
        let programs = Path::new(String::from_utf8(found.stdout).unwrap().trim()).parent().map(Path::to_owned);
        let Some(programs) = programs.filter(|programs| programs.join("postgres").exists()) else {
            eprintln!("SKIPPED: PostgreSQL is not installed, so the store was not tried on it; `make deps` installs it");
            return None;
        };
        // Below /tmp: the path of a socket must be short.
        let directory = tempfile::Builder::new().prefix("autovibe-pg-").tempdir_in("/tmp").unwrap().keep();
        // It refuses to run as root.
        let user = rustix::process::geteuid().is_root().then_some("postgres");
        if let Some(user) = user {
            assert!(Command::new("chown").arg(user).arg(&directory).status().unwrap().success(), "there is no user {user}");
        }
        let script = format!(
            "cd $0 && mkdir log && {data} >log/initdb 2>&1 && \
             while read -r line; do $1/postgres -D data -k $0 -c listen_addresses= $2 >>log/postgres 2>&1 </dev/null & server=$!; done; \
             kill -QUIT $server; wait $server; rm -rf $0/*; rmdir $0 2>/dev/null"
        );
        let mut command = Command::new(if user.is_some() { "runuser" } else { "env" });
        command.args(user.map(|user| ["-u", user, "--"]).into_iter().flatten()).args(["sh", "-c", &script]);
        command.arg(&directory).arg(&programs).arg(settings).current_dir("/");
        let keeper = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        let mut cluster = Self { directory, programs, keeper, port, databases: AtomicU32::new(0) };
        cluster.run();
        Some(cluster)
    }

    /// Starts the server, and returns when it answers.
    pub(crate) fn run(&mut self) {
        self.keeper.stdin.as_mut().unwrap().write_all(b"run\n").unwrap();
        let until = Instant::now() + Duration::from_mins(1);
        let port = self.port.to_string();
        let ready = || {
            let mut ready = Command::new(self.programs.join("pg_isready"));
            ready.arg("-q").args(["-p", &port, "-h"]).arg(&self.directory).status().unwrap().success()
        };
        while !ready() {
            assert!(Instant::now() < until, "PostgreSQL does not start: {}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// What it logged.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.directory.join("log/postgres")).unwrap_or_default()
    }

    /// Kills the server as a power cut would, with SIGKILL, and waits until all of its processes are gone.
    pub(crate) fn kill(&self) {
        let pid = std::fs::read_to_string(self.directory.join("data/postmaster.pid")).unwrap().lines().next().unwrap().to_owned();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        let pids: Vec<&str> = std::iter::once(pid.as_str()).chain(children.split_whitespace()).collect();
        for pid in pids.iter().filter_map(|pid| rustix::process::Pid::from_raw(pid.parse().unwrap())) {
            // One that has just ended by itself is as good.
            rustix::process::kill_process(pid, rustix::process::Signal::KILL).ok();
        }
        let living = |pid: &&str| std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "));
        while pids.iter().any(living) {
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The server's socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.join(format!(".s.PGSQL.{}", self.port))
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Where its files are; they belong to the user that it runs as.
    pub(crate) fn data(&self) -> PathBuf {
        self.directory.join("data")
    }

    pub(crate) fn url(&self, database: &str) -> String {
        format!("postgres:///{database}?host={}&port={}&user=autovibe", self.directory.display(), self.port)
    }

    /// A new database's URL.
    pub(crate) async fn create(&self) -> String {
        let name = format!("it{}", self.databases.fetch_add(1, Ordering::Relaxed));
        Home::at(self.url("postgres")).execute(&format!("CREATE DATABASE {name}")).await;
        self.url(&name)
    }

    /// Drops a database that was created, with the sessions on it.
    pub(crate) async fn drop(&self, url: &str) {
        let name = url.strip_prefix("postgres:///").and_then(|rest| rest.split('?').next()).unwrap();
        Home::at(self.url("postgres")).execute(&format!("DROP DATABASE {name} WITH (FORCE)")).await;
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
        let _ = std::fs::remove_dir(&self.directory);
    }
}
