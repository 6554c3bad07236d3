use super::{
    BOUNDS, Cache, Watcher,
    item::{
        Event, Item,
        Told::{self, Added, Deleted, Left, Modified},
        View,
    },
    ring::{Bounds, Next, State},
};
use crate::apiserver::{catalog, negotiate::Shape, selector::Selector, table::Include, table::Printer};
use crate::store::{self, Change, Key, Object, Page, Revision};
use crate::{
    clock::Clock,
    objects::{Cipher, Objects, WriteOptions},
};
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

fn document(name: &str, color: &str, revision: i64) -> Value {
    json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": name, "namespace": "n", "labels": {"color": color}, "resourceVersion": revision.to_string()}})
}

fn logged(change: Change, name: &str, color: &str, revision: i64) -> store::Event {
    let key = Key::new("configmaps", "n", name);
    store::Event { revision: Revision(revision), change, key, document: document(name, color, revision) }
}

fn state(bounds: Bounds) -> State {
    let key = Key::new("configmaps", "n", "a");
    let items = vec![Object { key, revision: Revision(3), document: document("a", "red", 3) }];
    State::new(Page { revision: Revision(5), items, more: false }, bounds)
}

fn selector(labels: &str) -> Selector {
    let entry = catalog::find("", "v1", "configmaps").unwrap();
    Selector::parse(entry, Some(labels), None).unwrap()
}

/// What a watch from `after` is told, and where it ends; `None` when it is behind.
fn told(state: &State, after: i64, labels: &str) -> Option<(Vec<(i64, Told)>, i64)> {
    let (selector, mut cursor, mut seen) = (selector(labels), Revision(after), Vec::new());
    loop {
        match state.next(cursor, |event| event.told(Some("n"), &selector).map(|told| (event.revision(), told))) {
            Next::Found((revision, what)) => {
                seen.push((revision.0, what));
                cursor = revision;
            }
            Next::CaughtUp(revision) => return Some((seen, revision.0)),
            Next::Behind => return None,
        }
    }
}

#[test]
fn a_selection_is_entered_and_left() {
    let mut state = state(Bounds { events: 10, bytes: 1 << 20 });
    let events = vec![
        logged(Change::Modified, "a", "blue", 6),
        logged(Change::Modified, "a", "red", 8),
        logged(Change::Added, "b", "blue", 9),
        logged(Change::Deleted, "a", "red", 11),
    ];
    state.apply(events, Revision(12));
    assert_eq!(told(&state, 5, ""), Some((vec![(6, Modified), (8, Modified), (9, Added), (11, Deleted)], 12)));
    assert_eq!(told(&state, 5, "color=red"), Some((vec![(6, Left), (8, Added), (11, Deleted)], 12)));
    assert_eq!(told(&state, 8, "color=blue"), Some((vec![(9, Added)], 12)));
    assert_eq!(told(&state, 4, ""), None, "before the load nothing is known");
    assert_eq!(told(&state, 20, ""), Some((vec![], 20)), "a future revision waits");
    let names: Vec<String> = state.slice(None, None, |_| true, 0).items.iter().map(|i| i.name.clone()).collect();
    assert_eq!(names, ["b"]);
}

#[test]
fn a_page_looks_at_what_is_on_it_and_knows_how_many_there_are() {
    let mut state = state(Bounds { events: 10, bytes: 1 << 20 });
    let name = |number: i64| format!("m-{number:05}");
    state.apply((0..10_000).map(|n| logged(Change::Added, &name(n), "red", 6 + n)).collect(), Revision(10_005));
    let looked = std::cell::Cell::new(0);
    let counting = |_: &Item| {
        looked.set(looked.get() + 1);
        true
    };
    let behind = ("n".to_owned(), name(9_000));
    for after in [None, Some(&behind)] {
        looked.set(0);
        let page = state.slice(Some("n"), after, counting, 50);
        assert_eq!((page.items.len(), page.more, page.all), (50, true, 10_001));
        assert_eq!(looked.get(), 51, "the page and one to see that there are more");
    }
    assert_eq!(state.slice(Some("other"), None, counting, 50).all, 0);
    state.apply(vec![logged(Change::Deleted, "a", "red", 10_006), logged(Change::Modified, &name(1), "red", 10_007)], Revision(10_007));
    let (one, all) = (state.slice(Some("n"), None, |_| true, 0), state.slice(None, None, |_| true, 0));
    assert_eq!((one.all, all.all, all.items.len(), all.more), (10_000, 10_000, 10_000, false));
}

