//! Reads everything that a plan needs and changes nothing. What could not be seen is `Unknown`, never absent.

use super::base::{Looked, base, restore};
use super::memory::Tried;
use super::plan::{Checkpoints, Observed, Predecessor, Silence, Vm};
use super::step::Base;
use super::{Memory, final_names, is_own, place};
use crate::agent::LastCall;
use crate::api::checkpoint::{CheckpointPhase, Trigger};
use crate::api::machine::{Limits, Machine, MachineStatus, OperatingMode, Phase};
use crate::api::{Budget, Checkpoint, DEFAULT_HUB, Kind};
use crate::controller::hub::HubHandle;
use crate::controller::{Context, Error};
use crate::driver::Driver;
use crate::driver::guest::{AgentState, Reached};
use crate::driver::marks::Owner;
use crate::driver::storage::disk_index;
use crate::driver::suspend::{SUSPENDED, SUSPENDING};
use crate::ledger::Usage;
use crate::proxmox::{Node, Power, Vmid};
use crate::runtime::Seen;
use crate::store::calls::{CallState, CallSummary};
use crate::wire::{Unsent, annotation};
use crate::zfs::Dataset;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How old the shared view of VMs may be for a Machine that runs quietly.
const QUIET: Duration = Duration::from_mins(1);

/// Characters of what an agent was told, at most, in a Machine's message.
const LONGEST_WORDS: usize = 400;

/// What was read, and the Hub to act on.
pub(super) struct Seeing {
    pub observed: Observed,
    pub hub: Option<Arc<HubHandle>>,
    /// On the node that the Machine was placed on; or why nothing can be done there now.
    pub driver: Result<Driver, String>,
}

/// The name of the Hub that runs a Machine.
pub(super) fn hub_name(machine: &Machine) -> &str {
    machine.spec.hub.as_deref().unwrap_or(DEFAULT_HUB)
}

/// Errors: only of our own store; of anything outside, the answer is `Unknown`.
pub(super) async fn observe(machine: &Machine, context: &Context) -> Result<Seeing, Error> {
    let status = machine.status.clone().unwrap_or_default();
    let memory = &context.machines;
    let (hub, why_not) = match context.hubs.get(hub_name(machine)).await {
        Ok(hub) => (Some(hub), Ok(())),
        Err(waiting) => (None, Err(waiting.to_string())),
    };
    let lease = match (status.phase, &status.vm) {
        (Phase::Running, Some(vm)) => Some(Vmid(vm.vmid)),
        _ => context.objects.vmid_lease(hub_name(machine), machine.uid()).await?.map(Vmid),
    };
    let waiting = matches!(status.phase, Phase::Pending | Phase::Waiting);
    let driver = match (&hub, &why_not) {
        (Some(hub), _) => reach(hub, &status).await,
        (None, why_not) => Err(why_not.as_ref().err().cloned().unwrap_or_default()),
    };
    let vm = match (lease, &hub, &driver) {
        (None, ..) => without_lease(machine, &status, driver.as_ref(), hub.as_deref(), memory).await,
        (Some(_), _, Err(why)) => Seen::unknown(why),
        (Some(_), None, Ok(_)) => Seen::unknown("its hub cannot be used"),
        (Some(vmid), Some(hub), Ok(driver)) => vm(machine, &status, vmid, driver, hub, memory).await,
    };
    let (agent, hub_was_away) = match (&driver, lease, &vm) {
        (Ok(driver), Some(vmid), Seen::Present(Vm::Ours(Power::Running))) if status.phase == Phase::Running => {
            agent(machine, &status, vmid, driver, context).await
        }
        // It is to be looked at, and cannot be.
        (_, Some(_), Seen::Unknown { why }) if status.phase == Phase::Running && told(machine, &status) => {
            (Some(Seen::Unknown { why: why.clone() }), false)
        }
        _ => (None, false),
    };
    let last_call = last_call(context.objects.last_main_call(machine).await?, &status, machine);
    let silence = match (&driver, lease, &vm) {
        (Ok(driver), Some(vmid), Seen::Present(Vm::Ours(Power::Running)))
            if status.phase == Phase::Running && last_call == LastCall::None && !told(machine, &status) =>
        {
            silence(machine, &status, vmid, driver, context).await
        }
        _ => Silence::default(),
    };
    let base = if waiting || (status.phase == Phase::Spawning && (status.vm.is_none() || !matches!(vm, Seen::Present(_)))) {
        base(machine, &status, hub.as_deref(), driver.as_ref().ok(), context).await?
    } else {
        Looked::At(Ok(Base::default()))
    };
    let (base, ask) = match base {
        Looked::At(base) => (base, None),
        Looked::Asks(ask, why) => (Err(why), Some(ask)),
    };
    let placed = match (&hub, &base) {
        (Some(hub), Ok(base)) if waiting && status.node.is_none() && machine.spec.operating_mode == OperatingMode::Running => {
            place::placed(machine, base, hub, context).await?
        }
        _ => Err("it was not looked for".into()),
    };
    let observed = Observed {
        hub: why_not,
        can: hub.as_ref().map(|hub| hub.driver.capabilities()).unwrap_or_default(),
        after: if waiting { predecessors(machine, context).await? } else { Vec::new() },
        base,
        placed,
        node: driver.as_ref().ok().map(|driver| driver.node().clone()),
        ask,
        restore: restore(machine, &status, context).await?,
        budget: if waiting { budget(machine, context).await? } else { Ok(()) },
        limits: limits(machine, hub.as_deref()),
        lease,
        vm,
        agent,
        hub_was_away,
        silence,
        last_call,
        usage: if waiting { Usage::default() } else { context.objects.machine_usage(machine).await? },
        checkpoints: if waiting { Checkpoints::default() } else { checkpoints(machine, &status, context).await? },
        approvals: context.asked.of(machine.namespace(), machine.name()),
    };
    Ok(Seeing { observed, hub, driver })
}

