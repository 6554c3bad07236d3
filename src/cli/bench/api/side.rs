//! What is compared: a hub on SQLite, a hub on PostgreSQL, and etcd. The same calls of each, by the same HTTP client.

use super::etcd::Etcd;
use super::grpc::{self, Create, Heard, Put, Range, Watch};
use super::postgres::Postgres;
use crate::cli::bench::watch::HUB;
use crate::cli::{client::Client, up::process::Hub};
use crate::clock::Clock;
use anyhow::Context as _;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream::BoxStream};
use reqwest::Method;
use serde_json::{Value, json};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

const COLLECTION: &str = "/api/v1/namespaces/default/configmaps";
/// What all keys of etcd begin with, and what comes behind all of them. As Kubernetes names its objects there.
const PREFIX: &str = "/registry/configmaps/default/";
const BEHIND: &str = "/registry/configmaps/default0";
/// Bytes that an object carries: with its metadata it has about 1.3 kB, as most objects of a cluster.
const PAYLOAD: usize = 1000;

/// One of those compared.
pub(super) struct Side {
    pub(super) name: &'static str,
    server: Server,
    /// The database of a hub that has a process for it.
    postgres: Option<Postgres>,
}

enum Server {
    Hub { hub: Hub, directory: PathBuf },
    Etcd(Etcd),
}

impl Side {
    /// A hub on SQLite, or on `postgres`.
    pub(super) async fn hub(name: &'static str, directory: PathBuf, postgres: Option<Postgres>) -> anyhow::Result<Self> {
        std::fs::create_dir_all(&directory)?;
        let mut arguments: Vec<OsString> = HUB.map(OsString::from).into();
        arguments.extend(postgres.iter().flat_map(|p| ["--database-url".into(), p.url().into()]));
        let arguments: Vec<&OsStr> = arguments.iter().map(OsString::as_os_str).collect();
        let hub = Hub::start(&directory, &arguments, &Clock::system()).await?;
        Ok(Self { name, server: Server::Hub { hub, directory }, postgres })
    }

    pub(super) async fn etcd(directory: &Path) -> anyhow::Result<Self> {
        Ok(Self { name: "etcd", server: Server::Etcd(Etcd::start(directory).await?), postgres: None })
    }

    pub(super) fn is_etcd(&self) -> bool {
        matches!(self.server, Server::Etcd(_))
    }

    pub(super) fn pid(&self) -> anyhow::Result<u32> {
        let pid = match &self.server {
            Server::Hub { hub, .. } => hub.pid(),
            Server::Etcd(etcd) => etcd.pid(),
        };
        pid.with_context(|| format!("{} has ended", self.name))
    }

    /// A connection of its own, which is open when this returns.
    pub(super) async fn connect(&self) -> anyhow::Result<Connection> {
        let connection = match &self.server {
            Server::Hub { directory, .. } => Connection::Hub(Client::open(&directory.join("kubeconfig"), None)?),
            Server::Etcd(etcd) => Connection::Etcd { http: etcd.http()?, url: etcd.url.clone() },
        };
        connection.get("none").await.ok();
        Ok(connection)
    }

    pub(super) async fn connections(&self, count: usize) -> anyhow::Result<Vec<Connection>> {
        futures::future::try_join_all((0..count).map(|_| self.connect())).await
    }

    pub(super) async fn stop(self) -> anyhow::Result<()> {
        match self.server {
            Server::Hub { hub, .. } => hub.stop().await?,
            Server::Etcd(etcd) => etcd.stop().await?,
        }
        match self.postgres {
            Some(postgres) => postgres.stop().await,
            None => Ok(()),
        }
    }
}

/// A client with a connection of its own. Answers are taken whole but not read, so that all cost the client the same.
#[derive(Clone)]
pub(super) enum Connection {
    Hub(Client),
    Etcd { http: reqwest::Client, url: String },
}

/// How many events came at once.
pub(super) type Events = BoxStream<'static, anyhow::Result<usize>>;

/// An object as it is created, and as etcd keeps it.
fn object(name: &str, round: &str) -> Value {
    json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": { "name": name, "namespace": "default",
        "labels": { "round": round } }, "data": { "payload": "x".repeat(PAYLOAD) } })
}

/// What a hub's object has besides what it was created with, so that the values of etcd are as large.
fn stored(name: &str, round: &str) -> String {
    let mut object = object(name, round);
    object["metadata"]["uid"] = "00000000-0000-0000-0000-000000000000".into();
    object["metadata"]["creationTimestamp"] = "2026-01-01T00:00:00Z".into();
    object.to_string()
}

