//! A guest whose memory is kept: the agent comes to a point where nothing is on its way to it, the memory is saved, and goes on.

use super::super::plan::Vm;
use super::{Act, Done, Fact, Problem};
use crate::api::Kind;
use crate::driver::guest::AgentState;
use crate::driver::marks::Owner;
use crate::driver::{self};
use crate::objects::EventType;
use crate::proxmox::{self, Power};
use crate::runtime::Seen;
use crate::store::calls::CallState;
use rand::RngCore;
use std::time::Duration;
use tracing::warn;

/// Longest wait for an answer that is on its way. The gateway turns away what the agent asks meanwhile.
const ANSWERS: Duration = Duration::from_mins(2);
/// Between two looks at it.
const LOOK: Duration = Duration::from_millis(250);
/// From the decision until its guest is suspended: its agent has been told to ask again later by then.
const TOLD: Duration = Duration::from_millis(500);
/// Failures to save the memory, or to find it, after which it goes on without.
const PATIENCE: u32 = 3;
/// Failures to load a memory that is there, after which it is given up. Each comes up to a minute after the one before: a node that is
/// short of room for it for some minutes is waited for.
const LOADS: u32 = 12;

/// So often a memory may fail to load with this before it is given up: what is wrong around it says nothing of it.
fn loads(error: &driver::Error) -> u32 {
    match error {
        driver::Error::Proxmox(proxmox::Error::NoVolume(_)) => PATIENCE,
        driver::Error::Proxmox(error) if error.class() == proxmox::Class::Unknown => LOADS,
        _ => u32::MAX,
    }
}

impl Act<'_> {
    /// An answer that is cut in its middle ends most agents, and a guest that goes on hears nothing of the connection that it was on.
    pub(super) async fn await_answers(&self) -> Result<Done, Problem> {
        let decided = self.machine.status.as_ref().and_then(|status| status.memory_kept_at.as_ref()).map(|at| at.0);
        let now = self.clock().now();
        let waited = decided.map_or(ANSWERS, |at| Duration::try_from(now.duration_since(at)).unwrap_or_default());
        if waited < TOLD {
            return Ok(Done::Later(LOOK));
        }
        let open = self.context.objects.last_main_call(self.machine).await?.is_some_and(|call| call.state == CallState::Open);
        Ok(if open && waited < ANSWERS { Done::Later(LOOK) } else { Done::Next })
    }

    pub(super) async fn suspend(&self) -> Result<Done, Problem> {
        let (driver, vmid) = (self.driver()?, self.vmid().await?);
        let vm = match driver.verify_owned(vmid, self.uid()).await? {
            Owner::Ours(vm) => vm,
            Owner::Nobody | Owner::Other(_) => {
                self.context.machines.update(self.uid(), |known| known.vm = None);
                return Ok(Done::Stop(None));
            }
        };
        match driver.suspend(&vm, self.clock()).await {
            Ok(()) => {
                self.remember_vm(Seen::Present(Vm::Suspended));
                Ok(Done::Next)
            }
            Err(driver::Error::Unknown(_) | driver::Error::Proxmox(proxmox::Error::Unknown(_))) => {
                // It may be on its way: what its config says decides.
                self.context.machines.update(self.uid(), |known| known.vm = None);
                Ok(Done::Later(LOOK))
            }
            Err(error) if self.refusals() >= PATIENCE => {
                self.without_memory(&format!("its memory could not be saved, so it is suspended without: {error}")).await;
                driver.protect(vmid, self.uid()).await?;
                Ok(Done::Stop(Some(Fact::MemoryNotKept)))
            }
            Err(error) => Err(error.into()),
        }
    }

    pub(super) async fn resume(&self) -> Result<Done, Problem> {
        let (driver, vmid) = (self.driver()?, self.vmid().await?);
        match driver.resume(vmid, self.clock()).await {
            Ok(()) => {
                // It does not boot: its agent answers at once.
                self.context.machines.update(self.uid(), |known| known.boot = None);
                self.remember_power(Power::Running);
                Ok(Done::Next)
            }
            Err(error @ (driver::Error::Unknown(_) | driver::Error::Proxmox(proxmox::Error::Unknown(_)))) => Err(error.into()),
            Err(error) if self.refusals() >= loads(&error) => {
                self.give_up_memory().await?;
                Ok(Done::Stop(Some(self.memory_lost(&format!("its memory could not be loaded: {error}")).await)))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Gives the memory of a guest up that will not go on from there.
    pub(super) async fn discard_memory(&self) -> Result<Done, Problem> {
        self.give_up_memory().await?;
        Ok(Done::Next)
    }

    async fn give_up_memory(&self) -> Result<(), Problem> {
        let (driver, vmid) = (self.driver()?, self.vmid().await?);
        if let Owner::Ours(vm) = driver.verify_owned(vmid, self.uid()).await? {
            driver.discard_memory(&vm).await?;
        }
        self.context.machines.update(self.uid(), |known| known.vm = None);
        Ok(())
    }

    /// The guest goes on: it gets the time, fresh entropy, and its protection again. Whether the agent is in it, its own word says.
    pub(super) async fn go_on(&self, number: u32) -> Result<Done, Problem> {
        let (driver, vmid) = (self.driver()?, self.vmid().await?);
        driver.protect(vmid, self.uid()).await?;
        let mut seed = [0_u8; 64];
        crate::random::Source.fill_bytes(&mut seed);
        let guest = driver.guest(vmid, self.clock());
        guest.go_on(&seed).await?;
        match guest.status().await? {
            AgentState::Running { launch } if launch == number => {
                self.context.machines.update(self.uid(), |known| known.looked = true);
                Ok(Done::Reached(Fact::Resumed))
            }
            // It ended meanwhile, by itself: the first look at a Running Machine finds that.
            AgentState::Exited { launch, code: Some(_) } if launch == number => {
                self.context.machines.update(self.uid(), |known| known.looked = false);
                Ok(Done::Reached(Fact::Resumed))
            }
            _ => Ok(Done::Stop(Some(self.memory_lost("its guest was started from its disks").await))),
        }
    }

    async fn memory_lost(&self, why: &str) -> Fact {
        self.without_memory(&format!("{why}; its agent is launched again and goes on with its conversation")).await;
        Fact::MemoryLost
    }

    async fn without_memory(&self, message: &str) {
        warn!("{}: {message}", self.machine.name());
        self.context.objects.record(self.machine, EventType::Warning, "MemoryNotKept", message).await;
    }
}
