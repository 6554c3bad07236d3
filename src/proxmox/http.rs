//! One call to Proxmox: the token, form bodies, where the message hides in a refusal, and what an unread answer means.

use super::{
    Config, Error,
    breaker::Breaker,
    credential::{Credential, Login},
    network::{CallError, Network},
    ticket::Session,
    value,
};
use crate::clock::Tenure;
use crate::wire::Service;
use hyper::ext::ReasonPhrase;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use reqwest::{Method, header};
use secrecy::ExposeSecret;
use serde_json::Value;
use std::{sync::Arc, time::Duration};

/// Proxmox' own proxy gives up on a call after 30 s; later answers do not exist.
const TIMEOUT: Duration = Duration::from_secs(35);
/// Far above the largest answer (16 MiB of a guest's output), so that a broken server cannot fill the memory.
const MAX_BODY: usize = 40 << 20;
/// Left as they are in a path segment.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// Parameters, in order; a key may repeat.
pub(super) type Parameters<'a> = Vec<(&'a str, String)>;

#[derive(Clone)]
pub(super) struct Http {
    /// Builds requests.
    client: reqwest::Client,
    way: Way,
    credential: Arc<Credential>,
    authorization: Authorization,
    /// What is known of the credential by all who use it.
    pub(super) breaker: Breaker,
    base: String,
    /// How long what changes something may begin.
    tenure: Tenure,
}

#[derive(Clone)]
enum Way {
    Network(Box<Network>),
    /// Answers in this process.
    Service(Service),
}

/// What a call bears.
#[derive(Clone)]
enum Authorization {
    Token(header::HeaderValue),
    Ticket(Arc<Session>),
}

/// Why no answer was read.
pub(super) enum Lost {
    /// The connection broke or was never had; whether the server saw the request is not known.
    Connection(String),
    Timeout(String),
}

/// Escapes one segment of a path.
pub(super) fn segment(text: &str) -> String {
    utf8_percent_encode(text, SEGMENT).to_string()
}

impl Http {
    pub(super) fn new(config: &Config, service: Option<Service>, tenure: Tenure) -> Result<Self, Error> {
        let unusable = Error::Refused;
        let authorization = match &config.credential.login {
            Login::Token { id, secret } => {
                let mut token = header::HeaderValue::from_str(&format!("PVEAPIToken={id}={}", secret.expose_secret()))
                    .map_err(|_| unusable("the token has characters that a header cannot carry".into()))?;
                token.set_sensitive(true);
                Authorization::Token(token)
            }
            Login::Password { user, password } => Authorization::Ticket(Arc::new(Session::new(user, password))),
        };
        let way = match service {
            Some(service) => Way::Service(service),
            None => Way::Network(Box::new(Network::new(config, tenure.clone())?)),
        };
        // This machine's certificates need not be read to build requests.
        let client = reqwest::Client::builder().tls_certs_only([]).build().map_err(|error| unusable(error.to_string()))?;
        let base = format!("{}/api2/json", config.endpoint.trim_end_matches('/'));
        let credential = Arc::new(config.credential.clone());
        Ok(Self { client, way, credential, authorization, breaker: Breaker::default(), base, tenure })
    }

    pub(super) fn id(&self) -> &str {
        self.credential.id()
    }

    /// Reads; tried twice when the connection broke.
    pub(super) async fn get(&self, path: &str, query: &Parameters<'_>) -> Result<Value, Error> {
        let lost = match self.send(Method::GET, path, query).await {
            Ok(answer) => return answer,
            Err(Lost::Timeout(why)) => return Err(Error::Unknown(why)),
            Err(Lost::Connection(_)) => self.send(Method::GET, path, query).await,
        };
        lost.unwrap_or_else(|lost| Err(lost.into()))
    }

    /// Changes something; sent once, and not at all when our [`Tenure`] may end before it does.
    pub(super) async fn change(&self, method: Method, path: &str, parameters: &Parameters<'_>) -> Result<Value, Error> {
        match self.tenure.run(TIMEOUT, self.exchange(method, path, parameters)).await? {
            Some(answer) => answer.unwrap_or_else(|lost| Err(lost.into())),
            None => Err(Error::Unknown(format!("no whole answer within {} s, or the lead was lost", TIMEOUT.as_secs()))),
        }
    }

    async fn send(&self, method: Method, path: &str, parameters: &Parameters<'_>) -> Result<Result<Value, Error>, Lost> {
        let late = |_| Err(Lost::Timeout(format!("no whole answer within {} s", TIMEOUT.as_secs())));
        tokio::time::timeout(TIMEOUT, self.exchange(method, path, parameters)).await.unwrap_or_else(late)
    }

