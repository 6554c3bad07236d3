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
    /// Someone else changed the config since its digest was read.
    #[error("{0}")]
    Changed(String),
    /// The storage has no room.
    #[error("{0}")]
    OutOfSpace(String),
    /// A volume that a config or a call names is not on its storage.
    #[error("{0}")]
    NoVolume(String),
    /// Something else stands on it: linked clones, snapshots.
    #[error("{0}")]
    InUse(String),
    /// The cluster has no majority: nothing can be written.
    #[error("{0}")]
    NoQuorum(String),
    /// The answer stays the same until a person changes a setting, there or in our spec.
    #[error("{0}")]
    Refused(String),
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

/// What a refusal is to a controller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// It passes by itself.
    Transient,
    /// What is there is not what was supposed: look again, then decide anew.
    Conflict,
    /// Only a person can help.
    Permanent,
    /// It says nothing that is known, or not whether it was done: look again, and wait longer each time.
    Unknown,
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
    (&["checksum mismatch"], Error::Changed),
    (&["detected modified configuration"], Error::Changed),
    (&["out of space"], Error::OutOfSpace),
    (&["No space left on device"], Error::OutOfSpace),
    (&["no quorum"], Error::NoQuorum),
    (&["still in use"], Error::InUse),
    (&["guest agent is not running"], Error::AgentNotRunning),
    (&["No QEMU guest agent configured"], Error::AgentUnconfigured),
    (&["no such task"], Error::NoSuchTask),
    (&["VM ", " not running"], Error::NotRunning),
    (&["CT ", " not running"], Error::NotRunning),
    (&["is running", "destroy"], Error::AlreadyRunning),
    (&["volume '", "' does not exist"], Error::NoVolume),
    (&["storage '", "' is disabled"], Error::Refused),
    (&["storage '", "' does not exist"], Error::Refused),
    (&["storage '", "' is not available on node"], Error::Refused),
    (&["bridge '", "' does not exist"], Error::Refused),
    (&["pool '", "' does not exist"], Error::Refused),
    (&["no such cluster node"], Error::Refused),
    (&["only root can"], Error::Refused),
    (&["Only root can"], Error::Refused),
    (&["not allowed for linked clones"], Error::Refused),
    (&["Full clone feature"], Error::Refused),
    (&["Linked clone feature"], Error::Refused),
    (&["lone feature is not supported"], Error::Refused),
    (&["can't clone to non-shared storage"], Error::Refused),
    (&["can't clone VM to node", "local storage"], Error::Refused),
    (&["reserved name"], Error::Refused),
    (&["unable to parse directory volume name"], Error::Refused),
    (&["unsupported format"], Error::Refused),
    (&["unable to delete required option"], Error::Refused),
    (&["unable to shrink disk size"], Error::Refused),
    (&["you can't move to the same storage"], Error::Refused),
    (&["SSH public key validation error"], Error::Refused),
    (&["no options specified"], Error::Refused),
    (&["already a pool member"], Error::Refused),
    (&["is not a pool member"], Error::Refused),
    (&["belongs already to pool"], Error::Refused),
    (&["create pool failed"], Error::Refused),
    (&["delete pool failed"], Error::Refused),
    (&["malformed JSON string"], Error::Refused),
    (&["shrinking disks is not supported"], Error::Refused),
    (&["snapshot feature is not available"], Error::Refused),
    (&["is not most recent snapshot"], Error::Refused),
    (&["incomplete snapshot"], Error::Refused),
    (&["if it's a template"], Error::Refused),
    (&["a template to a template"], Error::Refused),
    (&["to template if VM is running"], Error::AlreadyRunning),
    (&["unable to create template, because"], Error::Refused),
    (&["cannot import from"], Error::Refused),
    (&["EFI base image", "not found"], Error::Refused),
];

/// How an answer of the guest's agent begins.
const AGENT: &str = "Agent error";

impl Error {
    /// Reads a refusal by its status and text; also the exit status of a failed task (then with `status` 500).
    pub fn from_text(status: u16, text: &str) -> Self {
        let text = text.trim().to_owned();
        match status {
            401 => return Self::unauthorized(text),
            403 => return Self::Forbidden(text),
            // It has no such call, or not with such a body: another version than we know.
            501 | 506 => return Self::Refused(format!("{status} {text}")),
            // Proxmox' own proxy lost the daemon or another node; the action may still be running there.
            595..=599 => return Self::Unknown(format!("{status} {text}")),
            _ => {}
        }
        // What follows are the guest's words, which may be any: they say nothing of the VM.
        if text.starts_with(AGENT) {
            let gone = text.contains("Invalid parameter 'pid'") || text.contains("PID") && text.contains("does not exist");
            return if gone { Self::AgentNoPid(text) } else { Self::Other { status, message: text } };
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

    pub fn class(&self) -> Class {
        match self {
            Self::Locked(_)
            | Self::LockTimeout(_)
            | Self::OutOfSpace(_)
            | Self::InUse(_)
            | Self::NoQuorum(_)
            | Self::AgentNotRunning(_)
            | Self::Lapsed(_) => Class::Transient,
            Self::NoConfig(_)
            | Self::VmidTaken(_)
            | Self::AlreadyRunning(_)
            | Self::NotRunning(_)
            | Self::Changed(_)
            | Self::AgentNoPid(_)
            | Self::NoSuchTask(_) => Class::Conflict,
            Self::Refused(_)
            | Self::Protected(_)
            | Self::AgentUnconfigured(_)
            | Self::Forbidden(_)
            | Self::Unauthorized { .. }
            | Self::Parameters { .. } => Class::Permanent,
            Self::Unknown(_) | Self::NoVolume(_) | Self::Other { .. } => Class::Unknown,
        }
    }

    /// Whether trying again can help, and when.
    pub fn retry(&self) -> Retry {
        match self {
            Self::Unauthorized { wait, .. } => Retry::After(*wait),
            // Rights are changed by people, and nothing here tells when.
            Self::Forbidden(_) => Retry::After(Duration::from_mins(1)),
            Self::Locked(_) => Retry::After(Duration::from_secs(5)),
            Self::NoQuorum(_) => Retry::After(Duration::from_secs(10)),
            Self::OutOfSpace(_) | Self::InUse(_) => Retry::After(Duration::from_secs(30)),
            _ if self.class() == Class::Permanent => Retry::Never,
            _ => Retry::Soon,
        }
    }
}
