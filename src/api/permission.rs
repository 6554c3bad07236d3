//! What a Machine's agent may ask of its hub with its own token.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One thing that an agent may ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum Permission {
    /// A checkpoint of its own Machine.
    Checkpoint,
    /// What it may still spend.
    ReadBudget,
    /// The checkpoints that led to its present state.
    ReadLineage,
    /// Machines beside it: forks of its own, which work towards other goals and are paid out of its own limits.
    SpawnMachines,
}

impl Permission {
    /// Every permission.
    pub const ALL: [Self; 4] = [Self::Checkpoint, Self::ReadBudget, Self::ReadLineage, Self::SpawnMachines];
}
