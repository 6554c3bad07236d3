//! The calls that autovibe makes, one method each; none waits for a task or retries a change.

use super::{
    Breaker, Config, Error, ExecStatus, Node, Power, ResourceNode, ResourceStorage, ResourceVm, Resources, Room, TaskStatus, Upid,
    VmConfig, Vmid,
    http::{Http, Parameters, segment},
    value,
};
use crate::clock::Tenure;
use crate::wire::Service;
use reqwest::Method;
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// A client of one Proxmox cluster; cheap to clone.
#[derive(Clone)]
pub struct Client {
    pub(super) http: Http,
}

pub(super) fn vm_path(node: &Node, vmid: Vmid, rest: &str) -> String {
    format!("/nodes/{}/qemu/{vmid}{rest}", segment(&node.0))
}

fn task_path(upid: &Upid, rest: &str) -> Result<String, Error> {
    let node = upid.node().ok_or_else(|| Error::NoSuchTask(format!("`{upid}` is not a task id")))?;
    Ok(format!("/nodes/{}/tasks/{}{rest}", segment(&node.0), segment(&upid.0)))
}

/// The rows of a list. Anything else is no list: not the same as an empty one.
pub(super) fn rows(data: Value, what: &str) -> Result<Vec<Value>, Error> {
    match data {
        Value::Array(rows) => Ok(rows),
        _ => Err(Error::Unknown(format!("{what} is not a list"))),
    }
}

fn vmid_of(row: &Value) -> Option<Vmid> {
    value::number_of(row, "vmid").and_then(|vmid| u32::try_from(vmid).ok()).map(Vmid)
}

fn size_of(row: &Value, key: &str) -> Option<u64> {
    value::number_of(row, key).and_then(|number| u64::try_from(number).ok())
}

fn vm_of(row: &Value, node: Option<Node>) -> Result<ResourceVm, Error> {
    let (Some(vmid), Some(node)) = (vmid_of(row), node) else {
        // A row that cannot be read may be any VM: the list would be short without a word.
        return Err(Error::Unknown(format!("a row of /cluster/resources cannot be read: {row}")));
    };
    let tags = value::text_of(row, "tags").unwrap_or_default();
    Ok(ResourceVm {
        vmid,
        node,
        name: value::text_of(row, "name"),
        status: value::text_of(row, "status"),
        lock: value::text_of(row, "lock"),
        memory_bytes: size_of(row, "maxmem"),
        tags: tags.split(';').filter(|tag| !tag.is_empty()).map(str::to_owned).collect(),
    })
}

/// A storage that was not measured has no numbers, or none but zeros.
fn room_of(row: &Value) -> Option<Room> {
    let total_bytes = size_of(row, "maxdisk").filter(|total| *total > 0)?;
    Some(Room { total_bytes, free_bytes: total_bytes.saturating_sub(size_of(row, "disk")?) })
}

fn power_of(row: &Value) -> Option<Power> {
    match row["status"].as_str()? {
        "running" => Some(Power::Running),
        "stopped" => Some(Power::Stopped),
        _ => None,
    }
}

impl Client {
    /// Errors: `Refused` when token, fingerprint or TLS store cannot be used.
    pub fn new(config: Config) -> Result<Self, Error> {
        Self::over(config, None, Tenure::unlimited())
    }

    /// Like [`Self::new`]; a `service` in this process answers instead of the network, and nothing is changed that may take
    /// longer than `tenure`.
    pub fn over(config: Config, service: Option<Service>, tenure: Tenure) -> Result<Self, Error> {
        Ok(Self { http: Http::new(&config, service, tenure)? })
    }

    /// The same, sharing what is known of its credential with all that have this breaker.
    #[must_use]
    pub fn behind(mut self, breaker: Breaker) -> Self {
        self.http.breaker = breaker;
        self
    }

    /// `release`, for example `9.2`.
    pub async fn version(&self) -> Result<String, Error> {
        let data = self.http.get("/version", &vec![]).await?;
        value::text_of(&data, "release").ok_or_else(|| Error::Unknown("the version has no `release`".into()))
    }

