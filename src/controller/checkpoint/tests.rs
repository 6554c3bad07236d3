//! Tables of what a Checkpoint needs, and of what its status says then.

use super::act::{Captured, Failure, Outcome};
use super::observe::{HubSeen, Observed, Verifier};
use super::plan::{Plan, Stand, Step, plan};
use super::status::status;
use super::verify::{is_verifier, verifier};
use crate::api::checkpoint::{
    CheckpointPhase, CheckpointSpec, CheckpointStatus, Content, Digest, Examined, FINALIZER, Import, Reason, Trigger, VERIFY, Volume,
};
use crate::api::machine::{MachineSpec, MachineStatus, Phase, TerminationReason, Verify, VmStatus};
use crate::api::quantity::GoDuration;
use crate::api::{Checkpoint, Kind, Machine};
use crate::driver::{self, storage::Image};
use crate::lineage::Use;
use crate::proxmox::{Node, Vmid};
use crate::wire::annotation;
use crate::zfs::{Dataset, Snapshot};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use std::time::Duration;

/// The tests' present, in seconds.
const NOW: i64 = 1_000_000;

fn now() -> Timestamp {
    Timestamp::from_second(NOW).unwrap()
}

/// A Pending checkpoint of Machine `a`, made just now, with our finalizer.
fn checkpoint(trigger: Trigger) -> Checkpoint {
    let mut checkpoint = Checkpoint::new("shop", "a-0001", CheckpointSpec { machine: Some("a".into()), trigger, ..Default::default() });
    checkpoint.metadata.uid = Some("ckpt".into());
    checkpoint.metadata.generation = Some(4);
    checkpoint.metadata.creation_timestamp = Some(Time(now()));
    checkpoint.metadata.finalizers = Some(vec![FINALIZER.into()]);
    checkpoint
}

fn at_message() -> Checkpoint {
    let mut checkpoint = checkpoint(Trigger::BetweenMessages);
    let session = r#"{"id":"s","turn":7,"request":"r"}"#;
    let pairs = [(annotation::QUIESCENT, "true"), (annotation::SESSION, session)];
    checkpoint.metadata.annotations = Some(pairs.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect());
    checkpoint
}

fn aged(mut checkpoint: Checkpoint, seconds: i64) -> Checkpoint {
    checkpoint.metadata.creation_timestamp = Some(Time(Timestamp::from_second(NOW - seconds).unwrap()));
    checkpoint
}

fn deleting(mut checkpoint: Checkpoint) -> Checkpoint {
    checkpoint.metadata.deletion_timestamp = Some(Time(now()));
    checkpoint
}

fn in_phase(mut checkpoint: Checkpoint, phase: CheckpointPhase) -> Checkpoint {
    checkpoint.status = Some(CheckpointStatus { phase, ..Default::default() });
    checkpoint
}

fn machine(phase: Phase) -> Machine {
    let mut machine = Machine::new("shop", "a", MachineSpec::default());
    machine.metadata.uid = Some("uid-a".into());
    let vm = VmStatus { node: "pve1".into(), vmid: 100, disks: vec!["tank/data/vm-100-disk-0".into()] };
    let has_vm = !matches!(phase, Phase::Pending | Phase::Waiting | Phase::Succeeded | Phase::Failed);
    machine.status = Some(MachineStatus { phase, vm: has_vm.then_some(vm), ..Default::default() });
    machine
}

fn open() -> HubSeen {
    let image = Image {
        nodes: vec![Node("pve1".into())],
        snapshot: Snapshot { dataset: Dataset("tank/keep/image-micro".into()), name: "base".into() },
        guid: "42".into(),
        stale: false,
        template: None,
    };
    HubSeen::Open { images: [("micro".to_owned(), image)].into(), impossible: None }
}

fn seen(machine: Option<Machine>) -> Observed {
    Observed { machine, hub: open(), ..Observed::default() }
}

fn volume() -> Volume {
    Volume {
        node: "pve1".into(),
        dataset: "tank/data/vm-100-disk-0".into(),
        snapshot: "av-ckpt".into(),
        guid: "7".into(),
        ..Volume::default()
    }
}

