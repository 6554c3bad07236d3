//! The forest of checkpoints and the Machines between them, and its picture: pure.

use super::graph::boundaries;
use crate::api::checkpoint::Outcome;
use crate::api::machine::{Phase, TerminationReason};
use crate::api::{Checkpoint, Kind, Machine};
use crate::cli::print;
use jiff::Timestamp;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};

/// A first base or a Machine, and what was spawned from it.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Node {
    pub(super) name: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) namespace: String,
    /// Phase of a Machine; `import` for a first base; `deleted` for a Machine that is gone while checkpoints remain.
    pub(super) state: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) duration: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) spent: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) checkpoints: Option<u64>,
    /// Why those that are there were taken: how many at each boundary. One may stand at several.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) boundaries: BTreeMap<String, usize>,
    /// The size of a first base, the verdict of a Machine's verification, or what it waits for.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) note: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) goal: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) final_checkpoint: Option<String>,
    /// What the last verification of that one led to.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) verified: Option<Outcome>,
    /// The checkpoint it was spawned from, where that is not the end of the node above.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) spawned_from: Option<String>,
    pub(super) children: Vec<Node>,
}

/// Names a node: namespace and `machine/NAME` or `checkpoint/NAME`.
type Id = (String, String);

/// Builds the forest; everything given appears in it once.
pub(super) fn forest(machines: &[Machine], checkpoints: &[Checkpoint], now: Timestamp) -> Vec<Node> {
    let mut nodes: BTreeMap<Id, (Node, Option<Id>)> = BTreeMap::new();
    let by_name: BTreeMap<(&str, &str), &Checkpoint> = checkpoints.iter().map(|c| ((c.namespace(), c.name()), c)).collect();
    let alive: BTreeSet<(&str, &str)> = machines.iter().map(|m| (m.namespace(), m.name())).collect();
    // The node that a checkpoint belongs to: its Machine, or itself when it is a first base (or gone).
    let home = |namespace: &str, checkpoint: &str| -> Id {
        let machine = by_name.get(&(namespace, checkpoint)).and_then(|c| c.spec.machine.clone());
        (namespace.to_owned(), machine.map_or_else(|| format!("checkpoint/{checkpoint}"), |machine| format!("machine/{machine}")))
    };

    for checkpoint in checkpoints {
        let namespace = checkpoint.namespace();
        let status = checkpoint.status.clone().unwrap_or_default();
        match &checkpoint.spec.machine {
            None => {
                let size: u64 = status.volumes.iter().filter_map(|volume| volume.referenced).sum();
                let image = checkpoint.spec.import.as_ref().map(crate::api::checkpoint::Import::words);
                let note =
                    image.into_iter().chain((size > 0).then(|| print::bytes(size))).chain(status.message).collect::<Vec<_>>().join(", ");
                let node =
                    Node { name: checkpoint.name().into(), namespace: namespace.into(), state: "import".into(), note, ..Node::default() };
                nodes.insert((namespace.into(), format!("checkpoint/{}", checkpoint.name())), (node, None));
            }
            Some(machine) if !alive.contains(&(namespace, machine.as_str())) => {
                let id = (namespace.to_owned(), format!("machine/{machine}"));
                let parent = status.parent.as_deref().map(|parent| home(namespace, parent)).filter(|parent| *parent != id);
                let empty = Node {
                    name: machine.clone(),
                    namespace: namespace.into(),
                    state: "deleted".into(),
                    checkpoints: Some(0),
                    ..Node::default()
                };
                let entry = nodes.entry(id).or_insert((empty, None));
                entry.0.checkpoints = entry.0.checkpoints.map(|count| count + 1);
                entry.0.goal = entry.0.goal.take().or_else(|| status.goal.clone());
                if checkpoint.spec.trigger == crate::api::checkpoint::Trigger::Final {
                    entry.0.final_checkpoint = Some(checkpoint.name().into());
                }
                entry.1 = entry.1.take().or(parent);
            }
            Some(_) => {}
        }
    }
    for machine in machines {
        let namespace = machine.namespace();
        let status = machine.status.clone().unwrap_or_default();
        let from = machine.spec.from.clone().unwrap_or_default();
        let of_machine = |name: &str| (namespace.to_owned(), format!("machine/{name}"));
        let parent = match (&status.spawned_from, &from.checkpoint, &from.machine, &from.image) {
            (Some(checkpoint), ..) | (None, Some(checkpoint), ..) => Some(home(namespace, checkpoint)),
            (.., Some(machine), _) => Some(of_machine(&machine.name)),
            (.., Some(_)) => None,
            _ => machine.spec.goal.after.last().map(|name| of_machine(name)),
        };
        nodes.insert((namespace.into(), format!("machine/{}", machine.name())), (machine_node(machine, now), parent));
    }
    for checkpoint in checkpoints {
        let Some(machine) = &checkpoint.spec.machine else { continue };
        if let Some((node, _)) = nodes.get_mut(&(checkpoint.namespace().to_owned(), format!("machine/{machine}"))) {
            boundaries(checkpoint).into_iter().for_each(|at| *node.boundaries.entry(format!("{at:?}")).or_default() += 1);
        }
    }
    for (node, _) in nodes.values_mut() {
        let last = node.final_checkpoint.as_deref().and_then(|last| by_name.get(&(node.namespace.as_str(), last)));
        node.verified = last.and_then(|last| Some(last.status.as_ref()?.verified.as_ref()?.outcome));
    }
    // A parent that is not there any more still stands for where its children came from.
    let missing: BTreeSet<Id> = nodes.values().filter_map(|(_, parent)| parent.clone()).filter(|id| !nodes.contains_key(id)).collect();
    for (namespace, what) in missing {
        let name = what.split_once('/').map_or(what.as_str(), |(_, name)| name).to_owned();
        nodes.insert((namespace.clone(), what), (Node { name, namespace, state: "gone".into(), ..Node::default() }, None));
    }
    assemble(nodes)
}

