//! What wakes what.

use super::*;
use crate::api::budget::{BudgetSpec, ParentRef};
use crate::api::checkpoint::{CheckpointSpec, CheckpointStatus};
use crate::api::hub::{HubSpec, HubStatus, ImageStatus, Infrastructure};
use crate::api::machine::{BudgetUse, MachineSpec, MachineStatus, Phase, VmStatus};
use crate::store::Revision;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

fn boxed<K>(change: Change, object: K) -> Box<Event<K>> {
    Box::new(Event { change, object, revision: Revision(1) })
}

fn machine(name: &str, phase: Phase, change: impl FnOnce(&mut MachineSpec, &mut MachineStatus)) -> Machine {
    let (mut spec, mut status) = (MachineSpec::default(), MachineStatus { phase, ..Default::default() });
    status.vm = (phase == Phase::Running).then(VmStatus::default);
    change(&mut spec, &mut status);
    let mut machine = Machine::new("shop", name, spec);
    machine.status = Some(status);
    machine
}

fn checkpoint(name: &str, machine: &str, phase: CheckpointPhase, parent: Option<&str>, deleting: bool) -> Checkpoint {
    let mut checkpoint = Checkpoint::new("shop", name, CheckpointSpec { machine: Some(machine.into()), ..Default::default() });
    checkpoint.status = Some(CheckpointStatus { phase, parent: parent.map(Into::into), ..Default::default() });
    checkpoint.metadata.deletion_timestamp = deleting.then_some(Time(jiff::Timestamp::UNIX_EPOCH));
    checkpoint
}

fn hub(images: usize) -> Hub {
    let spec = HubSpec {
        infrastructure: Infrastructure::default(),
        gateway: None,
        providers: Vec::new(),
        images: Vec::new(),
        defaults: crate::api::hub::Defaults::default(),
        approvals: crate::api::hub::Approvals::default(),
        checkpoints: crate::api::hub::Checkpoints::default(),
        egress: crate::api::network::HubEgress::default(),
    };
    let mut hub = Hub::new("", "default", spec);
    hub.status = Some(HubStatus { images: vec![ImageStatus::default(); images], ..Default::default() });
    hub
}

fn budget(name: &str, parent: Option<&str>, spent: &str, generation: i64) -> Budget {
    let spec = BudgetSpec { parent_ref: parent.map(|name| ParentRef { name: name.into() }), ..Default::default() };
    let mut budget = Budget::new("shop", name, spec);
    budget.metadata.generation = Some(generation);
    budget.status = Some(crate::api::budget::BudgetStatus { spent: Some(spent.into()), ..Default::default() });
    budget
}

impl Index {
    fn takes(&mut self, change: Any) -> Vec<String> {
        let wakes = self.apply(change);
        let list = |kind: &str, keys: &BTreeSet<Key>| keys.iter().map(|key| format!("{kind} {}", key.name)).collect::<Vec<_>>();
        let mut all = list("hub", &wakes.hubs);
        all.extend(list("budget", &wakes.budgets));
        all.extend(list("machine", &wakes.machines));
        all.extend(list("checkpoint", &wakes.checkpoints));
        all.extend(wakes.retention.iter().map(|key| format!("retention in {}", key.namespace)));
        all
    }
    fn machine_is(&mut self, machine: Machine) -> Vec<String> {
        self.takes(Any::Machine(boxed(Change::Modified, machine)))
    }
    fn checkpoint_is(&mut self, checkpoint: Checkpoint) -> Vec<String> {
        self.takes(Any::Checkpoint(boxed(Change::Modified, checkpoint)))
    }
}

#[test]
fn a_machine_wakes_those_that_wait_for_it() {
    let mut index = Index::default();
    index.machine_is(machine("b", Phase::Waiting, |spec, _| spec.goal.after = vec!["a".into()]));
    index.machine_is(machine("done", Phase::Succeeded, |spec, _| spec.goal.after = vec!["a".into()]));
    assert_eq!(index.machine_is(machine("a", Phase::Running, |_, _| {})), ["machine a", "machine b"]);
    // What its usage says is nobody else's business.
    let busy = |_: &mut MachineSpec, status: &mut MachineStatus| status.usage.api_calls = 7;
    assert_eq!(index.machine_is(machine("a", Phase::Running, busy)), ["machine a"]);
    assert_eq!(index.machine_is(machine("a", Phase::Succeeded, |_, _| {})), ["machine a", "machine b", "retention in shop"]);
}

