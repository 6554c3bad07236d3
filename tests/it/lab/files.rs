//! A storage of type `dir`: files that carry their snapshots (qcow2) or have none (raw), and who may clone which.

use super::{World, access::Caller};
use serde_json::{Value, json};

const SETUP: &str = "
nodes: [{ node: pve1 }, { node: pve2 }]
storages:
- { storage: local, type: dir }
- { storage: nas, type: dir, shared: true }
";

async fn refused(root: &Caller, method: &str, path: &str, parameters: &[(&str, &str)], text: &str) {
    let answer = root.call(method, path, parameters).await;
    assert_eq!((answer.status, answer.reason.as_str()), (500, text), "{method} {path} {parameters:?}");
}

#[tokio::test]
async fn qcow2_has_snapshots_in_it_and_raw_has_none() {
    let world = World::with_setup(SETUP).await;
    let root = Caller::new(&world, "root@pam!test", false);
    let disks = [("vmid", "100"), ("scsi0", "local:1,format=qcow2,discard=on")];
    assert_eq!(root.task("POST", "/nodes/pve1/qemu", &disks).await, "OK");
    assert_eq!(root.ok("GET", "/nodes/pve1/qemu/100/config", &[]).await["scsi0"], "local:100/vm-100-disk-0.qcow2,discard=on,size=1G");
    for name in ["s1", "s2"] {
        assert_eq!(root.task("POST", "/nodes/pve1/qemu/100/snapshot", &[("snapname", name)]).await, "OK");
    }
    // Not the newest alone, and the newer one stays.
    assert_eq!(root.task("POST", "/nodes/pve1/qemu/100/snapshot/s1/rollback", &[]).await, "OK");
    assert_eq!(root.task("POST", "/nodes/pve1/qemu/100/snapshot/s2/rollback", &[]).await, "OK");
    let feature = async |vmid: &str, name: &str, snapshot: &str| {
        let parameters = [("feature", name), ("snapname", snapshot)];
        let given = if snapshot.is_empty() { &parameters[..1] } else { &parameters[..] };
        root.ok("GET", &format!("/nodes/pve1/qemu/{vmid}/feature"), given).await["hasFeature"].clone()
    };
    assert_eq!(
        json!([feature("100", "snapshot", "").await, feature("100", "copy", "s1").await, feature("100", "clone", "s1").await]),
        json!([1, 1, 0])
    );
    // Full from a snapshot, linked from none of them.
    let full = [("newid", "101"), ("snapname", "s1"), ("full", "1")];
    assert_eq!(root.task("POST", "/nodes/pve1/qemu/100/clone", &full).await, "OK");
    assert_eq!(root.ok("GET", "/nodes/pve1/qemu/101/config", &[]).await["scsi0"], "local:101/vm-101-disk-0.qcow2,discard=on,size=1G");
    let linked = [("newid", "102"), ("snapname", "s1"), ("full", "0")];
    let text = "Linked clone feature is not supported for a snapshot of 'local:100/vm-100-disk-0.qcow2' (scsi0)";
    refused(&root, "POST", "/nodes/pve1/qemu/100/clone", &linked, text).await;
    // Raw is the default.
    assert_eq!(root.task("POST", "/nodes/pve1/qemu", &[("vmid", "110"), ("scsi0", "local:1")]).await, "OK");
    assert_eq!(root.ok("GET", "/nodes/pve1/qemu/110/config", &[]).await["scsi0"], "local:110/vm-110-disk-0.raw,size=1G");
    assert_eq!(root.task("POST", "/nodes/pve1/qemu/110/snapshot", &[("snapname", "no")]).await, "snapshot feature is not available");
    assert_eq!(feature("110", "snapshot", "").await, 0);
    refused(&root, "POST", "/nodes/pve1/qemu", &[("vmid", "111"), ("scsi0", "local:1G")], "unable to parse directory volume name '1G'")
        .await;
    let format = [("vmid", "111"), ("scsi0", "tank:1,format=qcow2")];
    assert!(root.task("POST", "/nodes/pve1/qemu", &format).await.contains("unsupported format 'qcow2'"));
}

