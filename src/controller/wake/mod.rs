//! Which reconcilers a change of an object wakes: one task reads every kind's changes and names keys.
//!
//! What a name elsewhere refers to is kept in an index, filled from the same changes, so that waking costs nothing per object
//! that is not concerned. A change that says nothing new to others wakes only its own object.
//!
//! Nobody is woken before all that there is has been read once: a reconciler that looks a Machine's checkpoints up in the index
//! would take one that was not read yet for one that is not there.

#[cfg(test)]
mod tests;

use super::Context;
use super::client::Client;
use crate::api::checkpoint::CheckpointPhase;
use crate::api::machine::Retention;
use crate::api::{Approval, Budget, Checkpoint, DEFAULT_BUDGET, DEFAULT_HUB, Hub, Kind, Machine};
use crate::objects::{Event, Told};
use crate::runtime::Key;
use crate::store::Change;
use futures::{StreamExt, stream::BoxStream};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tokio::sync::mpsc;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Keys for one reconciler.
pub(super) type Keys = BoxStream<'static, Key>;

/// The keys of every reconciler.
pub(super) struct Queues {
    pub(super) hubs: Keys,
    pub(super) budgets: Keys,
    pub(super) machines: Keys,
    pub(super) checkpoints: Keys,
    pub(super) approvals: Keys,
    /// Namespaces (the name is empty) in which there may be more checkpoints than are to be kept.
    pub(super) retention: Keys,
}

/// What one change wakes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Wakes {
    pub(super) hubs: BTreeSet<Key>,
    pub(super) budgets: BTreeSet<Key>,
    pub(super) machines: BTreeSet<Key>,
    pub(super) checkpoints: BTreeSet<Key>,
    pub(super) approvals: BTreeSet<Key>,
    pub(super) retention: BTreeSet<Key>,
}

impl Wakes {
    fn add(&mut self, more: Wakes) {
        self.hubs.extend(more.hubs);
        self.budgets.extend(more.budgets);
        self.machines.extend(more.machines);
        self.checkpoints.extend(more.checkpoints);
        self.approvals.extend(more.approvals);
        self.retention.extend(more.retention);
    }
}

/// Starts the task that reads the changes.
pub(super) fn start(tasks: &TaskTracker, context: &Arc<Context>, shutdown: &CancellationToken) -> Queues {
    let (hubs, hub_keys) = channel();
    let (budgets, budget_keys) = channel();
    let (machines, machine_keys) = channel();
    let (checkpoints, checkpoint_keys) = channel();
    let (approvals, approval_keys) = channel();
    let (retention, retention_keys) = channel();
    let (objects, context) = (context.objects.clone(), Arc::clone(context));
    let shutdown = shutdown.clone();
    let (connected, room) = (context.hubs.connected(), context.machines.promises.room());
    tasks.spawn(async move {
        let mut index = Index::default();
        let mut unlisted = BTreeSet::from([Hub::KIND, Budget::KIND, Machine::KIND, Checkpoint::KIND, Approval::KIND]);
        let mut wakes = Wakes::default();
        let mut changes = futures::stream::select_all([
            watched(&objects, Any::Hub),
            watched(&objects, Any::Budget),
            watched(&objects, Any::Machine),
            watched(&objects, Any::Checkpoint),
            watched(&objects, Any::Approval),
            connected.map(Any::Connected).boxed(),
            room.map(Any::Room).boxed(),
        ]);
        while let Some(Some(change)) = shutdown.run_until_cancelled(changes.next()).await {
            if let Any::Checkpoint(event) = &change {
                context.taken.note(&event.object, event.change != Change::Deleted);
            }
            if let Any::Approval(event) = &change {
                context.asked.note(&event.object, event.change != Change::Deleted);
            }
            match change {
                Any::Listed(kind) => drop(unlisted.remove(kind)),
                change => wakes.add(index.apply(change)),
            }
            if !unlisted.is_empty() {
                continue;
            }
            let wakes = std::mem::take(&mut wakes);
            for (sender, keys) in [
                (&hubs, wakes.hubs),
                (&budgets, wakes.budgets),
                (&machines, wakes.machines),
                (&checkpoints, wakes.checkpoints),
                (&approvals, wakes.approvals),
                (&retention, wakes.retention),
            ] {
                for key in keys {
                    // A queue that is gone is one that was shut down.
                    sender.send(key).ok();
                }
            }
        }
    });
    Queues {
        hubs: hub_keys,
        budgets: budget_keys,
        machines: machine_keys,
        checkpoints: checkpoint_keys,
        approvals: approval_keys,
        retention: retention_keys,
    }
}