/// What a plan comes to, in a word or two.
fn sum(plan: &Plan) -> String {
    let steps: Vec<String> = plan
        .steps
        .iter()
        .map(|step| match step {
            Step::Capture(capture) => {
                let guest = if capture.guest == Some(Vmid(100)) { "flushed" } else { "stopped" };
                let quiet = if capture.quiet { " quiet" } else { "" };
                assert_eq!((capture.disks.len(), capture.machine_uid.as_str()), (1, "uid-a"));
                format!("Capture {guest}{quiet}")
            }
            step => format!("{step:?}"),
        })
        .collect();
    let stand = match &plan.stand {
        Stand::Waiting { reason, .. } => format!("waiting {reason}"),
        Stand::Failed { reason, .. } => format!("failed {reason}"),
        Stand::Imported(volumes) => format!("imported {}", volumes[0].guid),
        Stand::Deleting(Some(message)) => format!("deleting: {message}"),
        stand => format!("{stand:?}").to_lowercase(),
    };
    [steps.join(", "), stand].iter().filter(|part| !part.is_empty()).cloned().collect::<Vec<_>>().join(" → ")
}

fn check(checkpoint: &Checkpoint, observed: &Observed, expect: &str) {
    assert_eq!(sum(&plan(checkpoint, observed, now())), expect);
}

#[test]
fn what_is_asked_for_is_captured_when_there_is_something_to_capture() {
    let of = |phase| seen(Some(machine(phase)));
    let by_hand = checkpoint(Trigger::Requested);
    for (phase, expect) in [
        (Phase::Pending, "waiting MachineNotRunning"),
        (Phase::Waiting, "waiting MachineNotRunning"),
        (Phase::Spawning, "waiting MachineNotRunning"),
        (Phase::Running, "Capture flushed → captured"),
        (Phase::Suspending, "Capture flushed → captured"),
        (Phase::Suspended, "Capture stopped quiet → captured"),
        (Phase::Finishing, "Capture flushed → captured"),
        (Phase::Terminating, "waiting MachineNotRunning"),
        (Phase::Succeeded, "failed MachineEnded"),
        (Phase::Failed, "failed MachineEnded"),
    ] {
        check(&by_hand, &of(phase), expect);
    }
    check(&by_hand, &seen(None), "waiting MachineMissing");
    check(&by_hand, &Observed { hub: HubSeen::Waiting { why: "no".into() }, ..of(Phase::Running) }, "waiting HubNotReady");
}

#[test]
fn between_messages_is_quiet_only_in_time_and_never_for_another_state() {
    let running = || seen(Some(machine(Phase::Running)));
    check(&at_message(), &running(), "Capture flushed quiet → captured");
    check(&checkpoint(Trigger::BetweenMessages), &running(), "Capture flushed → captured");
    check(&aged(at_message(), 30), &running(), "Capture flushed quiet → captured");
    check(&aged(at_message(), 31), &running(), "Capture flushed → captured");
    let later = Observed { superseded_by: Some("a-0002".into()), ..running() };
    check(&aged(at_message(), 31), &later, "failed Superseded");
    check(&at_message(), &seen(None), "failed MachineMissing");
    check(&at_message(), &seen(Some(machine(Phase::Succeeded))), "failed MachineEnded");
}

#[test]
fn what_the_machine_captures_itself_is_left_to_it() {
    for trigger in [Trigger::Final, Trigger::Suspend] {
        for phase in [Phase::Running, Phase::Suspending, Phase::Finishing] {
            check(&checkpoint(trigger), &seen(Some(machine(phase))), "untouched");
        }
        check(&checkpoint(trigger), &seen(Some(machine(Phase::Failed))), "failed MachineEnded");
        check(&checkpoint(trigger), &seen(None), "failed MachineMissing");
        check(&in_phase(checkpoint(trigger), CheckpointPhase::Ready), &seen(None), "settled");
    }
}

