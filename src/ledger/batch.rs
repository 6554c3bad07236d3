//! Reservations and endings that come at the same time are decided one after the other and written together: what gathers while
//! a commit syncs the disk is the next transaction, of two reads and one statement however many there are.

use super::{Account, Actual, close, close_stale, expiry, text, used};
use crate::{
    budget::{self, Demand, Ending, Grant, LeaseState, Refusal},
    clock::Clock,
    store::{
        self, CallEnd, NewCall, NewMessage, Store, Transaction,
        ledger::{Balance, Lease, OfCall, Posting},
    },
};
use jiff::Timestamp;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio::sync::oneshot;

/// Stale leases that one batch closes in passing, so that it stays short;
const SWEEP: u32 = 16;
/// after so many milliseconds one does, and one with a reservation that would be refused.
const SWEPT: i64 = 1000;

pub(super) struct Reserve {
    pub(super) call: NewCall,
    pub(super) chain: Vec<Account>,
    pub(super) demand: Demand,
}

pub(super) struct End {
    pub(super) id: String,
    pub(super) ending: Ending,
    pub(super) actual: Actual,
    pub(super) end: CallEnd,
    pub(super) said: Option<NewMessage>,
}

type Reply<T> = oneshot::Sender<Result<T, store::Error>>;

/// What the ledger is asked for, and the way back to who asked.
pub(super) enum Request {
    Reserve { reserve: Reserve, reply: Reply<Result<Grant, Refusal>> },
    End { end: End, reply: Reply<()> },
}

/// What became of one.
enum Outcome {
    Reserved(Result<Grant, Refusal>),
    Ended(Result<(), store::Error>),
}

impl Request {
    fn answer(self, outcome: Result<Outcome, store::Error>) {
        // Who asked may have gone; what was written stands all the same.
        match (self, outcome) {
            (Self::Reserve { reply, .. }, Ok(Outcome::Reserved(decided))) => drop(reply.send(Ok(decided))),
            (Self::End { reply, .. }, Ok(Outcome::Ended(ended))) => drop(reply.send(ended)),
            (Self::Reserve { reply, .. }, Err(error)) => drop(reply.send(Err(error))),
            (Self::End { reply, .. }, Err(error)) => drop(reply.send(Err(error))),
            // Outcomes stand in the order of their requests.
            (Self::Reserve { .. }, Ok(Outcome::Ended(_))) | (Self::End { .. }, Ok(Outcome::Reserved(_))) => {}
        }
    }
}

/// Takes requests, and writes those that wait together.
#[derive(Clone)]
pub(super) struct Batches {
    store: Store,
    clock: Clock,
    shared: Arc<Mutex<Shared>>,
}

#[derive(Default)]
struct Shared {
    waiting: Vec<Request>,
    /// A transaction was asked for that has not begun: it takes all that waits by then.
    asked: bool,
    /// When stale leases were last looked for, in milliseconds since 1970.
    swept: i64,
}

impl Batches {
    pub(super) fn new(store: Store, clock: Clock) -> Self {
        Self { store, clock, shared: Arc::default() }
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) async fn ask<T>(&self, request: impl FnOnce(Reply<T>) -> Request) -> Result<T, store::Error> {
        let (reply, answer) = oneshot::channel();
        let first = {
            let mut shared = self.shared();
            shared.waiting.push(request(reply));
            !std::mem::replace(&mut shared.asked, true)
        };
        if first {
            // In a task of its own: whoever asked may go, and others wait for it too.
            tokio::spawn(self.clone().write());
        }
        answer.await.unwrap_or_else(|_| Err(store::Error::Unknown("what became of it was not said".into())))
    }

    async fn write(self) {
        let taken = Arc::new(Mutex::new(Vec::new()));
        let (this, of_work) = (self.clone(), taken.clone());
        let written: Result<Vec<Outcome>, store::Error> = self
            .store
            .write(move |transaction| {
                Box::pin(async move {
                    let requests = this.take();
                    let done = this.run(transaction, &requests).await;
                    *of_work.lock().unwrap_or_else(PoisonError::into_inner) = requests;
                    done
                })
            })
            .await;
        let mut requests = std::mem::take(&mut *taken.lock().unwrap_or_else(PoisonError::into_inner));
        match written {
            Ok(outcomes) => requests.into_iter().zip(outcomes).for_each(|(request, outcome)| request.answer(Ok(outcome))),
            Err(error) => {
                if requests.is_empty() {
                    // It was not begun.
                    requests = self.take();
                }
                requests.into_iter().for_each(|request| request.answer(Err(error.repeat())));
            }
        }
    }

    /// All that waits. What comes from now on asks for another transaction.
    fn take(&self) -> Vec<Request> {
        let mut shared = self.shared();
        shared.asked = false;
        std::mem::take(&mut shared.waiting)
    }

