//! The way over another server's API.

use crate::admission;
use crate::api::{Checkpoint, Kind, Machine, SYSTEM_NAMESPACE};
use crate::clock::Clock;
use crate::ledger::Usage;
use crate::objects::{self, Error, EventType, Feed, Told};
use crate::remote::{self, Refused};
use crate::store::{self, BundleRow, CallSummary, Change, Key, Object, Revision, VmidLease, ledger::Gap};
use futures::{StreamExt, stream::BoxStream};
use reqwest::{Method, header};
use secrecy::SecretString;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// Objects of a list that come at once.
const PAGE: u32 = 500;

/// A server of ours, reached over HTTPS; cheap to clone.
#[derive(Clone)]
pub struct Remote {
    http: remote::Client,
    clock: Clock,
}

/// What the server's refusal means here.
fn error(error: remote::Error) -> Error {
    let refused = match error {
        remote::Error::Refused(refused) => refused,
        other => return Error::Store(store::Error::Unavailable(other.to_string())),
    };
    let text = |field: &str| refused.details[field].as_str().unwrap_or_default().to_owned();
    let resource = match text("group") {
        group if group.is_empty() => text("kind"),
        group => format!("{}.{group}", text("kind")),
    };
    let Refused { code, reason, message, .. } = &refused;
    match (*code, reason.as_str()) {
        (404, "NotFound") if !text("name").is_empty() => Error::NotFound { resource, name: text("name") },
        (409, "AlreadyExists") => Error::AlreadyExists { resource, name: text("name") },
        (409, _) => Error::Conflict { resource, name: text("name"), message: message.clone() },
        (412, "Fenced") => {
            let number = |field: &str| refused.details[field].as_i64().unwrap_or_default();
            Error::Store(store::Error::Fenced { ours: number("ours"), theirs: number("theirs") })
        }
        (401 | 403, _) => Error::Forbidden(message.clone()),
        (410, _) => Error::Expired(message.clone()),
        (422, _) => Error::Unprocessable(message.clone()),
        (500.. | 429, _) => Error::Store(store::Error::Unavailable(message.clone())),
        _ => Error::BadRequest(message.clone()),
    }
}

