//! The kinds that users write: `Machine`, `Checkpoint`, `Budget` and `Hub` of group `autovibe.dev/v1alpha1`; and `Approval`, which the
//! hub writes and users answer.
//!
//! One file a kind: spec, status, and the validation that a schema cannot say. Pure: no IO, no clock, and nothing from
//! the rest of the crate, so that a small guest binary may one day use it alone. A field stands here only when its
//! behaviour exists; anything else a user writes is refused by name.

pub mod approval;
pub mod budget;
pub mod capability;
pub mod checkpoint;
pub mod crd;
pub mod exec;
pub mod hub;
pub mod machine;
pub mod meta;
pub mod network;
pub mod permission;
pub mod quantity;
pub mod rule;
pub mod schema;
#[cfg(test)]
mod tests;

pub use approval::Approval;
pub use budget::Budget;
pub use checkpoint::Checkpoint;
pub use hub::Hub;
pub use machine::Machine;
pub use meta::{FieldError, Kind, Problem, Scope};
pub use permission::Permission;

/// API group of every kind here.
pub const GROUP: &str = "autovibe.dev";
/// The one served version.
pub const VERSION: &str = "v1alpha1";
/// `apiVersion` of every kind here.
pub const API_VERSION: &str = "autovibe.dev/v1alpha1";
/// Namespace of the hub's own objects: its Secrets and, for a Hub that lives in a VM, its Machine.
pub const SYSTEM_NAMESPACE: &str = "autovibe-system";
/// Name of the Hub that a Machine gets when it names none.
pub const DEFAULT_HUB: &str = "default";
/// The Budget of a namespace within which its Machines are that name none, if there is one.
pub const DEFAULT_BUDGET: &str = "default";
