//! The watch cache: of each resource that is read, its objects and its last changes, fed once from the store's change log.
//!
//! Lists of the newest state and watches are served from it, however many there are. It is never ahead of the store, and a
//! read first takes in what the log holds, so it sees every write that was answered before it. While someone watches, a
//! task takes the log in at each commit; otherwise nothing runs. What is older than the ring is read from the store.

mod item;
mod ring;
#[cfg(test)]
mod tests;

pub(super) use item::{Event, Item, Told, View, line};
pub(super) use ring::{Next, Slice};

use super::selector::Selector;
use crate::{
    admission::{self, Resource},
    objects::Objects,
    store::{self, Revision},
};
use ring::{Bounds, State};
use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, atomic::AtomicU64, atomic::Ordering},
    time::Duration,
};
use tokio::{sync::watch, time::Instant};

/// Past that watches find here. A change of 10 kB counts 20: its text and its line.
const BOUNDS: Bounds = Bounds { events: 4096, bytes: 32 << 20 };
/// Changes that are read from the log at once.
const BATCH: u32 = 500;
/// The same, of the past: little, as each watch may hold so much.
pub(super) const PAST: u32 = 20;
/// Between two tries when the database fails.
const PAUSE: Duration = Duration::from_secs(1);

/// One cache for each resource.
pub(super) struct Caches(Vec<Arc<Cache>>);

impl Caches {
    pub(super) fn new(objects: &Objects) -> Self {
        Self(admission::resources().iter().map(|resource| Cache::new(objects.clone(), resource, BOUNDS)).collect())
    }

    pub(super) fn of(&self, resource: &'static Resource) -> &Arc<Cache> {
        self.0.iter().find(|cache| std::ptr::eq(cache.resource, resource)).expect("each resource of the catalog has its cache")
    }
}

/// The cache of one resource.
pub(super) struct Cache {
    objects: Objects,
    resource: &'static Resource,
    bounds: Bounds,
    /// `None` before the first read.
    state: RwLock<Option<State>>,
    /// How often taking in has begun.
    begun: AtomicU64,
    /// Held by who takes in, so that one serves all who wait.
    taken_in: tokio::sync::Mutex<TakenIn>,
    /// Held by who reads the past into the ring, for all.
    recalling: tokio::sync::Mutex<()>,
    /// Tells watches of the last change.
    news: watch::Sender<Revision>,
    feed: Mutex<Feed>,
}

/// How taking in has ended.
#[derive(Default)]
struct TakenIn {
    /// The last one that ended well.
    well: u64,
    /// When one last ended because the database was not to be had, and why. Those who waited then are told the same: one after
    /// the other, each of many readers would wait for a database that hangs.
    in_vain: Option<(Instant, String)>,
}

#[derive(Default)]
struct Feed {
    watches: usize,
    runs: bool,
}

impl Cache {
    fn new(objects: Objects, resource: &'static Resource, bounds: Bounds) -> Arc<Self> {
        Arc::new(Self {
            objects,
            resource,
            bounds,
            state: RwLock::new(None),
            begun: AtomicU64::new(0),
            taken_in: tokio::sync::Mutex::default(),
            recalling: tokio::sync::Mutex::default(),
            news: watch::Sender::new(Revision::default()),
            feed: Mutex::default(),
        })
    }

    pub(super) fn resource_name(&self) -> String {
        self.resource.name()
    }

    fn read<T>(&self, look: impl FnOnce(&State) -> T) -> Option<T> {
        self.state.read().unwrap_or_else(PoisonError::into_inner).as_ref().map(look)
    }

    /// Takes in every change that was committed before the call.
    pub(super) async fn catch_up(&self) -> Result<(), store::Error> {
        // One that begins after this line has seen all that it must.
        let wanted = self.begun.load(Ordering::SeqCst) + 1;
        let called = Instant::now();
        let mut done = self.taken_in.lock().await;
        if done.well >= wanted {
            return Ok(());
        }
        if let Some((_, why)) = done.in_vain.as_ref().filter(|(ended, _)| *ended >= called) {
            return Err(store::Error::Unavailable(why.clone()));
        }
        let this = self.begun.fetch_add(1, Ordering::SeqCst) + 1;
        let outcome = self.take_in(false).await;
        match &outcome {
            Ok(()) => done.well = this,
            Err(store::Error::Unavailable(why)) => done.in_vain = Some((Instant::now(), why.clone())),
            Err(_) => {}
        }
        outcome
    }

