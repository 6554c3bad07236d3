//! `autovibe bench storage`: on real ZFS, what is done with checkpoints as their number grows, and many checkpoints at once.
//!
//! The product's driver works on a pool of the bench's own. Beside each verb stand the plain `zfs` commands of the same effect,
//! of the same moment: what grows with those is ZFS' own.

mod fill;
mod ground;
mod verbs;

use super::place::Place;
use super::report::{Figure, Report, Target, Unit, count};
use super::samples::Samples;
use super::unless_interrupted;
use crate::cli::Context;
use crate::clock::Clock;
use crate::proxmox::Vmid;
use fill::{Many, Single, uid};
use ground::{Ground, Step};
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;
use verbs::{Series, Together, Verb};

/// How steep a time may be: the exponent of the number of checkpoints that it grows with.
const SLOPE: f64 = 0.1;
/// How long all checkpoints that are due together may take, in times of one.
const TOGETHER: f64 = 2.0;
/// The Machine with one disk that has all checkpoints.
const ALL_ON_ONE: Vmid = Vmid(1000);
/// Machines that ended, at most.
const DISKS: u32 = 100;
/// Checkpoints of each of them at first: one that loses its last goes itself.
const EACH: u32 = 4;

/// Measures what is done with checkpoints on real ZFS as their number grows, and many at once.
#[derive(Debug, clap::Args)]
pub(super) struct Storage {
    /// How many checkpoints there are in the end; it is also measured with a tenth and a hundredth of them
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(40..))]
    checkpoints: u32,
    /// How many Machines' checkpoints are due together
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..))]
    machines: u32,
    /// How often each is timed
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..))]
    rounds: u32,
}

/// What was measured.
#[derive(Default)]
struct Found {
    /// By verb and number of checkpoints.
    verbs: BTreeMap<(Verb, u32), Series>,
    together: Vec<Together>,
    note: String,
}

impl Storage {
    pub(super) async fn run(&self, context: &Context) -> anyhow::Result<Report> {
        let (place, clock) = (Place::new(context, "storage")?, Clock::system());
        let measured = unless_interrupted(Box::pin(self.measure(&place, &clock))).await;
        ground::clear(place, &clock).await?;
        Ok(self.report(&measured?))
    }

    /// How many Machines ended.
    fn disks(&self) -> u32 {
        (self.sizes()[0] / EACH).min(DISKS)
    }

    /// The numbers of checkpoints at which it is measured.
    fn sizes(&self) -> Vec<u32> {
        [100, 10, 1].map(|part| self.checkpoints / part).into_iter().filter(|size| *size >= EACH).collect()
    }

    async fn measure(&self, place: &Place, clock: &Clock) -> anyhow::Result<Found> {
        let ground = Ground::new(place, clock).await?;
        let sizes = self.sizes();
        let mut found = Found { note: ground.note.clone(), ..Found::default() };
        let machine_uid = uid();
        let disk = ground.driver.fork(&ground.base, &ground.base_guid, &machine_uid, ALL_ON_ONE, 0).await?;
        let mut single = Single { disk, machine_uid, checkpoints: VecDeque::new() };
        let mut many = Many::new(&ground, self.disks()).await?;
        let machines = verbs::machines(&ground, self.machines).await?;
        for size in sizes {
            single.fill(&ground, size as usize).await?;
            many.fill(&ground, size as usize).await?;
            tracing::info!("measuring with {size} checkpoints");
            // What is deleted must not be all that there is.
            let deleted = self.rounds.min(size / (2 * EACH)).max(1);
            let mut note = |verb, step, plain| {
                let series = found.verbs.entry((verb, size)).or_default();
                series.ours.push(step);
                series.plain.push(plain);
            };
            // The first of each finds nothing warm.
            verbs::living(&ground, &single, &mut |_, _, _| {}).await?;
            for _ in 0..self.rounds {
                verbs::living(&ground, &single, &mut note).await?;
            }
            verbs::ended(&ground, &mut single, deleted as usize, &mut note).await?;
            for _ in 0..deleted {
                verbs::among(&ground, &mut many, &mut note).await?;
            }
        }
        for _ in 0..self.rounds.div_ceil(3) {
            found.together.push(verbs::together(&ground, &machines).await?);
        }
        Ok(found)
    }

