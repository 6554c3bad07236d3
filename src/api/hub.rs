//! `Hub`: the place that runs Machines: its Proxmox, its ZFS, its model providers, its images.

use super::capability::Capability;
use super::machine::Limits;
use super::meta::{Column, FieldError, Kind, Scope, conditions_schema, object};
use super::quantity::{Bytes, Currency, GoDuration, Money, NanoUsd};
use super::rule;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

object!(
    /// The place that runs Machines. One named `default` is used where none is named.
    Hub, HubSpec, HubStatus
);

/// What the Hub has and may use.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [rule::required(
    "gateway",
    "!has(self.infrastructure.proxmox) || has(self.gateway)",
    "give the URL at which guests reach this hub's gateway",
)]))]
pub struct HubSpec {
    /// The Proxmox and the ZFS that it drives.
    pub infrastructure: Infrastructure,
    /// Where guests reach this Hub's gateway. The lab knows it by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<Gateway>,
    /// Model providers. The first whose `models` match a request's model serves it.
    #[serde(default)]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub providers: Vec<Provider>,
    /// First bases of Machines.
    #[serde(default)]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub images: Vec<Image>,
    /// For Machines that say nothing themselves.
    #[serde(default)]
    pub defaults: Defaults,
    /// How people learn that a tool call waits for them.
    #[serde(default)]
    pub approvals: Approvals,
}

/// How people learn that a tool call waits for them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Approvals {
    /// Gets a POST for each Approval of this Hub's Machines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook: Option<Webhook>,
}

/// Where a POST of JSON goes. It is tried again until the Approval is decided or expires, and holds nothing up.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Webhook {
    /// Its URL.
    pub url: String,
    /// Secret in namespace `autovibe-system`; its key `key` signs the body: header `X-Hub-Signature-256: sha256=` and the HMAC-SHA256
    /// in hex, as GitHub does it.
    pub secret_ref: SecretRef,
}

/// The Proxmox and the storage that the Hub drives: `proxmox` with `zfs` or with `templates`, or `lab`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [
    rule::holds(
        "has(self.lab) ? !has(self.proxmox) && !has(self.zfs) && !has(self.templates) \
         : has(self.proxmox) && has(self.zfs) != has(self.templates)",
        "give either proxmox and one of zfs and templates, or lab: {}",
    ),
    rule::forbidden(
        "nodes",
        "!has(self.nodes) || size(self.nodes) == 0 || !has(self.templates)",
        "with templates a hub has one node; remove nodes and name it in proxmox.node",
    ),
    rule::forbidden(
        "nodes",
        "!has(self.nodes) || size(self.nodes) == 0 || !has(self.lab)",
        "the lab has one node; remove nodes",
    ),
    rule::forbidden(
        "nodes",
        "!has(self.nodes) || size(self.nodes) == 0 || !has(self.proxmox) || !has(self.proxmox.node)",
        "names the nodes already; remove proxmox.node",
    ),
    rule::forbidden(
        "nodes",
        "!has(self.nodes) || size(self.nodes) == 0 || !has(self.zfs) || !has(self.zfs.runner) || \
         (!has(self.zfs.runner.ssh) && !has(self.zfs.runner.socket))",
        "says for each node how zfs is run there; remove zfs.runner",
    ),
]))]
pub struct Infrastructure {
    /// A Proxmox VE node or cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxmox: Option<Proxmox>,
    /// The ZFS under its storage.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zfs: Option<Zfs>,
    /// In place of `zfs`: any storage of Proxmox that makes linked clones of templates (LVM-thin, RBD, qcow2, ZFS), by Proxmox' API
    /// alone. `status.capabilities` says what this cannot do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub templates: Option<Templates>,
    /// Nodes of the cluster that Machines may run on, each with its own pool; storage, dataset and keep are called the same on each.
    /// Default: one node, as `proxmox.node` and `zfs.runner` say.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub nodes: Vec<Node>,
    /// The lab that `autovibe up` started beside this hub: a Proxmox-compatible node on this machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lab: Option<Lab>,
}

