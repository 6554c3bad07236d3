//! `autovibe bench scale`: many simulated Machines at once: how fast they come up against what the lab's own HTTP allows, what
//! they cost at rest, and how soon a hub that starts anew does what is new.
//!
//! Hub, lab and bench are one process, so the rate is of all three; so is the floor.

use super::place::Place;
use super::proc::{processor_time, resident};
use super::report::{Figure, Report, Target, Unit, count};
use super::stage::{NAMESPACE, Node, Stage};
use crate::api::machine::Phase;
use crate::api::{Kind, Machine};
use crate::cli::{Context, lab::process::Mode};
use crate::clock::Clock;
use crate::driver::{Connection, Driver};
use crate::store::Change;
use anyhow::{Context as _, bail};
use futures::StreamExt;
use serde_json::json;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// As `autovibe up` has it.
const RESYNC: Duration = Duration::from_mins(5);
/// Calls of the floor, over so many connections.
const FLOOR_CALLS: usize = 4000;
const FLOOR_AT_ONCE: usize = 16;
/// Of the lab's floor, divided by what a spawn asks for.
const SHARE: f64 = 0.25;
/// Percent of one processor.
const IDLE: f64 = 2.0;
/// After the spawning and after the controllers' start, so that what is still on its way is over.
const SETTLING: Duration = Duration::from_secs(20);
const PATIENCE: Duration = Duration::from_mins(30);

/// Spawns simulated Machines that idle, all at once.
#[derive(Debug, clap::Args)]
pub(super) struct Scale {
    /// How many Machines
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(10..))]
    machines: u32,
    /// Seconds to count what they cost at rest
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..))]
    window: u32,
}

/// What one process has used and done.
struct Counts {
    writes: u64,
    calls: u64,
    processor: Duration,
}

impl Scale {
    pub(super) async fn run(&self, context: &Context) -> anyhow::Result<Report> {
        let place = Place::new(context, "scale")?;
        let clock = Clock::system();
        let mut stage = Stage::start(place.path(), Mode::Simulated, RESYNC).await?;
        stage.create_hub(json!([{ "name": "micro", "dataset": "tank/images/micro@base" }]), json!([])).await?;
        let floor = floor(&stage).await?;

        let first = self.machines / 10;
        spawn(&stage, 0, first).await?;
        let small = resident(std::process::id())?;
        let (before, begun) = (counts(&stage)?, Instant::now());
        spawn(&stage, first, self.machines).await?;
        let (took, after) = (begun.elapsed(), counts(&stage)?);
        let large = resident(std::process::id())?;

        // A hub that starts among all of these, with one that is new.
        stage.stop_controllers().await;
        stage.create_machine("late", idle()).await?;
        let begun = Instant::now();
        stage.restart_controllers(RESYNC).await;
        stage.until("late", "running", is_running).await?;
        let cold = begun.elapsed();
        clock.sleep(SETTLING).await;
        let rest = counts(&stage)?;
        clock.sleep(Duration::from_secs(self.window.into())).await;
        let rested = counts(&stage)?;
        stage.stop().await;

        let spawned = f64::from(self.machines - first);
        let calls = count(after.calls - before.calls) / spawned;
        let window = f64::from(self.window);
        let many = format!("with {} idle machines", self.machines);
        let figures = vec![
            Figure::new("machines spawned a second", spawned / took.as_secs_f64(), Unit::PerSecond)
                .against("the lab's HTTP floor ÷ calls of a spawn", floor / calls)
                .target(Target::AtLeastTimes(SHARE)),
            Figure::new("  Proxmox calls and zfs commands of a spawn", calls, Unit::Count),
            Figure::new("  the lab's HTTP floor", floor, Unit::PerSecond),
            Figure::new(
                "  processor time of a spawn",
                millis(after.processor.saturating_sub(before.processor)) / spawned,
                Unit::Milliseconds,
            ),
            Figure::new("a new machine runs after a start of the controllers", millis(cold), Unit::Milliseconds),
            Figure::new(format!("memory {many}"), large, Unit::Mebibytes).against(format!("with {first}"), small),
            Figure::new("  of one machine, hub and lab", (large - small) * 1024.0 / spawned, Unit::Kibibytes),
            Figure::new(format!("store writes {many}"), count(rested.writes - rest.writes) * 60.0 / window, Unit::PerMinute)
                .target(Target::AtMost(0.0, "")),
            Figure::new(
                format!("Proxmox calls and zfs commands {many}"),
                count(rested.calls - rest.calls) * 60.0 / window,
                Unit::PerMinute,
            ),
            Figure::new(
                format!("processor {many}"),
                rested.processor.saturating_sub(rest.processor).as_secs_f64() * 100.0 / window,
                Unit::Percent,
            )
            .target(Target::AtMost(IDLE, "of one processor")),
        ];
        let notes = vec![
            format!("{} machines in the simulated lab; the first {first} are not counted in the rate", self.machines),
            "hub, lab and bench are one process; the floor is GETs of a version by the hub's own client, 16 at once".into(),
        ];
        Ok(Report { bench: "scale", notes, figures })
    }
}