fn watched<K: Kind>(objects: &Client, change: fn(Box<Event<K>>) -> Any) -> BoxStream<'static, Any> {
    let told = objects.watch_listed::<K>().map(move |told| match told {
        Told::Event(event) => change(Box::new(event)),
        Told::Listed => Any::Listed(K::KIND),
    });
    told.boxed()
}

fn channel() -> (mpsc::UnboundedSender<Key>, Keys) {
    let (send, receive) = mpsc::unbounded_channel();
    let keys = futures::stream::unfold(receive, |mut receive| async { receive.recv().await.map(|key| (key, receive)) });
    (send, keys.boxed())
}

/// A change of any kind that wakes something.
pub(super) enum Any {
    Hub(Box<Event<Hub>>),
    Budget(Box<Event<Budget>>),
    Machine(Box<Event<Machine>>),
    Checkpoint(Box<Event<Checkpoint>>),
    Approval(Box<Event<Approval>>),
    /// All that there is of this kind has been read.
    Listed(&'static str),
    /// The Hub of this name can be used from now on.
    Connected(String),
    /// There may be room on a node for this Machine, which waits for some.
    Room(Key),
}

/// What is known of a Machine that others may wake.
#[derive(Clone, Debug, Default, PartialEq)]
struct MachineEntry {
    hub: String,
    budget: Option<String>,
    /// Machines that it waits for, and checkpoints that it is to be spawned from.
    after: BTreeSet<String>,
    from_checkpoint: Option<String>,
    /// Whether it is there to look at that one.
    verifies: bool,
    spawned_from: Option<String>,
    last_checkpoint: Option<String>,
    final_checkpoint: Option<String>,
    retention: Retention,
    has_vm: bool,
    finished: bool,
    phase: String,
}

/// Names that a Machine refers to.
type Refers = fn(&MachineEntry) -> BTreeSet<String>;

impl MachineEntry {
    fn waits_for(&self) -> BTreeSet<String> {
        self.after.clone()
    }
    fn bases(&self) -> BTreeSet<String> {
        self.from_checkpoint.iter().chain(&self.spawned_from).cloned().collect()
    }
}

/// Keeps who refers to what, as one's own references change.
fn relate(refers: &mut BTreeMap<Key, BTreeSet<Key>>, key: &Key, before: BTreeSet<String>, now: BTreeSet<String>) {
    for name in before.difference(&now) {
        let to = Key::new(&key.namespace, name);
        if let Some(all) = refers.get_mut(&to) {
            all.remove(key);
            if all.is_empty() {
                refers.remove(&to);
            }
        }
    }
    for name in now.difference(&before) {
        refers.entry(Key::new(&key.namespace, name)).or_default().insert(key.clone());
    }
}

/// What is known of a Checkpoint that others may wake.
#[derive(Clone, Debug, PartialEq)]
struct CheckpointEntry {
    machine: Option<String>,
    parent: Option<String>,
    phase: CheckpointPhase,
    deleting: bool,
}

impl CheckpointEntry {
    /// Whether it waits for something that another object's change may bring.
    fn waits(&self) -> bool {
        self.deleting || self.phase == CheckpointPhase::Pending
    }
}

/// What is known of a Budget that others may wake.
#[derive(Clone, Debug, PartialEq)]
struct BudgetEntry {
    parent: Option<String>,
    /// What decides whether something may be spent.
    limits: String,
    spent: Option<String>,
}

/// What refers to what.
#[derive(Default)]
pub(super) struct Index {
    machines: BTreeMap<Key, MachineEntry>,
    /// Machine → those that wait for it or are forks of it; Checkpoint → those that are spawned from it.
    after: BTreeMap<Key, BTreeSet<Key>>,
    spawned: BTreeMap<Key, BTreeSet<Key>>,
    checkpoints: BTreeMap<Key, CheckpointEntry>,
    /// Only those that wait: the ones that anything but their own change may wake.
    waiting: BTreeSet<Key>,
    /// Key → what of a Hub or Budget matters to others.
    hubs: BTreeMap<Key, String>,
    budgets: BTreeMap<Key, BudgetEntry>,
}

impl Index {
    /// Takes one change in, and names what it wakes.
    pub(super) fn apply(&mut self, change: Any) -> Wakes {
        let mut wakes = Wakes::default();
        match change {
            Any::Hub(event) => self.hub(&event, &mut wakes),
            Any::Budget(event) => self.budget(&event, &mut wakes),
            Any::Machine(event) => self.machine(&event, &mut wakes),
            Any::Checkpoint(event) => self.checkpoint(&event, &mut wakes),
            Any::Approval(event) => {
                wakes.approvals.insert(key(&event.object));
                wakes.machines.insert(Key::new(event.object.namespace(), &event.object.spec.machine));
            }
            Any::Listed(_) => {}
            Any::Connected(hub) => self.hub_changed(&hub, &mut wakes),
            Any::Room(machine) => drop(wakes.machines.insert(machine)),
        }
        wakes
    }

