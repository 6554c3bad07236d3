//! Proxmox' own snapshots, templates and clones on a zfspool, and the locks that failures leave.

use super::World;
use autovibe::zfs::{Properties, Snapshot};

#[tokio::test]
async fn snapshots_make_a_tree_and_only_the_newest_is_rolled_back_to() {
    let (world, root) = World::with_vm().await;
    let path = "/nodes/lab/qemu/1000/snapshot";
    for name in ["a1", "a2"] {
        assert_eq!(root.task("POST", path, &[("snapname", name)]).await, "OK");
    }
    assert_eq!(root.task("POST", path, &[("snapname", "a1")]).await, "snapshot name 'a1' already used");
    let parent = |rows: &serde_json::Value, name: &str| {
        rows.as_array().unwrap().iter().find(|row| row["name"] == name).map(|row| row["parent"].clone()).unwrap()
    };
    let rows = root.ok("GET", path, &[]).await;
    assert_eq!((parent(&rows, "a2"), parent(&rows, "current")), ("a1".into(), "a2".into()));
    root.ok("PUT", "/nodes/lab/qemu/1000/config", &[("name", "changed"), ("description", "kept")]).await;
    let refused = "can't rollback, 'a1' is not most recent snapshot on 'tank:vm-1000-disk-0'";
    assert_eq!(root.task("POST", &format!("{path}/a1/rollback"), &[]).await, refused);
    assert_eq!(root.task("POST", &format!("{path}/a2/rollback"), &[]).await, "OK");
    let config = root.ok("GET", "/nodes/lab/qemu/1000/config", &[]).await;
    assert_eq!((&config["name"], &config["description"]), (&"src".into(), &"kept".into()));
    // One that Proxmox does not know of stands in the way too.
    let foreign = Snapshot { dataset: world.volume(1000), name: "foreign".into() };
    world.zfs.snapshot(std::slice::from_ref(&foreign), &Properties::new()).await.unwrap();
    assert_eq!(root.task("POST", &format!("{path}/a2/rollback"), &[]).await, refused.replace("'a1'", "'a2'"));
    assert_eq!(root.task("DELETE", &format!("{path}/a1"), &[]).await, "OK");
    assert_eq!(parent(&root.ok("GET", path, &[]).await, "a2"), serde_json::Value::Null);
}

#[tokio::test]
async fn a_failed_deletion_leaves_the_vm_locked_and_force_forgets() {
    let (world, root) = World::with_vm().await;
    let path = "/nodes/lab/qemu/1000/snapshot";
    assert_eq!(root.task("POST", path, &[("snapname", "held")]).await, "OK");
    let held = Snapshot { dataset: world.volume(1000), name: "held".into() };
    world.zfs.hold("keep", std::slice::from_ref(&held)).await.unwrap();
    let why = root.task("DELETE", &format!("{path}/held"), &[]).await;
    assert!(why.starts_with("zfs error: cannot destroy snapshot"), "{why}");
    assert_eq!(root.ok("GET", "/nodes/lab/qemu/1000/config", &[]).await["lock"], "snapshot-delete");
    assert_eq!(root.ok("GET", path, &[]).await[0]["snapstate"], "delete");
    // No token unlocks it, not even with force.
    for force in [&[][..], &[("force", "1")][..]] {
        assert_eq!(root.task("DELETE", &format!("{path}/held"), force).await, "VM is locked (snapshot-delete)");
    }
    assert_eq!(root.task("DELETE", "/nodes/lab/qemu/1000", &[]).await, "VM is locked (snapshot-delete)");
    let incomplete = "unable to rollback to incomplete snapshot (snapstate = delete)";
    assert_eq!(root.task("POST", &format!("{path}/held/rollback"), &[]).await, incomplete);
    // On the node, `qm unlock` does.
    world.lab.edit_config(1000, "lock", None);
    assert_eq!(root.task("DELETE", &format!("{path}/held"), &[("force", "1")]).await, "OK");
    assert!(world.zfs.snapshot_info(&held).await.unwrap().is_some(), "forgotten, not destroyed");
}

#[tokio::test]
async fn clones_are_linked_to_templates_alone() {
    let (world, root) = World::with_vm().await;
    let clone = "/nodes/lab/qemu/1000/clone";
    let linked = root.call("POST", clone, &[("newid", "1001"), ("full", "0")]).await;
    assert_eq!(linked.reason, "Linked clone feature is not supported for 'tank:vm-1000-disk-0' (scsi0)");
    assert_eq!(root.task("POST", "/nodes/lab/qemu/1000/snapshot", &[("snapname", "s1")]).await, "OK");
    let of_snapshot = root.call("POST", clone, &[("newid", "1001"), ("snapname", "s1")]).await;
    assert_eq!(of_snapshot.reason, "Full clone feature is not supported for a snapshot of 'tank:vm-1000-disk-0' (scsi0)");
    assert!(!world.lab.vms().contains_key(&1001), "what is refused takes no number");
    let template = "/nodes/lab/qemu/1000/template";
    assert_eq!(root.call("POST", template, &[]).await.reason, "unable to create template, because VM contains snapshots");
    assert_eq!(root.task("POST", clone, &[("newid", "1001"), ("name", "full")]).await, "OK");
    assert_eq!(root.ok("GET", "/nodes/lab/qemu/1001/config", &[]).await["scsi0"], "tank:vm-1001-disk-0,size=1G");
    assert_eq!(root.task("DELETE", "/nodes/lab/qemu/1000/snapshot/s1", &[]).await, "OK");
    assert_eq!(root.task("POST", template, &[]).await, "OK");
    assert_eq!(root.call("POST", template, &[]).await.reason, "you can't convert a template to a template");
    assert_eq!(root.task("POST", "/nodes/lab/qemu/1000/status/start", &[]).await, "you can't start a vm if it's a template");
    let with_storage = root.call("POST", clone, &[("newid", "1002"), ("full", "0"), ("storage", "tank")]).await;
    assert_eq!(with_storage.reason, "parameter 'storage' not allowed for linked clones");
    assert_eq!(root.task("POST", clone, &[("newid", "1002")]).await, "OK");
    let config = root.ok("GET", "/nodes/lab/qemu/1002/config", &[]).await;
    assert_eq!(config["scsi0"], "tank:base-1000-disk-0/vm-1002-disk-0,size=1G");
    assert_eq!((&config["name"], &config["tags"]), (&"Copy-of-VM-src".into(), &"a;av;b".into()));
    assert_eq!(root.task("POST", "/nodes/lab/qemu/1002/status/start", &[]).await, "OK");
    let used = "base volume 'tank:base-1000-disk-0' is still in use by linked cloned";
    assert_eq!(root.task("DELETE", "/nodes/lab/qemu/1000", &[]).await, used);
    assert_eq!(root.task("POST", "/nodes/lab/qemu/1002/status/stop", &[]).await, "OK");
    for vmid in [1002, 1000] {
        assert_eq!(root.task("DELETE", &format!("/nodes/lab/qemu/{vmid}"), &[]).await, "OK");
    }
    assert!(!world.lab.datasets().iter().any(|name| name.contains("-1000-") || name.contains("-1002-")));
}
