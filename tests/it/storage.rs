//! The driver's disks and snapshots on the lab's model pool: repeated, with replies lost, and cut after every command.

use crate::node;
use autovibe::api::checkpoint::Volume;
use autovibe::driver::{Connection, Driver, Error, storage};
use autovibe::lab::{Call, Lab};
use autovibe::proxmox::Vmid;
use autovibe::zfs::{Dataset, Output, Properties, Runner, Service, Snapshot};
use futures::future::BoxFuture;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};

const MACHINE: &str = "11111111-0000-4000-8000-000000000001";
const OTHER: &str = "11111111-0000-4000-8000-000000000002";
const CHECKPOINT: &str = "22222222-0000-4000-8000-000000000001";
const SECOND: &str = "22222222-0000-4000-8000-000000000002";
const VMID: Vmid = Vmid(1000);

struct Bench {
    lab: Lab,
    driver: Driver,
    dir: tempfile::TempDir,
}

async fn bench() -> Bench {
    let dir = tempfile::tempdir().unwrap();
    let lab = node::start(dir.path()).await;
    let driver = Driver::open(connection(&lab, None)).await.unwrap();
    Bench { lab, driver, dir }
}

fn connection(lab: &Lab, socket: Option<PathBuf>) -> Connection {
    let of_lab = Connection::of_lab(lab.endpoint());
    Connection { runner: socket.map_or_else(|| of_lab.runner.clone(), Runner::Socket), ..of_lab }
}

impl Bench {
    /// The image that a model pool has from the start, with its guid.
    async fn image(&self) -> (Snapshot, String) {
        let pool = self.driver.connection().dataset.0.split('/').next().unwrap().to_owned();
        for dataset in self.driver.zfs.datasets(&Dataset(pool)).await.unwrap() {
            if let Some(found) = self.driver.zfs.snapshots(&dataset.name).await.unwrap().into_iter().next() {
                return (found.name, found.guid);
            }
        }
        panic!("the model pool has no image");
    }

    async fn fork(&self) -> Result<Dataset, Error> {
        let (image, guid) = self.image().await;
        self.driver.fork(&image, &guid, MACHINE, VMID, 0).await
    }

    async fn snapshots(&self, dataset: &Dataset) -> Vec<String> {
        let found = self.driver.zfs.snapshots(dataset).await.unwrap();
        found.into_iter().map(|snapshot| snapshot.name.name).collect()
    }

    /// Everything in the pool: datasets, origins, our marks, snapshots, holds.
    async fn pool(&self) -> Vec<String> {
        let pool = self.driver.connection().dataset.0.split('/').next().unwrap().to_owned();
        let mut lines = Vec::new();
        let marks = |properties: &Properties| format!("{properties:?}");
        for dataset in self.driver.zfs.datasets(&Dataset(pool)).await.unwrap() {
            let origin = dataset.origin.map(|origin| origin.to_string()).unwrap_or_default();
            lines.push(format!("{} of {origin} {}", dataset.name, marks(&dataset.properties)));
            for snapshot in self.driver.zfs.snapshots(&dataset.name).await.unwrap() {
                lines.push(format!("{} holds {} {}", snapshot.name, snapshot.holds, marks(&snapshot.properties)));
            }
        }
        lines.sort();
        lines
    }

    /// A driver of a process that dies at the `n`th command that changes something, before or after that is done: nothing that
    /// it asks for later is done or answered.
    async fn dying(&self, n: usize, done: bool) -> (Driver, Arc<AtomicUsize>) {
        static SOCKETS: AtomicUsize = AtomicUsize::new(0);
        let real = self.lab.endpoint().zfs_socket.clone().unwrap();
        // Beside the real one: that is where volumes are shown.
        let path = real.with_file_name(format!("dying-{}.sock", SOCKETS.fetch_add(1, Ordering::Relaxed)));
        let listener = UnixListener::bind(&path).unwrap();
        let changes = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&changes);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(pass_on(stream, real.clone(), Arc::clone(&counted), n, done));
            }
        });
        (Driver::open(connection(&self.lab, Some(path))).await.unwrap(), changes)
    }
}

