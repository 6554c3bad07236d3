//! Whether a checkpoint can be gone on from: a Machine that is made of it is looked at. Pure.
//!
//! That Machine is one like any other, so that its lease, its marks, its way through a hub that dies and its end are those of all
//! Machines; only that it has no network and no agent. What it found is compared here.

use super::observe::{Observed, Verifier};
use super::plan::{Plan, Stand, Step, WAITING};
use crate::api::checkpoint::{Check, Checked, Content, Digest, Outcome, Taken, Trigger, VERIFY, Verified};
use crate::api::machine::{Agent, AgentType, From, Goal, Machine, MachineSpec, OnTerminate, Phase, Placement, Purpose, TerminationReason};
use crate::api::quantity::GoDuration;
use crate::api::{API_VERSION, Checkpoint, Kind};
use crate::controller::hub::HubHandle;
use crate::runtime::Requeue;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{OwnerReference, Time};
use std::{collections::BTreeSet, sync::Arc, time::Duration};

/// One that is forgotten, as when nobody asks any more, goes by itself.
const FORGOTTEN: Duration = Duration::from_hours(1);
/// As much of a Checkpoint's name as leaves room for the rest.
const NAME: usize = 240;

/// What is asked for, and was not done yet.
pub(in crate::controller) fn asked(checkpoint: &Checkpoint) -> Option<&str> {
    let done = checkpoint.status.as_ref().and_then(|status| status.verified.as_ref()?.asked.as_deref());
    checkpoint.annotation(VERIFY).filter(|asked| Some(*asked) != done)
}

/// Name of the Machine by which a Checkpoint is verified.
pub(super) fn verifier_name(checkpoint: &Checkpoint) -> String {
    let name: String = checkpoint.name().chars().take(NAME).collect();
    format!("{}-verify", name.trim_end_matches(['.', '-']))
}

/// The Hub that a Checkpoint's snapshots belong to: its Machine's; when that is gone, the one that has their node.
pub(in crate::controller) fn home(checkpoint: &Checkpoint, machine: Option<&Machine>, hubs: &[Arc<HubHandle>]) -> Option<String> {
    let default = || crate::api::DEFAULT_HUB.to_owned();
    if let Some(import) = &checkpoint.spec.import {
        return Some(import.hub.clone().unwrap_or_else(default));
    }
    if let Some(machine) = machine.filter(|machine| is_of(checkpoint, machine)) {
        return Some(machine.spec.hub.clone().unwrap_or_else(default));
    }
    let node = &checkpoint.status.as_ref()?.volumes.first()?.node;
    hubs.iter().find(|hub| hub.driver.nodes().any(|known| known.0 == *node)).map(|hub| hub.name.clone())
}

/// Whether it was taken of this Machine, and not of a namesake.
fn is_of(checkpoint: &Checkpoint, machine: &Machine) -> bool {
    checkpoint.status.as_ref().and_then(|status| status.machine_uid.as_deref()) == Some(machine.uid())
}

/// What a Ready checkpoint needs.
pub(super) fn plan(checkpoint: &Checkpoint, observed: &Observed, now: Timestamp) -> Plan {
    let done = checkpoint.status.as_ref().and_then(|status| status.verified.as_ref()?.asked.as_deref());
    match (&observed.verifier, asked(checkpoint)) {
        (Verifier::None | Verifier::Foreign(_), None) => Plan::stand(Stand::Settled),
        (Verifier::None, Some(asked)) => match &observed.home {
            Some(hub) => {
                let step = Step::Verify { hub: hub.clone(), asked: asked.to_owned() };
                Plan { steps: vec![step], ..verifying("InProgress", format!("by machine {}", verifier_name(checkpoint))) }
            }
            None => verifying("HubMissing", "no hub has the node that its snapshots lie on; see spec.infrastructure of hubs".into()),
        },
        (Verifier::Foreign(name), Some(_)) => {
            verifying("NameTaken", format!("machine {name}, which has the name of the one to verify it by, is another; delete it"))
        }
        (Verifier::Own(machine), _) if machine.annotation(VERIFY) == done => Plan { steps: end(machine), ..Plan::stand(Stand::Settled) },
        (Verifier::Own(machine), _) if phase(machine).is_finished() => {
            let (found, baseline) = judge(checkpoint, machine, now);
            Plan::stand(Stand::Verified(found, baseline))
        }
        (Verifier::Own(machine), _) => {
            let does = machine.status.as_ref().map(|status| format!("{:?}", status.phase)).unwrap_or_default();
            verifying("InProgress", format!("by machine {}, which is {does}", machine.name()))
        }
    }
}

