//! What `zfs` refuses and why: exit status 1 and a sentence on standard error, told apart by its trailing phrase.

use crate::clock::{Lapsed, Retry};
use std::time::Duration;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0} exists already")]
    Exists(String),
    #[error("{0} does not exist")]
    NotFound(String),
    /// A mounted or open dataset: try again soon.
    #[error("{0} is busy")]
    Busy(String),
    #[error("{0} is held")]
    Held(String),
    #[error("{0} has dependent clones")]
    HasClones(String),
    #[error("{0} has children")]
    HasChildren(String),
    #[error("the pool is out of space: {0}")]
    OutOfSpace(String),
    /// Started, but its end was not seen: it may have been done.
    #[error("no answer from zfs: {0}")]
    Unknown(String),
    /// The program or helper is not there: nothing was done.
    #[error("zfs cannot be run: {0}")]
    Unavailable(String),
    /// The helper on the node did not run it, and says why.
    #[error("the helper on the node refused: {0}")]
    Refused(String),
    /// Nothing was run.
    #[error(transparent)]
    Lapsed(#[from] Lapsed),
    /// A name that ZFS does not allow; nothing was run.
    #[error("{0} is not a legal name for ZFS")]
    BadName(String),
    #[error("zfs failed: {0}")]
    Other(String),
}

/// A text of zfs, and the error it means.
type Meaning = (&'static str, fn(String) -> Error);

/// Known phrases of OpenZFS 2.x and zfs-fuse 0.7, first match wins, and what each means for the command's subject.
const TEXTS: &[Meaning] = &[
    ("being held", Error::Held),
    ("dependent clones", Error::HasClones),
    ("snapshot is cloned", Error::HasClones),
    ("has children", Error::HasChildren),
    ("already exists", Error::Exists),
    ("is busy", Error::Busy),
    ("resource busy", Error::Busy),
    ("could not find any snapshots to destroy", Error::NotFound),
    ("dataset does not exist", Error::NotFound),
    ("no such pool", Error::NotFound),
];

/// Phrases that are about the machinery and not about the subject; they keep the whole text.
const STATES: &[Meaning] = &[
    ("modules are not loaded", Error::Unavailable),
    ("zfs-fuse daemon is running", Error::Unavailable),
    ("failed to initialize ZFS library", Error::Unavailable),
    ("/dev/zfs", Error::Unavailable),
    ("I/O is currently suspended", Error::Unknown),
    ("out of space", Error::OutOfSpace),
    ("quota exceeded", Error::OutOfSpace),
];

impl Error {
    /// Reads a refusal of a command about `subject`.
    pub(super) fn from_text(subject: &str, stderr: &str) -> Self {
        if let Some((_, variant)) = STATES.iter().find(|(phrase, _)| stderr.contains(phrase)) {
            return variant(stderr.trim().to_owned());
        }
        match TEXTS.iter().find(|(phrase, _)| stderr.contains(phrase)) {
            Some((_, variant)) => variant(subject.to_owned()),
            None => Self::Other(stderr.trim().to_owned()),
        }
    }

    /// Whether trying again can help, and when.
    pub fn retry(&self) -> Retry {
        match self {
            Self::BadName(_) => Retry::Never,
            // People set the helper up.
            Self::Refused(_) => Retry::After(Duration::from_secs(30)),
            // Room is made by people or by garbage collection, both slow.
            Self::OutOfSpace(_) => Retry::After(Duration::from_mins(1)),
            _ => Retry::Soon,
        }
    }
}
