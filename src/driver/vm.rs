//! A VM's way: created with its marks, started, shut down, deleted. Every outcome is decided by looking; a task is a hint.

use super::marks::{Bearer, OwnedVm, Owner, about, bearer, marks, owner};
use super::{Driver, Error, Turns};
use crate::clock::Clock;
use crate::proxmox::{self, Node, Power, TaskStatus, Upid, Vmid};
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::sync::oneshot;
use tracing::Instrument;

/// What a VM is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VmSpec {
    pub vmid: Vmid,
    pub machine_uid: String,
    pub namespace: String,
    pub name: String,
    /// Id of this installation, for people who find the VM.
    pub installation: String,
    pub cores: u64,
    pub memory_mebibytes: u64,
    /// Number of the first disk that is attached: `vm-<vmid>-disk-<first>`.
    pub first_disk: u32,
    /// How many disks are attached, from that one on.
    pub disks: u32,
    /// The template that it is a clone of, with all its disks, in place of those.
    pub template: Option<Vmid>,
}

/// Longest wait for a task that creates or deletes; what it did is looked at then.
pub(super) const TASK: Duration = Duration::from_mins(2);
/// Longest time between two looks at a task.
const POLL_MAX: Duration = Duration::from_secs(4);

impl Driver {
    /// Whose VM has this VMID: one call, made right before each destructive one.
    ///
    /// Errors: anything but a clear answer.
    pub async fn verify_owned(&self, vmid: Vmid, machine_uid: &str) -> Result<Owner, Error> {
        self.owner_on(self.node(), vmid, machine_uid).await
    }

    /// The same of a VM on any node of the cluster.
    pub async fn owner_on(&self, node: &Node, vmid: Vmid, machine_uid: &str) -> Result<Owner, Error> {
        match self.proxmox.config(node, vmid).await {
            Ok(config) => owner(vmid, machine_uid, &config),
            Err(proxmox::Error::NoConfig(_)) => Ok(Owner::Nobody),
            Err(error) => Err(error.into()),
        }
    }

    /// Gives a clone that was just made its marks and its size, and returns the names of its disks as its record has them.
    ///
    /// Errors: `Unknown` when it has other disks than those that were made for it; `Conflict` when it is not its Machine's.
    pub async fn adopt_vm(&self, spec: &VmSpec) -> Result<Vec<String>, Error> {
        if spec.template.is_some() {
            return self.complete_clone(spec).await;
        }
        let (vmid, first) = (spec.vmid, spec.first_disk);
        // One that was put back may be seen as it was.
        if first > 0 && !self.attaches(vmid, first).await? {
            return Err(Error::Unknown(format!("VM {vmid} has other disks than those that were cloned for it")));
        }
        Ok((first..first + spec.disks).map(|index| self.disk(vmid, index).0).collect())
    }

    /// Whether this disk is the first of a VM.
    async fn attaches(&self, vmid: Vmid, disk: u32) -> Result<bool, Error> {
        let config = self.proxmox.config(self.node(), vmid).await?;
        let first = config.values.get("scsi0").map(|value| value.split(',').next().unwrap_or_default().to_owned());
        Ok(first.is_some_and(|first| first == format!("{}:vm-{vmid}-disk-{disk}", self.connection().storage)))
    }

