//! A last word on a write, by someone who knows more of its sender than admission does.

use super::Error;
use serde_json::Value;
use std::{fmt, sync::Arc};

/// Judges what a write would leave in the store: given the object before it (`None`: it would be created) and after it. It
/// is asked anew for each try of a write that others overtake, so what it let pass is what is written.
#[derive(Clone)]
pub struct LastWord(Arc<Judge>);

type Judge = dyn Fn(Option<&Value>, &Value) -> Result<(), Error> + Send + Sync;

impl LastWord {
    pub fn new(judge: impl Fn(Option<&Value>, &Value) -> Result<(), Error> + Send + Sync + 'static) -> Self {
        Self(Arc::new(judge))
    }

    /// Without one, everything passes.
    pub(super) fn ask(judge: Option<&Self>, before: Option<&Value>, after: &Value) -> Result<(), Error> {
        judge.map_or(Ok(()), |judge| (judge.0)(before, after))
    }
}

impl fmt::Debug for LastWord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LastWord")
    }
}
