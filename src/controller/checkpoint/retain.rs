//! Asks for the deletion of checkpoints that no retention wants any more; their own reconcile collects them.

use crate::api::{Checkpoint, Kind, Machine};
use crate::controller::{Context, Error};
use crate::lineage::Lineage;
use crate::objects::{self, EventType};
use crate::runtime::{Key, Requeue};
use std::collections::BTreeSet;
use std::{sync::Arc, time::Duration};

/// Changes within this time lead to one look at their namespace.
const GATHER: Duration = Duration::from_secs(1);

/// Looks at the checkpoints of one namespace (`key.name` is empty).
pub async fn retain(key: Key, context: Arc<Context>) -> Result<Requeue, Error> {
    context.objects.clock().sleep(GATHER).await;
    let namespace = Some(key.namespace.as_str());
    let (checkpoints, _) = context.objects.list::<Checkpoint>(namespace).await?;
    let (machines, _) = context.objects.list::<Machine>(namespace).await?;
    let lineage = Lineage::new(&checkpoints, &machines);
    let owners: BTreeSet<&str> = checkpoints.iter().filter_map(|checkpoint| checkpoint.spec.machine.as_deref()).collect();
    for checkpoint in owners.into_iter().flat_map(|owner| lineage.collectable(owner)) {
        tracing::info!(object.name = checkpoint.name(), "retention lets checkpoint {} go", checkpoint.name());
        match context.objects.delete::<Checkpoint>(checkpoint.namespace(), checkpoint.name(), Some(checkpoint.uid())).await {
            Ok(()) => {
                let why = "newer checkpoints of its machine take its place";
                context.objects.record(checkpoint, EventType::Normal, "Retention", why).await;
            }
            // Gone, or another of the same name: nothing to let go.
            Err(objects::Error::NotFound { .. } | objects::Error::Conflict { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(Requeue::Never)
}
