//! What a Machine needs next: every decision of its life, pure.
//!
//! `status.phase` is the record of what was decided, written before the steps that depend on it; each pass plans the steps
//! from there to the next decision. Steps are safe to repeat, so a pass that was cut off is planned again.

use super::end::{end, ended, finish, lost};
use super::put_back::{put_back, restore};
use super::step::{Ask, Base, Step};
use super::suspend::{begin, by_someone_else, resume, suspend, suspended};
use crate::agent::LastCall;
use crate::api::capability::{Capabilities, CapabilityName};
use crate::api::machine::{AfterFailure, AgentStatus, Goal, Limits, Machine, MachineStatus, OperatingMode, Phase, TerminationReason};
use crate::api::{Kind, quantity::GoDuration};
use crate::driver::guest::AgentState;
use crate::proxmox::{Node, Power, Vmid};
use crate::runtime::{Requeue, Seen};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use std::time::Duration;

/// How often an agent that was interrupted is launched again.
pub(super) const RELAUNCHES: u32 = 5;
/// Looks again this soon at what only time brings.
pub(super) const SOON: Duration = Duration::from_secs(2);

/// Looks again this soon whether a node has room. Room that a Machine makes is told; not that a node is back, or another VM gone.
const FULL: Duration = Duration::from_mins(1);
/// Looks again this soon at a running VM that could not be seen.
const UNSEEN: Duration = Duration::from_secs(15);
/// Reason of waiting for a look at the VM.
pub(super) const VM_UNKNOWN: &str = "VmUnknown";

/// All that is known about a Machine and what it depends on.
#[derive(Clone, Debug)]
pub(super) struct Observed {
    /// Why its Hub cannot be used, if it cannot.
    pub hub: Result<(), String>,
    /// What that Hub's storage can do.
    pub can: Capabilities,
    /// Each of `goal.after`.
    pub after: Vec<(String, Predecessor)>,
    /// What its disks are cloned from; or what is missing.
    pub base: Result<Base, String>,
    /// The node that it would be put on; or why none does. Looked at only before it is.
    pub placed: Result<Node, String>,
    /// The node that was looked at, and is acted on.
    pub node: Option<Node>,
    /// What is to be asked for first, for the base.
    pub ask: Option<Ask>,
    /// Whether what `spec.restore` names can be put back, when that is still to be done; or why not.
    pub restore: Option<Result<(), String>>,
    /// Why its Budget cannot be charged, if it cannot.
    pub budget: Result<(), String>,
    pub limits: Limits,
    pub lease: Option<Vmid>,
    pub vm: Seen<Vm>,
    /// The agent in the guest; `None` when nobody looked.
    pub agent: Option<Seen<AgentState>>,
    /// Of an agent that was not heard of.
    pub silence: Silence,
    /// Whether the hub was away while the agent may have needed it.
    pub hub_was_away: bool,
    pub last_call: LastCall,
    pub usage: crate::ledger::Usage,
    pub checkpoints: Checkpoints,
    /// Calls of its agent that wait for a person, each in a line.
    pub approvals: Vec<String>,
}

/// What is known of the way from a guest to the gateway, which did not hear of its agent yet. An agent of type Command may have nothing
/// to ask: so what counts is what the guest finds when it tries.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Silence {
    /// How long until the guest is to try it (again); `None` when it need not.
    pub try_in: Option<Duration>,
    /// That it does not reach it, and what to look at.
    pub unreached: Option<String>,
}

/// A Machine in `goal.after`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Predecessor {
    Missing,
    Unfinished(Phase),
    Succeeded,
    Failed { reason: Option<TerminationReason>, has_final: bool },
}

/// The VM that its lease names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Vm {
    Ours(Power),
    /// Its own, off with its memory kept.
    Suspended,
    /// Its own, and made a template: it never runs again.
    Template,
    /// Someone else's; says why.
    Foreign(String),
}

