//! Which checkpoints of a Machine its retention keeps, and why; the others may go.

use super::{Lineage, Use, age_order, is_finished, machine_uid, phase_of, taken_at};
use crate::api::checkpoint::{CheckpointPhase, Keep, Trigger};
use crate::api::machine::Retention;
use crate::api::quantity::GoDuration;
use crate::api::{Checkpoint, Kind, Machine};
use jiff::Timestamp;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// Why a checkpoint stays.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Kept {
    #[error("its machine ended in it")]
    Final,
    #[error("it is kept forever")]
    Forever,
    #[error("it is not taken yet")]
    Pending,
    #[error("it is the newest of a machine that goes on")]
    Newest,
    #[error("one of the last {0}")]
    Last(u32),
    #[error("younger than {0}")]
    Within(GoDuration),
    #[error("the newest of an hour")]
    Hourly,
    #[error("the newest of a day")]
    Daily,
    #[error("the newest of a week")]
    Weekly,
    #[error("nobody knows when it was taken")]
    Undated,
    /// Who set the retention, and what it was, is not known any more: nothing goes for what nobody said.
    #[error("its machine is gone, and its retention with it")]
    MachineGone,
    #[error("{0}")]
    Used(Use),
}

impl Kept {
    /// Whether it gives way to `maxBytes`.
    fn yields(&self) -> bool {
        matches!(self, Self::Last(_) | Self::Within(_) | Self::Hourly | Self::Daily | Self::Weekly | Self::Undated)
    }
}

/// A checkpoint as its Machine's retention sees it.
#[derive(Clone, Debug)]
pub struct Judged<'a> {
    pub checkpoint: &'a Checkpoint,
    /// Why it stays; it may go when there is nothing here.
    pub kept: Vec<Kept>,
    /// When it stops being young enough, if it is kept for that.
    pub until: Option<Timestamp>,
    /// It would be kept, were there room in `maxBytes`.
    pub over: bool,
}

/// Numbers the hour, day or week of a time.
type Period = fn(i64) -> i64;
const HOUR: i64 = 3600;
const DAY: i64 = 24 * HOUR;
/// The first of January 1970 was a Thursday, three days after a Monday.
const PERIODS: [(Period, Kept); 3] = [
    (|second| second.div_euclid(HOUR), Kept::Hourly),
    (|second| second.div_euclid(DAY), Kept::Daily),
    (|second| (second.div_euclid(DAY) + 3).div_euclid(7), Kept::Weekly),
];

impl<'a> Lineage<'a> {
    /// Every checkpoint of a Machine (which may be gone) that is not being deleted, oldest first, with what keeps it.
    ///
    /// A Machine that is gone lets nothing go. Those that failed are counted by themselves, by their number alone.
    pub fn judge(&self, machine: &str, now: Timestamp) -> Vec<Judged<'a>> {
        let mut lives: BTreeMap<Option<&str>, Vec<&'a Checkpoint>> = BTreeMap::new();
        let mut going: BTreeSet<Option<&str>> = BTreeSet::new();
        for &checkpoint in self.checkpoints.values() {
            if checkpoint.spec.machine.as_deref() != Some(machine) {
            } else if checkpoint.is_deleting() {
                going.insert(machine_uid(checkpoint));
            } else {
                lives.entry(machine_uid(checkpoint)).or_default().push(checkpoint);
            }
        }
        let mut judged = Vec::new();
        for (uid, mut checkpoints) in lives {
            checkpoints.sort_by_key(|checkpoint| age_order(checkpoint));
            let present = self.machines.get(machine).filter(|machine| Some(machine.uid()) == uid);
            let goes_on = present.is_some_and(|machine| !is_finished(machine));
            let mut of_it: Vec<Judged> = checkpoints.iter().map(|&checkpoint| alone(checkpoint)).collect();
            match present {
                Some(machine) => by_policy(&machine.spec.checkpoints.retention, goes_on, now, &mut of_it),
                None => {
                    let left = of_it.iter_mut().filter(|judged| judged.kept.is_empty());
                    left.for_each(|judged| judged.kept.push(Kept::MachineGone));
                }
            }
            // By the times that they bear another may be the newest.
            let last = present.filter(|_| goes_on).and_then(|machine| machine.status.as_ref()?.last_checkpoint.as_deref());
            for judged in of_it.iter_mut().filter(|judged| judged.kept.is_empty() && Some(judged.checkpoint.name()) == last) {
                judged.kept.push(Kept::Newest);
            }
            // Who needs a checkpoint is asked of those alone that would go: it takes a look at everything.
            for judged in of_it.iter_mut().filter(|judged| judged.kept.is_empty()) {
                judged.kept.extend(self.uses(judged.checkpoint.name()).into_iter().map(Kept::Used));
            }
            // One at a time: what the pool gets back is seen when it is gone, not before.
            if present.is_some_and(|machine| exceeds(machine))
                && !going.contains(&uid)
                && of_it.iter().all(|judged| !judged.kept.is_empty())
            {
                self.let_one_go(goes_on, last, &mut of_it);
            }
            judged.extend(of_it);
        }
        judged
    }

    /// The oldest that retention alone keeps. `all` is one life's, oldest first.
    fn let_one_go(&self, goes_on: bool, last: Option<&str>, all: &mut [Judged]) {
        let is_ready = |judged: &Judged| phase_of(judged.checkpoint) == CheckpointPhase::Ready;
        let newest = all.iter().rposition(is_ready).filter(|_| goes_on);
        let is_last = |judged: &Judged| Some(judged.checkpoint.name()) == last;
        let yields = |judged: &Judged| is_ready(judged) && !is_last(judged) && judged.kept.iter().all(Kept::yields);
        let mut losers = all.iter_mut().enumerate().filter(|(n, judged)| Some(*n) != newest && yields(judged));
        let loser = losers.find(|(_, judged)| self.uses(judged.checkpoint.name()).is_empty());
        if let Some((_, judged)) = loser {
            (judged.kept, judged.until, judged.over) = (Vec::new(), None, true);
        }
    }

    /// The checkpoints of a Machine (which may be gone) that nothing keeps, oldest first.
    pub fn collectable(&self, machine: &str, now: Timestamp) -> Vec<&'a Checkpoint> {
        self.judge(machine, now).into_iter().filter(|judged| judged.kept.is_empty()).map(|judged| judged.checkpoint).collect()
    }
}

