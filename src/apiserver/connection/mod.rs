//! Connections: how many there may be, and how long one may keep the server waiting.
//!
//! A request's head must come within seconds of its first byte, a new connection must make a request as soon, one without
//! requests is closed after a while, and one that takes nothing that is sent to it, or of one answer, too. When there are too many, the oldest
//! one that has nothing to do makes room for the next, so that whoever opens thousands shuts nobody out.

mod answer;
mod stream;
#[cfg(test)]
mod tests;

pub(super) use answer::PIECE;

use crate::clock::Clock;
use answer::{Answer, Waiting};
use axum::{body::Body, http::Request, http::Response, http::Version};
use axum_server::accept::Accept;
use futures::{FutureExt, future::BoxFuture};
use std::{
    collections::BTreeMap,
    io,
    net::IpAddr,
    sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};
use stream::Watched;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tower::Service;

/// How much a client may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// From the first byte of a request to the end of its head, and from a connection's begin to its first request.
    pub(super) head: Duration,
    /// Between two requests. Source: kube-apiserver `IdleTimeout`.
    pub(super) idle: Duration,
    /// How long nothing may be taken of what is sent. One answer among others of a connection: at most twice as long.
    pub(super) stall: Duration,
    /// Connections at once.
    pub(super) connections: usize,
    /// Of them, from one address.
    pub(super) from_one: usize,
}

impl Limits {
    /// As many connections as half of the files that this process may open allow.
    pub(super) fn of_this_process() -> Self {
        let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
        let connections = usize::try_from(files / 2).unwrap_or(usize::MAX).min(4096);
        let (head, idle, stall) = (Duration::from_secs(10), Duration::from_secs(90), Duration::from_mins(1));
        Self { head, idle, stall, connections, from_one: connections / 2 }
    }
}

/// Accepts connections within [`Limits`]; `inner` makes the stream.
#[derive(Clone)]
pub(super) struct Limited<A> {
    inner: A,
    connections: Arc<Connections>,
}

impl<A> Limited<A> {
    pub(super) fn new(inner: A, limits: Limits, clock: Clock) -> Self {
        Self { inner, connections: Arc::new(Connections { limits, clock, open: Mutex::default(), next: AtomicU64::new(0) }) }
    }
}

impl<A, S> Accept<TcpStream, S> for Limited<A>
where
    A: Accept<TcpStream, S>,
    A::Future: Send + 'static,
    A::Stream: Send + 'static,
    A::Service: Send + 'static,
{
    type Stream = Watched<A::Stream>;
    type Service = Counted<A::Service>;
    type Future = BoxFuture<'static, io::Result<(Self::Stream, Self::Service)>>;

    fn accept(&self, stream: TcpStream, service: S) -> Self::Future {
        let place = stream.peer_addr().and_then(|peer| self.connections.take(peer.ip()));
        let accepted = self.inner.accept(stream, service);
        async move {
            let place = place?;
            let (stream, service) = tokio::select! {
                accepted = accepted => accepted?,
                () = place.end.cancelled() => return Err(io::ErrorKind::ConnectionAborted.into()),
            };
            let activity = place.activity.clone();
            Ok((Watched::new(stream, place), Counted { inner: service, activity }))
        }
        .boxed()
    }
}

/// All connections that are open, by their age.
struct Connections {
    limits: Limits,
    clock: Clock,
    open: Mutex<BTreeMap<u64, Open>>,
    next: AtomicU64,
}

struct Open {
    peer: IpAddr,
    activity: Arc<Activity>,
    end: CancellationToken,
}

/// What a connection is doing.
#[derive(Default)]
struct Activity {
    /// Requests whose answers are not sent yet, watches among them.
    running: AtomicUsize,
    /// Requests that it ever made.
    begun: AtomicU64,
    /// It speaks HTTP/2, where bytes come between requests, too.
    multiplexed: AtomicBool,
    /// Pieces of answers that nobody takes.
    waiting: Waiting,
}

/// A connection's place among the others, given back when it is dropped.
struct Place {
    id: u64,
    activity: Arc<Activity>,
    /// It must make room.
    end: CancellationToken,
    connections: Arc<Connections>,
}

impl Connections {
    fn open(&self) -> MutexGuard<'_, BTreeMap<u64, Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Errors: when there are too many, and all of them are busy.
    fn take(self: &Arc<Self>, peer: IpAddr) -> io::Result<Place> {
        let mut open = self.open();
        let all_are_many = open.len() >= self.limits.connections;
        if all_are_many || open.values().filter(|o| o.peer == peer).count() >= self.limits.from_one {
            // Whoever has too many loses one of his own; only when all together are too many, anyone does.
            let idle = |o: &&Open| (all_are_many || o.peer == peer) && o.activity.running.load(Ordering::SeqCst) == 0;
            let Some(id) = open.iter().find(|(_, o)| idle(o)).map(|(id, _)| *id) else {
                tracing::warn!("a connection from {peer} was refused: {} are open, and all are busy", open.len());
                return Err(io::ErrorKind::ConnectionRefused.into());
            };
            if let Some(oldest) = open.remove(&id) {
                oldest.end.cancel();
            }
        }
        let (id, activity, end) = (self.next.fetch_add(1, Ordering::SeqCst), Arc::<Activity>::default(), CancellationToken::new());
        open.insert(id, Open { peer, activity: activity.clone(), end: end.clone() });
        Ok(Place { id, activity, end, connections: self.clone() })
    }
}

impl Place {
    fn sleep(&self, time: Duration) -> BoxFuture<'static, ()> {
        let clock = self.connections.clock.clone();
        async move { clock.sleep(time).await }.boxed()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.connections.open().remove(&self.id);
    }
}

/// A service that counts the requests that run.
#[derive(Clone)]
pub(super) struct Counted<S> {
    inner: S,
    activity: Arc<Activity>,
}

impl<S, B> Service<Request<B>> for Counted<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Response<Body>, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        self.activity.multiplexed.store(request.version() == Version::HTTP_2, Ordering::SeqCst);
        self.activity.begun.fetch_add(1, Ordering::SeqCst);
        let to_come = Answer::of(self.activity.clone());
        let answer = self.inner.call(request);
        async move { Ok(answer.await?.map(|body| Body::new(to_come.with(body)))) }.boxed()
    }
}
