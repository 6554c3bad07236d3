//! The watch stream of controllers: everything there is, then every change, resumed by itself. What it reads from is a
//! [`Feed`]: the store of this process, or another server.

use super::{Error, Event, Objects, typed::typed};
use crate::admission;
use crate::api::Kind;
use crate::clock::Clock;
use crate::store::{self, Change, Object, Revision};
use futures::stream::{self, BoxStream, StreamExt};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};
use tokio::sync::watch;

/// Changes read at once; the next ones are read when these are taken.
const BATCH: u32 = 500;
/// Between two tries when the database fails.
const PAUSE: Duration = Duration::from_secs(1);

/// Where a watch reads a kind's objects and changes.
pub trait Feed: Send + 'static {
    /// All objects at one revision.
    fn list(&mut self) -> impl Future<Output = Result<(Vec<Object>, Revision), Error>> + Send;
    /// Changes after a revision, and the one up to which there are no others; waits until there is something to say.
    ///
    /// Errors: `Store(Closed)` ends the watch; `Expired` makes it list again.
    fn follow(&mut self, after: Revision) -> impl Future<Output = Result<(Vec<store::Event>, Revision), Error>> + Send;
}

/// The store of this process.
struct Local {
    objects: Objects,
    resource: &'static admission::Resource,
    newest: watch::Receiver<Revision>,
}

impl Feed for Local {
    async fn list(&mut self) -> Result<(Vec<Object>, Revision), Error> {
        let page = self.objects.read_page(self.resource, &store::Query::default()).await?;
        Ok((page.items, page.revision))
    }

    async fn follow(&mut self, after: Revision) -> Result<(Vec<store::Event>, Revision), Error> {
        let (events, complete) = self.objects.read_changes(self.resource, after, BATCH).await?;
        if events.is_empty() && complete == after {
            self.newest.wait_for(|newest| *newest > after).await.map_err(|_| store::Error::Closed)?;
        }
        Ok((events, complete))
    }
}

struct Watch<K, F> {
    feed: F,
    clock: Clock,
    /// Up to where the log is read; `None` before the first list and after history was lost.
    after: Option<Revision>,
    /// What the receiver knows, to tell it of what vanished while history was lost.
    known: BTreeMap<(String, String), (Revision, K)>,
    /// What cannot be read, and was said to be so.
    unreadable: BTreeSet<(String, String)>,
    ready: VecDeque<Told<K>>,
}

/// What a watch says.
#[derive(Clone, Debug)]
pub enum Told<K> {
    Event(Event<K>),
    /// All that there is has been said: at first, and again whenever history was lost.
    Listed,
}

impl Objects {
    /// Every object as `Added`, then every change in order; resumes by itself. Ends only when the store closes.
    pub fn watch<K: Kind>(&self) -> BoxStream<'static, Event<K>> {
        let events = self.watch_listed().filter_map(|told| async {
            match told {
                Told::Event(event) => Some(event),
                Told::Listed => None,
            }
        });
        events.boxed()
    }

    /// Like [`Objects::watch`], and says when all that there is has been said.
    pub fn watch_listed<K: Kind>(&self) -> BoxStream<'static, Told<K>> {
        let resource = admission::resource::<K>();
        let feed = Local { objects: self.clone(), resource, newest: self.store.news(&resource.name()) };
        follow(feed, self.clock.clone())
    }
}

/// Every object of a feed as `Added`, then every change in order, whatever happens to the feed meanwhile.
pub fn follow<K: Kind, F: Feed>(feed: F, clock: Clock) -> BoxStream<'static, Told<K>> {
    let watch = Watch { feed, clock, after: None, known: BTreeMap::new(), unreadable: BTreeSet::new(), ready: VecDeque::new() };
    stream::unfold(watch, Watch::next).boxed()
}

impl<K: Kind, F: Feed> Watch<K, F> {
    async fn next(mut self) -> Option<(Told<K>, Self)> {
        loop {
            if let Some(told) = self.ready.pop_front() {
                return Some((told, self));
            }
            let step = match self.after {
                None => self.list().await,
                Some(after) => self.follow(after).await,
            };
            match step {
                Ok(()) => {}
                Err(Error::Store(store::Error::Closed)) => return None,
                Err(Error::Expired(_) | Error::Store(store::Error::Expired { .. })) => self.after = None,
                Err(error) => {
                    tracing::error!("the watch of {} waits: {error}", K::PLURAL);
                    self.clock.sleep(PAUSE).await;
                }
            }
        }
    }

    /// An object that cannot be read is reported, once, and left out: it must not stop all others.
    fn read(&mut self, key: &store::Key, document: &serde_json::Value) -> Option<K> {
        let place = (key.namespace.clone(), key.name.clone());
        match typed(key, document) {
            Ok(object) => {
                self.unreadable.remove(&place);
                Some(object)
            }
            Err(error) => {
                if self.unreadable.insert(place) {
                    tracing::error!("{error}; nothing acts on it until it is repaired or deleted");
                }
                None
            }
        }
    }

    /// Compares what there is with what is known.
    async fn list(&mut self) -> Result<(), Error> {
        let (items, at) = self.feed.list().await?;
        let mut gone = std::mem::take(&mut self.known);
        for item in items {
            let read = self.read(&item.key, &item.document);
            let place = (item.key.namespace, item.key.name);
            let Some(object) = read else {
                // It is there: nobody must take it for deleted.
                self.known.extend(gone.remove_entry(&place));
                continue;
            };
            let change = match gone.remove(&place) {
                None => Some(Change::Added),
                Some((revision, _)) if revision == item.revision => None,
                Some((_, old)) if old.uid() == object.uid() => Some(Change::Modified),
                Some((_, old)) => {
                    self.ready.push_back(Told::Event(Event { change: Change::Deleted, object: old, revision: item.revision }));
                    Some(Change::Added)
                }
            };
            self.known.insert(place, (item.revision, object.clone()));
            if let Some(change) = change {
                self.ready.push_back(Told::Event(Event { change, object, revision: item.revision }));
            }
        }
        let vanished = gone.into_values().map(|(_, object)| Told::Event(Event { change: Change::Deleted, object, revision: at }));
        self.ready.extend(vanished);
        self.ready.push_back(Told::Listed);
        self.after = Some(at);
        Ok(())
    }

    /// Reads on, or waits until there is something newer.
    async fn follow(&mut self, after: Revision) -> Result<(), Error> {
        let (events, complete) = self.feed.follow(after).await?;
        self.after = Some(complete);
        for event in events {
            let read = self.read(&event.key, &event.document);
            let place = (event.key.namespace, event.key.name);
            let object = match (event.change, read) {
                (Change::Deleted, read) => {
                    self.unreadable.remove(&place);
                    let last = self.known.remove(&place).map(|(_, last)| last);
                    let Some(object) = read.or(last) else { continue };
                    object
                }
                (_, None) => continue,
                (_, Some(object)) => {
                    self.known.insert(place, (event.revision, object.clone()));
                    object
                }
            };
            self.ready.push_back(Told::Event(Event { change: event.change, object, revision: event.revision }));
        }
        Ok(())
    }
}
