//! What a call answers, and how Proxmox says no.

use serde_json::{Value, json};
use std::collections::BTreeMap;

/// `data` of an answer, with `total` where a list has one.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) data: Value,
    pub(super) total: Option<usize>,
}

impl From<Value> for Reply {
    fn from(data: Value) -> Self {
        Self { data, total: None }
    }
}

#[derive(Debug)]
pub(super) enum Refusal {
    /// 400, with a reason for each parameter.
    Parameters(BTreeMap<String, String>),
    /// A `die` in the handler: its text, in the reason phrase and in the body.
    Text(u16, String),
    /// Refused before any handler: the text is the body, and no JSON.
    Plain(u16, String),
    /// The reason phrase is all there is: 401, and unknown HTTP methods.
    Empty(u16, String),
    /// The connection is closed without an answer.
    Lost,
}

pub(super) type Answer = Result<Reply, Refusal>;

impl Refusal {
    pub(super) fn parameter(name: &str, reason: impl Into<String>) -> Self {
        Self::Parameters(BTreeMap::from([(name.to_owned(), reason.into())]))
    }

    /// Most refusals: 500.
    pub(super) fn die(text: impl Into<String>) -> Self {
        Self::Text(500, text.into())
    }

    /// Why, on one line.
    pub(super) fn words(&self) -> String {
        match self {
            Self::Parameters(errors) => {
                errors.iter().map(|(name, why)| format!("{name}: {}", why.trim_end())).collect::<Vec<_>>().join("; ")
            }
            Self::Text(_, text) | Self::Plain(_, text) | Self::Empty(_, text) => text.clone(),
            Self::Lost => "no node is up".into(),
        }
    }

    /// Status, reason phrase, content type and body; `None` for [`Self::Lost`].
    pub(super) fn render(self) -> Option<(u16, String, &'static str, String)> {
        const JSON: &str = "application/json;charset=UTF-8";
        Some(match self {
            Self::Parameters(errors) => {
                let message = "Parameter verification failed.";
                (400, message.to_owned(), JSON, json!({ "data": null, "message": format!("{message}\n"), "errors": errors }).to_string())
            }
            // An unknown path's text has no newline, a handler's has.
            Self::Text(501, text) => (501, text.clone(), JSON, json!({ "data": null, "message": text }).to_string()),
            Self::Text(status, text) => {
                let reason = text.lines().next().unwrap_or_default().to_owned();
                (status, reason, JSON, json!({ "data": null, "message": format!("{text}\n") }).to_string())
            }
            Self::Plain(status, text) => (status, text.clone(), "text/plain", text),
            Self::Empty(status, reason) => (status, reason, "text/plain", String::new()),
            Self::Lost => return None,
        })
    }
}