/// A node that Machines may run on.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Node {
    /// Its name in Proxmox.
    pub name: String,
    /// How `zfs` is run there. Default: on this machine, which must be that node then.
    #[serde(default)]
    pub runner: Runner,
    /// How many Machines may run there at once. Default: as many as their memory allows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_machines: Option<u32>,
    /// Memory that Machines there may have in sum; more than the node has is overcommitted. Default: nine tenths of what it has, less
    /// that of other VMs that run there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Bytes>,
}

/// The lab beside this hub; nothing to say about it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Lab {}

/// A Proxmox VE node or cluster.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Proxmox {
    /// URL of its API: `https://pve1.example:8006`.
    pub endpoint: String,
    /// SHA-256 of the node's certificate, as Proxmox shows it (`AB:CD:…`). Default: the system's trust store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
    /// Secret in namespace `autovibe-system` with keys `tokenId` (`user@realm!name`) and `secret`; where there is no token,
    /// `username` (`user@realm`) and `password`.
    pub token_secret_ref: SecretRef,
    /// The node to run on. Default: the only one there is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Range of VM ids that are autovibe's alone. Keep Proxmox' own `next-id` outside it.
    pub vmids: VmidRange,
    /// The bridge of the guests' network card.
    #[serde(default = "default_bridge")]
    pub bridge: String,
    /// How many VMs are created and destroyed at once on the storage: each takes locks there that Proxmox waits 10 s for.
    #[serde(default = "default_concurrency")]
    #[schemars(range(min = 1, max = 32))]
    pub concurrency: u32,
}

fn default_bridge() -> String {
    "vmbr0".into()
}

/// How many VMs are created and destroyed at once, where nothing is said.
pub const CONCURRENCY: u32 = 4;

fn default_concurrency() -> u32 {
    CONCURRENCY
}

/// A range of VM ids, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [rule::holds("self.from <= self.to", "`from` must not be above `to`")]))]
pub struct VmidRange {
    /// The lowest.
    #[schemars(range(min = 100, max = 999_999_999))]
    pub from: u32,
    /// The highest.
    #[schemars(range(min = 100, max = 999_999_999))]
    pub to: u32,
}

/// The ZFS under the Proxmox storage.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Zfs {
    /// The zfspool storage in Proxmox.
    pub storage: String,
    /// The dataset of that storage: `rpool/data`.
    pub dataset: String,
    /// The checkpoint tree: a dataset in the same pool, outside `dataset`.
    pub keep: String,
    /// How `zfs` is run. Default: on this machine.
    #[serde(default)]
    pub runner: Runner,
}

/// A storage that is used by Proxmox' API alone: what is kept is a template there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Templates {
    /// The storage in Proxmox that has the disks of the images, and gets those of Machines.
    pub storage: String,
}

/// How `zfs` is run: on this machine, or as one of these says.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [rule::holds(
    "!(has(self.socket) && has(self.ssh))",
    "give socket or ssh, or neither to run zfs on this machine",
)]))]
pub struct Runner {
    /// Path of a unix socket of a helper that runs it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub socket: Option<String>,
    /// The node, with `autovibe zfs-helper` as the forced command of this hub's key; docs/proxmox.md has the set-up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ssh: Option<Ssh>,
}

/// A node that is reached by SSH.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Ssh {
    /// Its name or address.
    pub host: String,
    /// The port of its sshd.
    #[serde(default = "default_port")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: u16,
    /// The user there; not root.
    #[serde(default = "default_user")]
    pub user: String,
    /// The node's public host key, type and base64: the line of `/etc/ssh/ssh_host_ed25519_key.pub`. No other is accepted.
    pub host_key: String,
    /// Secret in namespace `autovibe-system` with key `ssh-privatekey`: a private key without passphrase.
    pub key_secret_ref: SecretRef,
}