#[test]
fn a_checkpoint_and_its_machine_wake_each_other() {
    let mut index = Index::default();
    let pending = || checkpoint("a-1", "a", CheckpointPhase::Pending, None, false);
    assert_eq!(index.checkpoint_is(pending()), ["machine a", "checkpoint a-1", "retention in shop"]);
    assert_eq!(index.checkpoint_is(pending()), ["checkpoint a-1"], "nothing new to others");
    assert_eq!(index.machine_is(machine("a", Phase::Running, |_, _| {})), ["machine a", "checkpoint a-1"]);
    let ready = checkpoint("a-1", "a", CheckpointPhase::Ready, None, false);
    assert_eq!(index.checkpoint_is(ready), ["machine a", "checkpoint a-1", "retention in shop"]);
    let last = |_: &mut MachineSpec, status: &mut MachineStatus| status.last_checkpoint = Some("a-1".into());
    assert_eq!(index.machine_is(machine("a", Phase::Running, last)), ["machine a"], "one that is Ready waits for nothing");
}

#[test]
fn a_checkpoint_wakes_what_is_to_be_spawned_from_it_and_the_base_that_waits_to_go() {
    let mut index = Index::default();
    let from = |name: &str| crate::api::machine::From { checkpoint: Some(name.into()), ..Default::default() };
    index.machine_is(machine("b", Phase::Waiting, |spec, _| spec.from = Some(from("a-1"))));
    let wakes = index.checkpoint_is(checkpoint("a-1", "a", CheckpointPhase::Ready, None, false));
    assert_eq!(wakes, ["machine a", "machine b", "checkpoint a-1", "retention in shop"]);

    index.checkpoint_is(checkpoint("a-1", "a", CheckpointPhase::Deleting, None, true));
    let child = || checkpoint("b-1", "b", CheckpointPhase::Ready, Some("a-1"), false);
    index.checkpoint_is(child());
    let gone = index.takes(Any::Checkpoint(boxed(Change::Deleted, child())));
    assert_eq!(gone, ["machine b", "checkpoint a-1", "checkpoint b-1", "retention in shop"]);
    let spawned = machine("b", Phase::Running, |_, status| status.spawned_from = Some("a-1".into()));
    index.machine_is(spawned.clone());
    let gone = index.takes(Any::Machine(boxed(Change::Deleted, spawned)));
    assert_eq!(gone, ["machine b", "checkpoint a-1", "retention in shop"]);
}

#[test]
fn a_hub_wakes_its_machines_when_something_of_it_changed() {
    let mut index = Index::default();
    index.machine_is(machine("a", Phase::Running, |_, _| {}));
    index.machine_is(machine("done", Phase::Failed, |_, _| {}));
    index.machine_is(machine("other", Phase::Running, |spec, _| spec.hub = Some("other".into())));
    index.checkpoint_is(checkpoint("a-1", "a", CheckpointPhase::Pending, None, false));
    let hub_is = |index: &mut Index, images| index.takes(Any::Hub(boxed(Change::Modified, hub(images))));
    assert_eq!(hub_is(&mut index, 0), ["hub default", "machine a", "checkpoint a-1"]);
    assert_eq!(hub_is(&mut index, 0), ["hub default"]);
    assert_eq!(hub_is(&mut index, 1), ["hub default", "machine a", "checkpoint a-1"]);
    // After a restart its object is as before: that it can be used is told apart.
    assert_eq!(index.takes(Any::Connected("default".into())), ["machine a", "checkpoint a-1"]);
}

#[test]
fn spending_goes_up_the_tree_and_limits_go_down() {
    let mut index = Index::default();
    let of = |name: &str| Some(BudgetUse { name: Some(name.into()), ..Default::default() });
    let is = |index: &mut Index, budget| index.takes(Any::Budget(boxed(Change::Modified, budget)));
    is(&mut index, budget("company", None, "$0", 1));
    is(&mut index, budget("team", Some("company"), "$0", 1));
    let wakes = index.machine_is(machine("a", Phase::Running, |spec, _| spec.budget = of("team")));
    assert_eq!(wakes, ["budget team", "machine a"]);
    assert_eq!(is(&mut index, budget("team", Some("company"), "$1", 1)), ["budget company", "budget team"]);
    assert_eq!(is(&mut index, budget("team", Some("company"), "$1", 2)), ["budget company", "budget team", "machine a"]);
    assert_eq!(is(&mut index, budget("company", None, "$1", 1)), ["budget company"]);
    assert_eq!(is(&mut index, budget("company", None, "$1", 2)), ["budget company", "budget team"]);
}
