//! What a client may take: how large, how deep, how slow, how many. Each is refused with a reason, early, and others are served.

use crate::served::{Client, Served};
use autovibe::store::Options;
use reqwest::{Method, header};
use rustls::pki_types::pem::PemObject;
use serde_json::{Value, json};
use std::time::{Duration, Instant};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const JSON: &str = "application/json";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn address(server: &Client) -> String {
    server.url.strip_prefix("https://").expect("https").to_owned()
}

async fn post(server: &Served, content_type: &str, body: impl Into<reqwest::Body>) -> (u16, Value) {
    server.send(server.request(Method::POST, MAPS).header(header::CONTENT_TYPE, content_type).body(body)).await
}

/// A TLS connection of its own over which raw bytes go, HTTP/1.1.
pub(crate) async fn raw(server: &Client) -> impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin {
    let ca = std::fs::read(server.directory.join("ca.crt")).expect("the CA is written");
    let mut roots = rustls::RootCertStore::empty();
    roots.add(rustls::pki_types::CertificateDer::from_pem_slice(&ca).expect("a certificate")).expect("a CA");
    let config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    let stream = TcpStream::connect(address(server)).await.expect("the server listens");
    let name = rustls::pki_types::ServerName::try_from("localhost").expect("a name");
    tokio_rustls::TlsConnector::from(std::sync::Arc::new(config)).connect(name, stream).await.expect("TLS")
}

/// Sends `bytes` and reads until the server ends the connection; what it said, and after how long.
async fn said(server: &Served, bytes: &[u8]) -> (String, Duration) {
    let mut connection = raw(server).await;
    let began = Instant::now();
    // It need not read all of it, nor wait for the end of what it reads no more.
    let _ = connection.write_all(bytes).await;
    let mut answer = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(20), connection.read_to_end(&mut answer)).await;
    assert!(read.is_ok(), "the server does not end the connection");
    (String::from_utf8_lossy(&answer).into_owned(), began.elapsed())
}

#[tokio::test]
async fn what_is_too_large_or_too_deep_is_refused_early() {
    let server = Served::start(Options::default()).await;
    assert_eq!(server.get(MAPS).await.0, 200);
    let refused = async |what: &str, content_type: &str, body: String, expect: u16| {
        let began = Instant::now();
        let (code, status) = post(&server, content_type, body).await;
        assert_eq!(code, expect, "{what}: {status}");
        assert_eq!(status["kind"], "Status", "{what}");
        assert!(status.to_string().len() < 4 << 20, "{what}: the answer is not much longer than what it answers");
        assert!(began.elapsed() < Duration::from_secs(10), "{what}: {:?}", began.elapsed());
    };
    refused("a body", JSON, " ".repeat(3 * 1024 * 1024 + 1), 413).await;
    refused("a million values", JSON, format!("{{\"data\":[{}0]}}", "0,".repeat(1_000_000)), 413).await;
    let labels: Vec<String> = (0..200_000).map(|n| format!("\"k{n}\":\"\"")).collect();
    refused("labels", JSON, format!("{{\"metadata\":{{\"name\":\"a\",\"labels\":{{{}}}}}}}", labels.join(",")), 413).await;
    let wrong: Vec<String> = (0..90_000).map(|n| format!("\"-{n}\":\"-\"")).collect();
    refused("wrong labels", JSON, format!("{{\"metadata\":{{\"name\":\"a\",\"labels\":{{{}}}}}}}", wrong.join(",")), 422).await;
    refused("nesting", JSON, format!("{}{}", "[".repeat(10_000), "]".repeat(10_000)), 400).await;
    refused("nested objects", JSON, "{\"a\":".repeat(10_000), 400).await;
    refused("a name", JSON, json!({"metadata": {"name": "n".repeat(1_000_000)}}).to_string(), 422).await;
    refused("a long key above many values", JSON, format!("{{\"{}\":[{}0]}}", "k".repeat(1 << 20), "0,".repeat(90_000)), 422).await;
    let bomb = format!(
        "a: &a [x,x,x,x,x,x,x,x,x]\n{}",
        (b'b'..=b'j')
            .map(|c| {
                let (this, before) = (char::from(c), char::from(c - 1));
                format!("{this}: &{this} [{}]\n", vec![format!("*{before}"); 9].join(","))
            })
            .collect::<String>()
    );
    refused("an alias bomb", "application/yaml", bomb, 413).await;
    refused("YAML", "application/yaml", format!("a: [{}0]", "0,".repeat(200_000)), 413).await;
    refused("nested YAML", "application/yaml", "[".repeat(10_000), 400).await;
    refused("no number", "application/yaml", "metadata: {name: a}\ndata: {a: .nan}".into(), 400).await;
    refused("multipart", "multipart/form-data; boundary=x", "--x--".into(), 415).await;
    let mut protobuf = b"k8s\0".to_vec();
    protobuf.extend([0x12, 0xff, 0xff, 0xff, 0xff, 0x07]);
    let (code, _) = post(&server, "application/vnd.kubernetes.protobuf", protobuf).await;
    assert_eq!(code, 400, "a length beyond the end");
    let compressed = server.request(Method::POST, MAPS).header(header::CONTENT_ENCODING, "gzip").body("x");
    let (code, status) = server.send(compressed).await;
    assert_eq!((code, &status["reason"]), (415, &json!("UnsupportedMediaType")));
    assert_eq!(server.get(&format!("{MAPS}?labelSelector={}", "a".repeat(60_000))).await.0, 400);
    let long = server.request(Method::GET, MAPS).header("x-long", "a".repeat(100_000));
    assert!(long.send().await.map_or(true, |answer| answer.status().as_u16() == 431), "a header");
    assert!(names(&server).await.is_empty());
    server.stop().await;
}

