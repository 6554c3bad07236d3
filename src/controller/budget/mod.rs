//! Shows what a Budget has consumed and whether it is exhausted. What may be spent is decided by the ledger, not here.

mod observe;
mod plan;
mod status;
#[cfg(test)]
mod tests;

use super::{Context, Error, kstatus};
use crate::api::{Budget, Kind};
use crate::runtime::{Key, Requeue};
use std::{sync::Arc, time::Duration};

/// How often the ledger is read for a Budget while nothing wakes it: calls are charged without a change of any object.
const REFRESH: Duration = Duration::from_secs(15);

/// Brings the status of one Budget up to date. There is nothing to act on.
pub async fn reconcile(key: Key, context: Arc<Context>) -> Result<Requeue, Error> {
    let Some(budget) = context.objects.get::<Budget>(&key.namespace, &key.name).await? else { return Ok(Requeue::Never) };
    tracing::Span::current().record("object.uid", budget.uid());
    let observed = observe::observe(&budget, &context).await?;
    let plan = plan::plan(&budget, &observed);
    let before = budget.status.clone().unwrap_or_default();
    let after = status::status(&budget, &observed, &plan, &context.objects.clock().api_now());
    if before != after {
        let mut changed = budget.clone();
        changed.status = Some(after.clone());
        context.objects.update_status(&changed).await?;
        kstatus::record_change(&context.objects, &budget, &before.conditions, &after.conditions).await;
    }
    Ok(Requeue::After(REFRESH))
}
