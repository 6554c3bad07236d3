//! The same over this machine's own ZFS (skipped aloud where none answers): what a pool and a program do that no model does.

use super::{UID, at, marks, sshd::Sshd};
use crate::own_zfs::{destroy_pool, unmount_again, zfs, zpool};
use autovibe::{
    api::checkpoint::{Volume, VolumeCopy},
    clock::Clock,
    driver::{
        self, Connection, Door, Driver,
        storage::{self, Wanted},
    },
    lab::{Lab, real::pool},
    proxmox::Vmid,
    remote::archive::{Begin, Disk},
    zfs::{Dataset, Error, Properties, Runner, Snapshot, Zfs},
};
use std::{
    os::unix::fs::PermissionsExt,
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

/// A pool of the test's own, gone with it.
pub(super) struct Pool {
    pub(super) name: String,
    pub(super) dir: tempfile::TempDir,
}

impl Drop for Pool {
    fn drop(&mut self) {
        if let Err(why) = destroy_pool(&self.name) {
            eprintln!("{why}");
        }
    }
}

pub(super) async fn pool(test: &str) -> Option<Pool> {
    let root = Command::new("id").arg("-u").output().is_ok_and(|output| output.stdout == b"0\n");
    if !root || zpool(&["list"]).is_err() {
        eprintln!("SKIPPED {test}: it needs root and zfs");
        return None;
    }
    let dir = tempfile::tempdir().unwrap();
    let name = pool::name(dir.path());
    match pool::bring_up(dir.path(), &name, 512 << 20, &Clock::system()).await {
        Ok(_) => {}
        Err(autovibe::lab::real::Error::Unavailable(why)) => {
            eprintln!("SKIPPED {test}: {why}");
            return None;
        }
        Err(error) => panic!("{error}"),
    }
    let pool = Pool { name, dir };
    for root in [pool.data(), pool.keep()] {
        zfs(&["create", "-o", "mountpoint=none", &root]);
    }
    Some(pool)
}

impl Pool {
    pub(super) fn data(&self) -> String {
        format!("{}/d", self.name)
    }
    pub(super) fn keep(&self) -> String {
        format!("{}/k", self.name)
    }
    fn disk(&self, vmid: u32) -> Dataset {
        Dataset(format!("{}/vm-{vmid}-disk-0", self.data()))
    }
    fn kept(&self, index: u32) -> Dataset {
        Dataset(format!("{}/m-{UID}-disk-{index}", self.keep()))
    }
    pub(super) fn arguments(&self) -> String {
        format!("--datasets {},{} --state {{state}}", self.data(), self.keep())
    }
    /// A disk as the helper must see it: with our mark.
    fn make(&self, vmid: u32) -> Dataset {
        zfs(&["create", "-o", "mountpoint=none", "-o", "autovibe:machine=M", &self.disk(vmid).0]);
        self.disk(vmid)
    }
}

/// A program `zfs` that does as the file `mode` beside it says, and otherwise what `zfs` does. It never kills a `zfs`.
fn wrapper(dir: &Path) {
    let script = "#!/bin/sh\n\
        mode=$(cat \"${0%/*}/mode\")\n\
        case \"$1\" in get|list) mode=none;; esac\n\
        case $mode in\n\
        killed-before) kill -KILL $$;;\n\
        killed-after) /usr/sbin/zfs \"$@\"; kill -KILL $$;;\n\
        garbage) printf '\\377\\376'; exit 0;;\n\
        complains) /usr/sbin/zfs \"$@\"; echo 'warning: something' >&2; exit 0;;\n\
        lies) echo 'it worked, or so' >&2; exit 0;;\n\
        *) exec /usr/sbin/zfs \"$@\";;\n\
        esac\n";
    std::fs::write(dir.join("zfs"), script).unwrap();
    std::fs::set_permissions(dir.join("zfs"), std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn z2_the_outcome_of_a_command_is_what_can_be_seen() {
    let name = "z2_the_outcome_of_a_command_is_what_can_be_seen";
    let Some(pool) = pool(name).await else { return };
    let bin = pool.dir.path().join("bin");
    std::fs::create_dir(&bin).unwrap();
    wrapper(&bin);
    std::fs::write(bin.join("mode"), "none").unwrap();
    let command = format!("PATH={}:$PATH exec {} zfs-helper {}", bin.display(), env!("CARGO_BIN_EXE_autovibe"), pool.arguments());
    let Some(sshd) = Sshd::with_command(name, &command) else { return };
    let zfs = Zfs::open(sshd.runner()).await.unwrap();
    let disk = pool.make(1000);
    for (mode, done) in [("killed-before", false), ("killed-after", true), ("garbage", false), ("complains", true), ("lies", false)] {
        std::fs::write(bin.join("mode"), mode).unwrap();
        let snapshot = at(&disk, &format!("av-{mode}"));
        let result = zfs.snapshot(std::slice::from_ref(&snapshot), &marks("checkpoint", mode)).await;
        // Neither done nor not done, as long as nobody has looked; one that is killed is not told apart by its status.
        assert!(matches!(result, Err(Error::Unknown(_))), "{mode}: {result:?}");
        assert_eq!(zfs.snapshot_info(&snapshot).await.unwrap().is_some(), done, "{mode}");
    }
    // A helper that is not there has done nothing.
    let missing = Sshd::with_command(name, "/nonexistent/autovibe zfs-helper").unwrap();
    match Zfs::open(missing.runner()).await {
        Err(Error::Unavailable(why)) => assert!(why.contains("127"), "{why}"),
        other => panic!("{:?}", other.err()),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn z6_a_stream_that_is_cut_leaves_nothing_that_counts_and_its_source_whole() {
    let name = "z6_a_stream_that_is_cut_leaves_nothing_that_counts_and_its_source_whole";
    let Some(pool) = pool(name).await else { return };
    let Some(sshd) = Sshd::start(name, &pool.arguments()) else { return };
    let zfs = Zfs::open(sshd.runner()).await.unwrap();
    // A disk with something on it, imported through the helper.
    let image = pool.dir.path().join("image.raw");
    std::fs::write(&image, (0..2_000_000_u32).flat_map(u32::to_le_bytes).collect::<Vec<u8>>()).unwrap();
    let source = pool.disk(1000);
    zfs.import_disk(&image, &source, &marks("machine", "M")).await.unwrap();
    let snapshot = at(&source, "av-C");
    zfs.snapshot(std::slice::from_ref(&snapshot), &marks("checkpoint", "C")).await.unwrap();
    let guid = zfs.snapshot_info(&snapshot).await.unwrap().unwrap().guid;
    let mut stream = Vec::new();
    zfs.send(&snapshot, None, &mut stream).await.unwrap();
    assert!(stream.len() > 8_000_000, "{} bytes", stream.len());
    let seed = std::process::id() as usize;
    eprintln!("seed {seed}");
    for round in 0..20 {
        // A step that shares no factor with the length reaches offsets all over it.
        let cut = (seed + round * 2_654_435_761) % stream.len();
        let target = pool.kept(u32::try_from(round).unwrap());
        let received = zfs.receive(&target, &mut &stream[..cut]).await;
        assert!(received.is_err(), "{cut} of {} bytes were taken for all: {received:?}", stream.len());
        if let Some(token) = zfs.resume_token(&target).await.unwrap() {
            let mut rest = Vec::new();
            zfs.send_rest(&token, &mut rest).await.unwrap();
            zfs.receive(&target, &mut rest.as_slice()).await.unwrap();
        } else {
            assert_eq!(zfs.dataset(&target).await.unwrap(), None, "half a disk is there after {cut} bytes");
            if round < 3 {
                zfs.receive(&target, &mut stream.as_slice()).await.unwrap();
            }
        }
        if round < 3 {
            let there = zfs.snapshot_info(&at(&target, "av-C")).await.unwrap().unwrap();
            assert_eq!((there.guid.as_str(), there.properties.len()), (guid.as_str(), 0));
            // It is no one's until it was seen to be whole.
            assert!(matches!(zfs.destroy_dataset(&target).await, Err(Error::Refused(_))));
            zfs.mark(&target, "autovibe:machine", UID).await.unwrap();
            assert_eq!(zfs.dataset(&target).await.unwrap().unwrap().properties, marks("machine", UID));
        }
    }
    assert_eq!(zfs.snapshot_info(&snapshot).await.unwrap().unwrap().guid, guid);
    // A wrong base is refused, and what was there stays.
    let (later, last) = (at(&source, "av-D"), at(&source, "av-E"));
    for snapshot in [&later, &last] {
        zfs.snapshot(std::slice::from_ref(snapshot), &marks("checkpoint", "D")).await.unwrap();
    }
    let (mut increment, mut beyond) = (Vec::new(), Vec::new());
    zfs.send(&later, Some(&snapshot), &mut increment).await.unwrap();
    zfs.send(&last, Some(&later), &mut beyond).await.unwrap();
    assert!(zfs.receive(&pool.kept(0), &mut beyond.as_slice()).await.is_err(), "an increment without its base");
    let mut flipped = increment.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    assert!(zfs.receive(&pool.kept(0), &mut flipped.as_slice()).await.is_err(), "a flipped bit was not seen");
    assert_eq!(zfs.snapshots(&pool.kept(0)).await.unwrap().len(), 1);
    zfs.receive(&pool.kept(0), &mut increment.as_slice()).await.unwrap();
    assert_eq!(zfs.snapshots(&pool.kept(0)).await.unwrap().len(), 2);
}

/// The verbs on a node whose ZFS is a pool here, behind a real sshd; Proxmox is the lab's.
async fn driver(lab: &Lab, pool: &Pool, sshd: &Sshd) -> Driver {
    let of_lab = Connection::of_lab(lab.endpoint());
    Driver::open(Connection { runner: sshd.runner(), dataset: Dataset(pool.data()), keep: Dataset(pool.keep()), ..of_lab }).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_moves_from_pool_to_pool_with_its_guid() {
    let name = "a_checkpoint_moves_from_pool_to_pool_with_its_guid";
    let (Some(here), Some(there)) = (pool(name).await, pool(name).await) else { return };
    let (Some(to), Some(from)) = (Sshd::start(name, &here.arguments()), Sshd::start(name, &there.arguments())) else { return };
    let dir = tempfile::tempdir().unwrap();
    let lab = crate::node::start(dir.path()).await;
    let (to, from) = (driver(&lab, &here, &to).await, driver(&lab, &there, &from).await);
    let receive = async |wanted: Wanted| loop {
        if let Some(outcome) = to.receive(&from, wanted.clone()).await {
            return outcome;
        }
    };
    // The image first: what is cloned from it moves as what changed since.
    let file = dir.path().join("image.raw");
    std::fs::write(&file, (0..1_000_000_u32).flat_map(u32::to_le_bytes).collect::<Vec<u8>>()).unwrap();
    let image = from.import_image(&file, "debian").await.unwrap();
    let wanted = to.image_wanted(&from, &image, "debian").await.unwrap();
    assert_eq!(to.copied_image(&image, "debian").await.unwrap(), None);
    receive(wanted.clone()).await.unwrap();
    receive(wanted).await.unwrap();
    let copied = to.copied_image(&image, "debian").await.unwrap().unwrap();
    assert_eq!((&copied.guid, to.imported(&file, "debian").await.unwrap().map(|found| found.stale)), (&image.guid, Some(false)));

    let disk = from.fork(&image.snapshot, &image.guid, UID, Vmid(1000), 0).await.unwrap();
    let uid = "5f0c7d1e-1111-4222-8333-444455556677";
    let mut volume = from.capture(std::slice::from_ref(&disk), uid, UID).await.unwrap().remove(0);
    let marks = marks("checkpoint", uid);
    let wanted = Wanted {
        source: from.locate(&volume, Some(UID)).await.unwrap().unwrap(),
        guid: volume.guid.clone(),
        target: to.copy(uid, 0),
        snapshot_marks: marks.clone().into_iter().chain(super::marks("machine", UID)).collect(),
        marks,
        base: storage::Base::Nearest,
    };
    // Whoever began it was killed: the rest of an earlier try is no one's, or what came of it is gone on with.
    let mut stream = Vec::new();
    from.zfs.send(&wanted.source, Some(&image.snapshot), &mut stream).await.unwrap();
    let cut = stream.len() / 2;
    let half = to.zfs.receive_onto(&copied.snapshot, &wanted.target, &mut &stream[..cut]).await;
    assert!(half.is_err(), "{cut} of {} bytes were taken for all", stream.len());
    receive(wanted.clone()).await.unwrap();
    let arrived = at(&wanted.target, &volume.snapshot);
    let found = to.zfs.snapshot_info(&arrived).await.unwrap().unwrap();
    assert_eq!((&found.guid, found.holds, &found.properties), (&volume.guid, 1, &wanted.snapshot_marks));
    assert_eq!(
        to.zfs.dataset(&wanted.target).await.unwrap().unwrap().origin.as_ref(),
        Some(&copied.snapshot),
        "only what changed was sent"
    );
    assert!(stream.len() < 1_000_000, "{} bytes for a disk of 4 MB without changes", stream.len());

    // From there a Machine is spawned as from any other; and it goes when nothing needs it.
    let (node, dataset) = (to.node().0.clone(), wanted.target.0.clone());
    volume.copies.push(VolumeCopy { node, dataset, received: true });
    // On nodes of one cluster the storage is called the same.
    let volume = Volume { dataset: to.disk(Vmid(1000), 0).0, ..volume };
    assert_eq!(to.locate(&volume, Some(UID)).await.unwrap(), Some(arrived.clone()));
    let other = "5f0c7d1e-1111-4222-8333-444455556667";
    to.fork(&arrived, &volume.guid, other, Vmid(1001), 0).await.unwrap();
    let discard = async || to.discard_copy(&wanted.target, &volume.snapshot, &volume.guid, uid).await;
    assert!(matches!(discard().await, Err(driver::Error::InUse(_))), "it has a clone");
    assert_eq!(to.zfs.snapshot_info(&arrived).await.unwrap().unwrap().holds, 1, "and keeps its hold");
    to.destroy_disks(other, Vmid(1001)).await.unwrap();
    let wrong = to.discard_copy(&wanted.target, &volume.snapshot, "1", uid).await;
    assert!(matches!(wrong, Err(driver::Error::Conflict(_))), "{wrong:?}");
    let wrong = to.discard_copy(&wanted.target, &volume.snapshot, &volume.guid, other).await;
    assert!(matches!(wrong, Err(driver::Error::Conflict(_))), "{wrong:?}");
    discard().await.unwrap();
    discard().await.unwrap();
    assert_eq!(to.zfs.dataset(&wanted.target).await.unwrap(), None);
    assert!(from.zfs.snapshot_info(&wanted.source).await.unwrap().is_some(), "the original is where it was");
}

#[tokio::test(flavor = "multi_thread")]
async fn z5_a_pool_that_is_full_or_away_denies_nothing() {
    let name = "z5_a_pool_that_is_full_or_away_denies_nothing";
    let Some(pool) = pool(name).await else { return };
    let Some(sshd) = Sshd::start(name, &pool.arguments()) else { return };
    let remote = Zfs::open(sshd.runner()).await.unwrap();
    let disk = pool.make(1000);
    let snapshot = at(&disk, "av-C");
    remote.snapshot(std::slice::from_ref(&snapshot), &marks("checkpoint", "C")).await.unwrap();
    let identity = remote.pool_guid(&disk).await.unwrap();
    // No room for an image: said so, and nothing of it stays.
    let image = pool.dir.path().join("image.raw");
    std::fs::write(&image, vec![7; 64 << 20]).unwrap();
    zfs(&["set", "quota=8M", &pool.data()]);
    let full = remote.import_disk(&image, &pool.disk(1001), &marks("machine", "M")).await;
    assert!(full.is_err(), "{full:?}");
    assert_eq!(remote.dataset(&pool.disk(1001)).await.unwrap(), None, "half an image stayed after: {full:?}");
    zfs(&["set", "quota=none", &pool.data()]);
    // Away: neither disk nor snapshot is "not there".
    let started = Instant::now();
    loop {
        let exported = zpool(&["export", &pool.name]).unwrap();
        if exported.status.success() {
            break;
        }
        assert!(started.elapsed() < Duration::from_mins(1), "{}", String::from_utf8_lossy(&exported.stderr));
        unmount_again(&pool.name);
    }
    let results = [
        remote.dataset(&disk).await.map(|found| found.is_some()),
        remote.snapshot_info(&snapshot).await.map(|found| found.is_some()),
        remote.pool_guid(&disk).await.map(|_| true),
    ];
    for result in results {
        assert!(matches!(result, Err(Error::Unavailable(_))), "{result:?}");
    }
    let back = zpool(&["import", "-d", pool.dir.path().to_str().unwrap(), &pool.name]).unwrap();
    assert!(back.status.success(), "{}", String::from_utf8_lossy(&back.stderr));
    assert!(remote.snapshot_info(&snapshot).await.unwrap().is_some());
    assert_eq!(remote.pool_guid(&disk).await.unwrap(), identity);
}

#[tokio::test(flavor = "multi_thread")]
async fn z7_z8_snapshots_are_known_by_guid_whatever_others_take_and_the_clock_says() {
    let name = "z7_z8_snapshots_are_known_by_guid_whatever_others_take_and_the_clock_says";
    let Some(pool) = pool(name).await else { return };
    let Some(sshd) = Sshd::start(name, &pool.arguments()) else { return };
    let remote = Zfs::open(sshd.runner()).await.unwrap();
    let disk = pool.make(1000);
    let mut order = Vec::new();
    for (number, short) in ["av-b", "__replicate_100-0_1", "av-a", "autosnap_daily", "av-c"].into_iter().enumerate() {
        if short.starts_with("av-") {
            remote.snapshot(&[at(&disk, short)], &marks("checkpoint", &number.to_string())).await.unwrap();
            order.push(short);
        } else {
            zfs(&["snapshot", &at(&disk, short).to_string()]);
        }
    }
    // In the order in which the pool took them, which no clock sets back.
    let mut found = remote.snapshots(&disk).await.unwrap();
    found.sort_by_key(|snapshot| snapshot.createtxg);
    let ours: Vec<&str> = found.iter().filter(|s| !s.properties.is_empty()).map(|s| s.name.name.as_str()).collect();
    assert_eq!(ours, order);
    // Others' are seen, and neither taken, held beyond our tag, nor destroyed.
    assert_eq!(found.len(), 5);
    for theirs in ["__replicate_100-0_1", "autosnap_daily"] {
        for result in
            [remote.destroy_snapshot(&at(&disk, theirs)).await, remote.snapshot(&[at(&disk, theirs)], &marks("checkpoint", "x")).await]
        {
            // A name with `__` does not even leave the hub.
            assert!(matches!(result, Err(Error::Refused(_) | Error::BadName(_))), "{result:?}");
        }
    }
    // A namesake is another: the name is free again, the guid is not.
    let old = remote.snapshot_info(&at(&disk, "av-a")).await.unwrap().unwrap();
    remote.destroy_snapshot(&at(&disk, "av-a")).await.unwrap();
    remote.snapshot(&[at(&disk, "av-a")], &marks("checkpoint", "2")).await.unwrap();
    let new = remote.snapshot_info(&at(&disk, "av-a")).await.unwrap().unwrap();
    assert!(new.guid != old.guid && new.createtxg > old.createtxg, "{old:?} {new:?}");
}

/// Commands that reach `zfs` while `work` runs are the same with a few and with many snapshots there, and none lists them.
#[tokio::test(flavor = "multi_thread")]
async fn z4_no_command_of_a_checkpoint_depends_on_how_many_there_are() {
    let name = "z4_no_command_of_a_checkpoint_depends_on_how_many_there_are";
    let Some(pool) = pool(name).await else { return };
    let log = pool.dir.path().join("log");
    let bin = pool.dir.path().join("bin");
    std::fs::create_dir(&bin).unwrap();
    let script = format!("#!/bin/sh\necho \"$*\" >> {}\nexec /usr/sbin/zfs \"$@\"\n", log.display());
    std::fs::write(bin.join("zfs"), script).unwrap();
    std::fs::set_permissions(bin.join("zfs"), std::fs::Permissions::from_mode(0o755)).unwrap();
    let command = format!("PATH={}:$PATH exec {} zfs-helper {}", bin.display(), env!("CARGO_BIN_EXE_autovibe"), pool.arguments());
    let Some(sshd) = Sshd::with_command(name, &command) else { return };
    let remote = Zfs::open(sshd.runner()).await.unwrap();
    let disk = pool.make(1000);
    let round = async |number: u32| {
        std::fs::write(&log, "").unwrap();
        let snapshot = at(&disk, &format!("av-{number}"));
        remote.snapshot(std::slice::from_ref(&snapshot), &marks("checkpoint", "C")).await.unwrap();
        remote.hold("autovibe", std::slice::from_ref(&snapshot)).await.unwrap();
        remote.snapshot_info(&snapshot).await.unwrap().unwrap();
        remote.clone_snapshot(&snapshot, &pool.disk(2000 + number), &marks("machine", "N")).await.unwrap();
        remote.dataset(&pool.disk(2000 + number)).await.unwrap().unwrap();
        std::fs::read_to_string(&log).unwrap()
    };
    let few = round(1).await;
    // `snapshot -r` of many children takes them all at once.
    for child in 0..10 {
        zfs(&["create", "-o", "mountpoint=none", &format!("{}/filler{child}", pool.data())]);
    }
    for number in 0..30 {
        zfs(&["snapshot", "-r", &format!("{}@filler-{number}", pool.data())]);
    }
    let many = round(2).await;
    assert_eq!(few.lines().count(), many.lines().count(), "{few}\n{many}");
    assert!(!many.lines().any(|line| line.contains(" -r") || line.starts_with("list")), "{many}");
    let took: Properties = remote.snapshot_info(&at(&disk, "av-2")).await.unwrap().unwrap().properties;
    assert_eq!(took, marks("checkpoint", "C"));
}

#[tokio::test(flavor = "multi_thread")]
async fn z1_a_snapshot_that_is_there_already_is_said_to_be() {
    let name = "z1_a_snapshot_that_is_there_already_is_said_to_be";
    let Some(pool) = pool(name).await else { return };
    let Some(sshd) = Sshd::start(name, &pool.arguments()) else { return };
    let remote = Zfs::open(sshd.runner()).await.unwrap();
    let local = Zfs::open(Runner::Local).await.unwrap();
    assert_eq!(remote.capabilities(), local.capabilities());
    let disk = pool.make(1000);
    let snapshot: Snapshot = at(&disk, "av-C");
    remote.snapshot(std::slice::from_ref(&snapshot), &marks("checkpoint", "C")).await.unwrap();
    let again = remote.snapshot(std::slice::from_ref(&snapshot), &marks("checkpoint", "C")).await;
    assert!(matches!(again, Err(Error::Exists(_))), "{again:?}");
    assert_eq!(remote.snapshot_info(&snapshot).await.unwrap(), local.snapshot_info(&snapshot).await.unwrap());
    // Renamed out of sight and back, its guid stays; a rename of a dataset that is busy for a moment is tried again.
    let kept = Dataset(format!("{}/m-{UID}-disk-0", pool.keep()));
    remote.rename(&disk, &kept).await.unwrap();
    assert_eq!(remote.dataset(&disk).await.unwrap(), None);
    assert!(remote.snapshot_info(&at(&kept, "av-C")).await.unwrap().is_some());
}

/// Reads a little and goes away.
struct Leaves(usize);

impl tokio::io::AsyncWrite for Leaves {
    fn poll_write(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
        bytes: &[u8],
    ) -> std::task::Poll<std::io::Result<usize>> {
        let some = self.0.min(bytes.len());
        self.0 -= some;
        std::task::Poll::Ready(if some == 0 { Err(std::io::ErrorKind::BrokenPipe.into()) } else { Ok(some) })
    }
    fn poll_flush(self: std::pin::Pin<&mut Self>, _: &mut std::task::Context<'_>) -> std::task::Poll<std::io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }
    fn poll_shutdown(self: std::pin::Pin<&mut Self>, _: &mut std::task::Context<'_>) -> std::task::Poll<std::io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_goes_through_a_file_between_pools() {
    let name = "a_checkpoint_goes_through_a_file_between_pools";
    let (Some(here), Some(there)) = (pool(name).await, pool(name).await) else { return };
    let (Some(to), Some(from)) = (Sshd::start(name, &here.arguments()), Sshd::start(name, &there.arguments())) else { return };
    let dir = tempfile::tempdir().unwrap();
    let lab = crate::node::start(dir.path()).await;
    let (to, from) = (driver(&lab, &here, &to).await, driver(&lab, &there, &from).await);
    let file = dir.path().join("image.raw");
    std::fs::write(&file, (0..1_000_000_u32).flat_map(u32::to_le_bytes).collect::<Vec<u8>>()).unwrap();
    let image = from.import_image(&file, "debian").await.unwrap();
    let disk = from.fork(&image.snapshot, &image.guid, UID, Vmid(1000), 0).await.unwrap();
    let checkpoint = "5f0c7d1e-1111-4222-8333-444455556677";
    let taken = from.capture(std::slice::from_ref(&disk), checkpoint, UID).await.unwrap().remove(0);
    let source = from.locate(&taken, Some(UID)).await.unwrap().unwrap();

    // Held while it is read; also a reader that goes away is no end of waiting.
    from.hold_for_export(std::slice::from_ref(&source)).await.unwrap();
    assert!(matches!(from.collect(&taken, checkpoint, UID).await, Err(driver::Error::InUse(_))), "it is being exported");
    let left = tokio::time::timeout(Duration::from_secs(30), from.export(&image.snapshot, None, &mut Leaves(1000))).await;
    assert!(left.expect("the sender ends with its reader").is_err());
    let (mut whole, mut change) = (Vec::new(), Vec::new());
    from.export(&image.snapshot, None, &mut whole).await.unwrap();
    let base = from.in_the_past_of(&source, &image.guid).await.unwrap();
    assert_eq!(base, image.snapshot);
    assert!(matches!(from.in_the_past_of(&image.snapshot, &taken.guid).await, Err(driver::Error::Missing(_))), "that is later");
    from.export(&source, Some(&base), &mut change).await.unwrap();
    from.export_ended(&source).await.unwrap();
    from.export_ended(&source).await.unwrap();

    // What a stream says of itself is what ZFS says of it; one with properties is told apart.
    let begin = Begin::read(&whole).expect("a stream of ZFS");
    let volume = from.zfs.capabilities().volumes;
    let said = Disk { snapshot: "base".into(), guid: image.guid.clone(), volume, ..Disk::default() };
    assert_eq!((begin.guid.to_string(), begin.since, begin.differs(&said)), (image.guid.clone(), None, None));
    assert!(begin.differs(&Disk { guid: taken.guid.clone(), ..said.clone() }).unwrap().contains("has guid"));
    assert!(begin.differs(&Disk { snapshot: "other".into(), ..said.clone() }).is_some());
    let later = Begin::read(&change).unwrap();
    assert_eq!((later.guid.to_string(), later.since.map(|guid| guid.to_string())), (taken.guid.clone(), Some(image.guid.clone())));
    let with_properties = Command::new("zfs").args(["send", "-p", &image.snapshot.to_string()]).output().unwrap().stdout;
    assert!(Begin::read(&with_properties).unwrap().differs(&said).unwrap().contains("sets properties"));
    assert_eq!(Begin::read(&[0; 400]), None);

    // Into a new dataset alone, which is of use when it was accepted, and goes by name and guid.
    let (first, second) = ("5f0c7d1e-2222-4222-8333-444455556677", "5f0c7d1e-3333-4222-8333-444455556677");
    let volume_of = |uid: &str, snapshot: &str, guid: &str| Volume {
        node: to.node().0.clone(),
        dataset: to.copy(uid, 0).0,
        snapshot: snapshot.into(),
        guid: guid.into(),
        ..Volume::default()
    };
    let (imported, door) = (volume_of(first, "base", &image.guid), Door::default());
    let target = Dataset(imported.dataset.clone());
    assert!(to.import_stream(&target, None, &mut &whole[..whole.len() / 2]).await.is_err(), "half of it is not all");
    to.collect_import(&imported, first).await.unwrap();
    to.import_stream(&target, None, &mut &whole[..]).await.unwrap();
    let taken_name = to.import_stream(&target, None, &mut &whole[..]).await;
    assert!(matches!(taken_name, Err(driver::Error::Conflict(_))), "{taken_name:?}");
    let wrong = to.accept_import(&Volume { guid: "1".into(), ..imported.clone() }, first, &door).await;
    assert!(matches!(wrong, Err(driver::Error::Conflict(_))), "{wrong:?}");
    to.accept_import(&imported, first, &door).await.unwrap();
    let arrived = to.zfs.snapshot_info(&at(&target, "base")).await.unwrap().unwrap();
    assert_eq!((arrived.holds, &arrived.properties), (1, &marks("checkpoint", first)));
    let changed = volume_of(second, &taken.snapshot, &taken.guid);
    to.import_stream(&Dataset(changed.dataset.clone()), Some(&at(&target, "base")), &mut &change[..]).await.unwrap();
    to.accept_import(&changed, second, &door).await.unwrap();
    to.fork(&at(&Dataset(changed.dataset.clone()), &taken.snapshot), &taken.guid, UID, Vmid(1001), 0).await.unwrap();
    assert!(matches!(to.collect_import(&changed, second).await, Err(driver::Error::InUse(_))), "a Machine lives on it");
    to.destroy_disks(UID, Vmid(1001)).await.unwrap();
    assert!(matches!(to.collect_import(&imported, first).await, Err(driver::Error::InUse(_))), "the other is a clone of it");
    let wrong = to.collect_import(&Volume { guid: "1".into(), ..changed.clone() }, second).await;
    assert!(matches!(wrong, Err(driver::Error::Conflict(_))), "{wrong:?}");
    for (volume, uid) in [(&changed, second), (&imported, first), (&imported, first)] {
        to.collect_import(volume, uid).await.unwrap();
        assert_eq!(to.zfs.dataset(&Dataset(volume.dataset.clone())).await.unwrap(), None);
    }

    // A pool that is full says so; what came of it goes, and with room it comes.
    let free = Command::new("zfs").args(["get", "-Hp", "-o", "value", "available", &here.keep()]).output().unwrap().stdout;
    let free: u64 = String::from_utf8(free).unwrap().trim().parse().unwrap();
    let filler = format!("{}/filler", here.name);
    zfs(&["create", "-o", "mountpoint=none", "-o", &format!("reservation={}", free - (1 << 20)), &filler]);
    let full = to.import_stream(&target, None, &mut &whole[..]).await;
    assert!(matches!(full, Err(driver::Error::Zfs(Error::OutOfSpace(_)))), "{full:?}");
    to.collect_import(&imported, first).await.unwrap();
    assert_eq!(to.zfs.dataset(&target).await.unwrap(), None);
    zfs(&["set", "reservation=none", &filler]);
    to.import_stream(&target, None, &mut &whole[..]).await.unwrap();
}
