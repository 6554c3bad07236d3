//! From a request to its answer: who asks, what the path means, which verb.

use super::{
    Shared, access, archive, body,
    catalog::Source,
    discovery, escalation, exec, gzip, identity,
    negotiate::{self, Encoding, Shape},
    openapi_v2,
    openapi_v3::{self, Document},
    peer::Peer,
    query::Query,
    read, records, reply, review, rotation,
    route::{self, Route, Target},
    status::Status,
    table, write,
};
use crate::auth::{Action, Authentication, User};
use crate::objects::Objects;
use crate::remote::EPOCH;
use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{
        HeaderMap, HeaderName, HeaderValue, Method,
        header::{ACCEPT, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, EXPIRES, HOST, USER_AGENT},
    },
    response::Response,
};
use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};
use tokio::sync::{Semaphore, SemaphorePermit};
use tracing::Instrument;

/// Source: apiserver `MaxRequestBodyBytes`.
pub(super) const MAX_BODY: usize = 3 * 1024 * 1024;
/// A checkpoint's git bundle: above the 64 MiB that are fetched of a workspace ([`crate::git::MAX_BYTES`]).
const MAX_BUNDLE: usize = 65 << 20;
/// Time for a request that is no watch. Source: apiserver `RequestTimeout`.
const TIMEOUT: Duration = Duration::from_mins(1);
/// How long a watch runs on after its sender lost the right to it.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
const JSON: &str = "application/json";
/// Requests that may run at once. Source: kube-apiserver `--max-requests-inflight` and `--max-mutating-requests-inflight`.
const READS: usize = 400;
const WRITES: usize = 200;

/// How many more requests may run. Those beyond are told to come again; nothing of them was done.
pub(super) struct Load {
    reads: Semaphore,
    writes: Semaphore,
}

impl Default for Load {
    fn default() -> Self {
        Self { reads: Semaphore::new(READS), writes: Semaphore::new(WRITES) }
    }
}

impl Load {
    fn take(&self, read_only: bool) -> Result<SemaphorePermit<'_>, Status> {
        let of = if read_only { &self.reads } else { &self.writes };
        of.try_acquire().map_err(|_| Status::too_many_requests())
    }
}

pub(super) fn router(shared: Arc<Shared>) -> Router {
    Router::new().fallback(answer).with_state(shared)
}

/// Answers any request; a panic in one is its own 500.
async fn answer(State(server): State<Arc<Shared>>, request: Request) -> Response {
    let id = request.headers().get(reply::AUDIT_ID).cloned();
    let id = id.unwrap_or_else(|| HeaderValue::from_str(&crate::random::uuid().to_string()).expect("a uuid is plain ASCII"));
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    // A file of disks may take hours to come; one of which nothing comes is given up by who reads it.
    let streams = |target| archive::is_import(target) || (archive::is_export(target) && method == Method::POST);
    let long = matches!(route::parse(&path), Route::Object(target) if streams(&target));
    let span = tracing::debug_span!("request", request.id = ?id, %method, route = %path);
    let clock = server.objects.clock().clone();
    let started = clock.now();
    let work = async {
        let answered = AssertUnwindSafe(dispatch(&server, request)).catch_unwind();
        let answered = tokio::select! {
            answered = answered => answered.unwrap_or_else(|_| Err(Status::internal(&"a panic"))),
            () = async { if long { std::future::pending().await } else { clock.sleep(TIMEOUT).await } } => Err(Status::new(504, "Timeout", "the request was not completed within the allotted timeout")),
        };
        let response = answered.unwrap_or_else(Status::into_response);
        let took = clock.now().duration_since(started).as_millis();
        tracing::debug!(status = response.status().as_u16(), duration_ms = took, "answered");
        response
    };
    let mut response = work.instrument(span).await;
    let headers = response.headers_mut();
    headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-cache, private"));
    headers.insert(reply::AUDIT_ID, id);
    response
}