    /// One call, unless the credential is refused.
    async fn exchange(&self, method: Method, path: &str, parameters: &Parameters<'_>) -> Result<Result<Value, Error>, Lost> {
        let pass = match self.breaker.enter() {
            Ok(pass) => pass,
            Err(refused) => return Ok(Err(refused)),
        };
        let answer = match &self.authorization {
            Authorization::Token(token) => self.send_with(&method, path, parameters, &[(header::AUTHORIZATION, token.clone())]).await?,
            Authorization::Ticket(session) => self.by_ticket(session, &method, path, parameters).await?,
        };
        match answer {
            Err(Error::Unauthorized { message, wait }) => {
                let message = self.credential.refusal(&message);
                pass.refused(&message);
                Ok(Err(Error::Unauthorized { message, wait }))
            }
            // Something between us and Proxmox answered: whether the credential is taken is not known.
            Err(Error::Other { status: 502..=504, .. }) => Ok(answer),
            answer => {
                pass.accepted();
                Ok(answer)
            }
        }
    }

    /// A ticket that is refused is replaced once: what it bore was not done.
    async fn by_ticket(
        &self,
        session: &Session,
        method: &Method,
        path: &str,
        parameters: &Parameters<'_>,
    ) -> Result<Result<Value, Error>, Lost> {
        let first = match session.ticket(self, None).await? {
            Ok(first) => first,
            Err(error) => return Ok(Err(error)),
        };
        match self.send_with(method, path, parameters, &first.bears()).await? {
            Err(Error::Unauthorized { .. }) => {}
            answer => return Ok(answer),
        }
        match session.ticket(self, Some(&first)).await? {
            Ok(second) => self.send_with(method, path, parameters, &second.bears()).await,
            Err(error) => Ok(Err(error)),
        }
    }

    /// One request and its answer.
    pub(super) async fn send_with(
        &self,
        method: &Method,
        path: &str,
        parameters: &Parameters<'_>,
        bears: &[(header::HeaderName, header::HeaderValue)],
    ) -> Result<Result<Value, Error>, Lost> {
        let url = format!("{}{path}", self.base);
        let in_query = matches!(*method, Method::GET | Method::DELETE);
        let mut request = self.client.request(method.clone(), url);
        for (name, value) in bears {
            request = request.header(name, value);
        }
        // A body on GET or DELETE is refused with 501.
        let request = if in_query { request.query(parameters) } else { request.form(parameters) };
        let request = request.build().map_err(|error| Lost::of(&error))?;
        let mut response = match &self.way {
            Way::Network(network) => network.call(request).await?,
            Way::Service(service) => service.call(request).await.map_err(|error| Lost::of(&error))?,
        };
        let status = response.status().as_u16();
        let reason = response.extensions().get::<ReasonPhrase>().map(|phrase| String::from_utf8_lossy(phrase.as_bytes()).into_owned());
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| Lost::of(&error.without_url()))? {
            if body.len() + chunk.len() > MAX_BODY {
                return Err(Lost::Connection(format!("the answer to {path} is larger than {MAX_BODY} bytes")));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(read(status, reason.as_deref(), &body))
    }
}

/// Reads an answer that arrived whole.
pub(super) fn read(status: u16, reason: Option<&str>, body: &[u8]) -> Result<Value, Error> {
    let json = serde_json::from_slice::<Value>(body);
    if status == 200 {
        return match json {
            Ok(Value::Object(mut answer)) if answer.contains_key("data") => Ok(answer.remove("data").unwrap_or_default()),
            // Something answered, but not as Proxmox does: what became of the call is not known.
            _ => Err(Error::Unknown("200 without `data`".into())),
        };
    }
    let json = json.unwrap_or_default();
    let message = value::text_of(&json, "message")
        .or_else(|| reason.filter(|reason| !reason.trim().is_empty()).map(str::to_owned))
        .or_else(|| std::str::from_utf8(body).ok().filter(|_| !json.is_object()).map(str::to_owned))
        .unwrap_or_default();
    if let (400, Some(errors)) = (status, json["errors"].as_object()) {
        let errors = errors.iter().map(|(name, reason)| (name.clone(), value::text(reason).unwrap_or_default())).collect();
        return Err(Error::from_parameters(&message, errors));
    }
    Err(Error::from_text(status, &message))
}

impl Lost {
    fn of(error: &dyn std::error::Error) -> Self {
        let mut text = error.to_string();
        let mut source = error.source();
        while let Some(inner) = source {
            text = format!("{text}: {inner}");
            source = inner.source();
        }
        Self::Connection(text)
    }
}

impl From<CallError> for Lost {
    fn from(error: CallError) -> Self {
        Self::of(&error)
    }
}

impl From<Lost> for Error {
    fn from(lost: Lost) -> Self {
        match lost {
            Lost::Connection(why) | Lost::Timeout(why) => Self::Unknown(why),
        }
    }
}
