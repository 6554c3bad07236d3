//! Tells people of the tool calls that wait for them, and closes those that nobody decided in time. What a decision means for the agent
//! is the gateway's matter.

mod plan;
#[cfg(test)]
mod tests;
mod webhook;

use super::{Context, Error};
use crate::api::approval::ApprovalPhase;
use crate::api::hub::Webhook;
use crate::api::{Approval, DEFAULT_HUB, Hub, Kind, Machine};
use crate::objects::{self, EventType};
use crate::runtime::{Key, Requeue};
use plan::Step;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Moves one Approval a step on. Safe to call at any time, any number of times.
pub async fn reconcile(key: Key, context: Arc<Context>) -> Result<Requeue, Error> {
    let Some(approval) = context.objects.get::<Approval>(&key.namespace, &key.name).await? else { return Ok(Requeue::Never) };
    tracing::Span::current().record("object.uid", approval.uid());
    let hub = hub_of(&approval, &context).await?;
    let webhook = hub.as_ref().and_then(|hub| hub.spec.approvals.webhook.as_ref());
    let plan = plan::plan(&approval, webhook.is_some(), context.objects.clock().now());
    let mut changed = approval.clone();
    let status = changed.status.get_or_insert_default();
    match plan.step {
        None => return Ok(plan.requeue),
        Some(Step::Expire) => status.phase = ApprovalPhase::Expired,
        Some(Step::Notify) => {
            notify(&approval, hub.as_ref().map(Kind::name).unwrap_or_default(), webhook, &context).await?;
            status.notified_at = Some(context.objects.clock().api_now());
        }
    }
    match context.objects.update_status(&changed).await {
        // Someone else wrote it, which wakes this anew.
        Ok(_) | Err(objects::Error::Conflict { .. } | objects::Error::NotFound { .. }) => Ok(plan.requeue),
        Err(error) => Err(error.into()),
    }
}

/// The Hub of the Machine that asks.
async fn hub_of(approval: &Approval, context: &Context) -> Result<Option<Hub>, Error> {
    let machine = context.objects.get::<Machine>(approval.namespace(), &approval.spec.machine).await?;
    let name = machine.and_then(|machine| machine.spec.hub).unwrap_or_else(|| DEFAULT_HUB.into());
    Ok(context.objects.get::<Hub>("", &name).await?)
}

async fn notify(approval: &Approval, hub: &str, webhook: Option<&Webhook>, context: &Context) -> Result<(), Error> {
    let Some(webhook) = webhook else { return Ok(()) };
    if let Err(why) = webhook::post(approval, hub, webhook, &context.objects).await? {
        let message = format!("the webhook of Hub {hub} did not take it: {why}");
        context.objects.record(approval, EventType::Warning, "WebhookFailed", &message).await;
        return Err(Error::Waiting(message));
    }
    Ok(())
}

/// Which calls of which Machine wait for a person, as far as their changes came here.
#[derive(Default)]
pub struct Asked(Mutex<BTreeMap<Key, BTreeMap<String, String>>>);

impl Asked {
    /// What waits, each in a line.
    pub(in crate::controller) fn of(&self, namespace: &str, machine: &str) -> Vec<String> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.get(&Key::new(namespace, machine)).into_iter().flat_map(BTreeMap::values).cloned().collect()
    }
    /// Takes a change in, before anyone is woken by it.
    pub(in crate::controller) fn note(&self, approval: &Approval, is_there: bool) {
        let key = Key::new(approval.namespace(), &approval.spec.machine);
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting = all.entry(key.clone()).or_default();
        if is_there && approval.phase() == ApprovalPhase::Pending {
            waiting.insert(approval.name().to_owned(), approval.summary());
        } else {
            waiting.remove(approval.name());
        }
        if waiting.is_empty() {
            all.remove(&key);
        }
    }
}
