//! D7: what befalls the files of SQLite while a store is open: other processes, a full or failing disk, a lost file.

use crate::database::Home;
use autovibe::store::{Error, Expect, Key, Options, Query, Revision, Store, backup};
use serde_json::json;
use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

const RESOURCE: &str = "machines.autovibe.dev";
const FILLER: usize = 20_000;

fn key(name: &str) -> Key {
    Key::new(RESOURCE, "shop", name)
}

async fn put(store: &Store, name: &str) -> Result<Revision, Error> {
    put_if(store, name, Expect::Absent).await
}

async fn put_if(store: &Store, name: &str, expect: Expect) -> Result<Revision, Error> {
    let (key, document) = (key(name), json!({"metadata": {"name": name, "namespace": "shop"}, "spec": {"filler": "x".repeat(FILLER)}}));
    store.write(move |t| Box::pin(async move { t.put(&key, document, expect).await.map(|object| object.revision) })).await
}

async fn names(store: &Store) -> BTreeSet<String> {
    let page = store.list(&Query { resource: RESOURCE.into(), ..Query::default() }).await.unwrap();
    page.items.into_iter().map(|item| item.key.name).collect()
}

/// What SQLite finds wrong with a file.
async fn integrity(path: &Path) -> String {
    let mut raw = <sqlx::SqliteConnection as sqlx::Connection>::connect(&format!("sqlite://{}", path.display())).await.unwrap();
    let (verdict,): (String,) = sqlx::query_as("PRAGMA integrity_check").fetch_one(&mut raw).await.unwrap();
    verdict
}

#[tokio::test(flavor = "multi_thread")]
async fn d7_another_process_that_writes_is_waited_for_and_then_named() {
    use sqlx::{Connection, Executor};
    let home = Home::sqlite();
    let store = home.open().await;
    put(&store, "a").await.unwrap();
    let mut person = sqlx::SqliteConnection::connect(&home.url).await.unwrap();
    person.execute("BEGIN IMMEDIATE").await.unwrap();
    let waiting = {
        let store = store.clone();
        tokio::spawn(async move { put(&store, "b").await })
    };
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert!(!waiting.is_finished() && store.get(&key("a")).await.unwrap().is_some(), "reads wait for nobody");
    person.execute("COMMIT").await.unwrap();
    waiting.await.unwrap().unwrap();
    person.execute("BEGIN IMMEDIATE").await.unwrap();
    let refused = put(&store, "c").await;
    assert!(matches!(&refused, Err(Error::Unavailable(why)) if why.contains("locked")), "{refused:?}");
    person.execute("COMMIT").await.unwrap();
    put(&store, "d").await.unwrap();
    assert_eq!(names(&store).await, ["a", "b", "d"].map(str::to_owned).into());
}

#[tokio::test(flavor = "multi_thread")]
async fn d7_the_wal_stays_small_however_much_is_written_and_read() {
    let home = Home::sqlite();
    let store = home.open().await;
    let wal = home.path().join("autovibe.db-wal");
    for batch in 0..250 {
        let expect = if batch == 0 { Expect::Absent } else { Expect::Present };
        let names: Vec<String> = (0..8).map(|n| n.to_string()).collect();
        let writes = names.iter().map(|name| put_if(&store, name, expect));
        let query = Query { resource: RESOURCE.into(), ..Query::default() };
        let (written, listed) = tokio::join!(futures::future::join_all(writes), store.list(&query));
        assert!(written.iter().all(Result::is_ok) && listed.is_ok());
    }
    // Far more than 100 MB went through it.
    let size = wal.metadata().unwrap().len();
    assert!(size < 32 << 20, "{size} bytes");
}

/// Whoever reads for long, as a backup does, keeps the WAL from being copied back; writers go on, and then it shrinks.
#[tokio::test(flavor = "multi_thread")]
async fn d7_a_long_reader_delays_nobody_and_its_large_wal_is_given_back() {
    use sqlx::{Connection, Executor};
    let home = Home::sqlite();
    let store = home.open().await;
    put(&store, "0").await.unwrap();
    let mut reader = sqlx::SqliteConnection::connect(&home.url).await.unwrap();
    reader.execute("BEGIN").await.unwrap();
    reader.execute("SELECT count(*) FROM objects").await.unwrap();
    let wal = home.path().join("autovibe.db-wal");
    let size = || wal.metadata().unwrap().len();
    let mut round = 0;
    while size() < 40 << 20 {
        futures::future::try_join_all((0..8).map(|_| put_if(&store, "0", Expect::Present))).await.unwrap();
        round += 1;
        assert!(round < 1000, "the WAL does not grow");
    }
    reader.execute("COMMIT").await.unwrap();
    while size() > 17 << 20 {
        futures::future::try_join_all((0..8).map(|_| put_if(&store, "0", Expect::Present))).await.unwrap();
        round += 1;
        assert!(round < 2000, "{} bytes remain", size());
    }
}

