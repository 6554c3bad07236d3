//! The end, and a suspension: the guest is put to rest, its state becomes a checkpoint.

use super::super::plan::Vm;
use super::super::step::Ending;
use super::super::{MACHINE_UID, final_names, is_own, restore_name, suspend_name};
use super::{Act, Done, Fact, Problem};
use crate::agent;
use crate::api::checkpoint::{self, CheckpointPhase, CheckpointSpec, CheckpointStatus, Keep, Trigger};
use crate::api::machine::{Machine, TerminationReason};
use crate::api::quantity::GoDuration;
use crate::api::{Checkpoint, Kind};
use crate::controller::kstatus::Readiness;
use crate::driver::marks::Owner;
use crate::driver::storage::Still;
use crate::driver::{self};
use crate::objects::EventType;
use crate::proxmox::{self, Power};
use crate::runtime::Seen;
use crate::store::BundleRow;
use crate::wire::label;
use crate::{lineage, objects};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use std::time::Duration;
use tokio::time::Instant;
use tracing::{info, warn};

/// Failures of a step in the guest after which the end goes on without it: it must come to an end.
const PATIENCE: u32 = 3;
/// The same of the verify command, by which work is judged, and of work that is done and to be kept, where the guest does not answer: each
/// try comes later after the one before, up to a minute, so that a network that is gone for some minutes, or a guest that is slow, judges nothing.
const VERIFICATIONS: u32 = 12;
/// Longest time to read a directory of a guest before it is shut down.
const DIGEST: Duration = Duration::from_secs(30);
/// Characters of a goal that the message of a commit has at most, and of its first line.
const LONGEST_GOAL: usize = 4000;
const SUBJECT: usize = 70;
/// Longest chain of checkpoints that is searched for one whose workspace was recorded.
const ANCESTORS: usize = 200;

