//! The routes: what agents and guests can ask of the gateway, and how it answers.

use super::{
    Gateway,
    answer::{Answer, End, Head, Reader},
    asks,
    call::Call,
    egress, elsewhere,
    live::{Arrival, Live, Turn},
    refusal::{Again, Refusal},
    resolve::{self, Route, Unresolved, Upstream, token_hash},
    runner,
};
use crate::{
    api::{Kind, Machine},
    boundary::{self, AGENT_HEADER, SESSION_HEADER, Seen},
    llm::{Protocol, anthropic, openai, replay, request::Request},
    objects::EventType,
    wire::{
        EXIT_PATH, ExitReport, annotation,
        runner::{RUNNER_PATH, TOOL_PATH},
    },
};
use axum::{
    Router,
    body::{Body, Bytes, to_bytes},
    extract::{OriginalUri, State},
    http::{HeaderMap, StatusCode, Version, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde_json::json;
use std::{sync::Arc, time::Duration};
use tokio::sync::OwnedSemaphorePermit;
use tracing::Instrument;

/// The size at which agents' programs themselves speak of a request that is too large.
const MAX_BODY: usize = 32 << 20;
/// How long one may take to come.
const BODY: Duration = Duration::from_mins(5);
/// An exit report is a few bytes.
const MAX_REPORT: usize = 4 << 10;
/// How long a report waits for the last call to be settled, so that who reads the log next finds its end there.
const SETTLING: Duration = Duration::from_secs(5);

pub(super) fn router(gateway: Arc<Gateway>) -> Router {
    let mut router = Router::new();
    for protocol in Protocol::ALL {
        let ask =
            move |state: State<Arc<Gateway>>, uri: OriginalUri, headers: HeaderMap, body: Body| ask(protocol, state, uri, headers, body);
        router = router.route(protocol.path(), post(ask));
    }
    router
        .route("/v1/messages/count_tokens", post(count_tokens))
        .route("/v1/models", get(models))
        .route(EXIT_PATH, post(exit))
        .route(RUNNER_PATH, post(runner::present))
        .route(TOOL_PATH, post(runner::tool))
        .merge(asks::routes())
        .fallback(|version: Version, uri: OriginalUri| async move {
            // In later versions every request has the form of one to a proxy.
            if let Some(refused) = egress::plain(&uri).filter(|_| version <= Version::HTTP_11) {
                return refused;
            }
            let served: Vec<&str> = Protocol::ALL.map(Protocol::path).into();
            failed(404, "not_found_error", &format!("there is nothing here; the gateway serves POST {}", served.join(", ")))
        })
        .method_not_allowed_fallback(|| async { failed(405, "invalid_request_error", "this method is not served here") })
        .layer(axum::middleware::from_fn_with_state(gateway.clone(), egress::proxied))
        .layer(axum::middleware::from_fn(elsewhere::noted))
        .with_state(gateway)
}

async fn ask(
    protocol: Protocol,
    State(gateway): State<Arc<Gateway>>,
    OriginalUri(uri): OriginalUri,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let id = crate::random::uuid().simple().to_string();
    let span = tracing::info_span!("request", request.id = id, method = "POST", route = protocol.path());
    let answered = answer(gateway, protocol, id, uri.query() == Some("beta=true"), headers, body).instrument(span);
    answered.await.unwrap_or_else(|refusal| said(refusal.said(protocol)))
}

async fn answer(
    gateway: Arc<Gateway>,
    protocol: Protocol,
    id: String,
    beta: bool,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refusal> {
    let Admitted { machine, live, request, route, place } = admit(&gateway, protocol, &headers, body, false).await?;
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let (session, agent) = (text(SESSION_HEADER), text(AGENT_HEADER));
    let seen = Seen {
        program: machine.spec.agent.r#type,
        session: session.as_deref(),
        agent: agent.as_deref(),
        has_tools: request.has_tools(),
        stream: request.stream,
    };
    let context = boundary::context(&seen);
    // Where there can be no checkpoint, there is nothing to wait for, and nothing is withheld.
    let boundary = boundary::boundary(&context, request.messages()).filter(|_| route.checkpoints);
    let answer = Answer::new(id, request.hash(), request.stream);
    let reasons = boundary.as_ref().map(|boundary| boundary::at_request(boundary, request.messages())).unwrap_or_default();
    let wanted = reasons.iter().any(|reason| boundary::wanted(&machine.spec.checkpoints, reason.trigger));
    let stream = request.stream;
    let arrival = Arrival { context: &context, hash: &answer.hash, stream, boundary: wanted, answer: &answer };
    let (turn, checkpoint) = match live.turn(&arrival) {
        Turn::Again(earlier) => {
            tracing::info!(call.id = earlier.id, "a repeat of a request is given the answer to the first");
            unless_suspended(&gateway, &machine, &live, &earlier).await?;
            return Ok(read(earlier.reader(), protocol, stream).await);
        }
        Turn::New { turn, checkpoint, unasked } => {
            if unasked {
                let message =
                    "its agent went on from a risky tool that its runner did not ask for; the gateway withholds such calls itself now";
                tracing::warn!(object.kind = "Machine", object.name = machine.name(), "{message}");
                gateway.objects.record(&*machine, EventType::Warning, "RunnerNotAsked", message).await;
            }
            (turn, checkpoint)
        }
    };
    let reader = answer.reader();
    let (caller, known) = (machine.clone(), live.clone());
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
        reasons,
        gate: None,
        changed: false,
        answer,
        version: text("anthropic-version"),
        betas: joined(&headers, "anthropic-beta"),
        beta,
        _place: place,
    };
    gateway.tasks.spawn(call.run().in_current_span());
    unless_suspended(&gateway, &caller, &known, &reader.answer).await?;
    Ok(read(reader, protocol, stream).await)
}

/// Waits for the beginning of an answer. Errors: its Machine is suspended with its memory first. The connection would be dead when it goes
/// on, and its agent would not hear of it; told to ask again it gets the same answer then, as the call itself goes on.
async fn unless_suspended(gateway: &Gateway, machine: &Machine, live: &Live, answer: &Answer) -> Result<(), Refusal> {
    let mut changed = live.egress.changed.subscribe();
    let suspended = async {
        loop {
            let found = gateway.directory.machine(machine.uid(), machine.namespace(), machine.name()).await;
            if let Some(refusal) = found.ok().flatten().and_then(|machine| suspended(&machine)) {
                return refusal;
            }
            if changed.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    };
    tokio::select! {
        biased;
        _ = answer.head() => Ok(()),
        refusal = suspended => Err(refusal),
    }
}

/// What an agent is told whose memory is about to be saved.
fn suspended(machine: &Machine) -> Option<Refusal> {
    resolve::suspended(machine).then(|| Refusal::later("the machine is being suspended with its memory; ask again", 1))
}

/// Who calls, with what, and where it goes.
struct Admitted {
    machine: Arc<Machine>,
    live: Arc<Live>,
    request: Request,
    route: Route,
    /// Among its calls that are under way.
    place: OwnedSemaphorePermit,
}

/// Reads a request of a Machine, of which so many are read and answered at a time; more wait.
async fn admit(gateway: &Gateway, protocol: Protocol, headers: &HeaderMap, body: Body, counting: bool) -> Result<Admitted, Refusal> {
    let machine = authenticate(gateway, headers).await?;
    if let Some(refusal) = suspended(&machine) {
        return Err(refusal);
    }
    let live = gateway.live(machine.uid()).await?;
    let stops = || Refusal::later("the gateway stops; try again", 5);
    let place = live.calls.clone().acquire_owned().await.map_err(|_| stops())?;
    // One that a restored VM has forgotten gives its place back.
    let bytes = match tokio::time::timeout(BODY, to_bytes(body, MAX_BODY)).await {
        Ok(Ok(bytes)) => bytes,
        Ok(Err(_)) => return Err(Refusal::new(413, "request_too_large", "the request is larger than 32 MiB or broke off", Again::Maybe)),
        Err(_) => return Err(Refusal::new(408, "timeout_error", "the request did not come to its end in time", Again::Maybe)),
    };
    let mut request = Request::parse(protocol, bytes, counting).map_err(|refused| Refusal::wrong(refused.0))?;
    let route = match resolve::route(&gateway.directory, &machine, protocol, &request.model).await {
        Ok(route) => route,
        Err(Unresolved::Ended(text)) => return Err(Refusal::new(403, "permission_error", text, Again::Never)),
        Err(Unresolved::NotAllowed(text)) => {
            gateway.tell_unsent(&machine, &text).await;
            return Err(Refusal::new(400, "invalid_request_error", text, Again::Never));
        }
        Err(Unresolved::Unavailable(text)) => {
            gateway.tell_unsent(&machine, &text).await;
            return Err(Refusal::later(text, 5));
        }
    };
    if let Upstream::OpenAi { endpoint, .. } = &route.upstream {
        request.bound_output(openai::output_bound(endpoint));
    }
    Ok(Admitted { machine, live, request, route, place })
}

/// The Machine whose token a request carries. Absent and wrong tokens look alike.
pub(super) async fn authenticate(gateway: &Gateway, headers: &HeaderMap) -> Result<Arc<Machine>, Refusal> {
    authenticate_by(gateway, token_hash(headers)).await
}

/// The Machine whose token has this hash.
pub(super) async fn authenticate_by(gateway: &Gateway, hash: Option<String>) -> Result<Arc<Machine>, Refusal> {
    let hash = hash.ok_or_else(unknown)?;
    // Of the token itself the log gets what its holder can recognise it by, and nobody can use.
    let refused = |why: &str| {
        tracing::warn!(token.sha256 = hash.get(..8), "a token was refused: {why}");
        unknown()
    };
    let nobodys = || refused("it is no Machine's, or no longer: of an earlier launch, or of one that is gone");
    let owner = gateway.store().find_token(&hash).await?.ok_or_else(nobodys)?;
    let machine = gateway.directory.machine(&owner.machine_uid, &owner.namespace, &owner.name).await?;
    let machine =
        machine.ok_or_else(|| refused(&format!("its Machine {}/{} is gone; a namesake is another", owner.namespace, owner.name)))?;
    gateway.refuse_elsewhere(&hash, &owner, &machine).await?;
    Ok(machine)
}

/// What a wrong token is told, and none at all.
pub(super) fn unknown() -> Refusal {
    Refusal::new(401, "authentication_error", "this is not a token of a Machine", Again::Maybe)
}

/// The models that a Machine may name, as OpenAI lists them.
async fn models(State(gateway): State<Arc<Gateway>>, headers: HeaderMap) -> Response {
    let listed = async {
        let machine = authenticate(&gateway, &headers).await?;
        Ok::<_, Refusal>(resolve::models(&gateway.directory, &machine).await?)
    };
    match listed.await {
        Ok(models) => {
            let entry = |(id, owner): (String, String)| json!({ "id": id, "object": "model", "created": 0, "owned_by": owner });
            let list = json!({ "object": "list", "data": models.into_iter().map(entry).collect::<Vec<_>>() });
            let head = Head { status: 200, content_type: "application/json".into(), headers: Vec::new() };
            said((head, Bytes::from(list.to_string())))
        }
        Err(refusal) => said(refusal.said(Protocol::Chat)),
    }
}

async fn count_tokens(State(gateway): State<Arc<Gateway>>, OriginalUri(uri): OriginalUri, headers: HeaderMap, body: Body) -> Response {
    let beta = uri.query() == Some("beta=true");
    count(&gateway, beta, &headers, body).await.unwrap_or_else(|refusal| said(refusal.said(Protocol::Messages)))
}

async fn count(gateway: &Gateway, beta: bool, headers: &HeaderMap, body: Body) -> Result<Response, Refusal> {
    let Admitted { request, route, place: _place, .. } = admit(gateway, Protocol::Messages, headers, body, true).await?;
    let not_counted = |text: &str| Refusal::new(502, "api_error", text, Again::Maybe);
    let reply = match &route.upstream {
        Upstream::Replay { .. } => Ok(replay::count_tokens(&request)),
        Upstream::Anthropic { endpoint, key } => {
            let version = headers.get("anthropic-version").and_then(|value| value.to_str().ok());
            let betas = joined(headers, "anthropic-beta");
            let path = "/v1/messages/count_tokens";
            let call = anthropic::Call { endpoint, path, beta, key, version, betas: betas.as_deref(), body: request.bytes() };
            anthropic::send(&gateway.client, call).await
        }
        // It does not speak the Messages API, so no route of one leads there.
        Upstream::OpenAi { .. } => return Err(not_counted("the provider does not count")),
    };
    let reply = reply.map_err(|error| Refusal::later(error.to_string(), 2))?;
    if matches!(reply.status, 300..=399 | 401 | 403) {
        return Err(not_counted("the provider did not count"));
    }
    let body = Body::from_stream(futures::StreamExt::take(reply.body, 1024));
    let body = to_bytes(body, 1 << 20).await.map_err(|_| not_counted("the provider's answer broke off"))?;
    let content_type = reply.content_type.unwrap_or_else(|| "application/json".into());
    Ok(said((Head { status: reply.status, content_type, headers: Vec::new() }, route.without_key(body.into()))))
}

async fn exit(State(gateway): State<Arc<Gateway>>, headers: HeaderMap, body: Body) -> Response {
    report(&gateway, &headers, body).await.unwrap_or_else(|refusal| said(refusal.said(Protocol::Messages)))
}

/// Notes on the Machine that its agent ended: a hint that wakes its controller.
async fn report(gateway: &Gateway, headers: &HeaderMap, body: Body) -> Result<Response, Refusal> {
    let machine = authenticate(gateway, headers).await?;
    let bytes =
        to_bytes(body, MAX_REPORT).await.map_err(|_| Refusal::new(413, "request_too_large", "a report is a few bytes", Again::Maybe))?;
    let report: ExitReport = serde_json::from_slice(&bytes)
        .map_err(|error| Refusal::wrong(format!("autovibe: write {{\"launch\":1,\"exitCode\":0}}: {error}")))?;
    if let Ok(live) = gateway.live(machine.uid()).await {
        let mut open = live.open.subscribe();
        tokio::select! {
            biased;
            _ = open.wait_for(|count| *count == 0) => {}
            () = gateway.clock().sleep(SETTLING) => {}
        }
    }
    let value = format!("{}:{}", report.launch, report.exit_code);
    gateway.annotate(&machine, annotation::AGENT_EXIT, &value).await?;
    Ok(respond_json(&json!({})))
}

/// The answer as its client gets it: as it came, or as one message when the first asked for a stream and this one does not.
async fn read(reader: Reader, protocol: Protocol, stream: bool) -> Response {
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
        End::Complete(None) | End::Cut(_) => said(Refusal::later("the provider's answer broke off; try again", 1).said(protocol)),
    }
}

pub(super) fn respond_json(value: &impl serde::Serialize) -> Response {
    let body = serde_json::to_string(value).unwrap_or_default();
    (StatusCode::OK, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}

pub(super) fn said((head, body): (Head, Bytes)) -> Response {
    respond(head, Body::from(body))
}

/// A refusal where no protocol is known.
fn failed(status: u16, kind: &'static str, text: &str) -> Response {
    said(Refusal::new(status, kind, text, Again::Maybe).said(Protocol::Messages))
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
