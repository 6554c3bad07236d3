//! Limits as arithmetic: what a chain of accounts still allows, and what settling a reservation changes.
//!
//! Pure. Money is integer nano-USD. The store's transaction around it makes a decision hold for all levels at once.

use crate::api::quantity::NanoUsd;

/// What an account has consumed, and what open reservations hold of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Used {
    /// Charged.
    pub money: NanoUsd,
    /// Held by open reservations, beside `money`.
    pub reserved: NanoUsd,
    /// Calls, counted when they are admitted.
    pub api_calls: u64,
}

/// One account of a chain with its limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Level {
    /// What a refusal calls it: `Machine shop/add-tests`, `Budget shop/team`.
    pub name: String,
    /// What to change for more: `spec.budget.limits of Machine shop/add-tests`.
    pub remedy: String,
    /// No limit where absent.
    pub money: Option<NanoUsd>,
    pub api_calls: Option<u64>,
}

/// What one call may cost: a part that is certain and a part per output token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Demand {
    /// Worst case of the input.
    pub fixed: NanoUsd,
    /// Per output token.
    pub per_token: NanoUsd,
    /// Output tokens asked for.
    pub wanted: u64,
    /// Fewer output tokens than this are of no use: refused instead.
    pub floor: u64,
}

impl Demand {
    /// Worst case with so many output tokens.
    pub fn cost(&self, tokens: u64) -> NanoUsd {
        let tokens = i64::try_from(tokens).unwrap_or(i64::MAX);
        NanoUsd(self.fixed.0.saturating_add(self.per_token.0.saturating_mul(tokens)))
    }
}

/// What a call gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Output tokens, at most what was wanted.
    pub tokens: u64,
    /// To be reserved at every level.
    pub money: NanoUsd,
}

/// Why a call was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub resource: Resource,
    /// The level that refused.
    pub level: String,
    pub remedy: String,
    /// Whether it would pass if no other call were open: then it is worth trying again.
    pub passing: bool,
}

/// What ran out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resource {
    Money { limit: NanoUsd, used: NanoUsd, reserved: NanoUsd, needed: NanoUsd },
    ApiCalls { limit: u64 },
}

/// Decides whether a call passes every level, with as many output tokens as the tightest level has room for.
///
/// A level passes when charged + reserved + this call ≤ its limit.
pub fn reserve(levels: &[(Level, Used)], demand: &Demand) -> Result<Grant, Refusal> {
    let mut tokens = demand.wanted;
    let least = demand.cost(demand.floor.min(demand.wanted));
    let mut refusal: Option<Refusal> = None;
    for (level, used) in levels {
        let refuse = |resource, passing| Refusal { resource, level: level.name.clone(), remedy: level.remedy.clone(), passing };
        if let Some(limit) = level.api_calls
            && used.api_calls >= limit
        {
            return Err(refuse(Resource::ApiCalls { limit }, false));
        }
        let Some(limit) = level.money else { continue };
        let spendable = limit.0.saturating_sub(used.money.0);
        let room = spendable.saturating_sub(used.reserved.0);
        if least.0 > room {
            let found = refuse(Resource::Money { limit, used: used.money, reserved: used.reserved, needed: least }, least.0 <= spendable);
            // One that waiting cannot help is the one to name.
            if !found.passing {
                return Err(found);
            }
            refusal.get_or_insert(found);
        } else if demand.per_token.0 > 0 {
            let fits = u64::try_from((room - demand.fixed.0) / demand.per_token.0).unwrap_or(0);
            tokens = tokens.min(fits);
        }
    }
    match refusal {
        Some(refusal) => Err(refusal),
        None => Ok(Grant { tokens, money: demand.cost(tokens) }),
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { level, remedy, .. } = self;
        match self.resource {
            Resource::Money { limit, used, reserved, needed } => {
                let remains = NanoUsd(limit.0.saturating_sub(used.0).saturating_sub(reserved.0).max(0));
                write!(
                    f,
                    "money of {level}: {} of {} are spent and {} reserved by calls that run, {} remain, and this call may cost {}. ",
                    used.dollars(),
                    limit.dollars(),
                    reserved.dollars(),
                    remains.dollars(),
                    needed.dollars()
                )?;
                if self.passing {
                    write!(f, "Try again when they have ended")
                } else {
                    write!(f, "It does not come back by itself; whoever may edit it can raise {remedy}.money")
                }
            }
            Resource::ApiCalls { limit } => {
                write!(
                    f,
                    "API calls of {level}: all {limit} are used. They do not come back; whoever may edit it can raise {remedy}.apiCalls"
                )
            }
        }
    }
}

/// Where a lease stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseState {
    Open,
    /// Charged what it cost.
    Settled,
    /// Nothing was done, nothing charged.
    Released,
    /// Nobody renewed it: charged at its worst case until a settle says what it cost.
    Expired,
}

/// What ends a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    Settle { actual: NanoUsd },
    Release,
    Expire,
}

/// The change of every account of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Posting {
    pub state: LeaseState,
    pub money: NanoUsd,
    pub reserved: NanoUsd,
    pub api_calls: i64,
}

/// What `ending` changes for a lease over `reserved` in `state`; `None` when it was settled or released before.
///
/// After an expiry a settle posts the difference to what was charged then, and a release takes the charge back.
pub fn end(state: LeaseState, reserved: NanoUsd, ending: Ending) -> Option<Posting> {
    let (held, charged) = match state {
        LeaseState::Open => (reserved, NanoUsd(0)),
        LeaseState::Expired => (NanoUsd(0), reserved),
        LeaseState::Settled | LeaseState::Released => return None,
    };
    let (state, total, api_calls) = match ending {
        Ending::Settle { actual } => (LeaseState::Settled, NanoUsd(actual.0.max(0)), 0),
        Ending::Release => (LeaseState::Released, NanoUsd(0), -1),
        Ending::Expire if state == LeaseState::Expired => return None,
        Ending::Expire => (LeaseState::Expired, reserved, 0),
    };
    Some(Posting { state, money: NanoUsd(total.0 - charged.0), reserved: NanoUsd(-held.0), api_calls })
}

#[cfg(test)]
mod tests;
