//! Tables of small lineages, and properties over many random ones.

use super::*;
use crate::api::checkpoint::{CheckpointSpec, CheckpointStatus, Import};
use crate::api::checkpoint::{Keep, Trigger};
use crate::api::machine::{From, FromMachine, MachineSpec, MachineStatus, Phase, Retention, VmStatus};
use crate::api::quantity::{Bytes, GoDuration};
use std::time::Duration;

/// Wednesday, 2026-11-25 12:30 UTC.
const NOW: jiff::Timestamp = jiff::Timestamp::constant(1_795_609_800, 0);

fn machine(name: &str, phase: Phase, change: impl FnOnce(&mut MachineSpec, &mut MachineStatus)) -> Machine {
    let (mut spec, mut status) = (MachineSpec::default(), MachineStatus { phase, ..Default::default() });
    if phase == Phase::Running {
        status.vm = Some(VmStatus::default());
    }
    change(&mut spec, &mut status);
    let mut machine = Machine::new("shop", name, spec);
    machine.metadata.uid = Some(format!("uid-{name}"));
    machine.status = Some(status);
    machine
}

/// Checkpoint `<machine>-<turn>` with its parent; `uid-<machine>` is its Machine's uid.
fn checkpoint(machine: &str, turn: u64, parent: Option<&str>) -> Checkpoint {
    let spec = CheckpointSpec { machine: Some(machine.into()), trigger: Trigger::BetweenMessages, ..Default::default() };
    let mut checkpoint = Checkpoint::new("shop", &format!("{machine}-{turn:04}"), spec);
    checkpoint.status = Some(CheckpointStatus {
        phase: CheckpointPhase::Ready,
        machine_uid: Some(format!("uid-{machine}")),
        parent: parent.map(Into::into),
        session: Some(crate::api::checkpoint::Session { turn, ..Default::default() }),
        ..Default::default()
    });
    checkpoint
}

fn with(mut checkpoint: Checkpoint, change: impl FnOnce(&mut Checkpoint)) -> Checkpoint {
    change(&mut checkpoint);
    checkpoint
}

fn import(name: &str) -> Checkpoint {
    let spec = CheckpointSpec { import: Some(Import::of_image("debian")), trigger: Trigger::Import, ..Default::default() };
    let mut checkpoint = Checkpoint::new("shop", name, spec);
    checkpoint.status = Some(CheckpointStatus { phase: CheckpointPhase::Ready, ..Default::default() });
    checkpoint
}

fn keep(n: u32) -> impl FnOnce(&mut MachineSpec, &mut MachineStatus) {
    move |spec, _| spec.checkpoints.retention.keep_last = n
}

fn names(found: &[&Checkpoint]) -> Vec<String> {
    found.iter().map(|checkpoint| checkpoint.name().to_owned()).collect()
}

fn chain(machine: &str, count: u64) -> Vec<Checkpoint> {
    (1..=count).map(|turn| checkpoint(machine, turn, None)).collect()
}

#[test]
fn the_newest_of_a_machine_stay() {
    let (machines, checkpoints) = ([machine("a", Phase::Running, keep(2))], chain("a", 5));
    assert_eq!(names(&Lineage::new(&checkpoints, &machines).collectable("a", NOW)), ["a-0001", "a-0002", "a-0003"]);
    assert_eq!(names(&Lineage::new(&checkpoints, &machines).collectable("b", NOW)), Vec::<String>::new());
}

#[test]
fn order_is_by_time_before_turn() {
    let time = |second| Time(jiff::Timestamp::from_second(second).unwrap());
    let mut checkpoints = chain("a", 3);
    for (checkpoint, second) in checkpoints.iter_mut().zip([30, 10, 20]) {
        checkpoint.status.as_mut().unwrap().captured_at = Some(time(second));
    }
    let machines = [machine("a", Phase::Running, keep(1))];
    assert_eq!(names(&Lineage::new(&checkpoints, &machines).collectable("a", NOW)), ["a-0002", "a-0003"]);
}

#[test]
fn a_machine_that_goes_on_keeps_its_newest_whatever_its_retention() {
    let checkpoints = chain("a", 2);
    for (phase, expect) in [(Phase::Running, vec!["a-0001"]), (Phase::Succeeded, vec!["a-0001", "a-0002"])] {
        let machines = [machine("a", phase, keep(0))];
        assert_eq!(names(&Lineage::new(&checkpoints, &machines).collectable("a", NOW)), expect, "{phase:?}");
    }
}

