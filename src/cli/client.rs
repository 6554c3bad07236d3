//! A client of the hub's API over HTTPS, set up from a kubeconfig. Speaks JSON documents; knows no subcommand.

use anyhow::{Context as _, anyhow, bail};
use base64::Engine;
use bytes::Bytes;
use futures::{Stream, StreamExt, stream::BoxStream};
use reqwest::{Method, RequestBuilder, StatusCode, header};
use serde::Deserialize;
use serde_json::Value;
use std::{path::Path, time::Duration};

/// Accept header for the tables that `get` shows. Source: meta.k8s.io/v1 Table, as kubectl asks for it.
pub(super) const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";

/// How long an answer that is no stream may take.
const TIMEOUT: Duration = Duration::from_mins(1);

/// Speaks to one hub.
#[derive(Clone)]
pub(super) struct Client {
    http: reqwest::Client,
    /// Without a slash at the end.
    server: String,
    token: Option<String>,
    /// Where objects are looked for when nothing else is said.
    pub(super) namespace: String,
}

/// A refusal of the hub, as its Status says it.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub(super) struct Refused {
    pub(super) code: u16,
    pub(super) reason: String,
    pub(super) message: String,
    /// Each wrong field: its path and what is wrong.
    pub(super) causes: Vec<(String, String)>,
}