fn machine_node(machine: &Machine, now: Timestamp) -> Node {
    let status = machine.status.clone().unwrap_or_default();
    let end = status.finished_at.as_ref().map_or(now, |at| at.0);
    let verify = machine.spec.goal.verify.as_ref().map(|verify| verify.command.join(" "));
    let achieved = status.conditions.iter().any(|c| c.type_ == "GoalAchieved" && c.status == "True");
    let note = match (verify, status.termination_reason) {
        (Some(command), _) if achieved => format!("verify ✔ {command}"),
        (Some(command), Some(TerminationReason::VerifyFailed)) => format!("verify ✘ {command}"),
        (_, Some(reason)) if status.phase == Phase::Failed => format!("{reason:?}"),
        _ if !status.phase.is_finished() => print::shorten(status.message.as_deref().unwrap_or_default(), 70),
        _ => String::new(),
    };
    Node {
        name: machine.name().into(),
        namespace: machine.namespace().into(),
        state: format!("{:?}", status.phase),
        duration: status.started_at.as_ref().map(|start| print::span(print::between(start.0, end))),
        spent: Some(status.usage.money.dollars()),
        checkpoints: Some(status.checkpoints),
        note,
        goal: Some(machine.spec.goal.prompt.trim().to_owned()).filter(|goal| !goal.is_empty()),
        final_checkpoint: status.final_checkpoint,
        spawned_from: status.spawned_from,
        ..Node::default()
    }
}

/// Hangs every node under its parent. A ring, which only damaged data can hold, is opened at one of its nodes.
fn assemble(mut nodes: BTreeMap<Id, (Node, Option<Id>)>) -> Vec<Node> {
    let mut roots: Vec<Id> = nodes.iter().filter(|(_, (_, parent))| parent.is_none()).map(|(id, _)| id.clone()).collect();
    let mut forest = Vec::new();
    while !nodes.is_empty() {
        let id = if roots.is_empty() { nodes.keys().next().cloned() } else { Some(roots.remove(0)) };
        let Some((id, (mut node, _))) = id.and_then(|id| nodes.remove_entry(&id)) else { continue };
        adopt(&id, &mut node, &mut nodes);
        forest.push(node);
    }
    forest
}