/// The Machine's own Checkpoints.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Checkpoints {
    /// Name of the newest Ready one.
    pub last: Option<String>,
    /// Whether the one that the status names as its last is there no more.
    pub last_is_gone: bool,
    /// When the newest one was taken, as it says.
    pub captured_at: Option<Timestamp>,
    /// When the last one was asked for, whatever became of it.
    pub asked_at: Option<Timestamp>,
    pub taken: u64,
    /// Name of the final one, once it is Ready.
    pub last_of_all: Option<String>,
}

impl Observed {
    /// Whether nothing can be captured, as the Hub's storage is another than it was.
    pub(super) fn cannot_put_back(&self) -> bool {
        !self.can.has(CapabilityName::Restore)
    }
    /// Disks that lie apart from their VM are destroyed apart from it.
    pub(super) fn destroy_disks(&self) -> Option<Step> {
        self.can.has(CapabilityName::DetachDisks).then_some(Step::DestroyDisks)
    }
}

/// What became of a VM that nobody but Proxmox' user can have changed so.
pub(super) const TEMPLATE: &str = "its VM was made a template by someone else";

/// What comes next.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// What is decided; written before any step is done.
    pub next: MachineStatus,
    pub steps: Vec<Step>,
    /// What it waits for, in words; `Stalled` when only a person can help.
    pub waiting: Option<Waiting>,
    pub requeue: Requeue,
}

/// What a Machine waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Waiting {
    pub reason: &'static str,
    pub message: String,
}

impl Plan {
    pub(super) fn of(next: MachineStatus) -> Self {
        Self { next, steps: Vec::new(), waiting: None, requeue: Requeue::Never }
    }
    pub(super) fn wait(mut self, reason: &'static str, message: impl Into<String>, requeue: Requeue) -> Self {
        self.waiting = Some(Waiting { reason, message: message.into() });
        self.requeue = requeue;
        self
    }
    pub(super) fn steps(mut self, steps: impl IntoIterator<Item = Step>) -> Self {
        self.steps.extend(steps);
        self
    }
}

/// Plans the way to the next decision. `resync` is how often what is quiet is looked at all the same.
pub(super) fn plan(machine: &Machine, observed: &Observed, now: Timestamp, resync: Duration) -> Plan {
    let mut next = machine.status.clone().unwrap_or_default();
    let finalizer = machine.has_finalizer(crate::api::machine::FINALIZER);
    if machine.is_deleting() && !finalizer {
        return Plan::of(next);
    }
    if next.phase.is_finished() {
        return finished(machine, next, now);
    }
    if !finalizer {
        return Plan::of(next).steps([Step::AddFinalizer]);
    }
    if machine.is_deleting() && next.phase != Phase::Terminating {
        leave_running(&mut next, now);
        next.termination_reason.get_or_insert(TerminationReason::Deleted);
        next.phase = Phase::Terminating;
    }
    let mut refused = None;
    if matches!(next.phase, Phase::Running | Phase::Suspended | Phase::Spawning) && next.vm.is_some() {
        match &observed.restore {
            Some(Ok(())) => {
                let asked = machine.spec.restore.clone();
                let checkpoint = asked.as_ref().map(|asked| asked.checkpoint.clone());
                put_back(&mut next, checkpoint, now);
                next.restored.get_or_insert_default().asked = asked;
            }
            Some(Err(why)) => refused = Some(why.clone()),
            None => {}
        }
    }
    let plan = by_phase(machine, observed, next, now, resync);
    // It goes on as it is meanwhile.
    match refused {
        Some(why) if plan.waiting.is_none() => {
            let requeue = plan.requeue;
            plan.wait("RestoreNotReady", why, requeue)
        }
        _ => plan,
    }
}

