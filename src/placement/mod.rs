//! Which node of a Hub a Machine is put on, and why not on the others.
//!
//! Pure: it judges what it is given. A node must be usable and have room; one that has the Machine's origin is taken before the
//! others, for a clone there costs nothing; and among equals the one whose memory is promised least. What a Machine asks for counts
//! from the moment it is placed, whether it uses it or not.

#[cfg(test)]
mod tests;

use crate::proxmox::Node;
use std::collections::{BTreeMap, BTreeSet};

/// A node of the Hub as it was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    pub node: Node,
    /// Why nothing can be put there now, if so.
    pub usable: Result<(), String>,
    /// Memory that Machines may have there in sum, bytes.
    pub memory_bytes: u64,
    /// How many Machines may be there; `None` is as many as there is memory for.
    pub max_machines: Option<u32>,
    /// All that it has; 0 where that is not shown.
    pub cores: u64,
}

/// What a Machine asks for, or was promised.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Size {
    pub memory_bytes: u64,
    pub millicores: u64,
}

/// A Machine that was placed, and not ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    pub hub: String,
    pub node: Node,
    pub size: Size,
}

/// What is to be placed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request {
    pub size: Size,
    /// On none but these, unless empty.
    pub only: BTreeSet<Node>,
    /// Nodes that have what its disks are cloned from.
    pub origin: BTreeSet<Node>,
}

/// Where it goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Placed {
    pub node: Node,
    /// For people.
    pub why: String,
}

/// Why each node does not do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Nowhere(pub Vec<(Node, String)>);

impl std::fmt::Display for Nowhere {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let each: Vec<String> = self.0.iter().map(|(node, why)| format!("{node}: {why}")).collect();
        f.write_str(&each.join("; "))
    }
}

/// What was promised on one node.
#[derive(Clone, Copy, Debug, Default)]
struct Promised {
    size: Size,
    machines: u32,
}

/// Decides. `claims` are those of this Hub.
pub fn place<'c>(sites: &[Site], claims: impl IntoIterator<Item = &'c Claim>, request: &Request) -> Result<Placed, Nowhere> {
    let mut promised: BTreeMap<&Node, Promised> = BTreeMap::new();
    for claim in claims {
        let promised = promised.entry(&claim.node).or_default();
        promised.size.memory_bytes = promised.size.memory_bytes.saturating_add(claim.size.memory_bytes);
        promised.size.millicores = promised.size.millicores.saturating_add(claim.size.millicores);
        promised.machines = promised.machines.saturating_add(1);
    }
    let of = |site: &Site| promised.get(&site.node).copied().unwrap_or_default();
    let mut refusals = Vec::new();
    let mut fitting: Vec<&Site> = Vec::new();
    for site in sites {
        match fits(site, of(site), request) {
            Ok(()) => fitting.push(site),
            Err(why) => refusals.push((site.node.clone(), why)),
        }
    }
    let has_origin = |site: &Site| request.origin.contains(&site.node);
    let best = fitting.iter().min_by_key(|site| (!has_origin(site), load(site, of(site)), &site.node));
    let Some(best) = best else { return Err(Nowhere(refusals)) };
    let why = match (fitting.len(), has_origin(best)) {
        (1, _) => "the only node that fits",
        (_, true) if !fitting.iter().all(|site| has_origin(site)) => "it has the origin",
        _ => "the least loaded",
    };
    Ok(Placed { node: best.node.clone(), why: why.into() })
}

fn fits(site: &Site, promised: Promised, request: &Request) -> Result<(), String> {
    if !request.only.is_empty() && !request.only.contains(&site.node) {
        return Err("spec.placement.nodes does not name it".into());
    }
    site.usable.clone()?;
    if let Some(most) = site.max_machines.filter(|most| promised.machines >= *most) {
        return Err(format!("it has {} of {most} Machines", promised.machines));
    }
    let free = site.memory_bytes.saturating_sub(promised.size.memory_bytes);
    if request.size.memory_bytes > free {
        let (free, asked) = (mebibytes(free), mebibytes(request.size.memory_bytes));
        return Err(format!("{free} MiB of {} MiB of memory are left, {asked} MiB are asked for", mebibytes(site.memory_bytes)));
    }
    Ok(())
}

/// How much of its memory is promised, then of its cores, each in thousandths.
fn load(site: &Site, promised: Promised) -> (u64, u64) {
    let part = |of: u64, whole: u64| of.saturating_mul(1000) / whole.max(1);
    (part(promised.size.memory_bytes, site.memory_bytes), part(promised.size.millicores, site.cores.saturating_mul(1000)))
}

fn mebibytes(bytes: u64) -> u64 {
    bytes >> 20
}
