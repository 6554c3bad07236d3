//! The controllers: one per kind, each observe → plan (pure) → act → status, woken by changes of objects.
//!
//! What wakes a controller is not an input to it: `wake` turns changes into keys, `runtime` calls the reconcilers, and each
//! reads the world anew.

pub mod approval;
pub mod budget;
pub mod checkpoint;
pub mod client;
pub mod hub;
pub mod kstatus;
pub mod leader;
pub mod machine;
mod wake;

use crate::objects;
use crate::runtime::{self, Key, Requeue};
use crate::{driver, store};
use client::Client;
use hub::Hubs;
use std::{
    collections::BTreeSet,
    future::Future,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// What the controllers are given at start.
#[derive(Clone, Debug)]
pub struct Config {
    /// The lab beside this hub, for Hubs with `infrastructure.lab`.
    pub lab: Option<driver::Connection>,
    /// The hub's data directory.
    pub data: PathBuf,
    /// How many objects of a kind are reconciled at once.
    pub concurrency: usize,
    /// Directories below which `spec.source.directory` of a Machine may lie.
    pub source_roots: Vec<PathBuf>,
    /// How often what is quiet is looked at all the same.
    pub resync: Duration,
    /// Where the API server beside them finds their drivers.
    pub door: driver::Door,
}

/// What every reconciler works with.
pub struct Context {
    pub objects: Client,
    pub hubs: Hubs,
    pub newest: checkpoint::Newest,
    pub taken: checkpoint::Taken,
    pub asked: approval::Asked,
    pub config: Config,
    pub machines: machine::Memory,
}

/// Why a reconcile came to no end; it is tried again with backoff.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Objects(#[from] objects::Error),
    #[error(transparent)]
    Driver(#[from] driver::Error),
    #[error(transparent)]
    Store(#[from] store::Error),
    /// What it was to wait for; said in the object's status too.
    #[error("{0}")]
    Waiting(String),
}

/// The running controllers.
pub struct Controllers {
    tasks: TaskTracker,
}

impl Controllers {
    /// Returns when every reconcile that ran at shutdown has come to its end.
    pub async fn stopped(self) {
        self.tasks.wait().await;
    }
}

/// Starts every controller; they end with `shutdown`.
pub fn start(config: Config, objects: impl Into<Client>, shutdown: CancellationToken) -> Controllers {
    start_with(config, machine::Memory::default(), objects, shutdown)
}

/// Like [`start`], with the Machine controller's timing and hook as a test wants them.
pub fn start_with(config: Config, machines: machine::Memory, objects: impl Into<Client>, shutdown: CancellationToken) -> Controllers {
    let objects = objects.into();
    let context = Arc::new(Context {
        objects,
        hubs: Hubs::default(),
        newest: checkpoint::Newest::default(),
        taken: checkpoint::Taken::default(),
        asked: approval::Asked::default(),
        config,
        machines,
    });
    let hubs = context.hubs.clone();
    context.config.door.open(Arc::new(move || {
        let hubs = hubs.clone();
        Box::pin(async move { hubs.all().await.0.iter().map(|hub| (hub.name.clone(), hub.driver.clone())).collect() })
    }));
    let (door, ended) = (context.config.door.clone(), shutdown.clone());
    let tasks = TaskTracker::new();
    tasks.spawn(async move {
        ended.cancelled().await;
        door.close();
    });
    let queues = wake::start(&tasks, &context, &shutdown);
    spawn(&tasks, "Hub", &context, queues.hubs, &shutdown, hub::reconcile);
    spawn(&tasks, "Budget", &context, queues.budgets, &shutdown, budget::reconcile);
    spawn(&tasks, "Machine", &context, queues.machines, &shutdown, machine::reconcile);
    spawn(&tasks, "Checkpoint", &context, queues.checkpoints, &shutdown, checkpoint::reconcile);
    spawn(&tasks, "Approval", &context, queues.approvals, &shutdown, approval::reconcile);
    spawn(&tasks, "Retention", &context, queues.retention, &shutdown, checkpoint::retain);
    tasks.close();
    Controllers { tasks }
}

fn spawn<R, F>(
    tasks: &TaskTracker,
    kind: &'static str,
    context: &Arc<Context>,
    keys: wake::Keys,
    shutdown: &CancellationToken,
    reconcile: R,
) where
    R: Fn(Key, Arc<Context>) -> F + Send + 'static,
    F: Future<Output = Result<Requeue, Error>> + Send + 'static,
{
    let (clock, concurrency, context) = (context.objects.clock().clone(), context.config.concurrency, Arc::clone(context));
    let said = Arc::new(Mutex::new(BTreeSet::new()));
    let one = move |key: Key| {
        let (work, said, resync) = (reconcile(key, Arc::clone(&context)), said.clone(), context.config.resync);
        async move {
            match work.await {
                // Another try would find it as it is. What is mended wakes those that it is about; the others look again.
                Err(Error::Objects(error @ objects::Error::Unreadable { .. })) => {
                    let text = error.to_string();
                    if said.lock().unwrap_or_else(PoisonError::into_inner).insert(text.clone()) {
                        tracing::error!("{text}; what needs it waits until it is repaired or deleted");
                    }
                    Ok(Requeue::After(resync))
                }
                other => other,
            }
        }
    };
    tasks.spawn(runtime::run(kind, concurrency, keys, one, clock, shutdown.clone()));
}
