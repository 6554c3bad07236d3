//! What a Machine is spawned from, brought to the node that it was placed on.
//!
//! A Checkpoint's record says first that a copy may be there, and only when it was seen there whole that it is: so who collects the
//! Checkpoint looks for it from the beginning.

use super::super::step::Base;
use super::{Act, Done, Problem};
use crate::api::checkpoint::{Volume, VolumeCopy};
use crate::api::{Checkpoint, Kind};
use crate::driver::storage::{Base::Nearest, CHECKPOINT, Image, MACHINE, Wanted};
use crate::driver::{self, Driver};
use crate::objects;
use crate::proxmox::Node;
use crate::zfs::{Dataset, Snapshot};
use std::time::Duration;

/// How soon a copy that goes on is looked at again; what it takes is the disk's size.
const AGAIN: Duration = Duration::from_secs(1);

impl Act<'_> {
    /// Returns when all of the base is there and said to be; the next pass sees it.
    pub(super) async fn copy(&self, base: &Base) -> Result<Done, Problem> {
        match (&base.image, &base.checkpoint) {
            (Some(image), _) => self.copy_image(base, image).await,
            (None, Some(checkpoint)) => self.copy_checkpoint(base, checkpoint).await,
            (None, None) => Err(driver::Error::Missing("what it is spawned from is neither a checkpoint nor an image".into()).into()),
        }
    }

    async fn copy_image(&self, base: &Base, name: &str) -> Result<Done, Problem> {
        let here = self.driver()?;
        for volume in &base.volumes {
            let from = self.hub()?.at(&Node(volume.node.clone())).await?;
            let image = Image {
                nodes: vec![from.node().clone()],
                snapshot: taken(volume),
                guid: volume.guid.clone(),
                stale: false,
                template: None,
            };
            let wanted = here.image_wanted(&from, &image, name).await?;
            if !done(here, &from, wanted).await? {
                return Ok(Done::Later(AGAIN));
            }
        }
        Ok(Done::Next)
    }

    async fn copy_checkpoint(&self, base: &Base, name: &str) -> Result<Done, Problem> {
        let here = self.driver()?;
        let found = self.context.objects.get::<Checkpoint>(self.machine.namespace(), name).await?;
        let Some(checkpoint) = found.filter(|checkpoint| !checkpoint.is_deleting()) else {
            return Err(Problem::Unseen(format!("checkpoint {name} is gone, or about to be")));
        };
        let uid = checkpoint.uid().to_owned();
        self.note(checkpoint.clone(), false).await?;
        for (index, volume) in base.volumes.iter().enumerate() {
            let (from, source) = self.holder(volume, base.machine_uid.as_deref()).await?;
            let machine = base.machine_uid.iter().map(|uid| (MACHINE.to_owned(), uid.clone()));
            let mark = (CHECKPOINT.to_owned(), uid.clone());
            let wanted = Wanted {
                source,
                guid: volume.guid.clone(),
                target: here.copy(&uid, index),
                marks: [mark.clone()].into(),
                snapshot_marks: machine.chain([mark]).collect(),
                base: Nearest,
            };
            if !done(here, &from, wanted).await? {
                return Ok(Done::Later(AGAIN));
            }
        }
        self.note(checkpoint, true).await?;
        Ok(Done::Next)
    }

    /// A node that has the snapshot, and where it is there. One that cannot be asked may have it, which is said when no other has.
    async fn holder(&self, volume: &Volume, machine_uid: Option<&str>) -> Result<(Driver, Snapshot), Problem> {
        let hub = self.hub()?;
        let copies = volume.copies.iter().filter(|copy| copy.received).map(|copy| &copy.node);
        let mut why = driver::Error::Missing(format!("the snapshot {}@{} is gone", volume.dataset, volume.snapshot));
        for node in [&volume.node].into_iter().chain(copies).map(|node| Node(node.clone())) {
            let located = async {
                let driver = hub.at(&node).await?;
                Ok::<_, driver::Error>(driver.locate(volume, machine_uid).await?.map(|snapshot| (driver, snapshot)))
            };
            match located.await {
                Ok(Some(found)) => return Ok(found),
                Ok(None) => {}
                Err(error) => why = error,
            }
        }
        Err(why.into())
    }

    /// Writes into a Checkpoint's status that it has copies on this node, or may come to have them.
    async fn note(&self, mut checkpoint: Checkpoint, received: bool) -> Result<(), Problem> {
        let here = self.driver()?;
        loop {
            let uid = checkpoint.uid().to_owned();
            let before = checkpoint.status.clone();
            let volumes = checkpoint.status.iter_mut().flat_map(|status| &mut status.volumes);
            for (index, volume) in volumes.enumerate() {
                let (node, dataset) = (here.node().0.clone(), here.copy(&uid, index).0);
                match volume.copies.iter_mut().find(|copy| copy.node == node) {
                    Some(known) => known.received |= received,
                    None => volume.copies.push(VolumeCopy { node, dataset, received }),
                }
            }
            if checkpoint.status == before {
                return Ok(());
            }
            match self.context.objects.update_status(&checkpoint).await {
                Ok(_) => return Ok(()),
                Err(objects::Error::Conflict { .. }) => {
                    let name = checkpoint.name().to_owned();
                    let now = self.context.objects.get::<Checkpoint>(self.machine.namespace(), &name).await?;
                    let same = now.filter(|now| now.uid() == uid && !now.is_deleting());
                    checkpoint = same.ok_or_else(|| Problem::Unseen(format!("checkpoint {name} was deleted")))?;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

async fn done(here: &Driver, from: &Driver, wanted: Wanted) -> Result<bool, Problem> {
    match here.receive(from, wanted).await {
        Some(outcome) => Ok(outcome.map(|()| true)?),
        None => Ok(false),
    }
}

fn taken(volume: &Volume) -> Snapshot {
    Snapshot { dataset: Dataset(volume.dataset.clone()), name: volume.snapshot.clone() }
}
