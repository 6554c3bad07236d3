//! What clients were told, checked against the one order that the revisions give: each object's history is linearizable.
//!
//! The order needs not be searched for, as of a black box: the change log says it. So a run of any length is checked in one
//! pass: every answer fits the log, nothing is in the log that nobody asked for, and the log's order is that of real time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

/// What one request was told. Values are given once in a run.
#[derive(Clone, Debug)]
pub(crate) struct Told {
    pub(crate) object: String,
    pub(crate) began: Instant,
    pub(crate) ended: Instant,
    pub(crate) what: What,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum What {
    Wrote {
        revision: i64,
        value: u64,
    },
    /// That nothing of it was written.
    Refused {
        value: u64,
    },
    /// Nothing, or that it is not known.
    Unknown {
        value: u64,
    },
    /// The revision and value that the object had; `None` when it did not exist.
    Read(Option<(i64, u64)>),
}

/// A change as the log tells it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) revision: i64,
    pub(crate) object: String,
    pub(crate) value: u64,
}

/// Times and says what one client is told.
#[derive(Default)]
pub(crate) struct Client {
    pub(crate) told: Vec<Told>,
}

impl Client {
    pub(crate) fn note(&mut self, object: &str, began: Instant, what: What) {
        self.told.push(Told { object: object.into(), began, ended: Instant::now(), what });
    }
}

/// Panics with the first answer that does not fit. Objects are not deleted. Returns how many answers were checked.
pub(crate) fn check(told: &[Told], log: &[Entry]) -> usize {
    assert!(log.is_sorted_by(|a, b| a.revision < b.revision), "the log's revisions do not rise");
    let entry = |revision: i64| log.binary_search_by_key(&revision, |entry| entry.revision).ok().map(|at| &log[at]);
    let mut written: BTreeMap<u64, &Entry> = BTreeMap::new();
    for entry in log {
        assert!(written.insert(entry.value, entry).is_none(), "written twice: {entry:?}");
    }
    let mut asked = BTreeMap::new();
    for one in told {
        match one.what {
            What::Wrote { revision, value } => {
                let fits = entry(revision).is_some_and(|entry| (&entry.object, entry.value) == (&one.object, value));
                assert!(fits, "answered and not in the log: {one:?}");
            }
            What::Refused { value } => assert!(!written.contains_key(&value), "refused and in the log: {one:?}"),
            What::Read(Some((revision, value))) => {
                let fits = entry(revision).is_some_and(|entry| (&entry.object, entry.value) == (&one.object, value));
                assert!(fits, "read and not in the log: {one:?}");
            }
            What::Unknown { .. } | What::Read(None) => {}
        }
        if let What::Wrote { value, .. } | What::Refused { value } | What::Unknown { value } = one.what {
            asked.insert(value, one);
        }
    }
    for entry in log {
        assert!(asked.get(&entry.value).is_some_and(|one| one.object == entry.object), "nobody asked for {entry:?}");
    }
    for object in told.iter().map(|one| &one.object).collect::<BTreeSet<_>>() {
        in_real_time(&told.iter().filter(|one| one.object == *object).collect::<Vec<_>>(), &asked);
    }
    told.len()
}

/// What ended before something else began, comes before it.
fn in_real_time(told: &[&Told], asked: &BTreeMap<u64, &Told>) {
    let revision = |one: &Told| match one.what {
        What::Wrote { revision, .. } | What::Read(Some((revision, _))) => Some(revision),
        What::Read(None) => Some(0),
        What::Refused { .. } | What::Unknown { .. } => None,
    };
    let mut by_end: Vec<&Told> = told.to_vec();
    by_end.sort_by_key(|one| one.ended);
    let mut by_begin: Vec<&Told> = told.to_vec();
    by_begin.sort_by_key(|one| one.began);
    let (mut ended, mut floor, mut last) = (by_end.into_iter().peekable(), 0, None);
    for one in by_begin {
        while let Some(earlier) = ended.next_if(|earlier| earlier.ended < one.began) {
            if let Some(revision) = revision(earlier).filter(|revision| *revision > floor) {
                (floor, last) = (revision, Some(earlier));
            }
        }
        match one.what {
            What::Wrote { revision, .. } => assert!(revision > floor, "{one:?} comes before {last:?}, which had ended"),
            What::Read(_) => assert!(revision(one) >= Some(floor), "{one:?} does not see {last:?}, which had ended"),
            What::Refused { .. } | What::Unknown { .. } => {}
        }
        if let What::Read(Some((_, value))) = one.what {
            assert!(asked[&value].began < one.ended, "{one:?} saw what was not asked for yet");
        }
    }
}

mod tests {
    use super::*;
    use std::time::Duration;

    fn told(object: &str, began: u64, ended: u64, what: What) -> Told {
        let zero = Instant::now();
        let at = |millis| zero + Duration::from_secs(millis);
        Told { object: object.into(), began: at(began), ended: at(ended), what }
    }

    fn log(entries: &[(i64, &str, u64)]) -> Vec<Entry> {
        entries.iter().map(|(revision, object, value)| Entry { revision: *revision, object: (*object).into(), value: *value }).collect()
    }

    /// The rules find what they are for.
    #[test]
    fn each_lie_is_found() {
        use What::{Read, Refused, Unknown, Wrote};
        let (one, two) = (Wrote { revision: 1, value: 10 }, Wrote { revision: 2, value: 20 });
        let both = log(&[(1, "a", 10), (2, "a", 20)]);
        let good: &[&[Told]] = &[
            &[told("a", 0, 1, one), told("a", 2, 3, two), told("a", 4, 5, Read(Some((2, 20))))],
            &[told("a", 0, 5, one), told("a", 0, 5, Unknown { value: 20 }), told("a", 0, 5, Read(None))],
        ];
        for good in good {
            check(good, &both);
        }
        let bad: &[(&str, &[Told], &[(i64, &str, u64)])] = &[
            ("lost", &[told("a", 0, 1, one)], &[]),
            ("under another revision", &[told("a", 0, 1, one)], &[(2, "a", 10)]),
            ("twice", &[told("a", 0, 1, one)], &[(1, "a", 10), (2, "a", 10)]),
            ("refused and done", &[told("a", 0, 1, Refused { value: 10 })], &[(1, "a", 10)]),
            ("made up", &[], &[(1, "a", 10)]),
            ("another object's", &[told("b", 0, 1, Unknown { value: 10 })], &[(1, "a", 10)]),
            ("written in the past", &[told("a", 0, 1, two), told("a", 2, 3, one)], &[(1, "a", 10), (2, "a", 20)]),
            ("stale", &[told("a", 0, 1, one), told("a", 2, 3, two), told("a", 4, 5, Read(Some((1, 10))))], &[(1, "a", 10), (2, "a", 20)]),
            ("not seen", &[told("a", 0, 1, one), told("a", 2, 3, Read(None))], &[(1, "a", 10)]),
            (
                "seen, then not",
                &[told("a", 0, 9, one), told("a", 0, 9, two), told("a", 1, 2, Read(Some((2, 20)))), told("a", 3, 4, Read(Some((1, 10))))],
                &[(1, "a", 10), (2, "a", 20)],
            ),
            ("another value", &[told("a", 0, 1, one), told("a", 2, 3, Read(Some((1, 11))))], &[(1, "a", 10)]),
        ];
        for (what, told, entries) in bad {
            let found = std::panic::catch_unwind(|| check(told, &log(entries)));
            assert!(found.is_err(), "{what} was not found");
        }
    }
}
