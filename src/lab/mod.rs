//! A Proxmox-compatible node for machines without Proxmox: the REST API as far as autovibe's client uses it, in front
//! of real QEMU guests on real ZFS, or of model guests on a model pool.
//!
//! It refuses what Proxmox refuses; kinder is a bug. Not here: who uses it. The hub speaks to it as to any Proxmox.

pub mod guests;
pub mod real;
pub mod simulated;

use std::{net::SocketAddr, path::PathBuf};
use tokio_util::sync::CancellationToken;

/// What stands behind the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// QEMU guests on this machine's ZFS.
    Real,
    /// Model guests on a model pool.
    Simulated,
}

/// How to run a lab.
#[derive(Clone, Debug)]
pub struct Config {
    pub mode: Mode,
    /// Its state, and `endpoint.json` by which it is found.
    pub data: PathBuf,
    /// Where to serve the API: loopback.
    pub listen: SocketAddr,
    /// The hub's gateway, to which guests' requests go.
    pub gateway: SocketAddr,
    /// How far behind `/cluster/resources` shows names and states; Proxmox needs up to 10 s.
    pub lag: std::time::Duration,
    /// How long a wrong token waits for its 401; Proxmox waits 3 s.
    pub refusal: std::time::Duration,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the lab cannot serve on {address}: {source}")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error("the lab's directory {path} cannot be used: {source}")]
    Data { path: PathBuf, source: std::io::Error },
    /// The state that a former lab left cannot be read: its guests and pool are not thrown away.
    #[error("{path} cannot be read: {reason}")]
    State { path: PathBuf, reason: String },
    #[error("real guests cannot be run here: {0}")]
    Real(String),
}

/// A running lab, with hooks for tests.
pub struct Lab {
    address: SocketAddr,
}

impl Lab {
    /// Where its API serves.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Serves until `shutdown`; guests live on.
pub async fn run(_config: Config, _shutdown: CancellationToken) -> Result<(), Error> {
    Err(Error::Real("not served yet".into()))
}
