//! `Machine`: an agent with a goal in a VM of its own.

mod check;
mod status;
mod work;

pub use status::{AgentStatus, MachineStatus, Phase, Pushed, Restored, TerminationReason, Usage, VmStatus};
pub use work::{AfterFailure, Agent, AgentType, Goal, Verify};

use super::approval::OnTimeout;
use super::meta::{Column, FieldError, Kind, Scope, object};
use super::network::Network;
use super::permission::Permission;
use super::quantity::{Bytes, GoDuration, Millicores, Money};
use super::rule;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

object!(
    /// An AI agent with a goal, living in a VM of its own. It is spawned from a checkpoint, checkpointed while it works,
    /// and ends in a final checkpoint, which can be the base of the next goal.
    Machine, MachineSpec, MachineStatus
);

/// Finalizer by which the hub ends a Machine's VM before the object goes.
pub const FINALIZER: &str = "autovibe.dev/machine";

/// What to do instead of changing what is immutable.
const ANEW: &str = "create a new Machine instead";

/// What the Machine should be and do.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [
    rule::required(
        "from",
        "has(self.from) || (has(self.goal.after) && size(self.goal.after) > 0)",
        "name a checkpoint, machine or image, or list a Machine in spec.goal.after",
    ),
    rule::immutable("from", ANEW),
    rule::immutable("goal", ANEW),
    rule::immutable("agent", ANEW),
    rule::immutable("source", ANEW),
    rule::immutable("hub", ANEW),
    rule::immutable("placement", ANEW),
    rule::immutable("purpose", ANEW),
]))]
pub struct MachineSpec {
    /// The Hub that runs this Machine. Default: the Hub named `default`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hub: Option<String>,
    /// What its disks are cloned from. May be left out when `goal.after` names a Machine: then it is the final
    /// checkpoint of the last one listed. Immutable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from: Option<From>,
    /// What it is there for. Default: `Work`. Immutable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub purpose: Option<Purpose>,
    /// What to do. Immutable.
    pub goal: Goal,
    /// Who does it. Immutable.
    #[serde(default)]
    pub agent: Agent,
    /// `Running`, or `Suspended`: checkpoint, shut down, keep the disks; cpu and memory are free meanwhile.
    #[serde(default)]
    pub operating_mode: OperatingMode,
    /// How it is suspended. Default: its agent is ended, and goes on with its conversation when it runs again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub suspend: Option<Suspend>,
    /// The size of the VM.
    #[serde(default)]
    pub resources: Resources,
    /// Where it may run. Immutable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub placement: Option<Placement>,
    /// What it may spend. Without it, the Hub's default limits hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget: Option<BudgetUse>,
    /// When checkpoints are taken and how many are kept.
    #[serde(default)]
    pub checkpoints: Checkpoints,
    /// Which tool calls of its agent wait for a person. Default: those that leave the VM, 10 minutes long, and then they are denied.
    #[serde(default)]
    pub approvals: Approvals,
    /// What its agent may ask of the hub with its own token, by HTTP or as tools of MCP. Default: nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "set"))]
    pub permissions: Vec<Permission>,
    /// What it may reach beside its hub. Default: nothing. A change holds from the next connection on; what is taken away is cut.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<Network>,
    /// Puts its disks back to one of its own checkpoints, once for each change of this, while it has not ended. What it was before
    /// becomes a checkpoint too. The conversation goes on from there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restore: Option<Restore>,
    /// What is done when its agent or guest fails. Default: it ends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<Retry>,
    /// Files put into the workspace at spawn: for a first base. Immutable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Source>,
    /// Where the work goes when the goal was achieved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub push: Option<Push>,
    /// `Checkpoint`: end in a final checkpoint. `Discard`: destroy the disks.
    #[serde(default)]
    pub on_terminate: OnTerminate,
    /// Deletes the Machine this long after it finished; its checkpoints stay. Default: never.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "ttlAfterFinished")]
    pub ttl_after_finished: Option<GoDuration>,
}

