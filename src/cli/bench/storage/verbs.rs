//! The verbs that are measured, each beside the plain `zfs` commands that have the same effect.

use super::fill::{Many, Single, at, uid};
use super::ground::{Ground, Step, marks, raw};
use crate::driver::storage::HOLD;
use crate::proxmox::Vmid;
use crate::zfs::{Dataset, Snapshot};
use anyhow::ensure;
use futures::future::try_join_all;
use std::time::{Duration, Instant};

/// The disks of forks, which are there for a moment.
const FORK: Vmid = Vmid(8000);
const RAW_FORK: Vmid = Vmid(8001);

/// What is done, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Verb {
    Checkpoint,
    Lookup,
    Fork,
    EndOfFork,
    Delete,
    DeleteOfEnded,
    LookupAmongMany,
    ForkAmongMany,
    DeleteAmongMany,
}

impl Verb {
    pub(super) const ALL: [Self; 9] = [
        Self::Checkpoint,
        Self::Lookup,
        Self::Fork,
        Self::EndOfFork,
        Self::Delete,
        Self::DeleteOfEnded,
        Self::LookupAmongMany,
        Self::ForkAmongMany,
        Self::DeleteAmongMany,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Checkpoint => "checkpoint",
            Self::Lookup => "lookup",
            Self::Fork => "fork",
            Self::EndOfFork => "end of a fork without checkpoints",
            Self::Delete => "delete",
            Self::DeleteOfEnded => "delete, its Machine ended",
            Self::LookupAmongMany => "lookup, many disks",
            Self::ForkAmongMany => "fork, many disks",
            Self::DeleteAmongMany => "delete, many disks",
        }
    }

    /// The plain commands beside it.
    pub(super) fn plain(self) -> &'static str {
        match self {
            Self::Checkpoint => "zfs snapshot, hold",
            Self::Lookup | Self::LookupAmongMany => "zfs get",
            Self::Fork | Self::ForkAmongMany => "zfs clone",
            Self::EndOfFork => "zfs destroy",
            Self::Delete | Self::DeleteOfEnded | Self::DeleteAmongMany => "zfs release, destroy",
        }
    }
}

/// What one verb took in one size of the pool: each time by the driver, and by the plain commands.
#[derive(Clone, Debug, Default)]
pub(super) struct Series {
    pub(super) ours: Vec<Step>,
    pub(super) plain: Vec<Duration>,
}

/// Called with what each step took.
pub(super) trait Note: FnMut(Verb, Step, Duration) {}
impl<T: FnMut(Verb, Step, Duration)> Note for T {}

/// A round on one disk with all checkpoints, whose Machine lives.
pub(super) async fn living(ground: &Ground, single: &Single, note: &mut impl Note) -> anyhow::Result<()> {
    let Single { disk, machine_uid, .. } = single;
    let (driver, one) = (&ground.driver, std::slice::from_ref(disk));
    ground.write(disk).await?;
    let (own, plain) = (uid(), uid());
    let (mut taken, step) = ground.step(driver.capture(one, &own, machine_uid)).await?;
    let plain_snapshot = at(disk, &plain);
    note(Verb::Checkpoint, step, checkpoint(&plain_snapshot, machine_uid, &plain).await?);
    let volume = taken.remove(0);
    let found = single.pick(ground).await?;
    let (source, step) = ground.step(driver.locate(&found.volume, Some(machine_uid))).await?;
    note(Verb::Lookup, step, look(&at(disk, &found.uid)).await?);
    ensure!(source == Some(at(disk, &found.uid)), "the driver found {source:?} and not checkpoint {}", found.uid);
    let (fork, end) = forked(ground, &at(disk, &found.uid), &found.volume.guid).await?;
    note(Verb::Fork, fork.0, fork.1);
    note(Verb::EndOfFork, end.0, end.1);
    let (collected, step) = ground.step(driver.collect(&volume, &own, machine_uid)).await?;
    ensure!(collected.snapshot == Some(at(disk, &own)), "the driver did not delete checkpoint {own}");
    note(Verb::Delete, step, delete(&plain_snapshot).await?);
    Ok(())
}

/// Rounds on the same disk, when its Machine has ended: it is kept for them, and put back.
pub(super) async fn ended(ground: &Ground, single: &mut Single, rounds: usize, note: &mut impl Note) -> anyhow::Result<()> {
    let mut going = Vec::new();
    for _ in 0..rounds {
        going.push((single.take(ground).await?, single.take(ground).await?));
    }
    let driver = &ground.driver;
    let kept = driver.keep(&single.machine_uid, std::slice::from_ref(&single.disk)).await?.remove(0);
    for (own, plain) in going {
        let (collected, step) = ground.step(driver.collect(&own.volume, &own.uid, &single.machine_uid)).await?;
        ensure!(collected.snapshot == Some(at(&kept, &own.uid)), "the driver did not delete checkpoint {}", own.uid);
        note(Verb::DeleteOfEnded, step, delete(&at(&kept, &plain.uid)).await?);
    }
    Ok(driver.zfs.rename(&kept, &single.disk).await?)
}

