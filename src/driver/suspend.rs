//! A VM that is off with its memory kept: Proxmox' own suspend to disk. It saves the memory in a volume beside the disks and writes
//! `lock: suspended` into the config; the next start goes on from there and frees the volume.
//!
//! While that lock is there Proxmox changes nothing in the config but one thing: `delete=vmstate` gives the memory up. With
//! `protection` it refuses even that, so the protection is off for as long as the memory is kept. Source: pve-recordings 05 and 08;
//! qemu-server's `vm_suspend`, `vm_start` and `update_vm_api`.

use super::marks::{OwnedVm, Owner};
use super::{Driver, Error};
use crate::clock::Clock;
use crate::proxmox::{self, TaskStatus, Vmid};
use std::time::Duration;

/// Longest wait for a guest's memory to be written, or read: 16 GiB at 50 MB/s.
const TRANSFER: Duration = Duration::from_mins(6);
/// The lock of a VM whose memory is kept.
pub const SUSPENDED: &str = "suspended";
/// That of one whose memory is being written; it stays when that failed.
pub const SUSPENDING: &str = "suspending";

impl OwnedVm {
    /// Whether it is off with its memory kept.
    pub fn is_suspended(&self) -> bool {
        self.lock() == Some(SUSPENDED)
    }
}

impl Driver {
    /// Saves the memory of a running VM and powers it off; returns when that is done. Fine when it was.
    ///
    /// Errors: `Unknown` when its end was not seen; in Proxmox' words when it was refused, and the VM runs on then.
    pub async fn suspend(&self, vm: &OwnedVm, clock: &Clock) -> Result<(), Error> {
        if vm.is_suspended() {
            return Ok(());
        }
        let vmid = vm.vmid();
        if vm.is_protected() {
            let values = [("protection".to_owned(), "0".to_owned())].into();
            self.proxmox.configure(self.node(), vmid, &values, &[], Some(vm.digest())).await?;
        }
        let _slot = self.tasks().acquire().await;
        let upid = self.proxmox.suspend_to_disk(self.node(), vmid, &self.connection().storage).await?;
        match self.settled(&upid, TRANSFER, clock).await? {
            TaskStatus::Done { .. } => Ok(()),
            TaskStatus::Failed(text) => Err(proxmox::Error::from_text(500, &text).into()),
            TaskStatus::Running => Err(Error::Unknown(format!("the memory of VM {vmid} is still being written"))),
        }
    }

    /// Starts a VM from its memory and returns when it goes on. Fine when it runs.
    ///
    /// Errors: `Unknown` when its end was not seen; in Proxmox' words when the memory could not be loaded, and it is kept then.
    pub async fn resume(&self, vmid: Vmid, clock: &Clock) -> Result<(), Error> {
        let Some(upid) = self.start_vm(vmid).await? else { return Ok(()) };
        match self.settled(&upid, TRANSFER, clock).await? {
            TaskStatus::Done { .. } => Ok(()),
            TaskStatus::Failed(text) => match proxmox::Error::from_text(500, &text) {
                proxmox::Error::AlreadyRunning(_) => Ok(()),
                error => Err(error.into()),
            },
            TaskStatus::Running => Err(Error::Unknown(format!("the memory of VM {vmid} is still being read"))),
        }
    }

    /// Gives up the memory of a VM, whose disks stay as they are. Fine when it has none.
    ///
    /// Errors: `Conflict` when someone else suspended it, with its protection.
    pub async fn discard_memory(&self, vm: &OwnedVm) -> Result<(), Error> {
        if !vm.is_suspended() {
            return Ok(());
        }
        match self.proxmox.configure(self.node(), vm.vmid(), &[].into(), &["vmstate"], Some(vm.digest())).await {
            Ok(()) => Ok(()),
            Err(proxmox::Error::Protected(why)) => Err(Error::Conflict(format!(
                "VM {vmid} was suspended by someone else with its protection, and Proxmox takes away neither: {why}; start it, or on its \
                 node: `qm unlock {vmid}`",
                vmid = vm.vmid()
            ))),
            Err(error) => Err(error.into()),
        }
    }

    /// Protects a VM that goes on, as it was before it was suspended.
    pub async fn protect(&self, vmid: Vmid, machine_uid: &str) -> Result<(), Error> {
        match self.verify_owned(vmid, machine_uid).await? {
            Owner::Ours(vm) if !vm.is_protected() => {
                let values = [("protection".to_owned(), "1".to_owned())].into();
                Ok(self.proxmox.configure(self.node(), vmid, &values, &[], Some(vm.digest())).await?)
            }
            Owner::Ours(_) => Ok(()),
            Owner::Nobody => Err(Error::Unknown(format!("VM {vmid} is gone"))),
            Owner::Other(why) => Err(Error::Conflict(why)),
        }
    }
}
