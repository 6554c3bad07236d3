//! The graph as SVG. Each node hangs below what led to it, so places follow from the widths of what is below; a way that leads
//! back, or a second way to a node, is drawn across.

use super::graph::{Edge, Graph, Id, Way};
use super::picture::{FONT_SIZE, INK, PUT_BACK, Words, label, style};
use std::collections::{BTreeMap, BTreeSet};

/// Height of a line of text, and a letter's usual width; in pixels, as all here.
const LINE: f64 = 18.0;
const LETTER: f64 = 7.6;
const PADDING: f64 = 10.0;
/// Between two that stand side by side, and between two rows: there is room for the goal.
const BESIDE: f64 = 24.0;
const BELOW: f64 = 56.0;
const MARGIN: f64 = 20.0;
/// How far a way back swings out to the right.
const SWING: f64 = 90.0;

/// A node's box.
#[derive(Clone, Copy, Default)]
struct Place {
    /// Its middle.
    x: f64,
    top: f64,
    width: f64,
    height: f64,
}

/// A node while it is placed.
struct Item<'a> {
    id: &'a Id,
    depth: usize,
    children: Vec<usize>,
    width: f64,
    height: f64,
    /// With all that is below it, or the goal above it, whichever is wider.
    span: f64,
    left: f64,
}

/// As a browser shows it.
pub(super) fn svg(graph: &Graph) -> String {
    let words = Words::new(graph);
    let lines: BTreeMap<&Id, Vec<String>> = graph.nodes.iter().map(|(id, node)| (id, words.lines(id, node))).collect();
    let places = places(graph, &lines);
    let right = places.values().map(|place| place.x + place.width / 2.0).fold(0.0, f64::max) + SWING + MARGIN;
    let bottom = places.values().map(|place| place.top + place.height).fold(0.0, f64::max) + MARGIN;
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{right:.0}\" height=\"{bottom:.0}\" viewBox=\"0 0 {right:.0} {bottom:.0}\" \
         font-family=\"sans-serif\" font-size=\"{FONT_SIZE}\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n<defs>"
    );
    for (name, color) in [("ink", INK), ("back", PUT_BACK)] {
        text += &format!(
            "<marker id=\"{name}\" markerWidth=\"9\" markerHeight=\"8\" refX=\"9\" refY=\"4\" orient=\"auto\">\
             <polygon points=\"0 0, 9 4, 0 8\" fill=\"#{color:06x}\"/></marker>"
        );
    }
    text += "</defs>\n";
    // What leads back goes across others, so it lies above them.
    let (back, onward): (Vec<&Edge>, Vec<&Edge>) = graph.edges.iter().partition(|edge| edge.way == Way::PutBack);
    for edge in onward {
        text += &way(edge, places[&edge.from], places[&edge.to]);
    }
    for (id, node) in &graph.nodes {
        let Place { x, top, width, height } = places[id];
        let (fill, line, thick, round) = style(node.look);
        text += &format!(
            "<g><rect x=\"{:.1}\" y=\"{top:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" rx=\"{round}\" fill=\"#{fill:06x}\" \
             stroke=\"#{line:06x}\" stroke-width=\"{thick}\"/>",
            x - width / 2.0
        );
        let mut y = top + PADDING / 2.0;
        for (n, line) in lines[id].iter().enumerate() {
            let weight = if n == 0 { " font-weight=\"bold\"" } else { "" };
            text += &format!("<text x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\"{weight}>{}</text>", y + 13.0, escaped(line));
            y += LINE;
        }
        text += "</g>\n";
    }
    for edge in back {
        text += &way(edge, places[&edge.from], places[&edge.to]);
    }
    text + "</svg>\n"
}