#[test]
fn the_past_is_bounded_by_number_and_by_size() {
    let mut few = state(Bounds { events: 2, bytes: 1 << 20 });
    few.apply((6..10).map(|r| logged(Change::Modified, "a", "red", r)).collect(), Revision(9));
    assert_eq!((told(&few, 6, ""), told(&few, 7, "").unwrap().0.len()), (None, 2));
    let mut small = state(Bounds { events: 100, bytes: 1 });
    small.apply((6..10).map(|r| logged(Change::Modified, "a", "red", r)).collect(), Revision(9));
    assert_eq!((told(&small, 7, ""), told(&small, 8, "").unwrap().0.len()), (None, 1), "the newest stays");
    // What was taken in already is not taken in again.
    small.apply(vec![logged(Change::Modified, "a", "red", 9)], Revision(9));
    assert_eq!(told(&small, 8, "").unwrap().0.len(), 1);
}

/// A store with changes of `m-0` to `m-9`, and a cache that begins behind them.
async fn store_with_a_past(bounds: Bounds) -> (tempfile::TempDir, std::sync::Arc<Cache>, Vec<Revision>) {
    let directory = tempfile::tempdir().unwrap();
    let store = store::Store::open(&directory.path().join("db")).await.unwrap();
    let objects = Objects::new(store, Clock::system(), Cipher::ephemeral());
    objects.ensure_presets().await.unwrap();
    let resource = crate::admission::resources().iter().find(|resource| resource.plural == "configmaps").unwrap();
    let mut revisions = Vec::new();
    for number in 0..10 {
        let map = json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": format!("m-{number}"), "namespace": "default"}});
        objects.create_document(resource, "default", map, &WriteOptions::default()).await.unwrap();
        revisions.push(*objects.store().revisions().borrow());
    }
    let cache = Cache::new(objects, resource, bounds);
    cache.catch_up().await.unwrap();
    (directory, cache, revisions)
}

#[tokio::test]
async fn what_was_before_the_ring_is_read_once_for_all_who_begin_there() {
    let (_directory, cache, revisions) = store_with_a_past(BOUNDS).await;
    let found = |after: Revision| {
        let told = |event: &Arc<Event>| Some(event.clone());
        cache.read(|state| match state.next(after, told) {
            Next::Found(event) => Some(event),
            _ => None,
        })
    };
    assert!(found(revisions[4]).unwrap().is_none(), "the ring begins later");
    let many = futures::future::join_all((0..100).map(|_| cache.recall(revisions[4]))).await;
    assert!(many.into_iter().all(|recalled| recalled.unwrap()));
    let first = found(revisions[4]).unwrap().unwrap();
    assert_eq!((first.revision(), first.item.name.as_str()), (revisions[5], "m-5"));
    assert!(cache.recall(revisions[0]).await.unwrap(), "further back");
    assert!(Arc::ptr_eq(&first, &found(revisions[4]).unwrap().unwrap()), "what was there is still there, once");
    let all = cache.read(|state| told_all(state, revisions[0])).unwrap();
    assert_eq!(all, &revisions[1..], "each change once, in order");
}

fn told_all(state: &State, mut cursor: Revision) -> Vec<Revision> {
    let mut told = Vec::new();
    while let Next::Found(revision) = state.next(cursor, |event| Some(event.revision())) {
        told.push(revision);
        cursor = revision;
    }
    told
}

#[tokio::test]
async fn a_past_that_the_ring_has_no_room_for_is_read_by_each() {
    let (_directory, cache, revisions) = store_with_a_past(Bounds { events: 5, bytes: 1 << 20 }).await;
    assert!(!cache.recall(revisions[2]).await.unwrap());
    assert!(!cache.recall(revisions[1]).await.unwrap(), "and is not looked for again");
    assert!(cache.recall(revisions[6]).await.unwrap(), "a shorter one is");
    assert_eq!(cache.read(|state| told_all(state, revisions[6])).unwrap(), &revisions[7..]);
    let (_directory, small, revisions) = store_with_a_past(Bounds { events: 100, bytes: 2000 }).await;
    assert_eq!((small.recall(revisions[0]).await.unwrap(), small.recall(revisions[8]).await.unwrap()), (false, true));
}

