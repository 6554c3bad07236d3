use super::*;
use rand::{Rng, SeedableRng, rngs::StdRng};

const DOLLAR: i64 = 1_000_000_000;

fn level(name: &str, dollars: i64) -> Level {
    Level { name: name.into(), remedy: format!("spec.limits of {name}"), money: Some(NanoUsd(dollars * DOLLAR)), api_calls: None }
}

fn whole(amount: i64) -> Demand {
    Demand { fixed: NanoUsd(amount), per_token: NanoUsd(0), wanted: 1, floor: 1 }
}

#[test]
fn the_case_of_the_specification() {
    let limit = level("Budget a", 10);
    let mut used = Used { money: NanoUsd(6 * DOLLAR + DOLLAR / 2), ..Used::default() };
    let ask = |used: &mut Used| match reserve(&[(limit.clone(), *used)], &whole(DOLLAR)) {
        Ok(grant) => {
            used.reserved.0 += grant.money.0;
            true
        }
        Err(refusal) => {
            assert!(refusal.passing, "the others may settle for less");
            false
        }
    };
    // Closing (0.50) is counted as spent here: 3.50 remain, room for three.
    assert_eq!([0; 5].map(|_| ask(&mut used)), [true, true, true, false, false]);
    let posting = end(LeaseState::Open, NanoUsd(DOLLAR), Ending::Settle { actual: NanoUsd(DOLLAR / 5) }).unwrap();
    used.money.0 += posting.money.0;
    used.reserved.0 += posting.reserved.0;
    assert_eq!([0; 2].map(|_| ask(&mut used)), [true, false]);
}

#[test]
fn output_is_cut_to_what_remains_and_refused_below_the_floor() {
    let demand = Demand { fixed: NanoUsd(100), per_token: NanoUsd(10), wanted: 1000, floor: 50 };
    let at = |room: i64| reserve(&[(Level { money: Some(NanoUsd(room)), ..level("m", 0) }, Used::default())], &demand);
    assert_eq!(at(20_000), Ok(Grant { tokens: 1000, money: NanoUsd(10_100) }));
    assert_eq!(at(1_109), Ok(Grant { tokens: 100, money: NanoUsd(1_100) }));
    assert_eq!(at(600), Ok(Grant { tokens: 50, money: NanoUsd(600) }));
    let refusal = at(599).unwrap_err();
    assert!(!refusal.passing);
    assert_eq!(refusal.resource, Resource::Money { limit: NanoUsd(599), used: NanoUsd(0), reserved: NanoUsd(0), needed: NanoUsd(600) });
}

#[test]
fn the_tightest_level_decides_and_is_named() {
    let levels =
        [(level("Budget company", 100), Used::default()), (level("Machine shop/m", 1), Used { money: NanoUsd(DOLLAR), ..Used::default() })];
    let text = reserve(&levels, &whole(DOLLAR / 10)).unwrap_err().to_string();
    assert_eq!(
        text,
        "money of Machine shop/m: $1.00 of $1.00 are spent and $0.00 reserved by calls that run, $0.00 remain, and this call may cost $0.10. \
         It does not come back by itself; whoever may edit it can raise spec.limits of Machine shop/m.money"
    );
}

#[test]
fn calls_are_limited_like_money() {
    let calls = Level { money: None, api_calls: Some(2), ..level("Machine m", 0) };
    let at = |api_calls| reserve(&[(calls.clone(), Used { api_calls, ..Used::default() })], &whole(1)).is_ok();
    assert_eq!([at(0), at(1), at(2), at(3)], [true, true, false, false]);
}

/// Random trees of two to four levels under random operations: no limit is ever passed by charged + reserved while actual
/// costs stay within their worst case, every lease ends once, and at the end exactly what was settled is charged.
#[test]
fn any_sequence_keeps_the_limits_and_ends_each_lease_once() {
    for seed in 0..200 {
        let mut random = StdRng::seed_from_u64(seed);
        let depth = random.random_range(2..5);
        let mut levels: Vec<(Level, Used)> = (0..depth)
            .map(|i| (Level { money: Some(NanoUsd(random.random_range(0..5000))), ..level(&format!("l{i}"), 0) }, Used::default()))
            .collect();
        let (mut leases, mut settled) = (Vec::new(), 0);
        for _ in 0..300 {
            match random.random_range(0..4) {
                0 => {
                    let demand = Demand {
                        fixed: NanoUsd(random.random_range(0..300)),
                        per_token: NanoUsd(random.random_range(0..5)),
                        wanted: random.random_range(1..200),
                        floor: random.random_range(0..50),
                    };
                    if let Ok(grant) = reserve(&levels, &demand) {
                        assert!(grant.tokens <= demand.wanted);
                        levels.iter_mut().for_each(|(_, used)| used.reserved.0 += grant.money.0);
                        leases.push((LeaseState::Open, grant.money, NanoUsd(0)));
                    }
                }
                n if !leases.is_empty() => {
                    let index = random.random_range(0..leases.len());
                    let (state, reserved, charged) = &mut leases[index];
                    let ending = match n {
                        1 => Ending::Settle { actual: NanoUsd(random.random_range(0..=reserved.0)) },
                        2 => Ending::Release,
                        _ => Ending::Expire,
                    };
                    let before = *state;
                    match end(*state, *reserved, ending) {
                        None => assert!(matches!(
                            (before, ending),
                            (LeaseState::Settled | LeaseState::Released, _) | (LeaseState::Expired, Ending::Expire)
                        )),
                        Some(posting) => {
                            assert!(matches!(before, LeaseState::Open | LeaseState::Expired));
                            levels.iter_mut().for_each(|(_, used)| {
                                used.money.0 += posting.money.0;
                                used.reserved.0 += posting.reserved.0;
                            });
                            charged.0 += posting.money.0;
                            *state = posting.state;
                            if let Ending::Settle { actual } = ending {
                                assert_eq!(charged.0, actual.0, "a late settle corrects to the true cost");
                                settled += actual.0;
                            }
                        }
                    }
                }
                _ => {}
            }
            for (level, used) in &levels {
                assert!(used.money.0 + used.reserved.0 <= level.money.unwrap().0, "seed {seed}: {level:?} {used:?}");
                assert!(used.reserved.0 >= 0 && used.money.0 >= 0);
            }
        }
        let open: i64 = leases.iter().filter(|l| l.0 == LeaseState::Open).map(|l| l.1.0).sum();
        let expired: i64 = leases.iter().filter(|l| l.0 == LeaseState::Expired).map(|l| l.1.0).sum();
        assert_eq!((levels[0].1.money.0, levels[0].1.reserved.0), (settled + expired, open));
    }
}
