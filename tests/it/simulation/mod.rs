//! Whole hubs on simulated time: real store, gateway and controllers, a model node, one thread, one paused clock. A run takes
//! a fraction of a second, so hundreds of them die, lose answers and are lied to at every point; after each change of the node
//! the invariants of `invariants` must hold.
//!
//! What a hub does to the world passes its `gate`: there it is counted, there faults strike, there it dies.

mod crashes;
mod faults;
mod gate;
mod invariants;
mod life;
mod stage;

/// How many runs of a kind: `AUTOVIBE_RUNS=20` makes twenty times as many.
fn runs(usually: usize) -> usize {
    usually * std::env::var("AUTOVIBE_RUNS").map_or(1, |times| times.parse::<usize>().expect("a number"))
}
