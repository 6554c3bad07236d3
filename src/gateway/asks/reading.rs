//! What an agent may read: what pays for it, and the checkpoints that led to its state. Of others it sees what pays for it too, and
//! whose states its own disk is made of; no more.

use super::{Gateway, Refusal};
use crate::{
    api::{Checkpoint, Kind, Machine, quantity::NanoUsd},
    gateway::resolve,
};
use serde_json::{Value, json};

/// Checkpoints that are told, newest first.
const MOST: usize = 100;

/// What it may still spend: the least of all that pays for it, and each of them.
pub(super) async fn budget(gateway: &Gateway, machine: &Machine) -> Result<Value, Refusal> {
    let mut levels = Vec::new();
    let (mut money, mut calls): (Option<i64>, Option<u64>) = (None, None);
    for account in resolve::payers(&gateway.directory, machine).await? {
        let used = gateway.ledger.usage(&account.id).await?;
        let level = &account.level;
        let left = level.money.map(|limit| (limit.0 - used.money.0 - used.reserved.0).max(0));
        let calls_left = level.api_calls.map(|limit| limit.saturating_sub(used.api_calls));
        money = money.into_iter().chain(left).min();
        calls = calls.into_iter().chain(calls_left).min();
        levels.push(json!({
            "name": level.name,
            "money": { "limit": level.money, "used": used.money, "reserved": used.reserved },
            "apiCalls": { "limit": level.api_calls, "used": used.api_calls },
        }));
    }
    let limits = resolve::limits(&gateway.directory, machine).await?;
    let used = machine.status.as_ref().map(|status| status.usage.time).unwrap_or_default();
    Ok(json!({
        "currency": "USD",
        "money": { "left": money.map(NanoUsd) },
        "apiCalls": { "left": calls },
        "time": { "limit": limits.time, "used": used },
        "levels": levels,
    }))
}

/// The checkpoints from its newest back to the first base.
pub(super) async fn lineage(gateway: &Gateway, machine: &Machine) -> Result<Value, Refusal> {
    let status = machine.status.clone().unwrap_or_default();
    let mut next = status.last_checkpoint.or_else(|| status.spawned_from.clone());
    let mut checkpoints = Vec::new();
    while let Some(name) = next.take().filter(|_| checkpoints.len() < MOST) {
        let Some(checkpoint) = gateway.objects.get::<Checkpoint>(machine.namespace(), &name).await? else {
            checkpoints.push(json!({ "name": name, "message": "it was deleted" }));
            break;
        };
        let state = checkpoint.status.clone().unwrap_or_default();
        next.clone_from(&state.parent);
        checkpoints.push(json!({
            "name": name,
            "machine": checkpoint.spec.machine,
            "trigger": checkpoint.spec.trigger,
            "description": checkpoint.spec.description,
            "goal": state.goal,
            "capturedAt": state.captured_at,
            "turn": state.session.map(|session| session.turn),
        }));
    }
    Ok(json!({ "machine": machine.name(), "spawnedFrom": status.spawned_from, "checkpoints": checkpoints, "older": next.is_some() }))
}