    fn hub(&mut self, event: &Event<Hub>, wakes: &mut Wakes) {
        let (hub, key) = (&event.object, key(&event.object));
        wakes.hubs.insert(key.clone());
        let status = hub.status.clone().unwrap_or_default();
        let facts = format!("{:?} {:?} {:?}", hub.generation(), status.images, summary(&status.conditions));
        if !remember(&mut self.hubs, &key, event.change, facts) {
            return;
        }
        self.hub_changed(&key.name, wakes);
    }

    fn hub_changed(&self, hub: &str, wakes: &mut Wakes) {
        let concerned = self.machines.iter().filter(|(_, machine)| !machine.finished && machine.hub == hub);
        wakes.machines.extend(concerned.map(|(machine, _)| machine.clone()));
        wakes.checkpoints.extend(self.waiting.iter().cloned());
    }

    fn budget(&mut self, event: &Event<Budget>, wakes: &mut Wakes) {
        let (budget, key) = (&event.object, key(&event.object));
        wakes.budgets.insert(key.clone());
        let status = budget.status.clone().unwrap_or_default();
        let entry = BudgetEntry {
            parent: budget.spec.parent_ref.as_ref().map(|parent| parent.name.clone()),
            limits: format!("{} {:?}", budget.generation(), summary(&status.conditions)),
            spent: status.spent,
        };
        let before = self.budgets.get(&key).cloned();
        if !remember(&mut self.budgets, &key, event.change, entry.clone()) {
            return;
        }
        // What is spent here is spent above too.
        wakes.budgets.extend(entry.parent.into_iter().map(|name| Key::new(&key.namespace, name)));
        if event.change == Change::Modified && before.is_some_and(|before| before.limits == entry.limits) {
            return;
        }
        let children =
            self.budgets.iter().filter(|(child, entry)| child.namespace == key.namespace && entry.parent.as_ref() == Some(&key.name));
        wakes.budgets.extend(children.map(|(child, _)| child.clone()));
        let concerned = self
            .machines
            .iter()
            .filter(|(machine, entry)| machine.namespace == key.namespace && !entry.finished && entry.budget.as_ref() == Some(&key.name));
        wakes.machines.extend(concerned.map(|(machine, _)| machine.clone()));
    }

    fn machine(&mut self, event: &Event<Machine>, wakes: &mut Wakes) {
        let (machine, key) = (&event.object, key(&event.object));
        wakes.machines.insert(key.clone());
        let entry = entry(machine);
        // Spend shows in the Budget; its own status says how much.
        let pays = entry.budget.iter().map(|name| Key::new(&key.namespace, name));
        // One that no Machine names need not be there.
        wakes.budgets.extend(pays.filter(|budget| self.budgets.contains_key(budget)));
        let before = self.machines.get(&key).cloned();
        if !remember(&mut self.machines, &key, event.change, entry.clone()) {
            return;
        }
        let now = Some(&entry).filter(|_| event.change != Change::Deleted);
        for (refers, to) in [(&mut self.after, MachineEntry::waits_for as Refers), (&mut self.spawned, MachineEntry::bases)] {
            relate(refers, &key, before.as_ref().map(to).unwrap_or_default(), now.map(to).unwrap_or_default());
        }
        let followers = self.after.get(&key).into_iter().flatten();
        let idle = |other: &&Key| self.machines.get(*other).is_some_and(|follower| !follower.finished && !follower.has_vm);
        wakes.machines.extend(followers.filter(idle).cloned());
        // Its checkpoints that wait for it, and those that could not go while it needed them.
        let needed: BTreeSet<String> = [Some(&entry), before.as_ref()]
            .into_iter()
            .flatten()
            .flat_map(|entry| [&entry.spawned_from, &entry.from_checkpoint, &entry.last_checkpoint, &entry.final_checkpoint])
            .flatten()
            .cloned()
            .collect();
        let concerned = self.waiting.iter().filter(|waiting| {
            waiting.namespace == key.namespace
                && (needed.contains(&waiting.name)
                    || self.checkpoints.get(*waiting).is_some_and(|entry| entry.machine.as_ref() == Some(&key.name)))
        });
        wakes.checkpoints.extend(concerned.cloned());
        if entry.verifies {
            wakes.checkpoints.extend(entry.from_checkpoint.iter().map(|name| Key::new(&key.namespace, name)));
        }
        let changed = before.is_some_and(|before| (entry.finished && !before.finished) || entry.retention != before.retention);
        if changed || event.change == Change::Deleted {
            wakes.retention.insert(Key::new(&key.namespace, ""));
        }
    }