#[test]
fn what_a_machine_goes_on_from_stays_whatever_its_time_says() {
    // Taken with a clock that was an hour behind.
    let mut checkpoints = chain("a", 3);
    for (checkpoint, hours) in checkpoints.iter_mut().zip([2, 1, 3]) {
        checkpoint.status.as_mut().unwrap().captured_at = Some(Time(NOW - jiff::SignedDuration::from_hours(hours)));
    }
    let going = |phase, keep_last, max_bytes: Option<u64>| {
        let machine = machine("a", phase, |spec, status| {
            spec.checkpoints.retention = Retention { keep_last, max_bytes: max_bytes.map(Bytes), ..Retention::default() };
            (status.last_checkpoint, status.checkpoint_bytes) = (Some("a-0003".into()), Some(9));
        });
        names(&Lineage::new(&checkpoints, &[machine]).collectable("a", NOW))
    };
    assert_eq!(going(Phase::Running, 1, None), ["a-0001"]);
    assert_eq!(going(Phase::Running, 3, Some(8)), ["a-0001"]);
    assert_eq!(going(Phase::Succeeded, 1, None), ["a-0003", "a-0001"]);
}

#[test]
fn a_checkpoint_counts_as_taken_after_those_before_it() {
    let at = |seconds| Time(NOW + jiff::SignedDuration::from_secs(seconds));
    assert_eq!(stamp(at(0), None), at(0));
    assert_eq!(stamp(at(0), Some(&at(-1))), at(0));
    assert_eq!(stamp(at(0), Some(&at(0))), at(0));
    assert_eq!(stamp(at(0), Some(&at(3600))), at(3601));
}

#[test]
fn a_machine_that_is_gone_lets_nothing_go() {
    let checkpoints = chain("a", 22);
    // Neither does it by a namesake's retention.
    for machines in [vec![], vec![with_uid(machine("a", Phase::Running, keep(1)), "another")]] {
        let judged = Lineage::new(&checkpoints, &machines).judge("a", NOW);
        assert!(judged.iter().all(|judged| judged.kept == [Kept::MachineGone]), "{judged:?}");
        assert_eq!(judged.len(), 22);
    }
}

type Change = fn(&mut Checkpoint);

#[test]
fn above_its_bytes_the_oldest_that_nothing_needs_gives_way_one_at_a_time() {
    let full = |taken: Option<u64>, most: u64| {
        move |spec: &mut MachineSpec, status: &mut MachineStatus| {
            spec.checkpoints.retention = Retention { max_bytes: Some(Bytes(most)), ..Retention::default() };
            status.checkpoint_bytes = taken;
        }
    };
    let of = |checkpoints: &[Checkpoint], phase, taken, most| {
        let machines = [machine("a", phase, full(taken, most))];
        names(&Lineage::new(checkpoints, &machines).collectable("a", NOW))
    };
    let chain = chain("a", 3);
    for (taken, goes) in [(None, vec![]), (Some(10), vec![]), (Some(11), vec!["a-0001"])] {
        assert_eq!(of(&chain, Phase::Running, taken, 10), goes, "{taken:?}");
    }
    // What goes now may be enough: nothing else goes before it is gone.
    let deleted = |n: usize| {
        let mut all = chain.clone();
        all[n].metadata.deletion_timestamp = Some(Time(jiff::Timestamp::UNIX_EPOCH));
        all
    };
    assert_eq!(of(&deleted(0), Phase::Running, Some(11), 10), Vec::<String>::new());
    // The defined loser: the oldest that is Ready and that only the policy keeps.
    let spared: [(&str, Change); 4] = [
        ("forever", |c| c.spec.keep = Keep::Forever),
        ("final", |c| c.spec.trigger = Trigger::Final),
        ("failed", |c| c.status.as_mut().unwrap().phase = CheckpointPhase::Failed),
        ("pending", |c| c.status.as_mut().unwrap().phase = CheckpointPhase::Pending),
    ];
    for (why, change) in spared {
        let mut all = chain.clone();
        change(&mut all[0]);
        assert_eq!(of(&all, Phase::Running, Some(11), 10), ["a-0002"], "{why}");
    }
    let base = machine("b", Phase::Running, |_, status| status.spawned_from = Some("a-0001".into()));
    let machines = [machine("a", Phase::Running, full(Some(11), 10)), base];
    assert_eq!(names(&Lineage::new(&chain, &machines).collectable("a", NOW)), ["a-0002"], "b lives on the oldest");
    // One that goes on keeps its newest, however much it takes.
    for (phase, goes) in [(Phase::Running, vec![]), (Phase::Succeeded, vec!["a-0001"])] {
        assert_eq!(of(&chain[..1], phase, Some(11), 10), goes, "{phase:?}");
    }
    let machines = [machine("a", Phase::Running, full(Some(11), 10))];
    let judged = Lineage::new(&chain, &machines).judge("a", NOW);
    assert_eq!(judged.iter().map(|judged| judged.over).collect::<Vec<_>>(), [true, false, false]);
}

