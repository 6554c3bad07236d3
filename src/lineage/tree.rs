//! The lineage as people see it: images and imports at the roots, Machines below what they were spawned from.

use super::{Lineage, age_order, machine_uid};
use crate::api::{Checkpoint, Kind, Machine};
use std::collections::{BTreeMap, BTreeSet};

/// What a line stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LineKind {
    /// An image of the Hub.
    Image,
    /// A Checkpoint made of an image.
    Import,
    /// A Machine; it may be gone, and its checkpoints still there.
    Machine,
}

/// One line of the tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    pub kind: LineKind,
    pub name: String,
    /// Uid of the Machine: two may have had the same name, one after the other.
    pub uid: Option<String>,
    /// Name of the Checkpoint that the Machine was spawned from.
    pub from: Option<String>,
    /// Names of its checkpoints, oldest first.
    pub checkpoints: Vec<String>,
    pub children: Vec<Line>,
}

/// Tells lines apart: kind, and uid or name.
type Id = (LineKind, String);

impl Lineage<'_> {
    /// The whole namespace as a tree; roots and children in order of age, then name.
    pub fn tree(&self) -> Vec<Line> {
        let mut lines: BTreeMap<Id, Line> = BTreeMap::new();
        let mut parents: BTreeMap<Id, Id> = BTreeMap::new();
        let mut order: Vec<Id> = Vec::new();
        let mut own: BTreeMap<Id, Vec<&Checkpoint>> = BTreeMap::new();
        for &checkpoint in self.checkpoints.values() {
            own.entry(id_of(checkpoint)).or_default().push(checkpoint);
        }
        for machine in self.machines.values() {
            own.entry((LineKind::Machine, machine.uid().to_owned())).or_default();
        }
        let mut ids: Vec<_> = own.into_iter().collect();
        for (_, checkpoints) in &mut ids {
            checkpoints.sort_by_key(|checkpoint| age_order(checkpoint));
        }
        ids.sort_by_key(|(id, checkpoints)| (self.born(id, checkpoints), id.clone()));
        for (id, checkpoints) in ids {
            let machine = self.machines.values().copied().find(|machine| id.0 == LineKind::Machine && machine.uid() == id.1);
            let first = checkpoints.first().copied();
            let (from, parent) = self.origin(machine, first);
            let name = match (machine, first) {
                (Some(machine), _) => machine.name().to_owned(),
                (None, Some(first)) if id.0 == LineKind::Machine => first.spec.machine.clone().unwrap_or_default(),
                (None, _) => id.1.clone(),
            };
            if let Some(parent) = parent.filter(|parent| *parent != id) {
                if parent.0 == LineKind::Image && !lines.contains_key(&parent) {
                    let root = Line {
                        kind: LineKind::Image,
                        name: parent.1.clone(),
                        uid: None,
                        from: None,
                        checkpoints: vec![],
                        children: vec![],
                    };
                    lines.insert(parent.clone(), root);
                    order.push(parent.clone());
                }
                parents.insert(id.clone(), parent);
            }
            let uid = (id.0 == LineKind::Machine).then(|| id.1.clone());
            let checkpoints = checkpoints.iter().map(|checkpoint| checkpoint.name().to_owned()).collect();
            lines.insert(id.clone(), Line { kind: id.0, name, uid, from, checkpoints, children: Vec::new() });
            order.push(id);
        }
        let mut grower = Grower { lines, parents, order, placed: BTreeSet::new() };
        grower.grow()
    }

    /// When a line began.
    fn born(&self, id: &Id, checkpoints: &[&Checkpoint]) -> Option<k8s_openapi::apimachinery::pkg::apis::meta::v1::Time> {
        let machine = self.machines.values().find(|machine| machine.uid() == id.1);
        let created = machine.and_then(|machine| machine.metadata.creation_timestamp.clone());
        created.or_else(|| checkpoints.first().and_then(|checkpoint| age_order(checkpoint).0))
    }

    /// The checkpoint that a line was spawned from, and the line above it; before the spawn, the line that it is to come from.
    fn origin(&self, machine: Option<&Machine>, first: Option<&Checkpoint>) -> (Option<String>, Option<Id>) {
        let spawned = machine.and_then(|machine| machine.status.as_ref()).and_then(|status| status.spawned_from.clone());
        let parent = first.and_then(|first| first.status.as_ref()).and_then(|status| status.parent.clone());
        if let Some(name) = spawned.or(parent) {
            let above = self.checkpoints.get(name.as_str()).map(|checkpoint| id_of(checkpoint));
            return (Some(name), above);
        }
        let Some(machine) = machine else { return (None, None) };
        let line_of = |name: &String| self.machines.get(name.as_str()).map(|above| (LineKind::Machine, above.uid().to_owned()));
        let from = machine.spec.from.as_ref();
        if let Some(image) = from.and_then(|from| from.image.as_ref()) {
            return (None, Some((LineKind::Image, image.clone())));
        }
        if let Some(name) = from.and_then(|from| from.checkpoint.as_ref()) {
            return (Some(name.clone()), self.checkpoints.get(name.as_str()).map(|checkpoint| id_of(checkpoint)));
        }
        let source = from.and_then(|from| from.machine.as_ref()).map(|source| &source.name).or_else(|| machine.spec.goal.after.last());
        (None, source.and_then(line_of))
    }
}

fn id_of(checkpoint: &Checkpoint) -> Id {
    match (&checkpoint.spec.machine, machine_uid(checkpoint)) {
        (Some(_), Some(uid)) => (LineKind::Machine, uid.to_owned()),
        (Some(machine), None) => (LineKind::Machine, machine.clone()),
        (None, _) => (LineKind::Import, checkpoint.name().to_owned()),
    }
}

/// Puts lines below their parents.
struct Grower {
    lines: BTreeMap<Id, Line>,
    parents: BTreeMap<Id, Id>,
    order: Vec<Id>,
    placed: BTreeSet<Id>,
}

impl Grower {
    fn grow(&mut self) -> Vec<Line> {
        let order = self.order.clone();
        let is_root = |grower: &Self, id: &Id| grower.parents.get(id).is_none_or(|parent| !grower.lines.contains_key(parent));
        let roots: Vec<Id> = order.iter().filter(|id| is_root(self, id)).cloned().collect();
        let mut tree: Vec<Line> = roots.iter().filter_map(|id| self.place(id)).collect();
        // Machines that wait for each other in a circle hang below no root: the first of them becomes one.
        for id in &order {
            tree.extend(self.place(id));
        }
        tree
    }

    fn place(&mut self, id: &Id) -> Option<Line> {
        if !self.placed.insert(id.clone()) {
            return None;
        }
        let mut line = self.lines.get(id)?.clone();
        let children: Vec<Id> = self.order.iter().filter(|child| self.parents.get(*child) == Some(id)).cloned().collect();
        line.children = children.iter().filter_map(|child| self.place(child)).collect();
        Some(line)
    }
}