/// A round on many disks of Machines that ended.
pub(super) async fn among(ground: &Ground, many: &mut Many, note: &mut impl Note) -> anyhow::Result<()> {
    let driver = &ground.driver;
    let (machine, found) = many.pick(ground).await?;
    let here = at(&driver.kept(&machine, 0), &found.uid);
    let (source, step) = ground.step(driver.locate(&found.volume, Some(&machine))).await?;
    note(Verb::LookupAmongMany, step, look(&here).await?);
    ensure!(source.as_ref() == Some(&here), "the driver found {source:?} and not {here}");
    let (fork, _) = forked(ground, &here, &found.volume.guid).await?;
    note(Verb::ForkAmongMany, fork.0, fork.1);
    let ((machine, own), (other, plain)) = (many.take(ground).await?, many.take(ground).await?);
    let (collected, step) = ground.step(driver.collect(&own.volume, &own.uid, &machine)).await?;
    ensure!(collected.snapshot.is_some(), "the driver did not delete checkpoint {}", own.uid);
    note(Verb::DeleteAmongMany, step, delete(&at(&driver.kept(&other, 0), &plain.uid)).await?);
    Ok(())
}

/// What was measured of a fork, and of its end: by the driver, and plain.
type Measured = (Step, Duration);

async fn forked(ground: &Ground, source: &Snapshot, guid: &str) -> anyhow::Result<(Measured, Measured)> {
    let (driver, machine) = (&ground.driver, uid());
    let (_, fork) = ground.step(driver.fork(source, guid, &machine, FORK, 0)).await?;
    let plain_disk = driver.disk(RAW_FORK, 0);
    let plain = raw(&["clone"], &marks(&machine, None), &[source.to_string(), plain_disk.0.clone()]).await?;
    let (destroyed, end) = ground.step(driver.destroy_disks(&machine, FORK)).await?;
    ensure!(destroyed.destroyed == [driver.disk(FORK, 0)], "the fork's disk was not destroyed: {destroyed:?}");
    let begun = Instant::now();
    // As patient as the driver is: zfs-fuse calls what was just mounted busy.
    driver.zfs.destroy_dataset(&plain_disk).await?;
    Ok(((fork, plain), (end, begun.elapsed())))
}

/// Checkpoints of several Machines at the same moment, and one alone; by the driver, and by plain commands.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Together {
    pub(super) one: Step,
    pub(super) all: Step,
    pub(super) plain_one: Duration,
    pub(super) plain_all: Duration,
}

/// One disk of each Machine that lives.
pub(super) async fn machines(ground: &Ground, number: u32) -> anyhow::Result<Vec<(String, Dataset)>> {
    let mut machines = Vec::new();
    for vmid in 2000..2000 + number {
        let machine = uid();
        let disk = ground.driver.fork(&ground.base, &ground.base_guid, &machine, Vmid(vmid), 0).await?;
        machines.push((machine, disk));
    }
    Ok(machines)
}

pub(super) async fn together(ground: &Ground, machines: &[(String, Dataset)]) -> anyhow::Result<Together> {
    let capture = async |(machine, disk): &(String, Dataset)| {
        let captured = ground.driver.capture(std::slice::from_ref(disk), &uid(), machine).await;
        captured.map(drop)
    };
    let plain = async |(machine, disk): &(String, Dataset)| {
        let checkpoint_uid = uid();
        checkpoint(&at(disk, &checkpoint_uid), machine, &checkpoint_uid).await
    };
    let ((), one) = ground.step(capture(&machines[0])).await?;
    let (_, all) = ground.step(try_join_all(machines.iter().map(capture))).await?;
    let plain_one = plain(&machines[0]).await?;
    let begun = Instant::now();
    try_join_all(machines.iter().map(plain)).await?;
    Ok(Together { one, all, plain_one, plain_all: begun.elapsed() })
}

async fn checkpoint(snapshot: &Snapshot, machine_uid: &str, checkpoint_uid: &str) -> anyhow::Result<Duration> {
    let name = [snapshot.to_string()];
    let taken = raw(&["snapshot"], &marks(machine_uid, Some(checkpoint_uid)), &name).await?;
    Ok(taken + raw(&["hold", HOLD], &[], &name).await?)
}

async fn look(snapshot: &Snapshot) -> anyhow::Result<Duration> {
    raw(&["get", "-Hp", "guid"], &[], &[snapshot.to_string()]).await
}

async fn delete(snapshot: &Snapshot) -> anyhow::Result<Duration> {
    let name = [snapshot.to_string()];
    Ok(raw(&["release", HOLD], &[], &name).await? + raw(&["destroy"], &[], &name).await?)
}
