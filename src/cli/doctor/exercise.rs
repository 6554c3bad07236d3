//! `autovibe doctor --hub NAME --exercise`: one whole life on the user's own node, through the ordinary API, step by step.
//!
//! What no test elsewhere can show happens on the way: volumes get their devices, disks are renamed as soon as their VM is off,
//! holds stand, and what was destroyed is gone. It makes a namespace of its own and deletes nothing outside it.

use crate::api::checkpoint::{CheckpointPhase, CheckpointStatus};
use crate::api::hub::Finding;
use crate::api::machine::{MachineStatus, Phase};
use crate::api::{API_VERSION, Checkpoint, Kind, Machine};
use crate::cli::{audit, client::Client, print, resource, up};
use crate::clock::Clock;
use anyhow::{Context as _, anyhow, bail};
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::Duration;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How often it looks.
const LOOK: Duration = Duration::from_millis(200);
/// The agent of the Machine that is forked: it changes the disk and stays. The line is for model guests, which run no commands.
const STAYS: &str = "#sim turns=0 hang=true";
const ENDS: &str = "#sim turns=0";

/// One step that was done, or failed.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Step {
    step: &'static str,
    passed: bool,
    milliseconds: u128,
    /// What was seen, or went wrong.
    seen: String,
    #[serde(skip_serializing_if = "str::is_empty")]
    remedy: &'static str,
}

/// Steps in their order, and what to do when one fails.
const REMEDIES: [(&str, &str); 8] = [
    ("audit", "see `autovibe explain hub/NAME`: the hub must be Ready before its node can be tried"),
    (
        "spawn",
        "see that the node has the storage and the dataset under their names, that /dev/zvol has the disk (`ls /dev/zvol`), and that the image boots with qemu-guest-agent",
    ),
    ("checkpoint", "see that the guest answers (`qm agent VMID ping`) and that the hub may run `zfs snapshot` and `zfs hold` there"),
    (
        "fork",
        "see that the hub may run `zfs clone`, and that the storage has room; where a machine says that its guest does not reach the \
         gateway (GatewayNotReached), that the guest has an address (DHCP on the bridge), that spec.gateway.url of the hub is reached from \
         there, and that no firewall is between them",
    ),
    (
        "end",
        "see what holds the disk on the node: `lsof /dev/zvol/…`, LVM or multipath that takes guests' volumes; filter them in lvm.conf",
    ),
    ("holds", "see `autovibe audit`: something on the node changes snapshots or their holds"),
    ("collect", "see `zfs holds` and `zfs list -o name,origin` of what is left: something else needs it"),
    ("gone", "see `autovibe audit`, and destroy by hand what it names once you have looked at it"),
];

/// A life that is tried.
pub(super) struct Exercise<'a> {
    client: Client,
    hub: &'a str,
    namespace: String,
    image: String,
    /// Whether a checkpoint can be taken of a Machine that goes on; else the first one ends in that which is forked.
    in_life: bool,
    /// Longest time of one step.
    patience: Duration,
    clock: Clock,
    /// Someone wants it to end.
    stop: CancellationToken,
    /// Tells of each step as it ends.
    aloud: bool,
    done: Vec<Step>,
    /// What did not agree before, so that it is not laid to this.
    before: BTreeSet<Finding>,
}

/// Whether all went well, what was seen, and what could not be cleaned up.
pub(super) struct Outcome {
    pub(super) steps: Vec<Step>,
    pub(super) error: Option<anyhow::Error>,
}

