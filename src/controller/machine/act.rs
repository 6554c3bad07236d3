//! Does the steps of a plan, one after the other, and says what was reached. Each is safe to repeat and to lose the reply of.

mod copy;
mod disks;
mod ending;
mod guest;
mod push;
mod suspend;

use super::observe::{Seeing, hub_name};
use super::plan::{Plan, Vm};
use super::step::{Ask, Ending, Step};
use super::{ASKED_BY, MACHINE_UID};
use crate::api::checkpoint::{CheckpointSpec, Examined, Trigger};
use crate::api::machine::{Machine, Pushed, TerminationReason, VmStatus};
use crate::api::{Checkpoint, Kind};
use crate::clock::{Clock, Retry};
use crate::controller::hub::HubHandle;
use crate::controller::{Context, Error};
use crate::driver::{self, Driver};
use crate::proxmox::{self, Power, Vmid};
use crate::runtime::{Requeue, Seen};
use crate::{git, objects, store};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tracing::info;

/// What the steps of a pass led to.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub facts: Vec<Fact>,
    /// Why the pass ended before its last step.
    pub problem: Option<Problem>,
    /// When to go on, if not at once.
    pub later: Option<Duration>,
    /// The object is gone, or was let go.
    pub is_gone: bool,
}

/// Something that was reached and belongs in the status.
#[derive(Clone, Debug)]
pub(super) enum Fact {
    Created(VmStatus),
    Launched,
    /// The agent goes on from the memory that was kept.
    Resumed,
    /// It is suspended without its memory.
    MemoryNotKept,
    /// There is no memory to go on from.
    MemoryLost,
    Examined(Examined),
    Verified {
        passed: bool,
        message: String,
    },
    Captured {
        ending: Ending,
        name: String,
    },
    /// Nothing is left of the VM that it had.
    PutAway,
    Pushed(Pushed),
    /// It cannot go on: to the end.
    Ended {
        reason: TerminationReason,
        message: String,
    },
}

/// What a step led to.
enum Done {
    Next,
    /// It was refused too often to hold up what comes next.
    LeftOut,
    Reached(Fact),
    /// Nothing more in this pass.
    Stop(Option<Fact>),
    Later(Duration),
    Gone,
}

