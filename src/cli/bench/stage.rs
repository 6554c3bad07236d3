//! A hub in this process, as `autovibe up` wires it, so that a bench can count what it does; beside it a lab.

use crate::api::{DEFAULT_HUB, Hub, Kind, Machine, SYSTEM_NAMESPACE};
use crate::cli::lab::{self, process};
use crate::clock::Clock;
use crate::controller::{self, Controllers};
use crate::driver::{Door, firewall::Firewall};
use crate::lab::{Config, Lab, Mode};
use crate::objects::{Cipher, Objects, WriteOptions};
use crate::store::{self, Change, Store};
use crate::wire::LabEndpoint;
use crate::{admission, apiserver, driver, gateway, proxmox};
use anyhow::{Context as _, anyhow};
use futures::StreamExt;
use rand::RngCore;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::{
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    time::Duration,
};
use tokio_util::sync::CancellationToken;

pub(super) const NAMESPACE: &str = "default";
/// A VMID outside the Hub's range.
const FOREIGN: u32 = 100;
/// A free port of this machine's own.
const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
/// As `autovibe up` has it.
const CONCURRENCY: usize = 32;
/// How long a Machine may take to become what a bench waits for; software-emulated guests boot slowly.
const PATIENCE: Duration = Duration::from_mins(10);

/// The node that the hub drives.
pub(super) enum Node {
    /// In this process, so that its calls are counted.
    Simulated(Lab),
    /// A process of its own, as `autovibe up` starts it.
    Real(process::Running),
}

impl Node {
    pub(super) fn endpoint(&self) -> LabEndpoint {
        match self {
            Self::Simulated(lab) => lab.endpoint().clone(),
            Self::Real(lab) => lab.endpoint.clone(),
        }
    }
}

pub(super) struct Stage {
    pub(super) objects: Objects,
    pub(super) store: Store,
    pub(super) gateway: gateway::Server,
    pub(super) node: Node,
    api: apiserver::Server,
    /// The rules that its Hubs make, if they do.
    firewall: Option<Firewall>,
    controllers: Option<(Controllers, CancellationToken)>,
    shutdown: CancellationToken,
}

impl Stage {
    /// Starts everything on an empty directory.
    pub(super) async fn start(directory: &Path, mode: process::Mode, resync: Duration) -> anyhow::Result<Self> {
        let clock = Clock::system();
        let store = Store::open(&directory.join("autovibe.db")).await?;
        let objects = Objects::new(store.clone(), clock.clone(), Cipher::load(&directory.join("secrets.key"))?);
        let shutdown = CancellationToken::new();
        let config = gateway::Config { listen: ANY, ..gateway::Config::default() };
        let gateway = gateway::start(config, objects.clone(), shutdown.clone()).await?;
        let config = apiserver::Config { listen: ANY, names: Vec::new(), data: directory.to_owned(), door: Door::default() };
        let api = apiserver::start(config, objects.clone(), shutdown.clone()).await?;
        let place = lab::directory(directory);
        let node = match mode {
            process::Mode::Real => Node::Real(process::ensure(&place, mode, gateway.address, &clock).await?),
            process::Mode::Simulated => {
                let mode = Mode::Simulated;
                let config =
                    Config { mode, data: place, listen: ANY, gateway: gateway.address, lag: lab::LAG, refusal: lab::REFUSAL, setup: None };
                Node::Simulated(crate::lab::start_in_memory(config).await?)
            }
        };
        let mut stage = Self { objects, store, gateway, node, api, firewall: None, controllers: None, shutdown };
        stage.start_controllers(resync);
        Ok(stage)
    }

    fn start_controllers(&mut self, resync: Duration) {
        let stop = self.shutdown.child_token();
        // Whose storage is slow to lock is not this lab.
        let firewall = self.firewall.clone();
        let lab = Some(driver::Connection { concurrency: CONCURRENCY, firewall, ..driver::Connection::of_lab(&self.node.endpoint()) });
        let config = controller::Config {
            lab,
            data: std::path::PathBuf::new(),
            concurrency: CONCURRENCY,
            source_roots: Vec::new(),
            resync,
            door: Door::default(),
        };
        self.controllers = Some((controller::start(config, self.objects.clone(), stop.clone()), stop));
    }

    /// From now on its Hubs make the rules of each VM's firewall, as with `firewall.mode: Managed`.
    pub(super) async fn confine(&mut self, resync: Duration) {
        let gateway = (self.gateway.address.ip(), self.gateway.address.port());
        self.firewall = Some(Firewall { gateway, guests: Vec::new() });
        self.restart_controllers(resync).await;
    }

