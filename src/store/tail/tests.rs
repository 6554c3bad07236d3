use super::{BYTES, EVENTS, Known, Logged, Tail};
use crate::store::{Change, Event, Key, Revision};
use serde_json::json;

fn logged(resource: &str, revision: i64, size: usize) -> Logged {
    let (key, change) = (Key::new(resource, "n", "a"), if revision % 10 == 0 { Change::Deleted } else { Change::Modified });
    Logged { event: Event { revision: Revision(revision), change, key, document: json!({"at": revision}) }, size }
}

/// The revisions that it tells, and up to where; `None` when it leaves the answer to the log.
fn read(tail: &Tail, after: i64, limit: usize) -> Option<(Vec<i64>, i64)> {
    let (events, complete) = tail.read("machines", Revision(after), limit)?;
    Some((events.iter().map(|event| event.revision.0).collect(), complete.0))
}

#[test]
fn it_tells_what_it_holds_and_leaves_the_rest_to_the_log() {
    let tail = Tail::new(Revision(10));
    assert_eq!(read(&tail, 10, 0), Some((vec![], 10)));
    assert_eq!(read(&tail, 9, 0), None);
    tail.extend(vec![logged("machines", 11, 1), logged("hubs", 12, 1), logged("machines", 13, 1)]);
    assert_eq!(read(&tail, 10, 0), Some((vec![11, 13], 13)));
    assert_eq!(read(&tail, 10, 1), Some((vec![11], 11)), "there may be more behind a full page");
    assert_eq!(read(&tail, 11, 0), Some((vec![13], 13)));
    assert_eq!(read(&tail, 20, 0), Some((vec![], 20)), "a future revision waits");
    assert_eq!(read(&tail, 9, 0), None);
    assert_eq!(tail.changed(&["hubs"], Revision(11)), Some((true, Revision(13))));
    assert_eq!(tail.changed(&["hubs"], Revision(12)), Some((false, Revision(13))));
    assert_eq!(tail.changed(&["hubs"], Revision(9)), None);
}

#[test]
fn it_knows_the_objects_that_changed_last() {
    let tail = Tail::new(Revision(8));
    let at = |resource: &str| match tail.get(&Key::new(resource, "n", "a")) {
        Known::Object(object) => object.document["at"].to_string(),
        other => format!("{other:?}"),
    };
    assert_eq!(at("machines"), "Nothing");
    tail.extend(vec![logged("machines", 9, 1), logged("hubs", 10, 1)]);
    assert_eq!((&*at("machines"), &*at("hubs")), ("9", "Gone"));
    tail.extend(vec![logged("machines", 11, 1), logged("hubs", 12, 1)]);
    assert_eq!((&*at("machines"), &*at("hubs")), ("11", "12"));
    tail.forget();
    assert_eq!(at("machines"), "Nothing");
}

/// Another process wrote, or nobody knows what became of a commit.
#[test]
fn a_gap_ends_what_it_knew() {
    let tail = Tail::new(Revision(10));
    tail.extend(vec![logged("machines", 11, 1)]);
    tail.extend(vec![logged("machines", 13, 1)]);
    assert_eq!((read(&tail, 11, 0), read(&tail, 12, 0)), (None, Some((vec![13], 13))));
    tail.forget();
    assert_eq!((read(&tail, 12, 0), read(&tail, 13, 0)), (None, Some((vec![], 13))));
    tail.extend(vec![logged("machines", 14, 1)]);
    assert_eq!(read(&tail, 13, 0), Some((vec![14], 14)));
}

#[test]
fn its_memory_is_bounded() {
    let tail = Tail::new(Revision(0));
    let count = i64::try_from(EVENTS).unwrap() + 5;
    (1..=count).for_each(|revision| tail.extend(vec![logged("machines", revision, 1)]));
    assert_eq!((read(&tail, 4, 0), read(&tail, 5, 1)), (None, Some((vec![6], 6))));
    tail.extend(vec![logged("machines", count + 1, BYTES)]);
    assert_eq!((read(&tail, count - 1, 0), read(&tail, count, 0)), (None, Some((vec![count + 1], count + 1))));
    tail.extend(vec![logged("machines", count + 2, BYTES + 1)]);
    assert_eq!((read(&tail, count + 1, 0), read(&tail, count + 2, 0)), (None, Some((vec![], count + 2))));
}
