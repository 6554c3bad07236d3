//! Verification by schedule: asks for one checkpoint at a time, as a person would; the Checkpoint's own controller does it.

use super::observe::Link;
use crate::api::checkpoint::{CheckpointPhase, Trigger, VERIFY};
use crate::api::hub::Verification;
use crate::api::{Checkpoint, DEFAULT_HUB, Hub, Kind, Machine};
use crate::controller::checkpoint::{asked, home};
use crate::controller::{Context, Error};
use crate::objects;
use crate::runtime::Requeue;
use jiff::Timestamp;
use std::{collections::BTreeMap, time::Duration};

/// How soon one that was put off is looked at again.
const AGAIN: Duration = Duration::from_secs(30);

/// How long until it is time for the next; `None` without a schedule.
fn left(hub: &Hub, now: Timestamp) -> Option<Duration> {
    let interval = hub.spec.checkpoints.verify.as_ref()?.interval.0;
    let last = hub.status.as_ref().and_then(|status| status.verification.as_ref()?.at.clone());
    // A clock that was set back makes it no later than an interval.
    let since = last.map(|last| Duration::try_from(now.duration_since(last.0)).unwrap_or_default());
    Some(since.map_or(Duration::ZERO, |since| interval.saturating_sub(since)))
}

/// Whether it is time for the next.
pub(super) fn is_due(hub: &Hub, now: Timestamp) -> bool {
    left(hub, now) == Some(Duration::ZERO)
}

/// When the Hub is to be looked at again, if the next comes before what it waits for else.
pub(super) fn no_later(requeue: Requeue, hub: &Hub, now: Timestamp) -> Requeue {
    match (requeue, left(hub, now)) {
        (Requeue::After(wait), Some(left)) => Requeue::After(wait.min(left.max(AGAIN))),
        (requeue, _) => requeue,
    }
}

/// Asks for the newest final checkpoint of this Hub that never was verified, or the one that was longest ago. `None` when it is put off: one is under way, or a
/// Machine waits for the room that it would take.
pub(super) async fn ask(hub: &Hub, link: &Link, context: &Context) -> Result<Option<Verification>, Error> {
    if context.machines.promises.is_waited_for(hub.name()).await {
        return Ok(None);
    }
    let (checkpoints, _) = context.objects.list::<Checkpoint>(None).await?;
    let (machines, _) = context.objects.list::<Machine>(None).await?;
    let (handles, _) = context.hubs.all().await;
    let by_name: BTreeMap<(&str, &str), &Machine> =
        machines.iter().map(|machine| ((machine.namespace(), machine.name()), machine)).collect();
    let of = |checkpoint: &Checkpoint| by_name.get(&(checkpoint.namespace(), checkpoint.spec.machine.as_deref()?)).copied();
    let is_here = |checkpoint: &&Checkpoint| home(checkpoint, of(checkpoint), &handles).as_deref() == Some(hub.name());
    let at = Some(context.objects.clock().api_now());
    // Without a schedule nobody asks.
    let again = hub.spec.checkpoints.verify.as_ref().and_then(|verify| verify.again);
    let before = again.and_then(|again| context.objects.clock().now().checked_sub(again.0).ok());
    match next(hub.name(), &checkpoints, &machines, before, is_here) {
        Next::Busy => Ok(None),
        Next::None => Ok(Some(Verification { at, checkpoint: None })),
        Next::One(checkpoint) => {
            let name = format!("{}/{}", checkpoint.namespace(), checkpoint.name());
            let mut wanted = checkpoint.clone();
            let asked = format!("scheduled {}", context.objects.clock().now());
            wanted.metadata.annotations.get_or_insert_default().insert(VERIFY.into(), asked);
            match context.objects.update(&wanted).await {
                Ok(_) => {}
                Err(objects::Error::Conflict { .. } | objects::Error::NotFound { .. }) => return Ok(None),
                Err(error) => return Err(error.into()),
            }
            tracing::info!(vm.node = %link.driver.node(), "checkpoint {name} is to be verified");
            Ok(Some(Verification { at, checkpoint: Some(name) }))
        }
    }
}

/// What is next.
enum Next<'a> {
    /// One is being verified.
    Busy,
    None,
    One(&'a Checkpoint),
}