/// Lets the Machine go by which a checkpoint was verified.
pub(super) fn end(machine: &Machine) -> Vec<Step> {
    let step = Step::EndVerification { machine: machine.name().to_owned(), uid: machine.uid().to_owned() };
    if machine.is_deleting() { Vec::new() } else { vec![step] }
}

fn verifying(reason: &'static str, message: String) -> Plan {
    Plan { requeue: Requeue::After(WAITING), ..Plan::stand(Stand::Verifying { reason, message }) }
}

fn phase(machine: &Machine) -> Phase {
    machine.status.as_ref().map(|status| status.phase).unwrap_or_default()
}

/// The Machine that a checkpoint is verified by: as large as the one that it was taken of, and on a node that has its snapshots.
pub(super) fn verifier(checkpoint: &Checkpoint, machine: Option<&Machine>, hub: &str, asked: &str) -> Machine {
    let machine = machine.filter(|machine| is_of(checkpoint, machine));
    // What was taken before the goal was achieved does not pass, and need not.
    let ended = |machine: &&Machine| checkpoint.spec.trigger == Trigger::Final && phase(machine) == Phase::Succeeded;
    let recorded = || checkpoint.status.as_ref().and_then(|status| status.workspace.clone());
    let workspace = machine.map(|machine| machine.workspace().to_owned()).or_else(recorded);
    let nodes: BTreeSet<String> = checkpoint.status.iter().flat_map(|status| &status.volumes).map(|volume| volume.node.clone()).collect();
    let spec = MachineSpec {
        hub: Some(hub.to_owned()),
        from: Some(From { checkpoint: Some(checkpoint.name().to_owned()), ..From::default() }),
        purpose: Some(Purpose::Verify),
        goal: Goal {
            prompt: format!("see whether checkpoint {} can be gone on from", checkpoint.name()),
            // Where none is known, what is there in any case.
            workspace: Some(workspace.unwrap_or_else(|| "/".into())),
            verify: machine.filter(ended).and_then(|machine| machine.spec.goal.verify.clone()),
            ..Goal::default()
        },
        agent: machine.map_or_else(
            || Agent { r#type: AgentType::Command, command: vec!["true".into()], ..Agent::default() },
            |machine| machine.spec.agent.clone(),
        ),
        resources: machine.map(|machine| machine.spec.resources.clone()).unwrap_or_default(),
        placement: (!nodes.is_empty()).then(|| Placement { nodes: nodes.into_iter().collect() }),
        on_terminate: OnTerminate::Discard,
        ttl_after_finished: Some(GoDuration(FORGOTTEN)),
        ..MachineSpec::default()
    };
    let mut verifier = Machine::new(checkpoint.namespace(), &verifier_name(checkpoint), spec);
    verifier.metadata.annotations = Some([(VERIFY.to_owned(), asked.to_owned())].into());
    verifier.metadata.owner_references = Some(vec![OwnerReference {
        api_version: API_VERSION.into(),
        kind: Checkpoint::KIND.into(),
        name: checkpoint.name().to_owned(),
        uid: checkpoint.uid().to_owned(),
        controller: Some(true),
        block_owner_deletion: None,
    }]);
    verifier
}

/// Whether this Machine was made to verify this Checkpoint.
pub(super) fn is_verifier(machine: &Machine, checkpoint: &Checkpoint) -> bool {
    let owners = machine.metadata.owner_references.iter().flatten();
    machine.spec.verifies() && machine.annotation(VERIFY).is_some() && owners.into_iter().any(|owner| owner.uid == checkpoint.uid())
}

/// Compares what was found in the clone with what the checkpoint says; what it says nothing of is what the next is compared with.
fn judge(checkpoint: &Checkpoint, verifier: &Machine, now: Timestamp) -> (Verified, Vec<Digest>) {
    let (taken, status) = (checkpoint.status.clone().unwrap_or_default(), verifier.status.clone().unwrap_or_default());
    let said = status.message.clone().filter(|message| !message.is_empty());
    let (mut found, mut baseline) = (Found::default(), Vec::new());
    match &status.examined {
        None => found.add(Checked::Boot, false, format!("no clone of it came up: {}", said.as_deref().unwrap_or("no reason was given"))),
        Some(examined) => {
            found.add(Checked::Boot, true, "a clone of it came up".into());
            for digest in &taken.digests {
                let (what, name) = named(digest.content);
                let now = examined.digests.iter().find(|found| found.path == digest.path).map(|found| found.sha256.as_str());
                let (passed, is) = match now {
                    Some(sha256) if sha256 == digest.sha256 => (true, "is what it was"),
                    Some(_) => (false, "is not what it was"),
                    None => (false, "is not there, or cannot be read"),
                };
                let when = if digest.taken == Taken::AtVerification { " when it was first verified" } else { "" };
                found.add(what, passed, format!("its {name} {} {is}{when}", digest.path));
            }
            let unknown = |digest: &&Digest| !taken.digests.iter().any(|known| known.content == digest.content);
            baseline = examined.digests.iter().filter(unknown).cloned().collect();
            for digest in &mut baseline {
                digest.taken = Taken::AtVerification;
                let name = named(digest.content).1;
                found.right.push(format!("its {name} {} was read for the first time, and is compared from now on", digest.path));
            }
            if let Some(there) = examined.tool_results {
                let has = if there { "has" } else { "lacks" };
                found.add(Checked::ToolResults, there, format!("its conversation {has} the tool results that it was taken with"));
            }
            if let Some(verify) = &verifier.spec.goal.verify {
                let passed = status.termination_reason == Some(TerminationReason::Completed);
                let fails = || format!("`{}` does not pass", verify.command.join(" "));
                found.add(Checked::Command, passed, said.unwrap_or_else(fails));
            }
        }
    }
    let before = taken.verified.unwrap_or_default();
    let passed_before = before.last_passed.or(before.at.filter(|_| before.outcome == Outcome::Passed));
    let at = Some(Time(Timestamp::from_second(now.as_second()).unwrap_or(now)));
    let (outcome, words, last_passed) = if found.wrong.is_empty() {
        (Outcome::Passed, found.right, at.clone())
    } else {
        // What is wrong in part is nothing to compare with.
        baseline.clear();
        found.wrong.extend(passed_before.as_ref().map(|time| format!("it passed at {}", time.0)));
        (Outcome::Failed, found.wrong, passed_before)
    };
    let asked = verifier.annotation(VERIFY).map(str::to_owned);
    (Verified { outcome, message: words.join("; "), checks: found.checks, at, last_passed, asked }, baseline)
}

fn named(content: Content) -> (Checked, &'static str) {
    match content {
        Content::Conversation => (Checked::Conversation, "conversation"),
        Content::Workspace => (Checked::Workspace, "workspace"),
    }
}

/// What was looked at, and the words for it.
#[derive(Default)]
struct Found {
    checks: Vec<Check>,
    right: Vec<String>,
    wrong: Vec<String>,
}

impl Found {
    fn add(&mut self, what: Checked, passed: bool, words: String) {
        self.checks.push(Check { what, passed });
        if passed { self.right.push(words) } else { self.wrong.push(words) }
    }
}
