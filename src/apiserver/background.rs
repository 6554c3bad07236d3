//! Housekeeping that no request asks for: Namespaces that are to go, and Events that have had their time.

use crate::objects::Objects;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Runs until `shutdown`.
pub(super) fn start(_objects: Objects, shutdown: CancellationToken) -> JoinHandle<()> {
    tokio::spawn(async move {
        shutdown.cancelled().await;
    })
}