    /// What a VM of this installation says of its Machine, by all its marks; `None` of any other, and where there is none.
    pub async fn bearer(&self, node: &Node, vmid: Vmid, installation: &str) -> Result<Option<Bearer>, Error> {
        match self.proxmox.config(node, vmid).await {
            Ok(config) => Ok(bearer(vmid, installation, &config)),
            Err(proxmox::Error::NoConfig(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Creates the VM with its marks and attaches its disks, which must be there; or clones its template, to be adopted. Repeated, it
    /// finds its own. Returns whether this call is surely the one that made it.
    ///
    /// Errors: `Conflict` when the VMID is someone else's.
    pub async fn create_vm(&self, spec: &VmSpec, clock: &Clock) -> Result<bool, Error> {
        let (driver, vmid, time, wanted) = (self.clone(), spec.vmid, clock.clone(), spec.clone());
        let work = async move |_: bool| match driver.make(&wanted).await {
            Ok(upid) => match driver.settled(&upid, TASK, &time).await {
                Ok(TaskStatus::Done { warnings: 0 }) => (Ok(()), true),
                Ok(TaskStatus::Failed(text)) => (Err(proxmox::Error::from_text(500, &text).into()), true),
                Ok(status) => {
                    let unclear = Error::Unknown(format!("the task that creates VM {vmid} did not end clearly"));
                    (Err(unclear), status != TaskStatus::Running)
                }
                Err(error) => (Err(error), false),
            },
            Err(error) => {
                let refused = !matches!(error, proxmox::Error::Unknown(_));
                (Err(error.into()), refused)
            }
        };
        let Err(refusal) = self.in_turn(&spec.namespace, vmid, clock, work).await else { return Ok(true) };
        match self.verify_owned(spec.vmid, &spec.machine_uid).await? {
            Owner::Ours(vm) if vm.lock.is_none() => Ok(false),
            Owner::Ours(vm) => Err(Error::Unknown(format!("VM {} is still locked ({})", spec.vmid, vm.lock.unwrap_or_default()))),
            Owner::Other(why) => Err(Error::Conflict(why)),
            Owner::Nobody => Err(refusal),
        }
    }

    async fn make(&self, spec: &VmSpec) -> Result<Upid, proxmox::Error> {
        let storage = &self.connection().storage;
        match spec.template {
            Some(template) => {
                self.proxmox
                    .clone_linked(self.node(), template, spec.vmid, &spec.name, &about(spec, &[("clone", &spec.vmid.to_string())]))
                    .await
            }
            None => self.proxmox.create(self.node(), spec.vmid, &config_values(spec, storage, self.card())).await,
        }
    }

    /// Starts a VM and does not wait: the guest agent's answer shows that it runs. Fine when it runs already.
    pub async fn start_vm(&self, vmid: Vmid) -> Result<Option<Upid>, Error> {
        match self.proxmox.start(self.node(), vmid).await {
            Ok(upid) => Ok(Some(upid)),
            Err(proxmox::Error::AlreadyRunning(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Live power state; `None` only when Proxmox says that there is no such config.
    pub async fn power(&self, vmid: Vmid) -> Result<Option<Power>, Error> {
        match self.proxmox.power(self.node(), vmid).await {
            Ok(power) => Ok(Some(power)),
            Err(proxmox::Error::NoConfig(_)) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Asks the guest to power off, cuts it after `timeout`, and returns when it is off.
    pub async fn shut_down(&self, vm: &OwnedVm, timeout: Duration, clock: &Clock) -> Result<(), Error> {
        let slot = self.tasks().acquire().await;
        match self.proxmox.shutdown(self.node(), vm.vmid, timeout).await {
            Ok(upid) => match self.settled(&upid, timeout + Duration::from_secs(30), clock).await {
                Ok(TaskStatus::Done { warnings: 0 }) => return Ok(()),
                Ok(_) | Err(Error::Unknown(_)) => {}
                Err(error) => return Err(error),
            },
            Err(proxmox::Error::NotRunning(_)) => return Ok(()),
            Err(proxmox::Error::Unknown(_)) => {}
            Err(error) => return Err(error.into()),
        }
        drop(slot);
        self.stop(vm, clock).await
    }

    /// Cuts the power, overruling a shutdown under way, and returns when it is off. Fine when it is off already.
    pub async fn stop(&self, vm: &OwnedVm, clock: &Clock) -> Result<(), Error> {
        if self.power(vm.vmid).await? != Some(Power::Running) {
            return Ok(());
        }
        let _slot = self.tasks().acquire().await;
        match self.proxmox.stop(self.node(), vm.vmid).await {
            Ok(upid) => drop(self.settled(&upid, TASK, clock).await?),
            Err(proxmox::Error::NotRunning(_)) => return Ok(()),
            Err(proxmox::Error::Unknown(_)) => {}
            Err(error) => return Err(error.into()),
        }
        match self.power(vm.vmid).await? {
            Some(Power::Running) => Err(Error::Unknown(format!("VM {} still runs after it was stopped", vm.vmid))),
            _ => Ok(()),
        }
    }

    /// Clears the protection and deletes the VM, if its config is still the one that proved it ours, however long ago that was. Its
    /// disks must have been moved out of its way before. Returns when the config is gone.
    ///
    /// Errors: `Conflict` when it is not the Machine's any more.
    pub async fn delete_vm(&self, vm: OwnedVm, namespace: &str, clock: &Clock) -> Result<(), Error> {
        let (driver, vmid, time) = (self.clone(), vm.vmid, clock.clone());
        let work = async move |_: bool| {
            // Whether it began, and its task may run.
            let mut began = false;
            let outcome = driver.delete_now(vm, &mut began, &time).await;
            let ended = outcome.is_ok() || !began;
            (outcome, ended)
        };
        self.in_turn(namespace, vmid, clock, work).await
    }

    /// Takes the protection off a VM that is the Machine's. Proxmox itself compares the digest of the config that bore both marks, so
    /// that none is read again for it; where it changed since, where a mark was missing, and where nothing is to be taken off, the marks
    /// are looked at now. `None`: it is gone.
    async fn unprotect(&self, vm: OwnedVm) -> Result<Option<Vmid>, Error> {
        let off = || [("protection".to_owned(), "0".to_owned())].into();
        if vm.protected && vm.whole {
            match self.proxmox.configure(self.node(), vm.vmid, &off(), &[], Some(&vm.digest)).await {
                Ok(()) => return Ok(Some(vm.vmid)),
                Err(proxmox::Error::NoConfig(_)) => return Ok(None),
                Err(proxmox::Error::Changed(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let Some(mut now) = self.ours(vm.vmid, &vm.machine_uid).await? else { return Ok(None) };
        if !now.whole {
            let marks = marks(&vm.machine_uid).map(|(key, value)| (key.to_owned(), value)).into();
            self.proxmox.configure(self.node(), vm.vmid, &marks, &[], Some(&now.digest)).await?;
            let Some(marked) = self.ours(vm.vmid, &vm.machine_uid).await? else { return Ok(None) };
            now = marked;
        }
        if !now.whole {
            return Err(Error::Unknown(format!("VM {} was given its marks, and does not bear them", vm.vmid)));
        }
        if now.protected {
            self.proxmox.configure(self.node(), vm.vmid, &off(), &[], Some(&now.digest)).await?;
        }
        Ok(Some(vm.vmid))
    }

    /// A VM that is the Machine's now; `None` when there is none. Errors: `Conflict` when it is someone else's.
    async fn ours(&self, vmid: Vmid, machine_uid: &str) -> Result<Option<OwnedVm>, Error> {
        match self.verify_owned(vmid, machine_uid).await? {
            Owner::Ours(vm) => Ok(Some(vm)),
            Owner::Nobody => Ok(None),
            Owner::Other(why) => Err(Error::Conflict(why)),
        }
    }

    async fn delete_now(&self, vm: OwnedVm, began: &mut bool, clock: &Clock) -> Result<(), Error> {
        let Some(vmid) = self.unprotect(vm).await? else { return Ok(()) };
        match self.proxmox.delete(self.node(), vmid).await {
            Ok(_) | Err(proxmox::Error::NoConfig(_) | proxmox::Error::Unknown(_)) => *began = true,
            Err(error) => return Err(error.into()),
        }
        // Its task takes a moment: an earlier look would only be one more call.
        let mut wait = Wait::task(Duration::from_millis(150));
        loop {
            wait.pause(clock).await;
            match self.proxmox.config(self.node(), vmid).await {
                Err(proxmox::Error::NoConfig(_)) => return Ok(()),
                Ok(_) => {}
                Err(error) => return Err(error.into()),
            }
            if wait.spent >= TASK {
                return Err(Error::Unknown(format!("VM {vmid} was deleted, but its config is still there")));
            }
        }
    }

    /// Does what takes the storage's locks, in turn with all else that does, and says whether that was waited for. `work` tells
    /// what came of it, and whether its task has surely ended. It goes on when its caller is gone, and the turn is given back
    /// only when its task has ended.
    pub(super) async fn in_turn<F>(&self, namespace: &str, vmid: Vmid, clock: &Clock, work: impl FnOnce(bool) -> F) -> Result<(), Error>
    where
        F: Future<Output = (Result<(), Error>, bool)> + Send + 'static,
    {
        let turn = self.connection().turns.take(namespace).await;
        let (tell, told) = oneshot::channel();
        let (work, driver, clock) = (work(turn.waited), self.clone(), clock.clone());
        let whole = async move {
            let (outcome, ended) = work.await;
            tell.send(outcome).ok();
            if !ended {
                until_quiet(&driver.proxmox, driver.node(), vmid, &clock).await;
            }
            drop(turn);
        };
        tokio::spawn(whole.in_current_span());
        told.await.unwrap_or_else(|_| Err(Error::Unknown(format!("what was done to VM {vmid} was given up"))))
    }

    /// How a task ended; `Running` when it has not by the deadline. Errors: `Unknown` when it cannot be seen.
    pub(super) async fn settled(&self, upid: &Upid, deadline: Duration, clock: &Clock) -> Result<TaskStatus, Error> {
        let mut wait = Wait::task(Duration::from_millis(100));
        loop {
            wait.pause(clock).await;
            match self.proxmox.task(upid).await {
                Ok(TaskStatus::Running) if wait.spent < deadline => {}
                Ok(status) => return Ok(status),
                // Its log is not visible yet, or was pruned.
                Err(proxmox::Error::NoSuchTask(_)) if wait.spent < Duration::from_secs(3) => {}
                Err(error @ (proxmox::Error::NoSuchTask(_) | proxmox::Error::Unknown(_))) => {
                    return Err(Error::Unknown(format!("task {upid} cannot be seen: {error}")));
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Returns when no task works on a VM's disks, or none can be seen to for so long that it does not matter any more.
async fn until_quiet(proxmox: &proxmox::Client, node: &Node, vmid: Vmid, clock: &Clock) {
    let mut wait = Wait::task(Duration::from_millis(250));
    while wait.again(TASK, clock).await {
        // Not seen is not ended.
        let running = proxmox.running_tasks(node).await;
        if running.is_ok_and(|tasks| !tasks.iter().any(|task| takes_locks(task) == Some(vmid))) {
            return;
        }
    }
}

/// Counts what an earlier process left running on a node, until it ends: a turn is not free because who took it died.
pub(super) async fn count_running(proxmox: &proxmox::Client, node: &Node, turns: &Turns) {
    // Where they cannot be seen, nothing says that there are any.
    let running = proxmox.running_tasks(node).await.unwrap_or_default();
    let own = running.iter().filter(|task| task.parts().is_some_and(|(_, _, who)| who == proxmox.id()));
    for vmid in own.filter_map(takes_locks) {
        let (turn, proxmox, node) = (turns.taken(""), proxmox.clone(), node.clone());
        tokio::spawn(async move {
            until_quiet(&proxmox, &node, vmid, &Clock::system()).await;
            drop(turn);
        });
    }
}

/// Growing waits between looks.
pub(super) struct Wait {
    next: Duration,
    factor: f64,
    pub(super) spent: Duration,
}

impl Wait {
    /// For a task: each look is a call that every other VM's calls wait behind, and a guest that takes ten seconds to power off
    /// costs five.
    fn task(first: Duration) -> Self {
        Self { next: first, factor: 2.5, spent: Duration::ZERO }
    }
    /// For a guest's flush, which takes tens of ms: an answer is held until its end is seen.
    pub(super) fn flush() -> Self {
        Self { next: Duration::from_millis(5), factor: 1.25, spent: Duration::ZERO }
    }
    /// For a command in a guest: an agent may be waiting for it.
    pub(super) fn guest() -> Self {
        Self { next: Duration::from_millis(20), factor: 1.5, spent: Duration::ZERO }
    }
    /// Waits, longer each time; how long it was.
    pub(super) async fn pause(&mut self, clock: &Clock) -> Duration {
        let now = self.next;
        clock.sleep(now).await;
        self.spent += now;
        self.next = now.mul_f64(self.factor).min(POLL_MAX);
        now
    }
    /// Waits, unless that would pass `deadline`; says whether it waited.
    pub(super) async fn again(&mut self, deadline: Duration, clock: &Clock) -> bool {
        let left = self.spent < deadline;
        if left {
            self.pause(clock).await;
        }
        left
    }
}

/// The VM whose disks a task makes or destroys; `None` of any other task. Source: proxmox-zfs facts 3.1 and 3.4.
fn takes_locks(task: &Upid) -> Option<Vmid> {
    let (kind, id, _) = task.parts()?;
    matches!(kind, "qmcreate" | "qmclone" | "qmdestroy" | "qmmove" | "qmsnapshot" | "qmdelsnapshot" | "qmrollback" | "qmtemplate")
        .then(|| id.parse().ok().map(Vmid))
        .flatten()
}

/// Marks and size of a Machine, whatever its VM was made of, and its network card, if it is to have one; keys as Proxmox names them.
pub(super) fn own_values(spec: &VmSpec, card: Option<String>) -> BTreeMap<String, String> {
    let more = [
        ("description", about(spec, &[])),
        ("protection", "1".into()),
        ("agent", "enabled=1".into()),
        ("cores", spec.cores.to_string()),
        ("memory", spec.memory_mebibytes.to_string()),
    ];
    marks(&spec.machine_uid)
        .into_iter()
        .chain(more)
        .chain(card.map(|card| ("net0", card)))
        .map(|(key, value)| (key.to_owned(), value))
        .collect()
}

/// The config of a new VM.
pub(super) fn config_values(spec: &VmSpec, storage: &str, card: Option<String>) -> BTreeMap<String, String> {
    let more =
        [("name", spec.name.as_str()), ("scsihw", "virtio-scsi-single"), ("boot", "order=scsi0"), ("serial0", "socket"), ("ostype", "l26")];
    let mut values = own_values(spec, card);
    values.extend(more.map(|(key, value)| (key.to_owned(), value.to_owned())));
    for index in 0..spec.disks {
        values.insert(format!("scsi{index}"), format!("{storage}:vm-{}-disk-{}", spec.vmid, spec.first_disk + index));
    }
    values
}
