//! Is a history of operations linearizable? Operations as clients saw them are held against the log that a watch tells.
//!
//! Revisions give the order of all writes, so that nothing must be searched for: each operation has the revisions at which its
//! answer was true, and there must be a point for each, not before the point of any operation that had ended before it began.
//! An answer that never came binds nothing: such a write is in the log, once, or it is not. Which server answered, over which
//! database, killed how often, is the caller's affair.

mod tests;

use std::collections::{BTreeMap, HashMap};
use std::sync::Mutex;

/// What an object holds. Each write must write a value that no other write does, so that it is known by its effect.
pub(crate) type State = BTreeMap<String, String>;

#[derive(Clone, Debug)]
pub(crate) enum Call {
    Create(State),
    /// Replaces all of it; only at this revision, when one is given.
    Update(Option<i64>, State),
    /// Sets these keys and leaves the others.
    Patch(State),
    /// Only at this revision, when one is given.
    Delete(Option<i64>),
    Get,
    /// All objects; the operation's `object` means nothing.
    List,
}

#[derive(Clone, Debug)]
pub(crate) enum Answer {
    /// Written, at this revision.
    Done(i64),
    /// Deleted, without a word of the revision at which; the call must name the one that it deletes, so that it is known by it.
    Gone,
    /// The object, as it was since this revision.
    Read(i64, State),
    /// The state at this revision: each object with the revision of its last change.
    Listed(i64, BTreeMap<String, (i64, State)>),
    /// There is no such object.
    Absent,
    /// There is one already.
    Exists,
    /// It is not at the revision that was named.
    Conflict,
    /// Nothing was written, and nothing is said about the object.
    Refused,
    /// No answer came: it may have been done, or not.
    Unknown,
}

#[derive(Clone, Debug)]
pub(crate) struct Operation {
    pub(crate) object: String,
    pub(crate) call: Call,
    pub(crate) answer: Answer,
    /// Ticks of one clock that only rises: before the request was sent, and after the answer was read.
    pub(crate) began: u64,
    pub(crate) ended: u64,
}

/// One entry of the log: what an object is after this revision; `None` is gone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) revision: i64,
    pub(crate) object: String,
    pub(crate) state: Option<State>,
}

/// Writes down what clients do, from as many tasks as there are.
#[derive(Default)]
pub(crate) struct Recorder {
    /// The clock's last tick, and what has ended.
    seen: Mutex<(u64, Vec<Operation>)>,
}

impl Recorder {
    /// Performs one operation and keeps it with its answer, which is returned.
    pub(crate) async fn perform(&self, object: &str, call: Call, answer: impl Future<Output = Answer>) -> Answer {
        let began = self.tick();
        let answer = answer.await;
        let mut seen = self.seen.lock().unwrap();
        seen.0 += 1;
        let ended = seen.0;
        seen.1.push(Operation { object: object.into(), call, answer: answer.clone(), began, ended });
        answer
    }

    fn tick(&self) -> u64 {
        let mut seen = self.seen.lock().unwrap();
        seen.0 += 1;
        seen.0
    }

    pub(crate) fn operations(self) -> Vec<Operation> {
        self.seen.into_inner().unwrap().1
    }
}

/// Says what is wrong with a history whose log is whole: it begins where no object exists, and ends after the last operation.
pub(crate) fn check(operations: &[Operation], log: &[Entry]) -> Result<(), String> {
    let line = Line::new(log)?;
    let written = line.attribute(operations)?;
    let mut began: Vec<usize> = (0..operations.len()).collect();
    began.sort_by_key(|index| operations[*index].began);
    let mut ended: Vec<usize> = began.iter().copied().filter(|index| !matches!(operations[*index].answer, Answer::Unknown)).collect();
    ended.sort_by_key(|index| operations[*index].ended);
    let (mut points, mut bound, mut past) = (vec![0; operations.len()], (0, None), ended.into_iter().peekable());
    for index in began {
        let operation = &operations[index];
        while let Some(earlier) = past.next_if(|earlier| operations[*earlier].ended < operation.began) {
            if points[earlier] > bound.0 {
                bound = (points[earlier], Some(earlier));
            }
        }
        let allowed = line.allowed(operation, written.get(&index).copied())?;
        // The earliest point that will do leaves the most room to those that follow. What has no place is no operation.
        let Some(allowed) = allowed else { continue };
        let point = allowed.iter().filter(|(_, to)| *to >= bound.0).map(|(from, _)| *from.max(&bound.0)).min();
        points[index] = point.ok_or_else(|| {
            let after = bound.1.map(|earlier| &operations[earlier]);
            format!("{operation:?} is true nowhere after {after:?}, which had ended before it began")
        })?;
    }
    Ok(())
}

/// Points of time: a write is at twice its revision, and what is true until the next is at the odd one behind it.
fn at(revision: i64) -> i64 {
    2 * revision
}

/// From and to which point, both inclusive.
type Span = (i64, i64);

/// The log, by object: the entries, each with what was before it.
struct Line<'a> {
    log: &'a [Entry],
    objects: HashMap<&'a str, Vec<&'a Entry>>,
}

impl<'a> Line<'a> {
    fn new(log: &'a [Entry]) -> Result<Self, String> {
        let mut objects: HashMap<&str, Vec<&Entry>> = HashMap::new();
        if let Some([first, second]) = log.windows(2).find(|pair| pair[0].revision >= pair[1].revision) {
            return Err(format!("the log is out of order: {first:?} before {second:?}"));
        }
        for entry in log {
            objects.entry(&entry.object).or_default().push(entry);
        }
        Ok(Self { log, objects })
    }

