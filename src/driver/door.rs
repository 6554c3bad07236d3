//! Where the API server of a process finds the drivers of the controllers that lead in it: streams of disks go through there.
//!
//! It is open while they lead. What goes through is noted, so that the controllers do not collect what is being read, and know
//! what nobody is writing any more.

use super::Driver;
use futures::future::BoxFuture;
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Names the Hubs that can be used now, with their drivers.
pub type Reach = Arc<dyn Fn() -> BoxFuture<'static, Vec<(String, Driver)>> + Send + Sync>;

/// Told of each step of an import; after one of which it says `false` nothing more is done, as if the process had been killed there.
pub type AfterStep = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// Cheap to clone.
#[derive(Clone, Default)]
pub struct Door(Arc<Inner>);

#[derive(Default)]
struct Inner {
    reach: Mutex<Option<Reach>>,
    after_step: Option<AfterStep>,
    /// Namespace and name of a Checkpoint → how many streams of it run.
    busy: Mutex<BTreeMap<(String, String), usize>>,
}

impl std::fmt::Debug for Door {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Door")
    }
}

fn lock<T>(cell: &Mutex<T>) -> MutexGuard<'_, T> {
    cell.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Door {
    /// One whose imports can be cut off after any step.
    pub fn with(after_step: AfterStep) -> Self {
        Self(Arc::new(Inner { after_step: Some(after_step), ..Inner::default() }))
    }

    /// A step of an import is done.
    pub async fn passed(&self, step: &str) {
        if self.0.after_step.as_ref().is_some_and(|after_step| !after_step(step)) {
            std::future::pending::<()>().await;
        }
    }

    /// From now on this process leads.
    pub fn open(&self, reach: Reach) {
        *lock(&self.0.reach) = Some(reach);
    }

    /// It leads no more.
    pub fn close(&self) {
        *lock(&self.0.reach) = None;
    }

    /// `None` when this process does not lead.
    pub async fn drivers(&self) -> Option<Vec<(String, Driver)>> {
        let reach = lock(&self.0.reach).clone()?;
        Some(reach().await)
    }

    /// Notes a stream of a Checkpoint until what is returned is dropped.
    pub fn enter(&self, namespace: &str, name: &str) -> Passing {
        let key = (namespace.to_owned(), name.to_owned());
        *lock(&self.0.busy).entry(key.clone()).or_default() += 1;
        Passing { door: self.clone(), key }
    }

    /// Whether a stream of this Checkpoint runs here.
    pub fn is_busy(&self, namespace: &str, name: &str) -> bool {
        lock(&self.0.busy).contains_key(&(namespace.to_owned(), name.to_owned()))
    }
}

/// A stream that runs.
pub struct Passing {
    door: Door,
    key: (String, String),
}

impl Drop for Passing {
    fn drop(&mut self) {
        let mut busy = lock(&self.door.0.busy);
        if let Some(count) = busy.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                busy.remove(&self.key);
            }
        }
    }
}
