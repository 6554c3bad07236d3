//! `autovibe bench checkpoint`: how long an answer's first byte is held back by the checkpoint before it, when the model thinks
//! meanwhile and when it answers at once; beside it what guest sync and `zfs snapshot` take by themselves.

use super::caller::{Caller, Size};
use super::place::Place;
use super::report::{Figure, Report, Target, Unit};
use super::samples::Samples;
use super::stage::{NAMESPACE, Node, Stage, mint};
use super::upstream::Upstream;
use super::{real_lab, unless_interrupted};
use crate::api::checkpoint::CheckpointPhase;
use crate::api::machine::{Phase, VmStatus};
use crate::api::{Checkpoint as Object, Kind, Machine};
use crate::cli::{Context, lab::process::Mode};
use crate::clock::Clock;
use crate::driver::{Connection, Driver};
use crate::proxmox::{ExecStatus, Vmid};
use crate::zfs::{Dataset, Properties, Snapshot};
use anyhow::{Context as _, ensure};
use serde_json::json;
use std::time::{Duration, Instant};

/// How long the model thinks, when it does.
const THOUGHT: Duration = Duration::from_secs(1);
const RESYNC: Duration = Duration::from_mins(5);
/// What a guest writes before each request: as much as an agent's tools commonly do.
const WRITE: &str = "dd if=/dev/urandom of=/home/agent/written bs=64k count=16 2>/dev/null";
const PATIENCE: Duration = Duration::from_mins(1);
/// Between two looks at a raw sync.
const LOOK: Duration = Duration::from_millis(1);

/// Measures how long checkpoints between messages hold an answer's first byte back.
#[derive(Debug, clap::Args)]
pub(super) struct Checkpoint {
    /// Where the Machines run: only real guests on a real ZFS give times that mean anything
    #[arg(long, value_enum, default_value = "real")]
    lab: Mode,
    /// How many requests of each kind
    #[arg(long, default_value_t = 15, value_parser = clap::value_parser!(u32).range(1..))]
    requests: u32,
}

/// Two Machines that differ only in whether they are checkpointed; the bench is the agent of both.
struct Pair {
    with: Guest,
    without: Guest,
    driver: Driver,
    clock: Clock,
    lab: Mode,
}

struct Guest {
    caller: Caller,
    vm: VmStatus,
}

/// First bytes with and without a checkpoint before them, and the raw sync and snapshot.
#[derive(Default)]
struct Times {
    with: Vec<Duration>,
    without: Vec<Duration>,
    raw: Vec<Duration>,
    /// The sync's part of `raw`.
    sync: Vec<Duration>,
}

impl Checkpoint {
    pub(super) async fn run(&self, context: &Context) -> anyhow::Result<Report> {
        let image = match self.lab {
            Mode::Simulated => json!({ "name": "micro", "dataset": "tank/images/micro@base" }),
            Mode::Real => json!({ "name": "micro", "file": real_lab::micro_image(context)? }),
        };
        let place = Place::new(context, "checkpoint")?;
        let measured = match unless_interrupted(Stage::start(place.path(), self.lab, RESYNC)).await {
            Ok(stage) => {
                let measured = unless_interrupted(self.measure(&stage, image)).await;
                // In order: a `zfs` command that is cut in its middle has hung zfs-fuse.
                drop(stage.stop().await);
                measured
            }
            Err(error) => Err(error),
        };
        if self.lab == Mode::Real {
            real_lab::take_down(place.path(), &Clock::system()).await?;
        }
        measured
    }

    async fn measure(&self, stage: &Stage, image: serde_json::Value) -> anyhow::Result<Report> {
        let upstream = Upstream::start().await?;
        stage.create_hub(json!([image]), json!([upstream.provider()])).await?;
        let pair = Pair {
            with: guest(stage, "with", "Enabled").await?,
            without: guest(stage, "without", "Disabled").await?,
            driver: Driver::open(Connection::of_lab(&stage.node.endpoint())).await?,
            clock: Clock::system(),
            lab: self.lab,
        };
        let (mut thinking, mut at_once) = (Times::default(), Times::default());
        // The first of each is not counted: it finds nothing warm.
        for number in 0..=self.requests {
            for (think, times) in [(THOUGHT, &mut thinking), (Duration::ZERO, &mut at_once)] {
                upstream.think(think);
                let turn = pair.turn(number).await?;
                if number > 0 {
                    times.with.push(turn.0);
                    times.without.push(turn.1);
                }
            }
            let (sync, raw) = pair.raw(number).await?;
            if number > 0 {
                at_once.raw.push(raw);
                at_once.sync.push(sync);
            }
        }
        let took = captures(stage, 2 * (self.requests as usize + 1)).await?;
        Ok(self.report(stage, &thinking, &at_once, &took))
    }