impl Connection {
    async fn call(&self, method: &str, message: &impl prost::Message) -> anyhow::Result<Bytes> {
        let Self::Etcd { http, url } = self else { anyhow::bail!("only etcd is called so") };
        grpc::call(http.post(format!("{url}/etcdserverpb.KV/{method}")), message).await
    }

    async fn put(&self, name: &str, round: &str) -> anyhow::Result<()> {
        let put = Put { key: format!("{PREFIX}{name}").into(), value: stored(name, round).into() };
        self.call("Put", &put).await.map(drop)
    }

    pub(super) async fn create(&self, name: &str) -> anyhow::Result<()> {
        match self {
            Self::Hub(client) => {
                client.send_bytes(Method::POST, COLLECTION, "application/json", object(name, "new").to_string()).await?;
                Ok(())
            }
            Self::Etcd { .. } => self.put(name, "new").await,
        }
    }

    /// Changes a label: by a merge patch, or by putting the whole value.
    pub(super) async fn patch(&self, name: &str, round: &str) -> anyhow::Result<()> {
        match self {
            Self::Hub(client) => {
                let patch = json!({ "metadata": { "labels": { "round": round } } }).to_string();
                let path = format!("{COLLECTION}/{name}");
                client.send_bytes(Method::PATCH, &path, "application/merge-patch+json", patch).await?;
                Ok(())
            }
            Self::Etcd { .. } => self.put(name, round).await,
        }
    }

    pub(super) async fn get(&self, name: &str) -> anyhow::Result<Bytes> {
        match self {
            Self::Hub(client) => Ok(client.bytes(&format!("{COLLECTION}/{name}")).await?),
            Self::Etcd { .. } => self.range(format!("{PREFIX}{name}"), "", 0).await,
        }
    }

    /// The first `limit` objects; 0 is all.
    pub(super) async fn list(&self, limit: u32) -> anyhow::Result<Bytes> {
        match self {
            Self::Hub(client) => Ok(client.bytes(&format!("{COLLECTION}?limit={limit}")).await?),
            Self::Etcd { .. } => self.range(PREFIX.to_owned(), BEHIND, limit).await,
        }
    }

    async fn range(&self, key: String, end: &'static str, limit: u32) -> anyhow::Result<Bytes> {
        let range = Range { key: key.into(), range_end: Bytes::from_static(end.as_bytes()), limit: limit.into() };
        self.call("Range", &range).await
    }

    /// All objects as a table; etcd knows none.
    pub(super) async fn table(&self) -> anyhow::Result<Value> {
        match self {
            Self::Hub(client) => Ok(client.get_table(COLLECTION).await?),
            Self::Etcd { .. } => anyhow::bail!("etcd has no tables"),
        }
    }

    /// So many watches of all objects, from now on: each with a stream of its own, or in `Etcd`'s way all in one.
    pub(super) async fn watches(&self, count: usize, shared: bool) -> anyhow::Result<Vec<Events>> {
        match self {
            Self::Hub(client) => {
                let newest = client.get(&format!("{COLLECTION}?limit=1")).await?;
                let revision = newest["metadata"]["resourceVersion"].as_str().context("a list without a revision")?.to_owned();
                let path = format!("{COLLECTION}?watch=true&timeoutSeconds=3600&resourceVersion={revision}");
                let watches = (0..count).map(async |_| {
                    let bytes = client.stream(&path, "application/json").await?;
                    #[expect(clippy::naive_bytecount, reason = "the compiler makes as good of it as a crate would")]
                    let events = bytes.map_err(Into::into).map_ok(|chunk: Bytes| chunk.iter().filter(|byte| **byte == b'\n').count());
                    anyhow::Ok(events.boxed())
                });
                futures::future::try_join_all(watches).await
            }
            Self::Etcd { .. } if shared => Ok(vec![self.heard(count).await?]),
            Self::Etcd { .. } => futures::future::try_join_all((0..count).map(|_| self.heard(1))).await,
        }
    }

    /// One stream of etcd with so many watches, when all of them are made.
    async fn heard(&self, watches: usize) -> anyhow::Result<Events> {
        let Self::Etcd { http, url } = self else { anyhow::bail!("only etcd is watched so") };
        let create = Create { key: PREFIX.into(), range_end: BEHIND.into() };
        let messages = vec![grpc::frame(&Watch { create: Some(create) }); watches];
        let mut heard = grpc::converse(http.post(format!("{url}/etcdserverpb.Watch/Watch")), messages).await?.boxed();
        for _ in 0..watches {
            let Some(Heard { created: true, canceled: false, .. }) = heard.try_next().await? else {
                anyhow::bail!("etcd did not make a watch")
            };
        }
        Ok(heard.map_ok(|heard| heard.events.len()).boxed())
    }
}