    /// What the token may do on a path.
    pub async fn permissions(&self, path: &str) -> Result<BTreeSet<String>, Error> {
        let data = self.http.get("/access/permissions", &vec![("path", path.into())]).await?;
        let Some(has) = data[path].as_object() else {
            // A token with nothing there is told nothing at all.
            return if data.is_object() { Ok(BTreeSet::new()) } else { Err(Error::Unknown("the permissions are no object".into())) };
        };
        Ok(has.keys().cloned().collect())
    }

    /// Names of nodes that are online.
    pub async fn nodes(&self) -> Result<Vec<Node>, Error> {
        let rows = rows(self.http.get("/nodes", &vec![]).await?, "/nodes")?;
        Ok(rows.iter().filter(|row| row["status"] == "online").filter_map(|row| value::text_of(row, "node")).map(Node).collect())
    }

    /// One call: all guests that are VMs, and the nodes and storages.
    pub async fn resources(&self) -> Result<Resources, Error> {
        let rows = rows(self.http.get("/cluster/resources", &vec![]).await?, "/cluster/resources")?;
        let mut resources = Resources::default();
        for row in &rows {
            let node = value::text_of(row, "node").map(Node);
            match (row["type"].as_str(), node) {
                (Some("qemu"), node) => resources.vms.push(vm_of(row, node)?),
                (Some("node"), Some(node)) => resources.nodes.push(ResourceNode {
                    node,
                    online: row["status"] == "online",
                    memory_bytes: size_of(row, "maxmem"),
                    cores: size_of(row, "maxcpu"),
                }),
                (Some("storage"), Some(node)) if row["status"] == "available" => {
                    let room = room_of(row);
                    resources.storages.extend(value::text_of(row, "storage").map(|storage| ResourceStorage { node, storage, room }));
                }
                _ => {}
            }
        }
        Ok(resources)
    }

    /// Live state of all VMs of a node: vmid and power.
    pub async fn node_vms(&self, node: &Node) -> Result<Vec<(Vmid, Power)>, Error> {
        let rows = rows(self.http.get(&format!("/nodes/{}/qemu", segment(&node.0)), &vec![]).await?, "/qemu")?;
        let read =
            |row: &Value| vmid_of(row).zip(power_of(row)).ok_or_else(|| Error::Unknown(format!("a row of /qemu cannot be read: {row}")));
        rows.iter().map(read).collect()
    }

    pub async fn config(&self, node: &Node, vmid: Vmid) -> Result<VmConfig, Error> {
        let data = self.http.get(&vm_path(node, vmid, "/config"), &vec![]).await?;
        let Value::Object(object) = data else {
            return Err(Error::Unknown(format!("the config of VM {vmid} is not an object")));
        };
        let mut values: BTreeMap<String, String> = object.iter().filter_map(|(key, v)| Some((key.clone(), value::text(v)?))).collect();
        let digest = values.remove("digest").ok_or_else(|| Error::Unknown(format!("the config of VM {vmid} has no digest")))?;
        Ok(VmConfig { digest, values })
    }

    pub async fn power(&self, node: &Node, vmid: Vmid) -> Result<Power, Error> {
        let data = self.http.get(&vm_path(node, vmid, "/status/current"), &vec![]).await?;
        power_of(&data).ok_or_else(|| Error::Unknown(format!("VM {vmid} has no known status")))
    }

    /// `POST /nodes/{node}/qemu` with these config keys; disks named in it must carry this VMID in their names.
    pub async fn create(&self, node: &Node, vmid: Vmid, values: &BTreeMap<String, String>) -> Result<Upid, Error> {
        let mut parameters: Parameters<'_> = vec![("vmid", vmid.to_string())];
        parameters.extend(values.iter().map(|(key, value)| (key.as_str(), value.clone())));
        self.task_of(Method::POST, &format!("/nodes/{}/qemu", segment(&node.0)), &parameters).await
    }

    pub async fn start(&self, node: &Node, vmid: Vmid) -> Result<Upid, Error> {
        self.task_of(Method::POST, &vm_path(node, vmid, "/status/start"), &vec![]).await
    }

    /// Asks the guest to power off and, when it has not after `timeout`, cuts it (`forceStop=1`).
    pub async fn shutdown(&self, node: &Node, vmid: Vmid, timeout: Duration) -> Result<Upid, Error> {
        let parameters = vec![("timeout", timeout.as_secs().to_string()), ("forceStop", "1".into())];
        self.task_of(Method::POST, &vm_path(node, vmid, "/status/shutdown"), &parameters).await
    }