/// The verbs on a Machine's node; before it has one, on the Hub's first.
async fn reach(hub: &HubHandle, status: &MachineStatus) -> Result<Driver, String> {
    let node = status.vm.as_ref().map(|vm| vm.node.clone()).or_else(|| status.node.clone());
    match node.map(Node) {
        Some(node) => hub.at(&node).await.map_err(|error| error.to_string()),
        None => Ok(hub.driver.clone()),
    }
}

/// The VM that the record names where no lease does: whoever ends a lease has seen the VM gone, but a lease may be lost.
async fn without_lease(
    machine: &Machine,
    status: &MachineStatus,
    driver: Result<&Driver, &String>,
    hub: Option<&HubHandle>,
    memory: &Memory,
) -> Seen<Vm> {
    let Some(recorded) = &status.vm else { return Seen::Absent };
    let seen = match (memory.known(machine.uid()).vm, driver, hub) {
        (Some(Seen::Absent), ..) => Seen::Absent,
        (_, Err(why), _) => Seen::unknown(why),
        (_, Ok(_), None) => Seen::unknown("its hub cannot be used"),
        (_, Ok(driver), Some(hub)) => look(machine.uid(), Vmid(recorded.vmid), driver, hub).await,
    };
    // The number may have been leased to someone else since.
    if matches!(seen, Seen::Present(Vm::Foreign(_))) { Seen::Absent } else { seen }
}

/// The VM of a lease: from memory of what was just done, from the shared view, or by looking at it alone.
async fn vm(machine: &Machine, status: &MachineStatus, vmid: Vmid, driver: &Driver, hub: &HubHandle, memory: &Memory) -> Seen<Vm> {
    let known = memory.known(machine.uid());
    if status.phase == Phase::Running {
        let now = Instant::now();
        let acted_lately = known.acted_at.is_some_and(|at| now.duration_since(at) < QUIET);
        if acted_lately && known.vm == Some(Seen::Present(Vm::Ours(Power::Running))) {
            return Seen::Present(Vm::Ours(Power::Running));
        }
        let since = known.acted_at.into_iter().chain(now.checked_sub(QUIET)).max().unwrap_or(now);
        match hub.world.fresher_than(since).await {
            Ok(view) => match (view.vms.get(&vmid), view.hidden(driver.node())) {
                (Some(vm), _) if vm.node != *driver.node() => return elsewhere(machine.uid(), vmid, &vm.node, driver).await,
                (Some(vm), _) if vm.power == Some(Power::Running) => return Seen::Present(Vm::Ours(Power::Running)),
                (_, Some(why)) => return Seen::unknown(why),
                // Off, or not there: worth a look of its own.
                (_, None) => {}
            },
            Err(unknown) => return Seen::unknown(unknown),
        }
    } else if let Some(vm) = known.vm {
        return vm;
    }
    let vm = look(machine.uid(), vmid, driver, hub).await;
    if !matches!(vm, Seen::Unknown { .. }) {
        memory.update(machine.uid(), |known| known.vm = Some(vm.clone()));
    }
    vm
}

