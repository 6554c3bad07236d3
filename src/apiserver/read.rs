//! Reads: one object, lists, watches, and the parts of an object that are documents of their own.

use super::{
    Shared,
    cache::View,
    catalog::{Entry, Source},
    definitions,
    list::{self, Listing},
    negotiate::{self, Encoding, Form, Shape},
    present,
    query::Query,
    records, reply,
    route::Target,
    selector::Selector,
    status::Status,
    table::{self, Include, Printer},
    watch,
};
use crate::objects;
use crate::remote::{BASE_COMMIT, COMMIT};
use axum::{body::Body, http::header, response::Response};
use bytes::Bytes;
use serde_json::{Value, json};

/// How many messages a log is cut to when the client names no limit.
const LOG_LIMIT: u32 = 10_000;
/// Size in bytes from which on a list is sent in pieces.
const CHUNK: usize = 64 << 10;

/// GET of an object or one of its parts.
pub(super) async fn get(server: &Shared, target: &Target, name: &str, query: &Query, accept: Option<&str>) -> Result<Response, Status> {
    if let Some(revision) = query.revision()? {
        list::wait_for(&server.objects, revision).await?;
    }
    if let Some(part) = target.subresource.as_deref() {
        let part = target.entry.subresource(part).ok_or_else(Status::no_path)?;
        if !part.verbs.contains(&"get") {
            return Err(Status::method_not_allowed());
        }
    }
    if records::is_read(target) {
        return records::get(&server.objects, target).await;
    }
    let namespace = target.namespace.as_deref().unwrap_or_default();
    let document = match target.entry.source {
        Source::Stored(resource) | Source::EventsView(resource) => {
            let document = server.objects.read(resource, namespace, name).await?;
            objects::degraded(&resource.key(namespace, name), &document).unwrap_or(document)
        }
        Source::Definitions => definitions::get(&server.objects, name).await?,
        Source::Review(_) => return Err(Status::method_not_allowed()),
    };
    match target.subresource.as_deref() {
        Some("log") => return log(server, &document, query).await,
        Some("bundle") => return bundle(server, target, &document).await,
        // The object itself, or its status, which is shown with all of it.
        _ => {}
    }
    let form = negotiate::object(accept)?;
    let value = match form.shape {
        Shape::Table => {
            let metadata = json!({"resourceVersion": document.pointer("/metadata/resourceVersion")});
            let (now, include) = (server.objects.clock().now(), include(query)?);
            Printer::of(target.entry).table(&[document], &metadata, include, now, true)
        }
        Shape::Metadata => table::partial(&document),
        Shape::Plain | Shape::Discovery(_) => present::out(target.entry, document),
    };
    Ok(reply::encoded(200, &value, form.encoding))
}

/// GET of a collection.
pub(super) async fn collection(server: &Shared, target: &Target, query: &Query, accept: Option<&str>) -> Result<Response, Status> {
    let entry = target.entry;
    if !entry.has_verb("list") {
        return Err(Status::method_not_allowed());
    }
    let selector = Selector::parse(entry, query.get("labelSelector"), query.get("fieldSelector"))?;
    if query.flag("watch")?.unwrap_or(false) {
        let form = negotiate::stream(accept)?;
        let request = watch::Request::parse(query)?;
        let view = View { entry, shape: form.shape, include: include(query)?, printer: Printer::of(entry) };
        return Ok(reply::stream(watch::start(server, view, target.namespace.clone(), selector, request)));
    }
    let form = negotiate::object(accept)?;
    let request = list_request(query)?;
    let listing = match entry.resource() {
        Some(resource) => list::list(server.caches.of(resource), &server.objects, target.namespace.as_deref(), &selector, &request).await?,
        None => definitions::list(&server.objects, &selector).await?,
    };
    listed(server, entry, listing, form, include(query)?)
}

fn listed(server: &Shared, entry: &'static Entry, listing: Listing, form: Form, include: Include) -> Result<Response, Status> {
    let metadata = listing.metadata();
    let objects = &server.objects;
    if form.encoding != Encoding::Json {
        let items: Result<Vec<Value>, Status> = listing.items.iter().map(|i| Ok(present::out(entry, i.document(objects)?))).collect();
        let (kind, api_version) = (format!("{}List", entry.kind), entry.api_version());
        let value = json!({"kind": kind, "apiVersion": api_version, "metadata": metadata, "items": items?});
        return Ok(reply::encoded(200, &value, form.encoding));
    }
    // Each object is parsed, shown and forgotten: a parsed one takes five times the memory of its text.
    let shown = |show: &dyn Fn(Value) -> Value| -> Result<Vec<Bytes>, Status> {
        listing.items.iter().map(|item| Ok(show(item.document(objects)?).to_string().into())).collect()
    };
    let meta = "meta.k8s.io/v1";
    match form.shape {
        Shape::Table => {
            let (printer, now) = (Printer::of(entry), objects.clock().now());
            let rows = shown(&|document| printer.row(&document, include, now))?;
            let columns = printer.definitions();
            Ok(joined(&json!({"kind": "Table", "apiVersion": meta, "metadata": metadata, "columnDefinitions": columns}), "rows", rows))
        }
        Shape::Metadata => {
            let items = shown(&|document| table::partial(&document))?;
            Ok(joined(&json!({"kind": "PartialObjectMetadataList", "apiVersion": meta, "metadata": metadata}), "items", items))
        }
        Shape::Plain | Shape::Discovery(_) => {
            let items = listing.items.iter().map(|item| item.json(entry, objects)).collect::<Result<_, _>>()?;
            let head = json!({"kind": format!("{}List", entry.kind), "apiVersion": entry.api_version(), "metadata": metadata});
            Ok(joined(&head, "items", items))
        }
    }
}

