//! Whom a commit wakes: those who follow a resource that it changed, and not everyone at every commit.

use super::Revision;
use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};
use tokio::sync::watch;

/// Everyone is woken after so many changes, so that nobody lies further back. The tail holds several times as many.
const ALL: i64 = 256;

/// Tells of what was committed.
pub(super) struct News {
    newest: watch::Sender<Revision>,
    /// Of each resource that anyone follows.
    of: Mutex<HashMap<String, watch::Sender<Revision>>>,
}

impl News {
    pub(super) fn new(newest: Revision) -> Self {
        Self { newest: watch::Sender::new(newest), of: Mutex::default() }
    }

    pub(super) fn newest(&self) -> Revision {
        *self.newest.borrow()
    }

    pub(super) fn revisions(&self) -> watch::Receiver<Revision> {
        self.newest.subscribe()
    }

    /// Told of a revision when an object of `resource` may have changed, and now and then besides.
    pub(super) fn of(&self, resource: &str) -> watch::Receiver<Revision> {
        let mut of = self.of.lock().unwrap_or_else(PoisonError::into_inner);
        match of.get(resource) {
            Some(sender) => sender.subscribe(),
            None => of.entry(resource.to_owned()).or_insert(watch::Sender::new(self.newest())).subscribe(),
        }
    }

    /// Makes a committed revision known, unless a newer one is. Without the resources that changed, it may be any.
    pub(super) fn publish(&self, newest: Revision, changed: Option<&[&str]>) {
        let mut before = newest;
        let newer = self.newest.send_if_modified(|known| {
            before = *known;
            *known = newest.max(*known);
            newest > before
        });
        if !newer {
            return;
        }
        let of = self.of.lock().unwrap_or_else(PoisonError::into_inner);
        match changed.filter(|_| before.0 / ALL == newest.0 / ALL) {
            Some(changed) => changed.iter().filter_map(|resource| of.get(*resource)).for_each(|sender| tell(sender, newest)),
            None => of.values().for_each(|sender| tell(sender, newest)),
        }
    }
}

fn tell(sender: &watch::Sender<Revision>, newest: Revision) {
    sender.send_if_modified(|known| {
        let newer = newest > *known;
        *known = newest.max(*known);
        newer
    });
}
