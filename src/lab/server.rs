//! HTTP as Proxmox speaks it: token, parameters from query and body, the message in the reason phrase, a connection that
//! is closed after an error and after 5 idle seconds.

use super::{
    answer::{Answer, Refusal, Reply},
    cluster::Cluster,
    control,
    fault::{Call, Fault},
    parameters::Parameters,
    permission::Who,
    routes::route,
    schema, task,
};
use crate::wire::NoAnswer;
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Method, Request, Response, StatusCode, body::Body, ext::ReasonPhrase, header, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use percent_encoding::percent_decode_str;
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};
use tokio::net::TcpListener;

/// Proxmox closes connections that are idle for so long.
const IDLE: Duration = Duration::from_secs(5);
const LARGEST_BODY: usize = 512 << 10;
const JSON: &str = "application/json;charset=UTF-8";

/// The body of a request, from a socket or from this process.
pub(super) trait Caller: Body<Data = Bytes, Error: Into<BoxError>> + Send {}

impl<B: Body<Data = Bytes, Error: Into<BoxError>> + Send> Caller for B {}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Serves until it is dropped.
pub(super) async fn serve(listener: TcpListener, cluster: Arc<Cluster>) {
    loop {
        // An error here is of one connection: the next may do.
        let Ok((stream, _)) = listener.accept().await else { continue };
        let cluster = cluster.clone();
        tokio::spawn(async move {
            let ended = cluster.shutdown.clone();
            let service = service_fn(move |request: Request<hyper::body::Incoming>| respond(cluster.clone(), request));
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(IDLE)
                .serve_connection(TokioIo::new(stream), service);
            tokio::select! {
                // Broken connections are the caller's to notice.
                _ = connection => {}
                () = ended.cancelled() => {}
            }
        });
    }
}

/// One call. Errors: its connection is to be closed.
pub(super) async fn respond<B: Caller>(cluster: Arc<Cluster>, request: Request<B>) -> Result<Response<Full<Bytes>>, NoAnswer> {
    let changes = request.method() != Method::GET;
    let path = request.uri().path().to_owned();
    let segments: Vec<String> =
        path.split('/').filter(|part| !part.is_empty()).map(|part| percent_decode_str(part).decode_utf8_lossy().into_owned()).collect();
    let parts: Vec<&str> = segments.iter().map(String::as_str).collect();
    let call = call(request.method(), parts.get(2..).unwrap_or_default());
    if let ["lab", control @ ..] = &parts[..] {
        // Not of Proxmox: who scripts the lab is not met by its faults.
        return render(control::answer(&cluster, request, control).await);
    }
    let method = request.method().as_str().to_owned();
    let fault = cluster.faults.met(call, &method, parts.get(2..).unwrap_or_default());
    let answer = match &fault {
        Some(Fault::Hang) => std::future::pending().await,
        Some(Fault::Fail { status, text }) => Err(Refusal::Text(*status, text.clone())),
        Some(Fault::HangTask) => task::hanging(answer(&cluster, request, &parts)).await,
        Some(Fault::Delay(time)) => {
            cluster.clock.sleep(*time).await;
            answer(&cluster, request, &parts).await
        }
        Some(Fault::Kill { node, back }) => {
            cluster.kill(node, *back).await;
            answer(&cluster, request, &parts).await
        }
        Some(Fault::DropReply) | None => answer(&cluster, request, &parts).await,
    };
    if changes {
        // Nothing is said to be done that a killed lab would not remember.
        cluster.store.settled().await;
    }
    if fault == Some(Fault::DropReply) {
        return Err(NoAnswer);
    }
    render(answer)
}

fn render(answer: Answer) -> Result<Response<Full<Bytes>>, NoAnswer> {
    let response = match answer {
        Ok(Reply { data, total }) => {
            let mut body = json!({ "data": data });
            if let Some(total) = total {
                body["total"] = total.into();
            }
            Response::builder().header(header::CONTENT_TYPE, JSON).body(Full::from(body.to_string()))
        }
        Err(refusal) => {
            let (status, reason, kind, body) = refusal.render().ok_or(NoAnswer)?;
            let response = Response::builder().status(status).header(header::CONTENT_TYPE, kind).header(header::CONNECTION, "close");
            let mut response = response.body(Full::from(body)).map_err(|_| NoAnswer)?;
            if let Ok(reason) = ReasonPhrase::try_from(reason.into_bytes()) {
                response.extensions_mut().insert(reason);
            }
            Ok(response)
        }
    };
    let mut response = response.map_err(|_| NoAnswer)?;
    for (name, value) in [(header::SERVER, "pve-api-daemon/3.0"), (header::CACHE_CONTROL, "max-age=0"), (header::PRAGMA, "no-cache")] {
        response.headers_mut().insert(name, header::HeaderValue::from_static(value));
    }
    if response.status() == StatusCode::UNAUTHORIZED {
        response.headers_mut().remove(header::CONTENT_TYPE);
    }
    Ok(response)
}

