//! `autovibe bench idle`: what Machines cost that do nothing: writes to the store and calls of Proxmox, with few and with many
//! of them at the same time. Counted, so the same everywhere.

use super::place::Place;
use super::report::{Figure, Report, Target, Unit, count};
use super::stage::{Node, Stage};
use crate::api::machine::Phase;
use crate::cli::{Context, lab::process::Mode};
use crate::clock::Clock;
use anyhow::bail;
use serde_json::json;
use std::path::Path;
use std::time::Duration;

/// What one hub may do just before the end of the window and the other just after it: a look at all VMs (two calls) and one at
/// the Hub (a call, and a `zfs` command for its image).
const EDGE_CALLS: f64 = 3.0;
const EDGE_COMMANDS: f64 = 1.0;
/// How long nothing may have been written before the window begins: more than `--resync`, so that the look which comes a minute
/// after the start is within a window of a minute.
const QUIET: Duration = Duration::from_secs(5);
/// How long that may take.
const SETTLING: Duration = Duration::from_mins(2);
const LOOK: Duration = Duration::from_millis(100);

/// Counts writes and Proxmox calls while simulated Machines run whose agents make no calls.
#[derive(Debug, clap::Args)]
pub(super) struct Idle {
    /// How many Machines
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
    machines: u32,
    /// How many Machines the other hub has, with which it is compared
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
    few: u32,
    /// Seconds to count; the hub looks at the VMs once a minute, so less than 60 may see no look
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..))]
    window: u32,
    /// Seconds between two looks at each Machine's object; `autovibe up` has 300
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..))]
    resync: u64,
}

/// What a hub did.
#[derive(Clone, Copy, Debug)]
struct Counts {
    writes: u64,
    /// All calls but `zfs` commands.
    calls: u64,
    /// Those among them to guest agents.
    agent: u64,
    zfs: u64,
}

impl Counts {
    fn since(self, before: Self) -> Self {
        Self {
            writes: self.writes - before.writes,
            calls: self.calls - before.calls,
            agent: self.agent - before.agent,
            zfs: self.zfs - before.zfs,
        }
    }
}

impl Idle {
    pub(super) async fn run(&self, context: &Context) -> anyhow::Result<Report> {
        let place = Place::new(context, "idle")?;
        let (many, few) = (place.path().join("many"), place.path().join("few"));
        // At the same time: what else the machine does meets both.
        let (many, few) = tokio::try_join!(self.measure(&many, self.machines), self.measure(&few, self.few))?;
        let per_minute = |number: u64| count(number) * 60.0 / f64::from(self.window);
        let with_few = format!("with {}", self.few);
        let figure = |name: &str, of: fn(&Counts) -> u64| {
            let figure = Figure::new(format!("{name} with {} idle machines", self.machines), per_minute(of(&many)), Unit::PerMinute);
            figure.against(&with_few, per_minute(of(&few)))
        };
        let edge = |number: f64| Target::Over(number * 60.0 / f64::from(self.window), "one look more or less at the edge");
        let figures = vec![
            figure("store writes", |counts| counts.writes).target(Target::AtMost(0.0, "")),
            figure("Proxmox calls", |counts| counts.calls).target(edge(EDGE_CALLS)),
            figure("zfs commands", |counts| counts.zfs).target(edge(EDGE_COMMANDS)),
        ];
        let notes = vec![
            format!("counted for {} s, in two hubs at the same time", self.window),
            format!(
                "each looks at every object every {} s, for `autovibe up` every 300 s: what is per Machine or per Hub shows so much more",
                self.resync
            ),
            "before the window the controllers are started anew, so that nothing is spared by what they remember of the spawning".into(),
        ];
        Ok(Report { bench: "idle", notes, figures })
    }

    async fn measure(&self, directory: &Path, machines: u32) -> anyhow::Result<Counts> {
        std::fs::create_dir_all(directory)?;
        let (clock, resync) = (Clock::system(), Duration::from_secs(self.resync));
        let mut stage = Stage::start(directory, Mode::Simulated, resync).await?;
        stage.create_hub(json!([{ "name": "micro", "dataset": "tank/images/micro@base" }]), json!([])).await?;
        let names: Vec<String> = (0..machines).map(|number| format!("idle-{number}")).collect();
        for name in &names {
            let spec = json!({ "from": { "image": "micro" }, "goal": { "prompt": "#sim idle=true" },
                "agent": { "type": "Command", "command": ["sleep"] } });
            stage.create_machine(name, spec).await?;
        }
        for name in &names {
            stage.until(name, "running", |machine| machine.status.as_ref().is_some_and(|status| status.phase == Phase::Running)).await?;
        }
        stage.restart_controllers(resync).await;
        settle(&stage, &clock).await?;
        let before = counts(&stage)?;
        clock.sleep(Duration::from_secs(self.window.into())).await;
        let after = counts(&stage)?;
        stage.stop().await;
        Ok(after.since(before))
    }
}

fn counts(stage: &Stage) -> anyhow::Result<Counts> {
    match &stage.node {
        Node::Simulated(lab) => {
            let (calls, agent) = (lab.calls(), lab.calls() - lab.calls_without_agent());
            Ok(Counts { writes: stage.store.writes(), calls, agent, zfs: lab.zfs_commands() })
        }
        Node::Real(_) => bail!("a lab in another process does not count"),
    }
}

/// Waits until nothing was written and no guest was asked for a while.
async fn settle(stage: &Stage, clock: &Clock) -> anyhow::Result<()> {
    let (mut last, mut quiet, mut waited) = (counts(stage)?, Duration::ZERO, Duration::ZERO);
    while quiet < QUIET {
        if waited > SETTLING {
            bail!("machines that do nothing did not come to rest within {} s", SETTLING.as_secs());
        }
        clock.sleep(LOOK).await;
        waited += LOOK;
        let now = counts(stage)?;
        // Calls go on: the Hub itself is looked at now and then.
        quiet = if now.writes == last.writes && now.agent == last.agent { quiet + LOOK } else { Duration::ZERO };
        last = now;
    }
    Ok(())
}
