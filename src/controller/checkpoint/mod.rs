//! Captures what Checkpoints ask for, and collects their snapshots when they go.
//!
//! Final and Suspend ones are captured by the Machine's own controller, which knows when its VM is at rest; all else about
//! them is done here.

mod act;
mod observe;
mod plan;
mod retain;
mod status;
#[cfg(test)]
mod tests;
mod verify;

pub use retain::retain;
pub(in crate::controller) use verify::{asked, home};

use super::client::Client;
use super::{Context, Error, kstatus};
use crate::api::{Checkpoint, Kind, checkpoint::Volume};
use crate::objects::{self, EventType};
use crate::runtime::{Key, Requeue};
use crate::wire::annotation;
use act::{Failure, Outcome};
use observe::phase;
use plan::Plan;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

/// Moves one Checkpoint a step closer to what it asks for. Safe to call at any time, any number of times.
pub async fn reconcile(key: Key, context: Arc<Context>) -> Result<Requeue, Error> {
    let Some(mut checkpoint) = context.objects.get::<Checkpoint>(&key.namespace, &key.name).await? else { return Ok(Requeue::Never) };
    tracing::Span::current().record("object.uid", checkpoint.uid());
    let observed = observe::observe(&checkpoint, &context).await?;
    let plan = plan::plan(&checkpoint, &observed, context.objects.clock().now());
    let machine_uid = observed.machine.as_ref().map(|machine| machine.uid().to_owned());
    let mut outcome = Outcome { machine_uid, ..Outcome::default() };
    for step in &plan.steps {
        if let Err(error) = act::act(step, &mut checkpoint, &observed, &context, &mut outcome).await {
            outcome.failed = Some(error);
            break;
        }
    }
    if outcome.gone {
        return Ok(Requeue::Never);
    }
    if let Some(captured) = &outcome.captured {
        // Before anyone can read that it is Ready: the next one may be asked for at once.
        context.newest.set(&captured.machine_uid, checkpoint.name(), &captured.volumes);
    }
    match outcome.failed {
        // Someone else wrote it meanwhile, or the store does not answer: nothing of it is the Checkpoint's to say.
        Some(Failure { error: error @ Error::Objects(_), .. }) => return Err(error),
        _ => record(&checkpoint, &plan, &outcome, &context.objects).await?,
    }
    match outcome.failed {
        Some(Failure { error, permanent: false }) => Err(error),
        Some(_) | None => Ok(plan.requeue),
    }
}

/// How often a status is written anew after someone else's write; each try begins with what is stored then.
const TRIES: usize = 5;

/// Writes the status, once; what others wrote meanwhile (above all `released`) stands. Whoever wrote another phase knew more than the plan:
/// nothing is written then.
async fn record(checkpoint: &Checkpoint, plan: &Plan, outcome: &Outcome, objects: &Client) -> Result<(), Error> {
    let now = objects.clock().api_now();
    let mut stored = checkpoint.clone();
    for _ in 0..TRIES {
        let before = stored.status.clone().unwrap_or_default();
        let Some(after) = status::status(&stored, plan, outcome, &now) else { return Ok(()) };
        if stored.status.is_some() && before == after {
            return Ok(());
        }
        let mut changed = stored.clone();
        changed.status = Some(after.clone());
        match objects.update_status(&changed).await {
            Ok(_) => {
                kstatus::record_change(objects, checkpoint, &before.conditions, &after.conditions).await;
                if let Some(found) = after.verified.as_ref().filter(|found| before.verified.as_ref() != Some(found)) {
                    let (kind, reason) = status::verdict(found);
                    objects.record(checkpoint, kind, reason, &found.message).await;
                }
                if let Some(warning) = outcome.captured.as_ref().and_then(|captured| captured.warning.as_ref()) {
                    objects.record(checkpoint, EventType::Warning, "NotFlushed", warning).await;
                }
                return Ok(());
            }
            Err(objects::Error::Conflict { .. }) => match objects.get::<Checkpoint>(checkpoint.namespace(), checkpoint.name()).await? {
                Some(now) if now.uid() == checkpoint.uid() && phase(&now) != phase(checkpoint) => {
                    return Err(Error::Waiting(format!("it became {:?} meanwhile: it is planned anew", phase(&now))));
                }
                Some(now) if now.uid() == checkpoint.uid() => stored = now,
                _ => return Ok(()),
            },
            Err(objects::Error::NotFound { .. }) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
    Err(Error::Waiting("the checkpoint is being changed by others all the time".into()))
}

/// Whether the Machine's own controller takes this one's snapshot.
fn captured_by_machine(checkpoint: &Checkpoint) -> bool {
    use crate::api::checkpoint::Trigger;
    matches!(checkpoint.spec.trigger, Trigger::Final | Trigger::Suspend | Trigger::Restore)
}

/// Ids of the tool results that the agent's transcript has in a Checkpoint's state.
pub(in crate::controller) fn awaited_results(checkpoint: &Checkpoint) -> Vec<String> {
    let ids = checkpoint.annotation(annotation::AWAIT_RESULTS).unwrap_or_default();
    ids.split(',').filter(|id| !id.is_empty()).map(str::to_owned).collect()
}

/// Which Checkpoints name which Machine, as far as their changes came here: so that a look at one Machine costs nothing for the
/// others. What it does not know yet wakes the Machine when it comes.
#[derive(Default)]
pub struct Taken(Mutex<BTreeMap<Key, BTreeSet<String>>>);

impl Taken {
    /// Names of the Checkpoints of a Machine's name.
    pub(in crate::controller) fn of(&self, namespace: &str, machine: &str) -> Vec<String> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(&Key::new(namespace, machine)).into_iter().flatten().cloned().collect()
    }
    /// Takes a change in, before anyone is woken by it.
    pub(in crate::controller) fn note(&self, checkpoint: &Checkpoint, is_there: bool) {
        let Some(machine) = &checkpoint.spec.machine else { return };
        let key = Key::new(checkpoint.namespace(), machine);
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if is_there {
            all.entry(key).or_default().insert(checkpoint.name().to_owned());
        } else if let Some(names) = all.get_mut(&key) {
            names.remove(checkpoint.name());
            if names.is_empty() {
                all.remove(&key);
            }
        }
    }
}

/// The newest checkpoint captured of each Machine, as far as this process took it: spares waiting for the Machine's own status
/// to name it. Lost, the Machine's status is the answer.
#[derive(Default)]
pub struct Newest(Mutex<BTreeMap<String, (String, Option<String>)>>);

impl Newest {
    /// The one before these disks were captured, if they are the same: one whose capture took long may be of disks that were put away
    /// meanwhile.
    fn before(&self, machine_uid: &str, volumes: &[Volume]) -> Option<String> {
        let newest = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(machine_uid).cloned();
        newest.and_then(|(name, disk)| (disk == first_disk(volumes)).then_some(name))
    }
    /// The Machine was put back: its own status is the answer.
    pub(in crate::controller) fn forget(&self, machine_uid: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(machine_uid);
    }
    fn set(&self, machine_uid: &str, name: &str, volumes: &[Volume]) {
        let newest = (name.to_owned(), first_disk(volumes));
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(machine_uid.to_owned(), newest);
    }
}

fn first_disk(volumes: &[Volume]) -> Option<String> {
    volumes.first().map(|volume| volume.dataset.clone())
}
