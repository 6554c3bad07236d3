//! The newest changes, in memory: what this process has just committed is not read from the database by each who follows it.
//!
//! It holds every change between two revisions, or nothing: one that may be missing ends it, and whoever lies further back
//! reads the log.

#[cfg(test)]
mod tests;

use super::{Change, Event, Key, Object, Revision};
use std::{
    collections::VecDeque,
    sync::{PoisonError, RwLock},
};

/// Who follows is a few commits behind at most.
const EVENTS: usize = 1024;
/// Of documents' text; they take several times as much.
const BYTES: usize = 1 << 20;

/// A change of this process, and its document's length as text.
pub(super) struct Logged {
    pub(super) event: Event,
    pub(super) size: usize,
}

/// What is known of one object.
#[derive(Debug)]
pub(super) enum Known {
    Object(Object),
    Gone,
    /// The database must be asked.
    Nothing,
}

pub(super) struct Tail(RwLock<State>);

struct State {
    /// Every change behind this revision
    begins: Revision,
    /// and up to this one is held.
    complete: Revision,
    events: VecDeque<Logged>,
    bytes: usize,
}

impl Tail {
    /// One that holds nothing of what lies before `newest`.
    pub(super) fn new(newest: Revision) -> Self {
        Self(RwLock::new(State { begins: newest, complete: newest, events: VecDeque::new(), bytes: 0 }))
    }

    /// Takes in what was committed, in order. Call it before anyone is told.
    pub(super) fn extend(&self, changes: Vec<Logged>) {
        let (Some(first), Some(last)) = (changes.first(), changes.last()) else { return };
        let mut state = self.0.write().unwrap_or_else(PoisonError::into_inner);
        if first.event.revision.0 != state.complete.0 + 1 {
            state.forget();
            state.begins = Revision(first.event.revision.0 - 1);
        }
        state.complete = last.event.revision;
        state.bytes += changes.iter().map(|change| change.size).sum::<usize>();
        state.events.extend(changes);
        while state.events.len() > EVENTS || state.bytes > BYTES {
            let Some(oldest) = state.events.pop_front() else { break };
            state.bytes -= oldest.size;
            state.begins = oldest.event.revision;
        }
    }

    /// Lets go of everything: the database says something else of it now.
    pub(super) fn forget(&self) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).forget();
    }

    /// Up to where changes are known.
    pub(super) fn complete(&self) -> Revision {
        self.0.read().unwrap_or_else(PoisonError::into_inner).complete
    }

    /// Whether any of `resources` changed after `after`, and up to where that is known; `None` when it is not known at all.
    pub(super) fn changed(&self, resources: &[&str], after: Revision) -> Option<(bool, Revision)> {
        let state = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let mut events = state.after(after)?;
        Some((events.any(|event| resources.contains(&&*event.key.resource)), state.complete.max(after)))
    }

    /// What is known of the object as of now.
    pub(super) fn get(&self, key: &Key) -> Known {
        let state = self.0.read().unwrap_or_else(PoisonError::into_inner);
        match state.events.iter().rev().map(|logged| &logged.event).find(|event| event.key == *key) {
            None => Known::Nothing,
            Some(event) if event.change == Change::Deleted => Known::Gone,
            Some(Event { revision, key, document, .. }) => {
                Known::Object(Object { key: key.clone(), revision: *revision, document: document.clone() })
            }
        }
    }

    /// What [`super::Store::changes`] returns (`limit` 0 is all), unless some of it is not held, or lies beyond what is.
    pub(super) fn read(&self, resource: &str, after: Revision, limit: usize) -> Option<(Vec<Event>, Revision)> {
        let state = self.0.read().unwrap_or_else(PoisonError::into_inner);
        let changes = state.after(after)?.filter(|change| change.key.resource == resource);
        let most = if limit == 0 { usize::MAX } else { limit };
        let events: Vec<Event> = changes.take(most).cloned().collect();
        let complete = match events.last() {
            Some(last) if limit > 0 && events.len() == limit => last.revision,
            _ => state.complete.max(after),
        };
        Some((events, complete))
    }
}

impl State {
    fn forget(&mut self) {
        self.events.clear();
        (self.begins, self.bytes) = (self.complete, 0);
    }

    fn after(&self, after: Revision) -> Option<impl Iterator<Item = &Event>> {
        let start = self.events.partition_point(|logged| logged.event.revision <= after);
        (after >= self.begins).then(|| self.events.range(start..).map(|logged| &logged.event))
    }
}
