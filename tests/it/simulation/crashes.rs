//! A hub that dies at any point of a life, once and twice, comes to the same end.

use super::gate::Plan;
use super::life::{each, live, put_back};

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

#[test]
fn a_hub_that_dies_at_any_point_comes_to_the_same_end() {
    let points = live("none died", 0, vec![]).points;
    each(points.len(), |point| {
        let lived = live(&format!("died at {point}, {:?}", points[point]), 0, vec![dying_at(point)]);
        assert_eq!(lived.died, 1, "point {point} of {}, {:?}, was not reached", points.len(), points[point]);
    });
    eprintln!("{} points", points.len());
}

/// Also where it puts a Machine back: with the points of a plain life there are more than three hundred.
#[test]
fn a_hub_that_dies_at_any_point_puts_back_what_failed() {
    let points = put_back("none died", 0, vec![]).points;
    each(points.len(), |point| {
        let lived = put_back(&format!("died at {point}, {:?}", points[point]), 0, vec![dying_at(point)]);
        assert_eq!(lived.died, 1, "point {point} of {}, {:?}, was not reached", points.len(), points[point]);
    });
    eprintln!("{} points", points.len());
    assert!(points.len() > 300, "{}", points.len());
}

/// The second death comes in the recovery from the first: some points after the start.
#[test]
fn a_hub_that_dies_again_while_it_recovers_comes_to_the_same_end() {
    let points = live("none died", 0, vec![]).points.len();
    let pairs = super::runs(120);
    let reached = std::sync::atomic::AtomicUsize::new(0);
    each(pairs, |pair| {
        // Spread over both, without a pattern between them.
        let (first, second) = (pair * 7919 % points, pair * 104_729 % 40);
        let lived = live(&format!("died at {first}, then at {second}"), 0, vec![dying_at(first), dying_at(second)]);
        assert!(lived.died >= 1, "{first} was not reached");
        reached.fetch_add(usize::from(lived.died == 2), std::sync::atomic::Ordering::Relaxed);
    });
    let reached = reached.into_inner();
    eprintln!("{reached} of {pairs} pairs");
    assert!(reached * 10 > pairs * 8, "only {reached} of {pairs} second points were reached");
}
