//! A hub in this process, beside a lab with real guests that is a process of its own.

use super::{PATIENCE, Place, connect};
use autovibe::api::machine::MachineStatus;
use autovibe::api::{Hub, Kind, Machine};
use autovibe::clock::Clock;
use autovibe::controller::{self, Controllers, machine::Memory};
use autovibe::driver::{Connection, Driver};
use autovibe::gateway;
use autovibe::objects::{Cipher, Objects};
use autovibe::store::{self, Store};
use autovibe::wire::LabEndpoint;
use serde_json::Value;
use std::path::Path;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// The hub, and the Machines that it runs.
pub(crate) struct Side {
    pub(crate) objects: Objects,
    pub(crate) store: Store,
    /// The test's own, beside the hub's.
    pub(crate) driver: Driver,
    pub(crate) clock: Clock,
    pub(crate) endpoint: LabEndpoint,
    /// The hub's data directory.
    pub(crate) data: tempfile::TempDir,
    controllers: Controllers,
    gateway: gateway::Server,
    shutdown: CancellationToken,
}

impl Side {
    /// Starts both; the lab begins from a file where one is given.
    pub(crate) async fn start(place: &mut Place, setup: Option<&Path>) -> Self {
        rustls::crypto::ring::default_provider().install_default().ok();
        let data = tempfile::tempdir().unwrap();
        let store = Store::open(&data.path().join("state.db")).await.unwrap();
        let objects = Objects::new(store.clone(), Clock::system(), Cipher::load(&data.path().join("key")).unwrap());
        objects.ensure_presets().await.unwrap();
        let shutdown = CancellationToken::new();
        let listening = gateway::Config { listen: "127.0.0.1:0".parse().unwrap(), ..gateway::Config::default() };
        let gateway = gateway::start(listening, objects.clone(), shutdown.clone()).await.unwrap();
        let endpoint = place.start_lab_from(gateway.address, setup).await;
        place.vms = (endpoint.vmid_from..endpoint.vmid_from + 4).collect();
        let config = controller::Config {
            door: Default::default(),
            lab: Some(Connection::of_lab(&endpoint)),
            data: data.path().to_owned(),
            concurrency: 4,
            source_roots: Vec::new(),
            resync: Duration::from_secs(5),
        };
        let epoch: Result<i64, store::Error> = store.write(|transaction| Box::pin(async move { transaction.next_leader().await })).await;
        let controllers = controller::start_with(config, Memory::default(), objects.under(epoch.unwrap()), shutdown.clone());
        let driver = connect(endpoint.clone()).await;
        Self { objects, store, driver, clock: Clock::system(), endpoint, data, controllers, gateway, shutdown }
    }

    /// Creates the Hub `default`.
    pub(crate) async fn create_hub(&self, spec: Value) {
        let hub: Hub = serde_json::from_value(serde_json::json!({ "metadata": { "name": "default" }, "spec": spec })).unwrap();
        self.objects.create(&hub).await.unwrap();
    }

    pub(crate) async fn create(&self, name: &str, spec: Value) {
        let machine = serde_json::json!({ "metadata": { "namespace": "default", "name": name }, "spec": spec });
        self.objects.create(&serde_json::from_value::<Machine>(machine).unwrap()).await.unwrap();
    }

    pub(crate) async fn until(&self, name: &str, what: &str, wanted: impl Fn(&MachineStatus) -> bool) -> MachineStatus {
        let started = Instant::now();
        loop {
            let status = self.objects.get::<Machine>("default", name).await.unwrap().unwrap().status.unwrap_or_default();
            if wanted(&status) {
                return status;
            }
            assert!(started.elapsed() < 2 * PATIENCE, "{name} is not {what}: {status:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) async fn uid(&self, name: &str) -> String {
        self.objects.get::<Machine>("default", name).await.unwrap().unwrap().uid().to_owned()
    }

    pub(crate) async fn change(&self, name: &str, change: impl Fn(&mut Machine)) {
        loop {
            let mut machine = self.objects.get::<Machine>("default", name).await.unwrap().unwrap();
            change(&mut machine);
            match self.objects.update(&machine).await {
                Ok(_) => return,
                Err(autovibe::objects::Error::Conflict { .. }) => {}
                Err(error) => panic!("{error}"),
            }
        }
    }

    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        self.controllers.stopped().await;
        self.gateway.stopped().await;
    }
}
