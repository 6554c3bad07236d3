//! A client of another server's Kubernetes API over HTTPS, set up from a kubeconfig. Speaks JSON documents and lines of a
//! watch; knows no kind, and decides nothing about what to try again.

pub mod archive;
mod kubeconfig;
mod path;

pub use path::{collection, of_kind, segment};

use bytes::Bytes;
use futures::{StreamExt, stream::BoxStream};
use reqwest::{Method, RequestBuilder, StatusCode, header};
use serde_json::Value;
use std::time::Duration;

/// Accept header for the tables that `get` shows. Source: meta.k8s.io/v1 Table, as kubectl asks for it.
pub const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";

const JSON: &str = "application/json";
/// How long an answer that is no stream may take.
const TIMEOUT: Duration = Duration::from_mins(1);
/// Says under which epoch a leader writes; the server refuses the write in its own transaction when that is over.
pub const EPOCH: &str = "autovibe-epoch";
/// With a checkpoint's bundle: the commit of its workspace, and the one that it builds on; when it is put, the object's uid.
pub const COMMIT: &str = "autovibe-commit";
pub const BASE_COMMIT: &str = "autovibe-base-commit";
pub const UID: &str = "autovibe-uid";

/// Speaks to one hub.
#[derive(Clone)]
pub struct Client {
    http: reqwest::Client,
    /// Without a slash at the end.
    server: String,
    token: Option<String>,
    /// Goes with each request; see [`EPOCH`].
    epoch: Option<i64>,
    /// Where objects are looked for when nothing else is said.
    pub namespace: String,
}

/// A refusal of the hub, as its Status says it.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Refused {
    pub code: u16,
    pub reason: String,
    pub message: String,
    /// Each wrong field: its path and what is wrong.
    pub causes: Vec<(String, String)>,
    /// The Status' details, as they came.
    pub details: Value,
}

/// Why there is no answer, or none that is of use.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The kubeconfig cannot be used.
    #[error("{0}")]
    Kubeconfig(String),
    /// No answer: whether the server saw the request is not known.
    #[error("the hub at {server} does not answer: {cause}. Is it running? Start it with `autovibe up`")]
    Unreachable { server: String, cause: String },
    /// It answered with something else than what was asked for.
    #[error("{0}")]
    Answer(String),
}

impl Error {
    /// Whether this is the server's refusal with this reason (`NotFound`, `AlreadyExists`, `Conflict` …).
    pub fn is(&self, reason: &str) -> bool {
        matches!(self, Self::Refused(refused) if refused.reason == reason)
    }
}

impl Client {
    /// The same server, with another namespace as the default.
    #[must_use]
    pub fn within(&self, namespace: &str) -> Self {
        Self { namespace: namespace.to_owned(), ..self.clone() }
    }

    /// The same server, where all that is written is refused once `epoch` is over.
    #[must_use]
    pub fn under(&self, epoch: i64) -> Self {
        Self { epoch: Some(epoch), ..self.clone() }
    }

    /// The epoch under which is written; 0 when there is none.
    pub fn epoch(&self) -> i64 {
        self.epoch.unwrap_or_default()
    }