fn by_phase(machine: &Machine, observed: &Observed, next: MachineStatus, now: Timestamp, resync: Duration) -> Plan {
    if let (None, Some(vm), Seen::Present(_)) = (observed.lease, &next.vm, &observed.vm) {
        let why = format!(
            "for the lease of VM {}, which is there and its own: without it nothing is done to either; restore the hub's database, or \
             remove that VM by hand",
            vm.vmid
        );
        return Plan::of(next).wait("LeaseMissing", why, Requeue::After(SOON));
    }
    match next.phase {
        Phase::Pending | Phase::Waiting => wait(machine, observed, next, now, resync),
        Phase::Spawning => spawn(machine, observed, next, now),
        Phase::Running => run(machine, observed, next, now, resync),
        Phase::Suspending => suspend(observed, next, now),
        Phase::Suspended => suspended(machine, observed, next, now),
        Phase::Restoring => restore(observed, next, now),
        Phase::Finishing | Phase::Terminating | Phase::Succeeded | Phase::Failed => end(machine, observed, next, now),
    }
}

fn finished(machine: &Machine, next: MachineStatus, now: Timestamp) -> Plan {
    if machine.is_deleting() {
        return Plan::of(next).steps([Step::RemoveFinalizer]);
    }
    let is_to_be_pushed = to_be_pushed(machine, &next);
    let ttl = machine.spec.ttl_after_finished.map(|ttl| ttl.0).zip(next.finished_at.clone());
    let left = ttl.map(|(ttl, ended)| ttl.saturating_sub(since(&ended, now)));
    let mut plan = Plan::of(next);
    match left {
        Some(left) if left.is_zero() => return plan.steps([Step::DeleteSelf]),
        Some(left) => plan.requeue = Requeue::After(left),
        None => {}
    }
    if is_to_be_pushed { plan.steps([Step::Push]) } else { plan }
}

/// Whether its work is to go to a repository and has not got there.
fn to_be_pushed(machine: &Machine, status: &MachineStatus) -> bool {
    let wanted = machine.spec.push_to(machine.name()).filter(|_| status.phase == Phase::Succeeded);
    let done = status.pushed.as_ref().map(|pushed| (pushed.git.clone(), pushed.branch.clone()));
    wanted.is_some() && wanted != done
}

/// Before there is anything: every condition that must hold first, one after the other.
fn wait(machine: &Machine, observed: &Observed, mut next: MachineStatus, now: Timestamp, resync: Duration) -> Plan {
    next.phase = Phase::Waiting;
    let again = Requeue::After(resync);
    let blocked = |next: MachineStatus, reason, message: String| Plan::of(next).wait(reason, message, again);
    for (name, predecessor) in &observed.after {
        match (predecessor, machine.spec.goal.after_failure) {
            (Predecessor::Succeeded, _) | (Predecessor::Failed { has_final: true, .. }, AfterFailure::Continue) => {}
            (Predecessor::Missing, _) => {
                return blocked(next, "PredecessorMissing", format!("for machine {name}, which does not exist; create it"));
            }
            (Predecessor::Unfinished(phase), _) => {
                return blocked(next, "PredecessorUnfinished", format!("for machine {name}, which is {phase:?}"));
            }
            (Predecessor::Failed { reason, .. }, AfterFailure::Fail) => {
                next.phase = Phase::Failed;
                next.termination_reason = Some(TerminationReason::PredecessorFailed);
                next.finished_at = Some(api_time(now));
                next.message = Some(format!("machine {name} failed{}", why(*reason)));
                let mut plan = Plan::of(next);
                plan.requeue = Requeue::After(Duration::ZERO);
                return plan;
            }
            (Predecessor::Failed { reason, has_final: false }, AfterFailure::Continue) => {
                return blocked(
                    next,
                    "PredecessorFailed",
                    format!("for machine {name}, which failed{} without a final checkpoint", why(*reason)),
                );
            }
            (Predecessor::Failed { reason, .. }, AfterFailure::Wait) => {
                return blocked(
                    next,
                    "PredecessorFailed",
                    format!(
                        "for machine {name}, which failed{}; delete it and create it anew, or set afterFailure in a new machine",
                        why(*reason)
                    ),
                );
            }
        }
    }
    if let Err(why) = &observed.hub {
        return blocked(next, "HubNotReady", format!("for its hub: {why}"));
    }
    if let Err(why) = &observed.budget {
        return blocked(next, "BudgetMissing", why.clone());
    }
    let base = match &observed.base {
        Ok(base) => base.clone(),
        Err(why) => return blocked(next, "BaseNotReady", why.clone()).steps(observed.ask.clone().map(Step::AskForBase)),
    };
    if machine.spec.operating_mode == OperatingMode::Suspended {
        return Plan::of(next).wait("Suspended", "for spec.operatingMode to be Running", Requeue::Never);
    }
    if next.node.is_none() {
        match &observed.placed {
            Ok(node) => next.node = Some(node.0.clone()),
            Err(why) => {
                let again = Requeue::After(FULL.min(resync));
                return Plan::of(next).wait("NoNode", format!("for a node that it fits on: {why}"), again);
            }
        }
    }
    next.phase = Phase::Spawning;
    next.spawned_from.clone_from(&base.checkpoint);
    let own = machine.spec.goal.workspace.clone();
    next.workspace = Some(own.or(base.workspace).unwrap_or_else(|| Goal::WORKSPACE.into()));
    let elsewhere = next.node.as_deref() != observed.node.as_ref().map(|node| node.0.as_str());
    if !machine.spec.verifies() {
        let mut agent = next.agent.take().unwrap_or_default();
        agent.session = Some(crate::agent::session(machine.uid()));
        agent.launches = 1;
        agent.decided_at = Some(api_time(now));
        next.agent = Some(agent);
    }
    if elsewhere {
        // There nobody has looked yet.
        let mut plan = Plan::of(next);
        plan.requeue = Requeue::After(Duration::ZERO);
        return plan;
    }
    spawn(machine, observed, next, now)
}

