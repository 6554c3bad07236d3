//! Asks, before an object is stored, whether its Hub can do what it says: the one rule of admission that looks at another object.

use super::{Error, Objects};
use crate::admission::{self, Resource};
use crate::api::checkpoint::Trigger;
use crate::api::{Checkpoint, DEFAULT_HUB, FieldError, GROUP, Hub, Kind, Machine};
use serde_json::Value;

impl Objects {
    /// What is asked that cannot be done; `old` is what is replaced. Errors: the store cannot be read.
    pub(super) async fn impossible(&self, resource: &Resource, document: &Value, old: Option<&Value>) -> Result<Vec<FieldError>, Error> {
        if resource.group != GROUP || old.is_some_and(|old| old["spec"] == document["spec"]) {
            return Ok(Vec::new());
        }
        match resource.kind {
            Machine::KIND => {
                let Some(machine) = read::<Machine>(document) else { return Ok(Vec::new()) };
                let Some(hub) = self.hub_of(&machine).await? else { return Ok(Vec::new()) };
                Ok(admission::possible::machine(&machine, old.and_then(read).as_ref(), &hub))
            }
            Checkpoint::KIND if old.is_none() => {
                // Others are asked for by who knows what can be had, and an agent may be waiting.
                let by_hand = |checkpoint: &Checkpoint| checkpoint.spec.trigger == Trigger::Requested;
                let Some(checkpoint) = read::<Checkpoint>(document).filter(by_hand) else { return Ok(Vec::new()) };
                let Some(name) = &checkpoint.spec.machine else { return Ok(Vec::new()) };
                let Some(machine) = seen(self.get::<Machine>(checkpoint.namespace(), name).await)? else { return Ok(Vec::new()) };
                let Some(hub) = self.hub_of(&machine).await? else { return Ok(Vec::new()) };
                Ok(admission::possible::checkpoint(&checkpoint, &machine, &hub))
            }
            _ => Ok(Vec::new()),
        }
    }

    async fn hub_of(&self, machine: &Machine) -> Result<Option<Hub>, Error> {
        seen(self.get::<Hub>("", machine.spec.hub.as_deref().unwrap_or(DEFAULT_HUB)).await)
    }
}

/// What was validated can be read.
fn read<K: Kind>(document: &Value) -> Option<K> {
    serde_json::from_value(document.clone()).ok()
}

/// What cannot be read as this version knows it says nothing.
fn seen<K>(found: Result<Option<K>, Error>) -> Result<Option<K>, Error> {
    match found {
        Err(Error::Unreadable { .. }) => Ok(None),
        other => other,
    }
}