fn with_uid(mut machine: Machine, uid: &str) -> Machine {
    machine.metadata.uid = Some(uid.into());
    machine
}

#[test]
fn final_forever_deleting_pending_and_imported_ones_are_never_collected() {
    let machines = [machine("a", Phase::Succeeded, keep(0))];
    let plain = checkpoint("a", 1, None);
    let spared: [(&str, Checkpoint); 5] = [
        ("final", with(plain.clone(), |c| c.spec.trigger = Trigger::Final)),
        ("forever", with(plain.clone(), |c| c.spec.keep = Keep::Forever)),
        ("deleting", with(plain.clone(), |c| c.metadata.deletion_timestamp = Some(Time(jiff::Timestamp::UNIX_EPOCH)))),
        ("pending", with(plain.clone(), |c| c.status.as_mut().unwrap().phase = CheckpointPhase::Pending)),
        ("import", import("a")),
    ];
    assert_eq!(Lineage::new(&[plain], &machines).collectable("a", NOW).len(), 1);
    for (why, checkpoint) in spared {
        assert_eq!(names(&Lineage::new(&[checkpoint], &machines).collectable("a", NOW)), Vec::<String>::new(), "{why}");
    }
}

/// Checkpoints of machine `a`, taken so many hours before [`NOW`]; the oldest is `a-0001`.
fn taken(hours_ago: &[i64]) -> Vec<Checkpoint> {
    let mut hours_ago = hours_ago.to_vec();
    hours_ago.sort_by_key(|hours| -hours);
    let at = |hours| Time(NOW - jiff::SignedDuration::from_hours(hours));
    let named = |(turn, hours)| with(checkpoint("a", turn, None), |c| c.status.as_mut().unwrap().captured_at = Some(at(hours)));
    (1..).zip(hours_ago).map(named).collect()
}

/// Hours before [`NOW`] of those that stay.
fn stay(hours_ago: &[i64], retention: Retention) -> Vec<i64> {
    let machines = [machine("a", Phase::Succeeded, |spec, _| spec.checkpoints.retention = retention)];
    let checkpoints = taken(hours_ago);
    let judged = Lineage::new(&checkpoints, &machines).judge("a", NOW);
    let hours = |judged: &Judged| NOW.duration_since(taken_at(judged.checkpoint).unwrap().0).as_hours();
    judged.iter().filter(|judged| !judged.kept.is_empty()).map(hours).rev().collect()
}

#[test]
fn a_grid_keeps_all_for_a_time_then_one_of_each_hour_day_and_week() {
    let none = || Retention { keep_last: 0, ..Retention::default() };
    // 12:30 on a Wednesday: 12 hours back is 00:30 of that day, 60 hours back 00:30 of Monday, 61 hours back Sunday.
    let all = [0, 1, 2, 11, 12, 13, 36, 37, 60, 61, 84, 228, 229, 400];
    assert_eq!(stay(&all, none()), Vec::<i64>::new());
    assert_eq!(stay(&all, Retention { keep_last: 2, ..none() }), [0, 1]);
    assert_eq!(stay(&all, Retention { keep_within: Some(GoDuration(Duration::from_hours(13))), ..none() }), [0, 1, 2, 11, 12]);
    assert_eq!(stay(&all, Retention { keep_hourly: Some(4), ..none() }), [0, 1, 2, 11]);
    // The newest of today, yesterday, the day before, Sunday.
    assert_eq!(stay(&all, Retention { keep_daily: Some(4), ..none() }), [0, 13, 37, 61]);
    // This week, the last, the one before: 228 hours back is a Monday, 229 a Sunday.
    assert_eq!(stay(&all, Retention { keep_weekly: Some(3), ..none() }), [0, 61, 229]);
    let grid =
        Retention { keep_last: 1, keep_hourly: Some(2), keep_daily: Some(2), keep_weekly: Some(9), keep_within: None, max_bytes: None };
    assert_eq!(stay(&all, grid), [0, 1, 13, 61, 229, 400]);
    // Weeks without any are no weeks; and one that is given as 0 wants nothing.
    assert_eq!(stay(&[0, 2000, 4000], Retention { keep_weekly: Some(2), keep_daily: Some(0), ..none() }), [0, 2000]);
}

