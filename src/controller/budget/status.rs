//! What a Budget's status says: pure.

use super::observe::Observed;
use super::plan::Plan;
use crate::api::budget::BudgetStatus;
use crate::api::machine;
use crate::api::meta::set_condition;
use crate::api::{Budget, Kind};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

pub(super) fn status(budget: &Budget, observed: &Observed, plan: &Plan, now: &Time) -> BudgetStatus {
    let mut status = budget.status.clone().unwrap_or_default();
    let generation = budget.generation();
    status.observed_generation = Some(generation);
    plan.readiness.apply(&mut status.conditions, generation, now);
    let exhausted = match &plan.exhausted {
        Some((reason, message)) => ("Exhausted", true, *reason, message.as_str()),
        None => ("Exhausted", false, "WithinLimits", "there is room below every limit"),
    };
    set_condition(&mut status.conditions, generation, now, exhausted);
    let usage = &observed.usage;
    status.usage = machine::Usage {
        money: usage.money,
        reserved: usage.reserved,
        api_calls: usage.api_calls,
        tokens_in: usage.tokens_in,
        tokens_out: usage.tokens_out,
        ..status.usage
    };
    status.spent = Some(match budget.spec.limits.money {
        Some(limit) => format!("{} of {}", usage.money.dollars(), limit.amount.dollars()),
        None => usage.money.dollars(),
    });
    status
}
