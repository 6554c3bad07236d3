//! Budget decisions inside the store's transactions: reserve, renew, settle, release, recover.
//!
//! Charges are never below what was billed: a lease that nobody renews, or whose process died, is charged at its worst
//! case; a settle that comes later posts the correction. What a limit allows is decided in `budget`.

use crate::{
    api::quantity::NanoUsd,
    budget::{self, Demand, Ending, Grant, LeaseState, Level, Posting, Refusal},
    clock::Clock,
    store::{
        self, CallEnd, CallState, NewCall, NewMessage, Store, Transaction,
        ledger::{Balance, Lease, OfCall},
    },
};
use jiff::{SignedDuration, Timestamp};
use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

/// A lease that is not renewed for this long is charged. Longer than any pause of a healthy process.
pub const LEASE: Duration = Duration::from_mins(2);
/// How often a lease is renewed while its call runs.
pub const RENEW: Duration = Duration::from_secs(30);
/// Stale leases that one reservation closes in passing, so that it stays short;
const SWEEP: u32 = 16;
/// after so many milliseconds one does, and one that would be refused.
const SWEPT: i64 = 1000;

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
    /// When stale leases were last looked for, in milliseconds since 1970.
    swept: Arc<AtomicI64>,
}

impl Ledger {
    pub fn new(store: Store, clock: Clock) -> Self {
        Self { store, clock, swept: Arc::default() }
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
        let (now, epoch) = (self.clock.now(), self.store.process_epoch());
        let mut sweeps = self.is_due(now);
        self.store
            .write(move |transaction| {
                Box::pin(async move {
                    let accounts: Vec<String> = chain.iter().map(|account| account.id.clone()).collect();
                    let decided = loop {
                        if sweeps {
                            close_stale(transaction, now, epoch, SWEEP).await?;
                        }
                        let balances = transaction.balances(&accounts).await?;
                        let levels: Vec<_> = chain.iter().map(|a| a.level.clone()).zip(balances.iter().map(used)).collect();
                        let decided = budget::reserve(&levels, &demand);
                        if decided.is_ok() || sweeps {
                            break decided;
                        }
                        // What the dead hold may be what is lacking.
                        sweeps = true;
                    };
                    let grant = match decided {
                        Ok(grant) => grant,
                        Err(refusal) => {
                            if !refusal.passing {
                                transaction.begin_call(&call, CallState::Refused, now).await?;
                                let end =
                                    CallEnd { status: Some(400), detail: Some(refusal.to_string()), ..CallEnd::of(CallState::Refused) };
                                transaction.end_call(&call.id, &end, now).await?;
                            }
                            return Ok(Err(refusal));
                        }
                    };
                    let lease = Lease {
                        id: call.id.clone(),
                        state: text(LeaseState::Open).into(),
                        epoch,
                        accounts,
                        payee: format!("provider/{}", call.provider),
                        reserved: grant.money.0,
                        charged: 0,
                        expires_at: expiry(now),
                    };
                    let change = Balance { reserved: grant.money.0, api_calls: 1, ..Balance::default() };
                    transaction.post(&lease, "reserve", &change, OfCall::Begins(&call), now).await?;
                    Ok(Ok(grant))
                })
            })
            .await
    }

    /// Whether it is time to look for stale leases.
    fn is_due(&self, now: Timestamp) -> bool {
        let last = self.swept.load(Ordering::Relaxed);
        let due = (now.as_millisecond() - last).abs() >= SWEPT;
        if due {
            self.swept.store(now.as_millisecond(), Ordering::Relaxed);
        }
        due
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
        let (id, now) = (id.to_owned(), self.clock.now());
        self.store
            .write(move |transaction| {
                Box::pin(async move {
                    let Some(lease) = transaction.lease(&id).await? else {
                        return Err(store::Error::Corrupt(format!("there is no lease {id}")));
                    };
                    close(transaction, lease, ending, actual, OfCall::Ends(&end, said.as_ref()), now).await
                })
            })
            .await
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

async fn close_stale(transaction: &mut Transaction<'_>, now: Timestamp, epoch: i64, limit: u32) -> Result<usize, store::Error> {
    let stale = transaction.stale_leases(now, epoch, limit).await?;
    let count = stale.len();
    for lease in stale {
        let (id, cost) = (lease.id.clone(), lease.reserved);
        close(transaction, lease, Ending::Expire, Actual::default(), OfCall::Nothing, now).await?;
        transaction.cut_call(&id, cost, now).await?;
    }
    Ok(count)
}

/// Ends a lease, unless it was ended before.
async fn close(
    transaction: &mut Transaction<'_>,
    mut lease: Lease,
    ending: Ending,
    actual: Actual,
    call: OfCall<'_>,
    now: Timestamp,
) -> Result<(), store::Error> {
    let state = state(&lease.state)?;
    let Some(Posting { state, money, reserved, api_calls }) = budget::end(state, NanoUsd(lease.reserved), ending) else { return Ok(()) };
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
    let posting = match ending {
        Ending::Settle { .. } => "settle",
        Ending::Release => "release",
        Ending::Expire => "expire",
    };
    transaction.post(&lease, posting, &change, call, now).await
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
