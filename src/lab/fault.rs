//! Faults that a test or a script plants, and the count of calls that tests assert on.

use crate::api::quantity::GoDuration;
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

/// A call of the API, or one verb of `zfs` on the model's socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Call {
    /// `POST /access/ticket`
    Login,
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
    Suspend,
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
    /// A read below any `firewall`.
    FirewallLook,
    /// A change there.
    Firewall,
    /// A path that is not served.
    Other,
    /// `Zfs("snapshot")`
    Zfs(&'static str),
}

/// What goes wrong with one call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// Answers this; nothing is done.
    Fail { status: u16, text: String },
    /// Waits so long before it does it.
    Delay(Duration),
    /// Does it, and closes the connection instead of answering.
    DropReply,
    /// Does nothing and never answers.
    Hang,
    /// Does it, but the worker that it starts never ends: it hangs where it would work, with the locks that it has then.
    HangTask,
    /// Cuts a node's power first; it comes back after a time, or when it is told to.
    Kill { node: String, back: Option<Duration> },
}

impl Fault {
    /// As it is written in a script.
    pub(super) fn shown(&self) -> Value {
        match self {
            Self::Fail { status, text } => json!({ "fail": { "status": status, "text": text } }),
            Self::Delay(time) => json!({ "delay": GoDuration(*time) }),
            Self::DropReply => "dropReply".into(),
            Self::Hang => "hang".into(),
            Self::HangTask => "hangTask".into(),
            Self::Kill { node, back } => json!({ "kill": { "node": node, "back": back.map(GoDuration) } }),
        }
    }
}

/// Which calls a rule is for.
#[derive(Clone, Debug)]
pub(super) enum Which {
    Call(Call),
    /// A method and the parts of a path below `/api2/json`; `*` is any one part.
    Path {
        method: String,
        parts: Vec<String>,
    },
}

/// A fault that waits for its calls.
#[derive(Clone, Debug)]
pub(super) struct Rule {
    pub(super) which: Which,
    /// The first such call that it is for, from 1.
    pub(super) nth: u64,
    /// How many calls in a row, from there on.
    pub(super) times: u64,
    pub(super) fault: Fault,
    /// Such calls since it was planted.
    pub(super) seen: u64,
    /// Of them, those that met the fault.
    pub(super) fired: u64,
}

impl Rule {
    pub(super) fn next(call: Call, fault: Fault) -> Self {
        Self { which: Which::Call(call), nth: 1, times: 1, fault, seen: 0, fired: 0 }
    }

    fn is_for(&self, call: Call, method: &str, path: &[&str]) -> bool {
        match &self.which {
            Which::Call(wanted) => *wanted == call,
            Which::Path { method: wanted, parts } => {
                wanted == method
                    && parts.len() == path.len()
                    && parts.iter().zip(path).all(|(wanted, part)| wanted == "*" || wanted == part)
            }
        }
    }
}

#[derive(Debug, Default)]
struct Inner {
    rules: Vec<Rule>,
    counts: BTreeMap<Call, u64>,
}

#[derive(Debug, Default)]
pub(super) struct Faults(Mutex<Inner>);

impl Faults {
    fn lock(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn plant(&self, rule: Rule) {
        self.lock().rules.push(rule);
    }

    /// All that were planted, also those that are used up.
    pub(super) fn rules(&self) -> Vec<Rule> {
        self.lock().rules.clone()
    }

    pub(super) fn clear(&self) {
        self.lock().rules.clear();
    }

    /// Counts a call and takes the fault that waits for it: of several, the one that was planted first.
    pub(super) fn met(&self, call: Call, method: &str, path: &[&str]) -> Option<Fault> {
        let mut inner = self.lock();
        *inner.counts.entry(call).or_default() += 1;
        for rule in inner.rules.iter_mut().filter(|rule| rule.fired < rule.times && rule.is_for(call, method, path)) {
            rule.seen += 1;
            if rule.seen >= rule.nth {
                rule.fired += 1;
                return Some(rule.fault.clone());
            }
        }
        None
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
            AgentExecStatus, Config, Content, FirewallLook, List, NextId, Nodes, Resources, Status, Storage, TaskList, TaskLog, TaskStatus,
            Version,
        };
        let reads = [
            AgentExecStatus,
            Config,
            Content,
            FirewallLook,
            List,
            NextId,
            Nodes,
            Resources,
            Status,
            Storage,
            TaskList,
            TaskLog,
            TaskStatus,
            Version,
        ];
        !reads.contains(&self) && !matches!(self, Self::Zfs("get" | "list" | "send"))
    }

    /// Whether it is one of `agent/*`, which reach the guest.
    pub fn is_agent(self) -> bool {
        matches!(self, Self::AgentPing | Self::AgentExec | Self::AgentExecStatus | Self::AgentWrite | Self::AgentFreeze)
    }
}
