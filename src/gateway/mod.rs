//! Authenticates, reserves, forwards, meters and settles model calls; asks for a checkpoint at every boundary of an agent's
//! conversation and holds the answer until it is decided.
//!
//! Agents in VMs hold no provider key: they have a token of their own, worth their Machine's budget here and nothing
//! elsewhere. Served are the Messages API with its count_tokens, OpenAI-compatible chat completions, Responses and list of models,
//! the report that an agent ended, what its Machine's permissions let it ask for, and connections to the hosts that its Machine may
//! reach; nothing else. A call goes one way whatever its
//! protocol, which is a value on it.

mod answer;
mod approvals;
mod asks;
mod before;
mod call;
mod connections;
mod directory;
mod egress;
mod elsewhere;
mod hold;
mod http;
mod live;
mod refusal;
mod resolve;
mod runner;
mod told;
mod transcript;

use crate::{
    clock::Clock,
    ledger::{LEASE, Ledger, RENEW},
    llm::{self, prices, replay::Replays},
    objects::Objects,
    store::{self, CallEnd, NewMessage},
    wire::{NoAnswer, Service},
};
use answer::Answer;
use approvals::Approvals;
use axum::serve::ListenerExt;
use connections::Capped;
use directory::Directory;
use hold::Checkpoints;
use live::Live;
use std::{
    collections::HashMap,
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use told::Told;
use tower::ServiceExt as _;

/// How the gateway is to run.
#[derive(Clone, Debug)]
pub struct Config {
    pub listen: SocketAddr,
    /// How long an answer waits for the checkpoint before it, at most. Agents give up after 300 s.
    pub hold: Duration,
    /// How long a checkpoint waits for sub-agents that act, at most: their requests come close together.
    pub barrier: Duration,
    /// How long the tool calls of an answer wait for a person, at most: together with the checkpoint before them less than those 300 s.
    pub patience: Duration,
    /// How long running calls may go on after a shutdown was asked for.
    pub drain: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            hold: Duration::from_secs(30),
            barrier: Duration::from_secs(2),
            patience: Duration::from_secs(220),
            drain: Duration::from_secs(20),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the gateway cannot listen on {address}: {source}")]
    Listen { address: SocketAddr, source: std::io::Error },
    #[error("the ledger could not be recovered: {0}")]
    Ledger(#[from] store::Error),
    #[error("no client for model providers can be made: {0}")]
    Client(#[from] crate::llm::Error),
}

/// A gateway that serves.
pub struct Server {
    /// Where it listens.
    pub address: SocketAddr,
    serving: tokio::task::JoinHandle<()>,
}

impl Server {
    /// Returns when the gateway has stopped and every call is settled.
    pub async fn stopped(self) {
        let _ = self.serving.await;
    }
}

/// Starts the gateway. It stops when `shutdown` is cancelled. Calls that a dead process left open are charged first.
pub async fn start(config: Config, objects: Objects, shutdown: CancellationToken) -> Result<Server, Error> {
    rustls::crypto::ring::default_provider().install_default().ok();
    let listener = tokio::net::TcpListener::bind(config.listen).await.map_err(|source| Error::Listen { address: config.listen, source })?;
    let address = listener.local_addr().map_err(|source| Error::Listen { address: config.listen, source })?;
    let (gateway, followers) = open(&config, objects, &shutdown).await?;
    let serving = tokio::spawn(async move {
        serve(gateway, listener, config.drain, shutdown).await;
        followers.end().await;
    });
    Ok(Server { address, serving })
}

/// Starts it as a service in this process, which no network reaches.
pub async fn start_in_process(config: Config, objects: Objects, shutdown: CancellationToken) -> Result<(Service, Server), Error> {
    let (gateway, followers) = open(&config, objects, &shutdown).await?;
    let router = http::router(gateway.clone());
    let service = Service::new(move |request| {
        let router = router.clone();
        Box::pin(async move {
            let request = axum::http::Request::<reqwest::Body>::try_from(request).map_err(|_| NoAnswer)?;
            let Ok(response) = router.oneshot(request.map(axum::body::Body::new)).await;
            Ok(response.map(|body| reqwest::Body::wrap_stream(body.into_data_stream())).into())
        })
    });
    let serving = tokio::spawn(async move {
        shutdown.cancelled().await;
        drain(&gateway, std::future::ready(()), config.drain).await;
        followers.end().await;
    });
    Ok((service, Server { address: config.listen, serving }))
}

/// What follows objects for a gateway. It ends last: running calls still need to see them.
struct Followers {
    tasks: TaskTracker,
    drained: CancellationToken,
}

impl Followers {
    async fn end(self) {
        self.drained.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }
}

async fn open(config: &Config, objects: Objects, shutdown: &CancellationToken) -> Result<(Arc<Gateway>, Followers), Error> {
    let ledger = Ledger::new(objects.store().clone(), objects.clock().clone());
    charge_dead(&ledger).await?;
    let (tasks, machines) = (TaskTracker::new(), Arc::new(Mutex::new(HashMap::<String, Arc<Live>>::new())));
    let known = machines.clone();
    let noted = move |uid: &str, is_gone: bool| {
        let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
        let live = if is_gone { known.remove(uid) } else { known.get(uid).cloned() };
        if let Some(live) = live {
            live.egress.changed.send_replace(());
        }
    };
    let followers = Followers { tasks: TaskTracker::new(), drained: CancellationToken::new() };
    if ledger.is_shared() {
        let (ledger, clock, drained) = (ledger.clone(), objects.clock().clone(), followers.drained.clone());
        followers.tasks.spawn(async move {
            let again = async {
                loop {
                    clock.sleep(LEASE).await;
                    if let Err(error) = charge_dead(&ledger).await {
                        tracing::warn!("calls that a dead gateway left open were not charged: {error}");
                    }
                }
            };
            drained.run_until_cancelled(again).await
        });
    }
    let gateway = Arc::new(Gateway {
        directory: Directory::start(&objects, &followers.tasks, &followers.drained, noted),
        checkpoints: Checkpoints::start(&objects, config.hold, &followers.tasks, &followers.drained),
        approvals: Approvals::start(&objects, &followers.tasks, &followers.drained),
        barrier: config.barrier,
        patience: config.patience,
        spawning: tokio::sync::Mutex::default(),
        ledger,
        client: llm::Client::new()?,
        replays: Replays::new(objects.clock().clone()),
        objects,
        machines,
        told: Told::default(),
        tasks,
        shutdown: shutdown.clone(),
        abort: CancellationToken::new(),
    });
    gateway.tasks.spawn_blocking(prices::load);
    Ok((gateway, followers))
}

async fn charge_dead(ledger: &Ledger) -> Result<(), store::Error> {
    let cut = ledger.recover().await?;
    if cut > 0 {
        tracing::warn!("{cut} model calls were open when their hub died; they are charged at their worst case");
    }
    Ok(())
}

async fn serve(gateway: Arc<Gateway>, listener: tokio::net::TcpListener, limit: Duration, shutdown: CancellationToken) {
    // Each event of a stream is to leave at once.
    let listener = Capped::new(listener).tap_io(|connection| drop(connection.stream().set_nodelay(true)));
    let router = http::router(gateway.clone()).into_make_service_with_connect_info::<SocketAddr>();
    let stop = shutdown.clone();
    let serving = tokio::spawn(async move { axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).await });
    shutdown.cancelled().await;
    drain(&gateway, async { drop(serving.await) }, limit).await;
}

/// Waits until the server and all calls have ended, and cuts the calls that take longer than `limit`.
async fn drain(gateway: &Gateway, serving: impl Future<Output = ()>, limit: Duration) {
    gateway.tasks.close();
    let drained = async {
        serving.await;
        gateway.tasks.wait().await;
    };
    tokio::pin!(drained);
    tokio::select! {
        biased;
        () = &mut drained => return,
        () = gateway.clock().sleep(limit) => {}
    }
    tracing::warn!("model calls still run after {limit:?}: they are cut and settled by what was seen");
    gateway.abort.cancel();
    // A client that does not hang up must not keep the hub from stopping; calls settle without it.
    tokio::select! {
        biased;
        () = drained => {}
        () = async {
            gateway.tasks.wait().await;
        } => {}
    }
}

/// What all calls share.
struct Gateway {
    objects: Objects,
    directory: Directory,
    checkpoints: Checkpoints,
    approvals: Approvals,
    barrier: Duration,
    patience: Duration,
    /// One agent spawns at a time, so that each sees the Machines of the one before.
    spawning: tokio::sync::Mutex<()>,
    ledger: Ledger,
    client: llm::Client,
    replays: Replays,
    /// By uid, while their agents call.
    machines: Arc<Mutex<HashMap<String, Arc<Live>>>>,
    told: Told,
    tasks: TaskTracker,
    shutdown: CancellationToken,
    /// Cancelled when running calls must end.
    abort: CancellationToken,
}

impl Gateway {
    fn clock(&self) -> &Clock {
        self.objects.clock()
    }

    fn store(&self) -> &store::Store {
        self.objects.store()
    }

    /// A Machine's live state; after a restart it begins with what the log of calls knows.
    async fn live(&self, uid: &str) -> Result<Arc<Live>, store::Error> {
        let machines = || self.machines.lock().unwrap_or_else(PoisonError::into_inner);
        let known = machines().get(uid).cloned();
        if let Some(live) = known {
            return Ok(live);
        }
        let last = self.store().last_turn(uid).await?;
        Ok(machines().entry(uid.to_owned()).or_insert_with(|| Arc::new(Live::new(last))).clone())
    }

    /// Renews a lease again and again.
    async fn renew(&self, id: &str) -> Infallible {
        loop {
            self.clock().sleep(RENEW).await;
            if let Err(error) = self.ledger.renew(id).await {
                tracing::warn!(call.id = id, "its lease was not renewed: {error}");
            }
        }
    }

    /// Whether someone had all of an answer; waits for those that still read it.
    async fn until_read_out(&self, answer: &Answer, limit: Duration) -> bool {
        tokio::select! {
            biased;
            delivered = answer.read_out() => delivered,
            () = self.clock().sleep(limit) => false,
            () = self.abort.cancelled() => false,
        }
    }

    /// Corrects the log when a repeat of the request gets the answer that was lost.
    fn settle_when_delivered(self: &Arc<Self>, answer: Arc<Answer>, end: CallEnd) {
        // Agents try again within seconds; a restored VM may take minutes.
        const WINDOW: Duration = Duration::from_mins(15);
        let gateway = self.clone();
        self.tasks.spawn(async move {
            let delivered = tokio::select! {
                biased;
                () = answer.delivered() => true,
                () = gateway.clock().sleep(WINDOW) => false,
                () = gateway.shutdown.cancelled() => false,
            };
            if delivered {
                let (id, now) = (answer.id.clone(), gateway.clock().now());
                let done: Result<(), store::Error> =
                    gateway.store().write(move |transaction| Box::pin(async move { transaction.end_call(&id, &end, now).await })).await;
                log(&answer.id, done);
            }
        });
    }

    /// Stores messages of a conversation; a failure costs the log, not the call.
    async fn store_messages(&self, live: &Live, uid: &str, messages: Vec<NewMessage>) {
        if messages.is_empty() {
            return;
        }
        let keys: Vec<String> = messages.iter().map(|message| message.key.clone()).collect();
        let (owner, now) = (uid.to_owned(), self.clock().now());
        let work =
            self.store().write(move |transaction| Box::pin(async move { transaction.append_transcript(&owner, &messages, now).await }));
        match work.await as Result<(), store::Error> {
            Ok(()) => live.state().stored.extend(keys),
            Err(error) => tracing::warn!(object.uid = uid, "messages were not stored: {error}"),
        }
    }
}

/// Says that a settle failed: nothing else can be done then.
fn log(id: &str, done: Result<(), store::Error>) {
    if let Err(error) = done {
        tracing::error!(call.id = id, "the end of the call was not stored, so its lease will be charged at its worst case: {error}");
    }
}
