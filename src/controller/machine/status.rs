//! What a Machine's status says: the decision, what was reached, and what was observed. Pure.

use super::act::{Fact, Outcome};
use super::plan::{Observed, Plan, VM_UNKNOWN, Waiting, api_time, ran, relaunch};
use super::step::Ending;
use super::suspend::forget;
use crate::api::Kind;
use crate::api::capability::{CapabilityName, impossible};
use crate::api::machine::{Machine, MachineStatus, Phase, Pushed, TerminationReason, VmStatus};
use crate::api::meta::{clear_condition, put_condition};
use crate::api::quantity::{GoDuration, NanoUsd};
use crate::controller::kstatus::Readiness;
use jiff::Timestamp;

/// The status after `plan` was decided and, with an outcome, after its steps were done.
pub(super) fn status(machine: &Machine, observed: &Observed, plan: &Plan, outcome: Option<&Outcome>, now: Timestamp) -> MachineStatus {
    let mut next = plan.next.clone();
    let generation = machine.generation();
    next.observed_generation = Some(generation);
    let checkpoints = &observed.checkpoints;
    if checkpoints.last.is_some() {
        next.last_checkpoint.clone_from(&checkpoints.last);
    } else if checkpoints.last_is_gone && !next.phase.is_finished() {
        next.last_checkpoint = None;
    }
    if checkpoints.last_of_all.is_some() {
        next.final_checkpoint.clone_from(&checkpoints.last_of_all);
    }
    next.checkpoints = next.checkpoints.max(checkpoints.taken);
    for fact in outcome.iter().flat_map(|outcome| &outcome.facts) {
        reach(&mut next, fact, now);
    }
    let usage = &observed.usage;
    if usage.api_calls > 0 || usage.money > NanoUsd(0) || usage.reserved > NanoUsd(0) {
        next.usage.money = usage.money;
        next.usage.reserved = usage.reserved;
        next.usage.api_calls = usage.api_calls;
        next.usage.tokens_in = usage.tokens_in;
        next.usage.tokens_out = usage.tokens_out;
    }
    if next.phase != Phase::Running {
        next.usage.time = GoDuration(ran(&next, now));
    }
    next.spent = observed.limits.money.map_or_else(
        || (next.usage.money > NanoUsd(0)).then(|| next.usage.money.dollars()),
        |limit| Some(format!("{} of {}", next.usage.money.dollars(), limit.amount.dollars())),
    );
    let problem = outcome.and_then(|outcome| outcome.problem.as_ref());
    let waiting =
        problem.map(|problem| Waiting { reason: problem.reason(), message: problem.to_string() }).or_else(|| plan.waiting.clone());
    let is_ending = matches!(next.phase, Phase::Finishing | Phase::Terminating);
    if let Some(waiting) = waiting.as_ref().filter(|_| !is_ending && !next.phase.is_finished()) {
        next.message = Some(waiting.message.clone());
    } else if let Some(message) = doing(&next, plan, outcome.is_some_and(|outcome| outcome.later.is_none())) {
        next.message = Some(message);
    } else if !next.phase.is_finished() && !is_ending {
        next.message = asked(&next, observed);
    }
    let stalled = problem.is_some_and(super::act::Problem::is_stalled);
    conditions(&mut next, observed, waiting.as_ref(), stalled, generation, now);
    if next.phase == Phase::Succeeded {
        pushed(machine, &mut next, waiting.as_ref(), now);
    }
    next
}

/// Whether the work is where it is to go. What kept it from that stays said until it is there.
fn pushed(machine: &Machine, next: &mut MachineStatus, problem: Option<&Waiting>, now: Timestamp) {
    let Some((git, branch)) = machine.spec.push_to(machine.name()) else {
        clear_condition(&mut next.conditions, "Pushed");
        return;
    };
    let now = api_time(now);
    let known = |done: &Pushed| done.git == git && done.branch == branch;
    let told = match (next.pushed.as_ref().filter(|done| known(done)), problem) {
        (Some(done), _) => ("True", "Pushed", format!("branch {} of {} is commit {}", done.branch, done.git, done.commit)),
        (None, Some(problem)) => ("False", problem.reason, problem.message.clone()),
        (None, None) if next.conditions.iter().any(|known| known.type_ == "Pushed" && known.status == "False") => return,
        (None, None) => ("Unknown", "Pending", format!("it goes to branch {branch} of {git}")),
    };
    put_condition(&mut next.conditions, machine.generation(), &now, ("Pushed", told.0, told.1, &told.2));
}

