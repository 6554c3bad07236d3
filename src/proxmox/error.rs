//! What Proxmox refuses and why: every business error is a 500 whose text alone tells them apart, so the texts are
//! read here, once, loosely (a phrase, not a sentence), and nowhere else.

use super::breaker::PAUSE;
use crate::clock::{Lapsed, Retry};
use std::{collections::BTreeMap, time::Duration};

/// What a caller can act on. Every text that is not known is `Other`: observe again before anything else.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The VM's config is not on that node: gone, moved, or not yet made.
    #[error("{0}")]
    NoConfig(String),
    /// The VMID or its config exists already.
    #[error("{0}")]
    VmidTaken(String),
    /// The VM runs, and must not for what was asked: a start, or a destroy.
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
    /// The credential as a whole is refused; `wait` is the time until Proxmox is asked again, which is in no text.
    #[error("{message}")]
    Unauthorized { message: String, wait: Duration },
    /// 400 with the parameters that were refused.
    #[error("{message}: {errors:?}")]
    Parameters { message: String, errors: BTreeMap<String, String> },
    /// Sent, but no answer was read (reset, 595, 596, time-out): it may have been done.
    #[error("no answer: {0}")]
    Unknown(String),
    /// Not sent.
    #[error(transparent)]
    Lapsed(#[from] Lapsed),
    #[error("{status} {message}")]
    Other { status: u16, message: String },
}

/// One known text: phrases that must all occur, and the variant.
type Known = (&'static [&'static str], fn(String) -> Error);

/// Known texts, first match wins; each is from a recorded answer or from Proxmox' source.
const TEXTS: &[Known] = &[
    (&["can't lock file", "got timeout"], Error::LockTimeout),
    (&["got lock request timeout"], Error::LockTimeout),
    (&["cfs-lock", "error"], Error::LockTimeout),
    (&["onfiguration file", "does not exist"], Error::NoConfig),
    (&["unable to find configuration file"], Error::NoConfig),
    (&["already exists on node"], Error::VmidTaken),
    (&["config file already exists"], Error::VmidTaken),
    (&["already running"], Error::AlreadyRunning),
    (&["is running - destroy failed"], Error::AlreadyRunning),
    (&["protection mode enabled"], Error::Protected),
    (&["guest agent is not running"], Error::AgentNotRunning),
    (&["No QEMU guest agent configured"], Error::AgentUnconfigured),
    (&["Agent error", "Invalid parameter 'pid'"], Error::AgentNoPid),
    (&["Agent error", "PID", "does not exist"], Error::AgentNoPid),
    (&["no such task"], Error::NoSuchTask),
    (&["VM ", " not running"], Error::NotRunning),
];

impl Error {
    /// Reads a refusal by its status and text; also the exit status of a failed task (then with `status` 500).
    pub fn from_text(status: u16, text: &str) -> Self {
        let text = text.trim().to_owned();
        match status {
            401 => return Self::unauthorized(text),
            403 => return Self::Forbidden(text),
            // Proxmox' own proxy lost the daemon or another node; the action may still be running there.
            595..=599 => return Self::Unknown(format!("{status} {text}")),
            _ => {}
        }
        if let Some(lock) = text.split("is locked (").nth(1).and_then(|rest| rest.split(')').next()) {
            return Self::Locked(lock.to_owned());
        }
        match TEXTS.iter().find(|(phrases, _)| phrases.iter().all(|phrase| text.contains(phrase))) {
            Some((_, variant)) => variant(text),
            None => Self::Other { status, message: text },
        }
    }

    pub(super) fn unauthorized(message: impl Into<String>) -> Self {
        Self::Unauthorized { message: message.into(), wait: PAUSE }
    }

    /// Reads a refusal with `errors` by parameter.
    pub(super) fn from_parameters(message: &str, errors: BTreeMap<String, String>) -> Self {
        if errors.get("upid").is_some_and(|reason| reason.contains("no such task")) {
            return Self::NoSuchTask("no such task".into());
        }
        if errors.get("vmid").is_some_and(|reason| reason.contains("already exists")) {
            return Self::VmidTaken(errors["vmid"].trim().to_owned());
        }
        Self::Parameters { message: message.trim().to_owned(), errors }
    }

    /// Whether trying again can help, and when.
    pub fn retry(&self) -> Retry {
        match self {
            Self::Unauthorized { wait, .. } => Retry::After(*wait),
            // Rights are changed by people.
            Self::Forbidden(_) => Retry::After(Duration::from_mins(1)),
            Self::Locked(_) => Retry::After(Duration::from_secs(5)),
            Self::Parameters { .. } | Self::Protected(_) | Self::AgentUnconfigured(_) => Retry::Never,
            _ => Retry::Soon,
        }
    }
}