#[test]
fn the_finalizer_comes_before_anything_that_must_be_collected() {
    let bare = |mut checkpoint: Checkpoint| {
        checkpoint.metadata.finalizers = None;
        checkpoint
    };
    let running = seen(Some(machine(Phase::Running)));
    check(&bare(checkpoint(Trigger::Requested)), &running, "AddFinalizer, Capture flushed → captured");
    check(&bare(checkpoint(Trigger::Requested)), &seen(None), "AddFinalizer → waiting MachineMissing");
    check(&bare(in_phase(checkpoint(Trigger::Final), CheckpointPhase::Ready)), &running, "AddFinalizer → settled");
    check(&bare(deleting(checkpoint(Trigger::Requested))), &running, "untouched");
}

#[test]
fn an_import_refers_to_the_image() {
    let mut import = checkpoint(Trigger::Import);
    import.spec.machine = None;
    import.spec.import = Some(Import::of_image("micro"));
    check(&import, &seen(None), "imported 42");
    check(
        &import,
        &Observed { hub: HubSeen::Open { images: std::collections::BTreeMap::default(), impossible: None }, ..seen(None) },
        "waiting ImageNotReady",
    );
    check(&import, &Observed::default(), "waiting HubNotReady");
    // It goes without touching the image.
    let going = Observed { volumes: vec![volume()], ..seen(None) };
    check(&deleting(import), &going, "PassParentOn, DropFinalizer → deleting(none)");
}

#[test]
fn nothing_is_collected_that_is_needed_or_not_fully_seen() {
    let going = deleting(in_phase(checkpoint(Trigger::Requested), CheckpointPhase::Ready));
    let whole = || Observed { volumes: vec![volume()], ..seen(None) };
    check(&going, &whole(), "Collect, PassParentOn, DropFinalizer → deleting(none)");
    check(&going, &seen(None), "PassParentOn, DropFinalizer → deleting(none)");
    let used = Observed { uses: vec![Use::Disk { machine: "b".into() }], ..whole() };
    check(&going, &used, "deleting: it stays until nothing needs it: machine b lives on a clone of it");
    let hidden = Observed { hidden_in: vec!["pve".into()], ..whole() };
    check(&going, &hidden, "deleting: it stays until hub pve can be asked for its snapshots");
    let base = |n: usize| Use::Base { checkpoint: format!("b-{n}") };
    let many = Observed { uses: (1..=5).map(base).collect(), ..whole() };
    let expect = "deleting: it stays until nothing needs it: checkpoint b-1 was spawned from it, checkpoint b-2 was spawned from it, \
                  checkpoint b-3 was spawned from it, and 2 more";
    check(&going, &many, expect);
}

fn captured() -> Outcome {
    let captured = Captured {
        machine_uid: "uid-a".into(),
        volumes: vec![volume()],
        quiescent: true,
        took: GoDuration(Duration::from_millis(40)),
        at: Time(now()),
        parent: Some("a-0000".into()),
        goal: Some("add tests".into()),
        workspace: Some("/home/agent/todo".into()),
        warning: None,
    };
    Outcome { captured: Some(captured), ..Outcome::default() }
}

fn conditions(status: &CheckpointStatus) -> Vec<(&str, &str, &str)> {
    status.conditions.iter().map(|c| (c.type_.as_str(), c.status.as_str(), c.reason.as_str())).collect()
}

fn after(checkpoint: &Checkpoint, observed: &Observed, outcome: &Outcome) -> CheckpointStatus {
    let status = status(checkpoint, &plan(checkpoint, observed, now()), outcome, &Time(now())).expect("it is ours to write");
    assert_eq!(status.observed_generation, Some(4));
    assert!(status.conditions.iter().all(|condition| condition.observed_generation == Some(4)));
    status
}

#[test]
fn a_capture_is_told_whole_in_one_status() {
    let status = after(&at_message(), &seen(Some(machine(Phase::Running))), &captured());
    assert_eq!(status.phase, CheckpointPhase::Ready);
    assert_eq!(conditions(&status), [("Ready", "True", "Captured")]);
    assert_eq!((status.volumes.as_slice(), status.parent.as_deref()), ([volume()].as_slice(), Some("a-0000")));
    assert_eq!(status.session.map(|session| session.turn), Some(7));
    assert_eq!((status.quiescent, status.message), (Some(true), None));
}

