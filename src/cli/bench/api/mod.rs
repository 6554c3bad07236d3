//! `autovibe bench api`: the API server over TLS on both stores, against etcd behind TLS on the same disk in the same run.
//!
//! Etcd does less: it keeps bytes, knows nobody's rights, and checks nothing. It is the measure because it is what other API
//! servers keep their objects in, so that theirs cannot be faster.

mod etcd;
mod fanout;
mod figures;
mod grpc;
mod load;
mod postgres;
mod side;

use super::place::{Appended, Place};
use super::proc::resident;
use super::report::Report;
use crate::cli::Context;
use crate::clock::Clock;
use fanout::{Crowd, Told};
use side::Side;
use std::time::Duration;

/// Connections that create at once.
const WRITERS: [usize; 3] = [4, 16, 64];
/// Watchers of which the fan-out is also measured, so that its slope is seen: a tenth of all.
const FEWER: usize = 10;
/// So many patches and reads of each round do not count: connections and caches are warm then.
const WARM_UP: usize = 20;
/// How long a server that was just started gets to come to rest.
const REST: Duration = Duration::from_secs(3);
/// A page as `kubectl` asks for.
const PAGE: u32 = 500;

/// Measures the API server on SQLite and on PostgreSQL, against etcd.
#[derive(Debug, clap::Args)]
pub(super) struct Api {
    /// How many objects there are when lists and memory are measured
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(20..))]
    objects: u32,
    /// How many patches of each server are timed
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..))]
    writes: u32,
    /// How many watchers hear of one change
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(10..))]
    watchers: u32,
    /// In so many rounds the servers take turns
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
}

/// What was measured of one server.
#[derive(Default)]
struct Found {
    name: &'static str,
    is_etcd: bool,
    /// Resident memory at rest without objects, with all objects, and with all watchers; MiB.
    memory: [f64; 3],
    answers: Vec<Duration>,
    heard: Vec<Duration>,
    /// Creates a second, of each round, in the order of [`WRITERS`]; and how many failed.
    rates: [Vec<f64>; 3],
    failed: u64,
    /// With a tenth of the objects, and with all.
    gets: [Vec<Duration>; 2],
    pages: [Vec<Duration>; 2],
    lists: Vec<Duration>,
    tables: Vec<Duration>,
    /// A tenth of the watchers, and all.
    told: [Vec<Told>; 2],
}

impl Api {
    pub(super) async fn run(&self, context: &Context) -> anyhow::Result<Report> {
        let place = Place::new(context, "api")?;
        let mut notes = Vec::new();
        let mut sides = vec![Side::hub("SQLite", place.path().join("sqlite"), None).await?];
        match postgres::programs().await {
            Some(programs) => {
                let postgres = postgres::Postgres::start(place.path(), &programs).await?;
                sides.push(Side::hub("PostgreSQL", place.path().join("hub"), Some(postgres)).await?);
            }
            None => notes.push("SKIPPED: PostgreSQL is not installed, so nothing was measured on it".to_owned()),
        }
        if etcd::is_installed("etcd").await {
            sides.push(Side::etcd(place.path()).await?);
        } else {
            notes.push("SKIPPED: etcd is not installed (Debian: etcd-server), so nothing was compared with it".to_owned());
        }
        let measured = self.measure(&sides, &mut Appended::new(place.path())?).await;
        for side in sides {
            side.stop().await?;
        }
        let (found, syncs) = measured?;
        notes.extend(self.notes());
        Ok(Report { bench: "api", notes, figures: figures::figures(&found, &syncs, self) })
    }

    async fn measure(&self, sides: &[Side], appended: &mut Appended) -> anyhow::Result<(Vec<Found>, Vec<Duration>)> {
        let mut all: Vec<Found> = sides.iter().map(|side| Found { name: side.name, is_etcd: side.is_etcd(), ..Found::default() }).collect();
        Clock::system().sleep(REST).await;
        for (side, found) in sides.iter().zip(&mut all) {
            found.memory[0] = resident(side.pid()?)?;
        }
        let syncs = self.writes(sides, &mut all, appended).await?;
        self.fill(sides, &mut all, self.objects / 10).await?;
        self.reads(sides, &mut all, 0).await?;
        self.creates(sides, &mut all).await?;
        self.fill(sides, &mut all, self.objects).await?;
        self.reads(sides, &mut all, 1).await?;
        self.lists(sides, &mut all).await?;
        for (side, found) in sides.iter().zip(&mut all) {
            found.memory[1] = resident(side.pid()?)?;
        }
        self.fan_out(sides, &mut all).await?;
        Ok((all, syncs))
    }