    /// Cuts the power; overrules a shutdown under way.
    pub async fn stop(&self, node: &Node, vmid: Vmid) -> Result<Upid, Error> {
        self.task_of(Method::POST, &vm_path(node, vmid, "/status/stop"), &vec![("overrule-shutdown", "1".into())]).await
    }

    /// Saves the memory of a running VM in a new volume of `storage` and powers it off; its next start goes on from there.
    ///
    /// Source: PVE API `POST /nodes/{node}/qemu/{vmid}/status/suspend`, parameters `todisk`, `statestorage`.
    pub async fn suspend_to_disk(&self, node: &Node, vmid: Vmid, storage: &str) -> Result<Upid, Error> {
        let parameters = vec![("todisk", "1".into()), ("statestorage", storage.to_owned())];
        self.task_of(Method::POST, &vm_path(node, vmid, "/status/suspend"), &parameters).await
    }

    /// Changes keys, and removes those in `delete`, if the config is still at `digest`.
    pub async fn configure(
        &self,
        node: &Node,
        vmid: Vmid,
        values: &BTreeMap<String, String>,
        delete: &[&str],
        digest: Option<&str>,
    ) -> Result<(), Error> {
        let mut parameters: Parameters<'_> = values.iter().map(|(key, value)| (key.as_str(), value.clone())).collect();
        if !delete.is_empty() {
            parameters.push(("delete", delete.join(",")));
        }
        parameters.extend(digest.map(|digest| ("digest", digest.to_owned())));
        self.http.change(Method::PUT, &vm_path(node, vmid, "/config"), &parameters).await.map(drop)
    }

    /// Starts a linked clone of a template; of its description nothing is taken over. Its tags, and all else, are the template's.
    pub async fn clone_linked(&self, node: &Node, from: Vmid, to: Vmid, name: &str, description: &str) -> Result<Upid, Error> {
        let parameters =
            vec![("newid", to.to_string()), ("full", "0".into()), ("name", name.to_owned()), ("description", description.to_owned())];
        self.task_of(Method::POST, &vm_path(node, from, "/clone"), &parameters).await
    }

    /// Makes a template of a stopped VM without snapshots; or, of one that is a template already, of one disk that is not part of it.
    pub async fn make_template(&self, node: &Node, vmid: Vmid, disk: Option<&str>) -> Result<Upid, Error> {
        let parameters = disk.map(|disk| ("disk", disk.to_owned())).into_iter().collect();
        self.task_of(Method::POST, &vm_path(node, vmid, "/template"), &parameters).await
    }

    /// Whether all disks of a VM can have this: `snapshot`, `clone` (linked) or `copy` (full).
    pub async fn has_feature(&self, node: &Node, vmid: Vmid, feature: &str) -> Result<bool, Error> {
        let data = self.http.get(&vm_path(node, vmid, "/feature"), &vec![("feature", feature.into())]).await?;
        Ok(value::flag_of(&data, "hasFeature"))
    }

    /// The disks on a storage, as far as the caller may see them: names and whose VMs' they are.
    pub async fn images(&self, node: &Node, storage: &str, vmid: Option<Vmid>) -> Result<Vec<(String, Vmid)>, Error> {
        let path = format!("/nodes/{}/storage/{}/content", segment(&node.0), segment(storage));
        let mut query = vec![("content", "images".to_owned())];
        query.extend(vmid.map(|vmid| ("vmid", vmid.to_string())));
        let rows = rows(self.http.get(&path, &query).await?, "the storage's content")?;
        let read = |row: &Value| value::text_of(row, "volid").zip(vmid_of(row));
        let unreadable = |row: &Value| Error::Unknown(format!("a row of the storage's content cannot be read: {row}"));
        rows.iter().map(|row| read(row).ok_or_else(|| unreadable(row))).collect()
    }

    /// Deletes config and disks. Callers prove ownership first.
    pub async fn delete(&self, node: &Node, vmid: Vmid) -> Result<Upid, Error> {
        self.task_of(Method::DELETE, &vm_path(node, vmid, ""), &vec![]).await
    }

