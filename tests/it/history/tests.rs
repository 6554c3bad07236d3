//! The checker is checked: histories that are linearizable, and for each way to lie one that does.

use super::{Answer, Call, Entry, Operation, State, check};

fn state(value: &str) -> State {
    [("k".to_owned(), value.to_owned())].into()
}

fn operation((began, ended): (u64, u64), call: Call, answer: Answer) -> Operation {
    Operation { object: "a".into(), call, answer, began, ended }
}

fn entry(revision: i64, value: Option<&str>) -> Entry {
    Entry { revision, object: "a".into(), state: value.map(state) }
}

fn create(during: (u64, u64), value: &str, answer: Answer) -> Operation {
    operation(during, Call::Create(state(value)), answer)
}

fn update(during: (u64, u64), at: i64, value: &str, answer: Answer) -> Operation {
    operation(during, Call::Update(Some(at), state(value)), answer)
}

fn read(during: (u64, u64), revision: i64, value: &str) -> Operation {
    operation(during, Call::Get, Answer::Read(revision, state(value)))
}

fn absent(during: (u64, u64)) -> Operation {
    operation(during, Call::Get, Answer::Absent)
}

fn listed(during: (u64, u64), revision: i64, of: &[(i64, &str)]) -> Operation {
    let items = of.iter().map(|(revision, value)| ("a".to_owned(), (*revision, state(value)))).collect();
    operation(during, Call::List, Answer::Listed(revision, items))
}

/// Made, changed, gone, made again; with whoever looks at the right moments.
fn log() -> Vec<Entry> {
    vec![entry(3, Some("one")), entry(5, Some("two")), entry(6, None), entry(9, Some("three"))]
}

fn writes() -> Vec<Operation> {
    vec![
        create((10, 20), "one", Answer::Done(3)),
        update((30, 40), 3, "two", Answer::Done(5)),
        operation((50, 60), Call::Delete(None), Answer::Done(6)),
        create((70, 80), "three", Answer::Done(9)),
    ]
}

fn with(more: Vec<Operation>) -> Vec<Operation> {
    let mut operations = writes();
    operations.extend(more);
    operations
}

#[test]
fn what_is_linearizable_passes() {
    let passes: &[(&str, Vec<Operation>)] = &[
        ("the writes alone", writes()),
        ("a read beside a write sees the state before", with(vec![read((31, 39), 3, "one")])),
        ("or the one behind", with(vec![read((31, 32), 5, "two"), read((33, 34), 5, "two")])),
        ("absent before, between and while it is made", with(vec![absent((1, 2)), absent((61, 69)), absent((71, 72))])),
        ("a conflict with what came between", with(vec![update((35, 45), 3, "x", Answer::Conflict)])),
        ("made twice", with(vec![create((21, 22), "x", Answer::Exists)])),
        ("lists", with(vec![listed((1, 2), 2, &[]), listed((21, 22), 4, &[(3, "one")]), listed((61, 62), 7, &[])])),
        ("lost, and not done", with(vec![create((1, 2), "lost", Answer::Unknown)])),
        ("refused", with(vec![create((1, 2), "no", Answer::Refused)])),
    ];
    for (what, operations) in passes {
        assert_eq!(check(operations, &log()), Ok(()), "{what}");
    }
    // A reply that was lost: the write is there, also long after the client gave up.
    let mut lost = writes();
    (lost[1].answer, lost[1].ended) = (Answer::Unknown, 31);
    lost.push(read((32, 33), 3, "one"));
    lost.push(read((34, 35), 5, "two"));
    assert_eq!(check(&lost, &log()), Ok(()));
    // A deletion that was only acknowledged, beside one whose reply was lost.
    let mut gone = writes();
    gone[2] = operation((50, 60), Call::Delete(Some(5)), Answer::Gone);
    gone.push(operation((45, 46), Call::Delete(Some(5)), Answer::Unknown));
    assert_eq!(check(&gone, &log()), Ok(()));
    // Which of two lost deletions it was matters not.
    let mut lost = writes();
    lost[2].answer = Answer::Unknown;
    lost.push(operation((55, 56), Call::Delete(None), Answer::Unknown));
    assert_eq!(check(&lost, &log()), Ok(()));
}

