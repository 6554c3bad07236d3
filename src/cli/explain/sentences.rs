//! The sentences of `explain`: pure. What a controller said in a status is repeated, never said again in other words.

use crate::api::approval::OnTimeout;
use crate::api::capability::impossible;
use crate::api::machine::{Limits, Phase, Requirement};
use crate::api::network::{Blocked, BlockedReason, Egress};
use crate::api::{Budget, Checkpoint, Hub, Kind, Machine};
use crate::cli::print;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

/// What a Machine does, waits for and may spend.
pub(super) fn machine(machine: &Machine, last: Option<&Checkpoint>, budgets: &[Budget], hub: Option<&Hub>, now: Timestamp) -> Vec<String> {
    let status = machine.status.clone().unwrap_or_default();
    let mut sentences = Vec::new();

    let mut first = format!("{:?}", status.phase);
    if let Some(vm) = &status.vm {
        first += &format!(" on {} as VM {}", vm.node, vm.vmid);
    }
    if let Some(from) = &status.spawned_from {
        first += &format!(", from checkpoint {from}");
    }
    if let Some(restored) = &status.restored {
        let to = restored.checkpoint.as_ref().map_or_else(|| "its image".to_owned(), |name| format!("checkpoint {name}"));
        first += &format!(", put back to {to}");
    }
    if status.retries > 0 {
        first += &format!(", tried again {} of {} times", status.retries, machine.spec.retry.as_ref().map_or(0, |retry| retry.limit));
    }
    if let Some(reason) = status.termination_reason {
        first += &format!(", ended: {reason:?}");
    }
    sentences.push(first + ".");
    sentences.push(format!("Goal: {}", print::shorten(&machine.spec.goal.prompt, 160)));

    match status.message.as_deref().filter(|message| !message.is_empty()) {
        // The controllers say `for …`, so that it reads on from the phase.
        Some(message) if status.phase == Phase::Waiting => sentences.push(format!("Waiting {message}")),
        Some(message) => sentences.push(format!("Now: {message}")),
        None if status.phase.is_finished() => {}
        None => sentences.push("Waiting for: nothing.".into()),
    }
    if let Some(agent) = &status.agent {
        let ran = agent.launched_at.as_ref().map(|at| format!(" {} ago", print::span(print::between(at.0, now)))).unwrap_or_default();
        let resumed = match agent.launches {
            0 | 1 => String::new(),
            2 => "; it was resumed once".into(),
            n => format!("; it was resumed {} times", n - 1),
        };
        let resumed = match agent.resumed {
            0 => resumed,
            1 => format!("{resumed}; it went on from its memory once"),
            n => format!("{resumed}; it went on from its memory {n} times"),
        };
        let ended = agent.exit_code.map(|code| format!("; it ended with exit code {code}")).unwrap_or_default();
        sentences.push(format!("Agent {:?} was launched{ran}{resumed}{ended}.", machine.spec.agent.r#type));
    }
    if let Some(at) = status.memory_kept_at.as_ref().filter(|_| status.phase == Phase::Suspended) {
        let ago = print::span(print::between(at.0, now));
        sentences.push(format!("Its memory of {ago} ago is kept: it goes on from there when spec.operatingMode is Running."));
    }
    match last {
        Some(last) => sentences.push(format!("Last checkpoint: {}", captured(last, now))),
        None => sentences.push(match &status.last_checkpoint {
            Some(name) => format!("Last checkpoint {name} is gone."),
            None => "No checkpoint of it yet.".into(),
        }),
    }
    sentences.push(spending(machine, hub));
    sentences.push(approvals(machine));
    sentences.extend(network(machine));
    for budget in budgets {
        sentences.push(budget_line(budget));
    }
    if let Some(name) = machine.spec.budget.as_ref().and_then(|budget| budget.name.as_deref())
        && budgets.is_empty()
    {
        sentences.push(format!("Budget {name} does not exist; create it and the Machine goes on by itself."));
    }
    sentences.extend(troubles(&status.conditions));
    sentences
}

/// `$0.22 of $5.00 …`, and where its limits come from.
fn spending(machine: &Machine, hub: Option<&Hub>) -> String {
    let status = machine.status.clone().unwrap_or_default();
    let own = machine.spec.budget.clone().unwrap_or_default().limits;
    let default = hub.map(|hub| hub.spec.defaults.limits.clone()).unwrap_or_default();
    let limits =
        Limits { money: own.money.or(default.money), time: own.time.or(default.time), api_calls: own.api_calls.or(default.api_calls) };
    let money = match limits.money {
        Some(money) => format!("{} of {}", status.usage.money.dollars(), money.amount.dollars()),
        None => status.usage.money.dollars(),
    };
    let time = match limits.time {
        Some(limit) => format!("{} of {}", print::span(status.usage.time.0), print::span(limit.0)),
        None => print::span(status.usage.time.0),
    };
    let calls = match limits.api_calls {
        Some(limit) => format!("{} of {limit} calls", status.usage.api_calls),
        None => format!("{} calls", status.usage.api_calls),
    };
    let reserved = if status.usage.reserved.0 > 0 {
        format!(" ({} more is held for calls under way)", status.usage.reserved.dollars())
    } else {
        String::new()
    };
    let origin = match (&machine.spec.budget, own == Limits::default()) {
        (None, _) => " It names no budget: these limits are the defaults of its Hub.",
        (Some(_), true) => " Its own limits are the defaults of its Hub.",
        _ => "",
    };
    format!("Spent: {money}{reserved}, {time}, {calls}.{origin}")
}

/// What its agent's calls that leave the VM need.
fn approvals(machine: &Machine) -> String {
    let policy = &machine.spec.approvals;
    if policy.leaving_vm == Requirement::NotRequired {
        return "Approvals: none; its agent may do what leaves the VM.".into();
    }
    let then = match policy.on_timeout {
        OnTimeout::Deny => "it is denied",
        OnTimeout::Allow => "it is made",
    };
    format!("Approvals: a tool call that leaves the VM waits up to {} for a person, then {then}.", print::span(policy.timeout.0))
}

/// What it may reach beside its hub, and what it tried in vain.
fn network(machine: &Machine) -> Vec<String> {
    let egress = machine.spec.network.iter().flat_map(|network| &network.egress);
    let host = |egress: &Egress| {
        let ports: Vec<String> = egress.ports.iter().map(ToString::to_string).collect();
        format!("{}:{}", egress.host, ports.join(","))
    };
    let hosts: Vec<String> = egress.map(host).collect();
    let reaches = if hosts.is_empty() {
        "Network: its hub, and nothing else.".into()
    } else {
        format!("Network: its hub, and by the hub's proxy {}.", hosts.join(", "))
    };
    let blocked = machine.status.iter().flat_map(|status| &status.network).flat_map(|network| &network.blocked);
    let words = |blocked: &Blocked| {
        let remedy = match blocked.reason {
            BlockedReason::NotAllowed => "spec.network.egress does not have it",
            BlockedReason::PrivateAddress => "its address is not public, and spec.egress.networks of the Hub does not open it",
            BlockedReason::OtherServer => "TLS asked for it in a connection to another host",
        };
        format!("Blocked: {}:{}, {} times: {remedy}.", blocked.host, blocked.port, blocked.count)
    };
    std::iter::once(reaches).chain(blocked.map(words)).collect()
}

fn budget_line(budget: &Budget) -> String {
    let status = budget.status.clone().unwrap_or_default();
    let money = match &budget.spec.limits.money {
        Some(limit) => format!("{} of {}", status.usage.money.dollars(), limit.amount.dollars()),
        None => format!("{}, without a limit", status.usage.money.dollars()),
    };
    let calls = budget.spec.limits.api_calls.map(|limit| format!(", {} of {limit} calls", status.usage.api_calls)).unwrap_or_default();
    let parent = budget.spec.parent_ref.as_ref().map(|parent| format!("; part of budget {}", parent.name)).unwrap_or_default();
    format!("Budget {}: {money} spent{calls}{parent}.", budget.name())
}

/// `add-tests-0004, 12s ago (BetweenMessages, quiescent, 31 ms).`
fn captured(checkpoint: &Checkpoint, now: Timestamp) -> String {
    let status = checkpoint.status.clone().unwrap_or_default();
    let age = status.captured_at.as_ref().map(|at| format!(", {} ago", print::span(print::between(at.0, now)))).unwrap_or_default();
    let mut facts = vec![format!("{:?}", checkpoint.spec.trigger)];
    match status.quiescent {
        Some(true) => facts.push("quiescent".into()),
        Some(false) => facts.push("not quiescent: something of the agent may have written meanwhile".into()),
        None => {}
    }
    if let Some(took) = status.took {
        facts.push(print::short_span(took.0));
    }
    if status.released {
        facts.push("the answer was let go before it".into());
    }
    format!("{}{age} ({}).", checkpoint.name(), facts.join(", "))
}

/// Conditions that say that something is not as it should be.
fn troubles(conditions: &[Condition]) -> impl Iterator<Item = String> {
    let bad = |c: &&Condition| match c.type_.as_str() {
        "Stalled" | "ApprovalPending" => c.status == "True",
        "BudgetAvailable" | "CheckpointCurrent" | "GoalAchieved" => c.status == "False",
        _ => false,
    };
    conditions
        .iter()
        .filter(bad)
        .filter(|c| !c.message.is_empty())
        .map(|c| format!("{} is {} ({}): {}", c.type_, c.status, c.reason, c.message))
}

/// What a Checkpoint is and where it came from.
pub(super) fn checkpoint(checkpoint: &Checkpoint, now: Timestamp) -> Vec<String> {
    let status = checkpoint.status.clone().unwrap_or_default();
    let of = match (&checkpoint.spec.machine, &checkpoint.spec.import) {
        (Some(machine), _) => format!("of machine {machine}"),
        (None, Some(import)) => format!("imported from {}", import.words()),
        (None, None) => String::new(),
    };
    let mut sentences = vec![format!("{:?}, {of}: {}", status.phase, captured(checkpoint, now))];
    if let Some(note) = &checkpoint.spec.description {
        sentences.push(format!("Note: {note}"));
    }
    match &status.parent {
        Some(parent) => sentences.push(format!(
            "It came from checkpoint {parent}{}.",
            status.goal.as_ref().map(|goal| format!(" by the goal “{}”", print::shorten(goal, 100))).unwrap_or_default()
        )),
        None => sentences.push("Nothing comes before it.".into()),
    }
    if let Some(session) = &status.session {
        sentences.push(format!("Conversation {} at turn {}.", session.id, session.turn));
    }
    for volume in &status.volumes {
        let size = volume.referenced.map(|bytes| format!(", {}", print::bytes(bytes))).unwrap_or_default();
        sentences.push(match volume.template {
            Some(vmid) => format!("Disk: {} of template {vmid} on {}{size}.", volume.dataset, volume.node),
            None => format!("Disk: {}@{} on {}{size}.", volume.dataset, volume.snapshot, volume.node),
        });
    }
    sentences.extend(status.message.filter(|message| !message.is_empty()));
    sentences.extend(troubles(&status.conditions));
    sentences
}

/// What a Budget spent.
pub(super) fn budget(budget: &Budget) -> Vec<String> {
    let mut sentences = vec![budget_line(budget)];
    sentences.extend(
        budget
            .status
            .iter()
            .flat_map(|status| status.conditions.iter())
            .filter(|c| !c.message.is_empty())
            .map(|c| format!("{} is {}: {}", c.type_, c.status, c.message)),
    );
    sentences
}

/// Whether a Hub can work, and with what.
pub(super) fn hub(hub: &Hub) -> Vec<String> {
    let status = hub.status.clone().unwrap_or_default();
    let ready = status.conditions.iter().find(|c| c.type_ == "Ready");
    let infrastructure = &hub.spec.infrastructure;
    let place = match (&infrastructure.proxmox, &infrastructure.lab) {
        (Some(proxmox), _) => format!("Proxmox at {}", proxmox.endpoint),
        (None, Some(_)) => "the lab beside this hub".into(),
        _ => "nothing".into(),
    };
    let version = status.proxmox_version.map(|version| format!(" (version {version})")).unwrap_or_default();
    let state = match ready.map(|c| c.status.as_str()) {
        Some("True") => "Ready",
        Some(_) => "Not ready",
        None => "Not looked at yet",
    };
    let mut sentences = vec![format!("{state}. It drives {place}{version}.")];
    sentences.extend(status.message.filter(|message| !message.is_empty()));
    let cannot = status.capabilities.iter().filter_map(|capability| impossible(&status.capabilities, capability.name));
    sentences.extend(cannot.map(|why| format!("Its storage {why}.")));
    for provider in &hub.spec.providers {
        let what = match (&provider.replay, &provider.endpoint) {
            (Some(replay), _) => format!("answers from the written conversation {}: no key, no real cost", replay.file),
            (None, Some(endpoint)) => format!("at {endpoint}"),
            (None, None) => "at the provider's own address".into(),
        };
        sentences.push(format!("Provider {} ({:?}) {what}; models {}.", provider.name, provider.r#type, provider.models.join(", ")));
    }
    for image in &hub.spec.images {
        let found = status.images.iter().find(|seen| seen.name == image.name);
        let state = match found {
            Some(seen) => match (&seen.snapshot, &seen.message) {
                (Some(snapshot), None) => format!("is ready as {snapshot}"),
                (Some(snapshot), Some(message)) => format!("is ready as {snapshot}, but {message}"),
                (None, Some(message)) => message.clone(),
                (None, None) => "is not ready yet".into(),
            },
            None => "is not imported yet".into(),
        };
        sentences.push(format!("Image {} {state}.", image.name));
    }
    sentences
}
