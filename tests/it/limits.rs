//! What a client may take: how large, how deep, how slow, how many. Each is refused with a reason, early, and others are served.

use crate::process::{ANY_PORTS, Hub};
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

/// What is too large, too deep or no document: what it is, its type, its body, and how it is refused.
fn oversize() -> Vec<(&'static str, &'static str, String, u16)> {
    let mut all = Vec::new();
    all.push(("a body", JSON, " ".repeat(3 * 1024 * 1024 + 1), 413));
    all.push(("a million values", JSON, format!("{{\"data\":[{}0]}}", "0,".repeat(1_000_000)), 413));
    let labels: Vec<String> = (0..200_000).map(|n| format!("\"k{n}\":\"\"")).collect();
    all.push(("labels", JSON, format!("{{\"metadata\":{{\"name\":\"a\",\"labels\":{{{}}}}}}}", labels.join(",")), 413));
    let wrong: Vec<String> = (0..90_000).map(|n| format!("\"-{n}\":\"-\"")).collect();
    all.push(("wrong labels", JSON, format!("{{\"metadata\":{{\"name\":\"a\",\"labels\":{{{}}}}}}}", wrong.join(",")), 422));
    all.push(("nesting", JSON, format!("{}{}", "[".repeat(10_000), "]".repeat(10_000)), 400));
    all.push(("nested objects", JSON, "{\"a\":".repeat(10_000), 400));
    all.push(("a name", JSON, json!({"metadata": {"name": "n".repeat(1_000_000)}}).to_string(), 422));
    all.push(("a long key above many values", JSON, format!("{{\"{}\":[{}0]}}", "k".repeat(1 << 20), "0,".repeat(90_000)), 422));
    let bomb = format!(
        "a: &a [x,x,x,x,x,x,x,x,x]\n{}",
        (b'b'..=b'j')
            .map(|c| {
                let (this, before) = (char::from(c), char::from(c - 1));
                format!("{this}: &{this} [{}]\n", vec![format!("*{before}"); 9].join(","))
            })
            .collect::<String>()
    );
    all.push(("an alias bomb", "application/yaml", bomb, 413));
    all.push(("YAML", "application/yaml", format!("a: [{}0]", "0,".repeat(200_000)), 413));
    all.push(("nested YAML", "application/yaml", "[".repeat(10_000), 400));
    all.push(("no number", "application/yaml", "metadata: {name: a}\ndata: {a: .nan}".into(), 400));
    all.push(("multipart", "multipart/form-data; boundary=x", "--x--".into(), 415));
    all
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
    for (what, content_type, body, expect) in oversize() {
        refused(what, content_type, body, expect).await;
    }
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

/// Bytes of a process's memory now, and at its largest since it was last asked to forget that.
fn memory(process: u32) -> (u64, u64) {
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
    let bytes = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("Linux says it");
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
    };
    (bytes("VmRSS:"), bytes("VmHWM:"))
}

/// A3: what is refused takes no more memory than the limit while it is refused, and leaves none behind.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_too_large_takes_little_memory() {
    const MOST: u64 = 16 << 20;
    rustls::crypto::ring::default_provider().install_default().ok();
    let data = tempfile::tempdir().unwrap();
    let hub = tokio::task::block_in_place(|| Hub::start(data.path(), &ANY_PORTS).serves());
    let (server, process) = (Client::open(data.path()), hub.child.id());
    let ordinary = json!({"metadata": {"name": "a"}, "data": {"k": "v".repeat(1 << 10)}});
    assert_eq!(server.post(MAPS, &ordinary).await.0, 201);
    assert_eq!(server.get(MAPS).await.0, 200);
    // Once before it counts: the first also pays for what is allocated at first need.
    for (what, content_type, body, expect) in oversize() {
        let (code, _) = server.send(server.request(Method::POST, MAPS).header(header::CONTENT_TYPE, content_type).body(body)).await;
        assert_eq!(code, expect, "{what}");
    }
    let mut largest = (0, "");
    let mut took = |what: &'static str, before: u64| {
        let (_, peak) = memory(process);
        eprintln!("{what}: {} KiB", peak.saturating_sub(before) >> 10);
        largest = largest.max((peak.saturating_sub(before), what));
    };
    let forget = || {
        std::fs::write(format!("/proc/{process}/clear_refs"), "5").unwrap();
        memory(process).0
    };
    let head =
        |line: &str, more: &str| format!("{line} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\n{more}\r\n", server.token);
    let json = "Content-Type: application/json\r\n";
    let endless = format!("100000\r\n{}\r\n", " ".repeat(1 << 20)).repeat(8);
    let mut left = Vec::new();
    // What is allocated at first need is allocated in the first rounds, and the allocator keeps some of what it was given back; what
    // leaks does so in each.
    let settled = |left: &[u64]| left.windows(2).any(|rounds| rounds[1] <= rounds[0] + (MOST >> 2));
    while left.len() < 6 && !settled(&left) {
        for (what, content_type, body, expect) in oversize() {
            let before = forget();
            let (code, _) = server.send(server.request(Method::POST, MAPS).header(header::CONTENT_TYPE, content_type).body(body)).await;
            assert_eq!(code, expect, "{what}");
            took(what, before);
        }
        for (what, text) in [
            ("a header", head("GET /api", &format!("X-Long: {}\r\n", "a".repeat(8 << 20)))),
            ("headers", head("GET /api", &"X-Many: a\r\n".repeat(1_000_000))),
            ("a URL", head(&format!("GET /{}", "a".repeat(8 << 20)), "")),
            ("chunks without end", head(&format!("POST {MAPS}"), &format!("{json}Transfer-Encoding: chunked\r\n")) + &endless),
            ("a length", head(&format!("POST {MAPS}"), &format!("{json}Content-Length: 4000000000\r\n")) + &endless),
            (
                "a compressed body",
                head(&format!("POST {MAPS}"), &format!("{json}Content-Encoding: gzip\r\nContent-Length: 9\r\n")) + "123456789",
            ),
        ] {
            let before = forget();
            let mut connection = raw(&server).await;
            // It need not read all of it.
            let _ = connection.write_all(text.as_bytes()).await;
            let mut answer = vec![0; 4096];
            let read = tokio::time::timeout(Duration::from_secs(20), connection.read(&mut answer)).await.expect("it answers or ends");
            let answer = String::from_utf8_lossy(&answer[..read.unwrap_or_default()]).into_owned();
            assert!(answer.is_empty() || ["413", "414", "415", "431", "400"].iter().any(|code| answer.contains(code)), "{what}: {answer}");
            took(what, before);
        }
        left.push(memory(process).0);
    }
    eprintln!("{left:?} bytes are left");
    assert!(largest.0 <= MOST, "{} took {} MiB", largest.1, largest.0 >> 20);
    assert!(settled(&left), "more is left from round to round: {left:?}");
    assert_eq!(tokio::task::block_in_place(|| hub.terminate()).0, Some(0));
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