    /// Whether it is time to look for stale leases; then it counts as done.
    fn sweeps(&self, now: Timestamp) -> bool {
        let mut shared = self.shared();
        let due = (now.as_millisecond() - shared.swept).abs() >= SWEPT;
        if due {
            shared.swept = now.as_millisecond();
        }
        due
    }

    /// Decides all in their order and writes what came of it; an outcome for each.
    async fn run(&self, transaction: &mut Transaction<'_>, requests: &[Request]) -> Result<Vec<Outcome>, store::Error> {
        let (now, epoch) = (self.clock.now(), self.store.process_epoch());
        let (mut accounts, mut ids) = (Vec::new(), Vec::new());
        for request in requests {
            match request {
                Request::Reserve { reserve, .. } => accounts.extend(reserve.chain.iter().map(|account| account.id.clone())),
                Request::End { end, .. } => ids.push(end.id.clone()),
            }
        }
        accounts.sort_unstable();
        accounts.dedup();
        let mut sweeps = self.sweeps(now);
        let decided = loop {
            if sweeps {
                close_stale(transaction, now, epoch, SWEEP).await?;
            }
            let balances = if accounts.is_empty() { HashMap::new() } else { transaction.balances(&accounts).await? };
            let leases = if ids.is_empty() { HashMap::new() } else { transaction.leases(&ids).await? };
            let decided = decide(requests, balances, leases, now, epoch);
            if sweeps || decided.refused.is_empty() {
                break decided;
            }
            // What the dead hold may be what is lacking.
            sweeps = true;
        };
        for (reserve, why) in decided.refused {
            if !why.passing {
                transaction.refuse_call(&reserve.call, &why.to_string(), now).await?;
            }
        }
        if !decided.postings.is_empty() {
            transaction.post(&decided.postings, now).await?;
        }
        Ok(decided.outcomes)
    }
}

struct Decided<'r> {
    outcomes: Vec<Outcome>,
    postings: Vec<Posting<'r>>,
    refused: Vec<(&'r Reserve, Refusal)>,
}

/// Each after those before it: what one reserves or gives back, the next one sees.
fn decide(
    requests: &[Request],
    mut balances: HashMap<String, Balance>,
    mut leases: HashMap<String, Lease>,
    now: Timestamp,
    epoch: i64,
) -> Decided<'_> {
    let mut decided = Decided { outcomes: Vec::with_capacity(requests.len()), postings: Vec::new(), refused: Vec::new() };
    for request in requests {
        let outcome = match request {
            Request::Reserve { reserve, .. } => {
                let reserved = lease(reserve, &balances, now, epoch);
                Outcome::Reserved(match reserved {
                    Ok((grant, posting)) => {
                        add(&mut balances, &posting);
                        decided.postings.push(posting);
                        Ok(grant)
                    }
                    Err(refusal) => {
                        decided.refused.push((reserve, refusal.clone()));
                        Err(refusal)
                    }
                })
            }
            Request::End { end, .. } => Outcome::Ended(match leases.get_mut(&end.id) {
                None => Err(store::Error::Corrupt(format!("there is no lease {}", end.id))),
                Some(lease) => close(lease.clone(), end.ending, end.actual, OfCall::Ends(&end.end, end.said.as_ref())).map(|posting| {
                    if let Some(posting) = posting {
                        add(&mut balances, &posting);
                        lease.clone_from(&posting.lease);
                        decided.postings.push(posting);
                    }
                }),
            }),
        };
        decided.outcomes.push(outcome);
    }
    decided
}

/// The lease of a reservation, if all its accounts have room for it.
fn lease<'r>(
    reserve: &'r Reserve,
    balances: &HashMap<String, Balance>,
    now: Timestamp,
    epoch: i64,
) -> Result<(Grant, Posting<'r>), Refusal> {
    let Reserve { call, chain, demand } = reserve;
    let of = |account: &Account| used(&balances.get(&account.id).copied().unwrap_or_default());
    let levels: Vec<_> = chain.iter().map(|account| (account.level.clone(), of(account))).collect();
    let grant = budget::reserve(&levels, demand)?;
    let lease = Lease {
        id: call.id.clone(),
        state: text(LeaseState::Open).into(),
        epoch,
        accounts: chain.iter().map(|account| account.id.clone()).collect(),
        payee: format!("provider/{}", call.provider),
        reserved: grant.money.0,
        charged: 0,
        expires_at: expiry(now),
    };
    let change = Balance { reserved: grant.money.0, api_calls: 1, ..Balance::default() };
    Ok((grant, Posting { lease, name: "reserve", change, call: OfCall::Begins(call) }))
}

fn add(balances: &mut HashMap<String, Balance>, posting: &Posting<'_>) {
    for account in &posting.lease.accounts {
        *balances.entry(account.clone()).or_default() += posting.change;
    }
}
