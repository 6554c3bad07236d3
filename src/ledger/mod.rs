//! Budget decisions inside the store's transactions: reserve, renew, settle, release, recover.
//!
//! Charges are never below what was billed: a lease that nobody renews, or whose process died, is charged at its worst
//! case; a settle that comes later posts the correction. What a limit allows is decided in `budget`.

mod batch;

use crate::{
    api::quantity::NanoUsd,
    budget::{self, Demand, Ending, Grant, LeaseState, Level, Refusal},
    clock::Clock,
    store::{
        self, CallEnd, NewCall, NewMessage, Store, Transaction,
        ledger::{Balance, Lease, OfCall, Posting},
    },
};
use batch::{Batches, End, Request, Reserve};
use jiff::{SignedDuration, Timestamp};
use std::time::Duration;

/// A lease that is not renewed for this long is charged. Longer than any pause of a healthy process.
pub const LEASE: Duration = Duration::from_mins(2);
/// How often a lease is renewed while its call runs.
pub const RENEW: Duration = Duration::from_secs(30);

/// What an account has consumed, and what open leases hold of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Usage {
    /// Charged.
    pub money: NanoUsd,
    /// Held by open leases, beside `money`.
    pub reserved: NanoUsd,
    pub api_calls: u64,
    pub tokens_in: u64,
    pub tokens_out: u64,
}

/// An account to be charged, with its limits.
#[derive(Clone, Debug)]
pub struct Account {
    /// `machine/<uid>` or `budget/<uid>`.
    pub id: String,
    pub level: Level,
}

/// What a call consumed in the end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Actual {
    pub cost: NanoUsd,
    pub tokens_in: u64,
    pub tokens_out: u64,
}

/// The ledger of all accounts; cheap to clone.
#[derive(Clone)]
pub struct Ledger {
    store: Store,
    clock: Clock,
    batches: Batches,
}

impl Ledger {
    pub fn new(store: Store, clock: Clock) -> Self {
        let batches = Batches::new(store.clone(), clock.clone());
        Self { store, clock, batches }
    }

    /// What `account` (`machine/<uid>`, `budget/<uid>`) has consumed; zero for one never charged.
    pub async fn usage(&self, account: &str) -> Result<Usage, store::Error> {
        let balance = self.store.balance(account).await?;
        let count = |n: i64| u64::try_from(n).unwrap_or(0);
        Ok(Usage {
            money: NanoUsd(balance.money),
            reserved: NanoUsd(balance.reserved),
            api_calls: count(balance.api_calls),
            tokens_in: count(balance.tokens_in),
            tokens_out: count(balance.tokens_out),
        })
    }

    /// Reserves the worst case of `call` at every account of `chain` (root to leaf), or at none; durable when it returns.
    ///
    /// The lease has the call's id. A refusal is recorded as a `Refused` call when waiting would not help.
    pub async fn reserve(&self, call: NewCall, chain: Vec<Account>, demand: Demand) -> Result<Result<Grant, Refusal>, store::Error> {
        self.batches.ask(|reply| Request::Reserve { reserve: Reserve { call, chain, demand }, reply }).await
    }

    /// Extends a lease while its call runs.
    pub async fn renew(&self, id: &str) -> Result<(), store::Error> {
        let (id, expires_at) = (id.to_owned(), expiry(self.clock.now()));
        self.store.write(move |transaction| Box::pin(async move { transaction.extend_lease(&id, expires_at).await.map(|_| ()) })).await
    }

    /// Charges what the call really cost, also above what was reserved and also after the lease expired, and stores what was
    /// said in it. A second settle changes nothing.
    pub async fn settle(&self, id: &str, actual: Actual, end: CallEnd, said: Option<NewMessage>) -> Result<(), store::Error> {
        self.end(id, Ending::Settle { actual: actual.cost }, actual, end, said).await
    }

    /// Gives back what was reserved: nothing was done.
    pub async fn release(&self, id: &str, end: CallEnd) -> Result<(), store::Error> {
        self.end(id, Ending::Release, Actual::default(), end, None).await
    }

    async fn end(&self, id: &str, ending: Ending, actual: Actual, end: CallEnd, said: Option<NewMessage>) -> Result<(), store::Error> {
        let id = id.to_owned();
        self.batches.ask(|reply| Request::End { end: End { id, ending, actual, end, said }, reply }).await
    }

    /// Whether leases may be open of other processes that live: then only the time tells which are dead.
    pub fn is_shared(&self) -> bool {
        self.store.process_epoch() == 0
    }

    /// Charges every open lease of a dead process, and every expired one, at its worst case and marks the calls `Cut`.
    /// Returns how many.
    pub async fn recover(&self) -> Result<usize, store::Error> {
        let (now, epoch) = (self.clock.now(), self.store.process_epoch());
        self.store.write(move |transaction| Box::pin(async move { close_stale(transaction, now, epoch, u32::MAX).await })).await
    }
}

/// Charges stale leases, at most `limit` of them; how many there were.
async fn close_stale(transaction: &mut Transaction<'_>, now: Timestamp, epoch: i64, limit: u32) -> Result<usize, store::Error> {
    let stale = transaction.stale_leases(now, epoch, limit).await?;
    let (count, mut postings) = (stale.len(), Vec::new());
    for lease in stale {
        transaction.cut_call(&lease.id, lease.reserved, now).await?;
        postings.extend(close(lease, Ending::Expire, Actual::default(), OfCall::Nothing)?);
    }
    if !postings.is_empty() {
        transaction.post(&postings, now).await?;
    }
    Ok(count)
}

/// What ends a lease; nothing, if it was ended before.
fn close(mut lease: Lease, ending: Ending, actual: Actual, call: OfCall<'_>) -> Result<Option<Posting<'_>>, store::Error> {
    let state = state(&lease.state)?;
    let ended = budget::end(state, NanoUsd(lease.reserved), ending);
    let Some(budget::Posting { state, money, reserved, api_calls }) = ended else { return Ok(None) };
    text(state).clone_into(&mut lease.state);
    lease.charged += money.0;
    let count = |n: u64| i64::try_from(n).unwrap_or(i64::MAX);
    let change = Balance {
        money: money.0,
        reserved: reserved.0,
        api_calls,
        tokens_in: count(actual.tokens_in),
        tokens_out: count(actual.tokens_out),
    };
    let name = match ending {
        Ending::Settle { .. } => "settle",
        Ending::Release => "release",
        Ending::Expire => "expire",
    };
    Ok(Some(Posting { lease, name, change, call }))
}

fn used(balance: &Balance) -> budget::Used {
    budget::Used {
        money: NanoUsd(balance.money),
        reserved: NanoUsd(balance.reserved),
        api_calls: u64::try_from(balance.api_calls).unwrap_or(0),
    }
}

fn expiry(now: Timestamp) -> Timestamp {
    now.saturating_add(SignedDuration::try_from(LEASE).unwrap_or(SignedDuration::MAX)).unwrap_or(Timestamp::MAX)
}

const STATES: [(LeaseState, &str); 4] =
    [(LeaseState::Open, "Open"), (LeaseState::Settled, "Settled"), (LeaseState::Released, "Released"), (LeaseState::Expired, "Expired")];

fn text(state: LeaseState) -> &'static str {
    STATES.iter().find(|(known, _)| *known == state).map_or("Open", |(_, text)| text)
}

fn state(text: &str) -> Result<LeaseState, store::Error> {
    let found = STATES.iter().find(|(_, known)| *known == text);
    found.map(|(state, _)| *state).ok_or_else(|| store::Error::Corrupt(format!("`{text}` is not a state of a lease")))
}