fn default_port() -> u16 {
    22
}
fn default_user() -> String {
    "autovibe".into()
}

/// A Secret in namespace `autovibe-system`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct SecretRef {
    /// Its name.
    pub name: String,
}

/// Where guests reach this Hub's gateway.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Gateway {
    /// URL as a guest must use it: `http://10.10.0.1:8081`.
    pub url: String,
}

/// A model provider.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [
    rule::required(
        "apiKeySecretRef",
        "self.type != 'Anthropic' || has(self.apiKeySecretRef)",
        "type Anthropic needs a Secret with key apiKey",
    ),
    rule::required(
        "apiKeySecretRef",
        "self.type != 'OpenAI' || has(self.apiKeySecretRef) || has(self.endpoint)",
        "type OpenAI needs a Secret with key apiKey, unless endpoint names a server that takes none",
    ),
    rule::required("replay", "self.type != 'Replay' || has(self.replay)", "type Replay needs the path of a conversation file"),
    rule::required("models", "size(self.models) > 0", "list the models that may be used, for example [\"claude-*\"]"),
]))]
pub struct Provider {
    /// Its name among this Hub's providers.
    pub name: String,
    /// What it speaks.
    #[serde(default, rename = "type")]
    pub r#type: ProviderType,
    /// Base URL, for types `Anthropic` (without `/v1`) and `OpenAI` (with it, where the server has it). Default: the provider's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<String>,
    /// Secret in namespace `autovibe-system` with key `apiKey`, for types `Anthropic` and `OpenAI`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api_key_secret_ref: Option<SecretRef>,
    /// The written conversation, for type `Replay`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replay: Option<Replay>,
    /// Models that may be used; `*` at the end matches any rest.
    #[serde(default)]
    pub models: Vec<String>,
    /// Whose price list holds, by its id in genai-prices: `openai`, `openrouter`, `deepseek`. Default: the one of the endpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub price_list: Option<String>,
}

/// What a provider speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum ProviderType {
    /// The Messages API.
    #[default]
    Anthropic,
    /// Chat completions and Responses: OpenAI, or any server that is compatible with it.
    OpenAI,
    /// Answers from a written conversation, in the event stream that the agent expects: no key, no cost.
    Replay,
}

/// A written conversation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Replay {
    /// Path of the conversation file on the hub.
    pub file: String,
}

/// A first base of Machines: exactly one of `file`, `dataset` and `template`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [rule::one_of(&["file", "dataset", "template"])]))]
pub struct Image {
    /// Its name among this Hub's images.
    pub name: String,
    /// A raw disk image on the hub, as `autovibe image build` makes; the hub imports it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// A snapshot that is already in the pool: `rpool/images/debian@v1`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dataset: Option<String>,
    /// VMID of a Proxmox template, for a Hub with `templates`. It stays its owner's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 100, max = 999_999_999))]
    pub template: Option<u32>,
}

/// For Machines that say nothing themselves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Defaults {
    /// Limits of a Machine without its own; never none.
    #[serde(default = "default_limits")]
    pub limits: Limits,
}

fn default_limits() -> Limits {
    Limits {
        money: Some(Money { amount: NanoUsd(5_000_000_000), currency: Currency::USD }),
        time: Some(GoDuration(std::time::Duration::from_hours(2))),
        api_calls: Some(1000),
    }
}
impl Default for Defaults {
    fn default() -> Self {
        Self { limits: default_limits() }
    }
}

