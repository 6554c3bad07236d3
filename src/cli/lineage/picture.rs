//! How nodes and edges look and what they say; and the graph in the language of Graphviz.

use super::graph::{Graph, Id, Look, Node, Way};
use crate::cli::print;
use std::collections::BTreeSet;

/// Of a goal, so much stands at its edge.
const LABEL: usize = 48;
pub(super) const FONT_SIZE: usize = 13;
pub(super) const PUT_BACK: u32 = 0xb0_3020;
pub(super) const INK: u32 = 0x33_3333;

/// Colours of the inside and the outline, width of the outline, and roundness of the corners.
pub(super) fn style(look: Look) -> (u32, u32, usize, usize) {
    match look {
        Look::Machine => (0xdc_e9f9, 0x2a_5d9f, 1, 10),
        Look::Failed => (0xf9_dcdc, 0xb0_3020, 1, 10),
        Look::Gone => (0xee_eeee, 0x88_8888, 1, 10),
        Look::Checkpoint => (0xff_ffff, 0x66_6666, 1, 0),
        Look::Final => (0xdd_f3dd, 0x2b_7a2b, 3, 0),
        Look::Import => (0xf6_efcf, 0x8a_7420, 1, 0),
    }
}

/// Lines of a node and labels of edges as they are shown.
pub(super) struct Words {
    several: bool,
}

impl Words {
    pub(super) fn new(graph: &Graph) -> Self {
        Self { several: graph.nodes.keys().map(|(namespace, _)| namespace).collect::<BTreeSet<_>>().len() > 1 }
    }
    pub(super) fn lines(&self, id: &Id, node: &Node) -> Vec<String> {
        let lead = if self.several { format!("{}/", id.0) } else { String::new() };
        node.lines.iter().enumerate().map(|(n, line)| one_line(&if n == 0 { format!("{lead}{line}") } else { line.clone() })).collect()
    }
}

fn one_line(text: &str) -> String {
    print::printable(text).replace(['\n', '\t'], " ")
}

pub(super) fn label(goal: &str) -> String {
    one_line(&print::shorten(goal, LABEL))
}

/// As `dot` and its kind read it.
pub(super) fn dot(graph: &Graph) -> String {
    let escaped = |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"");
    let quoted = |text: &str| format!("\"{}\"", escaped(text));
    let name = |id: &Id| quoted(&format!("{}/{}", id.0, id.1));
    let words = Words::new(graph);
    let font = format!("fontname=\"sans-serif\", fontsize={FONT_SIZE}");
    let mut text = format!("digraph lineage {{\n  node [shape=box, {font}];\n  edge [{font}, color=\"#{INK:06x}\"];\n");
    for (id, node) in &graph.nodes {
        let (fill, line, width, round) = style(node.look);
        // Line by line, for the `\n` between them is the language's own.
        let lines: Vec<String> = words.lines(id, node).iter().map(|line| escaped(line)).collect();
        let style = if round > 0 { "filled,rounded" } else { "filled" };
        text += &format!(
            "  {} [label=\"{}\", style=\"{style}\", fillcolor=\"#{fill:06x}\", color=\"#{line:06x}\", penwidth={width}];\n",
            name(id),
            lines.join("\\n"),
        );
    }
    for edge in &graph.edges {
        let way = match edge.way {
            Way::Led => String::new(),
            Way::Waits => ", style=dashed".into(),
            // It leads back: it must not push what came later above what was before.
            Way::PutBack => format!(", style=dashed, constraint=false, color=\"#{PUT_BACK:06x}\", fontcolor=\"#{PUT_BACK:06x}\""),
        };
        text += &format!("  {} -> {} [label={}{way}];\n", name(&edge.from), name(&edge.to), quoted(&label(&edge.label)));
    }
    text + "}\n"
}
