//! Whole hubs on simulated time: real store, gateway and controllers, a model node, one thread, one paused clock. A run takes
//! milliseconds, so thousands of them die, lose answers and are lied to at every point; after each change of the node the
//! invariants of `invariants` must hold.
//!
//! What a hub does to the world passes its [`gate::Gate`]: there it is counted, there faults strike, there it dies.

mod crashes;
mod gate;
mod invariants;
mod stage;