/// What was observed of a Hub.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HubStatus {
    /// The generation that this status speaks of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Ready; Reconciling, Stalled; UnownedVms, LedgerGap, AuditFindings, PermissionsMissing.
    #[serde(default)]
    #[schemars(schema_with = "conditions_schema")]
    pub conditions: Vec<Condition>,
    /// What it waits for, in words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Version of the Proxmox VE.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxmox_version: Option<String>,
    /// Images that can be spawned from.
    #[serde(default)]
    pub images: Vec<ImageStatus>,
    /// Whether each of `infrastructure.nodes` can take Machines.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub nodes: Vec<NodeStatus>,
    /// VMs that this installation made and that no Machine holds, as after the restore of an older database; at most 50. Nothing
    /// touches them, and their VMIDs are given to no one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unowned_vms: Vec<UnownedVm>,
    /// What its storage can do, and why it cannot do the rest; see docs/proxmox.md.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub capabilities: Vec<Capability>,
    /// What the token may not do in Proxmox, and must; see `autovibe doctor --hub NAME`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lacking: Vec<Lack>,
    /// The last audit: what is in the pool and in Proxmox against what the objects say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audit: Option<Audit>,
}

/// How a node stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeStatus {
    pub name: String,
    /// Why no Machine can be put there now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// Privileges of Proxmox that are missing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Lack {
    /// Where they are to be given.
    pub path: String,
    pub privileges: Vec<String>,
    /// All that are needed there: a role on a path takes the place of what is given on those above.
    #[serde(default)]
    pub needed: Vec<String>,
}

/// Annotation of a Hub that asks for an audit now: any text that is not the one of the last audit.
pub const AUDIT: &str = "autovibe.dev/audit";

/// Annotation of a Hub: with the text of `autovibe.dev/audit`, the audit that this asks for also destroys what this installation
/// made and no object stands for, of what the last audit named as `SnapshotUnused` and `DiskUnused`.
pub const COLLECT: &str = "autovibe.dev/collect";

/// What an audit found. It changes nothing, unless it was told to collect.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Audit {
    /// When it looked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Time>,
    /// The value of the annotation `autovibe.dev/audit` that asked for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asked: Option<String>,
    /// Why the last one could not be done; what stands here beside is of the one before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Datasets that were looked at.
    #[serde(default)]
    pub datasets: u32,
    /// Snapshots that were looked at.
    #[serde(default)]
    pub snapshots: u32,
    /// VMs that were looked at.
    #[serde(default)]
    pub vms: u32,
    /// What does not agree, the worst first; at most 50.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub findings: Vec<Finding>,
    /// How many there are.
    #[serde(default)]
    pub found: u32,
    /// What was destroyed, where that was asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub collected: Vec<String>,
}

/// One thing that does not agree with the others.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    #[serde(default)]
    pub kind: FindingKind,
    /// The object, VM, dataset or snapshot.
    pub name: String,
    /// What is known of it, and what to do.
    pub message: String,
}

/// What does not agree, the worst first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum FindingKind {
    /// A Checkpoint is Ready, and a snapshot of it is not in the pool, or its template not in Proxmox.
    SnapshotMissing,
    /// A Checkpoint's snapshot does not bear its mark, or has no hold: something else may destroy it.
    SnapshotUnprotected,
    /// A Machine has a VM that Proxmox does not show.
    VmMissing,
    /// A VM or a dataset has a VMID of the Hub's range, and is not ours.
    Foreign,
    /// A snapshot bears our marks, and there is no such Checkpoint.
    SnapshotUnused,
    /// A disk bears our mark, there is no such Machine, and no Checkpoint needs it.
    DiskUnused,
    /// A template bears the marks of a Checkpoint that does not exist.
    TemplateUnused,
    /// A VMID is leased to a Machine that does not exist, and nothing bears it.
    #[default]
    LeaseUnused,
}

/// A VM without a Machine, and the Machine that its marks name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct UnownedVm {
    pub vmid: u32,
    pub machine_uid: String,
    pub namespace: String,
    pub name: String,
}

/// An image as it stands in the pool.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImageStatus {
    pub name: String,
    /// Full name of its snapshot, or the VMID of its template.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot: Option<String>,
    /// The snapshot's ZFS guid, decimal; of a template the uuid of its VM.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guid: Option<String>,
    /// Why it is not ready.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

