//! `autovibe bench gateway`: what the gateway adds to a model call, against the same calls of the same provider without it.

use super::caller::{Caller, Size, Times};
use super::place::{Appended, Place};
use super::proc::resident;
use super::report::{Figure, Report, Target, Unit};
use super::samples::Samples;
use super::stage::{create_hub, create_machine, mint};
use super::upstream::Upstream;
use super::watch::HUB;
use crate::cli::{Context, up::process::Hub};
use crate::clock::Clock;
use crate::objects::{Cipher, Objects};
use crate::store::Store;
use anyhow::Context as _;
use serde_json::json;
use std::ffi::OsStr;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Calls at once.
const CONCURRENCY: [usize; 2] = [1, 16];
/// Direct and through the gateway take turns in so many blocks, so that what else the machine does meets both.
const BLOCKS: u32 = 10;
/// Between two calls of one agent alone: its tools take longer, and meanwhile the call before is settled.
const PAUSE: Duration = Duration::from_millis(10);
/// How long a hub that was just started gets to come to rest.
const REST: Duration = Duration::from_secs(3);
/// A hub's memory at rest. Source: the comparison with other API servers that the project began with.
const IDLE_MEBIBYTES: f64 = 50.0;

/// Measures what the gateway adds to model calls, and the hub's memory before and after them.
#[derive(Debug, clap::Args)]
pub(super) struct Gateway {
    /// How many calls of each kind, direct and through the gateway each
    #[arg(long, default_value_t = 400, value_parser = clap::value_parser!(u32).range(1..))]
    calls: u32,
}

/// One kind of call.
#[derive(Clone, Copy, Debug)]
struct Case {
    size: Size,
    stream: bool,
    concurrency: usize,
}

impl Gateway {
    pub(super) async fn run(&self, context: &Context) -> anyhow::Result<Report> {
        let place = Place::new(context, "gateway")?;
        let clock = Clock::system();
        let upstream = Upstream::start().await?;
        let tokens = prepare(place.path(), &upstream, &clock).await?;
        let hub = Hub::start(place.path(), &HUB.map(OsStr::new), &clock).await?;
        clock.sleep(REST).await;
        let idle = resident(hub.pid().context("the hub has ended")?)?;
        let gateway = hub.gateway()?;
        let mut appended = Appended::new(place.path())?;
        let mut syncs = Vec::new();
        let mut figures = Vec::new();
        for size in [Size::Small, Size::Large] {
            for stream in [false, true] {
                for concurrency in CONCURRENCY {
                    let case = Case { size, stream, concurrency };
                    let durable = syncs.is_empty().then_some((&mut appended, &mut syncs));
                    figures.extend(self.compare(case, gateway, upstream.address, &tokens, durable).await?);
                }
            }
        }
        let after = resident(hub.pid().context("the hub has ended")?)?;
        hub.stop().await?;
        // The first figure is the least call: what is added to it is what every call pays.
        let added = figures.first().map_or(0.0, Figure::over_baseline);
        let added = Figure::new("added to the least call, p50", added, Unit::Milliseconds);
        figures.push(added.against(Appended::NAME, Samples::of(&syncs).p50()));
        figures.push(Figure::new("hub's memory (RSS) at rest", idle, Unit::Mebibytes).target(Target::AtMost(IDLE_MEBIBYTES, "")));
        figures.push(Figure::new("hub's memory (RSS) after all calls", after, Unit::Mebibytes).against("at rest", idle));
        let notes = vec![
            format!("{} calls of each kind, direct and through the gateway in turns", self.calls),
            format!("1 at once: {} ms between two calls, as an agent's tools take time; 16 at once: one call after the other", PAUSE.as_millis()),
            "the gateway runs in a child process, `autovibe up`; agents and provider share this process, and the processors with the gateway".into(),
            "each call through the gateway is reserved durably before it is forwarded, on a connection of its own; direct ones keep theirs".into(),
            "at 16 at once the provider and the agents wait for a processor too: read those as capacity, not as added time".into(),
        ];
        Ok(Report { bench: "gateway", notes, figures })
    }

