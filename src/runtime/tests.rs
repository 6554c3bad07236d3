//! The queue under tokio's paused time.

use super::*;
use futures::FutureExt;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use tokio::sync::mpsc;

type Behaviour = Arc<dyn Fn(Key, u32) -> futures::future::BoxFuture<'static, Result<Requeue, String>> + Send + Sync>;

struct Bench {
    send: mpsc::UnboundedSender<Key>,
    shutdown: CancellationToken,
    /// Key → starts, as time since the bench was made.
    starts: Arc<Mutex<BTreeMap<String, Vec<Duration>>>>,
    task: tokio::task::JoinHandle<()>,
}

/// Runs the queue; `behaviour` gets the key and the number of its call, counted from 1.
fn bench(concurrency: usize, behaviour: Behaviour) -> Bench {
    let (send, receive) = mpsc::unbounded_channel();
    let events = futures::stream::unfold(receive, |mut receive| async { receive.recv().await.map(|key| (key, receive)) }).boxed();
    let starts: Arc<Mutex<BTreeMap<String, Vec<Duration>>>> = Arc::default();
    let shutdown = CancellationToken::new();
    let (begin, seen) = (Instant::now(), Arc::clone(&starts));
    let reconcile = move |key: Key| {
        let mut seen = seen.lock().unwrap();
        let calls = seen.entry(key.name.clone()).or_default();
        calls.push(begin.elapsed());
        behaviour(key, u32::try_from(calls.len()).unwrap())
    };
    let task = tokio::spawn(run("Thing", concurrency, events, reconcile, Clock::system(), shutdown.clone()));
    Bench { send, shutdown, starts, task }
}

impl Bench {
    fn wake(&self, name: &str) {
        self.wake_in("ns", name);
    }
    fn wake_in(&self, namespace: &str, name: &str) {
        self.send.send(Key::new(namespace, name)).unwrap();
    }
    fn starts(&self, name: &str) -> Vec<Duration> {
        self.starts.lock().unwrap().get(name).cloned().unwrap_or_default()
    }
    async fn stop(self) {
        self.shutdown.cancel();
        self.task.await.unwrap();
    }
}

fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn takes(time: Duration) -> Behaviour {
    Arc::new(move |_, _| {
        async move {
            tokio::time::sleep(time).await;
            Ok(Requeue::Never)
        }
        .boxed()
    })
}

#[tokio::test(start_paused = true)]
async fn a_burst_becomes_one_reconcile_and_one_more_for_what_came_meanwhile() {
    let bench = bench(4, takes(ms(100)));
    for _ in 0..50 {
        bench.wake("a");
    }
    tokio::time::sleep(ms(10)).await;
    assert_eq!(bench.starts("a").len(), 1);
    for _ in 0..50 {
        bench.wake("a");
    }
    tokio::time::sleep(ms(1000)).await;
    let starts = bench.starts("a");
    assert_eq!(starts.len(), 2, "{starts:?}");
    assert!(starts[1] >= starts[0] + ms(100), "the same key ran twice at once: {starts:?}");
    bench.stop().await;
}

