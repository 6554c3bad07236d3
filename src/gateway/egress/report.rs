//! What a Machine may not reach is said on the Machine: an Event that says what would allow it, and its status.

use super::CONNECTIONS;
use crate::{
    api::{
        Kind, Machine,
        network::{BLOCKED, Blocked, BlockedReason},
    },
    gateway::{Gateway, live::Live},
    objects::{self, EventType},
};
use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::sync::{Semaphore, watch};

/// How long what is blocked is gathered before it is written again: each write wakes whoever watches the Machine.
const GATHER: Duration = Duration::from_secs(5);
/// Attempts to write the status of a Machine that its controller writes at the same time.
const ATTEMPTS: u32 = 10;
/// Different things that Events are made of: a guest that tries names at random must not fill the store.
const EVENTS: usize = 32;

/// What the gateway keeps in memory of a Machine's connections.
pub(in crate::gateway) struct Egress {
    /// One is taken for each connection.
    pub(super) open: Arc<Semaphore>,
    /// Told when the Machine changed.
    pub(in crate::gateway) changed: watch::Sender<()>,
    pending: Mutex<Pending>,
}

#[derive(Default)]
struct Pending {
    blocked: Vec<Blocked>,
    /// Messages of Events.
    events: Vec<String>,
    told: HashSet<(String, u16, BlockedReason)>,
    is_writing: bool,
}

impl Egress {
    pub(in crate::gateway) fn new() -> Self {
        Self { open: Arc::new(Semaphore::new(CONNECTIONS)), changed: watch::channel(()).0, pending: Mutex::default() }
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// That something is blocked, and what allows it.
fn words(machine: &Machine, host: &str, port: u16, reason: BlockedReason) -> String {
    match reason {
        BlockedReason::NotAllowed => format!(
            "{host}:{port} is blocked: spec.network.egress does not have it. To allow it, add this line there: \
             - {{host: \"{host}\", ports: [{port}]}}"
        ),
        BlockedReason::PrivateAddress => format!(
            "{host}:{port} is blocked: the name leads to an address that is not public, or is the hub's own. To allow it, whoever runs \
             the hub lists its network in spec.egress.networks of Hub {}",
            machine.spec.hub.as_deref().unwrap_or(crate::api::DEFAULT_HUB)
        ),
        BlockedReason::OtherServer => format!(
            "{host}:{port} is blocked: TLS asked for it in a connection to another host. Connect to it by its own name; to allow that, \
             add this line to spec.network.egress: - {{host: \"{host}\", ports: [{port}]}}"
        ),
    }
}

impl Gateway {
    /// Notes that something is blocked, to be said on the Machine; returns what whoever tried it is told.
    pub(super) fn blocked(
        self: &Arc<Self>,
        machine: &Arc<Machine>,
        live: &Arc<Live>,
        host: &str,
        port: u16,
        reason: BlockedReason,
    ) -> String {
        let words = words(machine, host, port, reason);
        tracing::info!(object.kind = "Machine", object.name = machine.name(), object.uid = machine.uid(), "{words}");
        let mut pending = live.egress.pending();
        let found = pending.blocked.iter().position(|known| known.host == host && known.port == port && known.reason == reason);
        let count = found.map_or(0, |at| pending.blocked.remove(at).count) + 1;
        pending.blocked.insert(0, Blocked { host: host.into(), port, reason, count, last_at: Some(self.clock().api_now()) });
        pending.blocked.truncate(BLOCKED);
        if pending.told.len() < EVENTS && pending.told.insert((host.to_owned(), port, reason)) {
            pending.events.push(words.clone());
        }
        if !std::mem::replace(&mut pending.is_writing, true) {
            let (gateway, machine, live) = (self.clone(), machine.clone(), live.clone());
            self.tasks.spawn(async move { gateway.tell(&machine, &live).await });
        }
        words
    }

    /// Writes what is blocked until nothing more is.
    async fn tell(&self, machine: &Machine, live: &Live) {
        loop {
            let (blocked, events) = {
                let mut pending = live.egress.pending();
                if pending.blocked.is_empty() {
                    pending.is_writing = false;
                    return;
                }
                (std::mem::take(&mut pending.blocked), std::mem::take(&mut pending.events))
            };
            for message in events {
                self.objects.record(machine, EventType::Warning, "EgressBlocked", &message).await;
            }
            if let Err(error) = self.write(machine, &blocked).await {
                tracing::warn!(object.name = machine.name(), object.uid = machine.uid(), "what is blocked was not written: {error}");
            }
            tokio::select! {
                () = self.clock().sleep(GATHER) => {}
                () = self.shutdown.cancelled() => {}
            }
        }
    }

    async fn write(&self, machine: &Machine, blocked: &[Blocked]) -> Result<(), objects::Error> {
        for _ in 0..ATTEMPTS {
            let read: Option<Machine> = self.objects.get(machine.namespace(), machine.name()).await?;
            let Some(mut current) = read.filter(|current| current.uid() == machine.uid()) else { return Ok(()) };
            let known = &mut current.status.get_or_insert_default().network.get_or_insert_default().blocked;
            *known = merged(known, blocked);
            match self.objects.update_status(&current).await {
                Err(objects::Error::Conflict { .. }) => {}
                done => return done.map(drop),
            }
        }
        Ok(())
    }
}

/// What is known with what is new, the newest first.
fn merged(known: &[Blocked], new: &[Blocked]) -> Vec<Blocked> {
    let same = |a: &Blocked, b: &Blocked| (&a.host, a.port, a.reason) == (&b.host, b.port, b.reason);
    let before = |blocked: &Blocked| known.iter().find(|known| same(known, blocked)).map_or(0, |known| known.count);
    let counted = new.iter().map(|blocked| Blocked { count: blocked.count + before(blocked), ..blocked.clone() });
    let rest = known.iter().filter(|known| !new.iter().any(|new| same(known, new))).cloned();
    counted.chain(rest).take(BLOCKED).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_blocked_again_is_counted_and_comes_first() {
        let blocked = |host: &str, count| Blocked { host: host.into(), port: 443, count, ..Blocked::default() };
        let known: Vec<Blocked> = (0..10).map(|n| blocked(&format!("h{n}"), 1)).collect();
        let now = merged(&known, &[blocked("new", 2), blocked("h9", 3)]);
        let shown: Vec<(&str, u64)> = now.iter().map(|blocked| (blocked.host.as_str(), blocked.count)).collect();
        assert_eq!((shown.len(), &shown[..3]), (BLOCKED, &[("new", 2), ("h9", 4), ("h0", 1)][..]));
    }
}