    fn checkpoint(&mut self, event: &Event<Checkpoint>, wakes: &mut Wakes) {
        let (checkpoint, key) = (&event.object, key(&event.object));
        wakes.checkpoints.insert(key.clone());
        let status = checkpoint.status.clone().unwrap_or_default();
        let entry = CheckpointEntry {
            machine: checkpoint.spec.machine.clone(),
            parent: status.parent,
            phase: status.phase,
            deleting: checkpoint.is_deleting(),
        };
        if entry.waits() && event.change != Change::Deleted {
            self.waiting.insert(key.clone());
        } else {
            self.waiting.remove(&key);
        }
        let (machine, parent) = (entry.machine.clone(), entry.parent.clone());
        if !remember(&mut self.checkpoints, &key, event.change, entry) {
            return;
        }
        let machine = machine.map(|name| Key::new(&key.namespace, name));
        if machine.is_some() {
            wakes.retention.insert(Key::new(&key.namespace, ""));
        }
        wakes.machines.extend(machine);
        let spawning = self.spawned.get(&key).into_iter().flatten();
        let idle = |other: &&Key| self.machines.get(*other).is_some_and(|entry| !entry.finished && !entry.has_vm);
        wakes.machines.extend(spawning.filter(idle).cloned());
        // A base that could not go while this one was there.
        wakes.checkpoints.extend(parent.map(|name| Key::new(&key.namespace, name)).filter(|parent| self.waiting.contains(parent)));
    }
}

fn key<K: Kind>(object: &K) -> Key {
    Key::new(object.namespace(), object.name())
}

/// Stores what is known now (or forgets what was deleted); `true` when it is something new.
fn remember<T: PartialEq>(known: &mut BTreeMap<Key, T>, key: &Key, change: Change, facts: T) -> bool {
    if change == Change::Deleted {
        known.remove(key);
        return true;
    }
    if known.get(key) == Some(&facts) {
        return false;
    }
    known.insert(key.clone(), facts);
    true
}

fn entry(machine: &Machine) -> MachineEntry {
    let (spec, status) = (&machine.spec, machine.status.clone().unwrap_or_default());
    let from = spec.from.as_ref();
    let source = from.and_then(|from| from.machine.as_ref()).map(|source| source.name.clone());
    MachineEntry {
        hub: spec.hub.clone().unwrap_or_else(|| DEFAULT_HUB.into()),
        budget: Some(spec.budget.as_ref().and_then(|budget| budget.name.clone()).unwrap_or_else(|| DEFAULT_BUDGET.into())),
        after: spec.goal.after.iter().cloned().chain(source).collect(),
        from_checkpoint: from.and_then(|from| from.checkpoint.clone()),
        verifies: spec.verifies(),
        spawned_from: status.spawned_from,
        last_checkpoint: status.last_checkpoint,
        final_checkpoint: status.final_checkpoint,
        retention: spec.checkpoints.retention.clone(),
        has_vm: status.vm.is_some(),
        finished: status.phase.is_finished(),
        phase: format!("{:?}", status.phase),
    }
}

/// What of conditions matters to others: not their times and words.
fn summary(conditions: &[k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition]) -> Vec<(&str, &str)> {
    conditions.iter().map(|condition| (condition.type_.as_str(), condition.status.as_str())).collect()
}
