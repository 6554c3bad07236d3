//! `autovibe bench gateway`: what the gateway adds to a model call, against the same calls of the same provider without it, and
//! through other gateways.

use super::caller::{Caller, Size, Times};
use super::peers::{self, Peer};
use super::place::{Appended, Place};
use super::proc::{processor_time, resident};
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
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Between two events of such an answer.
const PACE: Duration = Duration::from_millis(20);
/// The sides take turns in so many blocks, so that what else the machine does meets all.
const BLOCKS: u32 = 10;
/// Each of a crowd asks so often in a block.
const ROUNDS: usize = 4;
/// Between two calls of one agent alone: its tools take longer, and meanwhile the call before is settled.
const PAUSE: Duration = Duration::from_millis(10);
/// How long a hub that was just started gets to come to rest.
const REST: Duration = Duration::from_secs(3);
/// A hub's memory at rest. Source: the comparison with other API servers that the project began with.
const IDLE_MEBIBYTES: f64 = 50.0;

/// Measures what the gateway adds to model calls, and the hub's memory before and after them.
#[derive(Debug, clap::Args)]
pub(super) struct Gateway {
    /// How many calls one agent alone makes of each kind, direct and through each gateway
    #[arg(long, default_value_t = 400, value_parser = clap::value_parser!(u32).range(1..))]
    calls: u32,
    /// How many agents ask at once, each as fast as it can
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(2..=512))]
    crowd: u32,
    /// How many agents at once are answered at a model's pace
    #[arg(long, default_value_t = 128, value_parser = clap::value_parser!(u32).range(1..=512))]
    paced: u32,
    /// Where `images/install-peers` put the gateways to compare with
    #[arg(long, value_name = "DIR", default_value = "target/peers")]
    peers: PathBuf,
}

/// How agents ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Load {
    /// One, and after each answer its tools take time.
    Alone,
    /// Several at once, as fast as they can.
    Crowd,
    /// Several at once, whose answers come as slowly as a model writes.
    Paced,
}

/// One kind of call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Case {
    size: Size,
    stream: bool,
    load: Load,
    /// Agents at once.
    agents: usize,
}

impl Case {
    fn name(self) -> String {
        let how = match (self.load, self.stream) {
            (Load::Paced, _) => "paced stream",
            (_, true) => "stream",
            (_, false) => "whole",
        };
        format!("{}, {how}, {} at once", self.size.name(), self.agents)
    }
}

/// A way to the provider.
struct Side {
    name: &'static str,
    /// Of the process between, where there is one.
    pid: Option<u32>,
    callers: Vec<Arc<Caller>>,
    /// It is asked only each so many times as often as the others.
    seldom: u32,
}

/// What came of one kind of calls on one side.
#[derive(Debug, Default)]
struct Measured {
    times: Vec<Times>,
    took: Duration,
    worked: Duration,
}

impl Measured {
    fn percentile(&self, percent: usize, time: fn(&Times) -> Duration) -> f64 {
        Samples::of(&self.times.iter().map(time).collect::<Vec<_>>()).percentile(percent)
    }

    #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52")]
    fn calls(&self) -> f64 {
        self.times.len() as f64
    }

    fn per_second(&self) -> f64 {
        self.calls() / self.took.as_secs_f64()
    }

    /// Calls for each second of its processor time.
    fn per_core(&self) -> f64 {
        self.calls() / self.worked.as_secs_f64()
    }
}

const DIRECT: &str = "direct";
const OURS: &str = "autovibe";

impl Gateway {
    fn cases(&self) -> Vec<Case> {
        let mut all = Vec::new();
        for (load, agents) in [(Load::Alone, 1), (Load::Crowd, self.crowd as usize)] {
            for size in [Size::Small, Size::Large] {
                all.extend([false, true].map(|stream| Case { size, stream, load, agents }));
            }
        }
        all.push(Case { size: Size::Small, stream: true, load: Load::Paced, agents: self.paced as usize });
        all
    }

    /// So many agents there are.
    fn agents(&self) -> usize {
        self.crowd.max(self.paced) as usize
    }

