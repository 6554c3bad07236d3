//! What the storage of a Hub can do and what it cannot: declared by its driver, narrowed by what was probed, told in the Hub's status,
//! and asked before anything is tried. Plans ask for one of these, never for a driver's name.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;

/// One thing that a storage driver can or cannot do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum CapabilityName {
    /// A checkpoint of a Machine that goes on: while it runs, between its messages, when it is suspended.
    CheckpointInLife,
    /// A Machine is forked as it is now, while it runs.
    ForkNow,
    /// A Machine is put back to any of its checkpoints, or to what it was spawned from.
    Restore,
    /// A checkpoint has the guest's memory beside its disks.
    Memory,
    /// A Machine that is suspended keeps its memory, and goes on from there.
    SuspendWithMemory,
    /// A checkpoint is copied to another node, where a Machine is to be spawned from it.
    Move,
    /// All disks of a VM are captured at one instant.
    SeveralDisksAtOnce,
    /// A copy to another node that breaks off is continued.
    ResumeCopy,
    /// Disks outlive their VM. Without it a final checkpoint is its VM, kept as a template under its VMID.
    DetachDisks,
}

impl CapabilityName {
    /// All there are.
    pub const ALL: [Self; 9] = [
        Self::CheckpointInLife,
        Self::ForkNow,
        Self::Restore,
        Self::Memory,
        Self::SuspendWithMemory,
        Self::Move,
        Self::SeveralDisksAtOnce,
        Self::ResumeCopy,
        Self::DetachDisks,
    ];

    /// What a Hub that has it can do, in words that follow “can” and “cannot”.
    pub fn words(self) -> &'static str {
        match self {
            Self::CheckpointInLife => "take a checkpoint of a machine that goes on",
            Self::ForkNow => "fork a machine that runs, as it is now",
            Self::Restore => "put a machine back to an earlier state",
            Self::Memory => "save a guest's memory in a checkpoint",
            Self::SuspendWithMemory => "suspend a machine with its memory",
            Self::Move => "copy a checkpoint to another node",
            Self::SeveralDisksAtOnce => "capture all disks of a VM at one instant",
            Self::ResumeCopy => "continue a copy to another node that broke off",
            Self::DetachDisks => "keep disks without their VM",
        }
    }
}

/// Whether the Hub's storage can do one thing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Capability {
    pub name: CapabilityName,
    pub possible: bool,
    /// Why not, and what happens instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// All that a storage driver can do, and why it cannot do the rest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Capabilities(Vec<Capability>);

impl Capabilities {
    /// Everything, but for what is listed with its reason.
    pub fn all_but(missing: &[(CapabilityName, &str)]) -> Self {
        let one = |name: CapabilityName| {
            let why = missing.iter().find(|(other, _)| *other == name).map(|(_, why)| (*why).to_owned());
            Capability { name, possible: why.is_none(), message: why }
        };
        Self(CapabilityName::ALL.into_iter().map(one).collect())
    }

    /// As a Hub's status tells them.
    pub fn told(&self) -> Vec<Capability> {
        self.0.clone()
    }

    /// The names of those that it has.
    pub fn names(&self) -> BTreeSet<CapabilityName> {
        self.0.iter().filter(|capability| capability.possible).map(|capability| capability.name).collect()
    }

    pub fn has(&self, name: CapabilityName) -> bool {
        self.0.iter().any(|capability| capability.name == name && capability.possible)
    }
}

/// Why what is listed says that one thing is not possible; `None` also where nothing is listed yet.
pub fn impossible(told: &[Capability], name: CapabilityName) -> Option<String> {
    let found = told.iter().find(|capability| capability.name == name && !capability.possible)?;
    let why = found.message.as_ref().map(|why| format!(": {why}")).unwrap_or_default();
    Some(format!("cannot {}{why}", name.words()))
}
