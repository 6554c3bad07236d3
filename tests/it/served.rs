//! A running API server, for tests that speak to it as its clients do.

use autovibe::{
    apiserver,
    clock::Clock,
    objects::{Cipher, Objects},
    store::{Database, Options, Store},
};
use reqwest::{Method, RequestBuilder, Response, header};
use serde_json::Value;
use std::{
    path::{Path, PathBuf},
    sync::OnceLock,
};
use tokio_util::sync::CancellationToken;

/// A server, its files, and a client for it.
pub(crate) struct Served {
    pub(crate) objects: Objects,
    pub(crate) shutdown: CancellationToken,
    client: Client,
    server: Option<apiserver::Server>,
    /// Kept until the server is dropped.
    directory: tempfile::TempDir,
}

impl std::ops::Deref for Served {
    type Target = Client;
    fn deref(&self) -> &Client {
        &self.client
    }
}

/// Trusts a server and holds its admin token.
pub(crate) struct Client {
    pub(crate) url: String,
    pub(crate) token: String,
    pub(crate) http: reqwest::Client,
    /// The server's files.
    pub(crate) directory: PathBuf,
}

impl Served {
    pub(crate) async fn start(options: Options) -> Self {
        Self::start_in(tempfile::tempdir().expect("a temporary directory"), options).await
    }

    /// Starts again on what a stopped one left.
    pub(crate) async fn start_in_same(directory: tempfile::TempDir) -> Self {
        Self::start_in(directory, Options::default()).await
    }

    async fn start_in(directory: tempfile::TempDir, options: Options) -> Self {
        let database = Database::Sqlite(directory.path().join("store.db"));
        Self::start_on(&database, directory, options).await
    }

    pub(crate) async fn start_on(database: &Database, directory: tempfile::TempDir, options: Options) -> Self {
        rustls::crypto::ring::default_provider().install_default().ok();
        let clock = options.clock.clone();
        let store = Store::open_with(database, options).await.expect("the store opens");
        let objects = Objects::new(store, clock, Cipher::ephemeral());
        let shutdown = CancellationToken::new();
        let config = apiserver::Config {
            listen: "127.0.0.1:0".parse().expect("an address"),
            names: Vec::new(),
            data: directory.path().into(),
            door: Default::default(),
        };
        let server = apiserver::start(config, objects.clone(), shutdown.clone()).await.expect("the server starts");
        let client = Client::open(directory.path());
        Self { objects, shutdown, client, server: Some(server), directory }
    }

    /// A client of one server for all tests. The server has a runtime of its own, for each test's ends with the test, and
    /// takes the connections that it drives along; so the client is new.
    pub(crate) fn shared() -> Client {
        static DIRECTORY: OnceLock<PathBuf> = OnceLock::new();
        let directory = DIRECTORY.get_or_init(|| {
            let (sender, receiver) = std::sync::mpsc::channel();
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
                runtime.block_on(async {
                    let served = Self::start(Options { clock: Clock::system(), ..Options::default() }).await;
                    sender.send(served.client.directory.clone()).expect("the test waits");
                    std::future::pending::<()>().await;
                });
            });
            receiver.recv().expect("the server starts")
        });
        Client::open(directory)
    }

    /// Stops the server and waits for it.
    pub(crate) async fn stop(mut self) -> tempfile::TempDir {
        self.shutdown.cancel();
        self.server.take().expect("it runs").stopped().await;
        self.objects.store().close().await;
        self.directory
    }
}

impl Client {
    /// Reads the kubeconfig that the server wrote.
    pub(crate) fn open(directory: &Path) -> Self {
        let kubeconfig = std::fs::read_to_string(directory.join("kubeconfig")).expect("the kubeconfig is written");
        let kubeconfig: Value = serde_yaml::from_str(&kubeconfig).expect("it is YAML");
        let text = |pointer: &str| kubeconfig.pointer(pointer).and_then(Value::as_str).expect("the kubeconfig is complete").to_owned();
        let http = trusting(directory).build().expect("a client");
        Self { url: text("/clusters/0/cluster/server"), token: text("/users/0/user/token"), http, directory: directory.into() }
    }

    /// The same client over a connection of its own.
    pub(crate) fn alone(&self) -> Self {
        Self::open(&self.directory)
    }

    /// The same hub with another bearer token.
    pub(crate) fn with_token(&self, token: &str) -> Self {
        Self { token: token.into(), ..self.again() }
    }

    pub(crate) fn again(&self) -> Self {
        Self { url: self.url.clone(), token: self.token.clone(), http: self.http.clone(), directory: self.directory.clone() }
    }