/// The index of the WAL is memory that both share; a person who deletes it parts the processes.
#[tokio::test(flavor = "multi_thread")]
async fn d7_a_deleted_index_of_the_wal_costs_nothing() {
    let home = Home::sqlite();
    let path = home.path().join("autovibe.db");
    let store = home.open().await;
    let mut expected = BTreeSet::new();
    for round in 0..6 {
        std::fs::remove_file(home.path().join("autovibe.db-shm")).ok();
        for n in 0..4 {
            let name = format!("{round}-{n}");
            put(&store, &name).await.unwrap();
            expected.insert(name);
        }
        // Another process, which makes an index of its own.
        let file = home.path().join(format!("backup{round}"));
        let said = crate::process::autovibe(home.path(), &["backup", file.to_str().unwrap()]);
        assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
        assert_eq!(integrity(&file).await, "ok");
        let copy = Store::open(&file).await.unwrap();
        assert_eq!(names(&copy).await, expected);
    }
    store.close().await;
    std::fs::remove_file(home.path().join("autovibe.db-shm")).ok();
    assert_eq!(integrity(&path).await, "ok");
    assert_eq!(names(&home.open().await).await, expected);
}

/// Names the database to the child of the tests below.
const CHILD: &str = "AUTOVIBE_TEST_FILES_CHILD";

/// In the child, on a disk that fails: writes on, says what it was told, and shows that it still reads.
#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::disallowed_methods, reason = "how the parent tells its child what to do")]
async fn a_writer_whose_disk_fails() {
    let Some(path) = std::env::var_os(CHILD) else { return };
    let store = Store::open(Path::new(&path)).await.unwrap();
    for batch in 0..60 {
        let names: Vec<String> = (0..4).map(|n| format!("{batch}-{n}")).collect();
        let done = futures::future::join_all(names.iter().map(|name| put(&store, name))).await;
        for (name, done) in names.iter().zip(done) {
            match done {
                Ok(_) => println!("answered {name}"),
                Err(Error::Unknown(_)) => println!("unknown {name}"),
                Err(Error::Database(_) | Error::NotCommitted(_) | Error::Unavailable(_)) => println!("refused {name}"),
                Err(other) => panic!("{other}"),
            }
        }
    }
}

/// Runs the child under `command`, whose last argument is to be the program; what it said of each name.
fn run(mut command: Command, path: &Path) -> [BTreeSet<String>; 3] {
    command.args(["--exact", "files::a_writer_whose_disk_fails", "--nocapture"]).env(CHILD, path);
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    ["answered ", "refused ", "unknown "].map(|what| text.lines().filter_map(|line| line.strip_prefix(what)).map(str::to_owned).collect())
}

/// Opens what such a child left: all that was answered, nothing that was refused.
async fn holds(path: &Path, [answered, refused, unknown]: &[BTreeSet<String>; 3]) {
    let store = Store::open(path).await.unwrap();
    let names = names(&store).await;
    assert!(answered.is_subset(&names), "answered and lost: {:?}", answered.difference(&names));
    assert!(names.is_disjoint(refused), "refused and kept: {:?}", refused.intersection(&names));
    assert!(names.iter().all(|name| answered.contains(name) || unknown.contains(name)));
    put(&store, "after").await.unwrap();
    store.close().await;
    assert_eq!(integrity(path).await, "ok");
}

#[tokio::test(flavor = "multi_thread")]
async fn d7_files_that_cannot_grow_refuse_writes_and_keep_what_was_answered() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("autovibe.db");
    // In units of 512 bytes.
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' XFSZ; ulimit -f 3000; exec \"$0\" \"$@\""]).arg(std::env::current_exe().unwrap());
    let told = run(command, &path);
    assert!(!told[0].is_empty() && !told[1].is_empty(), "{told:?}");
    holds(&path, &told).await;
}

