//! What a Machine's schema cannot say of it.

use super::{AgentType, Goal, Machine};
use crate::api::{meta::FieldError, quantity::Bytes};
use std::time::Duration;

/// The least [`super::Checkpoints::interval`].
const LEAST_INTERVAL: Duration = Duration::from_mins(1);

pub(super) fn check(machine: &Machine) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let spec = &machine.spec;
    let goal = &spec.goal;
    if goal.prompt.trim().is_empty() && spec.agent.r#type != AgentType::Command {
        errors.push(FieldError::required("spec.goal.prompt", "say what the agent is to do"));
    }
    if let Some(workspace) = goal.workspace.as_ref().filter(|workspace| !Goal::is_workspace(workspace)) {
        errors.push(FieldError::invalid("spec.goal.workspace", workspace, "must be an absolute path in the guest, without `..`"));
    }
    for (index, name) in goal.after.iter().enumerate() {
        if machine.metadata.name.as_deref() == Some(name) {
            errors.push(FieldError::invalid(format!("spec.goal.after[{index}]"), name, "a Machine cannot wait for itself"));
        }
    }
    for name in spec.agent.env.keys() {
        let legal = !name.is_empty()
            && !name.starts_with(|c: char| c.is_ascii_digit())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if !legal {
            errors.push(FieldError::invalid(
                format!("spec.agent.env[{name}]"),
                name,
                "must be letters, digits and `_`, not starting with a digit",
            ));
        }
    }
    if spec.push.is_some() && spec.push_to("").is_none() {
        errors.push(FieldError::required("spec.push.git", "name a repository; without spec.source.git there is no default"));
    }
    if let Some(network) = &spec.network {
        network.validate(&mut errors);
    }
    if spec.approvals.timeout.0.is_zero() {
        errors.push(FieldError::invalid(
            "spec.approvals.timeout",
            spec.approvals.timeout.to_string(),
            "must be more than 0s, for example 10m",
        ));
    }
    if spec.resources.memory.0 < 64 * Bytes::MIB {
        errors.push(FieldError::invalid("spec.resources.memory", spec.resources.memory, "must be at least 64Mi"));
    }
    if let Some(interval) = spec.checkpoints.interval.filter(|interval| interval.0 < LEAST_INTERVAL) {
        errors.push(FieldError::invalid("spec.checkpoints.interval", interval, "must be at least 1m; leave it out for none"));
    }
    if spec.resources.cpu.0 == 0 {
        errors.push(FieldError::invalid("spec.resources.cpu", spec.resources.cpu, "must be more than 0"));
    }
    errors
}
