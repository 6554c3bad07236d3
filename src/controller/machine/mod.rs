//! Moves Machines through their lives: spawned from a checkpoint, run, suspended, ended in a final checkpoint.
//!
//! Each pass observes, plans (pure) and acts; what is decided is written before the steps that depend on it. Not here: the
//! checkpoints between messages, which are the checkpoint controller's, and their retention.

mod act;
mod base;
mod end;
mod memory;
mod observe;
mod place;
mod plan;
mod put_back;
mod status;
mod step;
mod suspend;
#[cfg(test)]
mod tests;

pub use memory::{AfterStep, Memory, Timing};

use super::{Context, Error, kstatus};
use crate::api::checkpoint::ASKED_BY;
use crate::api::machine::{Machine, MachineStatus};
use crate::api::{Checkpoint, Kind};
use crate::objects::{self, EventType};
use crate::runtime::{Key, Requeue};
use std::sync::Arc;
use std::time::Duration;

/// On a Checkpoint that this controller makes: uid of its Machine, so that a namesake's is not taken for it.
const MACHINE_UID: &str = "autovibe.dev/machine-uid";

/// Moves one Machine a step closer to its spec. Safe to call at any time, any number of times.
pub async fn reconcile(key: Key, context: Arc<Context>) -> Result<Requeue, Error> {
    let found = context.objects.get::<Machine>(&key.namespace, &key.name).await?;
    context.machines.promises.keep_up((&key.namespace, &key.name), found.as_ref()).await;
    let Some(mut machine) = found else { return Ok(Requeue::Never) };
    tracing::Span::current().record("object.uid", machine.uid());
    if context.machines.is_stopped() {
        return Err(Error::Waiting("this controller was stopped".into()));
    }
    let seeing = observe::observe(&machine, &context).await?;
    let (clock, resync) = (context.objects.clock().clone(), context.config.resync);
    let plan = plan::plan(&machine, &seeing.observed, clock.now(), resync);
    if machine.is_deleting() && plan.steps.is_empty() && machine.metadata.finalizers.as_ref().is_none_or(Vec::is_empty) {
        return Ok(Requeue::Never);
    }
    let decided = status::status(&machine, &seeing.observed, &plan, None, clock.now());
    // Steps that are tried again, after a refusal or a wait: until they are done the status goes on saying why. Written to and fro
    // with each try it would wake this very reconcile.
    let goes_on = !plan.steps.is_empty() && context.machines.known(machine.uid()).unfinished;
    if !(goes_on && status::is_same_but_words(&machine, &decided)) {
        let Some(written) = write(&machine, decided, &context).await? else { return Ok(Requeue::After(Duration::ZERO)) };
        machine = written;
    }
    if plan.steps.is_empty() {
        return Ok(plan.requeue);
    }
    let outcome = act::act(&machine, &plan, &seeing, &context).await;
    if context.machines.is_stopped() {
        return Err(Error::Waiting("this controller was stopped".into()));
    }
    if outcome.is_gone {
        context.machines.forget(machine.uid());
        return Ok(Requeue::Never);
    }
    let reached = status::status(&machine, &seeing.observed, &plan, Some(&outcome), clock.now());
    // Lost to another writer: what was reached is found again by looking.
    write(&machine, reached, &context).await?;
    match outcome.problem {
        None => Ok(Requeue::After(outcome.later.unwrap_or(Duration::ZERO))),
        Some(problem) => problem.into_requeue(resync),
    }
}

/// Writes a status that differs, and records Events; `None` when someone else wrote meanwhile.
async fn write(machine: &Machine, status: MachineStatus, context: &Context) -> Result<Option<Machine>, Error> {
    let before = machine.status.clone().unwrap_or_default();
    if machine.status.as_ref() == Some(&status) {
        return Ok(Some(machine.clone()));
    }
    let mut changed = machine.clone();
    changed.status = Some(status);
    let written = match context.objects.update_status(&changed).await {
        Ok(written) => written,
        Err(objects::Error::Conflict { .. } | objects::Error::NotFound { .. }) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let after = written.status.clone().unwrap_or_default();
    if before.phase == after.phase {
        kstatus::record_change(&context.objects, &written, &before.conditions, &after.conditions).await;
    } else {
        let reason = format!("{:?}", after.phase);
        let kind = if after.phase == crate::api::machine::Phase::Failed { EventType::Warning } else { EventType::Normal };
        context.objects.record(&written, kind, &reason, after.message.as_deref().unwrap_or(&reason)).await;
    }
    Ok(Some(written))
}

/// Names that a Machine's final checkpoint may have: the second, when a namesake's took the first.
fn final_names(machine: &Machine) -> [String; 2] {
    let short: String = machine.uid().chars().take(8).collect();
    [format!("{}-final", machine.name()), format!("{}-final-{short}", machine.name())]
}

/// Names that the checkpoint may have which is taken for a fork: the second, when someone else's has the first.
fn base_names(machine: &Machine) -> [String; 2] {
    let short: String = machine.uid().chars().take(8).collect();
    [format!("{}-base", machine.name()), format!("{}-base-{short}", machine.name())]
}

/// Name of the checkpoint of the present suspension. Each is followed by a launch, or goes on from its memory.
fn suspend_name(machine: &str, status: &MachineStatus) -> String {
    format!("{machine}-suspend-{}", status.agent.as_ref().map_or(0, |agent| agent.launches + agent.resumed))
}

/// Name of the checkpoint of what it was before it was last put back.
fn restore_name(machine: &str, status: &MachineStatus) -> String {
    format!("{machine}-before-restore-{}", status.restored.as_ref().map_or(0, |restored| restored.count))
}

/// Whether a checkpoint is this Machine's, not only its name's.
fn is_own(checkpoint: &Checkpoint, machine: &Machine) -> bool {
    if checkpoint.spec.machine.as_deref() != Some(machine.name()) {
        return false;
    }
    let taken_of = checkpoint.status.as_ref().and_then(|status| status.machine_uid.as_deref());
    let made_for = checkpoint.annotation(MACHINE_UID);
    taken_of.or(made_for).is_some_and(|uid| uid == machine.uid())
}
