//! Several nodes in one cluster: what each has, what all share, and one that is down (P10).

use super::{World, access::Caller};
use autovibe::proxmox::{Error, Node, Power, Vmid};
use serde_json::{Value, json};
use std::time::Duration;

pub(super) const THREE: &str = "
nodes: [{ node: pve1 }, { node: pve2 }, { node: pve3 }]
storages:
- { storage: fast, type: zfspool, nodes: [pve2] }
vms:
- { vmid: 100, node: pve1, config: { name: a, scsi0: 'tank:1' }, running: true }
- { vmid: 200, node: pve2, config: { name: b, scsi0: 'fast:1', onboot: 1 }, running: true }
- { vmid: 201, node: pve2, config: { name: t, scsi0: 'tank:1' }, template: true }
";

fn of<'a>(rows: &'a Value, key: &str, value: &str) -> &'a Value {
    rows.as_array().unwrap().iter().find(|row| row[key] == value).unwrap_or_else(|| panic!("no {key} {value} in {rows}"))
}

#[tokio::test]
async fn each_node_has_its_own_and_numbers_are_the_clusters() {
    let world = World::with_setup(THREE).await;
    let root = Caller::new(&world, "root@pam!test", false);
    let vmids = |rows: Value| rows.as_array().unwrap().iter().map(|row| row["vmid"].as_u64().unwrap()).collect::<Vec<_>>();
    assert_eq!(vmids(root.ok("GET", "/nodes/pve1/qemu", &[]).await), [100]);
    assert_eq!(vmids(root.ok("GET", "/nodes/pve2/qemu", &[]).await), [200, 201]);
    assert_eq!(vmids(root.ok("GET", "/nodes/pve3/qemu", &[]).await), [0; 0]);
    // Asked for at another node it is not there, in the words of a VM that is gone.
    let refused = root.call("GET", "/nodes/pve1/qemu/200/config", &[]).await;
    assert_eq!((refused.status, refused.reason.as_str()), (500, "Configuration file 'nodes/pve1/qemu-server/200.conf' does not exist"));
    let refused = root.call("POST", "/nodes/pve3/qemu", &[("vmid", "100")]).await;
    assert_eq!(refused.reason, "unable to create VM 100 - VM 100 already exists on node 'pve1'");
    let refused = root.call("POST", "/nodes/pve2/qemu/201/clone", &[("newid", "100")]).await;
    assert_eq!(refused.reason, "unable to create VM 100: config file already exists");
    assert_eq!(root.ok("GET", "/cluster/nextid", &[]).await, "101");
    // Storages: one that only pve2 has, and a disk that is on its node.
    let refused = root.call("POST", "/nodes/pve1/qemu", &[("vmid", "101"), ("scsi0", "fast:1")]).await;
    assert_eq!(refused.reason, "storage 'fast' is not available on node 'pve1'");
    let names = |rows: Value| rows.as_array().unwrap().iter().map(|row| row["storage"].clone()).collect::<Value>();
    assert_eq!(names(root.ok("GET", "/nodes/pve1/storage", &[]).await), json!(["tank"]));
    assert_eq!(names(root.ok("GET", "/nodes/pve2/storage", &[]).await), json!(["fast", "tank"]));
    assert_eq!(root.ok("GET", "/nodes/pve1/storage/tank/content", &[]).await[0]["volid"], "tank:vm-100-disk-0");
    assert_eq!(root.ok("GET", "/nodes/pve2/storage/tank/content", &[]).await[0]["volid"], "tank:base-201-disk-0");
    let refused = root.call("POST", "/nodes/pve2/qemu/201/clone", &[("newid", "300"), ("target", "pve1")]).await;
    assert_eq!(refused.reason, "can't clone VM to node 'pve1' (VM uses local storage)");
    let refused = root.call("POST", "/nodes/pve2/qemu/201/clone", &[("newid", "300"), ("target", "pve9")]).await;
    assert_eq!(refused.reason, "no such cluster node 'pve9'");
    // A task is of its node.
    let upid = root.ok("POST", "/nodes/pve2/qemu/201/clone", &[("newid", "300")]).await;
    let upid = upid.as_str().unwrap();
    assert!(upid.starts_with("UPID:pve2:"), "{upid}");
    let elsewhere = root.call("GET", &format!("/nodes/pve1/tasks/{upid}/status"), &[]).await;
    assert_eq!((elsewhere.status, &elsewhere.body["errors"]["upid"]), (400, &json!("no such task")));
    assert_eq!(root.end("pve2", upid).await, "OK");
    assert_eq!(root.ok("GET", "/nodes/pve2/qemu/300/config", &[]).await["scsi0"], "tank:base-201-disk-0/vm-300-disk-0,size=1G");
    let tasks = root.ok("GET", "/nodes/pve1/tasks", &[("source", "all")]).await;
    assert!(tasks.as_array().unwrap().iter().all(|row| row["node"] == "pve1" && row["upid"].as_str().unwrap().starts_with("UPID:pve1:")));
    // `/cluster/status`: the cluster's own row is there when it has more than one node.
    let status = root.ok("GET", "/cluster/status", &[]).await;
    assert_eq!(of(&status, "type", "cluster")["quorate"], 1);
    assert_eq!(status.as_array().unwrap().len(), 4);
    let alone = World::start().await;
    let status = Caller::new(&alone, "root@pam!test", false).ok("GET", "/cluster/status", &[]).await;
    assert_eq!((status.as_array().unwrap().len(), &status[0]["nodeid"], &status[0]["local"]), (1, &json!(0), &json!(1)), "{status}");
}