fn adopt(id: &Id, node: &mut Node, nodes: &mut BTreeMap<Id, (Node, Option<Id>)>) {
    let children: Vec<Id> = nodes.iter().filter(|(_, (_, parent))| parent.as_ref() == Some(id)).map(|(id, _)| id.clone()).collect();
    for child in children {
        let Some((mut inner, _)) = nodes.remove(&child) else { continue };
        let usual = node.final_checkpoint.as_deref().unwrap_or(&node.name);
        inner.spawned_from = inner.spawned_from.take().filter(|from| from != usual);
        adopt(&child, &mut inner, nodes);
        node.children.push(inner);
    }
}

/// The forest as people read it: a tree with aligned columns, and each goal below its Machine.
pub(super) fn render(forest: &[Node]) -> String {
    let several = forest.iter().map(|node| &node.namespace).collect::<BTreeSet<_>>().len() > 1;
    let mut lines = Vec::new();
    for node in forest {
        let lead = if several && !node.namespace.is_empty() { format!("{}/", node.namespace) } else { String::new() };
        draw(node, &lead, "", &mut lines);
    }
    let mut widths = [0; 5];
    for line in &lines {
        if let Line::Node(cells, _) = line {
            for (width, cell) in widths.iter_mut().zip(cells) {
                *width = (*width).max(cell.chars().count());
            }
        }
    }
    let mut text = String::new();
    for line in lines {
        let line = match line {
            Line::Node(cells, note) => {
                let [name, state, duration, spent, count] = cells;
                let [named, stated, lasted, paid, counted] = widths;
                format!("{name:<named$}  {state:<stated$}  {duration:>lasted$}  {spent:>paid$}  {count:>counted$}  {note}")
            }
            Line::Text(text) => text,
        };
        text += line.trim_end();
        text += "\n";
    }
    text
}

enum Line {
    Node([String; 5], String),
    Text(String),
}

fn draw(node: &Node, lead: &str, below: &str, lines: &mut Vec<Line>) {
    let count = node.checkpoints.map(|n| format!("{n} checkpoint{}", if n == 1 { "" } else { "s" })).unwrap_or_default();
    let cells = [
        format!("{lead}{}", node.name),
        node.state.clone(),
        node.duration.clone().unwrap_or_default(),
        node.spent.clone().unwrap_or_default(),
        count,
    ];
    lines.push(Line::Node(cells, node.note.clone()));
    let stem = if node.children.is_empty() { "   " } else { "│  " };
    if let Some(goal) = &node.goal {
        lines.push(Line::Text(format!("{below}{stem}“{}”", print::shorten(goal, 90))));
    }
    if !node.boundaries.is_empty() {
        let each: Vec<String> = node.boundaries.iter().map(|(boundary, count)| format!("{count} {boundary}")).collect();
        lines.push(Line::Text(format!("{below}{stem}kept: {}", each.join(", "))));
    }
    if let Some(from) = &node.spawned_from {
        lines.push(Line::Text(format!("{below}{stem}spawned from checkpoint {from}")));
    }
    if let Some(last) = &node.final_checkpoint {
        let verified = match node.verified {
            Some(Outcome::Passed) => "  ✔ verified",
            Some(Outcome::Failed) => "  ✘ its verification failed",
            None => "",
        };
        lines.push(Line::Text(format!("{below}{stem}⇒ checkpoint {last}{verified}")));
    }
    for (index, child) in node.children.iter().enumerate() {
        let last = index + 1 == node.children.len();
        let (branch, further) = if last { ("└─ ", "   ") } else { ("├─ ", "│  ") };
        draw(child, &format!("{below}{branch}"), &format!("{below}{further}"), lines);
    }
}