/// What a Machine is there for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum Purpose {
    /// An agent pursues its goal.
    #[default]
    Work,
    /// To see whether the checkpoint that it is spawned from can be gone on from. It has no network, and no agent is launched: what is on
    /// its disks is looked at, `goal.verify` is run, and it ends. The hub makes such a one for a Checkpoint with the annotation
    /// `autovibe.dev/verify`.
    Verify,
}

/// Where a Machine's disks come from: exactly one of the fields.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [rule::one_of(&["checkpoint", "machine", "image"])]))]
pub struct From {
    /// Name of a Checkpoint in this namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<String>,
    /// A Machine in this namespace, which may still run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<FromMachine>,
    /// Name of an image of the Hub (`spec.images` there).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
}

/// A Machine to fork.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct FromMachine {
    /// Its name.
    pub name: String,
    /// `Latest`: its newest checkpoint. `Now`: one that is taken for this fork as soon as it runs; of one that stands still or has
    /// ended, its newest, which is what it is.
    #[serde(default)]
    pub capture: Capture,
}

/// Which state of a Machine is forked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum Capture {
    #[default]
    Latest,
    Now,
}

/// A state to put a Machine back to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Restore {
    /// Name of a Checkpoint of this Machine.
    pub checkpoint: String,
    /// Any text: another one asks for the same checkpoint once more.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub request: String,
}

/// What is done when its agent fails, its `verify` command does not pass or its guest is lost. A limit that is used up is no
/// failure: then it ends.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Retry {
    /// How often, at most.
    #[schemars(range(min = 1, max = 100))]
    pub limit: u32,
    /// From where.
    #[serde(default)]
    pub mode: RetryMode,
}

/// From where a Machine tries again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum RetryMode {
    /// In the same guest, as it is; a guest that is lost goes on as with `Fork`.
    #[default]
    Warm,
    /// From its newest checkpoint.
    Fork,
    /// From what it was spawned from, as if nothing had been done.
    Cold,
}

/// Whether the Machine should run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum OperatingMode {
    #[default]
    Running,
    Suspended,
}

/// How a Machine is suspended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Suspend {
    /// What becomes of its memory.
    #[serde(default)]
    pub memory: SuspendMemory,
}

/// What becomes of the memory of a Machine that is suspended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum SuspendMemory {
    /// Its agent is ended and its guest shut down.
    #[default]
    Discard,
    /// Its guest is saved as it is, with every process, in a volume of twice its memory and 500 MiB beside its disks, and goes on from
    /// there, once. A hub that cannot do so suspends it as with `Discard`, and says so.
    Keep,
}

/// The size of the VM.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Resources {
    /// Cores.
    #[serde(default = "default_cpu")]
    pub cpu: Millicores,
    /// Memory.
    #[serde(default = "default_memory")]
    pub memory: Bytes,
}

fn default_cpu() -> Millicores {
    Millicores(1000)
}
fn default_memory() -> Bytes {
    Bytes(2 << 30)
}
impl Default for Resources {
    fn default() -> Self {
        Self { cpu: default_cpu(), memory: default_memory() }
    }
}

/// Where a Machine may run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [rule::required("nodes", "size(self.nodes) > 0", "name at least one node of the Hub")]))]
pub struct Placement {
    /// Names of nodes of the Hub; on none but these.
    #[schemars(extend("x-kubernetes-list-type" = "set"))]
    pub nodes: Vec<String>,
}

/// Which Budget pays, and this Machine's own limits.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BudgetUse {
    /// Name of a Budget in this namespace. Default: the one that is called `default`; where there is none, only the limits here hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// This Machine's own limits. What is left out comes from the Hub's `defaults.limits`.
    #[serde(default)]
    pub limits: Limits,
}

/// Upper bounds of what is consumed.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Limits {
    /// Money paid to model providers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub money: Option<Money>,
    /// Time that the agent runs. Then the Machine ends with `terminationReason: Timeout`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time: Option<GoDuration>,
    /// Calls to model providers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_calls: Option<u64>,
}