#[tokio::test(start_paused = true)]
async fn no_more_keys_run_at_once_than_allowed() {
    let (now, most) = (Arc::new(Mutex::new(0)), Arc::new(Mutex::new(0)));
    let (n, m) = (Arc::clone(&now), Arc::clone(&most));
    let bench = bench(
        3,
        Arc::new(move |_, _| {
            let (n, m) = (Arc::clone(&n), Arc::clone(&m));
            async move {
                {
                    let (mut running, mut most) = (n.lock().unwrap(), m.lock().unwrap());
                    *running += 1;
                    *most = (*running).max(*most);
                }
                tokio::time::sleep(ms(10)).await;
                *n.lock().unwrap() -= 1;
                Ok(Requeue::Never)
            }
            .boxed()
        }),
    );
    for n in 0..20 {
        bench.wake(&format!("k{n}"));
    }
    tokio::time::sleep(ms(1000)).await;
    assert_eq!(bench.starts.lock().unwrap().len(), 20);
    assert_eq!(*most.lock().unwrap(), 3);
    bench.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_earliest_requeue_wins() {
    let bench = bench(1, Arc::new(|_, call| async move { Ok(if call == 1 { Requeue::After(ms(5000)) } else { Requeue::Never }) }.boxed()));
    bench.wake("a");
    tokio::time::sleep(ms(1000)).await;
    bench.wake("a");
    tokio::time::sleep(ms(20_000)).await;
    // The event at 1 s took the place of the requeue at 5 s.
    let starts = bench.starts("a");
    assert_eq!(starts.len(), 2, "{starts:?}");
    assert!(starts[1] < ms(1500), "{starts:?}");
    bench.stop().await;
}

#[tokio::test(start_paused = true)]
async fn failures_back_off_and_success_resets() {
    let bench = bench(
        1,
        Arc::new(|_, call| async move { if call <= 4 || call == 6 { Err("no".into()) } else { Ok(Requeue::After(ms(1))) } }.boxed()),
    );
    bench.wake("a");
    tokio::time::sleep(ms(60_000)).await;
    let starts = bench.starts("a");
    let waits: Vec<Duration> = starts.windows(2).map(|pair| pair[1].checked_sub(pair[0]).unwrap()).collect();
    for (index, whole) in [500, 1000, 2000, 4000].into_iter().enumerate() {
        assert!(waits[index] >= ms(whole / 2) && waits[index] <= ms(whole + 5), "wait {index}: {:?}", waits[index]);
    }
    // Call 5 succeeded, call 6 failed: its wait is the first one again.
    assert!(waits[5] >= ms(250) && waits[5] <= ms(505), "{:?}", waits[5]);
    bench.stop().await;
}

#[test]
fn backoff_is_bounded() {
    assert_eq!(backoff(1, 1.0), ms(500));
    assert_eq!(backoff(1, 0.0), ms(250));
    assert_eq!(backoff(4, 1.0), ms(4000));
    assert_eq!(backoff(u32::MAX, 1.0), BACKOFF_MAX);
    assert_eq!(backoff(40, 0.0), BACKOFF_MAX / 2);
}

/// How often a reconcile that wakes itself and ends so runs in 10 s.
async fn self_waking(ends: Result<Requeue, &'static str>) -> u32 {
    let (send, receive) = mpsc::unbounded_channel::<Key>();
    let events = futures::stream::unfold(receive, |mut receive| async { receive.recv().await.map(|key| (key, receive)) }).boxed();
    let calls = Arc::new(Mutex::new(0));
    let (count, again) = (Arc::clone(&calls), send.clone());
    let reconcile = move |key: Key| {
        *count.lock().unwrap() += 1;
        again.send(key).unwrap();
        async move { ends }
    };
    let shutdown = CancellationToken::new();
    let task = tokio::spawn(run("Thing", 1, events, reconcile, Clock::system(), shutdown.clone()));
    send.send(Key::new("", "a")).unwrap();
    tokio::time::sleep(ms(10_000)).await;
    shutdown.cancel();
    task.await.unwrap();
    *calls.lock().unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_reconcile_that_fails_or_is_refused_and_wakes_itself_does_not_spin() {
    for ends in [Err("no"), Ok(Requeue::Refused(ms(30_000)))] {
        let calls = self_waking(ends).await;
        assert!((5..=21).contains(&calls), "{ends:?}: {calls} calls in 10 s");
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_refused_is_tried_again_in_its_time() {
    let bench = bench(1, Arc::new(|_, _| async { Ok(Requeue::Refused(ms(3000))) }.boxed()));
    bench.wake("a");
    tokio::time::sleep(ms(10_000)).await;
    assert_eq!(bench.starts("a").len(), 4, "{:?}", bench.starts("a"));
    bench.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_panic_is_one_failure_of_one_key() {
    let bench = bench(
        2,
        Arc::new(|key, call| {
            async move {
                assert!(key.name != "bad" || call > 1, "planted");
                Ok(Requeue::Never)
            }
            .boxed()
        }),
    );
    bench.wake("bad");
    bench.wake("good");
    tokio::time::sleep(ms(2000)).await;
    assert_eq!(bench.starts("good").len(), 1);
    assert_eq!(bench.starts("bad").len(), 2, "tried again after the panic");
    bench.stop().await;
}

#[tokio::test(start_paused = true)]
async fn shutdown_lets_the_running_finish_and_starts_nothing_new() {
    let ended = Arc::new(Mutex::new(Vec::new()));
    let seen = Arc::clone(&ended);
    let bench = bench(
        1,
        Arc::new(move |key, _| {
            let seen = Arc::clone(&seen);
            async move {
                tokio::time::sleep(ms(100)).await;
                seen.lock().unwrap().push(key.name);
                Ok(Requeue::Never)
            }
            .boxed()
        }),
    );
    bench.wake("a");
    bench.wake("b");
    tokio::time::sleep(ms(50)).await;
    bench.stop().await;
    assert_eq!(*ended.lock().unwrap(), ["a"]);
}

#[test]
fn a_failed_look_is_not_an_absence() {
    assert_eq!(Seen::from_lookup::<&str>(Ok(None::<u8>)), Seen::Absent);
    assert_eq!(Seen::from_lookup(Err::<Option<u8>, _>("time-out")), Seen::Unknown { why: "time-out".into() });
    assert_eq!(Requeue::Never.earlier(Requeue::After(ms(3))).earlier(Requeue::After(ms(2))), Requeue::After(ms(2)));
    assert_eq!(Requeue::Refused(ms(3)).earlier(Requeue::After(ms(2))), Requeue::Refused(ms(2)));
}

#[tokio::test(start_paused = true)]
async fn a_burst_in_one_namespace_does_not_keep_another_waiting() {
    let bench = bench(4, takes(ms(100)));
    for number in 0..200 {
        bench.wake_in("crowd", &format!("c{number}"));
    }
    tokio::time::sleep(ms(10)).await;
    for name in ["one", "two"] {
        bench.wake_in("few", name);
    }
    tokio::time::sleep(ms(15_000)).await;
    let started = |name: &str| bench.starts(name)[0];
    assert!(started("one") <= ms(110) && started("two") <= ms(110), "{:?}", (started("one"), started("two")));
    assert!(started("c199") >= ms(4_900));
    bench.stop().await;
}