/// An absence is an answer.
fn absent(found: Result<Value, Error>) -> Result<Option<Value>, Error> {
    match found {
        Ok(document) => Ok(Some(document)),
        Err(Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

fn path<K: Kind>(namespace: &str, name: &str) -> String {
    remote::of_kind::<K>(Some(namespace), Some(name))
}

/// Path of a part of an object.
fn part<K: Kind>(object: &K, part: &str) -> String {
    format!("{}/{part}", path::<K>(object.namespace(), object.name()))
}

fn typed<K: Kind>(document: &Value) -> Result<K, Error> {
    let (key, _) = place::<K>(document)?;
    objects::typed(&key, document)
}

/// Which object a document is, at which revision.
fn place<K: Kind>(document: &Value) -> Result<(Key, Revision), Error> {
    let text = |field: &str| document["metadata"][field].as_str().unwrap_or_default();
    let revision = revision(document)?;
    Ok((admission::resource::<K>().key(text("namespace"), text("name")), revision))
}

fn revision(document: &Value) -> Result<Revision, Error> {
    let text = document["metadata"]["resourceVersion"].as_str().unwrap_or_default();
    text.parse().map(Revision).map_err(|_| strange("an object without a resourceVersion"))
}

fn strange(what: &str) -> Error {
    Error::Store(store::Error::Corrupt(format!("the server sent {what}")))
}

fn read<T: serde::de::DeserializeOwned>(value: Value) -> Result<T, Error> {
    serde_json::from_value(value).map_err(|error| strange(&format!("what this version does not know: {error}")))
}

impl Remote {
    pub fn new(http: remote::Client, clock: Clock) -> Self {
        Self { http, clock }
    }

    pub(super) fn clock(&self) -> &Clock {
        &self.clock
    }

    pub(super) fn epoch(&self) -> i64 {
        self.http.epoch()
    }

    pub(super) fn under(&self, epoch: i64) -> Self {
        Self { http: self.http.under(epoch), clock: self.clock.clone() }
    }

    pub(super) async fn get<K: Kind>(&self, namespace: &str, name: &str) -> Result<Option<K>, Error> {
        let found = absent(self.http.get(&path::<K>(namespace, name)).await.map_err(error))?;
        found.as_ref().map(typed).transpose()
    }

    pub(super) async fn list<K: Kind>(&self, namespace: Option<&str>) -> Result<(Vec<K>, Revision), Error> {
        let (items, at) = self.items(&remote::of_kind::<K>(namespace, None)).await?;
        Ok((items.iter().map(typed).collect::<Result<_, _>>()?, at))
    }

    pub(super) async fn list_where<K: Kind>(&self, namespace: &str, takes: impl Fn(&Value) -> bool) -> Result<Vec<K>, Error> {
        let (items, _) = self.items(&remote::of_kind::<K>(Some(namespace), None)).await?;
        items.iter().filter(|document| takes(document)).map(typed).collect()
    }

    /// All documents of a collection, page after page, at the revision of the first.
    async fn items(&self, collection: &str) -> Result<(Vec<Value>, Revision), Error> {
        let (mut all, mut next) = (Vec::new(), String::new());
        loop {
            let mut page = self.http.get(&format!("{collection}?limit={PAGE}{next}")).await.map_err(error)?;
            let Value::Array(items) = page["items"].take() else { return Err(strange("no list where one was asked for")) };
            all.extend(items);
            match page["metadata"]["continue"].as_str().filter(|token| !token.is_empty()) {
                Some(token) => next = format!("&continue={}", remote::segment(token)),
                None => return Ok((all, revision(&page)?)),
            }
        }
    }

    pub(super) fn watch_listed<K: Kind>(&self) -> BoxStream<'static, Told<K>> {
        let feed = Changes::<K> { remote: self.clone(), lines: None, kind: std::marker::PhantomData };
        objects::follow(feed, self.clock.clone())
    }

    pub(super) async fn create<K: Kind>(&self, object: &K) -> Result<K, Error> {
        let mut document = document(object);
        document["metadata"].as_object_mut().into_iter().for_each(|metadata| drop(metadata.remove("resourceVersion")));
        let path = remote::of_kind::<K>(Some(object.namespace()), None);
        typed(&self.http.create(&path, &document).await.map_err(error)?)
    }

    pub(super) async fn update<K: Kind>(&self, object: &K) -> Result<K, Error> {
        self.write(object, &path::<K>(object.namespace(), object.name())).await
    }

    pub(super) async fn update_status<K: Kind>(&self, object: &K) -> Result<K, Error> {
        self.write(object, &part(object, "status")).await
    }

    /// Only what differs from the object as it was read: spellings that its type would change stay as the user wrote them.
    async fn write<K: Kind>(&self, object: &K, to: &str) -> Result<K, Error> {
        let stored = self.http.get(&path::<K>(object.namespace(), object.name())).await.map_err(error)?;
        let mut new = document(object);
        if stored["metadata"]["resourceVersion"] == new["metadata"]["resourceVersion"] {
            new = objects::graft(&stored, &document(&typed::<K>(&stored)?), &new);
        }
        typed(&self.http.put(to, &new).await.map_err(error)?)
    }

    pub(super) async fn delete<K: Kind>(&self, namespace: &str, name: &str, uid: Option<&str>) -> Result<(), Error> {
        let options = match uid {
            Some(uid) => json!({ "kind": "DeleteOptions", "apiVersion": "v1", "preconditions": { "uid": uid } }),
            None => json!({ "kind": "DeleteOptions", "apiVersion": "v1" }),
        };
        let request = self.http.request(Method::DELETE, &path::<K>(namespace, name)).json(&options);
        self.http.json(request).await.map(drop).map_err(error)
    }

    pub(super) async fn secret(&self, namespace: &str, name: &str, key: &str) -> Result<Option<SecretString>, Error> {
        let path = format!("{}/{}", remote::collection("", "v1", "secrets", Some(namespace)), remote::segment(name));
        let Some(secret) = absent(self.http.get(&path).await.map_err(error))? else { return Ok(None) };
        objects::secret_value(&secret, namespace, name, key)
    }

    pub(super) async fn record<K: Kind>(&self, about: &K, kind: EventType, reason: &str, message: &str) {
        objects::record(&Events(self), &self.clock, about, kind, reason, message).await;
    }
}

/// Events over the API.
struct Events<'a>(&'a Remote);

impl objects::EventDocuments for Events<'_> {
    async fn read(&self, namespace: &str, name: &str) -> Result<Value, Error> {
        self.0.http.get(&format!("{}/{}", events(namespace), remote::segment(name))).await.map_err(error)
    }
    async fn create(&self, namespace: &str, event: Value) -> Result<(), Error> {
        self.0.http.create(&events(namespace), &with_kind(event)).await.map(drop).map_err(error)
    }
    async fn update(&self, namespace: &str, name: &str, event: Value) -> Result<(), Error> {
        let path = format!("{}/{}", events(namespace), remote::segment(name));
        self.0.http.put(&path, &with_kind(event)).await.map(drop).map_err(error)
    }
}