#[tokio::test]
async fn a_change_is_written_down_once_for_all_who_are_told_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let store = store::Store::open(&directory.path().join("db")).await.unwrap();
    let objects = Objects::new(store, Clock::system(), Cipher::ephemeral());
    let entry = catalog::find("", "v1", "configmaps").unwrap();
    let view = |shape| View { entry, shape, include: Include::Metadata, printer: Printer::of(entry) };
    let item = |revision| Arc::new(Item::new(Key::new("configmaps", "n", "a"), Revision(revision), &document("a", "red", revision)));
    let event = Event::new(Change::Modified, item(7), Some(item(6)));
    for shape in [Shape::Plain, Shape::Table, Shape::Metadata] {
        let one = event.line(&view(shape), Told::Modified, &objects, false).unwrap();
        let other = event.line(&view(shape), Told::Modified, &objects, false).unwrap();
        assert_eq!(one.as_ptr(), other.as_ptr(), "{shape:?}: the same bytes, not equal ones");
        let text: Value = serde_json::from_slice(&one).unwrap();
        assert_eq!((&text["type"], one.last()), (&json!("MODIFIED"), Some(&b'\n')));
    }
    let left: Value = serde_json::from_slice(&event.line(&view(Shape::Plain), Told::Left, &objects, false).unwrap()).unwrap();
    assert_eq!((&left["type"], &left["object"]["metadata"]["resourceVersion"]), (&json!("DELETED"), &json!("7")));
}

/// What watches made of changes, in numbers of pieces of work.
#[derive(Debug, Default)]
struct Work {
    /// Changes that were looked at, by all watches.
    looks: AtomicUsize,
    /// How often a watch was woken.
    wakes: AtomicUsize,
    /// Where the lines lie that were sent.
    lines: Mutex<BTreeSet<usize>>,
    sent: AtomicUsize,
}

/// So many watches follow so many changes.
async fn followed(watches: usize, changes: usize) -> Work {
    let directory = tempfile::tempdir().unwrap();
    let store = store::Store::open(&directory.path().join("db")).await.unwrap();
    let objects = Objects::new(store, Clock::system(), Cipher::ephemeral());
    objects.ensure_presets().await.unwrap();
    let resource = crate::admission::resources().iter().find(|resource| resource.plural == "configmaps").unwrap();
    let cache = Cache::new(objects.clone(), resource, BOUNDS);
    cache.catch_up().await.unwrap();
    let (work, all) = (Arc::new(Work::default()), selector(""));
    let watch = |mut watcher: Watcher, mut cursor: Revision| {
        let (work, objects, all) = (work.clone(), objects.clone(), all.clone());
        let entry = catalog::find("", "v1", "configmaps").unwrap();
        async move {
            let view = View { entry, shape: Shape::Plain, include: Include::Metadata, printer: Printer::of(entry) };
            let (mut kept, mut looks) = (Vec::new(), 0);
            while kept.len() < changes {
                let next = watcher.next(cursor, |event| {
                    looks += 1;
                    event.told(None, &all).map(|told| (event.clone(), told))
                });
                match next {
                    Some(Next::Found((event, told))) => {
                        cursor = event.revision();
                        // Kept, so that no other line comes to lie in its place.
                        kept.push(event.line(&view, told, &objects, false).unwrap());
                    }
                    _ => {
                        watcher.moved().await;
                        work.wakes.fetch_add(1, Ordering::SeqCst);
                    }
                }
            }
            work.looks.fetch_add(looks, Ordering::SeqCst);
            work.sent.fetch_add(kept.len(), Ordering::SeqCst);
            work.lines.lock().unwrap().extend(kept.iter().map(|line| line.as_ptr().addr()));
            kept
        }
    };
    let now = cache.read(State::complete).unwrap();
    let following: Vec<_> = (0..watches).map(|_| tokio::spawn(watch(cache.watch(), now))).collect();
    for number in 0..changes {
        let map = json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": format!("m-{number}"), "namespace": "default"}});
        objects.create_document(resource, "default", map, &WriteOptions::default()).await.unwrap();
    }
    let kept = futures::future::join_all(following).await;
    assert!(kept.iter().all(|kept| kept.as_ref().is_ok_and(|kept| kept.len() == changes)));
    drop(cache);
    Arc::into_inner(work).unwrap()
}

/// A1, counted and not timed: an event costs each watch one look and at most one waking, and is written down once for all.
#[tokio::test]
async fn an_event_costs_each_watch_one_look_and_is_written_down_once() {
    const CHANGES: usize = 20;
    for watches in [1, 10, 500] {
        let work = followed(watches, CHANGES).await;
        assert_eq!(work.sent.into_inner(), watches * CHANGES);
        assert_eq!(work.looks.into_inner(), watches * CHANGES, "{watches} watches");
        assert!(work.wakes.into_inner() <= watches * CHANGES, "{watches} watches");
        assert_eq!(work.lines.into_inner().unwrap().len(), CHANGES, "{watches} watches");
    }
}