/// A VM of its number on another node: its own, moved there, while its disks are on the node that it was put on, and all that is known of
/// them; or someone else's, who took the number.
async fn elsewhere(uid: &str, vmid: Vmid, to: &Node, driver: &Driver) -> Seen<Vm> {
    let from = driver.node();
    match driver.owner_on(to, vmid, uid).await {
        Ok(Owner::Ours(_)) => {
            Seen::unknown(format!("VM {vmid} was moved from node {from} to {to} by someone else; migrate it back to {from}"))
        }
        Ok(Owner::Other(why)) => Seen::Present(Vm::Foreign(format!("on node {to}: {why}"))),
        Ok(Owner::Nobody) => Seen::unknown(format!("VM {vmid} is listed on node {to}, and has no config there")),
        Err(error) => Seen::unknown(error),
    }
}

/// Looks at one VM. It is gone only when its config is, and the cluster's list, asked for after that, does not show it.
pub(super) async fn look(uid: &str, vmid: Vmid, driver: &Driver, hub: &HubHandle) -> Seen<Vm> {
    match driver.verify_owned(vmid, uid).await {
        Err(error) => Seen::unknown(error),
        Ok(Owner::Other(why)) => Seen::Present(Vm::Foreign(why)),
        Ok(Owner::Ours(vm)) if vm.is_template() && vm.lock().is_none() => Seen::Present(Vm::Template),
        Ok(Owner::Ours(vm)) => match (vm.lock(), driver.power(vmid).await) {
            (Some(SUSPENDED), Ok(Some(Power::Stopped))) => stopped(vmid, Vm::Suspended, hub).await,
            (Some(SUSPENDING), _) => Seen::unknown(format!(
                "VM {vmid} is locked (suspending): its memory is being written; if no task does so any more, on its node: `qm unlock {vmid}`"
            )),
            (Some(lock), _) => Seen::unknown(format!("VM {vmid} is locked ({lock})")),
            (None, Ok(Some(Power::Running))) => Seen::Present(Vm::Ours(Power::Running)),
            (None, Ok(Some(Power::Stopped))) => stopped(vmid, Vm::Ours(Power::Stopped), hub).await,
            (None, Ok(None)) => Seen::unknown(format!("VM {vmid} vanished while it was looked at")),
            (None, Err(error)) => Seen::unknown(error),
        },
        Ok(Owner::Nobody) => without_config(uid, vmid, driver, hub).await,
    }
}

/// A VM whose own status says that it is off. Its disks may be captured and put away then: its node's list, asked for at this moment, must
/// not say otherwise.
async fn stopped(vmid: Vmid, as_what: Vm, hub: &HubHandle) -> Seen<Vm> {
    match hub.world.fresher_than(Instant::now()).await {
        Ok(view) if view.vms.get(&vmid).is_some_and(|vm| vm.power == Some(Power::Running)) => {
            Seen::unknown(format!("VM {vmid} is off by its own status, but its node lists it as running"))
        }
        Ok(_) => Seen::Present(as_what),
        Err(unknown) => Seen::unknown(unknown),
    }
}

/// What the cluster's list, asked for at this moment, says of a VM whose config is gone.
pub(super) async fn without_config(uid: &str, vmid: Vmid, driver: &Driver, hub: &HubHandle) -> Seen<Vm> {
    match hub.world.listed_since(Instant::now()).await {
        Ok(listed) => match listed.get(&vmid) {
            Some(node) if node != driver.node() => elsewhere(uid, vmid, node, driver).await,
            Some(_) => Seen::unknown(format!("VM {vmid} has no config, but the cluster still lists it")),
            None => Seen::Absent,
        },
        Err(unknown) => Seen::unknown(unknown),
    }
}

/// Looks for the agent when its guest said that it ended, and once after a start of the hub.
async fn agent(
    machine: &Machine,
    status: &MachineStatus,
    vmid: Vmid,
    driver: &Driver,
    context: &Context,
) -> (Option<Seen<AgentState>>, bool) {
    let told = told(machine, status);
    let looked = context.machines.known(machine.uid()).looked;
    if looked && !told {
        return (None, false);
    }
    let state = match driver.guest(vmid, context.objects.clock()).status().await {
        Ok(state) => Seen::Present(state),
        Err(error) => Seen::unknown(error),
    };
    if state.present().is_some() {
        context.machines.update(machine.uid(), |known| known.looked = true);
    }
    (Some(state), !told)
}