    /// Makes a VM of someone else's, as any node has.
    pub(super) async fn make_foreign(&self) -> anyhow::Result<()> {
        let at = self.node.endpoint();
        let client = proxmox::Client::new(driver::Connection::of_lab(&at).proxmox)?;
        client.create(&proxmox::Node(at.node), proxmox::Vmid(FOREIGN), &[("name".to_owned(), "beside".to_owned())].into()).await?;
        Ok(())
    }

    /// Ends the controllers and starts them anew: they remember nothing of what they did.
    pub(super) async fn restart_controllers(&mut self, resync: Duration) {
        self.stop_controllers().await;
        self.start_controllers(resync);
    }

    pub(super) async fn stop_controllers(&mut self) {
        if let Some((controllers, stop)) = self.controllers.take() {
            stop.cancel();
            controllers.stopped().await;
        }
    }

    /// Ends everything but the guests.
    pub(super) async fn stop(mut self) -> Node {
        self.stop_controllers().await;
        self.shutdown.cancel();
        self.gateway.stopped().await;
        self.api.stopped().await;
        self.store.close().await;
        self.node
    }

    /// Makes the Hub that drives the lab.
    pub(super) async fn create_hub(&self, images: Value, providers: Value) -> anyhow::Result<()> {
        create_hub(&self.objects, images, providers).await
    }

    pub(super) async fn create_machine(&self, name: &str, spec: Value) -> anyhow::Result<Machine> {
        create_machine(&self.objects, name, spec).await
    }

    /// Waits until a Machine is as `wanted` says. Errors: it ended otherwise, or takes too long.
    pub(super) async fn until(&self, name: &str, what: &str, wanted: impl Fn(&Machine) -> bool) -> anyhow::Result<Machine> {
        let mut changes = self.objects.watch::<Machine>();
        let waited = tokio::time::timeout(PATIENCE, async {
            while let Some(event) = changes.next().await {
                let machine = event.object;
                if machine.name() != name || event.change == Change::Deleted {
                    continue;
                }
                if wanted(&machine) {
                    return Ok(machine);
                }
                if let Some(status) = machine.status.filter(|status| status.phase.is_finished()) {
                    return Err(anyhow!("machine {name} ended before it was {what}: {}", status.message.unwrap_or_default()));
                }
            }
            Err(anyhow!("the hub's store closed"))
        });
        waited.await.with_context(|| format!("machine {name} was not {what} after {} s", PATIENCE.as_secs()))?
    }
}

/// Makes the Hub `default`, with a key for those of its providers that want one.
pub(super) async fn create_hub(objects: &Objects, images: Value, providers: Value) -> anyhow::Result<()> {
    let secrets = admission::named("", "secrets").context("the catalog has no secrets")?;
    let key = json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": KEY, "namespace": SYSTEM_NAMESPACE },
        "stringData": { "apiKey": "none" } });
    objects.create_document(secrets, SYSTEM_NAMESPACE, key, &WriteOptions::default()).await?;
    let hub: Hub = serde_json::from_value(json!({
        "metadata": { "name": DEFAULT_HUB },
        "spec": { "infrastructure": { "lab": {} }, "images": images, "providers": providers },
    }))?;
    objects.create(&hub).await?;
    Ok(())
}

/// Name of the Secret for the providers' key.
pub(super) const KEY: &str = "bench";

pub(super) async fn create_machine(objects: &Objects, name: &str, spec: Value) -> anyhow::Result<Machine> {
    let machine: Machine = serde_json::from_value(json!({ "metadata": { "namespace": NAMESPACE, "name": name }, "spec": spec }))?;
    Ok(objects.create(&machine).await?)
}

/// Gives a Machine one more token: the bench speaks as its agent.
pub(super) async fn mint(store: &Store, machine: &Machine) -> anyhow::Result<String> {
    let mut bytes = [0_u8; 32];
    crate::random::Source.fill_bytes(&mut bytes);
    let token = format!("av_{}", hex::encode(bytes));
    let hash = hex::encode(Sha256::digest(&token));
    let (uid, name) = (machine.uid().to_owned(), machine.name().to_owned());
    let stored: Result<(), store::Error> =
        store.write(move |transaction| Box::pin(async move { transaction.put_token(&hash, &uid, NAMESPACE, &name).await })).await;
    stored?;
    Ok(token)
}
