//! A connection that was made: its bytes both ways, counted, until it ends, nothing comes for long, or what allows it is gone.

use super::{
    Allowed, allows,
    greeting::{Greeting, Reader},
};
use crate::{
    api::{Kind, network::BlockedReason},
    gateway::{
        Gateway,
        resolve::{ended, suspended},
    },
};
use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    sync::OwnedSemaphorePermit,
    time::Instant,
};

/// A connection without a byte for so long is ended; who keeps one for later opens another.
const IDLE: Duration = Duration::from_mins(5);
/// How often what allows a connection is looked at where nothing told of a change: another gateway may have heard of it.
const LOOK: Duration = Duration::from_secs(10);

pub(super) struct Tunnel {
    pub(super) allowed: Allowed,
    pub(super) server: TcpStream,
    pub(super) place: OwnedSemaphorePermit,
}

/// What went through it.
struct Traffic {
    out: AtomicU64,
    back: AtomicU64,
    last: Mutex<Instant>,
}

impl Traffic {
    fn note(&self, counter: &AtomicU64, bytes: usize) {
        counter.fetch_add(bytes as u64, Ordering::Relaxed);
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    async fn idle(&self, gateway: &Gateway) {
        loop {
            let quiet = self.last.lock().unwrap_or_else(PoisonError::into_inner).elapsed();
            if quiet >= IDLE {
                return;
            }
            gateway.clock().sleep(IDLE.saturating_sub(quiet)).await;
        }
    }
}

impl Tunnel {
    pub(super) async fn carry(self, gateway: &Arc<Gateway>, client: Upgraded) {
        let Self { allowed, mut server, place } = self;
        let traffic = Traffic { out: AtomicU64::new(0), back: AtomicU64::new(0), last: Mutex::new(Instant::now()) };
        let (mut from_client, mut to_client) = tokio::io::split(TokioIo::new(client));
        let (mut from_server, mut to_server) = server.split();
        let out = async {
            greet(gateway, &allowed, &mut from_client, &mut to_server, &traffic).await?;
            pass(&mut from_client, &mut to_server, &traffic, &traffic.out).await
        };
        let back = pass(&mut from_server, &mut to_client, &traffic, &traffic.back);
        let end = tokio::select! {
            biased;
            why = allowed.lapsed(gateway) => why,
            both = async { tokio::try_join!(out, back) } => match both {
                Ok(_) => "both sides were done".into(),
                Err(error) => error.to_string(),
            },
            () = traffic.idle(gateway) => format!("nothing came for {IDLE:?}"),
        };
        drop(place);
        let (out, back) = (traffic.out.load(Ordering::Relaxed), traffic.back.load(Ordering::Relaxed));
        let (machine, host, port) = (&allowed.machine, &allowed.host, allowed.port);
        tracing::info!(
            object.kind = "Machine",
            object.name = machine.name(),
            object.uid = machine.uid(),
            bytes_out = out,
            bytes_in = back,
            "its connection to {host}:{port} ended: {end}"
        );
    }
}

impl Allowed {
    /// Waits until nothing allows the connection any more, and says why.
    async fn lapsed(&self, gateway: &Gateway) -> String {
        let mut changes = self.live.egress.changed.subscribe();
        loop {
            // Looked at before the first wait too: it may have changed while the connection was made.
            if let Some(why) = self.is_lapsed(gateway).await {
                return why;
            }
            tokio::select! {
                _ = changes.changed() => {}
                () = gateway.clock().sleep(LOOK) => {}
                () = gateway.shutdown.cancelled() => return "the gateway stops".into(),
            }
        }
    }

    async fn is_lapsed(&self, gateway: &Gateway) -> Option<String> {
        // A store that does not answer says nothing of a token.
        if let Ok(None) = gateway.store().find_token(&self.token).await {
            return Some("its token is no longer valid".into());
        }
        let (uid, namespace, name) = (self.machine.uid(), self.machine.namespace(), self.machine.name());
        match gateway.directory.machine(uid, namespace, name).await {
            Ok(None) => Some("its Machine is gone".into()),
            Ok(Some(now)) if !allows(&now, &self.host, self.port) => Some("spec.network.egress does not allow it any more".into()),
            // What goes on from its memory is to find no connection that only it believes in.
            Ok(Some(now)) => ended(&now).or_else(|| suspended(&now).then(|| "its Machine is suspended with its memory".into())),
            Err(_) => None,
        }
    }
}

/// Passes on what a client sends first, once it is seen for whom that is. Errors: it is for another server than was asked for.
async fn greet(
    gateway: &Arc<Gateway>,
    allowed: &Allowed,
    client: &mut (impl AsyncRead + Unpin),
    server: &mut (impl AsyncWrite + Unpin),
    traffic: &Traffic,
) -> io::Result<()> {
    let (mut reader, mut held, mut buffer) = (Reader::new(), Vec::new(), vec![0; 16 << 10]);
    loop {
        let length = client.read(&mut buffer).await?;
        held.extend_from_slice(&buffer[..length]);
        traffic.note(&traffic.out, length);
        if length == 0 {
            break;
        }
        match reader.read(&buffer[..length]) {
            Greeting::More => continue,
            Greeting::Other | Greeting::Tls(None) => {}
            Greeting::Tls(Some(name)) if name == allowed.host => {}
            Greeting::Tls(Some(name)) => {
                gateway.blocked(&allowed.machine, &allowed.live, &name, allowed.port, BlockedReason::OtherServer);
                return Err(io::Error::other(format!("TLS asked for the server {name}")));
            }
            Greeting::Unreadable => return Err(io::Error::other("it began like TLS and went on otherwise")),
        }
        break;
    }
    server.write_all(&held).await
}

async fn pass(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    traffic: &Traffic,
    counter: &AtomicU64,
) -> io::Result<()> {
    let mut buffer = vec![0; 16 << 10];
    loop {
        let length = from.read(&mut buffer).await?;
        if length == 0 {
            // The other direction may go on. Who is gone already needs not be told.
            to.shutdown().await.ok();
            return Ok(());
        }
        traffic.note(counter, length);
        to.write_all(&buffer[..length]).await?;
        to.flush().await?;
    }
}
