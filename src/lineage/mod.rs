//! The graph of checkpoints: what is a base of what, and what retention may collect.
//!
//! Pure: it judges the objects it is given and nothing else. Whoever destroys looks at the storage again first.

mod retention;
#[cfg(test)]
mod tests;

pub use retention::{Judged, Kept, due, exceeds};

use crate::api::checkpoint::{ASKED_BY, CheckpointPhase};
use crate::api::machine::Capture;
use crate::api::{Checkpoint, Kind, Machine};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// The checkpoints and Machines of one namespace.
pub struct Lineage<'a> {
    checkpoints: BTreeMap<&'a str, &'a Checkpoint>,
    machines: BTreeMap<&'a str, &'a Machine>,
}

/// Why a checkpoint must stay.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Use {
    #[error("machine {machine} lives on a clone of it")]
    Disk { machine: String },
    #[error("machine {machine} is to be spawned from it")]
    Spawn { machine: String },
    #[error("machine {machine} is ending in it")]
    Ending { machine: String },
    #[error("checkpoint {checkpoint} was spawned from it")]
    Base { checkpoint: String },
}

impl<'a> Lineage<'a> {
    pub fn new(checkpoints: &'a [Checkpoint], machines: &'a [Machine]) -> Self {
        Self {
            checkpoints: checkpoints.iter().map(|checkpoint| (checkpoint.name(), checkpoint)).collect(),
            machines: machines.iter().map(|machine| (machine.name(), machine)).collect(),
        }
    }

    /// Everything that needs this checkpoint; empty when it may go.
    pub fn uses(&self, name: &str) -> Vec<Use> {
        let mut uses = BTreeSet::new();
        let mut children: BTreeSet<&str> = BTreeSet::new();
        for machine in self.machines.values() {
            let status = machine.status.as_ref();
            let finished = is_finished(machine);
            let has_vm = status.is_some_and(|status| status.vm.is_some());
            let spawned_from = status.and_then(|status| status.spawned_from.as_deref());
            let machine_name = || machine.name().to_owned();
            if spawned_from == Some(name) {
                children.insert(machine.uid());
                if has_vm || !finished {
                    uses.insert(Use::Disk { machine: machine_name() });
                }
            }
            let put_back_to = status.and_then(|status| status.restored.as_ref()?.checkpoint.as_deref());
            if put_back_to == Some(name) && (has_vm || !finished) {
                uses.insert(Use::Disk { machine: machine_name() });
            }
            if !finished && spawned_from.is_none() && self.wants(machine).contains(name) {
                uses.insert(Use::Spawn { machine: machine_name() });
            }
            if !finished && status.and_then(|status| status.final_checkpoint.as_deref()) == Some(name) {
                uses.insert(Use::Ending { machine: machine_name() });
            }
        }
        let this = self.checkpoints.get(name).copied();
        let own = this.and_then(machine_uid);
        for other in self.checkpoints.values().filter(|other| other.name() != name && is_stored(other)) {
            let uid = machine_uid(other);
            // Of the same Machine it stands on the same disk, unless that was put back in between.
            let is_child = other.status.as_ref().and_then(|status| status.parent.as_deref()) == Some(name);
            let spawned = is_child && (uid != own || this.is_some_and(|this| stand_apart(this, other)));
            if spawned || uid.is_some_and(|uid| children.contains(uid)) {
                uses.insert(Use::Base { checkpoint: other.name().to_owned() });
            }
        }
        uses.into_iter().collect()
    }

