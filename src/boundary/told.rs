//! How an agent is told that its call was not made, in the one place that its model reads for certain: the call's result.

use super::{risk::tool, rules::Tool};
use serde_json::Value;

/// Whether a call of this tool can be told something: it runs what a shell reads. All that can leave the VM does.
pub fn can_be_told(name: &str) -> bool {
    tool(name) == Some(Tool::Shell)
}

/// The input that takes the place of a call's: it does nothing but say `words`, and fails.
pub fn told(input: &Value, words: &str) -> Value {
    let mut told = input.clone();
    told["command"] = format!("printf '%s\\n' '{}' >&2; exit 1", words.replace('\'', r"'\''")).into();
    for field in ["run_in_background", "is_background"] {
        if let Some(flag) = told.get_mut(field) {
            *flag = false.into();
        }
    }
    told
}
