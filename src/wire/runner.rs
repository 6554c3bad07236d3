//! What the runner in a guest and the gateway say to each other.
//!
//! A launch has a key. The runner, which is root, has the key; the agent, an ordinary user, has the token that is made of it.
//! So a runner can prove what it is, and an agent cannot.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};

/// Path on the gateway where a runner says that it answers for its agent's tool calls. It says so again and again.
pub const RUNNER_PATH: &str = "/autovibe/v1/runner";
/// Path on the gateway where a runner asks whether a tool call may be made.
pub const TOOL_PATH: &str = "/autovibe/v1/tool";

/// What both speak; raised with every change, so that images get the new runner.
pub const PROTOCOL: &str = "1";

/// How a key begins.
const KEY: &str = "avr_";
/// How a token begins.
const TOKEN: &str = "av_";
/// Hex digits behind it.
const DIGITS: usize = 64;

/// The key of a launch, made of random bytes.
pub fn key(bytes: [u8; DIGITS / 2]) -> String {
    format!("{KEY}{}", hex::encode(bytes))
}

/// The agent's token of a launch with this key; `None` for what is no key.
pub fn token_of(key: &str) -> Option<String> {
    let digits = key.strip_prefix(KEY)?;
    let legal = digits.len() == DIGITS && digits.bytes().all(|b| b.is_ascii_hexdigit());
    legal.then(|| format!("{TOKEN}{}", hex::encode(Sha256::digest(format!("autovibe agent\0{key}")))))
}

/// Body of a `POST` to [`TOOL_PATH`]: a tool call that waits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ToolQuestion {
    pub tool: String,
    pub input: Value,
    /// Id of the call.
    pub id: String,
}

/// Its answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "ruling", rename_all = "camelCase")]
pub enum ToolAnswer {
    Allow,
    /// In words, for the model.
    Deny {
        words: String,
    },
    /// Nothing is decided yet: ask again.
    Wait,
}
