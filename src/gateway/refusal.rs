//! What the gateway itself says to an agent in place of a model, so that each program does what is meant: stop, or wait.

use super::answer::Head;
use crate::{budget, llm::Protocol, objects, store};
use bytes::Bytes;

/// Why a request is not answered by a model.
#[derive(Clone, Debug)]
pub(super) struct Refusal {
    status: u16,
    kind: &'static str,
    text: String,
    again: Again,
}

/// Whether an agent should try a refused request again.
#[derive(Clone, Copy, Debug)]
pub(super) enum Again {
    Never,
    /// As its program thinks right.
    Maybe,
    /// In so many seconds.
    After(u32),
}

impl Refusal {
    /// `status` and `kind` are the Messages API's; the other protocols' follow from them.
    pub(super) fn new(status: u16, kind: &'static str, text: impl AsRef<str>, again: Again) -> Self {
        Self { status, kind, text: format!("autovibe: {}", text.as_ref()), again }
    }

    /// The request is wrong; the words are the provider's own, or say what to change.
    pub(super) fn wrong(text: String) -> Self {
        Self { status: 400, kind: "invalid_request_error", text, again: Again::Never }
    }

    /// Something of ours is missing, and will come.
    pub(super) fn later(text: impl AsRef<str>, seconds: u32) -> Self {
        Self::new(529, "overloaded_error", text, Again::After(seconds))
    }

    /// 400 is the only status that makes every agent stop; where waiting helps, 429.
    pub(super) fn over_budget(refused: &budget::Refusal) -> Self {
        if refused.passing {
            return Self::new(429, "rate_limit_error", format!("budget busy: {refused}"), Again::After(2));
        }
        Self::new(400, "invalid_request_error", format!("budget exhausted: {refused}"), Again::Never)
    }

    /// The Messages API's.
    pub(super) fn status(&self) -> u16 {
        self.status
    }

    /// In words.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// As an agent of `protocol` gets it.
    pub(super) fn said(&self, protocol: Protocol) -> (Head, Bytes) {
        let headers = match self.again {
            Again::Never => vec![("x-should-retry", "false".to_owned())],
            Again::Maybe => Vec::new(),
            Again::After(seconds) => vec![("retry-after", seconds.to_string())],
        };
        let head = Head { status: protocol.status(self.status), content_type: "application/json".into(), headers };
        (head, Bytes::from(protocol.error_body(self.kind, &self.text).to_string()))
    }
}

impl From<store::Error> for Refusal {
    fn from(error: store::Error) -> Self {
        tracing::error!("the store failed: {error}");
        Self::later("the hub's store cannot be read; try again", 5)
    }
}

impl From<objects::Error> for Refusal {
    fn from(error: objects::Error) -> Self {
        tracing::error!("objects cannot be read or written: {error}");
        Self::later("the hub's store cannot be used; try again", 5)
    }
}
