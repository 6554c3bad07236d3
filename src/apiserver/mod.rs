//! The Kubernetes resource API over HTTPS, on [`Objects`]' documents.
//!
//! Without state of its own: all that it knows is in the store (of which it caches a part), or generated from
//! `admission::resources()`. It judges the wire (paths, forms, selectors, options); what an object may be is admission's
//! affair. Server-side apply is not here yet: it is refused with the list of patches that are.

mod access;
mod archive;
mod background;
mod body;
mod cache;
mod catalog;
mod certificate;
mod collect;
mod connection;
mod credentials;
mod definitions;
mod discovery;
mod escalation;
mod exec;
mod gzip;
mod identity;
mod jsonpath;
mod list;
mod meta_schemas;
mod needed;
mod negotiate;
mod openapi_v2;
mod openapi_v3;
mod peer;
mod present;
mod protobuf;
mod query;
mod read;
mod records;
mod reply;
mod review;
mod rotation;
mod route;
mod selector;
mod serve;
mod status;
mod table;
mod tls;
mod token;
mod watch;
mod write;

pub use certificate::{LONGEST as LONGEST_CERTIFICATE, client as client_certificate};
pub use credentials::{Credential, kubeconfig};

use crate::auth::TokenHash;
use crate::driver::Door;
use crate::objects::Objects;
use axum_server::{
    Handle,
    accept::NoDelayAcceptor,
    tls_rustls::{RustlsAcceptor, RustlsConfig},
};
use std::{net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// How long requests in flight may take once the server is asked to stop.
const DRAIN: Duration = Duration::from_secs(10);
/// Answers at once on one connection. Source: kube-apiserver `--http2-max-streams-per-connection`, by default 250.
const STREAMS: u32 = 250;
/// Bytes of a request's URL and headers, and of an answer that wait for a slow client.
const MAX_HEAD: usize = 64 << 10;

/// Where to listen, and where certificates and the kubeconfig are kept.
#[derive(Clone, Debug)]
pub struct Config {
    /// Port 0 takes any free one.
    pub listen: SocketAddr,
    /// Host names and IP addresses that the certificate is for beside localhost and `listen`.
    pub names: Vec<String>,
    pub data: PathBuf,
    /// The way to the disks, while controllers lead in this process.
    pub door: Door,
}

/// Why the server did not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the API server cannot listen on {address}: {source}; choose another address with --listen, or end what listens there")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error("{}: {source}", .path.display())]
    File { path: PathBuf, source: std::io::Error },
    #[error("the server's certificate could not be made: {0}; if ca.key or ca.crt in the data directory is damaged, remove both")]
    Certificate(String),
    #[error("the namespaces and roles that always exist could not be made: {0}")]
    Presets(#[from] crate::objects::Error),
}

/// A running server; it stops when its token is cancelled.
#[derive(Debug)]
pub struct Server {
    /// Where it listens.
    pub address: SocketAddr,
    tasks: Vec<JoinHandle<()>>,
}

impl Server {
    /// Returns when every request is answered and every watch has ended.
    pub async fn stopped(self) {
        for task in self.tasks {
            let _ = task.await;
        }
    }
}

/// What every request sees.
struct Shared {
    objects: Objects,
    access: access::Access,
    caches: cache::Caches,
    load: serve::Load,
    admin: TokenHash,
    address: SocketAddr,
    door: Door,
    shutdown: CancellationToken,
}

/// Starts to serve; returns when connections are accepted. Makes the CA and the admin token on the first start, and writes
/// `kubeconfig` into the data directory.
pub async fn start(config: Config, objects: Objects, shutdown: CancellationToken) -> Result<Server, Error> {
    let refused = |source| Error::Listen { address: config.listen, source };
    std::fs::create_dir_all(&config.data).map_err(|source| Error::File { path: config.data.clone(), source })?;
    let listener = std::net::TcpListener::bind(config.listen).map_err(refused)?;
    listener.set_nonblocking(true).map_err(refused)?;
    let address = listener.local_addr().map_err(refused)?;
    let tls = tls::prepare(&config.data, config.listen.ip(), &config.names, objects.clock())?;
    let admin = credentials::prepare(&config.data, address, &tls.ca_pem)?;
    objects.ensure_presets().await?;
    objects.ensure_roles().await?;
    let background = background::start(objects.clone(), shutdown.clone());
    let access = access::Access::new(objects.clone());
    let caches = cache::Caches::new(&objects);
    let limits = connection::Limits::of_this_process();
    let clock = objects.clock().clone();
    let shared = Arc::new(Shared {
        objects,
        access,
        caches,
        load: serve::Load::default(),
        admin,
        address,
        door: config.door,
        shutdown: shutdown.clone(),
    });

    let handle = Handle::new();
    // Without Nagle's delay: an event of a watch is a small packet that someone waits for.
    let acceptor = RustlsAcceptor::new(RustlsConfig::from_config(tls.server)).handshake_timeout(limits.head);
    let acceptor = connection::Limited::new(peer::Acceptor(acceptor.acceptor(NoDelayAcceptor::new())), limits, clock);
    let mut server = axum_server::from_tcp(listener).map_err(refused)?.acceptor(acceptor).handle(handle.clone());
    server.http_builder().http1().max_buf_size(MAX_HEAD);
    // Clients multiplex their watches over one connection; a dead one is noticed by pings.
    let mut http = server.http_builder().http2();
    http.max_header_list_size(u32::try_from(MAX_HEAD).unwrap_or(u32::MAX));
    http.timer(hyper_util::rt::TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .max_send_buf_size(connection::PIECE)
        .keep_alive_interval(Some(Duration::from_secs(30)))
        .keep_alive_timeout(Duration::from_secs(20));
    let serving = tokio::spawn(async move {
        if let Err(error) = server.serve(serve::router(shared).into_make_service()).await {
            tracing::error!("the API server ended: {error}");
        }
    });
    tokio::spawn(async move {
        shutdown.cancelled().await;
        handle.graceful_shutdown(Some(DRAIN));
    });
    Ok(Server { address, tasks: vec![serving, background] })
}
