//! What this installation made and no object stands for any more: destroyed when a person says so.

use super::{CHECKPOINT, MACHINE, MADE_BY, is_marked, vmid_of};
use crate::api::checkpoint::Volume;
use crate::driver::{Driver, Error};
use crate::proxmox;
use crate::zfs::{DatasetInfo, Properties, SnapshotInfo};

impl Driver {
    /// Whether this installation made it, as its database is now.
    pub fn made(&self, properties: &Properties) -> bool {
        !self.connection().made_by.is_empty() && is_marked(properties, MADE_BY, &self.connection().made_by)
    }

    /// Destroys a snapshot, which is still what was seen: by its guid, its name, and the marks of its Checkpoint and of this
    /// installation.
    ///
    /// Errors: `Conflict` when a mark disagrees, `InUse` when something holds it or is cloned from it.
    pub async fn destroy_unused_snapshot(&self, seen: &SnapshotInfo) -> Result<(), Error> {
        let Some(checkpoint_uid) = seen.properties.get(CHECKPOINT) else {
            return Err(Error::Conflict(format!("{} does not say of which checkpoint it is", seen.name)));
        };
        match self.zfs.snapshot_info(&seen.name).await? {
            None => return Ok(()),
            Some(now) if now.guid == seen.guid && self.made(&now.properties) => {}
            Some(_) => return Err(Error::Conflict(format!("{} is not marked as made by this installation", seen.name))),
        }
        let volume = Volume {
            node: self.node().0.clone(),
            dataset: seen.name.dataset.0.clone(),
            snapshot: seen.name.name.clone(),
            guid: seen.guid.clone(),
            ..Volume::default()
        };
        self.destroy_captured(&seen.name, &volume, checkpoint_uid).await
    }

    /// Destroys a disk, which is still what was seen: by its guid, and the marks of its Machine and of this installation; and
    /// which bears no snapshot and is no VM's.
    ///
    /// Errors: `Conflict` when a mark disagrees, `InUse` when it carries a snapshot, or when a VM of its number is not surely
    /// gone.
    pub async fn destroy_unused_disk(&self, seen: &DatasetInfo) -> Result<(), Error> {
        let (name, machine) = (&seen.name, seen.properties.get(MACHINE));
        if let Some(vmid) = vmid_of(name) {
            match self.proxmox.config(self.node(), vmid).await {
                Err(proxmox::Error::NoConfig(_)) => {}
                Ok(_) => return Err(Error::InUse(format!("there is a VM {vmid}"))),
                Err(error) => return Err(error.into()),
            }
        }
        if let Some(found) = self.zfs.dataset(name).await?
            && self.zfs.has_snapshots(&found).await?
        {
            return Err(Error::InUse(format!("{name} carries snapshots")));
        }
        match self.zfs.dataset(name).await? {
            None => Ok(()),
            Some(now) if now.guid == seen.guid && machine == now.properties.get(MACHINE) && self.made(&now.properties) => {
                self.destroy_empty(name).await
            }
            Some(_) => Err(Error::Conflict(format!("{name} is not marked as made by this installation"))),
        }
    }
}
