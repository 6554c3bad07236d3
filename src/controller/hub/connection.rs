//! A Hub's spec, its Secrets and the lab's address, resolved to a [`Connection`].

use crate::api::hub::{self as api, Proxmox, Zfs};
use crate::api::{Hub, Kind, SYSTEM_NAMESPACE};
use crate::controller::client::Client;
use crate::driver::{self, Connection, Elsewhere, Turns, firewall::Firewall};
use crate::objects;
use crate::proxmox::{self, Breaker, Credential, Node};
use crate::store;
use crate::zfs::{Dataset, Runner, Settings, Ssh};
use secrecy::ExposeSecret;
use sha2::{Digest, Sha256};
use std::path::Path;

/// Source: Kubernetes `kubernetes.io/ssh-auth`.
const SSH_KEY: &str = "ssh-privatekey";

/// Why there is no connection yet, in words that say what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Waiting(pub String);

/// Resolves the connection; the outer error is a store that cannot be read.
pub(super) async fn resolve(
    hub: &Hub,
    lab: Option<&Connection>,
    objects: &Client,
    data: &Path,
) -> Result<Result<Connection, Waiting>, objects::Error> {
    let infrastructure = &hub.spec.infrastructure;
    let made_by = driver::made_by(&objects.installation(hub.name()).await?, store::line(objects.epoch()));
    match (&infrastructure.proxmox, &infrastructure.zfs) {
        (Some(proxmox), Some(zfs)) => {
            let found = of_zfs(hub, proxmox, zfs, objects, data).await?;
            Ok(found.map(|connection| Connection { made_by, ..connection }))
        }
        (Some(proxmox), None) => {
            let storage = infrastructure.templates.as_ref().map(|templates| templates.storage.as_str()).unwrap_or_default();
            let found = of_proxmox(hub, proxmox, storage, objects).await?;
            Ok(found.map(|connection| Connection { made_by, ..connection }))
        }
        _ => Ok(lab
            .map(|lab| match &infrastructure.templates {
                Some(templates) => by_its_api_alone(lab, &templates.storage),
                None => lab.clone(),
            })
            .map(|lab| Connection { tenure: objects.tenure().clone(), made_by: made_by.clone(), exports: exports(hub), ..lab })
            .ok_or_else(|| Waiting("this hub has no lab; start it with `autovibe up --lab real` or `--lab simulated`".into()))),
    }
}

fn exports(hub: &Hub) -> Vec<Dataset> {
    hub.spec.infrastructure.export_to.iter().cloned().map(Dataset).collect()
}

/// The lab as a node on which no `zfs` can be run.
fn by_its_api_alone(lab: &Connection, storage: &str) -> Connection {
    let none = || Dataset(String::new());
    Connection { runner: Runner::Nowhere, storage: storage.to_owned(), dataset: none(), keep: none(), ..lab.clone() }
}

/// One that runs no `zfs`.
async fn of_proxmox(hub: &Hub, proxmox: &Proxmox, storage: &str, objects: &Client) -> Result<Result<Connection, Waiting>, objects::Error> {
    let credential = match of_secret(&proxmox.token_secret_ref.name, objects).await? {
        Ok(credential) => credential,
        Err(waiting) => return Ok(Err(waiting)),
    };
    Ok(Ok(Connection {
        proxmox: proxmox::Config { endpoint: proxmox.endpoint.clone(), fingerprint: proxmox.fingerprint.clone(), credential },
        service: None,
        node: proxmox.node.clone().map(Node),
        others: Vec::new(),
        storage: storage.to_owned(),
        dataset: Dataset(String::new()),
        keep: Dataset(String::new()),
        exports: Vec::new(),
        made_by: String::new(),
        runner: Runner::Nowhere,
        vmids: proxmox.vmids,
        bridge: proxmox.bridge.clone(),
        firewall: firewall(hub, proxmox),
        gateway_url: hub.spec.gateway.as_ref().map(|gateway| gateway.url.clone()).unwrap_or_default(),
        breaker: Breaker::default(),
        turns: Turns::new(driver::CONCURRENCY),
        concurrency: usize::try_from(proxmox.concurrency).unwrap_or(driver::CONCURRENCY),
        tenure: objects.tenure().clone(),
    }))
}

/// What VMs are confined by, where that is the hub's to see to; admission has seen that the gateway has an address.
fn firewall(hub: &Hub, proxmox: &Proxmox) -> Option<Firewall> {
    let gateway = hub.spec.gateway.as_ref().and_then(api::Gateway::address)?;
    let managed = proxmox.firewall.mode == api::FirewallMode::Managed;
    managed.then(|| Firewall { gateway, guests: proxmox.firewall.guest_networks.clone() })
}

