//! Kubernetes Events about objects, counted instead of repeated, gone after an hour.

use super::{DeleteOptions, Error, EventType, Objects, WriteOptions};
use crate::admission::{self, Resource};
use crate::api::{API_VERSION, Kind};
use crate::clock::Clock;
use crate::store;
use jiff::Timestamp;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::time::Duration;

/// How long an Event is kept. Source: kube-apiserver `--event-ttl`.
const TTL: Duration = Duration::from_hours(1);
/// Who reports, as `kubectl describe` shows it.
const COMPONENT: &str = "autovibe";
/// Source: events.k8s.io/v1 `note`.
const MESSAGE_BYTES: usize = 1024;

/// Where Events are kept: the store of this process, or another server.
pub trait EventDocuments: Sync {
    fn read(&self, namespace: &str, name: &str) -> impl Future<Output = Result<Value, Error>> + Send;
    fn create(&self, namespace: &str, event: Value) -> impl Future<Output = Result<(), Error>> + Send;
    fn update(&self, namespace: &str, name: &str, event: Value) -> impl Future<Output = Result<(), Error>> + Send;
}

impl EventDocuments for Objects {
    async fn read(&self, namespace: &str, name: &str) -> Result<Value, Error> {
        self.read(events(), namespace, name).await
    }
    async fn create(&self, namespace: &str, event: Value) -> Result<(), Error> {
        self.create_document(events(), namespace, event, &WriteOptions::default()).await.map(drop)
    }
    async fn update(&self, namespace: &str, name: &str, event: Value) -> Result<(), Error> {
        self.update_document(events(), namespace, name, super::Part::Main, event, &WriteOptions::default()).await.map(drop)
    }
}

/// Records a Kubernetes Event about an object; repeats are counted on one object. Failing to record is only logged.
pub async fn record<K: Kind>(to: &impl EventDocuments, clock: &Clock, about: &K, kind: EventType, reason: &str, message: &str) {
    let namespace = if about.namespace().is_empty() { "default" } else { about.namespace() };
    let message = &message[..message.floor_char_boundary(MESSAGE_BYTES)];
    let name = name(about, kind, reason, message);
    // A repeat that comes between the read and the write is counted by trying again.
    for _ in 0..8 {
        let result = match to.read(namespace, &name).await {
            Ok(event) => to.update(namespace, &name, counted(event, clock)).await,
            Err(Error::NotFound { .. }) => to.create(namespace, event(clock, about, &name, (kind, reason, message))).await,
            Err(error) => Err(error),
        };
        match result {
            Ok(()) => return,
            Err(Error::Conflict { .. } | Error::AlreadyExists { .. } | Error::NotFound { .. }) => {}
            Err(error) => {
                tracing::warn!("an event about {} {} was not recorded: {error}", K::SINGULAR, about.name());
                return;
            }
        }
    }
    tracing::warn!("an event about {} {} was not recorded: it was overtaken too often", K::SINGULAR, about.name());
}

fn counted(mut event: Value, clock: &Clock) -> Value {
    event["count"] = (event["count"].as_i64().unwrap_or(1) + 1).into();
    event["lastTimestamp"] = json!(clock.api_now());
    event
}

fn event<K: Kind>(clock: &Clock, about: &K, name: &str, (kind, reason, message): (EventType, &str, &str)) -> Value {
    let now = clock.api_now();
    json!({
        "metadata": { "name": name },
        "involvedObject": {
            "apiVersion": API_VERSION, "kind": K::KIND, "namespace": about.metadata().namespace, "name": about.name(),
            "uid": about.uid(), "resourceVersion": about.metadata().resource_version,
        },
        "type": match kind { EventType::Normal => "Normal", EventType::Warning => "Warning" },
        "reason": reason, "message": message, "count": 1, "firstTimestamp": now, "lastTimestamp": now,
        "source": { "component": COMPONENT }, "reportingComponent": COMPONENT, "reportingInstance": COMPONENT,
    })
}

impl Objects {
    /// Records an Event about an object; see [`record`].
    pub async fn record<K: Kind>(&self, about: &K, kind: EventType, reason: &str, message: &str) {
        record(self, &self.clock, about, kind, reason, message).await;
    }

    /// Removes Events that were last seen more than an hour ago; how many. The API server's background task calls it now and then.
    pub async fn expire_events(&self) -> Result<u64, Error> {
        let before = self.clock.now() - TTL;
        let page = self.store.list(&store::Query { resource: "events".into(), ..store::Query::default() }).await?;
        let mut gone = 0;
        for item in page.items {
            if last_seen(&item.document).is_some_and(|seen| seen < before) {
                let options = DeleteOptions { resource_version: Some(item.revision.0.to_string()), ..DeleteOptions::default() };
                match self.delete_document(events(), &item.key.namespace, &item.key.name, &options).await {
                    Ok(_) => gone += 1,
                    // Seen again, or gone already.
                    Err(Error::Conflict { .. } | Error::NotFound { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(gone)
    }
}

/// The same for the same thing said of the same object, so that it is counted.
fn name<K: Kind>(about: &K, kind: EventType, reason: &str, message: &str) -> String {
    let hash = Sha256::digest(format!("{}\0{kind:?}\0{reason}\0{message}", about.uid()));
    let mut head = about.name().to_owned();
    head.truncate(200);
    format!("{head}.{}", hex::encode(&hash[..8]))
}

fn last_seen(event: &Value) -> Option<Timestamp> {
    ["/series/lastObservedTime", "/lastTimestamp", "/eventTime", "/metadata/creationTimestamp"]
        .iter()
        .filter_map(|pointer| event.pointer(pointer)?.as_str()?.parse().ok())
        .max()
}

fn events() -> &'static Resource {
    admission::named("", "events").expect("events are in the catalog")
}
