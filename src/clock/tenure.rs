//! How long a leader may still change what checks no epoch: Proxmox, and ZFS. As long as its Lease surely is its own.
//!
//! A call begins only when as much of the Lease is left as it may take, and is given up with the Lease. Which of two clocks
//! says less counts: the monotonic one stands still while a machine sleeps, the wall clock may be set back.

use super::Clock;
use jiff::Timestamp;
use std::{pin::pin, sync::Arc, task::Poll, time::Duration};
use tokio::{sync::watch, time::Instant};

/// Until when a leader may act; cheap to clone, and all clones learn when that changes.
#[derive(Clone, Default)]
pub struct Tenure(Option<Arc<Held>>);

struct Held {
    clock: Clock,
    lease: Duration,
    until: watch::Sender<Until>,
}

#[derive(Clone, Copy)]
struct Until {
    monotonic: Instant,
    wall: Timestamp,
}

/// A change that was not begun, as too little was left of the leader's Lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "not begun: {:.1} s are left of this leader's Lease, and the call may take {:.1} s; it is tried again once the Lease is renewed",
    left.as_secs_f32(), needed.as_secs_f32()
)]
pub struct Lapsed {
    pub left: Duration,
    pub needed: Duration,
}

impl std::fmt::Debug for Tenure {
    /// The same for all: what has one in it is no other thing when time passes.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tenure")
    }
}

impl Tenure {
    /// Of a process that needs no Lease: it is alone with what it changes, or has a person before it.
    pub fn unlimited() -> Self {
        Self(None)
    }

    /// Under a Lease of this length, which was asked for at `asked`.
    pub fn new(clock: Clock, lease: Duration, asked: Instant) -> Self {
        let until = until(&clock, lease, asked);
        Self(Some(Arc::new(Held { clock, lease, until: watch::Sender::new(until) })))
    }

    /// The Lease was renewed by a call that began at `asked`.
    pub fn renew(&self, asked: Instant) {
        if let Some(held) = &self.0 {
            held.until.send_replace(until(&held.clock, held.lease, asked));
        }
    }

    /// The Lease is lost: nothing begins any more, and what runs is given up.
    pub fn end(&self) {
        if let Some(held) = &self.0 {
            held.until.send_modify(|until| until.monotonic = Instant::now());
        }
    }

    /// Whether a change may begin that takes `deadline` at most. Where that is longer than three fifths of the Lease, so much
    /// must be left: a Lease that is renewed in time always has it.
    pub fn begin(&self, deadline: Duration) -> Result<(), Lapsed> {
        let Some(held) = &self.0 else { return Ok(()) };
        let (left, needed) = (held.left(), deadline.min(held.lease * 3 / 5));
        if left >= needed { Ok(()) } else { Err(Lapsed { left, needed }) }
    }

    /// Runs a change that takes `deadline` at most. `None` when it was given up, after that or with the Lease: what became of
    /// it is not known. A process that was stopped meanwhile looks at the time before it goes on.
    pub async fn run<F: Future>(&self, deadline: Duration, change: F) -> Result<Option<F::Output>, Lapsed> {
        self.begin(deadline)?;
        let (mut change, mut over) = (pin!(change), pin!(self.over()));
        let guarded = std::future::poll_fn(|context| {
            if over.as_mut().poll(context).is_ready() || self.is_over() {
                return Poll::Ready(None);
            }
            change.as_mut().poll(context).map(Some)
        });
        Ok(tokio::time::timeout(deadline, guarded).await.unwrap_or_default())
    }

    /// Whether a change that was begun may still be sent.
    pub fn check(&self) -> Result<(), Lapsed> {
        match &self.0 {
            Some(held) if held.left() <= held.margin() => Err(Lapsed { left: held.left(), needed: held.margin() }),
            _ => Ok(()),
        }
    }

    fn is_over(&self) -> bool {
        self.check().is_err()
    }

    /// Returns when too little is left for anything.
    async fn over(&self) {
        let Some(held) = &self.0 else { return std::future::pending().await };
        let mut until = held.until.subscribe();
        while !self.is_over() {
            let left = until.borrow_and_update().monotonic.saturating_duration_since(Instant::now());
            tokio::select! {
                () = held.clock.sleep(left.saturating_sub(held.margin())) => {}
                // The sender is in `held`.
                _ = until.changed() => {}
            }
        }
    }
}

impl Held {
    fn left(&self) -> Duration {
        let until = *self.until.borrow();
        let wall = Duration::try_from(until.wall.duration_since(self.clock.now())).unwrap_or_default();
        until.monotonic.saturating_duration_since(Instant::now()).min(wall)
    }