/// That its agent waits for a person, in words.
fn asked(next: &MachineStatus, observed: &Observed) -> Option<String> {
    let waits = next.phase == Phase::Running && !observed.approvals.is_empty();
    waits.then(|| format!("waits for a person: {}", observed.approvals.join("; ")))
}

/// Whether a status says what the Machine's says, but for its message and conditions.
pub(super) fn is_same_but_words(machine: &Machine, next: &MachineStatus) -> bool {
    machine.status.as_ref().is_some_and(|stored| {
        let mut next = next.clone();
        next.message.clone_from(&stored.message);
        next.conditions.clone_from(&stored.conditions);
        next == *stored
    })
}

fn reach(next: &mut MachineStatus, fact: &Fact, now: Timestamp) {
    match fact {
        Fact::Created(vm) => next.vm = Some(VmStatus { node: vm.node.clone(), vmid: vm.vmid, disks: vm.disks.clone() }),
        Fact::Launched => {
            next.phase = Phase::Running;
            if let Some(agent) = &mut next.agent {
                agent.launched_at = Some(api_time(now));
            }
        }
        Fact::Resumed => {
            next.phase = Phase::Running;
            next.memory_kept_at = None;
            if let Some(agent) = &mut next.agent {
                agent.resumed += 1;
                agent.launched_at = Some(api_time(now));
            }
        }
        Fact::MemoryNotKept => next.memory_kept_at = None,
        Fact::MemoryLost => forget(next, now),
        Fact::Examined(found) => {
            next.phase = Phase::Finishing;
            next.examined = Some(found.clone());
            next.message = Some("its disks were looked at".into());
        }
        Fact::Verified { passed, message } => {
            next.termination_reason = Some(if *passed { TerminationReason::Completed } else { TerminationReason::VerifyFailed });
            next.message = Some(message.clone());
        }
        Fact::Captured { ending: Ending::Final, name } => {
            next.last_checkpoint = Some(name.clone());
            next.final_checkpoint = Some(name.clone());
        }
        Fact::Captured { ending: Ending::Suspend, name } => {
            next.last_checkpoint = Some(name.clone());
            next.phase = Phase::Suspended;
        }
        // What it was: it becomes another.
        Fact::Captured { ending: Ending::Restore, .. } => {}
        Fact::Pushed(pushed) => next.pushed = Some(pushed.clone()),
        Fact::PutAway => {
            next.vm = None;
            next.last_checkpoint = next.restored.as_ref().and_then(|restored| restored.checkpoint.clone());
            relaunch(next, now);
        }
        Fact::Ended { reason, message } => {
            next.phase = Phase::Finishing;
            next.termination_reason = Some(*reason);
            next.message = Some(message.clone());
        }
    }
}

/// What it does now, while it does.
fn doing(next: &MachineStatus, plan: &Plan, is_done: bool) -> Option<String> {
    if is_done {
        return None;
    }
    // The reason of an end is worth more than what is done about it.
    if matches!(next.phase, Phase::Finishing | Phase::Terminating) && next.message.is_some() {
        return None;
    }
    plan.steps.first().map(|step| step.doing().to_owned())
}

