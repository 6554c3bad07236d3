//! Workers that are stopped, or whose log is pruned, and the lock of a storage (P3, P4, P7, P9).

use super::{World, access::Caller};
use autovibe::lab::Call;
use serde_json::json;
use std::time::{Duration, Instant};

#[tokio::test]
async fn p3_a_task_that_was_forgotten_is_no_such_task_and_a_running_one_is_kept() {
    let world = World::with_setup("tasksKept: 3").await;
    let root = Caller::new(&world, "root@pam!test", false);
    world.lab.hang_task(Call::Create);
    let running = root.ok("POST", "/nodes/lab/qemu", &[("vmid", "100")]).await;
    let mut upids = Vec::new();
    for vmid in 101..106 {
        let upid = root.ok("POST", "/nodes/lab/qemu", &[("vmid", &vmid.to_string())]).await.as_str().unwrap().to_owned();
        assert_eq!(root.end("lab", &upid).await, "OK");
        upids.push(upid);
    }
    let status = async |upid: &str| root.call("GET", &format!("/nodes/lab/tasks/{upid}/status"), &[]).await;
    let forgotten = status(&upids[0]).await;
    assert_eq!((forgotten.status, &forgotten.body["errors"]["upid"]), (400, &json!("no such task")));
    assert_eq!(status(&upids[4]).await.status, 200);
    assert_eq!(status(running.as_str().unwrap()).await.body["data"]["status"], "running");
    let log = root.ok("GET", &format!("/nodes/lab/tasks/{}/log", upids[0]), &[]).await;
    assert_eq!(log[0]["t"], "unable to open file - No such file or directory");
    assert_eq!(root.call("DELETE", &format!("/nodes/lab/tasks/{}", upids[0]), &[]).await.status, 400);
    world.lab.forget_tasks("lab");
    assert_eq!(status(&upids[4]).await.status, 400);
    assert!(matches!(world.client.task(&autovibe::proxmox::Upid(upids[4].clone())).await, Err(autovibe::proxmox::Error::NoSuchTask(_))));
}

/// Which call is stopped, its parameters, how its task ends, and what is left: the lock, the VM that it was to make.
#[tokio::test]
async fn p4_what_a_stopped_worker_leaves_is_what_proxmox_leaves() {
    let world = World::with_setup("vms: [{ vmid: 100, config: { scsi0: 'tank:1' }, snapshots: [good] }]").await;
    let root = Caller::new(&world, "root@pam!test", false);
    let stop = async |method: &str, path: &str, parameters: &[(&str, &str)], lock: Option<&str>| {
        let call = json!({ "call": format!("{method} {path}"), "fault": "hangTask" });
        root.script(&call).await;
        let upid = root.ok(method, path, parameters).await.as_str().unwrap().to_owned();
        if let Some(lock) = lock {
            let taken = async {
                while root.ok("GET", "/nodes/lab/qemu/100/config", &[]).await["lock"] != lock {
                    autovibe::clock::Clock::system().sleep(Duration::from_millis(5)).await;
                }
            };
            tokio::time::timeout(super::PATIENCE, taken).await.expect("the worker takes its lock");
        }
        root.ok("DELETE", &format!("/nodes/lab/tasks/{upid}"), &[]).await;
        root.end("lab", &upid).await
    };
    let end = stop("POST", "/nodes/lab/qemu", &[("vmid", "172"), ("scsi0", "tank:1")], None).await;
    assert_eq!(end, "unable to create VM 172 - received interrupt");
    let end = stop("POST", "/nodes/lab/qemu/100/clone", &[("newid", "171"), ("full", "1")], None).await;
    assert_eq!(end, "clone failed: received interrupt");
    for vmid in [171, 172] {
        assert_eq!(root.call("GET", &format!("/nodes/lab/qemu/{vmid}/config"), &[]).await.status, 500, "{vmid} is left");
        assert_eq!(root.ok("GET", "/nodes/lab/storage/tank/content", &[("vmid", &vmid.to_string())]).await, json!([]));
    }
    let end = stop("POST", "/nodes/lab/qemu/100/snapshot", &[("snapname", "cut")], Some("snapshot")).await;
    assert_eq!(end, "received interrupt");
    assert_eq!(root.ok("GET", "/nodes/lab/qemu/100/config", &[]).await.get("lock"), None);
    assert_eq!(root.call("GET", "/nodes/lab/qemu/100/snapshot/cut/config", &[]).await.status, 500);
    // These two leave their lock, and no token takes it away.
    for (method, path, lock) in [
        ("DELETE", "/nodes/lab/qemu/100/snapshot/good", "snapshot-delete"),
        ("POST", "/nodes/lab/qemu/100/snapshot/good/rollback", "rollback"),
    ] {
        assert_eq!(stop(method, path, &[], Some(lock)).await, "received interrupt");
        assert_eq!(root.ok("GET", "/nodes/lab/qemu/100/config", &[]).await["lock"], lock);
        assert_eq!(root.task("DELETE", "/nodes/lab/qemu/100", &[]).await, format!("VM is locked ({lock})"));
        world.lab.edit_config(100, "lock", None);
        if lock == "snapshot-delete" {
            assert_eq!(root.task("DELETE", "/nodes/lab/qemu/100/snapshot/good", &[]).await, "OK");
            assert_eq!(root.task("POST", "/nodes/lab/qemu/100/snapshot", &[("snapname", "good")]).await, "OK");
        }
    }
}