    /// What is kept of the Lease, so that the last call is given up before another leads.
    fn margin(&self) -> Duration {
        self.lease / 20
    }
}

fn until(clock: &Clock, lease: Duration, asked: Instant) -> Until {
    let left = (asked + lease).saturating_duration_since(Instant::now());
    Until { monotonic: asked + lease, wall: clock.now().saturating_add(left).unwrap_or(Timestamp::MAX) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_mins(1);
    const CALL: Duration = Duration::from_secs(35);

    fn clock() -> Clock {
        Clock::simulated(Timestamp::from_second(1_795_000_000).unwrap())
    }

    async fn takes(seconds: u64) -> &'static str {
        tokio::time::sleep(Duration::from_secs(seconds)).await;
        "done"
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_begins_only_when_as_much_is_left_as_it_may_take() {
        let tenure = Tenure::new(clock(), LEASE, Instant::now());
        tokio::time::sleep(Duration::from_secs(24)).await;
        assert_eq!(tenure.run(CALL, takes(1)).await, Ok(Some("done")));
        tokio::time::sleep(Duration::from_secs(1)).await;
        let lapsed = tenure.run(CALL, async { panic!("it was begun") }).await.map(|_: Option<()>| ());
        assert_eq!(lapsed, Err(Lapsed { left: Duration::from_secs(34), needed: CALL }));
        assert!(lapsed.unwrap_err().to_string().contains("34.0 s are left"), "{lapsed:?}");
        tenure.renew(Instant::now());
        assert_eq!(tenure.run(CALL, takes(1)).await, Ok(Some("done")));
        tenure.end();
        assert!(tenure.begin(Duration::from_millis(1)).is_err(), "one that is lost allows nothing, however short");
    }

    #[tokio::test(start_paused = true)]
    async fn one_that_may_take_longer_than_the_lease_needs_three_fifths_of_it() {
        let tenure = Tenure::new(clock(), LEASE, Instant::now());
        let long = Duration::from_mins(2);
        assert_eq!(tenure.begin(long), Ok(()));
        tokio::time::sleep(Duration::from_secs(25)).await;
        assert_eq!(tenure.begin(long), Err(Lapsed { left: Duration::from_secs(35), needed: Duration::from_secs(36) }));
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_is_given_up_with_the_lease_and_goes_on_while_that_is_renewed() {
        let tenure = Tenure::new(clock(), LEASE, Instant::now());
        let begun = Instant::now();
        assert_eq!(tenure.run(Duration::from_mins(2), takes(100)).await, Ok(None));
        assert_eq!(begun.elapsed().as_secs(), 57, "before another can lead");
        tenure.renew(Instant::now());
        let renewals = async {
            loop {
                tokio::time::sleep(Duration::from_secs(15)).await;
                tenure.renew(Instant::now());
            }
        };
        tokio::select! {
            done = tenure.run(Duration::from_mins(2), takes(100)) => assert_eq!(done, Ok(Some("done"))),
            () = renewals => {}
        }
        assert_eq!(tenure.run(Duration::from_secs(1), takes(2)).await, Ok(None), "its own deadline holds too");
        let lost = async {
            tokio::time::sleep(Duration::from_secs(5)).await;
            tenure.end();
            std::future::pending::<()>().await;
        };
        let begun = Instant::now();
        tokio::select! {
            given_up = tenure.run(CALL, takes(20)) => assert_eq!(given_up, Ok(None)),
            () = lost => {}
        }
        assert_eq!(begun.elapsed().as_secs(), 5, "it is given up when the lead is lost");
    }

    /// As a process does that was stopped: what it waited for and the end of its Lease are both there when it goes on.
    #[tokio::test(start_paused = true)]
    async fn one_that_was_stopped_looks_at_the_time_before_it_goes_on() {
        let tenure = Tenure::new(clock(), LEASE, Instant::now());
        let (go_on, mut told) = tokio::sync::oneshot::channel::<()>();
        let call = tenure.run(CALL, async {
            (&mut told).await.ok();
            panic!("it went on");
        });
        let mut call = pin!(call);
        assert!(futures::poll!(call.as_mut()).is_pending());
        go_on.send(()).unwrap();
        tokio::time::advance(LEASE).await;
        let outcome: Result<Option<()>, Lapsed> = call.await;
        assert_eq!(outcome, Ok(None));
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_lease_only_the_deadline_counts() {
        let tenure = Tenure::unlimited();
        assert_eq!(tenure.run(CALL, takes(34)).await, Ok(Some("done")));
        assert_eq!(tenure.run(CALL, takes(36)).await, Ok(None));
    }
}