#[tokio::test]
async fn linked_clones_are_backed_by_a_templates_file() {
    let world = World::with_setup(SETUP).await;
    let root = Caller::new(&world, "root@pam!test", false);
    for (vmid, format) in [("120", "qcow2"), ("121", "raw")] {
        let disk = format!("local:1,format={format}");
        assert_eq!(root.task("POST", "/nodes/pve1/qemu", &[("vmid", vmid), ("scsi0", &disk)]).await, "OK");
        let (one, newid) = (format!("/nodes/pve1/qemu/{vmid}"), vmid.replace("12", "13"));
        let text = format!("Linked clone feature is not supported for 'local:{vmid}/vm-{vmid}-disk-0.{format}' (scsi0)");
        refused(&root, "POST", &format!("{one}/clone"), &[("newid", &newid), ("full", "0")], &text).await;
        assert_eq!(root.task("POST", &format!("{one}/template"), &[]).await, "OK");
        assert_eq!(
            root.ok("GET", &format!("{one}/config"), &[]).await["scsi0"],
            format!("local:{vmid}/base-{vmid}-disk-0.{format},size=1G")
        );
        assert_eq!(root.task("POST", &format!("{one}/clone"), &[("newid", &newid)]).await, "OK");
        let volume = format!("local:{vmid}/base-{vmid}-disk-0.{format}/{newid}/vm-{newid}-disk-0.qcow2");
        let config = root.ok("GET", &format!("/nodes/pve1/qemu/{newid}/config"), &[]).await;
        assert_eq!(config["scsi0"], format!("{volume},size=1G"));
        let listed = root.ok("GET", "/nodes/pve1/storage/local/content", &[("vmid", &newid)]).await;
        assert_eq!((&listed[0]["volid"], &listed[0]["format"]), (&json!(volume), &json!("qcow2")));
        let kept = format!("base volume 'local:{vmid}/base-{vmid}-disk-0.{format}' is still in use by linked cloned");
        assert_eq!(root.task("DELETE", &one, &[]).await, kept);
    }
    // A clone of a clone that became a template is backed by that alone.
    assert_eq!(root.task("POST", "/nodes/pve1/qemu/130/template", &[]).await, "OK");
    assert_eq!(root.task("POST", "/nodes/pve1/qemu/130/clone", &[("newid", "140")]).await, "OK");
    let config = root.ok("GET", "/nodes/pve1/qemu/140/config", &[]).await;
    assert_eq!(config["scsi0"], "local:130/base-130-disk-0.qcow2/140/vm-140-disk-0.qcow2,size=1G");
    for vmid in ["140", "130", "131", "120", "121"] {
        assert_eq!(root.task("DELETE", &format!("/nodes/pve1/qemu/{vmid}"), &[]).await, "OK", "{vmid}");
    }
    assert_eq!(root.ok("GET", "/nodes/pve1/storage/local/content", &[]).await, json!([]));
}

#[tokio::test]
async fn what_is_shared_is_on_every_node_and_what_is_local_on_one() {
    let world = World::with_setup(SETUP).await;
    let root = Caller::new(&world, "root@pam!test", false);
    let volids = async |node: &str, storage: &str| -> Value {
        let rows = root.ok("GET", &format!("/nodes/{node}/storage/{storage}/content"), &[]).await;
        rows.as_array().unwrap().iter().map(|row| row["volid"].clone()).collect()
    };
    for (vmid, storage) in [("100", "local"), ("101", "nas")] {
        let disk = format!("{storage}:1,format=qcow2");
        assert_eq!(root.task("POST", "/nodes/pve1/qemu", &[("vmid", vmid), ("scsi0", &disk)]).await, "OK");
    }
    assert_eq!((volids("pve1", "local").await, volids("pve2", "local").await), (json!(["local:100/vm-100-disk-0.qcow2"]), json!([])));
    assert_eq!(volids("pve2", "nas").await, json!(["nas:101/vm-101-disk-0.qcow2"]));
    let local = "can't clone VM to node 'pve2' (VM uses local storage)";
    refused(&root, "POST", "/nodes/pve1/qemu/100/clone", &[("newid", "200"), ("target", "pve2")], local).await;
    assert_eq!(root.task("POST", "/nodes/pve1/qemu/101/clone", &[("newid", "201"), ("target", "pve2")]).await, "OK");
    assert_eq!(root.ok("GET", "/nodes/pve2/qemu/201/config", &[]).await["scsi0"], "nas:201/vm-201-disk-0.qcow2,size=1G");
    assert_eq!(root.task("POST", "/nodes/pve2/qemu/201/status/start", &[]).await, "OK");
    // To another storage: it takes the format that it has there.
    assert_eq!(root.task("POST", "/nodes/pve1/qemu/100/clone", &[("newid", "202"), ("storage", "tank")]).await, "OK");
    assert_eq!(root.ok("GET", "/nodes/pve1/qemu/202/config", &[]).await["scsi0"], "tank:vm-202-disk-0,size=1G");
    // As recorded: made by name, made twice, freed, freed when it is not there.
    let made = [("vmid", "180"), ("filename", "vm-180-disk-7.raw"), ("size", "16M")];
    assert_eq!(root.ok("POST", "/nodes/pve1/storage/local/content", &made).await, "local:180/vm-180-disk-7.raw");
    let twice = "disk image '/var/lib/vz/images/180/vm-180-disk-7.raw' already exists";
    refused(&root, "POST", "/nodes/pve1/storage/local/content", &made, twice).await;
    for _ in 0..2 {
        assert_eq!(root.task("DELETE", "/nodes/pve1/storage/local/content/local:180/vm-180-disk-7.raw", &[]).await, "OK");
    }
}
