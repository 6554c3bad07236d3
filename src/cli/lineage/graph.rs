//! The lineage as a graph of checkpoints and Machines, for pictures and for what is related to one of them: pure.

use crate::api::checkpoint::{ASKED_BY, CheckpointPhase, Keep, Trigger};
use crate::api::{Checkpoint, Kind, Machine};
use crate::cli::print;
use std::collections::{BTreeMap, BTreeSet};

/// Names a node: namespace and `machine/NAME` or `checkpoint/NAME`.
pub(super) type Id = (String, String);

/// What a node is drawn as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Look {
    Machine,
    Failed,
    /// Gone, while something that came of it remains.
    Gone,
    Checkpoint,
    Final,
    Import,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Node {
    /// The name, and below it what is to be known of it.
    pub(super) lines: Vec<String>,
    pub(super) look: Look,
    /// One of many like it: a row of them may be drawn as one.
    pub(super) plain: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Way {
    /// This came of that.
    Led,
    /// It is to be spawned from there, and is not yet.
    Waits,
    /// It was put back to there: the one way that leads to what was before.
    PutBack,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Edge {
    pub(super) from: Id,
    pub(super) to: Id,
    pub(super) way: Way,
    /// The goal, in full; empty where there is none.
    pub(super) label: String,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Graph {
    pub(super) nodes: BTreeMap<Id, Node>,
    pub(super) edges: BTreeSet<Edge>,
}

/// The smallest row that is drawn as one node.
const ROW: usize = 3;

impl Graph {
    pub(super) fn new(machines: &[Machine], checkpoints: &[Checkpoint]) -> Self {
        let mut graph = Self::default();
        let by_name: BTreeMap<(&str, &str), &Checkpoint> = checkpoints.iter().map(|c| ((c.namespace(), c.name()), c)).collect();
        let alive: BTreeMap<(&str, &str), &Machine> = machines.iter().map(|m| ((m.namespace(), m.name()), m)).collect();
        for machine in machines {
            graph.add_machine(machine, &by_name);
        }
        for checkpoint in checkpoints {
            graph.nodes.insert(id(checkpoint), checkpoint_node(checkpoint));
        }
        for checkpoint in checkpoints {
            let Some(machine) = checkpoint.spec.machine.as_deref() else { continue };
            let status = checkpoint.status.clone().unwrap_or_default();
            let parent = status.parent.as_deref().and_then(|name| by_name.get(&(checkpoint.namespace(), name)).copied());
            if let Some(before) = parent.filter(|before| same_machine(before, checkpoint)) {
                graph.lead(id(before), id(checkpoint), "");
                continue;
            }
            let owner = (checkpoint.namespace().to_owned(), format!("machine/{machine}"));
            let now = alive.get(&(checkpoint.namespace(), machine));
            let goal = status.goal.unwrap_or_default();
            match (now, parent) {
                // Another Machine has its name by now.
                (Some(now), Some(parent)) if status.machine_uid.as_deref().is_some_and(|uid| uid != now.uid()) => {
                    graph.lead(id(parent), id(checkpoint), &goal);
                }
                (Some(_), _) => graph.lead(owner, id(checkpoint), ""),
                (None, _) => {
                    let lines = vec![machine.to_owned(), "deleted".to_owned()];
                    graph.nodes.insert(owner.clone(), Node { lines, look: Look::Gone, plain: false });
                    if let Some(parent) = parent {
                        graph.lead(id(parent), owner.clone(), &goal);
                    }
                    graph.lead(owner, id(checkpoint), "");
                }
            }
        }
        graph.stand_in();
        graph
    }

    fn add_machine(&mut self, machine: &Machine, checkpoints: &BTreeMap<(&str, &str), &Checkpoint>) {
        let status = machine.status.clone().unwrap_or_default();
        let from = machine.spec.from.clone().unwrap_or_default();
        let of = |kind: &str, name: &str| (machine.namespace().to_owned(), format!("{kind}/{name}"));
        let goal = machine.spec.goal.prompt.trim();
        let label = if from.machine.is_some() { format!("fork: {goal}") } else { goal.to_owned() };
        let (base, way) = match (&status.spawned_from, &from.checkpoint, &from.machine) {
            (Some(checkpoint), ..) => (Some(of("checkpoint", checkpoint)), Way::Led),
            (None, Some(checkpoint), _) => (Some(of("checkpoint", checkpoint)), Way::Waits),
            (None, None, Some(machine)) => (Some(of("machine", &machine.name)), Way::Waits),
            _ => (machine.spec.goal.after.last().filter(|_| from.image.is_none()).map(|name| of("machine", name)), Way::Waits),
        };
        if let Some(from) = base {
            self.edges.insert(Edge { from, to: id(machine), way, label: label.clone() });
        }
        if let Some(restored) = &status.restored
            && let Some(to) = &restored.checkpoint
        {
            let before = format!("{}-before-restore-{}", machine.name(), restored.count);
            let kept = checkpoints.contains_key(&(machine.namespace(), before.as_str()));
            let from = if kept { of("checkpoint", &before) } else { id(machine) };
            let label = if restored.count > 1 { format!("put back ({} times)", restored.count) } else { "put back".into() };
            self.edges.insert(Edge { from, to: of("checkpoint", to), way: Way::PutBack, label });
        }
        let mut lines = vec![machine.name().to_owned(), format!("{:?}, {}", status.phase, status.usage.money.dollars())];
        if let Some(image) = from.image {
            lines.push(format!("from image {image}"));
            // There is no edge that could say it.
            lines.push(print::shorten(&label, 50));
        }
        let failed = status.phase == crate::api::machine::Phase::Failed;
        self.nodes.insert(id(machine), Node { lines, look: if failed { Look::Failed } else { Look::Machine }, plain: false });
    }

    fn lead(&mut self, from: Id, to: Id, goal: &str) {
        self.edges.insert(Edge { from, to, way: Way::Led, label: goal.to_owned() });
    }

    /// Gives a node to what edges name and nobody has any more.
    fn stand_in(&mut self) {
        let named: BTreeSet<Id> = self.edges.iter().flat_map(|edge| [edge.from.clone(), edge.to.clone()]).collect();
        for id in named {
            let name = id.1.split_once('/').map_or(id.1.as_str(), |(_, name)| name).to_owned();
            self.nodes.entry(id).or_insert(Node { lines: vec![name, "gone".into()], look: Look::Gone, plain: false });
        }
    }

    /// What led to this node, and all that came of it; itself among them. Empty when there is no such node.
    pub(super) fn related(&self, focus: &Id) -> BTreeSet<Id> {
        if !self.nodes.contains_key(focus) {
            return BTreeSet::new();
        }
        let mut found = self.reach(focus, |edge| (&edge.from, &edge.to));
        found.extend(self.reach(focus, |edge| (&edge.to, &edge.from)));
        found
    }

    fn reach<'a>(&'a self, start: &'a Id, ends: impl Fn(&'a Edge) -> (&'a Id, &'a Id)) -> BTreeSet<Id> {
        let mut next: BTreeMap<&Id, Vec<&Id>> = BTreeMap::new();
        for edge in self.edges.iter().filter(|edge| edge.way != Way::PutBack) {
            let (from, to) = ends(edge);
            next.entry(from).or_default().push(to);
        }
        let (mut seen, mut open) = (BTreeSet::new(), vec![start]);
        while let Some(id) = open.pop() {
            if seen.insert(id.clone()) {
                open.extend(next.get(id).into_iter().flatten());
            }
        }
        seen
    }

    /// The part of it that these nodes are.
    pub(super) fn only(mut self, ids: &BTreeSet<Id>) -> Self {
        self.nodes.retain(|id, _| ids.contains(id));
        self.edges.retain(|edge| ids.contains(&edge.from) && ids.contains(&edge.to));
        self
    }

    /// The same with each row of plain checkpoints as one node.
    pub(super) fn in_short(mut self) -> Self {
        let mut before: BTreeMap<&Id, Vec<&Id>> = BTreeMap::new();
        let mut after: BTreeMap<&Id, Vec<&Id>> = BTreeMap::new();
        for edge in &self.edges {
            before.entry(&edge.to).or_default().push(&edge.from);
            after.entry(&edge.from).or_default().push(&edge.to);
        }
        let alone = |ids: Option<&Vec<&Id>>| ids.is_some_and(|ids| ids.len() == 1);
        let fits = |id: &Id| self.nodes[id].plain && alone(before.get(id)) && alone(after.get(id));
        let mut rows: Vec<Vec<Id>> = Vec::new();
        for id in self.nodes.keys().filter(|id| fits(id) && !fits(before[id][0])) {
            let row = std::iter::successors(Some(id), |id| Some(after[id][0]).filter(|next| fits(next)));
            rows.push(row.cloned().collect());
        }
        for row in rows.into_iter().filter(|row| row.len() >= ROW) {
            let (Some(first), Some(last)) = (row.first(), row.last()) else { continue };
            let name = |id: &Id| self.nodes[id].lines[0].clone();
            let why = self.nodes[first].lines[1..].join(", ");
            let lines = vec![format!("{} … {}", name(first), name(last)), format!("{} checkpoints {why}", row.len())];
            let inside: BTreeSet<&Id> = row.iter().collect();
            let edges = std::mem::take(&mut self.edges).into_iter();
            let edges = edges.filter(|edge| !(inside.contains(&edge.from) && inside.contains(&edge.to)));
            self.edges = edges.map(|edge| if edge.from == *last { Edge { from: first.clone(), ..edge } } else { edge }).collect();
            for id in &row[1..] {
                self.nodes.remove(id);
            }
            self.nodes.insert(first.clone(), Node { lines, look: Look::Checkpoint, plain: true });
        }
        self
    }
}

/// The node of an object.
pub(super) fn id<K: Kind>(object: &K) -> Id {
    (object.namespace().to_owned(), format!("{}/{}", K::SINGULAR, object.name()))
}

fn same_machine(one: &Checkpoint, other: &Checkpoint) -> bool {
    let uid = |checkpoint: &Checkpoint| checkpoint.status.as_ref().and_then(|status| status.machine_uid.clone());
    one.spec.machine == other.spec.machine && (uid(one).is_none() || uid(other).is_none() || uid(one) == uid(other))
}

fn checkpoint_node(checkpoint: &Checkpoint) -> Node {
    let status = checkpoint.status.clone().unwrap_or_default();
    let spec = &checkpoint.spec;
    let mut lines = vec![checkpoint.name().to_owned()];
    lines.push(match (&spec.import, checkpoint.annotation(ASKED_BY)) {
        (Some(import), _) => import.words(),
        (None, Some(_)) => "for a fork".into(),
        (None, None) => boundaries(checkpoint).into_iter().map(why).collect::<Vec<_>>().join(", "),
    });
    if let Some(description) = &spec.description {
        lines.push(format!("“{}”", print::shorten(description, 50)));
    }
    if spec.keep == Keep::Forever {
        lines.push("kept forever".into());
    }
    let usual = lines.len() == 2 && boundaries(checkpoint).len() == 1 && status.phase == CheckpointPhase::Ready;
    if status.phase != CheckpointPhase::Ready {
        lines.push(format!("{:?}", status.phase));
    }
    let look = match spec.trigger {
        _ if spec.import.is_some() => Look::Import,
        Trigger::Final => Look::Final,
        _ => Look::Checkpoint,
    };
    Node { lines, look, plain: usual && spec.trigger == Trigger::BetweenMessages }
}

/// At which boundaries it stands, each once; the first is what it was taken for.
pub(super) fn boundaries(checkpoint: &Checkpoint) -> Vec<Trigger> {
    let mut all = vec![checkpoint.spec.trigger];
    for reason in checkpoint.status.iter().flat_map(|status| &status.reasons) {
        if !all.contains(&reason.trigger) {
            all.push(reason.trigger);
        }
    }
    all
}

/// A trigger's name as words: `between messages`.
pub(in crate::cli) fn why(trigger: Trigger) -> String {
    let mut words = String::new();
    for c in format!("{trigger:?}").chars() {
        if c.is_uppercase() && !words.is_empty() {
            words.push(' ');
        }
        words.extend(c.to_lowercase());
    }
    match words.as_str() {
        "restore" => "before it was put back".into(),
        "suspend" => "when it was suspended".into(),
        "requested" => "was asked for".into(),
        _ => words,
    }
}