/// From nothing, or a VM that stands still, to a launched agent.
pub(super) fn spawn(machine: &Machine, observed: &Observed, mut next: MachineStatus, now: Timestamp) -> Plan {
    if let Err(why) = &observed.hub {
        return Plan::of(next).wait("HubNotReady", format!("for its hub: {why}"), Requeue::After(SOON));
    }
    let power = match &observed.vm {
        Seen::Unknown { why } => return Plan::of(next).wait(VM_UNKNOWN, format!("to see its VM: {why}"), Requeue::After(SOON)),
        // The number was taken by someone after it was leased: give it up and lease another.
        Seen::Present(Vm::Foreign(_)) if next.started_at.is_none() || next.vm.is_none() => {
            return Plan::of(next).steps(observed.destroy_disks()).steps([Step::EndLease]);
        }
        Seen::Present(Vm::Template) => return lost(next, now, TEMPLATE),
        Seen::Present(Vm::Foreign(_)) => return lost(next, now, "its VM's number is someone else's now"),
        Seen::Absent if next.started_at.is_some() && next.vm.is_some() => return lost(next, now, "its VM was deleted by someone else"),
        // Nothing of it was made, for that needs a lease: it need not wait for a node that went down meanwhile.
        Seen::Absent if observed.lease.is_none() && observed.node.is_none() && next.started_at.is_none() => {
            next.phase = Phase::Waiting;
            (next.node, next.spawned_from, next.workspace) = (None, None, None);
            let mut plan = Plan::of(next);
            plan.requeue = Requeue::After(Duration::ZERO);
            return plan;
        }
        Seen::Absent => {
            let base = match &observed.base {
                Ok(base) => base.clone(),
                Err(why) => return Plan::of(next).wait("BaseNotReady", why.clone(), Requeue::After(SOON)),
            };
            if next.node.as_ref().is_some_and(|node| !base.is_on(node)) {
                return Plan::of(next).steps([Step::Copy(base)]);
            }
            let detaches = observed.can.has(CapabilityName::DetachDisks);
            if base.template().is_some() == detaches {
                let (has, keeps) = if detaches { ("a template", "snapshots") } else { ("a snapshot", "templates") };
                let why = format!("for a hub that can clone {has}; its own keeps {keeps}: name another in spec.hub of a new machine");
                return Plan::of(next).wait("BaseNotHere", why, Requeue::After(FULL));
            }
            let create = Step::CreateVm { disks: base.disks(), template: base.template() };
            let look = (detaches && machine.spec.verifies()).then(|| Step::LookForBase(base.clone()));
            let fork = detaches.then_some(Step::Fork(base));
            return Plan::of(next).steps(look).steps([Step::Lease]).steps(fork).steps([create]);
        }
        // Created, by who was ended before that was recorded: nothing is asked for again.
        Seen::Present(Vm::Ours(_) | Vm::Suspended) if next.vm.is_none() => {
            let base = match &observed.base {
                Ok(base) => base,
                Err(why) => return Plan::of(next).wait("BaseNotReady", why.clone(), Requeue::After(SOON)),
            };
            return Plan::of(next).steps([Step::AdoptVm { disks: base.disks(), template: base.template() }]);
        }
        Seen::Present(Vm::Ours(power)) => *power,
        Seen::Present(Vm::Suspended) => Power::Stopped,
    };
    if let Some(plan) = resume(observed, &mut next, now) {
        return plan;
    }
    let number = launches(&next).max(1);
    next.started_at.get_or_insert_with(|| api_time(now));
    if power == Power::Stopped && next.restored.is_some() && machine.spec.operating_mode == OperatingMode::Suspended {
        // It was put back while it was suspended, and stays so.
        next.phase = Phase::Suspended;
        let mut plan = Plan::of(next);
        plan.requeue = Requeue::After(Duration::ZERO);
        return plan;
    }
    let mut plan = Plan::of(next);
    if power == Power::Stopped {
        plan.steps.push(Step::Start);
    }
    if machine.spec.verifies() {
        return plan.steps([Step::AwaitGuest, Step::Examine]);
    }
    plan.steps.extend([Step::AwaitGuest, Step::Personalise]);
    if machine.spec.source.is_some() {
        plan.steps.push(Step::PutSource);
    }
    plan.steps.push(Step::Launch { number });
    plan
}