fn millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

fn idle() -> serde_json::Value {
    json!({ "from": { "image": "micro" }, "goal": { "prompt": "#sim idle=true" }, "agent": { "type": "Command", "command": ["sleep"] } })
}

fn is_running(machine: &Machine) -> bool {
    machine.status.as_ref().is_some_and(|status| status.phase == Phase::Running)
}

/// Creates the Machines of these numbers and waits until all run.
async fn spawn(stage: &Stage, from: u32, to: u32) -> anyhow::Result<()> {
    let mut changes = stage.objects.watch::<Machine>();
    let mut wanted: BTreeSet<String> = (from..to).map(|number| format!("idle-{number}")).collect();
    let names: Vec<String> = wanted.iter().cloned().collect();
    let creating = async {
        for name in &names {
            stage.create_machine(name, idle()).await?;
        }
        anyhow::Ok(())
    };
    let running = async {
        while let Some(event) = changes.next().await {
            let machine = event.object;
            if event.change == Change::Deleted || machine.metadata.namespace.as_deref() != Some(NAMESPACE) {
                continue;
            }
            if is_running(&machine) {
                wanted.remove(machine.name());
            } else if let Some(status) = machine.status.as_ref().filter(|status| status.phase.is_finished()) {
                bail!("machine {} ended: {}", machine.name(), status.message.clone().unwrap_or_default());
            }
            if wanted.is_empty() {
                return Ok(());
            }
        }
        bail!("the hub's store closed")
    };
    let both = async { tokio::try_join!(creating, running) };
    tokio::time::timeout(PATIENCE, both).await.with_context(|| format!("not all ran after {} s", PATIENCE.as_secs()))??;
    Ok(())
}

/// Calls a second that the lab answers to the hub's client.
async fn floor(stage: &Stage) -> anyhow::Result<f64> {
    let driver = Driver::open(Connection::of_lab(&stage.node.endpoint())).await?;
    let begun = Instant::now();
    let mut calls = futures::stream::iter((0..FLOOR_CALLS).map(|_| driver.proxmox.version())).buffer_unordered(FLOOR_AT_ONCE);
    while let Some(answer) = calls.next().await {
        answer?;
    }
    #[expect(clippy::cast_precision_loss, reason = "a few thousand")]
    Ok(FLOOR_CALLS as f64 / begun.elapsed().as_secs_f64())
}

fn counts(stage: &Stage) -> anyhow::Result<Counts> {
    let Node::Simulated(lab) = &stage.node else { bail!("a lab in another process does not count") };
    let (writes, calls) = (stage.store.writes(), lab.calls() + lab.zfs_commands());
    Ok(Counts { writes, calls, processor: processor_time(std::process::id())? })
}
