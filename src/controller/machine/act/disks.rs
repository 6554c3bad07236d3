//! VMID, disks and VM: made at the spawn, put away at the end.

use super::super::base::image_base;
use super::super::observe::{look, without_config};
use super::super::plan::Vm;
use super::super::step::Base;
use super::{Act, Done, Problem};
use crate::api::capability::CapabilityName;
use crate::api::machine::{TerminationReason, VmStatus};
use crate::api::{Checkpoint, Kind};
use crate::controller::machine::observe::hub_name;
use crate::driver::{self, Driver};
use crate::driver::{
    marks::{Owner, tagged},
    vm::VmSpec,
};
use crate::proxmox::{Power, Vmid};
use crate::runtime::Seen;
use crate::world::View;
use crate::zfs::Dataset;
use std::time::Duration;
use tokio::time::Instant;
use tracing::warn;

/// Steps that are refused where a VMID is someone else's.
const MAKING: [&str; 3] = ["Lease", "Fork", "CreateVm"];
/// How old the list of taken VMIDs may be: Proxmox itself refuses one that is taken.
const TAKEN: Duration = Duration::from_hours(1);
/// How old the list of datasets may be: only others make any whose number is not leased, and a clone finds what is there.
const LISTED: Duration = Duration::from_secs(10);