impl<'a> Exercise<'a> {
    pub(super) fn new(client: &Client, hub: (&'a str, bool), image: String, patience: Duration, aloud: bool) -> Self {
        let (hub, in_life) = hub;
        let namespace = format!("autovibe-exercise-{}", &crate::random::uuid().simple().to_string()[..8]);
        Self {
            client: client.within(&namespace),
            hub,
            namespace,
            image,
            in_life,
            patience,
            clock: Clock::system(),
            stop: CancellationToken::new(),
            aloud,
            done: Vec::new(),
            before: BTreeSet::new(),
        }
    }

    /// Does it all, and cleans up whatever came of it.
    pub(super) async fn run(mut self) -> Outcome {
        let stop = self.stop.clone();
        let lived = {
            let mut life = std::pin::pin!(self.live());
            loop {
                tokio::select! {
                    lived = &mut life => break lived,
                    // A call that is under way is answered first: what it makes is then known.
                    () = up::signal(), if !stop.is_cancelled() => stop.cancel(),
                }
            }
        };
        self.stop = CancellationToken::new();
        let failed = lived.err();
        if failed.is_some() && self.aloud {
            eprintln!("  cleaning up namespace {} …", self.namespace);
        }
        let cleaned = tokio::select! {
            cleaned = self.clean() => cleaned,
            () = up::signal() => Err(anyhow!("interrupted again")),
        };
        let left = cleaned.err().map(|error| {
            let namespace = &self.namespace;
            error.context(format!(
                "namespace {namespace} could not be cleaned up; later: `autovibe -n {namespace} get machines,checkpoints`, delete them, and then \
                 `kubectl delete namespace {namespace}`"
            ))
        });
        let error = match (failed, left) {
            (Some(failed), Some(left)) => Some(anyhow!("{failed:#}; and {left:#}")),
            (failed, left) => failed.or(left),
        };
        Outcome { steps: self.done, error }
    }

    async fn live(&mut self) -> anyhow::Result<()> {
        let begun = Instant::now();
        let audited = self.audit().await;
        let seen = audited.map(|findings| {
            self.before = findings;
            format!("{} things do not agree already, and are not looked at", self.before.len())
        });
        self.step("audit", begun, seen)?;
        let space = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": self.namespace } });
        self.client.create("/api/v1/namespaces", &space).await?;

        let begun = Instant::now();
        let seen = self.spawn().await;
        self.step("spawn", begun, seen)?;
        let begun = Instant::now();
        let seen = self.checkpoint().await;
        self.step("checkpoint", begun, seen)?;
        let begun = Instant::now();
        let seen = self.fork().await;
        self.step("fork", begun, seen)?;
        let begun = Instant::now();
        let seen = self.end().await;
        self.step("end", begun, seen)?;
        let begun = Instant::now();
        let seen = self.agrees("every snapshot is in the pool, with its mark and its hold; no VM, disk or VMID is left").await;
        self.step("holds", begun, seen)?;
        let begun = Instant::now();
        let seen = self.collect().await;
        self.step("collect", begun, seen)?;
        let begun = Instant::now();
        let seen = self.agrees("no disk and no snapshot is left").await;
        self.step("gone", begun, seen)
    }

    /// Records a step. Errors: its name, what went wrong and what to do.
    fn step(&mut self, step: &'static str, begun: Instant, seen: anyhow::Result<String>) -> anyhow::Result<()> {
        let remedy = REMEDIES.iter().find(|(name, _)| *name == step).map_or("", |(_, remedy)| remedy);
        let (passed, seen) = match &seen {
            Ok(seen) => (true, seen.clone()),
            Err(error) => (false, format!("{error:#}")),
        };
        let took = begun.elapsed();
        if self.aloud {
            let mark = if passed { '✔' } else { '✘' };
            print::out(&print::printable(&format!("  {mark} {step:<12} {:>6.1} s  {seen}\n", took.as_secs_f64())))?;
        }
        let error = (!passed).then(|| anyhow!("step `{step}` failed: {seen}; {remedy}"));
        let remedy = if passed { "" } else { remedy };
        self.done.push(Step { step, passed, milliseconds: took.as_millis(), seen, remedy });
        error.map_or(Ok(()), Err)
    }

    async fn spawn(&self) -> anyhow::Result<String> {
        let agent = "echo autovibe > exercise; sync; exec sleep 3600";
        self.machine("one", json!({ "image": self.image }), STAYS, agent).await?;
        let status = self.until_machine("one", "Running", |status| status.phase == Phase::Running).await?;
        let vm = status.vm.context("it runs, and its status names no VM")?;
        Ok(format!("VM {} runs on node {} with {}; its guest answers and its agent was launched", vm.vmid, vm.node, vm.disks.join(", ")))
    }

    /// Name of the checkpoint that is forked.
    fn base(&self) -> &'static str {
        if self.in_life { "one-exercise" } else { "one-final" }
    }

