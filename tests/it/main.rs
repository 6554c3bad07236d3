//! The one integration binary; each module tests one boundary.

mod bundles;
mod crds;
mod layers;
mod ledger;
mod objects;
mod real;
mod store;
mod vmids;