    /// Every state of an object with its span; first of all, it is absent.
    fn states(&self, object: &str) -> Vec<(Span, i64, Option<&'a State>)> {
        let entries = self.objects.get(object).map(Vec::as_slice).unwrap_or_default();
        let starts = std::iter::once((1, 0, None)).chain(entries.iter().map(|e| (at(e.revision) + 1, e.revision, e.state.as_ref())));
        let ends = entries.iter().map(|entry| at(entry.revision) - 1).chain([i64::MAX]);
        starts.zip(ends).map(|((from, revision, state), to)| ((from, to), revision, state)).collect()
    }

    /// Which operation wrote which revision. Each entry has one, and each acknowledged write its entry.
    fn attribute(&self, operations: &[Operation]) -> Result<HashMap<usize, i64>, String> {
        let (mut done, mut open) = (HashMap::new(), HashMap::<&str, Vec<usize>>::new());
        for (index, operation) in operations.iter().enumerate() {
            match operation.answer {
                Answer::Done(revision) => {
                    if let Some(other) = done.insert(revision, index) {
                        return Err(format!("{operation:?} and {:?} have one revision", operations[other]));
                    }
                }
                Answer::Gone if !matches!(operation.call, Call::Delete(Some(_))) => {
                    return Err(format!("{operation:?} does not name what it deleted"));
                }
                Answer::Gone | Answer::Unknown => open.entry(&operation.object).or_default().push(index),
                _ => {}
            }
        }
        // Deletions look alike. One that was acknowledged was it; else the earliest may have been whenever a later one may.
        let order = |index: &usize| (matches!(operations[*index].answer, Answer::Unknown), operations[*index].began);
        open.values_mut().for_each(|indexes| indexes.sort_by_key(order));
        let (mut before, mut written) = (HashMap::<&str, &Entry>::new(), HashMap::new());
        for entry in self.log {
            let previous = before.insert(&entry.object, entry);
            let fits = |index: &usize| makes(&operations[*index], previous, entry.state.as_ref());
            let index = if let Some(index) = done.remove(&entry.revision) {
                if operations[index].object != entry.object || !fits(&index) {
                    return Err(format!("{:?} made {entry:?} of {previous:?}", operations[index]));
                }
                index
            } else {
                let open = open.entry(&entry.object).or_default();
                let found = open.iter().position(fits).ok_or_else(|| format!("nobody made {entry:?} of {previous:?}"))?;
                open.remove(found)
            };
            written.insert(index, entry.revision);
        }
        let gone = open.values().flatten().find(|index| matches!(operations[**index].answer, Answer::Gone));
        match done.values().next().or(gone) {
            Some(lost) => Err(format!("{:?} was acknowledged and is not in the log", operations[*lost])),
            None => Ok(written),
        }
    }

    /// At which points the operation's answer is true; `None` when it says nothing and did nothing.
    fn allowed(&self, operation: &Operation, written: Option<i64>) -> Result<Option<Vec<Span>>, String> {
        let states = || self.states(&operation.object).into_iter();
        let spans: Vec<Span> = match &operation.answer {
            Answer::Done(_) | Answer::Gone | Answer::Unknown => match written {
                Some(revision) => vec![(at(revision), at(revision))],
                None => return Ok(None),
            },
            Answer::Refused => return Ok(None),
            Answer::Read(revision, read) => {
                states().filter(|(_, r, state)| r == revision && *state == Some(read)).map(|(span, ..)| span).collect()
            }
            Answer::Absent => states().filter(|(.., state)| state.is_none()).map(|(span, ..)| span).collect(),
            Answer::Exists => states().filter(|(.., state)| state.is_some()).map(|(span, ..)| span).collect(),
            Answer::Conflict => match operation.call {
                Call::Update(Some(named), _) | Call::Delete(Some(named)) => {
                    states().filter(|(_, r, state)| *r != named && state.is_some()).map(|(span, ..)| span).collect()
                }
                _ => return Err(format!("{operation:?} names no revision that could conflict")),
            },
            Answer::Listed(revision, read) => {
                let mut is_true = read.keys().all(|object| self.objects.contains_key(object.as_str()));
                for object in self.objects.keys() {
                    let now = self.states(object).into_iter().find(|((from, to), ..)| (*from..=*to).contains(&(at(*revision) + 1)));
                    let now = now.and_then(|(_, revision, state)| state.map(|state| (revision, state)));
                    is_true &= now == read.get(*object).map(|(revision, state)| (*revision, state));
                }
                if is_true { vec![(at(*revision) + 1, at(*revision) + 1)] } else { Vec::new() }
            }
        };
        if spans.is_empty() { Err(format!("{operation:?} was never true")) } else { Ok(Some(spans)) }
    }
}

/// Whether the operation may be done on an object as it was, and makes this of it.
fn makes(operation: &Operation, before: Option<&Entry>, after: Option<&State>) -> bool {
    let now = before.and_then(|entry| entry.state.as_ref().map(|state| (entry.revision, state)));
    match (&operation.call, now) {
        (Call::Create(to), None) => after == Some(to),
        (Call::Update(named, to), Some((revision, _))) => named.is_none_or(|named| named == revision) && after == Some(to),
        (Call::Patch(change), Some((_, state))) => {
            let patched: State = state.iter().chain(change).map(|(k, v)| (k.clone(), v.clone())).collect();
            after == Some(&patched)
        }
        (Call::Delete(named), Some((revision, _))) => named.is_none_or(|named| named == revision) && after.is_none(),
        _ => false,
    }
}