/// While the agent works: mostly nothing.
fn run(machine: &Machine, observed: &Observed, mut next: MachineStatus, now: Timestamp, resync: Duration) -> Plan {
    if machine.spec.operating_mode == OperatingMode::Suspended {
        // Whether its memory can be kept is not known before, as right after a start of this process.
        if let Err(why) = &observed.hub {
            return Plan::of(next).wait("HubNotReady", format!("for its hub, to be suspended: {why}"), Requeue::After(SOON));
        }
        begin(machine, observed, &mut next, now);
        return suspend(observed, next, now);
    }
    match &observed.vm {
        Seen::Absent | Seen::Present(Vm::Foreign(_)) => return lost(next, now, "its VM was deleted by someone else"),
        Seen::Present(Vm::Template) => return lost(next, now, TEMPLATE),
        Seen::Present(Vm::Suspended) => return by_someone_else(machine, observed, next, now),
        Seen::Present(Vm::Ours(Power::Stopped)) => {
            // The guest powered off by itself. Started again it shows whether the agent had ended before.
            leave_running(&mut next, now);
            next.phase = Phase::Spawning;
            return spawn(machine, observed, next, now);
        }
        Seen::Present(Vm::Ours(Power::Running)) | Seen::Unknown { .. } => {}
    }
    match &observed.agent {
        Some(Seen::Present(AgentState::Exited { launch, code })) if *launch == launches(&next) => {
            return ended(machine, observed, next, now, *code);
        }
        Some(Seen::Present(AgentState::None)) => {
            // A disk that knows of no launch: it was put back to an earlier state by hand.
            return ended(machine, observed, next, now, None);
        }
        Some(Seen::Unknown { why }) => {
            let why = format!("to see its agent: {why}");
            return match time_left(observed, &next, now) {
                Some(Duration::ZERO) => finish(next, now, TerminationReason::Timeout),
                _ => Plan::of(next).wait("AgentUnknown", why, Requeue::After(SOON)),
            };
        }
        _ => {}
    }
    match time_left(observed, &next, now) {
        Some(Duration::ZERO) => finish(next, now, TerminationReason::Timeout),
        left => {
            let due = left.unwrap_or(resync).min(resync);
            let due = observed.silence.try_in.map_or(due, |left| due.min(left));
            let (ask, due) = match interval_left(machine, observed, &next, now) {
                Some((Duration::ZERO, name)) => (Some(Step::AskForOwn { name }), due),
                Some((left, _)) => (None, due.min(left)),
                None => (None, due),
            };
            match (&observed.vm, &observed.silence.unreached) {
                (Seen::Unknown { why }, _) => {
                    let why = format!("to see its VM, which may go on meanwhile: {why}");
                    Plan::of(next).wait(VM_UNKNOWN, why, Requeue::After(due.min(UNSEEN)))
                }
                // It may be reached later, and then it goes on.
                (_, Some(why)) => Plan::of(next).steps(ask).wait("GatewayNotReached", why, Requeue::After(due)),
                _ => Plan { requeue: Requeue::After(due), ..Plan::of(next).steps(ask) },
            }
        }
    }
}