    /// One writer alone; between the servers' turns the disk's own.
    async fn writes(&self, sides: &[Side], all: &mut [Found], appended: &mut Appended) -> anyhow::Result<Vec<Duration>> {
        let mut writers = Vec::new();
        for side in sides {
            writers.push(load::Writer::new(side).await?);
        }
        let mut syncs = Vec::new();
        for _ in 0..self.rounds {
            for writer in &mut writers {
                writer.write(WARM_UP, false).await?;
                writer.write(self.writes.div_ceil(self.rounds) as usize, true).await?;
            }
            for _ in 0..WARM_UP {
                syncs.push(appended.append()?);
            }
        }
        for (found, writer) in all.iter_mut().zip(writers) {
            (found.answers, found.heard) = (writer.answers, writer.heard);
        }
        Ok(syncs)
    }

    /// Half of the objects are made so.
    async fn creates(&self, sides: &[Side], all: &mut [Found]) -> anyhow::Result<()> {
        let each = (self.objects / 2 / self.rounds) as usize / WRITERS.len();
        for (at, writers) in WRITERS.into_iter().enumerate() {
            let mut connected = Vec::new();
            for side in sides {
                connected.push(side.connections(writers).await?);
            }
            for round in 0..self.rounds {
                for (connections, found) in connected.iter().zip(&mut *all) {
                    let (rate, failed) = load::create(connections, &format!("made-{writers}-{round}"), each).await?;
                    found.rates[at].push(rate);
                    found.failed += failed;
                }
            }
        }
        Ok(())
    }

    /// Creates what is missing.
    async fn fill(&self, sides: &[Side], all: &mut [Found], objects: u32) -> anyhow::Result<()> {
        let made: usize = if objects == self.objects { all[0].rates.iter().map(Vec::len).sum() } else { 0 };
        let made = made * ((self.objects / 2 / self.rounds) as usize / WRITERS.len()) + made.min(1) * (self.objects / 10) as usize;
        for (side, found) in sides.iter().zip(all) {
            let (_, failed) = load::create(&side.connections(16).await?, &format!("filled-{objects}"), objects as usize - made).await?;
            found.failed += failed;
        }
        Ok(())
    }

    async fn reads(&self, sides: &[Side], all: &mut [Found], at: usize) -> anyhow::Result<()> {
        for (side, found) in sides.iter().zip(all) {
            let connection = side.connect().await?;
            let get = async || connection.get("written").await;
            load::timed(WARM_UP, get).await?;
            found.gets[at] = load::timed(self.writes as usize, get).await?;
            let page = async || connection.list(PAGE).await;
            load::timed(1, page).await?;
            found.pages[at] = load::timed(WARM_UP, page).await?;
        }
        Ok(())
    }

    async fn lists(&self, sides: &[Side], all: &mut [Found]) -> anyhow::Result<()> {
        for _ in 0..self.rounds {
            for (side, found) in sides.iter().zip(&mut *all) {
                let connection = side.connect().await?;
                let listed = async || {
                    let bytes = connection.list(0).await?;
                    anyhow::ensure!(bytes.len() > self.objects as usize * 1000, "{} lists only {} bytes", side.name, bytes.len());
                    Ok(())
                };
                found.lists.extend(load::timed(4, listed).await?);
                if !side.is_etcd() {
                    found.tables.extend(load::timed(2, async || connection.table().await).await?);
                }
            }
        }
        Ok(())
    }

    async fn fan_out(&self, sides: &[Side], all: &mut [Found]) -> anyhow::Result<()> {
        for (at, watchers) in [self.watchers as usize / FEWER, self.watchers as usize].into_iter().enumerate() {
            let mut crowds = Vec::new();
            for (side, found) in sides.iter().zip(&mut *all) {
                // Of etcd the better of its two ways counts, which is tried here.
                let mut best = Crowd::gather(side, watchers, false).await?;
                if side.is_etcd() {
                    let other = Crowd::gather(side, watchers, true).await?;
                    // Each while the other's watches are there too, for the same load.
                    let (apart, shared) = (best.tell(0).await?, other.tell(0).await?);
                    if shared.rate > apart.rate {
                        best = other;
                    }
                } else {
                    best.tell(0).await?;
                }
                crowds.push((best, found));
            }
            for round in 1..=self.rounds as usize * 2 {
                for (crowd, found) in &mut crowds {
                    found.told[at].push(crowd.tell(round).await?);
                }
            }
            for (side, (_, found)) in sides.iter().zip(&mut crowds) {
                found.memory[2] = resident(side.pid()?)?;
            }
        }
        Ok(())
    }

    fn notes(&self) -> Vec<String> {
        let Self { objects, rounds, .. } = self;
        vec![
            format!("{objects} ConfigMaps of about 1.3 kB; in etcd keys with values as long; the servers take turns in {rounds} rounds"),
            "each server is a process of its own with its own settings, on the same disk; the clients share the processors with them"
                .into(),
            "etcd is spoken to in its own gRPC, by the same HTTP/2 and TLS client as the hub; no client reads what it gets (but Tables)"
                .into(),
            "of etcd's two ways to watch (a stream for each watch, or one for all of a connection) the faster one is the baseline".into(),
        ]
    }
}
