//! The file that a lab begins from: its nodes and storages, who may do what, its VMs, and its faults.
//!
//! All but nodes and storages is made by the calls of the API, as root would make them: what Proxmox refuses, the file
//! cannot have.

use super::{
    Error,
    answer::{Refusal, Reply},
    cluster::Cluster,
    control::Script,
    parameters::Parameters,
    permission::root,
    routes::route,
    state::{State, Store},
    storage,
};
use crate::api::quantity::{Bytes, GoDuration};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

/// How often a worker is looked at that makes a part of the beginning.
const LOOK: Duration = Duration::from_millis(2);

/// What a lab begins from, as it was read.
#[derive(Clone, Debug)]
pub struct Setup {
    path: PathBuf,
    file: File,
}

#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
struct File {
    nodes: Vec<Node>,
    storages: Vec<Storage>,
    roles: Vec<Role>,
    users: Vec<User>,
    pools: Vec<Pool>,
    acl: Vec<Grant>,
    vms: Vec<Vm>,
    /// How many tasks that ended each node remembers.
    tasks_kept: Option<usize>,
    faults: Vec<Script>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Node {
    node: String,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Storage {
    storage: String,
    r#type: storage::Kind,
    #[serde(default)]
    nodes: Vec<String>,
    #[serde(default)]
    shared: bool,
    pool: Option<String>,
    /// How long each change of a volume takes.
    takes: Option<GoDuration>,
    /// What it says is used on each node; simulated volumes take nothing.
    used: Option<Bytes>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Role {
    roleid: String,
    privs: Vec<String>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct User {
    userid: String,
    comment: Option<String>,
    enable: Option<Scalar>,
    expire: Option<Scalar>,
    #[serde(default)]
    tokens: Vec<Token>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Token {
    tokenid: String,
    privsep: Option<Scalar>,
    comment: Option<String>,
    expire: Option<Scalar>,
    /// One is made when none is given.
    secret: Option<String>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Pool {
    poolid: String,
    comment: Option<String>,
    #[serde(default)]
    storage: Vec<String>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Grant {
    path: String,
    roles: Vec<String>,
    #[serde(default)]
    users: Vec<String>,
    #[serde(default)]
    tokens: Vec<String>,
    propagate: Option<Scalar>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Vm {
    vmid: u32,
    node: Option<String>,
    pool: Option<String>,
    #[serde(default)]
    config: BTreeMap<String, Scalar>,
    /// Made before it is a template or runs.
    #[serde(default)]
    snapshots: Vec<String>,
    #[serde(default)]
    template: bool,
    #[serde(default)]
    running: bool,
}

/// A value as a parameter of the API has it.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(untagged)]
enum Scalar {
    Flag(bool),
    Number(serde_json::Number),
    Text(String),
}

impl Scalar {
    fn text(&self) -> String {
        match self {
            Self::Flag(flag) => u8::from(*flag).to_string(),
            Self::Number(number) => number.to_string(),
            Self::Text(text) => text.clone(),
        }
    }
}

/// Parameters of a call, those that are given.
fn given<const N: usize>(parameters: [(&str, Option<String>); N]) -> Vec<(String, String)> {
    parameters.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
}

fn of(value: Option<&Scalar>) -> Option<String> {
    value.map(Scalar::text)
}

impl Setup {
    /// Reads a file. Errors: `Setup`, naming the field.
    pub fn read(path: &Path) -> Result<Self, Error> {
        let wrong = |field: String, why: String| Error::Setup { path: path.to_owned(), field, why };
        let text = std::fs::read_to_string(path).map_err(|error| wrong("the file".into(), format!("it cannot be read: {error}")))?;
        let yaml: serde_yaml::Value = serde_yaml::from_str(&text).map_err(|error| wrong("YAML".into(), error.to_string()))?;
        let json = serde_json::to_value(yaml).map_err(|error| wrong("YAML".into(), error.to_string()))?;
        // An empty file is null.
        let json = if json.is_null() { Value::Object(serde_json::Map::new()) } else { json };
        let file: File =
            serde_path_to_error::deserialize(json).map_err(|error| wrong(error.path().to_string(), error.inner().to_string()))?;
        let setup = Self { path: path.to_owned(), file };
        setup.check()?;
        Ok(setup)
    }

    fn wrong(&self, field: impl Into<String>, why: impl Into<String>) -> Error {
        Error::Setup { path: self.path.clone(), field: field.into(), why: why.into() }
    }

    /// What no call of the API would find.
    fn check(&self) -> Result<(), Error> {
        let names = self.nodes();
        for (at, name) in names.iter().enumerate() {
            let field = format!("nodes[{at}].node");
            let host = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-') && !name.starts_with('-');
            if !host || name == "localhost" {
                return Err(self.wrong(field, format!("`{name}` is no name of a node; take letters, digits and `-`")));
            }
            if names[..at].contains(name) {
                return Err(self.wrong(field, format!("`{name}` is there twice; give each node a name of its own")));
            }
        }
        for (at, storage) in self.file.storages.iter().enumerate() {
            let field = |name: &str| format!("storages[{at}].{name}");
            if let Some(unknown) = storage.nodes.iter().find(|node| !names.contains(node)) {
                return Err(self.wrong(field("nodes"), format!("there is no node `{unknown}`; the nodes are {}", names.join(", "))));
            }
            if storage.shared && storage.r#type == storage::Kind::ZfsPool {
                return Err(self.wrong(field("shared"), "a zfspool is of one node; leave `shared` out"));
            }
            if self.file.storages[..at].iter().any(|other| other.storage == storage.storage) {
                return Err(self.wrong(field("storage"), format!("`{}` is there twice; name each storage once", storage.storage)));
            }
            if let Some(pool) = storage.pool.as_ref().filter(|pool| !pool.starts_with("tank/")) {
                return Err(self.wrong(field("pool"), format!("`{pool}` is not in the lab's pool; write `tank/{pool}`")));
            }
        }
        for (at, script) in self.file.faults.iter().enumerate() {
            script.rule(&names).map_err(|(field, why)| self.wrong(format!("faults[{at}].{field}"), why))?;
        }
        Ok(())
    }

    fn nodes(&self) -> Vec<String> {
        let names: Vec<String> = self.file.nodes.iter().map(|node| node.node.clone()).collect();
        if names.is_empty() { State::default().nodes } else { names }
    }

    /// Names the state that it describes, without its faults, which each start has anew.
    fn digest(&self) -> String {
        let state = File { faults: Vec::new(), ..self.file.clone() };
        hex::encode(Sha256::digest(serde_json::to_vec(&state).unwrap_or_default()))
    }

    /// Puts nodes and storages into a new state; returns whether it was new. Errors: what is there began otherwise.
    pub(super) fn place(&self, store: &Store, real: bool) -> Result<bool, Error> {
        let local = |storage: &Storage| storage.storage != super::node::STORAGE;
        if real && (self.file.nodes.len() > 1 || self.file.storages.iter().any(local)) {
            return Err(self.wrong("nodes, storages", "real guests have this machine and its pool alone; use `--mode simulated`"));
        }
        store.change(|state| {
            if state.setup.as_ref() == Some(&self.digest()) {
                return Ok(false);
            }
            if !state.secret.is_empty() {
                let why = "the lab's directory has another state already; `autovibe lab remove` throws that away, \
and without --config the lab goes on from it";
                return Err(self.wrong("the file", why));
            }
            state.nodes = self.nodes();
            state.tasks_kept = self.file.tasks_kept;
            for storage in &self.file.storages {
                let config = storage::Config {
                    kind: storage.r#type,
                    nodes: storage.nodes.iter().cloned().collect(),
                    shared: storage.shared,
                    pool: storage.pool.clone(),
                    takes_ms: storage.takes.map_or(0, |time| u64::try_from(time.0.as_millis()).unwrap_or(u64::MAX)),
                    used: storage.used.iter().flat_map(|used| self.nodes().into_iter().map(|node| (node, used.0))).collect(),
                };
                state.storages.insert(storage.storage.clone(), config);
            }
            Ok(true)
        })
    }

    /// Makes all else in a new state, and plants the faults.
    pub(super) async fn fill(&self, cluster: &Arc<Cluster>, new: bool) -> Result<(), Error> {
        if new {
            self.make(cluster).await?;
            cluster.store.change(|state| state.setup = Some(self.digest()));
        }
        for (at, script) in self.file.faults.iter().enumerate() {
            let rule = script.rule(&self.nodes()).map_err(|(field, why)| self.wrong(format!("faults[{at}].{field}"), why))?;
            cluster.faults.plant(rule);
        }
        Ok(())
    }

    async fn make(&self, cluster: &Arc<Cluster>) -> Result<(), Error> {
        let file = &self.file;
        for (at, role) in file.roles.iter().enumerate() {
            let parameters = given([("roleid", Some(role.roleid.clone())), ("privs", Some(role.privs.join(",")))]);
            self.call(cluster, &format!("roles[{at}]"), "POST", "/access/roles", parameters).await?;
        }
        for (at, user) in file.users.iter().enumerate() {
            self.user(cluster, &format!("users[{at}]"), user).await?;
        }
        for (at, pool) in file.pools.iter().enumerate() {
            let field = format!("pools[{at}]");
            let parameters = given([("poolid", Some(pool.poolid.clone())), ("comment", pool.comment.clone())]);
            self.call(cluster, &field, "POST", "/pools", parameters).await?;
            if !pool.storage.is_empty() {
                let parameters = given([("poolid", Some(pool.poolid.clone())), ("storage", Some(pool.storage.join(",")))]);
                self.call(cluster, &format!("{field}.storage"), "PUT", "/pools", parameters).await?;
            }
        }
        for (at, grant) in file.acl.iter().enumerate() {
            let list = |names: &[String]| (!names.is_empty()).then(|| names.join(","));
            let parameters = given([
                ("path", Some(grant.path.clone())),
                ("roles", Some(grant.roles.join(","))),
                ("users", list(&grant.users)),
                ("tokens", list(&grant.tokens)),
                ("propagate", of(grant.propagate.as_ref())),
            ]);
            self.call(cluster, &format!("acl[{at}]"), "PUT", "/access/acl", parameters).await?;
        }
        for (at, vm) in file.vms.iter().enumerate() {
            self.vm(cluster, &format!("vms[{at}]"), vm).await?;
        }
        Ok(())
    }

    async fn user(&self, cluster: &Arc<Cluster>, field: &str, user: &User) -> Result<(), Error> {
        let parameters = given([
            ("userid", Some(user.userid.clone())),
            ("comment", user.comment.clone()),
            ("enable", of(user.enable.as_ref())),
            ("expire", of(user.expire.as_ref())),
        ]);
        // `root@pam` is there, and may have tokens.
        if user.userid != super::permission::ROOT {
            self.call(cluster, field, "POST", "/access/users", parameters).await?;
        }
        for (at, token) in user.tokens.iter().enumerate() {
            let field = format!("{field}.tokens[{at}]");
            let path = format!("/access/users/{}/token/{}", user.userid, token.tokenid);
            let parameters =
                given([("privsep", of(token.privsep.as_ref())), ("comment", token.comment.clone()), ("expire", of(token.expire.as_ref()))]);
            self.call(cluster, &field, "POST", &path, parameters).await?;
            let Some(secret) = &token.secret else { continue };
            if secret.is_empty() || !secret.chars().all(|c| c.is_ascii_graphic()) {
                return Err(self.wrong(format!("{field}.secret"), "take printable characters without spaces, or leave it out"));
            }
            let id = format!("{}!{}", user.userid, token.tokenid);
            cluster.store.change(|state| {
                if let Some(token) = state.access.tokens.get_mut(&id) {
                    token.secret.clone_from(secret);
                }
            });
        }
        Ok(())
    }

    async fn vm(&self, cluster: &Arc<Cluster>, field: &str, vm: &Vm) -> Result<(), Error> {
        let node = vm.node.clone().unwrap_or_else(|| self.nodes().swap_remove(0));
        let mut parameters = given([("vmid", Some(vm.vmid.to_string())), ("pool", vm.pool.clone())]);
        parameters.extend(vm.config.iter().map(|(key, value)| (key.clone(), value.text())));
        let all = format!("/nodes/{node}/qemu");
        let one = format!("{all}/{}", vm.vmid);
        self.call(cluster, field, "POST", &all, parameters).await?;
        for (at, snapshot) in vm.snapshots.iter().enumerate() {
            let parameters = given([("snapname", Some(snapshot.clone()))]);
            self.call(cluster, &format!("{field}.snapshots[{at}]"), "POST", &format!("{one}/snapshot"), parameters).await?;
        }
        if vm.template {
            self.call(cluster, &format!("{field}.template"), "POST", &format!("{one}/template"), Vec::new()).await?;
        }
        if vm.running {
            self.call(cluster, &format!("{field}.running"), "POST", &format!("{one}/status/start"), Vec::new()).await?;
        }
        Ok(())
    }

    /// One call as root, and the end of the worker that it starts.
    async fn call(
        &self,
        cluster: &Arc<Cluster>,
        field: &str,
        method: &str,
        path: &str,
        parameters: Vec<(String, String)>,
    ) -> Result<(), Error> {
        let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
        let values = parameters.into_iter().map(|(name, value)| (name, vec![value])).collect();
        let answer = route(cluster, method, &parts, Parameters { values, who: root() }).await;
        let Reply { data, .. } = answer.map_err(|refusal: Refusal| self.wrong(field, refusal.words()))?;
        let Some(upid) = data.as_str().filter(|text| text.starts_with("UPID:")) else { return Ok(()) };
        loop {
            match cluster.store.read(|state| super::task::end_of(&state.tasks, upid)) {
                Some(exit) if exit == "OK" || exit.starts_with("WARNINGS") => return Ok(()),
                Some(exit) => return Err(self.wrong(field, exit)),
                None => cluster.clock.sleep(LOOK).await,
            }
        }
    }
}