#[test]
fn each_lie_is_found() {
    let patch = |during, answer| operation(during, Call::Patch([("p".to_owned(), "1".to_owned())].into()), answer);
    let mut swapped = writes();
    (swapped[0].began, swapped[0].ended) = (31, 41);
    (swapped[1].began, swapped[1].ended) = (11, 21);
    let mut replaced = log();
    replaced.insert(1, Entry { state: Some([("p".to_owned(), "1".to_owned())].into()), ..entry(4, None) });
    let mut over = writes();
    over[1] = update((30, 40), 2, "two", Answer::Done(5));
    let mut deleted = writes();
    deleted[2].answer = Answer::Done(7);
    let mut twice = log();
    twice.insert(1, entry(4, Some("two")));
    let mut unordered = log();
    unordered.swap(0, 1);
    let lies: &[(&str, Vec<Operation>, Vec<Entry>, &str)] = &[
        ("a stale read", with(vec![read((41, 42), 3, "one")]), log(), "is true nowhere after"),
        ("a read goes back", with(vec![read((31, 32), 5, "two"), read((33, 34), 3, "one")]), log(), "is true nowhere after"),
        ("a read from the future", with(vec![read((21, 22), 5, "two")]), log(), "is true nowhere after"),
        ("a value that no one wrote", with(vec![read((21, 22), 3, "other")]), log(), "was never true"),
        ("a revision that is not", with(vec![read((21, 22), 4, "one")]), log(), "was never true"),
        ("absent while it is there", with(vec![absent((21, 29))]), log(), "is true nowhere after"),
        ("there while it is absent", with(vec![create((61, 69), "x", Answer::Exists)]), log(), "is true nowhere after"),
        ("a conflict with nothing", with(vec![update((21, 29), 3, "x", Answer::Conflict)]), log(), "is true nowhere after"),
        ("a conflict of what names no revision", with(vec![patch((21, 29), Answer::Conflict)]), log(), "names no revision"),
        ("an acknowledged write that is lost", with(vec![patch((21, 22), Answer::Done(4))]), log(), "is not in the log"),
        (
            "an acknowledged deletion that is lost",
            with(vec![operation((81, 82), Call::Delete(Some(9)), Answer::Gone)]),
            log(),
            "is not in the log",
        ),
        ("a write without a writer", writes()[..3].to_vec(), log(), "nobody made"),
        (
            "a refused write that is there",
            {
                let mut w = writes();
                w[3].answer = Answer::Refused;
                w
            },
            log(),
            "nobody made",
        ),
        (
            "a lost write done twice",
            {
                let mut w = writes();
                w[1].answer = Answer::Unknown;
                w
            },
            twice,
            "nobody made",
        ),
        ("a revision given twice", with(vec![patch((21, 22), Answer::Done(5))]), log(), "have one revision"),
        ("a patch that drops another's key", with(vec![patch((21, 22), Answer::Done(4))]), replaced, "made Entry"),
        ("an update over another's", over, log(), "made Entry"),
        ("a deletion that is none", deleted, log(), "nobody made"),
        ("revisions against real time", swapped, log(), "is true nowhere after"),
        ("a log out of order", writes(), unordered, "out of order"),
        ("a list from before", with(vec![listed((41, 42), 4, &[(3, "one")])]), log(), "is true nowhere after"),
        ("a list without an object", with(vec![listed((31, 39), 4, &[])]), log(), "was never true"),
        ("a list of a state that is past", with(vec![listed((31, 39), 5, &[(3, "one")])]), log(), "was never true"),
        ("a list with what was never there", with(vec![listed((31, 39), 4, &[(3, "two")])]), log(), "was never true"),
    ];
    for (what, operations, log, says) in lies {
        let said = check(operations, log).expect_err(what);
        assert!(said.contains(says), "{what}: {said}");
    }
}
