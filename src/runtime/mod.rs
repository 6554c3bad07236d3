//! The work queue of a controller: which object is reconciled when, and never twice at once.
//!
//! Level-triggered: a key says that something about an object may have changed, not what. What is asked for while a key
//! waits collapses into one reconcile; what is asked for while it runs leads to one more after it. Here is no knowledge of
//! kinds, and no IO.

mod schedule;
#[cfg(test)]
mod tests;

use crate::clock::Clock;
use futures::{StreamExt, stream::BoxStream};
use schedule::Schedule;
use std::{collections::HashMap, fmt::Display, future::Future, time::Duration};
use tokio::{task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

/// Names one object; `namespace` is empty for cluster-scoped kinds.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    pub namespace: String,
    pub name: String,
}

impl Key {
    pub fn new(namespace: impl Into<String>, name: impl Into<String>) -> Self {
        Self { namespace: namespace.into(), name: name.into() }
    }
}

impl Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.namespace.is_empty() { self.name.fmt(f) } else { write!(f, "{}/{}", self.namespace, self.name) }
    }
}

/// When an object is to be looked at again, if nothing wakes it before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Requeue {
    Never,
    After(Duration),
    /// Likewise, after something was refused: what wakes it before, its own writes above all, comes at a failure's pace.
    Refused(Duration),
}

impl Requeue {
    /// The earlier of two.
    #[must_use]
    pub fn earlier(self, other: Self) -> Self {
        match (self, other) {
            (Self::Never, some) | (some, Self::Never) => some,
            (Self::After(a), Self::After(b)) => Self::After(a.min(b)),
            (Self::After(a) | Self::Refused(a), Self::After(b) | Self::Refused(b)) => Self::Refused(a.min(b)),
        }
    }
}

/// What was found when something was looked for. Not seen is not absent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen<T> {
    /// It was looked for where it must be, and is not there.
    Absent,
    Present(T),
    /// It could not be seen; says why.
    Unknown {
        why: String,
    },
}

impl<T> Seen<T> {
    /// What is there, if that is known.
    pub fn present(&self) -> Option<&T> {
        match self {
            Self::Present(value) => Some(value),
            Self::Absent | Self::Unknown { .. } => None,
        }
    }
    /// `Unknown`, because of an error.
    pub fn unknown(why: impl Display) -> Self {
        Self::Unknown { why: why.to_string() }
    }
    /// What a lookup that cannot confuse failure with absence has shown.
    pub fn from_lookup<E: Display>(result: Result<Option<T>, E>) -> Self {
        match result {
            Ok(Some(value)) => Self::Present(value),
            Ok(None) => Self::Absent,
            Err(error) => Self::unknown(error),
        }
    }
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Seen<U> {
        match self {
            Self::Absent => Seen::Absent,
            Self::Present(value) => Seen::Present(change(value)),
            Self::Unknown { why } => Seen::Unknown { why },
        }
    }
}

/// First wait after a failed reconcile; doubles with each that follows.
const BACKOFF_MIN: Duration = Duration::from_millis(500);
/// Longest wait between two tries.
const BACKOFF_MAX: Duration = Duration::from_mins(1);
/// Longest time from now that a key is put off: a requeue beyond it looks again in between.
const FAR: Duration = Duration::from_hours(7 * 24);

/// The wait after `failures` failures in a row: doubled each time, between a half and the whole of it by `jitter` in 0–1.
fn backoff(failures: u32, jitter: f64) -> Duration {
    let whole = BACKOFF_MIN.saturating_mul(1 << failures.saturating_sub(1).min(16)).min(BACKOFF_MAX);
    whole.mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0)
}

/// Calls `reconcile` for every key that `events` names, until `shutdown`; then lets those that run come to their end.
///
/// One key never runs twice at once, at most `concurrency` keys run at a time. An error or a panic is logged and tried again,
/// after 0.5 s at first and 60 s at most; success resets that. What an event asks for while a key is backing off comes at
/// the first wait's pace, so that a reconcile which fails *and* writes cannot wake itself into a spin; likewise after a refusal.
///
/// Each call runs in a span `reconcile` with `object.kind` = `kind`, `object.name`, and an empty `object.uid` for the
/// reconciler to record.
pub async fn run<R, F, E>(
    kind: &'static str,
    concurrency: usize,
    mut events: BoxStream<'static, Key>,
    reconcile: R,
    clock: Clock,
    shutdown: CancellationToken,
) where
    R: Fn(Key) -> F,
    F: Future<Output = Result<Requeue, E>> + Send + 'static,
    E: Display + Send + 'static,
{
    let mut queue = Schedule::default();
    let mut running: JoinSet<Result<Requeue, E>> = JoinSet::new();
    let mut keys: HashMap<tokio::task::Id, Key> = HashMap::new();
    let mut failures: HashMap<Key, u32> = HashMap::new();
    let mut ended = false;
    loop {
        while running.len() < concurrency.max(1)
            && let Some(key) = queue.start(Instant::now())
        {
            let span = tracing::info_span!("reconcile", object.kind = kind, object.name = %key, object.uid = tracing::field::Empty);
            let task = running.spawn(reconcile(key.clone()).instrument(span));
            keys.insert(task.id(), key);
        }
        let free = running.len() < concurrency.max(1);
        let next = queue.next_due().filter(|_| free);
        tokio::select! {
            biased;
            () = shutdown.cancelled() => break,
            Some(done) = running.join_next_with_id() => {
                let (id, result) = match done {
                    Ok((id, result)) => (id, result.map_err(|error| error.to_string())),
                    Err(error) => (error.id(), Err(format!("the reconcile ended abnormally: {error}"))),
                };
                let Some(key) = keys.remove(&id) else { continue };
                let now = Instant::now();
                match result {
                    Ok(requeue) => {
                        if matches!(requeue, Requeue::Refused(_)) {
                            failures.insert(key.clone(), 0);
                            queue.finish(&key, now + BACKOFF_MIN);
                        } else {
                            failures.remove(&key);
                            queue.finish(&key, now);
                        }
                        if let Requeue::After(wait) | Requeue::Refused(wait) = requeue {
                            queue.ask(key, now + wait.min(FAR));
                        }
                    }
                    Err(error) => {
                        let count = failures.entry(key.clone()).and_modify(|n| *n += 1).or_insert(1);
                        let wait = backoff(*count, crate::random::draw());
                        tracing::warn!(object.kind = kind, object.name = %key, "reconcile failed, again in {wait:.1?}: {error}");
                        queue.finish(&key, now + BACKOFF_MIN);
                        queue.ask(key, now + wait);
                    }
                }
            }
            event = events.next(), if !ended => match event {
                Some(key) => {
                    let wait = if failures.contains_key(&key) { BACKOFF_MIN } else { Duration::ZERO };
                    queue.ask(key, Instant::now() + wait);
                }
                // The store closed: what is scheduled still runs until shutdown.
                None => ended = true,
            },
            () = wait_until(&clock, next) => {}
        }
    }
    while let Some(done) = running.join_next().await {
        if let Err(error) = done {
            tracing::warn!(object.kind = kind, "a reconcile ended abnormally during shutdown: {error}");
        }
    }
}

/// Returns at `due`; never, when there is none.
async fn wait_until(clock: &Clock, due: Option<Instant>) {
    match due {
        Some(due) => clock.sleep(due.saturating_duration_since(Instant::now())).await,
        None => std::future::pending().await,
    }
}
