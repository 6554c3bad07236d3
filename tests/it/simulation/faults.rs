//! Each call of a life goes wrong in each way; and lives in which much goes wrong, by seed.

use super::gate::{Fault, Moment, Plan};
use super::life::{Kind, each, live, live_as};
use rand::{Rng, SeedableRng, rngs::StdRng};
use std::time::Duration;

/// Longer than a client waits for an answer.
const TOO_LATE: Fault = Fault::Late(40_000);

pub(super) fn striking(number: usize, fault: Fault) -> Plan {
    Plan { fault: Some(Box::new(move |call, _| (call == number).then_some(fault))), ..Plan::default() }
}

/// Whether a call changes nothing.
pub(super) fn reads(what: &str) -> bool {
    ["GET", "zfs get", "zfs list"].iter().any(|verb| what.starts_with(verb))
}

#[test]
fn a_call_that_goes_wrong_once_changes_no_end() {
    goes_wrong_once(Kind::Plain, 0, 1);
}

#[test]
fn a_call_that_goes_wrong_once_changes_nothing_of_what_is_put_back() {
    // Those before it are the same as of any life.
    let first_end = live("no fault", 0, vec![]).points.iter().filter(|point| point.moment == Moment::BeforeSend).count() / 2;
    goes_wrong_once(Kind::PutBack, first_end, 3);
}

#[test]
fn a_call_that_goes_wrong_once_changes_nothing_of_what_is_suspended() {
    goes_wrong_once(Kind::Suspended, 0, 4);
}

#[test]
fn a_call_that_goes_wrong_once_changes_nothing_of_what_is_suspended_with_its_memory() {
    goes_wrong_once(Kind::Kept, 0, 4);
}

/// Each call after the first `skipped` goes wrong in each way, in a life of its own; every `nth` of these cases, all with `AUTOVIBE_RUNS`=nth.
fn goes_wrong_once(kind: Kind, skipped: usize, nth: usize) {
    let live = |what: &str, plans| live_as(kind, None, what, 0, plans);
    let calls: Vec<String> =
        live("no fault", vec![]).points.into_iter().filter(|point| point.moment == Moment::BeforeSend).map(|point| point.what).collect();
    let mut cases = Vec::new();
    for (at, what) in calls.iter().enumerate().skip(skipped) {
        let faults = [Fault::LoseRequest, Fault::LoseReply, TOO_LATE, Fault::Stale, Fault::Repeat];
        // The guest tells how a command ended itself, once: what it said before under the same pid, in its disk's earlier life, is
        // in nobody's memory.
        let may_be_stale = reads(what) && (kind == Kind::Plain || !what.contains("/agent/exec-status"));
        cases.extend(faults.into_iter().filter(|fault| *fault != Fault::Stale || may_be_stale).map(|fault| (at + 1, fault)));
    }
    let cases: Vec<_> = cases.into_iter().step_by(nth.div_ceil(super::runs(1))).collect();
    let struck = std::sync::atomic::AtomicUsize::new(0);
    each(cases.len(), |case| {
        let (number, fault) = cases[case];
        let what = format!("call {number}, {}: {fault:?}", calls[number - 1]);
        let lived = live(&what, vec![striking(number, fault)]);
        let times = lived.struck.values().sum::<usize>();
        // What was never read before cannot be shown again.
        assert!(times == 1 || fault == Fault::Stale, "{what} did not strike");
        struck.fetch_add(times, std::sync::atomic::Ordering::Relaxed);
    });
    eprintln!("{} faults struck, of {} cases", struck.into_inner(), cases.len());
}

/// What is refused for long is tried in its time, not in a loop of its own writes; and once it is not, the life goes on.
#[test]
fn a_refusal_that_lasts_is_not_tried_in_a_spin() {
    const MINUTES: u64 = 10;
    let refusals = [
        ("zfs clone", "cannot create 'tank/data': out of space", 30),
        ("zfs snapshot", "cannot create snapshots : out of space", 8),
        ("zfs rename", "cannot rename: dataset is busy", 1),
        ("POST /nodes/lab/qemu", "storage 'tank' is not online", 1),
        ("POST /nodes/lab/qemu", "VM is locked (backup)", 5),
        ("POST /nodes/lab/qemu/1000/status/start", "Permission check failed (/vms/1000, VM.PowerMgmt)", 60),
        ("PUT /nodes/lab/qemu/1000/config", "VM is locked (backup)", 5),
    ];
    each(refusals.len(), |case| {
        let (call, text, seconds) = refusals[case];
        let mut since = None;
        let fault = move |_: usize, what: &str| {
            let now = tokio::time::Instant::now();
            let ends = what == call && now < *since.get_or_insert(now) + Duration::from_mins(MINUTES);
            ends.then_some(Fault::Refuse(text))
        };
        let lived = live(&format!("{call}: {text}"), 0, vec![Plan { fault: Some(Box::new(fault)), ..Plan::default() }]);
        let times = lived.struck.values().sum::<usize>();
        let most = usize::try_from(MINUTES * 60 / seconds).unwrap() + 10;
        eprintln!("{call}: {text}: {times}");
        assert!((2..=most).contains(&times), "{call}: {text}: {times} times in {MINUTES} minutes");
    });
}

