//! Tables of how a Budget stands.

use super::observe::{Ancestor, ChainEnd, Observed};
use super::{plan::plan, status::status};
use crate::api::Budget;
use crate::api::budget::{BudgetLimits, BudgetSpec, ParentRef};
use crate::api::quantity::{Currency, Money, NanoUsd};
use crate::clock::Clock;
use crate::ledger::Usage;

const DOLLAR: i64 = 1_000_000_000;

fn budget(name: &str, money: Option<i64>, calls: Option<u64>) -> Budget {
    let money = money.map(|dollars| Money { amount: NanoUsd(dollars * DOLLAR), currency: Currency::USD });
    let mut budget = Budget::new("shop", name, BudgetSpec { parent_ref: None, limits: BudgetLimits { money, api_calls: calls } });
    budget.metadata.generation = Some(3);
    budget
}

fn usage(cents: i64, api_calls: u64) -> Usage {
    Usage { money: NanoUsd(cents * DOLLAR / 100), api_calls, ..Usage::default() }
}

/// (own limits, own usage, parent, chain's end) → (spent, Ready reason, Exhausted reason).
fn check(own: (Option<i64>, Option<u64>), used: (i64, u64), parent: Option<(i64, i64)>, end: ChainEnd, expect: (&str, &str, &str)) {
    let mut budget = budget("team", own.0, own.1);
    let ancestors = parent
        .map(|(limit, cents)| Ancestor { budget: self::budget("company", Some(limit), None), usage: usage(cents, 0) })
        .into_iter()
        .collect::<Vec<_>>();
    budget.spec.parent_ref = parent.map(|_| ParentRef { name: "company".into() });
    let observed = Observed { usage: usage(used.0, used.1), ancestors, end };
    let status = status(&budget, &observed, &plan(&budget, &observed), &Clock::system().api_now());
    let reason = |kind: &str| status.conditions.iter().find(|c| c.type_ == kind).map(|c| (c.reason.clone(), c.observed_generation));
    assert_eq!(status.spent.as_deref(), Some(expect.0));
    assert_eq!(reason("Ready"), Some((expect.1.to_owned(), Some(3))));
    assert_eq!(reason("Exhausted").map(|(reason, _)| reason).as_deref(), Some(expect.2));
    assert_eq!(status.observed_generation, Some(3));
}

#[test]
fn a_budget_says_how_it_stands() {
    let root = || ChainEnd::Root;
    check((Some(200), None), (6120, 7), None, root(), ("$61.20 of $200.00", "Ready", "WithinLimits"));
    check((None, None), (6120, 7), None, root(), ("$61.20", "Ready", "WithinLimits"));
    check((Some(200), None), (20_000, 7), None, root(), ("$200.00 of $200.00", "Ready", "LimitReached"));
    check((Some(200), None), (20_100, 7), None, root(), ("$201.00 of $200.00", "Ready", "LimitReached"));
    check((None, Some(7)), (10, 7), None, root(), ("$0.10", "Ready", "LimitReached"));
    check((None, Some(8)), (10, 7), None, root(), ("$0.10", "Ready", "WithinLimits"));
    check((Some(200), None), (10, 7), Some((50, 5000)), root(), ("$0.10 of $200.00", "Ready", "ParentExhausted"));
    check((Some(200), None), (10, 7), Some((50, 4999)), root(), ("$0.10 of $200.00", "Ready", "WithinLimits"));
    check((Some(200), None), (10, 7), None, ChainEnd::Missing("x".into()), ("$0.10 of $200.00", "ParentMissing", "WithinLimits"));
    check((Some(200), None), (10, 7), Some((50, 0)), ChainEnd::Cycle("x".into()), ("$0.10 of $200.00", "ParentCycle", "WithinLimits"));
}

#[test]
fn a_chain_that_waits_is_reconciling_and_one_in_a_circle_is_stalled() {
    for (end, kind) in [(ChainEnd::Missing("x".into()), "Reconciling"), (ChainEnd::Cycle("x".into()), "Stalled")] {
        let budget = budget("team", None, None);
        let observed = Observed { usage: usage(0, 0), ancestors: Vec::new(), end };
        let status = status(&budget, &observed, &plan(&budget, &observed), &Clock::system().api_now());
        let abnormal: Vec<_> = status.conditions.iter().filter(|c| matches!(c.type_.as_str(), "Reconciling" | "Stalled")).collect();
        assert_eq!(abnormal.iter().map(|c| c.type_.as_str()).collect::<Vec<_>>(), [kind]);
        assert_eq!(abnormal[0].status, "True");
    }
}