pub(super) fn relaunch(next: &mut MachineStatus, now: Timestamp) {
    next.phase = Phase::Spawning;
    let agent = next.agent.get_or_insert_with(AgentStatus::default);
    agent.launches += 1;
    agent.decided_at = Some(api_time(now));
    agent.exit_code = None;
    agent.told = None;
}

/// Counts the time that the agent ran, once, when it no longer does.
pub(super) fn leave_running(next: &mut MachineStatus, now: Timestamp) {
    if next.phase == Phase::Running
        && let Some(agent) = &mut next.agent
        && let Some(launched) = &agent.launched_at
    {
        agent.ran_before = GoDuration(agent.ran_before.0 + since(launched, now));
    }
}

/// How long the agent ran, up to now.
pub(super) fn ran(status: &MachineStatus, now: Timestamp) -> Duration {
    let Some(agent) = &status.agent else { return Duration::ZERO };
    let running = agent.launched_at.as_ref().filter(|_| status.phase == Phase::Running);
    agent.ran_before.0 + running.map_or(Duration::ZERO, |launched| since(launched, now))
}

/// `None` without a limit, zero when it is used up.
fn time_left(observed: &Observed, status: &MachineStatus, now: Timestamp) -> Option<Duration> {
    observed.limits.time.map(|limit| limit.0.saturating_sub(ran(status, now)))
}

/// How long until it wants a checkpoint for want of another, and that one's name: of when it is due, so that it is asked for once.
fn interval_left(machine: &Machine, observed: &Observed, status: &MachineStatus, now: Timestamp) -> Option<(Duration, String)> {
    let interval = machine.spec.checkpoints.interval.filter(|_| observed.can.has(CapabilityName::CheckpointInLife))?.0;
    let launched = status.agent.as_ref().and_then(|agent| agent.launched_at.clone()).map(|at| at.0);
    let last = observed.checkpoints.asked_at.max(launched)?;
    let due = last.saturating_add(interval).unwrap_or(Timestamp::MAX);
    let left = Duration::try_from(due.duration_since(now)).unwrap_or_default();
    Some((left, format!("{}-{}", machine.name(), due.strftime("%Y%m%d-%H%M%S"))))
}

pub(super) fn launches(status: &MachineStatus) -> u32 {
    status.agent.as_ref().map_or(0, |agent| agent.launches)
}

pub(super) fn since(then: &Time, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(then.0)).unwrap_or_default()
}

pub(super) fn api_time(now: Timestamp) -> Time {
    Time(Timestamp::from_second(now.as_second()).unwrap_or(now))
}

fn why(reason: Option<TerminationReason>) -> String {
    reason.map_or(String::new(), |reason| format!(" ({reason:?})"))
}
