//! Decides how a Budget stands: pure.

use super::observe::{ChainEnd, Observed};
use crate::api::budget::BudgetLimits;
use crate::api::{Budget, Kind};
use crate::controller::kstatus::Readiness;
use crate::ledger::Usage;

/// How the Budget stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) readiness: Readiness,
    /// Why nothing more can be spent: reason and message.
    pub(super) exhausted: Option<(&'static str, String)>,
}

pub(super) fn plan(budget: &Budget, observed: &Observed) -> Plan {
    let readiness = match &observed.end {
        ChainEnd::Root => Readiness::Ready { reason: "Ready", message: "it and every Budget above it are known".into() },
        ChainEnd::Missing(name) => Readiness::waiting(
            "ParentMissing",
            format!("Budget {name} does not exist in namespace {}; create it, or remove spec.parentRef", budget.namespace()),
        ),
        ChainEnd::Cycle(name) => {
            Readiness::stalled("ParentCycle", format!("its parents lead back to Budget {name}; change spec.parentRef of one of them"))
        }
    };
    let own = used_up(&budget.spec.limits, &observed.usage).map(|what| ("LimitReached", what));
    let above = || {
        observed.ancestors.iter().find_map(|above| {
            let what = used_up(&above.budget.spec.limits, &above.usage)?;
            Some(("ParentExhausted", format!("Budget {} above it: {what}", above.budget.name())))
        })
    };
    Plan { readiness, exhausted: own.or_else(above) }
}

/// Which limit has no room left, in words.
fn used_up(limits: &BudgetLimits, usage: &Usage) -> Option<String> {
    if let Some(money) = limits.money
        && usage.money >= money.amount
    {
        return Some(format!("{} of {} is spent; raise spec.limits.money to go on", usage.money.dollars(), money.amount.dollars()));
    }
    if let Some(calls) = limits.api_calls
        && usage.api_calls >= calls
    {
        return Some(format!("{} of {calls} calls are made; raise spec.limits.apiCalls to go on", usage.api_calls));
    }
    None
}
