//! Housekeeping that no request asks for: Namespaces that are to go, objects whose owners are gone, Events that have had their
//! time, and a change of the Secrets' key.
//!
//! All are quiet when there is nothing to do: an idle server neither wakes for objects nor writes.

use super::collect::Collector;
use crate::{
    admission::{self, Resource},
    objects::{Error, Objects},
    store::{self, Revision},
};
use serde_json::Value;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// A burst of changes is looked at once.
const SETTLE: Duration = Duration::from_millis(50);
/// How long what failed waits before it is tried again.
const RETRY: Duration = Duration::from_secs(5);
/// How often old Events are looked for.
const EXPIRE_EVERY: Duration = Duration::from_mins(1);

/// Runs until `shutdown`.
pub(super) fn start(objects: Objects, shutdown: CancellationToken) -> JoinHandle<()> {
    tokio::spawn(async move {
        let work = async { tokio::join!(namespaces(&objects), garbage(&objects), events(&objects), objects.keep_keys()) };
        tokio::select! {
            () = shutdown.cancelled() => {}
            _ = work => {}
        }
    })
}

/// While a Namespace is being deleted, every change may be the one that lets it go.
async fn namespaces(objects: &Objects) {
    let Some(resource) = admission::named("", "namespaces") else { return };
    let mut watched = Watched { seen: None, deleting: false };
    let mut commits = Commits::of(objects);
    loop {
        commits.mark();
        let done = watched.look(objects, resource).await;
        if let Err(error) = &done {
            tracing::warn!("namespaces that are being deleted were not finished, and will be tried again: {error}");
        }
        commits.next(objects, done.is_ok()).await;
    }
}

/// Every change may be the one that makes an object garbage.
async fn garbage(objects: &Objects) {
    let mut collector = Collector::new(objects.clone());
    let mut commits = Commits::of(objects);
    loop {
        commits.mark();
        let done = collector.pass().await;
        if let Err(error) = &done {
            tracing::warn!("objects whose owners are gone were not all collected, and will be tried again: {error}");
        }
        commits.next(objects, done.is_ok()).await;
    }
}

/// What wakes a task here.
struct Commits(tokio::sync::watch::Receiver<Revision>);

impl Commits {
    fn of(objects: &Objects) -> Self {
        Self(objects.store().revisions())
    }

    /// Commits after this wake [`Self::next`].
    fn mark(&mut self) {
        self.0.mark_unchanged();
    }

    /// Waits for a commit and the end of its burst; after a failure for [`RETRY`] at most.
    async fn next(&mut self, objects: &Objects, well: bool) {
        let changed = async {
            if self.0.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
            objects.clock().sleep(SETTLE).await;
        };
        if well {
            changed.await;
        } else {
            tokio::select! {
                () = changed => {}
                () = objects.clock().sleep(RETRY) => {}
            }
        }
    }
}

/// What is known of Namespaces.
struct Watched {
    /// Changes up to here are known; `None` before the first look.
    seen: Option<Revision>,
    deleting: bool,
}

impl Watched {
    async fn look(&mut self, objects: &Objects, resource: &Resource) -> Result<(), Error> {
        let moved = match self.seen {
            None => true,
            Some(seen) => match objects.read_changes(resource, seen, 1).await {
                Ok((events, complete)) => {
                    self.seen = events.is_empty().then_some(complete).or(self.seen);
                    !events.is_empty()
                }
                Err(_) => true,
            },
        };
        if moved {
            let page = objects.read_page(resource, &store::Query { resource: resource.name(), ..store::Query::default() }).await?;
            self.deleting = page.items.iter().any(|n| n.document.pointer("/metadata/deletionTimestamp").is_some_and(Value::is_string));
            self.seen = Some(page.revision);
        }
        if self.deleting { objects.finish_namespaces().await } else { Ok(()) }
    }
}

async fn events(objects: &Objects) {
    loop {
        match objects.expire_events().await {
            Ok(0) => {}
            Ok(count) => tracing::debug!("removed {count} old events"),
            Err(error) => tracing::warn!("old events were not removed: {error}"),
        }
        objects.clock().sleep(EXPIRE_EVERY).await;
    }
}
