//! Tables of where a Machine goes.

use super::{Claim, Nowhere, Placed, Request, Site, Size, place};
use crate::proxmox::Node;

const GIB: u64 = 1 << 30;

fn node(name: &str) -> Node {
    Node(name.into())
}

fn site(name: &str, gib: u64) -> Site {
    Site { node: node(name), usable: Ok(()), memory_bytes: gib * GIB, max_machines: None, cores: 8 }
}

fn claim(name: &str, gib: u64) -> Claim {
    Claim { hub: "default".into(), node: node(name), size: Size { memory_bytes: gib * GIB, millicores: 1000 } }
}

fn request(gib: u64, only: &[&str], origin: &[&str]) -> Request {
    let nodes = |names: &[&str]| names.iter().map(|name| node(name)).collect();
    Request { size: Size { memory_bytes: gib * GIB, millicores: 1000 }, only: nodes(only), origin: nodes(origin) }
}

fn check(sites: &[Site], claims: &[Claim], request: &Request, expected: &str) {
    let text = match place(sites, claims, request) {
        Ok(Placed { node, why }) => format!("{node}: {why}"),
        Err(nowhere) => format!("nowhere: {nowhere}"),
    };
    assert_eq!(text, expected, "{request:?} with {claims:?}");
}

#[test]
fn the_origin_comes_first_while_it_fits_and_then_the_least_loaded() {
    let three = [site("a", 8), site("b", 8), site("c", 16)];
    check(&three, &[], &request(2, &[], &[]), "a: the least loaded");
    check(&three, &[claim("a", 2)], &request(2, &[], &[]), "b: the least loaded");
    // Half of 8 is more than a quarter of 16.
    check(&three, &[claim("a", 4), claim("b", 4), claim("c", 4)], &request(2, &[], &[]), "c: the least loaded");
    check(&three, &[claim("a", 4)], &request(2, &[], &["a"]), "a: it has the origin");
    check(&three, &[claim("a", 7)], &request(2, &[], &["a"]), "b: the least loaded");
    check(&three, &[claim("a", 4)], &request(2, &[], &["a", "b", "c"]), "b: the least loaded");
    check(&three, &[], &request(2, &["c"], &["a"]), "c: the only node that fits");
    check(&three, &[], &request(12, &[], &["a"]), "c: the only node that fits");
}

#[test]
fn where_nothing_fits_each_node_says_why() {
    let mut sites = [site("a", 4), site("b", 8), site("c", 8), site("d", 8)];
    sites[1].usable = Err("it is offline".into());
    sites[2].max_machines = Some(1);
    check(
        &sites,
        &[claim("a", 3), claim("c", 1)],
        &request(2, &["a", "b", "c"], &["a"]),
        "nowhere: a: 1024 MiB of 4096 MiB of memory are left, 2048 MiB are asked for; b: it is offline; c: it has 1 of 1 Machines; \
         d: spec.placement.nodes does not name it",
    );
    assert_eq!(place(&[], &[], &request(1, &[], &[])), Err(Nowhere(Vec::new())));
}

#[test]
fn what_is_overcommitted_or_absurd_does_not_overflow() {
    let mut small = site("a", 1);
    check(
        &[small.clone()],
        &[claim("a", 5)],
        &request(1, &[], &[]),
        "nowhere: a: 0 MiB of 1024 MiB of memory are left, 1024 MiB are asked for",
    );
    small.memory_bytes = u64::MAX;
    let huge = Claim { size: Size { memory_bytes: u64::MAX, millicores: u64::MAX }, ..claim("a", 0) };
    check(
        &[small],
        &[huge.clone(), huge],
        &request(1, &[], &[]),
        "nowhere: a: 0 MiB of 17592186044415 MiB of memory are left, 1024 MiB are asked for",
    );
}
