//! Faults by script: in the file that a lab begins from, and by its own endpoint while it runs; each is counted.

use super::{World, access::Caller, cluster::THREE};
use autovibe::proxmox::{Error, Node, TaskStatus, Vmid};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Fired counts of all rules, in their order.
async fn fired(world: &World) -> Vec<u64> {
    let rules = control(world, "GET", "faults", &Value::Null).await.1;
    rules["data"].as_array().unwrap().iter().map(|rule| rule["fired"].as_u64().unwrap()).collect()
}

async fn control(world: &World, method: &str, path: &str, body: &Value) -> (u16, Value) {
    let endpoint = world.lab.endpoint();
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let request = http.request(method.parse().unwrap(), format!("{}/lab/{path}", endpoint.endpoint));
    let request = request.header("authorization", format!("PVEAPIToken={}={}", endpoint.token_id, endpoint.secret));
    let response = if body.is_null() { request } else { request.json(body) }.send().await.unwrap();
    let (status, text) = (response.status().as_u16(), response.text().await.unwrap());
    (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

#[tokio::test]
async fn a_script_in_the_file_strikes_where_it_says_and_counts() {
    let script = format!(
        "{THREE}
faults:
- {{ call: GET /nodes/*/qemu/*/config, nth: 2, times: 2, fault: {{ fail: {{ status: 500, text: 'got timeout' }} }} }}
- {{ call: GET /nodes/pve2/qemu/*/config, fault: {{ delay: 300ms }} }}
- {{ call: POST /nodes/*/qemu/*/status/stop, fault: dropReply }}
- {{ call: POST /nodes/*/qemu/*/status/start, fault: hangTask }}
- {{ call: GET /cluster/nextid, fault: {{ kill: {{ node: pve3, back: 200ms }} }} }}
- {{ call: zfs snapshot, fault: {{ fail: {{ status: 500, text: 'out of space' }} }} }}
- {{ call: DELETE /nodes/*/qemu/*, fault: hang }}
"
    );
    let world = World::with_setup(&script).await;
    let root = Caller::new(&world, "root@pam!test", false);
    assert_eq!(fired(&world).await, [0; 7]);
    let config = "/nodes/pve1/qemu/100/config";
    let statuses = [root.call("GET", config, &[]).await, root.call("GET", config, &[]).await, root.call("GET", config, &[]).await];
    assert_eq!(statuses.each_ref().map(|answer| answer.status), [200, 500, 500]);
    assert_eq!(statuses[1].reason, "got timeout");
    assert_eq!(root.call("GET", config, &[]).await.status, 200, "two times, no more");
    let before = Instant::now();
    root.ok("GET", "/nodes/pve2/qemu/200/config", &[]).await;
    assert!(before.elapsed() >= Duration::from_millis(300));

    let (pve1, vm) = (Node("pve1".into()), Vmid(100));
    assert!(matches!(world.client.stop(&pve1, vm).await, Err(Error::Unknown(_))));
    let stopped = async {
        while world.client.power(&pve1, vm).await.unwrap() != autovibe::proxmox::Power::Stopped {
            autovibe::clock::Clock::system().sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(super::PATIENCE, stopped).await.expect("what had no answer was done");
    let hung = world.client.start(&pve1, vm).await.unwrap();
    autovibe::clock::Clock::system().sleep(Duration::from_millis(50)).await;
    assert_eq!(world.client.task(&hung).await.unwrap(), TaskStatus::Running);

    root.ok("GET", "/cluster/nextid", &[]).await;
    assert_eq!(root.call("GET", "/nodes/pve3/qemu", &[]).await.status, 595);
    let back = async {
        while root.call("GET", "/nodes/pve3/qemu", &[]).await.status != 200 {
            autovibe::clock::Clock::system().sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(super::PATIENCE, back).await.expect("it comes back");
    let snapshot = autovibe::zfs::Snapshot { dataset: world.volume(100), name: "s".into() };
    assert!(world.zfs.snapshot(std::slice::from_ref(&snapshot), &Default::default()).await.is_err());
    world.zfs.snapshot(&[snapshot], &Default::default()).await.unwrap();
    assert!(tokio::time::timeout(Duration::from_millis(300), root.call("DELETE", "/nodes/pve1/qemu/100", &[])).await.is_err());
    assert_eq!(fired(&world).await, [2, 1, 1, 1, 1, 1, 1]);
    assert_eq!(world.lab.fired(), 8);
}

#[tokio::test]
async fn a_running_lab_is_scripted_by_who_owns_it() {
    let world = World::with_setup(THREE).await;
    let rule = json!({ "call": "GET /version", "fault": { "fail": { "status": 503, "text": "not now" } } });
    assert_eq!(control(&world, "POST", "faults", &rule).await.0, 200);
    let root = Caller::new(&world, "root@pam!test", false);
    let answer = root.call("GET", "/version", &[]).await;
    assert_eq!((answer.status, answer.reason.as_str()), (503, "not now"));
    assert_eq!(fired(&world).await, [1]);
    let shown = control(&world, "GET", "faults", &Value::Null).await.1;
    assert_eq!((&shown["data"][0]["call"], &shown["data"][0]["fault"]), (&rule["call"], &rule["fault"]), "as it was written");
    assert_eq!(control(&world, "DELETE", "faults", &Value::Null).await.0, 200);
    assert_eq!(fired(&world).await, [0; 0]);
    let wrong = control(&world, "POST", "faults", &json!({ "call": "GET /version", "fault": { "delay": "soon" } })).await;
    assert_eq!(wrong.0, 400);
    assert!(wrong.1["errors"]["fault.delay"].is_string(), "{wrong:?}");
    // Power.
    assert_eq!(control(&world, "POST", "nodes/pve2", &json!({ "power": "off" })).await.0, 200);
    assert_eq!(root.call("GET", "/nodes/pve2/qemu", &[]).await.status, 595);
    assert_eq!(control(&world, "POST", "nodes/pve2", &json!({ "power": "on" })).await.0, 200);
    assert_eq!(root.call("GET", "/nodes/pve2/qemu", &[]).await.status, 200);
    // What a cut was to last does not end a later one.
    for body in [json!({ "power": "off", "back": "100ms" }), json!({ "power": "on" }), json!({ "power": "off" })] {
        assert_eq!(control(&world, "POST", "nodes/pve2", &body).await.0, 200);
    }
    autovibe::clock::Clock::system().sleep(Duration::from_millis(300)).await;
    assert_eq!(root.call("GET", "/nodes/pve2/qemu", &[]).await.status, 595);
    assert_eq!(control(&world, "POST", "nodes/pve9", &json!({ "power": "on" })).await.0, 404);
    // Another's token may not, and Proxmox has none of it.
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let secret = world.lab.token("eve@pve!t", false);
    let request = http.get(format!("{}/lab/faults", world.lab.endpoint().endpoint));
    assert_eq!(request.header("authorization", format!("PVEAPIToken=eve@pve!t={secret}")).send().await.unwrap().status(), 403);
    assert_eq!(root.call("GET", "/lab/faults", &[]).await.status, 501);
}
