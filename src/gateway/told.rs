//! Refusals that people are told of: what the gateway does not pass on for a reason that is theirs to mend, such as a model that no
//! provider of the Hub has. Its agent is told with each request; people once, however often it asks.

use super::Gateway;
use crate::{
    api::{Kind, Machine},
    objects::{self, EventType},
    wire::{Unsent, annotation},
};
use std::{
    collections::{BTreeSet, HashMap},
    sync::{Mutex, PoisonError},
};

/// Distinct ones of a launch that are told: an agent may name any number of models.
const MOST: usize = 8;
/// Launches that are remembered; with more all are forgotten, and told once more.
const LAUNCHES: usize = 4096;
/// Bytes of a text that is told.
const TEXT: usize = 512;
/// Attempts to annotate a Machine whose controller writes it at the same time.
const ATTEMPTS: u32 = 10;

/// What was told, by uid and launch.
#[derive(Default)]
pub(super) struct Told(Mutex<HashMap<(String, u32), BTreeSet<String>>>);

impl Told {
    /// Whether it is to be told, which it is then.
    fn is_new(&self, uid: &str, launch: u32, why: &str) -> bool {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= LAUNCHES {
            all.clear();
        }
        let told = all.entry((uid.to_owned(), launch)).or_default();
        told.len() < MOST && told.insert(why.to_owned())
    }
}

impl Gateway {
    /// Tells people why a call of this Machine's agent went nowhere: an Event, and a note for who judges the end of its agent. It is there
    /// before the agent has its answer.
    pub(super) async fn tell_unsent(&self, machine: &Machine, why: &str) {
        let launch = machine.status.as_ref().and_then(|status| status.agent.as_ref()).map_or(0, |agent| agent.launches);
        let why = &why[..why.floor_char_boundary(TEXT)];
        if !self.told.is_new(machine.uid(), launch, why) {
            return;
        }
        tracing::warn!(object.kind = "Machine", object.name = machine.name(), "a call was refused: {why}");
        self.objects.record(machine, EventType::Warning, "CallRefused", why).await;
        let note = serde_json::to_string(&Unsent { launch, why: why.to_owned() }).unwrap_or_default();
        if let Err(error) = self.annotate(machine, annotation::UNSENT, &note).await {
            tracing::warn!(object.name = machine.name(), "why its call was refused was not noted: {error}");
        }
    }

    /// Writes an annotation of a Machine that is still there.
    pub(super) async fn annotate(&self, machine: &Machine, name: &str, value: &str) -> Result<(), objects::Error> {
        for _ in 0..ATTEMPTS {
            let read: Option<Machine> = self.objects.get(machine.namespace(), machine.name()).await?;
            let Some(mut current) = read.filter(|current| current.uid() == machine.uid()) else { break };
            let annotations = current.metadata.annotations.get_or_insert_default();
            if annotations.insert(name.into(), value.into()).as_deref() == Some(value) {
                break;
            }
            match self.objects.update(&current).await {
                Ok(_) => break,
                Err(objects::Error::Conflict { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_told_once_a_launch_and_not_without_end() {
        let told = Told::default();
        assert!(told.is_new("m", 1, "a") && !told.is_new("m", 1, "a") && told.is_new("m", 2, "a") && told.is_new("n", 1, "a"));
        let many = (0..100).filter(|n| told.is_new("m", 1, &format!("model {n}"))).count();
        assert_eq!(many, MOST - 1);
    }
}