#[test]
fn what_time_alone_lets_go_is_due_then_and_what_has_no_time_stays() {
    let within = Retention { keep_last: 1, keep_within: Some(GoDuration(Duration::from_hours(13))), ..Retention::default() };
    let machines = [machine("a", Phase::Succeeded, |spec, _| spec.checkpoints.retention = within)];
    let mut checkpoints = taken(&[0, 3, 12, 20]);
    let judge = |checkpoints: &[Checkpoint], now| {
        let lineage = Lineage::new(checkpoints, &machines);
        let judged = lineage.judge("a", now);
        (names(&lineage.collectable("a", now)), due(&judged, now))
    };
    assert_eq!(judge(&checkpoints, NOW), (vec!["a-0001".to_owned()], Some(Duration::from_hours(1))));
    let later = NOW + jiff::SignedDuration::from_hours(1);
    assert_eq!(judge(&checkpoints, later), (vec!["a-0001".to_owned(), "a-0002".to_owned()], Some(Duration::from_hours(9))));
    // A clock that was set back.
    assert_eq!(judge(&checkpoints, NOW - jiff::SignedDuration::from_hours(500)).0, Vec::<String>::new());
    for checkpoint in &mut checkpoints {
        checkpoint.status.as_mut().unwrap().captured_at = None;
    }
    assert_eq!(judge(&checkpoints, NOW), (vec![], None));
}

#[test]
fn each_is_told_why_it_stays() {
    let mut checkpoints = chain("a", 5);
    checkpoints[0].spec.keep = Keep::Forever;
    checkpoints[1].spec.trigger = Trigger::Final;
    let on_it = machine("b", Phase::Running, |_, status| status.spawned_from = Some("a-0003".into()));
    let machines = [machine("a", Phase::Running, keep(1)), on_it];
    let judged = Lineage::new(&checkpoints, &machines).judge("a", NOW);
    let why = |judged: &Judged| judged.kept.iter().map(Kept::to_string).collect::<Vec<_>>().join("; ");
    let expected = ["it is kept forever", "its machine ended in it", "machine b lives on a clone of it", "", "one of the last 1"];
    assert_eq!(judged.iter().map(why).collect::<Vec<_>>(), expected);
}

#[test]
fn failed_ones_do_not_push_out_good_ones() {
    let mut checkpoints = chain("a", 6);
    for checkpoint in &mut checkpoints[2..] {
        checkpoint.status.as_mut().unwrap().phase = CheckpointPhase::Failed;
    }
    let machines = [machine("a", Phase::Running, keep(2))];
    assert_eq!(names(&Lineage::new(&checkpoints, &machines).collectable("a", NOW)), ["a-0003", "a-0004"]);
}

/// One checkpoint `a-0001` of a finished Machine `a`, and what else there is → why it must stay.
fn check_uses(others: &[Checkpoint], machines: &[Machine], expect: &[Use]) {
    let mut checkpoints = vec![checkpoint("a", 1, None)];
    checkpoints.extend_from_slice(others);
    let mut machines = machines.to_vec();
    if !machines.iter().any(|machine| machine.name() == "a") {
        machines.push(machine("a", Phase::Succeeded, keep(0)));
    }
    let lineage = Lineage::new(&checkpoints, &machines);
    assert_eq!(lineage.uses("a-0001"), expect);
    assert_eq!(lineage.collectable("a", NOW).iter().any(|c| c.name() == "a-0001"), expect.is_empty());
}