    pub(super) async fn run(&self, context: &Context) -> anyhow::Result<Report> {
        let place = Place::new(context, "gateway")?;
        let clock = Clock::system();
        let upstream = Upstream::start().await?;
        let tokens = prepare(place.path(), &upstream, self.agents(), &clock).await?;
        let hub = Hub::start(place.path(), &HUB.map(OsStr::new), &clock).await?;
        let mut others = Vec::new();
        for kind in peers::Kind::ALL {
            others.extend(Peer::start(kind, &self.peers, place.path(), upstream.address).await?);
        }
        clock.sleep(REST).await;
        let pid = hub.pid().context("the hub has ended")?;
        let idle = resident(pid)?;
        let mut sides = vec![
            Side { name: DIRECT, pid: None, callers: callers(upstream.address, &tokens)?, seldom: 1 },
            Side { name: OURS, pid: Some(pid), callers: callers(hub.gateway()?, &tokens)?, seldom: 1 },
        ];
        for peer in &others {
            sides.push(Side::of(peer, upstream.address, self.agents())?);
        }
        let mut appended = Appended::new(place.path())?;
        let mut syncs = Vec::new();
        let mut all = Vec::new();
        for case in self.cases() {
            upstream.pace(if case.load == Load::Paced { PACE } else { Duration::ZERO });
            let measured = self.compare(case, &sides).await?;
            if all.is_empty() {
                for _ in 0..self.calls {
                    // At the calls' own pace: many disks take longer for syncs that follow each other at once.
                    clock.sleep(PAUSE).await;
                    syncs.push(appended.append()?);
                }
            }
            all.push((case, measured));
        }
        let after = resident(pid)?;
        let commit = Samples::of(&syncs).p50();
        let mut figures: Vec<Figure> = all.iter().flat_map(|(case, measured)| figures_of(*case, &sides, measured, commit)).collect();
        figures.push(Figure::new(Appended::NAME, commit, Unit::Milliseconds));
        figures.push(Figure::new("hub's memory (RSS) at rest", idle, Unit::Mebibytes).target(Target::AtMost(IDLE_MEBIBYTES, "")));
        figures.push(Figure::new("hub's memory (RSS) after all calls", after, Unit::Mebibytes).against("at rest", idle));
        for peer in &others {
            let memory = resident(peer.pid()?)?;
            figures.push(Figure::new(format!("memory (RSS) of {} after all calls", peer.kind.name()), memory, Unit::Mebibytes));
        }
        hub.stop().await?;
        let crowd = self.crowd;
        let mut notes = vec![
            format!("{} calls of each kind by one agent alone; direct and through each gateway in turns", self.calls),
            format!("1 at once: {} ms between two calls, as an agent's tools take time; {crowd} at once: one call after the other", PAUSE.as_millis()),
            format!("paced: {} ms between the events of an answer", PACE.as_millis()),
            "each gateway is one process; agents and provider share this one, and the processors with the gateway".into(),
            "each call through ours is reserved durably before it is forwarded, and metered, settled and kept after it; the others do none of that".into(),
            format!("at {crowd} at once the provider and the agents wait for a processor too: read those as capacity, not as added time"),
        ];
        for missing in peers::Kind::ALL.iter().filter(|kind| others.iter().all(|peer| peer.kind != **kind)) {
            notes.push(format!("{} is not in {}: images/install-peers installs it", missing.name(), self.peers.display()));
        }
        Ok(Report { bench: "gateway", notes, figures })
    }

    /// One kind of call on all sides.
    async fn compare(&self, case: Case, sides: &[Side]) -> anyhow::Result<Vec<Measured>> {
        let mut all: Vec<Measured> = sides.iter().map(|_| Measured::default()).collect();
        // Each of a paced crowd once is enough: it lasts.
        let blocks = if case.load == Load::Paced { 2 } else { BLOCKS };
        // The first block makes connections and fills caches.
        for block in 0..=blocks {
            for (side, measured) in sides.iter().zip(&mut all) {
                let each = match case.load {
                    Load::Alone => (self.calls / BLOCKS / side.seldom).max(1) as usize,
                    Load::Crowd => (ROUNDS / side.seldom as usize).max(1),
                    Load::Paced => 1,
                };
                let worked = || side.pid.map_or(Ok(Duration::ZERO), processor_time);
                let (begun, before) = (Instant::now(), worked()?);
                let times = load(&side.callers[..case.agents], case, each).await.with_context(|| format!("through {}", side.name))?;
                if block > 0 {
                    measured.took += begun.elapsed();
                    measured.worked += worked()?.saturating_sub(before);
                    measured.times.extend(times);
                }
            }
        }
        Ok(all)
    }
}

