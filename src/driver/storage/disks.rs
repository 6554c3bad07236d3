//! A disk's way: cloned from a snapshot, kept at its Machine's end, or destroyed.

use super::{MACHINE, disk_index, fork_tag, is_marked, must_look};
use crate::driver::templates::disks as attached;
use crate::driver::{Driver, Error};
use crate::proxmox::{self, Power, Vmid};
use crate::zfs::{Dataset, Snapshot};

/// What became of a VM's disks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Destroyed {
    pub destroyed: Vec<Dataset>,
    /// They carry checkpoints, which outlive the Machine: moved into the checkpoint tree instead; its names.
    pub kept: Vec<Dataset>,
    /// They carry the VMID in their name, but not our mark: left alone.
    pub foreign: Vec<Dataset>,
}

impl Driver {
    /// Clones `source` (whose guid must be `guid`) as disk `index` of a VM. Its VMID must be leased to the Machine.
    ///
    /// A hold of its own keeps the source from being collected meanwhile. Repeated, it finds its work done by origin and mark.
    /// Errors: `Missing` when the source is not there any more; `Conflict` when another disk has that name.
    pub async fn fork(&self, source: &Snapshot, guid: &str, machine_uid: &str, vmid: Vmid, index: u32) -> Result<Dataset, Error> {
        let disk = self.disk(vmid, index);
        if !self.is_fork(&disk, source, guid, machine_uid).await? {
            match self.zfs.snapshot_info(source).await? {
                Some(info) if info.guid == guid => {}
                Some(_) => return Err(Error::Missing(format!("{source} is another snapshot of the same name (its guid is not {guid})"))),
                None => return Err(Error::Missing(format!("{source} does not exist any more"))),
            }
            self.zfs.hold(&fork_tag(machine_uid), std::slice::from_ref(source)).await?;
            let cloned = self.zfs.clone_snapshot(source, &disk, &self.marks([(MACHINE, machine_uid)])).await;
            if let Err(error) = cloned
                && !(must_look(&error) && self.is_fork(&disk, source, guid, machine_uid).await?)
            {
                self.release_fork(source, machine_uid).await?;
                return Err(error.into());
            }
        }
        self.release_fork(source, machine_uid).await?;
        Ok(disk)
    }

    /// Whether this disk is there, a clone of that snapshot, and marked as the Machine's.
    async fn is_fork(&self, disk: &Dataset, source: &Snapshot, guid: &str, machine_uid: &str) -> Result<bool, Error> {
        let Some(found) = self.zfs.dataset(disk).await? else { return Ok(false) };
        if !is_marked(&found.properties, MACHINE, machine_uid) {
            return Err(Error::Conflict(format!("{disk} exists, but is not marked as a disk of machine {machine_uid}")));
        }
        let same = match &found.origin {
            Some(origin) if origin == source => true,
            // The source was renamed meanwhile, with its Machine's end.
            Some(origin) => self.zfs.snapshot_info(origin).await?.is_some_and(|info| info.guid == guid),
            None => false,
        };
        if same { Ok(true) } else { Err(Error::Conflict(format!("{disk} exists, but is not a clone of {source}"))) }
    }

