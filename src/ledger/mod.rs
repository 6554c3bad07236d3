//! Budget decisions inside the store's transactions: reserve, renew, settle, release.

use crate::{api::quantity::NanoUsd, clock::Clock, store::{self, Store}};

/// What an account has consumed, and what open leases hold of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Charged.
    pub money: NanoUsd,
    /// Held by open leases, beside `money`.
    pub reserved: NanoUsd,
    pub api_calls: u64,
    pub tokens_in: u64,
    pub tokens_out: u64,
}

/// The ledger of all accounts; cheap to clone.
#[derive(Clone)]
pub struct Ledger {
    store: Store,
    clock: Clock,
}

impl Ledger {
    pub fn new(store: Store, clock: Clock) -> Self {
        Self { store, clock }
    }

    /// What `account` (`machine/<uid>`, `budget/<uid>`) has consumed; zero for one never charged.
    pub async fn usage(&self, _account: &str) -> Result<Usage, store::Error> {
        let _ = (&self.store, &self.clock);
        unimplemented!()
    }
}
