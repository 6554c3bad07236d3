//! D8: the power goes. A real run's writes and syncs are recorded, and at two hundred moments the disk is made as it may be
//! left: what was synced is there, of what was not each sector of 512 bytes may be or may be missing. The store opens on
//! each and has all that had been answered.

mod disk;
mod trace;

use autovibe::store::{Error, Expect, Key, Options, Query, Revision, Store};
use disk::Disk;
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::json;
use std::{collections::BTreeSet, path::Path, process::Command};
use trace::Event;

const RESOURCE: &str = "machines.autovibe.dev";
const CUTS: usize = 200;
/// Names the database to the child of the test below.
const CHILD: &str = "AUTOVIBE_TEST_POWER_CHILD";

/// In the child: writes so much that the WAL is copied back several times, and says each name once it is answered.
#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::disallowed_methods, reason = "how the parent tells its child what to do")]
async fn a_writer_that_is_recorded() {
    let Some(path) = std::env::var_os(CHILD) else { return };
    let store = Store::open(Path::new(&path)).await.unwrap();
    let filler = "x".repeat(24_000);
    for batch in 0..45 {
        let writes = (0..4).map(|n| {
            let (store, name) = (&store, format!("{batch}-{n}"));
            let document = json!({"metadata": {"name": name, "namespace": "shop"}, "spec": {"filler": filler}});
            async move {
                let key = Key::new(RESOURCE, "shop", name.clone());
                let lease = format!("uid-{name}");
                let done: Result<_, Error> = store
                    .write(move |t| {
                        Box::pin(async move {
                            // A row of a table in the same transaction, as an intent or a charge is.
                            t.lease_vmid("h", &lease, (100, 100_000), &[]).await?;
                            t.put(&key, document, Expect::Absent).await
                        })
                    })
                    .await;
                done.unwrap();
                println!("answered {name}");
            }
        });
        futures::future::join_all(writes).await;
    }
}

/// The calls of a run of the child; `None`, said aloud, where there is no strace.
fn record(path: &Path, trace: &Path) -> Option<Vec<Event>> {
    let mut command = Command::new("strace");
    command.args(trace::ARGUMENTS).arg("-o").arg(trace).arg(std::env::current_exe().unwrap());
    command.args(["--exact", "power::a_writer_that_is_recorded", "--nocapture"]).env(CHILD, path);
    let Ok(output) = command.output() else {
        eprintln!("SKIPPED: strace is not installed, so no power loss was tried; `make deps` installs it");
        return None;
    };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(trace::read(&std::fs::read_to_string(trace).unwrap(), path.parent().unwrap()))
}

#[tokio::test(flavor = "multi_thread")]
async fn d8_what_was_answered_survives_two_hundred_power_cuts() {
    let home = tempfile::tempdir().unwrap();
    let Some(events) = record(&home.path().join("autovibe.db"), &home.path().join("trace")) else { return };
    let (syncs, answers) =
        (events.iter().filter(|e| matches!(e, Event::Sync(_))).count(), events.iter().filter(|e| matches!(e, Event::Answered(_))).count());
    let back = events.iter().filter(|e| matches!(e, Event::Write { file, .. } if file == "autovibe.db")).count();
    assert!(syncs > 45 && answers == 180, "{syncs} syncs, {answers} answers in {} events", events.len());
    assert!(back > 500, "the WAL was hardly copied back: {back} pages");
    let seed = 0xd8;
    let mut random = StdRng::seed_from_u64(seed);
    // Half of them right before or after a sync, where it matters most.
    let near: Vec<usize> = events.iter().enumerate().filter(|(_, e)| matches!(e, Event::Sync(_))).map(|(at, _)| at).collect();
    let mut cuts = BTreeSet::new();
    while cuts.len() < CUTS {
        let anywhere = random.random_range(0..=events.len());
        let beside = near[random.random_range(0..near.len())] + random.random_range(0..2);
        cuts.insert(if cuts.len() % 2 == 0 { anywhere } else { beside });
    }
    let (mut disk, mut answered, mut torn) = (Disk::default(), Vec::new(), 0);
    for (at, event) in events.iter().map(Some).chain([None]).enumerate() {
        if cuts.contains(&at) {
            // In memory where there is such a place: that it is durable matters no more.
            let left = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
            torn += usize::from(disk.leave(left.path(), &mut random));
            opens(left.path(), &answered).await.unwrap_or_else(|why| panic!("cut {at} of {}, seed {seed}: {why}", events.len()));
        }
        match event {
            Some(Event::Answered(name)) => answered.push(name.clone()),
            Some(event) => disk.apply(event),
            None => {}
        }
    }
    assert!(torn > CUTS / 4, "only {torn} cuts lost anything");
    eprintln!("{CUTS} cuts in {} calls, {torn} of which lost something that was not synced", events.len());
}

/// Opens the store and looks whether it is whole and has what was answered.
async fn opens(directory: &Path, answered: &[String]) -> Result<(), String> {
    let path = directory.join("autovibe.db");
    let store = Store::open(&path).await.map_err(|e| format!("it does not open: {e}"))?;
    let page = store.list(&Query { resource: RESOURCE.into(), ..Query::default() }).await.map_err(|e| e.to_string())?;
    let names: BTreeSet<&str> = page.items.iter().map(|item| item.key.name.as_str()).collect();
    let lost: Vec<&String> = answered.iter().filter(|name| !names.contains(name.as_str())).collect();
    let whole = page.items.iter().all(|item| item.document["spec"]["filler"].as_str().is_some_and(|filler| filler.len() == 24_000));
    let (events, _) = store.changes(RESOURCE, Revision(0), 0).await.map_err(|e| e.to_string())?;
    let leases = store.vmid_leases("h").await.map_err(|e| e.to_string())?;
    if !lost.is_empty() || !whole || events.len() != names.len() || leases.len() != names.len() {
        return Err(format!("lost {lost:?}; whole: {whole}; {} objects, {} changes, {} leases", names.len(), events.len(), leases.len()));
    }
    store.close().await;
    let mut raw = <sqlx::SqliteConnection as sqlx::Connection>::connect(&format!("sqlite://{}", path.display())).await.unwrap();
    let (verdict,): (String,) = sqlx::query_as("PRAGMA integrity_check").fetch_one(&mut raw).await.map_err(|e| e.to_string())?;
    if verdict != "ok" {
        return Err(verdict);
    }
    // And it can be written.
    let store = Store::open_with(&format!("sqlite://{}", path.display()).parse().unwrap(), Options::default()).await.unwrap();
    let work = store.write(|t| {
        Box::pin(async move { t.put(&Key::new(RESOURCE, "shop", "after"), json!({"metadata": {"name": "after"}}), Expect::Absent).await })
    });
    (work.await as Result<_, Error>).map(drop).map_err(|e| e.to_string())
}