fn conditions(next: &mut MachineStatus, observed: &Observed, waiting: Option<&Waiting>, stalled: bool, generation: i64, now: Timestamp) {
    let now = api_time(now);
    let phase = format!("{:?}", next.phase);
    let message = next.message.clone().unwrap_or_default();
    let reason = next.termination_reason.map(|reason| format!("{reason:?}"));
    let running = next.phase == Phase::Running;
    let asked = asked(next, observed);
    let launches = next.agent.as_ref().map_or(0, |agent| agent.launches);
    let all = &mut next.conditions;
    let truth = |yes: bool| if yes { "True" } else { "False" };
    // Not seen is not absent, nor is it there.
    let (ready, why) = match waiting {
        Some(waiting) if running && waiting.reason == VM_UNKNOWN => ("Unknown", VM_UNKNOWN),
        _ => (truth(running), phase.as_str()),
    };
    put_condition(all, generation, &now, ("MachineReady", ready, why, &message));
    let agent = match (running, launches) {
        (true, n) => ("True", "Launched", format!("launch {n}")),
        (false, 0) => ("False", "NotLaunched", String::new()),
        (false, _) => ("False", "NotRunning", String::new()),
    };
    put_condition(all, generation, &now, ("AgentActive", agent.0, agent.1, &agent.2));
    let goal = match (next.phase, &reason) {
        (Phase::Succeeded, Some(reason)) => ("True", reason.as_str()),
        (Phase::Failed, Some(reason)) => ("False", reason.as_str()),
        _ => ("Unknown", "InProgress"),
    };
    put_condition(all, generation, &now, ("GoalAchieved", goal.0, goal.1, if goal.0 == "Unknown" { "" } else { &message }));
    let spent = next.spent.clone().unwrap_or_default();
    let exhausted = next.termination_reason == Some(TerminationReason::BudgetExhausted);
    let budget = match &observed.budget {
        Err(why) => ("False", "BudgetMissing", why.clone()),
        Ok(()) if exhausted => {
            ("False", "Exhausted", format!("{spent}; raise the limit in a new machine that starts from its final checkpoint"))
        }
        Ok(()) => ("True", "WithinLimits", String::new()),
    };
    put_condition(all, generation, &now, ("BudgetAvailable", budget.0, budget.1, &budget.2));
    let checkpoint = match (next.last_checkpoint.clone(), impossible(&observed.can.told(), CapabilityName::CheckpointInLife)) {
        (Some(name), _) => ("True", "Captured", name),
        (None, Some(why)) => ("False", "NotPossible", format!("its hub {why}")),
        (None, None) => ("False", "NoCheckpoint", String::new()),
    };
    // While its Hub cannot be asked, why there is none is not known anew.
    let unknown = checkpoint.0 == "False" && observed.hub.is_err() && all.iter().any(|known| known.type_ == "CheckpointCurrent");
    if !unknown {
        put_condition(all, generation, &now, ("CheckpointCurrent", checkpoint.0, checkpoint.1, &checkpoint.2));
    }
    match asked {
        Some(message) => put_condition(all, generation, &now, ("ApprovalPending", "True", "PersonNeeded", &message)),
        None => clear_condition(all, "ApprovalPending"),
    }
    let readiness = match (next.phase, waiting) {
        (Phase::Succeeded, _) => Readiness::Ready { reason: "Succeeded", message },
        (Phase::Failed, _) => Readiness::stalled("Failed", message),
        (_, Some(waiting)) if stalled => Readiness::stalled(waiting.reason, &waiting.message),
        (Phase::Suspended, _) => Readiness::Ready { reason: "Suspended", message },
        (_, Some(waiting)) => Readiness::waiting(waiting.reason, &waiting.message),
        (Phase::Running, None) => Readiness::Ready { reason: "Running", message },
        (phase, None) => Readiness::waiting(progress(phase), message),
    };
    readiness.apply(all, generation, &now);
}

fn progress(phase: Phase) -> &'static str {
    match phase {
        Phase::Pending | Phase::Waiting => "Pending",
        Phase::Spawning => "Spawning",
        Phase::Suspending => "Suspending",
        Phase::Restoring => "Restoring",
        Phase::Finishing => "Finishing",
        Phase::Terminating => "Terminating",
        Phase::Running | Phase::Suspended | Phase::Succeeded | Phase::Failed => "Progressing",
    }
}
