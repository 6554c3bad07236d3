//! The way out of a VM: HTTP CONNECT to the hosts that `spec.network.egress` of its Machine names, and to nothing else.
//!
//! A connection is asked for with the Machine's token, checked as everywhere. The hub looks the name up, and connects to an address that
//! it has checked: none that is not public, unless the Hub opens it. It lives no longer than what allows it. Not here: HTTP itself. What
//! goes through a connection is not read, but for the name in the greeting of TLS.

mod address;
mod greeting;
mod report;
mod tunnel;

use super::{
    Gateway,
    http::authenticate_by,
    live::Live,
    refusal::Refusal,
    resolve::{ended, hash_of, is_token},
};
use crate::api::{DEFAULT_HUB, Hub, Kind, Machine, network::BlockedReason, network::is_host};
use axum::{
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, Method, StatusCode, Uri, header},
    middleware::Next,
    response::Response,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};
use tokio::net::{TcpStream, lookup_host};
use tracing::Instrument;

pub(super) use report::Egress;

/// Connections that a Machine has open at a time.
pub(super) const CONNECTIONS: usize = 64;
/// Longest wait for a name server, and for a server to take a connection.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why there is no connection.
struct Refused {
    status: StatusCode,
    text: String,
}

impl Refused {
    fn new(status: StatusCode, text: impl Into<String>) -> Self {
        Self { status, text: text.into() }
    }

    fn respond(self) -> Response {
        let mut response = Response::builder().status(self.status).header(header::CONTENT_TYPE, "text/plain; charset=utf-8");
        if self.status == StatusCode::PROXY_AUTHENTICATION_REQUIRED {
            response = response.header(header::PROXY_AUTHENTICATE, "Basic realm=\"autovibe\"");
        }
        let response = response.header(header::CONNECTION, "close").body(Body::from(format!("autovibe: {}\n", self.text)));
        response.expect("its headers are constants")
    }
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        let status = match refusal.status() {
            401 => StatusCode::PROXY_AUTHENTICATION_REQUIRED,
            403 => StatusCode::FORBIDDEN,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        };
        Self { status, text: refusal.text().trim_start_matches("autovibe: ").to_owned() }
    }
}

/// A connection that is allowed.
struct Allowed {
    machine: Arc<Machine>,
    live: Arc<Live>,
    /// SHA-256 of the token that it was asked for with.
    token: String,
    host: String,
    port: u16,
}

/// Answers what is asked of a proxy; all else goes on.
pub(super) async fn proxied(State(gateway): State<Arc<Gateway>>, request: Request, next: Next) -> Response {
    if request.method() != Method::CONNECT {
        return next.run(request).await;
    }
    let span = tracing::info_span!("request", request.id = %crate::random::uuid().simple(), method = "CONNECT");
    connect(&gateway, request).instrument(span).await.unwrap_or_else(Refused::respond)
}

/// What a request in the form of a proxy's is told that is not for the gateway itself.
pub(super) fn plain(uri: &Uri) -> Option<Response> {
    let host = uri.scheme().and(uri.host())?;
    let text = format!(
        "plain HTTP is not carried, so http://{host} is not reached; use https, for which the proxy is asked to CONNECT, or make the \
         program do so for port 80 too (curl --proxytunnel)"
    );
    Some(Refused::new(StatusCode::FORBIDDEN, text).respond())
}

async fn connect(gateway: &Arc<Gateway>, mut request: Request) -> Result<Response, Refused> {
    let token = token_hash(request.headers());
    let machine = authenticate_by(gateway, token.clone()).await?;
    if let Some(why) = ended(&machine) {
        return Err(Refused::new(StatusCode::FORBIDDEN, why));
    }
    let (host, port) = target(request.uri())?;
    let live = gateway.live(machine.uid()).await.map_err(Refusal::from)?;
    if !allows(&machine, &host, port) {
        let text = gateway.blocked(&machine, &live, &host, port, BlockedReason::NotAllowed);
        return Err(Refused::new(StatusCode::FORBIDDEN, text));
    }
    let Ok(place) = live.egress.open.clone().try_acquire_owned() else {
        let text = format!("it has {CONNECTIONS} connections open, which is the most; try again when one has ended");
        return Err(Refused::new(StatusCode::SERVICE_UNAVAILABLE, text));
    };
    let allowed = Allowed { machine, live, token: token.unwrap_or_default(), host, port };
    let server = reach(gateway, &allowed).await?;
    let upgrade = hyper::upgrade::on(&mut request);
    let (tunnel, gateway) = (tunnel::Tunnel { allowed, server, place }, gateway.clone());
    gateway.clone().tasks.spawn(
        async move {
            match upgrade.await {
                Ok(client) => tunnel.carry(&gateway, client).await,
                Err(error) => tracing::debug!("a connection ended before it began: {error}"),
            }
        }
        .in_current_span(),
    );
    Ok(Response::new(Body::empty()))
}

/// The hash of the token that a proxy is given: `Bearer`, or the password of `Basic`, as in `http://machine:TOKEN@gateway`.
fn token_hash(headers: &HeaderMap) -> Option<String> {
    let mut given = headers.get_all(header::PROXY_AUTHORIZATION).iter();
    let (Some(one), None) = (given.next(), given.next()) else { return None };
    let (scheme, rest) = one.to_str().ok()?.split_once(' ')?;
    let token = if scheme.eq_ignore_ascii_case("bearer") {
        rest.trim().to_owned()
    } else if scheme.eq_ignore_ascii_case("basic") {
        let pair = String::from_utf8(STANDARD.decode(rest.trim()).ok()?).ok()?;
        pair.split_once(':')?.1.to_owned()
    } else {
        return None;
    };
    is_token(&token).then(|| hash_of(&token))
}