#[test]
fn what_it_was_asked_for_and_what_was_noted_since_are_its_reasons() {
    let reason = |trigger, message: &str| Reason { trigger, message: message.into() };
    let mut asked = at_message();
    let first = [reason(Trigger::BetweenMessages, "after Bash"), reason(Trigger::Breakpoint, "tests passed")];
    let annotations = asked.metadata.annotations.as_mut().unwrap();
    annotations.insert(annotation::REASONS.into(), serde_json::to_string(&first).unwrap());
    let mut noted = CheckpointStatus { released: true, ..Default::default() };
    noted.add_reasons([reason(Trigger::BeforeRiskyOperation, "before rm -r"), reason(Trigger::Breakpoint, "tests passed")]);
    asked.status = Some(noted);
    let status = after(&asked, &seen(Some(machine(Phase::Running))), &captured());
    assert_eq!(status.boundaries, "BeforeRiskyOperation,Breakpoint,BetweenMessages");
    assert_eq!(status.reasons.len(), 3);
}

#[test]
fn an_answer_that_was_let_go_makes_it_a_plain_checkpoint() {
    let mut released = at_message();
    released.status = Some(CheckpointStatus { released: true, ..Default::default() });
    let status = after(&released, &seen(Some(machine(Phase::Running))), &captured());
    assert_eq!((status.phase, status.released, status.quiescent), (CheckpointPhase::Ready, true, Some(false)));
}

#[test]
fn a_failure_is_told_and_only_a_permanent_one_is_final() {
    let failing = |error: driver::Error| Outcome { failed: Some(Failure::from(error)), ..Outcome::default() };
    let running = || seen(Some(machine(Phase::Running)));
    let soft = after(&at_message(), &running(), &failing(driver::Error::Unknown("no answer from zfs".into())));
    assert_eq!(soft.phase, CheckpointPhase::Pending);
    assert_eq!(conditions(&soft), [("Ready", "False", "NotCaptured"), ("Reconciling", "True", "NotCaptured")]);
    assert_eq!(soft.message.as_deref(), Some("no answer from zfs"));
    let hard = after(&at_message(), &running(), &failing(driver::Error::Conflict("foreign".into())));
    assert_eq!(hard.phase, CheckpointPhase::Failed);
    assert_eq!(conditions(&hard), [("Ready", "False", "NotCaptured"), ("Stalled", "True", "NotCaptured")]);
    let going = deleting(in_phase(checkpoint(Trigger::Requested), CheckpointPhase::Ready));
    let held = Observed { volumes: vec![volume()], ..seen(None) };
    let status = after(&going, &held, &failing(driver::Error::InUse("it has clones".into())));
    assert_eq!((status.phase, status.message.as_deref()), (CheckpointPhase::Deleting, Some("it has clones")));
}

#[test]
fn a_wait_says_for_what_and_a_settled_one_keeps_its_words() {
    let waiting = after(&checkpoint(Trigger::Requested), &seen(None), &Outcome::default());
    assert_eq!(waiting.message.as_deref(), Some("machine a does not exist"));
    assert_eq!(conditions(&waiting), [("Ready", "False", "MachineMissing"), ("Reconciling", "True", "MachineMissing")]);

    let mut failed = checkpoint(Trigger::BetweenMessages);
    failed.status = Some(after(&failed, &seen(None), &Outcome::default()));
    failed.metadata.generation = Some(5);
    let plan = plan(&failed, &seen(None), now());
    assert_eq!(sum(&plan), "settled");
    let again = status(&failed, &plan, &Outcome::default(), &Time(now())).unwrap();
    assert_eq!(conditions(&again), conditions(failed.status.as_ref().unwrap()));
    assert_eq!(again.message, failed.status.unwrap().message);
    assert!(again.conditions.iter().all(|condition| condition.observed_generation == Some(5)));
}

#[test]
fn a_plan_that_is_not_ours_writes_nothing() {
    let checkpoint = checkpoint(Trigger::Final);
    let plan = plan(&checkpoint, &seen(Some(machine(Phase::Finishing))), now());
    assert!(status(&checkpoint, &plan, &Outcome::default(), &Time(now())).is_none());
}

