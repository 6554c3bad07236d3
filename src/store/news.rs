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

    /// Makes a committed revision known, unless a newer one is. Without a first revision and the resources that changed since, it
    /// may be any; so may it be when others have committed before that first one, of which nobody was told yet.
    pub(super) fn publish(&self, newest: Revision, changed: Option<(Revision, &[&str])>) {
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
        match changed.filter(|(first, _)| before.0 + 1 == first.0 && before.0 / ALL == newest.0 / ALL) {
            Some((_, changed)) => changed.iter().filter_map(|resource| of.get(*resource)).for_each(|sender| tell(sender, newest)),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_wakes_whom_it_concerns_and_everyone_when_others_came_between() {
        let news = News::new(Revision(10));
        let (mut x, mut y) = (news.of("x"), news.of("y"));
        let mut woken = |newest: i64, changed: Option<(i64, &[&str])>| {
            news.publish(Revision(newest), changed.map(|(first, resources)| (Revision(first), resources)));
            let seen = [&mut x, &mut y].map(|follower| follower.has_changed().unwrap().then(|| follower.borrow_and_update().0));
            (seen[0], seen[1])
        };
        assert_eq!(woken(12, Some((11, &["y"]))), (None, Some(12)));
        assert_eq!(woken(12, None), (None, None));
        // 13 was another process's, and is of any resource.
        assert_eq!(woken(14, Some((14, &["y"]))), (Some(14), Some(14)));
        assert_eq!(woken(13, None), (None, None));
        assert_eq!(woken(15, None), (Some(15), Some(15)));
        // Nobody lies far behind.
        assert_eq!(woken(255, Some((16, &["y"]))), (None, Some(255)));
        assert_eq!(woken(256, Some((256, &["y"]))), (Some(256), Some(256)));
        assert_eq!(*news.of("z").borrow(), Revision(256));
    }
}
