//! The routes: what agents and guests can ask of the gateway, and how it answers.

use super::{
    Gateway,
    answer::{Answer, End, Head, Reader},
    call::{Again, Call, refusal},
    live::{Arrival, Turn},
    resolve::{self, Route, Unresolved, Upstream, token_hash},
};
use crate::{
    api::{Kind, Machine, machine::Toggle},
    boundary::{self, AGENT_HEADER, SESSION_HEADER, Seen},
    llm::{anthropic, error_body, replay, request::Request},
    objects,
    wire::{EXIT_PATH, ExitReport, annotation},
};
use axum::{
    Router,
    body::{Body, Bytes, to_bytes},
    extract::{OriginalUri, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::post,
};
use std::{sync::Arc, time::Duration};
use tracing::Instrument;

/// The size at which agents' programs themselves speak of a request that is too large.
const MAX_BODY: usize = 32 << 20;
/// An exit report is a few bytes.
const MAX_REPORT: usize = 4 << 10;
/// How long a report waits for the last call to be settled, so that who reads the log next finds its end there.
const SETTLING: Duration = Duration::from_secs(5);
/// Attempts to annotate a Machine whose controller writes it at the same time.
const ATTEMPTS: u32 = 10;

pub(super) fn router(gateway: Arc<Gateway>) -> Router {
    Router::new()
        .route("/v1/messages", post(messages))
        .route("/v1/messages/count_tokens", post(count_tokens))
        .route(EXIT_PATH, post(exit))
        .fallback(|| async { failed(404, "not_found_error", "autovibe: there is nothing here; the gateway serves POST /v1/messages") })
        .method_not_allowed_fallback(|| async { failed(405, "invalid_request_error", "autovibe: only POST is served here") })
        .with_state(gateway)
}

async fn messages(State(gateway): State<Arc<Gateway>>, OriginalUri(uri): OriginalUri, headers: HeaderMap, body: Body) -> Response {
    let id = crate::random::uuid().simple().to_string();
    let span = tracing::info_span!("request", request.id = id, method = "POST", route = "/v1/messages");
    let answered = answer(gateway, id, uri.query() == Some("beta=true"), headers, body).instrument(span);
    answered.await.unwrap_or_else(|response| *response)
}

/// A refusal on the way; boxed because it is large and rare.
type Refused = Box<Response>;

async fn answer(gateway: Arc<Gateway>, id: String, beta: bool, headers: HeaderMap, body: Body) -> Result<Response, Refused> {
    let (machine, request, route) = admit(&gateway, &headers, body, false).await?;
    let live = gateway.live(machine.uid()).await.map_err(|error| store_failed(&error))?;
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let (session, agent) = (text(SESSION_HEADER), text(AGENT_HEADER));
    let seen = Seen { session: session.as_deref(), agent: agent.as_deref(), has_tools: request.has_tools(), messages: request.messages() };
    let context = boundary::context(&seen);
    let boundary = boundary::boundary(&context, request.messages());
    let answer = Answer::new(id, request.hash(), request.stream);
    let wanted = machine.spec.checkpoints.between_messages == Toggle::Enabled && boundary.is_some();
    let stream = request.stream;
    let arrival = Arrival { context: &context, hash: &answer.hash, stream, boundary: wanted, answer: &answer };
    let (turn, checkpoint) = match live.turn(&arrival) {
        Turn::Again(earlier) => {
            tracing::info!(call.id = earlier.id, "a repeat of a request is given the answer to the first");
            return Ok(read(earlier.reader(), stream).await);
        }
        Turn::New { turn, checkpoint } => (turn, checkpoint),
    };
    let reader = answer.reader();
    let call = Call {
        gateway: gateway.clone(),
        machine,
        live,
        route,
        request,
        context,
        boundary,
        turn,
        checkpoint,
        answer,
        version: text("anthropic-version"),
        betas: joined(&headers, "anthropic-beta"),
        beta,
    };
    gateway.tasks.spawn(call.run().in_current_span());
    Ok(read(reader, stream).await)
}

/// Who calls, with what, and where it goes.
async fn admit(gateway: &Gateway, headers: &HeaderMap, body: Body, counting: bool) -> Result<(Arc<Machine>, Request, Route), Refused> {
    let machine = authenticate(gateway, headers).await?;
    let Ok(bytes) = to_bytes(body, MAX_BODY).await else {
        return Err(failed(413, "request_too_large", "autovibe: the request is larger than 32 MiB or broke off").into());
    };
    let request = Request::parse(bytes, counting).map_err(|refused| failed(400, "invalid_request_error", &refused.0))?;
    let route = resolve::route(&gateway.directory, &machine, &request.model).await.map_err(|why| {
        let (status, kind, text, again) = match why {
            Unresolved::Ended(text) => (403, "permission_error", text, Again::Never),
            Unresolved::NotAllowed(text) => (400, "invalid_request_error", text, Again::Never),
            Unresolved::Unavailable(text) => (529, "overloaded_error", text, Again::After(5)),
        };
        said(refusal(status, kind, &format!("autovibe: {text}"), again))
    })?;
    Ok((machine, request, route))
}

/// The Machine whose token a request carries. Absent and wrong tokens look alike.
async fn authenticate(gateway: &Gateway, headers: &HeaderMap) -> Result<Arc<Machine>, Refused> {
    let unknown = || -> Refused { failed(401, "authentication_error", "autovibe: this is not a token of a Machine").into() };
    let hash = token_hash(headers).ok_or_else(unknown)?;
    let owner = gateway.store().find_token(&hash).await.map_err(|error| store_failed(&error))?.ok_or_else(unknown)?;
    let machine = gateway.directory.machine(&owner.machine_uid, &owner.namespace, &owner.name).await;
    machine.map_err(|error| Refused::from(objects_failed(&error)))?.ok_or_else(unknown)
}

async fn count_tokens(State(gateway): State<Arc<Gateway>>, OriginalUri(uri): OriginalUri, headers: HeaderMap, body: Body) -> Response {
    let beta = uri.query() == Some("beta=true");
    count(&gateway, beta, &headers, body).await.unwrap_or_else(|response| *response)
}

async fn count(gateway: &Gateway, beta: bool, headers: &HeaderMap, body: Body) -> Result<Response, Refused> {
    let (_, request, route) = admit(gateway, headers, body, true).await?;
    let reply = match &route.upstream {
        Upstream::Replay { .. } => Ok(replay::count_tokens(&request)),
        Upstream::Anthropic { endpoint, key } => {
            let version = headers.get("anthropic-version").and_then(|value| value.to_str().ok());
            let betas = joined(headers, "anthropic-beta");
            let path = "/v1/messages/count_tokens";
            gateway
                .client
                .send(anthropic::Call { endpoint, path, beta, key, version, betas: betas.as_deref(), body: request.bytes() })
                .await
        }
    };
    let reply = reply.map_err(|error| said(refusal(529, "overloaded_error", &format!("autovibe: {error}"), Again::After(2))))?;
    if matches!(reply.status, 300..=399 | 401 | 403) {
        return Err(failed(502, "api_error", "autovibe: the provider did not count").into());
    }
    let body = Body::from_stream(futures::StreamExt::take(reply.body, 1024));
    let body = to_bytes(body, 1 << 20).await.map_err(|_| failed(502, "api_error", "autovibe: the provider's answer broke off"))?;
    let content_type = reply.content_type.unwrap_or_else(|| "application/json".into());
    Ok(said((Head { status: reply.status, content_type, headers: Vec::new() }, route.without_key(body.into()))))
}

async fn exit(State(gateway): State<Arc<Gateway>>, headers: HeaderMap, body: Body) -> Response {
    report(&gateway, &headers, body).await.unwrap_or_else(|response| *response)
}

/// Notes on the Machine that its agent ended: a hint that wakes its controller.
async fn report(gateway: &Gateway, headers: &HeaderMap, body: Body) -> Result<Response, Refused> {
    let machine = authenticate(gateway, headers).await?;
    let bytes = to_bytes(body, MAX_REPORT).await.map_err(|_| failed(413, "request_too_large", "autovibe: a report is a few bytes"))?;
    let report: ExitReport = serde_json::from_slice(&bytes)
        .map_err(|error| failed(400, "invalid_request_error", &format!("autovibe: write {{\"launch\":1,\"exitCode\":0}}: {error}")))?;
    if let Ok(live) = gateway.live(machine.uid()).await {
        let mut open = live.open.subscribe();
        tokio::select! {
            biased;
            _ = open.wait_for(|count| *count == 0) => {}
            () = gateway.clock().sleep(SETTLING) => {}
        }
    }
    let value = format!("{}:{}", report.launch, report.exit_code);
    for _ in 0..ATTEMPTS {
        let read: Option<Machine> =
            gateway.objects.get(machine.namespace(), machine.name()).await.map_err(|error| objects_failed(&error))?;
        let Some(mut current) = read.filter(|current| current.uid() == machine.uid()) else { break };
        let annotations = current.metadata.annotations.get_or_insert_default();
        if annotations.insert(annotation::AGENT_EXIT.into(), value.clone()).as_ref() == Some(&value) {
            break;
        }
        match gateway.objects.update(&current).await {
            Ok(_) => break,
            Err(objects::Error::Conflict { .. }) => {}
            Err(error) => return Err(objects_failed(&error).into()),
        }
    }
    Ok((StatusCode::OK, [(header::CONTENT_TYPE, "application/json")], "{}").into_response())
}

/// The answer as its client gets it: as it came, or as one message when the first asked for a stream and this one does not.
async fn read(reader: Reader, stream: bool) -> Response {
    let answer = reader.answer.clone();
    let head = answer.head().await;
    if answer.stream == stream || head.status != 200 {
        return respond(head, Body::from_stream(reader.body()));
    }
    match answer.ended().await {
        End::Complete(Some(message)) => {
            reader.delivered();
            let head = Head { content_type: "application/json".into(), ..head };
            respond(head, Body::from(message.to_string()))
        }
        End::Complete(None) | End::Cut(_) => {
            said(refusal(529, "overloaded_error", "autovibe: the provider's answer broke off; try again", Again::After(1)))
        }
    }
}

fn said((head, body): (Head, Bytes)) -> Response {
    respond(head, Body::from(body))
}

fn failed(status: u16, kind: &str, text: &str) -> Response {
    let head = Head { status, content_type: "application/json".into(), headers: Vec::new() };
    respond(head, Body::from(error_body(kind, text).to_string()))
}

/// One connection a call: one that a restored VM believes in is never waited on.
fn respond(head: Head, body: Body) -> Response {
    let mut response = Response::builder()
        .status(head.status)
        .header(header::CONTENT_TYPE, head.content_type)
        .header(header::CACHE_CONTROL, "no-store")
        .header(header::CONNECTION, "close");
    for (name, value) in head.headers {
        response = response.header(name, value);
    }
    // Only a provider's header with bytes that no header may have gets here.
    response.body(body).unwrap_or_else(|_| StatusCode::BAD_GATEWAY.into_response())
}

/// All values of a header as one.
fn joined(headers: &HeaderMap, name: &str) -> Option<String> {
    let values: Vec<&str> = headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).collect();
    (!values.is_empty()).then(|| values.join(","))
}

fn store_failed(error: &crate::store::Error) -> Response {
    tracing::error!("the store failed: {error}");
    said(refusal(529, "overloaded_error", "autovibe: the hub's store cannot be read; try again", Again::After(5)))
}

fn objects_failed(error: &objects::Error) -> Response {
    tracing::error!("objects cannot be read or written: {error}");
    said(refusal(529, "overloaded_error", "autovibe: the hub's store cannot be used; try again", Again::After(5)))
}
