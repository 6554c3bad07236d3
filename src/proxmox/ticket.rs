//! A user's login: a ticket in a cookie, and a token against forged requests in a header of whatever changes something.
//!
//! Source: proxmox-zfs facts 1.1; recordings 01 and 14. Proxmox takes a ticket for two hours, and a ticket that it still takes
//! for its user's password.

use super::{
    Error,
    http::{Http, Lost, segment},
    value,
};
use reqwest::{
    Method,
    header::{COOKIE, HeaderName, HeaderValue},
};
use secrecy::{ExposeSecret, SecretString};
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::Instant;

/// Age at which a ticket is renewed; Proxmox takes it for two hours.
const RENEWED: Duration = Duration::from_mins(90);

/// A user, and the ticket that is in use; one login at a time.
pub(super) struct Session {
    user: String,
    password: SecretString,
    ticket: Mutex<Option<Ticket>>,
}

#[derive(Clone)]
pub(super) struct Ticket {
    cookie: HeaderValue,
    csrf: HeaderValue,
    text: SecretString,
    since: Instant,
}

impl Ticket {
    /// The headers of a call.
    pub(super) fn bears(&self) -> [(HeaderName, HeaderValue); 2] {
        [(COOKIE, self.cookie.clone()), (HeaderName::from_static("csrfpreventiontoken"), self.csrf.clone())]
    }

    fn is(&self, other: &Self) -> bool {
        self.text.expose_secret() == other.text.expose_secret()
    }
}

impl Session {
    pub(super) fn new(user: &str, password: &SecretString) -> Self {
        Self { user: user.to_owned(), password: password.clone(), ticket: Mutex::default() }
    }

    /// The ticket in use, made or renewed where needed; never the one that was `refused`.
    pub(super) async fn ticket(&self, http: &Http, refused: Option<&Ticket>) -> Result<Result<Ticket, Error>, Lost> {
        let (user, password) = (&self.user, &self.password);
        let mut session = self.ticket.lock().await;
        let known = session.take().filter(|known| refused.is_none_or(|refused| !known.is(refused)));
        let ticket = match known {
            Some(known) if known.since.elapsed() < RENEWED => known,
            Some(old) => match log_in(http, user, &old.text).await? {
                Err(Error::Unauthorized { .. }) => match log_in(http, user, password).await? {
                    Ok(ticket) => ticket,
                    Err(error) => return Ok(Err(error)),
                },
                Err(error) => return Ok(Err(error)),
                Ok(ticket) => ticket,
            },
            None => match log_in(http, user, password).await? {
                Ok(ticket) => ticket,
                Err(error) => return Ok(Err(error)),
            },
        };
        Ok(Ok(session.insert(ticket).clone()))
    }
}

async fn log_in(http: &Http, user: &str, password: &SecretString) -> Result<Result<Ticket, Error>, Lost> {
    let parameters = vec![("username", user.to_owned()), ("password", password.expose_secret().to_owned())];
    let since = Instant::now();
    let data = match http.send_with(&Method::POST, "/access/ticket", &parameters, &[]).await? {
        Ok(data) => data,
        Err(error) => return Ok(Err(error)),
    };
    if value::flag_of(&data, "NeedTFA") {
        return Ok(Err(Error::unauthorized("a second factor is asked for, which no program has: use an API token instead")));
    }
    let header = |text: &str| {
        let mut header = HeaderValue::from_str(text).ok()?;
        header.set_sensitive(true);
        Some(header)
    };
    let ticket = value::text_of(&data, "ticket").and_then(|text| {
        let cookie = header(&format!("PVEAuthCookie={}", segment(&text)))?;
        let csrf = header(&value::text_of(&data, "CSRFPreventionToken")?)?;
        Some(Ticket { cookie, csrf, text: text.into(), since })
    });
    Ok(ticket.ok_or_else(|| Error::Unknown("a login was answered without a ticket".into())))
}