#[tokio::test]
async fn a_failed_create_frees_what_it_made_and_not_what_it_attached() {
    let world = World::start().await;
    let root = Caller::new(&world, "root@pam!test", false);
    root.ok("POST", "/nodes/lab/storage/tank/content", &[("vmid", "100"), ("filename", "vm-100-disk-7"), ("size", "1G")]).await;
    let disks = [("vmid", "100"), ("scsi0", "tank:vm-100-disk-7"), ("scsi1", "tank:1"), ("scsi2", "tank:vm-100-disk-9")];
    let end = root.task("POST", "/nodes/lab/qemu", &disks).await;
    assert_eq!(end, "unable to create VM 100 - volume 'tank:vm-100-disk-9' does not exist");
    let left = root.ok("GET", "/nodes/lab/storage/tank/content", &[]).await;
    assert_eq!((left.as_array().unwrap().len(), &left[0]["volid"]), (1, &json!("tank:vm-100-disk-7")));
}

#[tokio::test]
async fn p9_the_lock_of_a_storage_is_waited_for_ten_seconds() {
    let slow = "
nodes: [{ node: pve1 }, { node: pve2 }]
storages: [{ storage: slow, type: zfspool, takes: 4s }]";
    let world = World::with_setup(slow).await;
    let root = Caller::new(&world, "root@pam!test", false);
    let mut upids = Vec::new();
    for vmid in 100..104 {
        let upid = root.ok("POST", "/nodes/pve1/qemu", &[("vmid", &vmid.to_string()), ("scsi0", "slow:1")]).await;
        upids.push(upid.as_str().unwrap().to_owned());
    }
    // Another node has a lock of its own, and another storage too.
    let before = Instant::now();
    root.ok("POST", "/nodes/pve2/storage/slow/content", &[("vmid", "100"), ("filename", "vm-100-disk-0"), ("size", "1G")]).await;
    root.ok("POST", "/nodes/pve1/storage/tank/content", &[("vmid", "100"), ("filename", "vm-100-disk-0"), ("size", "1G")]).await;
    assert!(before.elapsed() < Duration::from_secs(8), "{:?}", before.elapsed());
    let mut ends = Vec::new();
    for upid in &upids {
        ends.push(root.end("pve1", upid).await);
    }
    let late = ends.iter().filter(|end| end.ends_with("can't lock file '/var/lock/pve-manager/pve-storage-slow' - got timeout")).count();
    assert_eq!((late, ends.iter().filter(|end| *end == "OK").count()), (1, 3), "{ends:?}");
}
