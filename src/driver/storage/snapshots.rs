//! A checkpoint's snapshots: taken, found again, collected.

use super::{CHECKPOINT, HOLD, MACHINE, disk_index, is_marked, must_look, snapshot_name};
use crate::api::checkpoint::Volume;
use crate::clock::Clock;
use crate::driver::{Driver, Error};
use crate::proxmox::Vmid;
use crate::zfs::{self, Dataset, Snapshot, SnapshotInfo};

/// What became of a checkpoint's snapshot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collected {
    /// The snapshot, unless it was gone already.
    pub snapshot: Option<Snapshot>,
    /// The kept disk that had no other snapshot left.
    pub disk: Option<Dataset>,
}

/// A Machine whose VM stands still, and what it is captured for.
#[derive(Clone, Copy)]
pub struct Still<'a> {
    pub vmid: Vmid,
    pub disks: &'a [Dataset],
    pub machine_uid: &'a str,
    pub checkpoint_uid: &'a str,
    pub namespace: &'a str,
    /// Its VM is gone, or someone else's.
    pub is_gone: bool,
}

impl Driver {
    /// Snapshots all disks of a VM at one instant, and holds the snapshots. Returns them in the order of the disks.
    ///
    /// Repeated, it adopts what an earlier call took. Errors: `Conflict` when a snapshot of that name is not this
    /// checkpoint's; `Missing` when a disk is not there; `Unknown` when it may or may not have been done.
    pub async fn capture(&self, disks: &[Dataset], checkpoint_uid: &str, machine_uid: &str) -> Result<Vec<Volume>, Error> {
        if disks.is_empty() {
            return Err(Error::Missing("the machine has no disk to capture".into()));
        }
        let name = snapshot_name(checkpoint_uid);
        let wanted: Vec<Snapshot> = disks.iter().map(|disk| Snapshot { dataset: disk.clone(), name: name.clone() }).collect();
        let marks = self.marks([(CHECKPOINT, checkpoint_uid), (MACHINE, machine_uid)]);
        match self.zfs.snapshot(&wanted, &marks).await {
            Ok(()) => {}
            Err(error) if must_look(&error) => self.adopt(&wanted, checkpoint_uid, &marks, error).await?,
            Err(error) => return Err(error.into()),
        }
        // An agent may wait for both.
        let infos = futures::future::join_all(wanted.iter().map(|snapshot| self.zfs.snapshot_info(snapshot)));
        let (held, infos) = tokio::join!(self.zfs.hold(HOLD, &wanted), infos);
        held?;
        let volumes = wanted.iter().zip(infos).map(|(snapshot, info)| match info? {
            Some(info) => Ok(self.volume(snapshot.clone(), info)),
            None => Err(Error::Unknown(format!("{snapshot} was taken, but is not there now"))),
        });
        volumes.collect()
    }

    /// Captures a Machine whose VM stands still, as the driver's kind of storage does.
    ///
    /// Of a VM that is gone, or another one's, the disks that are left: fewer volumes than disks then.
    ///
    /// Errors: as [`Driver::capture`] and [`Driver::keep_as_template`]; `Missing` also when no disk is left.
    pub async fn capture_stopped(&self, still: &Still<'_>, clock: &Clock) -> Result<Vec<Volume>, Error> {
        let Still { vmid, disks, machine_uid, checkpoint_uid, namespace, is_gone } = *still;
        if !self.has_zfs() {
            if is_gone {
                return Err(Error::Missing(format!("VM {vmid} is gone, and its disks with it")));
            }
            return self.keep_as_template(vmid, machine_uid, checkpoint_uid, namespace, clock).await;
        }
        let mut left = Vec::with_capacity(disks.len());
        for disk in disks {
            match self.zfs.dataset(disk).await? {
                Some(found) if is_marked(&found.properties, MACHINE, machine_uid) => left.push(disk.clone()),
                // A disk of that name may be someone else's too.
                _ if is_gone => {}
                _ => return Err(Error::Conflict(format!("{disk} is not marked as a disk of this machine"))),
            }
        }
        if left.is_empty() {
            let names: Vec<&str> = disks.iter().map(|disk| disk.0.as_str()).collect();
            return Err(Error::Missing(format!("there is no disk of this machine at {}", names.join(", "))));
        }
        self.capture(&left, checkpoint_uid, machine_uid).await
    }

    /// Accepts snapshots that were there before; takes those that a ZFS without atomic snapshots left out.
    async fn adopt(&self, wanted: &[Snapshot], checkpoint_uid: &str, marks: &zfs::Properties, error: zfs::Error) -> Result<(), Error> {
        let mut missing = Vec::new();
        for snapshot in wanted {
            match self.zfs.snapshot_info(snapshot).await? {
                Some(info) if is_marked(&info.properties, CHECKPOINT, checkpoint_uid) => {}
                Some(_) => return Err(Error::Conflict(format!("{snapshot} exists, but is not of checkpoint {checkpoint_uid}"))),
                None => missing.push(snapshot.clone()),
            }
        }
        if missing.is_empty() {
            return Ok(());
        }
        for snapshot in &missing {
            if self.zfs.dataset(&snapshot.dataset).await?.is_none() {
                return Err(Error::Missing(format!("disk {} does not exist", snapshot.dataset)));
            }
        }
        if missing.len() == wanted.len() {
            return Err(error.into());
        }
        if self.zfs.capabilities().atomic_snapshots {
            return Err(Error::Conflict(format!("only some disks have a snapshot {}, which ZFS would not have left so", wanted[0].name)));
        }
        Ok(self.zfs.snapshot(&missing, marks).await?)
    }