/// Has the guest try the gateway when its agent was not heard of for long; once, where that goes well.
async fn silence(machine: &Machine, status: &MachineStatus, vmid: Vmid, driver: &Driver, context: &Context) -> Silence {
    let Some((agent, launched)) = status.agent.as_ref().and_then(|agent| Some((agent, agent.launched_at.as_ref()?))) else {
        return Silence::default();
    };
    let silent = Duration::try_from(context.objects.clock().now().duration_since(launched.0)).unwrap_or_default();
    let left = context.machines.timing.silence.saturating_sub(silent);
    if !left.is_zero() {
        return Silence { try_in: Some(left), unreached: None };
    }
    let (memory, resync, launch) = (&context.machines, context.config.resync, (agent.launches, agent.resumed));
    let before = memory.known(machine.uid()).tried.filter(|tried| tried.launch == launch);
    let tried = match before {
        Some(tried) if tried.found == Some(Reached::Yes) || tried.at.elapsed() < resync => tried,
        _ => {
            let found = driver.guest(vmid, context.objects.clock()).reach().await;
            if let Err(error) = &found {
                tracing::debug!(object.name = machine.name(), "whether its guest reaches the gateway was not seen: {error}");
            }
            let tried = Tried { launch, at: Instant::now(), found: found.ok() };
            memory.update(machine.uid(), |known| known.tried = Some(tried.clone()));
            tried
        }
    };
    match tried.found {
        // One that cannot try it now will not be able to later.
        Some(Reached::Yes | Reached::Unknown) => Silence::default(),
        None => Silence { try_in: Some(resync), unreached: None },
        Some(Reached::No { why, ended }) => {
            let agent = ended.map_or("its agent tries on meanwhile".to_owned(), |code| {
                format!("its agent has ended with code {code}, of which the hub hears when the gateway is reached")
            });
            let url = &driver.connection().gateway_url;
            let unreached = format!(
                "for its guest to reach the gateway at {url}: {why}. See that it has an address (DHCP on its bridge), that spec.gateway.url of \
                 its hub is reached from there, and that no firewall is between them; {agent}"
            );
            Silence { try_in: Some(resync), unreached: Some(unreached) }
        }
    }
}

/// Whether the guest said that the agent of the present launch ended.
fn told(machine: &Machine, status: &MachineStatus) -> bool {
    let launches = status.agent.as_ref().map_or(0, |agent| agent.launches);
    let hint = machine.annotation(annotation::AGENT_EXIT).and_then(|exit| exit.split(':').next()?.parse::<u32>().ok());
    hint.is_some_and(|launch| launch >= launches)
}

async fn predecessors(machine: &Machine, context: &Context) -> Result<Vec<(String, Predecessor)>, Error> {
    let mut after = Vec::with_capacity(machine.spec.goal.after.len());
    for name in &machine.spec.goal.after {
        let predecessor = match context.objects.get::<Machine>(machine.namespace(), name).await? {
            None => Predecessor::Missing,
            Some(found) => {
                let status = found.status.unwrap_or_default();
                match status.phase {
                    Phase::Succeeded => Predecessor::Succeeded,
                    Phase::Failed => {
                        Predecessor::Failed { reason: status.termination_reason, has_final: status.final_checkpoint.is_some() }
                    }
                    phase => Predecessor::Unfinished(phase),
                }
            }
        };
        after.push((name.clone(), predecessor));
    }
    Ok(after)
}

async fn budget(machine: &Machine, context: &Context) -> Result<Result<(), String>, Error> {
    let mut next = machine.spec.budget.as_ref().and_then(|budget| budget.name.clone());
    // A chain is as deep as people make it; one that leads into itself is the Budget controller's to report.
    for _ in 0..32 {
        let Some(name) = next else { break };
        let Some(found) = context.objects.get::<Budget>(machine.namespace(), &name).await? else {
            return Ok(Err(format!("for budget {name}, which does not exist; create it")));
        };
        next = found.spec.parent_ref.map(|parent| parent.name);
    }
    Ok(Ok(()))
}

/// The Machine's own limits, field by field over the Hub's.
fn limits(machine: &Machine, hub: Option<&HubHandle>) -> Limits {
    let own = machine.spec.budget.as_ref().map(|budget| budget.limits.clone()).unwrap_or_default();
    let defaults = hub.map(|hub| hub.spec.defaults.limits.clone()).unwrap_or_default();
    Limits { money: own.money.or(defaults.money), time: own.time.or(defaults.time), api_calls: own.api_calls.or(defaults.api_calls) }
}

