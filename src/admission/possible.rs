//! What an object asks of a Hub whose storage cannot do it: said before anything is tried, with what to do instead. Where the Hub is not
//! there, or has not said yet what it can do, nothing is refused here.

use crate::api::capability::{CapabilityName, impossible};
use crate::api::checkpoint::Trigger;
use crate::api::machine::{Capture, Machine, RetryMode};
use crate::api::{Checkpoint, FieldError, Hub, Kind};

/// What a Machine asks that its Hub cannot; of a change only what `old` did not ask.
pub fn machine(machine: &Machine, old: Option<&Machine>, hub: &Hub) -> Vec<FieldError> {
    let (new, old) = (asks(machine), old.map(asks).unwrap_or_default());
    let asked = new.into_iter().filter(|asked| !old.contains(asked));
    asked.filter_map(|(field, name, remedy)| Some(FieldError::forbidden(field, format!("{}; {remedy}", cannot(hub, name)?)))).collect()
}

/// What a Checkpoint that a person asks for takes of a Machine's Hub.
pub fn checkpoint(checkpoint: &Checkpoint, machine: &Machine, hub: &Hub) -> Vec<FieldError> {
    let finished = machine.status.as_ref().is_some_and(|status| status.phase.is_finished());
    if checkpoint.spec.trigger != Trigger::Requested || finished {
        return Vec::new();
    }
    let remedy = format!("machine {} ends in a final one: delete it, or wait for its end", machine.name());
    let why = cannot(hub, CapabilityName::CheckpointInLife);
    why.map(|why| FieldError::forbidden("spec.machine", format!("{why}; {remedy}"))).into_iter().collect()
}

/// Field, what it takes, and what can be done instead.
type Asked = (&'static str, CapabilityName, &'static str);

fn asks(machine: &Machine) -> Vec<Asked> {
    let spec = &machine.spec;
    let mut asks = Vec::new();
    if spec.from.as_ref().and_then(|from| from.machine.as_ref()).is_some_and(|from| from.capture == Capture::Now) {
        asks.push(("spec.from.machine.capture", CapabilityName::ForkNow, "use Latest, which waits for that machine's final checkpoint"));
    }
    if spec.checkpoints.interval.is_some() {
        asks.push(("spec.checkpoints.interval", CapabilityName::CheckpointInLife, "remove it: the machine ends in a final one"));
    }
    if spec.keeps_memory() {
        let remedy = "use Discard: its agent goes on with its conversation";
        asks.push(("spec.suspend.memory", CapabilityName::SuspendWithMemory, remedy));
    }
    if spec.restore.is_some() {
        asks.push(("spec.restore", CapabilityName::Restore, "remove it, and spawn another machine from the checkpoint that you want"));
    }
    if spec.retry.as_ref().is_some_and(|retry| retry.mode != RetryMode::Warm) {
        asks.push(("spec.retry.mode", CapabilityName::Restore, "use Warm, which tries again in the same guest"));
    }
    asks
}

fn cannot(hub: &Hub, name: CapabilityName) -> Option<String> {
    let told = hub.status.as_ref().map(|status| status.capabilities.as_slice()).unwrap_or_default();
    impossible(told, name).map(|why| format!("hub {} {why}", hub.name()))
}
