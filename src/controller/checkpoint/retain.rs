//! Asks for the deletion of checkpoints that no retention wants any more; their own reconcile collects them.

use crate::api::{Checkpoint, DEFAULT_HUB, Kind, Machine};
use crate::controller::{Context, Error};
use crate::lineage::{self, Judged, Lineage};
use crate::objects::{self, EventType};
use crate::proxmox::Node;
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
    let (mut machines, _) = context.objects.list::<Machine>(namespace).await?;
    for machine in machines.iter_mut().filter(|machine| machine.spec.checkpoints.retention.max_bytes.is_some()) {
        if let Err(error) = measure(machine, &context).await {
            // What it takes is not known: nothing goes for it.
            tracing::warn!(object.name = machine.name(), "what the checkpoints of machine {} take is not known: {error}", machine.name());
            if let Some(status) = &mut machine.status {
                status.checkpoint_bytes = None;
            }
        }
    }
    let (lineage, now) = (Lineage::new(&checkpoints, &machines), context.objects.clock().now());
    let owners: BTreeSet<&str> = checkpoints.iter().filter_map(|checkpoint| checkpoint.spec.machine.as_deref()).collect();
    let judged: Vec<lineage::Judged> = owners.into_iter().flat_map(|owner| lineage.judge(owner, now)).collect();
    for machine in machines.iter().filter(|machine| lineage::exceeds(machine)) {
        let of_it =
            |checkpoint: &Checkpoint| checkpoint.status.as_ref().and_then(|status| status.machine_uid.as_deref()) == Some(machine.uid());
        let goes = judged.iter().any(|judged| judged.kept.is_empty() && of_it(judged.checkpoint));
        if !goes && !checkpoints.iter().any(|checkpoint| checkpoint.is_deleting() && of_it(checkpoint)) {
            let why = "its checkpoints take more than spec.checkpoints.retention.maxBytes, and each of them is needed; \
                       `autovibe retention` says for what";
            context.objects.record(machine, EventType::Warning, "CheckpointsExceedMaxBytes", why).await;
        }
    }
    let going = || judged.iter().filter(|judged| judged.kept.is_empty());
    for &Judged { checkpoint, over, .. } in going().take(SLICE) {
        tracing::info!(object.name = checkpoint.name(), "retention lets checkpoint {} go", checkpoint.name());
        match context.objects.delete::<Checkpoint>(checkpoint.namespace(), checkpoint.name(), Some(checkpoint.uid())).await {
            Ok(()) => {
                let why = if over {
                    "it is the oldest that gives way to its machine's maxBytes; `autovibe retention` says what is kept and why"
                } else {
                    "nothing of its machine's retention keeps it; `autovibe retention` says what is kept and why"
                };
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

/// Sees what the checkpoints of a Machine take on its node, and writes it to its status.
async fn measure(machine: &mut Machine, context: &Context) -> Result<(), Error> {
    let Some(node) = machine.status.as_ref().and_then(|status| status.node.clone()) else { return Ok(()) };
    let hub = context
        .hubs
        .get(machine.spec.hub.as_deref().unwrap_or(DEFAULT_HUB))
        .await
        .map_err(|waiting| Error::Waiting(waiting.to_string()))?;
    let taken = hub.at(&Node(node)).await?.checkpoint_bytes(machine.uid()).await?;
    let known = |machine: &Machine| machine.status.as_ref().and_then(|status| status.checkpoint_bytes);
    while known(machine) != Some(taken) {
        let mut changed = machine.clone();
        changed.status.get_or_insert_default().checkpoint_bytes = Some(taken);
        match context.objects.update_status(&changed).await {
            Ok(_) => *machine = changed,
            Err(objects::Error::Conflict { .. }) => match context.objects.get::<Machine>(machine.namespace(), machine.name()).await? {
                Some(now) if now.uid() == machine.uid() => *machine = now,
                _ => return Ok(()),
            },
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