async fn of_zfs(
    hub: &Hub,
    proxmox: &Proxmox,
    zfs: &Zfs,
    objects: &Client,
    data: &Path,
) -> Result<Result<Connection, Waiting>, objects::Error> {
    let connection = match of_proxmox(hub, proxmox, &zfs.storage, objects).await? {
        Ok(connection) => connection,
        Err(waiting) => return Ok(Err(waiting)),
    };
    let nodes = &hub.spec.infrastructure.nodes;
    let mut runners = Vec::with_capacity(nodes.len());
    for runner in nodes.iter().map(|node| &node.runner).chain(nodes.is_empty().then_some(&zfs.runner)) {
        match of_runner(hub, runner, objects, data).await? {
            Ok(runner) => runners.push(runner),
            Err(waiting) => return Ok(Err(waiting)),
        }
    }
    let mut runners = runners.into_iter();
    let runner = runners.next().unwrap_or(Runner::Local);
    let elsewhere =
        |(node, runner): (&api::Node, Runner)| Elsewhere { node: Node(node.name.clone()), runner, turns: Turns::new(driver::CONCURRENCY) };
    let others = nodes.iter().skip(1).zip(runners).map(elsewhere).collect();
    Ok(Ok(Connection {
        node: nodes.first().map(|node| Node(node.name.clone())).or(connection.node.clone()),
        others,
        dataset: Dataset(zfs.dataset.clone()),
        keep: Dataset(zfs.keep.clone()),
        exports: exports(hub),
        runner,
        ..connection
    }))
}

async fn of_runner(hub: &Hub, runner: &api::Runner, objects: &Client, data: &Path) -> Result<Result<Runner, Waiting>, objects::Error> {
    Ok(match (&runner.ssh, &runner.socket) {
        (Some(ssh), _) => of_ssh(hub, ssh, objects, data).await?.map(Runner::Ssh),
        (None, Some(path)) => Ok(Runner::Socket(path.into())),
        (None, None) => Ok(Runner::Local),
    })
}

/// A token where there is one, else a user with a password.
async fn of_secret(name: &str, objects: &Client) -> Result<Result<Credential, Waiting>, objects::Error> {
    let place = format!("Secret {SYSTEM_NAMESPACE}/{name}");
    let mut missing = None;
    for (who, what) in [("tokenId", "secret"), ("username", "password")] {
        let (id, secret) = (objects.secret(SYSTEM_NAMESPACE, name, who).await?, objects.secret(SYSTEM_NAMESPACE, name, what).await?);
        match (id, secret) {
            (Some(id), Some(secret)) => {
                let (id, secret) = (id.expose_secret().trim(), secret.expose_secret().trim_end_matches(['\r', '\n']));
                let credential = if who == "tokenId" { Credential::token(id, secret.trim()) } else { Credential::password(id, secret) };
                return Ok(Ok(credential.kept_in(place)));
            }
            (Some(_), None) => missing = missing.or(Some(what)),
            (None, Some(_)) => missing = missing.or(Some(who)),
            (None, None) => {}
        }
    }
    let lack = missing.unwrap_or("tokenId");
    Ok(Err(Waiting(format!(
        "{place} has no key {lack}: create it with `kubectl -n {SYSTEM_NAMESPACE} create secret generic {name} \
         --from-literal=tokenId=USER@REALM!NAME --from-literal=secret=…`, or with username=USER@REALM and password=… where there is no token"
    ))))
}

async fn of_ssh(hub: &Hub, ssh: &api::Ssh, objects: &Client, data: &Path) -> Result<Result<Ssh, Waiting>, objects::Error> {
    let secret = &ssh.key_secret_ref.name;
    let Some(key) = objects.secret(SYSTEM_NAMESPACE, secret, SSH_KEY).await? else {
        return Ok(Err(Waiting(format!(
            "Secret {SYSTEM_NAMESPACE}/{secret} has no key {SSH_KEY}: create it with `kubectl -n {SYSTEM_NAMESPACE} create secret generic \
             {secret} --from-file={SSH_KEY}=FILE`"
        ))));
    };
    Ok(Ok(Ssh::new(Settings {
        host: ssh.host.clone(),
        port: ssh.port,
        user: ssh.user.clone(),
        host_key: ssh.host_key.clone(),
        key,
        directory: data.join("ssh"),
        installation: objects.installation(hub.name()).await?,
        epoch: objects.epoch(),
    })))
}

/// What tells one credential from another, likewise.
pub(super) fn credential(connection: &Connection) -> String {
    let (endpoint, credential) = (&connection.proxmox.endpoint, &connection.proxmox.credential);
    hex::encode(Sha256::digest(format!("{endpoint}\n{}\n{}", credential.id(), credential.secret())))
}

/// What tells one connection from another, the secret included; safe to keep.
pub(super) fn identity(connection: &Connection) -> String {
    let mut hash = Sha256::new();
    hash.update(format!("{connection:?}"));
    hash.update(connection.proxmox.credential.secret());
    for runner in connection.others.iter().map(|other| &other.runner).chain([&connection.runner]) {
        if let Runner::Ssh(ssh) = runner {
            hash.update(ssh.settings().key.expose_secret());
        }
    }
    hex::encode(hash.finalize())
}