impl Side {
    fn of(peer: &Peer, upstream: SocketAddr, agents: usize) -> anyhow::Result<Self> {
        let caller = || Caller::new(peer.address, peers::TOKEN).map(|caller| Arc::new(caller.with_headers(peer.kind.headers(upstream))));
        let callers = (0..agents).map(|_| caller()).collect::<anyhow::Result<_>>()?;
        let seldom = if peer.kind == peers::Kind::Nginx { 1 } else { 8 };
        Ok(Self { name: peer.kind.name(), pid: Some(peer.pid()?), callers, seldom })
    }
}

/// What is said of one kind of call. `commit`: what one durable write takes, ms.
fn figures_of(case: Case, sides: &[Side], measured: &[Measured], commit: f64) -> Vec<Figure> {
    let of = |name: &str| sides.iter().position(|side| side.name == name).map(|at| &measured[at]);
    let (Some(direct), Some(ours)) = (of(DIRECT), of(OURS)) else { return Vec::new() };
    let name = case.name();
    // Of a paced answer all but the begin is the model's own time.
    let (what, time): (&str, fn(&Times) -> Duration) =
        if case.load == Load::Paced { ("first byte ", |times| times.first) } else { ("", |times| times.whole) };
    let added = |side: &Measured| side.percentile(50, time) - direct.percentile(50, time);
    let others = || sides.iter().zip(measured).filter(|(side, _)| ![DIRECT, OURS].contains(&side.name));
    let mut figures = Vec::new();
    if case.load != Load::Crowd {
        for percent in [50, 99] {
            let figure = Figure::new(format!("{name}: {what}p{percent}"), ours.percentile(percent, time), Unit::Milliseconds);
            figures.push(figure.against(DIRECT, direct.percentile(percent, time)));
        }
        let mut figure = Figure::new(format!("{name}: added to {what}p50"), added(ours), Unit::Milliseconds).target(Target::Times(1.0));
        if let Some(nginx) = of(peers::Kind::Nginx.name()) {
            figure = figure.against("2 × nginx's + a durable write", 2.0 * added(nginx).max(0.0) + commit);
        }
        figures.push(figure);
        for (side, other) in others() {
            figures.push(Figure::new(format!("{name}: added by {}", side.name), added(other), Unit::Milliseconds));
        }
        return figures;
    }
    let against = |figure: Figure, peer: peers::Kind, value: fn(&Measured) -> f64| match of(peer.name()) {
        Some(peers) => figure.against(peer.name(), value(peers)),
        None => figure,
    };
    let rate = Figure::new(format!("{name}: calls"), ours.per_second(), Unit::PerSecond).target(Target::AtLeastTimes(0.5));
    figures.push(against(rate, peers::Kind::Nginx, Measured::per_second));
    let rate = Figure::new(format!("{name}: calls for a second of processor"), ours.per_core(), Unit::Count);
    figures.push(against(rate.target(Target::AtLeastTimes(20.0)), peers::Kind::LiteLlm, Measured::per_core));
    for (side, each) in std::iter::once((OURS, ours)).chain(others().map(|(side, other)| (side.name, other))) {
        figures.push(Figure::new(format!("{name}: processor time of a call, {side}"), 1e6 / each.per_core(), Unit::Microseconds));
    }
    figures
}

/// Writes what the hub is to find when it starts: providers, and Machines with tokens, as many as call at once. There are no
/// VMs behind them, so nothing is checkpointed.
async fn prepare(data: &Path, upstream: &Upstream, agents: usize, clock: &Clock) -> anyhow::Result<Vec<String>> {
    let store = Store::open(&data.join("autovibe.db")).await?;
    let objects = Objects::new(store.clone(), clock.clone(), Cipher::load(&data.join("secrets.key"))?);
    objects.ensure_presets().await?;
    create_hub(&objects, json!([]), json!([upstream.provider()])).await?;
    let mut tokens = Vec::new();
    for number in 0..agents {
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

fn callers(address: SocketAddr, tokens: &[String]) -> anyhow::Result<Vec<Arc<Caller>>> {
    tokens.iter().map(|token| Caller::new(address, token).map(Arc::new)).collect()
}

/// All callers at once, `each` so many times.
async fn load(callers: &[Arc<Caller>], case: Case, each: usize) -> anyhow::Result<Vec<Times>> {
    let work = callers.iter().cloned().map(|caller| {
        tokio::spawn(async move {
            let mut times = Vec::with_capacity(each);
            for _ in 0..each {
                if case.load == Load::Alone {
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
