//! Default, prune, validate, merge: pure.

use crate::api::meta::{Column, Scope};
use crate::store::Key;
use serde_json::Value;

/// A served resource: one of our kinds, or one of core that clients need.
#[derive(Clone, Debug)]
pub struct Resource {
    /// Empty for core.
    pub group: &'static str,
    pub version: &'static str,
    pub kind: &'static str,
    pub plural: &'static str,
    pub singular: &'static str,
    pub short_names: &'static [&'static str],
    pub scope: Scope,
    pub categories: &'static [&'static str],
    /// Beside Name.
    pub columns: &'static [Column],
    pub has_status: bool,
    /// Structural schema of the whole object (`type: object, properties: {spec, status, …}`), with defaults.
    pub schema: Value,
}

impl Resource {
    /// `machines.autovibe.dev`, or `secrets` for core.
    pub fn name(&self) -> String {
        if self.group.is_empty() { self.plural.into() } else { format!("{}.{}", self.plural, self.group) }
    }
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.into() } else { format!("{}/{}", self.group, self.version) }
    }
    pub fn key(&self, namespace: &str, name: &str) -> Key {
        Key::new(self.name(), namespace, name)
    }
}

/// Everything that is served, in order of preference.
pub fn resources() -> &'static [Resource] {
    unimplemented!()
}