/// An edge with its label, and the whole goal for a pointer that rests on it.
fn way(edge: &Edge, from: Place, to: Place) -> String {
    let (dash, color, marker) = match edge.way {
        Way::Led => ("", INK, "ink"),
        Way::Waits => (" stroke-dasharray=\"6 4\"", INK, "ink"),
        Way::PutBack => (" stroke-dasharray=\"6 4\"", PUT_BACK, "back"),
    };
    let (x, y, path) = if to.top > from.top + from.height {
        let (start, end) = (from.top + from.height, to.top);
        let bend = (end - start) / 2.0;
        let path =
            format!("M {:.1} {start:.1} C {:.1} {:.1}, {:.1} {:.1}, {:.1} {end:.1}", from.x, from.x, start + bend, to.x, end - bend, to.x);
        (to.x, to.top - 18.0, path)
    } else {
        // Sideways or upwards: out to the right and back.
        let (ax, ay) = (from.x + from.width / 2.0, from.top + from.height / 2.0);
        let (bx, by) = (to.x + to.width / 2.0, to.top + to.height / 2.0);
        let far = ax.max(bx) + SWING;
        (
            f64::midpoint(ax, bx) + SWING * 0.6,
            f64::midpoint(ay, by),
            format!("M {ax:.1} {ay:.1} C {far:.1} {ay:.1}, {far:.1} {by:.1}, {bx:.1} {by:.1}"),
        )
    };
    let mut text = format!("<g><path d=\"{path}\" fill=\"none\" stroke=\"#{color:06x}\"{dash} marker-end=\"url(#{marker})\"/>");
    if !edge.label.is_empty() {
        text += &format!(
            "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"middle\" fill=\"#{color:06x}\" font-style=\"italic\" stroke=\"white\" \
             stroke-width=\"4\" paint-order=\"stroke\">{}<title>{}</title></text>",
            escaped(&label(&edge.label)),
            escaped(&crate::cli::print::printable(&edge.label)),
        );
    }
    text + "</g>\n"
}

/// A number of letters or lines, times what one takes.
fn extent(count: usize, each: f64) -> f64 {
    f64::from(u32::try_from(count).unwrap_or(u32::MAX)) * each
}

fn width(text: &str) -> f64 {
    extent(text.chars().count(), LETTER)
}

fn places<'a>(graph: &'a Graph, lines: &BTreeMap<&'a Id, Vec<String>>) -> BTreeMap<&'a Id, Place> {
    let mut items = hang(graph);
    let goals: BTreeMap<&Id, f64> = graph.edges.iter().map(|edge| (&edge.to, width(&label(&edge.label)))).collect();
    for item in &mut items {
        item.width = lines[item.id].iter().map(|line| width(line)).fold(0.0, f64::max) + 2.0 * PADDING;
        item.height = extent(lines[item.id].len(), LINE) + PADDING;
    }
    let below = |items: &[Item], index: usize| {
        let children = &items[index].children;
        children.iter().map(|child| items[*child].span).sum::<f64>() + extent(children.len().saturating_sub(1), BESIDE)
    };
    // Those below a node come after it.
    for index in (0..items.len()).rev() {
        let own = items[index].width.max(goals.get(items[index].id).copied().unwrap_or_default());
        items[index].span = own.max(below(&items, index));
    }
    let mut right = MARGIN;
    let mut heights: Vec<f64> = Vec::new();
    for index in 0..items.len() {
        let Item { depth, height, span, .. } = items[index];
        if depth == 0 {
            items[index].left = right;
            right += span + BESIDE;
        }
        if heights.len() <= depth {
            heights.resize(depth + 1, 0.0);
        }
        heights[depth] = heights[depth].max(height);
        let mut left = items[index].left + (span - below(&items, index)) / 2.0;
        for child in items[index].children.clone() {
            items[child].left = left;
            left += items[child].span + BESIDE;
        }
    }
    let mut tops = vec![MARGIN];
    for height in heights {
        tops.push(tops[tops.len() - 1] + height + BELOW);
    }
    let place = |item: &Item| Place { x: item.left + item.span / 2.0, top: tops[item.depth], width: item.width, height: item.height };
    items.iter().map(|item| (item.id, place(item))).collect()
}

/// Every node once, after the one it hangs below. Without recursion: a lineage may be thousands deep. A ring, which only damaged
/// data can hold, is opened at one of its nodes.
fn hang(graph: &Graph) -> Vec<Item<'_>> {
    let mut next: BTreeMap<&Id, Vec<&Id>> = BTreeMap::new();
    for edge in graph.edges.iter().filter(|edge| edge.way != Way::PutBack) {
        next.entry(&edge.from).or_default().push(&edge.to);
    }
    let below: BTreeSet<&Id> = next.values().flatten().copied().collect();
    let roots = graph.nodes.keys().filter(|id| !below.contains(id)).chain(graph.nodes.keys());
    let mut seen = BTreeSet::new();
    let mut items: Vec<Item> = Vec::new();
    for root in roots {
        let mut open = vec![(root, None)];
        while let Some((id, above)) = open.pop() {
            if !seen.insert(id) {
                continue;
            }
            let index = items.len();
            let depth = above.map_or(0, |above: usize| items[above].depth + 1);
            items.push(Item { id, depth, children: Vec::new(), width: 0.0, height: 0.0, span: 0.0, left: 0.0 });
            if let Some(above) = above {
                items[above].children.push(index);
            }
            open.extend(next.get(id).into_iter().flatten().rev().map(|child| (*child, Some(index))));
        }
    }
    items
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
