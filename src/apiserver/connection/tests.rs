use super::{Activity, Answer, Connections, Counted, Limits, PIECE, Place, Watched};
use crate::clock::Clock;
use axum::body::Body;
use http_body_util::BodyExt;
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::{
    net::IpAddr,
    sync::atomic::{AtomicU64, Ordering},
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

const PEER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

fn connections(most: usize, from_one: usize) -> Arc<Connections> {
    let limits =
        Limits { head: Duration::from_secs(10), idle: Duration::from_secs(90), stall: Duration::from_mins(1), connections: most, from_one };
    Arc::new(Connections { limits, clock: Clock::system(), open: Mutex::default(), next: AtomicU64::new(0) })
}

fn connection() -> (DuplexStream, Watched<DuplexStream>, Arc<Activity>) {
    connection_of(64)
}

/// Through a pipe of so many bytes.
fn connection_of(bytes: usize) -> (DuplexStream, Watched<DuplexStream>, Arc<Activity>) {
    let (client, server) = tokio::io::duplex(bytes);
    let place = connections(9, 9).take(PEER).unwrap();
    let activity = place.activity.clone();
    (client, Watched::new(server, place), activity)
}

fn begin(activity: &Arc<Activity>) -> Answer {
    activity.begun.fetch_add(1, Ordering::SeqCst);
    Answer::of(activity.clone())
}

/// Seconds until the server takes the connection for ended, while the client sends a byte every `every` seconds.
async fn ends_after(client: &mut DuplexStream, server: &mut Watched<DuplexStream>, every: Option<u64>) -> u64 {
    let began = tokio::time::Instant::now();
    let trickle = async {
        loop {
            tokio::time::sleep(Duration::from_secs(every.unwrap_or(100_000))).await;
            client.write_all(b"x").await.unwrap();
        }
    };
    let read = async { while server.read(&mut [0; 8]).await.unwrap() > 0 {} };
    tokio::select! { () = trickle => unreachable!("it never ends"), () = read => {} }
    began.elapsed().as_secs()
}

#[tokio::test(start_paused = true)]
async fn a_client_may_be_idle_but_not_slow_with_a_request() {
    let (mut client, mut server, _) = connection();
    assert_eq!(ends_after(&mut client, &mut server, None).await, 10, "a new connection makes a request");
    let (mut client, mut server, _) = connection();
    assert_eq!(ends_after(&mut client, &mut server, Some(1)).await, 10, "and not byte by byte");

    let (mut client, mut server, activity) = connection();
    drop(begin(&activity));
    assert_eq!(ends_after(&mut client, &mut server, None).await, 90, "between two requests there is time");
    let (mut client, mut server, activity) = connection();
    drop(begin(&activity));
    assert_eq!(ends_after(&mut client, &mut server, Some(5)).await, 15, "but the next one is not to be slow");

    let (mut client, mut server, activity) = connection();
    activity.multiplexed.store(true, Ordering::SeqCst);
    drop(begin(&activity));
    assert_eq!(ends_after(&mut client, &mut server, Some(50)).await, 90, "pings are no request");
}

#[tokio::test(start_paused = true)]
async fn while_a_request_runs_nothing_ends() {
    let (_client, mut server, activity) = connection();
    let running = begin(&activity);
    let read = tokio::time::timeout(Duration::from_secs(10_000), server.read_u8()).await;
    assert!(read.is_err(), "a watch lasts");
    drop(running);
    assert_eq!(server.read(&mut [0; 8]).await.unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_client_that_takes_nothing_is_cut() {
    let (mut client, mut server, activity) = connection();
    let _running = begin(&activity);
    let began = tokio::time::Instant::now();
    // As long as some of it is taken, it goes on.
    let slow = async {
        for _ in 0..5 {
            tokio::time::sleep(Duration::from_secs(50)).await;
            client.read_exact(&mut [0; 64]).await.unwrap();
        }
        std::future::pending::<()>().await;
    };
    let write = async { server.write_all(&[0; 1000]).await.unwrap_err().kind() };
    let kind = tokio::select! { kind = write => kind, () = slow => unreachable!("it never ends") };
    assert_eq!((kind, began.elapsed().as_secs()), (std::io::ErrorKind::TimedOut, 310));
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_nobody_reads_ends_its_connection_though_others_are_read() {
    let (_client, mut server, activity) = connection();
    activity.multiplexed.store(true, Ordering::SeqCst);
    let mut read = begin(&activity).with(vec![1; 1000 * PIECE].into());
    let mut unread = begin(&activity).with(vec![2; 3 * PIECE].into());
    let began = tokio::time::Instant::now();
    let others = async {
        // For a while it is taken, too.
        for _ in 0..2 {
            assert_eq!(unread.frame().await.unwrap().unwrap().into_data().unwrap().len(), PIECE);
            tokio::time::sleep(Duration::from_secs(50)).await;
        }
        while read.frame().await.is_some() {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    let end = async { server.read(&mut [0; 8]).await.unwrap() };
    tokio::select! { end = end => assert_eq!(end, 0), () = others => unreachable!("it is not ended") }
    let took = began.elapsed().as_secs();
    assert!((110..=170).contains(&took), "{took} s");
    drop((read, unread));
    assert_eq!(activity.waiting.oldest_and_newest().0, None);
}

/// Requests of a real HTTP/2 client to a real HTTP/2 server, over a pipe. `/long` never ends, and counts its pieces.
#[tokio::test(start_paused = true)]
async fn a_real_client_that_leaves_one_stream_unread_loses_its_connection_and_no_memory() {
    let (client, server, activity) = connection_of(1 << 16);
    let made = Arc::new(AtomicU64::new(0));
    let counted = made.clone();
    let answers = tower::service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        let made = counted.clone();
        async move {
            let piece = move || {
                made.fetch_add(1, Ordering::SeqCst);
                Ok::<_, std::convert::Infallible>(vec![0_u8; PIECE])
            };
            let long = futures::stream::repeat_with(piece);
            let body = if request.uri().path() == "/long" { Body::from_stream(long) } else { Body::from("short") };
            Ok::<_, std::convert::Infallible>(hyper::Response::new(body))
        }
    });
    let service = hyper_util::service::TowerToHyperService::new(Counted { inner: answers, activity: activity.clone() });
    let serving = tokio::spawn(async move {
        let mut builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
        builder.http2().max_send_buf_size(PIECE);
        let _ = builder.serve_connection(TokioIo::new(server), service).await;
    });
    let mut builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
    let (mut requests, connection) = builder.initial_stream_window_size(1 << 16).handshake::<_, Body>(TokioIo::new(client)).await.unwrap();
    tokio::spawn(connection);
    let get = |path: &str| hyper::Request::get(format!("http://hub{path}")).body(Body::empty()).unwrap();
    let unread = requests.send_request(get("/long")).await.unwrap();
    let began = tokio::time::Instant::now();
    loop {
        tokio::time::sleep(Duration::from_secs(5)).await;
        assert!(began.elapsed().as_secs() < 130, "it is not cut");
        let Ok(answer) = requests.send_request(get("/short")).await else { break };
        let Ok(body) = answer.into_body().collect().await else { break };
        assert_eq!(body.to_bytes(), "short", "the others are answered");
    }
    assert!(began.elapsed().as_secs() >= 60, "{:?}", began.elapsed());
    assert!(made.load(Ordering::SeqCst) <= 4, "{made:?} pieces were made for nobody");
    serving.await.unwrap();
    assert_eq!((activity.running.load(Ordering::SeqCst), activity.waiting.oldest_and_newest().0), (0, None));
    drop(unread);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_is_only_slow_to_come_ends_nothing() {
    let (_client, mut server, activity) = connection();
    activity.multiplexed.store(true, Ordering::SeqCst);
    let pieces = futures::stream::unfold(0, |n| async move {
        tokio::time::sleep(Duration::from_secs(1000)).await;
        (n < 3).then_some((Ok::<_, std::convert::Infallible>("x"), n + 1))
    });
    let mut answer = begin(&activity).with(Body::from_stream(pieces));
    let take = async { while answer.frame().await.is_some() {} };
    tokio::select! { _ = server.read_u8() => unreachable!("it is ended"), () = take => {} }
}

#[test]
fn the_oldest_idle_connection_makes_room() {
    let all = connections(3, 2);
    let other: IpAddr = "127.0.0.2".parse().unwrap();
    let of = |peer| all.take(peer);
    let ended = |place: &Place| place.end.is_cancelled();
    let (first, second) = (of(PEER).unwrap(), of(PEER).unwrap());
    let busy = begin(&first.activity);
    let third = of(PEER).unwrap();
    assert!(!ended(&first) && ended(&second), "the oldest one is busy");
    let fourth = of(other).unwrap();
    assert!(!ended(&third), "there is room for all of them");
    let fifth = of(other).unwrap();
    assert!(ended(&third), "now there is not");
    let _busy = (busy, begin(&fourth.activity), begin(&fifth.activity));
    assert!(of("127.0.0.3".parse().unwrap()).is_err(), "all are busy");
    drop(second);
    drop(fifth);
    assert!(of(PEER).is_ok(), "one has gone");
}