/// An old answer says for minutes that the VM is off, from when it was created; a lost command makes the hub look at it. What runs
/// is not taken for stopped: its end is not decided, and its disks are not captured, by that.
#[test]
fn a_vm_is_off_only_where_its_node_lists_it_so_too() {
    each(16, |lost| {
        let (mut commands, mut since) = (0, None);
        let fault = move |_: usize, what: &str| {
            let now = tokio::time::Instant::now();
            let old = now < *since.get_or_insert(now) + Duration::from_mins(5);
            match what {
                "POST /nodes/lab/qemu" => Some(Fault::LoseReply),
                "GET /nodes/lab/qemu/1000/status/current" if old => Some(Fault::Stale),
                "POST /nodes/lab/qemu/1000/agent/exec" => {
                    commands += 1;
                    (commands == lost + 1).then_some(Fault::LoseRequest)
                }
                _ => None,
            }
        };
        live(&format!("command {} lost", lost + 1), 0, vec![Plan { fault: Some(Box::new(fault)), ..Plan::default() }]);
    });
}

/// Whatever a hub is doing in the guest then: what it does not hear proves nothing, least of all that the work is not done.
#[test]
fn a_guest_whose_answers_are_lost_for_half_a_minute_changes_no_end() {
    each(16, |begins| {
        let (mut commands, mut since) = (0, None);
        let fault = move |_: usize, what: &str| {
            commands += usize::from(what == "POST /nodes/lab/qemu/1000/agent/exec");
            let lost = commands > begins
                && tokio::time::Instant::now() < *since.get_or_insert_with(tokio::time::Instant::now) + Duration::from_secs(30);
            (lost && what.contains("/agent/exec-status")).then_some(Fault::LoseReply)
        };
        live(&format!("lost from command {begins} on"), 0, vec![Plan { fault: Some(Box::new(fault)), ..Plan::default() }]);
    });
}

/// A guest that is busy misses Proxmox' three seconds for its agent.
#[test]
fn a_guest_that_does_not_answer_for_half_a_minute_changes_no_end() {
    each(16, |begins| {
        let (mut commands, mut since) = (0, None);
        let fault = move |_: usize, what: &str| {
            let is_command = what == "POST /nodes/lab/qemu/1000/agent/exec";
            commands += usize::from(is_command);
            let silent = commands > begins
                && tokio::time::Instant::now() < *since.get_or_insert_with(tokio::time::Instant::now) + Duration::from_secs(30);
            (silent && is_command).then_some(Fault::Refuse("QEMU guest agent is not running"))
        };
        live(&format!("silent from command {begins} on"), 0, vec![Plan { fault: Some(Box::new(fault)), ..Plan::default() }]);
    });
}

/// A plan in which calls go wrong at random, and its hub dies at some point or lives on.
fn storm(random: &mut StdRng) -> Plan {
    let rate = [0.02, 0.05, 0.15][random.random_range(0..3)];
    let die_at = random.random_bool(0.5).then(|| random.random_range(0..200));
    let mut random = StdRng::from_rng(random);
    // Every storm ends.
    let fault = move |number: usize, _: &str| {
        (number < 400 && random.random_bool(rate)).then(|| match random.random_range(0..6) {
            0 => Fault::LoseRequest,
            1 => Fault::LoseReply,
            2 => Fault::Stale,
            3 => Fault::Repeat,
            4 => TOO_LATE,
            _ => Fault::Late(random.random_range(1..30_000)),
        })
    };
    Plan { die_at, fault: Some(Box::new(fault)), ..Plan::default() }
}

/// What becomes of the hubs of one life by `seed`.
pub(super) fn storms(seed: u64) -> Vec<Plan> {
    let mut random = StdRng::seed_from_u64(seed);
    (0..random.random_range(1..4)).map(|_| storm(&mut random)).collect()
}

/// `AUTOVIBE_SEED=n` runs one alone.
#[test]
fn storms_of_faults_change_no_end() {
    storms_in(&[Kind::Plain], 2000);
}

#[test]
fn storms_of_faults_change_no_end_of_what_is_put_back_or_suspended() {
    storms_in(&[Kind::PutBack, Kind::Suspended, Kind::Kept], 60);
}

/// Lives of these kinds in turn, one for each seed.
fn storms_in(kinds: &[Kind], usually: usize) {
    let one = super::given("AUTOVIBE_SEED");
    let struck = std::sync::atomic::AtomicUsize::new(0);
    let seed_of = |number: usize| one.unwrap_or(number);
    each(one.map_or(super::runs(usually), |_| 1), |number| {
        let (seed, kind) = (seed_of(number) as u64, kinds[seed_of(number) % kinds.len()]);
        let lived = live_as(kind, None, &format!("AUTOVIBE_SEED={seed}, {kind:?}"), seed, storms(seed));
        struck.fetch_add(lived.struck.values().sum::<usize>() + lived.died, std::sync::atomic::Ordering::Relaxed);
    });
    eprintln!("{} faults and deaths struck", struck.into_inner());
}