fn header(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

async fn dispatch(server: &Arc<Shared>, request: Request) -> Result<Response, Status> {
    let (parts, body) = request.into_parts();
    let (headers, path) = (&parts.headers, parts.uri.path());
    let route = route::parse(path);
    let read_only = matches!(parts.method, Method::GET | Method::HEAD);
    let query = Query::parse(parts.uri.query());
    let peer = parts.extensions.get::<Option<Peer>>().cloned().flatten();
    let authentication = identity::authenticate(server, headers, peer.as_ref()).await?;
    match (&route, &authentication) {
        (_, Authentication::Rejected) => return Err(Status::unauthorized()),
        (Route::Health, _) if read_only => return Ok(health(server, path, &query)),
        (Route::Version, _) if read_only => return Ok(reply::encoded(200, &discovery::version(), Encoding::Json)),
        _ => {}
    }
    let Authentication::User(user) = authentication else {
        return Err(Status::unauthorized());
    };
    let _running = server.load.take(read_only)?;
    let user = identity::impersonated(&server.access, user, headers).await?;
    let action = access::action(&parts.method, &route, path, &query)?;
    server.access.authorize(&user, &action).await?;
    let target = match route {
        Route::Object(target) => target,
        Route::Unknown => return Err(Status::no_path()),
        Route::SecretsKey => return rotation::answer(&server.objects, &parts.method, headers, body).await,
        _ if !read_only => return Err(Status::method_not_allowed()),
        other => return document(server, headers, &other, parts.uri.query()),
    };
    let accept = header(headers, ACCEPT);
    if archive::is_export(&target) && parts.method == Method::GET {
        let lost = access_lost(server.clone(), parts.headers.clone(), peer, action.clone());
        return archive::export(server, &target, &query).await.map(|response| until(response, lost));
    }
    if archive::is_export(&target) && parts.method == Method::POST {
        return archive::export_to_pool(server, &target, &query).await;
    }
    if archive::is_import(&target) && parts.method == Method::POST {
        if query.has("fromPool") {
            return archive::import_from_pool(server, &target, &query, &user, &action).await;
        }
        return archive::import(server, &target, &query, body).await;
    }
    let zip = |response| if gzip::is_accepted(headers) { gzip::compressed(response) } else { response };
    match (&parts.method, target.name.clone()) {
        (&Method::GET, Some(name)) => return read::get(server, &target, &name, &query, accept).await.map(zip),
        (&Method::HEAD, Some(name)) => return read::get(server, &target, &name, &query, accept).await,
        (&Method::GET | &Method::HEAD, None) => {
            let response = read::collection(server, &target, &query, accept).await?;
            let lost = access_lost(server.clone(), parts.headers.clone(), peer, action.clone());
            return Ok(match action.verb.as_str() {
                "watch" => until(response, lost),
                _ if parts.method == Method::HEAD => response,
                _ => zip(response),
            });
        }
        _ => {}
    }
    let form = negotiate::object(accept)?;
    let record = matches!(parts.method, Method::PUT | Method::DELETE) && records::is_write(&target);
    // A bundle is larger than any object.
    let bundle = target.subresource.as_deref() == Some("bundle") && record;
    let bytes = read_body(headers, body, if bundle { MAX_BUNDLE } else { MAX_BODY }).await?;
    let objects = fenced(&server.objects, headers)?;
    if record {
        if query.dry_run("UpdateOptions")? {
            return Err(Status::bad_request("this part of an object cannot be tried without being written"));
        }
        return records::write(&objects, &target, headers, bytes, parts.method == Method::DELETE).await;
    }
    if parts.method == Method::POST && target.name.is_some() && is_exec(&target) {
        let lost = access_lost(server.clone(), parts.headers.clone(), peer, action.clone());
        return exec::answer(server, &target, &user.name, &bytes).await.map(|response| until(response, lost));
    }
    let last_word =
        if user.is_master() { None } else { Some(escalation::last_word(server.access.policy().await?, &user, &target, &action.verb)) };
    let request = write::Request {
        objects: &objects,
        caches: &server.caches,
        target: &target,
        query: &query,
        content_type: header(headers, CONTENT_TYPE),
        agent: header(headers, USER_AGENT).unwrap_or_default(),
        body: bytes,
        last_word,
        user: &user.name,
    };
    let answer = match (&parts.method, &target.name) {
        (&Method::POST, None) if matches!(target.entry.source, Source::Review(_)) => reviewed(server, &target, &user, &request).await?,
        (&Method::POST, None) => request.create().await?,
        (&Method::POST, Some(_)) if creates_token(&target) => request.token().await?,
        (&Method::PUT, Some(_)) => request.update().await?,
        (&Method::PATCH, Some(_)) => request.patch().await?,
        (&Method::DELETE, Some(_)) => request.delete().await?,
        (&Method::DELETE, None) => request.delete_collection().await?,
        _ => return Err(Status::method_not_allowed()),
    };
    let object = answer.value["kind"] == target.entry.kind;
    let value = if form.shape == Shape::Metadata && object { table::partial(&answer.value) } else { answer.value };
    let mut response = reply::encoded(answer.code, &value, form.encoding);
    reply::warn(&mut response, &answer.warnings);
    Ok(response)
}

/// Errors: 413 for a body that says that it is too large before any of it is read, and for one that turns out to be.
pub(super) async fn read_body(headers: &HeaderMap, body: Body, most: usize) -> Result<Bytes, Status> {
    if header(headers, CONTENT_ENCODING).is_some_and(|encoding| !encoding.eq_ignore_ascii_case("identity")) {
        return Err(Status::new(
            415,
            "UnsupportedMediaType",
            "the body of the request is compressed, which is not supported: send it as it is",
        ));
    }
    if header(headers, CONTENT_LENGTH).and_then(|l| l.parse().ok()).is_some_and(|length: usize| length > most) {
        return Err(Status::too_large());
    }
    axum::body::to_bytes(body, most).await.map_err(|_| Status::too_large())
}

/// The objects as the sender may write them: a leader's requests say under which epoch.
fn fenced(objects: &Objects, headers: &HeaderMap) -> Result<Objects, Status> {
    let Some(epoch) = headers.get(EPOCH) else { return Ok(objects.clone()) };
    let number = epoch.to_str().ok().and_then(|text| text.parse().ok());
    number.map(|epoch| objects.under(epoch)).ok_or_else(|| Status::bad_request(format!("the header {EPOCH} is not a number")))
}

fn is_exec(target: &Target) -> bool {
    target.subresource.as_deref() == Some("exec") && target.entry.subresource("exec").is_some()
}

fn creates_token(target: &Target) -> bool {
    let part = target.subresource.as_deref();
    part == Some("token") && target.entry.subresources.iter().any(|sub| sub.name == "token" && sub.verbs.contains(&"create"))
}

async fn reviewed(server: &Shared, target: &Target, user: &User, request: &write::Request<'_>) -> Result<write::Answer, Status> {
    let Source::Review(review) = target.entry.source else {
        return Err(Status::method_not_allowed());
    };
    request.query.dry_run("CreateOptions")?;
    let mut value = body::decode(request.content_type, &request.body, target.entry.kind)?.value;
    let namespace = target.namespace.as_deref();
    body::fit(&mut value, target.entry, namespace, None)?;
    let value = review::answer(&server.access, target.entry, review, user, namespace, &value).await?;
    Ok(write::Answer { code: 201, value, warnings: Vec::new() })
}

/// Returns when the sender of a request may no longer do what it does: its token ended, its role was taken away.
async fn access_lost(server: Arc<Shared>, headers: HeaderMap, peer: Option<Peer>, action: Action) {
    loop {
        server.objects.clock().sleep(LOOK_AGAIN).await;
        let allowed = async {
            match identity::authenticate(&server, &headers, peer.as_ref()).await? {
                Authentication::User(user) => {
                    let user = identity::impersonated(&server.access, user, &headers).await?;
                    server.access.authorize(&user, &action).await
                }
                Authentication::Anonymous | Authentication::Rejected => Err(Status::unauthorized()),
            }
        };
        // A store that fails for a moment says nothing about access.
        if matches!(allowed.await, Err(status) if matches!(status.code, 401 | 403)) {
            return;
        }
    }
}

/// The response with a body that also ends when `end` does.
fn until(response: Response, end: impl Future<Output = ()> + Send + 'static) -> Response {
    response.map(|body| Body::from_stream(body.into_data_stream().take_until(Box::pin(end))))
}

/// Discovery and OpenAPI.
fn document(server: &Shared, headers: &HeaderMap, route: &Route, raw_query: Option<&str>) -> Result<Response, Status> {
    let accept = header(headers, ACCEPT);
    let kept = |document: &Document, content_type| reply::document(headers, document.body.clone(), &document.tag, content_type);
    let json = |value: serde_json::Value| kept(&Document::new(value.to_string()), JSON);
    let core = matches!(route, Route::CoreVersions);
    match route {
        Route::Root => Ok(json(discovery::root())),
        Route::CoreVersions | Route::Groups => {
            let form =
                negotiate::negotiate(accept, |f| f.encoding == Encoding::Json && matches!(f.shape, Shape::Plain | Shape::Discovery(_)))?;
            Ok(match form.shape {
                Shape::Discovery(version) => {
                    // Clients know the form by its content type, repeated.
                    let content_type = match version {
                        "v2" => "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
                        _ => "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList",
                    };
                    kept(&Document::new(discovery::aggregated(core, version).to_string()), content_type)
                }
                _ if core => {
                    let host = header(headers, HOST).map_or_else(|| server.address.to_string(), Into::into);
                    json(discovery::core_versions(&host))
                }
                _ => json(discovery::groups()),
            })
        }
        Route::Group(group) => discovery::group(group).map(json).ok_or_else(Status::no_path),
        Route::Resources { group, version } => discovery::resources(group, version).map(json).ok_or_else(Status::no_path),
        Route::OpenapiV2 => {
            let form = negotiate::negotiate(accept, |f| f.encoding != Encoding::Yaml && f.shape == Shape::Plain)?;
            Ok(match form.encoding {
                Encoding::OpenapiV2 => kept(openapi_v2::as_protobuf(), "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"),
                _ => kept(openapi_v2::as_json(), JSON),
            })
        }
        Route::OpenapiV3 => Ok(kept(openapi_v3::index(), JSON)),
        Route::OpenapiGroup(key) => {
            let document = openapi_v3::groups().get(key).ok_or_else(Status::no_path)?;
            let mut response = kept(document, JSON);
            // Asked for by its hash, it never changes.
            if Query::parse(raw_query).get("hash") == Some(document.tag.as_str()) {
                response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("public, immutable, max-age=31536000"));
                response.headers_mut().remove(EXPIRES);
            }
            Ok(response)
        }
        Route::Health | Route::Version | Route::Object(_) | Route::SecretsKey | Route::Unknown => Err(Status::no_path()),
    }
}

/// `ok`, or which check failed. The server is ready while the store is open.
fn health(server: &Shared, path: &str, query: &Query) -> Response {
    let store = server.objects.store().revisions().has_changed().is_ok();
    let stopping = path.starts_with("/readyz") && server.shutdown.is_cancelled();
    let checks = [("ping", true), ("store", store), ("shutdown", !stopping)];
    let asked = path.rsplit('/').next().unwrap_or_default();
    let failed = checks.iter().any(|(name, good)| !good && (path.matches('/').count() == 1 || *name == asked));
    let text = if failed || query.has("verbose") {
        checks
            .iter()
            .map(|(name, good)| if *good { format!("[+]{name} ok\n") } else { format!("[-]{name} failed: reason withheld\n") })
            .collect()
    } else {
        "ok".to_owned()
    };
    reply::with_type(if failed { 500 } else { 200 }, Body::from(text), "text/plain; charset=utf-8")
}
