//! A client of the Proxmox VE API, over HTTP and nothing else; knows nothing of Machines.

use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Id of a VM, unique in a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Vmid(pub u32);
/// Name of a Proxmox node.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Node(pub String);
/// Id of a task; a hint, never a fact to build on.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Upid(pub String);

impl std::fmt::Display for Vmid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}
impl std::fmt::Display for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}
impl std::fmt::Display for Upid {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// Where and as whom to call.
#[derive(Clone, Debug)]
pub struct Config {
    /// `https://pve1.example:8006`
    pub endpoint: String,
    /// SHA-256 of the leaf certificate as hex with colons; `None` uses the system's trust store.
    pub fingerprint: Option<String>,
    /// `user@realm!name`
    pub token_id: String,
    pub secret: SecretString,
}

/// What a caller can act on. Every text that is not known is `Other`: observe again before anything else.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The VM's config is not on that node: gone, moved, or not yet made.
    #[error("{0}")]
    NoConfig(String),
    /// The VMID or its config exists already.
    #[error("{0}")]
    VmidTaken(String),
    #[error("{0}")]
    AlreadyRunning(String),
    #[error("{0}")]
    NotRunning(String),
    /// `lock:` in the config: the kind of lock.
    #[error("VM is locked ({0})")]
    Locked(String),
    /// A flock or storage lock was not had in time: try again soon.
    #[error("{0}")]
    LockTimeout(String),
    #[error("{0}")]
    Protected(String),
    #[error("{0}")]
    AgentNotRunning(String),
    #[error("{0}")]
    AgentUnconfigured(String),
    /// The pid is unknown to the guest agent: never started, or its exit status was read already.
    #[error("{0}")]
    AgentNoPid(String),
    #[error("{0}")]
    NoSuchTask(String),
    #[error("{0}")]
    Forbidden(String),
    #[error("{0}")]
    Unauthorized(String),
    /// 400 with the parameters that were refused.
    #[error("{message}: {errors:?}")]
    Parameters { message: String, errors: BTreeMap<String, String> },
    /// Sent, but no answer was read (reset, 595, 596, time-out): it may have been done.
    #[error("no answer: {0}")]
    Unknown(String),
    #[error("{status} {message}")]
    Other { status: u16, message: String },
}

/// A row of `/cluster/resources?type=vm`. `name` and `status` lag up to 10 s and are absent at first.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct ResourceVm {
    pub vmid: Vmid,
    pub node: Node,
    pub name: Option<String>,
    /// `running`, `stopped` or `unknown`.
    pub status: Option<String>,
    pub lock: Option<String>,
    /// Lower-cased and sorted.
    pub tags: Vec<String>,
}

/// A VM's config: keys and values as text, as Proxmox stores them.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct VmConfig {
    pub digest: String,
    pub values: BTreeMap<String, String>,
}

/// Live power state. Source: `GET /nodes/{node}/qemu/{vmid}/status/current`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Power {
    Running,
    Stopped,
}

/// How a task ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TaskStatus {
    Running,
    /// `OK`, or `WARNINGS: n` (then `warnings` is n and postconditions need a second look).
    Done { warnings: u32 },
    /// The exit status as text.
    Failed(String),
}

/// State of a command started by the guest agent; can be read once after its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExecStatus {
    Running,
    Exited { code: Option<i32>, signal: Option<i32>, out: String, err: String },
}

/// A client of one Proxmox cluster; cheap to clone.
#[derive(Clone)]
pub struct Client {
    _todo: (),
}

impl Client {
    pub fn new(_config: Config) -> Result<Self, Error> {
        unimplemented!()
    }
    /// `release`, for example `9.2`.
    pub async fn version(&self) -> Result<String, Error> {
        unimplemented!()
    }
    /// Names of nodes that are online.
    pub async fn nodes(&self) -> Result<Vec<Node>, Error> {
        unimplemented!()
    }
    /// One call, all guests.
    pub async fn resources(&self) -> Result<Vec<ResourceVm>, Error> {
        unimplemented!()
    }
    /// Live state of all VMs of a node: vmid and power.
    pub async fn node_vms(&self, _node: &Node) -> Result<Vec<(Vmid, Power)>, Error> {
        unimplemented!()
    }
    pub async fn config(&self, _node: &Node, _vmid: Vmid) -> Result<VmConfig, Error> {
        unimplemented!()
    }
    pub async fn power(&self, _node: &Node, _vmid: Vmid) -> Result<Power, Error> {
        unimplemented!()
    }
    /// `POST /nodes/{node}/qemu` with these config keys; disks named in it must carry this VMID in their names.
    pub async fn create(&self, _node: &Node, _vmid: Vmid, _values: &BTreeMap<String, String>) -> Result<Upid, Error> {
        unimplemented!()
    }
    pub async fn start(&self, _node: &Node, _vmid: Vmid) -> Result<Upid, Error> {
        unimplemented!()
    }
    /// Asks the guest to power off and, when it has not after `timeout`, cuts it (`forceStop=1`).
    pub async fn shutdown(&self, _node: &Node, _vmid: Vmid, _timeout: std::time::Duration) -> Result<Upid, Error> {
        unimplemented!()
    }
    /// Cuts the power; overrules a shutdown under way.
    pub async fn stop(&self, _node: &Node, _vmid: Vmid) -> Result<Upid, Error> {
        unimplemented!()
    }
    /// Changes keys, and removes those in `delete`, if the config is still at `digest`.
    pub async fn configure(&self, _node: &Node, _vmid: Vmid, _values: &BTreeMap<String, String>, _delete: &[&str], _digest: Option<&str>) -> Result<(), Error> {
        unimplemented!()
    }
    /// Deletes config and disks. Callers prove ownership first.
    pub async fn delete(&self, _node: &Node, _vmid: Vmid) -> Result<Upid, Error> {
        unimplemented!()
    }
    pub async fn task(&self, _upid: &Upid) -> Result<TaskStatus, Error> {
        unimplemented!()
    }
    /// Up to `limit` lines of a task's log.
    pub async fn task_log(&self, _upid: &Upid, _limit: u32) -> Result<Vec<String>, Error> {
        unimplemented!()
    }
    pub async fn agent_ping(&self, _node: &Node, _vmid: Vmid) -> Result<(), Error> {
        unimplemented!()
    }
    /// Starts a program in the guest as root; `input` (at most 64 KiB) is its standard input. Returns its pid.
    pub async fn agent_exec(&self, _node: &Node, _vmid: Vmid, _command: &[&str], _input: Option<&str>) -> Result<u64, Error> {
        unimplemented!()
    }
    pub async fn agent_exec_status(&self, _node: &Node, _vmid: Vmid, _pid: u64) -> Result<ExecStatus, Error> {
        unimplemented!()
    }
    /// Writes a file in the guest as root; at most 60 KiB.
    pub async fn agent_write(&self, _node: &Node, _vmid: Vmid, _path: &str, _content: &[u8]) -> Result<(), Error> {
        unimplemented!()
    }
}
