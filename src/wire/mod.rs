//! What guests, gateway, hub and lab say to each other.

pub mod asks;
pub mod runner;

use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use std::sync::Arc;

/// A service in this process that stands where a network would be: with it a whole hub and its node run on one clock.
#[derive(Clone)]
pub struct Service(Arc<Call>);

type Call = dyn Fn(reqwest::Request) -> BoxFuture<'static, Result<reqwest::Response, NoAnswer>> + Send + Sync;

/// No answer came, as when a connection breaks; whether the request was heard is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("closed without an answer")]
pub struct NoAnswer;

impl Service {
    pub fn new(call: impl Fn(reqwest::Request) -> BoxFuture<'static, Result<reqwest::Response, NoAnswer>> + Send + Sync + 'static) -> Self {
        Self(Arc::new(call))
    }

    pub async fn call(&self, request: reqwest::Request) -> Result<reqwest::Response, NoAnswer> {
        (self.0)(request).await
    }
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Service")
    }
}

/// Path on the gateway where a guest reports that its agent ended. A hint: the hub looks for itself.
pub const EXIT_PATH: &str = "/autovibe/v1/exit";

/// Body of a `POST` to [`EXIT_PATH`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExitReport {
    /// Which launch of the agent ended, counted from 1.
    pub launch: u32,
    pub exit_code: i32,
}

/// Why the gateway passed no call of a launch on, as [`annotation::UNSENT`] has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Unsent {
    /// Which launch of the agent asked, counted from 1.
    pub launch: u32,
    pub why: String,
}

/// Annotations by which gateway and controllers talk through objects.
pub mod annotation {
    /// On a Machine: `<launch>:<exit code>`, as the guest reported it.
    pub const AGENT_EXIT: &str = "autovibe.dev/agent-exit";
    /// On a Machine: why a call of its agent went to no provider, JSON of [`super::Unsent`].
    pub const UNSENT: &str = "autovibe.dev/unsent";
    /// On a Checkpoint: the conversation it belongs to, JSON of `api::checkpoint::Session`.
    pub const SESSION: &str = "autovibe.dev/session";
    /// On a Checkpoint: `true` when no other context of the agent was acting.
    pub const QUIESCENT: &str = "autovibe.dev/quiescent";
    /// On a Checkpoint: the tool results that must be in the agent's transcript on disk first, comma-separated ids.
    pub const AWAIT_RESULTS: &str = "autovibe.dev/await-results";
    /// On a Checkpoint: why it was asked for, JSON of a list of `api::checkpoint::Reason`.
    pub const REASONS: &str = "autovibe.dev/reasons";
}

/// Labels, for `kubectl get -l`.
pub mod label {
    /// On a Checkpoint and an Approval: name of the Machine.
    pub const MACHINE: &str = "autovibe.dev/machine";
    /// On a Machine: name of the one whose agent spawned it.
    pub const SPAWNED_BY: &str = "autovibe.dev/spawned-by";
}

/// Where a running lab is found; the file `endpoint.json` (mode 0600) in its data directory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LabEndpoint {
    pub pid: u32,
    /// `real` or `simulated`.
    pub mode: String,
    /// URL of its Proxmox API.
    pub endpoint: String,
    /// SHA-256 of its certificate, with colons; absent for plain HTTP on loopback, as Proxmox' own daemon on port 85.
    pub fingerprint: Option<String>,
    pub token_id: String,
    pub secret: String,
    pub node: String,
    /// The zfspool storage and its dataset.
    pub storage: String,
    pub dataset: String,
    /// The checkpoint tree.
    pub keep: String,
    /// Socket of the helper that answers `zfs`; absent where the machine's own `zfs` is used.
    pub zfs_socket: Option<std::path::PathBuf>,
    pub bridge: String,
    pub vmid_from: u32,
    pub vmid_to: u32,
    /// URL of the hub's gateway as a guest must use it.
    pub gateway_url: String,
    /// The hub's address that guests are forwarded to, as it was given at start.
    pub gateway: std::net::SocketAddr,
}
