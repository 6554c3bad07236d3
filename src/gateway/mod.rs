//! Authenticates, reserves, forwards, meters and settles model calls.

use crate::objects::Objects;
use std::{net::SocketAddr, time::Duration};
use tokio_util::sync::CancellationToken;

/// How the gateway is to run.
#[derive(Clone, Debug)]
pub struct Config {
    pub listen: SocketAddr,
    /// How long an answer waits for the checkpoint before it, at most.
    pub hold: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([127, 0, 0, 1], 0)), hold: Duration::from_secs(30) }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the gateway cannot listen on {address}: {source}")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error("the ledger could not be recovered: {0}")]
    Ledger(#[from] crate::store::Error),
}

/// A gateway that serves.
pub struct Server {
    /// Where it listens.
    pub address: SocketAddr,
    serving: tokio::task::JoinHandle<()>,
}

impl Server {
    /// Returns when the gateway has stopped and every call is settled.
    pub async fn stopped(self) {
        let _ = self.serving.await;
    }
}

/// Starts the gateway. It stops when `shutdown` is cancelled.
pub async fn start(_config: Config, _objects: Objects, _shutdown: CancellationToken) -> Result<Server, Error> {
    unimplemented!()
}