/// A list of texts under `field` behind what is in `head`. A long one is put together while it is sent, so that many of them cost
/// little memory.
fn joined(head: &Value, field: &str, texts: Vec<Bytes>) -> Response {
    let mut head = head.to_string();
    // Instead of its closing brace.
    head.pop();
    head += &format!(",\"{field}\":[");
    // Commas between the items, and the end.
    let length = head.len() + texts.iter().map(Bytes::len).sum::<usize>() + texts.len().saturating_sub(1) + 2;
    let mut chunks = chunks(head, texts);
    let first = chunks.next().unwrap_or_default();
    let body = if first.len() < CHUNK {
        Body::from(first)
    } else {
        let all = std::iter::once(first).chain(chunks).map(Ok::<Bytes, std::convert::Infallible>);
        Body::from_stream(futures::stream::iter(all))
    };
    let mut response = reply::with_type(200, body, "application/json");
    response.headers_mut().insert(header::CONTENT_LENGTH, length.into());
    response
}

/// The text of a list in pieces of a little over [`CHUNK`]; the last one is smaller.
fn chunks(head: String, texts: Vec<Bytes>) -> impl Iterator<Item = Bytes> {
    let (mut texts, mut head, mut separator) = (texts.into_iter(), Some(head.into_bytes()), "");
    let mut ended = false;
    std::iter::from_fn(move || {
        if ended {
            return None;
        }
        let mut chunk = head.take().unwrap_or_default();
        for text in texts.by_ref() {
            chunk.extend(std::mem::replace(&mut separator, ",").as_bytes());
            chunk.extend(&text);
            if chunk.len() >= CHUNK {
                return Some(chunk.into());
            }
        }
        ended = true;
        chunk.extend(b"]}");
        Some(chunk.into())
    })
}

fn include(query: &Query) -> Result<Include, Status> {
    let given = query.get("includeObject");
    Include::parse(given).ok_or_else(|| Status::bad_request(format!("includeObject: {given:?} is none of None, Metadata, Object")))
}

/// Source: apimachinery `ValidateListOptions`.
fn list_request(query: &Query) -> Result<list::Request, Status> {
    const MATCH: &str = "resourceVersionMatch";
    const FORBIDDEN: &str = "FieldValueForbidden";
    let invalid = |field: &str, reason, body: &str| Err(Status::invalid_option("ListOptions", field, reason, body));
    let revision = query.revision()?;
    let token = query.get("continue").map(str::to_owned);
    if query.get("sendInitialEvents").is_some() {
        return invalid("sendInitialEvents", "FieldValueForbidden", "Forbidden: sendInitialEvents is forbidden for list");
    }
    let exact = match query.get(MATCH) {
        Some(_) if token.is_some() => {
            return invalid(MATCH, FORBIDDEN, "Forbidden: resourceVersionMatch is forbidden when continue is provided");
        }
        Some(_) if revision.is_none() => {
            return invalid(MATCH, FORBIDDEN, "Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided");
        }
        Some("Exact") if revision == Some(0) => {
            return invalid(MATCH, FORBIDDEN, "Forbidden: resourceVersionMatch \"Exact\" is forbidden for resourceVersion \"0\"");
        }
        Some("Exact") => true,
        None | Some("NotOlderThan") => false,
        Some(other) => {
            let body = format!("Unsupported value: {other:?}: supported values: \"Exact\", \"NotOlderThan\"");
            return invalid(MATCH, "FieldValueNotSupported", &body);
        }
    };
    // Any state will do: the whole list comes at once.
    let limit = if revision == Some(0) { 0 } else { query.number("limit")?.unwrap_or(0) };
    // With a limit and no other wish, a revision means exactly that one; an old oddity that clients know.
    let exact = exact || (limit > 0 && query.get(MATCH).is_none() && revision.is_some_and(|r| r > 0));
    Ok(list::Request { limit, continue_token: token, revision, exact })
}

/// What a Machine's agent and its model said: a JSON list, from behind message `after`.
async fn log(server: &Shared, machine: &Value, query: &Query) -> Result<Response, Status> {
    let uid = machine.pointer("/metadata/uid").and_then(Value::as_str).unwrap_or_default();
    let after = query.number("after")?.unwrap_or(0);
    let limit = query.number("limit")?.filter(|l| *l > 0).unwrap_or(LOG_LIMIT);
    let entries = server.objects.store().transcript(uid, after, limit).await?;
    let value = serde_json::to_value(entries).map_err(|e| Status::internal(&e))?;
    Ok(reply::encoded(200, &value, Encoding::Json))
}

/// The workspace that goes with a Checkpoint, as a git bundle.
async fn bundle(server: &Shared, target: &Target, checkpoint: &Value) -> Result<Response, Status> {
    let uid = checkpoint.pointer("/metadata/uid").and_then(Value::as_str).unwrap_or_default();
    let Some(row) = server.objects.store().bundle(uid).await? else {
        let name = target.name.as_deref().unwrap_or_default();
        let message = format!("checkpoint \"{name}\" has no bundle: its Machine had no git workspace when it was taken");
        return Err(Status { message, ..Status::not_found(&target.entry.name(), name) });
    };
    let mut response = reply::with_type(200, Body::from(row.bytes), "application/x-git-bundle");
    let headers = [(COMMIT, Some(row.commit)), (BASE_COMMIT, row.base_commit)];
    for (name, value) in headers {
        if let Some(value) = value.and_then(|v| header::HeaderValue::from_str(&v).ok()) {
            response.headers_mut().insert(name, value);
        }
    }
    Ok(response)
}