/// Decides what is next: pure. What was verified `before` that time is verified again, when all else has been.
fn next<'a>(
    hub: &str,
    checkpoints: &'a [Checkpoint],
    machines: &[Machine],
    before: Option<Timestamp>,
    is_here: impl Fn(&&'a Checkpoint) -> bool,
) -> Next<'a> {
    let verifies = |machine: &Machine| {
        let finished = machine.status.as_ref().is_some_and(|status| status.phase.is_finished());
        machine.spec.verifies() && !finished && machine.spec.hub.as_deref().unwrap_or(DEFAULT_HUB) == hub
    };
    if machines.iter().any(verifies) || checkpoints.iter().filter(|checkpoint| asked(checkpoint).is_some()).any(|one| is_here(&one)) {
        return Next::Busy;
    }
    let status = |checkpoint: &&'a Checkpoint| checkpoint.status.as_ref();
    let is_ready = |checkpoint: &&'a Checkpoint| {
        !checkpoint.is_deleting() && status(checkpoint).is_some_and(|status| status.phase == CheckpointPhase::Ready)
    };
    let ready = || checkpoints.iter().filter(is_ready);
    let verified = |checkpoint: &&'a Checkpoint| status(checkpoint).and_then(|status| status.verified.as_ref());
    let fresh = |checkpoint: &&'a Checkpoint| verified(checkpoint).is_none() && checkpoint.spec.trigger == Trigger::Final;
    let taken = |checkpoint: &&'a Checkpoint| status(checkpoint).and_then(|status| status.captured_at.clone());
    if let Some(newest) = ready().filter(fresh).filter(|checkpoint| is_here(checkpoint)).max_by_key(taken) {
        return Next::One(newest);
    }
    let last = |checkpoint: &&'a Checkpoint| verified(checkpoint).and_then(|verified| verified.at.as_ref()).map(|time| time.0);
    let long_ago = |checkpoint: &&'a Checkpoint| last(checkpoint).zip(before).is_some_and(|(last, before)| last <= before);
    let oldest = ready().filter(long_ago).filter(|checkpoint| is_here(checkpoint)).min_by_key(last);
    oldest.map_or(Next::None, Next::One)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::checkpoint::{CheckpointSpec, CheckpointStatus, Verified};
    use crate::api::hub::VerifySchedule;
    use crate::api::machine::{MachineSpec, Phase, Purpose};
    use crate::api::quantity::GoDuration;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    fn taken(name: &str, second: i64, change: impl FnOnce(&mut Checkpoint)) -> Checkpoint {
        let mut checkpoint = Checkpoint::new("shop", name, CheckpointSpec { trigger: Trigger::Final, ..CheckpointSpec::default() });
        let captured_at = Some(Time(Timestamp::from_second(second).unwrap()));
        checkpoint.status = Some(CheckpointStatus { phase: CheckpointPhase::Ready, captured_at, ..CheckpointStatus::default() });
        change(&mut checkpoint);
        checkpoint
    }
    fn verified(checkpoint: &mut Checkpoint) {
        checkpoint.status.get_or_insert_default().verified = Some(Verified::default());
    }

    #[test]
    fn it_is_due_an_interval_after_the_last_and_looked_at_no_later() {
        let (now, resync) = (Timestamp::from_second(1000).unwrap(), Duration::from_mins(10));
        let told = |interval: Option<u64>, last: Option<i64>| {
            let mut hub: Hub =
                serde_json::from_value(serde_json::json!({ "metadata": { "name": "default" }, "spec": { "infrastructure": {} } })).unwrap();
            hub.spec.checkpoints.verify =
                interval.map(|seconds| VerifySchedule { interval: GoDuration(Duration::from_secs(seconds)), again: None });
            let at = last.map(|second| Time(Timestamp::from_second(second).unwrap()));
            hub.status.get_or_insert_default().verification = at.map(|at| Verification { at: Some(at), checkpoint: None });
            match no_later(Requeue::After(resync), &hub, now) {
                Requeue::After(wait) => (is_due(&hub, now), wait.as_secs()),
                other => panic!("{other:?}"),
            }
        };
        assert_eq!(told(None, None), (false, 600));
        assert_eq!(told(Some(120), None), (true, 30));
        assert_eq!(told(Some(120), Some(940)), (false, 60));
        assert_eq!(told(Some(120), Some(880)), (true, 30));
        assert_eq!(told(Some(3600), Some(940)), (false, 600));
        assert_eq!(told(Some(120), Some(2000)), (false, 120));
    }

    #[test]
    fn the_newest_final_one_that_never_was_is_next_and_one_at_a_time() {
        let name = |checkpoints: &[Checkpoint], machines: &[Machine]| match next("default", checkpoints, machines, None, |c| {
            c.name() != "elsewhere"
        }) {
            Next::One(checkpoint) => checkpoint.name().to_owned(),
            Next::Busy => "busy".into(),
            Next::None => "none".into(),
        };
        let suspended = taken("suspended", 9, |c| c.spec.trigger = Trigger::Suspend);
        let all =
            vec![taken("old", 1, |_| {}), taken("new", 2, |_| {}), taken("done", 3, verified), taken("elsewhere", 4, |_| {}), suspended];
        assert_eq!(name(&all, &[]), "new");
        assert_eq!(name(&all[2..], &[]), "none");
        let asks = taken("asked", 0, |c| c.metadata.annotations = Some([(VERIFY.to_owned(), "1".to_owned())].into()));
        assert_eq!(name(&[all.clone(), vec![asks]].concat(), &[]), "busy");
        let mut verifier = Machine::new("shop", "old-verify", MachineSpec { purpose: Some(Purpose::Verify), ..MachineSpec::default() });
        assert_eq!(name(&all, &[verifier.clone()]), "busy");
        verifier.status.get_or_insert_default().phase = Phase::Succeeded;
        assert_eq!(name(&all, &[verifier]), "new");
    }
    #[test]
    fn what_was_verified_longest_ago_is_next_when_all_have_been() {
        let name =
            |checkpoints: &[Checkpoint], before: i64| match next("default", checkpoints, &[], Timestamp::from_second(before).ok(), |c| {
                c.name() != "elsewhere"
            }) {
                Next::One(checkpoint) => checkpoint.name().to_owned(),
                Next::Busy => "busy".into(),
                Next::None => "none".into(),
            };
        let verified_at = |name: &str, second: i64| {
            taken(name, 1, |checkpoint| {
                let at = Some(Time(Timestamp::from_second(second).unwrap()));
                checkpoint.status.get_or_insert_default().verified = Some(Verified { at, ..Verified::default() });
            })
        };
        let by_hand = Checkpoint { spec: CheckpointSpec::default(), ..verified_at("by-hand", 20) };
        let all = vec![verified_at("b", 30), by_hand, verified_at("c", 40), verified_at("elsewhere", 1)];
        assert_eq!(name(&all, 100), "by-hand");
        assert_eq!(name(&all[2..], 39), "none");
        assert_eq!(name(&all[2..], 40), "c");
        assert_eq!(name(&[all, vec![taken("fresh", 1, |_| {})]].concat(), 100), "fresh");
    }
}