/// Whether its checkpoints took more, when they were measured, than they may. What was not measured does not.
pub fn exceeds(machine: &Machine) -> bool {
    let taken = machine.status.as_ref().and_then(|status| status.checkpoint_bytes);
    taken.zip(machine.spec.checkpoints.retention.max_bytes).is_some_and(|(taken, most)| taken > most.0)
}

/// What keeps it, whatever else there is of its Machine.
fn alone(checkpoint: &Checkpoint) -> Judged<'_> {
    let mut kept = Vec::new();
    if checkpoint.spec.trigger == Trigger::Final {
        kept.push(Kept::Final);
    }
    if checkpoint.spec.keep == Keep::Forever {
        kept.push(Kept::Forever);
    }
    if !matches!(phase_of(checkpoint), CheckpointPhase::Ready | CheckpointPhase::Failed) {
        kept.push(Kept::Pending);
    }
    Judged { checkpoint, kept, until: None, over: false }
}

/// Adds what the Machine's retention keeps. `all` is one life's, oldest first. One that stays anyway takes nobody's place.
fn by_policy(retention: &Retention, goes_on: bool, now: Timestamp, all: &mut [Judged]) {
    let stays: Vec<bool> = all.iter().map(|judged| !judged.kept.is_empty()).collect();
    for phase in [CheckpointPhase::Ready, CheckpointPhase::Failed] {
        let ordered: Vec<usize> = (0..all.len()).rev().filter(|&n| phase_of(all[n].checkpoint) == phase && !stays[n]).collect();
        for &n in ordered.iter().take(retention.keep_last as usize) {
            all[n].kept.push(Kept::Last(retention.keep_last));
        }
        if let Some(&newest) = ordered.first().filter(|_| goes_on && retention.keep_last == 0) {
            all[newest].kept.push(Kept::Newest);
        }
        if phase == CheckpointPhase::Ready {
            by_time(retention, now, &ordered, all);
        }
    }
}

fn by_time(retention: &Retention, now: Timestamp, newest_first: &[usize], all: &mut [Judged]) {
    let counts = [retention.keep_hourly, retention.keep_daily, retention.keep_weekly].map(Option::unwrap_or_default);
    if retention.keep_within.is_none() && counts == [0; 3] {
        return;
    }
    let mut left: Vec<(u32, Option<i64>)> = counts.into_iter().map(|count| (count, None)).collect();
    for &n in newest_first {
        let Some(at) = taken_at(all[n].checkpoint) else {
            all[n].kept.push(Kept::Undated);
            continue;
        };
        if let Some(within) = retention.keep_within {
            // A clock that was set back makes it younger, not older.
            let until = at.0.saturating_add(within.0).unwrap_or(Timestamp::MAX);
            if now < until {
                all[n].kept.push(Kept::Within(within));
                all[n].until = Some(until);
            }
        }
        for ((count, last), (period, kept)) in left.iter_mut().zip(PERIODS) {
            let this = period(at.0.as_second());
            if *count > 0 && *last != Some(this) {
                (*count, *last) = (*count - 1, Some(this));
                all[n].kept.push(kept);
            }
        }
    }
}

/// How long until one of these may go that is kept for its age alone; `None` when time alone changes nothing.
pub fn due(judged: &[Judged], now: Timestamp) -> Option<Duration> {
    let first = judged.iter().filter(|judged| judged.kept.len() == 1).filter_map(|judged| judged.until).min()?;
    Some(Duration::try_from(first.duration_since(now)).unwrap_or_default())
}
