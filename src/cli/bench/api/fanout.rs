//! One change told to many watchers.

use super::side::{Connection, Events, Side};
use crate::cli::bench::proc;
use anyhow::Context as _;
use futures::TryStreamExt;
use std::sync::{Arc, atomic::AtomicU64, atomic::Ordering};
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use tokio_util::task::AbortOnDropHandle;

/// Connections that the watches share.
const CONNECTIONS: usize = 16;
/// Changes that are made at once.
const CHANGES: usize = 16;
/// Until all have heard all.
const PATIENCE: Duration = Duration::from_mins(2);

/// Many watches of one server, and what they have heard.
pub(super) struct Crowd {
    writers: Vec<Connection>,
    watches: u64,
    heard: Arc<Heard>,
    pid: u32,
    _listeners: Vec<AbortOnDropHandle<()>>,
}

#[derive(Default)]
struct Heard {
    events: AtomicU64,
    wanted: AtomicU64,
    enough: Notify,
}

impl Heard {
    fn add(&self, events: usize) {
        let all = self.events.fetch_add(events as u64, Ordering::SeqCst) + events as u64;
        if all >= self.wanted.load(Ordering::SeqCst) {
            self.enough.notify_one();
        }
    }
}

/// One round: deliveries a second, and the server's processor time for each.
#[derive(Clone, Copy, Debug)]
pub(super) struct Told {
    pub(super) rate: f64,
    pub(super) microseconds: f64,
}

impl Crowd {
    /// `shared`: all watches of a connection in one stream, as etcd's own clients have them.
    pub(super) async fn gather(side: &Side, watches: usize, shared: bool) -> anyhow::Result<Self> {
        let writers = side.connections(1).await?;
        for change in 0..CHANGES {
            // A crowd before this one may have left it.
            writers[0].create(&format!("told-{change}")).await.ok();
        }
        let heard = Arc::new(Heard { wanted: u64::MAX.into(), ..Heard::default() });
        let mut listeners = Vec::new();
        let connections = side.connections(CONNECTIONS.min(watches)).await?;
        for (number, connection) in connections.iter().enumerate() {
            let count = watches / connections.len() + usize::from(number < watches % connections.len());
            for events in connection.watches(count, shared).await? {
                listeners.push(AbortOnDropHandle::new(tokio::spawn(listen(events, heard.clone()))));
            }
        }
        Ok(Self { writers, watches: watches as u64, heard, pid: side.pid()?, _listeners: listeners })
    }

    /// Makes changes, and waits until everyone has heard each.
    pub(super) async fn tell(&self, round: usize) -> anyhow::Result<Told> {
        let deliveries = self.watches * CHANGES as u64;
        self.heard.wanted.store(self.heard.events.load(Ordering::SeqCst) + deliveries, Ordering::SeqCst);
        let (begun, before) = (Instant::now(), proc::processor_time(self.pid)?);
        let changes = (0..CHANGES).map(|change| {
            let (name, label) = (format!("told-{change}"), round.to_string());
            async move { self.writers[0].patch(&name, &label).await }
        });
        let told = async {
            while self.heard.events.load(Ordering::SeqCst) < self.heard.wanted.load(Ordering::SeqCst) {
                self.heard.enough.notified().await;
            }
            anyhow::Ok(())
        };
        let all = futures::future::try_join(futures::future::try_join_all(changes), told);
        tokio::time::timeout(PATIENCE, all).await.context("not every watch heard of every change")??;
        let (took, worked) = (begun.elapsed(), proc::processor_time(self.pid)?.saturating_sub(before));
        #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52")]
        let deliveries = deliveries as f64;
        Ok(Told { rate: deliveries / took.as_secs_f64(), microseconds: worked.as_secs_f64() * 1e6 / deliveries })
    }
}

async fn listen(mut events: Events, heard: Arc<Heard>) {
    while let Ok(Some(count)) = events.try_next().await {
        heard.add(count);
    }
}
