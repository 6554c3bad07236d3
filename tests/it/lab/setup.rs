//! A lab that begins from a file: the one of the handbook, and what is wrong in others, in words.

use super::{World, access::Caller};
use autovibe::lab::Setup;
use serde_json::json;

/// The example of the handbook.
pub(super) fn example() -> String {
    let text = include_str!("../../../docs/lab.md");
    let (_, yaml) = text.split_once("```yaml\n").unwrap();
    yaml.split_once("```").unwrap().0.to_owned()
}

#[tokio::test]
async fn the_example_of_the_handbook_is_there_and_survives_a_restart() {
    let world = World::with_setup(&example()).await;
    let alice = Caller::with(&world, "alice@pve!t1", "alice-s-secret");
    let seen = alice.ok("GET", "/cluster/resources", &[("type", "vm")]).await;
    let mut seen: Vec<_> =
        seen.as_array().unwrap().iter().map(|row| (row["vmid"].clone(), row["node"].clone(), row["status"].clone())).collect();
    seen.sort_by_key(|row| row.0.as_u64());
    assert_eq!(json!(seen), json!([[9000, "pve1", "stopped"], [9001, "pve2", "running"]]));
    let root = Caller::new(&world, "root@pam!test", false);
    assert_eq!(root.ok("GET", "/nodes/pve1/qemu/9000/config", &[]).await["scsi0"], "tank:base-9000-disk-0,size=4G");
    let snapshots = root.ok("GET", "/nodes/pve2/qemu/9001/snapshot", &[]).await;
    assert!(snapshots.as_array().unwrap().iter().any(|row| row["name"] == "clean"), "{snapshots}");
    assert!(world.lab.tokens().contains(&"PVEAPIToken=alice@pve!t1=alice-s-secret".to_owned()));
    // A second start finds it begun: nothing is made twice, and what came since is kept.
    root.ok("PUT", "/nodes/pve2/qemu/9001/config", &[("name", "renamed")]).await;
    let world = world.restart().await;
    let config = Caller::with(&world, "alice@pve!t1", "alice-s-secret").ok("GET", "/nodes/pve2/qemu/9001/config", &[]).await;
    assert_eq!(config["name"], "renamed");
}

#[tokio::test]
async fn another_file_does_not_change_a_lab_that_has_begun() {
    let mut world = World::with_setup(&example()).await;
    world.setup = Some(World::write(&world.directory, "nodes: [{ node: other }]"));
    let error = world.try_restart().await.unwrap_err();
    assert!(error.contains("the lab's directory has another state already; `autovibe lab remove`"), "{error}");
}

#[tokio::test]
async fn what_is_wrong_in_a_file_is_named() {
    let table = [
        ("nodes: [", "YAML: "),
        ("node: []", "node: unknown field `node`, expected one of `nodes`"),
        ("nodes: [{ node: a }, { node: a }]", "nodes[1].node: `a` is there twice; give each node a name of its own"),
        ("nodes: [{ node: a_b }]", "nodes[0].node: `a_b` is no name of a node; take letters, digits and `-`"),
        ("vms: [{ vmid: lots }]", "vms[0].vmid: invalid type: string \"lots\", expected u32"),
        ("storages: [{ storage: s, type: nfs }]", "storages[0].type: unknown variant `nfs`"),
        ("storages: [{ storage: s, type: zfspool, nodes: [x] }]", "storages[0].nodes: there is no node `x`; the nodes are lab"),
        ("storages: [{ storage: s, type: zfspool, shared: true }]", "storages[0].shared: a zfspool is of one node"),
        ("faults: [{ call: GET /nowhere, fault: hang }]", "faults[0].call: the lab serves no call like `GET /nowhere`"),
        ("faults: [{ call: zfs fly, fault: hang }]", "faults[0].call: `fly` is none of get, list,"),
        ("faults: [{ call: GET /version, nth: 0, fault: hang }]", "faults[0].nth: counts from 1"),
        ("faults: [{ call: GET /version, fault: { kill: { node: x } } }]", "faults[0].fault.kill.node: there is no node `x`"),
        ("faults: [{ call: GET /version, fault: sulk }]", "faults[0].fault: unknown variant `sulk`, expected one of `fail`, `delay`"),
        // What the API refuses.
        ("roles: [{ roleid: R, privs: [VM.Fly] }]", "roles[0]: privs: invalid format - invalid privilege 'VM.Fly'"),
        ("users: [{ userid: a@nowhere }]", "users[0]: create user failed: domain 'nowhere' does not exist"),
        ("users: [{ userid: a@pve, tokens: [{ tokenid: t1, secret: 'a b' }] }]", "users[0].tokens[0].secret: take printable characters"),
        ("acl: [{ path: /, roles: [None], users: [root@pam] }]", "acl[0]: update ACL failed: role 'None' does not exist"),
        ("vms: [{ vmid: 100, config: { scsi0: 'nas:1' } }]", "vms[0]: storage 'nas' does not exist"),
        ("vms: [{ vmid: 100, config: { colour: red } }]", "vms[0]: colour: property is not defined in schema"),
        ("vms: [{ vmid: 100 }, { vmid: 100 }]", "vms[1]: unable to create VM 100 - VM 100 already exists on node 'lab'"),
        ("vms: [{ vmid: 100, node: x }]", "vms[0]: hostname lookup 'x' failed"),
        ("vms: [{ vmid: 100, template: true, running: true }]", "vms[0].running: you can't start a vm if it's a template"),
    ];
    for (yaml, expected) in table {
        let directory = tempfile::tempdir().unwrap();
        let file = World::write(&directory, yaml);
        let error = match Setup::read(&file) {
            Err(error) => error.to_string(),
            Ok(_) => World::try_start(directory.path(), &file).await.unwrap_err(),
        };
        assert!(error.starts_with(&format!("{}: {expected}", file.display())), "{yaml}: {error}");
        assert!(!directory.path().join("lab/state.json").exists(), "{yaml}: a state is left");
    }
}
