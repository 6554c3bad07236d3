//! How many connections guests may have: each takes a file of this process, which also serves the API and keeps the store.

use axum::serve::Listener;
use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
};

/// A listener that closes at once what is too much.
pub(super) struct Capped {
    inner: TcpListener,
    open: Arc<Mutex<HashMap<IpAddr, usize>>>,
    most: usize,
    from_one: usize,
    /// The last one was closed: that is said once, not of each.
    is_full: bool,
}

impl Capped {
    /// A quarter of the files that this process may open, and half of that from one address.
    pub(super) fn new(inner: TcpListener) -> Self {
        let files = rustix::process::getrlimit(rustix::process::Resource::Nofile).current.unwrap_or(u64::MAX);
        let most = usize::try_from(files / 4).unwrap_or(usize::MAX);
        Self::with(inner, most, most / 2)
    }

    fn with(inner: TcpListener, most: usize, from_one: usize) -> Self {
        Self { inner, open: Arc::default(), most, from_one, is_full: false }
    }

    fn place(&self, peer: IpAddr) -> Option<Place> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let (all, from_it) = (open.values().sum::<usize>(), open.get(&peer).copied().unwrap_or_default());
        if all >= self.most || from_it >= self.from_one {
            return None;
        }
        open.insert(peer, from_it + 1);
        Some(Place { open: self.open.clone(), peer })
    }
}

/// One connection among those of its address.
struct Place {
    open: Arc<Mutex<HashMap<IpAddr, usize>>>,
    peer: IpAddr,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.peer) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.peer);
            }
        }
    }
}

impl Listener for Capped {
    type Io = Counted;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Counted, SocketAddr) {
        loop {
            let (stream, peer) = Listener::accept(&mut self.inner).await;
            match self.place(peer.ip()) {
                Some(place) => {
                    self.is_full = false;
                    return (Counted { stream, _place: place }, peer);
                }
                None if self.is_full => {}
                None => {
                    self.is_full = true;
                    tracing::warn!("a connection of {peer} was closed, as others may be from now on: guests have too many");
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.inner.local_addr()
    }
}

/// A connection that has its place.
pub(super) struct Counted {
    stream: TcpStream,
    _place: Place,
}

impl Counted {
    pub(super) fn stream(&self) -> &TcpStream {
        &self.stream
    }
}

impl AsyncRead for Counted {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Counted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bytes)
    }
    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncReadExt as _;

    #[tokio::test]
    async fn an_address_has_so_many_and_gets_a_place_back_that_it_gives_up() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let mut capped = Capped::with(listener, 8, 2);
        let (mut clients, mut served) = (Vec::new(), Vec::new());
        for _ in 0..2 {
            clients.push(TcpStream::connect(at).await.unwrap());
            served.push(capped.accept().await.0);
        }
        let mut third = TcpStream::connect(at).await.unwrap();
        let accepting = tokio::spawn(async move { capped.accept().await.0 });
        assert_eq!(third.read(&mut [0]).await.unwrap_or_default(), 0, "it is closed, and nothing said");
        served.pop();
        let fourth = TcpStream::connect(at).await.unwrap();
        let peer = accepting.await.unwrap().stream.peer_addr().unwrap();
        assert_eq!(peer, fourth.local_addr().unwrap());
    }
}