fn lease() -> String {
    let all = remote::collection("coordination.k8s.io", "v1", "leases", Some(SYSTEM_NAMESPACE));
    format!("{all}/{}", objects::leader::LEASE)
}

fn events(namespace: &str) -> String {
    remote::collection("", "v1", "events", Some(namespace))
}

fn with_kind(mut event: Value) -> Value {
    event["apiVersion"] = "v1".into();
    event["kind"] = "Event".into();
    event
}

fn document<K: Kind>(object: &K) -> Value {
    let mut document = serde_json::to_value(object).expect("our kinds have string keys and no failing parts");
    document["apiVersion"] = crate::api::API_VERSION.into();
    document["kind"] = K::KIND.into();
    document
}

/// The rows beside objects, and the leader's Lease.
impl Remote {
    pub(super) async fn lease(&self) -> Result<Option<Value>, Error> {
        absent(self.http.get(&lease()).await.map_err(error))
    }

    pub(super) async fn put_lease(&self, document: &Value) -> Result<Value, Error> {
        self.http.put(&lease(), document).await.map_err(error)
    }

    pub(super) async fn installation(&self, hub: &str) -> Result<String, Error> {
        let vmids = self.vmids(hub).await?;
        vmids["installation"].as_str().map(str::to_owned).ok_or_else(|| strange("no installation's id"))
    }

    pub(super) async fn ledger_gap(&self, hub: &str) -> Result<Option<Gap>, Error> {
        let Some(mut vmids) = absent(self.vmids(hub).await)? else { return Ok(None) };
        read(vmids["ledgerGap"].take())
    }

    async fn vmids(&self, hub: &str) -> Result<Value, Error> {
        self.http.get(&format!("{}/vmids", path::<crate::api::Hub>("", hub))).await.map_err(error)
    }

    pub(super) async fn vmid_leases(&self, hub: &str) -> Result<Vec<VmidLease>, Error> {
        // The server has them also of a Hub that is gone: an answer without them is none.
        read(self.vmids(hub).await?["items"].take())
    }

    pub(super) async fn lease_vmid(&self, machine: &Machine, (from, to): (u32, u32), taken: &[u32]) -> Result<Option<u32>, Error> {
        let wanted = json!({ "uid": machine.uid(), "from": from, "to": to, "taken": taken });
        let mut leased = self.http.put(&part(machine, "vmid"), &wanted).await.map_err(error)?;
        read(leased["vmid"].take())
    }

    pub(super) async fn end_vmid_lease(&self, machine: &Machine) -> Result<(), Error> {
        let request = self.http.request(Method::DELETE, &part(machine, "vmid")).json(&json!({ "uid": machine.uid() }));
        self.http.json(request).await.map(drop).map_err(error)
    }

    /// Of the Machine that its status names.
    pub(super) async fn end_vmid_lease_of(&self, hub: &str, checkpoint: &Checkpoint) -> Result<(), Error> {
        let body = json!({ "uid": checkpoint.uid(), "hub": hub });
        let request = self.http.request(Method::DELETE, &part(checkpoint, "vmid")).json(&body);
        self.http.json(request).await.map(drop).map_err(error)
    }

    pub(super) async fn put_token(&self, machine: &Machine, hash: &str, keep_others: bool) -> Result<(), Error> {
        let token = json!({ "uid": machine.uid(), "hash": hash, "keepOthers": keep_others });
        self.http.put(&part(machine, "token"), &token).await.map(drop).map_err(error)
    }

    pub(super) async fn last_main_call(&self, machine: &Machine) -> Result<Option<CallSummary>, Error> {
        let mut calls = self.http.get(&part(machine, "calls")).await.map_err(error)?;
        read(calls["main"].take())
    }

    pub(super) async fn usage<K: Kind>(&self, of: &K) -> Result<Usage, Error> {
        read(self.http.get(&part(of, "usage")).await.map_err(error)?)
    }