/// Whether `error` is the hub's refusal with this reason (`NotFound`, `AlreadyExists`, `Conflict` …).
pub(super) fn refused(error: &anyhow::Error, reason: &str) -> bool {
    error.downcast_ref::<Refused>().is_some_and(|refused| refused.reason == reason)
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Kubeconfig {
    current_context: String,
    contexts: Vec<Named>,
    clusters: Vec<Named>,
    users: Vec<Named>,
}

#[derive(Deserialize)]
struct Named {
    name: String,
    #[serde(flatten)]
    rest: Value,
}

impl Client {
    /// Reads the kubeconfig `file`; `namespace` goes before the one it names.
    pub(super) fn open(file: &Path, namespace: Option<&str>) -> anyhow::Result<Self> {
        let shown = file.display();
        let text = match std::fs::read_to_string(file) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                bail!("no hub is known here: {shown} does not exist. Start one with `autovibe up`, or name one with --data or --kubeconfig")
            }
            other => other.with_context(|| format!("{shown} cannot be read"))?,
        };
        let config: Kubeconfig = serde_yaml::from_str(&text).with_context(|| format!("{shown} is not a kubeconfig"))?;
        let find = |list: &[Named], kind: &str, name: &str| {
            let found = list.iter().find(|entry| entry.name == name).map(|entry| entry.rest[kind].clone());
            found.ok_or_else(|| anyhow!("{shown} names the {kind} `{name}` but does not describe it"))
        };
        let context = find(&config.contexts, "context", &config.current_context)?;
        let cluster = find(&config.clusters, "cluster", context["cluster"].as_str().unwrap_or_default())?;
        let user = find(&config.users, "user", context["user"].as_str().unwrap_or_default())?;

        let server = cluster["server"].as_str().with_context(|| format!("{shown} names no server"))?.trim_end_matches('/').to_owned();
        // The hub is spoken to directly: a proxy for the outside world has nothing to do with it.
        let mut http = reqwest::Client::builder()
            .no_proxy()
            .connect_timeout(Duration::from_secs(10))
            .user_agent(concat!("autovibe/", env!("CARGO_PKG_VERSION")));
        let authority = match (cluster["certificate-authority-data"].as_str(), cluster["certificate-authority"].as_str()) {
            (Some(data), _) => Some(
                base64::engine::general_purpose::STANDARD
                    .decode(data)
                    .with_context(|| format!("certificate-authority-data in {shown} is not base64"))?,
            ),
            (None, Some(path)) => Some(std::fs::read(path).with_context(|| format!("{path}, named in {shown}, cannot be read"))?),
            (None, None) => None,
        };
        if let Some(pem) = authority {
            http = http.tls_certs_only(
                reqwest::Certificate::from_pem_bundle(&pem)
                    .with_context(|| format!("the certificate authority in {shown} cannot be read"))?,
            );
        }
        if let Some(identity) = identity(&user).with_context(|| format!("the client certificate in {shown} cannot be used"))? {
            http = http.identity(identity);
        }
        let namespace = namespace.or(context["namespace"].as_str()).unwrap_or("default").to_owned();
        let token = user["token"].as_str().map(str::to_owned);
        Ok(Self { http: http.build().context("the HTTP client could not be set up")?, server, token, namespace })
    }

    /// The same hub, with another namespace as the default.
    pub(super) fn within(&self, namespace: &str) -> Self {
        Self { namespace: namespace.to_owned(), ..self.clone() }
    }

    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.server));
        match &self.token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    async fn send(&self, request: RequestBuilder) -> anyhow::Result<reqwest::Response> {
        let response = request.send().await.map_err(|error| self.unreachable(&error))?;
        if response.status().is_success() {
            return Ok(response);
        }
        let status = response.status();
        let body = response.bytes().await.unwrap_or_default();
        Err(refusal(status, &body).into())
    }

    fn unreachable(&self, error: &reqwest::Error) -> anyhow::Error {
        let cause = std::iter::successors(std::error::Error::source(error), |cause| cause.source())
            .last()
            .map_or_else(|| error.to_string(), ToString::to_string);
        anyhow!("the hub at {} does not answer: {cause}. Is it running? Start it with `autovibe up`", self.server)
    }

    async fn json(&self, request: RequestBuilder) -> anyhow::Result<Value> {
        let response = self.send(request.timeout(TIMEOUT)).await?;
        response.json().await.with_context(|| format!("the answer of {} is not JSON", self.server))
    }

    pub(super) async fn get(&self, path: &str) -> anyhow::Result<Value> {
        self.json(self.request(Method::GET, path).header(header::ACCEPT, "application/json")).await
    }

    /// The document, or `None` when there is none.
    pub(super) async fn find(&self, path: &str) -> anyhow::Result<Option<Value>> {
        match self.get(path).await {
            Ok(document) => Ok(Some(document)),
            Err(error) if refused(&error, "NotFound") => Ok(None),
            Err(error) => Err(error),
        }
    }

    pub(super) async fn get_table(&self, path: &str) -> anyhow::Result<Value> {
        self.json(self.request(Method::GET, path).header(header::ACCEPT, TABLE)).await
    }

    /// The items of a list, typed.
    pub(super) async fn list<K: serde::de::DeserializeOwned>(&self, path: &str) -> anyhow::Result<Vec<K>> {
        let list = self.get(path).await?;
        let Some(Value::Array(items)) = list.get("items").cloned() else { bail!("the answer of {}{path} is not a list", self.server) };
        items
            .into_iter()
            .map(|item| {
                serde_json::from_value(item).with_context(|| format!("an object of {path} has a form that this version does not know"))
            })
            .collect()
    }

    /// The body as bytes.
    pub(super) async fn bytes(&self, path: &str) -> anyhow::Result<Bytes> {
        let response = self.send(self.request(Method::GET, path).timeout(TIMEOUT)).await?;
        response.bytes().await.with_context(|| format!("the answer of {}{path} broke off", self.server))
    }

    /// Sends a body, and takes the answer as bytes.
    pub(super) async fn send_bytes(&self, method: Method, path: &str, content_type: &str, body: String) -> anyhow::Result<Bytes> {
        let request = self.request(method, path).header(header::CONTENT_TYPE, content_type).body(body).timeout(TIMEOUT);
        self.send(request).await?.bytes().await.with_context(|| format!("the answer of {}{path} broke off", self.server))
    }

    pub(super) async fn create(&self, path: &str, document: &Value) -> anyhow::Result<Value> {
        self.json(self.request(Method::POST, path).json(document)).await
    }

    /// Applies a JSON merge patch (RFC 7386).
    pub(super) async fn merge(&self, path: &str, patch: &Value) -> anyhow::Result<Value> {
        let body = serde_json::to_vec(patch)?;
        self.json(self.request(Method::PATCH, path).header(header::CONTENT_TYPE, "application/merge-patch+json").body(body)).await
    }

    pub(super) async fn delete(&self, path: &str) -> anyhow::Result<Value> {
        self.json(self.request(Method::DELETE, path)).await
    }

    /// The body as it comes.
    pub(super) async fn stream(&self, path: &str, accept: &str) -> anyhow::Result<BoxStream<'static, reqwest::Result<Bytes>>> {
        let response = self.send(self.request(Method::GET, path).header(header::ACCEPT, accept)).await?;
        Ok(response.bytes_stream().boxed())
    }

    /// Lines of a watch; ends when the server ends it.
    pub(super) async fn lines(
        &self,
        path: &str,
        accept: &str,
    ) -> anyhow::Result<impl Stream<Item = anyhow::Result<Value>> + Unpin + use<>> {
        let state = (self.stream(path, accept).await?, Vec::new());
        Ok(futures::stream::unfold(state, |(mut body, mut buffer)| async move {
            loop {
                if let Some(end) = buffer.iter().position(|byte| *byte == b'\n') {
                    let line: Vec<u8> = buffer.drain(..=end).collect();
                    let event = serde_json::from_slice(&line).context("the hub sent a line that is not JSON");
                    return Some((event, (body, buffer)));
                }
                match body.next().await? {
                    Ok(chunk) => buffer.extend_from_slice(&chunk),
                    Err(_) => return None,
                }
            }
        })
        .boxed())
    }
}

/// The client certificate and key of a kubeconfig's user, if it has one.
fn identity(user: &Value) -> anyhow::Result<Option<reqwest::Identity>> {
    let part = |name: &str| -> anyhow::Result<Option<Vec<u8>>> {
        match (user[format!("{name}-data")].as_str(), user[name].as_str()) {
            (Some(data), _) => Ok(Some(base64::engine::general_purpose::STANDARD.decode(data)?)),
            (None, Some(path)) => Ok(Some(std::fs::read(path).with_context(|| path.to_owned())?)),
            (None, None) => Ok(None),
        }
    };
    let (Some(certificate), Some(key)) = (part("client-certificate")?, part("client-key")?) else { return Ok(None) };
    Ok(Some(reqwest::Identity::from_pem(&[certificate, key].concat())?))
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
    }
}
