//! What runs behind a VM's config: a real QEMU, or a model that answers like one. The API above cannot tell.

use super::{real, simulated};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    time::Duration,
};

/// A VM's config as `qm config` shows it: keys and values as text.
pub type VmConfig = BTreeMap<String, String>;

/// Why a guest agent's reply was not had.
#[derive(Debug)]
pub enum NoReply {
    /// The agent does not run (yet): the command was not heard.
    Silent(String),
    /// The command was sent; it may have been done.
    Lost(String),
}

/// The machines of this node.
pub enum Guests {
    Simulated(simulated::Guests),
    Real(real::Qemu),
}

impl Guests {
    /// Powers a VM on. `disks` are the raw files of `scsi0`, `scsi1`, … in this order; `memory` is the file that it was saved in, from
    /// which it goes on. Errors: why it did not start.
    pub async fn start(&self, vmid: u32, config: &VmConfig, disks: &[PathBuf], memory: Option<&Path>) -> Result<(), String> {
        match self {
            Self::Simulated(guests) => guests.start(vmid, config, disks, memory.is_some()).await,
            Self::Real(qemu) => match memory {
                Some(memory) => qemu.resume(vmid, config, disks, memory).await,
                None => qemu.start(vmid, config, disks).await,
            }
            .map_err(|error| error.to_string()),
        }
    }

    /// Stops its CPUs and writes its memory to a file; its power is cut next. Errors: why that is not whole; it goes on then.
    pub async fn save(&self, vmid: u32, file: &Path) -> Result<(), String> {
        match self {
            Self::Simulated(guests) => guests.save(vmid),
            Self::Real(qemu) => qemu.save(vmid, file).await.map_err(|error| error.to_string()),
        }
    }

    /// What was saved of it is not needed any more, and its file is gone.
    pub fn forget_memory(&self, vmid: u32) {
        match self {
            Self::Simulated(guests) => guests.forget_memory(vmid),
            // It is in the file alone.
            Self::Real(_) => {}
        }
    }

    /// Whether it runs, from a live look.
    pub async fn power(&self, vmid: u32) -> bool {
        match self {
            Self::Simulated(guests) => guests.power(vmid).await,
            Self::Real(qemu) => qemu.power(vmid).await,
        }
    }

    /// Asks the guest to power off and waits; returns whether it is off.
    pub async fn shutdown(&self, vmid: u32, timeout: Duration) -> bool {
        match self {
            Self::Simulated(guests) => guests.shutdown(vmid, timeout).await,
            Self::Real(qemu) => qemu.shutdown(vmid, timeout).await,
        }
    }

    /// Cuts the power and waits until it is off. Errors: why it still runs.
    pub async fn stop(&self, vmid: u32) -> Result<(), String> {
        match self {
            Self::Simulated(guests) => guests.stop(vmid).await,
            Self::Real(qemu) => qemu.stop(vmid).await.map_err(|error| error.to_string()),
        }
    }

    /// One command of the QEMU guest agent's protocol, `{"execute":…,"arguments":…}`, and its reply, `{"return":…}` or
    /// `{"error":{"class","desc"}}`.
    pub async fn agent(&self, vmid: u32, command: &Value) -> Result<Value, NoReply> {
        match self {
            Self::Simulated(guests) => guests.agent(vmid, command).await.map_err(NoReply::Silent),
            Self::Real(qemu) => qemu.agent(vmid, command).await.map_err(|error| match error {
                real::Error::AgentTimeout { .. } => NoReply::Lost(error.to_string()),
                _ => NoReply::Silent(error.to_string()),
            }),
        }
    }

    /// The VM's config is gone: removes what was kept for it. It is off.
    pub async fn forget(&self, vmid: u32) {
        match self {
            Self::Simulated(guests) => guests.forget(vmid).await,
            Self::Real(qemu) => qemu.forget(vmid).await,
        }
    }

    /// Finds the guests again that ran when the lab ended; called once, before the API serves.
    pub async fn recover(&self) {
        match self {
            Self::Simulated(guests) => guests.recover().await,
            Self::Real(qemu) => qemu.recover().await,
        }
    }
}
