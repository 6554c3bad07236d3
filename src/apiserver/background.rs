//! Housekeeping that no request asks for: Namespaces that are to go, and Events that have had their time.
//!
//! Both are quiet when there is nothing to do: an idle server neither wakes for Namespaces nor writes.

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
/// How long a Namespace waits after a failure.
const RETRY: Duration = Duration::from_secs(5);
/// How often old Events are looked for.
const EXPIRE_EVERY: Duration = Duration::from_mins(1);

/// Runs until `shutdown`.
pub(super) fn start(objects: Objects, shutdown: CancellationToken) -> JoinHandle<()> {
    tokio::spawn(async move {
        let work = async { tokio::join!(namespaces(&objects), events(&objects)) };
        tokio::select! {
            () = shutdown.cancelled() => {}
            _ = work => {}
        }
    })
}

/// While a Namespace is being deleted, every change may be the one that lets it go.
async fn namespaces(objects: &Objects) {
    let Some(resource) = admission::named("", "namespaces") else { return };
    let mut revisions = objects.store().revisions();
    let mut watched = Watched { seen: None, deleting: false };
    loop {
        revisions.mark_unchanged();
        let done = watched.look(objects, resource).await;
        if let Err(error) = &done {
            tracing::warn!("namespaces that are being deleted were not finished, and will be tried again: {error}");
        }
        let changed = async {
            if revisions.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
            objects.clock().sleep(SETTLE).await;
        };
        if done.is_ok() {
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
