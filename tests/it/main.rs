//! The one integration binary; each module tests one boundary.

#![allow(clippy::unwrap_used, reason = "the whole binary is tests, helpers included")]

mod access;
mod again;
mod api;
mod backups;
mod bench;
mod bundles;
mod checkpoints;
mod cli;
mod collect;
mod crds;
mod crowd;
mod damage;
mod database;
mod engines;
mod examples;
mod files;
mod fuzz;
mod gateway;
mod history;
mod hostile;
mod hubs;
mod kube_rs;
mod kubectl;
mod lab;
mod layers;
mod ledger;
mod limits;
mod machine;
mod malformed;
mod node;
mod objects;
mod postgres;
mod power;
mod process;
mod python;
mod real;
mod served;
mod simulation;
mod soak;
mod ssh;
mod storage;
mod store;
mod vmids;
mod watches;
