//! The one integration binary; each module tests one boundary.

#![allow(clippy::unwrap_used, reason = "a test may; clippy takes only the test functions themselves for tests")]

mod api;
mod bundles;
mod crds;
mod kubectl;
mod lab;
mod layers;
mod ledger;
mod objects;
mod real;
mod served;
mod store;
mod storage;
mod vmids;
