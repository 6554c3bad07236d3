//! Reads the ledger and the Budgets above.

use crate::api::{Budget, Kind};
use crate::controller::{Context, Error};
use crate::ledger::Usage;

/// A Budget above the one that is looked at.
#[derive(Clone, Debug)]
pub(super) struct Ancestor {
    pub(super) budget: Budget,
    pub(super) usage: Usage,
}

/// How the chain of parents ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum ChainEnd {
    Root,
    /// No Budget of that name.
    Missing(String),
    /// It comes back to this Budget.
    Cycle(String),
}

/// What was seen.
#[derive(Clone, Debug)]
pub(super) struct Observed {
    pub(super) usage: Usage,
    /// From the parent upwards.
    pub(super) ancestors: Vec<Ancestor>,
    pub(super) end: ChainEnd,
}

pub(super) async fn observe(budget: &Budget, context: &Context) -> Result<Observed, Error> {
    let usage = context.objects.budget_usage(budget).await?;
    let mut ancestors: Vec<Ancestor> = Vec::new();
    let mut next = budget.spec.parent_ref.as_ref().map(|parent| parent.name.clone());
    while let Some(name) = next {
        if name == budget.name() || ancestors.iter().any(|above| above.budget.name() == name) {
            return Ok(Observed { usage, ancestors, end: ChainEnd::Cycle(name) });
        }
        let Some(above) = context.objects.get::<Budget>(budget.namespace(), &name).await? else {
            return Ok(Observed { usage, ancestors, end: ChainEnd::Missing(name) });
        };
        next = above.spec.parent_ref.as_ref().map(|parent| parent.name.clone());
        ancestors.push(Ancestor { usage: context.objects.budget_usage(&above).await?, budget: above });
    }
    Ok(Observed { usage, ancestors, end: ChainEnd::Root })
}
