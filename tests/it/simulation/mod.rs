//! Whole hubs on simulated time: real store, gateway and controllers, a model node, one thread, one paused clock. A run takes
//! a fraction of a second, so hundreds of them die, lose answers and are lied to at every point; after each change of the node
//! the invariants of `invariants` must hold.
//!
//! What a hub does to the world passes its `gate`: there it is counted, there faults strike, there it dies.

mod crashes;
mod deletions;
mod faults;
mod gate;
mod interval;
mod invariants;
mod life;
mod planted;
mod refused;
mod stage;
mod succession;
mod taken;
mod turns;

/// A number that whoever runs the tests gives them.
#[expect(clippy::disallowed_methods, reason = "the tests' own setting, not the program's")]
fn given(name: &str) -> Option<usize> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

/// How many runs of a kind: `AUTOVIBE_RUNS=20` makes twenty times as many.
fn runs(usually: usize) -> usize {
    usually * given("AUTOVIBE_RUNS").unwrap_or(1)
}