/// A final one that somebody asks to have verified, and the Machine that it was taken of.
fn to_verify() -> (Checkpoint, Machine) {
    let mut asked = in_phase(checkpoint(Trigger::Final), CheckpointPhase::Ready);
    asked.metadata.annotations = Some([(VERIFY.to_owned(), "1".to_owned())].into());
    let taken = asked.status.as_mut().unwrap();
    (taken.machine_uid, taken.volumes) = (Some("uid-a".into()), vec![volume()]);
    taken.digests = vec![Digest { content: Content::Workspace, path: "/work".into(), sha256: "ab".into(), ..Digest::default() }];
    let mut source = machine(Phase::Succeeded);
    source.spec.goal.workspace = Some("/work".into());
    source.spec.goal.verify = Some(Verify { command: vec!["true".into()], ..Verify::default() });
    (asked, source)
}

fn verified_by(source: &Machine, verifier: Verifier) -> Observed {
    Observed { verifier, home: Some("default".into()), ..seen(Some(source.clone())) }
}

fn own(machine: &Machine) -> Verifier {
    Verifier::Own(Box::new(machine.clone()))
}

#[test]
fn one_is_verified_once_for_each_time_that_it_is_asked_for() {
    let (mut asked, source) = to_verify();
    let none = || verified_by(&source, Verifier::None);
    let asks = "Verify { hub: \"default\", asked: \"1\" } → verifying";
    assert!(sum(&plan(&asked, &none(), now())).starts_with(asks));
    assert!(sum(&plan(&asked, &Observed { home: None, ..none() }, now())).starts_with("verifying { reason: \"hubmissing\""));
    let foreign = verified_by(&source, Verifier::Foreign("a-0001-verify".into()));
    assert!(sum(&plan(&asked, &foreign, now())).starts_with("verifying { reason: \"nametaken\""));
    let mut made = verifier(&asked, Some(&source), "default", "1");
    made.metadata.uid = Some("uid-v".into());
    assert!(is_verifier(&made, &asked) && made.name() == "a-0001-verify");
    assert!(sum(&plan(&asked, &verified_by(&source, own(&made)), now())).starts_with("verifying { reason: \"inprogress\""));
    made.status = Some(MachineStatus { phase: Phase::Failed, ..MachineStatus::default() });
    let done = plan(&asked, &verified_by(&source, own(&made)), now());
    let status = status(&asked, &done, &Outcome::default(), &Time(now())).unwrap();
    assert_eq!(conditions(&status), [("Verified", "False", "VerificationFailed"), ("Ready", "True", "Captured")]);
    asked.status = Some(status);
    // Written down, it is let go, once; another text asks again.
    let end = "EndVerification { machine: \"a-0001-verify\", uid: \"uid-v\" }";
    check(&asked, &verified_by(&source, own(&made)), &format!("{end} → settled"));
    check(&asked, &none(), "settled");
    check(
        &deleting(asked.clone()),
        &verified_by(&source, own(&made)),
        &format!("{end} → deleting: it stays until machine a-0001-verify, which verifies it, is gone"),
    );
    made.metadata.deletion_timestamp = Some(Time(now()));
    check(&asked, &verified_by(&source, own(&made)), "settled");
    asked.metadata.annotations.as_mut().unwrap().insert(VERIFY.into(), "2".into());
    assert!(sum(&plan(&asked, &none(), now())).starts_with("Verify { hub: \"default\", asked: \"2\" }"));
}

