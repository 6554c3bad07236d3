//! A checkpoint's snapshots on their way to a file and from one: what `zfs send` prints and `zfs receive` reads.
//!
//! What is received has the place, marks and hold of a copy: `<keep>/c-<checkpoint uid>-disk-<n>`. It is ours, and of use, when the
//! whole file has proved right; before that its name and guid alone say what it is.

use super::{CHECKPOINT, HOLD, disk_index};
use crate::api::checkpoint::Volume;
use crate::driver::{Door, Driver, Error};
use crate::zfs::{self, Dataset, Snapshot};
use tokio::io::{AsyncRead, AsyncWrite};

/// Tag of the hold that a snapshot has while it is exported.
const EXPORT: &str = "autovibe-export";
/// How many origins back a base is looked for.
const GENERATIONS: usize = 64;

impl Driver {
    /// Keeps snapshots from going while they are read; [`Driver::export_ended`] lets them go.
    pub async fn hold_for_export(&self, snapshots: &[Snapshot]) -> Result<(), Error> {
        if !self.has_zfs() {
            return Err(Error::Settings("its disks are templates of Proxmox, which are no streams; a Hub with ZFS can export".into()));
        }
        Ok(self.zfs.hold(EXPORT, snapshots).await?)
    }

    /// Fine when there is no such hold, or no such snapshot any more.
    pub async fn export_ended(&self, snapshot: &Snapshot) -> Result<(), Error> {
        match self.zfs.release(EXPORT, std::slice::from_ref(snapshot)).await {
            Ok(()) | Err(zfs::Error::NotFound(_)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes a snapshot, or what changed since `base`. It is whole only if this succeeds.
    pub async fn export(
        &self,
        snapshot: &Snapshot,
        base: Option<&Snapshot>,
        to: &mut (impl AsyncWrite + Unpin + Send),
    ) -> Result<(), Error> {
        Ok(self.zfs.send(snapshot, base, to).await?)
    }

    /// The snapshot of this guid in the past of another: earlier on its disk, or on what that is a clone of.
    ///
    /// Errors: `Missing` when it is not in its past, or this ZFS cannot send from there to another pool.
    pub async fn in_the_past_of(&self, snapshot: &Snapshot, guid: &str) -> Result<Snapshot, Error> {
        let mut at = snapshot.clone();
        for generation in 0..GENERATIONS {
            let earlier = self.zfs.snapshots(&at.dataset).await?;
            let until = earlier.iter().find(|info| info.name == at).map_or(0, |info| info.createtxg);
            let found = earlier.into_iter().find(|info| info.guid == guid && info.createtxg <= until && info.name != *snapshot);
            if let Some(found) = found {
                // As for copies: old ZFS makes a dataset only of what a clone has that its origin has not.
                if self.zfs.capabilities().resumable || (generation == 1 && found.name == at) {
                    return Ok(found.name);
                }
                let text =
                    "this ZFS exports only what a Machine changed since the very checkpoint that it was spawned from; export it whole";
                return Err(Error::Missing(text.into()));
            }
            match self.zfs.dataset(&at.dataset).await?.and_then(|found| found.origin) {
                Some(origin) => at = origin,
                None => break,
            }
        }
        Err(Error::Missing("it is not in its past".into()))
    }

    /// Makes the disk of a stream. Errors: `Conflict` when there is one of its name.
    pub async fn import_stream(
        &self,
        target: &Dataset,
        origin: Option<&Snapshot>,
        from: &mut (impl AsyncRead + Unpin + Send),
    ) -> Result<(), Error> {
        if !self.has_zfs() {
            return Err(Error::Settings(format!("node {} has no ZFS that could receive a stream", self.node())));
        }
        self.zfs.create_parent(&self.connection().keep).await?;
        if self.zfs.dataset(target).await?.is_some() {
            return Err(Error::Conflict(format!("{target} exists on node {}", self.node())));
        }
        match origin {
            Some(origin) => self.zfs.receive_onto(origin, target, from).await?,
            None => self.zfs.receive(target, from).await?,
        }
        Ok(())
    }

    /// Holds and marks what was received, which is then its checkpoint's: the dataset last, by which it is known as ours. Tells `door` of each
    /// step. Errors: `Conflict` when it is not what it should be.
    pub async fn accept_import(&self, volume: &Volume, checkpoint_uid: &str, door: &Door) -> Result<(), Error> {
        let arrived = Snapshot { dataset: Dataset(volume.dataset.clone()), name: volume.snapshot.clone() };
        if !self.is_here(&arrived, &volume.guid).await? {
            return Err(Error::Conflict(format!("the stream left no snapshot {arrived}")));
        }
        self.zfs.hold(HOLD, std::slice::from_ref(&arrived)).await?;
        door.passed("held").await;
        self.zfs.mark_snapshot(&arrived, CHECKPOINT, checkpoint_uid).await?;
        door.passed("snapshot marked").await;
        self.zfs.mark(&arrived.dataset, CHECKPOINT, checkpoint_uid).await?;
        door.passed("disk marked").await;
        Ok(())
    }

    /// Destroys what an import left or made; fine when there is nothing. It goes by name, and by guid or mark.
    pub async fn collect_import(&self, volume: &Volume, checkpoint_uid: &str) -> Result<(), Error> {
        let disk = Dataset(volume.dataset.clone());
        if disk_index(&disk).is_none() {
            return Err(Error::Conflict(format!("{disk} is not named like an imported disk")));
        }
        self.discard_copy(&disk, &volume.snapshot, &volume.guid, checkpoint_uid).await
    }
}