/// As a network file system fails: a call here and there, of each kind.
#[tokio::test(flavor = "multi_thread")]
async fn d7_calls_that_fail_lose_nothing_that_was_answered() {
    if Command::new("strace").arg("-V").stdout(Stdio::null()).status().is_err() {
        eprintln!("SKIPPED: strace is not installed, so no failing disk was tried; `make deps` installs it");
        return;
    }
    let (mut hurt, mut doubtful) = (0, 0);
    let each = ["fdatasync:error=EIO", "pwrite64:error=EIO", "pwrite64:error=ENOSPC", "fdatasync:error=ESTALE"];
    for (n, fault) in each.iter().enumerate() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("autovibe.db");
        Store::open(&path).await.unwrap().close().await;
        let mut command = Command::new("strace");
        // Now and then, counted in each thread; a commit is about a hundred writes and one sync.
        let when = if fault.starts_with("pwrite64") { format!("{}+251", 350 + n) } else { format!("{}+9", 6 + n) };
        command.args(["-f", "-qq", "-o", "/dev/null", "-P"]).arg(with(&path, "-wal")).arg("-P").arg(&path);
        command.args(["-e", "trace=fdatasync,pwrite64", "-e"]).arg(format!("inject={fault}:when={when}"));
        command.arg(std::env::current_exe().unwrap());
        let told = run(command, &path);
        assert!(told[0].len() > 20, "{fault}: {told:?}");
        hurt += told[1].len() + told[2].len();
        doubtful += told[2].len();
        holds(&path, &told).await;
    }
    assert!(hurt > 20 && doubtful > 0, "{hurt} writes were hurt, {doubtful} in doubt");
}

fn with(path: &Path, suffix: &str) -> PathBuf {
    PathBuf::from(format!("{}{suffix}", path.display()))
}

/// A small file system of its own; `None`, said aloud, where one cannot be mounted.
struct Mount(tempfile::TempDir);

impl Mount {
    fn new(size: &str) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", size, "none"]).arg(directory.path()).stderr(Stdio::null()).status();
        if !mounted.is_ok_and(|status| status.success()) {
            eprintln!("SKIPPED: no file system can be mounted here, so a full and a read-only one were not tried");
            return None;
        }
        Some(Self(directory))
    }

    fn again(&self, options: &str) {
        let mount = || Command::new("mount").args(["-o", &format!("remount,{options}")]).arg(self.0.path()).status().unwrap().success();
        // A child that another test has just forked has our files open until it is its program.
        let done = (0..100).any(|_| {
            let done = mount();
            if !done {
                std::thread::sleep(Duration::from_millis(50));
            }
            done
        });
        assert!(done, "remount,{options}");
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        Command::new("umount").arg("-l").arg(self.0.path()).status().ok();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn d7_a_full_disk_refuses_writes_and_takes_them_again_when_there_is_room() {
    let Some(mount) = Mount::new("size=6m") else { return };
    let path = mount.0.path().join("autovibe.db");
    let store = Store::open(&path).await.unwrap();
    let mut answered = BTreeSet::new();
    let mut refused = None;
    for n in 0..1000 {
        match put(&store, &format!("n{n}")).await {
            Ok(_) => answered.insert(format!("n{n}")),
            Err(error) => {
                refused = Some((n, error));
                break;
            }
        };
    }
    let (n, error) = refused.expect("6 MB are soon full");
    assert!(matches!(&error, Error::Unavailable(why) | Error::NotCommitted(why) if why.contains("full")), "{error:?}");
    // It is read, and no backup of it is left half done.
    assert_eq!(names(&store).await, answered);
    let file = mount.0.path().join("backup");
    let failed = backup(&format!("sqlite://{}", path.display()).parse().unwrap(), &file).await;
    assert!(failed.is_err() && !file.exists() && !with(&file, ".part").exists(), "{failed:?}");
    mount.again("size=60m");
    put(&store, &format!("n{n}")).await.unwrap();
    answered.insert(format!("n{n}"));
    store.close().await;
    assert_eq!(integrity(&path).await, "ok");
    assert_eq!(names(&Store::open(&path).await.unwrap()).await, answered);
}

#[tokio::test(flavor = "multi_thread")]
async fn d7_a_disk_that_becomes_read_only_is_read_and_named() {
    let Some(mount) = Mount::new("size=40m") else { return };
    let path = mount.0.path().join("autovibe.db");
    let store = Store::open(&path).await.unwrap();
    put(&store, "a").await.unwrap();
    store.close().await;
    mount.again("ro");
    let before = std::fs::read(&path).unwrap();
    let Err(error) = Store::open_with(&format!("sqlite://{}", path.display()).parse().unwrap(), Options::default()).await else {
        panic!("a read-only database was opened")
    };
    assert!(error.to_string().contains("autovibe.db") && error.to_string().contains("ead-only"), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), before);
    mount.again("rw");
    let store = Store::open(&path).await.unwrap();
    assert_eq!(names(&store).await, ["a".to_owned()].into());
    put(&store, "b").await.unwrap();
}