/// Host and port that a connection is asked for to.
fn target(uri: &Uri) -> Result<(String, u16), Refused> {
    let wrong = |text: &str| Refused::new(StatusCode::BAD_REQUEST, text);
    let authority = uri.authority().ok_or_else(|| wrong("CONNECT takes HOST:PORT"))?;
    let port = authority.port_u16().ok_or_else(|| wrong("CONNECT takes a port: HOST:443"))?;
    let host = authority.host().to_ascii_lowercase();
    let host = host.strip_suffix('.').unwrap_or(&host);
    if !is_host(host) {
        return Err(Refused::new(
            StatusCode::FORBIDDEN,
            "only names are connected to, and no addresses: ask for the host by the name that spec.network.egress has",
        ));
    }
    Ok((host.to_owned(), port))
}

fn allows(machine: &Machine, host: &str, port: u16) -> bool {
    machine.spec.network.as_ref().is_some_and(|network| network.allows(host, port))
}

/// A connection to an address of the host that may be reached.
async fn reach(gateway: &Arc<Gateway>, allowed: &Allowed) -> Result<TcpStream, Refused> {
    let Allowed { machine, live, host, port, .. } = allowed;
    let unavailable = |why: String| Refused::new(StatusCode::BAD_GATEWAY, why);
    let hub = gateway.directory.hub(machine.spec.hub.as_deref().unwrap_or(DEFAULT_HUB)).await.map_err(Refusal::from)?;
    let hub = hub.ok_or_else(|| unavailable("its Hub does not exist".into()))?;
    let ours = own(gateway, &hub).await.map_err(unavailable)?;
    let found = addresses(gateway, host, *port).await.map_err(|why| unavailable(format!("{host} is not found: {why}")))?;
    let opened = hub.spec.egress.networks();
    let open: Vec<IpAddr> = found.iter().copied().filter(|address| address::is_open(*address, &opened, &ours)).collect();
    if open.is_empty() {
        let text = gateway.blocked(machine, live, host, *port, BlockedReason::PrivateAddress);
        tracing::info!(?found, "no address of {host} is open");
        return Err(Refused::new(StatusCode::FORBIDDEN, text));
    }
    let mut why = String::new();
    for address in open {
        tokio::select! {
            connected = TcpStream::connect(SocketAddr::new(address, *port)) => match connected {
                Ok(server) => {
                    server.set_nodelay(true).ok();
                    return Ok(server);
                }
                Err(error) => why = error.to_string(),
            },
            () = gateway.clock().sleep(PATIENCE) => why = format!("no answer within {PATIENCE:?}"),
        }
    }
    Err(unavailable(format!("{host}:{port} cannot be reached: {why}")))
}

async fn addresses(gateway: &Gateway, host: &str, port: u16) -> Result<Vec<IpAddr>, String> {
    tokio::select! {
        found = lookup_host((host, port)) => {
            let found: Vec<IpAddr> = found.map_err(|error| error.to_string())?.map(|address| address.ip().to_canonical()).collect();
            if found.is_empty() { Err("it has no address".into()) } else { Ok(found) }
        }
        () = gateway.clock().sleep(PATIENCE) => Err(format!("no name server answered within {PATIENCE:?}")),
    }
}

/// Addresses of what a Hub runs on. Errors: one that cannot be found might be the one that is asked for.
async fn own(gateway: &Gateway, hub: &Hub) -> Result<Vec<IpAddr>, String> {
    let mut own = Vec::new();
    for host in address::of_hub(hub) {
        match host.parse::<IpAddr>() {
            Ok(address) => own.push(address.to_canonical()),
            Err(_) => own.extend(addresses(gateway, &host, 443).await.map_err(|why| format!("{host} of its Hub is not found: {why}"))?),
        }
    }
    Ok(own)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_taken_as_programs_send_it_to_a_proxy() {
        let token = format!("av_{}", "0a".repeat(32));
        let hash = |values: &[String]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::PROXY_AUTHORIZATION, value.parse().unwrap());
            }
            token_hash(&headers)
        };
        let basic = |pair: &str| format!("Basic {}", STANDARD.encode(pair));
        let known = Some(hash_of(&token));
        assert_eq!(hash(&[format!("Bearer {token}")]), known);
        assert_eq!(hash(&[basic(&format!("machine:{token}"))]), known);
        assert_eq!(hash(&[basic(&format!("{token}:"))]), None);
        assert_eq!(hash(&[basic("machine:other")]), None);
        assert_eq!(hash(&[format!("Bearer {token}"), format!("Bearer {token}")]), None, "which of two is meant?");
        assert_eq!(hash(&["Basic %%".into()]), None);
        assert_eq!(hash(&[]), None);
    }

    #[test]
    fn a_target_is_a_name_with_a_port() {
        let target = |text: &str| target(&text.parse().unwrap()).map_err(|refused| refused.status.as_u16());
        assert_eq!(target("PyPI.org:443"), Ok(("pypi.org".into(), 443)));
        assert_eq!(target("pypi.org.:443"), Ok(("pypi.org".into(), 443)));
        assert_eq!(target("pypi.org"), Err(400));
        for address in ["10.0.0.1:443", "[::1]:443", "2130706433:443", "0x7f000001:443"] {
            assert_eq!(target(address), Err(403), "{address}");
        }
    }
}