/// Which call a path is.
fn call(method: &Method, parts: &[&str]) -> Call {
    match (method.as_str(), parts) {
        ("POST", ["access", "ticket"]) => Call::Login,
        ("GET", ["version"]) => Call::Version,
        ("GET", ["nodes"]) => Call::Nodes,
        ("GET", ["cluster", "resources"]) => Call::Resources,
        ("GET", ["cluster", "nextid"]) => Call::NextId,
        ("GET", ["nodes", _, "qemu"]) => Call::List,
        ("POST", ["nodes", _, "qemu"]) => Call::Create,
        ("DELETE", ["nodes", _, "qemu", _]) => Call::Delete,
        ("GET", ["nodes", _, "qemu", _, "config"]) => Call::Config,
        ("PUT" | "POST", ["nodes", _, "qemu", _, "config"]) => Call::Configure,
        ("GET", ["nodes", _, "qemu", _, "status", "current"]) => Call::Status,
        ("POST", ["nodes", _, "qemu", _, "status", "start"]) => Call::Start,
        ("POST", ["nodes", _, "qemu", _, "status", "stop"]) => Call::Stop,
        ("POST", ["nodes", _, "qemu", _, "status", "shutdown"]) => Call::Shutdown,
        ("POST", ["nodes", _, "qemu", _, "status", "suspend"]) => Call::Suspend,
        ("POST", ["nodes", _, "qemu", _, "agent", "ping"]) => Call::AgentPing,
        ("POST", ["nodes", _, "qemu", _, "agent", "exec"]) => Call::AgentExec,
        ("GET", ["nodes", _, "qemu", _, "agent", "exec-status"]) => Call::AgentExecStatus,
        ("POST", ["nodes", _, "qemu", _, "agent", "file-write"]) => Call::AgentWrite,
        ("POST", ["nodes", _, "qemu", _, "agent", name]) if name.starts_with("fsfreeze-") => Call::AgentFreeze,
        ("GET", ["nodes", _, "tasks"]) => Call::TaskList,
        ("GET", ["nodes", _, "tasks", _, "status"]) => Call::TaskStatus,
        ("GET", ["nodes", _, "tasks", _, "log"]) => Call::TaskLog,
        ("GET", ["nodes", _, "storage"]) => Call::Storage,
        ("GET", ["nodes", _, "storage", _, "content"]) => Call::Content,
        ("GET", path) if path.contains(&"firewall") => Call::FirewallLook,
        (_, path) if path.contains(&"firewall") => Call::Firewall,
        _ => Call::Other,
    }
}

async fn answer<B: Caller>(cluster: &Arc<Cluster>, request: Request<B>, parts: &[&str]) -> Answer {
    let method = request.method().clone();
    if !matches!(method.as_str(), "GET" | "POST" | "PUT" | "DELETE") {
        return Err(Refusal::Empty(501, format!("method '{method}' not available")));
    }
    let body_length = request.body().size_hint().exact();
    if request.headers().contains_key(header::TRANSFER_ENCODING) {
        return Err(Refusal::Plain(501, "chunked transfer encoding not supported".into()));
    }
    if matches!(method.as_str(), "GET" | "DELETE") && body_length.is_some_and(|length| length > 0) {
        return Err(Refusal::Plain(501, format!("Unexpected content for method '{method}'")));
    }
    if body_length.is_some_and(|length| length > LARGEST_BODY as u64) {
        return Err(Refusal::Plain(501, "for data too large".into()));
    }
    let given = request.headers().clone();
    let ["api2", "json", path @ ..] = parts else {
        return Err(Refusal::Plain(501, format!("no such uri {}", request.uri().path())));
    };
    let who = if schema::find(method.as_str(), path).is_some_and(|(_, call, _)| call.world) {
        Who::default()
    } else {
        authenticate(cluster, &method, &given).await?
    };
    let parameters = Parameters { who, ..parameters(request).await? };
    route(cluster, method.as_str(), path, parameters).await
}

pub(super) async fn authenticate(cluster: &Cluster, method: &Method, headers: &header::HeaderMap) -> Result<Who, Refusal> {
    let text = |name: header::HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let cookie = text(header::COOKIE).and_then(|all| all.split(';').find_map(|one| one.trim().strip_prefix("PVEAuthCookie=")));
    let token =
        text(header::AUTHORIZATION).and_then(|value| value.strip_prefix("PVEAPIToken")).map(|rest| rest.trim_start_matches(['=', ' ']));
    // A ticket wins over a token.
    let found = match (cookie, token) {
        (Some(ticket), _) => {
            let csrf = headers.get("CSRFPreventionToken").and_then(|value| value.to_str().ok());
            cluster.holder(&percent_decode_str(ticket).decode_utf8_lossy(), csrf, method == Method::GET)
        }
        (None, Some(token)) => token.split_once('=').and_then(|(id, secret)| cluster.bearer(id, secret)).ok_or("Authentication failed!"),
        (None, None) => Err("No ticket"),
    };
    match found {
        Ok(who) => Ok(who),
        Err(reason) => {
            cluster.refuse().await;
            Err(Refusal::Empty(401, reason.to_owned()))
        }
    }
}

/// All of a body that is not too large.
pub(super) async fn body<B: Caller>(request: Request<B>) -> Result<Bytes, Refusal> {
    Ok(Limited::new(request.into_body(), LARGEST_BODY).collect().await.map_err(|_| Refusal::Lost)?.to_bytes())
}

/// From query and body; what is in the query wins.
async fn parameters<B: Caller>(request: Request<B>) -> Result<Parameters, Refusal> {
    let mut parameters = Parameters::default();
    let (head, body) = request.into_parts();
    let body = Limited::new(body, LARGEST_BODY).collect().await.map_err(|_| Refusal::Lost)?.to_bytes();
    if !body.is_empty() {
        let kind =
            head.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("application/x-www-form-urlencoded");
        let text = String::from_utf8_lossy(&body);
        match kind.split(';').next().unwrap_or_default().trim() {
            "application/x-www-form-urlencoded" => parameters.add_form(&text),
            "application/json" => match serde_json::from_str(&text) {
                Ok(Value::Object(object)) => parameters.add_json(&object),
                _ => return Err(Refusal::Plain(500, "malformed JSON string".into())),
            },
            other => return Err(Refusal::Plain(506, format!("upload 'Content-Type '{other}' not implemented"))),
        }
    }
    let mut query = Parameters::default();
    query.add_form(head.uri.query().unwrap_or_default());
    parameters.values.extend(query.values);
    Ok(parameters)
}