    /// The same hub for the holder of a client certificate, who sends no token by [`Client::http`] alone.
    pub(crate) fn certified(&self, user: &str, groups: &[&str]) -> Self {
        let groups: Vec<String> = groups.iter().map(ToString::to_string).collect();
        let hour = std::time::Duration::from_hours(1);
        let (certificate, key) =
            apiserver::client_certificate(&self.directory, user, &groups, hour, Clock::system().now()).expect("the CA is here");
        let identity = reqwest::Identity::from_pem(format!("{certificate}{key}").as_bytes()).expect("a certificate and its key");
        let http = trusting(&self.directory).identity(identity).build().expect("a client");
        Self { http, ..self.again() }
    }

    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http.request(method, format!("{}{path}", self.url)).bearer_auth(&self.token)
    }

    /// Status code and JSON body.
    pub(crate) async fn send(&self, request: RequestBuilder) -> (u16, Value) {
        let response = request.send().await.expect("the server answers");
        let code = response.status().as_u16();
        let body = response.bytes().await.expect("a body");
        (code, serde_json::from_slice(&body).unwrap_or(Value::Null))
    }

    pub(crate) async fn get(&self, path: &str) -> (u16, Value) {
        self.send(self.request(Method::GET, path)).await
    }

    pub(crate) async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        self.send(self.request(Method::POST, path).json(body)).await
    }

    pub(crate) async fn put(&self, path: &str, body: &Value) -> (u16, Value) {
        self.send(self.request(Method::PUT, path).json(body)).await
    }

    pub(crate) async fn delete(&self, path: &str) -> (u16, Value) {
        self.send(self.request(Method::DELETE, path)).await
    }

    pub(crate) async fn patch(&self, path: &str, content_type: &str, body: &Value) -> (u16, Value) {
        let request = self.request(Method::PATCH, path).header(header::CONTENT_TYPE, content_type).body(body.to_string());
        self.send(request).await
    }

    pub(crate) async fn table(&self, path: &str) -> (u16, Value) {
        self.send(self.request(Method::GET, path).header(header::ACCEPT, "application/json;as=Table;v=v1;g=meta.k8s.io")).await
    }

    /// A namespace of the test's own.
    pub(crate) async fn namespace(&self, name: &str) {
        let body = serde_json::json!({"metadata": {"name": name}});
        let (code, answer) = self.post("/api/v1/namespaces", &body).await;
        assert_eq!(code, 201, "{answer}");
    }

    pub(crate) async fn watch(&self, path: &str) -> Lines {
        self.watch_as(path, "application/json").await
    }

    pub(crate) async fn watch_as(&self, path: &str, accept: &str) -> Lines {
        self.try_watch(path, accept).await.expect("the server answers")
    }

    /// Errors: where no server answers.
    pub(crate) async fn try_watch(&self, path: &str, accept: &str) -> reqwest::Result<Lines> {
        let response = self.request(Method::GET, path).header(header::ACCEPT, accept).send().await?;
        assert_eq!(response.status().as_u16(), 200, "a watch answers 200, whatever becomes of it");
        Ok(Lines { response, buffer: Vec::new() })
    }
}

/// A client that trusts the hub in this directory alone.
fn trusting(directory: &Path) -> reqwest::ClientBuilder {
    let ca = std::fs::read(directory.join("ca.crt")).expect("the server wrote it");
    let ca = reqwest::Certificate::from_pem_bundle(&ca).expect("a certificate");
    reqwest::Client::builder().no_proxy().user_agent("it/1").tls_certs_only(ca)
}

/// The events of a watch.
pub(crate) struct Lines {
    response: Response,
    buffer: Vec<u8>,
}

impl Lines {
    /// The next event's type and object; `None` when the stream ended.
    pub(crate) async fn next(&mut self) -> Option<(String, Value)> {
        let event = tokio::time::timeout(std::time::Duration::from_secs(20), self.try_next()).await;
        event.expect("an event within 20 s").expect("the stream ends cleanly")
    }

    /// The same of a server that may be killed meanwhile.
    pub(crate) async fn try_next(&mut self) -> reqwest::Result<Option<(String, Value)>> {
        loop {
            if let Some(end) = self.buffer.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                let mut event: Value = serde_json::from_slice(&line).expect("each line is JSON");
                return Ok(Some((event["type"].as_str().expect("a type").to_owned(), event["object"].take())));
            }
            let Some(chunk) = self.response.chunk().await? else { return Ok(None) };
            self.buffer.extend(chunk);
        }
    }

    /// The next event's type and the name of its object.
    pub(crate) async fn named(&mut self) -> (String, String) {
        let (kind, object) = self.next().await.expect("an event");
        (kind, object["metadata"]["name"].as_str().unwrap_or_default().to_owned())
    }
}