#[test]
fn what_is_a_base_stays() {
    let on = |phase| machine("b", phase, |_, status| status.spawned_from = Some("a-0001".into()));
    let disk = || Use::Disk { machine: "b".into() };
    let spawn = || Use::Spawn { machine: "b".into() };
    let base = |name: &str| Use::Base { checkpoint: name.into() };
    check_uses(&[], &[], &[]);
    check_uses(&[], &[on(Phase::Running)], &[disk()]);
    check_uses(&[], &[on(Phase::Spawning)], &[disk()]);
    check_uses(&[], &[on(Phase::Succeeded)], &[]);
    // An ended Machine whose VM is not proved gone still has its disks.
    check_uses(
        &[],
        &[machine("b", Phase::Failed, |_, s| (s.spawned_from, s.vm) = (Some("a-0001".into()), Some(VmStatus::default())))],
        &[disk()],
    );
    // Its checkpoints lie on a clone, each of them, whatever their own parent is.
    check_uses(&[checkpoint("b", 7, Some("b-0006"))], &[on(Phase::Succeeded)], &[base("b-0007")]);
    // The Machine is gone, its first checkpoint still says where it came from.
    check_uses(&[checkpoint("b", 7, Some("a-0001"))], &[], &[base("b-0007")]);
    // The next checkpoint of the same Machine needs nothing of it.
    check_uses(&[with(checkpoint("a", 2, Some("a-0001")), |c| c.spec.keep = Keep::Forever)], &[], &[]);
    // One that failed before anything was captured needs nothing either.
    check_uses(&[with(checkpoint("b", 7, Some("a-0001")), |c| c.status.as_mut().unwrap().phase = CheckpointPhase::Failed)], &[], &[]);

    let from = |from: From| machine("b", Phase::Waiting, move |spec, _| spec.from = Some(from));
    check_uses(&[], &[from(From { checkpoint: Some("a-0001".into()), ..Default::default() })], &[spawn()]);
    let source = |change: fn(&mut MachineStatus)| {
        machine("a", Phase::Succeeded, move |spec, status| {
            spec.checkpoints.retention.keep_last = 0;
            change(status);
        })
    };
    let of_machine = || from(From { machine: Some(FromMachine { name: "a".into(), ..Default::default() }), ..Default::default() });
    check_uses(&[], &[source(|s| s.last_checkpoint = Some("a-0001".into())), of_machine()], &[spawn()]);
    // One that was asked for, for a fork of the present state.
    let now = || from(From { machine: Some(FromMachine { name: "a".into(), capture: Capture::Now }), ..Default::default() });
    let asked = |by: &str| {
        with(checkpoint("a", 2, None), |c| {
            c.metadata.annotations = Some([(ASKED_BY.to_owned(), by.to_owned())].into());
        })
    };
    for (by, expect) in [("uid-b", vec![spawn()]), ("uid-c", vec![])] {
        let (checkpoints, machines) = ([asked(by)], [now()]);
        assert_eq!(Lineage::new(&checkpoints, &machines).uses("a-0002"), expect, "{by}");
    }
    let after = || machine("b", Phase::Waiting, |spec, _| spec.goal.after = vec!["a".into()]);
    check_uses(&[], &[source(|s| s.final_checkpoint = Some("a-0001".into())), after()], &[spawn()]);
    check_uses(&[], &[source(|s| s.last_checkpoint = Some("a-0001".into())), after()], &[]);
}

#[test]
fn a_machine_that_is_ending_keeps_what_it_ends_in() {
    let machines = [machine("a", Phase::Finishing, |_, status| status.final_checkpoint = Some("a-0001".into()))];
    let checkpoints = [checkpoint("a", 1, None)];
    assert_eq!(Lineage::new(&checkpoints, &machines).uses("a-0001"), [Use::Ending { machine: "a".into() }]);
}

/// A small deterministic source of choices.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