async fn names(server: &Served) -> Vec<String> {
    let (_, list) = server.get(MAPS).await;
    list["items"].as_array().expect("items").iter().map(|i| i["metadata"]["name"].to_string()).collect()
}

#[tokio::test]
async fn heads_are_bounded_and_a_large_body_is_not_read() {
    let server = Served::start(Options::default()).await;
    let token = &server.token;
    let head = |line: &str, more: &str| format!("{line} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n{more}\r\n");
    let (answer, _) = said(&server, head("GET /api", &format!("X-Long: {}\r\n", "a".repeat(70_000))).as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    let (answer, _) = said(&server, head(&format!("GET /{}", "a".repeat(66_000)), "").as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 414") || answer.starts_with("HTTP/1.1 431"), "{answer}");
    let (answer, _) = said(&server, head("GET /api", &"X-Many: a\r\n".repeat(200)).as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
    // The answer comes before the body does, and the connection ends instead of taking it.
    let more = "Content-Type: application/json\r\nContent-Length: 4000000000\r\n";
    let (answer, took) = said(&server, head(&format!("POST {MAPS}"), more).as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 413") && took < Duration::from_secs(5), "{took:?}: {answer}");
    // Chunks without end are read only as far as a body may go.
    let more = "Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n";
    let chunk = format!("100000\r\n{}\r\n", " ".repeat(1 << 20));
    let (answer, _) = said(&server, format!("{}{}", head(&format!("POST {MAPS}"), more), chunk.repeat(4)).as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    server.stop().await;
}

#[tokio::test]
async fn a_head_that_comes_byte_by_byte_is_not_waited_for() {
    let server = Served::start(Options::default()).await;
    let trickle = async {
        let mut connection = raw(&server).await;
        let began = Instant::now();
        let (mut read, mut write) = tokio::io::split(&mut connection);
        let ended = async {
            let mut answer = Vec::new();
            let _ = read.read_to_end(&mut answer).await;
        };
        let slow = async {
            for byte in b"GET /api HTTP/1.1\r\nHost: localhost\r\nX-Slow: aaaaaaaaaaaaaaaaaaaaaaaaaaaaa".iter().cycle() {
                let _ = write.write_all(&[*byte]).await;
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        };
        tokio::select! { () = ended => {}, () = slow => {} }
        began.elapsed()
    };
    let no_tls = async {
        let mut connection = TcpStream::connect(address(&server)).await.expect("the server listens");
        let began = Instant::now();
        let mut answer = Vec::new();
        let _ = connection.read_to_end(&mut answer).await;
        began.elapsed()
    };
    let silent = async {
        let mut connection = raw(&server).await;
        let began = Instant::now();
        let mut answer = Vec::new();
        let _ = connection.read_to_end(&mut answer).await;
        began.elapsed()
    };
    let (trickle, no_tls, silent) = tokio::join!(trickle, no_tls, silent);
    for (what, took) in [("byte by byte", trickle), ("no TLS", no_tls), ("nothing", silent)] {
        assert!((Duration::from_secs(9)..Duration::from_secs(13)).contains(&took), "{what}: {took:?}");
    }
    server.stop().await;
}

#[tokio::test]
async fn thousands_of_idle_connections_shut_nobody_out() {
    let server = Served::start(Options::default()).await;
    let mut watch = server.watch(&format!("{MAPS}?watch=1")).await;
    let mut idle = Vec::new();
    for _ in 0..5000 {
        // The oldest ones have had to make room.
        idle.push(TcpStream::connect(address(&server)).await.expect("the server listens"));
    }
    let began = Instant::now();
    let fresh = server.alone();
    let health = fresh.http.get(format!("{}/healthz", fresh.url)).send().await.expect("the server answers");
    assert_eq!(health.status().as_u16(), 200);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    server.post(MAPS, &json!({"metadata": {"name": "a"}})).await;
    assert_eq!(watch.named().await, ("ADDED".into(), "a".into()), "whoever is busy stays");
    drop(idle);
    server.stop().await;
}
