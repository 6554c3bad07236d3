//! A hub that dies at any point of a life, once and twice, comes to the same end.

use super::gate::Plan;
use super::life::{Kind, Lived, each, live, live_as, live_on_postgres};

pub(super) fn dying_at(point: usize) -> Plan {
    Plan { die_at: Some(point), ..Plan::default() }
}

/// Nothing but its seed decides what becomes of a hub: also on a busy machine each point has its time and its names.
#[test]
fn a_life_is_the_same_in_each_run() {
    each(8, |number| {
        let (seed, stormy) = (number as u64 / 2, number % 2 == 1);
        let lived = |what| live(what, seed, if stormy { super::faults::storms(seed) } else { vec![] }).points;
        let (first, second) = (lived("first"), lived("second"));
        let differs = first.iter().zip(&second).position(|(first, second)| first != second);
        assert_eq!(differs.map(|at| (&first[at], &second[at])), None, "seed {seed}, stormy: {stormy}");
        assert_eq!(first.len(), second.len());
        assert!(first.len() > 150 || stormy, "{}", first.len());
    });
}

/// A life for each `nth` of the points of this kind, all with `AUTOVIBE_RUNS`=nth, in which the hub dies there. Returns how many points
/// there are; `None` where what it runs on is not there.
fn dies_at_each(nth: usize, live: impl Fn(&str, Vec<Plan>) -> Option<Lived> + Sync) -> Option<usize> {
    let points = live("none died", vec![])?.points;
    let nth = nth.div_ceil(super::runs(1));
    each(points.len().div_ceil(nth), |case| {
        let point = case * nth;
        let lived = live(&format!("died at {point}, {:?}", points[point]), vec![dying_at(point)]).unwrap();
        assert_eq!(lived.died, 1, "point {point} of {}, {:?}, was not reached", points.len(), points[point]);
    });
    eprintln!("{} of {} points", points.len().div_ceil(nth), points.len());
    Some(points.len())
}

fn on_sqlite(kind: Kind) -> impl Fn(&str, Vec<Plan>) -> Option<Lived> + Sync {
    move |what, plans| Some(live_as(kind, None, what, 0, plans))
}

#[test]
fn a_hub_that_dies_at_any_point_comes_to_the_same_end() {
    dies_at_each(1, on_sqlite(Kind::Plain));
}

/// Also where it puts a Machine back: with the points of a plain life there are more than three hundred.
#[test]
fn a_hub_that_dies_at_any_point_puts_back_what_failed() {
    assert!(dies_at_each(1, on_sqlite(Kind::PutBack)) > Some(300));
}

#[test]
fn a_hub_that_dies_at_any_point_suspends_and_goes_on() {
    assert!(dies_at_each(3, on_sqlite(Kind::Suspended)) > Some(300));
}

#[test]
fn a_hub_that_dies_at_any_point_suspends_and_goes_on_from_memory() {
    assert!(dies_at_each(1, on_sqlite(Kind::Kept)) > Some(300));
}

#[test]
fn a_hub_that_dies_at_any_point_forks_what_works() {
    assert!(dies_at_each(8, on_sqlite(Kind::Forked)) > Some(600));
}

/// There a hub that died is succeeded by another leader, which may share the database with others.
#[test]
fn a_hub_that_dies_at_any_point_on_postgresql_comes_to_the_same_end() {
    let live = |what: &str, plans| live_on_postgres(Kind::Plain, what, plans);
    let (Some(first), Some(second)) = (live("none died", vec![]), live("none died again", vec![])) else { return };
    let differs = first.points.iter().zip(&second.points).position(|(first, second)| first != second);
    assert_eq!(differs.map(|at| (at, &first.points[at], &second.points[at])), None);
    assert!(dies_at_each(3, live) > Some(200));
}

/// Points of the recovery.
const SECONDS: usize = 40;

/// The second death comes in the recovery from the first: some points after the start.
#[test]
fn a_hub_that_dies_again_while_it_recovers_comes_to_the_same_end() {
    let points = live("none died", 0, vec![]).points.len();
    let pairs = super::runs(2000);
    assert!(pairs <= points * SECONDS, "{pairs} pairs of {points} points");
    let reached = std::sync::atomic::AtomicUsize::new(0);
    each(pairs, |pair| {
        // Spread over both, none twice: it has no divisor with their number in common.
        let pair = pair * 7919 % (points * SECONDS);
        let (first, second) = (pair / SECONDS, pair % SECONDS);
        let lived = live(&format!("died at {first}, then at {second}"), 0, vec![dying_at(first), dying_at(second)]);
        assert!(lived.died >= 1, "{first} was not reached");
        reached.fetch_add(usize::from(lived.died == 2), std::sync::atomic::Ordering::Relaxed);
    });
    let reached = reached.into_inner();
    eprintln!("{reached} of {pairs} pairs");
    assert!(reached * 10 > pairs * 8, "only {reached} of {pairs} second points were reached");
}
