//! Replays what a real Proxmox VE 9.2 answered, call by call: status, reason phrase, message, the reasons for parameters,
//! how tasks end, and the shape of what is shown. `from` names the recording; `given` is the VM that it needs. What stands in an order
//! is replayed in it: the storages, a life with snapshots, a template and clones, and what a node without containers says of them.
//!
//! Not replayed: what containers do, storages that are disabled, and a running guest's memory in a snapshot, for the lab has none of
//! them; and the times, which say how fast a machine was.

use super::World;
use autovibe::proxmox::{Power, TaskStatus, Upid, Vmid};
use hyper::ext::ReasonPhrase;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

const RECORDINGS: &str = include_str!("../recordings/proxmox-9.2.json");
/// `between` are calls that were made and not recorded.
const IN_ORDER: &str = include_str!("../recordings/proxmox-9.2-in-order.json");
/// Keys that the client reads: where Proxmox shows them, the lab must.
const READ: &[&str] =
    &["vmid", "node", "status", "name", "tags", "lock", "digest", "release", "upid", "exitstatus", "result", "pid", "exited", "exitcode"];

/// The recorded node is `pve`.
fn ours(text: &str) -> String {
    text.replace("nodes/pve", "nodes/lab").replace("node 'pve'", "node 'lab'").replace(":pve:", ":lab:")
}

fn pairs(parameters: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    match parameters {
        Value::Object(map) => map
            .iter()
            .flat_map(|(key, value)| match value {
                Value::Array(values) => values.iter().map(|value| (key.clone(), text(value))).collect(),
                value => vec![(key.clone(), text(value))],
            })
            .collect(),
        // Repeated keys are recorded as pairs.
        Value::Array(list) => list.iter().map(|pair| (text(&pair[0]), text(&pair[1]))).collect(),
        _ => vec![],
    }
}

impl World {
    /// Brings a VM into the state that a recording was made in.
    async fn given(&self, given: &Value) {
        let Some(vmid) = given["vmid"].as_u64().and_then(|vmid| u32::try_from(vmid).ok()) else { return };
        let (vm, empty) = (Vmid(vmid), Map::new());
        if !self.lab.vms().contains_key(&vmid) {
            self.ok(self.client.create(&self.node, vm, &BTreeMap::from([("name".to_owned(), "given".to_owned())])).await).await;
        }
        let config = given["config"].as_object().unwrap_or(&empty);
        let running = self.client.power(&self.node, vm).await.unwrap() == Power::Running;
        let wanted = given["running"] == true;
        self.lab.edit_config(vmid, "lock", None);
        for (key, value) in config {
            self.lab.edit_config(vmid, key, value.as_str());
        }
        match (running, wanted) {
            (false, true) => {
                self.ok(self.client.start(&self.node, vm).await).await;
                let booting = async {
                    while config.get("name").is_none_or(|name| name != "never-boots")
                        && config.contains_key("agent")
                        && self.client.agent_ping(&self.node, vm).await.is_err()
                    {
                        autovibe::clock::Clock::system().sleep(std::time::Duration::from_millis(5)).await;
                    }
                };
                tokio::time::timeout(super::PATIENCE, booting).await.expect("it boots");
            }
            (true, false) => self.ok(self.client.stop(&self.node, vm).await).await,
            _ => {}
        }
    }