    /// `told` is when it is enough to know what the store has told of.
    async fn take_in(&self, told: bool) -> Result<(), store::Error> {
        let name = self.resource.name();
        let store = self.objects.store();
        loop {
            let Some(complete) = self.read(State::complete) else { return self.load().await };
            let changes = if told { store.told(&name, complete, BATCH).await } else { store.changes(&name, complete, BATCH).await };
            let (events, reached) = match changes {
                Ok(read) => read,
                // Nobody read for so long that the log has moved on.
                Err(store::Error::Expired { .. }) => return self.load().await,
                Err(error) => return Err(error),
            };
            let (moved, more) = (!events.is_empty(), events.len() == BATCH as usize);
            if let Some(state) = self.state.write().unwrap_or_else(PoisonError::into_inner).as_mut() {
                state.apply(events, reached);
            }
            if moved {
                self.tell();
            }
            if !more {
                return Ok(());
            }
        }
    }

    async fn load(&self) -> Result<(), store::Error> {
        let mut page = self.objects.store().list(&store::Query { resource: self.resource.name(), ..store::Query::default() }).await?;
        for item in page.items.iter_mut().filter(|item| item.document.get("kind").is_none()) {
            // A damaged one has lost its own.
            item.document["apiVersion"] = self.resource.api_version().into();
            item.document["kind"] = self.resource.kind.into();
        }
        *self.state.write().unwrap_or_else(PoisonError::into_inner) = Some(State::new(page, self.bounds));
        self.tell();
        Ok(())
    }

    /// Reads what happened behind `after` into the ring; whether it is there now. It is not when the ring has no room for it.
    pub(super) async fn recall(&self, after: Revision) -> Result<bool, store::Error> {
        let _for_all = self.recalling.lock().await;
        if self.read(|state| state.holds(after)).unwrap_or_default() {
            return Ok(true);
        }
        let Some(Some(begins)) = self.read(|state| state.recallable(after)) else { return Ok(false) };
        let (mut past, mut read_to) = (Vec::new(), after);
        while read_to < begins && self.read(|state| state.has_room(&past)).unwrap_or_default() {
            let (events, complete) = self.objects.store().history(&self.resource.name(), read_to, PAST).await?;
            past.extend(events.into_iter().map(Event::logged).filter(|event| event.revision() <= begins));
            read_to = complete;
        }
        if let Some(state) = self.state.write().unwrap_or_else(PoisonError::into_inner).as_mut() {
            state.recall(after, past, begins);
        }
        Ok(self.read(|state| state.holds(after)).unwrap_or_default())
    }

    fn tell(&self) {
        self.news.send_replace(self.read(State::last_change).unwrap_or_default());
    }

    /// Objects of the newest state. Call [`Self::catch_up`] first; errors only when that was not done.
    pub(super) fn slice(
        &self,
        namespace: Option<&str>,
        after: Option<&(String, String)>,
        selector: &Selector,
        limit: usize,
    ) -> Option<Slice> {
        self.read(|state| state.slice(namespace, after, |item| item.matches(selector), limit))
    }

    /// Whether the newest state is also that of `revision`.
    pub(super) fn is_still_at(&self, revision: Revision) -> bool {
        self.read(|state| state.last_change() <= revision && revision <= state.complete()).unwrap_or(false)
    }

    /// Begins to watch.
    pub(super) fn watch(self: &Arc<Self>) -> Watcher {
        let mut feed = self.feed();
        feed.watches += 1;
        if !std::mem::replace(&mut feed.runs, true) {
            tokio::spawn(self.clone().follow());
        }
        Watcher { news: self.news.subscribe(), cache: self.clone() }
    }

    fn feed(&self) -> MutexGuard<'_, Feed> {
        self.feed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes in the log at each commit that concerns it, as long as someone watches and the store is open.
    async fn follow(self: Arc<Self>) {
        let mut revisions = self.objects.store().news(&self.resource.name());
        loop {
            {
                let mut feed = self.feed();
                if feed.watches == 0 {
                    feed.runs = false;
                    return;
                }
            }
            revisions.mark_unchanged();
            let taken = {
                let _others_wait = self.taken_in.lock().await;
                self.take_in(true).await
            };
            match taken {
                Ok(()) => {
                    if revisions.changed().await.is_err() {
                        return;
                    }
                }
                Err(store::Error::Closed) => return,
                Err(error) => {
                    tracing::error!("watches of {} wait: {error}", self.resource.plural);
                    self.objects.clock().sleep(PAUSE).await;
                }
            }
        }
    }
}

/// One watch's place at a cache, which is fed while there is one.
pub(super) struct Watcher {
    cache: Arc<Cache>,
    news: watch::Receiver<Revision>,
}

impl Watcher {
    /// The first change behind `after` of which `take` makes something; `None` before the cache is filled.
    pub(super) fn next<T>(&mut self, after: Revision, take: impl FnMut(&Arc<Event>) -> Option<T>) -> Option<Next<T>> {
        self.news.mark_unchanged();
        self.cache.read(|state| state.next(after, take))
    }

    /// Returns when there may be more than the last [`Self::next`] found.
    pub(super) async fn moved(&mut self) {
        if self.news.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.cache.feed().watches -= 1;
    }
}
