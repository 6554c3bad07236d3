//! The state of one resource and its last changes. Pure: what feeds it stands in [`super`].

use super::item::{Event, Item};
use crate::store::{self, Change, Revision};
use std::{collections::BTreeMap, collections::VecDeque, ops::Bound, sync::Arc};

/// How much of the past is kept for watches, by number and by size; what is older they read from the store's log.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) events: usize,
    pub(super) bytes: usize,
}

/// Namespace and name.
type Place = (String, String);

/// Everything of one resource at one revision, and what happened shortly before.
pub(super) struct State {
    objects: BTreeMap<Place, Arc<Item>>,
    /// How many there are of each namespace that has any.
    counts: BTreeMap<String, usize>,
    ring: VecDeque<Arc<Event>>,
    bytes: usize,
    /// The ring holds every change behind this revision.
    begins: Revision,
    /// Every change up to here is known.
    complete: Revision,
    /// From here the past is more than the ring has room for.
    too_far: Option<Revision>,
    bounds: Bounds,
}

/// What a watch finds behind its position.
pub(in crate::apiserver) enum Next<T> {
    Found(T),
    /// Nothing more up to this revision.
    CaughtUp(Revision),
    /// Its position lies before what is kept.
    Behind,
}

/// Some of the objects, in order.
pub(in crate::apiserver) struct Slice {
    pub(in crate::apiserver) revision: Revision,
    pub(in crate::apiserver) items: Vec<Arc<Item>>,
    /// Whether there is another one behind the last.
    pub(in crate::apiserver) more: bool,
    /// How many objects there are where these were looked for, whatever they are.
    pub(in crate::apiserver) all: usize,
}

impl State {
    pub(super) fn new(page: store::Page, bounds: Bounds) -> Self {
        let item = |object: store::Object| Arc::new(Item::new(object.key, object.revision, &object.document));
        let objects: BTreeMap<_, _> = page.items.into_iter().map(item).map(|i| ((i.namespace.clone(), i.name.clone()), i)).collect();
        let mut counts = BTreeMap::new();
        objects.keys().for_each(|(namespace, _)| *counts.entry(namespace.clone()).or_default() += 1);
        Self { objects, counts, ring: VecDeque::new(), bytes: 0, begins: page.revision, complete: page.revision, too_far: None, bounds }
    }

    pub(super) fn complete(&self) -> Revision {
        self.complete
    }

    /// The revision of the last change, or before it if the ring does not hold it.
    pub(super) fn last_change(&self) -> Revision {
        self.ring.back().map_or(self.begins, |event| event.revision())
    }

    /// Takes in what the log says behind [`Self::complete`].
    pub(super) fn apply(&mut self, events: Vec<store::Event>, complete: Revision) {
        let known = self.complete;
        for logged in events.into_iter().filter(|e| e.revision > known) {
            let place = (logged.key.namespace.clone(), logged.key.name.clone());
            let event = match self.objects.remove(&place) {
                // The state before is shared with the change that made it.
                Some(previous) => {
                    self.count(&place.0, |count| count - 1);
                    let item = Item::new(logged.key, logged.revision, &logged.document);
                    Event::new(logged.change, Arc::new(item), Some(previous))
                }
                None => Event::logged((logged, None)),
            };
            if event.change != Change::Deleted {
                self.count(&place.0, |count| count + 1);
                self.objects.insert(place, event.item.clone());
            }
            self.bytes += event.item.size();
            self.ring.push_back(Arc::new(event));
        }
        self.complete = self.complete.max(complete);
        // The newest stays whatever its size: watches that are up to date must find it.
        while self.ring.len() > 1 && (self.ring.len() > self.bounds.events || self.bytes > self.bounds.bytes) {
            let Some(oldest) = self.ring.pop_front() else { break };
            self.bytes -= oldest.item.size();
            self.begins = oldest.revision();
        }
    }

    /// Up to where the past behind `after` is to be read, if there may be room for it: `None` when there is not.
    pub(super) fn recallable(&self, after: Revision) -> Option<Revision> {
        (self.too_far < Some(after) && self.has_room(&[])).then_some(self.begins)
    }

    pub(super) fn has_room(&self, past: &[Event]) -> bool {
        let bytes: usize = past.iter().map(|event| event.item.size()).sum();
        self.ring.len() + past.len() < self.bounds.events && self.bytes + bytes < self.bounds.bytes
    }

    /// Puts in front of the ring what happened behind `after` and up to `begins`; not when it begins elsewhere by now.
    pub(super) fn recall(&mut self, after: Revision, past: Vec<Event>, begins: Revision) {
        if self.begins != begins {
            return;
        }
        if !self.has_room(&past) {
            self.too_far = self.too_far.max(Some(after));
            return;
        }
        for event in past.into_iter().rev() {
            self.bytes += event.item.size();
            self.ring.push_front(Arc::new(event));
        }
        self.begins = after;
    }

    fn count(&mut self, namespace: &str, change: impl FnOnce(usize) -> usize) {
        match change(self.counts.remove(namespace).unwrap_or_default()) {
            0 => {}
            count => drop(self.counts.insert(namespace.to_owned(), count)),
        }
    }

    /// Whether every change behind `after` is here.
    pub(super) fn holds(&self, after: Revision) -> bool {
        self.begins <= after
    }

    /// The first change behind `after` of which `take` makes something.
    pub(super) fn next<T>(&self, after: Revision, mut take: impl FnMut(&Arc<Event>) -> Option<T>) -> Next<T> {
        if !self.holds(after) {
            return Next::Behind;
        }
        let start = self.ring.partition_point(|event| event.revision() <= after);
        match self.ring.range(start..).find_map(&mut take) {
            Some(found) => Next::Found(found),
            None => Next::CaughtUp(self.complete.max(after)),
        }
    }

    /// The objects that `takes` accepts behind `after`, at most `limit` (0 is all). Looks at none behind the first that is left
    /// out, so that a page costs what is on it.
    pub(super) fn slice(
        &self,
        namespace: Option<&str>,
        after: Option<&Place>,
        mut takes: impl FnMut(&Item) -> bool,
        limit: usize,
    ) -> Slice {
        let first = (namespace.unwrap_or_default().to_owned(), String::new());
        let start = match after {
            Some(after) if *after >= first => Bound::Excluded(after),
            _ => Bound::Included(&first),
        };
        let inside = self.objects.range((start, Bound::Unbounded)).map(|(_, item)| item);
        let inside = inside.take_while(|item| namespace.is_none_or(|n| n == item.namespace));
        let mut matching = inside.filter(|item| takes(item));
        let items: Vec<Arc<Item>> = matching.by_ref().take(if limit == 0 { usize::MAX } else { limit }).cloned().collect();
        let more = limit > 0 && items.len() == limit && matching.next().is_some();
        let all = namespace.map_or(self.objects.len(), |namespace| self.counts.get(namespace).copied().unwrap_or_default());
        Slice { revision: self.complete, items, more, all }
    }
}