    /// Ends the hold that a fork put on its source. Fine when there is none, or no such source any more.
    pub async fn release_fork(&self, source: &Snapshot, machine_uid: &str) -> Result<(), Error> {
        match self.zfs.release(&fork_tag(machine_uid), std::slice::from_ref(source)).await {
            Ok(()) | Err(crate::zfs::Error::NotFound(_)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Renames disks out of Proxmox' sight into the checkpoint tree, and returns their new names. The VM must be stopped.
    ///
    /// Errors: `Conflict` when old and new name both exist, or a mark is not the Machine's; `Missing` when neither exists.
    pub async fn keep(&self, machine_uid: &str, disks: &[Dataset]) -> Result<Vec<Dataset>, Error> {
        let mut kept = Vec::with_capacity(disks.len());
        for disk in disks {
            let index = disk_index(disk).ok_or_else(|| Error::Settings(format!("{disk} is not named like a disk of a VM")))?;
            let target = self.kept(machine_uid, index);
            if !self.is_kept(disk, &target, machine_uid).await? {
                self.zfs.create_parent(&self.connection().keep).await?;
                let renamed = self.zfs.rename(disk, &target).await;
                if let Err(error) = renamed
                    && !(must_look(&error) && self.is_kept(disk, &target, machine_uid).await?)
                {
                    return Err(error.into());
                }
            }
            kept.push(target);
        }
        Ok(kept)
    }

    /// Whether a disk is at its new name; `false` when it is at the old one and may be renamed.
    async fn is_kept(&self, disk: &Dataset, target: &Dataset, machine_uid: &str) -> Result<bool, Error> {
        let (old, new) = (self.zfs.dataset(disk).await?, self.zfs.dataset(target).await?);
        let ours = |name: &Dataset, found: &crate::zfs::DatasetInfo| {
            if is_marked(&found.properties, MACHINE, machine_uid) {
                Ok(())
            } else {
                Err(Error::Conflict(format!("{name} is not marked as a disk of machine {machine_uid}")))
            }
        };
        match (old, new) {
            (None, Some(new)) => ours(target, &new).map(|()| true),
            (Some(old), None) => ours(disk, &old).map(|()| false),
            (Some(_), Some(_)) => Err(Error::Conflict(format!("both {disk} and {target} exist; was the VMID used twice?"))),
            (None, None) => Err(Error::Missing(format!("neither {disk} nor {target} exists"))),
        }
    }

    /// A disk of the Machine, among these, that a VM of this number may write to, whosever that is. Errors: it cannot be seen.
    pub async fn writes_to(&self, vmid: Vmid, machine_uid: &str, disks: &[Dataset]) -> Result<Option<Dataset>, Error> {
        if !self.has_zfs() {
            return Ok(None);
        }
        let config = match self.proxmox.config(self.node(), vmid).await {
            Ok(config) => config,
            Err(proxmox::Error::NoConfig(_)) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let attached = attached(&config);
        let storage = &self.connection().storage;
        let volume = |disk: &Dataset| format!("{storage}:{}", disk.0.rsplit('/').next().unwrap_or_default());
        for disk in disks.iter().filter(|disk| attached.iter().any(|(_, found)| *found == volume(disk))) {
            let own = self.zfs.dataset(disk).await?.is_some_and(|found| is_marked(&found.properties, MACHINE, machine_uid));
            if own && self.power(vmid).await? != Some(Power::Stopped) {
                return Ok(Some(disk.clone()));
            }
        }
        Ok(None)
    }

    /// Destroys the disks of a VM that the Machine owns by both marks: the leased VMID in the name, and its uid as property.
    /// The VM must be stopped or gone. Disks that carry checkpoints are kept instead.
    pub async fn destroy_disks(&self, machine_uid: &str, vmid: Vmid) -> Result<Destroyed, Error> {
        let mut outcome = Destroyed::default();
        for disk in self.datasets_of(vmid).await? {
            if !is_marked(&disk.properties, MACHINE, machine_uid) || disk_index(&disk.name).is_none() {
                outcome.foreign.push(disk.name);
                continue;
            }
            if self.zfs.has_snapshots(&disk).await? {
                outcome.kept.append(&mut self.keep(machine_uid, std::slice::from_ref(&disk.name)).await?);
                continue;
            }
            if let Some(origin) = &disk.origin {
                self.release_fork(origin, machine_uid).await?;
            }
            self.destroy_empty(&disk.name).await?;
            outcome.destroyed.push(disk.name);
        }
        Ok(outcome)
    }

    /// Destroys a dataset without snapshots; ownership was proved by the caller. Fine when it is gone.
    pub(super) async fn destroy_empty(&self, dataset: &Dataset) -> Result<(), Error> {
        match self.zfs.destroy_dataset(dataset).await {
            Ok(()) => Ok(()),
            Err(error) if must_look(&error) && self.zfs.dataset(dataset).await?.is_none() => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}
