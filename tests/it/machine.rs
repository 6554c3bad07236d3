//! Whole lives of Machines: the real store, gateway and controllers in this process, against a simulated lab.
//!
//! The agents that the lab's guests play are directed by a line `#sim …` in the prompt; with `turns=0` they end at once.

mod asked;
mod audited;
mod beside;
mod commands;
mod confined;
mod crashes;
mod deaths;
mod elsewhere;
mod exec;
mod exercised;
mod exported;
mod forks;
mod full;
pub(crate) mod imported;
mod kept;
pub(crate) mod killed;
mod leaders;
mod lives;
mod lost;
mod nodes;
mod parted;
mod parts;
mod places;
mod pushed;
mod put_back;
mod remembered;
mod restored;
mod rotated;
pub(crate) mod stage;
mod templates;
mod tokens;
mod unreached;
mod verified;
