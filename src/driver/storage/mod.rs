//! Disks and their snapshots: fork, capture, keep, collect, import. Every outcome is decided by looking, and nothing is
//! destroyed that two marks do not prove ours.
//!
//! A disk of a VM is `<dataset>/vm-<vmid>-disk-<n>`; at its Machine's end it is renamed to `<keep>/m-<machine uid>-disk-<n>`,
//! out of Proxmox' sight, with its snapshots; a copy on another node is `<keep>/c-<checkpoint uid>-disk-<n>`. A checkpoint's snapshot is called `av-<checkpoint uid>`; who it is, is its guid.

mod archive;
mod copies;
mod disks;
mod exports;
mod images;
mod snapshots;
mod unused;

pub use copies::{Base, Copies, Wanted};
pub use disks::Destroyed;
pub use exports::{Exports, Passage, Sealed, disk as exported_disk};
pub use images::Image;
pub use snapshots::{Collected, Still};

use super::{Driver, Error};
use crate::proxmox::Vmid;
use crate::zfs::{self, Dataset, DatasetInfo, Properties, Snapshot};
use std::{collections::BTreeSet, sync::Arc};
use tokio::time::Instant;

/// Property of a disk and of a checkpoint's snapshot: uid of its Machine.
pub const MACHINE: &str = "autovibe:machine";
/// Property of a disk and of a checkpoint's snapshot: who made it, see [`super::made_by`].
pub const MADE_BY: &str = "autovibe:installation";
/// Property of a snapshot: uid of its Checkpoint.
pub const CHECKPOINT: &str = "autovibe:checkpoint";
/// Property of an imported image: its name among the Hub's images.
pub const IMAGE: &str = "autovibe:image";
/// Property of an imported image: path, size and time of the file that it was made of.
pub const SOURCE: &str = "autovibe:source";
/// Tag of the hold on every snapshot that a Checkpoint or an image stands for.
pub const HOLD: &str = "autovibe";

/// Short name of a checkpoint's snapshots.
pub fn snapshot_name(checkpoint_uid: &str) -> String {
    format!("av-{checkpoint_uid}")
}

/// Tag of the hold that a fork has on its source while it clones.
pub fn fork_tag(machine_uid: &str) -> String {
    format!("autovibe-fork-{machine_uid}")
}

/// The number at the end of `…-disk-<n>`.
pub fn disk_index(disk: &Dataset) -> Option<u32> {
    disk.0.rsplit_once("-disk-")?.1.parse().ok()
}

/// The number that a dataset of Proxmox' carries in its name: `vm-100-disk-0`, `base-100-disk-0`, `vm-100-cloudinit`.
pub fn vmid_of(dataset: &Dataset) -> Option<Vmid> {
    let name = dataset.0.rsplit_once('/').map_or(dataset.0.as_str(), |(_, name)| name);
    let mut parts = name.split('-');
    let known = matches!(parts.next()?, "vm" | "base" | "subvol" | "basevol");
    parts.next().filter(|_| known)?.parse().ok().map(Vmid)
}

/// Reads `pool/dataset@snapshot`.
pub fn parse_snapshot(text: &str) -> Option<Snapshot> {
    let (dataset, name) = text.split_once('@')?;
    (!dataset.is_empty() && !name.is_empty() && !name.contains('@'))
        .then(|| Snapshot { dataset: Dataset(dataset.into()), name: name.into() })
}