    pub(super) async fn bundle_commit(&self, checkpoint: &Checkpoint) -> Result<Option<String>, Error> {
        let head = self.http.send(self.http.request(Method::HEAD, &part(checkpoint, "bundle"))).await;
        match head {
            Ok(head) => {
                let commit = head.headers().get(remote::COMMIT).and_then(|commit| commit.to_str().ok());
                commit.map(|commit| Some(commit.to_owned())).ok_or_else(|| strange("a bundle without a commit"))
            }
            // The answer to HEAD has no body to say more.
            Err(remote::Error::Refused(Refused { code: 404, .. })) => Ok(None),
            Err(other) => Err(error(other)),
        }
    }

    /// Each from the checkpoint that has it: a bundle's base is the nearest ancestor's that has one.
    pub(super) async fn bundle_chain(&self, checkpoint: &Checkpoint) -> Result<Vec<BundleRow>, Error> {
        let (mut rows, mut next, mut seen) = (Vec::<BundleRow>::new(), Some(checkpoint.clone()), BTreeSet::new());
        while let Some(current) = next.filter(|current| seen.insert(current.name().to_owned())) {
            if let Some(commit) = self.bundle_commit(&current).await? {
                let answer = self.http.send(self.http.request(Method::GET, &part(&current, "bundle"))).await.map_err(error)?;
                let base = answer.headers().get(remote::BASE_COMMIT).and_then(|commit| commit.to_str().ok()).map(str::to_owned);
                let bytes = answer.bytes().await.map_err(|_| strange("a bundle that breaks off"))?.to_vec();
                let ends = base.is_none();
                rows.push(BundleRow { commit, base_commit: base, bytes });
                if ends {
                    break;
                }
            }
            next = match current.status.and_then(|status| status.parent) {
                Some(parent) => self.get::<Checkpoint>(&current.metadata.namespace.unwrap_or_default(), &parent).await?,
                None => None,
            };
        }
        rows.reverse();
        Ok(rows)
    }

    pub(super) async fn put_bundle(&self, checkpoint: &Checkpoint, bundle: BundleRow) -> Result<(), Error> {
        let mut request = self
            .http
            .request(Method::PUT, &part(checkpoint, "bundle"))
            .header(header::CONTENT_TYPE, "application/x-git-bundle")
            .header(remote::UID, checkpoint.uid())
            .header(remote::COMMIT, bundle.commit);
        if let Some(base) = bundle.base_commit {
            request = request.header(remote::BASE_COMMIT, base);
        }
        self.http.json(request.body(bundle.bytes)).await.map(drop).map_err(error)
    }
}

/// A kind's changes, as its watch tells them.
struct Changes<K> {
    remote: Remote,
    /// The watch that runs.
    lines: Option<BoxStream<'static, Result<Value, remote::Error>>>,
    kind: std::marker::PhantomData<fn() -> K>,
}

impl<K: Kind> Feed for Changes<K> {
    async fn list(&mut self) -> Result<(Vec<Object>, Revision), Error> {
        self.lines = None;
        let (items, at) = self.remote.items(&remote::of_kind::<K>(None, None)).await?;
        let object = |document: Value| {
            let (key, revision) = place::<K>(&document)?;
            Ok(Object { key, revision, document })
        };
        Ok((items.into_iter().map(object).collect::<Result<_, Error>>()?, at))
    }

    async fn follow(&mut self, after: Revision) -> Result<(Vec<store::Event>, Revision), Error> {
        let mut lines = match self.lines.take() {
            Some(lines) => lines,
            None => {
                let collection = remote::of_kind::<K>(None, None);
                let path = format!("{collection}?watch=true&allowWatchBookmarks=true&resourceVersion={}", after.0);
                self.remote.http.lines(&path, "application/json").await.map_err(error)?
            }
        };
        // A watch that ends is begun again where it was; one whose server went away, after a pause.
        let Some(line) = lines.next().await else { return Ok((Vec::new(), after)) };
        let mut line = line.map_err(error)?;
        let document = line["object"].take();
        let change = match line["type"].as_str().unwrap_or_default() {
            "ADDED" => Some(Change::Added),
            "MODIFIED" => Some(Change::Modified),
            "DELETED" => Some(Change::Deleted),
            "BOOKMARK" => None,
            _ if document["code"] == 410 => return Err(Error::Expired(document["message"].as_str().unwrap_or_default().into())),
            _ => return Err(Error::Store(store::Error::Unavailable(format!("the watch was ended: {}", document["message"])))),
        };
        self.lines = Some(lines);
        let Some(change) = change else { return Ok((Vec::new(), revision(&document)?)) };
        let (key, revision) = place::<K>(&document)?;
        Ok((vec![store::Event { revision, change, key, document }], revision))
    }
}
