//! Who is at the other end of a connection: client certificates that the hub's own authority signed. CN is the user, each O
//! a group. Source: Kubernetes' `x509.CommonNameUserConversion`.

use crate::auth::User;
use axum::{Extension, middleware::AddExtension};
use axum_server::{
    accept::{Accept, NoDelayAcceptor},
    tls_rustls::RustlsAcceptor,
};
use futures::{FutureExt, future::BoxFuture};
use std::io;
use tokio::net::TcpStream;
use tower::Layer;
use x509_parser::prelude::{FromDer, X509Certificate};

/// The holder of the certificate that a connection began with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Peer {
    pub(super) user: User,
    /// When the certificate ends, which the connection may outlive. Seconds since 1970.
    pub(super) not_after: i64,
}

/// Accepts TLS connections, and tells every request on one who its peer is: `Extension<Option<Peer>>`.
#[derive(Clone)]
pub(super) struct Acceptor(pub(super) RustlsAcceptor<NoDelayAcceptor>);

impl<S: Send + 'static> Accept<TcpStream, S> for Acceptor {
    type Stream = <RustlsAcceptor<NoDelayAcceptor> as Accept<TcpStream, S>>::Stream;
    type Service = AddExtension<S, Option<Peer>>;
    type Future = BoxFuture<'static, io::Result<(Self::Stream, Self::Service)>>;

    fn accept(&self, stream: TcpStream, service: S) -> Self::Future {
        let accepted = self.0.accept(stream, service);
        async move {
            let (stream, service) = accepted.await?;
            let peer = stream.get_ref().1.peer_certificates().and_then(|chain| peer(chain.first()?));
            Ok((stream, Extension(peer).layer(service)))
        }
        .boxed()
    }
}

/// Reads a certificate that was verified. Without a CN it names nobody.
fn peer(certificate: &[u8]) -> Option<Peer> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().find_map(|name| name.as_str().ok()).filter(|name| !name.is_empty())?;
    let groups = subject.iter_organization().filter_map(|group| group.as_str().ok()).map(str::to_owned);
    Some(Peer { user: User::certified(name, groups), not_after: certificate.validity().not_after.timestamp() })
}
