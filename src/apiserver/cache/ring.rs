//! The state of one resource and its last changes. Pure: what feeds it stands in [`super`].

use super::item::{Event, Item};
use crate::apiserver::selector::Selector;
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
    ring: VecDeque<Arc<Event>>,
    bytes: usize,
    /// The ring holds every change behind this revision.
    begins: Revision,
    /// Every change up to here is known.
    complete: Revision,
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
    /// How many more the selector takes behind the last one.
    pub(in crate::apiserver) remaining: usize,
}

impl State {
    pub(super) fn new(page: store::Page, bounds: Bounds) -> Self {
        let item = |object: store::Object| Arc::new(Item::new(object.key, object.revision, &object.document));
        let objects = page.items.into_iter().map(item).map(|i| ((i.namespace.clone(), i.name.clone()), i)).collect();
        Self { objects, ring: VecDeque::new(), bytes: 0, begins: page.revision, complete: page.revision, bounds }
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
        for logged in events.into_iter().filter(|e| e.revision > self.complete) {
            let place = (logged.key.namespace.clone(), logged.key.name.clone());
            let event = match self.objects.remove(&place) {
                // The state before is shared with the change that made it.
                Some(previous) => {
                    let item = Item::new(logged.key, logged.revision, &logged.document);
                    Event::new(logged.change, Arc::new(item), Some(previous))
                }
                None => Event::logged(logged),
            };
            if event.change != Change::Deleted {
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

    /// The first change behind `after` of which `take` makes something.
    pub(super) fn next<T>(&self, after: Revision, mut take: impl FnMut(&Arc<Event>) -> Option<T>) -> Next<T> {
        if after < self.begins {
            return Next::Behind;
        }
        let start = self.ring.partition_point(|event| event.revision() <= after);
        match self.ring.range(start..).find_map(&mut take) {
            Some(found) => Next::Found(found),
            None => Next::CaughtUp(self.complete.max(after)),
        }
    }

    /// The objects that `selector` takes behind `after`, at most `limit` (0 is all).
    pub(super) fn slice(&self, namespace: Option<&str>, after: Option<&Place>, selector: &Selector, limit: usize) -> Slice {
        let first = (namespace.unwrap_or_default().to_owned(), String::new());
        let start = match after {
            Some(after) if *after >= first => Bound::Excluded(after),
            _ => Bound::Included(&first),
        };
        let inside = self.objects.range((start, Bound::Unbounded)).map(|(_, item)| item);
        let inside = inside.take_while(|item| namespace.is_none_or(|n| n == item.namespace));
        let mut matching = inside.filter(|item| item.matches(selector));
        let items: Vec<Arc<Item>> = matching.by_ref().take(if limit == 0 { usize::MAX } else { limit }).cloned().collect();
        Slice { revision: self.complete, remaining: matching.count(), items }
    }
}