impl Driver {
    /// Name of a disk of a VM.
    pub fn disk(&self, vmid: Vmid, index: u32) -> Dataset {
        Dataset(format!("{}/vm-{vmid}-disk-{index}", self.connection().dataset))
    }
    /// Name of a disk after its Machine's end.
    pub fn kept(&self, machine_uid: &str, index: u32) -> Dataset {
        Dataset(format!("{}/m-{machine_uid}-disk-{index}", self.connection().keep))
    }
    /// Every VMID that a disk carries in its name, as they were listed at or after `instant`: one command, shared by all who ask.
    /// Errors: the node does not answer, also when it did a moment ago.
    pub async fn numbers_since(&self, instant: Instant) -> Result<Arc<BTreeSet<Vmid>>, Error> {
        let mut known = self.site.numbers.lock().await;
        if let Some((_, numbers)) = known.as_ref().filter(|(at, _)| *at >= instant) {
            let numbers = Arc::clone(numbers);
            drop(known);
            if self.has_zfs() {
                self.zfs.dataset(&self.connection().dataset).await?;
            }
            return Ok(numbers);
        }
        let at = Instant::now();
        let numbers: BTreeSet<Vmid> = if self.has_zfs() {
            let all = self.zfs.datasets(&self.connection().dataset).await?;
            all.iter().filter_map(|dataset| vmid_of(&dataset.name)).collect()
        } else {
            let all = self.proxmox.images(self.node(), &self.connection().storage, None).await?;
            all.into_iter().map(|(_, vmid)| vmid).collect()
        };
        let numbers = Arc::new(numbers);
        *known = Some((at, Arc::clone(&numbers)));
        Ok(numbers)
    }

    /// What keeps the lease of a VMID from ending: a disk whose name bears it; where the VM of that number is someone else's, `theirs`,
    /// only one that is marked as the Machine's. One command.
    pub async fn left_over(&self, vmid: Vmid, machine_uid: &str, theirs: bool) -> Result<Option<String>, Error> {
        if !self.has_zfs() {
            return if theirs { Ok(None) } else { self.left_of(vmid).await };
        }
        let left = self.datasets_of(vmid).await?;
        let own = left.into_iter().find(|dataset| !theirs || is_marked(&dataset.properties, MACHINE, machine_uid));
        Ok(own.map(|dataset| dataset.name.0))
    }

    /// Bytes that would be free if all checkpoints of a Machine went, on this node: those of its disks and of those that are kept.
    ///
    /// Errors: `Settings` without ZFS; `Unknown` when ZFS does not say it of each.
    pub async fn checkpoint_bytes(&self, machine_uid: &str) -> Result<u64, Error> {
        if !self.has_zfs() {
            return Err(Error::Settings("without ZFS nobody knows what a checkpoint takes".into()));
        }
        let (storage, keep) = (&self.connection().dataset, &self.connection().keep);
        let mut all = self.zfs.datasets(storage).await?;
        if !all.iter().any(|dataset| dataset.name == *keep) {
            match self.zfs.datasets(keep).await {
                Ok(kept) => all.extend(kept),
                // Before the first end of a Machine there is no checkpoint tree.
                Err(zfs::Error::NotFound(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let of_it = all.iter().filter(|dataset| is_marked(&dataset.properties, MACHINE, machine_uid));
        of_it
            .map(|disk| {
                disk.snapshots_bytes.ok_or_else(|| Error::Unknown(format!("{} was listed without what its snapshots take", disk.name)))
            })
            .sum()
    }

    /// Every dataset whose name carries this VMID, ours or not. One command.
    pub async fn datasets_of(&self, vmid: Vmid) -> Result<Vec<DatasetInfo>, Error> {
        let all = self.zfs.datasets(&self.connection().dataset).await?;
        Ok(all.into_iter().filter(|dataset| vmid_of(&dataset.name) == Some(vmid)).collect())
    }
}

impl Driver {
    /// Marks of what is made here: those given, and who makes it.
    fn marks<const N: usize>(&self, pairs: [(&str, &str); N]) -> Properties {
        let mut marks = properties(pairs);
        let made_by = &self.connection().made_by;
        if !made_by.is_empty() {
            marks.insert(MADE_BY.to_owned(), made_by.clone());
        }
        marks
    }
}

fn properties<const N: usize>(pairs: [(&str, &str); N]) -> Properties {
    pairs.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

fn is_marked(properties: &Properties, name: &str, value: &str) -> bool {
    properties.get(name).is_some_and(|found| found == value)
}

/// Whether an error leaves open if the command was done, so that one must look.
fn must_look(error: &zfs::Error) -> bool {
    matches!(error, zfs::Error::Unknown(_) | zfs::Error::Exists(_) | zfs::Error::NotFound(_))
}
