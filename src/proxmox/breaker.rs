//! What keeps a refused credential from a storm of calls: each 401 costs the server 3 s, and the callers as much.
//!
//! After a 401 one call a minute is let through as a probe, until one is answered; all others fail at once. A 403 does not
//! come here: each is about one path and one privilege, and says nothing about the credential.
//! Source: proxmox-zfs facts 1.1 and 2; failure mode 35.

use super::Error;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Between two probes.
pub(super) const PAUSE: Duration = Duration::from_mins(1);
/// How soon to ask again while a probe is under way: a refusal takes 3 s.
const PROBED: Duration = Duration::from_secs(5);

/// The state of one credential, shared by all clients that use it; cheap to clone.
#[derive(Clone, Default)]
pub struct Breaker(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    /// Counts turns from accepted to refused and back: a late answer to an earlier call says nothing about now.
    turn: u64,
    refused: Option<Refusal>,
}

struct Refusal {
    message: String,
    /// When the next probe may go.
    next: Instant,
    probing: bool,
}

/// Leave for one call; what came of it is told. One that is dropped had no answer.
pub(super) struct Pass {
    breaker: Breaker,
    turn: u64,
    probe: bool,
}

impl std::fmt::Debug for Breaker {
    /// The same for all: what has one in it is no other thing when its state changes.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Breaker")
    }
}

impl Breaker {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Each change is one assignment of whole values.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leave to call. Errors: `Unauthorized`, in the words of the refusal, while the credential is refused and no probe is due.
    pub(super) fn enter(&self) -> Result<Pass, Error> {
        let (mut state, now) = (self.lock(), Instant::now());
        let turn = state.turn;
        let Some(refusal) = &mut state.refused else { return Ok(Pass { breaker: self.clone(), turn, probe: false }) };
        if refusal.probing || now < refusal.next {
            let wait = if refusal.probing { PROBED } else { refusal.next - now };
            return Err(Error::Unauthorized { message: refusal.message.clone(), wait });
        }
        refusal.probing = true;
        Ok(Pass { breaker: self.clone(), turn, probe: true })
    }
}

impl Pass {
    /// Proxmox took the credential.
    pub(super) fn accepted(mut self) {
        let mut state = self.breaker.lock();
        if std::mem::take(&mut self.probe) {
            *state = State { turn: state.turn + 1, refused: None };
        }
        drop(state);
    }

    /// Proxmox refused the credential.
    pub(super) fn refused(mut self, message: &str) {
        let mut state = self.breaker.lock();
        if state.turn == self.turn {
            let turn = if std::mem::take(&mut self.probe) { state.turn } else { state.turn + 1 };
            let refused = Some(Refusal { message: message.to_owned(), next: Instant::now() + PAUSE, probing: false });
            *state = State { turn, refused };
        }
        drop(state);
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        if self.probe
            && let Some(refusal) = &mut self.breaker.lock().refused
        {
            refusal.probing = false;
            refusal.next = Instant::now() + PAUSE;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(breaker: &Breaker) -> Duration {
        match breaker.enter() {
            Err(Error::Unauthorized { message, wait }) if message == "no" => wait,
            other => panic!("{:?}", other.map(|_| ())),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn one_probe_a_minute_and_open_again_after_one_that_is_answered() {
        let breaker = Breaker::default();
        let (late, last) = (breaker.enter().unwrap(), breaker.enter().unwrap());
        breaker.enter().unwrap().refused("no");
        assert_eq!(refused(&breaker), PAUSE);
        tokio::time::advance(Duration::from_secs(59)).await;
        assert_eq!(refused(&breaker), Duration::from_secs(1));
        // An answer to what was sent before the refusal: neither puts the probe off, nor is one.
        late.refused("late");
        tokio::time::advance(Duration::from_secs(1)).await;
        let probe = breaker.enter().unwrap();
        assert_eq!(refused(&breaker), PROBED, "one at a time");
        last.accepted();
        assert_eq!(refused(&breaker), PROBED);
        probe.refused("no");
        assert_eq!(refused(&breaker), PAUSE);
        tokio::time::advance(PAUSE).await;
        drop(breaker.enter().unwrap());
        assert_eq!(refused(&breaker), PAUSE, "no answer is no acceptance");
        tokio::time::advance(PAUSE).await;
        let probe = breaker.enter().unwrap();
        probe.accepted();
        breaker.enter().unwrap().accepted();
        breaker.enter().unwrap().refused("no");
        assert_eq!(refused(&breaker), PAUSE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_late_refusal_does_not_undo_a_later_acceptance() {
        let breaker = Breaker::default();
        let late = breaker.enter().unwrap();
        breaker.enter().unwrap().refused("no");
        tokio::time::advance(PAUSE).await;
        breaker.enter().unwrap().accepted();
        late.refused("no");
        assert!(breaker.enter().is_ok());
    }
}
