//! The garbage collector: objects whose owners are gone go too, as ownerReferences and a deletion's policy say.
//!
//! Background: a dependent goes when each of its owners was looked for and is not there, or is another one of that name.
//! Foreground: dependents go first, then the owner. Orphan: dependents lose their reference, then the owner goes. What is to
//! be done is read off the objects as they are, so a restart, or a step done twice, changes nothing.
//! Source: kube-controller-manager's `garbagecollector`; as there, Events are nobody's dependents.

mod graph;
#[cfg(test)]
mod tests;

use crate::{
    admission::{self, Resource},
    objects::{DeleteOptions, Error, Objects, Part, Patch, WriteOptions},
    store::{self, Change, Key, Object, Query, Revision},
};
use futures::StreamExt;
use graph::{FOREGROUND, Graph, ORPHAN, Owner, has_finalizer, is_ending};
use serde_json::{Value, json};
use std::collections::{BTreeSet, HashSet};

/// Changes that are read from the log at once.
const BATCH: u32 = 500;
/// Objects that are looked at together; the store commits their writes together.
const TOGETHER: usize = 16;

/// What the collector knows. Nothing of it is needed after a restart.
pub(super) struct Collector {
    objects: Objects,
    /// How far the log of each resource is read; empty before the first look.
    read: Vec<(&'static Resource, Revision)>,
    graph: Graph,
    /// Objects that must be looked at.
    look: BTreeSet<Key>,
}

impl Collector {
    pub(super) fn new(objects: Objects) -> Self {
        Self { objects, read: Vec::new(), graph: Graph::default(), look: BTreeSet::new() }
    }

    /// Does all that there is to do now. What fails stays to be looked at again.
    pub(super) async fn pass(&mut self) -> Result<(), Error> {
        loop {
            self.catch_up().await?;
            if self.look.is_empty() {
                return Ok(());
            }
            let keys = std::mem::take(&mut self.look);
            let this = &*self;
            let done: Vec<(Key, Result<(), Error>)> = futures::stream::iter(keys)
                .map(|key| async move {
                    let done = this.settle(&key).await;
                    (key, done)
                })
                .buffer_unordered(TOGETHER)
                .collect()
                .await;
            let mut failed = None;
            for (key, result) in done {
                match result {
                    // Gone already, or written meanwhile: then the log says so, and it is looked at again.
                    Ok(()) | Err(Error::NotFound { .. }) => {}
                    Err(Error::Conflict { .. }) => drop(self.look.insert(key)),
                    Err(error) => {
                        self.look.insert(key);
                        failed = Some(error);
                    }
                }
            }
            if let Some(error) = failed {
                return Err(error);
            }
        }
    }

