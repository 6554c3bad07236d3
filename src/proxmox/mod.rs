//! A client of the Proxmox VE API, over HTTP and nothing else; knows nothing of Machines.

mod breaker;
mod client;
mod credential;
mod error;
mod firewall;
mod http;
mod network;
mod ticket;
mod tls;
mod value;

#[cfg(test)]
mod tests;

pub use breaker::Breaker;
pub use client::Client;
pub use credential::Credential;
pub use error::{Class, Error};
pub use firewall::Rule as FirewallRule;

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

impl Upid {
    /// The node on which the task runs: only it knows the task. `None` when this is no task id.
    pub fn node(&self) -> Option<Node> {
        let mut parts = self.0.split(':');
        (parts.next() == Some("UPID")).then(|| parts.next().filter(|node| !node.is_empty())).flatten().map(|node| Node(node.to_owned()))
    }

    /// What it does, to what (mostly a VMID), and for whom: `qmcreate`, `100`, `user@realm!token`.
    pub fn parts(&self) -> Option<(&str, &str, &str)> {
        let mut parts = self.0.split(':').skip(5);
        Some((parts.next()?, parts.next()?, parts.next()?))
    }
}

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
    pub credential: Credential,
}

/// What `/cluster/resources` shows, in one call.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Resources {
    pub vms: Vec<ResourceVm>,
    pub nodes: Vec<ResourceNode>,
    /// Storages that are there to be used.
    pub storages: Vec<ResourceStorage>,
}

/// A storage of a node in `/cluster/resources`. Its numbers lag some 10 s.
#[derive(Clone, Debug, PartialEq)]
pub struct ResourceStorage {
    pub node: Node,
    pub storage: String,
    /// `None` where Proxmox has not measured it, as shortly after a start.
    pub room: Option<Room>,
}

/// How much a storage has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Room {
    /// What is used and what is free, bytes.
    pub total_bytes: u64,
    pub free_bytes: u64,
}

/// A node in `/cluster/resources`. Its numbers are shown to those with Sys.Audit on it, and while it is online.
#[derive(Clone, Debug, PartialEq)]
pub struct ResourceNode {
    pub node: Node,
    pub online: bool,
    /// All that it has, bytes.
    pub memory_bytes: Option<u64>,
    /// All that it has.
    pub cores: Option<u64>,
}

/// A VM in `/cluster/resources`. `name`, `status` and `memory_bytes` lag up to 10 s and are absent at first.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct ResourceVm {
    pub vmid: Vmid,
    pub node: Node,
    pub name: Option<String>,
    /// `running`, `stopped` or `unknown`.
    pub status: Option<String>,
    pub lock: Option<String>,
    /// What its guest has while it runs.
    pub memory_bytes: Option<u64>,
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
    Done {
        warnings: u32,
    },
    /// The exit status as text.
    Failed(String),
}

/// State of a command started by the guest agent; can be read once after its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExecStatus {
    Running,
    Exited { code: Option<i32>, signal: Option<i32>, out: String, err: String },
}