    fn report(&self, found: &Found) -> Report {
        let mut figures: Vec<Figure> = Verb::ALL.into_iter().flat_map(|verb| self.of_verb(verb, found)).collect();
        figures.extend(self.of_together(found));
        let notes = vec![
            found.note.clone(),
            format!(
                "so many checkpoints on one Machine's disk, and beside them as many on the {} disks of Machines that ended (`many disks`)",
                self.disks()
            ),
            "each verb is the driver's own, in turns with the plain zfs commands of the same effect".into(),
            "a slope is that of log(time) over log(number), between the medians of the fewest and the most".into(),
            "commands and what they print are counted: they are the same on every machine with this ZFS".into(),
        ];
        Report { bench: "storage", notes, figures }
    }

    fn of_verb(&self, verb: Verb, found: &Found) -> Vec<Figure> {
        let sizes = self.sizes();
        let at = |size: &u32| found.verbs.get(&(verb, *size)).cloned().unwrap_or_default();
        let ours = |size: &u32| Samples::of(&at(size).ours.iter().map(|step| step.took).collect::<Vec<_>>()).p50();
        let plain = |size: &u32| Samples::of(&at(size).plain).p50();
        let name = verb.name();
        let mut figures: Vec<Figure> = sizes
            .iter()
            .map(|size| Figure::new(format!("{name}, of {size}: p50"), ours(size), Unit::Milliseconds).against(verb.plain(), plain(size)))
            .collect();
        let (few, most) = (sizes[0], sizes[sizes.len() - 1]);
        let slope = |time: &dyn Fn(&u32) -> f64| (time(&most) / time(&few)).ln() / (f64::from(most) / f64::from(few)).ln();
        figures.push(
            Figure::new(format!("  {name}: slope from {few} to {most}"), slope(&ours), Unit::Count)
                .against("of the plain commands", slope(&plain))
                .target(Target::AtMost(SLOPE, "")),
        );
        let counted = |size: &u32, of: fn(&Step) -> u64| at(size).ours.iter().map(of).max().unwrap_or_default();
        figures.push(
            Figure::new(format!("  {name}: zfs commands, of {most}"), count(counted(&most, |step| step.commands)), Unit::Count)
                .against(format!("of {few}"), count(counted(&few, |step| step.commands)))
                .target(Target::Over(0.0, "the same")),
        );
        figures.push(
            Figure::new(format!("  {name}: bytes that they print, of {most}"), count(counted(&most, |step| step.printed)), Unit::Count)
                .against(format!("of {few}"), count(counted(&few, |step| step.printed))),
        );
        figures
    }

    fn of_together(&self, found: &Found) -> Vec<Figure> {
        let p50 = |of: &dyn Fn(&Together) -> Duration| Samples::of(&found.together.iter().map(of).collect::<Vec<_>>()).p50();
        let (one, all) = (p50(&|together| together.one.took), p50(&|together| together.all.took));
        let (plain_one, plain_all) = (p50(&|together| together.plain_one), p50(&|together| together.plain_all));
        let commands = |of: fn(&Together) -> Step| found.together.iter().map(|together| of(together).commands).max().unwrap_or_default();
        let machines = self.machines;
        vec![
            Figure::new(format!("{machines} checkpoints due together: p50"), all, Unit::Milliseconds)
                .against("one alone", one)
                .target(Target::Times(TOGETHER)),
            Figure::new(format!("  plain zfs snapshot and hold of {machines} disks, all at once: p50"), plain_all, Unit::Milliseconds)
                .against("of one alone", plain_one),
            Figure::new(format!("  zfs commands of {machines} checkpoints"), count(commands(|together| together.all)), Unit::Count)
                .against("of one alone", count(commands(|together| together.one))),
        ]
    }
}