/// Passes one command on, unless the process is dead.
async fn pass_on(stream: UnixStream, real: PathBuf, changes: Arc<AtomicUsize>, n: usize, done: bool) {
    let mut stream = BufReader::new(stream);
    let mut line = String::new();
    stream.read_line(&mut line).await.unwrap();
    let reads = line.contains(r#"["get""#) || line.contains(r#"["list""#);
    let number = if reads { changes.load(Ordering::SeqCst) } else { changes.fetch_add(1, Ordering::SeqCst) + 1 };
    let dead = number > n || (number == n && reads);
    if dead || (number == n && !done) {
        return;
    }
    let mut helper = UnixStream::connect(real).await.unwrap();
    helper.write_all(line.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    helper.read_to_end(&mut answer).await.unwrap();
    if number < n {
        stream.get_mut().write_all(&answer).await.ok();
    }
}

/// How often `zfs` was asked, and how many bytes it answered.
#[derive(Clone, Default)]
struct Asked {
    commands: Arc<AtomicUsize>,
    bytes: Arc<AtomicUsize>,
}

impl Asked {
    /// A driver of the bench that is counted.
    async fn driver(&self, bench: &Bench) -> Driver {
        let (asked, real) = (self.clone(), bench.lab.endpoint().zfs_socket.clone().unwrap());
        let service = Service::new(move |argv| {
            let (asked, real) = (asked.clone(), real.clone());
            Box::pin(async move {
                let mut helper = UnixStream::connect(real).await.ok()?;
                helper.write_all(format!("{}\n", serde_json::json!({ "argv": argv })).as_bytes()).await.ok()?;
                let mut answer = Vec::new();
                helper.read_to_end(&mut answer).await.ok()?;
                asked.commands.fetch_add(1, Ordering::SeqCst);
                asked.bytes.fetch_add(answer.len(), Ordering::SeqCst);
                serde_json::from_slice::<Output>(&answer).ok()
            })
        });
        Driver::open(Connection { runner: Runner::Service(service), ..connection(&bench.lab, None) }).await.unwrap()
    }

    /// What was asked since the last time.
    fn take(&self) -> (usize, usize) {
        (self.commands.swap(0, Ordering::SeqCst), self.bytes.swap(0, Ordering::SeqCst))
    }
}

type Verb = fn(&Driver, Vec<Volume>, PathBuf) -> BoxFuture<'_, Result<(), Error>>;
type Prepare = fn(&Bench) -> BoxFuture<'_, Vec<Volume>>;

/// Runs `verb` whole, then cut at every command that changes something, before and after it is done, then again: the pool must
/// always end as if nothing had happened.
async fn survives(prepare: Prepare, verb: Verb) {
    let whole = bench().await;
    let volumes = prepare(&whole).await;
    let file = image_file(&whole);
    let (driver, changes) = whole.dying(usize::MAX, true).await;
    verb(&driver, volumes.clone(), file.clone()).await.unwrap();
    let expect = whole.pool().await;
    let steps = changes.load(Ordering::SeqCst);
    assert!(steps > 0, "the verb changed nothing");
    verb(&whole.driver, volumes, file).await.unwrap();
    assert_eq!(whole.pool().await, expect, "repeated");
    for step in 1..=steps {
        for done in [false, true] {
            let bench = bench().await;
            let volumes = prepare(&bench).await;
            let file = image_file(&bench);
            let (dying, _) = bench.dying(step, done).await;
            let cut = verb(&dying, volumes.clone(), file.clone()).await;
            assert!(cut.is_err() || (done && step == steps), "command {step} (done: {done}) was cut, and the verb did not notice");
            verb(&bench.driver, volumes, file).await.unwrap_or_else(|error| panic!("after command {step} (done: {done}) was cut: {error}"));
            assert_eq!(bench.pool().await, expect, "cut at command {step} (done: {done})");
        }
    }
}

fn image_file(bench: &Bench) -> PathBuf {
    let path = bench.dir.path().join("image.raw");
    std::fs::write(&path, vec![7; 4096]).unwrap();
    // The same time for every bench, as it is part of the mark; so is the path, which differs.
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    file.set_modified(std::time::UNIX_EPOCH + Duration::from_secs(1_700_000_000)).unwrap();
    path
}

fn boxed<'a, T>(future: impl Future<Output = T> + Send + 'a) -> BoxFuture<'a, T> {
    Box::pin(future)
}