    /// What differs, in words.
    async fn replay(&self, http: &reqwest::Client, record: &Value, token: &str) -> Result<(), String> {
        let endpoint = self.lab.endpoint();
        let path = record["path"].as_str().unwrap().replace("/nodes/pve", "/nodes/lab").replace("UPID%3Apve", "UPID%3Alab");
        let method: reqwest::Method = record["method"].as_str().unwrap().parse().unwrap();
        let mut request = http.request(method.clone(), format!("{}/api2/json{path}", endpoint.endpoint));
        request = match record["auth"].as_str() {
            None => request.header("authorization", format!("PVEAPIToken={token}")),
            Some("none") => request,
            Some(other) => request.header("authorization", other),
        };
        let parameters = pairs(&record["params"]);
        let refused_body = record["reason"].as_str().is_some_and(|reason| reason.starts_with("Unexpected content"));
        request = if record["type"].as_str().is_some_and(|kind| kind.contains("json")) {
            request.json(&record["params"])
        } else if matches!(method.as_str(), "GET" | "DELETE") && !refused_body {
            request.query(&parameters)
        } else if refused_body {
            request.body("a=1")
        } else {
            request.form(&parameters)
        };
        let response = request.send().await.map_err(|error| error.to_string())?;
        let status = response.status().as_u16();
        let reason = response.extensions().get::<ReasonPhrase>().map(|phrase| String::from_utf8_lossy(phrase.as_bytes()).into_owned());
        let text = response.text().await.map_err(|error| error.to_string())?;
        if record["status"] != status {
            return Err(format!("status {status}: {text}"));
        }
        let body: Value = serde_json::from_str(&text).unwrap_or_else(|_| text.into());
        if status != 200 {
            let expected = ours(record["reason"].as_str().unwrap());
            if reason.as_deref() != Some(&*expected) {
                return Err(format!("reason {reason:?}"));
            }
            let expected: Value = serde_json::from_str(&ours(&record["body"].to_string())).unwrap();
            return if body == expected { Ok(()) } else { Err(format!("body {body}")) };
        }
        if let Some(recorded) = record.get("body") {
            same_shape(&body["data"], &recorded["data"])?;
        }
        if let Some(exit) = record["exit"].as_str() {
            let ended = self.ended(&Upid(body["data"].as_str().unwrap_or_default().to_owned())).await;
            let ended = match ended {
                TaskStatus::Done { warnings: 0 } => "OK".to_owned(),
                TaskStatus::Failed(text) => text,
                other => format!("{other:?}"),
            };
            if ended != ours(exit) {
                return Err(format!("ended with {ended}"));
            }
        }
        Ok(())
    }
}

/// Whether all that is shown is shown by Proxmox, in the same type, and all that the client reads is there.
fn same_shape(ours: &Value, recorded: &Value) -> Result<(), String> {
    match (ours, recorded) {
        (Value::Object(ours), Value::Object(recorded)) => {
            for (key, value) in ours {
                let theirs = recorded.get(key).ok_or_else(|| format!("`{key}` is not shown by Proxmox"))?;
                same_shape(value, theirs).map_err(|why| format!("{key}: {why}"))?;
            }
            match READ.iter().find(|key| recorded.contains_key(**key) && !ours.contains_key(**key)) {
                Some(key) => Err(format!("`{key}` is missing")),
                None => Ok(()),
            }
        }
        (Value::Array(ours), Value::Array(recorded)) => match (ours.first(), recorded.first()) {
            (Some(ours), Some(recorded)) => same_shape(ours, recorded),
            _ => Ok(()),
        },
        _ if std::mem::discriminant(ours) == std::mem::discriminant(recorded) => Ok(()),
        _ => Err(format!("{ours} instead of {recorded}")),
    }
}

#[tokio::test]
async fn recorded_calls_are_answered_as_proxmox_answered_them() {
    let world = World::start().await;
    let at = world.lab.endpoint();
    answers_alike(&world, RECORDINGS, &format!("{}={}", at.token_id, at.secret), 170).await;
}

#[tokio::test]
async fn storages_and_a_life_are_answered_in_their_order_as_proxmox_answered_them() {
    let world = World::with_setup("storages: [{ storage: local, type: dir }]").await;
    // The token that they were recorded with.
    let id = "root@pam!full";
    let token = format!("{id}={}", world.lab.token(id, false));
    answers_alike(&world, IN_ORDER, &token, 70).await;
}

async fn answers_alike(world: &World, records: &str, token: &str, least: usize) {
    let http = reqwest::Client::builder().no_proxy().build().unwrap();
    let records: Vec<Value> = serde_json::from_str(records).unwrap();
    let mut differences = Vec::new();
    for record in &records {
        world.given(&record["given"]).await;
        if let Err(difference) = world.replay(&http, record, token).await {
            differences.push(format!(
                "{} {} {} {} ({}): {difference}\n    Proxmox: {} {}",
                record["from"], record["method"], record["path"], record["params"], record["what"], record["reason"], record["body"]
            ));
        }
    }
    assert!(records.len() >= least, "{} recordings", records.len());
    assert!(differences.is_empty(), "{} of {} differ:\n{}", differences.len(), records.len(), differences.join("\n"));
}