fn random_world(dice: &mut Dice) -> (Vec<Checkpoint>, Vec<Machine>) {
    let (mut checkpoints, mut machines): (Vec<Checkpoint>, Vec<Machine>) = (vec![import("base")], Vec::new());
    for number in 0..=dice.roll(8) {
        let name = format!("m{number}");
        let origin = checkpoints[usize::try_from(dice.roll(checkpoints.len() as u64)).unwrap()].name().to_owned();
        let phase = [Phase::Running, Phase::Succeeded, Phase::Waiting, Phase::Failed][usize::try_from(dice.roll(4)).unwrap()];
        let keep_last = u32::try_from(dice.roll(4)).unwrap();
        let waiting = phase == Phase::Waiting;
        let made = if waiting { 0 } else { dice.roll(6) };
        let mut parent = Some(origin.clone());
        for turn in 1..=made {
            let mut next = checkpoint(&name, turn, parent.as_deref());
            match dice.roll(8) {
                0 => next.spec.keep = Keep::Forever,
                1 => next.status.as_mut().unwrap().phase = CheckpointPhase::Failed,
                2 => next.spec.trigger = Trigger::Final,
                _ => {}
            }
            parent = Some(next.name().to_owned());
            checkpoints.push(next);
        }
        if dice.roll(4) > 0 {
            machines.push(machine(&name, phase, |spec, status| {
                spec.checkpoints.retention.keep_last = keep_last;
                if waiting {
                    spec.from = Some(From { checkpoint: Some(origin), ..Default::default() });
                } else {
                    status.spawned_from = Some(origin);
                }
            }));
        }
    }
    (checkpoints, machines)
}

#[test]
fn collecting_until_nothing_is_left_to_collect_harms_nothing() {
    for seed in 0..400 {
        let (mut checkpoints, machines) = random_world(&mut Dice(seed));
        let owners: BTreeSet<String> = checkpoints.iter().filter_map(|checkpoint| checkpoint.spec.machine.clone()).collect();
        loop {
            let lineage = Lineage::new(&checkpoints, &machines);
            let gone: BTreeSet<String> = owners.iter().flat_map(|owner| names(&lineage.collectable(owner, NOW))).collect();
            for name in &gone {
                let checkpoint = checkpoints.iter().find(|checkpoint| checkpoint.name() == name).unwrap();
                assert!(lineage.uses(name).is_empty(), "seed {seed}: {name} is in use");
                assert_eq!(checkpoint.spec.keep, Keep::Policy, "seed {seed}: {name}");
                assert!(!matches!(checkpoint.spec.trigger, Trigger::Final | Trigger::Import), "seed {seed}: {name}");
                let on_it = machines.iter().any(|m| m.status.as_ref().unwrap().spawned_from.as_ref() == Some(name) && !is_finished(m));
                assert!(!on_it, "seed {seed}: a machine lives on {name}");
            }
            if gone.is_empty() {
                break;
            }
            // As the checkpoint controller does it: children of what goes move up to its parent.
            for name in &gone {
                let at = checkpoints.iter().position(|checkpoint| checkpoint.name() == name).unwrap();
                let parent = checkpoints.remove(at).status.unwrap().parent;
                for child in checkpoints.iter_mut().filter_map(|checkpoint| checkpoint.status.as_mut()) {
                    if child.parent.as_ref() == Some(name) {
                        child.parent.clone_from(&parent);
                    }
                }
            }
        }
        let known: BTreeSet<&str> = checkpoints.iter().map(Kind::name).collect();
        for checkpoint in &checkpoints {
            let parent = checkpoint.status.as_ref().unwrap().parent.as_deref();
            assert!(parent.is_none_or(|parent| known.contains(parent)), "seed {seed}: {} lost its parent", checkpoint.name());
        }
    }
}

#[test]
fn the_ancestor_that_stays_is_found_past_those_that_go() {
    let going = |checkpoint| with(checkpoint, |c| c.metadata.deletion_timestamp = Some(Time(jiff::Timestamp::UNIX_EPOCH)));
    let name = |turn| format!("a-{turn:04}");
    let checkpoints = [
        checkpoint("a", 1, None),
        going(checkpoint("a", 2, Some(&name(1)))),
        going(checkpoint("a", 3, Some(&name(2)))),
        checkpoint("a", 4, Some(&name(3))),
        checkpoint("b", 1, Some("a-0009")),
        going(checkpoint("c", 1, Some("c-0002"))),
        going(checkpoint("c", 2, Some("c-0001"))),
    ];
    let lineage = Lineage::new(&checkpoints, &[]);
    assert_eq!(lineage.living_ancestor("a-0004"), Some("a-0001"));
    assert_eq!(lineage.living_ancestor("a-0003"), Some("a-0001"));
    assert_eq!(lineage.living_ancestor("a-0001"), None);
    assert_eq!(lineage.living_ancestor("b-0001"), None, "one that is gone already");
    assert_eq!(lineage.living_ancestor("c-0001"), None, "a ring in damaged data ends");
}