impl Kind for Hub {
    const KIND: &'static str = "Hub";
    const PLURAL: &'static str = "hubs";
    const SINGULAR: &'static str = "hub";
    const SHORT_NAMES: &'static [&'static str] = &[];
    const SCOPE: Scope = Scope::Cluster;
    const COLUMNS: &'static [Column] = &[
        Column {
            name: "Ready",
            r#type: "string",
            json_path: ".status.conditions[?(@.type==\"Ready\")].status",
            priority: 0,
            description: "Whether Proxmox and ZFS answer",
        },
        Column {
            name: "Endpoint",
            r#type: "string",
            json_path: ".spec.infrastructure.proxmox.endpoint",
            priority: 0,
            description: "Its Proxmox",
        },
        Column {
            name: "Version",
            r#type: "string",
            json_path: ".status.proxmoxVersion",
            priority: 0,
            description: "Version of the Proxmox VE",
        },
        Column { name: "Message", r#type: "string", json_path: ".status.message", priority: 1, description: "What it waits for" },
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
        let mut errors = Vec::new();
        let infrastructure = &self.spec.infrastructure;
        if let (Some(proxmox), Some(zfs)) = (&infrastructure.proxmox, &infrastructure.zfs) {
            validate_infrastructure(proxmox, zfs, &mut errors);
        }
        if let (Some(proxmox), None) = (&infrastructure.proxmox, &infrastructure.zfs) {
            validate_endpoint(proxmox, &mut errors);
        }
        for (index, image) in self.spec.images.iter().enumerate() {
            validate_image(index, image, infrastructure.templates.is_some(), &mut errors);
        }
        for (index, node) in infrastructure.nodes.iter().enumerate() {
            let path = format!("spec.infrastructure.nodes[{index}]");
            if !is_host(&node.name) {
                let remedy = "must be the name of a Proxmox node, for example pve1";
                errors.push(FieldError::invalid(format!("{path}.name"), &node.name, remedy));
            }
            if let Some(ssh) = &node.runner.ssh {
                validate_ssh(ssh, &format!("{path}.runner.ssh"), &mut errors);
            }
        }
        if let Some(webhook) = &self.spec.approvals.webhook
            && !webhook.url.starts_with("https://")
            && !webhook.url.starts_with("http://")
        {
            let remedy = "must be an http or https URL, for example https://chat.example/hooks/autovibe";
            errors.push(FieldError::invalid("spec.approvals.webhook.url", &webhook.url, remedy));
        }
        names(&mut errors, "spec.providers", self.spec.providers.iter().map(|provider| &provider.name));
        names(&mut errors, "spec.images", self.spec.images.iter().map(|image| &image.name));
        errors
    }
}

/// Names that must be fit to be part of a dataset's name.
fn names<'a>(errors: &mut Vec<FieldError>, path: &str, names: impl Iterator<Item = &'a String>) {
    for (index, name) in names.enumerate() {
        let field = format!("{path}[{index}].name");
        let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.';
        if name.len() > 63 || !name.chars().all(legal) || !name.starts_with(|c: char| c.is_ascii_alphanumeric()) {
            errors.push(FieldError::invalid(
                field,
                name,
                "must be lower case letters, digits, `-` and `.`, at most 63, for example debian-agents",
            ));
        }
    }
}

/// Whether ZFS takes it as the name of a dataset. Source: zfs(8), "ZFS File System Hierarchy".
fn is_dataset(name: &str) -> bool {
    let part = |part: &str| {
        part.starts_with(|c: char| c.is_ascii_alphanumeric()) && part.chars().all(|c| c.is_ascii_alphanumeric() || "_-:.".contains(c))
    };
    name.len() <= 200 && name.split('/').all(part)
}

/// Whether Proxmox takes it as the name of a node.
fn is_host(name: &str) -> bool {
    name.len() <= 63 && name.starts_with(|c: char| c.is_ascii_alphanumeric()) && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
}