/// When checkpoints are taken and how many are kept.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Checkpoints {
    /// `Enabled`: a checkpoint at every request of the agent's conversation.
    #[serde(default)]
    pub between_messages: Toggle,
    /// `Enabled`: a checkpoint at each request before which files were changed significantly.
    #[serde(default)]
    pub after_file_operations: Toggle,
    /// `Enabled`: a tool call that destroys something, or reaches beyond the VM, is withheld from the agent until the state before
    /// it is a checkpoint.
    #[serde(default)]
    pub before_risky_operations: Toggle,
    /// `Enabled`: a checkpoint when a commit was made, tests passed, or the agent ended its turn.
    #[serde(default)]
    pub at_breakpoints: Toggle,
    /// A checkpoint when there is none younger than this while the agent runs, whatever it does; at least `1m`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<GoDuration>,
    /// How many are kept.
    #[serde(default)]
    pub retention: Retention,
}

/// On or off, as an enum so that modes can be added.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum Toggle {
    #[default]
    Enabled,
    Disabled,
}

/// Which checkpoints are kept when newer ones come: those that any of these wants. Its final one, those with `keep: Forever` and
/// any that something was spawned from stay beside them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Retention {
    /// The newest N of this Machine.
    #[serde(default = "default_keep_last")]
    pub keep_last: u32,
    /// Each that is younger than this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_within: Option<GoDuration>,
    /// The newest of each of the last N hours that have any. Hours, days and weeks (from Monday) are those of UTC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_hourly: Option<u32>,
    /// The newest of each of the last N days that have any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_daily: Option<u32>,
    /// The newest of each of the last N weeks that have any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keep_weekly: Option<u32>,
    /// What its checkpoints may take in the pool, beyond what its disks take now. Above it the oldest goes, one after another, whatever
    /// of the above keeps it. Never the newest of a Machine that goes on, a final one, one with `keep: Forever` or one that something needs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_bytes: Option<Bytes>,
}

fn default_keep_last() -> u32 {
    20
}
impl Default for Retention {
    fn default() -> Self {
        Self { keep_last: default_keep_last(), keep_within: None, keep_hourly: None, keep_daily: None, keep_weekly: None, max_bytes: None }
    }
}

/// Which tool calls wait for a person.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Approvals {
    /// `Required`: a tool call that reaches beyond the VM, which no checkpoint undoes, waits until someone approves it.
    /// `NotRequired`: it is made.
    #[serde(default)]
    pub leaving_vm: Requirement,
    /// How long a call waits for a decision.
    #[serde(default = "default_approval_timeout")]
    pub timeout: GoDuration,
    /// What is done when nobody decides in time.
    #[serde(default)]
    pub on_timeout: OnTimeout,
}

fn default_approval_timeout() -> GoDuration {
    GoDuration(std::time::Duration::from_mins(10))
}
impl Default for Approvals {
    fn default() -> Self {
        Self { leaving_vm: Requirement::default(), timeout: default_approval_timeout(), on_timeout: OnTimeout::default() }
    }
}

/// Whether a person must say yes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum Requirement {
    #[default]
    Required,
    NotRequired,
}

/// Files for a first workspace: exactly one of `git` and `directory`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [rule::one_of(&["git", "directory"])]))]
pub struct Source {
    /// URL of a git repository that the hub can read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub git: Option<String>,
    /// A directory on the hub, below the directories it was told to allow (`autovibe up --source-root`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub directory: Option<String>,
    /// Branch, tag or commit. Default: the repository's own default.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "ref")]
    pub r#ref: Option<String>,
    /// How the hub is let into the repository.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials_secret_ref: Option<GitSecretRef>,
}

/// A Secret of the Machine's namespace: `username` and `password` (which may be a token) for `https://`, `ssh-privatekey` and
/// `known_hosts` for `ssh://`. The hub alone reads it; no guest ever has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GitSecretRef {
    /// Its name.
    pub name: String,
}

/// Where the work goes when the goal was achieved: pushed by the hub, as a branch, on top of what the source was. Never by force.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Push {
    /// URL of a git repository. Default: `spec.source.git`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub git: Option<String>,
    /// Its branch. Default: `autovibe/` and the Machine's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub branch: Option<String>,
    /// How the hub is let into the repository. Default, for that of the source: as for the source.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credentials_secret_ref: Option<GitSecretRef>,
}