fn nothing(_: &Bench) -> BoxFuture<'_, Vec<Volume>> {
    boxed(async { Vec::new() })
}

fn forked(bench: &Bench) -> BoxFuture<'_, Vec<Volume>> {
    boxed(async {
        bench.fork().await.unwrap();
        Vec::new()
    })
}

/// A disk with two checkpoints, kept.
fn ended(bench: &Bench) -> BoxFuture<'_, Vec<Volume>> {
    boxed(async {
        let disk = bench.fork().await.unwrap();
        let mut volumes = bench.driver.capture(std::slice::from_ref(&disk), CHECKPOINT, MACHINE).await.unwrap();
        volumes.extend(bench.driver.capture(std::slice::from_ref(&disk), SECOND, MACHINE).await.unwrap());
        bench.driver.keep(MACHINE, &[disk]).await.unwrap();
        volumes
    })
}

async fn image_of(driver: &Driver) -> (Snapshot, String) {
    let image = driver.find_image("tank/images/micro@base").await.unwrap();
    (image.snapshot, image.guid)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fork_survives_a_kill_at_every_command() {
    survives(nothing, |driver, _, _| {
        boxed(async move {
            let image = driver.find_image("tank/images/micro@base").await?;
            driver.fork(&image.snapshot, &image.guid, MACHINE, VMID, 0).await.map(drop)
        })
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_capture_survives_a_kill_at_every_command() {
    survives(forked, |driver, _, _| boxed(async move { driver.capture(&[driver.disk(VMID, 0)], CHECKPOINT, MACHINE).await.map(drop) }))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keeping_survives_a_kill_at_every_command() {
    survives(forked, |driver, _, _| boxed(async move { driver.keep(MACHINE, &[driver.disk(VMID, 0)]).await.map(drop) })).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn collecting_survives_a_kill_at_every_command() {
    survives(ended, |driver, volumes, _| boxed(async move { driver.collect(&volumes[0], CHECKPOINT, MACHINE).await.map(drop) })).await;
    // The last one takes the kept disk with it.
    survives(ended, |driver, volumes, _| {
        boxed(async move {
            driver.collect(&volumes[1], SECOND, MACHINE).await?;
            driver.collect(&volumes[0], CHECKPOINT, MACHINE).await.map(drop)
        })
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn destroying_disks_survives_a_kill_at_every_command() {
    survives(forked, |driver, _, _| boxed(async move { driver.destroy_disks(MACHINE, VMID).await.map(drop) })).await;
}

/// The pool after an import names the file in a mark: it is compared within one directory.
#[tokio::test(flavor = "multi_thread")]
async fn an_import_survives_a_kill_at_every_command() {
    let bench = bench().await;
    let file = image_file(&bench);
    let dataset = bench.driver.image_dataset("debian");
    let mut expect: Option<Vec<String>> = None;
    for step in 1.. {
        for done in [false, true] {
            let (dying, changes) = bench.dying(step, done).await;
            let cut = dying.import_image(&file, "debian").await;
            let image = bench.driver.import_image(&file, "debian").await.unwrap();
            assert_eq!((image.snapshot.to_string(), image.stale), (format!("{dataset}@base"), false));
            let pool = bench.pool().await;
            assert_eq!(expect.get_or_insert_with(|| pool.clone()), &pool, "cut at command {step} (done: {done})");
            if cut.is_ok() && changes.load(Ordering::SeqCst) < step {
                return;
            }
            bench.driver.zfs.release(storage::HOLD, std::slice::from_ref(&image.snapshot)).await.unwrap();
            bench.driver.zfs.destroy_snapshot(&image.snapshot).await.unwrap();
            bench.driver.zfs.destroy_dataset(&dataset).await.unwrap();
        }
    }
}

/// What each verb asks of a disk with so many checkpoints: commands, and bytes of their answers.
async fn asked_with(checkpoints: usize) -> Vec<(&'static str, (usize, usize))> {
    let (bench, asked) = (bench().await, Asked::default());
    let disk = bench.fork().await.unwrap();
    let mut volumes = Vec::new();
    for number in 0..checkpoints {
        let uid = format!("33333333-0000-4000-8000-{number:012}");
        volumes.push((bench.driver.capture(std::slice::from_ref(&disk), &uid, MACHINE).await.unwrap().remove(0), uid));
    }
    let driver = asked.driver(&bench).await;
    let mut found = Vec::new();
    let mut note = |verb| found.push((verb, asked.take()));
    note("open");
    let volume = driver.capture(std::slice::from_ref(&disk), CHECKPOINT, MACHINE).await.unwrap().remove(0);
    note("capture");
    let source = driver.locate(&volume, Some(MACHINE)).await.unwrap().unwrap();
    note("locate");
    driver.fork(&source, &volume.guid, OTHER, Vmid(1001), 0).await.unwrap();
    note("fork");
    driver.destroy_disks(OTHER, Vmid(1001)).await.unwrap();
    note("destroy the fork");
    driver.collect(&volume, CHECKPOINT, MACHINE).await.unwrap();
    note("collect");
    driver.checkpoint_bytes(MACHINE).await.unwrap();
    note("checkpoint bytes");
    driver.keep(MACHINE, std::slice::from_ref(&disk)).await.unwrap();
    note("keep");
    let (volume, uid) = volumes.remove(0);
    let collected = driver.collect(&volume, &uid, MACHINE).await.unwrap();
    assert!(collected.snapshot.is_some() && collected.disk.is_none());
    note("collect of a kept disk");
    found
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_of_zfs_does_not_grow_with_the_checkpoints() {
    let (few, many) = (asked_with(2).await, asked_with(60).await);
    for ((verb, few), (_, many)) in few.into_iter().zip(many) {
        assert_eq!(few.0, many.0, "commands of {verb}");
        // Numbers in it have a digit more or less.
        assert!(many.1.abs_diff(few.1) < 40, "bytes that {verb} is answered: {} and {}", few.1, many.1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_reply_is_looked_into_at_once() {
    let bench = bench().await;
    bench.lab.drop_reply(Call::Zfs("clone"));
    let disk = bench.fork().await.unwrap();
    bench.lab.drop_reply(Call::Zfs("snapshot"));
    let volumes = bench.driver.capture(std::slice::from_ref(&disk), CHECKPOINT, MACHINE).await.unwrap();
    bench.lab.drop_reply(Call::Zfs("rename"));
    let kept = bench.driver.keep(MACHINE, &[disk]).await.unwrap();
    bench.lab.drop_reply(Call::Zfs("destroy"));
    let collected = bench.driver.collect(&volumes[0], CHECKPOINT, MACHINE).await.unwrap();
    assert_eq!(collected.disk, Some(kept[0].clone()));
    assert_eq!(bench.lab.count(Call::Zfs("clone")), 1, "looked, not done again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_is_found_by_its_guid_wherever_it_is() {
    let bench = bench().await;
    let disk = bench.fork().await.unwrap();
    let volume = bench.driver.capture(std::slice::from_ref(&disk), CHECKPOINT, MACHINE).await.unwrap().remove(0);
    let locate = async |volume: &Volume| bench.driver.locate(volume, Some(MACHINE)).await.unwrap().map(|found| found.dataset);
    assert_eq!(locate(&volume).await, Some(disk.clone()));
    let kept = bench.driver.keep(MACHINE, std::slice::from_ref(&disk)).await.unwrap().remove(0);
    assert_eq!(locate(&volume).await, Some(kept.clone()));
    // A namesake is not it.
    let namesake = Volume { guid: "1".into(), ..volume.clone() };
    assert_eq!(locate(&namesake).await, None);
    assert!(matches!(bench.driver.collect(&namesake, CHECKPOINT, MACHINE).await, Ok(storage::Collected { snapshot: None, disk: None })));
    assert_eq!(bench.snapshots(&kept).await.len(), 1, "the namesake's collection destroyed nothing");
    // No answer is not an absence.
    bench.lab.fail_next(Call::Zfs("get"), 500);
    assert!(bench.driver.locate(&volume, Some(MACHINE)).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_ours_is_left_alone() {
    let bench = bench().await;
    let (driver, (image, guid)) = (&bench.driver, image_of(&bench.driver).await);
    let disk = bench.fork().await.unwrap();
    // Another Machine's disk under the same VMID.
    assert!(matches!(driver.fork(&image, &guid, OTHER, VMID, 0).await, Err(Error::Conflict(_))));
    assert!(matches!(driver.keep(OTHER, std::slice::from_ref(&disk)).await, Err(Error::Conflict(_))));
    assert_eq!(driver.destroy_disks(OTHER, VMID).await.unwrap().foreign, std::slice::from_ref(&disk));
    // A source that is another snapshot of the same name.
    assert!(matches!(driver.fork(&image, "1", MACHINE, Vmid(1001), 0).await, Err(Error::Missing(_))));
    // A snapshot of our name that someone else took.
    let foreign = Snapshot { dataset: disk.clone(), name: storage::snapshot_name(CHECKPOINT) };
    driver.zfs.snapshot(std::slice::from_ref(&foreign), &Properties::new()).await.unwrap();
    assert!(matches!(driver.capture(std::slice::from_ref(&disk), CHECKPOINT, MACHINE).await, Err(Error::Conflict(_))));
    assert_eq!(bench.snapshots(&disk).await, std::slice::from_ref(&foreign.name));
    let info = driver.zfs.snapshot_info(&foreign).await.unwrap().unwrap();
    assert_eq!(info.holds, 0, "a stranger's snapshot is not held");
    let volume = Volume { dataset: disk.0.clone(), snapshot: foreign.name, guid: info.guid, ..Volume::default() };
    assert!(matches!(driver.collect(&volume, CHECKPOINT, MACHINE).await, Err(Error::Conflict(_))));
    assert_eq!(bench.snapshots(&disk).await.len(), 1);
    // A disk that is not there cannot be captured.
    let missing = Dataset(format!("{disk}-none"));
    assert!(matches!(driver.capture(&[missing], SECOND, MACHINE).await, Err(Error::Missing(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_vm_that_is_gone_what_is_left_is_captured() {
    let bench = bench().await;
    let (driver, (image, guid), clock) = (&bench.driver, image_of(&bench.driver).await, autovibe::clock::Clock::system());
    let gone = driver.disk(VMID, 0);
    let left = driver.fork(&image, &guid, MACHINE, VMID, 1).await.unwrap();
    let theirs = driver.fork(&image, &guid, OTHER, VMID, 2).await.unwrap();
    let disks = [gone.clone(), left.clone(), theirs.clone()];
    let still = |is_gone, disks| storage::Still {
        vmid: VMID,
        disks,
        machine_uid: MACHINE,
        checkpoint_uid: CHECKPOINT,
        namespace: "default",
        is_gone,
    };
    assert!(matches!(driver.capture_stopped(&still(false, &disks), &clock).await, Err(Error::Conflict(_))));
    // No answer is not an absence.
    bench.lab.fail_next(Call::Zfs("get"), 500);
    assert!(driver.capture_stopped(&still(true, &disks), &clock).await.is_err());
    let volumes = driver.capture_stopped(&still(true, &disks), &clock).await.unwrap();
    assert_eq!(volumes.iter().map(|volume| &volume.dataset).collect::<Vec<_>>(), [&left.0]);
    assert!(bench.snapshots(&theirs).await.is_empty());
    assert!(matches!(driver.capture_stopped(&still(true, &[gone, theirs]), &clock).await, Err(Error::Missing(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn both_names_of_a_disk_are_a_conflict() {
    let bench = bench().await;
    let disk = bench.fork().await.unwrap();
    bench.driver.keep(MACHINE, std::slice::from_ref(&disk)).await.unwrap();
    bench.fork().await.unwrap();
    let before = bench.pool().await;
    assert!(matches!(bench.driver.keep(MACHINE, &[disk]).await, Err(Error::Conflict(_))));
    assert_eq!(bench.pool().await, before);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_others_need_is_not_collected_and_stays_held() {
    let bench = bench().await;
    let driver = &bench.driver;
    let disk = bench.fork().await.unwrap();
    let volume = driver.capture(std::slice::from_ref(&disk), CHECKPOINT, MACHINE).await.unwrap().remove(0);
    let snapshot = Snapshot { dataset: disk.clone(), name: volume.snapshot.clone() };
    // A clone of it, with its own hold released.
    let clone = driver.fork(&snapshot, &volume.guid, OTHER, Vmid(1001), 0).await.unwrap();
    assert!(matches!(driver.collect(&volume, CHECKPOINT, MACHINE).await, Err(Error::InUse(_))));
    assert_eq!(driver.zfs.snapshot_info(&snapshot).await.unwrap().unwrap().holds, 1, "its hold is back");
    let destroyed = driver.destroy_disks(OTHER, Vmid(1001)).await.unwrap();
    assert_eq!(destroyed.destroyed, [clone]);
    // Someone else's hold.
    driver.zfs.hold("backup", std::slice::from_ref(&snapshot)).await.unwrap();
    assert!(matches!(driver.collect(&volume, CHECKPOINT, MACHINE).await, Err(Error::InUse(_))));
    assert_eq!(driver.zfs.snapshot_info(&snapshot).await.unwrap().unwrap().holds, 2);
    driver.zfs.release("backup", std::slice::from_ref(&snapshot)).await.unwrap();
    // The disk lives: only the snapshot goes.
    let collected = driver.collect(&volume, CHECKPOINT, MACHINE).await.unwrap();
    assert_eq!((collected.snapshot, collected.disk), (Some(snapshot), None));
    assert!(driver.zfs.dataset(&disk).await.unwrap().is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn disks_with_checkpoints_are_kept_when_the_machine_is_discarded() {
    let bench = bench().await;
    let disk = bench.fork().await.unwrap();
    let volume = bench.driver.capture(std::slice::from_ref(&disk), CHECKPOINT, MACHINE).await.unwrap().remove(0);
    let outcome = bench.driver.destroy_disks(MACHINE, VMID).await.unwrap();
    assert_eq!((outcome.destroyed.len(), outcome.kept.as_slice()), (0, [bench.driver.kept(MACHINE, 0)].as_slice()));
    assert!(bench.driver.locate(&volume, Some(MACHINE)).await.unwrap().is_some());
    assert!(bench.driver.datasets_of(VMID).await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_capture_whose_record_was_lost_is_found_by_name_and_mark() {
    let bench = bench().await;
    let disk = bench.fork().await.unwrap();
    let disks = std::slice::from_ref(&disk);
    assert!(bench.driver.find_captured(disks, CHECKPOINT, MACHINE).await.unwrap().is_empty());
    let volumes = bench.driver.capture(disks, CHECKPOINT, MACHINE).await.unwrap();
    assert_eq!(bench.driver.find_captured(disks, CHECKPOINT, MACHINE).await.unwrap(), volumes);
    let kept = bench.driver.keep(MACHINE, disks).await.unwrap().remove(0);
    let found = bench.driver.find_captured(&[], CHECKPOINT, MACHINE).await.unwrap();
    assert_eq!((found.len(), found[0].dataset.as_str(), &found[0].guid), (1, kept.0.as_str(), &volumes[0].guid));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_whose_file_changed_says_so_and_one_that_is_not_ours_is_left() {
    let bench = bench().await;
    let driver = &bench.driver;
    let file = image_file(&bench);
    assert!(driver.imported(&file, "debian").await.unwrap().is_none());
    assert!(matches!(driver.import_image(Path::new("/nonexistent/image"), "debian").await, Err(Error::Missing(_))));
    let image = driver.import_image(&file, "debian").await.unwrap();
    std::fs::write(&file, b"another").unwrap();
    let later = driver.imported(&file, "debian").await.unwrap().unwrap();
    assert_eq!((later.guid == image.guid, later.stale), (true, true));
    let (micro, guid) = image_of(driver).await;
    driver.zfs.clone_snapshot(&micro, &driver.image_dataset("foreign"), &Properties::new()).await.unwrap();
    assert!(matches!(driver.import_image(&file, "foreign").await, Err(Error::Conflict(_))));
    assert_eq!(driver.find_image(&micro.to_string()).await.unwrap().guid, guid);
    assert!(matches!(driver.find_image("tank/none@base").await, Err(Error::Missing(_))));
    assert!(matches!(driver.find_image("tank/none").await, Err(Error::Settings(_))));
}
