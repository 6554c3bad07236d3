//! Where an agent asks the gateway for what its Machine's permissions let it have.

/// `POST`: a checkpoint.
pub const CHECKPOINTS_PATH: &str = "/autovibe/v1/checkpoints";
/// `GET`: what it may still spend.
pub const BUDGET_PATH: &str = "/autovibe/v1/budget";
/// `GET`: what led to its present state.
pub const LINEAGE_PATH: &str = "/autovibe/v1/lineage";
/// `POST`: another Machine; `GET`: those that it spawned.
pub const MACHINES_PATH: &str = "/autovibe/v1/machines";
/// The same as tools of the Model Context Protocol.
pub const MCP_PATH: &str = "/mcp";