    /// Where `durable` is given, durable appends take their turn too.
    async fn compare(
        &self,
        case: Case,
        gateway: SocketAddr,
        upstream: SocketAddr,
        tokens: &[String],
        mut durable: Option<(&mut Appended, &mut Vec<Duration>)>,
    ) -> anyhow::Result<Vec<Figure>> {
        let through = callers(gateway, tokens, case.concurrency)?;
        let direct = callers(upstream, tokens, case.concurrency)?;
        let (mut direct_times, mut through_times) = (Vec::new(), Vec::new());
        let calls = (self.calls / BLOCKS).max(1);
        // The first block makes connections and fills caches.
        for block in 0..=BLOCKS {
            let (without, with) = (load(&direct, case, calls).await?, load(&through, case, calls).await?);
            if let Some((appended, times)) = &mut durable {
                for _ in 0..calls {
                    // At the calls' own pace: many disks take longer for syncs that follow each other at once.
                    Clock::system().sleep(PAUSE).await;
                    times.push(appended.append()?);
                }
            }
            if block > 0 {
                direct_times.extend(without);
                through_times.extend(with);
            }
        }
        let name = format!("{}, {}, {} at once", case.size.name(), if case.stream { "stream" } else { "whole" }, case.concurrency);
        let figure = |what: &str, percent: usize, time: fn(&Times) -> Duration| {
            let [direct, through] = [&direct_times, &through_times].map(|times| Samples::of(&times.iter().map(time).collect::<Vec<_>>()));
            Figure::new(format!("{name}: {what}p{percent}"), through.percentile(percent), Unit::Milliseconds)
                .against("direct", direct.percentile(percent))
        };
        let whole: fn(&Times) -> Duration = |times| times.whole;
        let mut figures = vec![figure("", 50, whole), figure("", 99, whole)];
        if case.stream {
            figures.insert(0, figure("first byte ", 50, |times| times.first));
        }
        Ok(figures)
    }
}

/// Writes what the hub is to find when it starts: providers, and Machines with tokens, as many as call at once. There are no
/// VMs behind them, so nothing is checkpointed.
async fn prepare(data: &Path, upstream: &Upstream, clock: &Clock) -> anyhow::Result<Vec<String>> {
    let store = Store::open(&data.join("autovibe.db")).await?;
    let objects = Objects::new(store.clone(), clock.clone(), Cipher::load(&data.join("secrets.key"))?);
    objects.ensure_presets().await?;
    create_hub(&objects, json!([]), json!([upstream.provider()])).await?;
    let mut tokens = Vec::new();
    for number in 0..CONCURRENCY[1] {
        let spec = json!({
            "from": { "image": "none" }, "goal": { "prompt": "work" }, "agent": { "type": "Command", "command": ["true"] },
            "checkpoints": {
                "betweenMessages": "Disabled", "afterFileOperations": "Disabled",
                "beforeRiskyOperations": "Disabled", "atBreakpoints": "Disabled",
            },
            "budget": { "limits": { "money": { "amount": "1000000", "currency": "USD" }, "apiCalls": 1_000_000_000 } },
        });
        let machine = create_machine(&objects, &format!("bench-{number}"), spec).await?;
        tokens.push(mint(&store, &machine).await?);
    }
    store.close().await;
    Ok(tokens)
}

fn callers(address: SocketAddr, tokens: &[String], count: usize) -> anyhow::Result<Vec<Arc<Caller>>> {
    tokens.iter().take(count).map(|token| Caller::new(address, token).map(Arc::new)).collect()
}

/// All callers at once, together `calls` times.
async fn load(callers: &[Arc<Caller>], case: Case, calls: u32) -> anyhow::Result<Vec<Times>> {
    let each = (calls as usize).div_ceil(callers.len());
    let work = callers.iter().cloned().map(|caller| {
        tokio::spawn(async move {
            let mut times = Vec::with_capacity(each);
            for _ in 0..each {
                if case.concurrency == 1 {
                    Clock::system().sleep(PAUSE).await;
                }
                times.push(caller.call(case.size, case.stream).await?);
            }
            anyhow::Ok(times)
        })
    });
    let done: Vec<Vec<Times>> = futures::future::try_join_all(work).await?.into_iter().collect::<anyhow::Result<_>>()?;
    Ok(done.into_iter().flatten().collect())
}
