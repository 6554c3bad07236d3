//! A hub that dies at any point of a life, once and twice, comes to the same end.

use super::gate::Plan;
use super::life::{each, live};

fn dying_at(point: usize) -> Plan {
    Plan { die_at: Some(point), ..Plan::default() }
}

#[test]
fn a_life_is_the_same_in_each_run() {
    let (first, second) = (live("first", vec![]).points, live("second", vec![]).points);
    assert!(first.len() > 150, "{}", first.len());
    let differs = first.iter().zip(&second).position(|(first, second)| first != second);
    assert_eq!(differs.map(|at| (&first[at], &second[at])), None);
    assert_eq!(first.len(), second.len());
}

#[test]
#[ignore = "a minute and more; docs/testing.md"]
fn a_hub_that_dies_at_any_point_comes_to_the_same_end() {
    let points = live("none died", vec![]).points;
    each(points.len(), |point| {
        let lived = live(&format!("died at {point}, {:?}", points[point]), vec![dying_at(point)]);
        assert_eq!(lived.died, 1, "point {point} of {}, {:?}, was not reached", points.len(), points[point]);
    });
    eprintln!("{} points", points.len());
}

/// The second death comes in the recovery from the first: some points after the start.
#[test]
#[ignore = "a minute and more; docs/testing.md"]
fn a_hub_that_dies_again_while_it_recovers_comes_to_the_same_end() {
    let points = live("none died", vec![]).points.len();
    let pairs = super::runs(120);
    let reached = std::sync::atomic::AtomicUsize::new(0);
    each(pairs, |pair| {
        // Spread over both, without a pattern between them.
        let (first, second) = (pair * 7919 % points, pair * 104_729 % 40);
        let lived = live(&format!("died at {first}, then at {second}"), vec![dying_at(first), dying_at(second)]);
        assert!(lived.died >= 1, "{first} was not reached");
        reached.fetch_add(usize::from(lived.died == 2), std::sync::atomic::Ordering::Relaxed);
    });
    let reached = reached.into_inner();
    eprintln!("{reached} of {pairs} pairs");
    assert!(reached * 10 > pairs * 8, "only {reached} of {pairs} second points were reached");
}
