//! The one integration binary; each module tests one boundary.

mod api;
mod bundles;
mod checkpoints;
mod cli;
mod crds;
mod gateway;
mod examples;
mod kubectl;
mod lab;
mod layers;
mod ledger;
mod machine;
mod objects;
mod real;
mod served;
mod store;
mod storage;
mod vmids;
mod watches;