    fn report(&self, stage: &Stage, thinking: &Times, at_once: &Times, took: &[Duration]) -> Report {
        let of = |times: &[Duration]| Samples::of(times);
        let (with, without) = (of(&thinking.with), of(&thinking.without));
        let (with_now, without_now, raw) = (of(&at_once.with), of(&at_once.without), of(&at_once.raw));
        let milliseconds = |name: &str, value: f64| Figure::new(name, value, Unit::Milliseconds);
        let figures = vec![
            milliseconds("first byte p50, model thinks 1 s", with.p50())
                .against("without checkpoint", without.p50())
                .target(Target::Over(without.spread(), "what the baseline itself varies, p10 to p90")),
            milliseconds("first byte p90, model thinks 1 s", with.percentile(90)).against("without checkpoint", without.percentile(90)),
            milliseconds("first byte p50, model answers at once", with_now.p50()).against("without checkpoint", without_now.p50()),
            milliseconds("added by the checkpoint, model answers at once", with_now.p50() - without_now.p50())
                .against("raw guest sync + zfs snapshot", raw.p50()),
            milliseconds("  of it flush, snapshot and hold, p50", of(took).p50()).against("raw guest sync + zfs snapshot", raw.p50()),
        ];
        let mut notes = vec![match &stage.node {
            Node::Simulated(_) => "the SIMULATED lab: its guests and its ZFS are models, so these times say nothing of real ones".into(),
            Node::Real(lab) => format!("the real lab: micro guests in QEMU, pool {}", lab.endpoint.dataset),
        }];
        notes.push(format!("{} requests of each kind in turns; before each, the guest writes 1 MiB", self.requests));
        notes.push(format!("of the raw {:.1} ms, the guest's sync takes {:.1} ms", raw.p50(), of(&at_once.sync).p50()));
        notes.push(
            "the same hub and two Machines, one with `checkpoints.betweenMessages: Disabled`; the bench speaks as their agents".into(),
        );
        Report { bench: "checkpoint", notes, figures }
    }
}

impl Pair {
    /// First bytes with a checkpoint before them and without; who is first changes.
    async fn turn(&self, number: u32) -> anyhow::Result<(Duration, Duration)> {
        let ask = async |guest: &Guest| {
            self.write(guest).await?;
            anyhow::Ok(guest.caller.call(Size::Large, true).await?.first)
        };
        if number.is_multiple_of(2) {
            let with = ask(&self.with).await?;
            Ok((with, ask(&self.without).await?))
        } else {
            let without = ask(&self.without).await?;
            Ok((ask(&self.with).await?, without))
        }
    }

    /// The guest's sync, and with it one snapshot of the same kind of disk; by themselves, looked at as often as can be.
    async fn raw(&self, number: u32) -> anyhow::Result<(Duration, Duration)> {
        self.write(&self.without).await?;
        let disk = self.without.vm.disks.first().context("the VM has no disk")?;
        let snapshot = Snapshot { dataset: Dataset(disk.clone()), name: format!("bench-{number}") };
        let (proxmox, node, vmid) = (&self.driver.proxmox, self.driver.node(), Vmid(self.without.vm.vmid));
        let begun = Instant::now();
        let sync = proxmox.agent_exec(node, vmid, &["sync"], None).await?;
        while proxmox.agent_exec_status(node, vmid, sync).await? == ExecStatus::Running {
            ensure!(begun.elapsed() < PATIENCE, "the guest does not sync");
            self.clock.sleep(LOOK).await;
        }
        let synced = begun.elapsed();
        self.driver.zfs.snapshot(&[snapshot], &Properties::new()).await?;
        Ok((synced, begun.elapsed()))
    }

    async fn write(&self, guest: &Guest) -> anyhow::Result<()> {
        if self.lab == Mode::Simulated {
            // A model disk has no files.
            return Ok(());
        }
        let command = ["sh", "-c", WRITE].map(str::to_owned);
        let written = self.driver.guest(Vmid(guest.vm.vmid), &self.clock).verify(&command, "/home/agent", PATIENCE).await?;
        ensure!(written.passed, "the guest could not write: {}", written.output);
        Ok(())
    }
}

/// A Machine whose own agent sleeps.
async fn guest(stage: &Stage, name: &str, between_messages: &str) -> anyhow::Result<Guest> {
    let spec = json!({
        "from": { "image": "micro" },
        "goal": { "prompt": "#sim idle=true", "workspace": "/home/agent/work" },
        "agent": { "type": "Command", "command": ["sleep", "86400"] },
        "resources": { "cpu": "1", "memory": "256Mi" },
        "checkpoints": {
            "betweenMessages": between_messages, "afterFileOperations": "Disabled",
            "beforeRiskyOperations": "Disabled", "atBreakpoints": "Disabled", "retention": { "keepLast": 1000 },
        },
        "budget": { "limits": { "money": { "amount": "1000000", "currency": "USD" }, "apiCalls": 1_000_000_000 } },
    });
    stage.create_machine(name, spec).await?;
    let running = |machine: &Machine| machine.status.as_ref().is_some_and(|status| status.phase == Phase::Running);
    let machine = stage.until(name, "running", running).await?;
    let token = mint(&stage.store, &machine).await?;
    let vm = machine.status.and_then(|status| status.vm).context("a running machine has a VM")?;
    Ok(Guest { caller: Caller::new(stage.gateway.address, &token)?, vm })
}

/// How long each capture took. Errors: an answer was let go before its checkpoint was taken, so its time says nothing.
async fn captures(stage: &Stage, wanted: usize) -> anyhow::Result<Vec<Duration>> {
    let (all, _) = stage.objects.list::<Object>(Some(NAMESPACE)).await?;
    let ready = |checkpoint: &&Object| checkpoint.status.as_ref().is_some_and(|s| s.phase == CheckpointPhase::Ready && !s.released);
    let took: Vec<Duration> = all.iter().filter(ready).filter_map(|checkpoint| Some(checkpoint.status.as_ref()?.took?.0)).collect();
    let late: Vec<&str> = all.iter().filter(|checkpoint| !ready(checkpoint)).map(Kind::name).collect();
    ensure!(took.len() == wanted, "{} of {wanted} checkpoints were taken in time; not: {}", took.len(), late.join(", "));
    Ok(took)
}