fn validate_ssh(ssh: &Ssh, path: &str, errors: &mut Vec<FieldError>) {
    // Both become words of a command line: nothing that could be taken for an option.
    let word = |text: &str, more: &str| {
        text.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_' || (c == ':' && more.contains(':')))
            && text.chars().all(|c| c.is_ascii_alphanumeric() || more.contains(c))
            && text.len() <= 253
    };
    if !word(&ssh.host, ".:-") {
        errors.push(FieldError::invalid(format!("{path}.host"), &ssh.host, "must be a host name or an address, for example pve1.example"));
    }
    if !word(&ssh.user, "._-") {
        errors.push(FieldError::invalid(format!("{path}.user"), &ssh.user, "must be the name of a user on the node, for example autovibe"));
    }
    let key: Vec<&str> = ssh.host_key.split_ascii_whitespace().collect();
    let base64 = |c: char| c.is_ascii_alphanumeric() || "+/=".contains(c);
    let legal = matches!(key[..], [kind, key, ..] if word(kind, "-@.") && key.starts_with("AAAA") && key.chars().all(base64));
    if !legal || ssh.host_key.trim().contains(char::is_control) {
        errors.push(FieldError::invalid(
            format!("{path}.hostKey"),
            &ssh.host_key,
            "must be a public host key on one line, as `ssh-keyscan -t ed25519 HOST` shows it after the name: ssh-ed25519 AAAA…",
        ));
    }
}

/// Each driver has images of its own kind.
fn validate_image(index: usize, image: &Image, templates: bool, errors: &mut Vec<FieldError>) {
    let mut wrong = |field: &str, why: &str| errors.push(FieldError::forbidden(format!("spec.images[{index}].{field}"), why));
    match (image.template, templates) {
        (Some(_), false) => wrong("template", "is for a hub with infrastructure.templates; give file or dataset"),
        (None, true) if image.file.is_some() => {
            wrong("file", "cannot be imported through Proxmox' API; make a template of it on the node and give template: VMID");
        }
        (None, true) if image.dataset.is_some() => wrong("dataset", "this hub has no zfs; give template: VMID"),
        _ => {}
    }
}

fn validate_endpoint(proxmox: &Proxmox, errors: &mut Vec<FieldError>) {
    if !proxmox.endpoint.starts_with("https://") {
        errors.push(FieldError::invalid(
            "spec.infrastructure.proxmox.endpoint",
            &proxmox.endpoint,
            "must be an https URL, for example https://pve1.example:8006",
        ));
    }
}

fn validate_infrastructure(proxmox: &Proxmox, zfs: &Zfs, errors: &mut Vec<FieldError>) {
    let path = "spec.infrastructure";
    validate_endpoint(proxmox, errors);
    for (field, dataset) in [("dataset", &zfs.dataset), ("keep", &zfs.keep)] {
        if !is_dataset(dataset) {
            errors.push(FieldError::invalid(
                format!("{path}.zfs.{field}"),
                dataset,
                "must be the name of a dataset, for example rpool/data",
            ));
        }
    }
    if let Some(ssh) = &zfs.runner.ssh {
        validate_ssh(ssh, &format!("{path}.zfs.runner.ssh"), errors);
    }
    let pool = |dataset: &str| dataset.split('/').next().unwrap_or_default().to_owned();
    if pool(&zfs.keep) != pool(&zfs.dataset) {
        errors.push(FieldError::invalid(
            format!("{path}.zfs.keep"),
            &zfs.keep,
            format!("must be in the pool of `dataset`: {}", pool(&zfs.dataset)),
        ));
    }
    if zfs.keep == zfs.dataset || zfs.keep.starts_with(&format!("{}/", zfs.dataset)) {
        errors.push(FieldError::invalid(
            format!("{path}.zfs.keep"),
            &zfs.keep,
            "must be outside `dataset`, or Proxmox would list the checkpoints as disks",
        ));
    }
}
