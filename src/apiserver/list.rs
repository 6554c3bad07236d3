//! Lists: pages of one state. The newest one comes from the watch cache; a page after the first shows the state of the
//! first, which the store keeps for a while.

use super::{
    cache::{Cache, Item},
    selector::Selector,
    status::Status,
};
use crate::{
    objects::Objects,
    store::{self, Revision},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use std::{sync::Arc, time::Duration};

/// How many objects are fetched at once where a selector may drop most of them.
const FETCH: u32 = 500;
/// How long a read waits for a revision that does not exist yet. Source: apiserver's watch cache.
const FUTURE_WAIT: Duration = Duration::from_secs(3);

/// What a client asked for.
#[derive(Debug, Default)]
pub(super) struct Request {
    /// 0 is all.
    pub(super) limit: u32,
    pub(super) continue_token: Option<String>,
    pub(super) revision: Option<i64>,
    /// The state at exactly `revision`, not a later one.
    pub(super) exact: bool,
}

/// One page.
pub(super) struct Listing {
    pub(super) revision: Revision,
    pub(super) items: Vec<Arc<Item>>,
    pub(super) continue_token: Option<String>,
    /// Only told where no selector makes it a guess.
    pub(super) remaining: Option<u64>,
}

impl Listing {
    /// `metadata` of the list object.
    pub(super) fn metadata(&self) -> Value {
        let mut metadata = json!({"resourceVersion": self.revision.0.to_string()});
        if let Some(token) = &self.continue_token {
            metadata["continue"] = json!(token);
        }
        if let Some(remaining) = self.remaining {
            metadata["remainingItemCount"] = json!(remaining);
        }
        metadata
    }
}

/// Namespace and name.
type Position = (String, String);

/// Lists stored objects.
pub(super) async fn list(
    cache: &Cache,
    objects: &Objects,
    namespace: Option<&str>,
    selector: &Selector,
    request: &Request,
) -> Result<Listing, Status> {
    let (mut at, mut after, mut left) = (None, None, None);
    match &request.continue_token {
        Some(token) => {
            let (revision, start, behind) = read_token(token)?;
            if request.revision.is_some_and(|r| r != 0) {
                return Err(Status::bad_request("specifying resource version is not allowed when using continue"));
            }
            at = revision;
            (after, left) = (Some(start), behind);
        }
        None => {
            if let Some(revision) = request.revision {
                wait_for(objects, revision).await?;
                at = request.exact.then_some(Revision(revision));
            }
        }
    }
    cache.catch_up().await?;
    match at {
        Some(revision) if !cache.is_still_at(revision) => {
            let start = Start { at: revision, after, left };
            older(cache, objects, namespace, selector, request.limit, start).await
        }
        at => {
            let limit = usize::try_from(request.limit).unwrap_or(usize::MAX);
            let slice = cache.slice(namespace, after.as_ref(), selector, limit).ok_or_else(|| Status::internal(&"an empty cache"))?;
            let revision = at.unwrap_or(slice.revision);
            // How many a page of one state leaves is what the page before it left without it: nothing is counted again.
            let left = if request.continue_token.is_none() { Some(slice.all) } else { left };
            let remaining = left.filter(|_| slice.more && selector.is_all()).map(|left| left.saturating_sub(slice.items.len()).max(1));
            let last = slice.items.last().filter(|_| slice.more);
            let continue_token = last.map(|last| token(revision, &last.namespace, &last.name, remaining));
            let remaining = remaining.and_then(|remaining| u64::try_from(remaining).ok());
            Ok(Listing { revision, items: slice.items, continue_token, remaining })
        }
    }
}

/// Where a page of a past state begins.
struct Start {
    at: Revision,
    after: Option<Position>,
    /// How many objects there are from here on, if it is known.
    left: Option<usize>,
}

/// Lists a state of the past, from the store.
async fn older(
    cache: &Cache,
    objects: &Objects,
    namespace: Option<&str>,
    selector: &Selector,
    limit: u32,
    start: Start,
) -> Result<Listing, Status> {
    let Start { at, mut after, left } = start;
    let most = usize::try_from(limit).unwrap_or(usize::MAX);
    let mut items: Vec<Arc<Item>> = Vec::new();
    loop {
        let fetch = if limit == 0 || selector.is_all() { limit } else { limit.max(FETCH) };
        let query = store::Query {
            resource: cache.resource_name(),
            namespace: namespace.map(Into::into),
            after: after.clone(),
            limit: fetch,
            at: Some(at),
        };
        let page = objects.store().list(&query).await.map_err(|e| expired(e.into(), after.as_ref()))?;
        let fetched = page.items.len();
        let mut more = page.more;
        for object in page.items {
            if limit > 0 && items.len() == most {
                // The limit is reached within what was fetched: go on behind the last one that was looked at.
                more = true;
                break;
            }
            after = Some((object.key.namespace.clone(), object.key.name.clone()));
            let item = Item::new(object.key, object.revision, &object.document);
            if item.matches(selector) {
                items.push(Arc::new(item));
            }
        }
        if !more || fetched == 0 {
            return Ok(Listing { revision: at, items, continue_token: None, remaining: None });
        }
        if limit > 0 && items.len() == most {
            let remaining = left.filter(|_| selector.is_all()).map(|left| left.saturating_sub(items.len()).max(1));
            let continue_token = after.as_ref().map(|(namespace, name)| token(at, namespace, name, remaining));
            return Ok(Listing { revision: at, items, continue_token, remaining: remaining.and_then(|r| u64::try_from(r).ok()) });
        }
    }
}

/// Waits until `revision` exists. Errors: 504 when it does not in time.
pub(super) async fn wait_for(objects: &Objects, revision: i64) -> Result<(), Status> {
    let mut revisions = objects.store().revisions();
    let reached = async { revisions.wait_for(|now| now.0 >= revision).await.map(|_| ()) };
    let reached = tokio::select! {
        reached = reached => reached.is_ok(),
        () = objects.clock().sleep(FUTURE_WAIT) => false,
    };
    if reached { Ok(()) } else { Err(Status::future_revision(revision, revisions.borrow().0)) }
}

/// Of an expired list, a token that goes on at the latest state.
fn expired(status: Status, after: Option<&Position>) -> Status {
    match after {
        Some(after) if status.code == 410 => Status {
            continue_token: Some(token(Revision(-1), &after.0, &after.1, None)),
            ..Status::expired(
                "The provided continue parameter is too old to display a consistent list result. You can start a new list without \
                 the continue parameter, or use the continue token in this response to retrieve the remainder of the results. \
                 Continuing with the provided token results in an inconsistent list.",
            )
        },
        None if status.code == 410 => Status::expired("The resourceVersion for the provided list is too old."),
        _ => status,
    }
}

/// `left` is how many there are behind it.
fn token(revision: Revision, namespace: &str, name: &str, left: Option<usize>) -> String {
    let start = format!("{namespace}/{name}\u{0}");
    URL_SAFE_NO_PAD.encode(json!({"v": "meta.k8s.io/v1", "rv": revision.0, "start": start, "left": left}).to_string())
}

/// The revision (`None` is the latest), the position to go on behind, and how many there are behind it.
fn read_token(token: &str) -> Result<(Option<Revision>, Position, Option<usize>), Status> {
    let read = || {
        let value: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token.trim_end_matches('=')).ok()?).ok()?;
        let (namespace, name) = value.get("start")?.as_str()?.trim_end_matches('\u{0}').split_once('/')?;
        let revision = value.get("rv")?.as_i64()?;
        let left = value.get("left").and_then(Value::as_u64).and_then(|left| usize::try_from(left).ok());
        let revision_then = (revision >= 0).then_some(Revision(revision));
        (value.get("v")? == "meta.k8s.io/v1").then(|| (revision_then, (namespace.into(), name.into()), left))
    };
    read().ok_or_else(|| Status::bad_request("invalid continue token: it is not one of this server's"))
}