    /// What an earlier call of [`Driver::capture`] took whose answer was lost: looked for by name and mark on these disks, and
    /// where they are kept after their Machine's end.
    pub async fn find_captured(&self, disks: &[Dataset], checkpoint_uid: &str, machine_uid: &str) -> Result<Vec<Volume>, Error> {
        if !self.has_zfs() {
            // Until it is recorded, a template is its Machine's, which goes on with it.
            return Ok(Vec::new());
        }
        let all = match self.zfs.datasets(&self.connection().keep).await {
            Ok(all) => all,
            // Before the first end of a Machine there is no checkpoint tree.
            Err(zfs::Error::NotFound(_)) => Vec::new(),
            Err(error) => return Err(error.into()),
        };
        // One that was put back has several.
        let kept =
            all.into_iter().map(|found| found.name).filter(|name| disk_index(name).is_some_and(|n| *name == self.kept(machine_uid, n)));
        let places: std::collections::BTreeSet<Dataset> = disks.iter().cloned().chain(kept).collect();
        let mut volumes = Vec::new();
        for dataset in places {
            let snapshot = Snapshot { dataset, name: snapshot_name(checkpoint_uid) };
            if let Some(info) = self.zfs.snapshot_info(&snapshot).await?
                && is_marked(&info.properties, CHECKPOINT, checkpoint_uid)
            {
                volumes.push(self.volume(snapshot, info));
            }
        }
        Ok(volumes)
    }

    fn volume(&self, snapshot: Snapshot, info: SnapshotInfo) -> Volume {
        Volume {
            node: self.node().0.clone(),
            dataset: snapshot.dataset.0,
            snapshot: snapshot.name,
            guid: info.guid,
            referenced: info.referenced_bytes,
            ..Volume::default()
        }
    }

    /// Where a checkpoint's snapshot is now on this node: where it was taken, in the checkpoint tree, or as a copy; known by its guid.
    /// `None` only when ZFS says of all of them that it is not there.
    pub async fn locate(&self, volume: &Volume, machine_uid: Option<&str>) -> Result<Option<Snapshot>, Error> {
        let taken = Dataset(volume.dataset.clone());
        let kept = machine_uid.zip(disk_index(&taken)).map(|(uid, index)| self.kept(uid, index));
        let copies = volume.copies.iter().filter(|copy| copy.node == self.node().0).map(|copy| Dataset(copy.dataset.clone()));
        for dataset in [Some(taken), kept].into_iter().flatten().chain(copies) {
            let snapshot = Snapshot { dataset, name: volume.snapshot.clone() };
            if self.look(&snapshot, &volume.guid).await?.is_some() {
                return Ok(Some(snapshot));
            }
        }
        Ok(None)
    }

    pub(super) async fn look(&self, snapshot: &Snapshot, guid: &str) -> Result<Option<SnapshotInfo>, Error> {
        Ok(self.zfs.snapshot_info(snapshot).await?.filter(|info| info.guid == guid))
    }

    /// Releases and destroys a checkpoint's snapshot, and the kept disk if no other snapshot is left on it.
    ///
    /// It goes only if name, guid and property all say that it is this checkpoint's, and nothing else holds or is cloned from
    /// it. An origin that others need is never promoted away: it stays until they are gone.
    /// Errors: `InUse` when something else needs it; `Conflict` when a mark disagrees.
    pub async fn collect(&self, volume: &Volume, checkpoint_uid: &str, machine_uid: &str) -> Result<Collected, Error> {
        let found = self.locate(volume, Some(machine_uid)).await?;
        if let Some(snapshot) = &found {
            self.destroy_captured(snapshot, volume, checkpoint_uid).await?;
        }
        let kept = disk_index(&Dataset(volume.dataset.clone())).map(|index| self.kept(machine_uid, index));
        let disk = match kept {
            Some(kept) => self.prune(kept, machine_uid).await?,
            None => None,
        };
        Ok(Collected { snapshot: found, disk })
    }

    pub(super) async fn destroy_captured(&self, snapshot: &Snapshot, volume: &Volume, checkpoint_uid: &str) -> Result<(), Error> {
        let Some(info) = self.look(snapshot, &volume.guid).await? else { return Ok(()) };
        if snapshot.name != snapshot_name(checkpoint_uid) || !is_marked(&info.properties, CHECKPOINT, checkpoint_uid) {
            return Err(Error::Conflict(format!("{snapshot} is not marked as a snapshot of checkpoint {checkpoint_uid}")));
        }
        if info.holds > 1 {
            return Err(Error::InUse(format!("{snapshot} is held by something else; `zfs holds {snapshot}` says by what")));
        }
        self.release_and_destroy(snapshot, &volume.guid).await
    }

    /// Destroys a kept disk of an ended Machine once no snapshot is left on it: then nothing can come back from it.
    async fn prune(&self, kept: Dataset, machine_uid: &str) -> Result<Option<Dataset>, Error> {
        let Some(info) = self.zfs.dataset(&kept).await? else { return Ok(None) };
        if !is_marked(&info.properties, MACHINE, machine_uid) || self.zfs.has_snapshots(&info).await? {
            return Ok(None);
        }
        self.destroy_empty(&kept).await?;
        Ok(Some(kept))
    }
}
