//! The objects that every call needs, kept current by watches, so that a call reads the database only for its token.

use crate::{
    api::{Budget, DEFAULT_BUDGET, Hub, Kind, Machine, SYSTEM_NAMESPACE},
    objects::{self, Objects},
    store::{Change, Revision},
};
use futures::StreamExt;
use secrecy::SecretString;
use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Changes of Secrets that are read at once; what is behind them only empties the cache again.
const PAGE: u32 = 1000;

/// Current Machines, Hubs, Budgets and provider keys.
#[derive(Clone)]
pub(super) struct Directory {
    objects: Objects,
    cache: Arc<Mutex<Cache>>,
}

#[derive(Default)]
struct Cache {
    /// By uid.
    machines: HashMap<String, Arc<Machine>>,
    hubs: HashMap<String, Arc<Hub>>,
    /// By namespace and name.
    budgets: HashMap<(String, String), Arc<Budget>>,
    /// Namespaces without a Budget `default`, of those that were asked for, while no Budget changes.
    unbudgeted: HashSet<String>,
    /// Rises when Budgets change.
    budget_changes: u64,
    /// By name of the Secret.
    keys: HashMap<String, SecretString>,
    /// Rises when Secrets change, so that what was read before is not kept.
    secrets: u64,
}

impl Directory {
    /// Follows all objects until `shutdown`; `noted` gets the uid of each Machine that
    /// changed, once it is known here, and whether it was deleted or has finished.
    pub(super) fn start(
        objects: &Objects,
        tasks: &TaskTracker,
        shutdown: &CancellationToken,
        noted: impl Fn(&str, bool) + Send + Sync + 'static,
    ) -> Self {
        let directory = Self { objects: objects.clone(), cache: Arc::default() };
        let this = directory.clone();
        directory.follow(tasks, shutdown, move |change, machine: Machine| {
            let is_gone = change == Change::Deleted || machine.status.as_ref().is_some_and(|status| status.phase.is_finished());
            let uid = machine.uid().to_owned();
            put(&mut this.cache().machines, uid.clone(), change, machine);
            noted(&uid, is_gone);
        });
        let this = directory.clone();
        directory.follow(tasks, shutdown, move |change, hub: Hub| {
            let name = hub.name().to_owned();
            put(&mut this.cache().hubs, name, change, hub);
        });
        let this = directory.clone();
        directory.follow(tasks, shutdown, move |change, budget: Budget| {
            let key = (budget.namespace().to_owned(), budget.name().to_owned());
            let mut cache = this.cache();
            cache.unbudgeted.clear();
            cache.budget_changes += 1;
            put(&mut cache.budgets, key, change, budget);
        });
        let (this, shutdown) = (directory.clone(), shutdown.clone());
        tasks.spawn(async move { shutdown.run_until_cancelled(this.follow_secrets()).await });
        directory
    }

    fn follow<K: Kind>(&self, tasks: &TaskTracker, shutdown: &CancellationToken, mut note: impl FnMut(Change, K) + Send + 'static) {
        let (mut events, shutdown) = (self.objects.watch::<K>(), shutdown.clone());
        tasks.spawn(async move {
            let all = async {
                while let Some(event) = events.next().await {
                    note(event.change, event.object);
                }
            };
            shutdown.run_until_cancelled(all).await
        });
    }

    async fn follow_secrets(&self) {
        let store = self.objects.store();
        let mut revisions = store.news("secrets");
        let mut after: Revision = *revisions.borrow_and_update();
        while revisions.changed().await.is_ok() {
            let newest = *revisions.borrow_and_update();
            let changed = match store.told("secrets", after, PAGE).await {
                Ok((events, _)) => !events.is_empty(),
                Err(error) => {
                    tracing::warn!("changes of Secrets cannot be read, provider keys are read anew: {error}");
                    true
                }
            };
            after = newest;
            if changed {
                let mut cache = self.cache();
                cache.keys.clear();
                cache.secrets += 1;
            }
        }
    }

    /// The Machine, unless there is none of that uid.
    pub(super) async fn machine(&self, uid: &str, namespace: &str, name: &str) -> Result<Option<Arc<Machine>>, objects::Error> {
        let known = self.cache().machines.get(uid).cloned();
        if known.is_some() {
            return Ok(known);
        }
        let read: Option<Machine> = self.objects.get(namespace, name).await?;
        Ok(read.filter(|machine| machine.uid() == uid).map(Arc::new))
    }

    pub(super) async fn hub(&self, name: &str) -> Result<Option<Arc<Hub>>, objects::Error> {
        let known = self.cache().hubs.get(name).cloned();
        if known.is_some() {
            return Ok(known);
        }
        Ok(self.objects.get("", name).await?.map(Arc::new))
    }

    pub(super) async fn budget(&self, namespace: &str, name: &str) -> Result<Option<Arc<Budget>>, objects::Error> {
        let known = self.cache().budgets.get(&(namespace.to_owned(), name.to_owned())).cloned();
        if known.is_some() {
            return Ok(known);
        }
        Ok(self.objects.get(namespace, name).await?.map(Arc::new))
    }

    /// Whether Machines of a namespace that name no Budget are within its `default`.
    pub(super) async fn has_default_budget(&self, namespace: &str) -> Result<bool, objects::Error> {
        let changes = {
            let cache = self.cache();
            if cache.unbudgeted.contains(namespace) {
                return Ok(false);
            }
            cache.budget_changes
        };
        if self.budget(namespace, DEFAULT_BUDGET).await?.is_some() {
            return Ok(true);
        }
        let mut cache = self.cache();
        if cache.budget_changes == changes {
            cache.unbudgeted.insert(namespace.to_owned());
        }
        Ok(false)
    }

    /// The `apiKey` of a Secret in `autovibe-system`.
    pub(super) async fn key(&self, secret: &str) -> Result<Option<SecretString>, objects::Error> {
        let (known, secrets) = {
            let cache = self.cache();
            (cache.keys.get(secret).cloned(), cache.secrets)
        };
        if known.is_some() {
            return Ok(known);
        }
        let read = self.objects.secret(SYSTEM_NAMESPACE, secret, "apiKey").await?;
        if let Some(key) = &read {
            let mut cache = self.cache();
            if cache.secrets == secrets {
                cache.keys.insert(secret.to_owned(), key.clone());
            }
        }
        Ok(read)
    }

    fn cache(&self) -> MutexGuard<'_, Cache> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn put<I: Eq + std::hash::Hash, K>(map: &mut HashMap<I, Arc<K>>, key: I, change: Change, object: K) {
    if change == Change::Deleted {
        map.remove(&key);
    } else {
        map.insert(key, Arc::new(object));
    }
}
