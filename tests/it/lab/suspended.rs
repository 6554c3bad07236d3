//! VMs that are suspended to disk, as recorded of Proxmox VE 9.2.

use super::{World, access::Caller};
use serde_json::{Value, json};

const STATUS: &str = "/nodes/lab/qemu/1000/status";
const CONFIG: &str = "/nodes/lab/qemu/1000/config";

async fn refused(caller: &Caller, method: &str, path: &str, parameters: &[(&str, &str)], status: u16, why: &str) {
    let answer = caller.call(method, path, parameters).await;
    assert_eq!((answer.status, answer.reason.as_str()), (status, why), "{method} {path}");
}

#[tokio::test]
async fn a_suspended_vm_is_off_locked_and_started_from_its_memory() {
    let (world, root) = World::with_vm().await;
    let suspend = format!("{STATUS}/suspend");
    refused(&root, "POST", &suspend, &[("todisk", "1")], 500, "VM 1000 not running").await;
    assert_eq!(root.task("POST", &format!("{STATUS}/start"), &[]).await, "OK");
    assert_eq!(root.task("POST", &suspend, &[("todisk", "1"), ("statestorage", "tank")]).await, "OK");
    let status = root.ok("GET", &format!("{STATUS}/current"), &[]).await;
    assert_eq!((&status["status"], &status["lock"]), (&json!("stopped"), &json!("suspended")));
    let config = root.ok("GET", CONFIG, &[]).await;
    let memory = config["vmstate"].as_str().unwrap().to_owned();
    assert!(memory.starts_with("tank:vm-1000-state-suspend-2"), "{memory}");
    assert!(config["runningmachine"].is_string() && config["runningcpu"].is_string());
    let rows = root.ok("GET", "/nodes/lab/storage/tank/content", &[]).await;
    let row = rows.as_array().unwrap().iter().find(|row| row["volid"] == memory).cloned().unwrap_or_default();
    let mebibytes: u64 = World::values(1000, "src").get("memory").map_or(512, |text| text.parse().unwrap());
    assert_eq!((&row["vmid"], row["size"].as_u64()), (&json!(1000), Some((2 * mebibytes + 500) << 20)));
    // All but a start and an end of it is refused.
    refused(&root, "PUT", CONFIG, &[("description", "x")], 500, "VM is locked (suspended)").await;
    assert_eq!(root.task("POST", "/nodes/lab/qemu/1000/snapshot", &[("snapname", "sus")]).await, "VM is locked (suspended)");
    assert_eq!(root.task("POST", &format!("{STATUS}/stop"), &[]).await, "OK");
    assert_eq!(root.task("POST", &format!("{STATUS}/start"), &[]).await, "OK");
    let config = root.ok("GET", CONFIG, &[]).await;
    assert_eq!((&config["lock"], &config["vmstate"], &config["runningcpu"]), (&Value::Null, &Value::Null, &Value::Null));
    assert!(!world.lab.datasets().iter().any(|name| name.contains("-state-")));
}

#[tokio::test]
async fn its_memory_is_given_up_unless_it_is_protected_and_goes_with_it() {
    let (world, root) = World::with_vm().await;
    let suspend = async || {
        assert_eq!(root.task("POST", &format!("{STATUS}/start"), &[]).await, "OK");
        assert_eq!(root.task("POST", &format!("{STATUS}/suspend"), &[("todisk", "1")]).await, "OK");
    };
    root.ok("PUT", CONFIG, &[("protection", "1")]).await;
    suspend().await;
    let memory = root.ok("GET", CONFIG, &[]).await["vmstate"].as_str().unwrap().to_owned();
    let why = format!("can't remove vmstate '{memory}' - protection mode enabled");
    refused(&root, "PUT", CONFIG, &[("delete", "vmstate")], 500, &why).await;
    refused(&root, "PUT", CONFIG, &[("protection", "0")], 500, "VM is locked (suspended)").await;
    assert_eq!(root.task("POST", &format!("{STATUS}/start"), &[]).await, "OK");
    root.ok("PUT", CONFIG, &[("protection", "0")]).await;
    assert_eq!(root.task("POST", &format!("{STATUS}/suspend"), &[("todisk", "1")]).await, "OK");
    root.ok("PUT", CONFIG, &[("delete", "vmstate")]).await;
    let config = root.ok("GET", CONFIG, &[]).await;
    assert_eq!((&config["lock"], &config["vmstate"]), (&Value::Null, &Value::Null));
    assert!(!world.lab.datasets().iter().any(|name| name.contains("-state-")));
    suspend().await;
    assert_eq!(root.task("DELETE", "/nodes/lab/qemu/1000", &[]).await, "OK");
    assert!(!world.lab.datasets().iter().any(|name| name.contains("vm-1000-")));
}

#[tokio::test]
async fn it_takes_what_proxmox_says_it_takes() {
    let (world, root) = World::with_vm().await;
    assert_eq!(root.task("POST", &format!("{STATUS}/start"), &[]).await, "OK");
    let alice = Caller::new(&world, "alice@pve!t1", false);
    let suspend = format!("{STATUS}/suspend");
    let steps = [
        ("Suspender1", "VM.PowerMgmt", "/vms", "/vms/1000, VM.Config.Disk"),
        ("Suspender2", "VM.PowerMgmt,VM.Config.Disk", "/vms", "/storage/tank, Datastore.AllocateSpace"),
    ];
    refused(&alice, "POST", &suspend, &[("todisk", "1")], 403, "Permission check failed (/vms/1000, VM.PowerMgmt)").await;
    for (role, privileges, path, lacks) in steps {
        root.ok("POST", "/access/roles", &[("roleid", role), ("privs", privileges)]).await;
        root.ok("PUT", "/access/acl", &[("path", path), ("roles", role), ("users", "alice@pve")]).await;
        refused(&alice, "POST", &suspend, &[("todisk", "1")], 403, &format!("Permission check failed ({lacks})")).await;
    }
    root.ok("POST", "/access/roles", &[("roleid", "Space"), ("privs", "Datastore.AllocateSpace")]).await;
    root.ok("PUT", "/access/acl", &[("path", "/storage/tank"), ("roles", "Space"), ("users", "alice@pve")]).await;
    assert_eq!(alice.task("POST", &suspend, &[("todisk", "1")]).await, "OK");
}
