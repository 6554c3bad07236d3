//! Asks for the deletion of checkpoints that no retention wants any more; their own reconcile collects them.

use crate::api::{Checkpoint, Kind, Machine};
use crate::controller::{Context, Error};
use crate::lineage::{self, Lineage};
use crate::objects::{self, EventType};
use crate::runtime::{Key, Requeue};
use std::collections::BTreeSet;
use std::{sync::Arc, time::Duration};

/// Changes within this time lead to one look at their namespace.
const GATHER: Duration = Duration::from_secs(1);
/// How many are let go in one pass: what else there is to do comes in between.
const SLICE: usize = 50;

/// Looks at the checkpoints of one namespace (`key.name` is empty). One object there that cannot be read, and nothing goes.
pub async fn retain(key: Key, context: Arc<Context>) -> Result<Requeue, Error> {
    context.objects.clock().sleep(GATHER).await;
    let namespace = Some(key.namespace.as_str());
    let (checkpoints, _) = context.objects.list::<Checkpoint>(namespace).await?;
    let (machines, _) = context.objects.list::<Machine>(namespace).await?;
    let (lineage, now) = (Lineage::new(&checkpoints, &machines), context.objects.clock().now());
    let owners: BTreeSet<&str> = checkpoints.iter().filter_map(|checkpoint| checkpoint.spec.machine.as_deref()).collect();
    let judged: Vec<lineage::Judged> = owners.into_iter().flat_map(|owner| lineage.judge(owner, now)).collect();
    let going = || judged.iter().filter(|judged| judged.kept.is_empty()).map(|judged| judged.checkpoint);
    for checkpoint in going().take(SLICE) {
        tracing::info!(object.name = checkpoint.name(), "retention lets checkpoint {} go", checkpoint.name());
        match context.objects.delete::<Checkpoint>(checkpoint.namespace(), checkpoint.name(), Some(checkpoint.uid())).await {
            Ok(()) => {
                let why = "nothing of its machine's retention keeps it; `autovibe retention` says what is kept and why";
                context.objects.record(checkpoint, EventType::Normal, "Retention", why).await;
            }
            // Gone, or another of the same name: nothing to let go.
            Err(objects::Error::NotFound { .. } | objects::Error::Conflict { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    if going().nth(SLICE).is_some() {
        return Ok(Requeue::After(GATHER));
    }
    Ok(lineage::due(&judged, now).map_or(Requeue::Never, Requeue::After))
}
