//! What agents and providers speak, and what differs in it outside of requests and answers: paths, headers, errors.

use serde_json::{Value, json};

/// One wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// Anthropic's Messages API.
    Messages,
    /// OpenAI-compatible chat completions.
    Chat,
    /// OpenAI-compatible Responses.
    Responses,
}

impl Protocol {
    /// Every protocol.
    pub const ALL: [Self; 3] = [Self::Messages, Self::Chat, Self::Responses];

    /// Where agents call it.
    pub fn path(self) -> &'static str {
        match self {
            Self::Messages => "/v1/messages",
            Self::Chat => "/v1/chat/completions",
            Self::Responses => "/v1/responses",
        }
    }

    /// Its name in sentences.
    pub fn name(self) -> &'static str {
        match self {
            Self::Messages => "the Messages API",
            Self::Chat => "chat completions",
            Self::Responses => "Responses",
        }
    }

    /// The header in which answers carry the provider's id of the call.
    pub fn request_id(self) -> &'static str {
        match self {
            Self::Messages => "request-id",
            Self::Chat | Self::Responses => "x-request-id",
        }
    }

    /// An error as its providers write it; `kind` is the Messages API's word.
    pub fn error_body(self, kind: &str, message: &str) -> Value {
        match self {
            Self::Messages => json!({ "type": "error", "error": { "type": kind, "message": message } }),
            Self::Chat | Self::Responses => {
                let (kind, code) = match kind {
                    "authentication_error" => ("invalid_request_error", Some("invalid_api_key")),
                    "api_error" | "overloaded_error" => ("server_error", None),
                    other => (other, None),
                };
                json!({ "error": { "message": message, "type": kind, "param": null, "code": code } })
            }
        }
    }

    /// The status that makes this protocol's agents do what `status` makes Claude Code do. Aider tries everything again but 400
    /// and 401, and OpenAI's SDKs know no 529.
    pub fn status(self, status: u16) -> u16 {
        match (self, status) {
            (Self::Messages, _) => status,
            (_, 402..=405 | 413) => 400,
            (_, 529) => 503,
            _ => status,
        }
    }
}
