//! The one source of chance: the system's, or, in a thread that simulates, a seed's. Nothing else draws.

use rand::{RngCore, SeedableRng, rngs::StdRng};
use std::cell::RefCell;

thread_local! {
    static SEEDED: RefCell<Option<StdRng>> = const { RefCell::new(None) };
}

/// From now on what this thread draws follows from `seed`, so that a simulation is the same in each run. Whoever knows the seed
/// knows every secret that is drawn.
pub fn seed(seed: u64) {
    SEEDED.set(Some(StdRng::seed_from_u64(seed)));
}

/// Draws; made for [`rand::Rng`].
#[derive(Clone, Copy, Debug)]
pub struct Source;

impl RngCore for Source {
    fn next_u32(&mut self) -> u32 {
        self.with(|source| source.next_u32())
    }

    fn next_u64(&mut self) -> u64 {
        self.with(|source| source.next_u64())
    }

    fn fill_bytes(&mut self, bytes: &mut [u8]) {
        self.with(|source| source.fill_bytes(bytes));
    }
}

impl Source {
    #[expect(clippy::disallowed_methods, reason = "this is the one source of chance")]
    fn with<T>(self, draw: impl FnOnce(&mut dyn RngCore) -> T) -> T {
        SEEDED.with_borrow_mut(|seeded| match seeded {
            Some(source) => draw(source),
            None => draw(&mut rand::rng()),
        })
    }
}

/// A value of any type that [`rand`] can draw.
pub fn draw<T>() -> T
where
    rand::distr::StandardUniform: rand::distr::Distribution<T>,
{
    rand::Rng::random(&mut Source)
}

/// A UUID of version 4.
pub fn uuid() -> uuid::Uuid {
    uuid::Builder::from_random_bytes(draw()).into_uuid()
}

#[cfg(test)]
mod tests;
