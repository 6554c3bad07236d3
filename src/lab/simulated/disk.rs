//! What is on a model disk: small enough to be copied with every snapshot, so that a test sees from where a clone starts.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;

/// The agent's end, as the wrapper in the guest writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Exit {
    pub(crate) launch: u32,
    pub(crate) code: i32,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Disk {
    pub(crate) hostname: Option<String>,
    pub(crate) machine_id: Option<String>,
    /// The ref that the workspace was filled from.
    pub(crate) source: Option<String>,
    /// What that was of, and which directory it filled.
    pub(crate) origin: Option<(String, String)>,
    /// The bundle that it came in, base64; agents here commit nothing.
    pub(crate) bundle: Option<String>,
    /// Files written through the guest agent, with their sizes.
    pub(crate) files: BTreeMap<String, usize>,
    /// One line for each tool that an agent ran here, whichever agent it was.
    pub(crate) workspace: Vec<String>,
    /// Answers that agents acted on, over all conversations of this disk.
    pub(crate) turns: u32,
    /// Launches that this machine started on this disk, oldest first.
    pub(crate) launches: Vec<u32>,
    pub(crate) exit: Option<Exit>,
    /// The agent's session files: which conversation, and its messages.
    pub(crate) session: String,
    pub(crate) messages: Vec<Value>,
}
