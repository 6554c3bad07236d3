//! Which key is due when: pure bookkeeping, time is an argument.
//!
//! Of all keys that are due the next is one of the namespace that has the fewest running, so that a namespace with many
//! changes does not keep the others waiting.

use super::Key;
use std::collections::{BTreeMap, HashMap};
use tokio::time::Instant;

/// Due time and order of arrival.
type Place = (Instant, u64);

/// Keys that wait, in order of their time, and keys that run.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    /// Namespace → place → key; no empty ones.
    order: BTreeMap<String, BTreeMap<Place, Key>>,
    /// Key → its place in `order`.
    waiting: HashMap<Key, Place>,
    /// Keys that run; with the earliest time asked for meanwhile.
    running: HashMap<Key, Option<Instant>>,
    /// Namespace → how many of it run.
    busy: HashMap<String, usize>,
    arrivals: u64,
}

impl Schedule {
    /// Asks for `key` at `due`. The earliest time asked for holds.
    pub(super) fn ask(&mut self, key: Key, due: Instant) {
        if let Some(pending) = self.running.get_mut(&key) {
            *pending = Some(pending.map_or(due, |earlier| earlier.min(due)));
            return;
        }
        if let Some(place) = self.waiting.get(&key).copied() {
            if place.0 <= due {
                return;
            }
            self.take(&key.namespace, place);
        }
        self.arrivals += 1;
        let place = (due, self.arrivals);
        self.order.entry(key.namespace.clone()).or_default().insert(place, key.clone());
        self.waiting.insert(key, place);
    }

    /// Takes the next key that is due, and counts it as running.
    pub(super) fn start(&mut self, now: Instant) -> Option<Key> {
        let first = |(namespace, keys): (&String, &BTreeMap<Place, Key>)| {
            let (place, _) = keys.first_key_value().filter(|(place, _)| place.0 <= now)?;
            Some((self.busy.get(namespace).copied().unwrap_or_default(), *place, namespace.clone()))
        };
        let (_, place, namespace) = self.order.iter().filter_map(first).min()?;
        let key = self.take(&namespace, place)?;
        self.waiting.remove(&key);
        self.running.insert(key.clone(), None);
        *self.busy.entry(namespace).or_default() += 1;
        Some(key)
    }

    fn take(&mut self, namespace: &str, place: Place) -> Option<Key> {
        let keys = self.order.get_mut(namespace)?;
        let key = keys.remove(&place);
        if keys.is_empty() {
            self.order.remove(namespace);
        }
        key
    }

    /// A key came to its end; what was asked for meanwhile is due then, but not before `earliest`.
    pub(super) fn finish(&mut self, key: &Key, earliest: Instant) {
        let Some(pending) = self.running.remove(key) else { return };
        if let Some(busy) = self.busy.get_mut(&key.namespace) {
            *busy -= 1;
            if *busy == 0 {
                self.busy.remove(&key.namespace);
            }
        }
        if let Some(due) = pending {
            self.ask(key.clone(), due.max(earliest));
        }
    }

    /// When the first waiting key is due.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.order.values().filter_map(|keys| keys.first_key_value().map(|(place, _)| place.0)).min()
    }
}