impl Act<'_> {
    /// Goes on without a step in a guest that does not answer, or has refused it often enough.
    fn best_effort(&self, what: &str, error: Problem) -> Result<Done, Problem> {
        self.within(if is_silent(&error) { 0 } else { PATIENCE }, what, error)
    }

    /// Likewise, of a guest that does not answer only after so many tries: Proxmox gives it three seconds, which one that is busy may miss.
    /// One that is off is seen to be before each of them.
    fn within(&self, tries: u32, what: &str, error: Problem) -> Result<Done, Problem> {
        if self.refusals() >= tries {
            warn!("{}: {what} was left out: {error}", self.machine.name());
            return Ok(Done::LeftOut);
        }
        Err(error)
    }

    pub(super) async fn stop_agent(&self) -> Result<Done, Problem> {
        let vmid = self.vmid().await?;
        match self.driver()?.guest(vmid, self.clock()).stop_agent().await {
            Ok(()) => Ok(Done::Next),
            Err(error) => self.best_effort("stopping the agent", error.into()),
        }
    }

    /// Asks the verify command whether the goal was achieved. The pass ends here: what it said is written down first.
    pub(super) async fn verify(&self) -> Result<Done, Problem> {
        let Some(verify) = &self.machine.spec.goal.verify else {
            return Ok(Done::Stop(Some(Fact::Verified { passed: true, message: String::new() })));
        };
        let vmid = self.vmid().await?;
        let guest = self.driver()?.guest(vmid, self.clock());
        let said = |passed, message| Ok(Done::Stop(Some(Fact::Verified { passed, message })));
        match guest.verify(&verify.command, self.machine.workspace(), verify.timeout.0).await {
            Ok(result) if result.passed => said(true, format!("`{}` passed", verify.command.join(" "))),
            Ok(result) => {
                let code = result.code.map_or("a signal".to_owned(), |code| format!("code {code}"));
                let tail: String = result.output.trim_end().chars().rev().take(400).collect::<Vec<_>>().into_iter().rev().collect();
                said(false, format!("`{}` ended with {code}: {tail}", verify.command.join(" ")))
            }
            Err(error) => match self.within(VERIFICATIONS, "verify", error.into())? {
                Done::LeftOut => said(false, "the verify command could not be run in the guest".into()),
                other => Ok(other),
            },
        }
    }

    /// Stores a git bundle of the workspace with the final checkpoint, for `autovibe diff`.
    pub(super) async fn keep_bundle(&self) -> Result<Done, Problem> {
        let checkpoint = self.checkpoint(Ending::Final).await?;
        if self.context.objects.bundle_commit(&checkpoint).await?.is_some() {
            return Ok(Done::Next);
        }
        let base = self.recorded_ancestor().await?;
        match self.bundle(&checkpoint, base).await {
            Ok(()) => Ok(Done::Next),
            Err(error) => {
                let completed =
                    self.machine.status.as_ref().and_then(|status| status.termination_reason) == Some(TerminationReason::Completed);
                let tries = if completed && is_silent(&error) { VERIFICATIONS } else { PATIENCE };
                self.within(tries, "the bundle of the workspace", error)
            }
        }
    }

    async fn bundle(&self, checkpoint: &Checkpoint, base: Option<(String, String)>) -> Result<(), Problem> {
        let vmid = self.vmid().await?;
        let guest = self.driver()?.guest(vmid, self.clock());
        let workspace = self.machine.workspace();
        let message = message(self.machine);
        let mut bundle = guest.bundle(workspace, checkpoint.name(), base.as_ref().map(|(name, _)| name.as_str()), &message).await?;
        // A base that we do not have by that commit would make the bundle unreadable.
        let unknown =
            |found: &driver::guest::WorkspaceBundle| found.base.is_some() && found.base.as_ref() != base.as_ref().map(|(_, commit)| commit);
        if bundle.as_ref().is_some_and(unknown) {
            bundle = guest.bundle(workspace, checkpoint.name(), None, &message).await?;
        }
        let Some(bundle) = bundle else { return Ok(()) };
        let row = BundleRow { commit: bundle.commit, base_commit: bundle.base, bytes: bundle.bytes };
        self.context.objects.put_bundle(checkpoint, row).await?;
        Ok(())
    }

    /// The nearest ancestor whose workspace was recorded: name and commit.
    async fn recorded_ancestor(&self) -> Result<Option<(String, String)>, Problem> {
        let mut next = self.machine.status.as_ref().and_then(|status| status.spawned_from.clone());
        for _ in 0..ANCESTORS {
            let Some(name) = next else { break };
            let Some(found) = self.context.objects.get::<Checkpoint>(self.machine.namespace(), &name).await? else { break };
            if let Some(commit) = self.context.objects.bundle_commit(&found).await? {
                return Ok(Some((name, commit)));
            }
            next = found.status.and_then(|status| status.parent);
        }
        Ok(None)
    }

    pub(super) async fn flush(&self, before: Option<Ending>) -> Result<Done, Problem> {
        let vmid = self.vmid().await?;
        if let Some(ending) = before {
            self.keep_digests(ending).await?;
        }
        match self.driver()?.guest(vmid, self.clock()).flush("", &[], Duration::ZERO).await {
            Ok(_) => Ok(Done::Next),
            Err(error) => self.best_effort("the flush", error.into()),
        }
    }

    /// Writes down what the guest holds, now that nothing of the agent changes it, so that the checkpoint can be verified. Tried once: without
    /// it there is less to compare, and no more.
    async fn keep_digests(&self, ending: Ending) -> Result<(), Problem> {
        let vmid = self.vmid().await?;
        let contents = agent::contents(self.machine);
        let digests = match self.driver()?.guest(vmid, self.clock()).digests(&contents, DIGEST).await {
            Ok(digests) => digests,
            Err(error) => {
                warn!("{}: its checkpoint has no digests: {error}", self.machine.name());
                return Ok(());
            }
        };
        let checkpoint = self.checkpoint(ending).await?;
        self.write(checkpoint, |status, _| {
            if status.phase == CheckpointPhase::Pending {
                status.digests.clone_from(&digests);
            }
        })
        .await
    }

    pub(super) async fn shut_down(&self) -> Result<Done, Problem> {
        let (driver, vmid) = (self.driver()?, self.vmid().await?);
        match driver.verify_owned(vmid, self.uid()).await? {
            Owner::Ours(vm) => {
                // A guest that never answered does not hear the request either.
                let lost =
                    self.machine.status.as_ref().is_some_and(|status| status.termination_reason == Some(TerminationReason::GuestLost));
                if lost {
                    driver.stop(&vm, self.clock()).await?;
                } else {
                    driver.shut_down(&vm, self.context.machines.timing.shutdown, self.clock()).await?;
                }
                self.remember_power(Power::Stopped);
                self.context.machines.update(self.uid(), |known| known.owned = Some(vm));
                Ok(Done::Next)
            }
            Owner::Nobody | Owner::Other(_) => {
                self.context.machines.update(self.uid(), |known| known.vm = None);
                Ok(Done::Stop(None))
            }
        }
    }

    /// Snapshots the disks of a VM that stands still; the record follows.
    pub(super) async fn capture(&self, ending: Ending) -> Result<Done, Problem> {
        let began = Instant::now();
        let (driver, vmid) = (self.driver()?, self.vmid().await?);
        let checkpoint = self.checkpoint(ending).await?;
        let reached = Ok(Done::Reached(Fact::Captured { ending, name: checkpoint.name().to_owned() }));
        if checkpoint.status.as_ref().is_some_and(|status| status.phase == CheckpointPhase::Ready) {
            return reached;
        }
        let is_gone = !matches!(self.seeing.observed.vm, Seen::Present(Vm::Ours(_) | Vm::Suspended | Vm::Template));
        let disks = self.disks(vmid)?;
        self.nothing_writes(vmid, &disks).await?;
        let still = Still {
            vmid,
            disks: &disks,
            machine_uid: self.uid(),
            checkpoint_uid: checkpoint.uid(),
            namespace: self.machine.namespace(),
            is_gone,
        };
        let volumes = match driver.capture_stopped(&still, self.clock()).await {
            Ok(volumes) => volumes,
            Err(driver::Error::Missing(why)) if is_gone => {
                warn!(vm.id = %vmid, "{}: there is nothing left to capture: {why}", self.machine.name());
                self.fail(checkpoint, &why).await?;
                return Ok(Done::Next);
            }
            Err(error) => return Err(error.into()),
        };
        if is_gone && volumes.len() < disks.len() {
            let why = format!("{} of its {} disks were captured: the others were gone", volumes.len(), disks.len());
            self.context.objects.record(self.machine, EventType::Warning, "DisksMissing", &why).await;
        }
        if volumes.iter().any(|volume| volume.template.is_some()) {
            self.remember_vm(Seen::Present(Vm::Template));
        }
        let commit = self.context.objects.bundle_commit(&checkpoint).await?;
        let last = self.last().await?;
        let session = last.as_ref().and_then(|last| last.session.clone());
        let as_suspended = last.filter(|_| self.is_as_suspended()).map(|last| last.digests).unwrap_or_default();
        let took = began.elapsed();
        let now = self.clock().api_now();
        let captured_at = lineage::stamp(now.clone(), self.seeing.observed.checkpoints.captured_at.map(Time).as_ref());
        let reason = checkpoint.spec.reason();
        let with_memory = ending == Ending::Suspend && self.machine.status.as_ref().is_some_and(|status| status.memory_kept_at.is_some());
        self.write(checkpoint, |status, generation| {
            let machine = self.machine.status.clone().unwrap_or_default();
            status.phase = CheckpointPhase::Ready;
            status.message = None;
            status.machine_uid = Some(self.uid().to_owned());
            status.parent = machine.last_checkpoint.filter(|name| *name != self.name(ending)).or(machine.spawned_from);
            status.goal = Some(self.machine.spec.goal.prompt.clone());
            status.workspace = Some(self.machine.workspace().to_owned());
            status.volumes.clone_from(&volumes);
            status.session.clone_from(&session);
            if status.digests.is_empty() {
                status.digests.clone_from(&as_suspended);
            }
            status.add_reasons(reason.clone());
            // With its memory kept, what its agent was doing it does on, and these disks are in the middle of it.
            status.quiescent = Some(!with_memory);
            status.took = Some(GoDuration(took));
            status.captured_at = Some(captured_at.clone());
            status.commit.clone_from(&commit);
            let message = "the disks of the stopped machine were captured".into();
            Readiness::Ready { reason: "Captured", message }.apply(&mut status.conditions, generation, &now);
        })
        .await?;
        info!("{}: captured {} disks", self.machine.name(), volumes.len());
        reached
    }

    fn name(&self, ending: Ending) -> String {
        let status = self.machine.status.clone().unwrap_or_default();
        match ending {
            Ending::Final => status.final_checkpoint.unwrap_or_else(|| final_names(self.machine)[0].clone()),
            Ending::Suspend => suspend_name(self.machine.name(), &status),
            Ending::Restore => restore_name(self.machine.name(), &status),
        }
    }

    async fn fail(&self, checkpoint: Checkpoint, why: &str) -> Result<(), Problem> {
        let now = self.clock().api_now();
        self.write(checkpoint, |status, generation| {
            status.phase = CheckpointPhase::Failed;
            status.machine_uid = Some(self.uid().to_owned());
            status.message = Some(why.to_owned());
            Readiness::stalled("Missing", why).apply(&mut status.conditions, generation, &now);
        })
        .await
    }

    /// Writes a checkpoint's status over what others may have written.
    async fn write(&self, mut checkpoint: Checkpoint, change: impl Fn(&mut CheckpointStatus, i64)) -> Result<(), Problem> {
        loop {
            let generation = checkpoint.generation();
            let status = checkpoint.status.get_or_insert_default();
            status.observed_generation = Some(generation);
            change(status, generation);
            match self.context.objects.update_status(&checkpoint).await {
                Ok(_) => return Ok(()),
                Err(objects::Error::Conflict { .. }) => {
                    let (namespace, name) = (self.machine.namespace(), checkpoint.name().to_owned());
                    let now = self.context.objects.get::<Checkpoint>(namespace, &name).await?;
                    checkpoint = now.ok_or_else(|| Problem::Unseen(format!("checkpoint {name} was deleted")))?;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// The Checkpoint object of an ending, made if need be. A namesake's is left alone.
    async fn checkpoint(&self, ending: Ending) -> Result<Checkpoint, Problem> {
        let namespace = self.machine.namespace();
        let names = match ending {
            Ending::Final => final_names(self.machine).to_vec(),
            Ending::Suspend | Ending::Restore => {
                let name = self.name(ending);
                vec![name.clone(), format!("{name}-{}", self.uid().chars().take(8).collect::<String>())]
            }
        };
        for name in names {
            let mut wanted = Checkpoint::new(namespace, &name, CheckpointSpec::default());
            wanted.spec.machine = Some(self.machine.name().to_owned());
            wanted.spec.trigger = match ending {
                Ending::Final => Trigger::Final,
                Ending::Suspend => Trigger::Suspend,
                Ending::Restore => Trigger::Restore,
            };
            if ending == Ending::Restore {
                // It is how the restore is undone, however much is done after it.
                wanted.spec.keep = Keep::Forever;
            }
            wanted.metadata = ObjectMeta {
                labels: Some([(label::MACHINE.to_owned(), self.machine.name().to_owned())].into()),
                annotations: Some([(MACHINE_UID.to_owned(), self.uid().to_owned())].into()),
                finalizers: Some(vec![checkpoint::FINALIZER.to_owned()]),
                ..wanted.metadata
            };
            match self.context.objects.create(&wanted).await {
                Ok(created) => return Ok(created),
                Err(objects::Error::AlreadyExists { .. }) => {}
                Err(error) => return Err(error.into()),
            }
            match self.context.objects.get::<Checkpoint>(namespace, &name).await? {
                Some(found) if is_own(&found, self.machine) => return Ok(found),
                _ => {}
            }
        }
        Err(Problem::Unseen(format!("the names for the checkpoint of {} are taken; delete {}", self.machine.name(), self.name(ending))))
    }

    /// Whether nothing ran since the checkpoint of its last suspension was taken.
    fn is_as_suspended(&self) -> bool {
        let status = self.machine.status.as_ref();
        status.is_some_and(|status| status.last_checkpoint.as_deref() == Some(&suspend_name(self.machine.name(), status)))
    }

    /// What its newest checkpoint is: the conversation as it stands is that one's.
    async fn last(&self) -> Result<Option<CheckpointStatus>, Problem> {
        let last = self.machine.status.as_ref().and_then(|status| status.last_checkpoint.clone());
        let Some(name) = last else { return Ok(None) };
        let found = self.context.objects.get::<Checkpoint>(self.machine.namespace(), &name).await?;
        Ok(found.filter(|checkpoint| is_own(checkpoint, self.machine)).and_then(|checkpoint| checkpoint.status))
    }
}

/// Whether nobody in the guest answered.
fn is_silent(error: &Problem) -> bool {
    matches!(error, Problem::Driver(driver::Error::Proxmox(proxmox::Error::AgentNotRunning(_) | proxmox::Error::NotRunning(_))))
}

/// What the commit of a Machine's work says: what it was to do, and who did it.
fn message(machine: &Machine) -> String {
    let goal: String = machine.spec.goal.prompt.trim().chars().filter(|c| *c != '\0').take(LONGEST_GOAL).collect();
    let first = goal.lines().next().unwrap_or_default();
    let short = shortened(first, SUBJECT);
    let subject = if short.is_empty() { machine.name() } else { &short };
    let body = if subject == goal { String::new() } else { format!("{goal}\n\n") };
    format!("{subject}\n\n{body}Machine {}/{}", machine.namespace(), machine.name())
}

/// At most so many characters, cut between words.
fn shortened(line: &str, most: usize) -> String {
    if line.chars().count() <= most {
        return line.to_owned();
    }
    let cut: String = line.chars().take(most).collect();
    format!("{}…", cut.rsplit_once(' ').map_or(cut.as_str(), |(whole, _)| whole))
}