#[tokio::test]
async fn p10_a_node_that_is_down_is_not_gone_and_comes_back() {
    let world = World::with_setup(THREE).await;
    let root = Caller::new(&world, "root@pam!test", false);
    let zfs = world.zfs_of("pve2").await;
    let disk = autovibe::zfs::Dataset("tank/fast/vm-200-disk-0".into());
    assert!(zfs.dataset(&disk).await.unwrap().is_some());
    world.lab.hang_task(autovibe::lab::Call::Shutdown);
    let hung = root.ok("POST", "/nodes/pve2/qemu/200/status/shutdown", &[]).await;
    let hung = hung.as_str().unwrap().to_owned();
    world.lab.kill("pve2").await;

    // Whoever asks for it is told that nobody answers there, also for what it has not.
    for path in
        ["/nodes/pve2/qemu/200/config", "/nodes/pve2/qemu", "/nodes/pve2/qemu/999/config", &format!("/nodes/pve2/tasks/{hung}/status")]
    {
        let answer = root.call("GET", path, &[]).await;
        assert_eq!((answer.status, answer.reason.as_str()), (595, "No route to host"), "{path}");
    }
    let pve2 = Node("pve2".into());
    assert!(matches!(world.client.config(&pve2, Vmid(200)).await, Err(Error::Unknown(_))));
    assert!(matches!(world.client.power(&pve2, Vmid(200)).await, Err(Error::Unknown(_))));
    assert!(zfs.dataset(&disk).await.is_err(), "nobody reaches its ZFS");
    // Its rows stay.
    let rows = root.ok("GET", "/cluster/resources", &[]).await;
    assert_eq!(of(&rows, "id", "qemu/200")["status"], "unknown");
    assert_eq!(of(&rows, "id", "qemu/100")["status"], "running");
    assert_eq!(of(&rows, "id", "node/pve2")["status"], "offline");
    assert_eq!(of(&rows, "id", "storage/pve2/tank")["status"], "unknown");
    assert_eq!(of(&root.ok("GET", "/nodes", &[]).await, "node", "pve2")["status"], "offline");
    let status = root.ok("GET", "/cluster/status", &[]).await;
    assert_eq!((&of(&status, "type", "cluster")["quorate"], &of(&status, "name", "pve2")["online"]), (&json!(1), &json!(0)));
    // Its numbers are taken.
    assert_eq!(root.call("POST", "/nodes/pve1/qemu", &[("vmid", "200")]).await.status, 500);
    assert_eq!(root.ok("POST", "/nodes/pve1/qemu", &[("vmid", "101")]).await.as_str().unwrap().split(':').nth(1), Some("pve1"));

    // Without most of the nodes nothing is written, and what is there can be read.
    world.lab.kill("pve3").await;
    let refused = root.call("PUT", "/nodes/pve1/qemu/100/config", &[("name", "x")]).await;
    assert_eq!((refused.status, refused.reason.as_str()), (500, "cluster not ready - no quorum?"));
    assert_eq!(root.ok("GET", "/nodes/pve1/qemu/100/config", &[]).await["name"], "a");
    world.lab.revive("pve3");

    world.lab.revive("pve2");
    // Its power was cut: what starts with it starts, and its worker's end nobody saw.
    assert_eq!(root.end("pve2", &hung).await, "unexpected status");
    let up = async {
        while world.client.power(&pve2, Vmid(200)).await.unwrap() != Power::Running {
            autovibe::clock::Clock::system().sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(super::PATIENCE, up).await.expect("it starts with its node");
    assert!(zfs.dataset(&disk).await.unwrap().is_some());
    assert_eq!(of(&root.ok("GET", "/cluster/resources", &[]).await, "id", "node/pve2")["status"], "online");
}

#[tokio::test]
async fn values_of_a_node_without_news_are_kept_for_some_turns() {
    let world = World::with_setup(THREE).await;
    world.lab.set_lag(Duration::from_millis(50));
    let root = Caller::new(&world, "root@pam!test", false);
    let row = async || {
        let rows = root.ok("GET", "/cluster/resources", &[]).await;
        let row = of(&rows, "id", "qemu/200");
        (row["status"].clone(), row["name"].clone())
    };
    let becomes = async |status: &str| {
        let turned = async {
            while row().await.0 != status {
                autovibe::clock::Clock::system().sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(super::PATIENCE, turned).await.unwrap_or_else(|_| panic!("it becomes {status}"));
    };
    becomes("running").await;
    world.lab.kill("pve2").await;
    assert_eq!(row().await, (json!("running"), json!("b")), "the last that was heard of it");
    becomes("unknown").await;
    assert_eq!(row().await.1, Value::Null);
    world.lab.revive("pve2");
    becomes("running").await;
}