    /// Takes in what has changed since the last look.
    async fn catch_up(&mut self) -> Result<(), Error> {
        if self.read.is_empty() {
            return self.load().await;
        }
        for at in 0..self.read.len() {
            loop {
                let (resource, after) = self.read[at];
                let (events, complete) = match self.objects.store().told(&resource.name(), after, BATCH).await {
                    Ok(changes) => changes,
                    Err(store::Error::Expired { .. }) => return self.load().await,
                    Err(error) => return Err(error.into()),
                };
                let more = events.len() == BATCH as usize;
                for event in events {
                    let look = match event.change {
                        Change::Deleted => self.graph.gone(&event.key, &event.document),
                        Change::Added | Change::Modified => self.graph.seen(&event.key, &event.document),
                    };
                    self.look.extend(look);
                }
                self.read[at].1 = complete;
                if !more {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Looks at everything; of objects that have owners only those must be looked at whose owners are not all there.
    async fn load(&mut self) -> Result<(), Error> {
        (self.graph, self.read) = (Graph::default(), Vec::new());
        let (mut present, mut owned, mut read) = (HashSet::new(), Vec::new(), Vec::new());
        for resource in admission::resources().iter().filter(|r| r.plural != "events") {
            let page = self.objects.store().list(&Query { resource: resource.name(), ..Query::default() }).await?;
            read.push((resource, page.revision));
            for item in page.items {
                let owners = graph::owners(&item.key, &item.document);
                // What must be looked at shows below, when all is known.
                self.graph.seen(&item.key, &item.document);
                present.insert((item.key.clone(), graph::uid(&item.document).to_owned()));
                if !owners.is_empty() {
                    owned.push((item.key, owners));
                }
            }
        }
        let there = |owner: &Owner| owner.key.as_ref().is_none_or(|key| present.contains(&(key.clone(), owner.uid.clone())));
        self.look.extend(owned.into_iter().filter(|(_, owners)| !owners.iter().all(there)).map(|(key, _)| key));
        self.look.extend(self.graph.waited_for());
        self.read = read;
        Ok(())
    }

    /// Brings one object a step further.
    async fn settle(&self, key: &Key) -> Result<(), Error> {
        let Some(object) = self.objects.store().get(key).await? else { return Ok(()) };
        match is_ending(&object.document) {
            true if has_finalizer(&object.document, ORPHAN) => self.orphan(&object).await,
            true if has_finalizer(&object.document, FOREGROUND) => self.release(&object).await,
            true => Ok(()),
            false => self.owned(&object).await,
        }
    }

    /// An object that lives: whether its owners do.
    async fn owned(&self, object: &Object) -> Result<(), Error> {
        let owners = graph::owners(&object.key, &object.document);
        let (mut alive, mut lost, mut waiting) = (0, Vec::new(), Vec::new());
        for owner in owners {
            match self.state(&owner).await? {
                State::Alive => alive += 1,
                State::Absent => lost.push(owner.uid),
                State::Waits => waiting.push(owner.uid),
            }
        }
        match (alive, lost.is_empty(), waiting.is_empty()) {
            (_, true, true) => Ok(()),
            // It has another owner: those that go just lose it.
            (1.., _, _) => {
                lost.extend(waiting);
                self.rewrite(object, |reference| (!lost.iter().any(|uid| reference["uid"] == **uid)).then(|| reference.clone())).await
            }
            // Its owner waits for it, and its own dependents go before it.
            (0, _, false) if !self.graph.dependents(graph::uid(&object.document)).is_empty() => self.delete(object, "Foreground").await,
            _ => {
                let policy = [(ORPHAN, "Orphan"), (FOREGROUND, "Foreground")];
                let policy = policy.iter().find(|(finalizer, _)| has_finalizer(&object.document, finalizer));
                tracing::info!("{} {}/{} goes with its owners", object.key.resource, object.key.namespace, object.key.name);
                self.delete(object, policy.map_or("Background", |(_, policy)| policy)).await
            }
        }
    }

    /// Deleted in the foreground: it goes when nothing blocks it any more.
    async fn release(&self, object: &Object) -> Result<(), Error> {
        let blocked = self.graph.is_blocked(&object.key, graph::uid(&object.document));
        if blocked { Ok(()) } else { self.drop_finalizer(object, FOREGROUND).await }
    }

    /// Its dependents lose their reference to it; then it goes.
    async fn orphan(&self, owner: &Object) -> Result<(), Error> {
        let uid = graph::uid(&owner.document);
        for key in self.graph.dependents(uid) {
            let Some(dependent) = self.objects.store().get(&key).await? else { continue };
            self.rewrite(&dependent, |reference| (reference["uid"] != *uid).then(|| reference.clone())).await?;
        }
        self.drop_finalizer(owner, ORPHAN).await
    }

    async fn state(&self, owner: &Owner) -> Result<State, Error> {
        let Some(key) = &owner.key else { return Ok(State::Alive) };
        Ok(match self.objects.store().get(key).await? {
            Some(found) if graph::uid(&found.document) == owner.uid => {
                let waits = is_ending(&found.document) && has_finalizer(&found.document, FOREGROUND);
                if waits { State::Waits } else { State::Alive }
            }
            _ => State::Absent,
        })
    }

    /// Writes the object's ownerReferences anew, unless it was changed meanwhile.
    async fn rewrite(&self, object: &Object, change: impl Fn(&Value) -> Option<Value>) -> Result<(), Error> {
        let before = object.document["metadata"]["ownerReferences"].as_array().cloned().unwrap_or_default();
        let after: Vec<Value> = before.iter().filter_map(change).collect();
        if after == before {
            return Ok(());
        }
        self.merge(object, json!({"ownerReferences": after})).await
    }

    async fn drop_finalizer(&self, object: &Object, finalizer: &str) -> Result<(), Error> {
        let left: Vec<&Value> =
            object.document["metadata"]["finalizers"].as_array().into_iter().flatten().filter(|f| *f != finalizer).collect();
        self.merge(object, json!({"finalizers": left})).await
    }

    async fn merge(&self, object: &Object, mut metadata: Value) -> Result<(), Error> {
        let resource = resource(&object.key)?;
        metadata["resourceVersion"] = object.revision.0.to_string().into();
        let patch = Patch::Merge(json!({"metadata": metadata}));
        let (namespace, name) = (&object.key.namespace, &object.key.name);
        self.objects.patch_document(resource, namespace, name, Part::Main, &patch, &WriteOptions::default()).await.map(drop)
    }

    async fn delete(&self, object: &Object, policy: &str) -> Result<(), Error> {
        let options = DeleteOptions {
            uid: Some(graph::uid(&object.document).to_owned()),
            resource_version: Some(object.revision.0.to_string()),
            propagation_policy: Some(policy.into()),
            ..DeleteOptions::default()
        };
        self.objects.delete_document(resource(&object.key)?, &object.key.namespace, &object.key.name, &options).await.map(drop)
    }
}

/// What was seen of an owner.
enum State {
    Alive,
    /// Looked for, and not there; or another one of that name.
    Absent,
    /// It is deleted in the foreground: its dependents go first.
    Waits,
}

fn resource(key: &Key) -> Result<&'static Resource, Error> {
    let found = admission::resources().iter().find(|r| r.name() == key.resource);
    found.ok_or_else(|| Error::NotFound { resource: key.resource.clone(), name: key.name.clone() })
}