    /// Checkpoints that a Machine without a disk is to be spawned from.
    fn wants(&self, machine: &Machine) -> BTreeSet<&'a str> {
        let mut wants = BTreeSet::new();
        let machines = &self.machines;
        let find = |name: &Option<String>| name.as_deref().and_then(|name| self.checkpoints.get_key_value(name)).map(|(name, _)| *name);
        if let Some(from) = &machine.spec.from {
            wants.extend(find(&from.checkpoint));
            let source = from.machine.as_ref().and_then(|source| machines.get(source.name.as_str()));
            let status = source.and_then(|source| source.status.as_ref());
            wants.extend(status.and_then(|status| find(&status.last_checkpoint)));
            wants.extend(status.and_then(|status| find(&status.final_checkpoint)));
            if from.machine.as_ref().is_some_and(|source| source.capture == Capture::Now) {
                let asked = |checkpoint: &&Checkpoint| checkpoint.annotation(ASKED_BY) == Some(machine.uid());
                wants.extend(self.checkpoints.values().copied().filter(asked).map(Kind::name));
            }
        } else {
            let source = machine.spec.goal.after.last().and_then(|name| machines.get(name.as_str()));
            let status = source.and_then(|source| source.status.as_ref());
            wants.extend(status.and_then(|status| find(&status.final_checkpoint)));
        }
        wants
    }

    /// The nearest checkpoint before this one that is not being deleted.
    pub fn living_ancestor(&self, name: &str) -> Option<&'a str> {
        let mut seen = BTreeSet::new();
        let mut at = self.checkpoints.get(name)?;
        while seen.insert(at.name()) {
            at = self.checkpoints.get(at.status.as_ref()?.parent.as_deref()?)?;
            if !at.is_deleting() {
                return Some(at.name());
            }
        }
        None
    }

    /// Checkpoints whose parent this one is.
    pub fn children(&self, name: &str) -> Vec<&'a Checkpoint> {
        let parent = |checkpoint: &Checkpoint| checkpoint.status.as_ref().and_then(|status| status.parent.clone());
        self.checkpoints.values().copied().filter(|checkpoint| parent(checkpoint).as_deref() == Some(name)).collect()
    }
}

fn is_finished(machine: &Machine) -> bool {
    machine.status.as_ref().is_some_and(|status| status.phase.is_finished())
}

/// Whether two checkpoints of a Machine stand on other disks.
fn stand_apart(one: &Checkpoint, other: &Checkpoint) -> bool {
    let first = |checkpoint: &Checkpoint| Some(checkpoint.status.as_ref()?.volumes.first()?.dataset.clone());
    first(one).zip(first(other)).is_some_and(|(one, other)| one != other)
}

fn machine_uid(checkpoint: &Checkpoint) -> Option<&str> {
    checkpoint.status.as_ref()?.machine_uid.as_deref()
}

fn phase_of(checkpoint: &Checkpoint) -> CheckpointPhase {
    checkpoint.status.as_ref().map(|status| status.phase).unwrap_or_default()
}

/// Whether there may be anything of it in a pool.
fn is_stored(checkpoint: &Checkpoint) -> bool {
    checkpoint.status.as_ref().is_some_and(|status| !status.volumes.is_empty() || status.phase != CheckpointPhase::Failed)
}

/// When a checkpoint counts as taken: now, or right after the newest one of its Machine that is known, where the clock is behind that. Their
/// order is by these times.
pub fn stamp(now: Time, newest: Option<&Time>) -> Time {
    match newest {
        Some(newest) if newest.0 > now.0 => Time(newest.0.saturating_add(Duration::from_secs(1)).unwrap_or(newest.0)),
        _ => now,
    }
}

/// When it was taken; of one that was not, when it was asked for.
fn taken_at(checkpoint: &Checkpoint) -> Option<Time> {
    let captured = checkpoint.status.as_ref().and_then(|status| status.captured_at.clone());
    captured.or_else(|| checkpoint.metadata.creation_timestamp.clone())
}

/// Oldest first: by time, within a second by turn, then by name.
fn age_order(checkpoint: &Checkpoint) -> (Option<Time>, u64, &str) {
    let turn = checkpoint.status.as_ref().and_then(|status| status.session.as_ref()).map_or(0, |session| session.turn);
    (taken_at(checkpoint), turn, checkpoint.name())
}