/// The newest main call of the present launch.
fn last_call(call: Option<CallSummary>, status: &MachineStatus, machine: &Machine) -> LastCall {
    let decided = status.agent.as_ref().and_then(|agent| agent.decided_at.as_ref());
    let Some(call) = call.filter(|call| decided.is_none_or(|decided| call.started_at >= decided.0)) else {
        let note = machine.annotation(annotation::UNSENT).and_then(|note| serde_json::from_str::<Unsent>(note).ok());
        let launches = status.agent.as_ref().map_or(0, |agent| agent.launches);
        return note.filter(|note| note.launch == launches).map_or(LastCall::None, |note| LastCall::Unsent { why: note.why });
    };
    match call.state {
        CallState::Open => LastCall::Open,
        CallState::Settled => LastCall::Settled { stop_reason: call.stop_reason },
        CallState::Refused => LastCall::Refused,
        CallState::Cut => LastCall::Cut,
        CallState::Failed => LastCall::Failed { status: call.status, why: call.detail.as_deref().and_then(in_words) },
    }
}

/// What an agent was told, out of the body of the answer, which every protocol has it in alike; the body was cut when it was kept.
fn in_words(detail: &str) -> Option<String> {
    let told = serde_json::from_str::<serde_json::Value>(detail).ok();
    let words = told.as_ref().and_then(|told| told.pointer("/error/message")?.as_str()).unwrap_or(detail);
    let words = words.strip_prefix("autovibe: ").unwrap_or(words).trim();
    (!words.is_empty()).then(|| words.chars().take(LONGEST_WORDS).collect())
}

async fn checkpoints(machine: &Machine, status: &MachineStatus, context: &Context) -> Result<Checkpoints, Error> {
    let mut all = Vec::new();
    // Those whose changes came here; any other wakes the Machine when it does.
    let names: BTreeSet<String> =
        context.taken.of(machine.namespace(), machine.name()).into_iter().chain(status.last_checkpoint.clone()).collect();
    for name in names {
        all.extend(context.objects.get::<Checkpoint>(machine.namespace(), &name).await?);
    }
    let finals = final_names(machine);
    let is_last = |checkpoint: &Checkpoint| status.last_checkpoint.as_deref() == Some(checkpoint.name());
    let last_is_gone = status.last_checkpoint.is_some() && !all.iter().any(is_last);
    let mut found = Checkpoints { last_is_gone, ..Checkpoints::default() };
    // Until the disks that it has are put away, they are its state.
    let restored = status.restored.as_ref().filter(|_| status.phase != Phase::Restoring);
    let first_disk = restored.map_or(0, |restored| restored.first_disk);
    let (mut newest, mut turns, mut others) = (None, 0, 0);
    // Checkpoint → what it came of, of those that stand.
    let mut parents = BTreeMap::new();
    for checkpoint in all.iter().filter(|checkpoint| is_own(checkpoint, machine)) {
        found.asked_at = found.asked_at.max(checkpoint.metadata.creation_timestamp.as_ref().map(|at| at.0));
        let taken = checkpoint.status.clone().unwrap_or_default();
        if taken.phase != CheckpointPhase::Ready {
            continue;
        }
        let name = checkpoint.name();
        found.captured_at = found.captured_at.max(taken.captured_at.as_ref().map(|at| at.0));
        match checkpoint.spec.trigger {
            Trigger::BetweenMessages | Trigger::AfterFileOperations | Trigger::BeforeRiskyOperation | Trigger::Breakpoint => {
                turns = turns.max(taken.session.as_ref().map_or(1, |session| session.turn));
            }
            Trigger::Final => {
                others += 1;
                found.last_of_all = finals.iter().find(|known| *known == name).cloned().or(found.last_of_all);
            }
            _ => others += 1,
        }
        let order = (
            checkpoint.spec.trigger == Trigger::Final,
            taken.captured_at.map(|at| at.0),
            taken.session.map_or(0, |session| session.turn),
            name.to_owned(),
        );
        // What was captured before it was put back is no state that it has now, but for the one that it was put back to.
        let is_origin = restored.is_some_and(|restored| restored.checkpoint.as_deref() == Some(name));
        let stands = taken.volumes.iter().all(|volume| disk_index(&Dataset(volume.dataset.clone())).is_none_or(|disk| disk >= first_disk));
        if (stands || is_origin) && !checkpoint.is_deleting() {
            parents.insert(name.to_owned(), (order.1, taken.parent));
            newest = newest.max(Some(order));
        }
    }
    let mut newest = newest.map(|(.., name)| name);
    // Times are whole seconds: of two in one second, the one that came of the other is the newer.
    while let Some((at, _)) = newest.as_ref().and_then(|name| parents.remove(name)) {
        let child = parents.iter().find(|(_, (other, parent))| *other == at && *parent == newest).map(|(name, _)| name.clone());
        newest = child.or(newest);
    }
    found.last = newest;
    // Retention takes some away; what was taken stays counted.
    found.taken = (turns + others).max(status.checkpoints);
    Ok(found)
}
