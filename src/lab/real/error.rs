//! What can go wrong with real guests, as far as a caller acts on it.

use std::path::Path;
use std::time::Duration;

/// Why something with a guest was not done. The words of those that Proxmox has, too, are Proxmox'.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A program that is needed is not there.
    #[error("{0}")]
    Unavailable(String),
    #[error("VM {0} already running")]
    Running(u32),
    #[error("VM {0} is not running")]
    NotRunning(u32),
    /// No agent listens in the guest, or it does not answer; nothing was asked of it.
    #[error("QEMU guest agent is not running")]
    AgentSilent(u32),
    /// The command was sent, its answer not seen: it may have been done.
    #[error("VM {vmid} qga command '{command}' failed - got timeout")]
    AgentTimeout { vmid: u32, command: String },
    /// The VM's config asks for what the lab cannot give.
    #[error("{0}")]
    Config(String),
    /// QEMU's own words.
    #[error("{0}")]
    Failed(String),
    #[error("{what}: {source}")]
    Io {
        what: String,
        #[source]
        source: std::io::Error,
    },
}

impl Error {
    pub(super) fn io(what: &str, path: &Path) -> impl FnOnce(std::io::Error) -> Self + use<> {
        let what = format!("{what} {}", path.display());
        move |source| Self::Io { what, source }
    }
}

/// How long a plain question to QEMU or to an agent may take.
pub(super) const ANSWER: Duration = Duration::from_secs(10);