#[test]
fn what_was_found_is_compared_with_what_was_taken() {
    let (asked, source) = to_verify();
    let told = |source: &Machine, examined: Option<Examined>, reason| {
        let mut made = verifier(&asked, Some(source), "default", "1");
        let status = MachineStatus { phase: Phase::Failed, examined, termination_reason: Some(reason), ..MachineStatus::default() };
        made.status = Some(MachineStatus { message: Some("said".into()), ..status });
        match plan(&asked, &verified_by(source, own(&made)), now()).stand {
            Stand::Verified(found, _) => {
                let checks: Vec<String> = found.checks.iter().map(|check| format!("{:?} {}", check.what, check.passed)).collect();
                format!("{:?} {}: {}", found.outcome, checks.join(", "), found.message)
            }
            other => panic!("{other:?}"),
        }
    };
    let held = |sha256: &str| {
        Some(Examined {
            digests: vec![Digest { sha256: sha256.into(), ..to_verify().0.status.unwrap().digests[0].clone() }],
            tool_results: None,
        })
    };
    let (passed, failed) = (TerminationReason::Completed, TerminationReason::VerifyFailed);
    assert_eq!(
        told(&source, held("ab"), passed),
        "Passed Boot true, Workspace true, Command true: a clone of it came up; its workspace /work is what it was; said"
    );
    assert_eq!(told(&source, held("ab"), failed), "Failed Boot true, Workspace true, Command false: said");
    assert_eq!(
        told(&source, held("cd"), passed),
        "Failed Boot true, Workspace false, Command true: its workspace /work is not what it was"
    );
    let nothing = Some(Examined { tool_results: Some(false), ..Examined::default() });
    assert_eq!(
        told(&source, nothing, passed),
        "Failed Boot true, Workspace false, ToolResults false, Command true: its workspace /work is not there, or cannot be read; \
         its conversation lacks the tool results that it was taken with"
    );
    assert_eq!(told(&source, None, failed), "Failed Boot false: no clone of it came up: said");
    // A command that did not pass then says nothing now.
    let unachieved = Machine { status: machine(Phase::Failed).status, ..source.clone() };
    assert_eq!(
        told(&unachieved, held("ab"), passed),
        "Passed Boot true, Workspace true: a clone of it came up; its workspace /work is what it was"
    );
}

#[test]
fn hubs_that_nobody_has_looked_at_yet_are_hidden() {
    let stored = ["default", "far", "new"];
    assert_eq!(super::observe::hidden(stored.into_iter(), &["default"].into(), vec!["far".into()]), ["far", "new"]);
    assert!(super::observe::hidden(stored.into_iter(), &stored.into(), Vec::new()).is_empty());
}

/// It was read before its Machine's own controller recorded it, and the Machine after that.
#[tokio::test]
async fn a_plan_that_is_over_changes_nothing_of_what_became_ready() {
    let directory = tempfile::tempdir().unwrap();
    let store = crate::store::Store::open(&directory.path().join("state.db")).await.unwrap();
    let cipher = crate::objects::Cipher::load(&directory.path().join("key")).unwrap();
    let objects = crate::objects::Objects::new(store.clone(), crate::clock::Clock::system(), cipher);
    objects.ensure_presets().await.unwrap();
    let spec = CheckpointSpec { machine: Some("a".into()), trigger: Trigger::Final, ..CheckpointSpec::default() };
    let mut new = Checkpoint::new("default", "a-final", spec);
    new.metadata.finalizers = Some(vec![FINALIZER.into()]);
    let read = objects.create(&new).await.unwrap();
    let mut ready = read.clone();
    ready.status = Some(CheckpointStatus { phase: CheckpointPhase::Ready, volumes: vec![volume()], ..CheckpointStatus::default() });
    let ready = objects.update_status(&ready).await.unwrap();
    let late = plan(&read, &seen(Some(machine(Phase::Succeeded))), now());
    assert_eq!(sum(&late), "failed MachineEnded");
    let client = crate::controller::client::Client::from(objects.clone());
    let recorded = super::record(&read, &late, &Outcome::default(), &client).await;
    assert!(matches!(recorded, Err(crate::controller::Error::Waiting(_))), "{recorded:?}");
    assert_eq!(objects.get::<Checkpoint>("default", "a-final").await.unwrap().unwrap().status, ready.status);
    // One that someone wrote a word of is recorded all the same.
    let mut released = objects.create(&Checkpoint::new("default", "b-final", new.spec.clone())).await.unwrap();
    let read = released.clone();
    released.status = Some(CheckpointStatus { released: true, ..CheckpointStatus::default() });
    objects.update_status(&released).await.unwrap();
    super::record(&read, &late, &Outcome::default(), &client).await.unwrap();
    let status = objects.get::<Checkpoint>("default", "b-final").await.unwrap().unwrap().status.unwrap();
    assert_eq!((status.phase, status.released), (CheckpointPhase::Failed, true));
    store.close().await;
}