/// What becomes of the disks at the end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum OnTerminate {
    #[default]
    Checkpoint,
    Discard,
}

impl MachineSpec {
    /// Repository and branch that the work goes to.
    pub fn push_to(&self, name: &str) -> Option<(String, String)> {
        let push = self.push.as_ref()?;
        let git = push.git.clone().or_else(|| self.source.as_ref()?.git.clone())?;
        Some((git, push.branch.clone().unwrap_or_else(|| format!("autovibe/{name}"))))
    }
    /// Name of the Secret that lets the hub push.
    pub fn push_secret(&self) -> Option<&str> {
        let push = self.push.as_ref()?;
        let of_source = self.source.as_ref().filter(|source| push.git.is_none() || push.git == source.git);
        let named = push.credentials_secret_ref.as_ref().or_else(|| of_source?.credentials_secret_ref.as_ref());
        named.map(|named| named.name.as_str())
    }
    /// Whether its memory is to be kept when it is suspended.
    pub fn keeps_memory(&self) -> bool {
        self.suspend.as_ref().is_some_and(|suspend| suspend.memory == SuspendMemory::Keep)
    }
    /// Whether it is there to look at a checkpoint.
    pub fn verifies(&self) -> bool {
        self.purpose == Some(Purpose::Verify)
    }
}

impl Machine {
    /// Its agent's working directory in the guest.
    pub fn workspace(&self) -> &str {
        let inherited = || self.status.as_ref().and_then(|status| status.workspace.as_deref());
        self.spec.goal.workspace.as_deref().or_else(inherited).unwrap_or(Goal::WORKSPACE)
    }
    /// Name and uid of the Machine whose agent spawned it: that one's limits pay for it too.
    pub fn spawned_by(&self) -> Option<(&str, &str)> {
        let owners = self.metadata.owner_references.iter().flatten();
        let mut spawners = owners.filter(|owner| owner.kind == Self::KIND && owner.controller == Some(true));
        spawners.next().map(|owner| (owner.name.as_str(), owner.uid.as_str()))
    }
}

impl Kind for Machine {
    const KIND: &'static str = "Machine";
    const PLURAL: &'static str = "machines";
    const SINGULAR: &'static str = "machine";
    const SHORT_NAMES: &'static [&'static str] = &["mach"];
    const SCOPE: Scope = Scope::Namespaced;
    const COLUMNS: &'static [Column] = &[
        Column { name: "Phase", r#type: "string", json_path: ".status.phase", priority: 0, description: "Summary of its state" },
        Column { name: "Agent", r#type: "string", json_path: ".spec.agent.type", priority: 0, description: "Agent program" },
        Column { name: "Goal", r#type: "string", json_path: ".spec.goal.prompt", priority: 0, description: "What it is to do" },
        Column {
            name: "Spent",
            r#type: "string",
            json_path: ".status.spent",
            priority: 0,
            description: "Money paid to providers, of its limit",
        },
        Column { name: "Checkpoints", r#type: "integer", json_path: ".status.checkpoints", priority: 0, description: "Checkpoints taken" },
        Column { name: "Node", r#type: "string", json_path: ".status.vm.node", priority: 0, description: "Proxmox node" },
        Column { name: "VMID", r#type: "integer", json_path: ".status.vm.vmid", priority: 1, description: "Id of the VM" },
        Column { name: "Message", r#type: "string", json_path: ".status.message", priority: 1, description: "What it waits for or does" },
        Column {
            name: "Age",
            r#type: "date",
            json_path: ".metadata.creationTimestamp",
            priority: 0,
            description: "Time since it was created",
        },
    ];

    fn metadata(&self) -> &ObjectMeta {
        &self.metadata
    }
    fn metadata_mut(&mut self) -> &mut ObjectMeta {
        &mut self.metadata
    }

    fn validate(&self) -> Vec<FieldError> {
        check::check(self)
    }
}
