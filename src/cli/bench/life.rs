//! `autovibe bench life`: how often Proxmox is asked in a Machine's life, by kind of call. Counted, so the same everywhere.

use super::place::Place;
use super::report::{self, Figure, Report, Target, Unit};
use super::stage::{Node, Stage};
use crate::api::machine::Phase;
use crate::cli::{Context, lab::process::Mode};
use crate::lab::Call;
use anyhow::{Context as _, bail, ensure};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::time::Duration;

/// Calls without `agent/*` in a life, at most.
const TARGET: f64 = 12.0;
/// Longer than any life here: nothing is looked at only because time passed.
const RESYNC: Duration = Duration::from_mins(5);
/// Two answers, the first with a tool call: so two checkpoints between messages.
const CONVERSATION: &str = "\
tokensPerSecond: 0
thinkSeconds: 0
conversations:
  - name: any
    match: ''
    turns:
      - text: I look around.
        tools:
          - name: Bash
            input: {command: ls}
      - text: Done.
";

/// Counts the Proxmox calls of Machines that are spawned, work, are checkpointed and end, one after the other.
#[derive(Debug, clap::Args)]
pub(super) struct Life {
    /// How many lives; one more before them is not counted, as it also connects the hub
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    lives: u32,
    /// As a Hub with `firewall.mode: Managed`, which makes each VM's rules before it is first started
    #[arg(long)]
    firewall: bool,
}

impl Life {
    pub(super) async fn run(&self, context: &Context) -> anyhow::Result<Report> {
        let place = Place::new(context, "life")?;
        let conversation = place.path().join("conversation.yaml");
        std::fs::write(&conversation, CONVERSATION)?;
        let mut stage = Stage::start(place.path(), Mode::Simulated, RESYNC).await?;
        if self.firewall {
            stage.confine(RESYNC).await;
        }
        stage.make_foreign().await?;
        let provider = json!({ "name": "replay", "type": "Replay", "models": ["claude-*"], "replay": { "file": conversation } });
        stage.create_hub(json!([{ "name": "micro", "dataset": "tank/images/micro@base" }]), json!([provider])).await?;
        live(&stage, "life-0", json!({ "image": "micro" })).await?;
        let before = counts(&stage)?;
        for number in 1..=self.lives {
            // Each from the last one's final checkpoint, as goals follow each other.
            live(&stage, &format!("life-{number}"), json!({ "checkpoint": format!("life-{}-final", number - 1) })).await?;
        }
        let after = counts(&stage)?;
        stage.stop().await;
        Ok(self.report(&before, &after))
    }

    fn report(&self, before: &BTreeMap<Call, u64>, after: &BTreeMap<Call, u64>) -> Report {
        let lives = f64::from(self.lives);
        let per_life: Vec<(Call, f64)> = after
            .iter()
            .map(|(call, count)| (*call, count - before.get(call).copied().unwrap_or_default()))
            .filter(|(_, count)| *count > 0)
            .map(|(call, count)| (call, report::count(count) / lives))
            .collect();
        let sum = |wanted: &dyn Fn(Call) -> bool| per_life.iter().filter(|(call, _)| wanted(*call)).map(|(_, count)| count).sum::<f64>();
        let is_zfs = |call: Call| matches!(call, Call::Zfs(_));
        let mut figures = vec![
            Figure::new("calls per life without agent/*", sum(&|call| !is_zfs(call) && !call.is_agent()), Unit::Count)
                .target(Target::AtMost(TARGET, "")),
        ];
        let named = |call: Call| match call {
            Call::Zfs(verb) => format!("  zfs {verb}"),
            call => format!("  {call:?}"),
        };
        let mut add = |wanted: &dyn Fn(Call) -> bool| {
            figures.extend(
                per_life.iter().filter(|(call, _)| wanted(*call)).map(|(call, count)| Figure::new(named(*call), *count, Unit::Count)),
            );
        };
        add(&|call| !is_zfs(call) && !call.is_agent());
        figures.push(Figure::new("agent/* calls per life", sum(&Call::is_agent), Unit::Count));
        figures.push(Figure::new("zfs commands per life", sum(&is_zfs), Unit::Count));
        let notes = vec![
            format!(
                "{} lives in the simulated lab, one after the other, each with two model calls and two checkpoints between them",
                self.lives
            ),
            if self.firewall {
                "the Hub makes the rules of each VM's firewall; `guestNetworks` take one call more, and one for each of them".into()
            } else {
                "guests reach what their bridge lets them: `--firewall` counts with rules that the Hub makes".into()
            },
            "there is a VM of someone else's, as on most nodes; where no VM at all is listed, the node is asked too (List)".into(),
            "the simulated lab's tasks end within a moment; a real Proxmox is asked a few times more (TaskStatus) while a slow one runs"
                .into(),
        ];
        Report { bench: "life", notes, figures }
    }
}

fn counts(stage: &Stage) -> anyhow::Result<BTreeMap<Call, u64>> {
    match &stage.node {
        Node::Simulated(lab) => Ok(lab.counts()),
        Node::Real(_) => bail!("a lab in another process does not count"),
    }
}

/// One life to its end. Errors: it did not succeed.
async fn live(stage: &Stage, name: &str, from: Value) -> anyhow::Result<()> {
    let spec = json!({ "from": from, "goal": { "prompt": "work" }, "agent": { "type": "ClaudeCode", "model": super::upstream::MODEL } });
    stage.create_machine(name, spec).await?;
    let ended = stage.until(name, "finished", |machine| machine.status.as_ref().is_some_and(|status| status.phase.is_finished())).await?;
    let status = ended.status.context("a finished machine has a status")?;
    ensure!(status.phase == Phase::Succeeded, "machine {name} did not succeed: {}", status.message.unwrap_or_default());
    ensure!(status.checkpoints >= 3, "machine {name} was checkpointed only {} times", status.checkpoints);
    Ok(())
}