    /// A request with our credentials, to be completed and [sent](Self::send).
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let mut request = self.http.request(method, format!("{}{path}", self.server));
        if let Some(token) = &self.token {
            request = request.bearer_auth(token);
        }
        match self.epoch {
            Some(epoch) => request.header(EPOCH, epoch),
            None => request,
        }
    }

    /// The answer's head, when it is a good one.
    pub async fn send(&self, request: RequestBuilder) -> Result<reqwest::Response, Error> {
        let response = request.send().await.map_err(|error| self.unreachable(&error))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let body = response.bytes().await.unwrap_or_default();
        Err(refusal(status, &body).into())
    }

    fn unreachable(&self, error: &reqwest::Error) -> Error {
        let cause = std::iter::successors(std::error::Error::source(error), |cause| cause.source())
            .last()
            .map_or_else(|| error.to_string(), ToString::to_string);
        Error::Unreachable { server: self.server.clone(), cause }
    }

    /// Sends it and reads a JSON document.
    pub async fn json(&self, request: RequestBuilder) -> Result<Value, Error> {
        let body = self.send(request.timeout(TIMEOUT)).await?.bytes().await.map_err(|error| self.unreachable(&error))?;
        serde_json::from_slice(&body).map_err(|_| Error::Answer(format!("the answer of {} is not JSON", self.server)))
    }

    pub async fn get(&self, path: &str) -> Result<Value, Error> {
        self.json(self.request(Method::GET, path).header(header::ACCEPT, JSON)).await
    }

    /// The document, or `None` when there is none.
    pub async fn find(&self, path: &str) -> Result<Option<Value>, Error> {
        match self.get(path).await {
            Ok(document) => Ok(Some(document)),
            Err(error) if error.is("NotFound") => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub async fn get_table(&self, path: &str) -> Result<Value, Error> {
        self.json(self.request(Method::GET, path).header(header::ACCEPT, TABLE)).await
    }

    /// The items of a list, typed.
    pub async fn list<K: serde::de::DeserializeOwned>(&self, path: &str) -> Result<Vec<K>, Error> {
        let mut list = self.get(path).await?;
        let Value::Array(items) = list["items"].take() else {
            return Err(Error::Answer(format!("the answer of {}{path} is not a list", self.server)));
        };
        let unknown = |error| Error::Answer(format!("an object of {path} has a form that this version does not know: {error}"));
        items.into_iter().map(|item| serde_json::from_value(item).map_err(unknown)).collect()
    }

    /// The body as bytes.
    pub async fn bytes(&self, path: &str) -> Result<Bytes, Error> {
        let response = self.send(self.request(Method::GET, path).timeout(TIMEOUT)).await?;
        response.bytes().await.map_err(|error| self.unreachable(&error))
    }

    /// Sends a body, and takes the answer as bytes.
    pub async fn send_bytes(&self, method: Method, path: &str, content_type: &str, body: String) -> Result<Bytes, Error> {
        let request = self.request(method, path).header(header::CONTENT_TYPE, content_type).body(body).timeout(TIMEOUT);
        self.send(request).await?.bytes().await.map_err(|error| self.unreachable(&error))
    }

    pub async fn create(&self, path: &str, document: &Value) -> Result<Value, Error> {
        self.json(self.request(Method::POST, path).json(document)).await
    }

    /// Replaces it.
    pub async fn put(&self, path: &str, document: &Value) -> Result<Value, Error> {
        self.json(self.request(Method::PUT, path).json(document)).await
    }

    /// Applies a JSON merge patch (RFC 7386).
    pub async fn merge(&self, path: &str, patch: &Value) -> Result<Value, Error> {
        let request = self.request(Method::PATCH, path).header(header::CONTENT_TYPE, "application/merge-patch+json");
        self.json(request.body(patch.to_string())).await
    }

    pub async fn delete(&self, path: &str) -> Result<Value, Error> {
        self.json(self.request(Method::DELETE, path)).await
    }

    /// The body as it comes.
    pub async fn stream(&self, path: &str, accept: &str) -> Result<BoxStream<'static, reqwest::Result<Bytes>>, Error> {
        let response = self.send(self.request(Method::GET, path).header(header::ACCEPT, accept)).await?;
        Ok(response.bytes_stream().boxed())
    }

    /// Lines of a watch; ends when the server ends it.
    pub async fn lines(&self, path: &str, accept: &str) -> Result<BoxStream<'static, Result<Value, Error>>, Error> {
        let state = (self.stream(path, accept).await?, Vec::new());
        let lines = futures::stream::unfold(state, |(mut body, mut buffer)| async move {
            loop {
                if let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
                    let line: Vec<u8> = buffer.drain(..=end).collect();
                    let event = serde_json::from_slice(&line).map_err(|_| Error::Answer("the hub sent a line that is not JSON".into()));
                    return Some((event, (body, buffer)));
                }
                match body.next().await? {
                    Ok(chunk) => buffer.extend_from_slice(&chunk),
                    Err(_) => return None,
                }
            }
        });
        Ok(lines.boxed())
    }
}

fn refusal(status: StatusCode, body: &[u8]) -> Refused {
    let document: Value = serde_json::from_slice(body).unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let causes = document["details"]["causes"].as_array().into_iter().flatten();
    let message = match text(&document["message"]) {
        empty if empty.is_empty() => format!("the hub answered {status}"),
        message if status == StatusCode::UNAUTHORIZED => {
            format!("the hub does not accept the token of the kubeconfig ({message}); use the kubeconfig in its data directory")
        }
        message => message,
    };
    Refused {
        code: status.as_u16(),
        reason: text(&document["reason"]),
        message,
        causes: causes.map(|cause| (text(&cause["field"]), text(&cause["message"]))).collect(),
        details: document["details"].clone(),
    }
}
