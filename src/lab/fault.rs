//! Faults that a test plants, and the count of calls it asserts on.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Mutex, PoisonError},
};

/// A call of the API, or one verb of `zfs` on the model's socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Call {
    Version,
    Nodes,
    Resources,
    NextId,
    List,
    Create,
    Config,
    Configure,
    Delete,
    Status,
    Start,
    Stop,
    Shutdown,
    TaskList,
    TaskStatus,
    TaskLog,
    AgentPing,
    AgentExec,
    AgentExecStatus,
    AgentWrite,
    AgentFreeze,
    Storage,
    Content,
    /// A path that is not served.
    Other,
    /// `Zfs("snapshot")`
    Zfs(&'static str),
}

/// What goes wrong with one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Answers this status; nothing is done.
    Fail(u16),
    /// Does it, and closes the connection instead of answering.
    DropReply,
    /// Does nothing and never answers.
    Hang,
}

#[derive(Debug, Default)]
struct Inner {
    planted: BTreeMap<Call, VecDeque<Fault>>,
    counts: BTreeMap<Call, u64>,
}

#[derive(Debug, Default)]
pub(super) struct Faults(Mutex<Inner>);

impl Faults {
    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn plant(&self, call: Call, fault: Fault) {
        self.lock().planted.entry(call).or_default().push_back(fault);
    }

    /// Counts a call and takes the fault that waits for it.
    pub(super) fn met(&self, call: Call) -> Option<Fault> {
        let mut inner = self.lock();
        *inner.counts.entry(call).or_default() += 1;
        inner.planted.get_mut(&call)?.pop_front()
    }

    pub(super) fn counts(&self) -> BTreeMap<Call, u64> {
        self.lock().counts.clone()
    }

    pub(super) fn count(&self, wanted: impl Fn(Call) -> bool) -> u64 {
        self.lock().counts.iter().filter(|(call, _)| wanted(**call)).map(|(_, count)| count).sum()
    }
}

impl Call {
    /// Whether it does more than read.
    pub fn changes(self) -> bool {
        use Call::{
            AgentExecStatus, Config, Content, List, NextId, Nodes, Resources, Status, Storage, TaskList, TaskLog, TaskStatus, Version,
        };
        let reads =
            [AgentExecStatus, Config, Content, List, NextId, Nodes, Resources, Status, Storage, TaskList, TaskLog, TaskStatus, Version];
        !reads.contains(&self) && !matches!(self, Self::Zfs("get" | "list"))
    }

    /// Whether it is one of `agent/*`, which reach the guest.
    pub fn is_agent(self) -> bool {
        matches!(self, Self::AgentPing | Self::AgentExec | Self::AgentExecStatus | Self::AgentWrite | Self::AgentFreeze)
    }
}
