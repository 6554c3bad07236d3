//! The network to a node. What is written on a connection asks our [`Tenure`] first: a request that was handed to its
//! connection before this process was stopped is not sent when it goes on and another leads.

use super::{Config, Error, tls};
use crate::clock::Tenure;
use futures::future::BoxFuture;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder, MaybeHttpsStream};
use hyper_util::{
    client::legacy::connect::{Connected, Connection, HttpConnector},
    client::legacy::{Client, Error as ClientError},
    rt::{TokioExecutor, TokioIo, TokioTimer},
};
use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};
use tokio::net::TcpStream;

/// Proxmox closes idle connections after 5 s; a pooled one must be given up before.
const POOL_IDLE: Duration = Duration::from_secs(4);
/// To a connection and its TLS.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// HTTP/1.1 only: Proxmox puts its message in the reason phrase, which HTTP/2 has not.
#[derive(Clone)]
pub(super) struct Network(Client<Connector, reqwest::Body>);

#[derive(Clone)]
struct Connector {
    https: HttpsConnector<HttpConnector>,
    tenure: Tenure,
}

/// A connection that writes as long as its tenure lasts.
struct Guarded {
    stream: MaybeHttpsStream<TokioIo<TcpStream>>,
    tenure: Tenure,
}

impl Network {
    /// Errors: `Refused` when the fingerprint is none, or this machine's certificates cannot be read.
    pub(super) fn new(config: &Config, tenure: Tenure) -> Result<Self, Error> {
        let unusable = Error::Refused;
        let tls = match &config.fingerprint {
            Some(fingerprint) => {
                let sha256 =
                    tls::parse_fingerprint(fingerprint).ok_or_else(|| unusable(format!("`{fingerprint}` is not a SHA-256 fingerprint")))?;
                tls::pinned(sha256)
            }
            None => tls::of_this_machine(),
        }
        .map_err(|error| unusable(error.to_string()))?;
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(true);
        let https = HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().wrap_connector(http);
        let mut builder = Client::builder(TokioExecutor::new());
        builder.pool_idle_timeout(POOL_IDLE).pool_timer(TokioTimer::new());
        Ok(Self(builder.build(Connector { https, tenure })))
    }

    pub(super) async fn call(&self, request: reqwest::Request) -> Result<reqwest::Response, CallError> {
        Ok(self.0.request(request.try_into()?).await?.map(reqwest::Body::wrap).into())
    }
}

/// Why no answer came.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallError {
    #[error(transparent)]
    Request(#[from] reqwest::Error),
    #[error(transparent)]
    Network(#[from] ClientError),
}

impl tower::Service<hyper::Uri> for Connector {
    type Response = Guarded;
    type Error = Box<dyn std::error::Error + Send + Sync>;
    type Future = BoxFuture<'static, Result<Guarded, Self::Error>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.https.poll_ready(context)
    }

    fn call(&mut self, uri: hyper::Uri) -> Self::Future {
        let (connecting, tenure) = (self.https.call(uri), self.tenure.clone());
        Box::pin(async move {
            let late = |_| format!("no connection within {} s", CONNECT_TIMEOUT.as_secs());
            let stream = tokio::time::timeout(CONNECT_TIMEOUT, connecting).await.map_err(late)??;
            Ok(Guarded { stream, tenure })
        })
    }
}

impl Connection for Guarded {
    fn connected(&self) -> Connected {
        self.stream.connected()
    }
}

impl Read for Guarded {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl Write for Guarded {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.tenure.check().map_err(io::Error::other)?;
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, context: &mut Context<'_>, slices: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.tenure.check().map_err(io::Error::other)?;
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::proxmox::Credential;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    fn config(endpoint: &str, fingerprint: Option<String>) -> Config {
        Config { endpoint: endpoint.into(), fingerprint, credential: Credential::token("u@pve!t", "s") }
    }

    fn root(error: &dyn std::error::Error) -> String {
        error.source().map_or_else(|| error.to_string(), root)
    }

    #[tokio::test]
    async fn only_the_certificate_of_the_fingerprint_or_one_that_this_machine_trusts_is_talked_to() {
        let signed = rcgen::generate_simple_self_signed(["pve.example".to_owned()]).unwrap();
        let (certificate, key) = (signed.cert.der().clone(), signed.signing_key.serialize_der());
        let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
        let server = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let key = rustls::pki_types::PrivatePkcs8KeyDer::from(key).into();
        let server = server.with_no_client_auth().with_single_cert(vec![certificate.clone()], key).unwrap();
        let acceptor = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(server));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("https://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let Ok(mut stream) = acceptor.accept(stream).await else { continue };
                let Ok(1..) = stream.read(&mut [0; 4096]).await else { continue };
                stream.write_all(b"HTTP/1.1 500 no such thing\r\ncontent-length: 2\r\n\r\n{}").await.ok();
            }
        });
        let call = async |fingerprint: Option<String>| {
            let network = Network::new(&config(&base, fingerprint), Tenure::unlimited()).unwrap();
            network.call(reqwest::Request::new(reqwest::Method::GET, base.parse().unwrap())).await
        };
        let fingerprint = hex::encode(<sha2::Sha256 as sha2::Digest>::digest(&certificate));
        let answer = call(Some(fingerprint.clone())).await.unwrap();
        assert_eq!(answer.extensions().get::<hyper::ext::ReasonPhrase>().unwrap().as_bytes(), b"no such thing");
        let wrong = format!("{}00", &fingerprint[..62]);
        let refused = root(&call(Some(wrong)).await.unwrap_err());
        assert!(refused.contains("not the one whose fingerprint was given"), "{refused}");
        let refused = root(&call(None).await.unwrap_err());
        assert!(refused.contains("invalid peer certificate"), "{refused}");
        assert!(Network::new(&config(&base, Some("AB:CD".into())), Tenure::unlimited()).is_err());
    }

    #[tokio::test]
    async fn nothing_is_written_once_the_lease_is_lost_on_old_and_new_connections() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap());
        let tenure = Tenure::new(Clock::system(), Duration::from_mins(1), tokio::time::Instant::now());
        let network = Network::new(&config(&base, None), tenure.clone()).unwrap();
        let request = || reqwest::Request::new(reqwest::Method::DELETE, base.parse().unwrap());
        let first = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut heard = vec![0; 4096];
            let length = stream.read(&mut heard).await.unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await.unwrap();
            (stream, String::from_utf8_lossy(&heard[..length]).into_owned())
        };
        let (answer, (mut old, heard)) = tokio::join!(network.call(request()), first);
        assert_eq!(answer.unwrap().text().await.unwrap(), "{}");
        assert!(heard.starts_with("DELETE / HTTP/1.1\r\n") && !heard.contains("content-length"), "{heard}");
        tenure.end();
        for _ in 0..2 {
            let refused = root(&network.call(request()).await.expect_err("it was sent"));
            assert!(refused.starts_with("not begun: 0.0 s are left of this leader's Lease"), "{refused}");
        }
        let (mut new, _) = listener.accept().await.unwrap();
        for stream in [&mut old, &mut new] {
            assert_eq!(stream.read(&mut [0; 64]).await.unwrap(), 0, "closed, and no byte before");
        }
    }
}
