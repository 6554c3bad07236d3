//! Which key is due when: pure bookkeeping, time is an argument.

use super::Key;
use std::collections::{BTreeMap, HashMap};
use tokio::time::Instant;

/// Keys that wait, in order of their time, and keys that run.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    /// Due time and order of arrival → key.
    order: BTreeMap<(Instant, u64), Key>,
    /// Key → its place in `order`.
    waiting: HashMap<Key, (Instant, u64)>,
    /// Keys that run; with the earliest time asked for meanwhile.
    running: HashMap<Key, Option<Instant>>,
    arrivals: u64,
}

impl Schedule {
    /// Asks for `key` at `due`. The earliest time asked for holds.
    pub(super) fn ask(&mut self, key: Key, due: Instant) {
        if let Some(pending) = self.running.get_mut(&key) {
            *pending = Some(pending.map_or(due, |earlier| earlier.min(due)));
            return;
        }
        if let Some(place) = self.waiting.get(&key) {
            if place.0 <= due {
                return;
            }
            self.order.remove(place);
        }
        self.arrivals += 1;
        let place = (due, self.arrivals);
        self.order.insert(place, key.clone());
        self.waiting.insert(key, place);
    }

    /// Takes the first key that is due, and counts it as running.
    pub(super) fn start(&mut self, now: Instant) -> Option<Key> {
        let entry = self.order.first_entry()?;
        if entry.key().0 > now {
            return None;
        }
        let key = entry.remove();
        self.waiting.remove(&key);
        self.running.insert(key.clone(), None);
        Some(key)
    }

    /// A key came to its end; what was asked for meanwhile is due then, but not before `earliest`.
    pub(super) fn finish(&mut self, key: &Key, earliest: Instant) {
        if let Some(Some(due)) = self.running.remove(key) {
            self.ask(key.clone(), due.max(earliest));
        }
    }

    /// When the first waiting key is due.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.order.first_key_value().map(|(place, _)| place.0)
    }
}