/// Why a step was not done.
#[derive(Debug, thiserror::Error)]
pub(super) enum Problem {
    #[error(transparent)]
    Driver(#[from] driver::Error),
    #[error(transparent)]
    Objects(#[from] objects::Error),
    #[error(transparent)]
    Store(#[from] store::Error),
    #[error("the source could not be read: {0}")]
    Source(#[from] git::Error),
    #[error("the work was not pushed: {0}")]
    Push(git::Error),
    #[error("there is nothing to push: {0}")]
    NothingToPush(String),
    #[error("{0}")]
    Credential(String),
    #[error("hub {0} has no free VMID in its range; widen spec.infrastructure.proxmox.vmids")]
    NoVmid(String),
    #[error("{0}")]
    Unseen(String),
}

impl Problem {
    fn retry(&self) -> Retry {
        match self {
            Self::Driver(error) => error.retry(),
            Self::Objects(_) | Self::Store(_) | Self::Unseen(_) => Retry::Soon,
            Self::Source(error) | Self::Push(error) if error.is_transient() => Retry::Soon,
            Self::Source(_) | Self::Push(_) | Self::NothingToPush(_) | Self::Credential(_) => Retry::Never,
            Self::NoVmid(_) => Retry::After(Duration::from_secs(30)),
        }
    }
    /// Whether only a person can help.
    pub(super) fn is_stalled(&self) -> bool {
        self.retry() == Retry::Never
    }
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Self::Driver(driver::Error::Conflict(_)) => "Conflict",
            Self::Driver(driver::Error::Missing(_)) => "Missing",
            Self::Driver(driver::Error::Guest(_)) => "GuestRefused",
            Self::Driver(driver::Error::Proxmox(proxmox::Error::Unauthorized { .. })) => "CredentialRefused",
            Self::Driver(_) => "InfrastructureFailed",
            Self::Objects(_) | Self::Store(_) => "StoreFailed",
            Self::Source(_) => "SourceFailed",
            Self::Push(_) => "PushFailed",
            Self::NothingToPush(_) => "NothingToPush",
            Self::Credential(_) => "CredentialMissing",
            Self::NoVmid(_) => "NoVmid",
            Self::Unseen(_) => "Unseen",
        }
    }
    /// When to try again; `Soon` is the queue's own backoff.
    pub(super) fn into_requeue(self, resync: Duration) -> Result<Requeue, Error> {
        match self.retry() {
            Retry::Soon => Err(Error::Waiting(self.to_string())),
            Retry::After(wait) => Ok(Requeue::Refused(wait)),
            Retry::Never => Ok(Requeue::Refused(resync)),
        }
    }
}

/// One Machine being acted on.
struct Act<'a> {
    machine: &'a Machine,
    seeing: &'a Seeing,
    context: &'a Context,
    /// Name of the step at hand.
    step: &'static str,
}

pub(super) async fn act(machine: &Machine, plan: &Plan, seeing: &Seeing, context: &Arc<Context>) -> Outcome {
    let mut outcome = Outcome::default();
    for step in &plan.steps {
        if context.machines.is_stopped() {
            break;
        }
        info!("{}: {}", machine.name(), step.name());
        let act = Act { machine, seeing, context, step: step.name() };
        let done = act.step(step).await;
        context.machines.update(machine.uid(), |known| known.acted_at = Some(Instant::now()));
        match done {
            Ok(Done::Next) => context.machines.update(machine.uid(), |known| known.done(step)),
            Ok(Done::LeftOut) => {}
            Ok(Done::Reached(fact)) => {
                context.machines.update(machine.uid(), |known| known.done(step));
                outcome.facts.push(fact);
            }
            Ok(Done::Stop(fact)) => {
                outcome.facts.extend(fact);
                break;
            }
            Ok(Done::Later(wait)) => {
                outcome.later = Some(wait);
                break;
            }
            Ok(Done::Gone) => {
                outcome.is_gone = true;
                break;
            }
            Err(problem) => {
                // What was known is in doubt: look again.
                context.machines.update(machine.uid(), |known| {
                    known.vm = None;
                    *known.refusals.entry(step.name()).or_default() += 1;
                });
                outcome.problem = Some(problem);
                break;
            }
        }
        if !context.machines.goes_on_after(step) {
            break;
        }
    }
    let unfinished = outcome.problem.is_some() || outcome.later.is_some();
    context.machines.update(machine.uid(), |known| known.unfinished = unfinished);
    outcome
}

impl Act<'_> {
    async fn step(&self, step: &Step) -> Result<Done, Problem> {
        match step {
            Step::AddFinalizer => self.add_finalizer().await,
            Step::RemoveFinalizer => self.remove_finalizer().await,
            Step::DeleteSelf => self.delete_self().await,
            Step::AskForBase(ask) => self.ask_for_base(ask).await,
            Step::AskForOwn { name } => self.ask_for_own(name).await,
            Step::Copy(base) => self.copy(base).await,
            Step::LookForBase(base) => self.look_for_base(base).await,
            Step::Lease => self.lease().await,
            Step::Fork(base) => self.fork(base).await,
            Step::CreateVm { disks, template } => self.create_vm(*disks, *template).await,
            Step::AdoptVm { disks, template } => self.adopt_vm(*disks, *template).await,
            Step::Start => self.start().await,
            Step::AwaitGuest => self.await_guest().await,
            Step::Personalise => self.personalise().await,
            Step::PutSource => self.put_source().await,
            Step::Launch { number } => self.launch(*number).await,
            Step::AwaitAnswers => self.await_answers().await,
            Step::Suspend => self.suspend().await,
            Step::Resume => self.resume().await,
            Step::GoOn { number } => self.go_on(*number).await,
            Step::DiscardMemory => self.discard_memory().await,
            Step::Examine => self.examine().await,
            Step::StopAgent => self.stop_agent().await,
            Step::Verify => self.verify().await,
            Step::KeepBundle => self.keep_bundle().await,
            Step::Flush(before) => self.flush(*before).await,
            Step::ShutDown => self.shut_down().await,
            Step::Capture(ending) => self.capture(*ending).await,
            Step::PutAway => self.put_away().await,
            Step::KeepDisks => self.keep_disks().await,
            Step::DestroyDisks => self.destroy_disks().await,
            Step::DeleteVm => self.delete_vm().await,
            Step::EndLease => self.end_lease().await,
            Step::Push => self.push().await,
        }
    }

