//! What a Hub runs Machines on: Proxmox, its nodes, and the storage below.

use super::SecretRef;
use crate::api::meta::FieldError;
use crate::api::network::validate_networks;
use crate::api::quantity::Bytes;
use crate::api::rule;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The Proxmox and the storage that the Hub drives: `proxmox` with `zfs` or with `templates`; or `lab`, alone or with `templates`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[schemars(extend("x-kubernetes-validations" = [
    rule::holds(
        "has(self.lab) ? !has(self.proxmox) && !has(self.zfs) : has(self.proxmox) && has(self.zfs) != has(self.templates)",
        "give either proxmox and one of zfs and templates, or lab: {}, alone or with templates",
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
    rule::forbidden(
        "exportTo",
        "!has(self.exportTo) || size(self.exportTo) == 0 || !has(self.templates)",
        "with templates nothing can be exported; remove it",
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
    /// How much of the storage is left to the Machines that are there, percent: a node whose storage has less free takes no new ones.
    /// A pool that is full stops every guest on it. 0 keeps nothing.
    #[serde(default = "default_reserve")]
    #[schemars(range(min = 0, max = 90))]
    pub storage_reserve_percent: u32,
    /// Datasets that checkpoints may be exported to and imported from, such as `backup/autovibe`: of other pools, each on one node or
    /// more. Default: none, and checkpoints are exported to files alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 16), extend("x-kubernetes-list-type" = "set"))]
    pub export_to: Vec<String>,
    /// The lab that `autovibe up` started beside this hub: a Proxmox-compatible node on this machine. With `templates` it is used by
    /// Proxmox' API alone, as the node would be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lab: Option<Lab>,
}

/// How much of a storage is kept free, where nothing is said, percent. ZFS grows slow and fragmented beyond.
pub const STORAGE_RESERVE_PERCENT: u32 = 10;

fn default_reserve() -> u32 {
    STORAGE_RESERVE_PERCENT
}

impl Default for Infrastructure {
    fn default() -> Self {
        Self {
            proxmox: None,
            zfs: None,
            templates: None,
            nodes: Vec::new(),
            storage_reserve_percent: STORAGE_RESERVE_PERCENT,
            export_to: Vec::new(),
            lab: None,
        }
    }
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
    /// Who sees to it that guests reach nothing but the gateway. Default: whoever made the bridge.
    #[serde(default)]
    pub firewall: Firewall,
    /// How many VMs are created and destroyed at once on the storage: each takes locks there that Proxmox waits 10 s for.
    #[serde(default = "default_concurrency")]
    #[schemars(range(min = 1, max = 32))]
    pub concurrency: u32,
}

/// Who sees to it in Proxmox that guests reach nothing but the gateway.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Firewall {
    /// Whether the hub makes rules for its VMs.
    #[serde(default)]
    pub mode: FirewallMode,
    /// Networks that the guests' own addresses are in, with `Managed`: what comes from a VM with another address is dropped
    /// (`ipfilter`), such as a guest that takes another one's. Default: any address.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 4), extend("x-kubernetes-list-type" = "set"))]
    pub guest_networks: Vec<String>,
}

/// Whether the hub makes firewall rules.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub enum FirewallMode {
    /// It makes none: what guests reach is what the bridge lets them.
    #[default]
    Unmanaged,
    /// A VM gets rules of its own before it is first started: it may open connections to the address and port of `gateway.url`, and ask
    /// for an address by DHCP; all else is refused. `gateway.url` must have an address, as rules know no names.
    Managed,
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

impl Infrastructure {
    /// What its schema cannot say.
    pub(super) fn validate(&self, errors: &mut Vec<FieldError>) {
        if let Some(proxmox) = &self.proxmox {
            validate_endpoint(proxmox, errors);
            let path = "spec.infrastructure.proxmox.firewall.guestNetworks";
            validate_networks(path, &proxmox.firewall.guest_networks, errors);
            if proxmox.firewall.mode == FirewallMode::Unmanaged && !proxmox.firewall.guest_networks.is_empty() {
                errors
                    .push(FieldError::forbidden(path, "is for mode Managed; set spec.infrastructure.proxmox.firewall.mode, or remove it"));
            }
        }
        if let (Some(_), Some(zfs)) = (&self.proxmox, &self.zfs) {
            validate_zfs(zfs, errors);
        }
        self.validate_exports(errors);
        for (index, node) in self.nodes.iter().enumerate() {
            let path = format!("spec.infrastructure.nodes[{index}]");
            if !is_host(&node.name) {
                let remedy = "must be the name of a Proxmox node, for example pve1";
                errors.push(FieldError::invalid(format!("{path}.name"), &node.name, remedy));
            }
            if let Some(ssh) = &node.runner.ssh {
                validate_ssh(ssh, &format!("{path}.runner.ssh"), errors);
            }
        }
    }
}

impl Infrastructure {
    fn validate_exports(&self, errors: &mut Vec<FieldError>) {
        for (index, dataset) in self.export_to.iter().enumerate() {
            let path = format!("spec.infrastructure.exportTo[{index}]");
            if !is_dataset(dataset) || !dataset.starts_with(|c: char| c.is_ascii_alphabetic()) {
                errors.push(FieldError::invalid(path, dataset, "must be the name of a dataset, for example backup/autovibe"));
                continue;
            }
            let own = self.zfs.iter().flat_map(|zfs| [("dataset", &zfs.dataset), ("keep", &zfs.keep)]);
            let near = own.filter(|(_, own)| overlap(dataset, own)).map(|(field, _)| field).next();
            if let Some(field) = near {
                errors.push(FieldError::invalid(
                    path,
                    dataset,
                    format!("must be apart from spec.infrastructure.zfs.{field}, best in another pool"),
                ));
            }
        }
    }
}

/// Whether one dataset is the other, or within it.
pub fn overlap(one: &str, other: &str) -> bool {
    let within = |inner: &str, outer: &str| inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
    within(one, other) || within(other, one)
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

fn validate_endpoint(proxmox: &Proxmox, errors: &mut Vec<FieldError>) {
    if !proxmox.endpoint.starts_with("https://") {
        errors.push(FieldError::invalid(
            "spec.infrastructure.proxmox.endpoint",
            &proxmox.endpoint,
            "must be an https URL, for example https://pve1.example:8006",
        ));
    }
}

fn validate_zfs(zfs: &Zfs, errors: &mut Vec<FieldError>) {
    let path = "spec.infrastructure";
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
