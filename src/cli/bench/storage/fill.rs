//! Makes checkpoints by the thousand, as the driver would leave them: marked and held. Not by the driver, which takes them one
//! by one.

use super::ground::{Ground, marks, raw};
use crate::api::checkpoint::Volume;
use crate::driver::storage::{HOLD, snapshot_name};
use crate::proxmox::Vmid;
use crate::zfs::{Dataset, Snapshot};
use anyhow::Context as _;
use futures::{StreamExt, TryStreamExt};
use std::collections::VecDeque;

/// Commands at once.
const AT_ONCE: usize = 8;
/// So many snapshots are held in one command.
const BATCH: usize = 100;

/// A checkpoint that is there.
#[derive(Clone, Debug)]
pub(super) struct Made {
    pub(super) uid: String,
    /// As the driver recorded it when it was taken.
    pub(super) volume: Volume,
}

/// One disk with all checkpoints on it.
pub(super) struct Single {
    pub(super) disk: Dataset,
    pub(super) machine_uid: String,
    /// Uids, oldest first.
    pub(super) checkpoints: VecDeque<String>,
}

impl Single {
    /// Takes as many as are missing.
    pub(super) async fn fill(&mut self, ground: &Ground, number: usize) -> anyhow::Result<()> {
        while self.checkpoints.len() < number {
            ground.write(&self.disk).await?;
            let wanted = (number - self.checkpoints.len()).min(BATCH);
            let uids: Vec<String> = std::iter::repeat_with(uid).take(wanted).collect();
            let taking = uids.iter().map(|uid| async {
                let snapshot = at(&self.disk, uid).to_string();
                raw(&["snapshot"], &marks(&self.machine_uid, Some(uid)), &[snapshot]).await
            });
            futures::stream::iter(taking).buffer_unordered(AT_ONCE).try_collect::<Vec<_>>().await?;
            let held: Vec<String> = uids.iter().map(|uid| at(&self.disk, uid).to_string()).collect();
            let each = held.len().div_ceil(AT_ONCE);
            let holding = held.chunks(each).map(|held| raw(&["hold", HOLD], &[], held));
            futures::future::try_join_all(holding).await?;
            self.checkpoints.extend(uids);
        }
        Ok(())
    }

    /// The oldest that is there: from then on it is the caller's.
    pub(super) async fn take(&mut self, ground: &Ground) -> anyhow::Result<Made> {
        let uid = self.checkpoints.pop_front().context("there are fewer checkpoints than are deleted")?;
        made(ground, &self.disk, &self.disk, uid).await
    }

    /// One in the middle, which stays.
    pub(super) async fn pick(&self, ground: &Ground) -> anyhow::Result<Made> {
        let uid = self.checkpoints.get(self.checkpoints.len() / 2).context("there is no checkpoint")?;
        made(ground, &self.disk, &self.disk, uid.clone()).await
    }
}

/// Disks of Machines that ended, each with as many checkpoints.
pub(super) struct Many {
    /// The Machine's uid, and what its disk was called while it lived.
    machines: Vec<(String, Dataset)>,
    /// Machine and uid of each checkpoint that is there.
    checkpoints: VecDeque<(usize, String)>,
}

impl Many {
    /// Makes the disks. Each has one checkpoint that is never deleted, and was written to after it, as a disk that was worked on is.
    pub(super) async fn new(ground: &Ground, disks: u32) -> anyhow::Result<Self> {
        let (driver, mut machines) = (&ground.driver, Vec::new());
        for vmid in (3000..3000 + disks).map(Vmid) {
            let machine = uid();
            let disk = driver.fork(&ground.base, &ground.base_guid, &machine, vmid, 0).await?;
            // Twice: what lay there first is its origin's, and no snapshot of its own keeps it.
            ground.write(&disk).await?;
            driver.capture(std::slice::from_ref(&disk), &uid(), &machine).await?;
            ground.write(&disk).await?;
            driver.keep(&machine, std::slice::from_ref(&disk)).await?;
            machines.push((machine, disk));
        }
        Ok(Self { machines, checkpoints: VecDeque::new() })
    }

    /// Takes as many as are missing: one of each disk, in two commands, until there are so many.
    pub(super) async fn fill(&mut self, ground: &Ground, number: usize) -> anyhow::Result<()> {
        let keep = &ground.driver.connection().keep;
        while self.checkpoints.len() < number {
            let uid = uid();
            let snapshot = [at(keep, &uid).to_string()];
            // The parent is mounted nowhere, and the mark of another Machine on a snapshot hurts nobody here.
            raw(&["snapshot", "-r"], &marks(&self.machines[0].0, Some(&uid)), &snapshot).await?;
            raw(&["hold", "-r", HOLD], &[], &snapshot).await?;
            self.checkpoints.extend((0..self.machines.len()).map(|machine| (machine, uid.clone())));
        }
        Ok(())
    }

    /// The oldest, and its Machine's uid; from then on it is the caller's.
    pub(super) async fn take(&mut self, ground: &Ground) -> anyhow::Result<(String, Made)> {
        let (machine, uid) = self.checkpoints.pop_front().context("there are fewer checkpoints than are deleted")?;
        self.made(ground, machine, uid).await
    }

    /// One in the middle, which stays.
    pub(super) async fn pick(&self, ground: &Ground) -> anyhow::Result<(String, Made)> {
        let (machine, uid) = self.checkpoints.get(self.checkpoints.len() / 2).context("there is no checkpoint")?;
        self.made(ground, *machine, uid.clone()).await
    }

    async fn made(&self, ground: &Ground, machine: usize, uid: String) -> anyhow::Result<(String, Made)> {
        let (owner, lived) = &self.machines[machine];
        let made = made(ground, &ground.driver.kept(owner, 0), lived, uid).await?;
        Ok((owner.clone(), made))
    }
}

/// What the hub has recorded of a checkpoint that was taken on `taken` and is now on `disk`.
async fn made(ground: &Ground, disk: &Dataset, taken: &Dataset, uid: String) -> anyhow::Result<Made> {
    let snapshot = at(disk, &uid);
    let info = ground.driver.zfs.snapshot_info(&snapshot).await?.with_context(|| format!("{snapshot} is not there"))?;
    let volume = Volume {
        node: ground.driver.node().0.clone(),
        dataset: taken.0.clone(),
        snapshot: snapshot.name,
        guid: info.guid,
        ..Volume::default()
    };
    Ok(Made { uid, volume })
}

pub(super) fn at(disk: &Dataset, checkpoint_uid: &str) -> Snapshot {
    Snapshot { dataset: disk.clone(), name: snapshot_name(checkpoint_uid) }
}

pub(super) fn uid() -> String {
    crate::random::uuid().to_string()
}