    pub async fn task(&self, upid: &Upid) -> Result<TaskStatus, Error> {
        let data = self.http.get(&task_path(upid, "/status")?, &vec![]).await?;
        if data["status"] == "running" {
            return Ok(TaskStatus::Running);
        }
        let Some(exit) = value::text_of(&data, "exitstatus") else {
            return Err(Error::Unknown(format!("task {upid} has neither `running` nor an exit status")));
        };
        Ok(match exit.strip_prefix("WARNINGS: ").map(str::parse) {
            Some(Ok(warnings)) => TaskStatus::Done { warnings },
            _ if exit == "OK" => TaskStatus::Done { warnings: 0 },
            _ => TaskStatus::Failed(exit),
        })
    }

    /// The tasks that run on a node, as far as the caller may see them.
    pub async fn running_tasks(&self, node: &Node) -> Result<Vec<Upid>, Error> {
        let query = vec![("source", "active".into()), ("limit", "500".into())];
        let rows = rows(self.http.get(&format!("/nodes/{}/tasks", segment(&node.0)), &query).await?, "/tasks")?;
        Ok(rows.iter().filter_map(|row| value::text_of(row, "upid")).map(Upid).collect())
    }

    /// Whom the client is to Proxmox, as task ids name it.
    pub fn id(&self) -> &str {
        self.http.id()
    }

    /// Up to `limit` lines of a task's log.
    pub async fn task_log(&self, upid: &Upid, limit: u32) -> Result<Vec<String>, Error> {
        let data = self.http.get(&task_path(upid, "/log")?, &vec![("limit", limit.to_string())]).await?;
        Ok(rows(data, "the task's log")?.iter().filter_map(|row| value::text(&row["t"])).collect())
    }

    pub async fn agent_ping(&self, node: &Node, vmid: Vmid) -> Result<(), Error> {
        self.http.change(Method::POST, &vm_path(node, vmid, "/agent/ping"), &vec![]).await.map(drop)
    }

    /// Starts a program in the guest as root; `input` (at most 64 KiB) is its standard input. Returns its pid.
    pub async fn agent_exec(&self, node: &Node, vmid: Vmid, command: &[&str], input: Option<&str>) -> Result<u64, Error> {
        let mut parameters: Parameters<'_> = command.iter().map(|word| ("command", (*word).to_owned())).collect();
        parameters.extend(input.map(|input| ("input-data", value::from_bytes(input.as_bytes()))));
        let data = self.http.change(Method::POST, &vm_path(node, vmid, "/agent/exec"), &parameters).await?;
        let pid = value::number_of(&data, "pid").and_then(|pid| u64::try_from(pid).ok());
        pid.ok_or_else(|| Error::Unknown("the guest agent gave no pid".into()))
    }

    pub async fn agent_exec_status(&self, node: &Node, vmid: Vmid, pid: u64) -> Result<ExecStatus, Error> {
        let data = self.http.get(&vm_path(node, vmid, "/agent/exec-status"), &vec![("pid", pid.to_string())]).await?;
        if !value::flag_of(&data, "exited") {
            return Ok(ExecStatus::Running);
        }
        let number = |key| value::number_of(&data, key).and_then(|n| i32::try_from(n).ok());
        let output = |key| data[key].as_str().map(value::guest_output).unwrap_or_default();
        Ok(ExecStatus::Exited { code: number("exitcode"), signal: number("signal"), out: output("out-data"), err: output("err-data") })
    }

    /// Writes a file in the guest as root; at most 60 KiB.
    pub async fn agent_write(&self, node: &Node, vmid: Vmid, path: &str, content: &[u8]) -> Result<(), Error> {
        let parameters = vec![("file", path.to_owned()), ("content", value::from_bytes(content))];
        self.http.change(Method::POST, &vm_path(node, vmid, "/agent/file-write"), &parameters).await.map(drop)
    }

    async fn task_of(&self, method: Method, path: &str, parameters: &Parameters<'_>) -> Result<Upid, Error> {
        let data = self.http.change(method, path, parameters).await?;
        match data {
            Value::String(upid) if upid.starts_with("UPID:") => Ok(Upid(upid)),
            // Asked for a task and got none: Proxmox answers `OK` or null for calls that it did not start.
            other => Err(Error::Unknown(format!("{path} answered {other} instead of a task"))),
        }
    }
}