impl Act<'_> {
    pub(super) async fn lease(&self) -> Result<Done, Problem> {
        let hub = self.hub()?;
        let world = &hub.world;
        // One that was refused is in no list yet that is older.
        let known = self.context.machines.known(self.uid());
        let refused = MAKING.iter().any(|step| known.refusals.contains_key(step));
        let view = if refused { world.fresher_than(Instant::now()).await } else { world.at_most(TAKEN).await };
        let mut view = view.map_err(|unknown| Problem::Unseen(unknown.to_string()))?;
        // A restored database may have forgotten the lease of a VM that is there: it gets it back, and no second VM.
        let own = |view: &View| view.vms.iter().find(|(_, vm)| !refused && tagged(&vm.tags) == Some(self.uid())).map(|(vmid, _)| vmid.0);
        if own(&view).is_some() {
            view = world.fresher_than(Instant::now()).await.map_err(|unknown| Problem::Unseen(unknown.to_string()))?;
        }
        let driver = self.driver()?;
        let now = Instant::now();
        let numbers = driver.numbers_since(if refused { now } else { now.checked_sub(LISTED).unwrap_or(now) }).await?;
        let taken: Vec<u32> = view.vms.keys().chain(numbers.iter()).map(|vmid| vmid.0).collect();
        let range = driver.connection().vmids;
        let (from, to, taken) = own(&view).map_or((range.from, range.to, taken), |own| (own, own, Vec::new()));
        let leased = self.context.objects.lease_vmid(hub_name(self.machine), self.machine, (from, to), taken).await?;
        leased.map(|_| Done::Next).ok_or_else(|| Problem::NoVmid(hub.name.clone()))
    }

    /// Ends the Machine where a snapshot of its base is gone for sure.
    pub(super) async fn look_for_base(&self, base: &Base) -> Result<Done, Problem> {
        let driver = self.driver()?;
        for volume in &base.volumes {
            if driver.locate(volume, base.machine_uid.as_deref()).await?.is_none() {
                let message = format!("the snapshot {}@{} is gone", volume.dataset, volume.snapshot);
                return Ok(Done::Stop(Some(super::Fact::Ended { reason: TerminationReason::VerifyFailed, message })));
            }
        }
        Ok(Done::Next)
    }

    pub(super) async fn fork(&self, base: &Base) -> Result<Done, Problem> {
        let (driver, vmid) = (self.driver()?, self.vmid().await?);
        for (index, volume) in (self.first_disk()..).zip(&base.volumes) {
            let Some(snapshot) = driver.locate(volume, base.machine_uid.as_deref()).await? else {
                return Err(driver::Error::Missing(format!("the snapshot {}@{} is gone", volume.dataset, volume.snapshot)).into());
            };
            driver.fork(&snapshot, &volume.guid, self.uid(), vmid, index).await?;
        }
        Ok(Done::Next)
    }

    /// The verbs by which its VM is made: one that looks at a checkpoint has no network.
    fn maker(&self) -> Result<Driver, Problem> {
        let driver = self.driver()?;
        Ok(if self.machine.spec.verifies() { driver.isolated() } else { driver.clone() })
    }

    /// What its VM is made of.
    async fn vm_spec(&self, disks: u32, template: Option<u32>) -> Result<VmSpec, Problem> {
        Ok(VmSpec {
            vmid: self.vmid().await?,
            machine_uid: self.uid().to_owned(),
            namespace: self.machine.namespace().to_owned(),
            name: self.machine.name().to_owned(),
            installation: self.context.objects.installation(hub_name(self.machine)).await?,
            cores: self.machine.spec.resources.cpu.cores(),
            memory_mebibytes: self.machine.spec.resources.memory.mebibytes(),
            first_disk: self.first_disk(),
            disks,
            template: template.map(Vmid),
        })
    }

    pub(super) async fn create_vm(&self, disks: u32, template: Option<u32>) -> Result<Done, Problem> {
        let (driver, spec) = (self.maker()?, self.vm_spec(disks, template).await?);
        let is_new = match driver.create_vm(&spec, self.clock()).await {
            Ok(is_new) => is_new,
            Err(driver::Error::Conflict(why)) => {
                // The next pass gives the number up and leases another.
                self.remember_vm(Seen::Present(Vm::Foreign(why)));
                return Ok(Done::Stop(None));
            }
            Err(error) => return Err(error.into()),
        };
        self.remember_power(Power::Stopped);
        // A clone has the rules of its template.
        self.complete_vm(&driver, &spec, is_new && template.is_none()).await
    }

    pub(super) async fn adopt_vm(&self, disks: u32, template: Option<u32>) -> Result<Done, Problem> {
        let (driver, spec) = (self.maker()?, self.vm_spec(disks, template).await?);
        self.complete_vm(&driver, &spec, false).await
    }

    /// It is recorded, and can be started, only when nothing of it is missing.
    async fn complete_vm(&self, driver: &Driver, spec: &VmSpec, is_new: bool) -> Result<Done, Problem> {
        let disks = driver.adopt_vm(spec).await?;
        driver.confine(spec.vmid, is_new).await?;
        let vm = VmStatus { node: driver.node().0.clone(), vmid: spec.vmid.0, disks };
        Ok(Done::Reached(super::Fact::Created(vm)))
    }

    /// Its disks, as they were attached.
    pub(super) fn disks(&self, vmid: Vmid) -> Result<Vec<Dataset>, Problem> {
        let recorded = self.machine.status.as_ref().and_then(|status| status.vm.as_ref()).filter(|vm| vm.vmid == vmid.0);
        let driver = self.driver()?;
        Ok(recorded.map_or_else(|| vec![driver.disk(vmid, self.first_disk())], |vm| vm.disks.iter().cloned().map(Dataset).collect()))
    }

    /// Number of the first disk that it has now.
    fn first_disk(&self) -> u32 {
        let restored = self.machine.status.as_ref().and_then(|status| status.restored.as_ref());
        restored.map_or(0, |restored| restored.first_disk)
    }

    /// Keeps the disks that it had, with their checkpoints, and deletes the VM: it gets others.
    pub(super) async fn put_away(&self) -> Result<Done, Problem> {
        if self.machine.status.as_ref().is_some_and(|status| status.vm.is_some()) {
            self.keep_disks().await?;
        }
        self.delete_vm().await?;
        if let Some(Seen::Present(Vm::Foreign(_))) = self.context.machines.known(self.uid()).vm {
            return Ok(Done::Stop(None));
        }
        self.context.newest.forget(self.uid());
        Ok(Done::Reached(super::Fact::PutAway))
    }

    /// Of a VM that is gone each disk that is left is kept.
    pub(super) async fn keep_disks(&self) -> Result<Done, Problem> {
        let (driver, vmid) = (self.driver()?, self.vmid().await?);
        let (disks, is_there) = (self.disks(vmid)?, matches!(self.seeing.observed.vm, Seen::Present(Vm::Ours(_))));
        self.nothing_writes(vmid, &disks).await?;
        for disk in &disks {
            match driver.keep(self.uid(), std::slice::from_ref(disk)).await {
                Ok(_) => {}
                Err(driver::Error::Missing(why) | driver::Error::Conflict(why)) if !is_there => {
                    warn!(vm.id = %vmid, "{}: {disk} is not kept: {why}", self.machine.name());
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Done::Next)
    }

    /// Errors: a VM that has lost its marks may go on writing to the disks.
    pub(super) async fn nothing_writes(&self, vmid: Vmid, disks: &[Dataset]) -> Result<(), Problem> {
        if !matches!(self.seeing.observed.vm, Seen::Present(Vm::Foreign(_))) {
            return Ok(());
        }
        match self.driver()?.writes_to(vmid, self.uid(), disks).await? {
            None => Ok(()),
            Some(disk) => Err(Problem::Unseen(format!(
                "VM {vmid} runs on {disk}, which is this machine's, but does not bear its marks any more: shut it down, or give it the tag \
                 and the smbios uuid again"
            ))),
        }
    }

    pub(super) async fn destroy_disks(&self) -> Result<Done, Problem> {
        let (driver, vmid) = (self.driver()?, self.vmid().await?);
        let outcome = driver.destroy_disks(self.uid(), vmid).await?;
        for foreign in outcome.foreign {
            warn!(vm.id = %vmid, zfs.dataset = %foreign, "{}: a dataset with its VMID is not its own; left alone", self.machine.name());
        }
        Ok(Done::Next)
    }

    pub(super) async fn delete_vm(&self) -> Result<Done, Problem> {
        let (driver, vmid) = (self.driver()?, self.vmid().await?);
        let mut proved = None;
        self.context.machines.update(self.uid(), |known| proved = known.owned.take().filter(|vm| vm.vmid() == vmid));
        let owner = match proved {
            Some(vm) => Owner::Ours(vm),
            None => driver.verify_owned(vmid, self.uid()).await?,
        };
        let deleted = match owner {
            Owner::Ours(vm) => driver.delete_vm(vm, self.machine.namespace(), self.clock()).await,
            Owner::Nobody => Ok(()),
            Owner::Other(why) => Err(driver::Error::Conflict(why)),
        };
        match deleted {
            Ok(()) => self.remember_vm(Seen::Absent),
            Err(driver::Error::Conflict(why)) => {
                warn!(vm.id = %vmid, "{}: not deleted: {why}", self.machine.name());
                self.remember_vm(Seen::Present(Vm::Foreign(why)));
            }
            Err(error) => return Err(error.into()),
        }
        Ok(Done::Next)
    }

    /// Ends the hold on what its disks were to be cloned from, where the clone never came about.
    async fn let_base_go(&self) -> Result<(), Problem> {
        let (driver, status) = (self.driver()?, self.machine.status.clone().unwrap_or_default());
        if status.vm.is_some() || !driver.capabilities().has(CapabilityName::DetachDisks) {
            return Ok(());
        }
        let name = status.restored.map_or(status.spawned_from, |restored| restored.checkpoint);
        let image = self.machine.spec.from.as_ref().and_then(|from| from.image.as_deref());
        let (machine_uid, volumes) = match (name, image) {
            (Some(name), _) => match self.context.objects.get::<Checkpoint>(self.machine.namespace(), &name).await? {
                Some(found) => found.status.map(|taken| (taken.machine_uid, taken.volumes)).unwrap_or_default(),
                None => return Ok(()),
            },
            (None, Some(image)) => {
                let hub = self.hub()?;
                let Some(found) = hub.images.get(image) else { return Ok(()) };
                match image_base(image, found, hub, Some(driver)).await {
                    Ok(base) => (None, base.volumes),
                    Err(why) => {
                        warn!("{}: a hold of its fork may be left: {why}", self.machine.name());
                        return Ok(());
                    }
                }
            }
            (None, None) => return Ok(()),
        };
        for volume in &volumes {
            if let Some(snapshot) = driver.locate(volume, machine_uid.as_deref()).await? {
                driver.release_fork(&snapshot, self.uid()).await?;
            }
        }
        Ok(())
    }

    /// Ends the lease, when config and datasets of the number are seen to be gone in one pass; revokes the tokens with it.
    pub(super) async fn end_lease(&self) -> Result<Done, Problem> {
        let (hub, vmid) = (self.hub()?, self.vmid().await?);
        let again = Ok(Done::Later(Duration::from_secs(1)));
        let seen = match self.context.machines.known(self.uid()).vm {
            // Its config was seen to be gone a moment ago.
            Some(Seen::Absent) => without_config(self.uid(), vmid, self.driver()?, hub).await,
            _ => look(self.uid(), vmid, self.driver()?, hub).await,
        };
        let theirs = match seen {
            Seen::Absent => false,
            Seen::Present(Vm::Foreign(_)) => true,
            Seen::Present(Vm::Ours(_) | Vm::Suspended | Vm::Template) => return again,
            Seen::Unknown { why } => return Err(Problem::Unseen(why)),
        };
        if let Some(left) = self.driver()?.left_over(vmid, self.uid(), theirs).await? {
            return Err(Problem::Unseen(format!("dataset {left} is still there; its VMID stays leased")));
        }
        self.let_base_go().await?;
        self.context.objects.end_vmid_lease(hub_name(self.machine), self.machine).await?;
        self.remember_vm(Seen::Absent);
        Ok(Done::Next)
    }
}
