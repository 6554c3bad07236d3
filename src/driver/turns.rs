//! Turns on one storage of one node: how many calls that take its locks are under way at once, and who is next.
//!
//! Proxmox does such work one by one and lets each call wait 10 s for its lock: a burst fails where a queue does not. The next
//! turn is of the namespace that has the fewest, so that no burst keeps others out. Source: proxmox-zfs facts 0.7, 3.4 and 9.2.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::oneshot;

/// The turns of one storage, shared by all that work on it; cheap to clone.
#[derive(Clone)]
pub struct Turns(Arc<Mutex<State>>);

struct State {
    limit: usize,
    /// Namespace → turns that it has.
    taken: BTreeMap<String, usize>,
    waiting: VecDeque<(String, oneshot::Sender<Turn>)>,
}

/// Leave to do one thing; it is given back when this is dropped.
pub struct Turn {
    turns: Turns,
    namespace: String,
    /// Whether it was waited for: what was seen before may be different now.
    pub waited: bool,
}

impl std::fmt::Debug for Turns {
    /// The same for all: what has one in it is no other thing when turns are taken.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Turns")
    }
}

impl std::fmt::Debug for Turn {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Turn of {}", self.namespace)
    }
}

impl Turns {
    /// At most `limit` at once.
    pub fn new(limit: usize) -> Self {
        Self(Arc::new(Mutex::new(State { limit, taken: BTreeMap::new(), waiting: VecDeque::new() })))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Counts are changed whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Another limit from now on; turns that are taken stay so.
    pub fn limit(&self, limit: usize) {
        self.lock().limit = limit;
        self.grant();
    }

    /// The next turn for something of a namespace.
    pub async fn take(&self, namespace: &str) -> Turn {
        let told = {
            let mut state = self.lock();
            if state.total() < state.limit {
                return self.turn(&mut state, namespace, false);
            }
            let (tell, told) = oneshot::channel();
            state.waiting.push_back((namespace.to_owned(), tell));
            told
        };
        // The sender is in the state, which `self` keeps; without an answer there is no limit to hold.
        told.await.unwrap_or_else(|_| self.taken(namespace))
    }

    /// A turn for what is under way already, beyond the limit if need be.
    pub fn taken(&self, namespace: &str) -> Turn {
        self.turn(&mut self.lock(), namespace, false)
    }

    fn turn(&self, state: &mut State, namespace: &str, waited: bool) -> Turn {
        *state.taken.entry(namespace.to_owned()).or_default() += 1;
        Turn { turns: self.clone(), namespace: namespace.to_owned(), waited }
    }

    /// Gives out what is free.
    fn grant(&self) {
        loop {
            let mut state = self.lock();
            // Who has gone meanwhile needs none.
            state.waiting.retain(|(_, tell)| !tell.is_closed());
            if state.total() >= state.limit {
                return;
            }
            let has = |namespace: &String| state.taken.get(namespace).copied().unwrap_or_default();
            let next = state.waiting.iter().enumerate().min_by_key(|(place, (namespace, _))| (has(namespace), *place));
            let Some((namespace, tell)) = next.map(|(place, _)| place).and_then(|place| state.waiting.remove(place)) else { return };
            let turn = self.turn(&mut state, &namespace, true);
            drop(state);
            // One that goes at this moment gives it back by dropping it.
            tell.send(turn).ok();
        }
    }
}

impl State {
    fn total(&self) -> usize {
        self.taken.values().sum()
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        {
            let mut state = self.turns.lock();
            if let Some(has) = state.taken.get_mut(&self.namespace) {
                *has -= 1;
                if *has == 0 {
                    state.taken.remove(&self.namespace);
                }
            }
        }
        self.turns.grant();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;

    #[tokio::test]
    async fn a_burst_of_one_namespace_does_not_keep_another_waiting() {
        let turns = Turns::new(2);
        let (first, second) = (turns.take("a").await, turns.take("a").await);
        assert!(!first.waited);
        let mut burst: Vec<_> = (0..200).map(|_| Box::pin(turns.take("a"))).collect();
        assert!(burst.iter_mut().all(|turn| turn.as_mut().now_or_never().is_none()));
        let mut other = Box::pin(turns.take("b"));
        assert!(other.as_mut().now_or_never().is_none(), "the limit is the limit");
        drop(first);
        let other = other.now_or_never().expect("the next turn is b's, though 200 asked before");
        assert!(other.waited);
        drop(other);
        let third = burst.remove(0).now_or_never().expect("then the first of those who wait");
        // Who has gone leaves nothing taken behind, whether its turn had come or not.
        drop(second);
        drop(third);
        drop(burst);
        let (one, two) = (turns.take("c").now_or_never(), turns.take("c").now_or_never());
        assert!(one.is_some() && two.is_some());
        assert!(turns.take("c").now_or_never().is_none());
    }

    #[tokio::test]
    async fn the_limit_may_change_and_what_runs_already_counts() {
        let turns = Turns::new(1);
        let running = (turns.taken("a"), turns.taken("a"));
        let mut next = Box::pin(turns.take("b"));
        assert!(next.as_mut().now_or_never().is_none());
        drop(running.0);
        assert!(next.as_mut().now_or_never().is_none());
        turns.limit(2);
        assert!(next.now_or_never().is_some());
    }
}