    async fn checkpoint(&self) -> anyhow::Result<String> {
        if !self.in_life {
            self.delete(&resource::machine(&self.namespace, "one")).await?;
            return self.until_checkpoint(self.base()).await;
        }
        let document = json!({
            "apiVersion": API_VERSION, "kind": "Checkpoint", "metadata": { "name": self.base() }, "spec": { "machine": "one" },
        });
        self.client.create(&resource::our::<Checkpoint>(Some(&self.namespace), None), &document).await?;
        self.until_checkpoint(self.base()).await
    }

    async fn fork(&self) -> anyhow::Result<String> {
        let agent = "test \"$(cat exercise)\" = autovibe";
        self.machine("two", json!({ "checkpoint": self.base() }), ENDS, agent).await?;
        let status = self.until_machine("two", "finished", |status| status.phase.is_finished()).await?;
        if status.phase != Phase::Succeeded {
            let reason = status.termination_reason.map(|reason| format!("{reason:?}")).unwrap_or_default();
            bail!("machine/two ended with {reason}: {}", status.message.unwrap_or_default());
        }
        let last = self.until_checkpoint(status.final_checkpoint.as_deref().context("machine/two has no final checkpoint")?).await?;
        Ok(format!("machine/two found what machine/one wrote, and ended; its last state is kept: {last}"))
    }

    async fn end(&self) -> anyhow::Result<String> {
        for name in ["one", "two"] {
            self.delete(&resource::machine(&self.namespace, name)).await?;
        }
        let last = self.until_checkpoint("one-final").await?;
        Ok(format!("the VMs are gone, and their disks are renamed; of a Machine that was cut short: {last}"))
    }

    async fn collect(&self) -> anyhow::Result<String> {
        let deleted = self.delete_checkpoints().await?;
        Ok(format!("{deleted} checkpoints were let go, with their snapshots and disks"))
    }

    /// What an audit finds that it did not find before.
    async fn agrees(&self, fine: &str) -> anyhow::Result<String> {
        let found = self.audit().await?;
        match found.difference(&self.before).next() {
            None => Ok(fine.to_owned()),
            Some(first) => bail!("{:?}: {}: {}", first.kind, first.name, first.message),
        }
    }

    async fn audit(&self) -> anyhow::Result<BTreeSet<Finding>> {
        let audit = tokio::select! {
            audit = audit::ask(&self.client, self.hub, false, self.patience) => audit?,
            () = self.stop.cancelled() => bail!("interrupted"),
        };
        match audit.message {
            Some(why) => bail!("the audit could not be done: {why}"),
            None => Ok(audit.findings.into_iter().collect()),
        }
    }

    async fn machine(&self, name: &str, from: Value, prompt: &str, agent: &str) -> anyhow::Result<()> {
        let document = json!({
            "apiVersion": API_VERSION, "kind": "Machine", "metadata": { "name": name },
            "spec": {
                "hub": self.hub, "from": from, "goal": { "prompt": prompt },
                "agent": { "type": "Command", "command": ["/bin/sh", "-c", agent] },
                "budget": { "limits": { "time": "1h" } },
            },
        });
        self.client.create(&resource::our::<Machine>(Some(&self.namespace), None), &document).await?;
        Ok(())
    }

    async fn until_machine(&self, name: &str, what: &str, holds: impl Fn(&MachineStatus) -> bool) -> anyhow::Result<MachineStatus> {
        let path = resource::machine(&self.namespace, name);
        let begun = Instant::now();
        loop {
            let machine: Machine = serde_json::from_value(self.client.get(&path).await?)?;
            let status = machine.status.unwrap_or_default();
            if holds(&status) {
                return Ok(status);
            }
            let said = status.message.clone().unwrap_or_else(|| "nothing".into());
            if status.phase.is_finished() {
                bail!("machine/{name} ended before it was {what}: {said}");
            }
            if begun.elapsed() > self.patience {
                bail!("machine/{name} was not {what} within {} s: it is {:?} and says: {said}", self.patience.as_secs(), status.phase);
            }
            self.pause().await?;
        }
    }