    fn hub(&self) -> Result<&HubHandle, Problem> {
        self.seeing.hub.as_deref().ok_or_else(|| Problem::Unseen(format!("hub {} cannot be used", hub_name(self.machine))))
    }
    /// On the Machine's node.
    fn driver(&self) -> Result<&Driver, Problem> {
        self.seeing.driver.as_ref().map_err(|why| Problem::Unseen(why.clone()))
    }
    /// How often the step at hand was refused, if it is again.
    fn refusals(&self) -> u32 {
        self.context.machines.known(self.uid()).refusals.get(self.step).copied().unwrap_or_default() + 1
    }
    fn clock(&self) -> &Clock {
        self.context.objects.clock()
    }
    fn uid(&self) -> &str {
        self.machine.uid()
    }
    /// The leased VMID, as of now: an earlier step of this pass may have leased it.
    async fn vmid(&self) -> Result<Vmid, Problem> {
        if let Some(vmid) = self.seeing.observed.lease {
            return Ok(vmid);
        }
        let own = self.context.objects.vmid_lease(hub_name(self.machine), self.uid()).await?;
        own.map(Vmid).ok_or_else(|| Problem::Unseen("no VMID is leased".into()))
    }
    fn remember_vm(&self, vm: Seen<Vm>) {
        self.context.machines.update(self.uid(), |known| known.vm = Some(vm));
    }
    fn remember_power(&self, power: Power) {
        self.remember_vm(Seen::Present(Vm::Ours(power)));
    }

    async fn add_finalizer(&self) -> Result<Done, Problem> {
        let mut machine = self.machine.clone();
        machine.metadata.finalizers.get_or_insert_default().push(crate::api::machine::FINALIZER.into());
        match self.context.objects.update(&machine).await {
            Ok(_) | Err(objects::Error::Conflict { .. } | objects::Error::NotFound { .. }) => Ok(Done::Stop(None)),
            Err(error) => Err(error.into()),
        }
    }

    async fn remove_finalizer(&self) -> Result<Done, Problem> {
        let mut machine = self.machine.clone();
        machine.metadata.finalizers.iter_mut().for_each(|all| all.retain(|name| name != crate::api::machine::FINALIZER));
        match self.context.objects.update(&machine).await {
            Ok(_) | Err(objects::Error::NotFound { .. }) => Ok(Done::Gone),
            Err(objects::Error::Conflict { .. }) => Ok(Done::Stop(None)),
            Err(error) => Err(error.into()),
        }
    }

    /// Asks for a checkpoint of another Machine. One that has the name meanwhile is looked at in the next pass.
    async fn ask_for_base(&self, ask: &Ask) -> Result<Done, Problem> {
        let name = self.machine.name();
        let spec = CheckpointSpec {
            machine: Some(ask.machine.clone()),
            description: Some(format!("taken to spawn machine {name} from")),
            ..CheckpointSpec::default()
        };
        let mut checkpoint = Checkpoint::new(self.machine.namespace(), &ask.checkpoint, spec);
        checkpoint.metadata.annotations = Some([(ASKED_BY.to_owned(), self.uid().to_owned())].into());
        checkpoint.metadata.labels = Some([(crate::wire::label::MACHINE.to_owned(), ask.machine.clone())].into());
        match self.context.objects.create(&checkpoint).await {
            Ok(_) | Err(objects::Error::AlreadyExists { .. }) => Ok(Done::Stop(None)),
            Err(error) => Err(error.into()),
        }
    }

    /// Asks for a checkpoint of its own. Its name says when it was due, so a repeat finds it there.
    async fn ask_for_own(&self, name: &str) -> Result<Done, Problem> {
        let spec = CheckpointSpec { machine: Some(self.machine.name().into()), trigger: Trigger::Interval, ..CheckpointSpec::default() };
        let mut checkpoint = Checkpoint::new(self.machine.namespace(), name, spec);
        checkpoint.metadata.annotations = Some([(MACHINE_UID.to_owned(), self.uid().to_owned())].into());
        checkpoint.metadata.labels = Some([(crate::wire::label::MACHINE.to_owned(), self.machine.name().to_owned())].into());
        match self.context.objects.create(&checkpoint).await {
            Ok(_) | Err(objects::Error::AlreadyExists { .. }) => Ok(Done::Next),
            Err(error) => Err(error.into()),
        }
    }

    async fn delete_self(&self) -> Result<Done, Problem> {
        match self.context.objects.delete::<Machine>(self.machine.namespace(), self.machine.name(), Some(self.uid())).await {
            Ok(()) | Err(objects::Error::NotFound { .. } | objects::Error::Conflict { .. }) => Ok(Done::Stop(None)),
            Err(error) => Err(error.into()),
        }
    }
}
