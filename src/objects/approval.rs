//! A last word on a write, by someone who knows more of its sender than admission does.

use super::Error;
use serde_json::Value;
use std::{fmt, sync::Arc};

/// Judges what a write would leave in the store: given the object before it (`None`: it would be created) and after it. It
/// is asked anew for each try of a write that others overtake, so what it approved is what is written.
#[derive(Clone)]
pub struct Approval(Arc<Judge>);

type Judge = dyn Fn(Option<&Value>, &Value) -> Result<(), Error> + Send + Sync;

impl Approval {
    pub fn new(judge: impl Fn(Option<&Value>, &Value) -> Result<(), Error> + Send + Sync + 'static) -> Self {
        Self(Arc::new(judge))
    }

    /// Without one, everything is approved.
    pub(super) fn ask(approval: Option<&Self>, before: Option<&Value>, after: &Value) -> Result<(), Error> {
        approval.map_or(Ok(()), |approval| (approval.0)(before, after))
    }
}

impl fmt::Debug for Approval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Approval")
    }
}