    /// What is seen of a checkpoint once it is taken.
    async fn until_checkpoint(&self, name: &str) -> anyhow::Result<String> {
        let begun = Instant::now();
        loop {
            let found = self.client.get(&resource::checkpoint(&self.namespace, name)).await?;
            let status: CheckpointStatus = serde_json::from_value::<Checkpoint>(found)?.status.unwrap_or_default();
            match status.phase {
                CheckpointPhase::Ready => {
                    let snapshots: Vec<String> = status
                        .volumes
                        .iter()
                        .map(|volume| match volume.template {
                            Some(vmid) => format!("{} of template {vmid}", volume.dataset),
                            None => format!("{}@{} (guid {})", volume.dataset, volume.snapshot, volume.guid),
                        })
                        .collect();
                    let took = status.took.map(|took| format!(" in {}", print::short_span(took.0))).unwrap_or_default();
                    return Ok(format!("{}{took}", snapshots.join(", ")));
                }
                CheckpointPhase::Failed => bail!("checkpoint/{name} failed: {}", status.message.unwrap_or_default()),
                CheckpointPhase::Pending if begun.elapsed() > self.patience => {
                    bail!("checkpoint/{name} was not taken within {} s: {}", self.patience.as_secs(), status.message.unwrap_or_default())
                }
                _ => self.pause().await?,
            }
        }
    }

    async fn pause(&self) -> anyhow::Result<()> {
        match self.stop.run_until_cancelled(self.clock.sleep(LOOK)).await {
            Some(()) => Ok(()),
            None => bail!("interrupted"),
        }
    }

    /// Deletes an object of ours and returns when it is gone.
    async fn delete(&self, path: &str) -> anyhow::Result<()> {
        match self.client.delete(path).await {
            Err(error) if error.is("NotFound") => return Ok(()),
            other => drop(other?),
        }
        let begun = Instant::now();
        while let Some(object) = self.client.find(path).await? {
            if begun.elapsed() > self.patience {
                let said = object["status"]["message"].as_str().unwrap_or("nothing");
                bail!("{path} is not gone after {} s, and says: {said}", self.patience.as_secs());
            }
            self.pause().await?;
        }
        Ok(())
    }

    /// Deletes all checkpoints of the namespace; one that is a base of another when that is gone.
    async fn delete_checkpoints(&self) -> anyhow::Result<usize> {
        let (all, begun) = (resource::our::<Checkpoint>(Some(&self.namespace), None), Instant::now());
        let mut deleted = BTreeSet::new();
        loop {
            let left: Vec<Checkpoint> = self.client.list(&all).await?;
            if left.is_empty() {
                return Ok(deleted.len());
            }
            let mut why = String::new();
            for checkpoint in left.iter().filter(|checkpoint| !checkpoint.is_deleting()) {
                match self.client.delete(&resource::checkpoint(&self.namespace, checkpoint.name())).await {
                    Ok(_) => drop(deleted.insert(checkpoint.name().to_owned())),
                    Err(error) => why = error.to_string(),
                }
            }
            if begun.elapsed() > self.patience {
                let said = left.iter().find_map(|one| one.status.as_ref()?.message.clone()).unwrap_or(why);
                bail!("{} checkpoints are not gone after {} s: {said}", left.len(), self.patience.as_secs());
            }
            self.pause().await?;
        }
    }

    /// Deletes what is in our namespace, and it. Nothing of it is there when the exercise went well.
    async fn clean(&self) -> anyhow::Result<()> {
        let space = format!("/api/v1/namespaces/{}", self.namespace);
        if self.client.find(&space).await?.is_none() {
            return Ok(());
        }
        let machines: Vec<Machine> = self.client.list(&resource::our::<Machine>(Some(&self.namespace), None)).await?;
        for machine in machines {
            self.delete(&resource::machine(&self.namespace, machine.name())).await?;
        }
        self.delete_checkpoints().await?;
        self.delete(&space).await
    }
}
