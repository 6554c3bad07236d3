//! What this process remembers of Machines: only what spares a question. Losing it costs a look, never a decision.

use super::place::Promises;
use super::plan::Vm;
use super::step::Step;
use crate::driver::guest::Reached;
use crate::driver::marks::OwnedVm;
use crate::runtime::Seen;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// How long things may take before they count as failed.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// From start until the guest agent answers; software-emulated guests need most of a minute.
    pub boot: Duration,
    /// From the request to power off until the power is cut.
    pub shutdown: Duration,
    /// From a launch until its guest is asked whether it reaches the gateway, where the agent was not heard of.
    pub silence: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self { boot: Duration::from_mins(4), shutdown: Duration::from_mins(1), silence: Duration::from_mins(3) }
    }
}

/// Called after each step with its name; after `false` this controller does and writes nothing more, as if the
/// process had died there. For tests.
pub type AfterStep = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// One process' memory of all Machines.
#[derive(Default)]
pub struct Memory {
    pub timing: Timing,
    pub after_step: Option<AfterStep>,
    machines: Mutex<BTreeMap<String, Known>>,
    pub(in crate::controller) promises: Promises,
    stopped: AtomicBool,
}

/// What is known of one Machine.
#[derive(Clone, Debug, Default)]
pub(super) struct Known {
    /// As our own last action left it, or as it was last looked at; forgotten with any error.
    pub vm: Option<Seen<Vm>>,
    /// Its VM as it was last proved its own, and its config then: Proxmox itself says whether that is the config still.
    pub owned: Option<OwnedVm>,
    /// When the last action on it was done: older views say nothing about it.
    pub acted_at: Option<Instant>,
    /// Whether this process has looked at the agent, or launched it.
    pub looked: bool,
    pub boot: Option<Boot>,
    /// When its guest last tried the gateway, and what came of it.
    pub tried: Option<Tried>,
    /// The launch for which a token was minted.
    pub minted: Option<u32>,
    /// How often each step, by its name, was refused in a row. One that was left out for it stays here.
    pub refusals: BTreeMap<&'static str, u32>,
    /// Whether the last pass ended before the end of its plan: refused, or to go on later.
    pub unfinished: bool,
}

impl Known {
    /// A step was done: it is not refused any more.
    pub(super) fn done(&mut self, step: &Step) {
        self.refusals.remove(step.name());
    }
}

/// A guest's try of the gateway.
#[derive(Clone, Debug)]
pub(super) struct Tried {
    /// For which launch, and how often that one had gone on from its memory.
    pub launch: (u32, u32),
    pub at: Instant,
    /// `None` when it could not be seen.
    pub found: Option<Reached>,
}

/// A boot under way.
#[derive(Clone, Copy, Debug)]
pub(super) struct Boot {
    pub since: Instant,
    /// Whether it was stopped and started again already.
    pub again: bool,
    /// When its VM was last seen to run.
    pub seen: Instant,
}

impl Memory {
    /// An empty memory with other than the usual timing, and a hook after each step.
    pub fn with(timing: Timing, after_step: Option<AfterStep>) -> Self {
        Self { timing, after_step, ..Self::default() }
    }
    pub(super) fn known(&self, uid: &str) -> Known {
        lock(&self.machines).get(uid).cloned().unwrap_or_default()
    }
    pub(super) fn update(&self, uid: &str, change: impl FnOnce(&mut Known)) {
        change(lock(&self.machines).entry(uid.to_owned()).or_default());
    }
    pub(super) fn forget(&self, uid: &str) {
        lock(&self.machines).remove(uid);
    }
    /// Whether the pass may go on.
    pub(super) fn goes_on_after(&self, step: &Step) -> bool {
        let goes_on = self.after_step.as_ref().is_none_or(|after| after(step.name()));
        if !goes_on {
            self.stopped.store(true, Ordering::SeqCst);
        }
        goes_on
    }
    /// Whether the hook has ended this process' part.
    pub(super) fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::SeqCst)
    }
}

/// A panic elsewhere leaves no half-made entry: each change is one assignment.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
