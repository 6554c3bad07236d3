//! `Hub`: the place that runs Machines: its Proxmox, its ZFS, its model providers, its images.

mod infrastructure;

pub use infrastructure::{
    CONCURRENCY, Firewall, FirewallMode, Infrastructure, Lab, Node, Proxmox, Runner, STORAGE_RESERVE_PERCENT, Ssh, Templates, VmidRange,
    Zfs, overlap,
};

use super::capability::Capability;
use super::machine::Limits;
use super::meta::{Column, FieldError, Kind, Scope, conditions_schema, object};
use super::network::HubEgress;
use super::quantity::{Currency, GoDuration, Money, NanoUsd};
use super::rule;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, ObjectMeta, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use std::net::{IpAddr, SocketAddr};

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
    /// What is done with the checkpoints of its Machines.
    #[serde(default)]
    pub checkpoints: Checkpoints,
    /// Where the names that its Machines are allowed may lead.
    #[serde(default)]
    pub egress: HubEgress,
}

/// What is done with checkpoints.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Checkpoints {
    /// When the hub verifies them by itself. Default: only where somebody asks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verify: Option<VerifySchedule>,
}

/// When the hub verifies checkpoints by itself: the newest final one that never was, then, with `again`, the one that was longest ago;
/// one at a time, and none while a Machine waits for room on a node.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct VerifySchedule {
    /// How long after it asked for one it asks for the next; at least `1m`.
    pub interval: GoDuration,
    /// How long after its last verification a checkpoint is verified again, whichever asked for that; at least `interval`. Default:
    /// never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub again: Option<GoDuration>,
}

/// The least [`VerifySchedule::interval`].
const LEAST_INTERVAL: std::time::Duration = std::time::Duration::from_mins(1);

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
    /// From where a guest's token is taken.
    #[serde(default)]
    pub tokens_from: TokensFrom,
}

impl Gateway {
    /// Address and port in its URL, if that has an address.
    pub fn address(&self) -> Option<(IpAddr, u16)> {
        let (scheme, rest) = self.url.split_once("://")?;
        let authority = rest.split(['/', '?', '#']).next()?;
        if let Ok(whole) = authority.parse::<SocketAddr>() {
            return Some((whole.ip(), whole.port()));
        }
        let port = if scheme.eq_ignore_ascii_case("https") { 443 } else { 80 };
        Some((authority.trim_start_matches('[').trim_end_matches(']').parse().ok()?, port))
    }
}

/// From where a guest's token is taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum TokensFrom {
    /// The address that used it first, of IPv6 the network of 64 bits: from elsewhere, as from a fork, it is worth nothing.
    #[default]
    FirstAddress,
    /// Any: for guests whose address changes on the way, by several proxies or by the node that they run on.
    AnyAddress,
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
    /// Ready; Reconciling, Stalled; UnownedVms, LedgerGap, AuditFindings, PermissionsMissing, FirewallInactive,
    /// StorageLow, ProviderKeyMissing.
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
    /// The last time that `spec.checkpoints.verify` was due.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verification: Option<Verification>,
    /// The last audit: what is in the pool and in Proxmox against what the objects say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audit: Option<Audit>,
}

/// What was done when a checkpoint was due to be verified.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Verification {
    /// When.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Time>,
    /// The Checkpoint whose verification was asked for, as NAMESPACE/NAME; `None` when there was none to be verified.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<String>,
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
        infrastructure.validate(&mut errors);
        for (index, image) in self.spec.images.iter().enumerate() {
            validate_image(index, image, infrastructure.templates.is_some(), &mut errors);
        }
        self.spec.egress.validate(&mut errors);
        let managed = infrastructure.proxmox.as_ref().is_some_and(|proxmox| proxmox.firewall.mode == FirewallMode::Managed);
        if let Some(gateway) = self.spec.gateway.as_ref().filter(|gateway| managed && gateway.address().is_none()) {
            let remedy = "must have an address and not a name while spec.infrastructure.proxmox.firewall.mode is Managed, as its rules \
                          know no names: http://10.10.0.1:8081";
            errors.push(FieldError::invalid("spec.gateway.url", &gateway.url, remedy));
        }
        if let Some(webhook) = &self.spec.approvals.webhook
            && !webhook.url.starts_with("https://")
            && !webhook.url.starts_with("http://")
        {
            let remedy = "must be an http or https URL, for example https://chat.example/hooks/autovibe";
            errors.push(FieldError::invalid("spec.approvals.webhook.url", &webhook.url, remedy));
        }
        if let Some(verify) = self.spec.checkpoints.verify.as_ref().filter(|verify| verify.interval.0 < LEAST_INTERVAL) {
            let remedy = "must be at least 1m; leave spec.checkpoints.verify out for none";
            errors.push(FieldError::invalid("spec.checkpoints.verify.interval", verify.interval, remedy));
        }
        let schedule = self.spec.checkpoints.verify.as_ref();
        if let Some((again, interval)) =
            schedule.and_then(|verify| Some((verify.again?, verify.interval))).filter(|(again, i)| again.0 < i.0)
        {
            let remedy = format!("must be at least spec.checkpoints.verify.interval ({interval}), for example 720h; leave it out for once");
            errors.push(FieldError::invalid("spec.checkpoints.verify.again", again, remedy));
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
